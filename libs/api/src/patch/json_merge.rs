//! Making JSON merge patches (RFC 7396): two-way, and three-way as kubectl does for custom resources.

use serde_json::{Map, Value};

use super::PatchError;

/// Carries out a merge patch as upstream's library does: objects in its lists come without what is null in them, too, unless the
/// list takes an object's place.
pub(super) fn apply(object: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else { return };
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let Value::Object(fields) = object else { return };
    for (key, change) in changes {
        match (fields.get_mut(key), change) {
            (_, Value::Null) => drop(fields.remove(key)),
            (Some(there @ Value::Object(_)), Value::Object(_)) => apply(there, change),
            (Some(Value::Object(_)), other) => drop(fields.insert(key.clone(), other.clone())),
            (_, other) => drop(fields.insert(key.clone(), without_nulls(other))),
        }
    }
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(key, value)| (key.clone(), without_nulls(value))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(without_nulls).collect()),
        other => other.clone(),
    }
}

/// The patch that makes `modified` of `original`.
pub fn two_way_json_merge(original: &Value, modified: &Value) -> Value {
    match (original, modified) {
        (Value::Object(old), Value::Object(new)) => {
            let mut patch = Map::new();
            for (key, value) in new {
                match old.get(key) {
                    Some(there) if there == value => {}
                    Some(there @ Value::Object(_)) if value.is_object() => {
                        let inside = two_way_json_merge(there, value);
                        if inside.as_object().is_some_and(|m| !m.is_empty()) {
                            patch.insert(key.clone(), inside);
                        }
                    }
                    _ => drop(patch.insert(key.clone(), value.clone())),
                }
            }
            for key in old.keys().filter(|k| !new.contains_key(*k)) {
                patch.insert(key.clone(), Value::Null);
            }
            Value::Object(patch)
        }
        _ => modified.clone(),
    }
}

/// Keeps of a difference only the nulls, or everything but the nulls.
fn keep(patch: Value, nulls: bool) -> Option<Value> {
    match patch {
        Value::Null => nulls.then_some(Value::Null),
        Value::Object(map) => {
            let was_empty = map.is_empty();
            let kept: Map<String, Value> = map.into_iter().filter_map(|(k, v)| Some((k, keep(v, nulls)?))).collect();
            if kept.is_empty() && (nulls || !was_empty) { None } else { Some(Value::Object(kept)) }
        }
        other => (!nulls).then_some(other),
    }
}

/// kubectl's patch for kinds without merge keys: additions and changes from `current` to `modified`, deletions from
/// `original` to `modified`. Keys whose value changes although they must not (`unchanging`, e.g. `["metadata", "name"]`)
/// are a [`PatchError::Precondition`].
pub fn three_way_json_merge(
    original: &Value,
    modified: &Value,
    current: &Value,
    unchanging: &[&[&str]],
) -> Result<Value, PatchError> {
    let or_empty = |v: &Value| if v.is_null() { Value::Object(Map::new()) } else { v.clone() };
    let (original, modified, current) = (or_empty(original), or_empty(modified), or_empty(current));
    let changes = keep(two_way_json_merge(&current, &modified), false);
    let deletions = keep(two_way_json_merge(&original, &modified), true);
    let mut patch = deletions.unwrap_or_else(|| Value::Object(Map::new()));
    if let Some(changes) = changes {
        merge_patches(&mut patch, changes);
    }
    for path in unchanging {
        let changed = path.iter().try_fold(&patch, |at, key| at.get(*key)).is_some();
        if changed {
            return Err(PatchError::Precondition(patch.to_string()));
        }
    }
    Ok(patch)
}

/// Two patches as one: unlike an application, nulls stay.
fn merge_patches(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge_patches(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}
