//! Namespaces are furnished, and emptied in order.

use crate::*;

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
async fn what_a_namespace_needs_comes_back() {
    let cluster = Cluster::start(|_| {}).await;
    let certificate = |maps: &[Arc<ConfigMap>]| {
        let root = maps.iter().find(|m| m.metadata.name.as_deref() == Some("kube-root-ca.crt"));
        root.and_then(|m| m.data.clone()).unwrap_or_default().into_iter().collect::<Vec<_>>()
    };
    let right = vec![("ca.crt".to_owned(), "CA".to_owned())];
    cluster.until::<ConfigMap, _>(certificate, right.clone()).await;
    cluster.merge::<ConfigMap>("kube-root-ca.crt", json!({"data": {"ca.crt": "forged", "more": "x"}})).await;
    cluster.until::<ConfigMap, _>(certificate, right.clone()).await;
    cluster.delete::<ConfigMap>("kube-root-ca.crt", DeleteParams::default()).await;
    cluster.until::<ConfigMap, _>(certificate, right).await;
    let uid = cluster.api::<ServiceAccount>().get("default").await.expect("an account").metadata.uid;
    cluster.delete::<ServiceAccount>("default", DeleteParams::default()).await;
    let anew = |accounts: &[Arc<ServiceAccount>]| accounts.len() == 1 && accounts[0].metadata.uid != uid;
    cluster.until::<ServiceAccount, _>(anew, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_go_before_what_they_use_and_finalizers_are_waited_for() {
    let cluster = Cluster::start(|_| {}).await;
    let held = json!({"metadata": {"name": "held", "finalizers": ["example.com/hold"]}});
    cluster.create::<ConfigMap>(held).await;
    cluster.create::<Secret>(json!({"metadata": {"name": "used"}})).await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "manual"}]}});
    cluster.create::<Pod>(pod).await;
    cluster.run_pod("p", "node-9", 1, true).await;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    namespaces.delete("test", &DeleteParams::default()).await.expect("deleted");
    let conditions = |all: &[Arc<Namespace>]| {
        let test = all.iter().find(|n| n.metadata.name.as_deref() == Some("test"));
        let conditions = test.iter().flat_map(|n| n.status.iter()).flat_map(|s| s.conditions.iter().flatten());
        let bad = conditions.filter(|c| c.status == "True");
        bad.map(|c| (c.reason.clone().unwrap_or_default(), c.message.clone().unwrap_or_default())).collect::<Vec<_>>()
    };
    let said = |reason: &str, message: &str| (reason.to_owned(), message.to_owned());
    let pods = said("SomeResourcesRemain", "Some resources are remaining: pods. has 1 resource instances");
    cluster.until_global::<Namespace, _>(conditions, vec![pods]).await;
    // The pod is not gone, so the Secret is there; its kubelet at last ends it.
    assert_eq!(cluster.list::<Secret>().await.len(), 1);
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    cluster.delete::<Pod>("p", now).await;
    let rest = vec![
        said("SomeResourcesRemain", "Some resources are remaining: configmaps. has 1 resource instances"),
        said(
            "SomeFinalizersRemain",
            "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances",
        ),
    ];
    cluster.until_global::<Namespace, _>(conditions, rest).await;
    assert_eq!(cluster.list::<Secret>().await.len(), 0);
    cluster.merge::<ConfigMap>("held", json!({"metadata": {"finalizers": null}})).await;
    let there = |namespaces: &[Arc<Namespace>]| names(namespaces).contains(&"test".to_owned());
    cluster.until_global::<Namespace, _>(there, false).await;
}
