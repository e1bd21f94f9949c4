//! The patch that an apply sends: what the new configuration changes, against what was last applied and what is there now.

use api::{
    patch::{PatchError, PatchType, three_way_json_merge, three_way_strategic},
    schema::yaml,
};
use serde_json::Value;

use crate::{typed, write::applied};

/// Why there is no patch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unpatchable {
    /// Somebody else changed what the patch would change, and `--overwrite=false`: upstream's words.
    Conflict(String),
    /// Anything else.
    Other(String),
}

/// The patch from `current` to `modified`. Kinds whose types are known are patched strategically, others by JSON merge.
pub fn between(modified: &Value, current: &Value, overwrite: bool) -> Result<(PatchType, Value), Unpatchable> {
    let original = match applied::original(current).filter(|text| !text.is_empty()) {
        Some(text) => serde_json::from_str(text).map_err(|error| Unpatchable::Other(error.to_string()))?,
        None => Value::Null,
    };
    match typed::type_of(current) {
        Some(ty) => match three_way_strategic(&original, modified, current, ty, overwrite) {
            Ok(patch) => Ok((PatchType::Strategic, patch)),
            Err(PatchError::Conflict { patch, changed }) => Err(Unpatchable::Conflict(conflict(&patch, &changed))),
            Err(error) => Err(Unpatchable::Other(error.to_string())),
        },
        None => {
            let unchanging: &[&[&str]] = &[&["apiVersion"], &["kind"], &["metadata", "name"]];
            match three_way_json_merge(&original, modified, current, unchanging) {
                Ok(patch) => Ok((PatchType::Merge, patch)),
                Err(PatchError::Precondition(_)) => {
                    Err(Unpatchable::Other("At least one of apiVersion, kind and name was changed".to_owned()))
                }
                Err(error) => Err(Unpatchable::Other(error.to_string())),
            }
        }
    }
}

fn conflict(patch: &str, changed: &str) -> String {
    let text =
        |json: &str| serde_json::from_str(json).map_or_else(|_| json.to_owned(), |value| api::yaml::to_string(&value));
    format!("patch:\n{}\nconflicts with changes made from original to current:\n{}\n", text(patch), text(changed))
}

/// An object that is to be created has no use for nulls, which are instructions for a patch.
pub fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(without_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

/// Whether two texts of JSON or YAML say the same.
pub fn same_configuration(a: &str, b: &str) -> bool {
    let parsed = |text: &str| yaml::parse(text.as_bytes()).map(|parsed| parsed.value).unwrap_or_default();
    parsed(a) == parsed(b)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config_map(data: &Value) -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data})
    }

    #[test]
    fn what_was_applied_and_is_gone_is_deleted() {
        let mut current = applied::modified(&config_map(&json!({"a": "1", "b": "2"})));
        current["data"]["own"] = json!("stays");
        let modified = applied::modified(&config_map(&json!({"a": "3"})));
        let (kind, patch) = between(&modified, &current, true).unwrap();
        let annotation = &modified["metadata"]["annotations"];
        assert_eq!(kind, PatchType::Strategic);
        assert_eq!(patch, json!({"data": {"a": "3", "b": null}, "metadata": {"annotations": annotation}}));
    }

    #[test]
    fn the_same_again_is_no_patch() {
        let object = applied::modified(&config_map(&json!({"a": "1"})));
        assert_eq!(between(&object, &object, true), Ok((PatchType::Strategic, json!({}))));
        let custom =
            applied::modified(&json!({"apiVersion": "x.y/v1", "kind": "Odd", "metadata": {"name": "o"}, "spec": [1]}));
        assert_eq!(between(&custom, &custom, true), Ok((PatchType::Merge, json!({}))));
    }

    #[test]
    fn nulls_are_left_out_of_new_objects() {
        let mut value = json!({"a": null, "b": [{"c": null, "d": 1}], "e": {}});
        without_nulls(&mut value);
        assert_eq!(value, json!({"b": [{"d": 1}], "e": {}}));
    }
}
