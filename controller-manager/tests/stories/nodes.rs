//! Nodes fall silent, come back and go.

use crate::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_nodes_pods_are_replaced_elsewhere() {
    let config = |config: &mut knarr_controller_manager::Config| {
        config.node_monitor_grace_period = Duration::from_millis(800);
        config.node_monitor_period = Duration::from_millis(100);
        config.allocate_node_cidrs = true;
        config.cluster_cidr = Some("10.42.0.0/16".to_owned());
    };
    let cluster = Cluster::start(config).await;
    cluster.add_node("node-2").await;
    let ranges = |nodes: &[Arc<Node>]| nodes.iter().filter_map(|n| n.spec.as_ref()?.pod_cidr.clone()).collect::<Vec<_>>();
    cluster
        .until_global::<Node, _>(
            |n| {
                let mut r = ranges(n);
                r.sort();
                r
            },
            vec!["10.42.0.0/24".to_owned(), "10.42.1.0/24".to_owned()],
        )
        .await;
    let mut deployment = web(4, "v1");
    deployment["spec"]["template"]["spec"]["tolerations"] = json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}]);
    cluster.create::<Deployment>(deployment).await;
    cluster.until::<Deployment, _>(rollout, complete(4)).await;
    cluster.silence("node-2");
    let ready = |nodes: &[Arc<Node>]| {
        let status = |n: &Arc<Node>| {
            n.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == "Ready").map(|c| c.status.clone())
        };
        nodes.iter().filter_map(status).collect::<Vec<_>>()
    };
    cluster.until_global::<Node, _>(ready, vec!["True".to_owned(), "Unknown".to_owned()]).await;
    // The lost node's pods are marked and stay until their kubelet is heard of; the others are all on the node that is left.
    let placed = |pods: &[Arc<Pod>]| {
        let living = pods.iter().filter(|p| p.metadata.deletion_timestamp.is_none());
        living.filter_map(|p| p.spec.as_ref()?.node_name.clone()).collect::<Vec<_>>()
    };
    cluster.until::<Pod, _>(placed, vec!["node-1".to_owned(); 4]).await;
    cluster.until::<Deployment, _>(|d| rollout(d).iter().map(|r| r.2).sum::<i32>(), 4).await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let taints = nodes.get("node-2").await.expect("a node").spec.and_then(|s| s.taints).unwrap_or_default();
    let taints: Vec<_> = taints.iter().map(|t| format!("{}:{}", t.key, t.effect)).collect();
    assert_eq!(taints, ["node.kubernetes.io/unreachable:NoSchedule", "node.kubernetes.io/unreachable:NoExecute"]);
}

fn taints(nodes: &[Arc<Node>], name: &str) -> Vec<String> {
    let node = nodes.iter().find(|n| n.metadata.name.as_deref() == Some(name));
    let taints = node.iter().flat_map(|n| n.spec.iter()).flat_map(|s| s.taints.iter().flatten());
    let mut taints: Vec<_> = taints.map(|t| format!("{}:{}", t.key, t.effect)).collect();
    taints.sort();
    taints
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_comes_back_keeps_its_pods() {
    let cluster = Cluster::start(|config| {
        config.node_monitor_grace_period = Duration::from_millis(800);
        config.node_monitor_period = Duration::from_millis(100);
    })
    .await;
    cluster.add_node("node-2").await;
    // Pods tolerate a lost node for five minutes unless they say otherwise.
    cluster.create::<ReplicaSet>(web(2, "v1")).await;
    let ready = |sets: &[Arc<ReplicaSet>]| sets.first().and_then(|s| s.status.as_ref()?.ready_replicas);
    cluster.until::<ReplicaSet, _>(ready, Some(2)).await;
    let before = names(&cluster.list::<Pod>().await.into_iter().map(Arc::new).collect::<Vec<_>>());
    cluster.silence("node-2");
    let lost = ["node.kubernetes.io/unreachable:NoExecute", "node.kubernetes.io/unreachable:NoSchedule"];
    cluster.until_global::<Node, _>(|n| taints(n, "node-2"), lost.map(str::to_owned).to_vec()).await;
    // Its pods serve no more, whatever they said last.
    cluster.until::<Pod, _>(|pods| pods.iter().filter(|p| is_ready(p)).count(), 1).await;
    cluster.revive("node-2").await;
    cluster.until_global::<Node, _>(|n| taints(n, "node-2"), Vec::new()).await;
    assert_eq!(names(&cluster.list::<Pod>().await.into_iter().map(Arc::new).collect::<Vec<_>>()), before);
    let said = |events: &[Arc<Event>]| {
        let about = told(events, "Node").into_iter().filter(|(_, message)| message.contains("node-2"));
        about.map(|(reason, message)| format!("{reason}: {message}")).collect::<Vec<_>>()
    };
    let wanted = [
        "NodeNotReady: Node node-2 status is now: NodeNotReady",
        "RegisteredNode: Node node-2 event: Registered Node node-2 in Controller",
    ];
    cluster.until_global::<Event, _>(said, wanted.map(str::to_owned).to_vec()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_tainted_for_what_it_says() {
    let cluster = Cluster::start(|_| {}).await;
    cluster.add_node("node-2").await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let patch = |value: Value| kube::api::Patch::Strategic(value);
    let say = |kind: &str, status: &str| json!({"status": {"conditions": [{"type": kind, "status": status}]}});
    let params = kube::api::PatchParams::default();
    nodes.patch_status("node-2", &params, &patch(say("Ready", "False"))).await.expect("patched");
    nodes.patch_status("node-2", &params, &patch(say("DiskPressure", "True"))).await.expect("patched");
    nodes.patch("node-2", &params, &patch(json!({"spec": {"unschedulable": true}}))).await.expect("patched");
    let wanted = [
        "node.kubernetes.io/disk-pressure:NoSchedule",
        "node.kubernetes.io/not-ready:NoExecute",
        "node.kubernetes.io/not-ready:NoSchedule",
        "node.kubernetes.io/unschedulable:NoSchedule",
    ];
    cluster.until_global::<Node, _>(|n| taints(n, "node-2"), wanted.map(str::to_owned).to_vec()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_most_nodes_are_lost_at_once_no_more_are_evicted() {
    let cluster = Cluster::start(|config| config.node_eviction_rate = 1e6).await;
    for name in ["node-2", "node-3", "node-4", "node-5"] {
        cluster.add_node(name).await;
    }
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let say = async |name: &str, status: &str| {
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});
        let patch = kube::api::Patch::Strategic(ready);
        nodes.patch_status(name, &kube::api::PatchParams::default(), &patch).await.expect("patched");
    };
    let (execute, schedule) = ("node.kubernetes.io/not-ready:NoExecute", "node.kubernetes.io/not-ready:NoSchedule");
    let both = || vec![execute.to_owned(), schedule.to_owned()];
    for name in ["node-2", "node-3"] {
        say(name, "False").await;
        cluster.until_global::<Node, _>(|n| taints(n, name), both()).await;
    }
    // Three of five: its taints are written at once, and eviction is not among them.
    say("node-4", "False").await;
    cluster.until_global::<Node, _>(|n| taints(n, "node-4").is_empty(), false).await;
    let seen: Vec<_> =
        nodes.list(&kube::api::ListParams::default()).await.expect("nodes").into_iter().map(Arc::new).collect();
    assert_eq!((taints(&seen, "node-4"), taints(&seen, "node-3")), (vec![schedule.to_owned()], both()));
    say("node-2", "True").await;
    cluster.until_global::<Node, _>(|n| taints(n, "node-4"), both()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_a_node_that_is_gone_go_too() {
    let cluster = Cluster::start(|config| {
        config.gone_node_quarantine = Duration::from_millis(100);
        config.terminated_pod_gc_threshold = 1;
    })
    .await;
    cluster.add_node("node-2").await;
    cluster.create::<ReplicaSet>(web(2, "v1")).await;
    let ready = |sets: &[Arc<ReplicaSet>]| sets.first().and_then(|s| s.status.as_ref()?.ready_replicas);
    cluster.until::<ReplicaSet, _>(ready, Some(2)).await;
    cluster.silence("node-2");
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    nodes.delete("node-2", &DeleteParams::default()).await.expect("deleted");
    let placed = |pods: &[Arc<Pod>]| {
        let places = pods.iter().filter_map(|p| p.spec.as_ref()?.node_name.clone());
        places.collect::<Vec<_>>()
    };
    cluster.until::<Pod, _>(placed, vec!["node-1".to_owned(); 2]).await;
    cluster.until::<ReplicaSet, _>(ready, Some(2)).await;
    // Of ended pods the newest is kept.
    for n in 0..3 {
        let name = format!("ended-{n}");
        let pod = json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "manual"}]}});
        cluster.create::<Pod>(pod).await;
        let ended = kube::api::Patch::Merge(json!({"status": {"phase": "Succeeded"}}));
        let params = kube::api::PatchParams::default();
        cluster.api::<Pod>().patch_status(&name, &params, &ended).await.expect("patched");
    }
    let ended = |pods: &[Arc<Pod>]| names(pods).iter().filter(|n| n.starts_with("ended")).count();
    cluster.until::<Pod, _>(ended, 1).await;
}
