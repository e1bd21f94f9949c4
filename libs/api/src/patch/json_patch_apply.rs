//! Applying a JSON patch with bounds: `copy` can double a document with every operation, in size and in depth.

use json_patch::{AddOperation, Patch, PatchOperation};
use serde_json::Value;

use super::PatchError;
use crate::schema::json::{MAX_DEPTH, depth};

/// What all copies of one patch may add, in bytes of JSON: the limit of a request's body.
pub(super) const MAX_COPIED_BYTES: usize = 3 * 1024 * 1024;

pub(super) fn apply(mut object: Value, patch: &Patch) -> Result<Value, PatchError> {
    let mut copied = 0;
    for operation in patch.iter() {
        let (value, to) = match operation {
            PatchOperation::Add(op) => (Some(&op.value), op.path.as_str()),
            PatchOperation::Replace(op) => (Some(&op.value), op.path.as_str()),
            PatchOperation::Move(op) => (object.pointer(op.from.as_str()), op.path.as_str()),
            PatchOperation::Copy(op) => {
                let value = object.pointer(op.from.as_str());
                copied += value.map_or(0, |v| v.to_string().len());
                if copied > MAX_COPIED_BYTES {
                    return Err(PatchError::DoesNotApply(format!(
                        "Unable to complete the copy, the accumulated size increase of copy operation is {copied}, exceeding the limit {MAX_COPIED_BYTES}"
                    )));
                }
                (value, op.path.as_str())
            }
            PatchOperation::Remove(_) | PatchOperation::Test(_) => (None, ""),
        };
        if value.is_some_and(|v| depth(v) + to.matches('/').count() > MAX_DEPTH) {
            return Err(PatchError::DoesNotApply("exceeded max depth".to_owned()));
        }
        let adding = as_addition(operation, &object);
        json_patch::patch_unsafe(&mut object, std::slice::from_ref(adding.as_ref().unwrap_or(operation)))
            .map_err(|e| PatchError::DoesNotApply(e.to_string()))?;
    }
    Ok(object)
}

/// Upstream's library replaces fields of objects that are not there: it adds them.
fn as_addition(operation: &PatchOperation, object: &Value) -> Option<PatchOperation> {
    let PatchOperation::Replace(op) = operation else { return None };
    let (parent, _) = op.path.as_str().rsplit_once('/')?;
    let missing = object.pointer(parent)?.is_object() && object.pointer(op.path.as_str()).is_none();
    missing.then(|| PatchOperation::Add(AddOperation { path: op.path.clone(), value: op.value.clone() }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(object: Value, operations: Value) -> Result<Value, PatchError> {
        apply(object, &serde_json::from_value(operations).unwrap())
    }

    #[test]
    fn applies_in_order() {
        let patched = run(
            json!({"a": [1], "b": 1}),
            json!([
                {"op": "test", "path": "/b", "value": 1},
                {"op": "add", "path": "/a/-", "value": 2},
                {"op": "copy", "from": "/a", "path": "/c"},
                {"op": "move", "from": "/b", "path": "/d"},
                {"op": "remove", "path": "/a/0"},
                {"op": "replace", "path": "/d", "value": "x"}
            ]),
        );
        assert_eq!(patched, Ok(json!({"a": [2], "c": [1, 2], "d": "x"})));
    }

    #[test]
    fn replacing_a_field_that_is_not_there_adds_it() {
        let replace = |path: &str| run(json!({"a": [1]}), json!([{"op": "replace", "path": path, "value": 2}]));
        assert_eq!(replace("/b"), Ok(json!({"a": [1], "b": 2})));
        assert!(replace("/a/1").is_err() && replace("/b/c").is_err());
    }

    #[test]
    fn copies_cannot_explode() {
        let doubling: Vec<Value> = (0..40).map(|_| json!({"op": "copy", "from": "/a", "path": "/a/-"})).collect();
        let error = run(json!({"a": ["x"]}), json!(doubling)).unwrap_err();
        assert!(
            matches!(&error, PatchError::DoesNotApply(why) if why.starts_with("Unable to complete the copy")
            || why == "exceeded max depth"),
            "{error}"
        );
    }

    #[test]
    fn depth_cannot_explode() {
        let deepening: Vec<Value> = (0..200).map(|_| json!({"op": "move", "from": "/a", "path": "/a/a"})).collect();
        assert!(run(json!({"a": {"a": 1}}), json!(deepening)).is_err());
        let deepening: Vec<Value> = (0..200).map(|_| json!({"op": "copy", "from": "/a", "path": "/a/a"})).collect();
        let error = run(json!({"a": {"b": 1}}), json!(deepening)).unwrap_err();
        assert_eq!(error, PatchError::DoesNotApply("exceeded max depth".to_owned()));
    }
}
