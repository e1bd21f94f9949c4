//! discovery.k8s.io/v1 EndpointSlice.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use serde_json::Value;

use super::shared::{
    cells,
    columns::{AGE, NAME, column},
    default_to, metadata_accessors,
    network::{PROTOCOLS, ip_warnings, non_special_ip},
    text,
};
use crate::{
    field::FieldErrors,
    field_path::Path,
    kind::{Context, KindInfo, MetadataRules, Resource, Subresource},
    meta, names,
};

/// The type of this kind.
pub type Served = EndpointSlice;

impl Resource for EndpointSlice {
    const INFO: KindInfo = KindInfo {
        group: "discovery.k8s.io",
        kind: "EndpointSlice",
        plural: "endpointslices",
        singular: "endpointslice",
        columns: &[
            NAME,
            column("AddressType", "string", "IPv4, IPv6 or FQDN."),
            column("Ports", "string", "Ports of every endpoint."),
            column("Endpoints", "string", "Addresses of the endpoints."),
            AGE,
        ],
        has_generation: true,
        metadata_rules: MetadataRules { against_old: 0, ..MetadataRules::USUAL },
        ..KindInfo::BASE
    };

    metadata_accessors!();

    fn set_defaults(&mut self) {
        for port in self.ports.iter_mut().flatten() {
            default_to(&mut port.name, "");
            default_to(&mut port.protocol, "TCP");
        }
        for endpoint in &mut self.endpoints {
            endpoint.conditions.get_or_insert_default();
        }
    }

    fn prepare_for_create(&mut self, _ctx: &Context) {
        self.endpoints.iter_mut().for_each(|endpoint| endpoint.deprecated_topology = None);
    }

    fn prepare_for_update(&mut self, old: &Self, _at: Option<Subresource>, _ctx: &Context) {
        if self.endpoints != old.endpoints {
            self.endpoints.iter_mut().for_each(|endpoint| endpoint.deprecated_topology = None);
        }
    }

    fn generation_moves(&self, old: &Self) -> bool {
        let content = |slice: &Self| (slice.endpoints.clone(), slice.ports.clone(), slice.metadata.labels.clone());
        self.address_type != old.address_type || content(self) != content(old)
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let kinds = ["FQDN", "IPv4", "IPv6"];
        errors.required_one_of(&Path::root("addressType"), Some(&self.address_type), &kinds);
        check_endpoints(&self.endpoints, &self.address_type, &Path::root("endpoints"), errors);
        check_ports(self.ports.as_deref().unwrap_or_default(), &Path::root("ports"), errors);
    }

    fn validate_update(&self, old: &Self, _at: Option<Subresource>, errors: &mut FieldErrors) {
        self.validate(errors);
        errors.immutable(&Path::root("addressType"), &self.address_type, &old.address_type);
    }

    fn warnings(&self, _old: Option<&Self>) -> Vec<String> {
        if self.address_type == "FQDN" {
            return vec!["spec.addressType: FQDN endpoints are deprecated".to_owned()];
        }
        let path = Path::root("endpoints");
        let of = |(i, endpoint): (usize, &Endpoint)| {
            let path = path.index(i);
            let path = path.child("addresses");
            let warnings = endpoint.addresses.iter().enumerate().filter_map(|(j, ip)| ip_warnings(&path.index(j), ip));
            warnings.collect::<Vec<_>>()
        };
        self.endpoints.iter().enumerate().flat_map(of).collect()
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let ports: Vec<String> = self
            .ports
            .iter()
            .flatten()
            .map(|port| match (port.port, &port.name) {
                (Some(number), _) => number.to_string(),
                (None, Some(name)) => name.clone(),
                (None, None) => "*".to_owned(),
            })
            .collect();
        let addresses: Vec<String> = self.endpoints.iter().flat_map(|endpoint| endpoint.addresses.iter().cloned()).collect();
        vec![
            cells::name(&self.metadata),
            self.address_type.as_str().into(),
            cells::with_more(&ports).into(),
            cells::with_more(&addresses).into(),
            cells::age(&self.metadata, now),
        ]
    }
}

fn check_endpoints(endpoints: &[Endpoint], kind: &str, path: &Path, errors: &mut FieldErrors) {
    if endpoints.len() > 1000 {
        return errors.too_many(path, endpoints.len(), 1000);
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        let path = path.index(i);
        let addresses = path.child("addresses");
        match endpoint.addresses.len() {
            0 => errors.required(addresses, "must contain at least 1 address"),
            count if count > 100 => errors.too_many(addresses, count, 100),
            _ => {}
        }
        for (j, address) in endpoint.addresses.iter().enumerate() {
            check_address(address, kind, &addresses.index(j), errors);
        }
        if let Some(name) = &endpoint.node_name {
            errors.each(&path.child("nodeName"), name, names::dns1123_subdomain(name));
        }
        if let Some(labels) = &endpoint.deprecated_topology {
            let path = path.child("deprecatedTopology");
            if labels.len() > 16 {
                errors.too_many(path, labels.len(), 16);
            }
            meta::validate_labels(Some(labels), &path.to_string(), errors);
        }
        if let Some(name) = &endpoint.hostname {
            errors.each(&path.child("hostname"), name, names::dns1123_label(name));
        }
        if let Some(hints) = &endpoint.hints {
            let path = path.child("hints");
            let zones: Vec<&str> = hints.for_zones.iter().flatten().map(|zone| zone.name.as_str()).collect();
            check_hints(&zones, names::label_value, &path.child("forZones"), errors);
            let nodes: Vec<&str> = hints.for_nodes.iter().flatten().map(|node| node.name.as_str()).collect();
            check_hints(&nodes, names::dns1123_subdomain, &path.child("forNodes"), errors);
        }
    }
}

fn check_address(address: &str, kind: &str, path: &Path, errors: &mut FieldErrors) {
    let ip = names::parse_ip(address);
    match kind {
        "IPv4" if !ip.is_some_and(|ip| ip.is_ipv4()) => errors.invalid(path, &address, "must be a valid IPv4 address"),
        "IPv6" if !ip.is_some_and(|ip| ip.is_ipv6()) => errors.invalid(path, &address, "must be a valid IPv6 address"),
        "FQDN" => return check_domain(address, path, errors),
        _ => {}
    }
    if matches!(kind, "IPv4" | "IPv6") {
        non_special_ip(address, path, errors);
    }
}

fn check_domain(name: &str, path: &Path, errors: &mut FieldErrors) {
    if name.is_empty() {
        return errors.required(path, "");
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let messages = names::dns1123_subdomain(name);
    if !messages.is_empty() {
        return errors.invalid(path, &name, messages.join(","));
    }
    if !name.contains('.') {
        return errors.invalid(path, &name, "should be a domain with at least two segments separated by dots");
    }
    for label in name.split('.') {
        let messages = names::dns1123_label(label);
        if !messages.is_empty() {
            errors.invalid(path, &label, messages.join(","));
        }
    }
}

fn check_hints(hints: &[&str], grammar: fn(&str) -> Vec<String>, path: &Path, errors: &mut FieldErrors) {
    if hints.len() > 8 {
        return errors.too_many(path, hints.len(), 8);
    }
    let mut seen = BTreeSet::new();
    for (i, hint) in hints.iter().enumerate() {
        let path = path.index(i);
        let path = path.child("name");
        if !seen.insert(hint) {
            errors.duplicate(path, hint);
        }
        errors.each(&path, hint, grammar(hint));
    }
}

fn check_ports(ports: &[EndpointPort], path: &Path, errors: &mut FieldErrors) {
    if ports.len() > 20_000 {
        return errors.too_many(path, ports.len(), 20_000);
    }
    let mut seen = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        let name = text(port.name.as_ref());
        if !name.is_empty() {
            errors.each(&path.child("name"), name, names::dns1123_label(name));
        }
        if !seen.insert(name) {
            errors.duplicate(path.child("name"), &name);
        }
        let protocol = path.child("protocol");
        match port.protocol.as_deref() {
            None => errors.required(protocol, ""),
            given => errors.one_of(&protocol, given, PROTOCOLS),
        }
        if let Some(protocol) = &port.app_protocol {
            errors.each(&path.child("appProtocol"), protocol, names::qualified_name(protocol));
        }
    }
}
