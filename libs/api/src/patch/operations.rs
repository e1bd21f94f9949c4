//! JSON patches (RFC 6902) as upstream's library applies them: replacing a field that is not there adds it, what is not there
//! tests as null, negative indexes count from the end, and the object as a whole can be replaced and tested, no more. What goes
//! wrong is told in its words, which kubectl shows; a server hides them.
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
                let i = index(&parent, items.len()).ok()?;
                items.get_mut(i)?
            }
            _ => return None,
        };
    }
    matches!(at, Value::Object(_) | Value::Array(_)).then(|| (at, decoded(key)))
}

/// A place among `len`; negative ones count from the end.
fn index(key: &str, len: usize) -> Result<usize, String> {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    let i: i64 = key.parse().map_err(|error: std::num::ParseIntError| {
        let why = if matches!(error.kind(), PosOverflow | NegOverflow) { "value out of range" } else { "invalid syntax" };
        format!("strconv.Atoi: parsing {}: {why}", go_quote(key))
    })?;
    let from_start = i64::try_from(len).ok().map(|len| if i < 0 { i.saturating_add(len) } else { i });
    let place = from_start.and_then(|i| usize::try_from(i).ok()).filter(|i| *i < len);
    place.ok_or_else(|| format!("Unable to access invalid index: {i}: invalid index referenced"))
}

/// What is there: a field that is not there is null, an item that is not there is an error.
fn get(container: &Value, key: &str) -> Result<Value, String> {
    match container {
        Value::Object(fields) => Ok(fields.get(key).cloned().unwrap_or_default()),
        Value::Array(items) => Ok(items[index(key, items.len())?].clone()),
        _ => Err("missing value".to_owned()),
    }
}

fn insert(container: &mut Value, key: String, value: Value) -> Result<(), String> {
    match container {
        Value::Object(fields) => drop(fields.insert(key, value)),
        Value::Array(items) if key == "-" => items.push(value),
        Value::Array(items) => {
            let i = index(&key, items.len() + 1).map_err(|why| match why.starts_with("strconv") {
                true => format!("value was not a proper array index: '{key}': {why}"),
                false => why,
            })?;
            items.insert(i, value);
        }
        _ => return Err("missing value".to_owned()),
    }
    Ok(())
}

fn take(container: &mut Value, key: &str) -> Result<Value, String> {
    match container {
        Value::Object(fields) => {
            fields.remove(key).ok_or_else(|| format!("Unable to remove nonexistent key: {key}: missing value"))
        }
        Value::Array(items) => Ok(items.remove(index(key, items.len())?)),
        _ => Err("missing value".to_owned()),
    }
}

/// Nothing may make an object deeper than what can be kept.
fn bounded(value: &Value, path: &str) -> Result<(), PatchError> {
    match depth(value) + path.matches('/').count() > KEPT_DEPTH {
        true => Err(failed("exceeded max depth")),
        false => Ok(()),
    }
}

fn add(object: &mut Value, path: &str, value: Value) -> Result<(), PatchError> {
    bounded(&value, path)?;
    let missing = || failed(format!("add operation does not apply: doc is missing path: \"{path}\": missing value"));
    let (container, key) = find(object, path).ok_or_else(missing)?;
    insert(container, key, value).map_err(|why| failed(format!("error in add for path: '{path}': {why}")))
}

fn remove(object: &mut Value, path: &str) -> Result<(), PatchError> {
    let missing = || failed(format!("remove operation does not apply: doc is missing path: \"{path}\": missing value"));
    let (container, key) = find(object, path).ok_or_else(missing)?;
    take(container, &key).map(drop).map_err(|why| failed(format!("error in remove for path: '{path}': {why}")))
}

fn replace(object: &mut Value, path: &str, value: Value) -> Result<(), PatchError> {
    bounded(&value, path)?;
    if path.is_empty() {
        // Upstream passes over what is neither, and says nothing.
        if value.is_object() || value.is_array() {
            *object = value;
        }
        return Ok(());
    }
    let missing = |what| failed(format!("replace operation does not apply: doc is missing {what}: {path}: missing value"));
    match find(object, path).ok_or_else(|| missing("path"))? {
        (Value::Object(fields), key) => drop(fields.insert(key, value)),
        (Value::Array(items), key) => {
            let i = index(&key, items.len()).map_err(|_| missing("key"))?;
            items[i] = value;
        }
        _ => return Err(missing("path")),
    }
    Ok(())
}

fn relocate(object: &mut Value, from: &str, path: Result<&str, PatchError>) -> Result<(), PatchError> {
    let missing =
        |what, path| failed(format!("move operation does not apply: doc is missing {what} path: {path}: missing value"));
    let wrong = |at: &str, why| failed(format!("error in move for path: '{at}': {why}"));
    let (container, key) = find(object, from).ok_or_else(|| missing("from", from))?;
    let value = take(container, &key).map_err(|why| wrong(&key, why))?;
    let path = path?;
    bounded(&value, path)?;
    let (container, key) = find(object, path).ok_or_else(|| missing("destination", path))?;
    insert(container, key, value).map_err(|why| wrong(path, why))
}

fn copy(object: &mut Value, from: &str, path: Result<&str, PatchError>, copied: &mut usize) -> Result<(), PatchError> {
    let missing =
        |what, path| failed(format!("copy operation does not apply: doc is missing {what} path: {path}: missing value"));
    let (container, key) = find(object, from).ok_or_else(|| missing("from", from))?;
    let value = get(container, &key).map_err(|why| failed(format!("error in copy for from: '{from}': {why}")))?;
    let path = path?;
    let (container, key) = find(object, path).ok_or_else(|| missing("destination", path))?;
    *copied += value.to_string().len();
    if *copied > MAX_COPIED_BYTES {
        return Err(failed(format!(
            "Unable to complete the copy, the accumulated size increase of copy operation is {copied}, exceeding the limit {MAX_COPIED_BYTES}"
        )));
    }
    bounded(&value, path)?;
    insert(container, key, value).map_err(|why| failed(format!("error while adding value during copy: {why}")))
}

fn test(object: &mut Value, path: &str, wanted: &Value) -> Result<(), PatchError> {
    let found = match path {
        "" => object.clone(),
        path => {
            let missing = || failed(format!("test operation does not apply: is missing path: {path}: missing value"));
            let (container, key) = find(object, path).ok_or_else(missing)?;
            get(container, &key).map_err(|why| failed(format!("error in test for path: '{path}': {why}")))?
        }
    };
    if found == *wanted { Ok(()) } else { Err(failed(format!("testing value {path} failed: test failed"))) }
}

pub(super) fn apply(mut object: Value, patch: &[Operation]) -> Result<Value, PatchError> {
    let mut copied = 0;
    for operation in patch {
        let op = operation.op.as_deref().unwrap_or("unknown");
        let path = operation.path.as_deref().ok_or_else(|| {
            let why = if matches!(op, "test" | "replace" | "move") { "operation missing path field: " } else { "" };
            failed(format!("{op} operation failed to decode path: {why}missing value"))
        });
        let from = operation.from.as_deref().ok_or_else(|| {
            failed(format!("{op} operation failed to decode from: operation, missing from field: missing value"))
        });
        match op {
            "add" => add(&mut object, path?, operation.value.clone())?,
            "remove" => remove(&mut object, path?)?,
            "replace" => replace(&mut object, path?, operation.value.clone())?,
            "move" => relocate(&mut object, from?, path)?,
            "copy" => copy(&mut object, from?, path, &mut copied)?,
            "test" => test(&mut object, path?, &operation.value)?,
            other => return Err(failed(format!("Unexpected kind: {other}"))),
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
        assert!(["/a/1", "/b/c", "a", "/a/-", "/a/-2"].into_iter().all(|path| replace(path).is_err()));
    }

    #[test]
    fn the_whole_is_replaced_and_tested() {
        let object = json!({"a": 1});
        let run = |operations| run(object.clone(), operations);
        assert_eq!(run(json!([{"op": "replace", "path": "", "value": {"b": 2}}])), Ok(json!({"b": 2})));
        assert_eq!(run(json!([{"op": "replace", "path": "", "value": 2}])), Ok(object.clone()));
        assert_eq!(run(json!([{"op": "test", "path": "", "value": {"a": 1}}])), Ok(object.clone()));
        assert!(run(json!([{"op": "test", "path": "", "value": {}}])).is_err());
    }

    #[test]
    fn what_goes_wrong_is_told_in_the_words_of_upstreams_library() {
        let told = |operation: Value| match run(json!({"a": [1], "b": 1}), json!([operation])) {
            Err(error) => error.to_string(),
            Ok(object) => panic!("it worked: {object}"),
        };
        for (operation, message) in [
            (json!({"op": "add"}), "add operation failed to decode path: missing value"),
            (json!({"op": "test"}), "test operation failed to decode path: operation missing path field: missing value"),
            (
                json!({"op": "copy", "path": "/c"}),
                "copy operation failed to decode from: operation, missing from field: missing value",
            ),
            (
                json!({"op": "add", "path": "/x/y"}),
                "add operation does not apply: doc is missing path: \"/x/y\": missing value",
            ),
            (
                json!({"op": "add", "path": "/a/x"}),
                "error in add for path: '/a/x': value was not a proper array index: 'x': strconv.Atoi: parsing \"x\": invalid syntax",
            ),
            (
                json!({"op": "add", "path": "/a/3"}),
                "error in add for path: '/a/3': Unable to access invalid index: 3: invalid index referenced",
            ),
            (
                json!({"op": "remove", "path": "/x"}),
                "error in remove for path: '/x': Unable to remove nonexistent key: x: missing value",
            ),
            (
                json!({"op": "replace", "path": "/a/9"}),
                "replace operation does not apply: doc is missing key: /a/9: missing value",
            ),
            (
                json!({"op": "move", "from": "/x", "path": "/c"}),
                "error in move for path: 'x': Unable to remove nonexistent key: x: missing value",
            ),
            (
                json!({"op": "move", "from": "/b", "path": "/x/y"}),
                "move operation does not apply: doc is missing destination path: /x/y: missing value",
            ),
            (
                json!({"op": "copy", "from": "/a/1", "path": "/c"}),
                "error in copy for from: '/a/1': Unable to access invalid index: 1: invalid index referenced",
            ),
            (
                json!({"op": "copy", "from": "/b", "path": "/a/9"}),
                "error while adding value during copy: Unable to access invalid index: 9: invalid index referenced",
            ),
            (json!({"op": "test", "path": "/b", "value": 2}), "testing value /b failed: test failed"),
            (json!({"op": "test", "path": "/x/y"}), "test operation does not apply: is missing path: /x/y: missing value"),
            (json!({"op": "rub", "path": "/b"}), "Unexpected kind: rub"),
        ] {
            assert_eq!(told(operation), message);
        }
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
