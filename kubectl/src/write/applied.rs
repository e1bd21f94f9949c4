//! The annotation in which an object keeps the configuration that was last applied to it.

use serde_json::{Value, json};

use crate::typed;

/// Its key.
pub const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The annotation of an object.
pub fn original(object: &Value) -> Option<&str> {
    object["metadata"]["annotations"][ANNOTATION].as_str()
}

/// An object without the annotation, on a line of its own: what the annotation holds. Untyped objects get an empty map of
/// annotations where they have none; typed ones leave empty maps out.
pub fn configuration(object: &Value, encode: impl Fn(&Value) -> String) -> String {
    format!("{}\n", encode(&without(object)))
}

/// [`configuration`] of an object of no particular type.
pub fn untyped(object: &Value) -> String {
    configuration(object, typed::sorted)
}

/// [`configuration`] of an object as typed clients have it.
pub fn typed_text(object: &Value) -> String {
    let mut object = without(object);
    if let Some(metadata) = object["metadata"].as_object_mut()
        && metadata.get("annotations").is_some_and(|a| a.as_object().is_some_and(serde_json::Map::is_empty))
    {
        metadata.remove("annotations");
    }
    format!("{}\n", typed::compact(&object))
}

fn without(object: &Value) -> Value {
    let mut object = object.clone();
    if !object["metadata"]["annotations"].is_object() {
        object["metadata"]["annotations"] = json!({});
    }
    if let Some(annotations) = object["metadata"]["annotations"].as_object_mut() {
        annotations.remove(ANNOTATION);
    }
    object
}

/// The object with its configuration among its annotations: what is to be there after an apply.
pub fn modified(object: &Value) -> Value {
    let mut object = object.clone();
    annotate(&mut object, untyped);
    object
}

/// Annotates the object with its own configuration.
pub fn annotate(object: &mut Value, text: impl Fn(&Value) -> String) {
    let text = text(object);
    object["metadata"]["annotations"][ANNOTATION] = Value::String(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_the_object_without_the_annotation() {
        let object = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "c"}, "data": {"a": "<"}});
        let text = "{\"apiVersion\":\"v1\",\"data\":{\"a\":\"\\u003c\"},\"kind\":\"ConfigMap\",\"metadata\":{\"annotations\":{},\"name\":\"c\"}}\n";
        assert_eq!(untyped(&object), text);
        assert_eq!(untyped(&modified(&object)), text);
        assert_eq!(original(&modified(&object)), Some(text));
        let typed =
            "{\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\",\"metadata\":{\"name\":\"c\"},\"data\":{\"a\":\"\\u003c\"}}\n";
        assert_eq!(typed_text(&object), typed);
    }
}
