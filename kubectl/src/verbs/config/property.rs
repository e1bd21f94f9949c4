//! `config set` and `unset`: single values by their path.

use api::field::go_quote;
use base64::Engine;
use serde_json::Value;

use super::edit::{change, current_file, default_file, entries, entries_mut, help_first};
use crate::{
    context::Context,
    failure::{Failure, go_base64, plain},
};

/// A path: a list, the name of an entry (names may hold dots), and fields in it.
#[derive(Debug, PartialEq, Eq)]
enum Property<'a> {
    CurrentContext,
    Preferences(Option<&'a str>),
    List(&'a str),
    Entry { list: &'a str, name: String, fields: Vec<&'a str> },
}

const FIELDS: &[&str] = &[
    "server",
    "tls-server-name",
    "insecure-skip-tls-verify",
    "certificate-authority",
    "certificate-authority-data",
    "proxy-url",
    "disable-compression",
    "cluster",
    "user",
    "namespace",
    "client-certificate",
    "client-certificate-data",
    "client-key",
    "client-key-data",
    "token",
    "tokenFile",
    "as",
    "as-uid",
    "as-groups",
    "username",
    "password",
    "exec",
    "auth-provider",
    "extensions",
];

fn parse(path: &str) -> Result<Property<'_>, Failure> {
    if path == "current-context" {
        return Ok(Property::CurrentContext);
    }
    let (list, rest) = path.split_once('.').unwrap_or((path, ""));
    if list == "preferences" {
        return Ok(Property::Preferences((!rest.is_empty()).then_some(rest)));
    }
    if !["clusters", "users", "contexts"].contains(&list) {
        return Err(plain(format!("unable to parse {path} after [] at api.Config")));
    }
    let parts: Vec<&str> = rest.split('.').filter(|p| !p.is_empty()).collect();
    let at = parts.iter().skip(1).position(|p| FIELDS.contains(p)).map_or(parts.len(), |at| at + 1);
    if parts.is_empty() {
        return Ok(Property::List(list));
    }
    Ok(Property::Entry { list, name: parts[..at].join("."), fields: parts[at..].to_vec() })
}

fn value_of(field: &str, text: &str, raw: bool) -> Result<Value, Failure> {
    if matches!(field, "insecure-skip-tls-verify" | "disable-compression") {
        return match text {
            "true" | "1" | "t" => Ok(true.into()),
            "false" | "0" | "f" => Ok(false.into()),
            _ => Err(plain(format!("strconv.ParseBool: parsing {}: invalid syntax", go_quote(text)))),
        };
    }
    if field.ends_with("-data") {
        if raw {
            return Ok(base64::engine::general_purpose::STANDARD.encode(text).into());
        }
        let decoded = base64::engine::general_purpose::STANDARD.decode(text);
        let why = |error| plain(format!("error decoding input value: {}", go_base64(text, &error)));
        return decoded.map(|_| text.into()).map_err(why);
    }
    if field == "as-groups" {
        return Ok(text.split(',').map(Value::from).collect());
    }
    Ok(text.into())
}

pub fn set(cx: &Context, args: &[String], raw: bool) -> Result<(), Failure> {
    let [path, text] = args else {
        return Err(help_first("set", format!("Unexpected args: [{}]", args.join(" "))));
    };
    match parse(path)? {
        Property::CurrentContext => change(&current_file(cx)?, |config| config.current_context.clone_from(text))?,
        Property::Preferences(Some("colors")) => {
            let value = value_of("insecure-skip-tls-verify", text, raw)?;
            change(&default_file(cx), |config| {
                config.preferences.insert("colors".to_owned(), value);
            })?;
        }
        Property::Preferences(_) | Property::List(_) => {
            return Err(plain(format!("can't specify set of {path}: a field is missing")));
        }
        Property::Entry { list, name, fields } => {
            let Some((last, inner)) = fields.split_last() else {
                return Err(plain(format!("can't specify set of {path}: a field is missing")));
            };
            let value = value_of(last, text, raw)?;
            let file = entries(cx.kubeconfig()?, list).get(&name).map_or_else(|| default_file(cx), |e| e.origin.clone());
            change(&file, |config| {
                let entry = entries_mut(config, list).entry(name).or_default();
                let mut map = &mut entry.fields;
                for field in inner {
                    let next = map.entry(*field).or_insert_with(|| Value::Object(serde_json::Map::new()));
                    if !next.is_object() {
                        *next = Value::Object(serde_json::Map::new());
                    }
                    let Value::Object(next) = next else { return };
                    map = next;
                }
                map.insert((*last).to_owned(), value);
            })?;
        }
    }
    println!("Property {} set.", go_quote(path));
    Ok(())
}

pub fn unset(cx: &Context, args: &[String]) -> Result<(), Failure> {
    let [path] = args else {
        return Err(help_first("unset", format!("Unexpected args: [{}]", args.join(" "))));
    };
    match parse(path)? {
        Property::CurrentContext => change(&current_file(cx)?, |config| config.current_context.clear())?,
        Property::Preferences(field) => change(&default_file(cx), |config| match field {
            Some(field) => drop(config.preferences.remove(field)),
            None => config.preferences.clear(),
        })?,
        Property::List(list) => change(&default_file(cx), |config| entries_mut(config, list).clear())?,
        Property::Entry { list, name, fields } => {
            let Some(entry) = entries(cx.kubeconfig()?, list).get(&name) else {
                if fields.is_empty() {
                    println!("Property {} unset.", go_quote(path));
                    return Ok(());
                }
                return Err(plain(format!("current map key `{name}` is invalid")));
            };
            let file = entry.origin.clone();
            change(&file, |config| {
                let all = entries_mut(config, list);
                let Some((last, inner)) = fields.split_last() else {
                    all.remove(&name);
                    return;
                };
                let Some(entry) = all.get_mut(&name) else { return };
                let mut map = &mut entry.fields;
                for field in inner {
                    let Some(Value::Object(next)) = map.get_mut(*field) else { return };
                    map = next;
                }
                map.remove(*last);
            })?;
        }
    }
    println!("Property {} unset.", go_quote(path));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_hold_dots() {
        let entry = |list, name: &str, fields| Property::Entry { list, name: name.to_owned(), fields };
        assert_eq!(parse("contexts.a.b.namespace").unwrap(), entry("contexts", "a.b", vec!["namespace"]));
        assert_eq!(parse("clusters.c").unwrap(), entry("clusters", "c", vec![]));
        assert_eq!(parse("current-context").unwrap(), Property::CurrentContext);
        assert!(parse("nothing.x").is_err());
    }
}
