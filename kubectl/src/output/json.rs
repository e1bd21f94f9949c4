//! JSON as Go's encoder writes it.

use serde_json::Value;

/// An object with an indent of four spaces, its keys sorted, `<`, `>` and `&` escaped. Without a newline at its end.
pub fn pretty(value: &Value) -> String {
    let mut out = String::new();
    write(value, Some(0), "    ", &mut out);
    out
}

/// The same with another indent.
pub fn pretty_with(value: &Value, indent: &str) -> String {
    let mut out = String::new();
    write(value, Some(0), indent, &mut out);
    out
}

/// The same with some keys first, in the order of a Go struct; the others follow sorted.
pub fn pretty_in_order(value: &Value, indent: &str, order: &[&str]) -> String {
    let mut out = String::new();
    write_in(value, Some(0), indent, order, &mut out);
    out
}

/// An object in one line.
pub fn compact(value: &Value) -> String {
    let mut out = String::new();
    write(value, None, "", &mut out);
    out
}

fn line(depth: Option<usize>, indent: &str, out: &mut String) {
    if let Some(depth) = depth {
        out.push('\n');
        (0..depth).for_each(|_| out.push_str(indent));
    }
}

fn write(value: &Value, depth: Option<usize>, indent: &str, out: &mut String) {
    write_in(value, depth, indent, &[], out);
}

fn write_in(value: &Value, depth: Option<usize>, indent: &str, order: &[&str], out: &mut String) {
    let deeper = depth.map(|d| d + 1);
    match value {
        Value::Array(items) if items.is_empty() => out.push_str("[]"),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                line(deeper, indent, out);
                write_in(item, deeper, indent, order, out);
            }
            line(depth, indent, out);
            out.push(']');
        }
        Value::Object(map) if map.is_empty() => out.push_str("{}"),
        Value::Object(map) => {
            let mut entries: Vec<(&String, &Value)> = map.iter().collect();
            let rank = |key: &str| order.iter().position(|o| *o == key).unwrap_or(order.len());
            entries.sort_by(|(a, _), (b, _)| rank(a).cmp(&rank(b)).then_with(|| a.cmp(b)));
            out.push('{');
            for (i, (key, value)) in entries.into_iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                line(deeper, indent, out);
                string(key, out);
                out.push_str(if depth.is_some() { ": " } else { ":" });
                write_in(value, deeper, indent, order, out);
            }
            line(depth, indent, out);
            out.push('}');
        }
        Value::String(text) => string(text, out),
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(float) => out.push_str(&float_text(float)),
            None => out.push_str(&number.to_string()),
        },
        Value::Bool(bool) => out.push_str(if *bool { "true" } else { "false" }),
        Value::Null => out.push_str("null"),
    }
}

fn string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// The shortest form, with an exponent below 1e-6 and from 1e21 on.
fn float_text(float: f64) -> String {
    let size = float.abs();
    if size == 0.0 || (1e-6..1e21).contains(&size) {
        return format!("{float}");
    }
    let text = format!("{float:e}");
    match text.split_once('e') {
        Some((digits, exponent)) if !exponent.starts_with('-') => format!("{digits}e+{exponent}"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn go_writes_json_so() {
        let value = json!({"b": [1, {"x": "<a>&\u{2028}\u{1}"}], "a": {}, "c": [], "f": 1.5, "g": 1e21});
        let want = "{\n    \"a\": {},\n    \"b\": [\n        1,\n        {\n            \"x\": \"\\u003ca\\u003e\\u0026\\u2028\\u0001\"\n        }\n    ],\n    \"c\": [],\n    \"f\": 1.5,\n    \"g\": 1e+21\n}";
        assert_eq!(pretty(&value), want);
        assert_eq!(compact(&json!({"b": 1, "a": [true, null]})), "{\"a\":[true,null],\"b\":1}");
    }
}
