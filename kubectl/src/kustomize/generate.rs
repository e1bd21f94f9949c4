//! ConfigMaps and Secrets made of literals, files and variables, and the hash that their names end with.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    file::{Generator, GeneratorOptions},
    resource::{Behavior, Resource, scalar},
    source::Folder,
};
use crate::output::json::compact;

/// Keys and their contents.
type Pairs = Vec<(String, Vec<u8>)>;

/// A generator's own options, with those of all generators where it has none.
fn options(own: Option<&GeneratorOptions>, all: Option<&GeneratorOptions>) -> GeneratorOptions {
    let mut merged = own.cloned().unwrap_or_default();
    let Some(all) = all else { return merged };
    let add = |own: &mut BTreeMap<String, String>, all: &BTreeMap<String, String>| {
        for (key, value) in all {
            own.entry(key.clone()).or_insert_with(|| value.clone());
        }
    };
    add(&mut merged.labels, &all.labels);
    add(&mut merged.annotations, &all.annotations);
    merged.disable_name_suffix_hash |= all.disable_name_suffix_hash;
    merged.immutable |= all.immutable;
    merged
}

fn literal(source: &str) -> Result<(String, Vec<u8>), String> {
    let (key, value) = source
        .split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .ok_or_else(|| format!("invalid literal source {source}, expected key=value"))?;
    let quoted = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
    Ok((key.to_owned(), quoted.unwrap_or(value).as_bytes().to_vec()))
}

fn file(folder: &Folder, source: &str) -> Result<(String, Vec<u8>), String> {
    let quote = api::field::go_quote;
    let (key, path) = match source.split_once('=') {
        None => (source.trim_end_matches('/').rsplit('/').next().unwrap_or(source), source),
        Some((_, path)) if path.contains('=') => {
            return Err(format!("source {} key name or file path contains '='", quote(source)));
        }
        Some(("", path)) => {
            return Err(format!("missing key name for file path {} in source {}", quote(path), quote(source)));
        }
        Some((key, "")) => {
            return Err(format!("missing file path for key name {} in source {}", quote(key), quote(source)));
        }
        Some((key, path)) => (key, path),
    };
    Ok((key.to_owned(), folder.load(path)?))
}

fn variables(folder: &Folder, path: &str) -> Result<Pairs, String> {
    let content = folder.load(path)?;
    let mut pairs = Vec::new();
    for (at, line) in content.split(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = std::str::from_utf8(line).map_err(|_| format!("line {} has invalid utf8 bytes", at + 1))?;
        let line = if at == 0 { line.trim_start_matches('\u{feff}') } else { line }.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        if !key.is_empty() {
            pairs.push((key.to_owned(), value.as_bytes().to_vec()));
        }
    }
    Ok(pairs)
}

fn pairs(folder: &Folder, generator: &Generator) -> Result<Pairs, String> {
    let mut all = Vec::new();
    let list = |sources: &[String]| format!("[{}]", sources.join(" "));
    for path in &generator.envs {
        let read = variables(folder, path);
        all.extend(read.map_err(|why| format!("env source files: {}: {why}", list(&generator.envs)))?);
    }
    for source in &generator.literals {
        all.push(literal(source).map_err(|why| format!("literal sources {}: {why}", list(&generator.literals)))?);
    }
    for source in &generator.files {
        all.push(file(folder, source).map_err(|why| format!("file sources: {}: {why}", list(&generator.files)))?);
    }
    Ok(all)
}

/// Base64 in lines, as upstream writes what is longer than one.
fn base64(content: &[u8]) -> String {
    const LINE: usize = 70;
    let text = STANDARD.encode(content);
    if text.len() < LINE {
        return text;
    }
    let line = |bytes: &[u8]| format!("{}\n", String::from_utf8_lossy(bytes));
    text.as_bytes().chunks(LINE).map(line).collect()
}

/// The resource that a generator makes: a `ConfigMap` or a `Secret`.
///
/// # Errors
/// It has no name, or what it is made of is not there.
pub fn make(folder: &Folder, kind: &str, generator: &Generator, all: Option<&GeneratorOptions>) -> Result<Resource, String> {
    if generator.name.is_empty() {
        return Err("a configmap must have a name".to_owned());
    }
    let mut metadata = json!({"name": generator.name});
    if !generator.namespace.is_empty() {
        metadata["namespace"] = generator.namespace.clone().into();
    }
    let mut value = json!({"apiVersion": "v1", "kind": kind, "metadata": metadata});
    let secret = kind == "Secret";
    if secret {
        value["type"] = if generator.r#type.is_empty() { "Opaque".into() } else { generator.r#type.clone().into() };
        value["data"] = json!({});
    }
    let mut known = Vec::new();
    for (key, content) in pairs(folder, generator).map_err(|why| format!("loading KV pairs: {why}"))? {
        if known.contains(&key) {
            return Err(format!("configmap {} illegally repeats the key `{key}`", generator.name));
        }
        known.push(key.clone());
        match String::from_utf8(content) {
            Ok(text) if !secret => value["data"][key] = text.into(),
            Ok(text) => value["data"][key] = base64(text.as_bytes()).into(),
            Err(error) => {
                let field = if secret { "data" } else { "binaryData" };
                value[field][key] = base64(error.as_bytes()).into();
            }
        }
    }
    let options = options(generator.options.as_ref(), all);
    for (field, entries) in [("labels", &options.labels), ("annotations", &options.annotations)] {
        if !entries.is_empty() {
            value["metadata"][field] = json!(entries);
        }
    }
    if options.immutable {
        value["immutable"] = true.into();
    }
    let behavior = match generator.behavior.as_str() {
        "replace" => Behavior::Replace,
        "merge" => Behavior::Merge,
        _ => Behavior::Create,
    };
    let mut resource = Resource::new(value);
    resource.hashed = !options.disable_name_suffix_hash;
    resource.behavior = behavior;
    Ok(resource)
}

/// What a resource's name ends with: ten characters of a hash of its content, without vowels and what looks like them.
pub fn hash(resource: &Resource) -> String {
    let value = &resource.value;
    let part = |field: &str| match &value[field] {
        Value::Null => "".into(),
        there @ (Value::Object(_) | Value::Array(_)) => there.clone(),
        there => scalar(there).into(),
    };
    let kind = resource.kind();
    let mut content = Map::new();
    let (fields, optional) = match kind.as_str() {
        "Secret" => (&["data", "type"][..], "stringData"),
        _ => (&["data"][..], "binaryData"),
    };
    fields.iter().for_each(|field| drop(content.insert((*field).to_owned(), part(field))));
    if value[optional].is_object() {
        content.insert(optional.to_owned(), value[optional].clone());
    }
    content.insert("kind".to_owned(), kind.into());
    // Upstream looks for the name where none is: so it does not count.
    content.insert("name".to_owned(), "".into());
    let digest = Sha256::digest(compact(&Value::Object(content)));
    let digits: String = digest.iter().take(5).map(|byte| format!("{byte:02x}")).collect();
    let other = |digit| match digit {
        '0' => 'g',
        '1' => 'h',
        '3' => 'k',
        'a' => 'm',
        'e' => 't',
        digit => digit,
    };
    digits.chars().map(other).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_lose_their_quotes() {
        assert_eq!(literal("a='b=c'"), Ok(("a".to_owned(), b"b=c".to_vec())));
        assert_eq!(literal("a='"), Ok(("a".to_owned(), b"'".to_vec())));
        assert_eq!(literal("=a").unwrap_err(), "invalid literal source =a, expected key=value");
    }

    #[test]
    fn options_of_all_give_way() {
        let of = |text: &str| serde_json::from_str::<GeneratorOptions>(text).unwrap();
        let own = of(r#"{"labels": {"a": "1"}}"#);
        let merged = options(Some(&own), Some(&of(r#"{"labels": {"a": "2", "b": "2"}, "immutable": true}"#)));
        assert_eq!(json!(merged.labels), json!({"a": "1", "b": "2"}));
        assert!(merged.immutable && !merged.disable_name_suffix_hash);
    }
}
