//! apps/v1 Deployment.

use jiff::Timestamp;
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentStatus},
    apimachinery::pkg::util::intstr::IntOrString,
};
use serde_json::Value;

use super::shared::{
    cells,
    columns::{AGE, CONTAINERS, IMAGES, NAME, SELECTOR, column},
    default_to, metadata_accessors, pod_defaults,
};
use crate::kind::{Context, KindInfo, Resource, Scale, Subresource};

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
        ..KindInfo::BASE
    };

    metadata_accessors!();

    fn set_defaults(&mut self) {
        self.status.get_or_insert_default();
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

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        let status = self.status.clone().unwrap_or_default();
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
