//! A node must have what the pod requests; among those that do, the emptier one is better (`LeastAllocated`).

use std::borrow::Cow;

use crate::{
    framework::{Events, MAX_SCORE, Plugin, Prepared, Rejection},
    pod::PodInfo,
    resources::{Amount, Resources},
    snapshot::{NodeInfo, Snapshot},
};

pub struct NodeResourcesFit;

/// What the node lacks for a pod, in upstream's words.
fn lacking(requests: &Resources, node: &NodeInfo) -> Vec<Cow<'static, str>> {
    let mut lacking = Vec::new();
    if node.pods.len() as i64 + 1 > node.allowed_pods {
        lacking.push("Too many pods".into());
    }
    let short = |wanted: Amount, has: Amount, used: Amount| wanted > 0 && wanted > has - used;
    if short(requests.milli_cpu, node.allocatable.milli_cpu, node.requested.milli_cpu) {
        lacking.push("Insufficient cpu".into());
    }
    if short(requests.memory, node.allocatable.memory, node.requested.memory) {
        lacking.push("Insufficient memory".into());
    }
    if short(requests.ephemeral_storage, node.allocatable.ephemeral_storage, node.requested.ephemeral_storage) {
        lacking.push("Insufficient ephemeral-storage".into());
    }
    for (name, wanted) in &requests.scalar {
        let amount = |of: &Resources| of.scalar.get(name).copied().unwrap_or(0);
        if short(*wanted, amount(&node.allocatable), amount(&node.requested)) {
            lacking.push(format!("Insufficient {name}").into());
        }
    }
    lacking
}

/// Whether an empty node of this size could ever take the pod.
fn could_ever_fit(requests: &Resources, node: &NodeInfo) -> bool {
    let amount = |name: &str| node.allocatable.scalar.get(name).copied().unwrap_or(0);
    requests.milli_cpu <= node.allocatable.milli_cpu
        && requests.memory <= node.allocatable.memory
        && requests.ephemeral_storage <= node.allocatable.ephemeral_storage
        && requests.scalar.iter().all(|(name, wanted)| *wanted <= amount(name))
}

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn wakes_on(&self) -> Events {
        Events::NODE_ADDED.and(Events::NODE_ALLOCATABLE).and(Events::POD_DELETED).and(Events::POD_SHRANK)
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, _snapshot: &'a Snapshot) -> Prepared<'a> {
        Prepared::Filter(Box::new(|node| {
            let reasons = lacking(&pod.requests, node);
            if reasons.is_empty() {
                return Ok(());
            }
            Err(Rejection { reasons, preemption_helps: could_ever_fit(&pod.requests, node) })
        }))
    }

    fn score(&self, pod: &PodInfo, _snapshot: &Snapshot, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
        let free = |has: Amount, used: Amount| match has == 0 || used > has {
            true => 0,
            false => ((has - used) * Amount::from(MAX_SCORE) / has) as i64,
        };
        let score = |node: &&NodeInfo| {
            let (cpu, memory) = (node.scored.0 + pod.scored.0, node.scored.1 + pod.scored.1);
            (free(node.allocatable.milli_cpu, cpu) + free(node.allocatable.memory, memory)) / 2
        };
        Some(nodes.iter().map(score).collect())
    }
}
