//! YAML to values, as `sigs.k8s.io/yaml` reads it: YAML 1.1 by go-yaml's rules, then what JSON can say of that. Duplicate keys
//! are pardoned (and told), alias bombs and deep nesting refused. What is wrong is told in go-yaml's words.
//!
//! A text becomes tokens (`scan`), these become nodes (`nodes`), scalars get their meaning (`scalar`), and here nodes become
//! values. No crate does this to the word: which line is named and what is said first follow from when libyaml looks at what.

mod nodes;
mod scalar;
mod scan;
mod text;

use std::collections::{BTreeMap, HashSet};

use serde_json::{Map, Number, Value};

use self::{
    nodes::{Composer, Content, Node, OWN_TAGS},
    scalar::{Scalar, Words, resolve},
    scan::{MAX_DEPTH, Scanner, told, too_deep},
};
use super::json::KEPT_DEPTH;
use crate::{field::go_quote, yaml::float_text};

/// A parsed document and what strict validation complains of.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// The value; of duplicate keys the last one counts.
    pub value: Value,
    /// `yaml: unmarshal errors:`, and below that `  line 3: key "a" already set in map`
    pub duplicates: Vec<String>,
}

/// The reader's stack, which calls itself for every level. Only what is used of it takes memory.
const STACK: usize = 128 << 20;

/// Parses one document; nobody looks at what follows. What JSON would not be kept of either, as it nests too deep, is refused.
///
/// # Errors
/// What is wrong, in upstream's words.
pub fn parse(bytes: &[u8]) -> Result<Parsed, String> {
    match with_room(|| first(bytes))? {
        (_, true) => Err("exceeded max depth".to_owned()),
        (parsed, false) => Ok(parsed),
    }
}

/// Parses one document for a type that will be compared with it, as [`super::json::parse_to_check`] does JSON: of what nests too
/// deep only the outermost brackets are left.
///
/// # Errors
/// What is wrong, in upstream's words.
pub fn parse_to_check(bytes: &[u8]) -> Result<Parsed, String> {
    with_room(|| first(bytes)).map(|(parsed, _)| parsed)
}

/// Parses every document of a stream (`---` between them); empty documents are left out. JSON is YAML too.
///
/// # Errors
/// What is wrong with the first that is none.
pub fn documents(text: &str) -> Result<Vec<Value>, String> {
    with_room(|| all(text, Words::Yaml11))
}

/// The same as YAML 1.2 has it, which is what kustomize reads: `yes` and `on` are strings, and no key may come twice.
///
/// # Errors
/// What is wrong with the first that is none.
pub fn documents_1_2(text: &str) -> Result<Vec<Value>, String> {
    with_room(|| all(text, Words::Yaml12))
}

/// Runs a reader on a stack that is large enough for the deepest document there may be.
fn with_room<T: Send>(read: impl FnOnce() -> Result<T, String> + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("yaml".to_owned()).stack_size(STACK).spawn_scoped(scope, read);
        let thread = thread.map_err(|e| format!("yaml: no thread to parse in: {e}"))?;
        thread.join().unwrap_or_else(|_| Err("yaml: the parser failed".to_owned()))
    })
}

/// The first document, and whether something in it was too deep to be kept.
fn first(bytes: &[u8]) -> Result<(Parsed, bool), String> {
    let (text, cut) = text::readable(bytes);
    let mut composer = Composer::new(Scanner::new(&text, cut));
    let Some(root) = composer.document()? else { return Ok((Parsed { value: Value::Null, duplicates: Vec::new() }, false)) };
    let mut reader = Reader::new(&composer.nodes, Words::Yaml11);
    let meant = reader.node(root)?;
    let mut written = Written::default();
    let value = written.value(meant, 0)?;
    if let Some(why) = written.wrong {
        return Err(why);
    }
    let duplicates = match reader.duplicates.as_slice() {
        [] => Vec::new(),
        lines => vec![format!("yaml: unmarshal errors:\n  {}", lines.join("\n  "))],
    };
    Ok((Parsed { value, duplicates }, written.cut))
}

fn all(text: &str, words: Words) -> Result<Vec<Value>, String> {
    let (text, cut) = text::readable(text.as_bytes());
    let mut composer = Composer::new(Scanner::new(&text, cut));
    let mut values = Vec::new();
    while let Some(root) = composer.document()? {
        let mut reader = Reader::new(&composer.nodes, words);
        let meant = reader.node(root)?;
        if let (Words::Yaml12, Some(first)) = (words, reader.duplicates.first()) {
            return Err(format!("yaml: unmarshal errors:\n  {first}"));
        }
        let mut written = Written::default();
        let value = written.value(meant, 0)?;
        match written {
            Written { wrong: Some(why), .. } => return Err(why),
            Written { cut: true, .. } => return Err("exceeded max depth".to_owned()),
            _ if value.is_null() => {}
            _ => values.push(value),
        }
    }
    Ok(values)
}

/// What Go's parser makes of a node.
#[derive(Debug)]
enum Meant {
    Scalar(Scalar),
    List(Vec<Meant>),
    Map(Entries),
}

/// The entries of a map, each with the line of its key.
type Entries = BTreeMap<Scalar, (usize, Meant)>;

/// Makes values of nodes.
struct Reader<'a> {
    nodes: &'a [Node],
    words: Words,
    duplicates: Vec<String>,
    /// The aliases whose values are being read.
    open: HashSet<usize>,
    depth: usize,
    steps: usize,
    alias_steps: usize,
}

impl<'a> Reader<'a> {
    fn new(nodes: &'a [Node], words: Words) -> Self {
        Self { nodes, words, duplicates: Vec::new(), open: HashSet::new(), depth: 0, steps: 0, alias_steps: 0 }
    }

    /// One more step. Go's parser refuses documents of which too much is aliases: 99 in a hundred steps while it is small, less of
    /// large ones.
    fn step(&mut self) -> Result<(), String> {
        const SMALL: f64 = 400_000.0;
        const LARGE: f64 = 4_000_000.0;
        self.steps += 1;
        self.alias_steps += usize::from(!self.open.is_empty());
        let (steps, aliases) = (self.steps as f64, self.alias_steps as f64);
        let allowed = 0.99 - 0.89 * ((steps - SMALL) / (LARGE - SMALL)).clamp(0.0, 1.0);
        if self.alias_steps > 100 && self.steps > 1000 && aliases / steps > allowed {
            return Err(told(0, "document contains excessive aliasing"));
        }
        Ok(())
    }

    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, String>) -> Result<T, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(told(0, &too_deep()));
        }
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn node(&mut self, at: usize) -> Result<Meant, String> {
        self.step()?;
        let nodes = self.nodes;
        match &nodes[at].content {
            Content::Scalar { text, tag, plain } => resolve(text, tag, *plain, self.words).map(Meant::Scalar),
            Content::Alias { name, of } => self.alias(at, name, |reader| reader.node(*of)),
            Content::Sequence(items) => {
                self.deeper(|reader| items.iter().map(|item| reader.node(*item)).collect()).map(Meant::List)
            }
            Content::Mapping(entries) => {
                let mut map = Entries::new();
                self.deeper(|reader| reader.entries(entries, &mut map))?;
                Ok(Meant::Map(map))
            }
        }
    }

    fn alias<T>(&mut self, at: usize, name: &str, read: impl FnOnce(&mut Self) -> Result<T, String>) -> Result<T, String> {
        if !self.open.insert(at) {
            return Err(told(0, &format!("anchor '{name}' value contains itself")));
        }
        let value = self.deeper(read)?;
        self.open.remove(&at);
        Ok(value)
    }

    fn entries(&mut self, entries: &[usize], map: &mut Entries) -> Result<(), String> {
        for entry in entries.chunks_exact(2) {
            let (key, value) = (entry[0], entry[1]);
            if self.is_merge(key) {
                self.merge(value, map)?;
                continue;
            }
            let name = match self.node(key)? {
                Meant::Scalar(name) => name,
                other => return Err(told(0, &format!("invalid map key: {}", go_syntax(&other, NIL)))),
            };
            let read = self.node(value)?;
            let line = self.nodes[key].line + 1;
            if let Some((first, _)) = map.get(&name) {
                self.twice(&name, *first, line, value);
            }
            map.insert(name, (line, read));
        }
        Ok(())
    }

    /// Tells of a key that is there already.
    fn twice(&mut self, name: &Scalar, first: usize, line: usize, value: usize) {
        let shown = go_scalar(name, "<nil>");
        self.duplicates.push(match self.words {
            Words::Yaml11 => format!("line {}: key {shown} already set in map", self.nodes[value].line + 1),
            Words::Yaml12 => format!("line {line}: mapping key {shown} already defined at line {first}"),
        });
    }

    fn is_merge(&self, key: usize) -> bool {
        let Content::Scalar { text, tag, plain } = &self.nodes[key].content else { return false };
        text == "<<" && (*plain || tag.strip_prefix(OWN_TAGS) == Some("merge"))
    }

    /// `<<: *other`: the entries of other maps.
    fn merge(&mut self, at: usize, map: &mut Entries) -> Result<(), String> {
        let nodes = self.nodes;
        match &nodes[at].content {
            Content::Sequence(items) => items.iter().rev().try_for_each(|item| self.merge_one(*item, map)),
            _ => self.merge_one(at, map),
        }
    }

    fn merge_one(&mut self, at: usize, map: &mut Entries) -> Result<(), String> {
        const NO_MAP: &str = "map merge requires map or sequence of maps as the value";
        let nodes = self.nodes;
        match &nodes[at].content {
            Content::Mapping(entries) => {
                self.step()?;
                self.deeper(|reader| reader.entries(entries, map))
            }
            Content::Alias { name, of } => {
                let Content::Mapping(entries) = &nodes[*of].content else { return Err(told(0, NO_MAP)) };
                self.step()?;
                self.alias(at, name, |reader| {
                    reader.step()?;
                    reader.entries(entries, map)
                })
            }
            _ => Err(told(0, NO_MAP)),
        }
    }
}

/// What Go writes for nothing inside of something.
const NIL: &str = "interface {}(nil)";

/// A value as Go's `%#v` writes it.
fn go_syntax(value: &Meant, nil: &str) -> String {
    match value {
        Meant::Scalar(scalar) => go_scalar(scalar, nil),
        Meant::List(items) => {
            let items: Vec<String> = items.iter().map(|item| go_syntax(item, NIL)).collect();
            format!("[]interface {{}}{{{}}}", items.join(", "))
        }
        Meant::Map(map) => {
            let entries = map.iter().map(|(key, (_, value))| format!("{}:{}", go_scalar(key, NIL), go_syntax(value, NIL)));
            format!("map[interface {{}}]interface {{}}{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
    }
}

fn go_scalar(value: &Scalar, nil: &str) -> String {
    match value {
        Scalar::Null => nil.to_owned(),
        Scalar::Bool(value) => value.to_string(),
        Scalar::Int(value) => value.to_string(),
        Scalar::Large(value) => format!("0x{value:x}"),
        Scalar::Float(value) => go_float(*value, float_text(*value)),
        Scalar::Text(text) => go_quote(text),
    }
}

fn go_float(value: f64, finite: String) -> String {
    match value {
        value if value.is_nan() => "NaN".to_owned(),
        value if value.is_infinite() => if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned(),
        _ => finite,
    }
}

/// JSON made of what Go's parser has made.
#[derive(Default)]
struct Written {
    /// Something was too deep to be kept.
    cut: bool,
    /// The first value for which JSON has no form.
    wrong: Option<String>,
}

impl Written {
    fn value(&mut self, meant: Meant, depth: usize) -> Result<Value, String> {
        Ok(match meant {
            Meant::Scalar(scalar) => self.scalar(scalar),
            Meant::List(items) => {
                let items = items.into_iter().map(|item| self.value(item, depth + 1)).collect::<Result<_, _>>()?;
                Value::Array(if self.keeps(depth) { items } else { Vec::new() })
            }
            Meant::Map(entries) => {
                let mut map = Map::new();
                for (key, (_, value)) in entries {
                    map.insert(key_text(key, &value)?, self.value(value, depth + 1)?);
                }
                Value::Object(if self.keeps(depth) { map } else { Map::new() })
            }
        })
    }

    fn keeps(&mut self, depth: usize) -> bool {
        self.cut |= depth >= KEPT_DEPTH;
        depth < KEPT_DEPTH
    }

    fn scalar(&mut self, scalar: Scalar) -> Value {
        match scalar {
            Scalar::Null => Value::Null,
            Scalar::Bool(value) => value.into(),
            Scalar::Int(value) => value.into(),
            Scalar::Large(value) => value.into(),
            Scalar::Text(text) => text.into(),
            Scalar::Float(float) if !float.is_finite() => {
                let shown = go_float(float, String::new());
                self.wrong.get_or_insert_with(|| format!("json: unsupported value: {shown}"));
                Value::Null
            }
            Scalar::Float(float) => number(float),
        }
    }
}

/// A float as it is once JSON has said it: a whole one is written without a fraction, and read back as an integer where it is one.
fn number(float: f64) -> Value {
    const WRITTEN_WHOLE: f64 = 1e21;
    if float.fract() == 0.0 && float.abs() < WRITTEN_WHOLE {
        let digits = format!("{float:.0}");
        if let Ok(whole) = digits.parse::<i64>() {
            return whole.into();
        }
        if let Ok(whole) = digits.parse::<u64>() {
            return whole.into();
        }
    }
    Number::from_f64(float).map_or(Value::Null, Value::Number)
}

/// A map's key, which is JSON's and therefore a string.
fn key_text(key: Scalar, value: &Meant) -> Result<String, String> {
    let unsupported = |ty: &str, key: String| {
        Err(format!("unsupported map key of type: {ty}, key: {key}, value: {}", go_syntax(value, "<nil>")))
    };
    Ok(match key {
        Scalar::Text(text) => text,
        Scalar::Bool(key) => key.to_string(),
        Scalar::Int(key) => key.to_string(),
        Scalar::Float(key) if key.is_nan() => ".nan".to_owned(),
        Scalar::Float(key) if key as f32 == f32::INFINITY => ".inf".to_owned(),
        Scalar::Float(key) if key as f32 == f32::NEG_INFINITY => "-.inf".to_owned(),
        Scalar::Float(key) => float_text(key as f32),
        Scalar::Null => return unsupported("%!s(<nil>)", "<nil>".to_owned()),
        Scalar::Large(_) => return unsupported("uint64", go_scalar(&key, "")),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn nobody_looks_at_what_follows_on_a_document() {
        for (text, want) in [
            ("# c\n{a: 1}\n{b: 2}\n", json!({"a": 1})),
            ("[é] x\n", json!(["é"])),
            ("a: 1\n---\nb: [", json!({"a": 1})),
            (" a: 1\nb: 2\n", json!({"a": 1})),
        ] {
            assert_eq!(parse(text.as_bytes()).map(|parsed| parsed.value), Ok(want), "{text}");
        }
    }

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
        let lines = [(1, "b"), (3, "c"), (4, "d"), (4, "c")];
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
        assert_eq!(said(&"[".repeat(10_001)), "yaml: exceeded max depth of 10000");
        assert_eq!(said(&"- ".repeat(10_001)), "yaml: exceeded max depth of 10000");
        // Aliases nest, too.
        let mut chain = format!("- &a0 {}{}\n", "[".repeat(900), "]".repeat(900));
        for at in 1..12 {
            chain.push_str(&format!("- &a{at} {}*a{} {}\n", "[".repeat(900), at - 1, "]".repeat(900)));
        }
        assert_eq!(said(&chain), "yaml: exceeded max depth of 10000");
        assert_eq!(said("a: &a [*a]"), "yaml: anchor 'a' value contains itself");
        let many = format!("[{}]", "a,".repeat(500_000));
        assert_eq!(said(&many), "yaml: a document may have 500000 nodes");
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
            forms.map(|form| {
                [KEPT_DEPTH - 1, KEPT_DEPTH + 1, 3_000, MAX_DEPTH - 1].map(|depth| {
                    let text = form(depth);
                    (parse(text.as_bytes()).is_ok(), parse_to_check(text.as_bytes()).is_ok())
                })
            })
        });
        let read = run.unwrap().join().unwrap();
        assert_eq!(read, [[(true, true), (false, true), (false, true), (false, true)]; 4]);
    }

    #[test]
    fn mistakes_are_told_as_upstream_does() {
        for (text, want) in [
            ("a: b: c\n", "yaml: mapping values are not allowed in this context"),
            ("a: b\nc: d: e\n", "yaml: line 2: mapping values are not allowed in this context"),
            ("a: \"unclosed\n", "yaml: line 2: found unexpected end of stream"),
            ("a: \"unclosed", "yaml: found unexpected end of stream"),
            ("b: 1\na: [c", "yaml: line 2: did not find expected ',' or ']'"),
            ("a: -.inf", "json: unsupported value: -Inf"),
            ("a: .NaN", "json: unsupported value: NaN"),
            ("%FOO\n---\na: 1\n", "yaml: found unknown directive name"),
            ("# c\n%FOO\n---\na: 1\n", "yaml: line 2: found unknown directive name"),
            ("a:\n\tb: c\n", "yaml: line 2: found character that cannot start any token"),
            ("a: [1, 2\nb: 3\n", "yaml: line 1: did not find expected ',' or ']'"),
            ("a: 1\nb\nc: 2\n", "yaml: line 3: could not find expected ':'"),
            ("a: 1\n- b\n", "yaml: line 1: did not find expected key"),
            ("- a\nb: c\n", "yaml: line 1: did not find expected '-' indicator"),
            ("a: *x\n", "yaml: unknown anchor 'x' referenced"),
            ("a: @x\n", "yaml: found character that cannot start any token"),
            ("a:\n  b: {c\n", "yaml: line 2: did not find expected ',' or '}'"),
            ("c: [\n", "yaml: line 1: did not find expected node content"),
            ("a: 1\nb: \"c\" d\n", "yaml: line 1: did not find expected key"),
            ("\ta: 1\n", "yaml: found character that cannot start any token"),
            ("# c\n \t\na: 1\n", "yaml: line 2: found character that cannot start any token"),
            ("...\n", "yaml: did not find expected node content"),
            ("a: >-\n\tx\n", "yaml: line 2: found a tab character where an indentation space is expected"),
            ("a: |2\n x\n", "yaml: line 1: did not find expected key"),
            ("a: {b: c\nd: e}\n", "yaml: line 1: did not find expected ',' or '}'"),
            ("a: \"\\x4\"\n", "yaml: did not find expected hexdecimal number"),
            ("a: \"\\ud800\"\n", "yaml: found invalid Unicode character escape code"),
            ("a: !<x\n", "yaml: did not find the expected '>'"),
            ("a: *\n", "yaml: did not find expected alphabetic or numeric character"),
            ("<<: a\n", "yaml: map merge requires map or sequence of maps as the value"),
            ("b:\n  a: !!binary \"*\"\n", "yaml: !!binary value contains invalid base64 data"),
            ("~: x", "unsupported map key of type: %!s(<nil>), key: <nil>, value: \"x\""),
            ("? [a, 1]\n: c", "yaml: invalid map key: []interface {}{\"a\", 1}"),
            ("? {a: b}\n: c", "yaml: invalid map key: map[interface {}]interface {}{\"a\":\"b\"}"),
            ("a: {{ .x }}\n", "yaml: invalid map key: map[interface {}]interface {}{\".x\":interface {}(nil)}"),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap_err(), want, "{text:?}");
        }
    }

    #[test]
    fn tags_and_odd_keys_are_upstreams() {
        for (text, want) in [
            ("!!int abc", "yaml: cannot decode !!str `abc` as a !!int"),
            ("!!int", "yaml: cannot decode !!null `` as a !!int"),
            ("!!bool 5", "yaml: cannot decode !!int `5` as a !!bool"),
            ("!!float 18446744073709551615", "yaml: cannot decode !!int `18446744073709551615` as a !!float"),
            ("!!timestamp abc", "yaml: cannot decode !!str `abc` as a !!timestamp"),
            ("!!null x", "yaml: cannot decode !!str `x` as a !!null"),
            ("!!binary a", "yaml: !!binary value contains invalid base64 data"),
            ("!e!x b", "yaml: found undefined tag handle"),
            ("!!", "yaml: did not find expected tag URI"),
            ("!%zz b", "yaml: did not find URI escaped octet"),
            ("? : x", "yaml: did not find expected key"),
            ("{? : x}", "unsupported map key of type: %!s(<nil>), key: <nil>, value: \"x\""),
            (": x", "yaml: did not find expected key"),
            ("9223372036854775808: a", "unsupported map key of type: uint64, key: 0x8000000000000000, value: \"a\""),
            ("a: &x [b]\nd:\n  <<: *x", "yaml: map merge requires map or sequence of maps as the value"),
            ("%YAML 1.2\n---\na: b", "yaml: found incompatible YAML document"),
            ("a: \"b\n---\n", "yaml: line 2: found unexpected document indicator"),
            ("a: b\n@: c", "yaml: line 2: found character that cannot start any token"),
            ("a: |0\n b", "yaml: found an indentation indicator equal to 0"),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap_err(), want, "{text:?}");
        }
        for (text, want) in [
            ("a: !!float 5", json!({"a": 5})),
            ("a: !!str 5", json!({"a": "5"})),
            ("a: !foo 5", json!({"a": "5"})),
            ("a: ! 5", json!({"a": "5"})),
            ("a: !!binary aGk=", json!({"a": "hi"})),
            ("a: !!binary /w==", json!({"a": "\u{fffd}"})),
            ("!!int 5: a\n1e6: b\n.inf: c", json!({"5": "a", "1e+06": "b", ".inf": "c"})),
            ("a: &x {b: c, d: e}\nf:\n  b: g\n  <<: *x", json!({"a": {"b": "c", "d": "e"}, "f": {"b": "c", "d": "e"}})),
            ("a: 0b-1\nb: 08\nc: 1e999\nd: 1__0\ne: 1e20", json!({"a": -1, "b": 8, "c": "1e999", "d": 10, "e": 1e20})),
            ("{}: x", json!({})),
            ("{a: b}}", json!({"a": "b"})),
            ("\u{feff}a: b", json!({"a": "b"})),
        ] {
            assert_eq!(parse(text.as_bytes()).map(|p| p.value), Ok(want), "{text:?}");
        }
        let told = |text: &str| parse(text.as_bytes()).unwrap().duplicates;
        let merged = told("a: &x {b: c}\nd:\n  <<: *x\n  b: e\n1: a\n1: b\n");
        let lines = "\n  line 4: key \"b\" already set in map\n  line 6: key 1 already set in map";
        assert_eq!(merged, [format!("yaml: unmarshal errors:{lines}")]);
        assert_eq!(documents_1_2("a: yes\nb: on").unwrap(), [json!({"a": "yes", "b": "on"})]);
        let twice = documents_1_2("a: 1\na: 2").unwrap_err();
        assert_eq!(twice, "yaml: unmarshal errors:\n  line 2: mapping key \"a\" already defined at line 1");
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
