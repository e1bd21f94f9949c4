//! Requests' bodies against the table of types: unknown fields, wrong types, quantities in canonical form.
//!
//! The messages are those of upstream's decoder, which name Go's types: clients print them, tests compare them.

use serde_json::{Map, Value};

use super::{
    json,
    table::{Table, Type, TypeId, table},
    yaml,
};
use crate::{duration::quote_time, field::go_quote, protobuf, quantity::Quantity};

/// What happens to fields that are unknown or given twice (`?fieldValidation=`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// They are dropped.
    Ignore,
    /// They are dropped and named in `Warning` headers.
    #[default]
    Warn,
    /// The request fails.
    Strict,
}

impl FieldValidation {
    /// The query parameter's value; empty is [`FieldValidation::Warn`].
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "Ignore" => Some(Self::Ignore),
            "Warn" | "" => Some(Self::Warn),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaType {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
    /// `application/vnd.kubernetes.protobuf`
    Protobuf,
}

/// A body that fits its type.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// Without unknown fields.
    pub object: Value,
    /// For the `Warning` header, one each.
    pub warnings: Vec<String>,
}

/// Why a body was refused (400 BadRequest; see [`DecodeError::message`]).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON, or not YAML.
    #[error("{0}")]
    Syntax(String),
    /// A field of the wrong type.
    #[error("{0}")]
    Type(String),
    /// Unknown or duplicate fields under [`FieldValidation::Strict`].
    #[error("strict decoding error: {}", .0.join(", "))]
    Strict(Vec<String>),
}

impl DecodeError {
    /// The Status' message for a body that should have been a `kind` of `version` (`v1`, without the group).
    pub fn message(&self, version: &str, kind: &str, body: &[u8]) -> String {
        match self {
            Self::Syntax(why) => {
                format!("the object provided is unrecognized (must be of type {kind}): {why} ({})", summary(body))
            }
            _ => format!("{kind} in version {} cannot be handled as a {kind}: {self}", go_quote(version)),
        }
    }
}

/// The first bytes of a body: as they are if they look like JSON, else in hexadecimal.
fn summary(body: &[u8]) -> String {
    const SHOWN: usize = 30;
    let more = if body.len() > SHOWN { " ..." } else { "" };
    let head = &body[..body.len().min(SHOWN)];
    match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(head)),
        Some(_) => format!("{}{more}", head.iter().map(|b| format!("{b:02x}")).collect::<String>()),
    }
}

/// Parses a body without looking at its type (`expected` is for protobuf that does not tell it). The second part is what
/// strict validation complains of: keys given twice.
pub fn parse(bytes: &[u8], media: MediaType, expected: Option<TypeId>) -> Result<(Value, Vec<String>), DecodeError> {
    match media {
        MediaType::Json => {
            let parsed = json::parse_to_check(bytes)
                .map_err(|e| DecodeError::Syntax(format!("couldn't get version/kind; json parse error: {e}")))?;
            let told = |path: &String| format!("duplicate field {}", go_quote(path));
            let mut object = an_object(parsed.value)?;
            if let Some((name, kind)) = parsed.no_text {
                return Err(unidentified(name, kind));
            }
            identify(&mut object, Some(bytes))?;
            Ok((object, parsed.duplicates.iter().map(told).collect()))
        }
        MediaType::Yaml => {
            let parsed = yaml::parse(bytes).map_err(DecodeError::Syntax)?;
            Ok((identified(parsed.value)?, parsed.duplicates))
        }
        MediaType::Protobuf => {
            let value = protobuf::decode(bytes, expected).map_err(|e| DecodeError::Syntax(e.to_string()))?;
            Ok((value, Vec::new()))
        }
    }
}

/// A value that did not come as JSON text as an object of a version and a kind, which may be missing but are texts.
pub fn identified(value: Value) -> Result<Value, DecodeError> {
    let mut object = an_object(value)?;
    identify(&mut object, None)?;
    Ok(object)
}

/// What has a version and a kind: an object. `null` is an empty one.
fn an_object(value: Value) -> Result<Value, DecodeError> {
    match value {
        Value::Object(_) => Ok(value),
        Value::Null => Ok(Value::Object(Map::new())),
        other => {
            const META: &str =
                r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;
            let why = format!("json: cannot unmarshal {} into Go value of type {META}", go_kind(&other));
            Err(DecodeError::Syntax(format!("couldn't get version/kind; json parse error: {why}")))
        }
    }
}

/// Upstream looks for a body's kind and version first, with a decoder that does not mind case: the last one that is given
/// counts, and is a text. (YAML comes to that decoder with sorted keys, as `body` of JSON does not.)
fn identify(object: &mut Value, body: Option<&[u8]>) -> Result<(), DecodeError> {
    let Value::Object(map) = object else { return Ok(()) };
    for name in ["apiVersion", "kind"] {
        let mut given: Vec<&String> = map
            .iter()
            .filter(|(key, value)| key.eq_ignore_ascii_case(name) && !value.is_null())
            .map(|(key, _)| key)
            .collect();
        if let (Some(body), true) = (body, given.len() > 1) {
            let places = json::places(body);
            given.sort_by_key(|key| places.get(*key).map(|(first, again)| again.unwrap_or(*first)));
        }
        if let Some(value) = given.iter().map(|key| &map[*key]).find(|value| !value.is_string()) {
            return Err(unidentified(name, go_kind(value)));
        }
        if let Some(last) = given.last().filter(|last| *last != &name) {
            let last = map[*last].clone();
            map.insert(name.to_owned(), last);
        }
    }
    match map.get("apiVersion").and_then(Value::as_str) {
        Some(version) if version.matches('/').count() > 1 => {
            Err(DecodeError::Syntax(format!("unexpected GroupVersion string: {version}")))
        }
        // A slash alone, or before the version, stands for no group.
        Some(version) if version.starts_with('/') => {
            match &version[1..] {
                "" => map.remove("apiVersion"),
                version => map.insert("apiVersion".to_owned(), version.to_owned().into()),
            };
            Ok(())
        }
        _ => Ok(()),
    }
}

fn unidentified(name: &str, found: &str) -> DecodeError {
    let why = format!("json: cannot unmarshal {found} into Go struct field .{name} of type string");
    DecodeError::Syntax(format!("couldn't get version/kind; json parse error: {why}"))
}

/// Parses a body, checks it against its type and drops what the type does not know.
pub fn decode(bytes: &[u8], media: MediaType, ty: TypeId, validation: FieldValidation) -> Result<Decoded, DecodeError> {
    let (object, duplicates) = parse(bytes, media, Some(ty))?;
    conform(object, duplicates, ty, validation)
}

/// Puts problems into the order of the JSON they were found in, as upstream's decoder meets them. It does not look into
/// fields that it does not know: keys given twice there are none of its problems.
pub fn in_order(problems: &mut Vec<String>, body: &[u8]) {
    let parts = |problem: &str| {
        let (kind, path) = problem.split_once(" field ")?;
        Some((kind == "unknown", serde_json::from_str::<String>(path).ok()?))
    };
    if problems.len() < 2 {
        return;
    }
    let unknown: Vec<String> =
        problems.iter().filter_map(|p| parts(p)).filter(|(unknown, _)| *unknown).map(|(_, path)| path).collect();
    let inside = |path: &str| {
        unknown.iter().any(|of| path.strip_prefix(of.as_str()).is_some_and(|r| r.is_empty() || r.starts_with(['.', '['])))
    };
    let places = json::places(body);
    problems.retain(|problem| parts(problem).is_none_or(|(unknown, path)| unknown || !inside(&path)));
    problems.sort_by_cached_key(|problem| {
        let Some((unknown, path)) = parts(problem) else { return usize::MAX };
        places.get(&path).map_or(usize::MAX, |(first, again)| if unknown { *first } else { again.unwrap_or(*first) })
    });
}

/// The second half of [`decode`], of what [`parse`] returned.
pub fn conform(
    mut object: Value,
    duplicates: Vec<String>,
    ty: TypeId,
    validation: FieldValidation,
) -> Result<Decoded, DecodeError> {
    let unknown = check(&mut object, ty).map_err(DecodeError::Type)?;
    let unknown = unknown.iter().map(|path| format!("unknown field {}", go_quote(path)));
    let problems: Vec<String> = duplicates.into_iter().chain(unknown).collect();
    match validation {
        FieldValidation::Strict if !problems.is_empty() => Err(DecodeError::Strict(problems)),
        FieldValidation::Warn => {
            Ok(Decoded { object, warnings: problems.iter().flat_map(|told| one_by_one(told)).collect() })
        }
        _ => Ok(Decoded { object, warnings: Vec::new() }),
    }
}

/// What YAML's parser found, which tells everything at once, as a warning each.
fn one_by_one(problem: &str) -> Vec<String> {
    match problem.strip_prefix("yaml: unmarshal errors:\n") {
        Some(told) => told.lines().map(|line| line.trim().to_owned()).collect(),
        None => vec![problem.to_owned()],
    }
}

/// Checks a value against a type in place: unknown fields go (their paths are returned), quantities and bytes become canonical,
/// nulls in lists and maps become what Go makes of them.
pub fn check(value: &mut Value, ty: TypeId) -> Result<Vec<String>, String> {
    walk(value, ty, false)
}

/// [`check`] as what a strategic merge patch made of an object becomes one again: it is converted and not decoded, which takes
/// whole numbers in any form and has words of its own. (Upstream also cuts numbers that are too large for their fields; they
/// are refused here.)
pub fn convert(value: &mut Value, ty: TypeId) -> Result<Vec<String>, String> {
    walk(value, ty, true)
}

fn walk(value: &mut Value, ty: TypeId, converts: bool) -> Result<Vec<String>, String> {
    let (unknown, path, fields) = Default::default();
    let mut walk = Walk { table: table(), converts, unknown, path, fields, owner: "" };
    walk.value(value, &Type::Ref(ty))?;
    Ok(walk.unknown)
}

/// What the converter says of a value that is none of a type; `ty` is a type's resolved form.
pub fn unconvertible(value: &Value, ty: &Type) -> String {
    let from = match value {
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
        Value::Number(number) if number.is_i64() => "int64",
        Value::Number(_) => "float64",
        other => go_kind(other),
    };
    match ty {
        Type::Bytes | Type::Array(_) => format!("cannot restore slice from {from}"),
        Type::Object | Type::Map(_) => format!("cannot restore map from {from}"),
        Type::Ref(_) => format!("cannot restore struct from: {from}"),
        Type::String if from == "int64" => format!("cannot convert {from} to string"),
        Type::Int32 | Type::Int64 if from == "float64" => format!("cannot convert {from} to {}", go_type(table(), ty)),
        _ => format!("unrecognized type: {}", go_type(table(), ty)),
    }
}

struct Walk {
    table: &'static Table,
    /// See [`convert`].
    converts: bool,
    unknown: Vec<String>,
    /// `spec.containers[0]`.
    path: String,
    /// Field names from the root, without indexes: Go's `Field`.
    fields: Vec<&'static str>,
    /// The object type last entered: Go's `Struct`.
    owner: &'static str,
}

impl Walk {
    fn value(&mut self, value: &mut Value, ty: &Type) -> Result<(), String> {
        if value.is_null() {
            return Ok(());
        }
        match self.table.resolve(ty) {
            Type::String => self.expect(value.is_string(), value, ty),
            Type::Bool => self.expect(value.is_boolean(), value, ty),
            Type::Float => self.expect(value.is_number(), value, ty),
            Type::Int32 => self.integer(value, i64::from(i32::MIN), i64::from(i32::MAX), ty),
            Type::Int64 => self.integer(value, i64::MIN, i64::MAX, ty),
            Type::Bytes => self.bytes(value, ty),
            Type::Time => match value.as_str() {
                Some(text) => check_time(text, false),
                None => self.refuse(go_kind(value), "string"),
            },
            Type::MicroTime => match value.as_str() {
                Some(text) => check_time(text, true),
                None => self.refuse(go_kind(value), "string"),
            },
            Type::Quantity => check_quantity(value),
            Type::IntOrString => self.int_or_string(value),
            Type::Object => {
                if !self.is_raw(ty) {
                    self.expect(value.is_object(), value, ty)?;
                }
                bounded(value)
            }
            Type::Any => bounded(value),
            Type::Array(items) => match value {
                Value::Array(values) => self.array(values, items),
                other => self.mismatch(other, ty),
            },
            Type::Map(values) => match value {
                Value::Object(map) => self.map(map, values),
                other => self.mismatch(other, ty),
            },
            Type::Ref(id) => match value {
                Value::Object(map) => self.object(map, *id),
                other => self.mismatch(other, ty),
            },
        }
    }

    /// Whether a type keeps any JSON, though it is called an object.
    fn is_raw(&self, ty: &Type) -> bool {
        matches!(ty, Type::Ref(id) if matches!(self.table.get(*id).short_name(), "RawExtension" | "FieldsV1"))
    }

    fn object(&mut self, map: &mut Map<String, Value>, id: TypeId) -> Result<(), String> {
        let table = self.table;
        let def = table.get(id);
        let outer = std::mem::replace(&mut self.owner, def.short_name());
        let length = self.path.len();
        let mut foreign = false;
        for (key, value) in map.iter_mut() {
            if length > 0 {
                self.path.push('.');
            }
            self.path.push_str(key);
            match def.field(key) {
                Some(field) => {
                    self.fields.push(field.name);
                    self.value(value, &field.ty)?;
                    self.fields.pop();
                }
                None => {
                    self.unknown.push(self.path.clone());
                    foreign = true;
                }
            }
            self.path.truncate(length);
        }
        if foreign {
            map.retain(|key, _| def.field(key).is_some());
        }
        self.owner = outer;
        Ok(())
    }

    fn array(&mut self, values: &mut [Value], items: &Type) -> Result<(), String> {
        let length = self.path.len();
        for (i, value) in values.iter_mut().enumerate() {
            self.path.push_str(&format!("[{i}]"));
            self.element(value, items)?;
            self.path.truncate(length);
        }
        Ok(())
    }

    fn map(&mut self, map: &mut Map<String, Value>, values: &Type) -> Result<(), String> {
        let length = self.path.len();
        for (key, value) in map.iter_mut() {
            self.path.push('.');
            self.path.push_str(key);
            self.element(value, values)?;
            self.path.truncate(length);
        }
        Ok(())
    }

    /// A null among elements is Go's zero value.
    fn element(&mut self, value: &mut Value, ty: &Type) -> Result<(), String> {
        if value.is_null() {
            *value = match self.table.resolve(ty) {
                Type::String | Type::Bytes => Value::from(""),
                Type::Bool => Value::from(false),
                Type::Int32 | Type::Int64 | Type::Float | Type::IntOrString => Value::from(0),
                Type::Quantity => Value::from("0"),
                Type::Ref(_) | Type::Object => Value::Object(Map::new()),
                _ => Value::Null,
            };
        }
        self.value(value, ty)
    }

    fn expect(&self, fits: bool, value: &Value, ty: &Type) -> Result<(), String> {
        if fits { Ok(()) } else { self.mismatch(value, ty) }
    }

    fn integer(&self, value: &mut Value, low: i64, high: i64, ty: &Type) -> Result<(), String> {
        let number = match &*value {
            Value::Number(number) => number,
            other => return self.mismatch(other, ty),
        };
        if let Some(float) = number.as_f64().filter(|_| self.converts && number.is_f64()) {
            // As integers that floats hold exactly.
            #[allow(clippy::cast_possible_truncation, reason = "compared with what it was made of")]
            let whole = float as i64;
            #[allow(clippy::cast_precision_loss, reason = "as above")]
            let same = whole as f64 == float && whole != i64::MAX;
            if !same && float.fract() != 0.0 {
                return self.mismatch(value, ty);
            }
            if same && (low..=high).contains(&whole) {
                *value = whole.into();
                return Ok(());
            }
        }
        match value.as_i64() {
            Some(number) if (low..=high).contains(&number) => Ok(()),
            _ => self.told(&format!("number {value}"), &go_type(self.table, ty)),
        }
    }

    fn int_or_string(&self, value: &Value) -> Result<(), String> {
        let fits = |n: &serde_json::Number| n.as_i64().is_some_and(|n| i32::try_from(n).is_ok());
        match value {
            Value::String(_) => Ok(()),
            Value::Number(n) if fits(n) => Ok(()),
            Value::Number(n) => self.refuse(&format!("number {n}"), "int32"),
            other => self.refuse(go_kind(other), "int32"),
        }
    }

    /// Bytes are text in base64, or a list of numbers; what is kept is the text that Go writes.
    fn bytes(&self, value: &mut Value, ty: &Type) -> Result<(), String> {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let bytes = match &*value {
            Value::String(text) if STANDARD.decode(text).is_ok() => return Ok(()),
            Value::String(text) => from_base64(text).map_err(|at| {
                let from = if self.converts { "error decoding from json: " } else { "" };
                format!("{from}illegal base64 data at input byte {at}")
            })?,
            Value::Array(items) => items.iter().map(|item| self.byte(item)).collect::<Result<Vec<u8>, String>>()?,
            other => return self.mismatch(other, ty),
        };
        *value = STANDARD.encode(bytes).into();
        Ok(())
    }

    fn byte(&self, value: &Value) -> Result<u8, String> {
        let told = match value {
            Value::Null => return Ok(0),
            Value::Number(number) => match number.as_u64().and_then(|number| u8::try_from(number).ok()) {
                Some(byte) => return Ok(byte),
                None => self.told(&format!("number {number}"), "uint8"),
            },
            _ if self.converts => Err("unrecognized type: uint8".to_owned()),
            other => self.told(go_kind(other), "uint8"),
        };
        told.map(|()| 0)
    }

    /// A value of another kind than a type has.
    fn mismatch(&self, value: &Value, ty: &Type) -> Result<(), String> {
        if self.converts {
            return Err(unconvertible(value, self.table.resolve(ty)));
        }
        self.told(go_kind(value), &go_type(self.table, ty))
    }

    /// What types that read JSON by themselves say, wherever they are.
    fn refuse(&self, what: &str, ty: &str) -> Result<(), String> {
        if self.converts {
            return Err(format!("json: cannot unmarshal {what} into Go value of type {ty}"));
        }
        self.told(what, ty)
    }

    fn told(&self, what: &str, ty: &str) -> Result<(), String> {
        if self.fields.is_empty() {
            return Err(format!("json: cannot unmarshal {what} into Go value of type {ty}"));
        }
        let field = self.fields.join(".");
        Err(format!("json: cannot unmarshal {what} into Go struct field {}.{field} of type {ty}", self.owner))
    }
}

/// What is not compared with a type is kept as it is, and has to be all there.
fn bounded(value: &Value) -> Result<(), String> {
    if json::depth(value) > json::OPAQUE_DEPTH { Err("exceeded max depth".to_owned()) } else { Ok(()) }
}

/// The JSON kind as Go names it in errors.
pub fn go_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn go_type(table: &Table, ty: &Type) -> String {
    match ty {
        Type::String | Type::Time | Type::MicroTime => "string".to_owned(),
        Type::Bytes => "[]uint8".to_owned(),
        Type::Int32 => "int32".to_owned(),
        Type::Int64 => "int64".to_owned(),
        Type::Float => "float64".to_owned(),
        Type::Bool => "bool".to_owned(),
        Type::Object => "map[string]interface {}".to_owned(),
        Type::Any => "interface {}".to_owned(),
        Type::Quantity => "resource.Quantity".to_owned(),
        Type::IntOrString => "intstr.IntOrString".to_owned(),
        Type::Array(items) => format!("[]{}", go_type(table, items)),
        Type::Map(values) => format!("map[string]{}", go_type(table, values)),
        Type::Ref(id) => {
            let mut parts = table.get(*id).name.rsplit('.');
            let name = parts.next().unwrap_or_default();
            format!("{}.{name}", parts.next().unwrap_or_default())
        }
    }
}

/// Bytes in base64, read as Go reads them: lines may be broken anywhere, and the bits behind the last byte may be set. The error
/// is where Go's decoder stops.
fn from_base64(text: &str) -> Result<Vec<u8>, usize> {
    let bytes = text.as_bytes();
    let digit = |byte: u8| {
        Some(match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        })
    };
    let mut signs = bytes.iter().copied().enumerate().filter(|(_, byte)| !matches!(byte, b'\r' | b'\n'));
    let mut out = Vec::with_capacity(bytes.len() / 4 * 3);
    loop {
        let mut quantum: Vec<u8> = Vec::with_capacity(4);
        let ended = loop {
            if quantum.len() == 4 {
                break false;
            }
            match (signs.next(), quantum.len()) {
                (None, 0) => return Ok(out),
                (None, read) => return Err(bytes.len() - read),
                (Some((at, byte)), read) => match digit(byte) {
                    Some(digit) => quantum.push(digit),
                    None if byte != b'=' || read < 2 => return Err(at),
                    None if read == 3 => break true,
                    None => match signs.next() {
                        Some((_, b'=')) => break true,
                        Some((at, _)) => return Err(at - 1),
                        None => return Err(bytes.len()),
                    },
                },
            }
        };
        let bits = quantum.iter().chain([0; 4].iter()).take(4).fold(0_u32, |bits, digit| bits << 6 | u32::from(*digit));
        out.extend(&bits.to_be_bytes()[1..quantum.len()]);
        if ended {
            return signs.next().map_or(Ok(out), |(at, _)| Err(at));
        }
    }
}

/// Reads a time as Go does, with its complaints: an RFC 3339 time, of which a micro time has exactly six decimals.
fn check_time(text: &str, micro: bool) -> Result<(), String> {
    const PARTS: [(&str, u32, u32, &str); 11] = [
        ("2006", 0, 9999, ""),
        ("-", 0, 0, ""),
        ("01", 1, 12, "month"),
        ("-", 0, 0, ""),
        ("02", 0, 31, "day"),
        ("T", 0, 0, ""),
        ("15", 0, 23, "hour"),
        (":", 0, 0, ""),
        ("04", 0, 59, "minute"),
        (":", 0, 0, ""),
        ("05", 0, 59, "second"),
    ];
    let layout = if micro { "2006-01-02T15:04:05.000000Z07:00" } else { "2006-01-02T15:04:05Z07:00" };
    let refuse = |rest: &str, part: &str| {
        Err(format!("parsing time {} as \"{layout}\": cannot parse {} as \"{part}\"", quote_time(text), quote_time(rest)))
    };
    let wrong = |what: &str| Err(format!("parsing time {}: {what}", quote_time(text)));
    let digits = |rest: &str| rest.bytes().take_while(u8::is_ascii_digit).count();
    let mut rest = text;
    for (part, low, high, name) in PARTS {
        if part.len() == 1 {
            let Some(after) = rest.strip_prefix(part) else { return refuse(rest, part) };
            rest = after;
            continue;
        }
        if digits(rest) < part.len() {
            return refuse(rest, part);
        }
        let (number, after) = rest.split_at(part.len());
        if !number.parse().is_ok_and(|number: u32| (low..=high).contains(&number)) {
            return wrong(&format!("{name} out of range"));
        }
        rest = after;
    }
    let decimals = rest.strip_prefix('.').map_or(0, digits);
    if micro && decimals < 6 {
        return refuse(rest, ".000000");
    }
    rest = match (micro, decimals) {
        (true, _) => &rest[7..],
        (false, 0) => rest,
        (false, decimals) => &rest[1 + decimals..],
    };
    let after = rest.strip_prefix('Z').or_else(|| {
        let zone = rest.strip_prefix(['+', '-'])?;
        let fits = digits(zone) == 2 && zone[2..].strip_prefix(':').is_some_and(|minutes| digits(minutes) >= 2);
        fits.then(|| &zone[5..])
    });
    match after {
        None => refuse(rest, "Z07:00"),
        Some("") if text.parse::<jiff::Timestamp>().is_ok() => Ok(()),
        Some("") => wrong("day out of range"),
        Some(extra) => wrong(&format!("extra text: {}", quote_time(extra))),
    }
}

fn check_quantity(value: &mut Value) -> Result<(), String> {
    let text = match &*value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        other => other.to_string(),
    };
    let quantity: Quantity = text.parse().map_err(|e: crate::quantity::ParseError| e.to_string())?;
    *value = Value::String(quantity.to_string());
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn id(group: &str, version: &str, kind: &str) -> TypeId {
        table().by_kind(group, version, kind).unwrap()
    }

    fn error(group: &str, version: &str, kind: &str, body: &Value) -> String {
        let bytes = serde_json::to_vec(body).unwrap();
        decode(&bytes, MediaType::Json, id(group, version, kind), FieldValidation::Strict)
            .unwrap_err()
            .message(version, kind, &bytes)
    }

    #[test]
    fn messages_are_upstreams() {
        assert_eq!(
            error("apps", "v1", "Deployment", &json!({"spec": {"replicas": "x"}})),
            "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"
        );
        assert_eq!(
            error(
                "apps",
                "v1",
                "Deployment",
                &json!({"spec": {"foo": 1, "template": {"spec": {"containers": [{"bar": 1}]}}}})
            ),
            "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: unknown field \"spec.foo\", unknown field \"spec.template.spec.containers[0].bar\""
        );
        assert_eq!(
            error("", "v1", "Pod", &json!({"spec": {"containers": [{"env": [{"name": "a", "value": 1}]}]}})),
            "Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal number into Go struct field EnvVar.spec.containers.env.value of type string"
        );
        assert_eq!(
            error("", "v1", "Pod", &json!({"spec": {"containers": {}}})),
            "Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container"
        );
        assert_eq!(
            error("", "v1", "Secret", &json!({"data": {"a": "!"}})),
            "Secret in version \"v1\" cannot be handled as a Secret: illegal base64 data at input byte 0"
        );
        assert_eq!(
            error("", "v1", "Pod", &json!({"metadata": {"creationTimestamp": "x"}})),
            "Pod in version \"v1\" cannot be handled as a Pod: parsing time \"x\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"x\" as \"2006\""
        );
        let syntax = decode(b"{", MediaType::Json, id("", "v1", "Pod"), FieldValidation::Strict).unwrap_err();
        assert_eq!(
            syntax.message("v1", "Pod", b"{"),
            "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: unexpected end of JSON input ({)"
        );
    }

    #[test]
    fn kinds_are_found_whatever_their_case() {
        let pod = id("", "v1", "Pod");
        let kind = |body: &str| parse(body.as_bytes(), MediaType::Json, Some(pod)).map(|(object, _)| object["kind"].clone());
        assert_eq!(kind(r#"{"kind":"Pod","Kind":"Secret"}"#), Ok(json!("Secret")));
        assert_eq!(kind(r#"{"Kind":"Secret","kind":"Pod","KIND":null}"#), Ok(json!("Pod")));
        assert_eq!(kind(r#"{"kInd":"Pod"}"#), Ok(json!("Pod")));
        assert_eq!(
            kind(r#"{"KIND":5}"#).unwrap_err().to_string(),
            "couldn't get version/kind; json parse error: json: cannot unmarshal number into Go struct field .kind of type string"
        );
        let no_text = |name: &str, found: &str| {
            format!(
                "couldn't get version/kind; json parse error: json: cannot unmarshal {found} into Go struct field .{name} of type string"
            )
        };
        assert_eq!(kind(r#"{"kind":5,"kind":"Pod"}"#).unwrap_err().to_string(), no_text("kind", "number"));
        assert_eq!(kind(r#"{"Kind":[],"apiVersion":1}"#).unwrap_err().to_string(), no_text("kind", "array"));
        assert_eq!(kind(r#"{"spec":{"kind":5},"kind":"Pod"}"#), Ok(json!("Pod")));
        let version = |body: &str| parse(body.as_bytes(), MediaType::Json, Some(pod)).map(|(object, _)| object);
        assert_eq!(version(r#"{"apiVersion":"/"}"#), Ok(json!({})));
        assert_eq!(version(r#"{"apiVersion":"/v1"}"#), Ok(json!({"apiVersion": "v1"})));
        for (body, media) in [(r#"{"apiVersion":"a/b/c"}"#, MediaType::Json), ("apiVersion: a/b/c", MediaType::Yaml)] {
            let why = parse(body.as_bytes(), media, Some(pod)).unwrap_err().to_string();
            assert_eq!(why, "unexpected GroupVersion string: a/b/c");
        }
    }

    #[test]
    fn raw_data_is_any_json_that_is_not_too_deep() {
        let revision = id("apps", "v1", "ControllerRevision");
        let data = |data: &str| {
            let body = format!(r#"{{"data":{data},"other":{}1{}}}"#, "[".repeat(500), "]".repeat(500));
            decode(body.as_bytes(), MediaType::Json, revision, FieldValidation::Ignore).map(|decoded| decoded.object)
        };
        for text in ["5", "\"x\"", "[1,{}]", "{\"kind\":null}", "false"] {
            assert_eq!(data(text), Ok(json!({"data": serde_json::from_str::<Value>(text).unwrap()})));
        }
        let deep = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert!(data(&deep(json::OPAQUE_DEPTH)).is_ok());
        for depth in [json::OPAQUE_DEPTH + 1, json::KEPT_DEPTH, 5_000] {
            assert_eq!(data(&deep(depth)), Err(DecodeError::Type("exceeded max depth".to_owned())));
        }
    }

    #[test]
    fn warns_drops_and_normalises() {
        let body = br#"{"kind":"Pod","x":1,"spec":{"containers":[{"name":"a","name":"b","resources":{"limits":{"cpu":0.5,"memory":"1024Ki"}}}]}}"#;
        let decoded = decode(body, MediaType::Json, id("", "v1", "Pod"), FieldValidation::Warn).unwrap();
        assert_eq!(
            decoded,
            Decoded {
                object: json!({"kind": "Pod", "spec": {"containers": [
                    {"name": "b", "resources": {"limits": {"cpu": "500m", "memory": "1Mi"}}}
                ]}}),
                warnings: vec!["duplicate field \"spec.containers[0].name\"".to_owned(), "unknown field \"x\"".to_owned()],
            }
        );
    }

    #[test]
    fn reads_yaml() {
        let body = b"kind: ConfigMap\ndata:\n  a: \"1\"\n";
        let decoded = decode(body, MediaType::Yaml, id("", "v1", "ConfigMap"), FieldValidation::Strict).unwrap();
        assert_eq!(decoded.object, json!({"kind": "ConfigMap", "data": {"a": "1"}}));
        let twice = decode(b"data: {a: b, a: c}", MediaType::Yaml, id("", "v1", "ConfigMap"), FieldValidation::Warn);
        assert_eq!(twice.unwrap().warnings, ["line 1: key \"a\" already set in map"]);
        let body = b"spec:\n  volumes:\n  - name: a\n    configMap:\n      defaultMode: 0644\n";
        let decoded = decode(body, MediaType::Yaml, id("", "v1", "Pod"), FieldValidation::Strict).unwrap();
        assert_eq!(decoded.object["spec"]["volumes"][0]["configMap"]["defaultMode"], 420);
    }

    #[test]
    fn bytes_are_gos() {
        let secret = id("", "v1", "Secret");
        let decoded = |data: &Value| {
            let bytes = serde_json::to_vec(&json!({"data": {"a": data}})).unwrap();
            match decode(&bytes, MediaType::Json, secret, FieldValidation::Strict) {
                Ok(decoded) => decoded.object["data"]["a"].as_str().unwrap().to_owned(),
                Err(error) => error.to_string(),
            }
        };
        let into = "into Go struct field Secret.data of type uint8";
        for (data, want) in [
            (json!("aGk="), "aGk=".to_owned()),
            (json!("aG\r\nk=\n"), "aGk=".to_owned()),
            (json!("aGl="), "aGk=".to_owned()),
            (json!([104, 105]), "aGk=".to_owned()),
            (json!([]), String::new()),
            (json!([null]), "AA==".to_owned()),
            (json!([256]), format!("json: cannot unmarshal number 256 {into}")),
            (json!(["a"]), format!("json: cannot unmarshal string {into}")),
            (json!("Bad_Name!"), "illegal base64 data at input byte 3".to_owned()),
            (json!("a"), "illegal base64 data at input byte 0".to_owned()),
            (json!("aGk"), "illegal base64 data at input byte 0".to_owned()),
            (json!("aaaaaG="), "illegal base64 data at input byte 7".to_owned()),
            (json!("aG=k"), "illegal base64 data at input byte 2".to_owned()),
            (json!("aGk=aa"), "illegal base64 data at input byte 4".to_owned()),
        ] {
            assert_eq!(decoded(&data), want, "{data}");
        }
    }

    #[test]
    fn numbers_are_told_in_their_digits() {
        let body = br#"{"spec":{"replicas":9223372036854775808}}"#;
        let told = decode(body, MediaType::Json, id("apps", "v1", "Deployment"), FieldValidation::Warn).unwrap_err();
        assert!(told.to_string().starts_with("json: cannot unmarshal number 9223372036854775808 into"), "{told}");
        let body = br#"{"data":{"a":9223372036854775808}}"#;
        let kept = decode(body, MediaType::Json, id("apps", "v1", "ControllerRevision"), FieldValidation::Warn).unwrap();
        assert_eq!(kept.object.to_string(), r#"{"data":{"a":9223372036854775808}}"#);
    }

    #[test]
    fn what_is_converted_has_words_of_its_own() {
        let deployment = id("apps", "v1", "Deployment");
        let converted = |object: Value| {
            let mut object = object;
            convert(&mut object, deployment).map(|_| object)
        };
        let spec = |field: &str, value: Value| converted(json!({"spec": {field: value}}));
        assert_eq!(spec("replicas", json!(2.0)), Ok(json!({"spec": {"replicas": 2}})));
        let surge = |value: Value| spec("strategy", json!({"rollingUpdate": {"maxSurge": value}}));
        let meta = |field: &str, value: Value| converted(json!({"metadata": {field: value}}));
        for (told, want) in [
            (spec("replicas", json!(1.5)), "cannot convert float64 to int32"),
            (spec("replicas", json!("x")), "unrecognized type: int32"),
            (spec("paused", json!(1)), "unrecognized type: bool"),
            (spec("template", json!([])), "cannot restore struct from: slice"),
            (meta("name", json!(1)), "cannot convert int64 to string"),
            (meta("name", json!(1.5)), "unrecognized type: string"),
            (meta("name", json!({})), "unrecognized type: string"),
            (meta("finalizers", json!({})), "cannot restore slice from map"),
            (meta("labels", json!("x")), "cannot restore map from string"),
            (meta("creationTimestamp", json!(1)), "json: cannot unmarshal number into Go value of type string"),
            (surge(json!(1.5)), "json: cannot unmarshal number 1.5 into Go value of type int32"),
            (
                spec("replicas", json!(2_147_483_648_u32)),
                "json: cannot unmarshal number 2147483648 into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
        ] {
            assert_eq!(told, Err(want.to_owned()));
        }
    }

    #[test]
    fn times_are_gos() {
        let cases = [
            ("2024-01-02T03:04:05Z", false, ""),
            ("2024-01-02T03:04:05.5+01:00", false, ""),
            ("2024-01-02T03:04:05.123456Z", true, ""),
            ("2024-01-02T03:04:05Z", true, r#"cannot parse "Z" as ".000000""#),
            ("2024-01-02T03:04:05.1234567Z", true, r#"cannot parse "7Z" as "Z07:00""#),
            ("2024-01-02 03:04:05Z", false, r#"cannot parse " 03:04:05Z" as "T""#),
            ("2024-13-02T03:04:05Z", false, "month out of range"),
            ("2024-02-30T03:04:05Z", false, "day out of range"),
            ("2024-02-03T03:04Z", false, r#"cannot parse "Z" as ":""#),
            ("2024-02-03T03:04:05", false, r#"cannot parse "" as "Z07:00""#),
            ("2024-02-03T03:04:05Zé", false, r#"extra text: "\xc3\xa9""#),
            ("é", true, r#"cannot parse "\xc3\xa9" as "2006""#),
        ];
        for (text, micro, want) in cases {
            let told = check_time(text, micro).err().unwrap_or_default();
            assert!(told.ends_with(want) && told.is_empty() == want.is_empty(), "{text}: {told}");
        }
    }

    proptest! {
        #![proptest_config(crate::testing::cases(300))]

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..80), yaml in any::<bool>()) {
            let media = if yaml { MediaType::Yaml } else { MediaType::Json };
            let _ = decode(&bytes, media, id("", "v1", "Pod"), FieldValidation::Strict);
        }
    }
}
