//! discovery.k8s.io/v1 EndpointSlice.

use jiff::Timestamp;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::Value;

use super::shared::{
    cells,
    columns::{AGE, NAME, column},
    default_to, metadata_accessors,
};
use crate::kind::{Context, KindInfo, Resource, Subresource};

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

    fn warnings(&self, _old: Option<&Self>) -> Vec<String> {
        if self.address_type == "FQDN" {
            return vec!["spec.addressType: FQDN endpoints are deprecated".to_owned()];
        }
        Vec::new()
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
