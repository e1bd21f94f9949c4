//! Types as OpenAPI schemas.

use serde_json::{Map, Value, json};

use crate::schema::{
    docs::Docs,
    table::{Field, ListType, PatchStrategy, Table, Type, TypeDef, TypeId},
};

/// Which version of OpenAPI is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flavor {
    /// 2.0 (Swagger)
    V2,
    /// 3.0
    V3,
}

impl Flavor {
    /// The reference to a named type.
    pub fn reference(self, name: &str) -> String {
        match self {
            Self::V2 => format!("#/definitions/{name}"),
            Self::V3 => format!("#/components/schemas/{name}"),
        }
    }
}

/// Every type reached from `roots`, in the table's order.
pub(super) fn reachable(table: &Table, roots: impl Iterator<Item = TypeId>) -> Vec<TypeId> {
    fn target(ty: &Type) -> Option<TypeId> {
        match ty {
            Type::Array(inner) | Type::Map(inner) => target(inner),
            Type::Ref(id) => Some(*id),
            _ => None,
        }
    }
    let mut queue: Vec<TypeId> = roots.collect();
    let mut seen: std::collections::HashSet<TypeId> = queue.iter().copied().collect();
    while let Some(id) = queue.pop() {
        for next in table.get(id).fields.iter().filter_map(|f| target(&f.ty)) {
            if seen.insert(next) {
                queue.push(next);
            }
        }
    }
    let mut found: Vec<TypeId> = seen.into_iter().collect();
    found.sort_by_key(|id| table.get(*id).name);
    found
}

/// A named type's schema.
pub(super) fn definition(table: &Table, def: &TypeDef, flavor: Flavor, docs: &Docs) -> Value {
    let mut out = Map::new();
    let description = docs.text(def.doc);
    if !description.is_empty() {
        out.insert("description".to_owned(), description.into());
    }
    if let Some(scalar) = &def.scalar {
        out.extend(plain(table, scalar, flavor));
        return Value::Object(out);
    }
    out.insert("type".to_owned(), "object".into());
    let mut properties = Map::new();
    for (i, field) in def.fields.iter().enumerate() {
        properties.insert(field.name.to_owned(), property(table, field, flavor, &docs.text(def.doc + 1 + i as u32)));
    }
    if !properties.is_empty() {
        out.insert("properties".to_owned(), Value::Object(properties));
    }
    let required: Vec<&str> = def.fields.iter().filter(|f| f.required).map(|f| f.name).collect();
    if !required.is_empty() {
        out.insert("required".to_owned(), json!(required));
    }
    if let Some(kind) = &def.kind {
        out.insert(
            "x-kubernetes-group-version-kind".to_owned(),
            json!([group_version_kind(kind.group, kind.version, kind.kind)]),
        );
    }
    Value::Object(out)
}

/// The extension that ties schemas and operations to a kind.
pub(super) fn group_version_kind(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "kind": kind, "version": version})
}

fn property(table: &Table, field: &Field, flavor: Flavor, description: &str) -> Value {
    let mut out = plain(table, &field.ty, flavor);
    let mut description = description.to_owned();
    if !field.values.is_empty() {
        let values: Vec<String> = field.values.split('|').map(|value| value.replace('_', " ")).collect();
        match ["items", "additionalProperties"].into_iter().find(|held| out.contains_key(*held)) {
            Some(held) => out[held]["enum"] = json!(values),
            None => {
                description.push_str("\n\nPossible enum values:");
                description.extend(values.iter().map(|value| format!("\n - `\"{value}\"`")));
                out.insert("enum".to_owned(), json!(values));
            }
        }
    }
    // In 3.0 nothing may stand beside a reference.
    if flavor == Flavor::V3
        && let Some(reference) = out.remove("$ref")
    {
        out.insert("allOf".to_owned(), json!([{ "$ref": reference }]));
        if field.required {
            out.insert("default".to_owned(), json!({}));
        }
    }
    if !description.is_empty() {
        out.insert("description".to_owned(), description.into());
    }
    if let Some(default) = field.default.and_then(|d| serde_json::from_str(d).ok()) {
        out.insert("default".to_owned(), default);
    }
    match field.list_type {
        Some(ListType::Atomic) => drop(out.insert("x-kubernetes-list-type".to_owned(), "atomic".into())),
        Some(ListType::Set) => drop(out.insert("x-kubernetes-list-type".to_owned(), "set".into())),
        Some(ListType::Map(keys)) => {
            out.insert("x-kubernetes-list-map-keys".to_owned(), json!(keys.split(',').collect::<Vec<_>>()));
            out.insert("x-kubernetes-list-type".to_owned(), "map".into());
        }
        None => {}
    }
    if field.atomic {
        out.insert("x-kubernetes-map-type".to_owned(), "atomic".into());
    }
    if let Some(key) = field.merge_key {
        out.insert("x-kubernetes-patch-merge-key".to_owned(), key.into());
    }
    let strategy = match (field.strategy, field.retain_keys) {
        (PatchStrategy::Merge, true) => Some("merge,retainKeys"),
        (PatchStrategy::Merge, false) => Some("merge"),
        (PatchStrategy::Replace, _) => Some("replace"),
        (PatchStrategy::Default, true) => Some("retainKeys"),
        (PatchStrategy::Default, false) => None,
    };
    if let Some(strategy) = strategy {
        out.insert("x-kubernetes-patch-strategy".to_owned(), strategy.into());
    }
    Value::Object(out)
}

/// A type without the rest of its property.
fn plain(table: &Table, ty: &Type, flavor: Flavor) -> Map<String, Value> {
    let value = match ty {
        Type::String => json!({"type": "string"}),
        Type::Bytes => json!({"type": "string", "format": "byte"}),
        Type::Time | Type::MicroTime => json!({"type": "string", "format": "date-time"}),
        Type::Int32 => json!({"type": "integer", "format": "int32"}),
        Type::Int64 => json!({"type": "integer", "format": "int64"}),
        Type::Float => json!({"type": "number", "format": "double"}),
        Type::Bool => json!({"type": "boolean"}),
        Type::Object => json!({"type": "object"}),
        Type::Any => json!({}),
        Type::Quantity if flavor == Flavor::V2 => json!({"type": "string"}),
        Type::Quantity => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        Type::IntOrString if flavor == Flavor::V2 => json!({"type": "string", "format": "int-or-string"}),
        Type::IntOrString => json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
        Type::Array(items) => json!({"type": "array", "items": inner(table, items, flavor)}),
        Type::Map(values) => json!({"type": "object", "additionalProperties": inner(table, values, flavor)}),
        Type::Ref(id) => json!({"$ref": flavor.reference(table.get(*id).name)}),
    };
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// What a list or a map holds, with the zero value as default in 3.0, as upstream writes it.
fn inner(table: &Table, ty: &Type, flavor: Flavor) -> Value {
    let mut out = plain(table, ty, flavor);
    if flavor == Flavor::V3 {
        if let Some(reference) = out.remove("$ref") {
            return json!({"allOf": [{ "$ref": reference }], "default": {}});
        }
        let zero = match ty {
            Type::String => Some(json!("")),
            Type::Int32 | Type::Int64 => Some(json!(0)),
            Type::Bool => Some(json!(false)),
            _ => None,
        };
        if let Some(zero) = zero {
            out.insert("default".to_owned(), zero);
        }
    }
    Value::Object(out)
}
