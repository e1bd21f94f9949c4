//! Strategic merge as kustomize does it, which is not what the API server does: what a patch names in a list comes first,
//! `$patch` is the only directive, and lists of unknown kinds are replaced. The API's table of types says which lists are
//! merged, and by what.

use api::schema::{Field, ListType, PatchStrategy, Type, TypeId, table};
use serde_json::{Map, Value};

use super::{
    resource::{Gvk, is_empty, scalar},
    transform::wrong_kind,
};

const PATCH: &str = "$patch";

/// What the table knows of a value.
#[derive(Clone, Copy)]
enum Known {
    Nothing,
    Kind(TypeId),
    Field(&'static Field),
    Type(&'static Type),
}

impl Known {
    /// What is known of a kind. Of former versions of it the same is known as of the present one.
    fn of(gvk: &Gvk) -> Self {
        let of = |version: &str| table().by_kind(&gvk.group, version, &gvk.kind);
        let id = of(&gvk.version).or_else(|| gvk.version.contains("beta").then(|| of("v1")).flatten());
        id.map_or(Self::Nothing, Self::Kind)
    }

    fn ty(self) -> Option<&'static Type> {
        match self {
            Self::Nothing | Self::Kind(_) => None,
            Self::Field(field) => Some(&field.ty),
            Self::Type(ty) => Some(ty),
        }
    }

    fn field(self, name: &str) -> Self {
        let id = match (self, self.ty()) {
            (Self::Kind(id), _) => id,
            (_, Some(Type::Ref(id))) => *id,
            (_, Some(Type::Map(inner))) => return Self::Type(inner),
            _ => return Self::Nothing,
        };
        table().get(id).field(name).map_or(Self::Nothing, Self::Field)
    }

    fn item(self) -> Self {
        match self.ty() {
            Some(Type::Array(inner)) => Self::Type(inner),
            _ => Self::Nothing,
        }
    }

    /// The fields that tell a merged list's items apart; the empty one stands for scalars, which are themselves.
    fn keys(self) -> Option<Vec<&'static str>> {
        let Self::Field(field) = self else { return None };
        // Claims of StatefulSets are told apart by their names here, by nothing in upstream's table.
        if field.merge_key.is_some_and(|key| key.contains('.')) {
            return None;
        }
        match (field.strategy, field.list_type, field.merge_key) {
            (PatchStrategy::Merge, Some(ListType::Map(keys)), _) => Some(keys.split(',').collect()),
            (PatchStrategy::Merge, _, Some(key)) => Some(vec![key]),
            (PatchStrategy::Merge, _, None) => Some(vec![""]),
            _ => None,
        }
    }
}

/// A resource with a patch applied; nothing if the patch deletes it.
///
/// # Errors
/// The patch has another form, or directives that there are not.
pub fn apply(resource: Value, patch: Value) -> Result<Option<Value>, String> {
    merged(Some(resource), Some(patch), Known::Nothing)
}

fn there(value: &Option<Value>) -> Option<&Value> {
    value.as_ref().filter(|value| !value.is_null())
}

fn merged(dest: Option<Value>, patch: Option<Value>, known: Known) -> Result<Option<Value>, String> {
    let Some(first) = there(&dest).or(there(&patch)) else {
        // A null that the patch says nothing of stays.
        return Ok(dest.filter(|_| patch.is_none()));
    };
    let known = match known {
        Known::Nothing => [&dest, &patch].iter().find_map(|value| kind_of(there(value)?)).unwrap_or(known),
        known => known,
    };
    let same = |value: &Value| match first {
        Value::Object(_) => value.is_object(),
        Value::Array(_) => value.is_array(),
        _ => !value.is_object() && !value.is_array(),
    };
    if let Some(other) = there(&patch).filter(|patch| !same(patch)) {
        let expected = match first {
            Value::Object(_) => "MappingNode",
            Value::Array(_) => "SequenceNode",
            _ => "ScalarNode",
        };
        return Err(wrong_kind(expected, other));
    }
    match (first, known.keys()) {
        (Value::Object(_), _) => Ok(maps(dest, patch, known)?.map(|(value, _)| value)),
        (Value::Array(_), Some(keys)) => lists(dest, patch, known, &keys),
        _ => Ok(patch.or(dest).filter(|value| !value.is_null())),
    }
}

/// What is known of a value that says its kind and version.
fn kind_of(value: &Value) -> Option<Known> {
    let said = |field: &str| !scalar(value.get(field).unwrap_or(&Value::Null)).is_empty();
    (said("kind") && said("apiVersion")).then(|| Known::of(&Gvk::of(value)))
}

/// What a patch says is done with something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Directive {
    Merge,
    Replace,
    Delete,
}

fn directive(word: &Value) -> Result<Directive, String> {
    match word.as_str() {
        Some("merge") => Ok(Directive::Merge),
        Some("replace") => Ok(Directive::Replace),
        Some("delete") => Ok(Directive::Delete),
        _ => Err(format!("unknown patch strategy '{}'", scalar(word))),
    }
}

/// Two maps merged, and whether what was there is still part of that.
fn maps(dest: Option<Value>, patch: Option<Value>, known: Known) -> Result<Option<(Value, bool)>, String> {
    let mut patch = match patch {
        Some(Value::Object(patch)) => Some(patch),
        Some(_) => return Ok(None),
        None => None,
    };
    let word = patch.as_mut().and_then(|patch| patch.remove(PATCH)).filter(|word| !word.is_null());
    let directive = word.map_or(Ok(Directive::Merge), |word| directive(&word))?;
    let (mut out, kept) = match (dest, directive) {
        (_, Directive::Delete) => return Ok(None),
        (Some(Value::Object(dest)), Directive::Merge) => (dest, true),
        // What is new is merged with itself: so nulls and directives in it take effect.
        _ => (patch.clone().unwrap_or_default(), false),
    };
    let mut names: Vec<String> = out.keys().chain(patch.iter().flat_map(Map::keys)).cloned().collect();
    names.sort();
    names.dedup();
    for name in names {
        let new = patch.as_mut().and_then(|patch| patch.remove(&name));
        if let Some(value) = merged(out.remove(&name), new, known.field(&name))? {
            out.insert(name, value);
        }
    }
    Ok(Some((Value::Object(out), kept)))
}

/// What tells an item apart, key by key; what it has not is empty.
type Values = Vec<String>;

fn values_of(item: &Value, keys: &[&str]) -> Values {
    let value = |key: &&str| if key.is_empty() { scalar(item) } else { item.get(*key).map(scalar).unwrap_or_default() };
    keys.iter().map(value).collect()
}

fn has(item: &Value, key: &str, value: &str) -> bool {
    match item {
        Value::Object(map) => map.get(key).is_some_and(|there| scalar(there) == value),
        item => key.is_empty() && scalar(item) == value,
    }
}

/// The place of the item with these values; keys without one don't count, unless all are.
fn position(items: &[Value], keys: &[&str], values: &[String]) -> Option<usize> {
    let none = values.iter().all(String::is_empty);
    let fits =
        |item: &Value| keys.iter().zip(values).all(|(key, value)| (!none && value.is_empty()) || has(item, key, value));
    items.iter().position(fits)
}

/// Puts an item in the place of those with its values, or at the end; without one, those go.
///
/// Empty values fit any; items without the keys go where no values are given.
fn put(list: &mut Vec<Value>, item: Option<&Value>, keys: &[&str], values: &[String]) {
    let by_fields = keys.first().is_some_and(|key| !key.is_empty()) && values.first().is_some_and(|v| !v.is_empty());
    let mut found = false;
    let mut out = Vec::new();
    for there in list.drain(..).filter(|there| !there.is_null() && !there.as_object().is_some_and(Map::is_empty)) {
        if !there.is_object() && by_fields {
            out.push(there);
            continue;
        }
        let fits = |(key, value): (&&str, &String)| match value.as_str() {
            "" => there.get(*key).is_some_and(|value| !value.is_null()),
            value => has(&there, key, value),
        };
        if !values.is_empty() && keys.iter().zip(values).all(fits) {
            found = true;
            out.extend(item.cloned());
        } else if !values.is_empty() {
            out.push(there);
        }
    }
    *list = out;
    if !found {
        list.extend(item.filter(|item| !item.is_null()).cloned());
    }
}

/// Fills in what one of two sets of values lacks and the other has, if they have something in common and differ in nothing.
fn complete(all: &mut [Values]) {
    for i in 0..all.len() {
        for j in 0..all.len() {
            let pairs: Vec<(&String, &String)> = all[i].iter().zip(&all[j]).collect();
            let differ = pairs.iter().any(|(a, b)| a != b && !a.is_empty() && !b.is_empty());
            if differ || !pairs.iter().any(|(a, b)| a == b) {
                continue;
            }
            let both: Values = pairs.iter().map(|(a, b)| if a.is_empty() { (*b).clone() } else { (*a).clone() }).collect();
            all[i].clone_from(&both);
            all[j] = both;
        }
    }
}

/// What a list's directive says, which stands in an item of its own; the patch loses it.
fn list_directive(patch: &mut Vec<Value>) -> Result<Directive, String> {
    let Some(item) = patch.iter().find(|item| item.get(PATCH).is_some()) else { return Ok(Directive::Merge) };
    if item.as_object().is_some_and(|item| item.len() > 1) {
        return Ok(Directive::Merge);
    }
    let word = item[PATCH].clone();
    let directive = directive(&word)?;
    put(patch, None, &[PATCH], &[scalar(&word)]);
    Ok(directive)
}

fn lists(dest: Option<Value>, patch: Option<Value>, known: Known, keys: &[&'static str]) -> Result<Option<Value>, String> {
    let mut patch = match patch {
        Some(Value::Array(items)) => Some(items),
        Some(_) => return Ok(None),
        None => None,
    };
    let mut dest = match dest {
        Some(Value::Array(items)) => match patch.as_mut().map_or(Ok(Directive::Merge), list_directive)? {
            Directive::Delete => return Ok(None),
            Directive::Replace => patch.clone().unwrap_or_default(),
            Directive::Merge => items,
        },
        _ => patch.clone().unwrap_or_default(),
    };
    let patch = patch.unwrap_or_default();
    let mut all: Vec<Values> = Vec::new();
    for item in patch.iter().chain(&dest) {
        let values = values_of(item, keys);
        if !all.contains(&values) {
            all.push(values);
        }
    }
    if all.is_empty() {
        return Ok(Some(Value::Array(dest)));
    }
    if keys.len() > 1 {
        complete(&mut all);
    }
    // Keys that no item has don't count.
    let counts: Vec<bool> = (0..keys.len()).map(|at| all.iter().any(|values| !values[at].is_empty())).collect();
    let none = !counts.contains(&true);
    let valid: Vec<&str> = keys.iter().zip(&counts).filter(|(_, counts)| none || **counts).map(|(key, _)| *key).collect();
    let mut out = Vec::new();
    for values in &all {
        let values: Values =
            values.iter().zip(&counts).filter(|(_, counts)| none || **counts).map(|(value, _)| value.clone()).collect();
        let [at, new] = [&dest, &patch].map(|items| position(items, &valid, &values));
        let old = at.map(|at| dest[at].clone());
        let new = new.map(|at| patch[at].clone());
        let maps_only = [&old, &new].iter().all(|item| there(item).is_none_or(Value::is_object));
        let item = if maps_only && (there(&old).is_some() || there(&new).is_some()) {
            maps(old, new, known.item())?
        } else {
            merged(old, new, known.item())?.map(|value| (value, true))
        };
        let Some((mut item, kept)) = item.filter(|(item, _)| !is_empty(item)) else {
            put(&mut dest, None, &valid, &values);
            continue;
        };
        for (key, value) in valid.iter().zip(&values).filter(|(key, value)| !key.is_empty() && !value.is_empty()) {
            if let Value::Object(map) = &mut item {
                map.entry(*key).or_insert_with(|| super::replace::typed(value));
            }
        }
        if let Some(at) = at.filter(|_| kept) {
            dest[at] = item.clone();
        }
        put(&mut out, Some(&item), &valid, &values);
    }
    add_rest(&mut out, &dest, &valid);
    Ok(if out.is_empty() && dest.is_empty() { Some(Value::Array(Vec::new())) } else { Some(Value::Array(out)) })
}

/// Adds what was there and is not in the list yet.
fn add_rest(out: &mut Vec<Value>, dest: &[Value], keys: &[&str]) {
    for item in dest {
        if keys == [""] {
            put(out, Some(item), keys, &[scalar(item)]);
            continue;
        }
        let mut values = Vec::new();
        for key in keys {
            match item.get(*key) {
                Some(value) if !value.is_null() => values.push(scalar(value)),
                _ => out.push(item.clone()),
            }
        }
        if keys.len() > 1 {
            put(out, None, keys, &values);
        }
        put(out, Some(item), keys, &values);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: &Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "spec": spec})
    }

    fn patched(there: &Value, patch: &Value) -> Value {
        apply(pod(there), pod(patch)).unwrap().unwrap()["spec"].take()
    }

    #[test]
    fn what_a_patch_names_comes_first() {
        let there = json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "args": ["x"]}]});
        let patch = json!({"containers": [{"name": "c"}, {"name": "b", "args": ["y"]}]});
        let want = json!({"containers": [{"name": "c"}, {"name": "b", "args": ["y"]}, {"name": "a", "image": "1"}]});
        assert_eq!(patched(&there, &patch), want);
    }

    #[test]
    fn directives_and_nulls_take_away() {
        let there = json!({"containers": [{"name": "a"}, {"name": "b"}], "nodeSelector": {"x": "y"}, "hostPID": true});
        let patch = json!({
            "containers": [{"name": "a", "$patch": "delete"}],
            "nodeSelector": {"$patch": "replace", "z": "w"},
            "hostPID": null,
        });
        assert_eq!(patched(&there, &patch), json!({"containers": [{"name": "b"}], "nodeSelector": {"z": "w"}}));
        assert_eq!(apply(pod(&json!({})), json!({"$patch": "delete"})), Ok(None));
        assert_eq!(apply(pod(&json!({})), json!({"$patch": "x"})).unwrap_err(), "unknown patch strategy 'x'");
    }

    #[test]
    fn ports_have_two_keys() {
        let with = |ports: Value| json!({"containers": [{"name": "a", "ports": ports}]});
        let (tcp, udp) =
            (json!({"containerPort": 2, "protocol": "TCP"}), json!({"containerPort": 2, "protocol": "UDP", "name": "x"}));
        let there = with(json!([{"containerPort": 2, "protocol": "UDP"}]));
        let patch = with(json!([udp, tcp]));
        // What was there goes to the end, as upstream has it.
        let ports = json!([tcp, udp]);
        assert_eq!(patched(&there, &patch)["containers"][0]["ports"], ports);
    }

    #[test]
    fn unknown_kinds_lists_are_replaced() {
        let odd = |items: &Value| json!({"apiVersion": "x/v1", "kind": "Odd", "containers": items});
        assert_eq!(
            apply(odd(&json!([{"name": "a"}])), odd(&json!([{"name": "b"}]))).unwrap().unwrap()["containers"],
            json!([{"name": "b"}])
        );
    }
}
