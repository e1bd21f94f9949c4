//! Making room: which pods of lower priority would have to go from which node, for a pod that fits nowhere.

use std::sync::Arc;

use jiff::Timestamp;

use crate::{
    cycle::{self, Unfit, histogram},
    framework::Plugin,
    pod::PodInfo,
    snapshot::Snapshot,
};

/// Who must go for the pod to fit.
#[derive(Clone, Debug)]
pub struct Victims {
    /// The node that then takes the pod.
    pub node: String,
    /// Its pods to delete.
    pub pods: Vec<Arc<PodInfo>>,
}

/// At least so many nodes are compared, if so many help (upstream's `minCandidateNodesAbsolute`).
const MIN_CANDIDATES: usize = 100;

/// Chooses victims, or says in upstream's words why preemption does not help. Pods are taken out of the snapshot to see what
/// would be without them; it is as it was when this returns. The search begins at the node of number `start`.
pub fn preempt(
    plugins: &[Box<dyn Plugin>],
    pod: &PodInfo,
    snapshot: &mut Snapshot,
    start: usize,
    unfit: &Unfit,
) -> Result<Victims, String> {
    let spec = pod.pod.spec.as_ref();
    if spec.and_then(|s| s.preemption_policy.as_deref()) == Some("Never") {
        return Err("preemption: not eligible due to preemptionPolicy=Never.".to_owned());
    }
    if waits_for_victims(pod, snapshot) {
        return Err("preemption: not eligible due to a terminating pod on the nominated node.".to_owned());
    }
    let mut candidates = Vec::new();
    let mut reasons = Vec::new();
    let total = snapshot.len();
    let wanted = (total / 10).max(MIN_CANDIDATES);
    for offset in 0..total {
        let node = snapshot.at((start + offset) % total).filter(|node| node.node.is_some());
        let Some(name) = node.map(|node| node.name.clone()) else { continue };
        let helps = unfit.rejections.get(&name).is_some_and(|(_, r)| r.preemption_helps);
        if !helps {
            reasons.push("Preemption is not helpful for scheduling");
            continue;
        }
        match victims(plugins, pod, snapshot, &name) {
            Some(pods) => candidates.push(Victims { node: name.to_string(), pods }),
            None => reasons.push("No preemption victims found for incoming pod"),
        }
        if candidates.len() == wanted {
            break;
        }
    }
    candidates
        .into_iter()
        .min_by_key(cost)
        .ok_or_else(|| format!("preemption: 0/{} nodes are available: {}.", unfit.nodes, histogram(reasons.into_iter())))
}

/// A pod that has preempted once waits until its victims are gone before it preempts again.
fn waits_for_victims(pod: &PodInfo, snapshot: &Snapshot) -> bool {
    let nominated = pod.pod.status.as_ref().and_then(|s| s.nominated_node_name.as_deref());
    nominated.and_then(|name| snapshot.node(name)).is_some_and(|node| {
        node.pods.values().any(|p| p.priority < pod.priority && p.pod.metadata.deletion_timestamp.is_some())
    })
}

/// The fewest, least important pods whose going makes room on the node.
fn victims(plugins: &[Box<dyn Plugin>], pod: &PodInfo, snapshot: &mut Snapshot, node: &str) -> Option<Vec<Arc<PodInfo>>> {
    let mut lower: Vec<Arc<PodInfo>> =
        snapshot.node(node)?.pods.values().filter(|p| p.priority < pod.priority).cloned().collect();
    if lower.is_empty() {
        return None;
    }
    for victim in &lower {
        snapshot.remove_pod(&victim.uid);
    }
    // Prepared anew each time: affinity and spread look at pods elsewhere, too.
    let fits = |snapshot: &Snapshot| {
        let prepared = cycle::prepare(plugins, pod, snapshot).ok();
        prepared.zip(snapshot.node(node)).is_some_and(|(prepared, node)| prepared.check(node).is_ok())
    };
    // Most important first: each is let back in if the pod still fits.
    lower.sort_by(|a, b| b.priority.cmp(&a.priority).then_with(|| started(a).cmp(&started(b))));
    let mut go = Vec::new();
    let helps = fits(snapshot);
    for candidate in lower {
        snapshot.add_pod(&candidate, node);
        if helps && !fits(snapshot) {
            snapshot.remove_pod(&candidate.uid);
            go.push(candidate);
        }
    }
    for victim in &go {
        snapshot.add_pod(victim, node);
    }
    (!go.is_empty()).then_some(go)
}

fn started(pod: &PodInfo) -> Timestamp {
    pod.pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map_or(Timestamp::MAX, |t| t.0)
}

/// Upstream's order: the lowest highest priority, the smallest sum of priorities, the fewest, the latest started.
fn cost(victims: &Victims) -> (i32, i64, usize, std::cmp::Reverse<Timestamp>) {
    let highest = victims.pods.iter().map(|p| p.priority).max().unwrap_or(i32::MIN);
    let sum = victims.pods.iter().map(|p| i64::from(p.priority) + i64::from(i32::MAX) + 1).sum();
    let important = victims.pods.iter().filter(|p| p.priority == highest);
    let earliest = important.map(|p| started(p)).min().unwrap_or(Timestamp::MAX);
    (highest, sum, victims.pods.len(), std::cmp::Reverse(earliest))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::default_plugins;

    fn pod(name: &str, priority: i32, app: &str, spec: &Value) -> Arc<PodInfo> {
        let mut whole = json!({"containers": [{"name": "c"}], "priority": priority});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let metadata = json!({"name": name, "namespace": "default", "uid": name, "labels": {"app": app}});
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(json!({"metadata": metadata, "spec": whole})).unwrap())))
    }

    /// Two nodes with these pods.
    fn snapshot(pods: &[(&str, i32, &str, &str)]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for name in ["n1", "n2"] {
            let status = json!({"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"}});
            let labels = json!({"kubernetes.io/hostname": name});
            let node = json!({"metadata": {"name": name, "labels": labels}, "status": status});
            snapshot.set_node(&Arc::new(serde_json::from_value(node).unwrap()));
        }
        for (name, priority, app, node) in pods {
            snapshot.add_pod(&pod(name, *priority, app, &json!({})), node);
        }
        snapshot
    }

    /// Who goes for it from where, or why nobody does.
    fn preempted(pod: &PodInfo, mut snapshot: Snapshot) -> Result<(String, Vec<String>), String> {
        let plugins = default_plugins();
        let unfit = cycle::schedule(&plugins, pod, &snapshot, 0, 0).expect_err("it fits nowhere");
        let before = format!("{:?}", snapshot.nodes().map(|n| (&n.name, n.pods.len(), &n.requested)).collect::<Vec<_>>());
        let chosen = preempt(&plugins, pod, &mut snapshot, 0, &unfit);
        let after = format!("{:?}", snapshot.nodes().map(|n| (&n.name, n.pods.len(), &n.requested)).collect::<Vec<_>>());
        assert_eq!(before, after);
        chosen.map(|victims| (victims.node, victims.pods.iter().map(|p| p.uid.clone()).collect()))
    }

    #[test]
    fn a_pod_goes_whose_company_is_shunned() {
        let away = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": {"matchLabels": {"app": "loud"}}, "topologyKey": "kubernetes.io/hostname"}]}});
        let vip = pod("vip", 10, "quiet", &json!({"affinity": away}));
        let all = [("a", 5, "loud", "n1"), ("b", 0, "loud", "n2"), ("c", 0, "other", "n2")];
        assert_eq!(preempted(&vip, snapshot(&all)), Ok(("n2".to_owned(), vec!["b".to_owned()])));
        let all = [("a", 10, "loud", "n1"), ("b", 10, "loud", "n2"), ("c", 0, "other", "n2")];
        let nobody = "preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod.";
        assert_eq!(preempted(&vip, snapshot(&all)), Err(nobody.to_owned()));
    }

    #[test]
    fn a_pod_goes_that_makes_the_spread_uneven() {
        let spread = json!([{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "even"}}}]);
        let needs = |cpu: &str| json!([{"name": "c", "resources": {"requests": {"cpu": cpu}}}]);
        let vip = pod("vip", 10, "even", &json!({"topologySpreadConstraints": spread, "containers": needs("1")}));
        // Where there is room the spread forbids it, and where the spread wants it there is none.
        let mut uneven = snapshot(&[("a", 0, "even", "n1"), ("b", 0, "other", "n1")]);
        uneven.add_pod(&pod("full", 10, "other", &json!({"containers": needs("4")})), "n2");
        assert_eq!(preempted(&vip, uneven), Ok(("n1".to_owned(), vec!["a".to_owned()])));
    }
}
