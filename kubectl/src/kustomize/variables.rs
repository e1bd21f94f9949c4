//! Variables (`vars`): `$(NAME)` in some fields is replaced by what a field of another resource holds.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{
    fields::{FieldSpec, Make},
    file::Variable,
    replace::lookup,
    resource::{Gvk, Id, scalar},
    set::Resources,
};

/// The resource that a variable's value is in.
fn id_of(variable: &Variable) -> Id {
    let of = &variable.objref;
    let (mut group, mut version) = (of.group.clone(), of.version.clone());
    match of.api_version.split_once('/') {
        Some((of_group, of_version)) => (group, version) = (of_group.to_owned(), of_version.to_owned()),
        None if !of.api_version.is_empty() => version.clone_from(&of.api_version),
        None => {}
    }
    let gvk = Gvk { group, version, kind: of.kind.clone() };
    Id { gvk, name: of.name.clone(), namespace: of.namespace.clone() }
}

/// Adds a kustomization's variables to those of others, and marks the resources that they are of.
///
/// # Errors
/// Two variables have a name, or two resources could be meant.
pub fn add(all: &mut Vec<Variable>, set: &mut Resources, more: &[Variable]) -> Result<(), String> {
    for variable in more {
        let wanted = id_of(variable);
        let exact = !wanted.namespace.is_empty() || wanted.gvk.is_cluster_scoped();
        let fits = |id: &Id| {
            if exact { wanted.equals(id) } else { wanted.gvk == id.gvk && wanted.name == id.name }
        };
        let mut found = set.0.iter_mut().filter(|resource| resource.ids().iter().any(fits));
        match (found.next(), found.count()) {
            (Some(resource), 0) => resource.variables.push(variable.name.clone()),
            (None, _) => {}
            (Some(_), others) => {
                let (count, name) = (others + 1, &variable.name);
                return Err(format!("found {count} resId matches for var {name} (unable to disambiguate)"));
            }
        }
    }
    merge(all, more)
}

/// Adds variables to others.
///
/// # Errors
/// One is there already.
pub fn merge(all: &mut Vec<Variable>, more: &[Variable]) -> Result<(), String> {
    for variable in more {
        if all.iter().any(|there| there.name == variable.name) {
            return Err(format!("var '{}' already encountered", variable.name));
        }
        all.push(variable.clone());
    }
    Ok(())
}

/// A text with the variables in it replaced. If it is nothing but one, what comes of it is of that one's type.
fn expand(text: &str, values: &Map<String, Value>, used: &mut BTreeSet<String>) -> Value {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            rest = after;
            match values.get(name).filter(|value| !value.is_object() && !value.is_array()) {
                Some(value) => {
                    used.insert(name.to_owned());
                    if text == format!("$({name})") {
                        return value.clone();
                    }
                    out.push_str(&scalar(value));
                }
                None => out.push_str(&format!("$({name})")),
            }
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out.into()
}

/// Replaces the variables in all fields that may have some. Returned are those that are nowhere used.
///
/// # Errors
/// A variable's field is not there.
pub fn resolve(set: &mut Resources, all: &[Variable], specs: &[FieldSpec]) -> Result<Vec<String>, String> {
    let mut values = Map::new();
    for variable in all {
        let name = &variable.name;
        let resource = set.0.iter().find(|resource| resource.variables.contains(name));
        let resource =
            resource.ok_or_else(|| format!("var '{name}' cannot be mapped to a field in the set of known resources"))?;
        let path = if variable.fieldref.field_path.is_empty() { "metadata.name" } else { &variable.fieldref.field_path };
        let found = lookup(&resource.value, &indexed(path)).ok().flatten();
        let missing = || format!("field specified in var '{name}' not found in corresponding resource");
        values.insert(name.clone(), found.ok_or_else(missing)?.clone());
    }
    let mut used = BTreeSet::new();
    if values.is_empty() {
        return Ok(Vec::new());
    }
    for resource in &mut set.0 {
        for spec in specs {
            spec.visit(resource, Make::Nothing, &mut |field| replace(field, &values, &mut used))?;
        }
    }
    Ok(values.keys().filter(|name| !used.contains(*name)).cloned().collect())
}

/// `a[0].b` as `a.0.b`.
fn indexed(path: &str) -> String {
    let expression = regex::Regex::new(r"\[(\d+)\]");
    expression.map_or_else(|_| path.to_owned(), |expression| expression.replace_all(path, ".$1").into_owned())
}

fn replace(field: &mut Value, values: &Map<String, Value>, used: &mut BTreeSet<String>) -> Result<(), String> {
    let mut text = |value: &mut Value| {
        if let Value::String(text) = &*value {
            *value = expand(text, values, used);
        }
    };
    match field {
        Value::Array(items) => {
            if items.iter().any(|item| !item.is_string()) {
                return Err("invalid value type expect a string".to_owned());
            }
            items.iter_mut().for_each(text);
        }
        Value::Object(map) => map.values_mut().for_each(text),
        value => text(value),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_are_expanded() {
        let values = json!({"A": "x", "B": 5}).as_object().unwrap().clone();
        let mut used = BTreeSet::new();
        let mut expand = |text: &str| expand(text, &values, &mut used);
        assert_eq!(expand("a $(A) $(B) $(C) $$(A) $d $"), json!("a x 5 $(C) $(A) $d $"));
        assert_eq!(expand("$(B)"), json!(5));
        assert_eq!(indexed("a[0].b"), "a.0.b");
    }
}
