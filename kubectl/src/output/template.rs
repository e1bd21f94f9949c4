//! Go's text/template.

use serde_json::Value;

/// A parsed template.
#[derive(Clone, Debug)]
pub struct Template {
    allow_missing: bool,
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// Go's complaint.
    pub fn parse(_text: &str) -> Result<Self, String> {
        Err("templates are not supported yet".to_owned())
    }

    /// Whether a missing key is `<no value>` instead of an error.
    #[must_use]
    pub fn allow_missing_keys(mut self, allow: bool) -> Self {
        self.allow_missing = allow;
        self
    }

    /// The template filled in.
    ///
    /// # Errors
    /// Go's complaint.
    pub fn execute(&self, _value: &Value) -> Result<String, String> {
        Err(format!("templates are not supported yet ({})", self.allow_missing))
    }
}

/// A value as Go's `%#v` prints it.
pub fn go_syntax(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".to_owned(),
        Value::String(text) => api::field::go_quote(text),
        Value::Array(items) => format!("[]interface {{}}{{{}}}", items.iter().map(go_syntax).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let mut entries: Vec<(&String, &Value)> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            let entries: Vec<String> =
                entries.into_iter().map(|(k, v)| format!("{}:{}", api::field::go_quote(k), go_syntax(v))).collect();
            format!("map[string]interface {{}}{{{}}}", entries.join(", "))
        }
        other => other.to_string(),
    }
}
