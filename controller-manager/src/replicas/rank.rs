//! Which pods go first when there are too many: those whose loss is felt least.

use std::{
    cmp::{Ordering, Reverse},
    collections::HashMap,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::pods;

/// Lower is deleted earlier.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The order upstream sorts by, as a tuple that compares like it (smallest first to go).
type Rank<'a> = (bool, u8, bool, i32, Reverse<usize>, Reverse<i64>, Reverse<i32>, Reverse<i64>, &'a str);

/// Ages are compared by the power of two they fall in, so that pods of about one age are chosen from evenly.
fn age_class(since: Option<Timestamp>, now: Timestamp) -> i64 {
    let age = since.filter(|t| *t != Timestamp::MIN).map_or(0, |t| now.duration_since(t).as_secs().max(0));
    if age == 0 { -1 } else { i64::from(age.ilog2()) }
}

fn rank<'a>(pod: &'a Pod, neighbours: usize, now: Timestamp) -> Rank<'a> {
    let phase = match pods::phase(pod) {
        "Pending" => 0,
        "Running" => 2,
        _ => 1,
    };
    let cost =
        pod.metadata.annotations.as_ref().and_then(|a| a.get(DELETION_COST)).and_then(|c| c.parse().ok()).unwrap_or(0);
    let restarts =
        pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten()).map(|c| c.restart_count).max().unwrap_or(0);
    let ready = pods::ready_since(pod);
    let created = pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
    (
        !pods::node(pod).is_empty(),
        phase,
        ready.is_some(),
        cost,
        Reverse(neighbours),
        // Reverse of reverse: an older class survives longer, so it must compare greater.
        Reverse(-age_class(ready, now)),
        Reverse(restarts),
        Reverse(-age_class(created, now)),
        pod.metadata.uid.as_deref().unwrap_or_default(),
    )
}

/// The `count` pods to delete of `candidates`. `neighbours` says how many active pods of related controllers each node has.
pub fn choose<P: AsRef<Pod>>(
    candidates: &[P],
    neighbours: &HashMap<String, usize>,
    count: usize,
    now: Timestamp,
) -> Vec<usize> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    let key = |i: usize| {
        let pod = candidates[i].as_ref();
        rank(pod, neighbours.get(pods::node(pod)).copied().unwrap_or(0), now)
    };
    order.sort_by(|a, b| -> Ordering { key(*a).cmp(&key(*b)) });
    order.truncate(count);
    order
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use serde_json::json;

    fn pod(name: &str, node: &str, phase: &str, ready_at: Option<&str>, cost: &str) -> Arc<Pod> {
        let conditions: Vec<_> =
            ready_at.iter().map(|at| json!({"type": "Ready", "status": "True", "lastTransitionTime": at})).collect();
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "uid": name, "annotations": {DELETION_COST: cost}, "creationTimestamp": "2024-01-01T00:00:00Z"},
                "spec": {"nodeName": node, "containers": []},
                "status": {"phase": phase, "conditions": conditions},
            }))
            .expect("a pod"),
        )
    }

    #[test]
    fn the_least_useful_go_first() {
        let candidates = [
            pod("old", "b", "Running", Some("2024-01-01T00:00:00Z"), "0"),
            pod("dear", "b", "Running", Some("2024-01-09T23:59:59Z"), "7"),
            pod("young", "b", "Running", Some("2024-01-09T23:59:00Z"), "0"),
            pod("crowded", "a", "Running", Some("2024-01-01T00:00:00Z"), "0"),
            pod("unready", "b", "Running", None, "0"),
            pod("pending", "b", "Pending", None, "0"),
            pod("unbound", "", "Pending", None, "0"),
        ];
        let neighbours = HashMap::from([("a".to_owned(), 2), ("b".to_owned(), 1)]);
        let now = "2024-01-10T00:00:00Z".parse().expect("a time");
        let order: Vec<_> = choose(&candidates, &neighbours, 7, now)
            .into_iter()
            .map(|i| candidates[i].metadata.name.clone().unwrap_or_default())
            .collect();
        assert_eq!(order, ["unbound", "pending", "unready", "crowded", "young", "old", "dear"]);
    }
}
