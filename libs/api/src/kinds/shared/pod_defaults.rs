//! Defaults of pod specs: those of every pod template ([`pod_spec`]) and those only of pods ([`pod_only`]).

use k8s_openapi::{
    api::core::v1::{
        Container, ContainerPort, ContainerResizePolicy, DownwardAPIVolumeFile, EnvVar, EphemeralContainer, HTTPGetAction,
        Lifecycle, ObjectFieldSelector, PodSpec, PodTemplateSpec, Probe, ResourceFieldSelector, ResourceRequirements,
        Volume,
    },
    apimachinery::pkg::api::resource::Quantity,
};
use std::collections::BTreeMap;

use super::{default_to, pod_rules::resources::container_requests};
use crate::quantity::Quantity as Amount;

/// Defaults of a pod template.
pub fn template(template: &mut PodTemplateSpec) {
    template.metadata.get_or_insert_default();
    pod_spec(template.spec.get_or_insert_default());
}

/// Defaults of a pod spec wherever it stands.
pub fn pod_spec(spec: &mut PodSpec) {
    default_to(&mut spec.dns_policy, "ClusterFirst");
    default_to(&mut spec.restart_policy, "Always");
    default_to(&mut spec.termination_grace_period_seconds, 30);
    default_to(&mut spec.scheduler_name, "default-scheduler");
    spec.security_context.get_or_insert_default();
    // `serviceAccount` is the old name of `serviceAccountName`; upstream keeps them equal in both directions.
    if spec.service_account_name.is_none() {
        spec.service_account_name = spec.service_account.clone();
    }
    spec.service_account = spec.service_account_name.clone();
    for toleration in spec.tolerations.iter_mut().flatten() {
        for field in [&mut toleration.key, &mut toleration.operator, &mut toleration.value, &mut toleration.effect] {
            if field.as_deref() == Some("") {
                *field = None;
            }
        }
    }
    spec.init_containers.iter_mut().flatten().chain(&mut spec.containers).for_each(container);
    spec.ephemeral_containers.iter_mut().flatten().for_each(ephemeral_container);
    spec.volumes.iter_mut().flatten().for_each(volume);
    if let Some(resources) = &mut spec.resources {
        round_up(resources);
    }
    round_up_list(&mut spec.overhead);
    // Behind gates that are off in v1.35 (`stopSignal` of lifecycles is the other): upstream drops it without a word.
    spec.workload_ref = None;
}

/// Defaults that a pod has and a pod template has not: requests from limits, resize policies, service links, and no time
/// before none.
pub fn pod_only(spec: &mut PodSpec) {
    if let Some(seconds) = spec.termination_grace_period_seconds.as_mut().filter(|seconds| **seconds < 0) {
        *seconds = 1;
    }
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        if let Some(resources) = &mut container.resources {
            requests_from_limits(resources);
        }
    }
    let sidecars = spec.init_containers.iter_mut().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    spec.containers.iter_mut().chain(sidecars).for_each(resize_policy);
    pod_level_requests(spec);
    default_to(&mut spec.enable_service_links, true);
    if spec.host_network == Some(true) {
        spec.init_containers.iter_mut().flatten().chain(&mut spec.containers).for_each(host_ports);
    }
}

fn host_ports(container: &mut Container) {
    for port in container.ports.iter_mut().flatten() {
        default_to(&mut port.host_port, port.container_port);
    }
}

fn container(container: &mut Container) {
    let policy = pull_policy(container.image.as_deref().unwrap_or_default());
    default_to(&mut container.image_pull_policy, policy);
    default_to(&mut container.termination_message_path, "/dev/termination-log");
    default_to(&mut container.termination_message_policy, "File");
    round_up(container.resources.get_or_insert_default());
    ports(container.ports.as_mut());
    env(container.env.as_mut());
    for probe_ in [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe] {
        probe_.as_mut().map(probe);
    }
    container.lifecycle.as_mut().map(lifecycle);
}

fn ephemeral_container(container: &mut EphemeralContainer) {
    let policy = pull_policy(container.image.as_deref().unwrap_or_default());
    default_to(&mut container.image_pull_policy, policy);
    default_to(&mut container.termination_message_path, "/dev/termination-log");
    default_to(&mut container.termination_message_policy, "File");
    round_up(container.resources.get_or_insert_default());
    ports(container.ports.as_mut());
    env(container.env.as_mut());
    for probe_ in [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe] {
        probe_.as_mut().map(probe);
    }
    container.lifecycle.as_mut().map(lifecycle);
}

fn ports(ports: Option<&mut Vec<ContainerPort>>) {
    for port in ports.into_iter().flatten() {
        default_to(&mut port.protocol, "TCP");
        port.name = port.name.take().filter(|name| !name.is_empty());
    }
}

fn env(env: Option<&mut Vec<EnvVar>>) {
    for variable in env.into_iter().flatten() {
        if variable.value.as_deref() == Some("") {
            variable.value = None;
        }
        if let Some(source) = variable.value_from.as_mut() {
            source.field_ref.as_mut().map(field_ref);
            source.resource_field_ref.as_mut().map(divisor);
        }
    }
}

fn field_ref(field: &mut ObjectFieldSelector) {
    default_to(&mut field.api_version, "v1");
}

fn divisor(field: &mut ResourceFieldSelector) {
    field.divisor.get_or_insert_with(|| Quantity("0".to_owned()));
}

fn downward(items: Option<&mut Vec<DownwardAPIVolumeFile>>) {
    for item in items.into_iter().flatten() {
        item.field_ref.as_mut().map(field_ref);
        item.resource_field_ref.as_mut().map(divisor);
    }
}

fn probe(probe: &mut Probe) {
    default_to(&mut probe.timeout_seconds, 1);
    default_to(&mut probe.period_seconds, 10);
    default_to(&mut probe.success_threshold, 1);
    default_to(&mut probe.failure_threshold, 3);
    probe.http_get.as_mut().map(http_get);
    if let Some(grpc) = &mut probe.grpc {
        default_to(&mut grpc.service, "");
    }
}

fn lifecycle(lifecycle: &mut Lifecycle) {
    lifecycle.stop_signal = None;
    for handler in [&mut lifecycle.post_start, &mut lifecycle.pre_stop].into_iter().flatten() {
        handler.http_get.as_mut().map(http_get);
    }
}

fn http_get(action: &mut HTTPGetAction) {
    if action.path.as_deref().unwrap_or_default().is_empty() {
        action.path = Some("/".to_owned());
    }
    default_to(&mut action.scheme, "HTTP");
}

fn volume(volume: &mut Volume) {
    if let Some(source) = &mut volume.secret {
        default_to(&mut source.default_mode, 0o644);
    } else if let Some(source) = &mut volume.config_map {
        default_to(&mut source.default_mode, 0o644);
    } else if let Some(source) = &mut volume.downward_api {
        default_to(&mut source.default_mode, 0o644);
        downward(source.items.as_mut());
    } else if let Some(source) = &mut volume.projected {
        default_to(&mut source.default_mode, 0o644);
        for source in source.sources.iter_mut().flatten() {
            if let Some(token) = &mut source.service_account_token {
                default_to(&mut token.expiration_seconds, 3600);
            }
            downward(source.downward_api.as_mut().and_then(|source| source.items.as_mut()));
        }
    } else if let Some(source) = &mut volume.host_path {
        default_to(&mut source.type_, "");
    } else if let Some(source) = &mut volume.iscsi {
        default_to(&mut source.iscsi_interface, "default");
    } else if let Some(source) = &mut volume.rbd {
        default_to(&mut source.pool, "rbd");
        default_to(&mut source.user, "admin");
        default_to(&mut source.keyring, "/etc/ceph/keyring");
    } else if let Some(source) = &mut volume.azure_disk {
        default_to(&mut source.caching_mode, "ReadWrite");
        default_to(&mut source.kind, "Shared");
        default_to(&mut source.fs_type, "ext4");
        default_to(&mut source.read_only, false);
    } else if let Some(source) = &mut volume.scale_io {
        default_to(&mut source.storage_mode, "ThinProvisioned");
        default_to(&mut source.fs_type, "xfs");
    } else if let Some(source) = &mut volume.ephemeral {
        if let Some(template) = &mut source.volume_claim_template {
            default_to(&mut template.spec.volume_mode, "Filesystem");
        }
    } else if let Some(source) = &mut volume.image {
        let policy = pull_policy(source.reference.as_deref().unwrap_or_default());
        default_to(&mut source.pull_policy, policy);
    } else if has_no_source(volume) {
        volume.empty_dir = Some(Default::default());
    }
}

/// Whether none of a volume's sources is set.
pub fn has_no_source(volume: &Volume) -> bool {
    *volume == Volume { name: volume.name.clone(), ..Volume::default() }
}

/// `Always` for images without tag and digest or with tag `latest`, else `IfNotPresent`, also for what is no name of an image.
pub fn pull_policy(image: &str) -> &'static str {
    // Repositories have no capitals; only a registry's host may.
    let path = image.split_once('/').filter(|(host, _)| host.contains(['.', ':'])).map_or(image, |(_, path)| path);
    let repository = path.split(['@', ':']).next().unwrap_or_default();
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/".contains(c);
    let named = repository.split('/').all(|part| part.starts_with(word) && part.ends_with(word));
    if !named || !repository.chars().all(lower) || repository.len() > 255 {
        return "IfNotPresent";
    }
    let (reference, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    let last = reference.rsplit('/').next().unwrap_or_default();
    match last.split_once(':').map(|(_, tag)| tag) {
        Some("latest") => "Always",
        Some(_) => "IfNotPresent",
        None if digest.is_some() => "IfNotPresent",
        None => "Always",
    }
}

fn requests_from_limits(resources: &mut ResourceRequirements) {
    if let Some(limits) = &resources.limits {
        let requests = resources.requests.get_or_insert_default();
        for (name, limit) in limits {
            requests.entry(name.clone()).or_insert_with(|| limit.clone());
        }
    }
}

fn resize_policy(container: &mut Container) {
    let Some(requests) = container.resources.as_ref().and_then(|r| r.requests.as_ref()) else { return };
    for name in ["cpu", "memory"] {
        if requests.contains_key(name) {
            let policies = container.resize_policy.get_or_insert_default();
            if !policies.iter().any(|policy| policy.resource_name == name) {
                policies.push(ContainerResizePolicy {
                    resource_name: name.to_owned(),
                    restart_policy: "NotRequired".to_owned(),
                });
            }
        }
    }
}

/// KEP-2837: where a pod has limits of its own, its requests default to what its containers request together, and for
/// resources that none of them requests to the limits.
fn pod_level_requests(spec: &mut PodSpec) {
    let Some(limits) = spec.resources.as_ref().and_then(|r| r.limits.clone()) else { return };
    let total = container_requests(spec);
    let Some(resources) = &mut spec.resources else { return };
    let requests = resources.requests.get_or_insert_default();
    for (name, amount) in total.into_iter().filter(|(name, _)| matches!(name.as_str(), "cpu" | "memory")) {
        requests.entry(name).or_insert_with(|| Quantity(amount.to_string()));
    }
    for (name, limit) in limits {
        if matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-") {
            requests.entry(name).or_insert(limit);
        }
    }
}

fn round_up(resources: &mut ResourceRequirements) {
    round_up_list(&mut resources.limits);
    round_up_list(&mut resources.requests);
}

/// Amounts finer than a thousandth are rounded up to it.
pub fn round_up_list(list: &mut Option<BTreeMap<String, Quantity>>) {
    for quantity in list.iter_mut().flat_map(|list| list.values_mut()).filter(|quantity| quantity.0.ends_with(['n', 'u'])) {
        let amount = Amount::of(quantity);
        quantity.0 = Amount::from_milli(amount.milli_value(), amount.format()).to_string();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_than_no_grace_is_a_second_for_pods_but_not_for_templates() {
        let mut spec = PodSpec { termination_grace_period_seconds: Some(-1), ..PodSpec::default() };
        pod_spec(&mut spec);
        assert_eq!(spec.termination_grace_period_seconds, Some(-1));
        pod_only(&mut spec);
        assert_eq!(spec.termination_grace_period_seconds, Some(1));
    }

    #[test]
    fn pull_policies_follow_the_tag() {
        let images = [
            "a",
            "a:latest",
            "a:1",
            "host:5000/a",
            "host:5000/a:2",
            "a@sha256:00",
            "a:latest@sha256:00",
            "Bad_Name!",
            "..",
            "a/",
        ];
        assert_eq!(
            images.map(pull_policy),
            [
                "Always",
                "Always",
                "IfNotPresent",
                "Always",
                "IfNotPresent",
                "IfNotPresent",
                "Always",
                "IfNotPresent",
                "IfNotPresent",
                "IfNotPresent"
            ]
        );
    }
}
