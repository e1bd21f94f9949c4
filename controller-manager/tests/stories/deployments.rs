//! Deployments roll, stop, time out, are scaled and rolled back.

use crate::*;

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

/// Whether the sizes stay below the surge and enough pods serve, at every step of a rollout.
async fn rolls_within(surge: Value, unavailable: Value, most: i32, least: usize) {
    let cluster = Cluster::start(|_| {}).await;
    let mut deployment = web(4, "v1");
    deployment["spec"]["strategy"] =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}});
    cluster.create::<Deployment>(deployment).await;
    cluster.until::<Deployment, _>(rollout, complete(4)).await;
    let sizes = cluster
        .always::<ReplicaSet>(move |sets| {
            let sizes: Vec<i32> = sets.iter().map(|s| s.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0)).collect();
            if sizes.iter().sum::<i32>() <= most { Ok(()) } else { Err(format!("{sizes:?} are more than {most}")) }
        })
        .await;
    let serving = cluster
        .always::<Pod>(move |pods| {
            let serving = pods.iter().filter(|p| is_ready(p) && p.metadata.deletion_timestamp.is_none()).count();
            if serving >= least { Ok(()) } else { Err(format!("{serving} are less than {least}")) }
        })
        .await;
    cluster.merge::<Deployment>("web", json!({"spec": {"template": template("v2")}})).await;
    cluster.until::<ReplicaSet, _>(sets, table(&[("v1", "1", 0), ("v2", "2", 4)])).await;
    cluster.until::<Deployment, _>(rollout, complete(4)).await;
    sizes.held();
    serving.held();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_more_and_none_less() {
    rolls_within(json!(1), json!(0), 5, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn none_more_and_one_less() {
    rolls_within(json!(0), json!(1), 4, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shares_are_rounded_up_for_more_and_down_for_less() {
    // 30% of 4: two more, one less.
    rolls_within(json!("30%"), json!("30%"), 6, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recreated_pods_start_when_the_last_old_one_is_gone() {
    let cluster = Cluster::start(|_| {}).await;
    let mut deployment = web(3, "v1");
    deployment["spec"]["strategy"] = json!({"type": "Recreate"});
    cluster.create::<Deployment>(deployment).await;
    cluster.until::<Deployment, _>(rollout, complete(3)).await;
    let unmixed = cluster
        .always::<Pod>(|pods| {
            let images: std::collections::BTreeSet<_> =
                pods.iter().filter_map(|p| p.spec.as_ref()?.containers[0].image.clone()).collect();
            if images.len() < 2 { Ok(()) } else { Err(format!("{images:?} at once")) }
        })
        .await;
    cluster.merge::<Deployment>("web", json!({"spec": {"template": template("v2")}})).await;
    cluster.until::<ReplicaSet, _>(sets, table(&[("v1", "1", 0), ("v2", "2", 3)])).await;
    unmixed.held();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_revisions_are_forgotten_beyond_the_limit() {
    let cluster = Cluster::start(|_| {}).await;
    let mut deployment = web(1, "v1");
    deployment["spec"]["revisionHistoryLimit"] = json!(2);
    cluster.create::<Deployment>(deployment).await;
    for version in ["v2", "v3", "v4", "v5"] {
        cluster.until::<Deployment, _>(rollout, complete(1)).await;
        cluster.merge::<Deployment>("web", json!({"spec": {"template": template(version)}})).await;
    }
    cluster.until::<ReplicaSet, _>(sets, table(&[("v3", "3", 0), ("v4", "4", 0), ("v5", "5", 1)])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_deployment_is_scaled_but_not_rolled() {
    let cluster = Cluster::start(|_| {}).await;
    cluster.create::<Deployment>(web(2, "v1")).await;
    cluster.until::<Deployment, _>(rollout, complete(2)).await;
    cluster.merge::<Deployment>("web", json!({"spec": {"paused": true, "replicas": 3, "template": template("v2")}})).await;
    cluster.until::<ReplicaSet, _>(sets, table(&[("v1", "1", 3)])).await;
    cluster.until::<Deployment, _>(rollout, vec![(3, 0, 3, true, "DeploymentPaused".to_owned())]).await;
    cluster.merge::<Deployment>("web", json!({"spec": {"paused": false}})).await;
    cluster.until::<ReplicaSet, _>(sets, table(&[("v1", "1", 0), ("v2", "2", 3)])).await;
    cluster.until::<Deployment, _>(rollout, complete(3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_that_gets_nowhere_is_given_up_and_can_be_undone() {
    let cluster = Cluster::start(|_| {}).await;
    let mut deployment = web(2, "v1");
    deployment["spec"]["progressDeadlineSeconds"] = json!(1);
    cluster.create::<Deployment>(deployment).await;
    cluster.until::<Deployment, _>(rollout, complete(2)).await;
    cluster.merge::<Deployment>("web", json!({"spec": {"template": template("broken")}})).await;
    // 25% of two: one more, none less.
    cluster.until::<Deployment, _>(rollout, vec![(3, 1, 2, true, "ProgressDeadlineExceeded".to_owned())]).await;
    let stuck = cluster.api::<Deployment>().get("web").await.expect("a Deployment").status.unwrap_or_default();
    let mut conditions: Vec<_> =
        stuck.conditions.into_iter().flatten().map(|c| (c.type_, c.status, c.message.unwrap_or_default())).collect();
    conditions.sort();
    let set = names(&cluster.list::<ReplicaSet>().await.into_iter().map(Arc::new).collect::<Vec<_>>());
    let timed_out = |name: &String| format!("ReplicaSet {name:?} has timed out progressing.");
    let said = conditions[1].2.clone();
    assert!(set.iter().map(timed_out).any(|m| m == said), "{said}");
    conditions[1].2.clear();
    assert_eq!(
        conditions,
        [("Available", "True", "Deployment has minimum availability."), ("Progressing", "False", "")].map(|(a, b, c)| (
            a.to_owned(),
            b.to_owned(),
            c.to_owned()
        ))
    );
    cluster.merge::<Deployment>("web", json!({"spec": {"template": template("v1")}})).await;
    cluster.until::<ReplicaSet, _>(sets, table(&[("broken", "2", 0), ("v1", "3", 2)])).await;
    cluster.until::<Deployment, _>(rollout, complete(2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_size_during_a_rollout_is_shared_out() {
    let cluster = Cluster::start(|_| {}).await;
    let mut deployment = web(10, "v1");
    deployment["spec"]["strategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}});
    cluster.create::<Deployment>(deployment).await;
    cluster.until::<Deployment, _>(rollout, complete(10)).await;
    cluster.merge::<Deployment>("web", json!({"spec": {"template": template("broken")}})).await;
    cluster.until::<ReplicaSet, _>(sets, table(&[("broken", "2", 5), ("v1", "1", 8)])).await;
    cluster.merge::<Deployment>("web", json!({"spec": {"replicas": 15}})).await;
    // Upstream's documented example of proportional scaling.
    cluster.until::<ReplicaSet, _>(sets, table(&[("broken", "2", 7), ("v1", "1", 11)])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_somebody_else_has_taken_is_got_around() {
    let cluster = Cluster::start(|_| {}).await;
    cluster.create::<Deployment>(web(1, "v1")).await;
    cluster.until::<Deployment, _>(rollout, complete(1)).await;
    let name = cluster.list::<ReplicaSet>().await.remove(0).metadata.name.unwrap_or_default();
    cluster.delete::<Deployment>("web", DeleteParams::background()).await;
    cluster.until::<ReplicaSet, _>(count, 0).await;
    let stranger =
        json!({"metadata": {"labels": {"app": "other"}}, "spec": {"containers": [{"name": "c", "image": "other"}]}});
    cluster
        .create::<ReplicaSet>(json!({"metadata": {"name": name}, "spec": {"replicas": 0,
            "selector": {"matchLabels": {"app": "other"}}, "template": stranger}}))
        .await;
    cluster.create::<Deployment>(web(1, "v1")).await;
    cluster.until::<Deployment, _>(rollout, complete(1)).await;
    let collisions = |d: &[Arc<Deployment>]| d.first().and_then(|d| d.status.as_ref()?.collision_count);
    cluster.until::<Deployment, _>(collisions, Some(1)).await;
    cluster.until::<ReplicaSet, _>(sets, table(&[("other", "", 0), ("v1", "1", 1)])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_say_what_was_done() {
    let cluster = Cluster::start(|_| {}).await;
    cluster.create::<Deployment>(web(1, "v1")).await;
    cluster.until::<Deployment, _>(rollout, complete(1)).await;
    let set = cluster.list::<ReplicaSet>().await.remove(0).metadata.name.unwrap_or_default();
    let pod = cluster.list::<Pod>().await.remove(0).metadata.name.unwrap_or_default();
    cluster.merge::<Deployment>("web", json!({"spec": {"replicas": 0}})).await;
    let said = |rows: &[(&str, String)]| rows.iter().map(|(r, m)| ((*r).to_owned(), m.clone())).collect::<Vec<_>>();
    let scaled = [
        ("ScalingReplicaSet", format!("Scaled down replica set {set} from 1 to 0")),
        ("ScalingReplicaSet", format!("Scaled up replica set {set} from 0 to 1")),
    ];
    cluster.until::<Event, _>(|e| told(e, "Deployment"), said(&scaled)).await;
    let pods = [("SuccessfulCreate", format!("Created pod: {pod}")), ("SuccessfulDelete", format!("Deleted pod: {pod}"))];
    cluster.until::<Event, _>(|e| told(e, "ReplicaSet"), said(&pods)).await;
}
