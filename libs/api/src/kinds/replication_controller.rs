//! core/v1 ReplicationController.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ReplicationController, ReplicationControllerStatus};
use serde_json::Value;

use super::shared::{cells, default_to, metadata_accessors, pod_defaults, pod_rules, replicas};
use crate::{
    field::FieldErrors,
    field_path::Path,
    kind::{Context, KindInfo, Resource, Scale, Subresource},
    pluck,
    selector::Selector,
};

/// The type of this kind.
pub type Served = ReplicationController;

impl Resource for ReplicationController {
    const INFO: KindInfo = KindInfo {
        kind: "ReplicationController",
        plural: "replicationcontrollers",
        singular: "replicationcontroller",
        short_names: &["rc"],
        categories: &["all"],
        storage_prefix: Some("controllers"),
        subresources: &[Subresource::Scale, Subresource::Status],
        columns: replicas::COLUMNS,
        has_generation: true,
        orphans_dependents: true,
        fields: &["status.replicas"],
        ..KindInfo::BASE
    };

    metadata_accessors!();

    fn set_defaults(&mut self) {
        self.status.get_or_insert_default();
        let spec = self.spec.get_or_insert_default();
        let labels = spec.template.as_ref().and_then(|template| template.metadata.as_ref()?.labels.clone());
        if let Some(labels) = labels {
            if spec.selector.as_ref().is_none_or(|selector| selector.is_empty()) {
                spec.selector = Some(labels.clone());
            }
            if self.metadata.labels.as_ref().is_none_or(|own| own.is_empty()) {
                self.metadata.labels = Some(labels);
            }
        }
        default_to(&mut spec.replicas, 1);
        spec.template.as_mut().map(pod_defaults::template);
    }

    fn prepare_for_create(&mut self, _ctx: &Context) {
        self.status = Some(ReplicationControllerStatus::default());
    }

    fn prepare_for_update(&mut self, old: &Self, at: Option<Subresource>, _ctx: &Context) {
        if at == Some(Subresource::Status) {
            self.spec.clone_from(&old.spec);
            // Upstream's decoder gives the labels of its template to whatever it reads without labels.
            self.set_defaults();
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
        errors.non_negative(&path.child("minReadySeconds"), spec.min_ready_seconds);
        let labels = spec.selector.clone().unwrap_or_default();
        if labels.is_empty() {
            errors.required(path.child("selector"), "");
        }
        errors.non_negative(&path.child("replicas"), spec.replicas);
        let template_path = path.child("template");
        match &spec.template {
            None => errors.required(template_path, ""),
            Some(template) => {
                let selector = Selector::from_set(&labels);
                pod_rules::replica_template(template, &selector, "ReplicationController", &template_path, errors);
            }
        }
    }

    fn validate_update(&self, _old: &Self, at: Option<Subresource>, errors: &mut FieldErrors) {
        if at == Some(Subresource::Status) {
            return counts(self).check(&Path::root("status"), errors);
        }
        // Twice, as upstream's causes have it.
        self.validate(errors);
        self.validate(errors);
    }

    fn warnings(&self, old: Option<&Self>) -> Vec<String> {
        let template = self.spec.as_ref().and_then(|spec| spec.template.as_ref());
        replicas::warnings(&self.metadata, old.map(|old| &old.metadata), template)
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        vec![("status.replicas", counts(self).replicas.to_string())]
    }

    fn fields_of(bytes: &[u8]) -> Vec<(&'static str, String)> {
        let replicas = pluck::texts(bytes, Self::INFO.fields).concat();
        vec![("status.replicas", if replicas.is_empty() { "0".to_owned() } else { replicas })]
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let no_spec = Default::default();
        let spec = self.spec.as_ref().unwrap_or(&no_spec);
        let selector = cells::labels(spec.selector.as_ref());
        replicas::cells(&self.metadata, spec.replicas, &counts(self), spec.template.as_ref(), selector, now)
    }

    fn scale(&self) -> Option<Scale> {
        let spec = self.spec.as_ref()?;
        let selector = match &spec.selector {
            Some(selector) if !selector.is_empty() => cells::labels(Some(selector)),
            _ => String::new(),
        };
        let status_replicas = counts(self).replicas;
        Some(Scale { replicas: spec.replicas.unwrap_or(0), status_replicas, selector })
    }

    fn set_scale(&mut self, replicas: i32) {
        self.spec.get_or_insert_default().replicas = Some(replicas);
    }
}

fn counts(object: &ReplicationController) -> replicas::Counts {
    object.status.as_ref().map_or_else(Default::default, |status| replicas::Counts {
        replicas: status.replicas,
        fully_labeled: status.fully_labeled_replicas,
        ready: status.ready_replicas,
        available: status.available_replicas,
        observed_generation: status.observed_generation,
    })
}
