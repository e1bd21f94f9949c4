//! The table of every API type: names, fields, types, list and patch behaviour.
//!
//! `types.txt` is embedded and read on first use (a few milliseconds); the table then borrows its names from it, so that it
//! costs some 300 KiB. Descriptions are elsewhere ([`super::docs`]), compressed, and are never held.
//!
//! A line that begins with neither space nor `@` names a type: `NAME object`, or `NAME = TYPE` for one with an encoding of
//! its own. `@GROUP VERSION KIND PLURAL N|C` gives its kind. ` FIELD TYPE FLAGS` is a field: `!` required, `l=` list type,
//! `k=` list map keys, `p=` patch strategy, `m=` patch merge key, `r` retains keys, `t=` map type, `d=` default,
//! `n=` protobuf numbers, `g=` Go's type, `e=` the values of an enumeration (`_` for a space).

use std::{collections::HashMap, sync::OnceLock};

/// Index of a type in the [`Table`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TypeId(u16);

impl TypeId {
    /// The type's position in [`Table::types`].
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// What a value may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// A string.
    String,
    /// Base64 of bytes.
    Bytes,
    /// RFC 3339 with seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// 32 bits, signed.
    Int32,
    /// 64 bits, signed.
    Int64,
    /// A floating point number.
    Float,
    /// A boolean.
    Bool,
    /// Any object, kept as it is.
    Object,
    /// Anything, kept as it is.
    Any,
    /// A quantity: a string, or a number that becomes one.
    Quantity,
    /// An int32 or a string.
    IntOrString,
    /// A list.
    Array(Box<Type>),
    /// String keys, values of one type.
    Map(Box<Type>),
    /// A named type.
    Ref(TypeId),
}

/// How server-side apply sees a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListType {
    /// As one value.
    Atomic,
    /// As a set of scalars.
    Set,
    /// As a map by these keys, separated by commas.
    Map(&'static str),
}

/// How a strategic merge patch treats a field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PatchStrategy {
    /// Lists are replaced, objects merged.
    #[default]
    Default,
    /// Lists are merged: scalars as a set, objects by the merge key.
    Merge,
    /// Replaced, objects too.
    Replace,
}

/// A field of an object type.
#[derive(Clone, Debug)]
pub struct Field {
    /// Its JSON name.
    pub name: &'static str,
    /// What it holds.
    pub ty: Type,
    /// Whether the schema requires it.
    pub required: bool,
    /// For lists; `None` where upstream says nothing.
    pub list_type: Option<ListType>,
    /// Whether a map or object is one value to server-side apply.
    pub atomic: bool,
    /// How a strategic merge patch treats it.
    pub strategy: PatchStrategy,
    /// The key by which a merged list of objects is merged.
    pub merge_key: Option<&'static str>,
    /// Whether patches list the keys that stay (`$retainKeys`).
    pub retain_keys: bool,
    /// The schema's default, as JSON.
    pub default: Option<&'static str>,
    /// Where protobuf has it: its field number, or the numbers on the way to it (`2.5`). Empty where it has it nowhere.
    pub path: &'static str,
    /// Whether protobuf's zero means that the field is not set.
    pub zero_is_unset: bool,
    /// Go's type, where it has a name and is no struct, or is made of such (`v1.Protocol`, `[]v1.Capability`); else empty.
    pub go: &'static str,
    /// The values that an enumeration knows, sorted, with `|` between them and `_` for a space; of a list or a map, those of what it holds. Else empty.
    pub values: &'static str,
}

/// A kind's group, version and names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindName {
    /// `""` for the core group.
    pub group: &'static str,
    /// `v1`.
    pub version: &'static str,
    /// `Pod`.
    pub kind: &'static str,
}

/// A named type.
#[derive(Clone, Debug)]
pub struct TypeDef {
    /// `io.k8s.api.core.v1.Pod`.
    pub name: &'static str,
    /// Sorted by name; empty for types with an encoding of their own.
    pub fields: Box<[Field]>,
    /// The encoding of a type that is no plain object.
    pub scalar: Option<Type>,
    /// The kind it is, if it is one.
    pub kind: Option<KindName>,
    /// The position of its description among [`super::docs`].
    pub doc: u32,
}

impl TypeDef {
    /// The field called `name`.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.binary_search_by(|f| f.name.cmp(name)).ok().map(|i| &self.fields[i])
    }

    /// The last part of the name: `Pod`.
    pub fn short_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }
}

/// Every type of the API.
#[derive(Debug)]
pub struct Table {
    types: Vec<TypeDef>,
    /// Type ids sorted by name.
    by_name: Vec<u16>,
}

static TEXT: &str = include_str!("types.txt");

/// The table, read on first use.
pub fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| Table::parse(TEXT))
}

impl Table {
    /// The type with this id.
    pub fn get(&self, id: TypeId) -> &TypeDef {
        &self.types[usize::from(id.0)]
    }

    /// Every type, in the order of the generated file.
    pub fn types(&self) -> impl Iterator<Item = (TypeId, &TypeDef)> {
        self.types.iter().enumerate().map(|(i, t)| (TypeId(i as u16), t))
    }

    /// The type called `name` (`io.k8s.api.core.v1.Pod`).
    pub fn by_name(&self, name: &str) -> Option<TypeId> {
        let found = self.by_name.binary_search_by(|i| self.types[usize::from(*i)].name.cmp(name));
        found.ok().map(|i| TypeId(self.by_name[i]))
    }

    /// The type of a kind.
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<TypeId> {
        let is = |k: &KindName| k.kind == kind && k.group == group && k.version == version;
        self.types().find(|(_, t)| t.kind.as_ref().is_some_and(is)).map(|(id, _)| id)
    }

    /// A type with references followed to what they hold, unless that is an object type.
    pub fn resolve<'a>(&'a self, ty: &'a Type) -> &'a Type {
        match ty {
            Type::Ref(id) => self.get(*id).scalar.as_ref().unwrap_or(ty),
            _ => ty,
        }
    }

    fn parse(text: &'static str) -> Self {
        let is_type = |line: &&str| !line.starts_with([' ', '@', '#']) && !line.is_empty();
        let name = |line: &'static str| line.split(' ').next().unwrap_or_default();
        let ids: HashMap<&str, TypeId> =
            text.lines().filter(is_type).enumerate().map(|(i, line)| (name(line), TypeId(i as u16))).collect();
        let mut types: Vec<TypeDef> = Vec::with_capacity(ids.len());
        let mut fields = Vec::new();
        let mut doc = 0;
        let close = |types: &mut Vec<TypeDef>, fields: &mut Vec<Field>| {
            if let Some(last) = types.last_mut() {
                fields.sort_by_key(|f: &Field| f.name);
                last.fields = std::mem::take(fields).into_boxed_slice();
            }
        };
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            if let Some(kind) = line.strip_prefix('@') {
                let mut parts = kind.split(' ');
                let mut next = || parts.next().unwrap_or_default();
                let group = next().trim_matches('-');
                let found = KindName { group, version: next(), kind: next() };
                if let Some(last) = types.last_mut() {
                    last.kind = Some(found);
                }
            } else if let Some(field) = line.strip_prefix(' ') {
                fields.push(parse_field(field, &ids));
                doc += 1;
            } else if !line.is_empty() {
                close(&mut types, &mut fields);
                let scalar = line.split_once(" = ").map(|(_, ty)| parse_type(ty, &ids));
                types.push(TypeDef { name: name(line), fields: Box::default(), scalar, kind: None, doc });
                doc += 1;
            }
        }
        close(&mut types, &mut fields);
        let mut by_name: Vec<u16> = (0..types.len() as u16).collect();
        by_name.sort_by_key(|i| types[usize::from(*i)].name);
        Self { types, by_name }
    }
}

fn parse_type(text: &str, ids: &HashMap<&str, TypeId>) -> Type {
    if let Some(items) = text.strip_prefix("[]") {
        return Type::Array(Box::new(parse_type(items, ids)));
    }
    if let Some(values) = text.strip_prefix("{}") {
        return Type::Map(Box::new(parse_type(values, ids)));
    }
    if let Some(name) = text.strip_prefix('&') {
        return ids.get(name).map_or(Type::Any, |id| Type::Ref(*id));
    }
    match text {
        "s" => Type::String,
        "s:byte" => Type::Bytes,
        "s:date-time" => Type::Time,
        "s:micro-time" => Type::MicroTime,
        "i32" => Type::Int32,
        "i64" => Type::Int64,
        "f64" => Type::Float,
        "b" => Type::Bool,
        "o" => Type::Object,
        "quantity" => Type::Quantity,
        "int-or-string" => Type::IntOrString,
        _ => Type::Any,
    }
}

fn parse_field(line: &'static str, ids: &HashMap<&str, TypeId>) -> Field {
    let mut parts = line.split(' ');
    let name = parts.next().unwrap_or_default();
    let ty = parse_type(parts.next().unwrap_or_default(), ids);
    let mut field = Field {
        name,
        ty,
        required: false,
        list_type: None,
        atomic: false,
        strategy: PatchStrategy::Default,
        merge_key: None,
        retain_keys: false,
        default: None,
        path: "",
        zero_is_unset: false,
        go: "",
        values: "",
    };
    for flag in parts {
        match flag.split_once('=').unwrap_or((flag, "")) {
            ("!", _) => field.required = true,
            ("r", _) => field.retain_keys = true,
            ("l", "atomic") => field.list_type = Some(ListType::Atomic),
            ("l", "set") => field.list_type = Some(ListType::Set),
            ("k", keys) => field.list_type = Some(ListType::Map(keys)),
            ("t", "atomic") => field.atomic = true,
            ("p", "merge") => field.strategy = PatchStrategy::Merge,
            ("p", "replace") => field.strategy = PatchStrategy::Replace,
            ("m", key) => field.merge_key = Some(key),
            ("d", default) => field.default = Some(default),
            ("n", path) => {
                field.path = path.trim_end_matches('~');
                field.zero_is_unset = path.ends_with('~');
            }
            ("g", name) => field.go = name,
            ("e", values) => field.values = values,
            _ => {}
        }
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_pod() {
        let table = table();
        let id = table.by_kind("", "v1", "Pod").unwrap();
        assert_eq!(table.by_name("io.k8s.api.core.v1.Pod"), Some(id));
        let spec = table.by_name("io.k8s.api.core.v1.PodSpec").unwrap();
        assert_eq!(table.get(id).field("spec").unwrap().ty, Type::Ref(spec));
        let containers = table.get(spec).field("containers").unwrap();
        assert_eq!((containers.merge_key, containers.strategy), (Some("name"), PatchStrategy::Merge));
        let container = table.by_name("io.k8s.api.core.v1.Container").unwrap();
        let ports = table.get(container).field("ports").unwrap();
        assert_eq!(ports.list_type, Some(ListType::Map("containerPort,protocol")));
        assert_eq!(ports.merge_key, Some("containerPort"));
    }

    #[test]
    fn no_reference_dangles() {
        fn check(ty: &Type, text: &str) {
            match ty {
                Type::Array(inner) | Type::Map(inner) => check(inner, text),
                Type::Any => assert!(text.ends_with("any"), "{text}"),
                _ => {}
            }
        }
        let table = table();
        for (_, ty) in table.types() {
            for field in &ty.fields {
                check(&field.ty, if matches!(field.ty, Type::Any) { field.name } else { "any" });
            }
        }
        assert!(table.types.len() > 700);
    }
}
