//! The node's object as it should be: plain functions.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec, NodeStatus,
        NodeSystemInfo, Taint,
    },
    apimachinery::pkg::{
        api::resource::Quantity as ApiQuantity,
        apis::meta::v1::{ObjectMeta, Time},
    },
};

use api::quantity::{Format, Quantity};

use crate::eviction::Pressure;
use crate::pod::{resources::Amounts, status::whole_second};

/// What a status is made from.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The node's name.
    pub name: String,
    /// Its addresses.
    pub ips: Vec<String>,
    /// What it has.
    pub capacity: Amounts,
    /// What pods may use.
    pub allocatable: Amounts,
    /// What it is.
    pub info: NodeSystemInfo,
    /// The kubelet's port.
    pub port: u16,
    /// Images it holds.
    pub images: Vec<ContainerImage>,
    /// Why it is not ready, if it is not.
    pub not_ready: Option<String>,
    /// What is short.
    pub pressures: BTreeSet<Pressure>,
}

/// Upstream lists no more images than this.
pub const IMAGES: usize = 50;

fn quantities(amounts: &Amounts) -> BTreeMap<String, ApiQuantity> {
    let text = |name: &str, value: i64| match name {
        "cpu" => Quantity::from_milli(value, Format::DecimalSi).to_string(),
        "pods" => value.to_string(),
        "memory" | "ephemeral-storage" => format!("{}Ki", value / 1024),
        _ => Quantity::from_units(value, Format::BinarySi).to_string(),
    };
    amounts.iter().map(|(name, value)| (name.clone(), ApiQuantity(text(name, *value)))).collect()
}

/// A node as events refer to it: upstream's kubelet uses the name as UID.
pub fn node_reference(name: &str) -> Node {
    let mut node = Node::default();
    node.metadata.name = Some(name.to_owned());
    node.metadata.uid = Some(name.to_owned());
    node
}

/// The labels that every node carries.
pub fn labels(name: &str, extra: &[(String, String)]) -> BTreeMap<String, String> {
    let arch = process::version::architecture().to_owned();
    let mut labels: BTreeMap<String, String> = [
        ("beta.kubernetes.io/arch", arch.clone()),
        ("beta.kubernetes.io/os", "linux".to_owned()),
        ("kubernetes.io/arch", arch),
        ("kubernetes.io/hostname", name.to_owned()),
        ("kubernetes.io/os", "linux".to_owned()),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v))
    .collect();
    labels.extend(extra.iter().cloned());
    labels
}

/// The object to register.
pub fn new(o: &Observed, extra_labels: &[(String, String)], taints: &[Taint], now: Timestamp) -> Node {
    let annotations = [("volumes.kubernetes.io/controller-managed-attach-detach".to_owned(), "true".to_owned())];
    Node {
        metadata: ObjectMeta {
            name: Some(o.name.clone()),
            labels: Some(labels(&o.name, extra_labels)),
            annotations: Some(annotations.into()),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec { taints: (!taints.is_empty()).then(|| taints.to_vec()), ..NodeSpec::default() }),
        status: Some(status(o, &NodeStatus::default(), now)),
    }
}

/// The status, given the one before.
pub fn status(o: &Observed, old: &NodeStatus, now: Timestamp) -> NodeStatus {
    let address = |address: &String, kind: &str| NodeAddress { address: address.clone(), type_: kind.to_owned() };
    let mut addresses: Vec<NodeAddress> = o.ips.iter().map(|ip| address(ip, "InternalIP")).collect();
    addresses.push(address(&o.name, "Hostname"));
    NodeStatus {
        addresses: Some(addresses),
        allocatable: Some(quantities(&o.allocatable)),
        capacity: Some(quantities(&o.capacity)),
        conditions: Some(conditions(o, old, now)),
        daemon_endpoints: Some(NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(o.port) }) }),
        images: Some(o.images.clone()),
        node_info: Some(o.info.clone()),
        ..old.clone()
    }
}

fn conditions(o: &Observed, old: &NodeStatus, now: Timestamp) -> Vec<NodeCondition> {
    let short = |pressure: Pressure| o.pressures.contains(&pressure);
    let pressure = |on: bool, yes: &'static str, no: &'static str| if on { ("True", yes) } else { ("False", no) };
    let (memory, memory_reason) =
        pressure(short(Pressure::Memory), "KubeletHasInsufficientMemory", "KubeletHasSufficientMemory");
    let (disk, disk_reason) = pressure(short(Pressure::Disk), "KubeletHasDiskPressure", "KubeletHasNoDiskPressure");
    let (pid, pid_reason) = pressure(short(Pressure::Pid), "KubeletHasInsufficientPID", "KubeletHasSufficientPID");
    let ready = match &o.not_ready {
        None => ("True", "KubeletReady", "kubelet is posting ready status".to_owned()),
        Some(why) => ("False", "KubeletNotReady", why.clone()),
    };
    let has = |on: bool, yes: &str, no: &str| if on { yes.to_owned() } else { no.to_owned() };
    let memory_text =
        has(short(Pressure::Memory), "kubelet has insufficient memory available", "kubelet has sufficient memory available");
    let disk_text = has(short(Pressure::Disk), "kubelet has disk pressure", "kubelet has no disk pressure");
    let pid_text =
        has(short(Pressure::Pid), "kubelet has insufficient PID available", "kubelet has sufficient PID available");
    let wanted = [
        ("MemoryPressure", memory, memory_reason, memory_text),
        ("DiskPressure", disk, disk_reason, disk_text),
        ("PIDPressure", pid, pid_reason, pid_text),
        ("Ready", ready.0, ready.1, ready.2),
    ];
    let stamp = Some(Time(whole_second(now)));
    let mut all: Vec<NodeCondition> = wanted
        .into_iter()
        .map(|(kind, status, reason, message)| {
            let before = old.conditions.iter().flatten().find(|c| c.type_ == kind);
            let since = before.filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
            NodeCondition {
                last_heartbeat_time: stamp.clone(),
                last_transition_time: since.or(stamp.clone()),
                message: Some(message),
                reason: Some(reason.to_owned()),
                status: status.to_owned(),
                type_: kind.to_owned(),
            }
        })
        .collect();
    let known: Vec<String> = all.iter().map(|c| c.type_.clone()).collect();
    all.extend(old.conditions.iter().flatten().filter(|c| !known.contains(&c.type_)).cloned());
    all
}

/// Whether anything but heartbeats differs.
pub fn differs(old: &NodeStatus, new: &NodeStatus) -> bool {
    let still = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        status.volumes_attached = None;
        status.volumes_in_use = None;
        status
    };
    still(old) != still(new)
}

/// The strategic-merge patch that writes the new status.
pub fn patch(new: &NodeStatus) -> serde_json::Value {
    let addresses: Vec<serde_json::Value> = std::iter::once(serde_json::json!({"$patch": "replace"}))
        .chain(new.addresses.iter().flatten().filter_map(|a| serde_json::to_value(a).ok()))
        .collect();
    serde_json::json!({"status": {
        "addresses": addresses,
        "allocatable": new.allocatable,
        "capacity": new.capacity,
        "conditions": new.conditions,
        "daemonEndpoints": new.daemon_endpoints,
        "images": new.images,
        "nodeInfo": new.node_info,
    }})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(not_ready: Option<&str>) -> Observed {
        Observed {
            name: "n".into(),
            ips: vec!["192.0.2.1".into()],
            capacity: [("cpu".into(), 2000), ("memory".into(), 1 << 30), ("pods".into(), 110)].into(),
            allocatable: [("cpu".into(), 1900)].into(),
            info: NodeSystemInfo::default(),
            port: 10250,
            images: vec![],
            not_ready: not_ready.map(str::to_owned),
            pressures: BTreeSet::new(),
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn transitions_keep_their_time_and_heartbeats_do_not_count() {
        let first = status(&observed(Some("no network")), &NodeStatus::default(), at(10));
        let same = status(&observed(Some("no network")), &first, at(20));
        assert!(!differs(&first, &same));
        let ready = status(&observed(None), &same, at(30));
        assert!(differs(&same, &ready));
        let times: Vec<_> = ready
            .conditions
            .unwrap()
            .iter()
            .map(|c| format!("{} {} {}", c.type_, c.status, c.last_transition_time.as_ref().unwrap().0.as_second()))
            .collect();
        assert_eq!(times, ["MemoryPressure False 10", "DiskPressure False 10", "PIDPressure False 10", "Ready True 30"]);
    }

    #[test]
    fn amounts_as_upstream_writes_them() {
        let s = status(&observed(None), &NodeStatus::default(), at(1));
        let text: Vec<_> = s.capacity.unwrap().into_iter().map(|(k, v)| format!("{k}={}", v.0)).collect();
        assert_eq!(text, ["cpu=2", "memory=1048576Ki", "pods=110"]);
        assert_eq!(s.allocatable.unwrap()["cpu"].0, "1900m");
    }
}
