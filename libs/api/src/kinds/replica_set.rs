//! apps/v1 ReplicaSet.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use serde_json::Value;

use super::shared::{cells, default_to, metadata_accessors, pod_defaults, replicas};
use crate::{
    field::FieldErrors,
    field_path::Path,
    kind::{Context, KindInfo, Resource, Scale, Subresource},
};

/// The type of this kind.
pub type Served = ReplicaSet;

impl Resource for ReplicaSet {
    const INFO: KindInfo = KindInfo {
        group: "apps",
        kind: "ReplicaSet",
        plural: "replicasets",
        singular: "replicaset",
        short_names: &["rs"],
        categories: &["all"],
        subresources: &[Subresource::Scale, Subresource::Status],
        columns: replicas::COLUMNS,
        has_generation: true,
        ..KindInfo::BASE
    };

    metadata_accessors!();

    fn set_defaults(&mut self) {
        self.status.get_or_insert_default();
        let spec = self.spec.get_or_insert_default();
        default_to(&mut spec.replicas, 1);
        pod_defaults::template(spec.template.get_or_insert_default());
    }

    fn prepare_for_create(&mut self, _ctx: &Context) {
        self.status = Some(ReplicaSetStatus::default());
    }

    fn prepare_for_update(&mut self, old: &Self, at: Option<Subresource>, _ctx: &Context) {
        if at == Some(Subresource::Status) {
            self.spec.clone_from(&old.spec);
        } else {
            self.status.clone_from(&old.status);
        }
    }

    fn generation_moves(&self, old: &Self) -> bool {
        self.spec != old.spec
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let path = Path::root("spec");
        let no_spec = Default::default();
        let spec = self.spec.as_ref().unwrap_or(&no_spec);
        errors.non_negative(&path.child("replicas"), spec.replicas);
        errors.non_negative(&path.child("minReadySeconds"), spec.min_ready_seconds);
        replicas::selector_and_template(&spec.selector, spec.template.as_ref(), &path, errors);
    }

    fn validate_update(&self, old: &Self, at: Option<Subresource>, errors: &mut FieldErrors) {
        if at == Some(Subresource::Status) {
            let terminating = self.status.as_ref().and_then(|status| status.terminating_replicas);
            errors.non_negative(&Path::root("status.terminatingReplicas"), terminating);
            return counts(self).check(&Path::root("status"), errors);
        }
        // Twice, as upstream's causes have it.
        self.validate(errors);
        self.validate(errors);
        let (new, old) = (self.spec.as_ref(), old.spec.as_ref());
        replicas::same_selector(new.map(|spec| &spec.selector), old.map(|spec| &spec.selector), errors);
    }

    fn warnings(&self, old: Option<&Self>) -> Vec<String> {
        let template = self.spec.as_ref().and_then(|spec| spec.template.as_ref());
        replicas::warnings(&self.metadata, old.map(|old| &old.metadata), template)
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let no_spec = Default::default();
        let spec = self.spec.as_ref().unwrap_or(&no_spec);
        let selector = cells::selector(&spec.selector);
        replicas::cells(&self.metadata, spec.replicas, &counts(self), spec.template.as_ref(), selector, now)
    }

    fn scale(&self) -> Option<Scale> {
        let spec = self.spec.as_ref()?;
        Some(Scale {
            replicas: spec.replicas.unwrap_or(0),
            status_replicas: counts(self).replicas,
            selector: cells::selector(&spec.selector),
        })
    }

    fn set_scale(&mut self, replicas: i32) {
        self.spec.get_or_insert_default().replicas = Some(replicas);
    }
}

fn counts(object: &ReplicaSet) -> replicas::Counts {
    object.status.as_ref().map_or_else(Default::default, |status| replicas::Counts {
        replicas: status.replicas,
        fully_labeled: status.fully_labeled_replicas,
        ready: status.ready_replicas,
        available: status.available_replicas,
        observed_generation: status.observed_generation,
    })
}
