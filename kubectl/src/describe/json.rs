//! Reading JSON as Go reads it into a struct: what is missing is empty.

use serde_json::Value;

static NULL: Value = Value::Null;

/// Fields by dotted path (`spec.nodeName`); no field's own name has a dot in it.
pub trait Json {
    /// The field, null if missing.
    fn at(&self, path: &str) -> &Value;

    /// Whether the field is there.
    fn has(&self, path: &str) -> bool {
        !self.at(path).is_null()
    }

    /// A string field.
    fn text(&self, path: &str) -> &str {
        self.at(path).as_str().unwrap_or("")
    }

    /// A string field, or `other` if it is missing.
    fn text_or<'a>(&'a self, path: &str, other: &'a str) -> &'a str {
        self.at(path).as_str().unwrap_or(other)
    }

    /// A number field.
    fn int(&self, path: &str) -> i64 {
        self.at(path).as_i64().unwrap_or(0)
    }

    /// A boolean field.
    fn flag(&self, path: &str) -> bool {
        self.at(path).as_bool().unwrap_or(false)
    }

    /// A list field.
    fn items(&self, path: &str) -> &[Value] {
        self.at(path).as_array().map_or(&[], Vec::as_slice)
    }

    /// A list of strings.
    fn texts(&self, path: &str) -> Vec<&str> {
        self.items(path).iter().filter_map(Value::as_str).collect()
    }

    /// A map of strings, sorted by key.
    fn pairs(&self, path: &str) -> Vec<(&str, &str)> {
        let entries = self.at(path).as_object();
        let mut pairs: Vec<_> =
            entries.into_iter().flatten().map(|(key, value)| (key.as_str(), value.as_str().unwrap_or(""))).collect();
        pairs.sort_unstable();
        pairs
    }
}

impl Json for Value {
    fn at(&self, path: &str) -> &Value {
        path.split('.').try_fold(self, |value, name| value.get(name)).unwrap_or(&NULL)
    }
}

/// A value as Go's `%v` writes it: strings bare, lists as `[a b]`.
pub fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "<nil>".to_owned(),
        Value::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(" ")),
        other => api::jsonpath::go_format(other),
    }
}

/// `[a b]`.
pub fn go_list(items: &[&str]) -> String {
    format!("[{}]", items.join(" "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn missing_fields_are_empty() {
        let object = json!({"spec": {"a": "x", "n": 3, "l": ["b", "a"]}});
        let got = (object.text("spec.a"), object.int("spec.n"), object.texts("spec.l"), object.text("status.phase"));
        assert_eq!(got, ("x", 3, vec!["b", "a"], ""));
        assert_eq!(shown(object.at("spec.l")), "[b a]");
    }
}
