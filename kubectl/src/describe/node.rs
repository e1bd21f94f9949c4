//! Nodes: what they are, and what the pods on them ask for.

use std::collections::BTreeMap;

use api::quantity::Quantity;
use serde_json::Value;

use super::{json::Json, parts, writer::Writer};
use crate::line;

type Amounts = BTreeMap<String, Quantity>;

/// A Node. `lease` may be why it is not known; `pods` is `None` for those who may not see them.
pub fn describe(
    w: &mut Writer,
    node: &Value,
    lease: &Result<Value, String>,
    pods: Option<&[Value]>,
    events: Option<&[Value]>,
) {
    let (spec, status) = (node.at("spec"), node.at("status"));
    line!(w, 0, "Name:\t{}", node.text("metadata.name"));
    line!(w, 0, "Roles:\t{}", roles(node));
    parts::metadata_maps(w, node);
    line!(w, 0, "CreationTimestamp:\t{}", w.time(node.at("metadata.creationTimestamp")));
    parts::taints(w, "Taints", spec.items("taints"));
    line!(w, 0, "Unschedulable:\t{}", spec.flag("unschedulable"));
    match lease {
        Ok(lease) => describe_lease(w, lease),
        Err(error) => line!(w, 0, "Lease:\tFailed to get lease: {error}"),
    }
    conditions(w, status.items("conditions"));
    w.line(0, "Addresses:");
    for address in status.items("addresses") {
        line!(w, 1, "{}:\t{}", address.text("type"), address.text("address"));
    }
    for (title, field) in [("Capacity", "capacity"), ("Allocatable", "allocatable")] {
        let amounts = amounts(status.at(field));
        if !amounts.is_empty() {
            line!(w, 0, "{title}:");
        }
        for (name, amount) in amounts {
            line!(w, 1, "{name}:\t{amount}");
        }
    }
    w.line(0, "System Info:");
    for (title, field) in [
        ("Machine ID", "machineID"),
        ("System UUID", "systemUUID"),
        ("Boot ID", "bootID"),
        ("Kernel Version", "kernelVersion"),
        ("OS Image", "osImage"),
        ("Operating System", "operatingSystem"),
        ("Architecture", "architecture"),
        ("Container Runtime Version", "containerRuntimeVersion"),
        ("Kubelet Version", "kubeletVersion"),
        ("Kube-Proxy Version", "kubeProxyVersion"),
    ] {
        line!(w, 1, "{title}:\t{}", status.at("nodeInfo").text(field));
    }
    for (title, text) in [
        ("PodCIDR", spec.text("podCIDR").to_owned()),
        ("PodCIDRs", spec.texts("podCIDRs").join(",")),
        ("ProviderID", spec.text("providerID").to_owned()),
    ] {
        if !text.is_empty() {
            line!(w, 0, "{title}:\t{text}");
        }
    }
    match pods {
        Some(pods) => resources(w, node, pods),
        None => w.line(0, "Pods:\tnot authorized"),
    }
    parts::events(w, events);
}

fn roles(node: &Value) -> String {
    let role = |(key, value): (&str, &str)| match key.strip_prefix("node-role.kubernetes.io/") {
        Some("") => None,
        Some(role) => Some(role.to_owned()),
        None if key == "kubernetes.io/role" && !value.is_empty() => Some(value.to_owned()),
        None => None,
    };
    let mut roles: Vec<String> = node.pairs("metadata.labels").into_iter().filter_map(role).collect();
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") }
}

fn describe_lease(w: &mut Writer, lease: &Value) {
    w.line(0, "Lease:");
    line!(w, 1, "HolderIdentity:\t{}", lease.text_or("spec.holderIdentity", "<unset>"));
    for (title, field) in [("AcquireTime", "spec.acquireTime"), ("RenewTime", "spec.renewTime")] {
        let time = if lease.has(field) { w.time(lease.at(field)) } else { "<unset>".to_owned() };
        line!(w, 1, "{title}:\t{time}");
    }
}

fn conditions(w: &mut Writer, conditions: &[Value]) {
    if conditions.is_empty() {
        return;
    }
    w.raw("Conditions:\n  Type\tStatus\tLastHeartbeatTime\tLastTransitionTime\tReason\tMessage\n");
    w.line(1, "----\t------\t-----------------\t------------------\t------\t-------");
    for c in conditions {
        let (heartbeat, transition) = (w.time(c.at("lastHeartbeatTime")), w.time(c.at("lastTransitionTime")));
        let (kind, status) = (c.text("type"), c.text("status"));
        line!(w, 1, "{kind} \t{status} \t{heartbeat} \t{transition} \t{} \t{}", c.text("reason"), c.text("message"));
    }
}

fn amounts(list: &Value) -> Amounts {
    let entries = list.as_object().into_iter().flatten();
    let amount = |value: &Value| value.as_str().unwrap_or("0").parse().unwrap_or_default();
    entries.map(|(name, value)| (name.clone(), amount(value))).collect()
}

fn add(to: &mut Amounts, what: &Amounts) {
    for (name, amount) in what {
        match to.get_mut(name) {
            Some(sum) => *sum += amount,
            None => drop(to.insert(name.clone(), amount.clone())),
        }
    }
}

fn raise(to: &mut Amounts, what: &Amounts) {
    for (name, amount) in what {
        if to.get(name).is_none_or(|known| amount > known) {
            to.insert(name.clone(), amount.clone());
        }
    }
}

/// What a container asks for, or is limited to. A running one counts with what it was given while a change of it is under way.
fn container_amounts(pod: &Value, container: &Value, kind: &str) -> Amounts {
    let mut wanted = amounts(container.at("resources").at(kind));
    let mut statuses = pod.at("status").items("containerStatuses").iter();
    let given = statuses.find(|status| status.text("name") == container.text("name")).filter(|s| s.has("resources"));
    if let Some(given) = given.filter(|_| kind == "requests") {
        if pod.text("status.resize") == "Infeasible" {
            wanted.clear();
        }
        raise(&mut wanted, &amounts(given.at("resources").at(kind)));
    }
    wanted
}

/// What a pod asks for, or is limited to, in all: containers together, init containers one after the other beside sidecars.
fn pod_amounts(pod: &Value, kind: &str) -> Amounts {
    let (mut total, mut sidecars, mut starting) = (Amounts::new(), Amounts::new(), Amounts::new());
    for container in pod.items("spec.containers") {
        add(&mut total, &container_amounts(pod, container, kind));
    }
    for container in pod.items("spec.initContainers") {
        let mut wanted = amounts(container.at("resources").at(kind));
        if container.text("restartPolicy") == "Always" {
            add(&mut total, &wanted);
            add(&mut sidecars, &wanted);
            wanted.clone_from(&sidecars);
        } else {
            add(&mut wanted, &sidecars);
        }
        raise(&mut starting, &wanted);
    }
    raise(&mut total, &starting);
    let mut overhead = amounts(pod.at("spec.overhead"));
    if kind == "limits" {
        overhead.retain(|name, _| total.get(name).is_some_and(|limit| !limit.is_zero()));
    }
    add(&mut total, &overhead);
    total
}

/// Of nothing everything is `i64::MIN` percent, as Go converts it.
fn percent(part: i64, whole: i64) -> i64 {
    let fraction = part as f64 / whole as f64 * 100.0;
    if fraction.is_finite() { fraction as i64 } else { i64::MIN }
}

fn get(amounts: &Amounts, name: &str) -> Quantity {
    amounts.get(name).cloned().unwrap_or_default()
}

fn measure(name: &str, amount: &Quantity) -> i64 {
    if name == "cpu" { amount.milli_value() } else { amount.value() }
}

fn resources(w: &mut Writer, node: &Value, pods: &[Value]) {
    let mut allocatable = amounts(node.at("status.allocatable"));
    if allocatable.is_empty() {
        allocatable = amounts(node.at("status.capacity"));
    }
    line!(w, 0, "Non-terminated Pods:\t({} in total)", pods.len());
    w.line(1, "Namespace\tName\t\tCPU Requests\tCPU Limits\tMemory Requests\tMemory Limits\tAge");
    w.line(1, "---------\t----\t\t------------\t----------\t---------------\t-------------\t---");
    let (mut requests, mut limits) = (Amounts::new(), Amounts::new());
    for pod in pods {
        let (wants, may) = (pod_amounts(pod, "requests"), pod_amounts(pod, "limits"));
        let cell = |of: &Amounts, name: &str| {
            let amount = get(of, name);
            format!("{amount} ({}%)", percent(measure(name, &amount), measure(name, &get(&allocatable, name))))
        };
        let cells = [cell(&wants, "cpu"), cell(&may, "cpu"), cell(&wants, "memory"), cell(&may, "memory")].join("\t");
        let age = w.since(pod.at("metadata.creationTimestamp"));
        line!(w, 1, "{}\t{}\t\t{cells}\t{age}", pod.text("metadata.namespace"), pod.text("metadata.name"));
        add(&mut requests, &wants);
        add(&mut limits, &may);
    }
    w.raw("Allocated resources:\n  (Total limits may be over 100 percent, i.e., overcommitted.)\n");
    w.line(1, "Resource\tRequests\tLimits");
    w.line(1, "--------\t--------\t------");
    let huge = allocatable.keys().filter(|name| name.starts_with("hugepages-")).map(String::as_str);
    for name in ["cpu", "memory", "ephemeral-storage"].into_iter().chain(huge) {
        let whole = measure(name, &get(&allocatable, name));
        let cell = |of: &Amounts| {
            let amount = get(of, name);
            format!("{amount} ({}%)", if whole == 0 { 0 } else { percent(measure(name, &amount), whole) })
        };
        line!(w, 1, "{name}\t{}\t{}", cell(&requests), cell(&limits));
    }
    let extended = |name: &&String| {
        !matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage" | "pods") && !name.starts_with("hugepages-")
    };
    for name in allocatable.keys().filter(extended) {
        line!(w, 1, "{name}\t{}\t{}", get(&requests, name), get(&limits, name));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn init_containers_and_sidecars_count() {
        let container = |cpu: &str, policy: &str| json!({"restartPolicy": policy, "resources": {"requests": {"cpu": cpu}}});
        let pod = json!({"spec": {
            "containers": [container("100m", "")],
            "initContainers": [container("50m", "Always"), container("400m", "")],
            "overhead": {"cpu": "10m"},
        }});
        assert_eq!(pod_amounts(&pod, "requests")["cpu"].to_string(), "460m");
        assert!(pod_amounts(&pod, "limits").is_empty());
    }

    #[test]
    fn a_change_under_way_counts_with_the_larger_amount() {
        let pod = |resize: &str, given: &str| {
            json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}, "status": {"resize": resize,
                "containerStatuses": [{"name": "c", "allocatedResources": {"cpu": "9"}, "resources": {"requests": {"cpu": given}}}]}})
        };
        let cpu = |pod| pod_amounts(&pod, "requests")["cpu"].to_string();
        assert_eq!(
            (cpu(pod("", "2")), cpu(pod("", "500m")), cpu(pod("Infeasible", "500m"))),
            ("2".into(), "1".into(), "500m".into())
        );
    }

    #[test]
    fn shares_of_nothing() {
        assert_eq!((percent(1, 0), percent(0, 0), percent(1, 3)), (i64::MIN, i64::MIN, 33));
    }
}
