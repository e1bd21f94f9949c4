//! Objects as clients with compiled-in types write them.
//!
//! Commands that make objects from arguments, and those that decode what they change into its type, print and store the
//! encoding of that type: fields in declaration order, and fields that are written although nothing was set
//! (`creationTimestamp: null`, `resources: {}`, `status: {}`). Here objects stay JSON values; a table of names (`fields.txt`)
//! knows order and zero values, and `api::schema` knows which type a field has.

use std::{collections::HashMap, fmt::Write as _, sync::OnceLock};

use api::schema::{Type, TypeId, table};
use serde_json::{Map, Value};

/// A field's name and what is written where it is not set.
type Fields = Vec<(&'static str, Option<Value>)>;

fn fields() -> &'static HashMap<&'static str, Fields> {
    static FIELDS: OnceLock<HashMap<&'static str, Fields>> = OnceLock::new();
    FIELDS.get_or_init(|| {
        let lines = include_str!("fields.txt").lines().filter(|line| !line.starts_with('#'));
        lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, list)| (name, list.split(' ').map(field).collect()))
            .collect()
    })
}

fn field(text: &'static str) -> (&'static str, Option<Value>) {
    match text.split_once('=') {
        Some((name, zero)) => (name, serde_json::from_str(zero).ok()),
        None => (text, None),
    }
}

fn fields_of(id: TypeId) -> Option<&'static Fields> {
    let name = table().get(id).name;
    let short = name.strip_prefix("io.k8s.api.").or_else(|| name.strip_prefix("io.k8s.apimachinery.pkg.apis."))?;
    fields().get(short)
}

/// The type of an object by its apiVersion and kind, where it is one that clients have compiled in.
pub fn type_of(object: &Value) -> Option<TypeId> {
    let version = object.get("apiVersion")?.as_str()?;
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    table().by_kind(group, version, object.get("kind")?.as_str()?)
}

/// Versions of API groups that clients have compiled in though no server has them any more, or not by default.
const OTHER_VERSIONS: [&str; 24] = [
    "admissionregistration.k8s.io/v1alpha1",
    "admissionregistration.k8s.io/v1beta1",
    "apps/v1beta1",
    "apps/v1beta2",
    "authentication.k8s.io/v1alpha1",
    "authentication.k8s.io/v1beta1",
    "authorization.k8s.io/v1beta1",
    "autoscaling/v2beta1",
    "autoscaling/v2beta2",
    "batch/v1beta1",
    "certificates.k8s.io/v1alpha1",
    "certificates.k8s.io/v1beta1",
    "coordination.k8s.io/v1beta1",
    "discovery.k8s.io/v1beta1",
    "events.k8s.io/v1beta1",
    "extensions/v1beta1",
    "networking.k8s.io/v1beta1",
    "node.k8s.io/v1beta1",
    "policy/v1beta1",
    "rbac.authorization.k8s.io/v1alpha1",
    "rbac.authorization.k8s.io/v1beta1",
    "scheduling.k8s.io/v1beta1",
    "storage.k8s.io/v1alpha1",
    "storage.k8s.io/v1beta1",
];

/// Whether upstream's clients have a type for objects of a kind.
pub fn is_registered(api_version: &str, kind: &str) -> bool {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    table().by_kind(group, version, kind).is_some() || OTHER_VERSIONS.contains(&api_version)
}

/// The object with every field that its type always writes. Objects of unknown types come back as they are.
pub fn complete(mut object: Value) -> Value {
    if let Some(id) = type_of(&object) {
        fill(&mut object, id);
    }
    object
}

/// The object without fields that its type does not have. Objects of unknown types come back as they are.
pub fn known(mut object: Value) -> Value {
    if let Some(id) = type_of(&object) {
        strip(&mut object, &Type::Ref(id));
    }
    object
}

/// Makes of an object what its type does: quantities in their usual form, and nothing of what the type leaves out, because it has
/// no such field or because there is nothing in it. Objects of unknown types stay as they are.
///
/// # Errors
/// What does not fit into the type, in Go's words.
pub fn decode(object: &mut Value) -> Result<(), String> {
    let Some(id) = type_of(object) else { return Ok(()) };
    api::schema::check::check(object, id)?;
    leave_out(object, &Type::Ref(id));
    Ok(())
}

/// Leaves out fields that Go's `omitempty` does not write.
fn leave_out(value: &mut Value, ty: &Type) {
    match (table().resolve(ty), value) {
        (Type::Ref(id), Value::Object(map)) => {
            let (ty, fields) = (table().get(*id), fields_of(*id));
            let always = |name: &str| fields.is_some_and(|f| f.iter().any(|(n, zero)| *n == name && zero.is_some()));
            map.retain(|name, value| {
                let Some(field) = ty.field(name) else { return true };
                leave_out(value, &field.ty);
                match &*value {
                    Value::Null => false,
                    _ if always(name) => true,
                    Value::Array(items) => !items.is_empty(),
                    Value::Object(map) => !(map.is_empty() && matches!(table().resolve(&field.ty), Type::Map(_))),
                    Value::String(text) => !(field.zero_is_unset && text.is_empty()),
                    Value::Number(number) => !(field.zero_is_unset && number.as_f64() == Some(0.0)),
                    Value::Bool(flag) => !field.zero_is_unset || *flag,
                }
            });
        }
        (Type::Array(inner), Value::Array(list)) => list.iter_mut().for_each(|value| leave_out(value, inner)),
        (Type::Map(inner), Value::Object(map)) => map.values_mut().for_each(|value| leave_out(value, inner)),
        _ => {}
    }
}

fn strip(value: &mut Value, ty: &Type) {
    match (table().resolve(ty), value) {
        (Type::Ref(id), Value::Object(map)) if fields_of(*id).is_some() => {
            let ty = table().get(*id);
            map.retain(|name, _| ty.field(name).is_some());
            for (name, value) in map {
                if let Some(field) = ty.field(name) {
                    strip(value, &field.ty);
                }
            }
        }
        (Type::Array(inner), Value::Array(list)) => list.iter_mut().for_each(|value| strip(value, inner)),
        (Type::Map(inner), Value::Object(map)) => map.values_mut().for_each(|value| strip(value, inner)),
        _ => {}
    }
}

fn fill(value: &mut Value, id: TypeId) {
    let (Value::Object(map), Some(fields)) = (value, fields_of(id)) else { return };
    let ty = table().get(id);
    for (name, zero) in fields {
        if let (false, Some(zero)) = (map.contains_key(*name), zero) {
            map.insert((*name).to_owned(), zero.clone());
        }
        if let (Some(value), Some(field)) = (map.get_mut(*name), ty.field(name)) {
            fill_type(value, &field.ty);
        }
    }
}

fn fill_type(value: &mut Value, ty: &Type) {
    match (table().resolve(ty), value) {
        (Type::Ref(id), value) => fill(value, *id),
        (Type::Array(inner), Value::Array(list)) => list.iter_mut().for_each(|v| fill_type(v, inner)),
        (Type::Map(inner), Value::Object(map)) => map.values_mut().for_each(|v| fill_type(v, inner)),
        _ => {}
    }
}

/// The object on one line, in its type's order: what typed clients put into annotations.
pub fn compact(object: &Value) -> String {
    let mut out = String::new();
    write(&mut out, object, type_of(object).map(Type::Ref).as_ref(), None);
    out
}

/// The object over lines, in its type's order, four spaces a level: `-o json`.
pub fn pretty(object: &Value) -> String {
    let mut out = String::new();
    match object.as_object().filter(|_| object["kind"] == "List" && object["apiVersion"] == "v1") {
        Some(list) => {
            let fields: Vec<_> =
                ["kind", "apiVersion", "metadata", "items"].iter().filter_map(|field| list.get_key_value(*field)).collect();
            enclose(&mut out, ['{', '}'], &fields, Some(0), |out, (name, value), inner| {
                string(out, name);
                out.push_str(": ");
                write(out, value, None, inner);
            });
        }
        None => write(&mut out, object, type_of(object).map(Type::Ref).as_ref(), Some(0)),
    }
    out
}

/// A value on one line with sorted keys, as Go encodes it.
pub fn sorted(value: &Value) -> String {
    let mut out = String::new();
    write(&mut out, value, None, None);
    out
}

fn write(out: &mut String, value: &Value, ty: Option<&Type>, indent: Option<usize>) {
    match (value, ty.map(|t| table().resolve(t))) {
        (Value::Object(map), ty) => {
            let entries = ordered(map, ty);
            let typed = |name: &str| match ty {
                Some(Type::Ref(id)) => table().get(*id).field(name).map(|f| &f.ty),
                Some(Type::Map(inner)) => Some(&**inner),
                _ => None,
            };
            enclose(out, ['{', '}'], &entries, indent, |out, (name, value), inner| {
                string(out, name);
                out.push_str(if indent.is_some() { ": " } else { ":" });
                write(out, value, typed(name), inner);
            });
        }
        (Value::Array(list), ty) => {
            let inner_type = match ty {
                Some(Type::Array(inner)) => Some(&**inner),
                _ => None,
            };
            enclose(out, ['[', ']'], list, indent, |out, value, inner| write(out, value, inner_type, inner));
        }
        (Value::String(text), _) => string(out, text),
        (other, _) => out.push_str(&other.to_string()),
    }
}

fn ordered<'a>(map: &'a Map<String, Value>, ty: Option<&Type>) -> Vec<(&'a String, &'a Value)> {
    let fields = match ty {
        Some(Type::Ref(id)) => fields_of(*id),
        _ => None,
    };
    let mut entries: Vec<_> = map.iter().collect();
    let place = |name: &str| fields.and_then(|f| f.iter().position(|(n, _)| *n == name)).unwrap_or(usize::MAX);
    entries.sort_by(|a, b| place(a.0).cmp(&place(b.0)).then(a.0.cmp(b.0)));
    entries
}

fn enclose<T>(
    out: &mut String,
    [open, close]: [char; 2],
    items: &[T],
    indent: Option<usize>,
    mut each: impl FnMut(&mut String, &T, Option<usize>),
) {
    let line = |out: &mut String, level: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("    ", level));
    };
    out.push(open);
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        if let Some(level) = indent {
            line(out, level + 1);
        }
        each(out, item, indent.map(|level| level + 1));
    }
    if let (Some(level), false) = (indent, items.is_empty()) {
        line(out, level);
    }
    out.push(close);
}

/// A JSON string as Go writes it: what HTML could read as markup is escaped.
fn string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn unset_fields_are_written_where_types_write_them() {
        let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"},
            "spec": {"template": {"spec": {"containers": [{"name": "c"}]}}}});
        assert_eq!(
            compact(&complete(deployment)),
            concat!(
                r#"{"kind":"Deployment","apiVersion":"apps/v1","metadata":{"name":"x","creationTimestamp":null},"#,
                r#""spec":{"selector":null,"template":{"metadata":{"creationTimestamp":null},"#,
                r#""spec":{"containers":[{"name":"c","resources":{}}]}},"strategy":{}},"status":{}}"#
            )
        );
    }

    #[test]
    fn types_leave_out_what_is_not_set() {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "labels": {}, "namespace": ""},
            "spec": {"hostNetwork": false, "priority": 0, "nodeName": null, "volumes": [], "containers": [
                {"name": "", "image": "", "tty": false, "env": [{"name": "A", "value": ""}], "securityContext": {},
                    "resources": {"limits": {"cpu": 1.5, "memory": "1024Mi"}, "requests": {}}}]}});
        decode(&mut pod).unwrap();
        assert_eq!(
            pod,
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"priority": 0, "containers": [
                {"name": "", "env": [{"name": "A"}], "securityContext": {},
                    "resources": {"limits": {"cpu": "1500m", "memory": "1Gi"}}}]}})
        );
    }

    #[test]
    fn unknown_types_are_left_alone_and_sorted() {
        let object = json!({"kind": "Odd", "apiVersion": "x/v1", "b": "<&>", "a": [1, {}]});
        assert_eq!(compact(&complete(object)), r#"{"a":[1,{}],"apiVersion":"x/v1","b":"\u003c\u0026\u003e","kind":"Odd"}"#);
    }

    #[test]
    fn pretty_is_indented_by_four() {
        let object = json!({"kind": "ConfigMap", "apiVersion": "v1", "data": {}, "metadata": {"name": "x"}});
        assert_eq!(
            pretty(&object),
            "{\n    \"kind\": \"ConfigMap\",\n    \"apiVersion\": \"v1\",\n    \"metadata\": {\n        \"name\": \"x\"\n    },\n    \"data\": {}\n}"
        );
    }
}
