//! A pod as an endpoint of a Service.

use k8s_openapi::{
    api::{
        core::v1::{Node, ObjectReference, Pod, Service, ServicePort},
        discovery::v1::{Endpoint, EndpointConditions, EndpointHints, EndpointPort, ForNode, ForZone},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use crate::pods;

/// Whether the pod may be an endpoint: it has an address and has not ended.
pub fn is_candidate(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let addressed = status.is_some_and(|s| s.pod_ips.iter().flatten().next().is_some() || s.pod_ip.is_some());
    addressed && !pods::is_terminal(pod)
}

/// The pod's addresses of one family.
pub fn addresses(pod: &Pod, ipv6: bool) -> Vec<String> {
    let status = pod.status.as_ref();
    let all = status.iter().flat_map(|s| s.pod_ips.iter().flatten()).map(|ip| ip.ip.clone());
    let only = status
        .and_then(|s| s.pod_ip.clone())
        .filter(|_| status.is_some_and(|s| s.pod_ips.iter().flatten().next().is_none()));
    all.chain(only).filter(|ip| ip.contains(':') == ipv6).collect()
}

/// The container port a Service port leads to in this pod: a number, or the port of that name.
pub fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let name = match &port.target_port {
        None => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let containers = pod.spec.iter().flat_map(|s| {
        let sidecars = s.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
        s.containers.iter().chain(sidecars)
    });
    let mut ports = containers.flat_map(|c| c.ports.iter().flatten());
    let found = ports.find(|p| p.name.as_ref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol);
    found.map(|p| p.container_port)
}

/// The Service's ports as this pod serves them; ports that the pod does not have are left out.
pub fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service.spec.iter().flat_map(|s| s.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(target_port(pod, port)?),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

/// The pod's hostname, where it asks to be known by it under this Service.
pub fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    (spec.subdomain.is_some() && spec.subdomain == service.metadata.name)
        .then(|| spec.hostname.clone())
        .flatten()
        .filter(|h| !h.is_empty())
}

/// What an endpoint's target is.
pub fn target(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// The endpoint of a pod on `node` (`None`: the node is not known).
pub fn endpoint(service: &Service, pod: &Pod, node: Option<&Node>, ipv6: bool) -> Endpoint {
    let spec = service.spec.clone().unwrap_or_default();
    let (serving, terminating) = (pods::is_ready(pod), pod.metadata.deletion_timestamp.is_some());
    let ready = spec.publish_not_ready_addresses.unwrap_or(false) || (serving && !terminating);
    let zone = node.and_then(|n| n.metadata.labels.as_ref()?.get("topology.kubernetes.io/zone").cloned());
    let node_name = Some(pods::node(pod)).filter(|n| !n.is_empty()).map(str::to_owned);
    let for_zones = zone.clone().map(|name| vec![ForZone { name }]);
    let hints = match spec.traffic_distribution.as_deref() {
        Some("PreferClose" | "PreferSameZone") if ready && for_zones.is_some() => {
            Some(EndpointHints { for_zones, for_nodes: None })
        }
        Some("PreferSameNode") if ready && node_name.is_some() => {
            let for_nodes = node_name.clone().map(|name| vec![ForNode { name }]);
            Some(EndpointHints { for_zones, for_nodes })
        }
        _ => None,
    };
    Endpoint {
        addresses: addresses(pod, ipv6),
        conditions: Some(EndpointConditions { ready: Some(ready), serving: Some(serving), terminating: Some(terminating) }),
        hostname: hostname(service, pod),
        target_ref: Some(target(pod)),
        node_name,
        zone,
        hints,
        ..Endpoint::default()
    }
}
