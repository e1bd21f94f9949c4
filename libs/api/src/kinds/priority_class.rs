//! scheduling.k8s.io/v1 PriorityClass.

use jiff::Timestamp;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde_json::Value;

use super::shared::{
    cells,
    columns::{AGE, NAME, column},
    default_to, metadata_accessors, text,
};
use crate::kind::{KindInfo, Resource};

/// The type of this kind.
pub type Served = PriorityClass;

/// Classes that every cluster has: name, value, description.
pub const SYSTEM_CLASSES: [(&str, i32, &str); 2] = [
    ("system-node-critical", 2_000_001_000, "Used for system critical pods that must not be moved from their current node."),
    ("system-cluster-critical", 2_000_000_000, "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."),
];

impl Resource for PriorityClass {
    const INFO: KindInfo = KindInfo {
        group: "scheduling.k8s.io",
        kind: "PriorityClass",
        plural: "priorityclasses",
        singular: "priorityclass",
        short_names: &["pc"],
        namespaced: false,
        columns: &[
            NAME,
            column("Value", "integer", "The priority of pods of this class."),
            column("Global-Default", "boolean", "Whether pods without a class get this one."),
            AGE,
            column("PreemptionPolicy", "string", "Whether pods of this class may preempt others."),
        ],
        has_generation: true,
        ..KindInfo::BASE
    };

    metadata_accessors!();

    fn set_defaults(&mut self) {
        default_to(&mut self.preemption_policy, "PreemptLowerPriority");
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        vec![
            cells::name(&self.metadata),
            self.value.into(),
            self.global_default.unwrap_or(false).into(),
            cells::age(&self.metadata, now),
            text(self.preemption_policy.as_ref()).into(),
        ]
    }
}
