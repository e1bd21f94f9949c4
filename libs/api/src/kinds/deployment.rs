//! apps/v1 Deployment.

use jiff::Timestamp;
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentSpec, DeploymentStatus, DeploymentStrategy},
    apimachinery::pkg::util::intstr::IntOrString,
};
use serde_json::Value;

use super::shared::{
    cells,
    columns::{AGE, CONTAINERS, IMAGES, NAME, SELECTOR, column},
    default_to, metadata_accessors, pod_defaults, replicas,
};
use crate::{
    field::FieldErrors,
    field_path::Path,
    kind::{Context, KindInfo, MetadataRules, Resource, Scale, Subresource},
    names,
};

/// The type of this kind.
pub type Served = Deployment;

impl Resource for Deployment {
    const INFO: KindInfo = KindInfo {
        group: "apps",
        kind: "Deployment",
        plural: "deployments",
        singular: "deployment",
        short_names: &["deploy"],
        categories: &["all"],
        subresources: &[Subresource::Scale, Subresource::Status],
        columns: &[
            NAME,
            column("Ready", "string", "Pods that are ready, of all that are wanted."),
            column("Up-to-date", "string", "Pods of the newest template."),
            column("Available", "string", "Pods that have been ready for long enough."),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
        has_generation: true,
        metadata_rules: MetadataRules::CHANGES,
        ..KindInfo::BASE
    };

    metadata_accessors!();

    fn set_defaults(&mut self) {
        let status = self.status.get_or_insert_default();
        // Here, unlike in a ReplicaSet's status, no replicas are written as nothing.
        status.replicas = status.replicas.filter(|replicas| *replicas != 0);
        let spec = self.spec.get_or_insert_default();
        default_to(&mut spec.replicas, 1);
        default_to(&mut spec.revision_history_limit, 10);
        default_to(&mut spec.progress_deadline_seconds, 600);
        let strategy = spec.strategy.get_or_insert_default();
        if strategy.type_.as_deref().unwrap_or_default().is_empty() {
            strategy.type_ = Some("RollingUpdate".to_owned());
        }
        if strategy.type_.as_deref() == Some("RollingUpdate") {
            let rolling = strategy.rolling_update.get_or_insert_default();
            default_to(&mut rolling.max_unavailable, IntOrString::String("25%".to_owned()));
            default_to(&mut rolling.max_surge, IntOrString::String("25%".to_owned()));
        }
        pod_defaults::template(&mut spec.template);
    }

    fn prepare_for_create(&mut self, _ctx: &Context) {
        self.status = Some(DeploymentStatus::default());
    }

    fn prepare_for_update(&mut self, old: &Self, at: Option<Subresource>, _ctx: &Context) {
        if at == Some(Subresource::Status) {
            self.spec.clone_from(&old.spec);
            self.metadata.labels.clone_from(&old.metadata.labels);
        } else {
            self.status.clone_from(&old.status);
        }
    }

    fn generation_moves(&self, old: &Self) -> bool {
        // Annotations count: the controller copies them to ReplicaSets.
        self.spec != old.spec || self.metadata.annotations != old.metadata.annotations
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let none = DeploymentSpec::default();
        check_spec(self.spec.as_ref().unwrap_or(&none), &Path::root("spec"), errors);
    }

    fn validate_update(&self, old: &Self, at: Option<Subresource>, errors: &mut FieldErrors) {
        if at == Some(Subresource::Status) {
            let none = DeploymentStatus::default();
            return check_status(self.status.as_ref().unwrap_or(&none), old.status.as_ref().unwrap_or(&none), errors);
        }
        self.validate(errors);
        let (new, old) = (self.spec.as_ref(), old.spec.as_ref());
        replicas::same_selector(new.map(|spec| &spec.selector), old.map(|spec| &spec.selector), errors);
    }

    fn warnings(&self, old: Option<&Self>) -> Vec<String> {
        let template = self.spec.as_ref().map(|spec| &spec.template);
        replicas::warnings(&self.metadata, old.map(|old| &old.metadata), template)
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let no_spec = Default::default();
        let spec = self.spec.as_ref().unwrap_or(&no_spec);
        let no_status = Default::default();
        let status = self.status.as_ref().unwrap_or(&no_status);
        let (names, images) = cells::template(Some(&spec.template));
        vec![
            cells::name(&self.metadata),
            format!("{}/{}", status.ready_replicas.unwrap_or(0), spec.replicas.unwrap_or(0)).into(),
            status.updated_replicas.unwrap_or(0).into(),
            status.available_replicas.unwrap_or(0).into(),
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
            status_replicas: self.status.as_ref().and_then(|status| status.replicas).unwrap_or(0),
            selector: cells::selector(&spec.selector),
        })
    }

    fn set_scale(&mut self, replicas: i32) {
        self.spec.get_or_insert_default().replicas = Some(replicas);
    }
}

fn check_spec(spec: &DeploymentSpec, path: &Path, errors: &mut FieldErrors) {
    errors.non_negative(&path.child("replicas"), spec.replicas);
    replicas::selector_and_template(&spec.selector, Some(&spec.template), path, errors);
    check_strategy(&spec.strategy.clone().unwrap_or_default(), &path.child("strategy"), errors);
    errors.non_negative(&path.child("minReadySeconds"), spec.min_ready_seconds);
    errors.non_negative(&path.child("revisionHistoryLimit"), spec.revision_history_limit);
    if let Some(seconds) = spec.progress_deadline_seconds {
        let path = path.child("progressDeadlineSeconds");
        errors.non_negative(&path, Some(seconds));
        if seconds <= spec.min_ready_seconds.unwrap_or(0) {
            errors.invalid(path, &seconds, "must be greater than minReadySeconds");
        }
    }
}

fn check_strategy(strategy: &DeploymentStrategy, path: &Path, errors: &mut FieldErrors) {
    let rolling_path = path.child("rollingUpdate");
    match (strategy.type_.as_deref(), &strategy.rolling_update) {
        (Some("Recreate"), Some(_)) => {
            errors.forbidden(rolling_path, "may not be specified when strategy `type` is 'Recreate'");
        }
        (Some("Recreate"), None) => {}
        (Some("RollingUpdate"), None) => errors.required(rolling_path, "this should be defaulted and never be nil"),
        (Some("RollingUpdate"), Some(rolling)) => {
            let zero = IntOrString::Int(0);
            let unavailable = rolling.max_unavailable.as_ref().unwrap_or(&zero);
            let surge = rolling.max_surge.as_ref().unwrap_or(&zero);
            let unavailable_path = rolling_path.child("maxUnavailable");
            int_or_percent(unavailable, &unavailable_path, errors);
            int_or_percent(surge, &rolling_path.child("maxSurge"), errors);
            if amount(unavailable) == 0 && amount(surge) == 0 {
                errors.invalid(unavailable_path, unavailable, "may not be 0 when `maxSurge` is 0");
            }
            if matches!(unavailable, IntOrString::String(_)) && amount(unavailable) > 100 {
                errors.invalid(unavailable_path, unavailable, "must not be greater than 100%");
            }
        }
        _ => errors.not_supported(path, strategy, &["Recreate", "RollingUpdate"]),
    }
}

fn int_or_percent(value: &IntOrString, path: &Path, errors: &mut FieldErrors) {
    match value {
        IntOrString::Int(number) => errors.non_negative(path, Some(*number)),
        IntOrString::String(text) => errors.each(path, text, names::percent(text)),
    }
}

/// The number, of a percentage the part before the sign (0 if it is none).
fn amount(value: &IntOrString) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => text.strip_suffix('%').and_then(|number| number.parse().ok()).unwrap_or(0),
    }
}

fn check_status(status: &DeploymentStatus, old: &DeploymentStatus, errors: &mut FieldErrors) {
    let path = Path::root("status");
    errors.non_negative(&path.child("observedGeneration"), status.observed_generation);
    let counts = [
        ("replicas", status.replicas),
        ("updatedReplicas", status.updated_replicas),
        ("readyReplicas", status.ready_replicas),
        ("availableReplicas", status.available_replicas),
        ("unavailableReplicas", status.unavailable_replicas),
        ("terminatingReplicas", status.terminating_replicas),
        ("collisionCount", status.collision_count),
    ];
    for (field, count) in counts {
        errors.non_negative(&path.child(field), count);
    }
    let [total, updated, ready, available] = [0, 1, 2, 3].map(|i: usize| counts[i].1.unwrap_or(0));
    for (field, count) in [("updatedReplicas", updated), ("readyReplicas", ready), ("availableReplicas", available)] {
        if count > total {
            errors.invalid(path.child(field), &count, "cannot be greater than status.replicas");
        }
    }
    if available > ready {
        errors.invalid(path.child("availableReplicas"), &available, "cannot be greater than readyReplicas");
    }
    if let (Some(before), count) = (old.collision_count, status.collision_count.unwrap_or(0))
        && count < before
    {
        errors.invalid(path.child("collisionCount"), &count, "cannot be decremented");
    }
}
