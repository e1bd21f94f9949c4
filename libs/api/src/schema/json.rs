//! JSON bytes to values, with the checks that serde_json leaves out: duplicate keys (with their paths), depth, and Go's
//! words for syntax errors, which upstream's clients get to read.

use std::collections::HashMap;

use serde_json::{Map, Number, Value};

/// Nesting beyond this is refused, as Go does.
const MAX_DEPTH: usize = 10_000;

/// What nests deeper is read, but not kept: no field of the API lies as deep, and values that nest without end cannot be
/// walked and dropped on any stack. serde_json, which reads stored objects again, allows 127.
pub const KEPT_DEPTH: usize = 120;

/// What a field that takes anything may hold: less than what is kept, so that nothing of it can be missing.
pub const OPAQUE_DEPTH: usize = 100;

/// Not JSON: Go's message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SyntaxError(pub String);

/// A parsed document.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// The value; of duplicate keys the last one counts.
    pub value: Value,
    /// Paths of keys that were given more than once, e.g. `spec.containers[0].name`.
    pub duplicates: Vec<String>,
    /// The first of the document's own `kind` and `apiVersion`, in any case, that is no text, and what it is: of keys that are
    /// given twice both count.
    pub no_text: Option<(&'static str, &'static str)>,
}

/// Parses one JSON document, all of it: [`KEPT_DEPTH`] is as deep as it may be.
pub fn parse(bytes: &[u8]) -> Result<Parsed, SyntaxError> {
    match read(Reader::new(bytes))? {
        (_, true) => Err(SyntaxError(TOO_DEEP.to_owned())),
        (parsed, false) => Ok(parsed),
    }
}

/// Parses one JSON document for a type that will be compared with it: of what nests deeper than [`KEPT_DEPTH`] only the
/// outermost brackets are left. Whoever keeps any of it must refuse fields that are deeper than [`OPAQUE_DEPTH`].
pub fn parse_to_check(bytes: &[u8]) -> Result<Parsed, SyntaxError> {
    read(Reader::new(bytes)).map(|(parsed, _)| parsed)
}

/// [`parse_to_check`] of a whole object, as upstream reads one into its type: of objects that one key has twice all count, the
/// later ones above the earlier.
pub fn parse_object(bytes: &[u8]) -> Result<Parsed, SyntaxError> {
    read(Reader { merges: true, ..Reader::new(bytes) }).map(|(parsed, _)| parsed)
}

const TOO_DEEP: &str = "exceeded max depth";

fn read(mut reader: Reader<'_>) -> Result<(Parsed, bool), SyntaxError> {
    reader.skip_space();
    let value = reader.value("looking for beginning of value")?;
    reader.skip_space();
    match reader.peek() {
        None => Ok((Parsed { value, duplicates: reader.duplicates, no_text: reader.no_text }, reader.cut)),
        Some(_) => Err(reader.unexpected("after top-level value")),
    }
}

/// Where each path of a key is first given, and where it is first given again: numbers that grow through the document.
pub fn places(bytes: &[u8]) -> HashMap<String, (usize, Option<usize>)> {
    let mut reader = Reader { places: Some(HashMap::new()), ..Reader::new(bytes) };
    reader.skip_space();
    // What is no JSON was told when it was parsed first.
    let _ = reader.value("looking for beginning of value");
    reader.places.unwrap_or_default()
}

/// What begins a stream of documents.
#[derive(Clone, Debug, PartialEq)]
pub enum First {
    /// A value, and how many bytes it took with the space around it.
    Value(Value, usize),
    /// There is nothing but space.
    Nothing,
    /// The stream ends in the middle of a value.
    Cut,
    /// What is wrong, and how many bytes Go's decoder had read when it saw that.
    Wrong(SyntaxError, usize),
}

/// Reads the first of several documents, one after another.
pub fn first(bytes: &[u8]) -> First {
    let mut reader = Reader::new(bytes);
    reader.skip_space();
    if reader.peek().is_none() {
        return First::Nothing;
    }
    match reader.value("looking for beginning of value") {
        Ok(_) if reader.cut => First::Wrong(SyntaxError(TOO_DEEP.to_owned()), reader.at),
        Ok(value) => {
            reader.skip_space();
            First::Value(value, reader.at)
        }
        Err(_) if reader.peek().is_none() => First::Cut,
        Err(error) => First::Wrong(error, reader.at + 1),
    }
}

/// How deep a value nests: 0 for a scalar.
pub fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

const KEY: &str = "looking for beginning of object key string";
const AFTER_KEY: &str = "after object key";
const AFTER_PAIR: &str = "after object key:value pair";
const AFTER_ELEMENT: &str = "after array element";

enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Where we are: ends of keys borrowed from the object being built would tie knots, so keys are kept here.
    path: Vec<Place>,
    duplicates: Vec<String>,
    no_text: Option<(&'static str, &'static str)>,
    /// Whether something nested too deep to be kept.
    cut: bool,
    /// See [`parse_object`].
    merges: bool,
    /// See [`places`].
    places: Option<HashMap<String, (usize, Option<usize>)>>,
}

/// What Go makes of an object that is read into another one.
fn merge(earlier: &mut Map<String, Value>, later: Map<String, Value>) {
    for (key, value) in later {
        match (earlier.get_mut(&key), value) {
            (Some(Value::Object(earlier)), Value::Object(later)) => merge(earlier, later),
            (_, value) => {
                earlier.insert(key, value);
            }
        }
    }
}

enum Place {
    Key(String),
    Index(usize),
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            path: Vec::new(),
            duplicates: Vec::new(),
            no_text: None,
            cut: false,
            merges: false,
            places: None,
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.peek() {
            self.at += 1;
        }
    }

    /// `invalid character 'x' CONTEXT` at the current byte, or the end.
    fn unexpected(&self, context: &str) -> SyntaxError {
        let Some(byte) = self.peek() else { return SyntaxError("unexpected end of JSON input".to_owned()) };
        let shown = match byte {
            b'\'' => "\\'".to_owned(),
            b'"' => "\"".to_owned(),
            _ => {
                let quoted = crate::field::go_quote(&char::from(byte).to_string());
                quoted[1..quoted.len() - 1].to_owned()
            }
        };
        SyntaxError(format!("invalid character '{shown}' {context}"))
    }

    fn value(&mut self, context: &str) -> Result<Value, SyntaxError> {
        match self.peek() {
            Some(b'{' | b'[') if self.path.len() >= KEPT_DEPTH => self.skim(),
            Some(b'{') => self.object(),
            Some(b'[') => self.array(),
            Some(b'"') => self.string().map(Value::String),
            Some(b't') => self.literal("true", Value::Bool(true)),
            Some(b'f') => self.literal("false", Value::Bool(false)),
            Some(b'n') => self.literal("null", Value::Null),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => Err(self.unexpected(context)),
        }
    }

    /// Reads an object or an array without keeping it or calling itself.
    fn skim(&mut self) -> Result<Value, SyntaxError> {
        self.cut = true;
        let whole = if self.peek() == Some(b'{') { Value::Object(Map::new()) } else { Value::Array(Vec::new()) };
        // Of each array or object that is open: whether it is an object.
        let mut open: Vec<bool> = Vec::new();
        loop {
            // Before a value.
            let mut ended = match self.peek() {
                Some(bracket @ (b'{' | b'[')) => {
                    if self.path.len() + open.len() >= MAX_DEPTH {
                        return Err(self.unexpected(TOO_DEEP));
                    }
                    self.at += 1;
                    self.skip_space();
                    open.push(bracket == b'{');
                    match (bracket, self.peek()) {
                        (b'{', Some(b'}')) | (b'[', Some(b']')) => true,
                        (b'{', _) => {
                            self.skimmed_key()?;
                            continue;
                        }
                        _ => continue,
                    }
                }
                _ => {
                    self.value("looking for beginning of value")?;
                    self.skip_space();
                    matches!((open.last(), self.peek()), (Some(true), Some(b'}')) | (Some(false), Some(b']')))
                }
            };
            // After a value, or before a bracket that ends one.
            while ended {
                self.at += 1;
                open.pop();
                if open.is_empty() {
                    return Ok(whole);
                }
                self.skip_space();
                ended = matches!((open.last(), self.peek()), (Some(true), Some(b'}')) | (Some(false), Some(b']')));
            }
            let object = open.last() == Some(&true);
            if self.peek() != Some(b',') {
                return Err(self.unexpected(if object { AFTER_PAIR } else { AFTER_ELEMENT }));
            }
            self.at += 1;
            self.skip_space();
            if object {
                self.skimmed_key()?;
            }
        }
    }

    /// A key, its colon, and the space behind it.
    fn skimmed_key(&mut self) -> Result<(), SyntaxError> {
        if self.peek() != Some(b'"') {
            return Err(self.unexpected(KEY));
        }
        self.string()?;
        self.skip_space();
        if self.peek() != Some(b':') {
            return Err(self.unexpected(AFTER_KEY));
        }
        self.at += 1;
        self.skip_space();
        Ok(())
    }

    fn object(&mut self) -> Result<Value, SyntaxError> {
        self.at += 1;
        let mut map = Map::new();
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Value::Object(map));
        }
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return Err(self.unexpected(KEY));
            }
            let key = self.string()?;
            if self.places.is_some() {
                let (path, at) = (self.path_with(&Step::Key(&key)), self.at);
                let place = self.places.get_or_insert_default().entry(path).or_insert((at, None));
                if place.0 != at && place.1.is_none() {
                    place.1 = Some(at);
                }
            }
            self.skip_space();
            if self.peek() != Some(b':') {
                return Err(self.unexpected(AFTER_KEY));
            }
            self.at += 1;
            self.skip_space();
            self.path.push(Place::Key(key));
            let value = self.value("looking for beginning of value")?;
            let Some(Place::Key(key)) = self.path.pop() else { unreachable!("an object's step is a key") };
            if self.path.is_empty() && self.no_text.is_none() && !value.is_string() && !value.is_null() {
                let name = ["kind", "apiVersion"].into_iter().find(|name| name.eq_ignore_ascii_case(&key));
                self.no_text = name.map(|name| (name, super::go::kind(&value)));
            }
            if map.contains_key(&key) {
                let path = self.path_with(&Step::Key(&key));
                if !self.duplicates.contains(&path) {
                    self.duplicates.push(path);
                }
            }
            match (map.get_mut(&key), value) {
                (Some(Value::Object(earlier)), Value::Object(later)) if self.merges => merge(earlier, later),
                (_, value) => {
                    map.insert(key, value);
                }
            }
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(Value::Object(map));
                }
                _ => return Err(self.unexpected(AFTER_PAIR)),
            }
        }
    }

    fn array(&mut self) -> Result<Value, SyntaxError> {
        self.at += 1;
        let mut items = Vec::new();
        self.skip_space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Value::Array(items));
        }
        loop {
            self.skip_space();
            self.path.push(Place::Index(items.len()));
            items.push(self.value("looking for beginning of value")?);
            self.path.pop();
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(Value::Array(items));
                }
                _ => return Err(self.unexpected(AFTER_ELEMENT)),
            }
        }
    }

    fn path_with(&self, last: &Step<'_>) -> String {
        let mut out = String::new();
        for place in &self.path {
            match place {
                Place::Key(key) => push_step(&mut out, &Step::Key(key)),
                Place::Index(index) => push_step(&mut out, &Step::Index(*index)),
            }
        }
        push_step(&mut out, last);
        out
    }

    fn literal(&mut self, word: &str, value: Value) -> Result<Value, SyntaxError> {
        for expected in word.bytes() {
            if self.peek() != Some(expected) {
                let context = format!("in literal {word} (expecting '{}')", char::from(expected));
                return Err(self.unexpected(&context));
            }
            self.at += 1;
        }
        Ok(value)
    }

    fn digits(&mut self, context: &str) -> Result<(), SyntaxError> {
        let start = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start { Err(self.unexpected(context)) } else { Ok(()) }
    }

    fn number(&mut self) -> Result<Value, SyntaxError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            _ => self.digits("in numeric literal")?,
        }
        let mut integer = true;
        if self.peek() == Some(b'.') {
            integer = false;
            self.at += 1;
            self.digits("after decimal point in numeric literal")?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            integer = false;
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits("in exponent of numeric literal")?;
        }
        let text = std::str::from_utf8(&self.bytes[start..self.at]).unwrap_or_default();
        if integer && let Ok(number) = text.parse::<i64>() {
            return Ok(Value::Number(number.into()));
        }
        // What fits into no integer is refused in its own digits, and kept in them where anything goes.
        if integer && let Ok(number) = text.parse::<u64>() {
            return Ok(Value::Number(number.into()));
        }
        let float = text.parse::<f64>().ok().and_then(Number::from_f64);
        let range = || SyntaxError(format!("json: cannot unmarshal number {text} into Go value of type float64"));
        float.map(Value::Number).ok_or_else(range)
    }

    fn string(&mut self) -> Result<String, SyntaxError> {
        self.at += 1;
        let start = self.at;
        // The common case: no escapes, copied at once.
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => {
                    let text = String::from_utf8_lossy(&self.bytes[start..self.at]).into_owned();
                    self.at += 1;
                    return Ok(text);
                }
                b'\\' => break,
                0..=0x1f => return Err(self.unexpected("in string literal")),
                _ => self.at += 1,
            }
        }
        let mut out = self.bytes[start..self.at].to_vec();
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(String::from_utf8_lossy(&out).into_owned());
                }
                Some(b'\\') => {
                    self.at += 1;
                    let c = self.escape()?;
                    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                }
                Some(0..=0x1f) | None => return Err(self.unexpected("in string literal")),
                Some(byte) => {
                    out.push(byte);
                    self.at += 1;
                }
            }
        }
    }

    fn escape(&mut self) -> Result<char, SyntaxError> {
        let c = match self.peek() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                return self.unicode();
            }
            _ => return Err(self.unexpected("in string escape code")),
        };
        self.at += 1;
        Ok(c)
    }

    fn hex4(&mut self) -> Result<u32, SyntaxError> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|b| char::from(b).to_digit(16));
            code = code * 16 + digit.ok_or_else(|| self.unexpected("in \\u hexadecimal character escape"))?;
            self.at += 1;
        }
        Ok(code)
    }

    /// After `\u`: one code unit, or two that are a pair. A lone surrogate becomes U+FFFD as in Go.
    fn unicode(&mut self) -> Result<char, SyntaxError> {
        let first = self.hex4()?;
        if (0xd800..0xdc00).contains(&first) && self.bytes[self.at..].starts_with(b"\\u") {
            let back = self.at;
            self.at += 2;
            let second = self.hex4()?;
            if (0xdc00..0xe000).contains(&second) {
                let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = back;
        }
        Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER))
    }
}

fn push_step(out: &mut String, step: &Step<'_>) {
    match step {
        Step::Key(key) => {
            if !out.is_empty() {
                out.push('.');
            }
            out.push_str(key);
        }
        Step::Index(index) => out.push_str(&format!("[{index}]")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn go_words_for_syntax_errors() {
        for (text, want) in [
            ("", "unexpected end of JSON input"),
            ("{", "unexpected end of JSON input"),
            ("x", "invalid character 'x' looking for beginning of value"),
            ("{x", "invalid character 'x' looking for beginning of object key string"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":1 2}", "invalid character '2' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("{} {}", "invalid character '{' after top-level value"),
            ("tru!", "invalid character '!' in literal true (expecting 'e')"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("\"\\q\"", "invalid character 'q' in string escape code"),
            ("'a'", "invalid character '\\'' looking for beginning of value"),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap_err().0, want, "{text}");
        }
    }

    #[test]
    fn duplicates_have_paths() {
        let parsed = parse(br#"{"a":{"b":1,"b":2},"c":[{"d":1,"d":1}]}"#).unwrap();
        assert_eq!(parsed.duplicates, ["a.b", "c[0].d"]);
        assert_eq!(parsed.value["a"]["b"], 2);
        let twice = br#"{"a":{"b":1,"c":{"d":1}},"a":{"b":2,"c":{"e":1}},"f":{"g":1},"f":[1]}"#;
        let merged = serde_json::json!({"a": {"b": 2, "c": {"d": 1, "e": 1}}, "f": [1]});
        assert_eq!(parse_object(twice).unwrap().value, merged);
        assert_eq!(parse_to_check(twice).unwrap().value["a"]["c"], serde_json::json!({"e": 1}));
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth)).into_bytes();
        let maps = |depth: usize| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth)).into_bytes();
        let read = |bytes: Vec<u8>| parse_to_check(&bytes).map(|parsed| depth(&parsed.value)).map_err(|error| error.0);
        assert_eq!(read(nested(KEPT_DEPTH)), Ok(KEPT_DEPTH));
        assert_eq!(read(nested(MAX_DEPTH)), Ok(KEPT_DEPTH + 1));
        assert_eq!(read(maps(MAX_DEPTH)), Ok(KEPT_DEPTH + 1));
        let too_deep = |bracket: char| Err(format!("invalid character '{bracket}' exceeded max depth"));
        assert_eq!(read(nested(MAX_DEPTH + 1)), too_deep('['));
        assert_eq!(read(maps(MAX_DEPTH + 1)), too_deep('{'));
        assert_eq!(parse(&nested(KEPT_DEPTH)).map(|_| ()), Ok(()));
        assert_eq!(parse(&nested(KEPT_DEPTH + 1)).unwrap_err().0, "exceeded max depth");
    }

    #[test]
    fn what_is_deep_is_read_like_the_rest() {
        for text in [
            "[]",
            "{}",
            "[1,{\"a\":[], \"b\" : {}} , [2]]",
            "[1 2]",
            "{1}",
            "{\"a\"1}",
            "{\"a\":1 2}",
            "[1,]",
            "{\"a\":1,}",
            "[[}",
            "[{]",
            "[",
            "[x]",
        ] {
            let wrap = |depth: usize| format!("{}{text}{}", "[".repeat(depth), "]".repeat(depth));
            let told = |depth: usize| parse_to_check(wrap(depth).as_bytes()).map(|_| ()).map_err(|error| error.0);
            assert_eq!(told(KEPT_DEPTH), told(0), "{text}");
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map("[a-d\\n\"]{0,3}", inner, 0..5)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(crate::testing::cases(2000))]

        #[test]
        fn reads_what_serde_json_writes(value in value()) {
            prop_assert_eq!(parse(&serde_json::to_vec(&value).unwrap()).unwrap().value, value);
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn agrees_with_serde_json(text in "[\\[\\]{}:,\"\\\\u0-9a-f.eE+ntrl -]{0,24}") {
            let theirs: Result<Value, _> = serde_json::from_str(&text);
            if let Ok(theirs) = theirs
                && !text.contains("\\u") {
                    prop_assert_eq!(parse(text.as_bytes()).map(|p| p.value), Ok(theirs));
                }
        }
    }
}
