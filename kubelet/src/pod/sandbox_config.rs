//! A pod's sandbox as CRI describes it.

use cri::v1;
use k8s_openapi::api::core::v1::{Pod, SeccompProfile};

use super::{
    record::keys,
    resolver::{Resolver, dns},
    resources, spec,
};

/// The node's part in a sandbox.
#[derive(Clone, Debug, Default)]
pub struct NodeNet {
    /// `--cluster-dns`.
    pub cluster_dns: Vec<String>,
    /// `--cluster-domain`.
    pub cluster_domain: String,
    /// The node's own resolver.
    pub resolver: Resolver,
}

/// Builds the configuration.
pub fn build(pod: &Pod, attempt: u32, net: &NodeNet, cgroup_parent: &str, log_directory: &str) -> v1::PodSandboxConfig {
    let own = spec::spec(pod);
    let mut labels = pod.metadata.labels.clone().unwrap_or_default();
    labels.insert(keys::POD_NAME.to_owned(), spec::name(pod).to_owned());
    labels.insert(keys::POD_NAMESPACE.to_owned(), spec::namespace(pod).to_owned());
    labels.insert(keys::POD_UID.to_owned(), spec::uid(pod));
    let mut annotations = pod.metadata.annotations.clone().unwrap_or_default();
    annotations.entry(spec::CONFIG_SOURCE.to_owned()).or_insert("api".to_owned());
    let network = spec::host_network(pod);
    let port_mappings = match network {
        true => Vec::new(),
        false => spec::members(pod)
            .iter()
            .flat_map(|m| m.container.ports.clone().unwrap_or_default())
            .filter_map(mapping)
            .collect(),
    };
    let (request, limit) = (resources::pod_requests(pod), resources::pod_limits(pod));
    let get = |a: &resources::Amounts, n: &str| a.get(n).copied().unwrap_or(0);
    let quota = resources::cpu_quota(get(&limit, "cpu"));
    let sum = v1::LinuxContainerResources {
        cpu_shares: resources::cpu_shares(get(&request, "cpu")),
        cpu_quota: quota,
        cpu_period: if quota > 0 { resources::CPU_PERIOD_US } else { 0 },
        memory_limit_in_bytes: get(&limit, "memory"),
        ..Default::default()
    };
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: spec::name(pod).to_owned(),
            uid: spec::uid(pod),
            namespace: spec::namespace(pod).to_owned(),
            attempt,
        }),
        hostname: if network { String::new() } else { hostname(pod, &net.cluster_domain) },
        log_directory: log_directory.to_owned(),
        dns_config: Some(dns(pod, net).0),
        port_mappings,
        labels: labels.into_iter().collect(),
        annotations: annotations.into_iter().collect(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: cgroup_parent.to_owned(),
            security_context: Some(security(pod)),
            sysctls: own
                .security_context
                .iter()
                .flat_map(|s| s.sysctls.iter().flatten())
                .map(|s| (s.name.clone(), s.value.clone()))
                .collect(),
            overhead: None,
            resources: Some(sum),
        }),
    }
}

fn mapping(port: k8s_openapi::api::core::v1::ContainerPort) -> Option<v1::PortMapping> {
    let protocol = match port.protocol.as_deref() {
        Some("UDP") => v1::Protocol::Udp,
        Some("SCTP") => v1::Protocol::Sctp,
        _ => v1::Protocol::Tcp,
    };
    port.host_port.filter(|p| *p > 0).map(|host_port| v1::PortMapping {
        protocol: protocol.into(),
        container_port: port.container_port,
        host_port,
        host_ip: port.host_ip.unwrap_or_default(),
    })
}

/// The pod's host name: the spec's or its own, at most 63 characters; as a full name if asked.
pub fn hostname(pod: &Pod, domain: &str) -> String {
    let own = spec::spec(pod);
    if let Some(fixed) = own.hostname_override.filter(|h| !h.is_empty()) {
        return fixed;
    }
    let name = own.hostname.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| spec::name(pod).to_owned());
    let short: String = name.chars().take(63).collect();
    let short = short.trim_end_matches(['-', '.']).to_owned();
    match full_domain(pod, domain).filter(|_| own.set_hostname_as_fqdn == Some(true)) {
        Some(domain) => format!("{short}.{domain}"),
        None => short,
    }
}

/// The domain below which a pod with `subdomain` is known.
pub fn full_domain(pod: &Pod, domain: &str) -> Option<String> {
    let sub = pod.spec.as_ref()?.subdomain.clone().filter(|s| !s.is_empty())?;
    Some(format!("{sub}.{}.svc.{domain}", spec::namespace(pod)))
}

/// Which namespaces the pod's processes live in.
pub fn namespaces(pod: &Pod) -> v1::NamespaceOption {
    let own = spec::spec(pod);
    let node = |on: Option<bool>, otherwise: v1::NamespaceMode| -> i32 {
        if on == Some(true) { v1::NamespaceMode::Node.into() } else { otherwise.into() }
    };
    let pid = match own.share_process_namespace {
        Some(true) => v1::NamespaceMode::Pod,
        _ => v1::NamespaceMode::Container,
    };
    v1::NamespaceOption {
        network: node(own.host_network, v1::NamespaceMode::Pod),
        pid: node(own.host_pid, pid),
        ipc: node(own.host_ipc, v1::NamespaceMode::Pod),
        target_id: String::new(),
        userns_options: None,
    }
}

/// A seccomp profile in CRI's form; without one a container runs unconfined, as upstream's default is.
pub fn seccomp(profile: Option<&SeccompProfile>) -> v1::SecurityProfile {
    use v1::security_profile::ProfileType;
    let (kind, localhost_ref) = match profile.map(|p| p.type_.as_str()) {
        Some("RuntimeDefault") => (ProfileType::RuntimeDefault, String::new()),
        Some("Localhost") => (ProfileType::Localhost, profile.and_then(|p| p.localhost_profile.clone()).unwrap_or_default()),
        _ => (ProfileType::Unconfined, String::new()),
    };
    v1::SecurityProfile { profile_type: kind.into(), localhost_ref }
}

fn security(pod: &Pod) -> v1::LinuxSandboxSecurityContext {
    let own = spec::spec(pod);
    let context = own.security_context.unwrap_or_default();
    let privileged =
        spec::members(pod).iter().any(|m| m.container.security_context.as_ref().is_some_and(|s| s.privileged == Some(true)));
    let int = |v: Option<i64>| v.map(|value| v1::Int64Value { value });
    v1::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod)),
        run_as_user: int(context.run_as_user),
        run_as_group: int(context.run_as_group),
        supplemental_groups: supplemental(pod),
        supplemental_groups_policy: groups_policy(pod),
        privileged,
        // The pause process always has the runtime's own profile.
        seccomp: Some(v1::SecurityProfile::default()),
        ..Default::default()
    }
}

/// The groups every process of the pod is in, fsGroup included.
pub fn supplemental(pod: &Pod) -> Vec<i64> {
    let context = spec::spec(pod).security_context.unwrap_or_default();
    let mut groups = context.supplemental_groups.unwrap_or_default();
    groups.extend(context.fs_group);
    groups
}

/// Whether groups of the image count, too.
pub fn groups_policy(pod: &Pod) -> i32 {
    let context = spec::spec(pod).security_context.unwrap_or_default();
    match context.supplemental_groups_policy.as_deref() {
        Some("Strict") => v1::SupplementalGroupsPolicy::Strict.into(),
        _ => v1::SupplementalGroupsPolicy::Merge.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec})).unwrap()
    }

    #[test]
    fn host_names() {
        let name = |spec: Value| hostname(&pod(spec), "cluster.local");
        assert_eq!(name(json!({"containers": []})), "p");
        assert_eq!(name(json!({"containers": [], "hostname": "h", "subdomain": "s"})), "h");
        assert_eq!(
            name(json!({"containers": [], "hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true})),
            "h.s.n.svc.cluster.local"
        );
    }
}
