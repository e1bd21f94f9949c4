//! Answers as YAML.

use serde_json::Value;

/// The YAML of a value, newline at the end. What the writer cannot express is written as JSON, which is YAML too.
pub fn write(value: &Value) -> String {
    let mut text = serde_saphyr::to_string(value).unwrap_or_else(|_| value.to_string());
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}
