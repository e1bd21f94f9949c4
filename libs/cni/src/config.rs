//! A folder's configuration: the first of its files in the order of their names, as a list of plugins.
//!
//! `.conflist` holds a list, `.conf` and `.json` one plugin, which is a list of one. A file that cannot be read is an error
//! and not passed over: the next one would connect pods to a network that nobody meant.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use crate::{Error, Result};

/// Versions of the specification that we speak, oldest first.
pub const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Plugins that make one network, in the order in which they connect a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct List {
    /// The network's name.
    pub name: String,
    /// The version that plugins are spoken to in.
    pub version: String,
    /// At least one.
    pub plugins: Vec<Plugin>,
    /// Pods are not to be checked.
    pub disable_check: bool,
    /// Plugins are not to be told which pods there are.
    pub disable_gc: bool,
    /// Everything, as a list's file has it.
    pub source: Value,
}

/// One plugin of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Plugin {
    /// Its program's name.
    pub kind: String,
    /// What it wants to be told about each pod.
    pub capabilities: BTreeSet<String>,
    /// All of its own settings.
    pub settings: Map<String, Value>,
}

impl List {
    /// Reads the folder's configuration; `None` if it holds none, or does not exist.
    pub fn load(folder: &Path) -> Result<Option<Self>> {
        let Some(path) = first_file(folder)? else { return Ok(None) };
        let bytes = fs::read(&path).map_err(Error::system(format!("read {}", path.display())))?;
        let wrong = |reason: String| Error::Config { path: path.clone(), reason };
        let value: Value = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
        let value = if path.extension().is_some_and(|e| e == "conflist") { value } else { list_of_one(value) };
        Self::read(value).map(Some).map_err(wrong)
    }

    /// Reads a list.
    pub fn read(source: Value) -> std::result::Result<Self, String> {
        let fields = source.as_object().ok_or("a network configuration is a JSON object")?;
        let name = text(fields, "name")?.unwrap_or_default().to_owned();
        if !is_name(&name) {
            return Err(format!("{name:?} is no network's name: letters, digits, '_', '.' and '-' make one"));
        }
        let given = fields.get("plugins").and_then(Value::as_array).ok_or("missing 'plugins'")?;
        let plugins = given.iter().map(Plugin::read).collect::<std::result::Result<Vec<_>, _>>()?;
        if plugins.is_empty() {
            return Err("no plugins in list".to_owned());
        }
        let (version, disable_check, disable_gc) =
            (version(fields)?, flag(fields, "disableCheck")?, flag(fields, "disableGC")?);
        Ok(Self { name, version, plugins, disable_check, disable_gc, source })
    }

    /// Whether plugins are spoken to in this version or a later one.
    pub fn speaks(&self, version: &str) -> bool {
        rank(&self.version) >= rank(version)
    }

    /// Whether a plugin of it wants to be told this about each pod.
    pub fn wants(&self, capability: &str) -> bool {
        self.plugins.iter().any(|plugin| plugin.capabilities.contains(capability))
    }
}

impl Plugin {
    fn read(value: &Value) -> std::result::Result<Self, String> {
        let settings = value.as_object().ok_or("a plugin's configuration is a JSON object")?;
        let kind = text(settings, "type")?.filter(|kind| !kind.is_empty()).ok_or("missing 'type'")?.to_owned();
        if kind.contains('/') || kind == "." || kind == ".." {
            return Err(format!("{kind:?} is no plugin's name"));
        }
        let capabilities = match settings.get("capabilities") {
            None | Some(Value::Null) => BTreeSet::new(),
            Some(Value::Object(all)) => {
                all.iter().filter(|(_, wanted)| **wanted == Value::Bool(true)).map(|(name, _)| name.clone()).collect()
            }
            Some(_) => return Err("'capabilities' is a JSON object of true and false".to_owned()),
        };
        Ok(Self { kind, capabilities, settings: settings.clone() })
    }

    /// What the plugin is called in messages.
    pub fn described(&self) -> String {
        match self.settings.get("name").and_then(Value::as_str) {
            Some(name) if !name.is_empty() => format!("type={:?} name={name:?}", self.kind),
            _ => format!("type={:?}", self.kind),
        }
    }
}

/// The folder's first file of a configuration's name.
fn first_file(folder: &Path) -> Result<Option<PathBuf>> {
    let failed = || Error::system(format!("read {}", folder.display()));
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed())?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed())?.path();
        let fits = path.extension().is_some_and(|e| e == "conf" || e == "conflist" || e == "json");
        // What a link leads to counts; one that leads nowhere is an error when it is read.
        if fits && !path.is_dir() {
            names.push(path);
        }
    }
    Ok(names.into_iter().min())
}

/// One plugin's configuration as a list.
fn list_of_one(plugin: Value) -> Value {
    let mut list = Map::new();
    for key in ["name", "cniVersion", "cniVersions"] {
        list.extend(plugin.get(key).map(|value| (key.to_owned(), value.clone())));
    }
    list.insert("plugins".to_owned(), Value::Array(vec![plugin]));
    Value::Object(list)
}

/// The newest version that both sides know, of those that the configuration names.
fn version(fields: &Map<String, Value>) -> std::result::Result<String, String> {
    let mut named: Vec<&str> = text(fields, "cniVersion")?.into_iter().filter(|version| !version.is_empty()).collect();
    if let Some(more) = fields.get("cniVersions").filter(|more| !more.is_null()) {
        let more = more.as_array().ok_or("'cniVersions' is a list of versions")?;
        for version in more {
            named.push(version.as_str().ok_or("'cniVersions' is a list of versions")?);
        }
    }
    match (named.iter().filter(|version| rank(version).is_some()).max_by_key(|version| rank(version)), named.first()) {
        (Some(best), _) => Ok((*best).to_owned()),
        // What the very first version of the specification had no field for.
        (None, None) => Ok(VERSIONS[0].to_owned()),
        (None, Some(unknown)) => Err(format!("unsupported CNI version {unknown:?}")),
    }
}

fn rank(version: &str) -> Option<usize> {
    VERSIONS.iter().position(|known| *known == version)
}

fn text<'a>(fields: &'a Map<String, Value>, key: &str) -> std::result::Result<Option<&'a str>, String> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(format!("'{key}' is a string, and not {other}")),
    }
}

/// A flag, which some write as a string.
fn flag(fields: &Map<String, Value>, key: &str) -> std::result::Result<bool, String> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(other) => Err(format!("'{key}' is true or false, and not {other}")),
    }
}

/// Whether it can be a network's name or a container's ID.
pub(crate) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_file_by_name_counts() {
        let folder = tempfile::tempdir().unwrap();
        let list = || List::load(folder.path()).map(|list| list.map(|list| (list.name, list.version, list.plugins.len())));
        let put = |name: &str, value: Value| fs::write(folder.path().join(name), value.to_string()).unwrap();
        assert_eq!(List::load(&folder.path().join("absent")).unwrap(), None);

        put("00-readme.txt", json!({}));
        fs::create_dir(folder.path().join("05-folder.conf")).unwrap();
        let none = list().unwrap();
        put("30.json", json!({"name": "c", "type": "ptp"}));
        let third = list().unwrap();
        put("20.conflist", json!({"name": "b", "cniVersion": "1.0.0", "plugins": [{"type": "ptp"}, {"type": "portmap"}]}));
        let second = list().unwrap();
        put("10.conf", json!({"name": "a", "cniVersion": "0.3.1", "type": "bridge"}));
        let first = list().unwrap();
        put("01.conf", json!({"name": "a"}));
        let broken = list().unwrap_err().to_string();

        let some = |name: &str, version: &str, plugins| Some((name.to_owned(), version.to_owned(), plugins));
        assert_eq!(
            (none, third, second, first),
            (None, some("c", "0.1.0", 1), some("b", "1.0.0", 2), some("a", "0.3.1", 1))
        );
        assert!(broken.ends_with("01.conf: missing 'type'"), "{broken}");
    }

    #[test]
    fn versions_are_negotiated() {
        let version = |value: Value| version(value.as_object().unwrap());
        let chosen = [
            version(json!({})),
            version(json!({"cniVersion": "1.0.0", "cniVersions": ["0.4.0", "1.1.0", "9.0.0"]})),
            version(json!({"cniVersions": ["0.3.0", "0.3.1"]})),
            version(json!({"cniVersion": "2.0.0"})),
        ];
        let ok = |version: &str| Ok(version.to_owned());
        let unknown = Err("unsupported CNI version \"2.0.0\"".to_owned());
        assert_eq!(chosen, [ok("0.1.0"), ok("1.1.0"), ok("0.3.1"), unknown]);
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        let refused = |value: Value| List::read(value).unwrap_err();
        let plugin = json!([{"type": "ptp"}]);
        let reasons = [
            refused(json!([])),
            refused(json!({"plugins": plugin})),
            refused(json!({"name": "../a", "plugins": plugin})),
            refused(json!({"name": "a"})),
            refused(json!({"name": "a", "plugins": []})),
            refused(json!({"name": "a", "plugins": [{"type": "../../bin/sh"}]})),
            refused(json!({"name": "a", "plugins": [{"type": "ptp", "capabilities": ["portMappings"]}]})),
            refused(json!({"name": "a", "plugins": plugin, "disableCheck": "perhaps"})),
        ];
        assert_eq!(
            reasons,
            [
                "a network configuration is a JSON object",
                "\"\" is no network's name: letters, digits, '_', '.' and '-' make one",
                "\"../a\" is no network's name: letters, digits, '_', '.' and '-' make one",
                "missing 'plugins'",
                "no plugins in list",
                "\"../../bin/sh\" is no plugin's name",
                "'capabilities' is a JSON object of true and false",
                "'disableCheck' is true or false, and not \"perhaps\"",
            ]
        );
    }
}
