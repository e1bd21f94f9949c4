//! Fields by path: which fields of which kinds are meant, and going there.

use serde_json::{Map, Value};

use super::resource::{Gvk, Resource};

/// A field of all resources of a kind. The path's parts are divided by `/`; lists on the way are gone through, all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSpec {
    pub gvk: Gvk,
    pub path: String,
    /// Whether it is made where it is not there.
    pub create: bool,
}

/// What is made of a field that is not there, if it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Make {
    Nothing,
    Scalar,
    Map,
}

/// What is done to a field.
type Set<'a> = &'a mut dyn FnMut(&mut Value) -> Result<(), String>;

impl FieldSpec {
    /// Does something to the field wherever a resource has it.
    ///
    /// # Errors
    /// Something on the way there is neither map nor list, or what `set` says.
    pub fn visit(&self, resource: &mut Resource, make: Make, set: Set<'_>) -> Result<(), String> {
        if !resource.gvk().is_selected(&self.gvk) {
            return Ok(());
        }
        let make = if self.create { make } else { Make::Nothing };
        let path = split(&self.path, '/');
        let visited = visit(&mut resource.value, &path, make, set);
        visited.map_err(|why| format!("considering field '{}' of object {}: {why}", self.path, resource.id()))
    }
}

fn visit(value: &mut Value, path: &[String], make: Make, set: Set<'_>) -> Result<(), String> {
    let Some((part, rest)) = path.split_first() else { return set(value) };
    match value {
        Value::Null => Ok(()),
        Value::Array(items) => items.iter_mut().try_for_each(|item| {
            visit(item, path, make, set).map_err(|why| format!("visit traversal on path: [{}]: {why}", path.join(" ")))
        }),
        Value::Object(map) => match field(map, part, if rest.is_empty() { make } else { inner(make) })? {
            Some(field) => visit(field, rest, make, set),
            None => Ok(()),
        },
        _ => Err("expected sequence or mapping node".to_owned()),
    }
}

/// What is made on the way to a field.
fn inner(make: Make) -> Make {
    if make == Make::Nothing { make } else { Make::Map }
}

/// A map's field; `name[]` is a list, which is not made.
fn field<'a>(map: &'a mut Map<String, Value>, part: &str, make: Make) -> Result<Option<&'a mut Value>, String> {
    let (name, list) = part.strip_suffix("[]").map_or((part, false), |name| (name, true));
    if name.is_empty() {
        return Err("cannot set or create an empty field name".to_owned());
    }
    let made = match make {
        _ if list => Value::Array(Vec::new()),
        Make::Map => Value::Object(Map::new()),
        Make::Scalar => Value::String(String::new()),
        Make::Nothing => return Ok(map.get_mut(name)),
    };
    match map.get_mut(name) {
        None if list => return Ok(None),
        None => drop(map.insert(name.to_owned(), made)),
        Some(there) if there.is_null() => *there = made,
        Some(_) => {}
    }
    Ok(map.get_mut(name))
}

/// A path's parts; a backslash before a divider keeps it.
pub fn split(path: &str, divider: char) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    let path = path.strip_prefix(divider).unwrap_or(path);
    for part in path.split(divider) {
        match parts.last_mut().filter(|last| last.ends_with('\\')) {
            Some(last) => {
                last.pop();
                last.push(divider);
                last.push_str(part);
            }
            None => parts.push(part.to_owned()),
        }
    }
    parts
}

/// Adds what a list has not yet.
///
/// # Errors
/// It has the same field, and another opinion on whether that is made.
pub fn merge(list: &mut Vec<FieldSpec>, more: &[FieldSpec]) -> Result<(), String> {
    for spec in more {
        match list.iter().find(|there| there.gvk.is_selected(&spec.gvk) && there.path == spec.path) {
            Some(there) if there.create != spec.create => return Err("conflicting fieldspecs".to_owned()),
            Some(_) => {}
            None => list.push(spec.clone()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(value: Value, path: &str, create: bool, make: Make) -> Value {
        let mut resource = Resource::new(value);
        let spec = FieldSpec { path: path.to_owned(), create, ..FieldSpec::default() };
        let mut set = |value: &mut Value| {
            *value = json!("x");
            Ok(())
        };
        spec.visit(&mut resource, make, &mut set).unwrap();
        resource.value
    }

    #[test]
    fn fields_are_made_only_where_they_may_be() {
        assert_eq!(set(json!({}), "a/b", false, Make::Scalar), json!({}));
        assert_eq!(set(json!({}), "a/b", true, Make::Nothing), json!({}));
        assert_eq!(set(json!({"a": null}), "a/b", true, Make::Scalar), json!({"a": {"b": "x"}}));
        assert_eq!(set(json!({}), "a[]/b", true, Make::Scalar), json!({}));
    }

    #[test]
    fn lists_are_gone_through() {
        let value = json!({"a": [{"b": 1}, {"c": 2}]});
        assert_eq!(set(value.clone(), "a/b", false, Make::Scalar), json!({"a": [{"b": "x"}, {"c": 2}]}));
        assert_eq!(set(value, "a[]/b", true, Make::Scalar), json!({"a": [{"b": "x"}, {"b": "x", "c": 2}]}));
        assert_eq!(split(r"a/b\/c/d", '/'), ["a", "b/c", "d"]);
    }
}
