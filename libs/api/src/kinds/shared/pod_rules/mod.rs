//! Rules of pod specs, for pods and pod templates alike, with upstream's paths, messages and order.

mod containers;
mod environment;
pub mod resize;
mod scheduling;
mod security;
pub mod update;
mod vendor_sources;
mod volume_sources;
mod volumes;
pub mod warnings;
mod windows;

pub mod resources;

use std::collections::BTreeSet;

use k8s_openapi::{
    api::core::v1::{PodDNSConfig, PodSpec, PodTemplateSpec, Volume},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::text;
use crate::{field::FieldErrors, field_path::Path, meta, names, selector::Selector};

pub(crate) use containers::port_number_or_name;
pub use scheduling::{label_selector, preemption_policy, taint_effect};

/// What the rules of a pod spec depend on besides the spec.
pub(crate) struct Rules<'a> {
    pub spec: &'a PodSpec,
    /// Of a pod; `None` in a template.
    pub pod: Option<&'a ObjectMeta>,
    /// Volumes without an error of their own, by name.
    pub volumes: BTreeSet<&'a str>,
}

impl Rules<'_> {
    fn volume(&self, name: &str) -> Option<&Volume> {
        self.spec.volumes.iter().flatten().find(|volume| volume.name == name && self.volumes.contains(name))
    }

    fn host_users(&self) -> bool {
        self.spec.host_users.unwrap_or(true)
    }
}

pub use security::{APP_ARMOR, app_armor_agrees};

/// A pod's own annotations and its spec.
pub fn pod(metadata: &ObjectMeta, spec: &PodSpec, errors: &mut FieldErrors) {
    let root = Path::root("spec");
    annotations(metadata, spec, &Path::root("metadata").child("annotations"), errors);
    pod_spec(spec, Some(metadata), &root, errors);
    let volumes = root.child("volumes");
    if text(spec.service_account_name.as_ref()).is_empty() {
        for (i, volume) in spec.volumes.iter().flatten().enumerate() {
            let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
            for (j, _) in sources.enumerate().filter(|(_, source)| source.service_account_token.is_some()) {
                let path = format!("{}.projected.sources[{j}].serviceAccountToken", volumes.index(i));
                errors.forbidden(path, "must not be specified when serviceAccountName is not set");
            }
        }
    }
    for (name, list) in [("containers", Some(&spec.containers)), ("initContainers", spec.init_containers.as_ref())] {
        for (i, container) in list.into_iter().flatten().enumerate() {
            let image = text(container.image.as_ref());
            if image.trim() != image {
                errors.invalid(format!("spec.{name}[{i}].image"), &image, "must not have leading or trailing whitespace");
            }
        }
    }
}

/// A pod template at `path`.
pub fn template(template: &PodTemplateSpec, path: &Path, errors: &mut FieldErrors) {
    let none = ObjectMeta::default();
    let metadata = template.metadata.as_ref().unwrap_or(&none);
    let no_spec = PodSpec::default();
    let spec = template.spec.as_ref().unwrap_or(&no_spec);
    // Upstream leaves `metadata` out of these paths.
    meta::validate_labels(metadata.labels.as_ref(), &path.child("labels").to_string(), errors);
    meta::validate_annotations(metadata.annotations.as_ref(), &path.child("annotations").to_string(), errors);
    annotations(metadata, spec, &path.child("annotations"), errors);
    let spec_path = path.child("spec");
    pod_spec(spec, None, &spec_path, errors);
    if spec.ephemeral_containers.as_ref().is_some_and(|containers| !containers.is_empty()) {
        errors.forbidden(spec_path.child("ephemeralContainers"), "ephemeral containers not allowed in pod template");
    }
}

/// A pod template whose pods are replicas: what `kind` (`ReplicaSet`, `ReplicationController`) asks of it.
pub fn replica_template(
    pod_template: &PodTemplateSpec,
    selector: &Selector,
    kind: &str,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let labels = pod_template.metadata.as_ref().and_then(|metadata| metadata.labels.as_ref());
    if !selector.is_empty() && !selector.matches_opt(labels) {
        let message = "`selector` does not match template `labels`";
        errors.invalid(path.child("metadata").child("labels"), &labels, message);
    }
    template(pod_template, path, errors);
    let spec_path = path.child("spec");
    let spec = pod_template.spec.as_ref();
    errors.one_of(
        &spec_path.child("restartPolicy"),
        Some(text(spec.and_then(|spec| spec.restart_policy.as_ref()))),
        &["Always"],
    );
    if spec.is_some_and(|spec| spec.active_deadline_seconds.is_some()) {
        let message = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.forbidden(spec_path.child("activeDeadlineSeconds"), message);
    }
}

fn annotations(metadata: &ObjectMeta, spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let get = |key: &str| metadata.annotations.as_ref().and_then(|annotations| annotations.get(key));
    const MIRROR: &str = "kubernetes.io/config.mirror";
    if let Some(value) = get(MIRROR).filter(|_| text(spec.node_name.as_ref()).is_empty()) {
        errors.invalid(path.key(MIRROR), value, "must set spec.nodeName if mirror pod annotation is set");
    }
    const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
    // No sign for positive numbers and no leading zeros.
    if let Some(cost) = get(COST).filter(|cost| cost.parse::<i32>().map(|n| n.to_string()).ok().as_ref() != Some(cost)) {
        errors.invalid(path.key(COST), cost, "must be a 32bit integer");
    }
    security::seccomp_annotations(metadata, path, errors);
    security::app_armor_annotations(metadata, spec, path, errors);
}

/// `ValidatePodSpec`.
fn pod_spec(spec: &PodSpec, pod: Option<&ObjectMeta>, path: &Path, errors: &mut FieldErrors) {
    let mut rules = Rules { spec, pod, volumes: BTreeSet::new() };
    let valid = volumes::check(&rules, &path.child("volumes"), errors);
    rules.volumes = valid;
    resources::pod_claims(spec, &path.child("resourceClaims"), errors);
    containers::check(&rules, path, errors);
    resources::pod_level(spec, path, errors);
    host_network_ports(&rules, &path.child("containers"), errors);
    let policies = ["Always", "OnFailure", "Never"];
    errors.required_one_of(&path.child("restartPolicy"), spec.restart_policy.as_deref(), &policies);
    let dns_policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    errors.required_one_of(&path.child("dnsPolicy"), spec.dns_policy.as_deref(), &dns_policies);
    meta::validate_labels(spec.node_selector.as_ref(), &path.child("nodeSelector").to_string(), errors);
    security::pod(&rules, &path.child("securityContext"), errors);
    scheduling::affinity(spec.affinity.as_ref(), &path.child("affinity"), errors);
    dns_config(spec.dns_config.as_ref(), spec.dns_policy.as_deref(), &path.child("dnsConfig"), errors);
    scheduling::gates(spec, path, errors);
    scheduling::spread(spec.topology_spread_constraints.as_deref(), &path.child("topologySpreadConstraints"), errors);
    windows::host_process(spec, path, errors);
    security::host_users(spec, path, errors);
    identity(spec, path, errors);
    scheduling::tolerations(spec.tolerations.as_deref(), &path.child("tolerations"), errors);
    for (i, alias) in spec.host_aliases.iter().flatten().enumerate() {
        let path = format!("{}[{i}]", path.child("hostAliases"));
        let path = Path::root(&path);
        errors.each(&path.child("ip"), &alias.ip, names::ip(&alias.ip));
        for (j, name) in alias.hostnames.iter().flatten().enumerate() {
            errors.each(&path.child("hostnames").index(j), name, names::dns1123_subdomain(name));
        }
    }
    named(path, "priorityClassName", spec.priority_class_name.as_ref(), names::dns1123_subdomain, errors);
    if let Some(class) = &spec.runtime_class_name {
        errors.each(&path.child("runtimeClassName"), class, names::dns1123_subdomain(class));
    }
    if let Some(policy) = &spec.preemption_policy {
        scheduling::preemption_policy(policy, &path.child("preemptionPolicy"), errors);
    }
    if let Some(overhead) = &spec.overhead {
        resources::overhead(overhead, &path.child("overhead"), errors);
    }
    if let Some(os) = &spec.os {
        security::operating_system(spec, &os.name, path, errors);
    }
}

/// An optional name by its grammar.
fn named(path: &Path, field: &str, value: Option<&String>, grammar: fn(&str) -> Vec<String>, errors: &mut FieldErrors) {
    if let Some(value) = value.filter(|value| !value.is_empty()) {
        errors.each(&path.child(field), value, grammar(value));
    }
}

fn identity(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    named(path, "serviceAccountName", spec.service_account_name.as_ref(), names::dns1123_subdomain, errors);
    named(path, "nodeName", spec.node_name.as_ref(), names::dns1123_subdomain, errors);
    if let Some(seconds) = spec.active_deadline_seconds {
        let messages = names::in_range(seconds, 1, i64::from(i32::MAX));
        errors.each(&path.child("activeDeadlineSeconds"), &seconds, messages);
    }
    named(path, "hostname", spec.hostname.as_ref(), names::dns1123_label, errors);
    named(path, "subdomain", spec.subdomain.as_ref(), names::dns1123_label, errors);
    if let Some(name) = &spec.hostname_override {
        let path = path.child("hostnameOverride");
        errors.each(&path, name, names::dns1123_subdomain(name));
        if name.len() > 64 {
            errors.too_long(path, 64);
        }
        if spec.set_hostname_as_fqdn == Some(true) {
            errors.forbidden(path, "may not be specified when setHostnameAsFQDN is true");
        }
        if spec.host_network == Some(true) {
            errors.forbidden(path, "may not be specified when hostNetwork is true");
        }
    }
}

fn host_network_ports(rules: &Rules, path: &Path, errors: &mut FieldErrors) {
    if rules.spec.host_network != Some(true) {
        return;
    }
    for (i, container) in rules.spec.containers.iter().enumerate() {
        for (j, port) in container.ports.iter().flatten().enumerate() {
            let host_port = port.host_port.unwrap_or(0);
            if (rules.pod.is_some() || host_port != 0) && host_port != port.container_port {
                let message = "must match `containerPort` when `hostNetwork` is true";
                errors.invalid(format!("{}.ports[{j}].hostPort", path.index(i)), &host_port, message);
            }
        }
    }
}

fn dns_config(config: Option<&PodDNSConfig>, policy: Option<&str>, path: &Path, errors: &mut FieldErrors) {
    let Some(config) = config else {
        if policy == Some("None") {
            errors.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        return;
    };
    let servers = config.nameservers.as_deref().unwrap_or_default();
    let servers_path = path.child("nameservers");
    if policy == Some("None") && servers.is_empty() {
        return errors.required(servers_path, "must provide at least one DNS nameserver when `dnsPolicy` is None");
    }
    if servers.len() > 3 {
        errors.invalid(servers_path, &servers, "must not have more than 3 nameservers");
    }
    for (i, server) in servers.iter().enumerate() {
        errors.each(&servers_path.index(i), server, names::ip(server));
    }
    let searches = config.searches.as_deref().unwrap_or_default();
    let searches_path = path.child("searches");
    if searches.len() > 32 {
        errors.invalid(searches_path, &searches, "must not have more than 32 search paths");
    }
    if searches.join(" ").len() > 2048 {
        let message = "must not have more than 2048 characters (including spaces) in the search list";
        errors.invalid(searches_path, &searches, message);
    }
    for (i, search) in searches.iter().enumerate().filter(|(_, search)| *search != ".") {
        // Underscores are fine here (v1.34); otherwise the grammar is that of a subdomain.
        let search = search.strip_suffix('.').unwrap_or(search);
        errors.each(&searches_path.index(i), search, names::dns1123_subdomain(&search.replace('_', "a")));
    }
    for (i, option) in config.options.iter().flatten().enumerate() {
        if text(option.name.as_ref()).is_empty() {
            errors.required(path.child("options").index(i), "must not be empty");
        }
    }
}
