//! core/v1 Pod.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodCondition, PodSpec, PodStatus};
use serde_json::Value;

use super::shared::{
    cells,
    columns::{AGE, NAME, column, wide},
    default_to, metadata_accessors, pod_defaults,
    pod_rules::{self, resize, update, warnings},
    text,
};
use crate::{
    field::FieldErrors,
    kind::{Context, KindInfo, Resource, Subresource},
};

#[path = "pod/admission.rs"]
pub mod admission;
#[path = "pod/app_armor.rs"]
mod app_armor;
#[path = "pod/fields.rs"]
mod fields;
#[path = "pod/label_keys.rs"]
mod label_keys;
#[path = "pod/qos.rs"]
mod qos;
#[path = "pod/refs.rs"]
pub mod refs;
#[path = "pod/row.rs"]
mod row;

pub use admission::{assign_priority, default_toleration_seconds, keep_priority};
pub use fields::PodFields;
pub use qos::qos_class;

/// The type of this kind.
pub type Served = Pod;

impl Resource for Pod {
    const INFO: KindInfo = KindInfo {
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        categories: &["all"],
        subresources: &[
            Subresource::Attach,
            Subresource::Binding,
            Subresource::EphemeralContainers,
            Subresource::Eviction,
            Subresource::Exec,
            Subresource::Log,
            Subresource::PortForward,
            Subresource::Proxy,
            Subresource::Resize,
            Subresource::Status,
        ],
        columns: &[
            NAME,
            column("Ready", "string", "Containers that are ready, of all that should be."),
            column("Status", "string", "The state of the pod in one word, drawn from its containers."),
            column("Restarts", "string", "How often containers were restarted, and when last."),
            AGE,
            wide("IP", "string", "The pod's first address."),
            wide("Node", "string", "The node that the pod is bound to."),
            wide("Nominated Node", "string", "The node on which room is being made for the pod."),
            wide("Readiness Gates", "string", "Readiness gates that are met, of all."),
        ],
        has_generation: true,
        fields: &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        // As upstream, where no pod has the second one.
        field_aliases: &[("spec.host", "spec.nodeName"), ("status.podIPs", "status.podIPs")],
        ..KindInfo::BASE
    };

    metadata_accessors!();

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        // Order matters: requests and resize policies look at rounded resources.
        pod_defaults::pod_spec(spec);
        pod_defaults::pod_only(spec);
        let status = self.status.get_or_insert_default();
        // One that contradicts the list replaces it.
        let first = status.pod_ips.as_ref().and_then(|ips| ips.first()).map(|first| &first.ip);
        if let Some(ip) = status.pod_ip.as_ref().filter(|ip| Some(*ip) != first) {
            status.pod_ips = Some(vec![k8s_openapi::api::core::v1::PodIP { ip: ip.clone() }]);
        } else if status.pod_ip.is_none() {
            status.pod_ip = first.cloned();
        }
        if let (Some(ip), None) = (&status.host_ip, &status.host_ips) {
            status.host_ips = Some(vec![k8s_openapi::api::core::v1::HostIP { ip: ip.clone() }]);
        }
        let lists =
            [&mut status.init_container_statuses, &mut status.container_statuses, &mut status.ephemeral_container_statuses];
        for container in lists.into_iter().flat_map(|list| list.iter_mut().flatten()) {
            container.state.get_or_insert_default();
            container.last_state.get_or_insert_default();
        }
    }

    fn prepare_for_create(&mut self, _ctx: &Context) {
        app_armor::sync(self);
        let spec = self.spec.get_or_insert_default();
        label_keys::merge(spec, self.metadata.labels.as_ref());
        let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
        let conditions = gated.then(|| {
            vec![PodCondition {
                type_: "PodScheduled".to_owned(),
                status: "False".to_owned(),
                reason: Some("SchedulingGated".to_owned()),
                message: Some("Scheduling is blocked due to non-empty scheduling gates".to_owned()),
                observed_generation: Some(1),
                ..PodCondition::default()
            }]
        });
        self.status = Some(PodStatus {
            phase: Some("Pending".to_owned()),
            qos_class: Some(qos_class(spec).to_owned()),
            conditions,
            ..PodStatus::default()
        });
    }

    fn prepare_for_update(&mut self, old: &Self, at: Option<Subresource>, _ctx: &Context) {
        match at {
            None | Some(Subresource::Binding) => self.status.clone_from(&old.status),
            Some(Subresource::Status) => {
                self.spec.clone_from(&old.spec);
                self.metadata.deletion_timestamp.clone_from(&old.metadata.deletion_timestamp);
                self.metadata.owner_references.clone_from(&old.metadata.owner_references);
                // A status written by someone who does not know the class keeps it.
                let class = old.status.as_ref().and_then(|status| status.qos_class.clone());
                let status = self.status.get_or_insert_default();
                if let Some(class) = class {
                    default_to(&mut status.qos_class, class);
                }
                keep_observed_generations(status, old.status.as_ref());
            }
            Some(Subresource::EphemeralContainers) => {
                let containers = self.spec.take().and_then(|spec| spec.ephemeral_containers);
                let metadata = std::mem::take(&mut self.metadata);
                *self = old.clone();
                self.metadata.uid = metadata.uid;
                self.metadata.resource_version = metadata.resource_version;
                self.metadata.managed_fields = metadata.managed_fields;
                self.spec.get_or_insert_default().ephemeral_containers = containers;
            }
            Some(Subresource::Resize) => prepare_for_resize(self, old),
            Some(_) => {}
        }
    }

    fn generation_moves(&self, old: &Self) -> bool {
        self.spec != old.spec
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let none = PodSpec::default();
        let spec = self.spec.as_ref().unwrap_or(&none);
        pod_rules::pod(&self.metadata, spec, errors);
        if spec.ephemeral_containers.as_ref().is_some_and(|containers| !containers.is_empty()) {
            errors.forbidden("spec.ephemeralContainers", "cannot be set on create");
        }
        pod_rules::app_armor_agrees(&self.metadata, spec, errors);
        let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
        if gated && !text(spec.node_name.as_ref()).is_empty() {
            errors.forbidden("spec.nodeName", "cannot be set until all schedulingGates have been cleared");
        }
    }

    fn validate_update(&self, old: &Self, at: Option<Subresource>, errors: &mut FieldErrors) {
        let none = PodSpec::default();
        let spec = self.spec.as_ref().unwrap_or(&none);
        match at {
            Some(Subresource::Status) => update::status(self, old, errors),
            // Binding sets `spec.nodeName` and annotations by itself.
            Some(Subresource::Binding) => pod_rules::pod(&self.metadata, spec, errors),
            Some(Subresource::EphemeralContainers) => {
                pod_rules::pod(&self.metadata, spec, errors);
                update::ephemeral_containers(self, old, errors);
            }
            Some(Subresource::Resize) => {
                pod_rules::pod(&self.metadata, spec, errors);
                resize::resize(self, old, errors);
            }
            _ => {
                pod_rules::pod(&self.metadata, spec, errors);
                update::pod(self, old, errors);
            }
        }
    }

    fn warnings_before_preparation(&self) -> Vec<String> {
        app_armor::warnings(self)
    }

    fn warnings(&self, old: Option<&Self>) -> Vec<String> {
        // Updates of pods are machines' work: nobody reads their warnings.
        let (None, Some(spec)) = (old, &self.spec) else { return Vec::new() };
        let name = warnings::name(&self.metadata, "the Pod's hostname");
        name.into_iter().chain(warnings::pod_spec(spec, &self.metadata, "")).collect()
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        PodFields::of(self).list()
    }

    fn fields_of(bytes: &[u8]) -> Vec<(&'static str, String)> {
        PodFields::from_bytes(bytes).list()
    }

    fn grace_seconds(&self, requested: Option<i64>) -> Option<i64> {
        let spec = self.spec.as_ref();
        let phase = self.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
        // Nobody would confirm the end of a pod that no kubelet has, or that has ended.
        if text(spec.and_then(|spec| spec.node_name.as_ref())).is_empty() || matches!(phase, "Failed" | "Succeeded") {
            return Some(0);
        }
        let seconds = requested.or_else(|| spec.and_then(|spec| spec.termination_grace_period_seconds)).unwrap_or(0);
        Some(if seconds < 0 { 1 } else { seconds })
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        row::cells(self, now)
    }
}

/// Which generation was seen is not forgotten when someone who does not know of generations writes the status. Of a type there may
/// be several conditions.
fn keep_observed_generations(new: &mut PodStatus, old: Option<&PodStatus>) {
    let Some(old) = old else { return };
    let told = |generation: Option<i64>| generation.filter(|generation| *generation != 0);
    new.observed_generation = told(new.observed_generation).or(old.observed_generation);
    let mut before: BTreeMap<&str, VecDeque<Option<i64>>> = BTreeMap::new();
    for condition in old.conditions.iter().flatten() {
        before.entry(&condition.type_).or_default().push_back(condition.observed_generation);
    }
    for condition in new.conditions.iter_mut().flatten() {
        let last = before.get_mut(condition.type_.as_str()).and_then(VecDeque::pop_front).flatten();
        condition.observed_generation = told(condition.observed_generation).or(last);
    }
}

/// `/resize` changes the resources and resize policies of containers and nothing else.
fn prepare_for_resize(new: &mut Pod, old: &Pod) {
    let asked = new.spec.take().unwrap_or_default();
    let metadata = std::mem::take(&mut new.metadata);
    *new = old.clone();
    new.metadata.resource_version = metadata.resource_version;
    new.metadata.managed_fields = metadata.managed_fields;
    let kept = new.spec.get_or_insert_default();
    let count = |spec: &PodSpec| (spec.containers.len(), spec.init_containers.as_ref().map_or(0, Vec::len));
    if count(&asked) != count(kept) {
        // Whoever adds or removes containers is told so.
        *kept = asked;
        return;
    }
    kept.containers = resized(asked.containers, &kept.containers);
    if let (Some(asked), Some(kept)) = (asked.init_containers, &mut kept.init_containers) {
        *kept = resized(asked, kept);
    }
}

/// The containers with the resources that are asked for; those asked for if they are others.
fn resized(asked: Vec<Container>, kept: &[Container]) -> Vec<Container> {
    if asked.iter().zip(kept).any(|(asked, kept)| asked.name != kept.name) {
        return asked;
    }
    let with = |(asked, kept): (Container, &Container)| Container {
        resources: asked.resources,
        resize_policy: asked.resize_policy,
        ..kept.clone()
    };
    asked.into_iter().zip(kept).map(with).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::{Kind, Requester};
    use serde_json::json;

    #[test]
    fn generations_that_were_seen_are_not_forgotten() {
        let condition = |kind: &str, seen: Option<i64>| json!({"type": kind, "status": "True", "observedGeneration": seen});
        let status = |seen: Option<i64>, conditions: [Value; 3]| -> PodStatus {
            serde_json::from_value(json!({"observedGeneration": seen, "conditions": conditions})).unwrap()
        };
        let old = status(Some(2), [condition("A", Some(1)), condition("A", Some(2)), condition("B", None)]);
        let mut new = status(None, [condition("A", Some(3)), condition("A", Some(0)), condition("B", Some(1))]);
        keep_observed_generations(&mut new, Some(&old));
        let want = status(Some(2), [condition("A", Some(3)), condition("A", Some(2)), condition("B", Some(1))]);
        assert_eq!(new, want);
    }

    #[test]
    fn a_running_pod_gets_its_time() {
        let grace = |spec: Value, phase: &str, requested: Option<i64>| {
            Kind::of::<Pod>().hooks.grace_seconds(&json!({"spec": spec, "status": {"phase": phase}}), requested)
        };
        let bound = || json!({"nodeName": "n", "terminationGracePeriodSeconds": 30});
        let got = [
            grace(bound(), "Running", None),
            grace(bound(), "Running", Some(5)),
            grace(bound(), "Running", Some(0)),
            grace(bound(), "Running", Some(-3)),
            grace(bound(), "Succeeded", None),
            grace(json!({"terminationGracePeriodSeconds": 30}), "Pending", None),
        ];
        assert_eq!(got, [30, 5, 0, 1, 0, 0].map(Some));
    }

    #[test]
    fn generation_counts_changes_of_the_spec() {
        let kind = Kind::of::<Pod>();
        let ctx = Context { now: Timestamp::UNIX_EPOCH, user: "tester", requester: Requester::UNKNOWN };
        let metadata = json!({"name": "p", "namespace": "n", "resourceVersion": "1"});
        let pod = json!({"metadata": metadata, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        let old = kind.hooks.create(pod, &ctx).map_err(|refused| format!("{refused:?}")).unwrap().object;
        let generation = |change: Value, at| {
            let mut new = old.clone();
            json_patch::merge(&mut new, &change);
            let updated = kind.hooks.update(new, &old, at, &ctx).map_err(|refused| format!("{refused:?}")).unwrap();
            updated.object["metadata"]["generation"].clone()
        };
        let got = [
            old["metadata"]["generation"].clone(),
            generation(json!({"metadata": {"labels": {"a": "b"}}}), None),
            generation(
                json!({"spec": {"containers": [{"name": "c", "image": "other", "imagePullPolicy": "Always",
                "resources": {}, "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}]}}),
                None,
            ),
            generation(json!({"status": {"phase": "Running"}}), Some(Subresource::Status)),
        ];
        assert_eq!(got, [1, 1, 2, 1].map(Value::from));
    }
}
