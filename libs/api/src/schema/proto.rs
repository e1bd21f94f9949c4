//! OpenAPI v2 as protobuf (`gnostic`'s `openapi.v2.Document`), which client-go asks for: written field by field.
//!
//! Only what our documents hold is written. Field numbers are those of gnostic's OpenAPIv2.proto.

use serde_json::{Map, Value};

/// Bytes of one message being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value as u8) | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// A string, where the value is one and not empty.
    fn text(&mut self, field: u32, value: Option<&Value>) {
        if let Some(text) = value.and_then(Value::as_str).filter(|t| !t.is_empty()) {
            self.bytes(field, text.as_bytes());
        }
    }

    fn texts(&mut self, field: u32, value: Option<&Value>) {
        for text in value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            self.bytes(field, text.as_bytes());
        }
    }

    fn flag(&mut self, field: u32, value: Option<&Value>) {
        if value == Some(&Value::Bool(true)) {
            self.varint(u64::from(field) << 3);
            self.varint(1);
        }
    }

    fn message(&mut self, field: u32, write: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        write(&mut inner);
        self.bytes(field, &inner.0);
    }

    /// `NamedX { name = 1, value = 2 }`
    fn named(&mut self, field: u32, name: &str, write: impl FnOnce(&mut Self)) {
        self.message(field, |m| {
            m.bytes(1, name.as_bytes());
            m.message(2, write);
        });
    }

    /// Every `x-` key as NamedAny with its value as YAML (of which JSON is a part).
    fn extensions(&mut self, field: u32, map: &Map<String, Value>) {
        for (name, value) in map.iter().filter(|(name, _)| name.starts_with("x-")) {
            self.named(field, name, |m| m.bytes(2, format!("{value}\n").as_bytes()));
        }
    }
}

fn each(value: Option<&Value>) -> impl Iterator<Item = (&String, &Map<String, Value>)> {
    value.and_then(Value::as_object).into_iter().flatten().filter_map(|(k, v)| Some((k, v.as_object()?)))
}

/// The document, as [`super::openapi`] makes it in JSON, as protobuf.
pub(super) fn document(document: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, document.get("swagger"));
    out.message(2, |m| {
        m.text(1, document["info"].get("title"));
        m.text(2, document["info"].get("version"));
    });
    out.message(8, |paths| {
        for (name, item) in each(document.get("paths")) {
            paths.named(2, name, |m| path_item(m, item));
        }
    });
    out.message(9, |definitions| {
        for (name, definition) in each(document.get("definitions")) {
            definitions.named(1, name, |m| schema(m, definition));
        }
    });
    out.0
}

fn path_item(out: &mut Message, item: &Map<String, Value>) {
    for (field, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (6, "options"), (7, "head"), (8, "patch")] {
        if let Some(Value::Object(operation_map)) = item.get(method) {
            out.message(field, |m| operation(m, operation_map));
        }
    }
    parameters(out, 9, item.get("parameters"));
}

fn operation(out: &mut Message, operation: &Map<String, Value>) {
    out.texts(1, operation.get("tags"));
    out.text(3, operation.get("description"));
    out.text(5, operation.get("operationId"));
    out.texts(6, operation.get("produces"));
    out.texts(7, operation.get("consumes"));
    parameters(out, 8, operation.get("parameters"));
    out.message(9, |responses| {
        for (code, response) in each(operation.get("responses")) {
            responses.named(1, code, |value| {
                value.message(1, |m| {
                    m.text(1, response.get("description"));
                    if let Some(Value::Object(map)) = response.get("schema") {
                        m.message(2, |item| item.message(1, |m| schema(m, map)));
                    }
                });
            });
        }
    });
    out.texts(10, operation.get("schemes"));
    out.extensions(13, operation);
}

fn parameters(out: &mut Message, field: u32, parameters: Option<&Value>) {
    for parameter in parameters.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object) {
        out.message(field, |item| item.message(1, |m| write_parameter(m, parameter)));
    }
}

fn write_parameter(out: &mut Message, parameter: &Map<String, Value>) {
    let place = parameter.get("in").and_then(Value::as_str).unwrap_or_default();
    if place == "body" {
        out.message(1, |m| {
            m.text(1, parameter.get("description"));
            m.text(2, parameter.get("name"));
            m.text(3, parameter.get("in"));
            m.flag(4, parameter.get("required"));
            if let Some(Value::Object(map)) = parameter.get("schema") {
                m.message(5, |m| schema(m, map));
            }
        });
        return;
    }
    // QueryParameterSubSchema and PathParameterSubSchema differ in `allow_empty_value` only.
    let (kind, ty, unique) = if place == "query" { (3, 6, 20) } else { (4, 5, 19) };
    out.message(2, |choice| {
        choice.message(kind, |m| {
            m.flag(1, parameter.get("required"));
            m.text(2, parameter.get("in"));
            m.text(3, parameter.get("description"));
            m.text(4, parameter.get("name"));
            m.text(ty, parameter.get("type"));
            m.flag(unique, parameter.get("uniqueItems"));
        });
    });
}

fn schema(out: &mut Message, map: &Map<String, Value>) {
    out.text(1, map.get("$ref"));
    out.text(2, map.get("format"));
    out.text(4, map.get("description"));
    if let Some(default) = map.get("default") {
        out.message(5, |m| m.bytes(2, format!("{default}\n").as_bytes()));
    }
    out.texts(19, map.get("required"));
    for value in map.get("enum").and_then(Value::as_array).into_iter().flatten() {
        out.message(20, |m| m.bytes(2, format!("{value}\n").as_bytes()));
    }
    if let Some(Value::Object(inner)) = map.get("additionalProperties") {
        out.message(21, |m| m.message(1, |m| schema(m, inner)));
    }
    if let Some(ty) = map.get("type").and_then(Value::as_str) {
        out.message(22, |m| m.bytes(1, ty.as_bytes()));
    }
    if let Some(Value::Object(inner)) = map.get("items") {
        out.message(23, |m| m.message(1, |m| schema(m, inner)));
    }
    if map.contains_key("properties") {
        out.message(25, |properties| {
            for (name, property) in each(map.get("properties")) {
                properties.named(1, name, |m| schema(m, property));
            }
        });
    }
    out.extensions(31, map);
}
