//! What ReplicaSets, ReplicationControllers and Deployments check, tell and show alike.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::PodTemplateSpec,
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use serde_json::Value;

use super::{
    cells,
    columns::{AGE, CONTAINERS, IMAGES, NAME, SELECTOR, column},
    pod_rules,
};
use crate::{field::FieldErrors, field_path::Path, kind::Column, quoted, selector::Selector};

/// The columns of ReplicaSets and ReplicationControllers.
pub const COLUMNS: &[Column] = &[
    NAME,
    column("Desired", "integer", "Pods that are wanted."),
    column("Current", "integer", "Pods that exist."),
    column("Ready", "integer", "Pods that are ready."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

/// The row for [`COLUMNS`].
pub fn cells(
    metadata: &ObjectMeta,
    wanted: Option<i32>,
    counts: &Counts,
    template: Option<&PodTemplateSpec>,
    selector: String,
    now: Timestamp,
) -> Vec<Value> {
    let (names, images) = cells::template(template);
    vec![
        cells::name(metadata),
        wanted.unwrap_or(0).into(),
        counts.replicas.into(),
        counts.ready.unwrap_or(0).into(),
        cells::age(metadata, now),
        names.into(),
        images.into(),
        selector.into(),
    ]
}

/// Of a new object's name, and of the template where it may have changed.
pub fn warnings(metadata: &ObjectMeta, old: Option<&ObjectMeta>, template: Option<&PodTemplateSpec>) -> Vec<String> {
    if old.is_some_and(|old| old.generation == metadata.generation) {
        return Vec::new();
    }
    let name = old.is_none().then(|| pod_rules::warnings::name(metadata, "Pod names and hostnames")).flatten();
    name.into_iter().chain(pod_rules::warnings::template(template, "spec.template")).collect()
}

/// The selector stays.
pub fn same_selector(new: Option<&LabelSelector>, old: Option<&LabelSelector>, errors: &mut FieldErrors) {
    errors.immutable_object(&Path::root("spec.selector"), given(new), given(old), &quoted::LABEL_SELECTOR);
}

/// `selector` and `template` of the spec at `path`.
pub fn selector_and_template(
    selector: &LabelSelector,
    template: Option<&PodTemplateSpec>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let selector_path = path.child("selector");
    pod_rules::label_selector(Some(selector), &selector_path, errors);
    let labels = selector.match_labels.iter().flatten().count();
    let expressions = selector.match_expressions.iter().flatten().count();
    let parsed = if labels + expressions == 0 {
        if given(Some(selector)).is_some() {
            errors.invalid(selector_path, &serde_json::Map::new(), "empty selector is invalid for deployment");
            Ok(Selector::everything())
        } else {
            errors.required(selector_path, "");
            Ok(Selector::nothing())
        }
    } else {
        Selector::from_label_selector(Some(selector))
    };
    match (parsed, template) {
        (Err(_), _) => errors.invalid(selector_path, &quoted::LABEL_SELECTOR.quote(selector), "invalid label selector"),
        (Ok(_), None) => errors.required(path.child("template"), ""),
        (Ok(parsed), Some(template)) => {
            pod_rules::replica_template(template, &parsed, "ReplicaSet", &path.child("template"), errors);
        }
    }
}

/// A selector, unless it is a missing one. See `normalize`: an empty selector has an empty map, a missing one has none.
fn given(selector: Option<&LabelSelector>) -> Option<&LabelSelector> {
    selector.filter(|selector| **selector != LabelSelector::default())
}

/// Counts in a status.
#[derive(Default)]
pub struct Counts {
    /// `replicas`
    pub replicas: i32,
    /// `fullyLabeledReplicas`
    pub fully_labeled: Option<i32>,
    /// `readyReplicas`
    pub ready: Option<i32>,
    /// `availableReplicas`
    pub available: Option<i32>,
    /// `observedGeneration`
    pub observed_generation: Option<i64>,
}

impl Counts {
    /// None negative, none greater than what it is part of.
    pub fn check(&self, path: &Path, errors: &mut FieldErrors) {
        errors.non_negative(&path.child("replicas"), Some(self.replicas));
        let parts = [
            ("fullyLabeledReplicas", self.fully_labeled),
            ("readyReplicas", self.ready),
            ("availableReplicas", self.available),
        ];
        for (field, count) in parts {
            errors.non_negative(&path.child(field), count);
        }
        errors.non_negative(&path.child("observedGeneration"), self.observed_generation);
        for (field, count) in parts {
            let count = count.unwrap_or(0);
            if count > self.replicas {
                errors.invalid(path.child(field), &count, "cannot be greater than status.replicas");
            }
        }
        let available = self.available.unwrap_or(0);
        if available > self.ready.unwrap_or(0) {
            errors.invalid(path.child("availableReplicas"), &available, "cannot be greater than readyReplicas");
        }
    }
}
