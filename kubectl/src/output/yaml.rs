//! YAML as sigs.k8s.io/yaml writes it, to the byte: libyaml's emitter with lines folded near column 80, strings plain where
//! YAML 1.1 reads them back as strings, keys in natural order.

use std::cmp::Ordering;

use serde_json::Value;

/// Where lines are folded.
const WIDTH: usize = 80;
/// Longer keys are written as `? key`.
const SIMPLE_KEY: usize = 128;

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
        let mut spaces = false;
        self.put("'");
        for (at, c) in characters.iter().enumerate() {
            let inside = at > 0 && at + 1 < characters.len();
            if *c == ' ' && fold && !spaces && self.column > WIDTH && inside && characters.get(at + 1) != Some(&' ') {
                self.indent(indent);
            } else {
                self.put(if *c == '\'' { "'" } else { "" });
                self.put(c.encode_utf8(&mut [0; 4]));
            }
            spaces = *c == ' ';
        }
        self.put("'");
    }

    fn double(&mut self, text: &str, indent: usize, fold: bool) {
        let characters: Vec<char> = text.chars().collect();
        let mut spaces = false;
        self.put("\"");
        for (at, c) in characters.iter().enumerate() {
            let inside = at > 0 && at + 1 < characters.len();
            if !printable(*c) || is_break(*c) || matches!(c, '"' | '\\' | '\u{feff}') {
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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    Single,
    Double,
    Literal,
}

/// What libyaml's analysis of a scalar finds.
#[derive(Default)]
struct Facts {
    plain_allowed: bool,
    single_allowed: bool,
    literal_allowed: bool,
    multiline: bool,
}

fn is_break(c: char) -> bool {
    matches!(c, '\r' | '\n' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn printable(c: char) -> bool {
    matches!(c, '\n' | ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}') && c != '\u{feff}'
}

impl Facts {
    fn of(text: &str) -> Self {
        if text.is_empty() {
            return Self { plain_allowed: true, single_allowed: true, ..Self::default() };
        }
        let characters: Vec<char> = text.chars().collect();
        let mut indicators = text.starts_with("---") || text.starts_with("...");
        let (mut breaks, mut special) = (false, false);
        let (mut edge, mut trailing_space, mut break_space, mut space_break) = (false, false, false, false);
        let (mut previous_space, mut previous_break) = (false, false);
        let mut preceded = true;
        for (at, &c) in characters.iter().enumerate() {
            let last = at + 1 == characters.len();
            let followed = characters.get(at + 1).is_none_or(|n| matches!(n, ' ' | '\t') || is_break(*n));
            indicators |= match c {
                '#' | ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@' | '`'
                    if at == 0 =>
                {
                    true
                }
                '?' | '-' if at == 0 => followed,
                ':' => followed,
                '#' => preceded,
                _ => false,
            };
            special |= !printable(c);
            breaks |= is_break(c);
            if c == ' ' {
                edge |= at == 0 || last;
                trailing_space |= last;
                break_space |= previous_break;
                (previous_space, previous_break) = (true, false);
            } else if is_break(c) {
                edge |= at == 0 || last;
                space_break |= previous_space;
                (previous_space, previous_break) = (false, true);
            } else {
                (previous_space, previous_break) = (false, false);
            }
            preceded = matches!(c, ' ' | '\t') || is_break(c);
        }
        let hard = space_break || special;
        Self {
            plain_allowed: !edge && !break_space && !hard && !breaks && !indicators,
            single_allowed: !break_space && !hard,
            literal_allowed: !trailing_space && !hard,
            multiline: breaks,
        }
    }

    fn style(&self, text: &str, key: bool) -> Style {
        let wanted = if text.contains('\n') {
            Style::Literal
        } else if reads_as_string(text) {
            Style::Plain
        } else {
            Style::Double
        };
        let quoted = if self.single_allowed && !(self.multiline && key) { Style::Single } else { Style::Double };
        match wanted {
            Style::Plain if self.plain_allowed => Style::Plain,
            Style::Plain => quoted,
            Style::Literal if self.literal_allowed && !key => Style::Literal,
            _ => Style::Double,
        }
    }
}

fn escape(c: char) -> String {
    match c {
        '\0' => "\\0".to_owned(),
        '\u{7}' => "\\a".to_owned(),
        '\u{8}' => "\\b".to_owned(),
        '\t' => "\\t".to_owned(),
        '\n' => "\\n".to_owned(),
        '\u{b}' => "\\v".to_owned(),
        '\u{c}' => "\\f".to_owned(),
        '\r' => "\\r".to_owned(),
        '\u{1b}' => "\\e".to_owned(),
        '"' => "\\\"".to_owned(),
        '\\' => "\\\\".to_owned(),
        '\u{85}' => "\\N".to_owned(),
        '\u{2028}' => "\\L".to_owned(),
        '\u{2029}' => "\\P".to_owned(),
        c if u32::from(c) <= 0xff => format!("\\x{:02X}", u32::from(c)),
        c if u32::from(c) <= 0xffff => format!("\\u{:04X}", u32::from(c)),
        c => format!("\\U{:08X}", u32::from(c)),
    }
}

/// Go's `%g` with the shortest digits.
fn float_text(float: f64) -> String {
    let text = format!("{float:e}");
    let Some((digits, exponent)) = text.split_once('e') else { return text };
    let power: i32 = exponent.parse().unwrap_or_default();
    if (-4..6).contains(&power) {
        return format!("{float}");
    }
    let sign = if power < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", power.abs())
}

/// Whether YAML 1.1 reads a plain scalar back as a string.
fn reads_as_string(text: &str) -> bool {
    const WORDS: &[&str] = &[
        "", "~", "null", "Null", "NULL", "y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON", "n", "N",
        "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF", ".nan", ".NaN", ".NAN", ".inf", ".Inf", ".INF",
        "+.inf", "+.Inf", "+.INF", "-.inf", "-.Inf", "-.INF",
    ];
    if WORDS.contains(&text) {
        return false;
    }
    match text.as_bytes()[0] {
        b'.' => !go_float(text),
        b'0'..=b'9' | b'+' | b'-' => {
            let bare = text.replace('_', "");
            !(timestamp(text) || integer(&bare) || yaml_float(&bare) || binary(&bare) || base60(text))
        }
        _ => true,
    }
}

fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

/// Go's `ParseInt(text, 0, 64)` or `ParseUint`.
fn integer(text: &str) -> bool {
    let signed = text.starts_with(['+', '-']);
    let bare = if signed { &text[1..] } else { text };
    let lower = bare.to_ascii_lowercase();
    let (radix, rest) = match lower.as_str() {
        t if t.starts_with("0x") => (16, &t[2..]),
        t if t.starts_with("0b") => (2, &t[2..]),
        t if t.starts_with("0o") => (8, &t[2..]),
        t if t.len() > 1 && t.starts_with('0') => (8, &t[1..]),
        t => (10, t),
    };
    if rest.is_empty() || !rest.chars().all(|c| c.is_digit(radix)) {
        return false;
    }
    match u64::from_str_radix(rest, radix) {
        Ok(value) if text.starts_with('-') => value <= 1 << 63,
        Ok(value) if signed => value < 1 << 63,
        Ok(_) => true,
        Err(_) => false,
    }
}

fn binary(text: &str) -> bool {
    let rest = text.strip_prefix('-').unwrap_or(text);
    rest.strip_prefix("0b").is_some_and(|b| !b.is_empty() && b.len() <= 64 && b.bytes().all(|c| matches!(c, b'0' | b'1')))
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn yaml_float(text: &str) -> bool {
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    let whole = digits(rest);
    rest = &rest[whole..];
    if let Some(fraction) = rest.strip_prefix('.') {
        let count = digits(fraction);
        if whole == 0 && count == 0 {
            return false;
        }
        rest = &fraction[count..];
    } else if whole == 0 {
        return false;
    }
    match rest.strip_prefix(['e', 'E']) {
        None => rest.is_empty(),
        Some(exponent) => {
            let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            !exponent.is_empty() && digits(exponent) == exponent.len()
        }
    }
}

fn go_float(text: &str) -> bool {
    yaml_float(text)
}

/// `[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?`
fn base60(text: &str) -> bool {
    let rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !rest.starts_with(|c: char| c.is_ascii_digit()) {
        return false;
    }
    let (rest, fraction) = rest.split_once('.').unwrap_or((rest, ""));
    let mut parts = rest.split(':');
    let whole = parts.next().unwrap_or_default();
    let mut count = 0;
    let sixties = parts.all(|p| {
        count += 1;
        let bytes = p.as_bytes();
        match bytes {
            [d] => d.is_ascii_digit(),
            [t, d] => (b'0'..=b'5').contains(t) && d.is_ascii_digit(),
            _ => false,
        }
    });
    let number = |t: &str| t.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    sixties && count > 0 && number(whole) && number(fraction)
}

/// One or two digits within bounds, and what follows them.
fn number(text: &str, low: u32, high: u32) -> Option<(u32, &str)> {
    let count = digits(text);
    if !(1..=2).contains(&count) {
        return None;
    }
    let value: u32 = text[..count].parse().ok()?;
    (low..=high).contains(&value).then(|| (value, &text[count..]))
}

/// `2006-1-2`, `2006-1-2T15:4:5.999999999Z07:00`, the same with `t` or a space, the latter also without a zone.
fn timestamp(text: &str) -> bool {
    if digits(text) != 4 || text.as_bytes().get(4) != Some(&b'-') {
        return false;
    }
    let parse = || {
        let year: u32 = text[..4].parse().ok()?;
        let (month, rest) = number(&text[5..], 1, 12)?;
        let (day, rest) = number(rest.strip_prefix('-')?, 1, 31)?;
        let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let longest = match month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        if day > longest {
            return None;
        }
        if rest.is_empty() {
            return Some(true);
        }
        let spaced = rest.starts_with(' ');
        let (_, rest) = number(rest.strip_prefix(['T', 't', ' '])?, 0, 23)?;
        let (_, rest) = number(rest.strip_prefix(':')?, 0, 59)?;
        let (_, rest) = number(rest.strip_prefix(':')?, 0, 59)?;
        let rest = match rest.strip_prefix(['.', ',']) {
            Some(fraction) if digits(fraction) > 0 => &fraction[digits(fraction)..],
            Some(_) => return None,
            None => rest,
        };
        if spaced {
            return Some(rest.is_empty());
        }
        if rest == "Z" {
            return Some(true);
        }
        let zone = rest.strip_prefix(['+', '-'])?;
        let bytes = zone.as_bytes();
        let numeric = |range: std::ops::Range<usize>| bytes.get(range).is_some_and(|b| b.iter().all(u8::is_ascii_digit));
        Some(bytes.len() == 5 && bytes[2] == b':' && numeric(0..2) && numeric(3..5))
    };
    parse().unwrap_or(false)
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
            let back = api::schema::yaml::parse(to_string(&value).as_bytes());
            prop_assert_eq!(back.map(|p| p.value), Ok(value));
        }
    }
}
