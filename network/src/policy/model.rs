//! What policies are decided from: pods, namespaces and policies as far as packets are concerned.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc};

use k8s_openapi::{
    api::{
        core::v1::{Container, Namespace, Pod as ApiPod, PodSpec, PodStatus},
        networking::v1::NetworkPolicy,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use net::{Cidr, Protocol};

/// Labels by key.
pub type Labels = BTreeMap<String, String>;

/// A pod that has an address of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Where it lives.
    pub namespace: String,
    /// What it is called.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// Its address.
    pub address: Ipv4Addr,
    /// Whether it runs on this node.
    pub local: bool,
    /// Its ports that have names.
    pub ports: Vec<(String, Protocol, u16)>,
}

/// Everything that the rules of a node follow from.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// All policies.
    pub policies: Vec<Arc<NetworkPolicy>>,
    /// All pods with an address of their own.
    pub pods: Vec<Pod>,
    /// All namespaces' labels.
    pub namespaces: BTreeMap<String, Labels>,
    /// The range of this node's pods.
    pub own: Option<Cidr>,
}

impl Pod {
    /// A pod as `node` sees it; `None` while it has no address, when it has ended, and on the host's network.
    pub fn read(pod: &ApiPod, node: &str) -> Option<Self> {
        let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
        let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        if over || spec.host_network == Some(true) {
            return None;
        }
        let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let named = containers.flat_map(|container| container.ports.iter().flatten()).filter_map(|port| {
            let protocol = port.protocol.as_deref().unwrap_or("TCP").parse().ok()?;
            Some((port.name.clone()?, protocol, u16::try_from(port.container_port).ok()?))
        });
        Some(Self {
            namespace: pod.metadata.namespace.clone()?,
            name: pod.metadata.name.clone()?,
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            address: status.pod_ip.as_deref()?.parse().ok()?,
            local: spec.node_name.as_deref() == Some(node),
            ports: named.collect(),
        })
    }

    /// The cluster's DNS on this node, which is no pod: policies mean it by the labels that it has elsewhere.
    pub fn dns(own: Cidr) -> Self {
        Self {
            namespace: "kube-system".to_owned(),
            name: "kube-dns".to_owned(),
            labels: [("k8s-app".to_owned(), "kube-dns".to_owned())].into(),
            address: own.gateway(),
            local: false,
            ports: vec![("dns".to_owned(), Protocol::Udp, 53), ("dns-tcp".to_owned(), Protocol::Tcp, 53)],
        }
    }
}

/// Keeps what [`Pod::read`] reads.
pub fn strip_pod(pod: &mut ApiPod) {
    strip_metadata(&mut pod.metadata);
    if let Some(spec) = pod.spec.take() {
        let ports = |container: Container| Container { ports: container.ports, ..Container::default() };
        pod.spec = Some(PodSpec {
            node_name: spec.node_name,
            host_network: spec.host_network,
            containers: spec.containers.into_iter().map(ports).collect(),
            init_containers: spec.init_containers.map(|all| all.into_iter().map(ports).collect()),
            ..PodSpec::default()
        });
    }
    if let Some(status) = pod.status.take() {
        pod.status = Some(PodStatus { phase: status.phase, pod_ip: status.pod_ip, ..PodStatus::default() });
    }
}

/// Keeps a namespace's name and labels.
pub fn strip_namespace(namespace: &mut Namespace) {
    strip_metadata(&mut namespace.metadata);
    (namespace.spec, namespace.status) = (None, None);
}

fn strip_metadata(metadata: &mut ObjectMeta) {
    (metadata.managed_fields, metadata.annotations, metadata.owner_references) = (None, None, None);
}
