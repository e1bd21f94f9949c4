//! Taints keep pods away that don't tolerate them; `PreferNoSchedule` taints cost score.

use k8s_openapi::api::core::v1::{Taint, Toleration};

use crate::{
    framework::{Events, Plugin, Prepared, Rejection, normalize},
    pod::PodInfo,
    snapshot::{NodeInfo, Snapshot},
};

pub struct TaintToleration;

/// Whether one toleration covers a taint.
fn covers(toleration: &Toleration, taint: &Taint) -> bool {
    let set = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
    if set(&toleration.effect).is_some_and(|effect| effect != taint.effect) {
        return false;
    }
    if set(&toleration.key).is_some_and(|key| key != taint.key) {
        return false;
    }
    let value = taint.value.as_deref().unwrap_or_default();
    let wanted = toleration.value.as_deref().unwrap_or_default();
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "" | "Equal" => wanted == value,
        "Exists" => true,
        // KEP-5471: numeric comparison; only whole numbers without leading zeros compare.
        "Gt" => matches!((value.parse::<i64>(), wanted.parse::<i64>()), (Ok(v), Ok(w)) if v > w),
        "Lt" => matches!((value.parse::<i64>(), wanted.parse::<i64>()), (Ok(v), Ok(w)) if v < w),
        _ => false,
    }
}

fn tolerations(pod: &PodInfo) -> &[Toleration] {
    pod.pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default()
}

/// Whether the pod tolerates a taint.
pub fn tolerated(pod: &PodInfo, taint: &Taint) -> bool {
    tolerations(pod).iter().any(|t| covers(t, taint))
}

/// The first taint that keeps the pod away.
pub fn first_untolerated<'n>(pod: &PodInfo, node: &'n NodeInfo) -> Option<&'n Taint> {
    node.taints().iter().find(|t| matches!(t.effect.as_str(), "NoSchedule" | "NoExecute") && !tolerated(pod, t))
}

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn wakes_on(&self) -> Events {
        Events::NODE_ADDED.and(Events::NODE_TAINTS)
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, _snapshot: &'a Snapshot) -> Prepared<'a> {
        Prepared::Filter(Box::new(move |node| match first_untolerated(pod, node) {
            None => Ok(()),
            Some(taint) => Err(Rejection::lasting(format!(
                "node(s) had untolerated taint {{{}: {}}}",
                taint.key,
                taint.value.as_deref().unwrap_or_default()
            ))),
        }))
    }

    fn score(&self, pod: &PodInfo, _snapshot: &Snapshot, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
        let disliked = |node: &&NodeInfo| {
            let taints = node.taints().iter().filter(|t| t.effect == "PreferNoSchedule");
            taints.filter(|t| !tolerated(pod, t)).count() as i64
        };
        let counts: Vec<i64> = nodes.iter().map(disliked).collect();
        // The same for all changes nothing.
        counts.iter().any(|c| *c > 0).then(|| normalize(counts, true))
    }

    fn weight(&self) -> i64 {
        3
    }
}
