//! Making room: which pods of lower priority would have to go from which node, for a pod that fits nowhere.

use std::sync::Arc;

use jiff::Timestamp;

use crate::{
    cycle::{self, Unfit, histogram},
    framework::Plugin,
    pod::PodInfo,
    snapshot::{NodeInfo, Snapshot},
};

/// Who must go for the pod to fit.
#[derive(Clone, Debug)]
pub struct Victims {
    /// The node that then takes the pod.
    pub node: String,
    /// Its pods to delete.
    pub pods: Vec<Arc<PodInfo>>,
}

/// Chooses victims, or says in upstream's words why preemption does not help.
pub fn preempt(plugins: &[Box<dyn Plugin>], pod: &PodInfo, snapshot: &Snapshot, unfit: &Unfit) -> Result<Victims, String> {
    let spec = pod.pod.spec.as_ref();
    if spec.and_then(|s| s.preemption_policy.as_deref()) == Some("Never") {
        return Err("preemption: not eligible due to preemptionPolicy=Never.".to_owned());
    }
    if waits_for_victims(pod, snapshot) {
        return Err("preemption: not eligible due to a terminating pod on the nominated node.".to_owned());
    }
    let mut candidates = Vec::new();
    let mut reasons = Vec::new();
    let prepared = cycle::prepare(plugins, pod, snapshot).map_err(|_| String::new())?;
    for node in snapshot.nodes() {
        let helps = unfit.rejections.get(&*node.name).is_some_and(|(_, r)| r.preemption_helps);
        if !helps {
            reasons.push("Preemption is not helpful for scheduling");
            continue;
        }
        match victims(&prepared, pod, node) {
            Some(pods) => candidates.push(Victims { node: node.name.to_string(), pods }),
            None => reasons.push("No preemption victims found for incoming pod"),
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
///
/// Filters that count pods elsewhere (affinity, spread) were prepared with the victims still there: a node is chosen only
/// where the node's own room decides, so a wrong guess costs a retry, never a wrong binding.
fn victims(prepared: &cycle::Prepare<'_>, pod: &PodInfo, node: &NodeInfo) -> Option<Vec<Arc<PodInfo>>> {
    let mut emptied = node.clone();
    let mut lower: Vec<Arc<PodInfo>> = node.pods.values().filter(|p| p.priority < pod.priority).cloned().collect();
    if lower.is_empty() {
        return None;
    }
    for victim in &lower {
        emptied.remove(&victim.uid);
    }
    prepared.check(&emptied).ok()?;
    // Most important first: each is let back in if the pod still fits.
    lower.sort_by(|a, b| b.priority.cmp(&a.priority).then_with(|| started(a).cmp(&started(b))));
    let mut go = Vec::new();
    for candidate in lower {
        emptied.add(&candidate);
        if prepared.check(&emptied).is_err() {
            emptied.remove(&candidate.uid);
            go.push(candidate);
        }
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
