//! core/v1 Endpoints: deprecated upstream in favour of EndpointSlice, still served and kept.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints};
use serde_json::Value;

use super::shared::{
    cells,
    columns::{AGE, NAME, column},
    default_to, metadata_accessors,
};
use crate::kind::{KindInfo, Resource};

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
        ..KindInfo::BASE
    };

    metadata_accessors!();

    fn set_defaults(&mut self) {
        for port in self.subsets.iter_mut().flatten().flat_map(|subset| subset.ports.iter_mut().flatten()) {
            default_to(&mut port.protocol, "TCP");
        }
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        vec![cells::name(&self.metadata), addresses(self).into(), cells::age(&self.metadata, now)]
    }

    fn warnings(&self, _old: Option<&Self>) -> Vec<String> {
        vec!["v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".to_owned()]
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
