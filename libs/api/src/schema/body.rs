//! Requests' bodies: read, told apart by version and kind, and fitted to their type.
//!
//! The messages are those of upstream's decoder: clients print them, tests compare them.

use serde_json::{Map, Value};

use super::{check::check, go, json, table::TypeId, yaml};
use crate::{field::go_quote, protobuf};

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
            let parsed = json::parse_object(bytes)
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
            let parsed = yaml::parse_to_check(bytes).map_err(DecodeError::Syntax)?;
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
            let why = format!("json: cannot unmarshal {} into Go value of type {META}", go::kind(&other));
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
            return Err(unidentified(name, go::kind(value)));
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

/// What upstream's decoder says of the first field of the wrong type that it meets in a JSON body.
pub fn first_mismatch(body: &[u8], ty: TypeId) -> Option<String> {
    let mut value = json::parse_object(body).ok()?.value;
    let places = json::places(body);
    // Items of a list are where its key is, one after the other.
    let place = |path: &str| {
        let mut at = path;
        loop {
            match (places.get(at), at.rfind('[')) {
                (Some((first, again)), _) => return again.unwrap_or(*first),
                (None, Some(end)) if at.ends_with(']') => at = &at[..end],
                (None, _) => return usize::MAX,
            }
        }
    };
    super::check::mismatches(&mut value, ty).into_iter().min_by_key(|(path, _)| place(path)).map(|(_, why)| why)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::schema::table;

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

    proptest! {
        #![proptest_config(crate::testing::cases(300))]

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..80), yaml in any::<bool>()) {
            let media = if yaml { MediaType::Yaml } else { MediaType::Json };
            let _ = decode(&bytes, media, id("", "v1", "Pod"), FieldValidation::Strict);
        }
    }
}
