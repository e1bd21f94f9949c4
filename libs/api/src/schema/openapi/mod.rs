//! OpenAPI documents of the served kinds: v2 as JSON and as protobuf, v3 by group and version, and v3's index.
//!
//! They are made on request, from the table of types and the compressed descriptions, and not kept: a client asks for
//! them once and remembers them by the index's hash or the ETag, which [`etag`] gives without making a document.

mod definitions;
mod paths;

use std::{collections::BTreeSet, sync::OnceLock};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use self::definitions::{Flavor, definition, reachable};
use super::{docs::Docs, proto, table::table};
use crate::kind::KindInfo;

/// The v2 protobuf's media type.
pub const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// `api/v1` or `apis/apps/v1`: how v3's index and paths name a group's version.
pub fn group_version_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn info() -> Value {
    json!({"title": "Kubernetes", "version": "v1.35.0"})
}

/// The v2 document as JSON.
pub fn v2_json(kinds: &[&KindInfo]) -> Vec<u8> {
    serde_json::to_vec(&v2(kinds)).unwrap_or_default()
}

/// The v2 document as protobuf.
pub fn v2_protobuf(kinds: &[&KindInfo]) -> Vec<u8> {
    proto::document(&v2(kinds))
}

fn v2(kinds: &[&KindInfo]) -> Value {
    let docs = Docs::load();
    let mut all_paths = Map::new();
    for info in kinds {
        paths::add(&mut all_paths, info, Flavor::V2);
    }
    json!({
        "swagger": "2.0",
        "info": info(),
        "paths": all_paths,
        "definitions": schemas(kinds, Flavor::V2, &docs),
    })
}

/// The v3 document of one group's version, or `None` if no kind of it is served.
pub fn v3(kinds: &[&KindInfo], group: &str, version: &str) -> Option<Vec<u8>> {
    let kinds: Vec<&KindInfo> = kinds.iter().copied().filter(|k| k.group == group && k.version == version).collect();
    if kinds.is_empty() {
        return None;
    }
    let docs = Docs::load();
    let mut all_paths = Map::new();
    for info in &kinds {
        paths::add(&mut all_paths, info, Flavor::V3);
    }
    let document = json!({
        "openapi": "3.0.0",
        "info": info(),
        "paths": all_paths,
        "components": { "schemas": schemas(&kinds, Flavor::V3, &docs) },
    });
    serde_json::to_vec(&document).ok()
}

/// The index at `/openapi/v3`: each group's version with the path and hash of its document.
pub fn v3_index(kinds: &[&KindInfo]) -> Vec<u8> {
    let versions: BTreeSet<(&str, &str)> = kinds.iter().map(|k| (k.group, k.version)).collect();
    let mut index = Map::new();
    for (group, version) in versions {
        let path = group_version_path(group, version);
        let hash = etag(kinds.iter().copied().filter(|k| k.group == group && k.version == version));
        index.insert(path.clone(), json!({ "serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}") }));
    }
    serde_json::to_vec(&json!({ "paths": index })).unwrap_or_default()
}

/// A hash that changes when the document of these kinds would.
pub fn etag<'a>(kinds: impl IntoIterator<Item = &'a KindInfo>) -> String {
    // What is the same for every document is hashed once.
    static SOURCES: OnceLock<[u8; 32]> = OnceLock::new();
    let sources = SOURCES.get_or_init(|| {
        let mut hash = Sha256::new();
        hash.update(env!("CARGO_PKG_VERSION"));
        hash.update(include_bytes!("../docs.gz"));
        hash.update(include_bytes!("../types.txt"));
        hash.finalize().into()
    });
    let mut hash = Sha256::new();
    hash.update(sources);
    for kind in kinds {
        hash.update(format!("{kind:?}"));
    }
    hash.finalize().iter().map(|b| format!("{b:02X}")).collect()
}

/// Every type the kinds reach, by name.
fn schemas(kinds: &[&KindInfo], flavor: Flavor, docs: &Docs) -> Value {
    let table = table();
    let mut roots: BTreeSet<&str> = ["Status", "DeleteOptions", "Patch", "WatchEvent", "APIResourceList", "APIGroup"]
        .into_iter()
        .filter_map(|name| table.by_name(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}")))
        .map(|id| table.get(id).name)
        .collect();
    for info in kinds {
        let (group, version, kind) = (info.group, info.version, info.kind);
        let found = [table.by_kind(group, version, kind), table.by_kind(group, version, &format!("{kind}List"))];
        roots.extend(found.into_iter().flatten().map(|id| table.get(id).name));
        for subresource in info.subresources {
            if let Some((group, version, kind)) = crate::discovery::subresource_kind(info, *subresource) {
                roots.extend(table.by_kind(group, version, kind).map(|id| table.get(id).name));
            }
        }
    }
    let mut out = Map::new();
    for id in reachable(table, roots.into_iter().filter_map(|name| table.by_name(name))) {
        let def = table.get(id);
        out.insert(def.name.to_owned(), definition(table, def, flavor, docs));
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests;
