//! core/v1 Node.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeSystemInfo, Taint};
use serde_json::Value;

use super::shared::{
    cells,
    columns::{AGE, NAME, column, wide},
    metadata_accessors, network, pod_defaults,
    pod_rules::{resources, taint_effect},
    text,
};
use crate::{
    field::{ErrorKind, FieldErrors},
    field_path::Path,
    kind::{Context, KindInfo, Resource, Subresource},
    names, pluck, quoted,
};

/// The type of this kind.
pub type Served = Node;

impl Resource for Node {
    const INFO: KindInfo = KindInfo {
        kind: "Node",
        plural: "nodes",
        singular: "node",
        short_names: &["no"],
        namespaced: false,
        storage_prefix: Some("minions"),
        subresources: &[Subresource::Proxy, Subresource::Status],
        columns: &[
            NAME,
            column("Status", "string", "Whether the node is ready, and whether pods may be scheduled to it."),
            column("Roles", "string", "Roles from the node's labels."),
            AGE,
            column("Version", "string", "The kubelet's version."),
            wide("Internal-IP", "string", "Address inside the cluster's network."),
            wide("External-IP", "string", "Address reachable from outside."),
            wide("OS-Image", "string", "The operating system as it names itself."),
            wide("Kernel-Version", "string", "The kernel's release."),
            wide("Container-Runtime", "string", "The runtime's name and version."),
        ],
        fields: &["spec.unschedulable"],
        ..KindInfo::BASE
    };

    metadata_accessors!();

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        // One range is the first of the ranges: whoever says only one of the two means both.
        let first = spec.pod_cidrs.as_ref().and_then(|ranges| ranges.first()).cloned();
        match spec.pod_cidr.clone().filter(|range| !range.is_empty()) {
            Some(range) if first.as_ref() != Some(&range) => spec.pod_cidrs = Some(vec![range]),
            Some(_) => {}
            None => spec.pod_cidr = first,
        }
        for taint in spec.taints.iter_mut().flatten() {
            taint.value = taint.value.take().filter(|value| !value.is_empty());
        }
        let status = self.status.get_or_insert_default();
        pod_defaults::round_up_list(&mut status.capacity);
        pod_defaults::round_up_list(&mut status.allocatable);
        if status.allocatable.is_none() {
            status.allocatable.clone_from(&status.capacity);
        }
        status.daemon_endpoints.get_or_insert_default().kubelet_endpoint.get_or_insert_default();
        status.node_info.get_or_insert_default();
    }

    fn prepare_for_create(&mut self, _ctx: &Context) {
        self.spec.get_or_insert_default().config_source = None;
        self.status.get_or_insert_default().config = None;
    }

    fn prepare_for_update(&mut self, old: &Self, at: Option<Subresource>, _ctx: &Context) {
        if at == Some(Subresource::Status) {
            self.spec.clone_from(&old.spec);
            if old.status.as_ref().is_none_or(|status| status.config.is_none()) {
                self.status.get_or_insert_default().config = None;
            }
        } else {
            self.status.clone_from(&old.status);
            if old.spec.as_ref().is_none_or(|spec| spec.config_source.is_none()) {
                self.spec.get_or_insert_default().config_source = None;
            }
        }
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let no_spec = Default::default();
        let spec = self.spec.as_ref().unwrap_or(&no_spec);
        // Upstream's path of taints.
        taints(spec.taints.as_deref().unwrap_or_default(), &Path::root("metadata.taints"), errors);
        amounts(self, errors);
        let path = Path::root("spec.podCIDRs");
        let ranges = spec.pod_cidrs.as_deref().unwrap_or_default();
        for (i, _) in ranges.iter().enumerate().filter(|(_, range)| !network::is_cidr(range)) {
            errors.invalid(path.index(i), &ranges, "must be valid CIDR");
        }
        let six = ranges.iter().filter(|range| range.contains(':')).count();
        if ranges.len() > 2 || (ranges.len() == 2 && six != 1) {
            errors.invalid(path, &ranges, "may specify no more than one CIDR for each IP family");
        }
        if let [first, second] = ranges
            && first == second
        {
            errors.duplicate(path.index(1), second);
        }
    }

    fn validate_update(&self, old: &Self, at: Option<Subresource>, errors: &mut FieldErrors) {
        if at != Some(Subresource::Status) {
            self.validate(errors);
        }
        amounts(self, errors);
        let addresses = self.status.iter().flat_map(|status| status.addresses.iter().flatten());
        let mut seen = BTreeSet::new();
        for (i, address) in addresses.enumerate() {
            if !seen.insert((&address.type_, &address.address)) {
                errors.duplicate(format!("status.addresses[{i}]"), &quoted::NODE_ADDRESS.quote(address));
            }
        }
        let (new, old) = (self.spec.clone().unwrap_or_default(), old.spec.clone().unwrap_or_default());
        if old.pod_cidrs.as_ref().is_some_and(|ranges| !ranges.is_empty()) && old.pod_cidrs != new.pod_cidrs {
            errors.forbidden("spec.podCIDRs", "node updates may not change podCIDR except from \"\" to valid");
        }
        if old.provider_id.is_some() && old.provider_id != new.provider_id {
            errors.forbidden("spec.providerID", "node updates may not change providerID except from \"\" to valid");
        }
        // Of the status too, and twice of the spec: as upstream's causes have it.
        taints(new.taints.as_deref().unwrap_or_default(), &Path::root("metadata.taints"), errors);
        if new.external_id != old.external_id {
            errors.forbidden("spec.externalID", "may not be updated");
        }
    }

    fn warnings(&self, _old: Option<&Self>) -> Vec<String> {
        let no_spec = Default::default();
        let spec = self.spec.as_ref().unwrap_or(&no_spec);
        let source = spec.config_source.as_ref().map(|_| "spec.configSource: the feature is removed");
        let id = spec.external_id.as_ref().map(|_| "spec.externalID: this field is deprecated, and is unused by Kubernetes");
        source.into_iter().chain(id).map(str::to_owned).collect()
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        let unschedulable = self.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
        vec![("spec.unschedulable", unschedulable.to_string())]
    }

    fn fields_of(bytes: &[u8]) -> Vec<(&'static str, String)> {
        let unschedulable = pluck::texts(bytes, Self::INFO.fields).concat() == "true";
        vec![("spec.unschedulable", unschedulable.to_string())]
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let info = self.status.as_ref().and_then(|status| status.node_info.as_ref());
        let known = |field: fn(&NodeSystemInfo) -> &String| {
            info.map(field).filter(|text| !text.is_empty()).map_or("<unknown>", String::as_str).into()
        };
        vec![
            cells::name(&self.metadata),
            state(self).into(),
            roles(self).into(),
            cells::age(&self.metadata, now),
            info.map_or("", |info| info.kubelet_version.as_str()).into(),
            address(self, "InternalIP").into(),
            address(self, "ExternalIP").into(),
            known(|info| &info.os_image),
            known(|info| &info.kernel_version),
            known(|info| &info.container_runtime_version),
        ]
    }
}

fn state(node: &Node) -> String {
    let mut ready = node.status.iter().flat_map(|s| s.conditions.iter().flatten()).filter(|c| c.type_ == "Ready");
    let mut out = match ready.next_back() {
        Some(condition) if condition.status == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        out.push_str(",SchedulingDisabled");
    }
    out
}

fn roles(node: &Node) -> String {
    let roles: BTreeSet<&str> = node
        .metadata
        .labels
        .iter()
        .flatten()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => Some(value.as_str()),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    if roles.is_empty() { "<none>".to_owned() } else { roles.into_iter().collect::<Vec<_>>().join(",") }
}

fn address<'a>(node: &'a Node, kind: &str) -> &'a str {
    let mut addresses = node.status.iter().flat_map(|s| s.addresses.iter().flatten());
    addresses.find(|a| a.type_ == kind).map_or("<none>", |a| &a.address)
}

fn taints(taints: &[Taint], path: &Path, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (i, taint) in taints.iter().enumerate() {
        let path = path.index(i);
        errors.each(&path.child("key"), &taint.key, names::qualified_name(&taint.key));
        let value = text(taint.value.as_ref());
        let messages = names::label_value(value);
        if !messages.is_empty() {
            errors.invalid(path.child("value"), &value, messages.join(";"));
        }
        taint_effect(&taint.effect, &path.child("effect"), errors);
        if !seen.insert((taint.key.as_str(), taint.effect.as_str())) {
            errors.push(
                ErrorKind::Duplicate,
                path,
                &quoted::TAINT.quote(taint),
                "taints must be unique by key and effect pair",
            );
        }
    }
}

fn amounts(node: &Node, errors: &mut FieldErrors) {
    let Some(status) = &node.status else { return };
    for (field, list) in [("status.capacity", &status.capacity), ("status.allocatable", &status.allocatable)] {
        for (name, value) in list.iter().flatten() {
            resources::amount(name, value, &Path::root(field).child(name), errors);
        }
    }
}

/// The `TaintNodesByCondition` admission: nothing is scheduled to a new node before the node controller has seen it ready.
/// Called by the registry on nodes being created, before the kind's hooks.
pub fn taint_until_ready(node: &mut Value) {
    const KEY: &str = "node.kubernetes.io/not-ready";
    let Some(node) = node.as_object_mut() else { return };
    let spec = node.entry("spec").or_insert(Value::Null);
    if spec.is_null() {
        *spec = Value::Object(serde_json::Map::new());
    }
    let Some(spec) = spec.as_object_mut() else { return };
    let taints = spec.entry("taints").or_insert(Value::Null);
    if taints.is_null() {
        *taints = Value::Array(Vec::new());
    }
    let Some(taints) = taints.as_array_mut() else { return };
    if !taints.iter().any(|taint| taint["key"] == KEY && taint["effect"] == "NoSchedule") {
        taints.push(serde_json::json!({"key": KEY, "effect": "NoSchedule"}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn amounts_are_whole_thousandths() {
        let status = json!({"capacity": {"cpu": "1u"}, "allocatable": {"cpu": "1500u"}});
        let mut node: Node = serde_json::from_value(json!({"metadata": {}, "status": status})).unwrap();
        node.set_defaults();
        let status = serde_json::to_value(node.status).unwrap();
        assert_eq!((&status["capacity"], &status["allocatable"]), (&json!({"cpu": "1m"}), &json!({"cpu": "2m"})));
    }

    #[test]
    fn new_nodes_are_tainted_once() {
        let mut node = json!({"metadata": {"name": "a"}, "spec": null});
        taint_until_ready(&mut node);
        taint_until_ready(&mut node);
        assert_eq!(node["spec"], json!({"taints": [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]}));
    }
}
