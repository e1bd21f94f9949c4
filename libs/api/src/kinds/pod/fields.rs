//! Selectable fields of a pod, read from bytes without decoding the rest: caches and indexes read them on every change.

use k8s_openapi::api::core::v1::Pod;

use crate::pluck;

/// What pods are listed by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFields {
    /// `spec.nodeName`
    pub node_name: String,
    /// `spec.restartPolicy`
    pub restart_policy: String,
    /// `spec.schedulerName`
    pub scheduler_name: String,
    /// `spec.serviceAccountName`
    pub service_account_name: String,
    /// `spec.hostNetwork`
    pub host_network: bool,
    /// `status.phase`
    pub phase: String,
    /// `status.podIP`: the first of `status.podIPs`
    pub pod_ip: String,
    /// `status.nominatedNodeName`
    pub nominated_node_name: String,
}

impl PodFields {
    /// Reads the fields of an encoded pod; all empty if it is none.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        const PATHS: [&str; 8] = [
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIPs.0.ip",
            "status.nominatedNodeName",
        ];
        let mut texts = pluck::texts(bytes, &PATHS).into_iter();
        let mut next = || texts.next().unwrap_or_default();
        Self {
            node_name: next(),
            restart_policy: next(),
            scheduler_name: next(),
            service_account_name: next(),
            host_network: next() == "true",
            phase: next(),
            pod_ip: next(),
            nominated_node_name: next(),
        }
    }

    /// The fields of a decoded pod.
    pub fn of(pod: &Pod) -> Self {
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        let text = |field: Option<&String>| field.cloned().unwrap_or_default();
        Self {
            node_name: text(spec.and_then(|s| s.node_name.as_ref())),
            restart_policy: text(spec.and_then(|s| s.restart_policy.as_ref())),
            scheduler_name: text(spec.and_then(|s| s.scheduler_name.as_ref())),
            service_account_name: text(spec.and_then(|s| s.service_account_name.as_ref())),
            host_network: spec.and_then(|s| s.host_network).unwrap_or_default(),
            phase: text(status.and_then(|s| s.phase.as_ref())),
            pod_ip: text(status.and_then(|s| s.pod_ips.as_ref()?.first()).map(|ip| &ip.ip)),
            nominated_node_name: text(status.and_then(|s| s.nominated_node_name.as_ref())),
        }
    }

    /// By the names that field selectors use.
    pub fn list(self) -> Vec<(&'static str, String)> {
        vec![
            ("spec.nodeName", self.node_name),
            ("spec.restartPolicy", self.restart_policy),
            ("spec.schedulerName", self.scheduler_name),
            ("spec.serviceAccountName", self.service_account_name),
            ("spec.hostNetwork", self.host_network.to_string()),
            ("status.phase", self.phase),
            ("status.podIP", self.pod_ip),
            ("status.nominatedNodeName", self.nominated_node_name),
        ]
    }
}
