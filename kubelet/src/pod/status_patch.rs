//! The smallest strategic-merge patch that turns the status in the API into ours.
//!
//! Conditions merge by type, so that those of others (readiness gates, disruption) are never touched; addresses merge by
//! their value and need explicit deletions; every other list is replaced as a whole.

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Map, Value, json};

/// The patch, or `None` if nothing differs.
pub fn diff(pod: &Pod, old: &PodStatus, new: &PodStatus) -> Option<Value> {
    let (old, new) = (to_map(old), to_map(new));
    let mut status = Map::new();
    for (key, value) in &new {
        if old.get(key) == Some(value) {
            continue;
        }
        let value = match key.as_str() {
            "conditions" => keyed(old.get(key), value, "type", false),
            "podIPs" | "hostIPs" => keyed(old.get(key), value, "ip", true),
            _ => Some(value.clone()),
        };
        if let Some(value) = value {
            status.insert(key.clone(), value);
        }
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        status.insert(key.clone(), Value::Null);
    }
    (!status.is_empty()).then(|| json!({"metadata": {"uid": pod.metadata.uid}, "status": status}))
}

fn to_map(status: &PodStatus) -> Map<String, Value> {
    match serde_json::to_value(status) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// Changed elements of a list that merges by `key`, with deletions of what is gone where we own the whole list.
fn keyed(old: Option<&Value>, new: &Value, key: &str, owned: bool) -> Option<Value> {
    let empty = Vec::new();
    let old = old.and_then(Value::as_array).unwrap_or(&empty);
    let new = new.as_array().unwrap_or(&empty);
    let mut patch: Vec<Value> = new
        .iter()
        .filter(|n| !old.contains(n))
        .map(|n| {
            // A reason or message that is no longer there must be removed by name.
            let mut n = n.clone();
            let before = old.iter().find(|o| o[key] == n[key]).and_then(Value::as_object);
            if let (Some(before), Value::Object(n)) = (before, &mut n) {
                for field in before.keys() {
                    n.entry(field.clone()).or_insert(Value::Null);
                }
            }
            n
        })
        .collect();
    if owned {
        let gone = old.iter().filter(|o| !new.iter().any(|n| n[key] == o[key]));
        patch.extend(gone.map(|o| json!({"$patch": "delete", key: o[key]})));
    }
    (!patch.is_empty()).then_some(Value::Array(patch))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(value: Value) -> PodStatus {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn only_what_changed_is_sent() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"uid": "u"}})).unwrap();
        let old = status(json!({"phase": "Pending", "reason": "x", "podIPs": [{"ip": "10.42.0.1"}], "conditions": [
            {"type": "Ready", "status": "False", "reason": "ContainersNotReady"},
            {"type": "Mine", "status": "True"}, {"type": "PodScheduled", "status": "True"}]}));
        let new = status(json!({"phase": "Running", "podIPs": [{"ip": "10.42.0.2"}], "conditions": [
            {"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"}]}));
        let patch = json!({"metadata": {"uid": "u"}, "status": {
            "phase": "Running", "reason": null,
            "podIPs": [{"ip": "10.42.0.2"}, {"$patch": "delete", "ip": "10.42.0.1"}],
            "conditions": [{"type": "Ready", "status": "True", "reason": null}]}});
        assert_eq!(diff(&pod, &old, &new), Some(patch));
        assert_eq!(diff(&pod, &new, &new), None);
    }
}
