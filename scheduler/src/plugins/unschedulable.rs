//! Cordoned nodes take no pods that don't tolerate the cordon.

use k8s_openapi::api::core::v1::Taint;

use super::taints::tolerated;
use crate::{
    framework::{Events, Plugin, Prepared, Rejection},
    pod::PodInfo,
    snapshot::Snapshot,
};

pub struct NodeUnschedulable;

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn wakes_on(&self) -> Events {
        Events::NODE_ADDED.and(Events::NODE_TAINTS)
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, _snapshot: &'a Snapshot) -> Prepared<'a> {
        let cordon = Taint {
            key: "node.kubernetes.io/unschedulable".to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        };
        if tolerated(pod, &cordon) {
            return Prepared::Skip;
        }
        Prepared::Filter(Box::new(|node| match node.unschedulable() {
            true => Err(Rejection::lasting("node(s) were unschedulable")),
            false => Ok(()),
        }))
    }
}
