//! What the default profile decides, as tables: nodes and what runs on them, and for each pod where it goes or why nowhere.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use knarr_scheduler::{plugins::default_plugins, pod::PodInfo, schedule, snapshot::Snapshot};
use serde_json::{Value, json};

/// A cluster in lines: `node NAME JSON` (labels, spec, allocatable), `pod NAME NODE JSON` (labels, spec) and `service NAME
/// JSON` (its selector).
fn cluster(text: &str) -> Snapshot {
    let mut snapshot = Snapshot::default();
    snapshot.namespaces.insert("default".to_owned(), Default::default());
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let (kind, rest) = line.split_once(' ').expect("a kind");
        if kind == "node" {
            let (name, facts) = rest.split_once(' ').unwrap_or((rest, "{}"));
            snapshot.set_node(&Arc::new(node(name, &read(facts))));
        } else if kind == "service" {
            let (name, selector) = rest.split_once(' ').expect("a selector");
            let selector = serde_json::from_str(selector).expect("labels");
            snapshot.services.entry("default".to_owned()).or_default().insert(name.to_owned(), selector);
        } else {
            let (name, rest) = rest.split_once(' ').expect("a name");
            let (node, facts) = rest.split_once(' ').unwrap_or((rest, "{}"));
            snapshot.add_pod(&Arc::new(pod(name, &read(facts))), node);
        }
    }
    snapshot
}

fn read(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn node(name: &str, facts: &Value) -> Node {
    let mut labels = json!({"kubernetes.io/hostname": name});
    merge(&mut labels, &facts["labels"]);
    let mut allocatable = json!({"cpu": "4", "memory": "8Gi", "pods": "10", "ephemeral-storage": "10Gi"});
    merge(&mut allocatable, &facts["allocatable"]);
    let node = json!({"metadata": {"name": name, "labels": labels}, "spec": facts["spec"], "status": {"allocatable": allocatable,
        "images": facts["images"]}});
    serde_json::from_value(without_nulls(node)).expect("a node")
}

fn pod(name: &str, facts: &Value) -> PodInfo {
    let mut spec = json!({"containers": [{"name": "c", "image": "i"}]});
    if let Some(requests) = facts.get("requests") {
        spec["containers"][0]["resources"] = json!({"requests": requests});
    }
    merge(&mut spec, &facts["spec"]);
    let owner = facts["owner"]
        .as_str()
        .map(|uid| json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": uid, "uid": uid, "controller": true}]));
    let pod = json!({"metadata": {"name": name, "namespace": "default", "uid": name, "labels": facts["labels"], "ownerReferences": owner,
        "deletionTimestamp": facts["deleted"]}, "spec": spec});
    let pod: Pod = serde_json::from_value(without_nulls(pod)).expect("a pod");
    PodInfo::new(Arc::new(pod))
}

fn merge(into: &mut Value, from: &Value) {
    for (key, value) in from.as_object().into_iter().flatten() {
        into[key] = value.clone();
    }
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => map.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, without_nulls(v))).collect(),
        other => other,
    }
}

/// Decides for each `JSON => ANSWER` line, and compares all answers at once.
fn decides(nodes: &str, cases: &str) {
    let snapshot = cluster(nodes);
    let plugins = default_plugins();
    let cases = cases.lines().map(str::trim).filter(|l| !l.is_empty());
    let (mut wanted, mut found) = (String::new(), String::new());
    for case in cases {
        let (facts, answer) = case.split_once(" => ").unwrap_or_else(|| panic!("no answer: {case}"));
        let answers: Vec<String> = (0..3)
            .map(|tie| match schedule(&plugins, &pod("new", &read(facts)), &snapshot, 0, tie) {
                Ok(placement) => placement.node,
                Err(unfit) => {
                    unfit.message("").trim_start_matches(&format!("0/{} nodes are available: ", unfit.nodes)).to_owned()
                }
            })
            .collect();
        // Every number for ties finds the same answer, or the case is not decided.
        let decided = answers.iter().all(|a| *a == answers[0]);
        wanted.push_str(&format!("{facts} => {answer}\n"));
        found.push_str(&format!("{facts} => {}\n", if decided { answers[0].clone() } else { answers.join(" or ") }));
    }
    assert_eq!(found, wanted);
}

#[test]
fn what_a_pod_needs() {
    decides(
        r#"
        node a {"allocatable": {"cpu": "2", "example.com/gpu": "1", "pods": "1"}}
        node b {"allocatable": {"memory": "4Gi", "ephemeral-storage": "1Gi"}}
        pod busy b {"requests": {"cpu": "1500m", "memory": "1Gi"}}
        "#,
        r#"
        {"requests": {"cpu": "2500m"}} => b
        {"requests": {"cpu": "2501m"}} => 2 Insufficient cpu.
        {"requests": {"memory": "7Gi"}} => a
        {"requests": {"memory": "9Gi", "cpu": "8"}} => 2 Insufficient cpu, 2 Insufficient memory.
        {"requests": {"ephemeral-storage": "2Gi"}} => a
        {"requests": {"example.com/gpu": "1"}} => a
        {"requests": {"example.com/gpu": "2"}} => 2 Insufficient example.com/gpu.
        {"requests": {"cpu": "1"}, "spec": {"overhead": {"cpu": "1600m"}}} => 2 Insufficient cpu.
        {"requests": {"cpu": "1"}, "spec": {"overhead": {"cpu": "1500m"}}} => b
        {"requests": {"cpu": "1"}, "spec": {"initContainers": [{"name": "i", "resources": {"requests": {"cpu": "2200m"}}}]}} => b
        {"requests": {"cpu": "2"}, "spec": {"initContainers": [{"name": "i", "restartPolicy": "Always", "resources": {"requests": {"cpu": "500m"}}}]}} => b
        {"requests": {"cpu": "2"}, "spec": {"initContainers": [{"name": "i", "restartPolicy": "Always", "resources": {"requests": {"cpu": "501m"}}}]}} => 2 Insufficient cpu.
        {"requests": {"cpu": "1"}, "spec": {"resources": {"requests": {"cpu": "2600m"}}}} => 2 Insufficient cpu.
        "#,
    );
}

#[test]
fn a_node_takes_so_many_pods() {
    decides(
        r#"
        node a {"allocatable": {"pods": "1"}}
        node b {"allocatable": {"pods": "1"}}
        pod one a
        pod two b {"requests": {"cpu": "4"}}
        "#,
        r#"
        {} => 2 Too many pods.
        {"requests": {"cpu": "1"}} => 1 Insufficient cpu, 2 Too many pods.
        "#,
    );
}

#[test]
fn where_a_pod_wants_to_be() {
    decides(
        r#"
        node a {"labels": {"disk": "ssd", "cores": "4"}}
        node b {"labels": {"disk": "hdd", "cores": "16"}}
        node c {"labels": {"disk": "hdd", "cores": "many"}}
        "#,
        r#"
        {"spec": {"nodeSelector": {"disk": "ssd"}}} => a
        {"spec": {"nodeSelector": {"disk": "tape"}}} => 3 node(s) didn't match Pod's node affinity/selector.
        {"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["8"]}]}]}}}}} => b
        {"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "cores", "operator": "Lt", "values": ["8"]}]}]}}}}} => a
        {"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "NotIn", "values": ["hdd"]}]}]}}}}} => a
        {"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "In", "values": ["hdd"]}, {"key": "cores", "operator": "NotIn", "values": ["16"]}]}]}}}}} => c
        {"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "gone", "operator": "Exists"}]}, {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["c"]}]}]}}}}} => c
        {"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["gone"]}]}]}}}}} => 3 node(s) didn't satisfy plugin(s) [NodeAffinity].
        {"spec": {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}}, {"weight": 5, "preference": {"matchExpressions": [{"key": "cores", "operator": "In", "values": ["many"]}]}}]}}}} => c
        "#,
    );
}

#[test]
fn what_keeps_pods_away() {
    decides(
        r#"
        node a {"spec": {"taints": [{"key": "only", "value": "x", "effect": "NoSchedule"}]}}
        node b {"spec": {"taints": [{"key": "out", "effect": "NoExecute"}]}}
        node c {"spec": {"unschedulable": true}}
        "#,
        r#"
        {} => 1 node(s) had untolerated taint {only: x}, 1 node(s) had untolerated taint {out: }, 1 node(s) were unschedulable.
        {"spec": {"tolerations": [{"key": "only", "operator": "Equal", "value": "x", "effect": "NoSchedule"}]}} => a
        {"spec": {"tolerations": [{"key": "only", "operator": "Equal", "value": "y"}]}} => 1 node(s) had untolerated taint {only: x}, 1 node(s) had untolerated taint {out: }, 1 node(s) were unschedulable.
        {"spec": {"tolerations": [{"key": "out", "operator": "Exists"}]}} => b
        {"spec": {"tolerations": [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]}} => c
        "#,
    );
    decides(
        r#"
        node a {"spec": {"taints": [{"key": "slow", "effect": "PreferNoSchedule"}]}}
        node b
        "#,
        r#"
        {} => b
        "#,
    );
}

#[test]
fn host_ports_are_held_once() {
    decides(
        r#"
        node a
        pod web a {"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}, {"containerPort": 90, "hostPort": 90, "hostIP": "10.0.0.1", "protocol": "UDP"}]}]}}
        "#,
        r#"
        {"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]}} => 1 node(s) didn't have free ports for the requested pod ports.
        {"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80, "hostIP": "10.0.0.1"}]}]}} => 1 node(s) didn't have free ports for the requested pod ports.
        {"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80, "protocol": "UDP"}]}]}} => a
        {"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 90, "hostPort": 90, "hostIP": "10.0.0.2", "protocol": "UDP"}]}]}} => a
        {"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80}]}]}} => a
        "#,
    );
}

#[test]
fn pods_are_spread() {
    decides(
        r#"
        node a1 {"labels": {"zone": "a"}}
        node a2 {"labels": {"zone": "a"}}
        node b1 {"labels": {"zone": "b"}}
        node x
        pod one a1 {"labels": {"app": "web"}}
        pod two a2 {"labels": {"app": "web"}}
        pod three a2 {"labels": {"app": "other"}}
        "#,
        r#"
        {"labels": {"app": "web"}, "spec": {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]}} => b1
        {"labels": {"app": "web"}, "spec": {"nodeSelector": {"zone": "a"}, "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "nodeAffinityPolicy": "Ignore", "labelSelector": {"matchLabels": {"app": "web"}}}]}} => 2 node(s) didn't match Pod's node affinity/selector, 2 node(s) didn't match pod topology spread constraints.
        {"labels": {"app": "web"}, "spec": {"topologySpreadConstraints": [{"maxSkew": 1, "minDomains": 3, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]}} => b1
        {"labels": {"app": "web"}, "spec": {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "missing", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]}} => 4 node(s) didn't match pod topology spread constraints (missing required label).
        {"labels": {"app": "web"}, "spec": {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": {"app": "web"}}}]}} => b1
        "#,
    );
}

#[test]
fn replicas_are_spread_by_default_and_those_that_are_leaving_do_not_count() {
    decides(
        r#"
        node a
        node b
        pod leaving a {"owner": "set", "deleted": "2024-01-01T00:00:00Z"}
        pod staying b {"owner": "set"}
        "#,
        r#"
        {"owner": "set"} => a
        "#,
    );
}

#[test]
fn pods_without_a_controller_are_spread_by_the_services_that_select_them() {
    decides(
        r#"
        node a {}
        node b {}
        service web {"app": "web"}
        service blue {"color": "blue"}
        service nobody {}
        pod web a {"labels": {"app": "web", "color": "blue"}}
        pod red b {"labels": {"app": "web", "color": "red"}, "requests": {"cpu": "1"}}
        pod batch b {"labels": {"app": "batch"}, "requests": {"cpu": "1"}}
        "#,
        r#"
        {"labels": {"app": "batch"}} => a
        {"labels": {"app": "web", "color": "blue"}} => b
        {"labels": {"color": "blue"}} => b
        "#,
    );
}

#[test]
fn pods_seek_and_shun_each_other() {
    decides(
        r#"
        node a1 {"labels": {"zone": "a"}}
        node b1 {"labels": {"zone": "b"}}
        pod db a1 {"labels": {"app": "db"}}
        pod loner b1 {"labels": {"app": "loner"}, "spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone", "labelSelector": {"matchLabels": {"noisy": "yes"}}}]}}}}
        "#,
        r#"
        {"spec": {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "db"}}}]}}}} => a1
        {"spec": {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "nobody"}}}]}}}} => 2 node(s) didn't match pod affinity rules.
        {"labels": {"app": "group"}, "spec": {"nodeSelector": {"zone": "b"}, "affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "group"}}}]}}}} => b1
        {"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "db"}}}]}}}} => b1
        {"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone", "labelSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}}]}}}} => 2 node(s) didn't match pod anti-affinity rules.
        {"labels": {"noisy": "yes"}} => a1
        {"labels": {"noisy": "yes"}, "spec": {"nodeSelector": {"zone": "b"}}} => 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) didn't satisfy existing pods anti-affinity rules.
        {"spec": {"affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "db"}}}}]}}}} => a1
        {"spec": {"affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "db"}}}}]}}}} => b1
        "#,
    );
}

#[test]
fn of_nodes_that_fit_the_emptier_and_more_balanced_one_is_better() {
    decides(
        r#"
        node a
        node b
        pod busy a {"requests": {"cpu": "2", "memory": "2Gi"}}
        "#,
        r#"
        {"requests": {"cpu": "1", "memory": "1Gi"}} => b
        {} => b
        "#,
    );
    // Equally full on the whole; only where CPU is taken does memory even it out.
    decides(
        r#"
        node a
        node b
        pod cpu a {"requests": {"cpu": "2", "memory": "0"}}
        pod memory b {"requests": {"cpu": "0", "memory": "4Gi"}}
        "#,
        r#"
        {"requests": {"cpu": "100m", "memory": "3Gi"}} => a
        {"requests": {"cpu": "1500m", "memory": "1Mi"}} => b
        "#,
    );
    decides(
        r#"
        node a
        node b {"images": [{"names": ["example.com/big:1"], "sizeBytes": 1000000000}]}
        "#,
        r#"
        {"spec": {"containers": [{"name": "c", "image": "example.com/big:1"}]}} => b
        "#,
    );
}
