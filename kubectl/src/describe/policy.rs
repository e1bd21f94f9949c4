//! NetworkPolicies.

use serde_json::Value;

use super::{
    json::{Json, shown},
    parts,
    writer::{Writer, escape},
};
use crate::line;

/// The traffic of one direction in words.
struct Direction {
    kind: &'static str,
    traffic: &'static str,
    rules: &'static str,
    peers: &'static str,
    title: &'static str,
    anyone: &'static str,
}

const DIRECTIONS: [Direction; 2] = [
    Direction {
        kind: "Ingress",
        traffic: "ingress",
        rules: "spec.ingress",
        peers: "from",
        title: "From",
        anyone: "(traffic not restricted by source)",
    },
    Direction {
        kind: "Egress",
        traffic: "egress",
        rules: "spec.egress",
        peers: "to",
        title: "To",
        anyone: "(traffic not restricted by destination)",
    },
];

/// A NetworkPolicy.
pub fn describe(w: &mut Writer, policy: &Value) {
    line!(w, 0, "Name:\t{}", policy.text("metadata.name"));
    line!(w, 0, "Namespace:\t{}", policy.text("metadata.namespace"));
    let created = w.go_time(policy.at("metadata.creationTimestamp"));
    line!(w, 0, "Created on:\t{created}");
    parts::metadata_maps(w, policy);
    w.line(0, "Spec:");
    match parts::label_selector(policy.at("spec.podSelector")).as_str() {
        "<none>" => w.line(1, "PodSelector:     <none> (Allowing the specific traffic to all pods in this namespace)"),
        selector => line!(w, 1, "PodSelector:     {selector}"),
    }
    let types = policy.texts("spec.policyTypes");
    for direction in &DIRECTIONS {
        if types.contains(&direction.kind) {
            line!(w, 1, "Allowing {} traffic:", direction.traffic);
            rules(w, policy.items(direction.rules), direction);
        } else {
            line!(w, 1, "Not affecting {} traffic", direction.traffic);
        }
    }
    let types = if types.is_empty() { "<none>".to_owned() } else { types.join(", ") };
    line!(w, 1, "Policy Types: {types}");
}

fn rules(w: &mut Writer, rules: &[Value], direction: &Direction) {
    if rules.is_empty() {
        line!(w, 2, "<none> (Selected pods are isolated for {} connectivity)", direction.traffic);
    }
    for (at, rule) in rules.iter().enumerate() {
        if at > 0 {
            w.line(2, "----------");
        }
        let ports = rule.items("ports");
        if ports.is_empty() {
            w.line(2, "To Port: <any> (traffic allowed to all ports)");
        }
        for port in ports {
            let (first, protocol) = (shown(port.at("port")), port.text_or("protocol", "TCP"));
            match port.at("endPort") {
                Value::Null => line!(w, 2, "To Port: {first}/{protocol}"),
                last => line!(w, 2, "To Port Range: {first}-{last}/{protocol}"),
            }
        }
        let peers = rule.items(direction.peers);
        if peers.is_empty() {
            line!(w, 2, "{}: <any> {}", direction.title, direction.anyone);
        }
        for peer in peers {
            line!(w, 2, "{}:", direction.title);
            self::peer(w, peer);
        }
    }
}

fn peer(w: &mut Writer, peer: &Value) {
    let selectors = [("NamespaceSelector", "namespaceSelector"), ("PodSelector", "podSelector")];
    for (title, field) in selectors.into_iter().filter(|(_, field)| peer.has(field)) {
        line!(w, 3, "{title}: {}", parts::label_selector(peer.at(field)));
    }
    if !peer.has("namespaceSelector") && !peer.has("podSelector") && peer.has("ipBlock") {
        w.line(3, "IPBlock:");
        line!(w, 4, "CIDR: {}", peer.text("ipBlock.cidr"));
        line!(w, 4, "Except: {}", escape(&peer.texts("ipBlock.except").join(", ")));
    }
}
