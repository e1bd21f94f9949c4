//! How found values are printed.

use serde_json::Value;

/// JSON as Go's encoder writes it: keys sorted, `<`, `>` and `&` escaped.
fn go_json(value: &Value, indent: Option<usize>, out: &mut String) {
    let (open_line, close_line) = match indent {
        Some(depth) => (format!("\n{}", "    ".repeat(depth + 1)), format!("\n{}", "    ".repeat(depth))),
        None => (String::new(), String::new()),
    };
    let deeper = indent.map(|depth| depth + 1);
    match value {
        Value::Array(items) if !items.is_empty() => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                out.push_str(&open_line);
                go_json(item, deeper, out);
            }
            out.push_str(&close_line);
            out.push(']');
        }
        Value::Object(map) if !map.is_empty() => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            out.push('{');
            for (i, key) in keys.into_iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                out.push_str(&open_line);
                go_string(key, out);
                out.push_str(if indent.is_some() { ": " } else { ":" });
                go_json(&map[key], deeper, out);
            }
            out.push_str(&close_line);
            out.push('}');
        }
        Value::String(text) => go_string(text, out),
        Value::Number(number) if number.is_f64() => out.push_str(&go_float(number.as_f64().unwrap_or_default())),
        other => out.push_str(&other.to_string()),
    }
}

fn go_string(text: &str, out: &mut String) {
    let json = Value::from(text).to_string();
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
}

/// The shortest form, with an exponent from 1e21 on and below 1e-4.
fn go_float(float: f64) -> String {
    let exponent = if float == 0.0 { 0 } else { float.abs().log10().floor() as i32 };
    if (-4..21).contains(&exponent) {
        return format!("{float}");
    }
    let text = format!("{float:e}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, exponent) = match exponent.strip_prefix('-') {
                Some(exponent) => ('-', exponent),
                None => ('+', exponent),
            };
            format!("{digits}e{sign}{exponent:0>2}")
        }
        None => text,
    }
}

/// One found value: strings bare, lists and objects as JSON.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => {
            let mut out = String::new();
            go_json(other, None, &mut out);
            out
        }
    }
}

pub(super) fn indented(value: &Value) -> String {
    let mut out = String::new();
    go_json(value, Some(0), &mut out);
    out
}

/// A value as Go's `%v` prints it: `map[a:1 b:[x y]]`, `<nil>`. Custom columns print so.
pub fn go_format(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_format).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let mut pairs: Vec<(&String, String)> = map.iter().map(|(k, v)| (k, go_format(v))).collect();
            pairs.sort();
            let pairs: Vec<String> = pairs.into_iter().map(|(k, v)| format!("{k}:{v}")).collect();
            format!("map[{}]", pairs.join(" "))
        }
        other => text(other),
    }
}
