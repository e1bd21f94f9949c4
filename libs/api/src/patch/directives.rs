//! What strategic merge patches share: the special keys, what the table says of a field, Go's rendering of values.

use serde_json::{Map, Value};

use super::PatchError;
use crate::schema::{Field, PatchStrategy, Type, TypeId, go, table};

pub(super) type Object = Map<String, Value>;

pub(super) const PATCH: &str = "$patch";
pub(super) const RETAIN_KEYS: &str = "$retainKeys";
pub(super) const DELETE_LIST: &str = "$deleteFromPrimitiveList";
pub(super) const ORDER: &str = "$setElementOrder";

/// Where in the schema a patch is.
#[derive(Clone, Copy, Debug)]
pub(super) enum At {
    /// In an object of a type.
    In(TypeId),
    /// In a map, the values of which nobody knows.
    Free,
    /// In a field that takes anything (a ControllerRevision's data): nothing in it can be merged.
    Raw,
}

/// How a field is patched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    pub strategy: PatchStrategy,
    pub merge_key: Option<&'static str>,
    pub retain_keys: bool,
    /// Where its value (or its list's elements, or its map's values) is.
    pub inside: At,
}

fn element(ty: &Type) -> At {
    match ty {
        Type::Ref(id) if matches!(table().get(*id).scalar, Some(Type::Any | Type::Object)) => At::Raw,
        Type::Ref(id) => At::In(*id),
        Type::Array(inner) | Type::Map(inner) => element(inner),
        _ => At::Free,
    }
}

impl At {
    /// That a list must be a field here, where it is known which fields there are.
    pub fn has_field(self, name: &str) -> Result<(), PatchError> {
        let ty = match self {
            Self::In(id) if table().get(id).field(name).is_none() => table().get(id).short_name(),
            Self::Raw => "RawExtension",
            Self::Free => {
                let why = "merging an object in json but data type is not struct, instead is: map";
                return Err(PatchError::Internal(why.to_owned()));
            }
            Self::In(_) => return Ok(()),
        };
        let name = crate::field::go_quote(name);
        Err(PatchError::Internal(format!("unable to find api field in struct {ty} for the json field {name}")))
    }

    pub fn field(self, name: &str) -> Rule {
        let field: Option<&'static Field> = match self {
            Self::In(id) => table().get(id).field(name),
            _ => None,
        };
        match field {
            Some(field) => Rule {
                strategy: field.strategy,
                merge_key: field.merge_key,
                retain_keys: field.retain_keys,
                // The values of a map of objects are not reached by their key's name.
                inside: if matches!(field.ty, Type::Map(_)) { At::Free } else { element(&field.ty) },
            },
            None => Rule { strategy: PatchStrategy::Default, merge_key: None, retain_keys: false, inside: At::Free },
        }
    }
}

/// Whether two values are of one JSON kind.
pub(super) fn same_kind(a: &Value, b: &Value) -> bool {
    go::kind(a) == go::kind(b)
}

/// A value as Go's `%v` prints it: what upstream sorts and compares merge keys by, and shows in errors.
pub(super) fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_text).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => go_map_text(map),
        Value::Number(number) if !number.is_i64() => go_float(number.as_f64().unwrap_or_default()),
        other => other.to_string(),
    }
}

/// A value as Go's `%s` prints it, which takes nothing for a text that is none.
pub(super) fn go_as_text(value: &Value) -> String {
    if value.is_null() { "%!s(<nil>)".to_owned() } else { go_part_as_text(value) }
}

fn go_part_as_text(value: &Value) -> String {
    let joined = |parts: Vec<String>| parts.join(" ");
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", joined(items.iter().map(go_part_as_text).collect())),
        Value::Object(map) => {
            format!("map[{}]", joined(map.iter().map(|(key, value)| format!("{key}:{}", go_part_as_text(value))).collect()))
        }
        other => format!("%!s({}={})", go_type(other), go_text(other)),
    }
}

/// The type that Go's decoder gives to a value.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "%!s(<nil>)",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_i64() => "int64",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// A float in the form of `%v`: the shortest, with an exponent from a million on and below 1e-4.
fn go_float(float: f64) -> String {
    let text = format!("{float:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    match exponent.parse() {
        Ok(-4..6) => float.to_string(),
        Ok(exponent) => format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, i32::abs(exponent)),
        Err(_) => text,
    }
}

pub(super) fn go_map_text(map: &Object) -> String {
    let mut pairs: Vec<String> = map.iter().map(|(k, v)| format!("{k}:{}", go_text(v))).collect();
    pairs.sort();
    format!("map[{}]", pairs.join(" "))
}

pub(super) fn no_merge_key(map: &Object, key: &str) -> PatchError {
    PatchError::Internal(format!("map: {} does not contain declared merge key: {key}", go_map_text(map)))
}

pub(super) fn bad_kind(expected: &str, actual: &Value) -> PatchError {
    PatchError::Internal(format!("expected a {expected}, but received a {}", go_type(actual)))
}

pub(super) fn as_object<'a>(value: &'a Value, key: &str) -> Result<&'a Object, PatchError> {
    match value {
        Value::Object(map) if map.contains_key(key) => Ok(map),
        Value::Object(map) => Err(no_merge_key(map, key)),
        other => Err(bad_kind("map[string]interface {}", other)),
    }
}

/// The merge key's value of a list's element.
pub(super) fn key_of<'a>(value: &'a Value, key: &str) -> Result<&'a Value, PatchError> {
    as_object(value, key).map(|map| &map[key])
}

/// What identifies an element: its merge key, or itself among scalars.
pub(super) fn identity<'a>(value: &'a Value, merge_key: Option<&str>) -> Option<&'a Value> {
    match merge_key {
        Some(key) => value.get(key),
        None => Some(value),
    }
}

/// Where in `list` an element with the same identity is.
pub(super) fn position(list: &[Value], element: &Value, merge_key: Option<&str>) -> Option<usize> {
    let wanted = identity(element, merge_key)?;
    list.iter().position(|other| identity(other, merge_key) == Some(wanted))
}

/// All elements' kind: an object list, a scalar list, or nothing to tell. Lists of lists and mixtures are refused.
pub(super) fn is_object_list(lists: &[&[Value]]) -> Result<Option<bool>, PatchError> {
    let mut found: Option<&Value> = None;
    for value in lists.iter().flat_map(|l| l.iter()) {
        match found {
            None if value.is_array() => {
                return Err(PatchError::DoesNotApply("lists of lists are not supported".to_owned()));
            }
            None => found = Some(value),
            Some(first) if !same_kind(first, value) => {
                let all: Vec<String> =
                    lists.iter().map(|l| format!("[{}]", l.iter().map(go_text).collect::<Vec<_>>().join(" "))).collect();
                let message = format!("list element types are not identical: [{}]", all.join(" "));
                return Err(PatchError::Internal(message));
            }
            Some(_) => {}
        }
    }
    Ok(found.map(Value::is_object))
}

/// Puts `list` into the order in which its elements' identities stand in `order`; deletions (`$patch: delete`) go last.
pub(super) fn reorder(list: Vec<Value>, order: &[Value], merge_key: Option<&str>) -> Vec<Value> {
    let is_delete = |v: &Value| merge_key.is_some() && v.get(PATCH).is_some_and(|d| d == "delete");
    let (deletions, mut kept): (Vec<Value>, Vec<Value>) = list.into_iter().partition(is_delete);
    // Elements that `order` does not know keep to the one before them.
    let mut last = 0;
    let mut ranked: Vec<(usize, Value)> = Vec::with_capacity(kept.len());
    for value in kept.drain(..) {
        last = position(order, &value, merge_key).unwrap_or(last);
        ranked.push((last, value));
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, v)| v).chain(deletions).collect()
}

pub(super) fn dedup_scalars(list: Vec<Value>) -> Vec<Value> {
    let mut out: Vec<Value> = Vec::with_capacity(list.len());
    for value in list {
        if !out.contains(&value) {
            out.push(value);
        }
    }
    out
}
