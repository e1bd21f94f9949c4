//! `config set` and `unset`: single values by their path.

use api::field::go_quote;
use base64::Engine;
use serde_json::Value;

use super::edit::{change, current_file, default_file, entries, entries_mut, help_first};
use crate::{
    context::Context,
    failure::{Failure, from_base64, plain},
};

/// A path: a list, the name of an entry (names may hold dots), and a field of it.
#[derive(Debug, PartialEq, Eq)]
enum Property<'a> {
    CurrentContext,
    /// `kind` and `apiVersion`, which are what they are.
    Fixed,
    Preferences(Option<&'a str>),
    List(&'a str),
    Entry {
        list: &'a str,
        name: String,
        field: Option<Field>,
    },
}

/// What a field takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    Text,
    Flag,
    Bytes,
    Texts,
    /// Fields of its own, which no path leads to.
    More,
}

/// A field: its name on the command line (upstream's is that of its own structures), its name in files, and what it takes.
type Field = (&'static str, &'static str, Takes);

const fn same(name: &'static str, takes: Takes) -> Field {
    (name, name, takes)
}

const CLUSTER: &[Field] = &[
    same("server", Takes::Text),
    same("tls-server-name", Takes::Text),
    same("insecure-skip-tls-verify", Takes::Flag),
    same("certificate-authority", Takes::Text),
    same("certificate-authority-data", Takes::Bytes),
    same("proxy-url", Takes::Text),
    same("disable-compression", Takes::Flag),
    same("extensions", Takes::More),
];

const CONTEXT: &[Field] = &[
    same("cluster", Takes::Text),
    same("user", Takes::Text),
    same("namespace", Takes::Text),
    same("extensions", Takes::More),
];

const USER: &[Field] = &[
    same("client-certificate", Takes::Text),
    same("client-certificate-data", Takes::Bytes),
    same("client-key", Takes::Text),
    same("client-key-data", Takes::Bytes),
    same("token", Takes::Text),
    same("tokenFile", Takes::Text),
    ("act-as", "as", Takes::Text),
    ("act-as-uid", "as-uid", Takes::Text),
    ("act-as-groups", "as-groups", Takes::Texts),
    ("act-as-user-extra", "as-user-extra", Takes::More),
    same("username", Takes::Text),
    same("password", Takes::Text),
    same("auth-provider", Takes::More),
    same("exec", Takes::More),
    same("extensions", Takes::More),
];

fn fields(list: &str) -> &'static [Field] {
    match list {
        "clusters" => CLUSTER,
        "users" => USER,
        _ => CONTEXT,
    }
}

fn parse(path: &str) -> Result<Property<'_>, Failure> {
    let (list, rest) = path.split_once('.').map_or((path, None), |(list, rest)| (list, Some(rest)));
    let too_long = || plain(format!("unable to parse one or more field values of {path}"));
    let parts: Vec<&str> = rest.map(|rest| rest.split('.').collect()).unwrap_or_default();
    match (list, parts.as_slice()) {
        ("current-context", []) => Ok(Property::CurrentContext),
        ("kind" | "apiVersion", []) => Ok(Property::Fixed),
        ("current-context" | "kind" | "apiVersion", _) => Err(too_long()),
        ("preferences", []) => Ok(Property::Preferences(None)),
        ("preferences", [field @ ("colors" | "extensions")]) => Ok(Property::Preferences(Some(field))),
        ("preferences", ["colors" | "extensions", ..]) => Err(too_long()),
        ("preferences", _) => Err(plain(format!("unable to parse {path} after [{{preferences}}] at api.Preferences"))),
        ("clusters" | "users" | "contexts", []) => Ok(Property::List(list)),
        ("clusters" | "users" | "contexts", parts) => {
            let known = |part: &&str| fields(list).iter().any(|(name, ..)| *name == *part);
            let end = parts.iter().skip(1).position(known).map_or(parts.len(), |at| at + 1);
            let field = match &parts[end..] {
                [] => None,
                [field] => fields(list).iter().find(|(name, ..)| name == field).copied(),
                _ => return Err(too_long()),
            };
            Ok(Property::Entry { list, name: parts[..end].join("."), field })
        }
        _ => Err(plain(format!("unable to parse {path} after [] at api.Config"))),
    }
}

fn flag(text: &str) -> Result<Value, Failure> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true.into()),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false.into()),
        _ => Err(plain(format!("strconv.ParseBool: parsing {}: invalid syntax", go_quote(text)))),
    }
}

fn value_of(path: &str, takes: Takes, text: &str, raw: bool) -> Result<Value, Failure> {
    match takes {
        Takes::Text => Ok(text.into()),
        Takes::Flag => flag(text),
        Takes::Bytes if raw => Ok(base64::engine::general_purpose::STANDARD.encode(text).into()),
        Takes::Bytes => {
            let why = |why| plain(format!("error decoding input value: {why}"));
            from_base64(text).map(|_| text.into()).map_err(why)
        }
        Takes::Texts => Err(plain("unrecognized slice type. string")),
        Takes::More => Err(plain(format!("can't set {path}: it has fields of its own"))),
    }
}

pub fn set(cx: &Context, args: &[String], raw: bool) -> Result<(), Failure> {
    let [path, text] = args else {
        return Err(help_first("set", format!("Unexpected args: [{}]", args.join(" "))));
    };
    if text.is_empty() {
        return Err(plain("you cannot use set to unset a property"));
    }
    if path.is_empty() {
        return Err(plain("you must specify a property"));
    }
    match parse(path)? {
        Property::CurrentContext => change(&current_file(cx)?, |config| config.current_context.clone_from(text))?,
        Property::Fixed => {}
        Property::Preferences(Some("colors")) => {
            let value = flag(text)?;
            change(&default_file(cx), |config| match value {
                Value::Bool(false) => drop(config.preferences.remove("colors")),
                value => drop(config.preferences.insert("colors".to_owned(), value)),
            })?;
        }
        Property::Preferences(_) => return Err(plain(format!("can't set {path}: it has fields of its own"))),
        Property::List(list) | Property::Entry { list, field: None, .. } => {
            let names: Vec<&str> = entries(cx.kubeconfig()?, list).keys().map(String::as_str).collect();
            return Err(plain(format!("can't set a map to a value: map[{}]", names.join(" "))));
        }
        Property::Entry { list, name, field: Some((_, field, takes)) } => {
            let value = value_of(path, takes, text, raw)?;
            let file = entries(cx.kubeconfig()?, list).get(&name).map_or_else(|| default_file(cx), |e| e.origin.clone());
            change(&file, |config| {
                entries_mut(config, list).entry(name).or_default().fields.insert(field.to_owned(), value);
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
        Property::Fixed => {}
        Property::Preferences(field) => change(&default_file(cx), |config| match field {
            Some(field) => drop(config.preferences.remove(field)),
            None => config.preferences.clear(),
        })?,
        Property::List(list) => change(&default_file(cx), |config| entries_mut(config, list).clear())?,
        Property::Entry { list, name, field } => {
            let Some(entry) = entries(cx.kubeconfig()?, list).get(&name) else {
                if field.is_none() {
                    println!("Property {} unset.", go_quote(path));
                    return Ok(());
                }
                return Err(plain(format!("current map key `{name}` is invalid")));
            };
            change(&entry.origin, |config| match (field, entries_mut(config, list)) {
                (None, all) => drop(all.remove(&name)),
                (Some((_, field, _)), all) => drop(all.get_mut(&name).map(|entry| entry.fields.remove(field))),
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
        let entry = |list, name: &str, field| Property::Entry { list, name: name.to_owned(), field };
        let namespace = Some(same("namespace", Takes::Text));
        assert_eq!(parse("contexts.a.b.namespace").unwrap(), entry("contexts", "a.b", namespace));
        assert_eq!(parse("clusters.c").unwrap(), entry("clusters", "c", None));
        assert_eq!(parse("users.u.server").unwrap(), entry("users", "u.server", None));
        assert_eq!(parse("current-context").unwrap(), Property::CurrentContext);
        for path in ["nothing.x", "current-context.x", "clusters.c.server.x", "users.u.exec.command", "preferences.x"] {
            assert!(parse(path).is_err(), "{path}");
        }
    }
}
