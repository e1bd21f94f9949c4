//! Kinds without a describer of their own: all fields, with labels made of their names.

use serde_json::Value;

use super::{
    json::{Json, shown},
    parts,
    writer::Writer,
};
use crate::line;

const SKIPPED: [&str; 5] =
    [".metadata.managedFields", ".metadata.name", ".metadata.namespace", ".metadata.labels", ".metadata.annotations"];

/// Any object.
pub fn describe(w: &mut Writer, object: &Value, events: Option<&[Value]>) {
    line!(w, 0, "Name:\t{}", object.text("metadata.name"));
    line!(w, 0, "Namespace:\t{}", object.text("metadata.namespace"));
    parts::metadata_maps(w, object);
    fields(w, 0, object, "");
    parts::events(w, events);
}

fn fields(w: &mut Writer, level: usize, object: &Value, path: &str) {
    let Some(object) = object.as_object() else { return };
    let mut names: Vec<&String> = object.keys().collect();
    names.sort_unstable();
    for name in names {
        let value = &object[name];
        let path = format!("{path}.{name}");
        if SKIPPED.contains(&path.as_str()) {
            continue;
        }
        match value {
            Value::Object(_) => {
                line!(w, level, "{}:", label(name));
                fields(w, level + 1, value, &path);
            }
            Value::Array(items) => {
                line!(w, level, "{}:", label(name));
                for item in items {
                    match item {
                        Value::Object(_) => fields(w, level + 1, item, &path),
                        other => w.line(level + 1, &shown(other)),
                    }
                }
            }
            other => line!(w, level, "{}:\t{}", label(name), shown(other)),
        }
    }
}

/// `clusterIPs` becomes `Cluster I Ps`, as upstream splits it; what has other than letters and dashes stays as it is.
fn label(name: &str) -> String {
    if !name.chars().all(|c| c.is_alphabetic() || c == '-') {
        return name.to_owned();
    }
    let title = |part: String| match part.to_uppercase() {
        upper if matches!(upper.as_str(), "API" | "URL" | "UID" | "OSB" | "GUID") => upper,
        _ => {
            let mut chars = part.chars();
            chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
        }
    };
    split(name).into_iter().map(title).collect::<Vec<String>>().join(" ")
}

/// Runs of upper case, lower case and other characters; the last of several capitals belongs to what follows.
fn split(name: &str) -> Vec<String> {
    let class = |c: char| {
        if c.is_lowercase() {
            1
        } else if c.is_uppercase() {
            2
        } else {
            3
        }
    };
    let mut runs: Vec<String> = Vec::new();
    let mut last = 0;
    for c in name.chars() {
        match runs.last_mut() {
            Some(run) if last == class(c) => run.push(c),
            _ => runs.push(c.to_string()),
        }
        last = class(c);
    }
    for n in 1..runs.len() {
        let upper_then_lower = runs[n - 1].chars().next().is_some_and(char::is_uppercase)
            && runs[n].chars().next().is_some_and(char::is_lowercase);
        if upper_then_lower && let Some(capital) = runs[n - 1].pop() {
            runs[n].insert(0, capital);
        }
    }
    runs.retain(|run| !run.is_empty());
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_fields() {
        let cases = [
            ("apiVersion", "API Version"),
            ("clusterIPs", "Cluster I Ps"),
            ("uid", "UID"),
            ("holderIdentity", "Holder Identity"),
            ("x.y/z", "x.y/z"),
            ("podCIDR", "Pod CIDR"),
        ];
        for (given, want) in cases {
            assert_eq!(label(given), want);
        }
    }
}
