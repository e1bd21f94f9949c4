//! What admission decides about pods without asking anyone: default tolerations, and the priority of a class at hand.
//! The registry calls these before the kind's hooks, on the JSON.

use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde_json::{Map, Value, json};

use crate::kinds::priority_class::SYSTEM_CLASSES;

fn spec_of(pod: &mut Value) -> Option<&mut Map<String, Value>> {
    let pod = pod.as_object_mut()?;
    pod.entry("spec").or_insert_with(|| Value::Object(Map::new())).as_object_mut()
}

/// `DefaultTolerationSeconds`: a pod stays 300 seconds on a node that is not ready or unreachable, unless it says otherwise
/// itself. For creation and updates.
pub fn default_toleration_seconds(pod: &mut Value) {
    let Some(spec) = spec_of(pod) else { return };
    let tolerations = spec.entry("tolerations").or_insert(Value::Null);
    if tolerations.is_null() {
        *tolerations = Value::Array(Vec::new());
    }
    let Some(tolerations) = tolerations.as_array_mut() else { return };
    let missing: Vec<&str> = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]
        .into_iter()
        .filter(|key| {
            !tolerations.iter().any(|toleration| {
                let field = |name: &str| toleration.get(name).and_then(Value::as_str).unwrap_or_default();
                (field("key") == *key || field("key").is_empty()) && matches!(field("effect"), "NoExecute" | "")
            })
        })
        .collect();
    for key in missing {
        tolerations.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}));
    }
}

/// `Priority` of an update: who leaves out what was decided at creation means that.
pub fn keep_priority(pod: &mut Value, old: &Value) {
    let Some(spec) = spec_of(pod) else { return };
    for field in ["priority", "preemptionPolicy"] {
        if let (None | Some(Value::Null), Some(decided)) = (spec.get(field), old["spec"].get(field)) {
            spec.insert(field.to_owned(), decided.clone());
        }
    }
}

/// `Priority`: turns `priorityClassName` into `priority` and `preemptionPolicy` of a pod being created. `find` looks a class up
/// by name; `default` is the class with `globalDefault`, of several the one with the lowest value.
///
/// # Errors
/// The reason for a 403, in upstream's words.
pub fn assign_priority(
    pod: &mut Value,
    find: impl Fn(&str) -> Option<PriorityClass>,
    default: Option<PriorityClass>,
) -> Result<(), String> {
    let Some(spec) = spec_of(pod) else { return Ok(()) };
    let name = spec.get("priorityClassName").and_then(Value::as_str).unwrap_or_default().to_owned();
    let class = match name.as_str() {
        "" => default,
        name => {
            let system = || SYSTEM_CLASSES.iter().find(|(known, ..)| *known == name).map(|(_, value, _)| of_value(*value));
            Some(find(name).or_else(system).ok_or_else(|| format!("no PriorityClass with name {name} was found"))?)
        }
    };
    let class = class.unwrap_or_else(|| of_value(0));
    let given = spec.get("priority").and_then(Value::as_i64);
    if let Some(given) = given.filter(|given| *given != i64::from(class.value)) {
        return Err(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {} from the given PriorityClass name",
            class.value
        ));
    }
    let policy = class.preemption_policy.as_deref().unwrap_or("PreemptLowerPriority");
    let asked = spec.get("preemptionPolicy").and_then(Value::as_str).filter(|asked| *asked != policy);
    if let Some(asked) = asked {
        return Err(format!(
            "the string value of PreemptionPolicy ({asked}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        ));
    }
    if let (true, Some(default)) = (name.is_empty(), &class.metadata.name) {
        spec.insert("priorityClassName".to_owned(), default.clone().into());
    }
    spec.insert("priority".to_owned(), class.value.into());
    spec.insert("preemptionPolicy".to_owned(), policy.into());
    Ok(())
}

fn of_value(value: i32) -> PriorityClass {
    PriorityClass { value, ..PriorityClass::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerations_are_added_where_none_covers_them() {
        let mut pod = json!({"spec": {"tolerations": [
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "tolerationSeconds": 5},
            {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoSchedule"},
        ]}});
        default_toleration_seconds(&mut pod);
        let added = json!({"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
        assert_eq!(pod["spec"]["tolerations"].as_array().map(Vec::len), Some(3));
        assert_eq!(pod["spec"]["tolerations"][2], added);
        let mut covered = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        default_toleration_seconds(&mut covered);
        assert_eq!(covered, json!({"spec": {"tolerations": [{"operator": "Exists"}]}}));
    }

    #[test]
    fn priorities_come_from_classes() {
        let find =
            |name: &str| (name == "high").then(|| PriorityClass { preemption_policy: Some("Never".into()), ..of_value(7) });
        let assign = |spec: Value| {
            let mut pod = json!({"spec": spec});
            assign_priority(&mut pod, find, None).map(|()| pod["spec"].clone())
        };
        assert_eq!(assign(json!({})), Ok(json!({"priority": 0, "preemptionPolicy": "PreemptLowerPriority"})));
        let high = json!({"priorityClassName": "high", "priority": 7, "preemptionPolicy": "Never"});
        assert_eq!(assign(json!({"priorityClassName": "high"})), Ok(high));
        let system = assign(json!({"priorityClassName": "system-node-critical"})).map(|spec| spec["priority"].clone());
        assert_eq!(system, Ok(json!(2_000_001_000)));
        assert_eq!(
            assign(json!({"priorityClassName": "none"})),
            Err("no PriorityClass with name none was found".to_owned())
        );
        assert!(assign(json!({"priority": 5})).is_err());
    }
}
