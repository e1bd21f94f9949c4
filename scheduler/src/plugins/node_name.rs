//! A pod that names its node goes there.

use crate::{
    framework::{Events, Plugin, Prepared, Rejection},
    pod::PodInfo,
    snapshot::Snapshot,
};

pub struct NodeName;

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn wakes_on(&self) -> Events {
        Events::NODE_ADDED
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, _snapshot: &'a Snapshot) -> Prepared<'a> {
        let Some(name) = pod.node_name() else { return Prepared::Skip };
        Prepared::Filter(Box::new(move |node| match &*node.name == name {
            true => Ok(()),
            false => Err(Rejection::lasting("node(s) didn't match the requested node name")),
        }))
    }
}
