//! Prefers nodes whose CPU and memory would be used to like shares, so that neither strands the other.

use crate::{
    framework::{MAX_SCORE, Plugin},
    pod::PodInfo,
    resources::Amount,
    snapshot::{NodeInfo, Snapshot},
};

pub struct NodeResourcesBalancedAllocation;

impl Plugin for NodeResourcesBalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn score(&self, pod: &PodInfo, _snapshot: &Snapshot, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
        // Best-effort pods take nothing that could be balanced.
        if pod.requests.milli_cpu == 0 && pod.requests.memory == 0 {
            return None;
        }
        let share = |has: Amount, used: Amount| if has == 0 { 1.0 } else { (used as f64 / has as f64).min(1.0) };
        let score = |node: &&NodeInfo| {
            let cpu = share(node.allocatable.milli_cpu, node.requested.milli_cpu + pod.requests.milli_cpu);
            let memory = share(node.allocatable.memory, node.requested.memory + pod.requests.memory);
            // The standard deviation of two values is half their distance.
            ((1.0 - (cpu - memory).abs() / 2.0) * MAX_SCORE as f64) as i64
        };
        Some(nodes.iter().map(score).collect())
    }
}
