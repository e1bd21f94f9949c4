//! What the server decides about an object's metadata, over its JSON.

use api::{kind::KindInfo, meta, schema::table, status::Status};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::Result;

/// A timestamp as metadata writes it: RFC 3339 with whole seconds.
pub fn timestamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The members of `metadata`, created where missing.
pub fn of(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let metadata = &mut object["metadata"];
    if !metadata.is_object() {
        *metadata = Value::Object(Map::new());
    }
    match metadata {
        Value::Object(map) => map,
        _ => unreachable!("made an object above"),
    }
}

/// A text of the metadata; empty if unset.
pub fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_str).unwrap_or_default()
}

/// `metadata.finalizers`.
pub fn finalizers(object: &Value) -> Vec<String> {
    let list = object.get("metadata").and_then(|m| m.get("finalizers")).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(|f| f.as_str().map(str::to_owned)).collect()
}

/// Whether the object is being deleted.
pub fn is_terminating(object: &Value) -> bool {
    !text(object, "deletionTimestamp").is_empty()
}

/// `metadata.deletionGracePeriodSeconds`.
pub fn grace_seconds(object: &Value) -> Option<i64> {
    object.get("metadata")?.get("deletionGracePeriodSeconds")?.as_i64()
}

/// The typed metadata.
pub fn typed(object: &Value) -> Result<ObjectMeta> {
    match object.get("metadata") {
        None | Some(Value::Null) => Ok(ObjectMeta::default()),
        Some(metadata) => ObjectMeta::deserialize(metadata).map_err(|e| Status::bad_request(format!("metadata: {e}"))),
    }
}

/// The namespace of the object must be the request's; an empty one takes it over.
pub fn fit_namespace(object: &mut Value, namespace: &str, namespaced: bool) -> Result<()> {
    let own = text(object, "namespace").to_owned();
    if !namespaced {
        of(object).remove("namespace");
        return Ok(());
    }
    if own.is_empty() || namespace.is_empty() {
        of(object).insert("namespace".to_owned(), namespace.into());
    } else if own != namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// The Go package of a group's internal types, which upstream's messages name.
pub fn internal_package(group: &str) -> &str {
    match group {
        "" | "events.k8s.io" => "core",
        group => group.split('.').next().unwrap_or(group),
    }
}

/// Kinds that every group has in every version.
const EVERYWHERE: &[&str] =
    &["CreateOptions", "DeleteOptions", "GetOptions", "ListOptions", "PatchOptions", "UpdateOptions", "WatchEvent"];

/// Why an object's kind and apiVersion, which may be missing, are not those of a kind; in upstream's words.
pub fn check_kind(object: &Value, info: &KindInfo) -> std::result::Result<(), String> {
    let given = |name: &str| object.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let (kind, wanted) = (given("kind").unwrap_or(info.kind), info.api_version());
    let told = given("apiVersion").unwrap_or(&wanted);
    if kind == info.kind && told == wanted {
        return Ok(());
    }
    let (group, bare) = meta::split_api_version(told);
    let table = table::table();
    let is_served = || table.types().any(|(_, ty)| ty.kind.is_some_and(|kind| (kind.group, kind.version) == (group, bare)));
    let known = table.by_kind(group, bare, kind).is_some()
        || (told, kind) == ("v1", "List")
        || EVERYWHERE.contains(&kind) && is_served();
    Err(if !known {
        format!("no kind {kind:?} is registered for version {told:?} in scheme \"pkg/api/legacyscheme/scheme.go:30\"")
    } else {
        let internal = internal_package(info.group);
        format!("converting ({bare}.{kind}) to ({internal}.{}): unknown conversion", info.kind)
    })
}

/// A body may leave out kind and apiVersion, but may not contradict the path.
pub fn fit_kind(object: &mut Value, info: &KindInfo) -> Result<()> {
    if let Err(why) = check_kind(object, info) {
        let given = |name: &str| object.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let (kind, wanted) = (given("kind").unwrap_or(info.kind), info.api_version());
        let told = given("apiVersion").unwrap_or(&wanted);
        let (group, bare) = meta::split_api_version(told);
        return Err(Status::bad_request(if kind == info.kind && table::table().by_kind(group, bare, kind).is_some() {
            format!("the API version in the data ({told}) does not match the expected API version ({wanted})")
        } else {
            format!("{kind} in version {bare:?} cannot be handled as a {}: {why}", info.kind)
        }));
    }
    let Some(fields) = object.as_object_mut() else {
        return Err(Status::bad_request(format!(
            "{0} in version {1:?} cannot be handled as a {0}: the body is no JSON object",
            info.kind, info.version
        )));
    };
    fields.insert("kind".to_owned(), info.kind.into());
    fields.insert("apiVersion".to_owned(), info.api_version().into());
    Ok(())
}

/// Takes out what nobody says of an object who posts it.
pub fn wipe(object: &mut Value) {
    let metadata = of(object);
    metadata.remove("deletionTimestamp");
    metadata.remove("deletionGracePeriodSeconds");
}

/// What no client sets on a new object; uid and time are handed in.
pub fn stamp_new(object: &mut Value, uid: &str, now: Timestamp) {
    let metadata = of(object);
    for field in ["selfLink", "resourceVersion", "managedFields"] {
        metadata.remove(field);
    }
    metadata.insert("uid".to_owned(), uid.into());
    metadata.insert("creationTimestamp".to_owned(), timestamp(now).into());
}

/// What an update leaves out or may not decide is taken from the old object.
pub fn carry_over(new: &mut Value, old: &Value) {
    let old_meta = old.get("metadata").and_then(Value::as_object);
    let old_field = |name: &str| old_meta.and_then(|m| m.get(name)).cloned();
    let metadata = of(new);
    metadata.remove("selfLink");
    metadata.remove("managedFields");
    if let Some(at) = old_field("deletionTimestamp") {
        metadata.insert("deletionTimestamp".to_owned(), at);
    }
    if let Some(at) = old_field("creationTimestamp") {
        metadata.insert("creationTimestamp".to_owned(), at);
    }
    for field in ["uid", "deletionTimestamp", "deletionGracePeriodSeconds", "namespace", "name"] {
        let unset = match metadata.get(field) {
            None | Some(Value::Null) => true,
            Some(Value::String(text)) => text.is_empty(),
            Some(_) => false,
        };
        if unset {
            match old_field(field) {
                Some(value) => metadata.insert(field.to_owned(), value),
                None => metadata.remove(field),
            };
        }
    }
    match old_field("generation") {
        Some(generation) => metadata.insert("generation".to_owned(), generation),
        None => metadata.remove("generation"),
    };
    if let Some(revision) = old_field("resourceVersion") {
        metadata.insert("resourceVersion".to_owned(), revision);
    }
}

/// Takes out owners that are named twice in the same words, and tells their uids.
pub fn dedup_owners(object: &mut Value) -> Vec<String> {
    let owners = object.pointer_mut("/metadata/ownerReferences").and_then(Value::as_array_mut);
    let Some(owners) = owners.filter(|owners| owners.len() > 1) else { return Vec::new() };
    let (mut kept, mut twice): (Vec<Value>, _) = (Vec::with_capacity(owners.len()), Vec::new());
    for owner in std::mem::take(owners) {
        if kept.contains(&owner) {
            twice.push(owner["uid"].as_str().unwrap_or_default().to_owned());
        } else {
            kept.push(owner);
        }
    }
    *owners = kept;
    twice
}

/// Raises `generation`, where the object counts it.
pub fn bump_generation(object: &mut Value) {
    let metadata = of(object);
    if let Some(generation) = metadata.get("generation").and_then(Value::as_i64).filter(|g| *g > 0) {
        metadata.insert("generation".to_owned(), (generation + 1).into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_update_keeps_what_it_leaves_out() {
        let old = json!({"metadata": {"name": "a", "namespace": "n", "uid": "u", "creationTimestamp": "t", "generation": 3, "resourceVersion": "9"}});
        let mut new = json!({"metadata": {"name": "a", "labels": {"x": "y"}, "generation": 77, "uid": ""}});
        carry_over(&mut new, &old);
        let mut want = old;
        want["metadata"]["labels"] = json!({"x": "y"});
        assert_eq!(new, want);
    }
}
