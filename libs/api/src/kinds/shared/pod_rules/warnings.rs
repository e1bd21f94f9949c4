//! Warnings about pod specs: accepted, but surely not meant.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::core::v1::{Container, ContainerPort, NodeSelectorTerm, PodAffinityTerm, PodSpec, PodTemplateSpec, Volume},
    apimachinery::pkg::{api::resource::Quantity as Written, apis::meta::v1::ObjectMeta},
};

use super::{APP_ARMOR, text};
use crate::{field::go_quote, names, quantity::Quantity};

/// A name that is used in host names but is no DNS label.
pub fn name(metadata: &ObjectMeta, used: &str) -> Option<String> {
    let messages = names::dns1123_label(metadata.name.as_deref().unwrap_or_default());
    (!messages.is_empty()).then(|| {
        let list = messages.join(" ");
        format!("metadata.name: this is used in {used}, which can result in surprising behavior; a DNS label is recommended: [{list}]")
    })
}

/// Of a pod template below `path` (`spec.template`).
pub fn template(template: Option<&PodTemplateSpec>, path: &str) -> Vec<String> {
    let Some(template) = template else { return Vec::new() };
    let metadata = template.metadata.clone().unwrap_or_default();
    template.spec.as_ref().map(|spec| pod_spec(spec, &metadata, &format!("{path}."))).unwrap_or_default()
}

/// Of a pod spec; `prefix` is what stands before `spec` and `metadata` in paths.
pub fn pod_spec(spec: &PodSpec, metadata: &ObjectMeta, prefix: &str) -> Vec<String> {
    let mut out = Vec::new();
    node_labels(spec, prefix, &mut out);
    annotations(metadata, prefix, &mut out);
    for (i, volume) in spec.volumes.iter().flatten().enumerate() {
        volume_warning(volume, &format!("{prefix}spec.volumes[{i}]"), &mut out);
    }
    duplicates(spec, prefix, &mut out);
    for resource in ["memory", "ephemeral-storage"] {
        fraction(spec.overhead.as_ref(), resource, &format!("{prefix}spec.overhead"), &mut out);
    }
    let containers = all_containers(spec, prefix);
    for (container, path) in &containers {
        let resources = container.resources.clone().unwrap_or_default();
        for resource in ["memory", "ephemeral-storage"] {
            fraction(resources.limits.as_ref(), resource, &format!("{path}.resources.limits"), &mut out);
            fraction(resources.requests.as_ref(), resource, &format!("{path}.resources.requests"), &mut out);
        }
        hidden_variables(container, path, &mut out);
    }
    if !prefix.is_empty() {
        app_armor(spec, metadata, prefix, &containers, &mut out);
    }
    ports(&containers, &mut out);
    if spec.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0) {
        let message = "must be >= 0; negative values are invalid and will be treated as 1";
        out.push(format!("{prefix}spec.terminationGracePeriodSeconds: {message}"));
    }
    null_selectors(spec, prefix, &mut out);
    out
}

/// In upstream's order of visiting: init containers first.
fn all_containers<'a>(spec: &'a PodSpec, prefix: &str) -> Vec<(&'a Container, String)> {
    let init =
        spec.init_containers.iter().flatten().enumerate().map(|(i, c)| (c, format!("{prefix}spec.initContainers[{i}]")));
    let regular = spec.containers.iter().enumerate().map(|(i, c)| (c, format!("{prefix}spec.containers[{i}]")));
    init.chain(regular).collect()
}

fn deprecated_label(key: &str) -> Option<&'static str> {
    Some(match key {
        "beta.kubernetes.io/arch" => "deprecated since v1.14; use \"kubernetes.io/arch\" instead",
        "beta.kubernetes.io/os" => "deprecated since v1.14; use \"kubernetes.io/os\" instead",
        "failure-domain.beta.kubernetes.io/region" => {
            "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead"
        }
        "failure-domain.beta.kubernetes.io/zone" => "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
        "beta.kubernetes.io/instance-type" => "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
        _ => return None,
    })
}

fn node_labels(spec: &PodSpec, prefix: &str, out: &mut Vec<String>) {
    for (key, _) in spec.node_selector.iter().flatten() {
        if let Some(message) = deprecated_label(key) {
            out.push(format!("{prefix}spec.nodeSelector[{key}]: {message}"));
        }
    }
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let base = format!("{prefix}spec.affinity.nodeAffinity");
    let mut term = |term: &NodeSelectorTerm, path: String| {
        for (i, expression) in term.match_expressions.iter().flatten().enumerate() {
            if let Some(message) = deprecated_label(&expression.key) {
                out.push(format!("{path}.matchExpressions[{i}].key: {} is {message}", expression.key));
            }
        }
    };
    if let Some(affinity) = affinity {
        let required = affinity.required_during_scheduling_ignored_during_execution.iter();
        for (i, item) in required.flat_map(|required| &required.node_selector_terms).enumerate() {
            term(item, format!("{base}.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[{i}]"));
        }
        for (i, item) in affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten().enumerate() {
            term(&item.preference, format!("{base}.preferredDuringSchedulingIgnoredDuringExecution[{i}].preference"));
        }
    }
    for (i, constraint) in spec.topology_spread_constraints.iter().flatten().enumerate() {
        let path = format!("{prefix}spec.topologySpreadConstraints[{i}]");
        if let Some(message) = deprecated_label(&constraint.topology_key) {
            out.push(format!("{path}.topologyKey: {} is {message}", constraint.topology_key));
        }
        if constraint.label_selector.is_none() {
            out.push(format!("{path}.labelSelector: a null labelSelector results in matching no pod"));
        }
    }
}

fn annotations(metadata: &ObjectMeta, prefix: &str, out: &mut Vec<String>) {
    let gone = [
        (
            "scheduler.alpha.kubernetes.io/critical-pod",
            "non-functional in v1.16+; use the \"priorityClassName\" field instead",
        ),
        ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
        ("security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
        ("seccomp.security.alpha.kubernetes.io/pod", "non-functional in v1.27+; use the \"seccompProfile\" field instead"),
    ];
    for (key, message) in gone {
        if metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(key)) {
            out.push(format!("{prefix}metadata.annotations[{key}]: {message}"));
        }
    }
}

/// Of an annotation that a field stands for these days; `prefix` is the path of what is annotated.
pub fn app_armor_annotation(key: &str, prefix: &str) -> String {
    format!("{prefix}metadata.annotations[{key}]: deprecated since v1.30; use the \"appArmorProfile\" field instead")
}

/// Of templates: what pods are made of them get their fields from the annotations.
fn app_armor(
    spec: &PodSpec,
    metadata: &ObjectMeta,
    prefix: &str,
    containers: &[(&Container, String)],
    out: &mut Vec<String>,
) {
    if spec.security_context.as_ref().is_some_and(|context| context.app_armor_profile.is_some()) {
        return;
    }
    for (container, _) in containers {
        let key = format!("{APP_ARMOR}{}", container.name);
        let field = container.security_context.as_ref().and_then(|context| context.app_armor_profile.as_ref());
        if field.is_none() && metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(&key)) {
            out.push(app_armor_annotation(&key, prefix));
        }
    }
}

fn volume_warning(volume: &Volume, path: &str, out: &mut Vec<String>) {
    for (set, field, message) in [
        (volume.photon_persistent_disk.is_some(), "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
        (volume.git_repo.is_some(), "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
        (volume.scale_io.is_some(), "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
        (volume.flocker.is_some(), "flocker", "deprecated in v1.22, non-functional in v1.25+"),
        (volume.storageos.is_some(), "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
        (volume.quobyte.is_some(), "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
        (volume.glusterfs.is_some(), "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
        (volume.cephfs.is_some(), "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
        (volume.rbd.is_some(), "rbd", "deprecated in v1.28, non-functional in v1.31+"),
    ] {
        if set {
            out.push(format!("{path}.{field}: {message}"));
        }
    }
    overlapping_items(volume, path, out);
}

/// Sources of a projected volume that write the same path.
fn overlapping_items(volume: &Volume, path: &str, out: &mut Vec<String>) {
    let Some(projected) = &volume.projected else { return };
    let mut taken: BTreeSet<&str> = BTreeSet::new();
    for (i, source) in projected.sources.iter().flatten().enumerate() {
        if let Some(token) = &source.service_account_token
            && !taken.insert(&token.path)
        {
            let path = format!("{path}.projected.sources[{i}]");
            out.push(format!("{path}: conflicting duplicate path {} with another source", go_quote(&token.path)));
        }
        let map = source.config_map.as_ref().and_then(|map| map.items.as_ref());
        let secret = source.secret.as_ref().and_then(|secret| secret.items.as_ref());
        for item in map.into_iter().chain(secret).flatten() {
            taken.insert(&item.path);
        }
    }
}

fn duplicates(spec: &PodSpec, prefix: &str, out: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (i, alias) in spec.host_aliases.iter().flatten().enumerate() {
        if !seen.insert(&alias.ip) {
            out.push(format!("{prefix}spec.hostAliases[{i}].ip: duplicate ip {}", go_quote(&alias.ip)));
        }
    }
    let mut seen = BTreeSet::new();
    for (i, secret) in spec.image_pull_secrets.iter().flatten().enumerate() {
        if !seen.insert(&secret.name) {
            out.push(format!("{prefix}spec.imagePullSecrets[{i}].name: duplicate name {}", go_quote(&secret.name)));
        }
    }
    for (i, _) in spec.image_pull_secrets.iter().flatten().enumerate().filter(|(_, secret)| secret.name.is_empty()) {
        out.push(format!("{prefix}spec.imagePullSecrets[{i}].name: invalid empty name \"\""));
    }
}

fn fraction(list: Option<&BTreeMap<String, Written>>, resource: &str, path: &str, out: &mut Vec<String>) {
    let value = list.and_then(|list| list.get(resource));
    if let Some(value) = value.filter(|value| Quantity::of(value).seems_fractional()) {
        out.push(format!("{path}[{resource}]: fractional byte value {} is invalid, must be an integer", go_quote(&value.0)));
    }
}

fn hidden_variables(container: &Container, path: &str, out: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (i, variable) in container.env.iter().flatten().enumerate() {
        if seen.insert(&variable.name) {
            continue;
        }
        // A definition that extends the earlier one is meant.
        let reference = format!("$({})", variable.name);
        let value = text(variable.value.as_ref());
        if variable.value_from.is_some() || value == reference || !value.contains(&reference) {
            out.push(format!(
                "{path}.env[{i}]: hides previous definition of {}, which may be dropped when using apply",
                go_quote(&variable.name)
            ));
        }
    }
}

fn ports(containers: &[(&Container, String)], out: &mut Vec<String>) {
    let mut known: BTreeMap<(i32, &str), Vec<(String, &ContainerPort)>> = BTreeMap::new();
    for (container, path) in containers {
        for (i, port) in container.ports.iter().flatten().enumerate() {
            let path = format!("{path}.ports[{i}]");
            let (ip, host) = (text(port.host_ip.as_ref()), port.host_port.unwrap_or(0));
            if !ip.is_empty() && host == 0 {
                let (name, number) = (text(port.name.as_ref()), port.container_port);
                let protocol = text(port.protocol.as_ref());
                out.push(format!(
                    "{path}: hostIP set without hostPort: {{Name:{name} HostPort:0 ContainerPort:{number} Protocol:{protocol} HostIP:{ip}}}"
                ));
            }
            let others = known.entry((port.container_port, text(port.protocol.as_ref()))).or_default();
            for (other_path, other) in others.iter() {
                let (other_ip, other_host) = (text(other.host_ip.as_ref()), other.host_port.unwrap_or(0));
                let what = if ip == other_ip && host == other_host {
                    "duplicate port definition"
                } else if host == 0 || other_host == 0 {
                    "overlapping port definition"
                } else if host == other_host && ip.is_empty() != other_ip.is_empty() {
                    "dangerously ambiguous port definition"
                } else {
                    continue;
                };
                out.push(format!("{path}: {what} with {other_path}"));
            }
            others.push((path, port));
        }
    }
}

fn null_selectors(spec: &PodSpec, prefix: &str, out: &mut Vec<String>) {
    let Some(affinity) = &spec.affinity else { return };
    let mut check = |term: &PodAffinityTerm, path: String| {
        if term.label_selector.is_none() {
            out.push(format!("{path}.labelSelector: a null labelSelector results in matching no pod"));
        }
    };
    let near = affinity.pod_affinity.as_ref().map(|a| {
        (
            "podAffinity",
            &a.required_during_scheduling_ignored_during_execution,
            &a.preferred_during_scheduling_ignored_during_execution,
        )
    });
    let far = affinity.pod_anti_affinity.as_ref().map(|a| {
        (
            "podAntiAffinity",
            &a.required_during_scheduling_ignored_during_execution,
            &a.preferred_during_scheduling_ignored_during_execution,
        )
    });
    for (field, required, preferred) in [near, far].into_iter().flatten() {
        let base = format!("{prefix}spec.affinity.{field}");
        for (i, term) in required.iter().flatten().enumerate() {
            check(term, format!("{base}.requiredDuringSchedulingIgnoredDuringExecution[{i}]"));
        }
        for (i, term) in preferred.iter().flatten().enumerate() {
            let path = format!("{base}.preferredDuringSchedulingIgnoredDuringExecution[{i}].podAffinityTerm");
            check(&term.pod_affinity_term, path);
        }
    }
}
