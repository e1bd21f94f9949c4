//! core/v1 Endpoints: deprecated upstream in favour of EndpointSlice, still served and kept.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints};
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
    kind::{KindInfo, Resource},
    names,
};

/// The type of this kind.
pub type Served = Endpoints;

impl Resource for Endpoints {
    const INFO: KindInfo = KindInfo {
        kind: "Endpoints",
        plural: "endpoints",
        singular: "endpoints",
        short_names: &["ep"],
        storage_prefix: Some("services/endpoints"),
        columns: &[NAME, column("Endpoints", "string", "Addresses and ports that are ready."), AGE],
        create_on_update: true,
        deprecation: Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
        ..KindInfo::BASE
    };

    metadata_accessors!();

    fn set_defaults(&mut self) {
        for port in self.subsets.iter_mut().flatten().flat_map(|subset| subset.ports.iter_mut().flatten()) {
            default_to(&mut port.protocol, "TCP");
            if port.name.as_deref() == Some("") {
                port.name = None;
            }
        }
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let path = Path::root("subsets");
        for (i, subset) in self.subsets.iter().flatten().enumerate() {
            check_subset(subset, &path.index(i), errors);
        }
    }

    fn warnings(&self, _old: Option<&Self>) -> Vec<String> {
        let (mut out, root) = (Vec::new(), Path::root("subsets"));
        for (i, subset) in self.subsets.iter().flatten().enumerate() {
            let path = root.index(i);
            for (field, list) in [("addresses", &subset.addresses), ("notReadyAddresses", &subset.not_ready_addresses)] {
                let path = path.child(field);
                let addresses = list.iter().flatten().enumerate();
                out.extend(addresses.filter_map(|(j, address)| ip_warnings(&path.index(j).child("ip"), &address.ip)));
            }
        }
        out
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        vec![cells::name(&self.metadata), addresses(self).into(), cells::age(&self.metadata, now)]
    }
}

fn addresses(endpoints: &Endpoints) -> String {
    let subsets = endpoints.subsets.as_deref().unwrap_or_default();
    if subsets.is_empty() {
        return "<none>".to_owned();
    }
    let mut list = Vec::new();
    for subset in subsets {
        let ready: &[EndpointAddress] = subset.addresses.as_deref().unwrap_or_default();
        match subset.ports.as_deref().unwrap_or_default() {
            [] => list.extend(ready.iter().map(|address| address.ip.clone())),
            ports => {
                for port in ports {
                    list.extend(ready.iter().map(|address| cells::host_port(&address.ip, port.port)));
                }
            }
        }
    }
    // Subsets without a ready address leave the cell empty.
    if list.is_empty() { String::new() } else { cells::with_more(&list) }
}

fn check_subset(subset: &EndpointSubset, path: &Path, errors: &mut FieldErrors) {
    let ready = subset.addresses.as_deref().unwrap_or_default();
    let not_ready = subset.not_ready_addresses.as_deref().unwrap_or_default();
    if ready.is_empty() && not_ready.is_empty() {
        errors.required(path, "must specify `addresses` or `notReadyAddresses`");
    }
    for (field, list) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
        let path = path.child(field);
        for (i, address) in list.iter().enumerate() {
            check_address(address, &path.index(i), errors);
        }
    }
    let ports = subset.ports.as_deref().unwrap_or_default();
    let ports_path = path.child("ports");
    for (i, port) in ports.iter().enumerate() {
        let path = ports_path.index(i);
        match text(port.name.as_ref()) {
            "" if ports.len() > 1 => errors.required(path.child("name"), ""),
            "" => {}
            name => errors.each(&path.child("name"), name, names::dns1123_label(name)),
        }
        errors.each(&path.child("port"), &port.port, names::port_number(port.port.into()));
        errors.required_one_of(&path.child("protocol"), port.protocol.as_deref(), PROTOCOLS);
        if let Some(protocol) = &port.app_protocol {
            errors.each(&path.child("appProtocol"), protocol, names::qualified_name(protocol));
        }
    }
}

fn check_address(address: &EndpointAddress, path: &Path, errors: &mut FieldErrors) {
    errors.each(&path.child("ip"), &address.ip, names::ip(&address.ip));
    if let Some(name) = &address.hostname {
        errors.each(&path.child("hostname"), name, names::dns1123_label(name));
    }
    if let Some(name) = &address.node_name {
        errors.each(&path.child("nodeName"), name, names::dns1123_subdomain(name));
    }
    non_special_ip(&address.ip, &path.child("ip"), errors);
}
