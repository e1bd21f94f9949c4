//! What `label` and `annotate` share: reading `KEY=VALUE` and `KEY-`, and changing one map of an object's metadata.

use serde_json::{Map, Value};

/// Arguments apart: resources first, then changes.
///
/// # Errors
/// A resource after a change.
pub fn split(arguments: &[String], what: &str) -> Result<(Vec<String>, Vec<String>), String> {
    let (mut resources, mut changes) = (Vec::new(), Vec::new());
    for argument in arguments {
        let is_change =
            (argument.contains('=') && !argument.starts_with('=')) || (argument.ends_with('-') && argument != "-");
        match (is_change, changes.is_empty()) {
            (true, _) => changes.push(argument.clone()),
            (false, true) => resources.push(argument.clone()),
            (false, false) => return Err(format!("all resources must be specified before {what} changes: {argument}")),
        }
    }
    Ok((resources, changes))
}

/// What to set, sorted by key, and what to remove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Keys and their new values.
    pub set: std::collections::BTreeMap<String, String>,
    /// Keys to remove.
    pub remove: Vec<String>,
}

impl Changes {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.remove.is_empty()
    }

    /// Keys that are already there with another value, and that value.
    pub fn overwritten<'a>(&'a self, map: &'a Map<String, Value>) -> Vec<(&'a str, &'a str)> {
        let other = |(key, value): (&'a String, &'a String)| {
            let current = map.get(key)?.as_str()?;
            (current != value).then_some((key.as_str(), current))
        };
        self.set.iter().filter_map(other).collect()
    }

    /// Changes `metadata.FIELD`, which stays as an empty map when nothing is left of it.
    pub fn apply(&self, object: &mut Value, field: &str) {
        let metadata = &mut object["metadata"];
        let mut map = metadata[field].as_object().cloned().unwrap_or_default();
        for (key, value) in &self.set {
            map.insert(key.clone(), Value::String(value.clone()));
        }
        for key in &self.remove {
            map.remove(key);
        }
        metadata[field] = Value::Object(map);
    }
}

/// An object's `metadata.FIELD`.
pub fn map_of(object: &Value, field: &str) -> Map<String, Value> {
    object["metadata"][field].as_object().cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn resources_come_first() {
        assert_eq!(
            split(&strings(&["pod", "x", "a=b", "c-"]), "label"),
            Ok((strings(&["pod", "x"]), strings(&["a=b", "c-"])))
        );
        assert_eq!(
            split(&strings(&["pod", "a=b", "x"]), "label"),
            Err("all resources must be specified before label changes: x".to_owned())
        );
    }

    #[test]
    fn the_map_outlives_its_last_key() {
        let mut object = json!({"metadata": {"name": "x", "labels": {"a": "b"}}});
        Changes { remove: strings(&["a"]), ..Changes::default() }.apply(&mut object, "labels");
        assert_eq!(object, json!({"metadata": {"name": "x", "labels": {}}}));
    }
}
