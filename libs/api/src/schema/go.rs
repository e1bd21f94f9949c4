//! Go's words for values that do not fit their types: of its JSON decoder, and of the converter that upstream turns patched
//! objects with.

use serde_json::Value;

use super::table::{Type, table};

/// The JSON kind as Go names it in errors.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The name of the Go type that holds a type, unless it has one of its own.
fn type_name(ty: &Type) -> String {
    match ty {
        Type::String | Type::Time | Type::MicroTime => "string".to_owned(),
        Type::Bytes => "[]uint8".to_owned(),
        Type::Int32 => "int32".to_owned(),
        Type::Int64 => "int64".to_owned(),
        Type::Float => "float64".to_owned(),
        Type::Bool => "bool".to_owned(),
        Type::Object => "map[string]interface {}".to_owned(),
        Type::Any => "interface {}".to_owned(),
        Type::Quantity => "resource.Quantity".to_owned(),
        Type::IntOrString => "intstr.IntOrString".to_owned(),
        Type::Array(items) => format!("[]{}", type_name(items)),
        Type::Map(values) => format!("map[string]{}", type_name(values)),
        Type::Ref(id) => {
            let mut parts = table().get(*id).name.rsplit('.');
            let name = parts.next().unwrap_or_default();
            format!("{}.{name}", parts.next().unwrap_or_default())
        }
    }
}

/// The type of what a list or a map of a named type holds.
pub fn element(named: &'static str) -> &'static str {
    named.strip_prefix("[]").or_else(|| named.strip_prefix("map[")?.split_once(']').map(|(_, value)| value)).unwrap_or("")
}

/// What the converter says of a value that is none of a type; `ty` is a type's resolved form, `named` its name in Go.
pub fn unconvertible(value: &Value, ty: &Type, named: &str) -> String {
    let from = match value {
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
        Value::Number(number) if number.is_i64() => "int64",
        Value::Number(_) => "float64",
        other => kind(other),
    };
    match ty {
        Type::Bytes | Type::Array(_) => format!("cannot restore slice from {from}"),
        Type::Object | Type::Map(_) => format!("cannot restore map from {from}"),
        Type::Ref(_) => format!("cannot restore struct from: {from}"),
        Type::String if from == "int64" => format!("cannot convert {from} to {named}"),
        Type::Int32 | Type::Int64 if from == "float64" => format!("cannot convert {from} to {named}"),
        _ => format!("unrecognized type: {}", type_name(ty)),
    }
}

/// What the decoder says of a value that is of no field.
pub fn cannot_unmarshal(what: &str, ty: &str) -> String {
    format!("json: cannot unmarshal {what} into Go value of type {ty}")
}

/// Where in Go's types a value is.
#[derive(Default)]
pub struct Place {
    /// Whether the value is converted and not decoded ([`super::check::convert`]).
    pub converts: bool,
    /// Field names from the root, without indexes: Go's `Field`.
    pub fields: Vec<&'static str>,
    /// The object type last entered: Go's `Struct`.
    pub owner: &'static str,
    /// The name of the value's type, if that is more than its form tells ([`super::Field::go`]).
    pub named: &'static str,
}

impl Place {
    /// A value of another kind than a type has.
    pub fn mismatch(&self, value: &Value, ty: &Type) -> String {
        let name = self.type_name(ty);
        if self.converts { unconvertible(value, table().resolve(ty), &name) } else { self.told(kind(value), &name) }
    }

    /// The name of the value's type in Go.
    pub fn type_name(&self, ty: &Type) -> String {
        if self.named.is_empty() { type_name(ty) } else { self.named.to_owned() }
    }

    /// What types that read JSON by themselves say, also when they are part of what is converted.
    pub fn refuse(&self, what: &str, ty: &str) -> String {
        if self.converts { cannot_unmarshal(what, ty) } else { self.told(what, ty) }
    }

    /// What the decoder says.
    pub fn told(&self, what: &str, ty: &str) -> String {
        if self.fields.is_empty() {
            return cannot_unmarshal(what, ty);
        }
        let field = self.fields.join(".");
        format!("json: cannot unmarshal {what} into Go struct field {}.{field} of type {ty}", self.owner)
    }
}
