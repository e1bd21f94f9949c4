//! YAML as sigs.k8s.io/yaml writes it, to the byte: libyaml's emitter with lines folded near column 80, strings plain where
//! YAML 1.1 reads them back as strings, keys in natural order.

mod implicit;
mod style;

use std::cmp::Ordering;

use serde_json::Value;

pub(crate) use self::implicit::{timestamp as is_timestamp, yaml_float as is_float};
use self::style::{Facts, Style, escape, is_break, printable};

/// Where lines are folded.
const WIDTH: usize = 80;
/// Longer keys are written as `? key`.
const SIMPLE_KEY: usize = 128;

/// Why a value is no YAML.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlCharacter;

impl std::fmt::Display for ControlCharacter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("yaml: control characters are not allowed")
    }
}

impl std::error::Error for ControlCharacter {}

/// [`to_string`] as sigs.k8s.io/yaml has it of objects: it writes JSON first and reads that as YAML, to which U+0085 in a text is the
/// end of a line, and where other control characters that JSON does not escape may not stand.
///
/// # Errors
/// There is such a character.
pub fn of_json(value: &Value) -> Result<String, ControlCharacter> {
    Ok(match read_as_it_is(value)? {
        true => to_string(value),
        false => to_string(&read(value)),
    })
}

/// Whether YAML reads all texts of a value as they are.
fn read_as_it_is(value: &Value) -> Result<bool, ControlCharacter> {
    let text =
        |text: &str| match text.chars().any(|c| c != '\u{85}' && matches!(c, '\u{7f}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}'))
        {
            true => Err(ControlCharacter),
            false => Ok(!text.contains('\u{85}')),
        };
    Ok(match value {
        Value::String(string) => text(string)?,
        Value::Array(items) => items.iter().try_fold(true, |all, item| Ok(read_as_it_is(item)? && all))?,
        Value::Object(map) => {
            map.iter().try_fold(true, |all, (key, value)| Ok(text(key)? && read_as_it_is(value)? && all))?
        }
        _ => true,
    })
}

fn read(value: &Value) -> Value {
    match value {
        Value::String(text) => joined(text).into(),
        Value::Array(items) => items.iter().map(read).collect(),
        Value::Object(map) => map.iter().map(|(key, value)| (joined(key), read(value))).collect(),
        other => other.clone(),
    }
}

/// Lines of a quoted text joined: one end of a line is a space, of several all but the first stay; the spaces around them go.
fn joined(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find([' ', '\u{85}']) {
        let (before, blank) = rest.split_at(at);
        let after = blank.trim_start_matches([' ', '\u{85}']);
        let blank = &blank[..blank.len() - after.len()];
        out.push_str(before);
        match blank.matches('\u{85}').count() {
            0 => out.push_str(blank),
            1 => out.push(' '),
            several => out.extend(std::iter::repeat_n('\n', several - 1)),
        }
        rest = after;
    }
    out + rest
}

/// A value as one document, with a newline at its end.
pub fn to_string(value: &Value) -> String {
    let mut emitter = Emitter { out: String::new(), column: 0 };
    match value {
        Value::Object(map) if !map.is_empty() => emitter.mapping(value, 0),
        Value::Array(items) if !items.is_empty() => emitter.sequence(items, 0),
        scalar => emitter.scalar(scalar, 2),
    }
    if !emitter.out.ends_with('\n') {
        emitter.out.push('\n');
    }
    emitter.out
}

struct Emitter {
    out: String,
    column: usize,
}

impl Emitter {
    fn put(&mut self, text: &str) {
        for c in text.chars() {
            self.out.push(c);
            self.column = if c == '\n' { 0 } else { self.column + 1 };
        }
    }

    /// A new line with an indent; nothing if one has just begun.
    fn indent(&mut self, indent: usize) {
        if self.column > 0 {
            self.put("\n");
        }
        self.put(&" ".repeat(indent));
    }

    /// The entries of a map, the first one where the cursor is.
    fn mapping(&mut self, value: &Value, indent: usize) {
        let Value::Object(map) = value else { return };
        let mut keys: Vec<&String> = map.keys().collect();
        keys.sort_by(|a, b| natural(a, b));
        for (at, key) in keys.into_iter().enumerate() {
            if at > 0 {
                self.indent(indent);
            }
            if key.len() > SIMPLE_KEY {
                self.put("? ");
                self.string(key, indent + 2, false);
                self.indent(indent);
                self.put(":");
            } else {
                self.string(key, indent + 2, true);
                self.put(":");
            }
            self.value(&map[key], indent);
        }
    }

    /// What comes after `key:`.
    fn value(&mut self, value: &Value, indent: usize) {
        match value {
            Value::Object(map) if !map.is_empty() => {
                self.indent(indent + 2);
                self.mapping(value, indent + 2);
            }
            Value::Array(items) if !items.is_empty() => {
                self.indent(indent);
                self.sequence(items, indent);
            }
            scalar => {
                self.put(" ");
                self.scalar(scalar, indent + 2);
            }
        }
    }

    /// The items of a list, the first one where the cursor is.
    fn sequence(&mut self, items: &[Value], indent: usize) {
        for (at, item) in items.iter().enumerate() {
            if at > 0 {
                self.indent(indent);
            }
            self.put("- ");
            match item {
                Value::Object(map) if !map.is_empty() => self.mapping(item, indent + 2),
                Value::Array(inner) if !inner.is_empty() => self.sequence(inner, indent + 2),
                scalar => self.scalar(scalar, indent + 2),
            }
        }
    }

    fn scalar(&mut self, value: &Value, indent: usize) {
        match value {
            Value::Null => self.put("null"),
            Value::Bool(bool) => self.put(if *bool { "true" } else { "false" }),
            Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
                Some(float) => self.put(&float_text(float)),
                None => self.put(&number.to_string()),
            },
            Value::String(text) => self.string(text, indent, false),
            Value::Array(_) => self.put("[]"),
            Value::Object(_) => self.put("{}"),
        }
    }

    fn string(&mut self, text: &str, indent: usize, key: bool) {
        let facts = Facts::of(text);
        match facts.style(text, key) {
            Style::Plain => self.plain(text, indent, !key),
            Style::Single => self.single(text, indent, !key),
            Style::Double => self.double(text, indent, !key),
            Style::Literal => self.literal(text, indent),
        }
    }

    fn plain(&mut self, text: &str, indent: usize, fold: bool) {
        let characters: Vec<char> = text.chars().collect();
        let mut spaces = false;
        for (at, c) in characters.iter().enumerate() {
            let blank = *c == ' ';
            if blank && fold && !spaces && self.column > WIDTH && characters.get(at + 1) != Some(&' ') {
                self.indent(indent);
            } else {
                self.put(c.encode_utf8(&mut [0; 4]));
            }
            spaces = blank;
        }
    }

    fn single(&mut self, text: &str, indent: usize, fold: bool) {
        let characters: Vec<char> = text.chars().collect();
        let (mut spaces, mut broken) = (false, false);
        self.put("'");
        for (at, c) in characters.iter().enumerate() {
            if std::mem::replace(&mut broken, is_break(*c)) && !broken {
                self.put(&" ".repeat(indent));
            }
            let inside = at > 0 && at + 1 < characters.len();
            if *c == ' ' && fold && !spaces && self.column > WIDTH && inside && characters.get(at + 1) != Some(&' ') {
                self.indent(indent);
            } else {
                self.put(if *c == '\'' { "'" } else { "" });
                self.put(c.encode_utf8(&mut [0; 4]));
            }
            if broken {
                self.column = 0;
            }
            spaces = *c == ' ';
        }
        self.put("'");
    }

    fn double(&mut self, text: &str, indent: usize, fold: bool) {
        let characters: Vec<char> = text.chars().collect();
        let mut spaces = false;
        // libyaml looks for a byte order mark where a text begins, whatever character of it is looked at.
        let marked = text.starts_with('\u{feff}');
        self.put("\"");
        for (at, c) in characters.iter().enumerate() {
            let inside = at > 0 && at + 1 < characters.len();
            if marked || !printable(*c) || is_break(*c) || matches!(c, '"' | '\\' | '\u{feff}') {
                self.put(&escape(*c));
            } else if *c == ' ' && fold && !spaces && self.column > WIDTH && inside {
                self.indent(indent);
                if characters.get(at + 1) == Some(&' ') {
                    self.put("\\");
                }
            } else {
                self.put(c.encode_utf8(&mut [0; 4]));
            }
            spaces = *c == ' ';
        }
        self.put("\"");
    }

    fn literal(&mut self, text: &str, indent: usize) {
        self.put("|");
        if text.starts_with([' ', '\n']) {
            self.put("2");
        }
        let trimmed = text.strip_suffix('\n');
        self.put(match trimmed {
            None => "-",
            Some("") => "+",
            Some(rest) if rest.ends_with('\n') => "+",
            Some(_) => "",
        });
        self.put("\n");
        for line in text.split_inclusive('\n') {
            if line != "\n" {
                self.put(&" ".repeat(indent));
            }
            self.put(line);
        }
    }
}

/// Go's `%g` with the shortest digits, of an [`f32`] or an [`f64`].
pub(crate) fn float_text(float: impl std::fmt::Display + std::fmt::LowerExp) -> String {
    let text = format!("{float:e}");
    let Some((digits, exponent)) = text.split_once('e') else { return text };
    let power: i32 = exponent.parse().unwrap_or_default();
    if (-4..6).contains(&power) {
        return float.to_string();
    }
    let sign = if power < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", power.abs())
}

/// yaml.v2's order of keys: letters by code, digits as numbers, what is neither before letters.
fn natural(a: &str, b: &str) -> Ordering {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    for i in 0..a.len().min(b.len()) {
        if a[i] == b[i] {
            continue;
        }
        match (a[i].is_alphabetic(), b[i].is_alphabetic()) {
            (true, true) => return a[i].cmp(&b[i]),
            (true, false) => return Ordering::Greater,
            (false, true) => return Ordering::Less,
            (false, false) => {}
        }
        let zero = a[i] == '0' || b[i] == '0';
        let led = zero && a[..i].iter().rev().take_while(|c| c.is_numeric()).any(|c| *c != '0');
        let number = |text: &[char]| {
            let run: Vec<u32> = text[i..].iter().map_while(|c| c.to_digit(10)).collect();
            let value = run.iter().fold(i64::from(led), |n, d| n.wrapping_mul(10).wrapping_add(i64::from(*d)));
            (value, run.len())
        };
        return number(&a).cmp(&number(&b)).then(a[i].cmp(&b[i]));
    }
    a.len().cmp(&b.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn strings_are_quoted_where_they_would_be_misread() {
        for (text, want) in [
            ("abc", "abc"),
            ("", "\"\""),
            ("true", "\"true\""),
            ("y", "\"y\""),
            ("1", "\"1\""),
            ("0644", "\"0644\""),
            ("1.5", "\"1.5\""),
            ("1e3", "\"1e3\""),
            ("100m", "100m"),
            ("10:20", "\"10:20\""),
            ("10.0.0.1", "10.0.0.1"),
            ("2024-01-02T03:04:05Z", "\"2024-01-02T03:04:05Z\""),
            ("2024-01-02", "\"2024-01-02\""),
            ("a: b", "'a: b'"),
            ("a:b", "a:b"),
            ("- a", "'- a'"),
            ("-a", "-a"),
            ("*", "'*'"),
            ("it's", "it's"),
            ("'it", "'''it'"),
            (" a", "' a'"),
            ("a #b", "'a #b'"),
            ("a\tb", "\"a\\tb\""),
            ("a\nb", "|-\n    a\n    b"),
            ("a\nb\n", "|\n    a\n    b"),
            ("\na\n\n", "|2+\n\n    a\n"),
            ("a \nb", "\"a \\nb\""),
            ("{}", "'{}'"),
            ("=", "="),
            ("ü", "ü"),
            ("\u{1b}", "\"\\e\""),
        ] {
            assert_eq!(to_string(&json!({"m": {"k": text}})), format!("m:\n  k: {want}\n"), "{text:?}");
        }
    }

    #[test]
    fn texts_are_what_yaml_reads_of_them() {
        for (text, want) in [
            ("a\u{85}b", "a b"),
            ("a \u{85} b", "a b"),
            ("a\u{85}\u{85}\u{85} b\u{85}", "\"a\\n\\nb \""),
            ("\u{85}", "' '"),
            ("a\u{85}\nb", "\"a \\nb\""),
            ("a  b", "a  b"),
            ("\u{feff}bé", "\"\\uFEFF\\x62\\xE9\""),
            ("a\u{2028}b", "'a\u{2028}  b'"),
        ] {
            assert_eq!(of_json(&json!(text)), Ok(format!("{want}\n")), "{text:?}");
        }
        for text in ["a\u{7f}", "\u{80}", "\u{ffff}"] {
            assert_eq!(of_json(&json!({"a": [text]})), Err(ControlCharacter), "{text:?}");
        }
    }

    #[test]
    fn structure_is_libyamls() {
        let value = json!({"a": [1, {"b": 2, "c": [3]}, [4, [5]]], "e": {}, "f": [], "g": null, "x10": 1, "x9": 1.5});
        let want = "a:\n- 1\n- b: 2\n  c:\n  - 3\n- - 4\n  - - 5\ne: {}\nf: []\ng: null\nx9: 1.5\nx10: 1\n";
        assert_eq!(to_string(&value), want);
        assert_eq!(to_string(&json!("a")), "a\n");
        assert_eq!(to_string(&json!({})), "{}\n");
    }

    #[test]
    fn long_lines_are_folded() {
        let text = "word ".repeat(30);
        let folded = to_string(&json!({"message": text.trim()}));
        assert_eq!(folded.lines().count(), 2);
        assert!(folded.lines().all(|l| l.len() <= 85), "{folded}");
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(text in "[ -~\n]{0,200}|[a-c0-9:.#'\" \n-]{0,12}") {
            let value = json!({"a": [{"k": text}], "b": text});
            let back = crate::schema::yaml::parse(to_string(&value).as_bytes());
            prop_assert_eq!(back.map(|p| p.value), Ok(value));
        }
    }
}
