//! The smallest strategic-merge patch that turns the status in the API into ours.
//!
//! Conditions merge by type, so that those of others (readiness gates, disruption) are never touched and ours go by name; addresses merge by
//! their value and need explicit deletions; every other list is replaced as a whole.

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Map, Value, json};

use super::resize;

/// The patch, or `None` if nothing differs.
pub fn diff(pod: &Pod, old: &PodStatus, new: &PodStatus) -> Option<Value> {
    // Most looks at a pod change nothing.
    if old == new {
        return None;
    }
    let (old, new) = (to_map(old), to_map(new));
    let mut status = Map::new();
    for (key, value) in &new {
        if old.get(key) == Some(value) {
            continue;
        }
        let value = match key.as_str() {
            "conditions" => keyed(old.get(key), value, "type", |kind| {
                [resize::PENDING, resize::IN_PROGRESS].iter().any(|own| kind == own)
            }),
            "podIPs" | "hostIPs" => keyed(old.get(key), value, "ip", |_| true),
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

/// Changed elements of a list that merges by `key`, with deletions of what is gone where we own it.
fn keyed(old: Option<&Value>, new: &Value, key: &str, owned: impl Fn(&Value) -> bool) -> Option<Value> {
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
    let gone = old.iter().filter(|o| owned(&o[key]) && !new.iter().any(|n| n[key] == o[key]));
    patch.extend(gone.map(|o| json!({"$patch": "delete", key: o[key]})));
    (!patch.is_empty()).then_some(Value::Array(patch))
}

#[cfg(test)]
mod tests {
    use api::patch::{Patch, PatchType};
    use proptest::prelude::*;

    use super::*;

    fn status(value: Value) -> PodStatus {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn only_what_changed_is_sent() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"uid": "u"}})).unwrap();
        let old = status(json!({"phase": "Pending", "reason": "x", "podIPs": [{"ip": "10.42.0.1"}], "conditions": [
            {"type": "Ready", "status": "False", "reason": "ContainersNotReady"},
            {"type": "Mine", "status": "True"}, {"type": "PodScheduled", "status": "True"},
            {"type": "PodResizePending", "status": "True"}, {"type": "PodResizeInProgress", "status": "True"}]}));
        let new = status(json!({"phase": "Running", "podIPs": [{"ip": "10.42.0.2"}], "conditions": [
            {"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"}]}));
        let patch = json!({"metadata": {"uid": "u"}, "status": {
            "phase": "Running", "reason": null,
            "podIPs": [{"ip": "10.42.0.2"}, {"$patch": "delete", "ip": "10.42.0.1"}],
            "conditions": [{"type": "Ready", "status": "True", "reason": null},
                {"$patch": "delete", "type": "PodResizePending"}, {"$patch": "delete", "type": "PodResizeInProgress"}]}});
        assert_eq!(diff(&pod, &old, &new), Some(patch));
        assert_eq!(diff(&pod, &new, &new), None);
    }
    fn condition() -> impl Strategy<Value = Value> {
        let kind = prop::sample::select(vec!["Ready", "Initialized", "ContainersReady"]);
        let status = prop::sample::select(vec!["True", "False"]);
        let reason = prop::option::of(prop::sample::select(vec!["A", "B"]));
        (kind, status, reason).prop_map(|(kind, status, reason)| match reason {
            Some(reason) => json!({"type": kind, "status": status, "reason": reason}),
            None => json!({"type": kind, "status": status}),
        })
    }

    fn any_status() -> impl Strategy<Value = Value> {
        let conditions = prop::collection::vec(condition(), 0..4).prop_map(|mut all| {
            all.sort_by_key(|c| c["type"].to_string());
            all.dedup_by_key(|c| c["type"].to_string());
            all
        });
        let ips = prop::collection::btree_set(1..4u8, 0..3);
        let containers = prop::collection::vec(("[ab]", any::<bool>(), 0..3i32), 0..3);
        let phase = prop::option::of(prop::sample::select(vec!["Pending", "Running"]));
        (conditions, ips, containers, phase).prop_map(|(conditions, ips, containers, phase)| {
            let ips: Vec<Value> = ips.iter().map(|i| json!({"ip": format!("10.42.0.{i}")})).collect();
            let container = |(name, ready, count): &(String, bool, i32)| {
                json!({"name": name, "ready": ready, "restartCount": count, "image": "i", "imageID": "", "lastState": {}})
            };
            let containers: Vec<Value> = containers.iter().map(container).collect();
            json!({"conditions": conditions, "podIPs": ips, "containerStatuses": containers, "phase": phase})
        })
    }

    /// A status with its merging lists in a fixed order, and what others own left out.
    fn comparable(status: &Value, keep: &[String]) -> Value {
        let mut status: Value = serde_json::to_value(self::status(status.clone())).unwrap();
        for (list, key) in [("conditions", "type"), ("podIPs", "ip")] {
            if let Some(items) = status[list].as_array_mut() {
                items.retain(|i| list != "conditions" || keep.contains(&i["type"].to_string()));
                items.sort_by_key(|i| i[key].to_string());
            }
            if status[list].as_array().is_none_or(Vec::is_empty) {
                status.as_object_mut().unwrap().remove(list);
            }
        }
        status
    }

    proptest! {
        /// Applied by the API server's own patch code, the patch leads to what we meant; conditions that we do not speak of stay.
        #[test]
        fn patches_lead_where_they_should(old in any_status(), new in any_status()) {
            let pod: Pod = serde_json::from_value(json!({"metadata": {"uid": "u"}, "status": old})).unwrap();
            let (before, after) = (status(old), status(new.clone()));
            let stored = serde_json::to_value(&pod).unwrap();
            let reached = match diff(&pod, &before, &after) {
                Some(patch) => {
                    let bytes = patch.to_string();
                    let (patch, _) = Patch::parse(PatchType::Strategic, bytes.as_bytes()).unwrap();
                    let ty = api::schema::table().by_kind("", "v1", "Pod");
                    patch.apply(&stored, ty).unwrap()["status"].clone()
                }
                None => stored["status"].clone(),
            };
            let ours: Vec<String> = new["conditions"].as_array().unwrap().iter().map(|c| c["type"].to_string()).collect();
            prop_assert_eq!(comparable(&reached, &ours), comparable(&new, &ours));
        }
    }
}
