//! networking.k8s.io/v1 NetworkPolicy: which traffic the pods it selects may have. Nodes enforce it.

use jiff::Timestamp;
use k8s_openapi::{
    api::networking::v1::{IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec},
    apimachinery::pkg::util::intstr::IntOrString,
};
use serde_json::Value;

use super::shared::{
    cells,
    columns::{AGE, NAME, column},
    default_to, metadata_accessors,
    network::{cidr_warnings, parse_cidr},
    pod_rules,
};
use crate::{
    field::FieldErrors,
    field_path::Path,
    kind::{KindInfo, Resource, Subresource},
    names,
    selector::format_label_selector,
};

/// The type of this kind.
pub type Served = NetworkPolicy;

const INGRESS: &str = "Ingress";
const EGRESS: &str = "Egress";
const NO_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

impl Resource for NetworkPolicy {
    const INFO: KindInfo = KindInfo {
        group: "networking.k8s.io",
        kind: "NetworkPolicy",
        plural: "networkpolicies",
        singular: "networkpolicy",
        short_names: &["netpol"],
        columns: &[NAME, column("Pod-Selector", "string", "Labels of the pods that the policy is about."), AGE],
        has_generation: true,
        ..KindInfo::BASE
    };

    metadata_accessors!();

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        spec.pod_selector.get_or_insert_default();
        if spec.policy_types.as_ref().is_none_or(Vec::is_empty) {
            let egress = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
            let types = if egress { &[INGRESS, EGRESS][..] } else { &[INGRESS] };
            spec.policy_types = Some(types.iter().map(|direction| (*direction).to_owned()).collect());
        }
        let ingress = spec.ingress.iter_mut().flatten().filter_map(|rule| rule.ports.as_mut());
        let egress = spec.egress.iter_mut().flatten().filter_map(|rule| rule.ports.as_mut());
        for port in ingress.chain(egress).flatten() {
            default_to(&mut port.protocol, "TCP");
        }
    }

    fn generation_moves(&self, old: &Self) -> bool {
        self.spec != old.spec
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let Some(spec) = &self.spec else { return };
        let path = Path::root("spec");
        pod_rules::label_selector(spec.pod_selector.as_ref(), &path.child("podSelector"), errors);
        each_rule(spec, |rule, ports, peers, peers_name| {
            for (i, port) in ports.iter().enumerate() {
                check_port(port, &rule.child("ports").index(i), errors);
            }
            for (i, peer) in peers.iter().enumerate() {
                check_peer(peer, &rule.child(peers_name).index(i), errors);
            }
        });
        check_types(spec.policy_types.as_deref().unwrap_or_default(), &path.child("policyTypes"), errors);
    }

    fn validate_update(&self, _old: &Self, _at: Option<Subresource>, errors: &mut FieldErrors) {
        // Twice, as upstream's causes have it.
        self.validate(errors);
        self.validate(errors);
    }

    fn warnings(&self, _old: Option<&Self>) -> Vec<String> {
        let mut warnings = Vec::new();
        let Some(spec) = &self.spec else { return warnings };
        each_rule(spec, |rule, _, peers, peers_name| {
            for (i, peer) in peers.iter().enumerate() {
                let Some(block) = &peer.ip_block else { continue };
                let peers = rule.child(peers_name);
                let peer = peers.index(i);
                let path = peer.child("ipBlock");
                warnings.extend(cidr_warnings(&path.child("cidr"), &block.cidr));
                for (i, except) in block.except.iter().flatten().enumerate() {
                    warnings.extend(cidr_warnings(&path.child("except").index(i), except));
                }
            }
        });
        warnings
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let selector = self.spec.as_ref().and_then(|spec| spec.pod_selector.as_ref());
        let none = Default::default();
        vec![
            cells::name(&self.metadata),
            format_label_selector(Some(selector.unwrap_or(&none))).into(),
            cells::age(&self.metadata, now),
        ]
    }
}

/// Every rule of both directions: its path, its ports, its peers and what the latter's field is called.
fn each_rule(
    spec: &NetworkPolicySpec,
    mut look: impl FnMut(&Path, &[NetworkPolicyPort], &[NetworkPolicyPeer], &'static str),
) {
    let root = Path::root("spec");
    for (i, rule) in spec.ingress.iter().flatten().enumerate() {
        let (ports, from) = (rule.ports.as_deref(), rule.from.as_deref());
        look(&root.child("ingress").index(i), ports.unwrap_or_default(), from.unwrap_or_default(), "from");
    }
    for (i, rule) in spec.egress.iter().flatten().enumerate() {
        let (ports, to) = (rule.ports.as_deref(), rule.to.as_deref());
        look(&root.child("egress").index(i), ports.unwrap_or_default(), to.unwrap_or_default(), "to");
    }
}

fn check_port(port: &NetworkPolicyPort, path: &Path, errors: &mut FieldErrors) {
    errors.one_of(&path.child("protocol"), port.protocol.as_deref(), &["TCP", "UDP", "SCTP"]);
    let (at, end) = (path.child("port"), path.child("endPort"));
    match (&port.port, port.end_port) {
        (Some(IntOrString::Int(number)), last) => {
            errors.each(&at, number, names::port_number((*number).into()));
            if let Some(last) = last {
                if last < *number {
                    errors.invalid(end, number, "must be greater than or equal to `port`");
                }
                errors.each(&end, &last, names::port_number(last.into()));
            }
        }
        (Some(IntOrString::String(name)), last) => {
            if let Some(last) = last {
                errors.invalid(end, &last, "may not be specified when `port` is non-numeric");
            }
            errors.each(&at, name, names::port_name(name));
        }
        (None, Some(last)) => errors.invalid(end, &last, "may not be specified when `port` is not specified"),
        (None, None) => {}
    }
}

fn check_peer(peer: &NetworkPolicyPeer, path: &Path, errors: &mut FieldErrors) {
    pod_rules::label_selector(peer.pod_selector.as_ref(), &path.child("podSelector"), errors);
    pod_rules::label_selector(peer.namespace_selector.as_ref(), &path.child("namespaceSelector"), errors);
    if let Some(block) = &peer.ip_block {
        check_block(block, &path.child("ipBlock"), errors);
    }
    let selects = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
    match (selects, peer.ip_block.is_some()) {
        (false, false) => errors.required(path, "must specify a peer"),
        (true, true) => errors.forbidden(path, "may not specify both ipBlock and another peer"),
        _ => {}
    }
}

fn check_block(block: &IPBlock, path: &Path, errors: &mut FieldErrors) {
    let range = path.child("cidr");
    if block.cidr.is_empty() {
        return errors.required(range, "");
    }
    let Some(outer) = parse_cidr(&block.cidr) else {
        return errors.invalid(range, &block.cidr, NO_CIDR);
    };
    let excepts = path.child("except");
    for (i, except) in block.except.iter().flatten().enumerate() {
        let path = excepts.index(i);
        match parse_cidr(except) {
            None => errors.invalid(path, except, NO_CIDR),
            Some(inner) if outer.contains(&inner) && inner.bits > outer.bits => {}
            Some(_) => errors.invalid(path, except, "must be a strict subset of `cidr`"),
        }
    }
}

fn check_types(types: &[String], path: &Path, errors: &mut FieldErrors) {
    if types.len() > 2 {
        return errors.invalid(path, &types, "may not specify more than two policyTypes");
    }
    for (i, direction) in types.iter().enumerate() {
        errors.one_of(&path.index(i), Some(direction), &[INGRESS, EGRESS]);
    }
}
