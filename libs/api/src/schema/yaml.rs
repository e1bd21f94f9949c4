//! YAML to values, as `sigs.k8s.io/yaml` reads it: YAML 1.1 booleans and octal numbers, duplicate keys pardoned (and told),
//! alias bombs and deep nesting refused.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::{DuplicateKeyPolicy, Error, Options};

use super::yaml_words::message;

/// A parsed document and what strict validation complains of.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// The value; of duplicate keys the last one counts.
    pub value: Value,
    /// `yaml: unmarshal errors:`, and below that `  line 3: key "a" already set in map`
    pub duplicates: Vec<String>,
}

/// Nesting beyond this is refused; upstream allows 10,000, but our parser calls itself for every level.
pub const MAX_DEPTH: usize = 250;

/// The parser's stack. Only what is used of it takes memory.
const STACK: usize = 32 << 20;

/// Options under which only `true` and `false` are booleans, as in YAML 1.2.
fn options_1_2() -> Options {
    let mut options = options(DuplicateKeyPolicy::Error);
    options.strict_booleans = true;
    options
}

fn options(duplicate_keys: DuplicateKeyPolicy) -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: 100_000,
            max_nodes: 500_000,
            max_events: 2_000_000,
            max_depth: MAX_DEPTH,
        },
        duplicate_keys: duplicate_keys,
        legacy_octal_numbers: true,
        with_snippet: false,
    }
}

/// Parses one document.
pub fn parse(bytes: &[u8]) -> Result<Parsed, String> {
    with_room(|| parse_here(bytes))
}

/// Runs the parser on a stack that is large enough for the deepest document there may be: it calls itself for every level,
/// with frames that would fill a worker thread's stack long before that.
fn with_room<T: Send>(parse: impl FnOnce() -> Result<T, String> + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("yaml".to_owned()).stack_size(STACK).spawn_scoped(scope, parse);
        let thread = thread.map_err(|e| format!("yaml: no thread to parse in: {e}"))?;
        thread.join().unwrap_or_else(|_| Err("yaml: the parser failed".to_owned()))
    })
}

/// A body is the first document of its text; nobody looks at what follows.
fn first_document(text: &str) -> &str {
    let mut begun = false;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let word = line.trim_end().split([' ', '\t']).next().unwrap_or_default();
        if begun && matches!(word, "---" | "...") {
            return &text[..at];
        }
        begun |= !word.starts_with(['%', '#']) && !line.trim().is_empty();
        at += line.len();
    }
    text
}

/// Directives stand before the document; there are two.
fn unknown_directive(text: &str) -> Result<(), String> {
    let before = text.lines().zip(1..).take_while(|(line, _)| line.starts_with(['%', '#']) || line.trim().is_empty());
    let known = |line: &str| matches!(line.split([' ', '\t']).next(), Some("%YAML" | "%TAG"));
    match before.filter(|(line, _)| line.starts_with('%')).find(|(line, _)| !known(line)) {
        None => Ok(()),
        Some((_, 1)) => Err("yaml: found unknown directive name".to_owned()),
        Some((_, at)) => Err(format!("yaml: line {at}: found unknown directive name")),
    }
}

/// A number without a fraction is a whole one, however it was written: on their way to upstream's decoder documents are JSON.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            let float = number.as_f64().unwrap_or_default();
            if float.fract() == 0.0 && float.abs() < 9e15 {
                *value = (float as i64).into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(map) => map.values_mut().for_each(whole_numbers),
        _ => {}
    }
}

/// A value whose maps' keys are read as values first, as upstream's are: `y` is `true`, `010` is `8`, `"y"` stays.
struct Node(Value);

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor).map(Self)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(Node(item)) = items.next_element()? {
            all.push(item);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = serde_json::Map::new();
        while let Some((Node(name), Node(value))) = entries.next_entry()? {
            map.insert(key(name, &value).map_err(A::Error::custom)?, value);
        }
        Ok(Value::Object(map))
    }
}

/// A map's key, which is JSON's and therefore a string.
fn key(key: Value, value: &Value) -> Result<String, String> {
    match key {
        Value::String(key) => Ok(key),
        Value::Bool(key) => Ok(key.to_string()),
        Value::Number(number) => Ok(match number.as_f64().filter(|_| number.is_f64()) {
            Some(float) => (float as f32).to_string(),
            None => number.to_string(),
        }),
        Value::Null => {
            Err(format!("{KEY_UNSUPPORTED} of type: %!s(<nil>), key: <nil>, value: {}", go_syntax(value, "<nil>")))
        }
        other => Err(format!("{KEY_INVALID}: {}", go_syntax(&other, NIL))),
    }
}

/// How the message of a key that is null begins, and of one that is a list or a map.
pub(super) const KEY_UNSUPPORTED: &str = "unsupported map key";
pub(super) const KEY_INVALID: &str = "invalid map key";

/// What Go writes for nothing inside of something.
const NIL: &str = "interface {}(nil)";

/// A value as Go's `%#v` writes what its YAML parser makes of it.
fn go_syntax(value: &Value, nil: &str) -> String {
    match value {
        Value::Null => nil.to_owned(),
        Value::String(text) => crate::field::go_quote(text),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| go_syntax(item, NIL)).collect();
            format!("[]interface {{}}{{{}}}", items.join(", "))
        }
        Value::Object(map) => {
            let entries =
                map.iter().map(|(key, value)| format!("{}:{}", crate::field::go_quote(key), go_syntax(value, NIL)));
            format!("map[interface {{}}]interface {{}}{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

fn parse_here(bytes: &[u8]) -> Result<Parsed, String> {
    let mut parsed = parse_exactly(bytes)?;
    whole_numbers(&mut parsed.value);
    Ok(parsed)
}

fn parse_exactly(bytes: &[u8]) -> Result<Parsed, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "yaml: invalid leading UTF-8 octet".to_owned())?;
    unknown_directive(text)?;
    begins(text)?;
    let text = first_document(text);
    match serde_saphyr::from_str_with_options(text, options(DuplicateKeyPolicy::Error)) {
        Ok(Node(value)) => Ok(Parsed { value, duplicates: Vec::new() }),
        Err(error) => {
            let Error::DuplicateMappingKey { key, location } = error.without_snippet() else {
                return Err(message(text, &error));
            };
            let value = serde_saphyr::from_str_with_options(text, options(DuplicateKeyPolicy::LastWins));
            let Node(value) = value.map_err(|e| message(text, &e))?;
            let told: String = duplicates(text, key.as_deref().unwrap_or_default(), location).concat();
            Ok(Parsed { value, duplicates: vec![format!("yaml: unmarshal errors:{told}")] })
        }
    }
}

/// How much is read, all times together, to find every key that is there twice: the parser ends at the first one.
const READ_AGAIN: usize = 1 << 20;

/// A name that no other key has, as no text has this character.
const UNIQUE: char = '\u{e000}';

/// What is said of each key that is set already, the first one being known: its second place is taken for another key's.
fn duplicates(text: &str, key: &str, location: &serde_saphyr::Location) -> Vec<String> {
    let (mut text, mut key, mut location) = (text.to_owned(), key.to_owned(), *location);
    let mut told = Vec::new();
    loop {
        let line = location.line();
        told.push(format!("\n  line {line}: key {} already set in map", crate::field::go_quote(&key)));
        if told.len() * text.len() > READ_AGAIN || text.matches(UNIQUE).count() + 1 != told.len() {
            return told;
        }
        let lines: usize = text.split_inclusive('\n').take(line.saturating_sub(1) as usize).map(str::len).sum();
        let columns: usize =
            text[lines..].chars().take(location.column().saturating_sub(1) as usize).map(char::len_utf8).sum();
        let start = lines + columns;
        let start = start + usize::from(text[start..].starts_with(['"', '\'']));
        if !text[start..].starts_with(&key) {
            return told;
        }
        text.replace_range(start..start + key.len(), &format!("{UNIQUE}{}", told.len()));
        let again = serde_saphyr::from_str_with_options::<Node>(&text, options(DuplicateKeyPolicy::Error));
        match again.as_ref().map_err(Error::without_snippet) {
            Err(Error::DuplicateMappingKey { key: next, location: there }) => {
                (key, location) = (next.clone().unwrap_or_default(), *there);
            }
            _ => return told,
        }
    }
}

/// What stands before a document: no tab, and no end of one.
fn begins(text: &str) -> Result<(), String> {
    for (line, at) in text.lines().zip(1..) {
        let said = match line.trim_start_matches(' ') {
            "" => continue,
            rest if rest.starts_with('#') => continue,
            rest if rest.starts_with('\t') => "found character that cannot start any token",
            _ if line.trim_end() == "..." => "did not find expected node content",
            _ => return Ok(()),
        };
        return Err(if at == 1 { format!("yaml: {said}") } else { format!("yaml: line {at}: {said}") });
    }
    Ok(())
}

/// Parses every document of a stream (`---` between them); empty documents are left out. JSON is YAML too.
pub fn documents(text: &str) -> Result<Vec<Value>, String> {
    documents_with(text, || options(DuplicateKeyPolicy::LastWins))
}

/// The same as YAML 1.2 has it, which is what kustomize reads: `yes` and `on` are strings, and no key may come twice.
pub fn documents_1_2(text: &str) -> Result<Vec<Value>, String> {
    documents_with(text, options_1_2)
}

fn documents_with(text: &str, options: impl Fn() -> Options + Send + Sync) -> Result<Vec<Value>, String> {
    let read = || serde_saphyr::from_multiple_with_options::<Node>(text, options());
    let values = with_room(|| {
        let mut values: Vec<Value> = read().map_err(|e| message(text, &e))?.into_iter().map(|Node(value)| value).collect();
        values.iter_mut().for_each(whole_numbers);
        Ok(values)
    })?;
    Ok(values.into_iter().filter(|v| !v.is_null()).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn scalars_are_upstreams() {
        for (text, want) in [
            ("a: yes", json!({"a": true})),
            ("a: on", json!({"a": true})),
            ("a: \"yes\"", json!({"a": "yes"})),
            ("a: 0644", json!({"a": 420})),
            ("a: 0o17", json!({"a": 15})),
            ("a: 1e3", json!({"a": 1000})),
            ("a: 1.0", json!({"a": 1})),
            ("# c\n---\na: 1\n---\na: }\n", json!({"a": 1})),
            ("a: 1\n...\n}", json!({"a": 1})),
            ("---\n---\na: 1", json!(null)),
            ("a: 1.5", json!({"a": 1.5})),
            ("a: ~", json!({"a": null})),
            ("a:", json!({"a": null})),
            ("a: 2024-01-01", json!({"a": "2024-01-01"})),
            ("a: 1Gi", json!({"a": "1Gi"})),
            ("a: 500m", json!({"a": "500m"})),
            ("a: 10:20", json!({"a": "10:20"})),
            ("1: a", json!({"1": "a"})),
            ("y: a\n\"y\": b\noff: c", json!({"true": "a", "y": "b", "false": "c"})),
            ("010: a\n0x10: b\n1.5: c\n2.0: d", json!({"8": "a", "16": "b", "1.5": "c", "2": "d"})),
            ("{\"a\": {\"on\": 1, \"1\": 2}}", json!({"a": {"on": 1, "1": 2}})),
            ("a: &x {b: 1}\nc: *x", json!({"a": {"b": 1}, "c": {"b": 1}})),
            ("a: |\n  x\n  y\n", json!({"a": "x\ny\n"})),
            ("{\"a\": [1, \"b\"]}", json!({"a": [1, "b"]})),
        ] {
            assert_eq!(parse(text.as_bytes()).map(|p| p.value), Ok(want), "{text}");
        }
    }

    #[test]
    fn duplicates_are_told() {
        let parsed = parse(b"a: 1\nb: 2\na: 3\n").unwrap();
        assert_eq!(parsed.value, json!({"a": 3, "b": 2}));
        assert_eq!(parsed.duplicates, ["yaml: unmarshal errors:\n  line 3: key \"a\" already set in map"]);
        let parsed = parse("é: {b: 1, \"b\": 2}\nc: 1\n'c': 2\nc: {d: 1, d: 2}\n".as_bytes()).unwrap();
        assert_eq!(parsed.value, json!({"é": {"b": 2}, "c": {"d": 2}}));
        let lines = [(1, "b"), (3, "c"), (4, "c"), (4, "d")];
        let told: String = lines.map(|(line, key)| format!("\n  line {line}: key \"{key}\" already set in map")).concat();
        assert_eq!(parsed.duplicates, [format!("yaml: unmarshal errors:{told}")]);
    }

    #[test]
    fn bombs_are_refused() {
        let mut bomb = String::from("a: &a [x,x,x,x,x,x,x,x,x]\n");
        for (name, inner) in ('b'..='i').zip('a'..='h') {
            bomb.push_str(&format!("{name}: &{name} [{}]\n", vec![format!("*{inner}"); 9].join(",")));
        }
        let said = |text: &str| parse(text.as_bytes()).unwrap_err();
        assert_eq!(said(&bomb), "yaml: document contains excessive aliasing");
        assert_eq!(said(&"[".repeat(10_000)), "yaml: exceeded max depth of 250");
        assert_eq!(said(&"- ".repeat(10_000)), "yaml: exceeded max depth of 250");
    }

    #[test]
    fn depth_is_bounded_on_a_small_stack() {
        let forms: [fn(usize) -> String; 4] = [
            |depth| format!("{}1{}", "[".repeat(depth), "]".repeat(depth)),
            |depth| format!("{}1{}", "{a: ".repeat(depth), "}".repeat(depth)),
            |depth| format!("{}1", "- ".repeat(depth)),
            |depth| (0..depth).map(|at| format!("{}a:\n", " ".repeat(at))).collect(),
        ];
        let small = std::thread::Builder::new().stack_size(256 << 10);
        let run = small.spawn(move || {
            forms.map(|form| [MAX_DEPTH - 1, MAX_DEPTH + 1, 3_000].map(|depth| parse(form(depth).as_bytes()).is_ok()))
        });
        assert_eq!(run.unwrap().join().unwrap(), [[true, false, false]; 4]);
    }

    #[test]
    fn streams() {
        assert_eq!(documents("---\na: 1\n---\n# nothing\n---\nb: 2\n").unwrap(), [json!({"a": 1}), json!({"b": 2})]);
        assert_eq!(documents("{\"a\": 1}").unwrap(), [json!({"a": 1})]);
    }

    proptest! {
        #![proptest_config(crate::testing::cases(500))]

        #[test]
        fn never_panics(text in "\\PC{0,40}|[a-c0-9:&*!|>{}\\[\\],'\"#\n -]{0,40}") {
            let _ = parse(text.as_bytes());
            let _ = documents(&text);
        }
    }
}
