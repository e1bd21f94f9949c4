//! apps/v1 ReplicaSet.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use serde_json::Value;

use super::shared::{
    cells,
    columns::{AGE, CONTAINERS, IMAGES, NAME, SELECTOR, column},
    default_to, metadata_accessors, pod_defaults,
    pod_rules::warnings,
    replicas,
};
use crate::{field::FieldErrors, field_path::Path, kind::{Context, KindInfo, Resource, Scale, Subresource}, pluck};

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
        columns: &[
            NAME,
            column("Desired", "integer", "Pods that are wanted."),
            column("Current", "integer", "Pods that exist."),
            column("Ready", "integer", "Pods that are ready."),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
        has_generation: true,
        fields: &["status.replicas"],
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
            let no_status = Default::default();
        let status = self.status.as_ref().unwrap_or(&no_status);
            let counts = replicas::Counts {
                replicas: status.replicas,
                fully_labeled: status.fully_labeled_replicas,
                ready: status.ready_replicas,
                available: status.available_replicas,
                observed_generation: status.observed_generation,
            };
            errors.non_negative(&Path::root("status.terminatingReplicas"), status.terminating_replicas);
            return counts.check(&Path::root("status"), errors);
        }
        // Twice, as upstream's causes have it.
        self.validate(errors);
        self.validate(errors);
        let selector = |object: &Self| object.spec.as_ref().map(|spec| spec.selector.clone());
        let (new, old) = (selector(self), selector(old));
        errors.immutable_pointer(&Path::root("spec.selector"), replicas::given(new.as_ref()), replicas::given(old.as_ref()));
    }

    fn warnings(&self, old: Option<&Self>) -> Vec<String> {
        let name = old.is_none().then(|| warnings::name(&self.metadata, "Pod names and hostnames")).flatten();
        if old.is_some_and(|old| old.metadata.generation == self.metadata.generation) {
            return Vec::new();
        }
        let template = self.spec.as_ref().and_then(|spec| spec.template.as_ref());
        name.into_iter().chain(warnings::template(template, "spec.template")).collect()
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        vec![("status.replicas", self.status.as_ref().map_or(0, |status| status.replicas).to_string())]
    }

    fn fields_of(bytes: &[u8]) -> Vec<(&'static str, String)> {
        let replicas = pluck::texts(bytes, Self::INFO.fields).concat();
        vec![("status.replicas", if replicas.is_empty() { "0".to_owned() } else { replicas })]
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let no_spec = Default::default();
        let spec = self.spec.as_ref().unwrap_or(&no_spec);
        let no_status = Default::default();
        let status = self.status.as_ref().unwrap_or(&no_status);
        let (names, images) = cells::template(spec.template.as_ref());
        vec![
            cells::name(&self.metadata),
            spec.replicas.unwrap_or(0).into(),
            status.replicas.into(),
            status.ready_replicas.unwrap_or(0).into(),
            cells::age(&self.metadata, now),
            names.into(),
            images.into(),
            cells::selector(&spec.selector).into(),
        ]
    }

    fn scale(&self) -> Option<Scale> {
        let spec = self.spec.as_ref()?;
        Some(Scale {
            replicas: spec.replicas.unwrap_or(0),
            status_replicas: self.status.as_ref().map_or(0, |status| status.replicas),
            selector: cells::selector(&spec.selector),
        })
    }

    fn set_scale(&mut self, replicas: i32) {
        self.spec.get_or_insert_default().replicas = Some(replicas);
    }
}
