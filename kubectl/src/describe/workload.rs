//! Deployments, ReplicaSets and ReplicationControllers.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

use super::{container::int_or_string, json::Json, parts, pod, writer::Writer};
use crate::line;

/// A controller's pods by phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    running: usize,
    waiting: usize,
    succeeded: usize,
    failed: usize,
}

impl Phases {
    /// Of those of `pods` that `owner` controls.
    pub fn count(pods: &[Value], owner: &Value) -> Self {
        let uid = owner.text("metadata.uid");
        let mut phases = Self::default();
        for pod in pods {
            let controller = pod.items("metadata.ownerReferences").iter().find(|o| o.flag("controller"));
            if controller.is_none_or(|c| c.text("uid") != uid) {
                continue;
            }
            match pod.text("status.phase") {
                "Running" => phases.running += 1,
                "Pending" => phases.waiting += 1,
                "Succeeded" => phases.succeeded += 1,
                "Failed" => phases.failed += 1,
                _ => {}
            }
        }
        phases
    }
}

impl std::fmt::Display for Phases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { running, waiting, succeeded, failed } = self;
        write!(f, "{running} Running / {waiting} Waiting / {succeeded} Succeeded / {failed} Failed")
    }
}

/// A ReplicaSet; `phases` may be the reason why they are not known.
pub fn replica_set(w: &mut Writer, set: &Value, phases: &Result<Phases, String>, events: Option<&[Value]>) {
    line!(w, 0, "Name:\t{}", set.text("metadata.name"));
    line!(w, 0, "Namespace:\t{}", set.text("metadata.namespace"));
    line!(w, 0, "Selector:\t{}", parts::label_selector(set.at("spec.selector")));
    parts::metadata_maps(w, set);
    if let Some(controller) = parts::controller(set) {
        line!(w, 0, "Controlled By:\t{controller}");
    }
    line!(w, 0, "Replicas:\t{} current / {} desired", set.int("status.replicas"), set.int("spec.replicas"));
    match phases {
        Ok(phases) => line!(w, 0, "Pods Status:\t{phases}"),
        Err(error) => line!(w, 0, "Pods Status:\terror in fetching pods: {error}"),
    }
    pod::template(w, set.at("spec.template"));
    parts::conditions(w, set.items("status.conditions"));
    parts::events(w, events);
}

/// A ReplicationController.
pub fn replication_controller(w: &mut Writer, controller: &Value, phases: Phases, events: Option<&[Value]>) {
    line!(w, 0, "Name:\t{}", controller.text("metadata.name"));
    line!(w, 0, "Namespace:\t{}", controller.text("metadata.namespace"));
    line!(w, 0, "Selector:\t{}", parts::set(&controller.pairs("spec.selector")));
    parts::metadata_maps(w, controller);
    line!(w, 0, "Replicas:\t{} current / {} desired", controller.int("status.replicas"), controller.int("spec.replicas"));
    line!(w, 0, "Pods Status:\t{phases}");
    pod::template(w, controller.at("spec.template"));
    parts::conditions(w, controller.items("status.conditions"));
    parts::events(w, events);
}

/// A Deployment with its old ReplicaSets that still have pods, and its new one.
pub fn deployment(w: &mut Writer, deployment: &Value, old: &[&Value], new: &[&Value], events: Option<&[Value]>) {
    let (spec, status) = (deployment.at("spec"), deployment.at("status"));
    line!(w, 0, "Name:\t{}", deployment.text("metadata.name"));
    line!(w, 0, "Namespace:\t{}", deployment.text("metadata.namespace"));
    line!(w, 0, "CreationTimestamp:\t{}", w.time(deployment.at("metadata.creationTimestamp")));
    parts::metadata_maps(w, deployment);
    line!(w, 0, "Selector:\t{}", parts::selector(spec.at("selector")));
    line!(
        w,
        0,
        "Replicas:\t{} desired | {} updated | {} total | {} available | {} unavailable",
        spec.int("replicas"),
        status.int("updatedReplicas"),
        status.int("replicas"),
        status.int("availableReplicas"),
        status.int("unavailableReplicas")
    );
    line!(w, 0, "StrategyType:\t{}", spec.text("strategy.type"));
    line!(w, 0, "MinReadySeconds:\t{}", spec.int("minReadySeconds"));
    if spec.has("strategy.rollingUpdate") {
        let bound = |field| int_or_string(spec.at("strategy.rollingUpdate").at(field));
        let (unavailable, surge) = (bound("maxUnavailable"), bound("maxSurge"));
        line!(w, 0, "RollingUpdateStrategy:\t{unavailable} max unavailable, {surge} max surge");
    }
    pod::template(w, spec.at("template"));
    parts::conditions(w, status.items("conditions"));
    if !old.is_empty() || !new.is_empty() {
        line!(w, 0, "OldReplicaSets:\t{}", replica_sets(old));
        line!(w, 0, "NewReplicaSet:\t{}", replica_sets(new));
    }
    parts::events(w, events);
}

fn replica_sets(sets: &[&Value]) -> String {
    let text = |set: &&Value| {
        let (name, has, wants) = (set.text("metadata.name"), set.int("status.replicas"), set.int("spec.replicas"));
        format!("{name} ({has}/{wants} replicas created)")
    };
    match sets {
        [] => "<none>".to_owned(),
        sets => sets.iter().map(text).collect::<Vec<_>>().join(", "),
    }
}

/// Those of the ReplicaSets that a Deployment owns: the old ones and the one of its present template.
pub fn generations<'a>(deployment: &Value, sets: &'a [Value]) -> (Vec<&'a Value>, Vec<&'a Value>) {
    let uid = deployment.text("metadata.uid");
    let owned = |set: &&Value| {
        set.items("metadata.ownerReferences").iter().find(|o| o.flag("controller")).is_some_and(|o| o.text("uid") == uid)
    };
    let mut owned: Vec<&Value> = sets.iter().filter(owned).collect();
    // The oldest of those that have the template is the new one.
    owned.sort_by_key(|set| (set.text("metadata.creationTimestamp"), set.text("metadata.name")));
    let wanted = without_hash(deployment.at("spec.template"));
    let new = owned.iter().copied().find(|set| without_hash(set.at("spec.template")) == wanted);
    let is_new = |set: &Value| new.is_some_and(|n| n.text("metadata.uid") == set.text("metadata.uid"));
    (owned.into_iter().filter(|set| !is_new(set)).collect(), new.into_iter().collect())
}

fn without_hash(template: &Value) -> Option<PodTemplateSpec> {
    let mut template: PodTemplateSpec = serde_json::from_value(template.clone()).ok()?;
    if let Some(labels) = template.metadata.as_mut().and_then(|m| m.labels.as_mut()) {
        labels.remove("pod-template-hash");
    }
    Some(template)
}
