//! Fields that Go writes as `null` when they are not set.
//!
//! Structs are never left out by Go's `omitempty`, and a time that is zero writes itself as `null`: so every time that is no pointer
//! is there. Lists and pointers are there where the type does not say `omitempty`.

use std::sync::OnceLock;

use serde_json::Value;

use super::table::{Field, Type, TypeDef, TypeId, table};

/// Lists and pointers without `omitempty` that may be empty, and times.
const ALWAYS_WRITTEN: &[(&str, &str)] = &[
    ("io.k8s.api.core.v1.ContainerImage", "names"),
    ("io.k8s.api.core.v1.ProjectedVolumeSource", "sources"),
    ("io.k8s.api.core.v1.TypedLocalObjectReference", "apiGroup"),
    ("io.k8s.api.core.v1.TypedObjectReference", "apiGroup"),
    ("io.k8s.api.discovery.v1.EndpointSlice", "endpoints"),
    ("io.k8s.api.discovery.v1.EndpointSlice", "ports"),
    ("io.k8s.api.events.v1.Event", "eventTime"),
    ("io.k8s.api.events.v1.EventSeries", "lastObservedTime"),
    ("io.k8s.api.rbac.v1.ClusterRole", "rules"),
    ("io.k8s.api.rbac.v1.Role", "rules"),
    ("io.k8s.api.storage.v1.CSINodeDriver", "topologyKeys"),
    ("io.k8s.api.storage.v1.CSINodeSpec", "drivers"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Condition", "lastTransitionTime"),
];

/// Go's zero time, where our types cannot leave a time out.
const ZERO_TIME: &str = "0001-01-01T00:00:00";

/// For each type the fields that are written as `null`, and those within which there may be such.
struct Plan(Vec<Step>);

struct Step {
    field: &'static str,
    always: bool,
    inner: Option<TypeId>,
}

/// Writes `null` for what is not set in an object of a type.
pub fn write(object: &mut Value, ty: TypeId) {
    static PLANS: OnceLock<Vec<Plan>> = OnceLock::new();
    write_by(object, ty, PLANS.get_or_init(plans));
}

fn write_by(object: &mut Value, ty: TypeId, plans: &[Plan]) {
    let Some(fields) = object.as_object_mut() else { return };
    for step in &plans[ty.index()].0 {
        match (step.inner, fields.get_mut(step.field)) {
            (_, field) if step.always && field.as_deref().is_none_or(is_zero) => {
                fields.insert(step.field.to_owned(), Value::Null);
            }
            (Some(ty), Some(Value::Array(items))) => items.iter_mut().for_each(|item| write_by(item, ty, plans)),
            (Some(ty), Some(field)) => write_by(field, ty, plans),
            _ => {}
        }
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::String(text) => text.starts_with(ZERO_TIME),
        _ => false,
    }
}

fn is_written(ty: &TypeDef, field: &Field) -> bool {
    let is_time = matches!(table().resolve(&field.ty), Type::Time | Type::MicroTime);
    // The time of creation says `omitzero`.
    is_time && field.zero_is_unset && field.name != "creationTimestamp" || ALWAYS_WRITTEN.contains(&(ty.name, field.name))
}

/// The type whose fields are within a field, itself or as items.
fn within(ty: &Type) -> Option<TypeId> {
    match ty {
        Type::Ref(id) => Some(*id),
        Type::Array(items) => within(items),
        _ => None,
    }
}

fn plans() -> Vec<Plan> {
    let table = table();
    let mut holds: Vec<bool> = table.types().map(|(_, ty)| ty.fields.iter().any(|field| is_written(ty, field))).collect();
    loop {
        let leads = |ty: &TypeDef| ty.fields.iter().filter_map(|f| within(&f.ty)).any(|id| holds[id.index()]);
        let more: Vec<bool> = table.types().map(|(id, ty)| holds[id.index()] || leads(ty)).collect();
        if more == holds {
            break;
        }
        holds = more;
    }
    let step = |ty: &TypeDef, field: &Field| {
        let (always, inner) = (is_written(ty, field), within(&field.ty).filter(|id| holds[id.index()]));
        (always || inner.is_some()).then_some(Step { field: field.name, always, inner })
    };
    table.types().map(|(_, ty)| Plan(ty.fields.iter().filter_map(|field| step(ty, field)).collect())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn written(group: &str, kind: &str, mut object: Value) -> Value {
        write(&mut object, table().by_kind(group, "v1", kind).unwrap());
        object
    }

    #[test]
    fn times_that_are_no_pointers_are_always_there() {
        let pod = json!({
            "metadata": {"name": "a"},
            "status": {"conditions": [{"type": "A", "lastProbeTime": "0001-01-01T00:00:00Z"}]},
        });
        let conditions = json!([{"type": "A", "lastProbeTime": null, "lastTransitionTime": null}]);
        let expected = json!({"metadata": {"name": "a"}, "status": {"conditions": conditions}});
        assert_eq!(written("", "Pod", pod), expected);
        let expected = json!({"eventTime": null, "firstTimestamp": null, "lastTimestamp": null});
        assert_eq!(written("", "Event", json!({})), expected);
    }

    #[test]
    fn empty_lists_are_null_where_they_cannot_be_left_out() {
        assert_eq!(written("rbac.authorization.k8s.io", "Role", json!({})), json!({"rules": null}));
        let slice = json!({"endpoints": [], "metadata": {}});
        let expected = json!({"endpoints": null, "metadata": {}, "ports": null});
        assert_eq!(written("discovery.k8s.io", "EndpointSlice", slice), expected);
        let node = json!({"spec": {"drivers": [{"name": "a"}]}});
        let expected = json!({"spec": {"drivers": [{"name": "a", "topologyKeys": null}]}});
        assert_eq!(written("storage.k8s.io", "CSINode", node), expected);
        assert_eq!(written("storage.k8s.io", "CSINode", json!({"spec": {}})), json!({"spec": {"drivers": null}}));
    }

    #[test]
    fn what_is_always_written_exists() {
        for (ty, field) in ALWAYS_WRITTEN {
            let id = table().by_name(ty).expect(ty);
            assert!(table().get(id).field(field).is_some(), "{ty} {field}");
        }
    }
}
