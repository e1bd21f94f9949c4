//! `kubectl create configmap`.

use api::{field::go_quote, names};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::{
    data::{self, Entry, Sources},
    generator::{Generated, Made, hash_suffix, with_namespace},
};
use crate::{
    context::Context,
    failure::{Failure, plain},
};

/// Create a config map from a local file, directory or literal value.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    made: Made,
    #[command(flatten)]
    sources: Sources,
    /// Append a hash of the contents to the name.
    #[arg(long)]
    append_hash: bool,
    /// Name of the config map.
    names: Vec<String>,
}

/// Runs the command.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let making = args.made.begin(cx, "configmap", &args.names)?;
    let name = making.name;
    if name.is_empty() {
        return Err(plain("name must be specified"));
    }
    args.sources.validate()?;
    let mut entries = data::from_files(&args.sources.files)?;
    let files = entries.len();
    entries.extend(args.sources.of_literals()?);
    entries.extend(args.sources.of_env_files("config")?);
    let object = config_map(name, entries, files, args.append_hash)?;
    making.create(cx, Generated { object: with_namespace(object, cx), failing: "failed to create configmap: " }).await
}

/// The first `files` entries come from files: those that are no text are kept as bytes.
fn config_map(name: &str, entries: Vec<Entry>, files: usize, append_hash: bool) -> Result<Value, Failure> {
    let (mut data, mut binary) = (Map::new(), Map::new());
    for (i, Entry { key, value }) in entries.into_iter().enumerate() {
        let problems = names::config_map_key(&key);
        if !problems.is_empty() {
            return Err(plain(format!(
                "{} is not a valid key name for a ConfigMap: {}",
                go_quote(&key),
                problems.join(",")
            )));
        }
        for (place, taken) in [("Data", &data), ("BinaryData", &binary)] {
            if taken.contains_key(&key) {
                let (key, name) = (go_quote(&key), go_quote(name));
                return Err(plain(format!(
                    "cannot add key {key}, another key by that name already exists in {place} for ConfigMap {name}"
                )));
            }
        }
        match String::from_utf8(value) {
            Ok(text) => drop(data.insert(key, Value::String(text))),
            Err(bytes) if i < files => drop(binary.insert(key, Value::String(STANDARD.encode(bytes.as_bytes())))),
            Err(bytes) => drop(data.insert(key, Value::String(String::from_utf8_lossy(bytes.as_bytes()).into_owned()))),
        }
    }
    let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    if append_hash {
        let mut hashed = json!({"kind": "ConfigMap", "name": name, "data": data});
        if !binary.is_empty() {
            hashed["binaryData"] = Value::Object(binary.clone());
        }
        object["metadata"]["name"] = Value::String(format!("{name}-{}", hash_suffix(&hashed)));
    }
    for (field, map) in [("data", data), ("binaryData", binary)] {
        if !map.is_empty() {
            object[field] = Value::Object(map);
        }
    }
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, value: &[u8]) -> Entry {
        Entry { key: key.to_owned(), value: value.to_vec() }
    }

    #[test]
    fn text_and_bytes_are_kept_apart() {
        let object = config_map("c", vec![entry("bin", b"\xff"), entry("text", b"t")], 2, false).unwrap();
        let want = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"text": "t"}, "binaryData": {"bin": "/w=="}});
        assert_eq!(object, want);
    }

    #[test]
    fn the_hash_is_upstreams() {
        assert_eq!(config_map("c", Vec::new(), 0, true).unwrap()["metadata"]["name"], "c-94b26g54cg");
    }

    #[test]
    fn a_key_is_taken_once() {
        assert_eq!(
            config_map("x", vec![entry("a", b"b"), entry("a", b"b")], 0, false).unwrap_err().to_string(),
            "error: cannot add key \"a\", another key by that name already exists in Data for ConfigMap \"x\""
        );
    }
}
