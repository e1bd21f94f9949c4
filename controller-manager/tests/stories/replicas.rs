//! ReplicaSets and ReplicationControllers keep their number of pods.

use crate::*;

fn set(replicas: i32, image: &str) -> Value {
    let mut set = web(replicas, image);
    set["spec"]["template"] = template(image);
    set
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_least_missed_pods_go_first() {
    let cluster = Cluster::start(|_| {}).await;
    cluster.create::<ReplicaSet>(set(5, "manual")).await;
    cluster.until::<Pod, _>(count, 5).await;
    let pods = names(&cluster.list::<Pod>().await.into_iter().map(Arc::new).collect::<Vec<_>>());
    // 0 has no node, 1 is not ready, 2 to 4 are, at different costs.
    cluster.run_pod(&pods[1], "node-1", 1, false).await;
    for (n, cost) in [(2, "-5"), (3, "10"), (4, "0")] {
        cluster.run_pod(&pods[n], "node-1", n as u32, true).await;
        let cost = json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": cost}}});
        cluster.merge::<Pod>(&pods[n], cost).await;
    }
    let ready = |sets: &[Arc<ReplicaSet>]| sets.first().and_then(|s| s.status.as_ref()?.ready_replicas);
    cluster.until::<ReplicaSet, _>(ready, Some(3)).await;
    for (size, left) in [(4, vec![1, 2, 3, 4]), (3, vec![2, 3, 4]), (2, vec![3, 4]), (1, vec![3])] {
        cluster.merge::<ReplicaSet>("web", json!({"spec": {"replicas": size}})).await;
        let mut left: Vec<_> = left.into_iter().map(|n: usize| pods[n].clone()).collect();
        left.sort();
        cluster.until::<Pod, _>(names, left).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_no_longer_matches_is_let_go_and_one_that_matches_is_taken() {
    let cluster = Cluster::start(|_| {}).await;
    cluster.create::<ReplicaSet>(set(2, "v1")).await;
    cluster.until::<Pod, _>(count, 2).await;
    let free = cluster.list::<Pod>().await.remove(0).metadata.name.unwrap_or_default();
    cluster.merge::<Pod>(&free, json!({"metadata": {"labels": {"app": "debug"}}})).await;
    let owned = |pods: &[Arc<Pod>]| {
        let mut owned: Vec<_> = pods.iter().map(|p| p.metadata.owner_references.as_ref().map_or(0, Vec::len)).collect();
        owned.sort();
        owned
    };
    cluster.until::<Pod, _>(owned, vec![0, 1, 1]).await;
    // Three match now: one too many.
    cluster.merge::<Pod>(&free, json!({"metadata": {"labels": {"app": "web"}}})).await;
    cluster.until::<Pod, _>(owned, vec![1, 1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ended_pods_are_replaced_and_failures_told() {
    let cluster = Cluster::start(|_| {}).await;
    cluster.create::<ReplicaSet>(set(1, "v1")).await;
    let ready = |sets: &[Arc<ReplicaSet>]| sets.first().and_then(|s| s.status.as_ref()?.ready_replicas);
    cluster.until::<ReplicaSet, _>(ready, Some(1)).await;
    let ended = cluster.list::<Pod>().await.remove(0).metadata.name.unwrap_or_default();
    let api = cluster.api::<Pod>();
    let failed = kube::api::Patch::Merge(json!({"status": {"phase": "Failed", "conditions": []}}));
    api.patch_status(&ended, &kube::api::PatchParams::default(), &failed).await.expect("patched");
    cluster.until::<Pod, _>(count, 2).await;
    cluster.until::<ReplicaSet, _>(ready, Some(1)).await;
    // A template that the API server refuses: the condition says so.
    let refused = json!({"spec": {"replicas": 2, "template": {"spec": {"priorityClassName": "nowhere"}}}});
    cluster.merge::<ReplicaSet>("web", refused).await;
    let condition = |sets: &[Arc<ReplicaSet>]| {
        let conditions = sets.iter().flat_map(|s| &s.status).flat_map(|s| s.conditions.iter().flatten());
        conditions.map(|c| (c.type_.clone(), c.status.clone(), c.reason.clone().unwrap_or_default())).collect::<Vec<_>>()
    };
    let words = ["ReplicaFailure", "True", "FailedCreate"].map(str::to_owned);
    cluster.until::<ReplicaSet, _>(condition, vec![words.into()]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replication_controller_keeps_its_number() {
    let cluster = Cluster::start(|_| {}).await;
    let controller = json!({"metadata": {"name": "old"}, "spec": {"replicas": 2, "selector": {"app": "web"}, "template": template("v1")}});
    cluster.create::<ReplicationController>(controller).await;
    let status = |controllers: &[Arc<ReplicationController>]| {
        let status = controllers.first().and_then(|c| c.status.clone()).unwrap_or_default();
        (status.replicas, status.ready_replicas, status.available_replicas)
    };
    cluster.until::<ReplicationController, _>(status, (2, Some(2), Some(2))).await;
    let victim = cluster.list::<Pod>().await.remove(0).metadata.name.unwrap_or_default();
    cluster.delete::<Pod>(&victim, DeleteParams::default()).await;
    cluster.until::<Pod, _>(|pods| (pods.len(), names(pods).contains(&victim)), (2, false)).await;
    cluster.merge::<ReplicationController>("old", json!({"spec": {"replicas": 0}})).await;
    cluster.until::<ReplicationController, _>(status, (0, None, None)).await;
    cluster.until::<Pod, _>(count, 0).await;
}
