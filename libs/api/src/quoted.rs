//! Objects as upstream's messages quote them: `Invalid value: {"Key":"a","Operator":"Exists",...}`.
//!
//! Upstream hands the value that broke a rule to Go's `json.Marshal`. Most are internal types, which have no JSON names: every
//! field is written under its Go name, in the order of the struct, whether it is set or not. Types of `meta/v1` have JSON names and
//! leave out what is not set, but are in the order of their struct as well. `quoted/types.txt` says for each type what Go would write.

use std::{collections::HashMap, sync::OnceLock};

use serde::{
    Serialize, Serializer,
    ser::{Error, SerializeMap},
};
use serde_json::{Map, Value, ser::PrettyFormatter};

use crate::field::escape_html;

/// A Go struct, as JSON shows it: the name of a type in `quoted/types.txt`.
#[derive(Clone, Copy, Debug)]
pub struct Shape(&'static str);

/// `core.Toleration`
pub const TOLERATION: Shape = Shape("Toleration");
/// `core.Taint`
pub const TAINT: Shape = Shape("Taint");
/// `core.NodeAddress`
pub const NODE_ADDRESS: Shape = Shape("NodeAddress");
/// `core.NodeSelectorTerm`
pub const NODE_SELECTOR_TERM: Shape = Shape("NodeSelectorTerm");
/// `core.SecurityContext`
pub const SECURITY_CONTEXT: Shape = Shape("SecurityContext");
/// `core.PodResourceClaim`
pub const POD_RESOURCE_CLAIM: Shape = Shape("PodResourceClaim");
/// `core.ContainerResizePolicy`
pub const RESIZE_POLICY: Shape = Shape("ContainerResizePolicy");
/// `core.PodIP` and `core.HostIP`
pub const POD_IP: Shape = Shape("PodIP");
/// `core.ServicePort`
pub const SERVICE_PORT: Shape = Shape("ServicePort");
/// `core.ObjectReference`
pub const OBJECT_REFERENCE: Shape = Shape("ObjectReference");
/// `core.EventSource`
pub const EVENT_SOURCE: Shape = Shape("EventSource");
/// `core.EphemeralContainer`
pub const EPHEMERAL_CONTAINER: Shape = Shape("EphemeralContainer");
/// `core.PodSpec`
pub const POD_SPEC: Shape = Shape("PodSpec");
/// `rbac.RoleRef`
pub const ROLE_REF: Shape = Shape("RoleRef");
/// `storage.CSINodeDriver`
pub const CSI_NODE_DRIVER: Shape = Shape("CSINodeDriver");
/// `authorization.NonResourceAttributes`
pub const NON_RESOURCE_ATTRIBUTES: Shape = Shape("NonResourceAttributes");
/// `metav1.LabelSelector`
pub const LABEL_SELECTOR: Shape = Shape("LabelSelector");
/// `metav1.OwnerReference`
pub const OWNER_REFERENCE: Shape = Shape("OwnerReference");
/// `metav1.ObjectMeta`
pub const OBJECT_META: Shape = Shape("ObjectMeta");

#[derive(Debug)]
struct Field {
    /// Its name in the API.
    from: String,
    /// Its name in a message.
    name: &'static str,
    unset: Unset,
    inner: Option<Shape>,
}

/// What is written where the API's value says nothing.
#[derive(Debug)]
enum Unset {
    /// Nothing (`omitempty`).
    Omitted,
    /// This.
    Value(Value),
    /// The field's type with nothing set.
    Struct,
    /// The field has no name of its own: the fields of its type stand in its place.
    Embedded,
}

/// The table's lines: what is before the first space, with the line of the package they follow, and the fields.
fn lines() -> impl Iterator<Item = (&'static str, &'static str, Vec<Field>)> {
    let mut package = "";
    include_str!("quoted/types.txt").lines().filter(|line| !line.starts_with('#')).filter_map(move |line| {
        if let Some(name) = line.strip_prefix('@') {
            package = name;
            return None;
        }
        let (name, fields) = line.split_once(' ')?;
        Some((package, name, fields.split(' ').map(field).collect()))
    })
}

fn field(text: &'static str) -> Field {
    let (text, inner) = text.split_once('>').map_or((text, None), |(text, inner)| (text, Some(Shape(inner))));
    let (names, unset) = text.split_once(':').unwrap_or((text, "null"));
    let (name, from) = names.split_once('=').map_or((names, None), |(name, from)| (name, Some(from)));
    let unset = match unset {
        "-" => Unset::Omitted,
        "{}" => Unset::Struct,
        "+" => Unset::Embedded,
        value => Unset::Value(value.parse().unwrap_or_default()),
    };
    let small = || format!("{}{}", name[..1].to_lowercase(), &name[1..]);
    Field { from: from.map_or_else(small, str::to_owned), name, unset, inner }
}

/// A value, or a list of values, of a shape.
#[derive(Debug)]
pub struct Quoted {
    shape: Shape,
    value: Value,
}

impl Shape {
    /// `value` as Go writes it. What has no place in the shape is left out.
    pub fn quote(self, value: &impl Serialize) -> Quoted {
        Quoted { shape: self, value: serde_json::to_value(value).unwrap_or_default() }
    }

    fn fields(self) -> &'static [Field] {
        static TABLE: OnceLock<HashMap<&str, Vec<Field>>> = OnceLock::new();
        let table = TABLE.get_or_init(|| lines().map(|(_, name, fields)| (name, fields)).collect());
        table.get(self.0).map_or(&[], Vec::as_slice)
    }

    fn write<M: SerializeMap>(self, object: &Map<String, Value>, map: &mut M) -> Result<(), M::Error> {
        let nothing = Value::Object(Map::new());
        for field in self.fields() {
            let value = object.get(&field.from).filter(|value| !value.is_null());
            match (value, field.inner, &field.unset) {
                (value, Some(shape), Unset::Embedded) => {
                    let object = value.unwrap_or(&nothing).as_object();
                    shape.write(object.ok_or_else(|| M::Error::custom(&field.from))?, map)?;
                }
                (Some(value), Some(shape), _) => map.serialize_entry(field.name, &Shaped(shape, value))?,
                (Some(value), None, _) => map.serialize_entry(field.name, value)?,
                (None, Some(shape), Unset::Struct) => map.serialize_entry(field.name, &Shaped(shape, &nothing))?,
                (None, _, Unset::Value(value)) => map.serialize_entry(field.name, value)?,
                (None, _, _) => {}
            }
        }
        Ok(())
    }
}

impl Quoted {
    /// As Go's `json.MarshalIndent` writes it with an indent of one space.
    pub fn pretty(&self) -> String {
        let mut out = Vec::new();
        let format = PrettyFormatter::with_indent(b" ");
        // Writing to memory does not fail.
        let _ = self.serialize(&mut serde_json::Serializer::with_formatter(&mut out, format));
        escape_html(&String::from_utf8_lossy(&out))
    }
}

impl Serialize for Quoted {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Shaped(self.shape, &self.value).serialize(serializer)
    }
}

struct Shaped<'a>(Shape, &'a Value);

impl Serialize for Shaped<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let object = match self.1 {
            Value::Array(items) => return serializer.collect_seq(items.iter().map(|item| Shaped(self.0, item))),
            Value::Object(object) => object,
            other => return other.serialize(serializer),
        };
        let mut map = serializer.serialize_map(None)?;
        self.0.write(object, &mut map)?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;
    use crate::schema::table;

    fn written(shape: Shape, value: Value) -> String {
        serde_json::to_string(&shape.quote(&value)).unwrap()
    }

    #[test]
    fn internal_types_have_all_fields_in_their_order() {
        let toleration = json!({"effect": "NoExecute", "key": "a", "operator": "Exists", "value": "b"});
        let expected = r#"{"Key":"a","Operator":"Exists","Value":"b","Effect":"NoExecute","TolerationSeconds":null}"#;
        assert_eq!(written(TOLERATION, toleration), expected);
        let term = json!([{"matchExpressions": [{"key": "a", "operator": "Exists"}]}]);
        let expected = r#"[{"MatchExpressions":[{"Key":"a","Operator":"Exists","Values":null}],"MatchFields":null}]"#;
        assert_eq!(written(NODE_SELECTOR_TERM, term), expected);
        let expected = r#"{"Name":"","Protocol":"TCP","AppProtocol":null,"Port":80,"TargetPort":0,"NodePort":0}"#;
        assert_eq!(written(SERVICE_PORT, json!({"port": 80, "protocol": "TCP"})), expected);
    }

    #[test]
    fn types_with_json_names_leave_out_what_is_not_set() {
        let selector = json!({"matchExpressions": [{"key": "a", "operator": "Exists"}], "matchLabels": {"b": "c"}});
        let expected = r#"{"matchLabels":{"b":"c"},"matchExpressions":[{"key":"a","operator":"Exists"}]}"#;
        assert_eq!(written(LABEL_SELECTOR, selector), expected);
        let owner = json!({"kind": "Event", "apiVersion": "v1", "name": "a", "uid": "u", "controller": true});
        let expected = r#"{"apiVersion":"v1","kind":"Event","name":"a","uid":"u","controller":true}"#;
        assert_eq!(written(OWNER_REFERENCE, owner), expected);
        assert_eq!(written(LABEL_SELECTOR, Value::Null), "null");
    }

    #[test]
    fn every_field_of_the_api_has_a_place() {
        // The internal pod has these in its security context; what replaced the deprecated field is a field of its own.
        const OF_THE_HOST: [&str; 5] = ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace", "hostUsers"];
        let table = table();
        let names: BTreeSet<_> = lines().map(|(_, name, _)| name).collect();
        for (package, name, fields) in lines() {
            let id = table.by_name(&format!("{package}.{name}")).expect(name);
            let mut expected: BTreeSet<_> = table.get(id).fields.iter().map(|field| field.name).collect();
            match name {
                "PodSpec" => expected.retain(|field| !OF_THE_HOST.contains(field) && *field != "serviceAccount"),
                "PodSecurityContext" => expected.extend(OF_THE_HOST),
                _ => {}
            }
            let placed: BTreeSet<_> = fields.iter().map(|field| field.from.as_str()).collect();
            assert_eq!(placed, expected, "{name}");
            assert_eq!(placed.len(), fields.len(), "{name}");
            assert!(fields.iter().filter_map(|field| field.inner).all(|shape| names.contains(shape.0)), "{name}");
        }
    }
}
