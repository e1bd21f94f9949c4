//! Stories of whole clusters: all controllers at work against an API server in the same process.

mod cluster;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use cluster::Cluster;
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    coordination::v1::Lease,
    core::v1::{ConfigMap, Endpoints, Event, Namespace, Node, Pod, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api,
    api::{DeleteParams, PropagationPolicy},
};
use serde_json::{Value, json};

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn web(replicas: i32, image: &str) -> Value {
    json!({"metadata": {"name": "web"}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template(image)}})
}

/// (replicas, updated, available, observed generation, Progressing's reason)
fn rollout(deployments: &[Arc<Deployment>]) -> Vec<(i32, i32, i32, bool, String)> {
    let tell = |d: &Arc<Deployment>| {
        let s = d.status.clone().unwrap_or_default();
        let reason = s
            .conditions
            .iter()
            .flatten()
            .find(|c| c.type_ == "Progressing")
            .and_then(|c| c.reason.clone())
            .unwrap_or_default();
        let n = |v: Option<i32>| v.unwrap_or(0);
        (
            n(s.replicas),
            n(s.updated_replicas),
            n(s.available_replicas),
            s.observed_generation == d.metadata.generation,
            reason,
        )
    };
    deployments.iter().map(tell).collect()
}

fn complete(n: i32) -> Vec<(i32, i32, i32, bool, String)> {
    vec![(n, n, n, true, "NewReplicaSetAvailable".to_owned())]
}

/// Image -> (revision, size, actual size) of all ReplicaSets.
fn sets(sets: &[Arc<ReplicaSet>]) -> BTreeMap<String, (String, i32, i32)> {
    let tell = |s: &Arc<ReplicaSet>| {
        let spec = s.spec.clone().unwrap_or_default();
        let image = spec.template.and_then(|t| t.spec).and_then(|s| s.containers[0].image.clone()).unwrap_or_default();
        let revision = s.metadata.annotations.as_ref().and_then(|a| a.get("deployment.kubernetes.io/revision").cloned());
        (image, (revision.unwrap_or_default(), spec.replicas.unwrap_or(0), s.status.as_ref().map_or(0, |s| s.replicas)))
    };
    sets.iter().map(tell).collect()
}

fn table(rows: &[(&str, &str, i32)]) -> BTreeMap<String, (String, i32, i32)> {
    rows.iter().map(|(image, revision, size)| ((*image).to_owned(), ((*revision).to_owned(), *size, *size))).collect()
}

fn count<K>(objects: &[Arc<K>]) -> usize {
    objects.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_rolls_forth_and_back_and_goes_with_all_it_made() {
    let cluster = Cluster::start(|_| {}).await;
    cluster.create::<Deployment>(web(3, "v1")).await;
    cluster.until::<Deployment, _>(rollout, complete(3)).await;
    cluster.merge::<Deployment>("web", json!({"spec": {"template": template("v2")}})).await;
    cluster.until::<ReplicaSet, _>(sets, table(&[("v1", "1", 0), ("v2", "2", 3)])).await;
    cluster.until::<Deployment, _>(rollout, complete(3)).await;
    cluster.merge::<Deployment>("web", json!({"spec": {"template": template("v1")}})).await;
    cluster.until::<ReplicaSet, _>(sets, table(&[("v1", "3", 3), ("v2", "2", 0)])).await;
    cluster.merge::<Deployment>("web", json!({"spec": {"replicas": 5}})).await;
    cluster.until::<Deployment, _>(rollout, complete(5)).await;

    let told: Vec<_> = cluster
        .list::<Event>()
        .await
        .into_iter()
        .filter(|e| e.involved_object.kind.as_deref() == Some("Deployment"))
        .collect();
    let mut messages: Vec<_> = told.iter().filter_map(|e| e.message.clone()).collect();
    messages.sort();
    assert!(messages.iter().any(|m| m.ends_with("from 0 to 3")), "{messages:?}");

    cluster.delete::<Deployment>("web", DeleteParams::background()).await;
    cluster.until::<ReplicaSet, _>(count, 0).await;
    cluster.until::<Pod, _>(count, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recreated_deployment_never_mixes_its_pods() {
    let cluster = Cluster::start(|_| {}).await;
    let mut deployment = web(2, "v1");
    deployment["spec"]["strategy"] = json!({"type": "Recreate"});
    cluster.create::<Deployment>(deployment).await;
    cluster.until::<Deployment, _>(rollout, complete(2)).await;
    cluster.merge::<Deployment>("web", json!({"spec": {"template": template("v2")}})).await;
    cluster.until::<ReplicaSet, _>(sets, table(&[("v1", "1", 0), ("v2", "2", 2)])).await;
    cluster.until::<Deployment, _>(rollout, complete(2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_follows_its_pods() {
    let cluster = Cluster::start(|_| {}).await;
    let service = json!({"metadata": {"name": "web"}, "spec": {"clusterIP": "10.43.0.7", "clusterIPs": ["10.43.0.7"], "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080, "protocol": "TCP"}]}});
    cluster.create::<Service>(service).await;
    let ready = |slices: &[Arc<EndpointSlice>]| {
        let endpoints = slices.iter().flat_map(|s| &s.endpoints);
        endpoints.filter(|e| e.conditions.as_ref().and_then(|c| c.ready) == Some(true)).count()
    };
    cluster.until::<EndpointSlice, _>(|s| (s.len(), ready(s)), (1, 0)).await;
    cluster.create::<Deployment>(web(3, "v1")).await;
    cluster.until::<EndpointSlice, _>(|s| (s.len(), ready(s)), (1, 3)).await;
    let addresses = |endpoints: &[Arc<Endpoints>]| {
        let subsets = endpoints.iter().flat_map(|e| e.subsets.iter().flatten());
        subsets.map(|s| s.addresses.as_ref().map_or(0, Vec::len)).sum::<usize>()
    };
    cluster.until::<Endpoints, _>(addresses, 3).await;
    let victim = cluster.list::<Pod>().await.remove(0).metadata.name.unwrap_or_default();
    cluster.delete::<Pod>(&victim, DeleteParams::default()).await;
    let serves = |slices: &[Arc<EndpointSlice>], name: &str| {
        slices.iter().flat_map(|s| &s.endpoints).any(|e| e.target_ref.as_ref().and_then(|t| t.name.as_deref()) == Some(name))
    };
    cluster.until::<EndpointSlice, _>(|s| (ready(s), serves(s, &victim)), (3, false)).await;
    cluster.delete::<Service>("web", DeleteParams::default()).await;
    cluster.until::<EndpointSlice, _>(count, 0).await;
    cluster.until::<Endpoints, _>(count, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_is_furnished_and_emptied() {
    let cluster = Cluster::start(|_| {}).await;
    let names =
        |accounts: &[Arc<ServiceAccount>]| accounts.iter().filter_map(|a| a.metadata.name.clone()).collect::<Vec<_>>();
    cluster.until::<ServiceAccount, _>(names, vec!["default".to_owned()]).await;
    let certificates =
        |maps: &[Arc<ConfigMap>]| maps.iter().filter_map(|m| m.data.as_ref()?.get("ca.crt").cloned()).collect::<Vec<_>>();
    cluster.until::<ConfigMap, _>(certificates, vec!["CA".to_owned()]).await;
    cluster.create::<Deployment>(web(3, "v1")).await;
    cluster.until::<Deployment, _>(rollout, complete(3)).await;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    namespaces.delete("test", &DeleteParams::default()).await.expect("deleted");
    let there = |namespaces: &[Arc<Namespace>]| namespaces.iter().any(|n| n.metadata.name.as_deref() == Some("test"));
    cluster.until_global::<Namespace, _>(there, false).await;
    let left = (
        cluster.list::<Pod>().await.len(),
        cluster.list::<ReplicaSet>().await.len(),
        cluster.list::<ConfigMap>().await.len(),
    );
    assert_eq!(left, (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphans_stay_and_are_adopted_and_foreground_waits() {
    let cluster = Cluster::start(|_| {}).await;
    cluster.create::<Deployment>(web(2, "v1")).await;
    cluster.until::<Deployment, _>(rollout, complete(2)).await;
    cluster.delete::<Deployment>("web", DeleteParams::orphan()).await;
    cluster.until::<Deployment, _>(count, 0).await;
    let owners = |sets: &[Arc<ReplicaSet>]| {
        sets.iter().map(|s| s.metadata.owner_references.as_ref().map_or(0, Vec::len)).collect::<Vec<_>>()
    };
    cluster.until::<ReplicaSet, _>(owners, vec![0]).await;
    // The same Deployment again: it takes the set over, and no pod is made anew.
    let before: Vec<_> = cluster.list::<Pod>().await.into_iter().filter_map(|p| p.metadata.uid).collect();
    cluster.create::<Deployment>(web(2, "v1")).await;
    cluster.until::<Deployment, _>(rollout, complete(2)).await;
    let after: Vec<_> = cluster.list::<Pod>().await.into_iter().filter_map(|p| p.metadata.uid).collect();
    assert_eq!(before, after);
    let params = DeleteParams { propagation_policy: Some(PropagationPolicy::Foreground), ..DeleteParams::default() };
    cluster.delete::<Deployment>("web", params).await;
    cluster.until::<Deployment, _>(count, 0).await;
    let left = (cluster.list::<Pod>().await.len(), cluster.list::<ReplicaSet>().await.len());
    assert_eq!(left, (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_nodes_pods_are_replaced_elsewhere() {
    let config = |config: &mut knarr_controller_manager::Config| {
        config.node_monitor_grace_period = Duration::from_millis(800);
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
    cluster.until::<Deployment, _>(|d| rollout(d)[0].2, 4).await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let taints = nodes.get("node-2").await.expect("a node").spec.and_then(|s| s.taints).unwrap_or_default();
    let taints: Vec<_> = taints.iter().map(|t| format!("{}:{}", t.key, t.effect)).collect();
    assert_eq!(taints, ["node.kubernetes.io/unreachable:NoSchedule", "node.kubernetes.io/unreachable:NoExecute"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_pods_come_and_go_quickly() {
    let cluster = Cluster::start(|_| {}).await;
    cluster.create::<Deployment>(web(0, "v1")).await;
    cluster.until::<Deployment, _>(rollout, complete(0)).await;
    let start = std::time::Instant::now();
    cluster.merge::<Deployment>("web", json!({"spec": {"replicas": 50}})).await;
    cluster.until::<Deployment, _>(rollout, complete(50)).await;
    let up = start.elapsed();
    cluster.merge::<Deployment>("web", json!({"spec": {"replicas": 0}})).await;
    cluster.until::<Pod, _>(count, 0).await;
    println!("0 -> 50 ready: {up:?}, 50 -> 0 gone: {:?}", start.elapsed() - up);
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_manager_takes_over_when_the_first_goes() {
    let cluster = Cluster::start(|config| {
        config.controllers = vec!["*".to_owned(), "-deployment-controller".to_owned(), "-replicaset-controller".to_owned()]
    })
    .await;
    let manager = || {
        let stop = tokio_util::sync::CancellationToken::new();
        let config = knarr_controller_manager::Config {
            controllers: vec!["deployment-controller".to_owned(), "replicaset-controller".to_owned()],
            leader_elect_retry_period: Duration::from_millis(50),
            ..Default::default()
        };
        (stop.clone(), tokio::spawn(knarr_controller_manager::run(config, cluster.client.clone(), stop)))
    };
    let holder = |leases: &[Arc<Lease>]| {
        let held = leases.iter().find(|l| l.metadata.name.as_deref() == Some("kube-controller-manager"));
        let spec = held.and_then(|l| l.spec.clone()).unwrap_or_default();
        (spec.holder_identity.is_some_and(|h| !h.is_empty()), spec.lease_transitions.unwrap_or(-1))
    };
    let (stop, first) = manager();
    cluster.until_global::<Lease, _>(holder, (true, 0)).await;
    let (_stop, second) = manager();
    cluster.create::<Deployment>(web(1, "v1")).await;
    cluster.until::<Deployment, _>(rollout, complete(1)).await;
    stop.cancel();
    first.await.expect("no panic").expect("an orderly end");
    // Released, not run out: fifteen seconds would be longer than a test's patience allows for the rest.
    let begun = std::time::Instant::now();
    cluster.until_global::<Lease, _>(holder, (true, 1)).await;
    assert!(begun.elapsed() < Duration::from_secs(5) && !second.is_finished());
    cluster.merge::<Deployment>("web", json!({"spec": {"replicas": 2}})).await;
    cluster.until::<Deployment, _>(rollout, complete(2)).await;
    let told = |events: &[Arc<Event>]| {
        let about = events.iter().filter(|e| e.reason.as_deref() == Some("LeaderElection"));
        let mut words: Vec<_> =
            about.filter_map(|e| e.message.as_ref()?.split_once(' ').map(|(_, what)| what.to_owned())).collect();
        words.sort();
        words
    };
    cluster
        .until_global::<Event, _>(told, ["became leader", "became leader", "stopped leading"].map(str::to_owned).to_vec())
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_connection_delays_but_changes_nothing() {
    let cluster = Cluster::start_flaky().await;
    cluster.create::<Deployment>(web(10, "v1")).await;
    cluster.until::<Deployment, _>(rollout, complete(10)).await;
    cluster.merge::<Deployment>("web", json!({"spec": {"replicas": 4, "template": template("v2")}})).await;
    cluster.until::<ReplicaSet, _>(sets, table(&[("v1", "1", 0), ("v2", "2", 4)])).await;
    cluster.until::<Deployment, _>(rollout, complete(4)).await;
    cluster.until::<Pod, _>(count, 4).await;
    cluster.delete::<Deployment>("web", DeleteParams::background()).await;
    cluster.until::<ReplicaSet, _>(count, 0).await;
    cluster.until::<Pod, _>(count, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hand_written_endpoints_are_mirrored() {
    let cluster = Cluster::start(|_| {}).await;
    let service = json!({"metadata": {"name": "db"}, "spec": {"clusterIP": "10.43.0.8", "clusterIPs": ["10.43.0.8"], "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack", "ports": [{"port": 5432, "protocol": "TCP"}]}});
    cluster.create::<Service>(service).await;
    let addresses = |slices: &[Arc<EndpointSlice>]| {
        slices.iter().flat_map(|s| &s.endpoints).flat_map(|e| e.addresses.clone()).collect::<Vec<_>>()
    };
    cluster.create::<Endpoints>(json!({"metadata": {"name": "db"}, "subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 5432}]}]})).await;
    cluster.until::<EndpointSlice, _>(addresses, vec!["192.0.2.1".to_owned()]).await;
    cluster
        .merge::<Endpoints>("db", json!({"subsets": [{"addresses": [{"ip": "192.0.2.2"}], "ports": [{"port": 5432}]}]}))
        .await;
    cluster.until::<EndpointSlice, _>(addresses, vec!["192.0.2.2".to_owned()]).await;
    cluster.delete::<Endpoints>("db", DeleteParams::default()).await;
    cluster.until::<EndpointSlice, _>(count, 0).await;
}
