//! Of several managers one works.

use crate::*;

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
async fn a_killed_leaders_lease_runs_out() {
    let cluster = Cluster::start(|config| {
        config.controllers = vec!["*".to_owned(), "-replicaset-controller".to_owned()];
    })
    .await;
    let manager = || {
        let stop = tokio_util::sync::CancellationToken::new();
        let config = knarr_controller_manager::Config {
            controllers: vec!["replicaset-controller".to_owned()],
            leader_elect_lease_duration: Duration::from_secs(1),
            leader_elect_renew_deadline: Duration::from_millis(600),
            leader_elect_retry_period: Duration::from_millis(50),
            ..Default::default()
        };
        (tokio::spawn(knarr_controller_manager::run(config, cluster.client.clone(), stop.clone())), stop.drop_guard())
    };
    let transitions = |leases: &[Arc<Lease>]| {
        let held = leases.iter().find(|l| l.metadata.name.as_deref() == Some("kube-controller-manager"));
        held.and_then(|l| l.spec.as_ref()?.lease_transitions)
    };
    let (first, _first) = manager();
    cluster.until_global::<Lease, _>(transitions, Some(0)).await;
    let (_second, _guard) = manager();
    cluster.create::<ReplicaSet>(web(1, "v1")).await;
    cluster.until::<Pod, _>(count, 1).await;
    // No good-bye: nothing is released.
    first.abort();
    cluster.until_global::<Lease, _>(transitions, Some(1)).await;
    cluster.merge::<ReplicaSet>("web", json!({"spec": {"replicas": 2}})).await;
    cluster.until::<Pod, _>(count, 2).await;
}
