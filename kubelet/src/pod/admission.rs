//! Whether this node takes a pod that names it: pods may arrive without a scheduler, and the node may have changed since.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, Toleration};

use super::{
    resources::{self, Amounts, Qos},
    spec,
};
use crate::eviction::{Pressure, is_critical};

/// Why a pod is turned away: reason and message of its Failed phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// `OutOfcpu`, `NodeAffinity`, `NodePorts`, ...
    pub reason: String,
    /// For people.
    pub message: String,
}

fn reject(reason: &str, message: String) -> Option<Rejection> {
    Some(Rejection { reason: reason.to_owned(), message })
}

/// A machine that goes down takes no more pods.
pub fn shutdown(coming: bool) -> Option<Rejection> {
    coming.then(|| reject("NodeShutdown", "Pod was rejected as the node is shutting down.".to_owned())).flatten()
}

/// Checks whether a node that is short of something takes one more pod: none that the cluster can do without, but for one
/// with requests where only memory is short.
pub fn pressure(pod: &Pod, pressures: &BTreeSet<Pressure>) -> Option<Rejection> {
    if pressures.is_empty() || is_critical(pod) {
        return None;
    }
    if pressures.iter().eq([&Pressure::Memory]) {
        let tolerates = |t: &Toleration| {
            let key = t.key.as_deref().is_none_or(|k| k.is_empty() || k == "node.kubernetes.io/memory-pressure");
            key && t.effect.as_deref().is_none_or(|e| e.is_empty() || e == "NoSchedule")
                && t.value.as_deref().unwrap_or_default().is_empty()
        };
        if resources::qos(pod) != Qos::BestEffort || spec::spec(pod).tolerations.iter().flatten().any(tolerates) {
            return None;
        }
    }
    let names: Vec<&str> = pressures.iter().map(|p| p.condition()).collect();
    reject("Evicted", format!("The node had condition: [{}]. ", names.join(" ")))
}

/// Checks `pod` against the node and the pods that already run here.
pub fn check(pod: &Pod, node: &Node, allocatable: &Amounts, others: &[&Pod]) -> Option<Rejection> {
    let os = pod.spec.as_ref().and_then(|s| s.os.as_ref()).map(|o| o.name.as_str());
    if let Some(os) = os.filter(|os| *os != "linux") {
        return reject(
            "PodOSNotSupported",
            format!("Failed to admit pod as the OS field doesn't match node OS: linux, {os}"),
        );
    }
    if !affine(pod, node) {
        let message = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        return reject("NodeAffinity", message.to_owned());
    }
    let ports = |p: &Pod| host_ports(p);
    let taken: Vec<_> = others.iter().flat_map(|p| ports(p)).collect();
    if ports(pod).iter().any(|p| taken.iter().any(|t| conflicts(p, t))) {
        let message = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        return reject("NodePorts", message.to_owned());
    }
    fits(pod, allocatable, others)
}

/// Checks whether what the pod asks for is left beside what `others` have.
pub fn fits(pod: &Pod, allocatable: &Amounts, others: &[&Pod]) -> Option<Rejection> {
    let mut used = Amounts::new();
    for other in others {
        resources::add(&mut used, &resources::pod_requests(other));
    }
    used.insert("pods".to_owned(), i64::try_from(others.len()).unwrap_or(i64::MAX));
    let mut wanted = resources::pod_requests(pod);
    wanted.insert("pods".to_owned(), 1);
    for (name, request) in wanted.iter().filter(|(_, v)| **v > 0) {
        if name.contains('/') && !allocatable.contains_key(name) {
            // An extended resource whose plugin has not announced it (yet) is the scheduler's business.
            continue;
        }
        let capacity = allocatable.get(name).copied().unwrap_or(0);
        let used = used.get(name).copied().unwrap_or(0);
        if request.saturating_add(used) > capacity {
            let message = format!(
                "Node didn't have enough resource: {name}, requested: {request}, used: {used}, capacity: {capacity}"
            );
            return reject(&format!("OutOf{name}"), message);
        }
    }
    None
}

/// Sysctls that a pod may always set: they stay inside its namespaces.
const SAFE_SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// Checks the pod's sysctls against what is safe or allowed by flag.
pub fn sysctls(pod: &Pod, allowed: &[String]) -> Option<Rejection> {
    let context = spec::spec(pod).security_context.unwrap_or_default();
    for sysctl in context.sysctls.unwrap_or_default() {
        let name = sysctl.name.replace('/', ".");
        let listed = |pattern: &String| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == *pattern,
        };
        let shared = spec::host_network(pod) && name.starts_with("net.");
        if shared || !(SAFE_SYSCTLS.contains(&name.as_str()) || allowed.iter().any(listed)) {
            return reject("SysctlForbidden", format!("forbidden sysctl: \"{name}\" not allowlisted"));
        }
    }
    None
}

/// What a pod asks for that this kubelet would have to ignore: better not run than run without it.
pub fn unsupported(pod: &Pod) -> Option<Rejection> {
    let own = spec::spec(pod);
    let members = spec::members(pod);
    let device = members.iter().any(|m| m.container.volume_devices.as_ref().is_some_and(|d| !d.is_empty()));
    let what = match () {
        () if own.host_users == Some(false) => "user namespaces (hostUsers: false)",
        () if own.resource_claims.as_ref().is_some_and(|c| !c.is_empty()) => "resource claims",
        () if device => "block devices (volumeDevices)",
        () => return None,
    };
    reject("PodFeatureUnsupported", format!("{what} are not supported by this node"))
}

/// `(address, protocol, port)` of every host port.
fn host_ports(pod: &Pod) -> Vec<(String, String, i32)> {
    let network = spec::host_network(pod);
    spec::members(pod)
        .iter()
        .flat_map(|m| m.container.ports.clone().unwrap_or_default())
        .filter_map(|p| {
            let port = p.host_port.or(network.then_some(p.container_port)).filter(|port| *port > 0)?;
            let address = p.host_ip.filter(|ip| !ip.is_empty()).unwrap_or("0.0.0.0".to_owned());
            Some((address, p.protocol.unwrap_or("TCP".to_owned()), port))
        })
        .collect()
}

fn conflicts(a: &(String, String, i32), b: &(String, String, i32)) -> bool {
    (a.1 == b.1 && a.2 == b.2) && (a.0 == b.0 || a.0 == "0.0.0.0" || b.0 == "0.0.0.0")
}

/// `nodeSelector` and required node affinity.
fn affine(pod: &Pod, node: &Node) -> bool {
    let Some(own) = &pod.spec else { return true };
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let selected = own.node_selector.iter().flatten().all(|(k, v)| labels.get(k) == Some(v));
    let required = own
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|n| n.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|r| r.node_selector_terms.iter().any(|t| term(t, node, &labels)))
}

fn term(term: &NodeSelectorTerm, node: &Node, labels: &BTreeMap<String, String>) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let name: BTreeMap<String, String> =
        [("metadata.name".to_owned(), node.metadata.name.clone().unwrap_or_default())].into();
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|r| requirement(r, labels))
        && fields.iter().all(|r| requirement(r, &name))
}

fn requirement(r: &NodeSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let value = labels.get(&r.key);
    let values = r.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|v| values.contains(v));
    let number = |s: &String| s.parse::<i64>().ok();
    let compare = |test: fn(i64, i64) -> bool| {
        value.and_then(number).zip(values.first().and_then(number)).is_some_and(|(a, b)| test(a, b))
    };
    match r.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(|a, b| a > b),
        "Lt" => compare(|a, b| a < b),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({ "spec": spec })).unwrap()
    }

    fn judge(one: Value, others: &[Value]) -> Option<String> {
        let node = serde_json::from_value(json!({"metadata": {"name": "n", "labels": {"zone": "a", "size": "5"}}})).unwrap();
        let allocatable: Amounts = [("cpu".to_owned(), 1000), ("memory".to_owned(), 1 << 20), ("pods".to_owned(), 2)].into();
        let others: Vec<Pod> = others.iter().cloned().map(pod).collect();
        check(&pod(one), &node, &allocatable, &others.iter().collect::<Vec<_>>()).map(|r| r.reason)
    }

    #[test]
    fn reasons() {
        let cpu = |amount: &str| json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": amount}}}]});
        let port =
            |ip: &str| json!({"containers": [{"name": "a", "ports": [{"containerPort": 1, "hostPort": 80, "hostIP": ip}]}]});
        let zone = |z: &str| json!({"containers": [{"name": "a"}], "nodeSelector": {"zone": z}});
        let size = |op: &str| {
            json!({"containers": [{"name": "a"}], "affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "size", "operator": op, "values": ["4"]}]}]}}}})
        };
        let most = json!({"name": "a", "resources": {"requests": {"memory": "9223372036854775807"}}});
        let none = json!({"containers": []});
        let cases = [
            (judge(json!({"containers": [most, most]}), &[]), Some("OutOfmemory")),
            (judge(cpu("1"), &[]), None),
            (judge(cpu("1"), &[cpu("1m")]), Some("OutOfcpu")),
            (judge(none.clone(), &[none.clone(), none]), Some("OutOfpods")),
            (judge(port(""), &[port("127.0.0.1")]), Some("NodePorts")),
            (judge(port("127.0.0.2"), &[port("127.0.0.1")]), None),
            (judge(zone("a"), &[]), None),
            (judge(zone("b"), &[]), Some("NodeAffinity")),
            (judge(size("Gt"), &[]), None),
            (judge(size("Lt"), &[]), Some("NodeAffinity")),
        ];
        for (got, expected) in cases {
            assert_eq!(got.as_deref(), expected);
        }
    }

    #[test]
    fn nodes_that_are_short_of_something() {
        let best = json!({"containers": [{"name": "a"}]});
        let burstable = json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}]});
        let critical = json!({"containers": [{"name": "a"}], "priority": 2_000_000_000});
        let tolerant = json!({"containers": [{"name": "a"}], "tolerations": [{"operator": "Exists"}]});
        let memory = BTreeSet::from([Pressure::Memory]);
        let both = BTreeSet::from([Pressure::Memory, Pressure::Disk]);
        let judge =
            |spec: &Value, pressures: &BTreeSet<Pressure>| pressure(&pod(spec.clone()), pressures).map(|r| r.message);
        assert_eq!(judge(&best, &BTreeSet::new()), None);
        assert_eq!(judge(&best, &memory).as_deref(), Some("The node had condition: [MemoryPressure]. "));
        assert_eq!([&burstable, &critical, &tolerant].map(|spec| judge(spec, &memory)), [None, None, None]);
        let expected = "The node had condition: [MemoryPressure DiskPressure]. ";
        assert_eq!(judge(&tolerant, &both).as_deref(), Some(expected));
        assert_eq!(judge(&critical, &both), None);
    }

    #[test]
    fn what_would_be_ignored_is_turned_away() {
        let reason = |spec: Value| {
            let pod = pod(spec);
            sysctls(&pod, &["net.core.*".to_owned()]).or_else(|| unsupported(&pod)).map(|r| r.message)
        };
        let sysctl = |name: &str| json!({"securityContext": {"sysctls": [{"name": name, "value": "1"}]}, "containers": []});
        assert_eq!(reason(sysctl("net.ipv4.tcp_syncookies")), None);
        assert_eq!(reason(sysctl("net.core.somaxconn")), None);
        assert_eq!(reason(sysctl("kernel.msgmax")).as_deref(), Some("forbidden sysctl: \"kernel.msgmax\" not allowlisted"));
        assert_eq!(
            reason(json!({"hostUsers": false, "containers": []})).as_deref(),
            Some("user namespaces (hostUsers: false) are not supported by this node")
        );
    }
}
