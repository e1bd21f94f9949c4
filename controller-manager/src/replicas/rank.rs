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

/// What decides before ages do, smallest first to go.
type Rank = (bool, u8, bool, i32, Reverse<usize>);

fn rank(pod: &Pod, neighbours: usize) -> Rank {
    let phase = match pods::phase(pod) {
        "Pending" => 0,
        "Running" => 2,
        _ => 1,
    };
    let cost =
        pod.metadata.annotations.as_ref().and_then(|a| a.get(DELETION_COST)).and_then(|c| c.parse().ok()).unwrap_or(0);
    (!pods::node(pod).is_empty(), phase, pods::is_ready(pod), cost, Reverse(neighbours))
}

/// Ages of the same power of two (of nanoseconds) count as alike.
fn age_class(since: Option<Timestamp>, now: Timestamp) -> Option<u32> {
    u128::try_from(now.duration_since(since?).as_nanos()).ok().and_then(u128::checked_ilog2)
}

fn restarts(pod: &Pod) -> i32 {
    let containers = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    containers.map(|c| c.restart_count).max().unwrap_or(0)
}

/// Ready for less time first, then more restarts, then younger; the uid decides between pods of about one age, so that they are
/// chosen from evenly. (Upstream lets the uid decide as soon as two ages are alike; its order is not transitive then.)
fn compare(a: &Pod, b: &Pod, now: Timestamp) -> Ordering {
    let ready = |p: &Pod| age_class(pods::ready_since(p), now);
    let created = |p: &Pod| age_class(p.metadata.creation_timestamp.as_ref().map(|t| t.0), now);
    ready(a)
        .cmp(&ready(b))
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| created(a).cmp(&created(b)))
        .then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}

/// The `count` pods to delete of `candidates`. `neighbours` says how many active pods of related controllers each node has.
pub fn choose<P: AsRef<Pod>>(
    candidates: &[P],
    neighbours: &HashMap<String, usize>,
    count: usize,
    now: Timestamp,
) -> Vec<usize> {
    let pod = |i: usize| candidates[i].as_ref();
    let ranks: Vec<Rank> =
        (0..candidates.len()).map(|i| rank(pod(i), neighbours.get(pods::node(pod(i))).copied().unwrap_or(0))).collect();
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by(|&a, &b| ranks[a].cmp(&ranks[b]).then_with(|| compare(pod(a), pod(b), now)));
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
