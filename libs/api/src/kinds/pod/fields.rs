//! Selectable fields of a pod, read from bytes without decoding the rest: caches and indexes read them on every change.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;

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

#[derive(Deserialize)]
struct Partial<'a> {
    #[serde(borrow, default)]
    spec: PartialSpec<'a>,
    #[serde(borrow, default)]
    status: PartialStatus<'a>,
}

type Text<'a> = Option<Cow<'a, str>>;

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PartialSpec<'a> {
    #[serde(borrow)]
    node_name: Text<'a>,
    #[serde(borrow)]
    restart_policy: Text<'a>,
    #[serde(borrow)]
    scheduler_name: Text<'a>,
    #[serde(borrow)]
    service_account_name: Text<'a>,
    host_network: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PartialStatus<'a> {
    #[serde(borrow)]
    phase: Text<'a>,
    #[serde(borrow, rename = "podIPs")]
    pod_ips: Option<Vec<PartialIp<'a>>>,
    #[serde(borrow, rename = "nominatedNodeName")]
    nominated_node_name: Text<'a>,
}

#[derive(Deserialize)]
struct PartialIp<'a> {
    #[serde(borrow, default)]
    ip: Text<'a>,
}

impl PodFields {
    /// Reads the fields of an encoded pod; `None` if it is no JSON object of that shape.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let Partial { spec, status } = serde_json::from_slice(bytes).ok()?;
        let text = |field: Text<'_>| field.map(Cow::into_owned).unwrap_or_default();
        Some(Self {
            node_name: text(spec.node_name),
            restart_policy: text(spec.restart_policy),
            scheduler_name: text(spec.scheduler_name),
            service_account_name: text(spec.service_account_name),
            host_network: spec.host_network.unwrap_or_default(),
            phase: text(status.phase),
            pod_ip: text(status.pod_ips.and_then(|ips| ips.into_iter().next()?.ip)),
            nominated_node_name: text(status.nominated_node_name),
        })
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
