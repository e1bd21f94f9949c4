//! A kind's paths and operations: what clients look kinds and supported parameters up by.

use serde_json::{Map, Value, json};

use super::{
    definitions::{Flavor, group_version_kind},
    group_version_path,
};
use crate::{
    discovery::{subresource_kind, subresource_name, subresource_verbs},
    kind::KindInfo,
    schema::table::table,
};

struct Operations<'a> {
    info: &'a KindInfo,
    flavor: Flavor,
}

/// Adds a kind's paths to a document's.
pub(super) fn add(paths: &mut Map<String, Value>, info: &KindInfo, flavor: Flavor) {
    let root = format!("/{}", group_version_path(info.group, info.version));
    let everywhere = format!("{root}/{}", info.plural);
    let collection =
        if info.namespaced { format!("{root}/namespaces/{{namespace}}/{}", info.plural) } else { everywhere.clone() };
    let item = format!("{collection}/{{name}}");
    let operations = Operations { info, flavor };
    if info.namespaced {
        operations.put(paths, &everywhere, &[("get", "list")], info.verbs);
    }
    operations.put(paths, &collection, &[("get", "list"), ("post", "create"), ("delete", "deletecollection")], info.verbs);
    operations.put(paths, &item, &[("get", "get"), ("put", "update"), ("patch", "patch"), ("delete", "delete")], info.verbs);
    for subresource in info.subresources {
        let path = format!("{item}/{}", subresource_name(*subresource));
        let (group, version, kind) = subresource_kind(info, *subresource).unwrap_or((info.group, info.version, info.kind));
        let mut at = Map::new();
        for (method, verb) in
            [("get", "get"), ("put", "update"), ("patch", "patch"), ("post", "create"), ("delete", "delete")]
        {
            if subresource_verbs(*subresource).contains(&verb) {
                at.insert(method.to_owned(), operations.operation(verb, &path, (group, version, kind)));
            }
        }
        at.insert("parameters".to_owned(), operations.path_parameters(&path));
        paths.insert(path, Value::Object(at));
    }
}

impl Operations<'_> {
    fn put(&self, paths: &mut Map<String, Value>, path: &str, wanted: &[(&str, &str)], verbs: &[&str]) {
        let kind = (self.info.group, self.info.version, self.info.kind);
        let mut at = Map::new();
        for (method, verb) in wanted.iter().filter(|(_, verb)| verbs.contains(verb)) {
            at.insert((*method).to_owned(), self.operation(verb, path, kind));
        }
        if !at.is_empty() {
            at.insert("parameters".to_owned(), self.path_parameters(path));
            paths.insert(path.to_owned(), Value::Object(at));
        }
    }

    fn parameter(&self, name: &str, place: &str, ty: &str) -> Value {
        let required = place == "path";
        let mut out = match self.flavor {
            Flavor::V2 => json!({"name": name, "in": place, "type": ty, "uniqueItems": true}),
            Flavor::V3 => json!({"name": name, "in": place, "schema": {"type": ty, "uniqueItems": true}}),
        };
        if required {
            out["required"] = true.into();
        }
        out
    }

    fn path_parameters(&self, path: &str) -> Value {
        let mut out = Vec::new();
        for name in ["name", "namespace"] {
            if path.contains(&format!("{{{name}}}")) {
                out.push(self.parameter(name, "path", "string"));
            }
        }
        out.push(self.parameter("pretty", "query", "string"));
        Value::Array(out)
    }

    fn query_parameters(&self, verb: &str) -> Vec<Value> {
        const LIST: &[(&str, &str)] = &[
            ("allowWatchBookmarks", "boolean"),
            ("continue", "string"),
            ("fieldSelector", "string"),
            ("labelSelector", "string"),
            ("limit", "integer"),
            ("resourceVersion", "string"),
            ("resourceVersionMatch", "string"),
            ("sendInitialEvents", "boolean"),
            ("timeoutSeconds", "integer"),
            ("watch", "boolean"),
        ];
        const WRITE: &[(&str, &str)] = &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
        const DELETE: &[(&str, &str)] = &[
            ("dryRun", "string"),
            ("gracePeriodSeconds", "integer"),
            ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
            ("orphanDependents", "boolean"),
            ("propagationPolicy", "string"),
        ];
        let names: Vec<(&str, &str)> = match verb {
            "list" => LIST.to_vec(),
            "create" | "update" => WRITE.to_vec(),
            "patch" => WRITE.iter().copied().chain([("force", "boolean")]).collect(),
            "delete" => DELETE.to_vec(),
            "deletecollection" => {
                let selection = LIST.iter().filter(|(n, _)| !matches!(*n, "watch" | "allowWatchBookmarks"));
                selection.chain(DELETE).copied().collect()
            }
            _ => Vec::new(),
        };
        names.into_iter().map(|(name, ty)| self.parameter(name, "query", ty)).collect()
    }

    fn operation(&self, verb: &str, path: &str, (group, version, kind): (&str, &str, &str)) -> Value {
        let type_name = |kind: &str| table().by_kind(group, version, kind).map(|id| table().get(id).name);
        let meta = |name: &str| format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}");
        let own = type_name(kind).map(str::to_owned);
        let answer = match verb {
            "list" => type_name(&format!("{kind}List")).map(str::to_owned),
            "delete" | "deletecollection" => Some(meta("Status")),
            _ => own.clone(),
        };
        let body = match verb {
            "create" | "update" => own,
            "delete" | "deletecollection" => Some(meta("DeleteOptions")),
            _ => None,
        };
        let mut parameters = self.query_parameters(verb);
        let mut out = json!({
            "description": format!("{verb} {kind}"),
            "operationId": operation_id(verb, path),
            "tags": [if self.info.group.is_empty() { format!("core_{}", self.info.version) } else { format!("{}_{}", self.info.group, self.info.version) }],
            "x-kubernetes-action": if verb == "update" { "put" } else if verb == "create" { "post" } else { verb },
            "x-kubernetes-group-version-kind": group_version_kind(group, version, kind),
        });
        let reference = |name: &str| json!({ "$ref": self.flavor.reference(name) });
        let patch = json!({"type": "object"});
        let body_schema = if verb == "patch" { Some(patch) } else { body.as_deref().map(reference) };
        let answer_schema = answer.as_deref().map(reference);
        const MEDIA: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
        const PATCHES: [&str; 4] = [
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
            "application/apply-patch+yaml",
        ];
        match self.flavor {
            Flavor::V2 => {
                if let Some(schema) = body_schema {
                    parameters.push(json!({"name": "body", "in": "body", "required": verb != "delete" && verb != "deletecollection", "schema": schema}));
                }
                let mut ok = json!({"description": "OK"});
                if let Some(schema) = answer_schema {
                    ok["schema"] = schema;
                }
                out["consumes"] = if verb == "patch" { json!(PATCHES) } else { json!(["*/*"]) };
                out["produces"] = json!(MEDIA);
                out["schemes"] = json!(["https"]);
                out["responses"] = json!({"200": ok, "401": {"description": "Unauthorized"}});
            }
            Flavor::V3 => {
                let content = |media: &[&str], schema: Value| -> Value {
                    Value::Object(media.iter().map(|m| ((*m).to_owned(), json!({"schema": schema.clone()}))).collect())
                };
                if let Some(schema) = body_schema {
                    let media: &[&str] = if verb == "patch" { &PATCHES } else { &["*/*"] };
                    out["requestBody"] = json!({"content": content(media, schema)});
                }
                let mut ok = json!({"description": "OK"});
                if let Some(schema) = answer_schema {
                    ok["content"] = content(&MEDIA, schema);
                }
                out["responses"] = json!({"200": ok, "401": {"description": "Unauthorized"}});
            }
        }
        if !parameters.is_empty() {
            out["parameters"] = Value::Array(parameters);
        }
        out
    }
}

/// Unique in the document: the verb and the path's words in CamelCase.
fn operation_id(verb: &str, path: &str) -> String {
    let mut out = verb.to_owned();
    for part in path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|p| !p.is_empty()) {
        let mut chars = part.chars();
        out.extend(chars.next().map(|c| c.to_ascii_uppercase()));
        out.push_str(chars.as_str());
    }
    out
}
