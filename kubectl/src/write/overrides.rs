//! `--overrides`: what a user puts over a generated object.

use api::patch::{Patch, PatchType};
use serde_json::Value;

use crate::typed;

/// The object with `overrides` in it, if there are any, as `--override-type` says: `json`, `merge`, `strategic`.
///
/// # Errors
/// What is wrong with them.
pub fn overridden(object: Value, overrides: &str, by: &str) -> Result<Value, String> {
    if overrides.is_empty() {
        return Ok(object);
    }
    let kind = match by {
        "json" => PatchType::Json,
        "merge" => PatchType::Merge,
        "strategic" => PatchType::Strategic,
        other => return Err(format!("invalid override type: {other}")),
    };
    let parsed = Patch::parse(kind, overrides.as_bytes());
    let (patch, _) = parsed.map_err(|error| match (kind, serde_json::from_str(overrides)) {
        // Upstream puts an array in the object's place, and finds no kind in it.
        (PatchType::Merge, Ok(Value::Array(_))) => NO_KIND.to_owned(),
        (PatchType::Merge, _) => "Invalid JSON Patch".to_owned(),
        (PatchType::Strategic, Ok(_)) => "invalid JSON document".to_owned(),
        (PatchType::Json, Ok(other)) if !other.is_array() => {
            format!("json: cannot unmarshal {} into Go value of type jsonpatch.Patch", api::schema::go::kind(&other))
        }
        _ => error.to_string(),
    })?;
    patch.apply(&object, typed::type_of(&object)).map(typed::known).map_err(|error| error.to_string())
}

const NO_KIND: &str = r#"couldn't get version/kind; json parse error: json: cannot unmarshal array into Go value of type struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;
