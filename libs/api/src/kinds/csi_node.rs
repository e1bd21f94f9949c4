//! storage.k8s.io/v1 CSINode: what a kubelet says of the storage drivers on its node. Upstream's kubelet is ready only when it
//! has written one.

use std::collections::HashSet;

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver};
use serde_json::Value;

use super::shared::{
    cells,
    columns::{AGE, NAME, column},
    metadata_accessors,
};
use crate::{
    field::FieldErrors,
    field_path::Path,
    kind::{KindInfo, MetadataRules, Resource, Subresource},
    names, quoted,
};

/// The type of this kind.
pub type Served = CSINode;

const LONGEST_NODE_ID: usize = 256;
const LONGEST_DRIVER: usize = 63;

impl Resource for CSINode {
    const INFO: KindInfo = KindInfo {
        group: "storage.k8s.io",
        kind: "CSINode",
        plural: "csinodes",
        singular: "csinode",
        namespaced: false,
        unconditional_update: false,
        columns: &[NAME, column("Drivers", "integer", "How many CSI drivers are registered on the node."), AGE],
        metadata_rules: MetadataRules { as_new: 2, against_old: 0, ..MetadataRules::USUAL },
        ..KindInfo::BASE
    };

    metadata_accessors!();

    fn validate(&self, errors: &mut FieldErrors) {
        let spec = Path::root("spec");
        let drivers = spec.child("drivers");
        let mut seen = HashSet::new();
        for (index, driver) in self.spec.drivers.iter().enumerate() {
            let path = drivers.index(index);
            driver_rules(driver, &path, errors);
            if !seen.insert(&driver.name) {
                errors.duplicate(path.child("name"), &driver.name);
            }
        }
    }

    fn validate_update(&self, old: &Self, _at: Option<Subresource>, errors: &mut FieldErrors) {
        self.validate(errors);
        // How much a driver can hold may change.
        let fixed = |driver: &CSINodeDriver| CSINodeDriver { allocatable: None, ..driver.clone() };
        for driver in &self.spec.drivers {
            let before = old.spec.drivers.iter().find(|before| before.name == driver.name);
            if before.is_some_and(|before| fixed(before) != fixed(driver)) {
                errors.invalid("CSINodeDriver", &quoted::CSI_NODE_DRIVER.quote(driver), "field is immutable");
            }
        }
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        vec![cells::name(&self.metadata), self.spec.drivers.len().into(), cells::age(&self.metadata, now)]
    }
}

fn driver_rules(driver: &CSINodeDriver, path: &Path<'_>, errors: &mut FieldErrors) {
    let name = path.child("name");
    if driver.name.is_empty() {
        errors.required(name, "");
    }
    if driver.name.len() > LONGEST_DRIVER {
        errors.too_long(name, LONGEST_DRIVER);
    }
    errors.each(&name, &driver.name, names::dns1123_subdomain(&driver.name.to_lowercase()));
    let id = path.child("nodeID");
    if driver.node_id.is_empty() {
        errors.required(id, "");
    }
    if driver.node_id.len() > LONGEST_NODE_ID {
        errors.invalid(id, &driver.node_id, format!("must be {LONGEST_NODE_ID} characters or less"));
    }
    let allocatable = path.child("allocatable");
    errors.non_negative(&allocatable.child("count"), driver.allocatable.as_ref().and_then(|most| most.count));
    let mut seen = HashSet::new();
    for key in driver.topology_keys.iter().flatten() {
        if key.is_empty() {
            errors.required(path, "");
        }
        if !seen.insert(key) {
            errors.duplicate(path, key);
        }
        errors.each(path, key, names::qualified_name(key));
    }
}
