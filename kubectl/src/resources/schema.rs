//! Upstream's check of a `v1` List by the server's OpenAPI v2 document: its items one by one, before any of them is sent.
//!
//! Servers check what they are sent themselves, and better; but a List is never sent. The words are those of kube-openapi's
//! `validation` package, and so is what it overlooks: any scalar is a string, a field that is null is not looked at.

use serde_json::{Map, Value};

use crate::{
    client::{Call, Client},
    discovery::split_api_version,
};

/// The types that a server describes.
pub struct Definitions(Map<String, Value>);

impl Definitions {
    /// Asks for them.
    ///
    /// # Errors
    /// Why they cannot be had.
    pub async fn fetch(client: &Client) -> Result<Self, String> {
        let answer = client.json(Call::get("/openapi/v2").soon()).await;
        let mut document = answer.map_err(|failure| failure.unread().message())?;
        Ok(match document["definitions"].take() {
            Value::Object(definitions) => Self(definitions),
            _ => Self(Map::new()),
        })
    }

    /// What is wrong with an object. Nothing is with those of kinds that are not described.
    pub fn check(&self, object: &Value, api_version: &str, kind: &str) -> Vec<String> {
        let (group, version) = split_api_version(api_version);
        let is = |of: &Value| of["group"] == group && of["version"] == version && of["kind"] == kind;
        let described =
            |model: &Value| model["x-kubernetes-group-version-kind"].as_array().is_some_and(|all| all.iter().any(is));
        let Some((name, model)) = self.0.iter().find(|(_, model)| described(model)) else { return Vec::new() };
        let mut check = Check { definitions: &self.0, wrong: Vec::new() };
        check.value(Type { schema: model, name: name.clone() }, object, kind);
        check.wrong
    }
}

/// A schema and how messages name it: `io.k8s.api.core.v1.Pod`, `io.k8s.api.core.v1.PodSpec.hostNetwork`.
struct Type<'a> {
    schema: &'a Value,
    name: String,
}

struct Check<'a> {
    definitions: &'a Map<String, Value>,
    wrong: Vec<String>,
}

impl<'a> Check<'a> {
    fn wrong(&mut self, path: &str, why: &str) {
        self.wrong.push(format!("ValidationError({path}): {why}"));
    }

    /// Looks at a value that is not null.
    fn value(&mut self, of: Type<'a>, value: &Value, path: &str) {
        let Type { schema, name } = of;
        if let Some(reference) = schema["$ref"].as_str() {
            let name = reference.trim_start_matches("#/definitions/").to_owned();
            if let Some(schema) = self.definitions.get(&name) {
                self.value(Type { schema, name }, value, path);
            }
            return;
        }
        let fields = schema["properties"].as_object();
        let expected = match schema["type"].as_str() {
            None if fields.is_none() => return,
            None | Some("object") => "map",
            Some(other) => other,
        };
        match (value, expected) {
            (Value::Object(map), "map") => match fields {
                Some(fields) => self.fields(&Type { schema, name }, fields, map, path),
                None => self.entries(&Type { schema, name }, map, path),
            },
            (Value::Array(items), "array") => self.items(&Type { schema, name }, items, path),
            _ => {
                let found = type_of(value);
                let scalar = !matches!(found, "map" | "array");
                let number = |name| matches!(name, "integer" | "number");
                if !(scalar && expected == "string" || found == expected || number(found) && number(expected)) {
                    self.wrong(path, &format!("invalid type for {name}: got \"{found}\", expected \"{expected}\""));
                }
            }
        }
    }

    fn fields(&mut self, of: &Type<'a>, fields: &'a Map<String, Value>, map: &Map<String, Value>, path: &str) {
        for (key, value) in sorted(map).into_iter().filter(|(_, value)| !value.is_null()) {
            match fields.get(key) {
                Some(schema) => {
                    self.value(Type { schema, name: format!("{}.{key}", of.name) }, value, &format!("{path}.{key}"));
                }
                None => self.wrong(path, &format!("unknown field {} in {}", api::field::go_quote(key), of.name)),
            }
        }
        for required in of.schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if map.get(required).is_none_or(Value::is_null) {
                self.wrong(path, &format!("missing required field {} in {}", api::field::go_quote(required), of.name));
            }
        }
    }

    fn entries(&mut self, of: &Type<'a>, map: &Map<String, Value>, path: &str) {
        for (key, value) in sorted(map) {
            let path = format!("{path}.{key}");
            match &of.schema["additionalProperties"] {
                _ if value.is_null() => self.wrong.push(format!("unknown object type \"nil\" in {path}")),
                schema @ Value::Object(_) => self.value(Type { schema, name: of.name.clone() }, value, &path),
                _ => {}
            }
        }
    }

    fn items(&mut self, of: &Type<'a>, items: &[Value], path: &str) {
        for (at, value) in items.iter().enumerate() {
            let item = format!("{path}[{at}]");
            if value.is_null() {
                self.wrong(path, &format!("unknown object type \"nil\" in {item}"));
            } else {
                self.value(Type { schema: &of.schema["items"], name: of.name.clone() }, value, &item);
            }
        }
    }
}

fn sorted(map: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_by_key(|(key, _)| *key);
    entries
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Object(_) => "map",
        Value::Array(_) => "array",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) | Value::Null => "string",
    }
}
