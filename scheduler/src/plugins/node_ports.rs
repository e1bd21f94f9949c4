//! Host ports are held by one pod a node.

use crate::{
    framework::{Events, Plugin, Prepared, Rejection},
    pod::PodInfo,
    snapshot::Snapshot,
};

pub struct NodePorts;

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn wakes_on(&self) -> Events {
        Events::NODE_ADDED.and(Events::POD_DELETED)
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, _snapshot: &'a Snapshot) -> Prepared<'a> {
        if pod.ports.is_empty() {
            return Prepared::Skip;
        }
        Prepared::Filter(Box::new(|node| {
            match pod.ports.iter().any(|wanted| node.ports.iter().any(|held| held.conflicts(wanted))) {
                false => Ok(()),
                true => Err(Rejection::crowded(vec!["node(s) didn't have free ports for the requested pod ports".into()])),
            }
        }))
    }
}
