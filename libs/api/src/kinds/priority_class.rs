//! scheduling.k8s.io/v1 PriorityClass.

use jiff::Timestamp;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde_json::Value;

use super::shared::{
    cells,
    columns::{AGE, NAME, column},
    default_to, metadata_accessors,
    pod_rules::preemption_policy,
    text,
};
use crate::{
    field::FieldErrors,
    field_path::Path,
    kind::{KindInfo, MetadataRules, Resource, Subresource},
};

/// The type of this kind.
pub type Served = PriorityClass;

/// Users' classes stay below the system's.
const HIGHEST_OF_USERS: i32 = 1_000_000_000;

/// Classes that every cluster has: name, value, description.
pub const SYSTEM_CLASSES: [(&str, i32, &str); 2] = [
    ("system-node-critical", 2_000_001_000, "Used for system critical pods that must not be moved from their current node."),
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
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
        metadata_rules: MetadataRules::CHANGES,
        ..KindInfo::BASE
    };

    metadata_accessors!();

    fn set_defaults(&mut self) {
        default_to(&mut self.preemption_policy, "PreemptLowerPriority");
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        if name.starts_with("system-") {
            if let Err(reason) = check_system_class(self, name) {
                let message =
                    format!("priority class names with 'system-' prefix are reserved for system use only. error: {reason}");
                errors.forbidden("metadata.name", message);
            }
        } else if self.value > HIGHEST_OF_USERS {
            let message = format!("maximum allowed value of a user defined priority is {HIGHEST_OF_USERS}");
            errors.forbidden("value", message);
        }
        preemption_policy(text(self.preemption_policy.as_ref()), &Path::root("preemptionPolicy"), errors);
    }

    fn validate_update(&self, old: &Self, _at: Option<Subresource>, errors: &mut FieldErrors) {
        if self.value != old.value {
            errors.forbidden("value", "may not be changed in an update.");
        }
        errors.immutable(&Path::root("preemptionPolicy"), &self.preemption_policy, &old.preemption_policy);
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

fn check_system_class(class: &PriorityClass, name: &str) -> Result<(), String> {
    let Some((_, value, _)) = SYSTEM_CLASSES.iter().find(|(known, ..)| *known == name) else {
        return Err(format!("{name} is not a known system priority class"));
    };
    if *value != class.value {
        return Err(format!("value of {name} PriorityClass must be {value}"));
    }
    if class.global_default == Some(true) {
        return Err(format!("globalDefault of {name} PriorityClass must be false"));
    }
    Ok(())
}
