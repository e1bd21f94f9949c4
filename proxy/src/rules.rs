//! What one service asks of the tables: a plain function from its ports and endpoints to chains and rules.
//!
//! Chains carry upstream's names and do what upstream's do. Rules are written exactly as `iptables-save` prints them, so that
//! what is in the kernel can be compared as text.
//!
//! ```text
//! KUBE-SERVICES ──► KUBE-SVC-x (any endpoint): DNAT, or ──► KUBE-SEP-y: DNAT
//!       │      ├──► KUBE-SVL-x (the node's own): the same
//!       │      └──► KUBE-FW-x (who may) ──► KUBE-EXT-x
//!       └─ KUBE-NODEPORTS ──► KUBE-EXT-x (from outside) ──► KUBE-SVC-x or KUBE-SVL-x
//! KUBE-POSTROUTING ──► KUBE-HAIRPIN: pods that reach themselves
//! ```
//!
//! The kernel walks every rule of the table at every change, once for PREROUTING and once for OUTPUT, so rules are what a change
//! costs. Upstream's endpoint has a chain of its own of two rules and one more that leads there; here it is one rule where
//! that does ([`Writer::is_direct`]), and that a pod which reaches itself must be masqueraded is said once per local address
//! instead of once per service.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use net::Cidr;
use sha2::{Digest, Sha256};

use crate::model::{Endpoint, NodeInfo, ServicePort, Usable, usable};

/// Chains that all services share; a service adds rules of its own to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shared {
    /// nat KUBE-SERVICES: by address.
    Services,
    /// nat KUBE-NODEPORTS: by node port.
    NodePorts,
    /// nat KUBE-HAIRPIN: pods that reach themselves.
    Hairpin,
    /// filter KUBE-SERVICES: refused cluster addresses.
    Refused,
    /// filter KUBE-EXTERNAL-SERVICES: refused external addresses.
    RefusedExternal,
    /// filter KUBE-PROXY-FIREWALL: what the source ranges left over.
    Firewall,
    /// filter KUBE-NODEPORTS: health checks let in.
    HealthChecks,
}

impl Shared {
    /// Every shared chain.
    pub const ALL: [Self; 7] = [
        Self::Services,
        Self::NodePorts,
        Self::Hairpin,
        Self::Refused,
        Self::RefusedExternal,
        Self::Firewall,
        Self::HealthChecks,
    ];

    /// Its name.
    pub fn chain(self) -> &'static str {
        match self {
            Self::Services | Self::Refused => "KUBE-SERVICES",
            Self::NodePorts | Self::HealthChecks => "KUBE-NODEPORTS",
            Self::Hairpin => "KUBE-HAIRPIN",
            Self::RefusedExternal => "KUBE-EXTERNAL-SERVICES",
            Self::Firewall => "KUBE-PROXY-FIREWALL",
        }
    }

    /// Whether it is in the nat table (else filter).
    pub fn is_nat(self) -> bool {
        matches!(self, Self::Services | Self::NodePorts | Self::Hairpin)
    }
}

/// One service's part of the tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    /// Rules in shared chains, without `-A CHAIN`.
    pub shared: Vec<(Shared, String)>,
    /// The service's own nat chains with their rules.
    pub chains: BTreeMap<String, Vec<String>>,
    /// Pods that may reach themselves through the service: each has a rule in [`Shared::Hairpin`], however many services lead
    /// to it.
    pub hairpins: BTreeSet<Ipv4Addr>,
    /// UDP ports with the targets they lead to, for the sake of connection tracking.
    pub udp: Vec<UdpPort>,
}

impl Fragment {
    /// The rules in shared chains that another has not.
    pub fn rules_without<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a (Shared, String)> {
        self.shared.iter().filter(|rule| !other.shared.contains(rule))
    }
}

/// How a UDP port is reached, and what it leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpPort {
    /// Every address it is reached at.
    pub addresses: Vec<Ipv4Addr>,
    /// The node port.
    pub node_port: Option<u16>,
    /// The endpoints' addresses.
    pub targets: Vec<Ipv4Addr>,
}

/// What the rules depend on besides services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Where pods are; `None` if unknown (then nothing from outside is masqueraded on its way to cluster addresses).
    pub cluster_cidr: Option<Cidr>,
    /// Masquerade everything.
    pub masquerade_all: bool,
    /// The node.
    pub node: NodeInfo,
}

/// The rules of one service.
pub fn fragment(ports: &[(ServicePort, Vec<Endpoint>)], health_check: Option<u16>, setting: &Setting) -> Fragment {
    let mut fragment = Fragment::default();
    for (port, endpoints) in ports {
        let usable = usable(port, endpoints, &setting.node);
        Writer { port, usable, setting, names: Names::of(port), out: &mut fragment }.write();
    }
    if let (Some(health), Some((port, _))) = (health_check, ports.first()) {
        let comment = comment(&format!("{} health check node port", port.title));
        fragment.shared.push((Shared::HealthChecks, format!("-p tcp {comment} -m tcp --dport {health} -j ACCEPT")));
    }
    fragment
}

struct Writer<'a> {
    port: &'a ServicePort,
    usable: Usable<'a>,
    setting: &'a Setting,
    names: Names,
    out: &'a mut Fragment,
}

impl Writer<'_> {
    fn write(mut self) {
        self.capture_cluster_ip();
        self.capture_external();
        let (port, names) = (self.port, self.names.clone());
        let firewalled = self.is_firewalled();
        if self.has_internal() {
            let internal = if port.internal_local { &names.local } else { &names.cluster };
            self.masquerade_to_cluster_ip(internal);
        }
        if port.is_external() && self.usable.any {
            self.external_chain();
        }
        if firewalled {
            self.firewall_chain();
        }
        let (cluster, local) = (std::mem::take(&mut self.usable.cluster), std::mem::take(&mut self.usable.local));
        if !cluster.is_empty() && port.uses_cluster() {
            self.balance(&names.cluster, &cluster);
        }
        if !local.is_empty() && port.uses_local() {
            self.balance(&names.local, &local);
        }
        let all = std::mem::take(&mut self.usable.all);
        if self.is_direct() {
            let pods = all.iter().filter(|endpoint| self.needs_hairpin(endpoint)).map(|endpoint| endpoint.ip);
            let pods: Vec<Ipv4Addr> = pods.collect();
            self.out.hairpins.extend(pods);
        } else {
            all.iter().for_each(|endpoint| self.endpoint_chain(endpoint));
        }
        if port.protocol == net::Protocol::Udp {
            let addresses = [port.cluster_ip].into_iter().chain(port.external_ips.clone()).chain(port.balancer_ips.clone());
            let targets = cluster.iter().chain(&local).map(|e| e.ip).collect();
            self.out.udp.push(UdpPort { addresses: addresses.collect(), node_port: port.node_port, targets });
        }
    }

    /// Whether endpoints need no chains of their own. They do to remember clients. And so they do with a Local external policy:
    /// another node's pod keeps its address on its way to a node port here, and may be sent back to itself.
    fn is_direct(&self) -> bool {
        self.port.affinity.is_none() && !self.port.external_local
    }

    /// Whether what an endpoint without a chain of its own sends to itself is not masqueraded anyway, as from outside the pod range
    /// or on its way past another node.
    fn needs_hairpin(&self, endpoint: &Endpoint) -> bool {
        !endpoint.elsewhere && self.setting.cluster_cidr.is_none_or(|pods| pods.contains(endpoint.ip))
    }

    fn has_internal(&self) -> bool {
        self.usable.any && (!self.port.internal_local || !self.usable.local.is_empty())
    }

    fn has_external(&self) -> bool {
        self.usable.any && (!self.port.external_local || !self.usable.local.is_empty())
    }

    fn is_firewalled(&self) -> bool {
        self.usable.any && !self.port.balancer_ips.is_empty() && self.port.source_ranges.is_some()
    }

    /// `REJECT` where there is no endpoint at all, `DROP` where only this node has none.
    fn refusal(&self) -> (String, &'static str) {
        match self.usable.any {
            false => (comment(&format!("{} has no endpoints", self.port.title)), REJECT),
            true => (comment(&format!("{} has no local endpoints", self.port.title)), "-j DROP"),
        }
    }

    fn capture_cluster_ip(&mut self) {
        let (port, protocol) = (self.port, self.port.protocol);
        let to = format!("-d {}/32 -p {protocol}", port.cluster_ip);
        if self.has_internal() {
            let chain = if port.internal_local { &self.names.local } else { &self.names.cluster };
            let comment = comment(&format!("{} cluster IP", port.title));
            let rule = format!("{to} {comment} -m {protocol} --dport {} -j {chain}", port.port);
            self.out.shared.push((Shared::Services, rule));
        } else {
            let (comment, target) = self.refusal();
            let rule = format!("{to} {comment} -m {protocol} --dport {} {target}", port.port);
            self.out.shared.push((Shared::Refused, rule));
        }
    }

    fn capture_external(&mut self) {
        let (port, protocol, names) = (self.port, self.port.protocol, self.names.clone());
        let (any, has_external, firewalled) = (self.usable.any, self.has_external(), self.is_firewalled());
        let (refused, target) = self.refusal();
        let balancer_chain = if firewalled { &names.firewall } else { &names.external };
        let captured = port
            .external_ips
            .iter()
            .map(|ip| (ip, "external IP", &names.external))
            .chain(port.balancer_ips.iter().map(|ip| (ip, "loadbalancer IP", balancer_chain)));
        for (ip, what, chain) in captured {
            let to = format!("-d {ip}/32 -p {protocol}");
            let at = format!("-m {protocol} --dport {}", port.port);
            if any {
                let comment = comment(&format!("{} {what}", port.title));
                self.out.shared.push((Shared::Services, format!("{to} {comment} {at} -j {chain}")));
            }
            if what == "loadbalancer IP" && firewalled {
                let comment = comment(&format!("{} traffic not accepted by {}", port.title, names.firewall));
                self.out.shared.push((Shared::Firewall, format!("{to} {comment} {at} -j DROP")));
            }
            if !has_external {
                self.out.shared.push((Shared::RefusedExternal, format!("{to} {refused} {at} {target}")));
            }
        }
        let Some(node_port) = port.node_port else { return };
        let at = format!("-m {protocol} --dport {node_port}");
        if any {
            let rule = format!("-p {protocol} {} {at} -j {}", comment(&port.title), names.external);
            self.out.shared.push((Shared::NodePorts, rule));
        }
        if !has_external {
            let rule = format!("-p {protocol} {refused} -m addrtype --dst-type LOCAL {at} {target}");
            self.out.shared.push((Shared::RefusedExternal, rule));
        }
    }

    /// Who reaches a cluster address from outside the pod range may be answered by another node: it goes by our address.
    fn masquerade_to_cluster_ip(&mut self, chain: &str) {
        let (port, protocol) = (self.port, self.port.protocol);
        let rule = match (self.setting.masquerade_all, self.setting.cluster_cidr) {
            (false, None) => return,
            // Whatever else comes here is from a pod or marked already.
            (false, Some(pods)) if *chain == self.names.cluster => format!("! -s {pods} -j KUBE-MARK-MASQ"),
            (all, pods) => {
                let from = pods.filter(|_| !all).map(|pods| format!("! -s {pods} ")).unwrap_or_default();
                let about = comment(&format!("{} cluster IP", port.title));
                let to = format!("-d {}/32 -p {protocol} {about} -m {protocol} --dport {}", port.cluster_ip, port.port);
                format!("{from}{to} -j KUBE-MARK-MASQ")
            }
        };
        self.chain(chain).push(rule);
    }

    fn external_chain(&mut self) {
        let (port, names) = (self.port, self.names.clone());
        let has_external = self.has_external();
        let pods = self.setting.cluster_cidr;
        let about = |what: &str| comment(&format!("{what} for {} external destinations", port.title));
        let chain = self.chain(&names.external);
        if port.external_local {
            if let Some(pods) = pods {
                chain.push(format!("-s {pods} {} -j {}", about("pod traffic"), names.cluster));
            }
            let local = "-m addrtype --src-type LOCAL";
            chain.push(format!("{} {local} -j KUBE-MARK-MASQ", about("masquerade LOCAL traffic")));
            chain.push(format!("{} {local} -j {}", about("route LOCAL traffic"), names.cluster));
        } else {
            chain.push(format!("{} -j KUBE-MARK-MASQ", about("masquerade traffic")));
        }
        if has_external {
            chain.push(format!("-j {}", if port.external_local { &names.local } else { &names.cluster }));
        }
    }

    fn firewall_chain(&mut self) {
        let (port, names) = (self.port, self.names.clone());
        let node = self.setting.node.address;
        let title = comment(&format!("{} loadbalancer IP", port.title));
        let ranges = || port.source_ranges.iter().flatten();
        let allows_node = node.is_some_and(|node| ranges().any(|range| range.contains(node)));
        let chain = self.chain(&names.firewall);
        let from_ranges = ranges().map(|range| match range.prefix() {
            0 => String::new(),
            _ => format!("-s {range} "),
        });
        // A node's own packets to the balancer's address come from that address where the node has it.
        let own = port.balancer_ips.iter().filter(|_| allows_node).map(|ip| format!("-s {ip}/32 "));
        chain.extend(from_ranges.chain(own).map(|from| format!("{from}{title} -j {}", names.external)));
        chain.push(comment(&format!("other traffic to {} will be dropped by KUBE-PROXY-FIREWALL", port.title)));
    }

    fn balance(&mut self, chain: &str, endpoints: &[&Endpoint]) {
        let (port, direct) = (self.port, self.is_direct());
        let rules: Vec<String> = affinity_rules(port, endpoints).chain(spread_rules(port, endpoints, direct)).collect();
        self.chain(chain).extend(rules);
    }

    fn endpoint_chain(&mut self, endpoint: &Endpoint) {
        let (port, protocol) = (self.port, self.port.protocol);
        let name = sep_name(port, endpoint);
        let title = comment(&port.title);
        let remember = match port.affinity {
            Some(_) => format!("-m recent --set --name {name} --mask 255.255.255.255 --rsource "),
            None => String::new(),
        };
        *self.chain(&name) = vec![
            // A pod that reaches itself must be answered by way of the node.
            format!("-s {}/32 {title} -j KUBE-MARK-MASQ", endpoint.ip),
            format!("-p {protocol} {title} {remember}-m {protocol} -j DNAT --to-destination {}", endpoint.target()),
        ];
    }

    fn chain(&mut self, name: &str) -> &mut Vec<String> {
        self.out.chains.entry(name.to_owned()).or_default()
    }
}

fn towards(port: &ServicePort, endpoint: &Endpoint) -> String {
    comment(&format!("{} -> {}", port.title, endpoint.target()))
}

/// Whom a client was sent to before, it is sent to again.
fn affinity_rules(port: &ServicePort, endpoints: &[&Endpoint]) -> impl Iterator<Item = String> {
    let seconds = port.affinity;
    endpoints.iter().filter_map(move |endpoint| {
        let chain = sep_name(port, endpoint);
        Some(format!(
            "{} -m recent --rcheck --seconds {} --reap --name {chain} --mask 255.255.255.255 --rsource -j {chain}",
            towards(port, endpoint),
            seconds?
        ))
    })
}

/// Everybody else by chance, with the same probability for each: the first of n takes one in n, and so on.
fn spread_rules(port: &ServicePort, endpoints: &[&Endpoint], direct: bool) -> impl Iterator<Item = String> {
    let count = endpoints.len();
    endpoints.iter().enumerate().map(move |(i, endpoint)| {
        let chance = match count - i {
            1 => String::new(),
            left => format!(" -m statistic --mode random --probability {}", probability(left)),
        };
        let about = towards(port, endpoint);
        match direct {
            true => format!("-p {} {about}{chance} -j DNAT --to-destination {}", port.protocol, endpoint.target()),
            false => format!("{about}{chance} -j {}", sep_name(port, endpoint)),
        }
    })
}

/// One in `n`, as the kernel keeps it (in 2^31sts) and `iptables-save` prints it.
fn probability(n: usize) -> String {
    const WHOLE: f64 = 2_147_483_648.0;
    // iptables reads the digits that upstream writes: ten of them.
    let given: f64 = format!("{:.10}", 1.0 / n as f64).parse().unwrap_or(0.0);
    format!("{:.11}", (given * WHOLE).round() / WHOLE)
}

const REJECT: &str = "-j REJECT --reject-with icmp-port-unreachable";

/// A comment match; `iptables-save` quotes only what needs it.
pub fn comment(text: &str) -> String {
    match text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
        true => format!("-m comment --comment {text}"),
        false => format!("-m comment --comment \"{text}\""),
    }
}

#[derive(Clone, Debug)]
struct Names {
    cluster: String,
    local: String,
    external: String,
    firewall: String,
}

impl Names {
    fn of(port: &ServicePort) -> Self {
        let hash = hash(&format!("{}{}", port.title, port.protocol));
        let name = |kind| format!("KUBE-{kind}-{hash}");
        Self { cluster: name("SVC"), local: name("SVL"), external: name("EXT"), firewall: name("FW") }
    }
}

fn sep_name(port: &ServicePort, endpoint: &Endpoint) -> String {
    format!("KUBE-SEP-{}", hash(&format!("{}{}{}", port.title, port.protocol, endpoint.target())))
}

/// Upstream's: the first 16 characters of the SHA-256 in base 32.
fn hash(text: &str) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let digest = Sha256::digest(text.as_bytes());
    // Ten bytes are 80 bits are sixteen digits of five.
    let bits = digest[..10].iter().fold(0u128, |bits, byte| (bits << 8) | u128::from(*byte));
    (0..16).map(|i| char::from(ALPHABET[(bits >> (75 - 5 * i)) as usize & 31])).collect()
}

#[cfg(test)]
mod tests {
    use net::Protocol;

    use super::*;

    fn port() -> ServicePort {
        ServicePort {
            title: "ns1/svc1:p80".into(),
            name: "p80".into(),
            protocol: Protocol::Tcp,
            cluster_ip: [10, 43, 0, 7].into(),
            port: 80,
            node_port: None,
            external_ips: vec![],
            balancer_ips: vec![],
            source_ranges: None,
            affinity: None,
            external_local: false,
            internal_local: false,
        }
    }

    fn endpoint(last: u8, local: bool) -> Endpoint {
        let ip = [10, 42, 0, last].into();
        Endpoint {
            ip,
            port: 8080,
            ready: true,
            serving_terminating: false,
            local,
            elsewhere: !local,
            zones: vec![],
            nodes: vec![],
        }
    }

    fn setting() -> Setting {
        let node = NodeInfo { name: "here".into(), zone: None, address: Some([10, 41, 0, 11].into()) };
        Setting { cluster_cidr: "10.42.0.0/16".parse().ok(), masquerade_all: false, node }
    }

    /// The tables as text, chain names shortened to their kind.
    fn text(port: &ServicePort, endpoints: Vec<Endpoint>) -> String {
        let fragment = fragment(&[(port.clone(), endpoints)], None, &setting());
        let mut lines: Vec<String> =
            fragment.shared.iter().map(|(shared, rule)| format!("{} {shared:?} {rule}", shared.chain())).collect();
        for (chain, rules) in &fragment.chains {
            lines.extend(rules.iter().map(|rule| format!("{chain} {rule}")));
        }
        lines.extend(fragment.hairpins.iter().map(|address| format!("hairpin {address}")));
        lines.join("\n")
    }

    #[test]
    fn chain_names_are_upstreams() {
        // From upstream's own tests: what it calls ns1/svc1:p80 over TCP.
        assert_eq!(Names::of(&port()).cluster, "KUBE-SVC-XPGD46QRK7WJZT7O");
        let endpoint = Endpoint { ip: [10, 180, 0, 1].into(), port: 80, ..endpoint(1, false) };
        assert_eq!(sep_name(&port(), &endpoint), "KUBE-SEP-SXIVWICOYRO3J4NJ");
    }

    #[test]
    fn chances_are_what_the_kernel_says_back() {
        assert_eq!([2, 3, 7].map(probability), ["0.50000000000", "0.33333333349", "0.14285714272"]);
    }

    #[test]
    fn a_cluster_address_with_two_endpoints() {
        insta::assert_snapshot!(text(&port(), vec![endpoint(2, true), endpoint(3, false)]));
    }

    #[test]
    fn pods_of_this_node_and_of_unknown_ones_may_reach_themselves() {
        let unknown = Endpoint { local: false, elsewhere: false, ..endpoint(4, false) };
        let host = Endpoint { ip: [10, 41, 0, 11].into(), ..endpoint(1, true) };
        let all = vec![endpoint(2, true), endpoint(3, false), unknown, host];
        let hairpins = |cluster_cidr| {
            let setting = Setting { cluster_cidr, ..setting() };
            fragment(&[(port(), all.clone())], None, &setting).hairpins.into_iter().collect::<Vec<_>>()
        };
        let [host, local, unknown] = [[10, 41, 0, 11], [10, 42, 0, 2], [10, 42, 0, 4]].map(Ipv4Addr::from);
        assert_eq!(hairpins(setting().cluster_cidr), [local, unknown]);
        assert_eq!(hairpins(None), [host, local, unknown]);
    }

    #[test]
    fn a_node_port_with_local_policy_affinity_and_no_local_endpoint() {
        let port = ServicePort { node_port: Some(30080), external_local: true, affinity: Some(60), ..port() };
        insta::assert_snapshot!(text(&port, vec![endpoint(3, false)]));
    }

    #[test]
    fn the_nodes_own_endpoints_are_reached_by_callers_whose_address_is_kept() {
        let port = ServicePort { node_port: Some(30080), external_local: true, internal_local: true, ..port() };
        insta::assert_snapshot!(text(&port, vec![endpoint(2, true), endpoint(3, false)]));
    }

    #[test]
    fn a_load_balancer_with_source_ranges() {
        let port = ServicePort {
            balancer_ips: vec![[1, 2, 3, 4].into()],
            external_ips: vec![[5, 6, 7, 8].into()],
            source_ranges: Some(vec!["10.41.0.0/16".parse().unwrap()]),
            ..port()
        };
        insta::assert_snapshot!(text(&port, vec![endpoint(2, true)]));
    }

    #[test]
    fn no_endpoints_are_refused_everywhere() {
        let port = ServicePort { node_port: Some(30080), external_ips: vec![[5, 6, 7, 8].into()], ..port() };
        insta::assert_snapshot!(text(&port, vec![]));
    }
}
