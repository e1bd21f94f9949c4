//! Environment variables as `kubectl set env` reads and changes them.

use api::names;
use serde_json::{Value, json};

/// What to set and what to remove.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Variables {
    /// `EnvVar`s.
    pub set: Vec<Value>,
    /// Names.
    pub remove: Vec<String>,
}

/// Arguments apart: resources first, then `KEY=VALUE` and `KEY-`.
pub fn split(arguments: &[String]) -> Option<(Vec<String>, Vec<String>)> {
    let is_variable = |a: &String| a.find('=').is_some_and(|at| at > 0) || a.ends_with('-');
    let at = arguments.iter().position(is_variable).unwrap_or(arguments.len());
    let (resources, variables) = arguments.split_at(at);
    variables.iter().all(is_variable).then(|| (resources.to_vec(), variables.to_vec()))
}

impl Variables {
    /// Reads arguments; `-` stands for the lines of stdin.
    pub fn parse(specs: &[String], stdin: impl Fn() -> Result<String, String>) -> Result<Self, String> {
        let mut out = Self::default();
        for spec in specs {
            if spec == "-" {
                out.set.extend(lines(&stdin()?));
            } else if let Some((name, value)) = spec.split_once('=') {
                let problems = names::strict_env_var_name(name);
                if !problems.is_empty() {
                    return Err(format!("{} is not a valid key name: {}", api::field::go_quote(name), problems.join(";")));
                }
                out.set.push(variable(name, value));
            } else if let Some(name) = spec.strip_suffix('-') {
                out.remove.push(name.to_owned());
            } else {
                return Err(format!("unknown environment variable: {spec}"));
            }
        }
        if out.remove.iter().any(|name| specs.iter().any(|spec| spec.split_once('=').is_some_and(|(n, _)| n == name))) {
            return Err("can not both modify and remove the same environment variable in the same command".to_owned());
        }
        Ok(out)
    }

    /// A variable that is there with another value, and that value.
    pub fn overwritten<'a>(&self, existing: &'a [Value]) -> Option<(&'a str, &'a str)> {
        let text = |v: &'a Value| v.as_str().unwrap_or_default();
        let changed = |new: &Value| {
            let old = existing.iter().find(|old| old["name"] == new["name"])?;
            (text(&old["value"]) != new["value"].as_str().unwrap_or_default())
                .then(|| (text(&old["name"]), text(&old["value"])))
        };
        self.set.iter().find_map(changed)
    }

    /// The list changed: removed ones out, changed ones in their place, new ones behind.
    pub fn apply(&self, existing: &[Value]) -> Vec<Value> {
        let mut covered: Vec<String> = self.remove.clone();
        let mut out = Vec::new();
        let new = |name: &Value| self.set.iter().find(|v| v["name"] == *name);
        for old in existing {
            let name = old["name"].as_str().unwrap_or_default().to_owned();
            if covered.contains(&name) {
                continue;
            }
            match new(&old["name"]) {
                Some(new) => {
                    covered.push(name);
                    out.push(new.clone());
                }
                None => out.push(old.clone()),
            }
        }
        for variable in &self.set {
            let name = variable["name"].as_str().unwrap_or_default().to_owned();
            if !covered.contains(&name) {
                covered.push(name);
                out.push(variable.clone());
            }
        }
        out
    }
}

/// An `EnvVar` with a plain value.
fn variable(name: &str, value: &str) -> Value {
    if value.is_empty() { json!({"name": name}) } else { json!({"name": name, "value": value}) }
}

fn lines(text: &str) -> Vec<Value> {
    let line = |line: &str| {
        let line = line.split('#').next().unwrap_or_default();
        line.split_once('=').map(|(name, value)| variable(name, value))
    };
    text.lines().filter_map(line).collect()
}

/// A key of a ConfigMap or Secret as a variable's name.
pub fn name_of_key(key: &str) -> String {
    key.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c.to_ascii_uppercase() } else { '_' }).collect()
}

/// Where a variable's value comes from, in words.
pub fn source(from: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if let Some(key) = from.get("configMapKeyRef") {
        return format!("configmap {}, key {}", text(&key["name"]), text(&key["key"]));
    }
    if let Some(key) = from.get("secretKeyRef") {
        return format!("secret {}, key {}", text(&key["name"]), text(&key["key"]));
    }
    if let Some(field) = from.get("fieldRef") {
        return format!("field path {}", text(&field["fieldPath"]));
    }
    if let Some(field) = from.get("resourceFieldRef") {
        let container = text(&field["containerName"]);
        let container = if container.is_empty() { container } else { format!("{container}/") };
        return format!("resource field {container}{}", text(&field["resource"]));
    }
    "invalid valueFrom".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn variables_keep_their_place() {
        let existing = [variable("A", "1"), variable("B", "2"), variable("C", "3")];
        let changes = Variables::parse(&strings(&["B=5", "A-", "D="]), || Ok(String::new())).unwrap();
        assert_eq!(changes.apply(&existing), [variable("B", "5"), variable("C", "3"), json!({"name": "D"})]);
        assert_eq!(changes.overwritten(&existing), Some(("B", "2")));
    }

    #[test]
    fn stdin_has_lines_and_comments() {
        let changes = Variables::parse(&strings(&["-"]), || Ok("A=b # c\n# no\nD\n".to_owned())).unwrap();
        assert_eq!(changes.set, [variable("A", "b ")]);
    }

    #[test]
    fn arguments_are_told_apart() {
        assert_eq!(
            split(&strings(&["deploy", "x", "A=b", "C-"])),
            Some((strings(&["deploy", "x"]), strings(&["A=b", "C-"])))
        );
        assert_eq!(split(&strings(&["deploy", "A=b", "x"])), None);
        assert_eq!(name_of_key("my-key.x"), "MY_KEY_X");
    }
}
