//! Taints as `kubectl taint` reads and changes them.

use api::names;
use serde_json::{Value, json};

/// A taint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taint {
    /// `dedicated`.
    pub key: String,
    /// May be empty.
    pub value: String,
    /// `NoSchedule`; empty only where a taint is removed whatever its effect.
    pub effect: String,
}

impl Taint {
    fn matches(&self, other: &Value) -> bool {
        other["key"] == self.key.as_str() && other["effect"] == self.effect.as_str()
    }

    fn to_value(&self) -> Value {
        let mut value = json!({"key": self.key, "effect": self.effect});
        if !self.value.is_empty() {
            value["value"] = json!(self.value);
        }
        value
    }

    /// `key=value:effect`, as messages have it.
    fn text(&self) -> String {
        match (self.value.as_str(), self.effect.as_str()) {
            ("", "") => self.key.clone(),
            ("", effect) => format!("{}:{effect}", self.key),
            (value, "") => format!("{}={value}:", self.key),
            (value, effect) => format!("{}={value}:{effect}", self.key),
        }
    }
}

/// What to add and what to remove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// New or changed taints.
    pub add: Vec<Taint>,
    /// Taints to remove.
    pub remove: Vec<Taint>,
}

/// Arguments apart: the resource type and names first, then taints.
pub fn split(arguments: &[String]) -> Result<(Vec<String>, Vec<String>), String> {
    let (mut resources, mut taints) = (Vec::new(), Vec::new());
    for argument in arguments {
        let is_taint = argument.contains(['=', ':']) || argument.ends_with('-');
        match (is_taint, taints.is_empty()) {
            (true, _) => taints.push(argument.clone()),
            (false, true) => resources.push(argument.clone()),
            (false, false) => return Err(format!("all resources must be specified before taint changes: {argument}")),
        }
    }
    Ok((resources, taints))
}

impl Changes {
    /// `KEY[=VALUE]:EFFECT` adds, `KEY[:EFFECT]-` removes.
    pub fn parse(specs: &[String]) -> Result<Self, String> {
        let mut changes = Self::default();
        for spec in specs {
            if let Some(spec) = spec.strip_suffix('-') {
                let taint = parse(spec)?;
                changes.remove.push(Taint { value: String::new(), ..taint });
                continue;
            }
            let taint = parse(spec)?;
            if taint.effect.is_empty() {
                return Err(format!("invalid taint spec: {spec}"));
            }
            if changes.add.iter().any(|t| t.key == taint.key && t.effect == taint.effect) {
                let Taint { key, value, effect } = taint;
                return Err(format!("duplicated taints with the same key and effect: {{{key} {value} {effect} <nil>}}"));
            }
            changes.add.push(taint);
        }
        Ok(changes)
    }

    /// Nothing may be added and removed at once.
    pub fn validate(&self) -> Result<(), String> {
        let mut conflicts = Vec::new();
        for add in &self.add {
            for remove in self.remove.iter().filter(|r| r.key == add.key) {
                if remove.effect.is_empty() || remove.effect == add.effect {
                    conflicts.push(format!("{}={}", remove.key, remove.effect));
                }
            }
        }
        if conflicts.is_empty() {
            return Ok(());
        }
        Err(format!("can not both modify and remove the following taint(s) in the same command: {}", conflicts.join(", ")))
    }

    /// Changes a node's taints and says what was done to it.
    pub fn apply(&self, node: &mut Value, overwrite: bool) -> Result<&'static str, String> {
        let old: Vec<Value> = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        if !overwrite {
            let same = |t: &Taint| old.iter().filter(|o| t.matches(o)).map(|_| t.key.clone()).collect::<Vec<_>>();
            let exists: Vec<String> = self.add.iter().flat_map(same).collect();
            if !exists.is_empty() {
                let name = node["metadata"]["name"].as_str().unwrap_or_default();
                let exists = exists.join(",");
                return Err(format!(
                    "node {name} already has {exists} taint(s) with same effect(s) and --overwrite is false"
                ));
            }
        }
        let mut new: Vec<Value> = self.add.iter().map(Taint::to_value).collect();
        new.extend(old.iter().filter(|o| !self.add.iter().any(|t| t.matches(o))).cloned());
        let added = new.len() != old.len();
        let (mut removed, mut missing) = (false, Vec::new());
        for taint in &self.remove {
            let before = new.len();
            new.retain(|t| if taint.effect.is_empty() { t["key"] != taint.key.as_str() } else { !taint.matches(t) });
            removed = new.len() != before;
            if !removed {
                missing.push(format!("taint {} not found", api::field::go_quote(&taint.text())));
            }
        }
        match missing.as_slice() {
            [] => {}
            [one] => return Err(one.clone()),
            several => return Err(format!("[{}]", several.join(", "))),
        }
        match (new.is_empty(), node["spec"].as_object_mut()) {
            (true, Some(spec)) => drop(spec.remove("taints")),
            _ => node["spec"]["taints"] = Value::Array(new),
        }
        Ok(match (added, removed) {
            _ if overwrite => "modified",
            (true, true) => "modified",
            (true, false) => "tainted",
            (false, _) => "untainted",
        })
    }
}

fn parse(spec: &str) -> Result<Taint, String> {
    let invalid = || format!("invalid taint spec: {spec}");
    let mut taint = Taint::default();
    match spec.split(':').collect::<Vec<_>>()[..] {
        [key] => taint.key = key.to_owned(),
        [pair, effect] => {
            if !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
                return Err(format!("invalid taint effect: {effect}, unsupported taint effect"));
            }
            taint.effect = effect.to_owned();
            match pair.split('=').collect::<Vec<_>>()[..] {
                [key] => taint.key = key.to_owned(),
                [key, value] => {
                    taint.key = key.to_owned();
                    taint.value = value.to_owned();
                    let problems = names::label_value(value);
                    if !problems.is_empty() {
                        return Err(format!("{}, {}", invalid(), problems.join("; ")));
                    }
                }
                _ => return Err(invalid()),
            }
        }
        _ => return Err(invalid()),
    }
    let problems = names::qualified_name(&taint.key);
    if problems.is_empty() { Ok(taint) } else { Err(format!("{}, {}", invalid(), problems.join("; "))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(specs: &[&str]) -> Result<Changes, String> {
        Changes::parse(&specs.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    fn node() -> Value {
        json!({"metadata": {"name": "n"}, "spec": {"taints": [{"key": "a", "value": "b", "effect": "NoSchedule"}]}})
    }

    #[test]
    fn taints_are_added_in_front_and_removed() {
        let mut node = node();
        assert_eq!(changes(&["c=d:NoExecute"]).unwrap().apply(&mut node, false), Ok("tainted"));
        assert_eq!(
            node["spec"]["taints"],
            json!([{"key": "c", "value": "d", "effect": "NoExecute"}, {"key": "a", "value": "b", "effect": "NoSchedule"}])
        );
        assert_eq!(changes(&["a-", "c:NoExecute-"]).unwrap().apply(&mut node, false), Ok("untainted"));
        assert_eq!(node["spec"], json!({}));
    }

    #[test]
    fn mistakes_are_told() {
        let apply = |specs: &[&str]| changes(specs).and_then(|c| c.apply(&mut node(), false)).unwrap_err();
        assert_eq!(apply(&["a=x:NoSchedule"]), "node n already has a taint(s) with same effect(s) and --overwrite is false");
        assert_eq!(apply(&["x:NoExecute-"]), "taint \"x:NoExecute\" not found");
        assert_eq!(apply(&["a=b:Odd"]), "invalid taint effect: Odd, unsupported taint effect");
        assert_eq!(
            apply(&["a=b"]),
            "invalid taint spec: a=b, name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
        );
    }
}
