//! JSON patches (RFC 6902) as upstream's library applies them: replacing a field that is not there adds it, what is not there
//! tests as null, negative indexes count from the end, and the object as a whole cannot be addressed.
//!
//! `copy` can double a document with every operation, in size and in depth: both are bounded.

use serde_json::Value;

use super::PatchError;
use crate::{
    field::go_quote,
    schema::{
        go,
        json::{KEPT_DEPTH, depth},
    },
};

/// What all copies of one patch may add, in bytes of JSON: the limit of a request's body.
pub(super) const MAX_COPIED_BYTES: usize = 3 * 1024 * 1024;

/// One operation, as far as it could be read: what is missing is missed when it is applied.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Operation {
    op: Option<String>,
    path: Option<String>,
    from: Option<String>,
    value: Value,
}

/// Reads operations. The second part is fields that none has, as strict validation tells of them; with `ignoring` nobody asks
/// for them, and wrong types are found only when operations are applied.
pub(super) fn read(list: Vec<Value>, ignoring: bool) -> Result<(Vec<Operation>, Vec<String>), PatchError> {
    let mut unknown = Vec::new();
    let mut operations = Vec::with_capacity(list.len());
    for (i, item) in list.into_iter().enumerate() {
        let mut operation = Operation::default();
        let fields = match item {
            Value::Object(fields) => fields,
            Value::Null => Default::default(),
            other => {
                let ty = if ignoring { "jsonpatch.Operation" } else { "handlers.jsonPatchOp" };
                return Err(PatchError::Malformed(super::cannot_read(&other, ty)));
            }
        };
        for (name, value) in fields {
            let place = match name.as_str() {
                "op" => &mut operation.op,
                "path" => &mut operation.path,
                "from" => &mut operation.from,
                "value" => {
                    operation.value = value;
                    continue;
                }
                _ => {
                    unknown.push(format!("unknown field {}", go_quote(&format!("[{i}].{name}"))));
                    continue;
                }
            };
            match value {
                Value::String(text) => *place = Some(text),
                Value::Null => {}
                _ if ignoring => {}
                other => {
                    let kind = go::kind(&other);
                    let what =
                        format!("json: cannot unmarshal {kind} into Go struct field jsonPatchOp.{name} of type string");
                    return Err(PatchError::Malformed(what));
                }
            }
        }
        operations.push(operation);
    }
    Ok((operations, unknown))
}

fn failed(why: impl Into<String>) -> PatchError {
    PatchError::DoesNotApply(why.into())
}

fn missing(path: &str) -> PatchError {
    failed(format!("{path}: missing value"))
}

/// The container that a path leads into, and the key there.
fn find<'a>(object: &'a mut Value, path: &str) -> Option<(&'a mut Value, String)> {
    let decoded = |key: &str| key.replace("~1", "/").replace("~0", "~");
    let (parents, key) = path.rsplit_once('/')?;
    let mut at = object;
    for parent in parents.split('/').skip(1) {
        let parent = decoded(parent);
        at = match at {
            Value::Object(fields) => fields.get_mut(&parent)?,
            Value::Array(items) => {
                let i = index(&parent, items.len())?;
                items.get_mut(i)?
            }
            _ => return None,
        };
    }
    matches!(at, Value::Object(_) | Value::Array(_)).then(|| (at, decoded(key)))
}

/// A place among `len`; negative ones count from the end.
fn index(key: &str, len: usize) -> Option<usize> {
    let i: i64 = key.parse().ok()?;
    let len = i64::try_from(len).ok()?;
    let i = if i < 0 { i + len } else { i };
    usize::try_from(i).ok().filter(|_| i < len)
}

/// What is there: a field that is not there is null, an item that is not there is an error.
fn get(container: &Value, key: &str) -> Option<Value> {
    match container {
        Value::Object(fields) => Some(fields.get(key).cloned().unwrap_or_default()),
        Value::Array(items) => Some(items[index(key, items.len())?].clone()),
        _ => None,
    }
}

fn add(object: &mut Value, path: &str, value: Value) -> Result<(), PatchError> {
    if depth(&value) + path.matches('/').count() > KEPT_DEPTH {
        return Err(failed("exceeded max depth"));
    }
    match find(object, path).ok_or_else(|| missing(path))? {
        (Value::Object(fields), key) => {
            fields.insert(key, value);
        }
        (Value::Array(items), key) if key == "-" => items.push(value),
        (Value::Array(items), key) => {
            let i = index(&key, items.len() + 1).ok_or_else(|| missing(path))?;
            items.insert(i, value);
        }
        _ => return Err(missing(path)),
    }
    Ok(())
}

fn remove(object: &mut Value, path: &str) -> Result<Value, PatchError> {
    let removed = match find(object, path).ok_or_else(|| missing(path))? {
        (Value::Object(fields), key) => fields.remove(&key),
        (Value::Array(items), key) => index(&key, items.len()).map(|i| items.remove(i)),
        _ => None,
    };
    removed.ok_or_else(|| missing(path))
}

fn replace(object: &mut Value, path: &str, value: Value) -> Result<(), PatchError> {
    if depth(&value) + path.matches('/').count() > KEPT_DEPTH {
        return Err(failed("exceeded max depth"));
    }
    match find(object, path).ok_or_else(|| missing(path))? {
        (Value::Object(fields), key) => {
            fields.insert(key, value);
        }
        (Value::Array(items), key) => {
            let i = index(&key, items.len()).ok_or_else(|| missing(path))?;
            items[i] = value;
        }
        _ => return Err(missing(path)),
    }
    Ok(())
}

fn at(object: &mut Value, path: &str) -> Result<Value, PatchError> {
    find(object, path).and_then(|(container, key)| get(container, &key)).ok_or_else(|| missing(path))
}

pub(super) fn apply(mut object: Value, patch: &[Operation]) -> Result<Value, PatchError> {
    let mut copied = 0;
    for operation in patch {
        let path = operation.path.as_deref().ok_or_else(|| failed("operation has no path"));
        let from = operation.from.as_deref().ok_or_else(|| failed("operation has no from"));
        match operation.op.as_deref() {
            Some("add") => add(&mut object, path?, operation.value.clone())?,
            Some("remove") => drop(remove(&mut object, path?)?),
            Some("replace") => replace(&mut object, path?, operation.value.clone())?,
            Some("move") => {
                let value = remove(&mut object, from?)?;
                add(&mut object, path?, value)?;
            }
            Some("copy") => {
                let value = at(&mut object, from?)?;
                copied += value.to_string().len();
                if copied > MAX_COPIED_BYTES {
                    return Err(failed(format!(
                        "Unable to complete the copy, the accumulated size increase of copy operation is {copied}, exceeding the limit {MAX_COPIED_BYTES}"
                    )));
                }
                add(&mut object, path?, value)?;
            }
            Some("test") => {
                let path = path?;
                if at(&mut object, path)? != operation.value {
                    return Err(failed(format!("testing value {path} failed")));
                }
            }
            other => return Err(failed(format!("Unexpected kind: {}", other.unwrap_or("unknown")))),
        }
    }
    Ok(object)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(object: Value, operations: Value) -> Result<Value, PatchError> {
        let Value::Array(operations) = operations else { panic!("operations are a list") };
        apply(object, &read(operations, false)?.0)
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
                {"op": "replace", "path": "/d", "value": "x"},
                {"op": "add", "path": "/c/-1", "value": 3},
                {"op": "replace", "path": "/c/-3", "value": 0},
                {"op": "test", "path": "/e", "value": null},
                {"op": "add", "path": "/x~1y~0"}
            ]),
        );
        assert_eq!(patched, Ok(json!({"a": [2], "c": [0, 2, 3], "d": "x", "x/y~": null})));
    }

    #[test]
    fn replacing_a_field_that_is_not_there_adds_it() {
        let replace = |path: &str| run(json!({"a": [1]}), json!([{"op": "replace", "path": path, "value": 2}]));
        assert_eq!(replace("/b"), Ok(json!({"a": [1], "b": 2})));
        assert!(["/a/1", "/b/c", "", "a", "/a/-", "/a/-2"].into_iter().all(|path| replace(path).is_err()));
    }

    #[test]
    fn what_is_no_operation_is_told() {
        let read = |list: Value, ignoring| match list {
            Value::Array(list) => read(list, ignoring).map(|(operations, unknown)| (operations.len(), unknown)),
            _ => panic!("operations are a list"),
        };
        let malformed = |why: &str| Err(PatchError::Malformed(why.to_owned()));
        let of = "json: cannot unmarshal number into Go value of type ";
        assert_eq!(read(json!([5]), false), malformed(&format!("{of}handlers.jsonPatchOp")));
        assert_eq!(read(json!([5]), true), malformed(&format!("{of}jsonpatch.Operation")));
        let field = "json: cannot unmarshal number into Go struct field jsonPatchOp.op of type string";
        assert_eq!(read(json!([{"op": 5}]), false), malformed(field));
        assert_eq!(read(json!([null, {"zz": 5}]), false), Ok((2, vec!["unknown field \"[1].zz\"".to_owned()])));
        assert!(run(json!({}), json!([null])).is_err());
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
