//! Reads the JSON-like literals inside k8s-openapi's `json_schema!` calls.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

/// The literal at the start of `text`. References to other types become `{"$ref": NAME}`.
pub fn parse(text: &str, names: &BTreeMap<String, String>) -> Result<Value> {
    Reader { text, at: 0, names }.value()
}

/// `container_port` as `containerPort`.
pub fn camel_case(name: &str) -> String {
    let mut parts = name.trim_end_matches('_').split('_');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let mut chars = part.chars();
        out.extend(chars.next().map(|c| c.to_ascii_uppercase()));
        out.push_str(chars.as_str());
    }
    out
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    names: &'a BTreeMap<String, String>,
}

impl Reader<'_> {
    fn rest(&mut self) -> &str {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
        &self.text[self.at..]
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn expect(&mut self, token: &str) -> Result<()> {
        if self.eat(token) {
            return Ok(());
        }
        let rest: String = self.rest().chars().take(60).collect();
        bail!("expected {token:?} at {rest:?}")
    }

    fn value(&mut self) -> Result<Value> {
        if self.eat("(") {
            let value = if self.rest().starts_with('{') && self.text[self.at + 1..].trim_start().starts_with("let ") {
                self.block()?
            } else {
                self.value()?
            };
            self.expect(")")?;
            return Ok(value);
        }
        if self.eat("{") {
            let mut map = Map::new();
            while !self.eat("}") {
                let key = self.string()?;
                self.expect(":")?;
                map.insert(key, self.value()?);
                self.eat(",");
            }
            return Ok(Value::Object(map));
        }
        if self.eat("[") {
            let mut items = Vec::new();
            while !self.eat("]") {
                items.push(self.value()?);
                self.eat(",");
            }
            return Ok(Value::Array(items));
        }
        if self.rest().starts_with("__gen") {
            return self.reference();
        }
        if self.rest().starts_with('"') {
            return self.string().map(Value::String);
        }
        for (token, value) in [("true", json!(true)), ("false", json!(false))] {
            if self.eat(token) {
                return Ok(value);
            }
        }
        let rest: String = self.rest().chars().take(60).collect();
        bail!("no literal at {rest:?}")
    }

    fn reference(&mut self) -> Result<Value> {
        self.expect("__gen.subschema_for::<")?;
        let rest = self.rest();
        let end = rest.find(">()").context("an open reference")?;
        let path = rest[..end].to_owned();
        self.at += end + 3;
        match path.as_str() {
            "std::string::String" => return Ok(json!({"type": "string"})),
            "bool" => return Ok(json!({"type": "boolean"})),
            _ => {}
        }
        let name = self.names.get(&path).with_context(|| format!("unknown type {path}"))?;
        Ok(json!({ "$ref": name }))
    }

    /// `{ let mut schema_obj = REFERENCE; schema_obj.ensure_object().insert("description".into(), TEXT.into()); schema_obj }`
    fn block(&mut self) -> Result<Value> {
        self.expect("{")?;
        self.expect("let mut schema_obj =")?;
        let mut value = self.reference()?;
        self.expect(";")?;
        while self.eat("schema_obj.ensure_object().insert(") {
            let key = self.string()?;
            self.expect(".into(),")?;
            let text = self.value()?;
            self.eat(".into()");
            self.expect(");")?;
            value[key] = text;
        }
        self.expect("schema_obj")?;
        self.expect("}")?;
        Ok(value)
    }

    fn string(&mut self) -> Result<String> {
        self.expect("\"")?;
        let mut out = String::new();
        let mut chars = self.text[self.at..].char_indices();
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += i + 1;
                    return Ok(out);
                }
                '\\' => match chars.next().context("an open escape")?.1 {
                    'n' => out.push('\n'),
                    't' => out.push('\t'),
                    'r' => out.push('\r'),
                    'u' => {
                        let code: String = chars.by_ref().map(|(_, c)| c).skip(1).take_while(|c| *c != '}').collect();
                        out.extend(u32::from_str_radix(&code, 16).ok().and_then(char::from_u32));
                    }
                    other => out.push(other),
                },
                c => out.push(c),
            }
        }
        bail!("an open string")
    }
}
