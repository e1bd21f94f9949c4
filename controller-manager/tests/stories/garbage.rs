//! What has no owner left goes; what has one stays.

use crate::*;

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

fn owned(name: &str, owners: &[(&str, &str)]) -> Value {
    let reference = |(name, uid): &(&str, &str)| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid, "blockOwnerDeletion": true});
    json!({"metadata": {"name": name, "ownerReferences": owners.iter().map(reference).collect::<Vec<_>>()}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_owner_counts() {
    let cluster = Cluster::start(|_| {}).await;
    let owner = cluster.create::<ConfigMap>(json!({"metadata": {"name": "owner"}})).await.metadata.uid.unwrap_or_default();
    // An owner that never was, and one that is.
    cluster.create::<Secret>(owned("orphan", &[("ghost", "no-such-uid")])).await;
    cluster.create::<Secret>(owned("impostor", &[("owner", "another-uid")])).await;
    cluster.create::<Secret>(owned("half", &[("ghost", "no-such-uid"), ("owner", &owner)])).await;
    let owners = |secrets: &[Arc<Secret>]| {
        let of = |s: &Arc<Secret>| {
            let owners = s.metadata.owner_references.iter().flatten().map(|o| o.name.clone()).collect::<Vec<_>>();
            (s.metadata.name.clone().unwrap_or_default(), owners)
        };
        secrets.iter().map(of).collect::<Vec<_>>()
    };
    // Both owners of the half one are looked at once something happens to it or to one of them.
    cluster.until::<Secret, _>(names, vec!["half".to_owned()]).await;
    cluster.until::<Secret, _>(owners, vec![("half".to_owned(), vec!["owner".to_owned()])]).await;
    cluster.delete::<ConfigMap>("owner", DeleteParams::background()).await;
    cluster.until::<Secret, _>(count, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_in_another_namespace_is_none() {
    let cluster = Cluster::start(|_| {}).await;
    let elsewhere: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "default");
    let owner = serde_json::from_value(json!({"metadata": {"name": "owner"}})).expect("a ConfigMap");
    let owner = elsewhere.create(&PostParams::default(), &owner).await.expect("created").metadata.uid.unwrap_or_default();
    // Once this one is collected, the owner has been seen: both come by one watch.
    cluster.create::<ConfigMap>(owned("marker", &[("ghost", "no-such-uid")])).await;
    let marker = |maps: &[Arc<ConfigMap>]| names(maps).contains(&"marker".to_owned());
    cluster.until::<ConfigMap, _>(marker, false).await;
    let secret = cluster.create::<Secret>(owned("misled", &[("owner", &owner)])).await;
    cluster.until::<Secret, _>(count, 0).await;
    let said =
        format!("ownerRef [v1/ConfigMap, namespace: test, name: owner, uid: {owner}] does not exist in namespace \"test\"");
    let told = |events: &[Arc<Event>]| {
        let about = events.iter().filter(|e| e.involved_object.uid == secret.metadata.uid);
        about.map(|e| (e.reason.clone().unwrap_or_default(), e.message.clone().unwrap_or_default())).collect::<Vec<_>>()
    };
    cluster.until::<Event, _>(told, vec![("OwnerRefInvalidNamespace".to_owned(), said)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_foreground_the_owner_goes_last() {
    let cluster = Cluster::start(|_| {}).await;
    let owner = cluster.create::<ConfigMap>(json!({"metadata": {"name": "owner"}})).await.metadata.uid.unwrap_or_default();
    let mut held = owned("held", &[("owner", &owner)]);
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    cluster.create::<Secret>(held).await;
    cluster.create::<Secret>(owned("free", &[("owner", &owner)])).await;
    let params = DeleteParams { propagation_policy: Some(PropagationPolicy::Foreground), ..DeleteParams::default() };
    cluster.delete::<ConfigMap>("owner", params).await;
    cluster.until::<Secret, _>(names, vec!["held".to_owned()]).await;
    let going = |secrets: &[Arc<Secret>]| secrets.iter().all(|s| s.metadata.deletion_timestamp.is_some());
    cluster.until::<Secret, _>(going, true).await;
    let waiting = |maps: &[Arc<ConfigMap>]| {
        let owner = maps.iter().find(|m| m.metadata.name.as_deref() == Some("owner"));
        owner.map(|o| (o.metadata.deletion_timestamp.is_some(), o.metadata.finalizers.clone().unwrap_or_default()))
    };
    cluster.until::<ConfigMap, _>(waiting, Some((true, vec!["foregroundDeletion".to_owned()]))).await;
    cluster.merge::<Secret>("held", json!({"metadata": {"finalizers": null}})).await;
    cluster.until::<ConfigMap, _>(waiting, None).await;
    assert_eq!(cluster.list::<Secret>().await.len(), 0);
}
