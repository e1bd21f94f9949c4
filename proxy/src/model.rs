//! Services and endpoint slices as the rules need them: read once, defaults applied, IPv4 only.

use std::{collections::BTreeMap, net::Ipv4Addr};

use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use net::{Cidr, Protocol};

/// Slices and services with this label belong to another proxy.
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";
/// Slices of services without an address need no rules, and neither do services that are called so.
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Upstream's default affinity time, 3 hours.
const AFFINITY_SECONDS: i32 = 10_800;

/// An address as people may have written it: leading zeros mean nothing, as everywhere in the API.
fn ipv4(text: &str) -> Option<Ipv4Addr> {
    let parts: Vec<u8> = text
        .split('.')
        .map(|part| part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok())?)
        .collect::<Option<_>>()?;
    <[u8; 4]>::try_from(parts).ok().map(Ipv4Addr::from)
}

/// The node the rules are for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeInfo {
    /// Its name.
    pub name: String,
    /// Its `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// Its internal address.
    pub address: Option<Ipv4Addr>,
}

impl NodeInfo {
    /// What we need of a node.
    pub fn read(name: &str, node: Option<&Node>) -> Self {
        let zone = node.and_then(|n| n.metadata.labels.as_ref()?.get("topology.kubernetes.io/zone").cloned());
        let addresses = node.and_then(|n| n.status.as_ref()?.addresses.as_ref());
        let internal = addresses.into_iter().flatten().find(|a| a.type_ == "InternalIP");
        Self {
            name: name.to_owned(),
            zone: zone.filter(|zone| !zone.is_empty()),
            address: internal.and_then(|a| a.address.parse().ok()),
        }
    }
}

/// One port of a service that has rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// `NAMESPACE/NAME:PORT`, or `NAMESPACE/NAME` for an unnamed port: in comments and chain names.
    pub title: String,
    /// The port's name, by which slices refer to it.
    pub name: String,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The service's address.
    pub cluster_ip: Ipv4Addr,
    /// The port at that address.
    pub port: u16,
    /// The port of every node, if it has one.
    pub node_port: Option<u16>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<Ipv4Addr>,
    /// `status.loadBalancer.ingress` that routes to nodes by address.
    pub balancer_ips: Vec<Ipv4Addr>,
    /// Who may use the load balancer's addresses; `None` is everybody.
    pub source_ranges: Option<Vec<Cidr>>,
    /// `sessionAffinity: ClientIP`, with its seconds.
    pub affinity: Option<i32>,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
}

impl ServicePort {
    /// Whether it can be reached from outside the cluster.
    pub fn is_external(&self) -> bool {
        self.node_port.is_some() || !self.external_ips.is_empty() || !self.balancer_ips.is_empty()
    }

    /// Whether any of its traffic may go to every node. Even with a Local external policy, pods and the node itself
    /// reach all endpoints by its external addresses.
    pub fn uses_cluster(&self) -> bool {
        !self.internal_local || self.is_external()
    }

    /// Whether any of its traffic stays on the node.
    pub fn uses_local(&self) -> bool {
        self.internal_local || (self.external_local && self.is_external())
    }
}

/// The ports of a service that need rules: none for headless ones (also by label only), names of elsewhere, and other proxies'
/// services.
pub fn service_ports(service: &Service) -> Vec<ServicePort> {
    let labels = service.metadata.labels.as_ref();
    let Some(spec) = service.spec.as_ref() else { return Vec::new() };
    let others = labels.is_some_and(|labels| labels.contains_key(OTHER_PROXY) || labels.contains_key(HEADLESS));
    if others || spec.type_.as_deref() == Some("ExternalName") {
        return Vec::new();
    }
    let ips = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let Some(cluster_ip) = ips.filter_map(|ip| ipv4(ip.as_str())).next() else { return Vec::new() };
    let key = key_of(&service.metadata);
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref()?.timeout_seconds);
        config.unwrap_or(AFFINITY_SECONDS)
    });
    let ingress = service.status.as_ref().and_then(|s| s.load_balancer.as_ref()?.ingress.as_ref());
    let by_address = ingress.into_iter().flatten().filter(|i| i.ip_mode.as_deref().unwrap_or("VIP") == "VIP");
    let balancer_ips: Vec<Ipv4Addr> = by_address.filter_map(|i| ipv4(i.ip.as_ref()?)).collect();
    // Ranges that cannot be read (of IPv6, say) let nobody in; that there are any keeps everybody else out.
    let given = spec.load_balancer_source_ranges.as_ref().filter(|ranges| !ranges.is_empty());
    let source_ranges: Option<Vec<Cidr>> =
        given.map(|ranges| ranges.iter().filter_map(|range| range.trim().parse().ok()).collect());
    let local = |policy: &Option<String>| policy.as_deref() == Some("Local");
    let port = |port: &k8s_openapi::api::core::v1::ServicePort| {
        let name = port.name.clone().unwrap_or_default();
        Some(ServicePort {
            title: if name.is_empty() { key.clone() } else { format!("{key}:{name}") },
            name,
            protocol: port.protocol.as_deref().unwrap_or("TCP").parse().ok()?,
            cluster_ip,
            port: u16::try_from(port.port).ok()?,
            node_port: port.node_port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0),
            external_ips: spec.external_ips.iter().flatten().filter_map(|ip| ipv4(ip.as_str())).collect(),
            balancer_ips: balancer_ips.clone(),
            source_ranges: source_ranges.clone(),
            affinity,
            external_local: local(&spec.external_traffic_policy),
            internal_local: local(&spec.internal_traffic_policy),
        })
    };
    spec.ports.iter().flatten().filter_map(port).collect()
}

/// The node port that tells load balancers whether this node has endpoints of the service.
pub fn health_check_port(service: &Service) -> Option<u16> {
    let spec = service.spec.as_ref()?;
    // Every service is asked with every change, and few have one.
    let port = spec.health_check_node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)?;
    let local = spec.external_traffic_policy.as_deref() == Some("Local");
    (local && !service_ports(service).is_empty()).then_some(port)
}

/// `NAMESPACE/NAME`.
pub fn key_of(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> String {
    format!("{}/{}", meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

/// The service a slice belongs to, as `NAMESPACE/NAME`; `None` if the slice is not for us.
pub fn slice_service(slice: &EndpointSlice) -> Option<String> {
    let labels = slice.metadata.labels.as_ref()?;
    if slice.address_type != "IPv4" || labels.contains_key(OTHER_PROXY) || labels.contains_key(HEADLESS) {
        return None;
    }
    Some(format!("{}/{}", slice.metadata.namespace.as_deref()?, labels.get("kubernetes.io/service-name")?))
}

/// Where a service port's packets may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The pod's address.
    pub ip: Ipv4Addr,
    /// The pod's port.
    pub port: u16,
    /// Takes new connections.
    pub ready: bool,
    /// Takes connections although it is about to go.
    pub serving_terminating: bool,
    /// On our node.
    pub local: bool,
    /// On another node. Whoever makes slices by hand may say of an endpoint neither this nor that.
    pub elsewhere: bool,
    /// Zones it is meant for.
    pub zones: Vec<String>,
    /// Nodes it is meant for.
    pub nodes: Vec<String>,
}

impl Endpoint {
    /// `IP:PORT`.
    pub fn target(&self) -> String {
        format!("{}:{}", self.ip, self.port)
    }
}

/// The endpoints of one port of a service, each address once, ordered by address.
pub fn endpoints<'a>(
    port: &ServicePort,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    node: &NodeInfo,
) -> Vec<Endpoint> {
    let mut found: BTreeMap<(Ipv4Addr, u16), Endpoint> = BTreeMap::new();
    for slice in slices.into_iter().filter(|slice| slice_service(slice).is_some()) {
        let matching = slice.ports.iter().flatten().find(|p| {
            p.name.as_deref().unwrap_or_default() == port.name
                && p.protocol.as_deref().unwrap_or("TCP").parse() == Ok(port.protocol)
        });
        let Some(number) = matching.and_then(|p| u16::try_from(p.port?).ok()) else { continue };
        for endpoint in &slice.endpoints {
            let Some(ip) = endpoint.addresses.first().and_then(|ip| ipv4(ip.as_str())) else { continue };
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            let ready = conditions.ready.unwrap_or(true);
            let hints = endpoint.hints.as_ref();
            let read = Endpoint {
                ip,
                port: number,
                ready,
                serving_terminating: conditions.serving.unwrap_or(ready) && conditions.terminating.unwrap_or(false),
                local: endpoint.node_name.as_deref() == Some(node.name.as_str()),
                elsewhere: endpoint.node_name.as_deref().is_some_and(|name| name != node.name),
                zones: hints.iter().flat_map(|h| h.for_zones.iter().flatten()).map(|z| z.name.clone()).collect(),
                nodes: hints.iter().flat_map(|h| h.for_nodes.iter().flatten()).map(|n| n.name.clone()).collect(),
            };
            // While an endpoint moves between slices it may be in two: the ready one counts.
            let known = found.entry((ip, number)).or_insert_with(|| read.clone());
            if read.ready && !known.ready {
                *known = read;
            }
        }
    }
    found.into_values().collect()
}

/// Which endpoints each traffic policy may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usable<'a> {
    /// For policy Cluster.
    pub cluster: Vec<&'a Endpoint>,
    /// For policy Local.
    pub local: Vec<&'a Endpoint>,
    /// Both lists together, each endpoint once.
    pub all: Vec<&'a Endpoint>,
    /// Whether there is one anywhere, reachable from here or not.
    pub any: bool,
}

/// Upstream's rules: ready endpoints, narrowed by topology hints if those can be honoured, else those that still serve while
/// they terminate; the same again for the node's own.
pub fn usable<'a>(port: &ServicePort, endpoints: &'a [Endpoint], node: &NodeInfo) -> Usable<'a> {
    let pick = |test: &dyn Fn(&Endpoint) -> bool| endpoints.iter().filter(|e| test(e)).collect::<Vec<_>>();
    let ready_or_serving = |local: bool| {
        let ready = pick(&|e| e.ready && (e.local || !local));
        if ready.is_empty() { pick(&|e| e.serving_terminating && (e.local || !local)) } else { ready }
    };
    let mut found = Usable { any: endpoints.iter().any(|e| e.ready || e.serving_terminating), ..Usable::default() };
    if port.uses_cluster() {
        found.cluster = match hinted(endpoints, node) {
            Some(hinted) => hinted,
            None => ready_or_serving(false),
        };
    }
    if port.uses_local() {
        found.local = ready_or_serving(true);
    }
    let extra = found.local.iter().filter(|e| !found.cluster.contains(e));
    found.all = found.cluster.iter().chain(extra).copied().collect();
    found
}

/// The ready endpoints that are meant for our node, else for our zone: only if every ready endpoint says whom it is for.
fn hinted<'a>(endpoints: &'a [Endpoint], node: &NodeInfo) -> Option<Vec<&'a Endpoint>> {
    let ready: Vec<&Endpoint> = endpoints.iter().filter(|e| e.ready).collect();
    let narrowed = |hints: &dyn Fn(&Endpoint) -> &Vec<String>, wanted: &String| {
        let all_say = ready.iter().all(|e| !hints(e).is_empty());
        let ours: Vec<&Endpoint> = ready.iter().copied().filter(|e| hints(e).contains(wanted)).collect();
        (all_say && !ours.is_empty()).then_some(ours)
    };
    narrowed(&|e| &e.nodes, &node.name).or_else(|| narrowed(&|e| &e.zones, node.zone.as_ref()?))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node() -> NodeInfo {
        NodeInfo { name: "here".into(), zone: Some("z1".into()), address: None }
    }

    fn slice(endpoints: &Value) -> EndpointSlice {
        serde_json::from_value(json!({
            "metadata": {"namespace": "d", "name": "web-x", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": endpoints,
        }))
        .unwrap()
    }

    fn port(changes: &Value) -> ServicePort {
        let mut spec = json!({"clusterIP": "10.43.0.7", "ports": [{"name": "http", "port": 80, "nodePort": 30080}]});
        spec.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let service = json!({"metadata": {"namespace": "d", "name": "web"}, "spec": spec});
        service_ports(&serde_json::from_value(service).unwrap()).remove(0)
    }

    #[test]
    fn leading_zeros_of_addresses_mean_nothing() {
        let written = port(&json!({"clusterIP": "10.43.0.011", "externalIPs": ["192.0.2.1", "x", "1.2.3", "+1.2.3.4"]}));
        let want = (Ipv4Addr::new(10, 43, 0, 11), vec![Ipv4Addr::new(192, 0, 2, 1)]);
        assert_eq!((written.cluster_ip, written.external_ips), want);
    }

    fn ips(list: &[&Endpoint]) -> Vec<u8> {
        list.iter().map(|e| e.ip.octets()[3]).collect()
    }

    #[test]
    fn services_without_an_address_have_no_ports() {
        let ports = |spec: Value| service_ports(&serde_json::from_value(json!({"spec": spec})).unwrap()).len();
        let counts = [
            ports(json!({"clusterIP": "None", "ports": [{"port": 80}]})),
            ports(json!({"type": "ExternalName", "externalName": "x"})),
            ports(json!({"clusterIP": "fd00::1", "ports": [{"port": 80}]})),
            ports(json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1", "10.43.0.2"], "ports": [{"port": 80}]})),
            ports(json!({"clusterIP": "10.43.0.2", "ports": [{"port": 80}, {"port": 53, "protocol": "UDP"}]})),
        ];
        assert_eq!(counts, [0, 0, 0, 1, 2]);
    }

    #[test]
    fn labels_say_whose_a_service_is() {
        let ports = |label: &str| {
            let spec = json!({"clusterIP": "10.43.0.2", "ports": [{"port": 80}]});
            service_ports(&serde_json::from_value(json!({"metadata": {"labels": {label: ""}}, "spec": spec})).unwrap()).len()
        };
        assert_eq!([OTHER_PROXY, HEADLESS, "app"].map(ports), [0, 0, 1]);
    }

    #[test]
    fn terminating_endpoints_serve_only_as_a_last_resort() {
        let going = json!({"ready": false, "serving": true, "terminating": true});
        let gone = json!({"ready": false, "serving": false, "terminating": true});
        let slices = |first: Value| {
            slice(&json!([
                {"addresses": ["10.42.0.2"], "conditions": first},
                {"addresses": ["10.42.0.3"], "conditions": going, "nodeName": "here"},
                {"addresses": ["10.42.0.4"], "conditions": gone, "nodeName": "here"},
            ]))
        };
        let port = port(&json!({"externalTrafficPolicy": "Local"}));
        let outcome = |first: Value| {
            let endpoints = endpoints(&port, [&slices(first)], &node());
            let found = usable(&port, &endpoints, &node());
            (ips(&found.cluster), ips(&found.local), ips(&found.all), found.any)
        };
        assert_eq!(outcome(json!({"ready": true})), (vec![2], vec![3], vec![2, 3], true));
        assert_eq!(outcome(gone.clone()), (vec![3], vec![3], vec![3], true));
    }

    #[test]
    fn hints_count_if_all_give_them() {
        let hinted = json!([
            {"addresses": ["10.42.0.2"], "hints": {"forZones": [{"name": "z1"}]}},
            {"addresses": ["10.42.0.3"], "hints": {"forZones": [{"name": "z2"}]}},
        ]);
        let mut partly = hinted.clone();
        partly[1].as_object_mut().unwrap().remove("hints");
        let port = port(&json!({}));
        let outcome = |list: &Value| {
            let endpoints = endpoints(&port, [&slice(list)], &node());
            ips(&usable(&port, &endpoints, &node()).cluster)
        };
        assert_eq!((outcome(&hinted), outcome(&partly)), (vec![2], vec![2, 3]));
    }
}
