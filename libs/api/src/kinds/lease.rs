//! coordination.k8s.io/v1 Lease.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::Value;

use super::shared::{
    cells,
    columns::{AGE, NAME, column},
    metadata_accessors, text,
};
use crate::{
    field::FieldErrors,
    field_path::Path,
    kind::{KindInfo, MetadataRules, Resource},
};

/// The type of this kind.
pub type Served = Lease;

impl Resource for Lease {
    const INFO: KindInfo = KindInfo {
        group: "coordination.k8s.io",
        kind: "Lease",
        plural: "leases",
        singular: "lease",
        columns: &[NAME, column("Holder", "string", "Who holds the lease."), AGE],
        // A lease that a power cut sets back by a second is renewed a second later.
        relaxed_durability: true,
        create_on_update: true,
        unconditional_update: false,
        metadata_rules: MetadataRules { known_finalizers: false, ..MetadataRules::CHANGES },
        ..KindInfo::BASE
    };

    metadata_accessors!();

    fn set_defaults(&mut self) {
        self.spec.get_or_insert_default();
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let Some(spec) = &self.spec else { return };
        let path = Path::root("spec");
        if let Some(seconds) = spec.lease_duration_seconds.filter(|seconds| *seconds <= 0) {
            errors.invalid(path.child("leaseDurationSeconds"), &seconds, "must be greater than 0");
        }
        errors.non_negative(&path.child("leaseTransitions"), spec.lease_transitions);
        match (&spec.strategy, &spec.preferred_holder) {
            (Some(strategy), _) => {
                errors.one_of(&path.child("strategy"), Some(strategy), &["OldestEmulationVersion"]);
            }
            (None, Some(holder)) if !holder.is_empty() => {
                errors.forbidden(path.child("preferredHolder"), "may only be specified when `strategy` is defined");
            }
            _ => {}
        }
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let holder = text(self.spec.as_ref().and_then(|spec| spec.holder_identity.as_ref()));
        vec![cells::name(&self.metadata), holder.into(), cells::age(&self.metadata, now)]
    }
}
