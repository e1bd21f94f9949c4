//! The decision: from policies, pods and namespaces to chains.
//!
//! ```text
//! FORWARD ─ KNARR-POLICY ─┬─ KNARR-POLICY-E ─ by source ─── KNARR-E-POD ─┐ per rule and port: accepted at once, or
//! INPUT ─── KNARR-POLICY-N┘                                              ├ marked by the pods that are meant,
//!           KNARR-POLICY ─── KNARR-POLICY-I ─ by destination KNARR-I-POD ┘ KNARR-S-PEERS or KNARR-D-PEERS
//! ```
//!
//! A pod's chain ends in DROP; RETURN is what accepts. Packets of connections that were let in once are not looked at again.

use std::collections::{BTreeMap, BTreeSet};

use api::selector::Selector;
use k8s_openapi::{
    api::networking::v1::{IPBlock, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec},
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use net::{Cidr, Protocol};

use super::model::{Pod, View};

/// Chains by name.
pub type Chains = BTreeMap<String, Chain>;

/// A chain's rules, as `iptables-save` prints them after the chain's name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Rules whose order does not matter, because no packet meets two; they come first.
    pub set: BTreeSet<String>,
    /// Rules in order.
    pub then: Vec<String>,
}

/// From FORWARD.
pub const FORWARD: &str = "KNARR-POLICY";
/// From INPUT: what pods send to their own node.
pub const INPUT: &str = "KNARR-POLICY-N";
const EGRESS: &str = "KNARR-POLICY-E";
const INGRESS: &str = "KNARR-POLICY-I";
const ESTABLISHED: &str = "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN";
const UNMARK: &str = "-j MARK --set-xmark 0x0/0x2000";
const MARK: &str = "-j MARK --set-xmark 0x2000/0x2000";
const MARKED: &str = "-m mark --mark 0x2000/0x2000 -j RETURN";

/// Whether a chain is ours.
pub fn is_ours(chain: &str) -> bool {
    ["KNARR-POLICY", "KNARR-I-", "KNARR-E-", "KNARR-S-", "KNARR-D-"].iter().any(|prefix| chain.starts_with(prefix))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    fn name(self) -> &'static str {
        match self {
            Self::Ingress => "Ingress",
            Self::Egress => "Egress",
        }
    }

    /// What a rule says of the pod's own address, and of the other's.
    fn flags(self) -> (&'static str, &'static str) {
        match self {
            Self::Ingress => ("-d", "-s"),
            Self::Egress => ("-s", "-d"),
        }
    }
}

/// A policy's rule, whichever way it is about.
struct Rule<'a> {
    ports: &'a [NetworkPolicyPort],
    peers: &'a [NetworkPolicyPeer],
}

/// Which packets a port of a rule is about.
enum Port {
    /// Rule text, maybe empty.
    Match(String),
    /// What each pod that is meant calls so.
    Named(String, Protocol),
}

struct Decision<'a> {
    view: &'a View,
    by_namespace: BTreeMap<&'a str, Vec<&'a Pod>>,
    chains: Chains,
}

/// All chains of the node; none if there are no policies.
pub fn rules(view: &View) -> Chains {
    if view.policies.is_empty() {
        return Chains::new();
    }
    let mut by_namespace: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
    for pod in &view.pods {
        by_namespace.entry(&pod.namespace).or_default().push(pod);
    }
    let mut decision = Decision { view, by_namespace, chains: Chains::new() };
    let policies: Vec<(&str, &NetworkPolicySpec, Selector)> = view
        .policies
        .iter()
        .filter_map(|policy| {
            let spec = policy.spec.as_ref()?;
            let empty = LabelSelector::default();
            let selector = Selector::from_label_selector(Some(spec.pod_selector.as_ref().unwrap_or(&empty))).ok()?;
            Some((policy.metadata.namespace.as_deref()?, spec, selector))
        })
        .collect();
    let ordered = |rules: &[&str]| Chain { then: rules.iter().map(|&rule| rule.to_owned()).collect(), ..Chain::default() };
    let (egress, ingress) = (format!("-j {EGRESS}"), format!("-j {INGRESS}"));
    decision.chains.insert(FORWARD.to_owned(), ordered(&[ESTABLISHED, &egress, &ingress]));
    decision.chains.insert(INPUT.to_owned(), ordered(&["-i lo -j RETURN", ESTABLISHED, &egress]));
    for (direction, base) in [(Direction::Ingress, INGRESS), (Direction::Egress, EGRESS)] {
        let (this, _) = direction.flags();
        let mut chain = Chain::default();
        for pod in view.pods.iter().filter(|pod| pod.local) {
            let about = |(namespace, spec, selector): &&(&str, &NetworkPolicySpec, Selector)| {
                *namespace == pod.namespace && is_about(spec, direction) && selector.matches(&pod.labels)
            };
            let specs: Vec<&NetworkPolicySpec> = policies.iter().filter(about).map(|(_, spec, _)| *spec).collect();
            chain.set.insert(match specs.is_empty() {
                true => format!("{this} {}/32 -j RETURN", pod.address),
                false => format!("{this} {}/32 -g {}", pod.address, decision.pod_chain(pod, direction, &specs)),
            });
        }
        // Whoever is not known yet waits.
        chain.then.extend(view.own.map(|own| format!("{this} {own} -j DROP")));
        decision.chains.insert(base.to_owned(), chain);
    }
    decision.chains
}

/// `policyTypes`, with upstream's default should the field be empty.
fn is_about(spec: &NetworkPolicySpec, direction: Direction) -> bool {
    match spec.policy_types.as_deref() {
        None | Some([]) => direction == Direction::Ingress || spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()),
        Some(types) => types.iter().any(|name| name == direction.name()),
    }
}

fn rules_of(spec: &NetworkPolicySpec, direction: Direction) -> Vec<Rule<'_>> {
    match direction {
        Direction::Ingress => {
            let rule = |ports, peers| Rule { ports, peers };
            let all = spec.ingress.iter().flatten();
            all.map(|r| rule(r.ports.as_deref().unwrap_or_default(), r.from.as_deref().unwrap_or_default())).collect()
        }
        Direction::Egress => {
            let rule = |ports, peers| Rule { ports, peers };
            let all = spec.egress.iter().flatten();
            all.map(|r| rule(r.ports.as_deref().unwrap_or_default(), r.to.as_deref().unwrap_or_default())).collect()
        }
    }
}

impl<'a> Decision<'a> {
    /// Makes the chain of a pod that these policies are about.
    fn pod_chain(&mut self, pod: &Pod, direction: Direction, specs: &[&NetworkPolicySpec]) -> String {
        let (letter, (_, other)) = (if direction == Direction::Ingress { "I" } else { "E" }, direction.flags());
        let name = format!("KNARR-{letter}-{:016x}", net::hash(&format!("{}/{}", pod.namespace, pod.name)));
        // Nobody can be kept from himself.
        let mut rules = vec![format!("{other} {}/32 -j RETURN", pod.address), UNMARK.to_owned()];
        let mut add = |rule: String| {
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        };
        for rule in specs.iter().flat_map(|spec| rules_of(spec, direction)) {
            for port in ports(rule.ports, pod, direction) {
                match (&port, rule.peers) {
                    (Port::Match(text), []) => add(words(&[text, "-j RETURN"])),
                    (Port::Named(..), []) => {
                        let anybody =
                            NetworkPolicyPeer { namespace_selector: Some(LabelSelector::default()), ..Default::default() };
                        add(format!("-j {}", self.peer_chain(&pod.namespace, &anybody, direction, &port)));
                    }
                    (port, peers) => {
                        for peer in peers {
                            self.peer(&pod.namespace, peer, direction, port).into_iter().for_each(&mut add);
                        }
                    }
                }
            }
        }
        rules.extend([MARKED.to_owned(), "-j DROP".to_owned()]);
        self.chains.insert(name.clone(), Chain { then: rules, ..Chain::default() });
        name
    }

    /// The rule of one peer and one port.
    fn peer(&mut self, namespace: &str, peer: &NetworkPolicyPeer, direction: Direction, port: &Port) -> Option<String> {
        let (_, other) = direction.flags();
        let Some(block) = &peer.ip_block else {
            let chain = self.peer_chain(namespace, peer, direction, port);
            let text = if let Port::Match(text) = port { text } else { "" };
            return Some(words(&[text, &format!("-j {chain}")]));
        };
        // Names are of pods; an address has none.
        let Port::Match(text) = port else { return None };
        let range = address_match(other, &block.cidr)?;
        if block.except.as_ref().is_none_or(Vec::is_empty) {
            return Some(words(&[&range, text, "-j RETURN"]));
        }
        let chain = self.block_chain(block, other, &range);
        Some(words(&[text, &format!("-j {chain}")]))
    }

    /// The chain that marks packets of the pods that a peer means.
    fn peer_chain(&mut self, namespace: &str, peer: &NetworkPolicyPeer, direction: Direction, port: &Port) -> String {
        let (letter, (_, other)) = (if direction == Direction::Ingress { "S" } else { "D" }, direction.flags());
        let named = if let Port::Named(name, protocol) = port { format!("{protocol} {name}") } else { String::new() };
        let home = if peer.namespace_selector.is_none() { namespace } else { "" };
        let said = format!("{home}|{:?}|{:?}|{named}", peer.namespace_selector, peer.pod_selector);
        let name = format!("KNARR-{letter}-{:016x}", net::hash(&said));
        if !self.chains.contains_key(&name) {
            let mut chain = Chain::default();
            for pod in self.meant(namespace, peer) {
                let address = format!("{other} {}/32", pod.address);
                match port {
                    Port::Match(_) => drop(chain.set.insert(format!("{address} {MARK}"))),
                    Port::Named(port, protocol) => {
                        let numbers = pod.ports.iter().filter(|(name, of, _)| name == port && of == protocol);
                        chain.set.extend(
                            numbers.map(|(.., n)| format!("{address} -p {protocol} -m {protocol} --dport {n} {MARK}")),
                        );
                    }
                }
            }
            self.chains.insert(name.clone(), chain);
        }
        name
    }

    fn meant(&self, home: &str, peer: &NetworkPolicyPeer) -> Vec<&'a Pod> {
        let everything = LabelSelector::default();
        let read =
            |selector: Option<&LabelSelector>| Selector::from_label_selector(Some(selector.unwrap_or(&everything))).ok();
        let (Some(pods), Some(namespaces)) = (read(peer.pod_selector.as_ref()), read(peer.namespace_selector.as_ref()))
        else {
            return Vec::new();
        };
        let here = |namespace: &str| match peer.namespace_selector {
            None => namespace == home,
            Some(_) => self.view.namespaces.get(namespace).is_some_and(|labels| namespaces.matches(labels)),
        };
        let inside = self.by_namespace.iter().filter(|(namespace, _)| here(namespace));
        inside.flat_map(|(_, all)| all.iter().copied().filter(|pod| pods.matches(&pod.labels))).collect()
    }

    /// The chain that marks packets of a range with holes.
    fn block_chain(&mut self, block: &IPBlock, other: &str, range: &str) -> String {
        let letter = if other == "-s" { "S" } else { "D" };
        let name = format!("KNARR-{letter}-{:016x}", net::hash(&format!("{block:?}")));
        let holes = block.except.iter().flatten().filter_map(|hole| address_match(other, hole));
        let mut then: Vec<String> = holes.map(|hole| words(&[&hole, "-j RETURN"])).collect();
        then.push(words(&[range, MARK]));
        self.chains.insert(name.clone(), Chain { then, ..Chain::default() });
        name
    }
}

/// The ports of a rule about `pod`; one that matches everything if it names none.
fn ports(ports: &[NetworkPolicyPort], pod: &Pod, direction: Direction) -> Vec<Port> {
    if ports.is_empty() {
        return vec![Port::Match(String::new())];
    }
    let read = |port: &NetworkPolicyPort| -> Vec<Port> {
        let Ok(protocol) = port.protocol.as_deref().unwrap_or("TCP").parse::<Protocol>() else { return Vec::new() };
        let number = |n: &str| Port::Match(format!("-p {protocol} -m {protocol} --dport {n}"));
        match (&port.port, port.end_port) {
            (None, _) => vec![Port::Match(format!("-p {protocol}"))],
            (Some(IntOrString::Int(first)), Some(last)) if last > *first => vec![number(&format!("{first}:{last}"))],
            (Some(IntOrString::Int(n)), _) => vec![number(&n.to_string())],
            (Some(IntOrString::String(name)), _) if direction == Direction::Egress => {
                vec![Port::Named(name.clone(), protocol)]
            }
            (Some(IntOrString::String(name)), _) => {
                let own = pod.ports.iter().filter(|(own, of, _)| own == name && *of == protocol);
                own.map(|(.., n)| number(&n.to_string())).collect()
            }
        }
    };
    ports.iter().flat_map(read).collect()
}

/// How a rule says that an address is in `range`; `None` for ranges that are not IPv4.
fn address_match(flag: &str, range: &str) -> Option<String> {
    let range: Cidr = range.parse().ok()?;
    Some(if range.prefix() == 0 { String::new() } else { format!("{flag} {range}") })
}

fn words(parts: &[&str]) -> String {
    parts.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
