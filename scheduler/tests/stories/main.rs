//! Stories of a scheduler against the real API server.

mod cluster;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use cluster::{Cluster, placements};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use knarr_scheduler::{Config, metrics::Metrics};
use kube::Api;
use serde_json::{Value, json};

/// The PodScheduled condition: status, reason, message.
fn condition(pods: &[Arc<Pod>], name: &str) -> Option<(String, String, String)> {
    let pod = pods.iter().find(|p| p.metadata.name.as_deref() == Some(name))?;
    let condition = pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == "PodScheduled")?;
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    Some((condition.status.clone(), text(&condition.reason), text(&condition.message)))
}

fn tainted(key: &str, value: &str) -> Value {
    json!({"taints": [{"key": key, "value": value, "effect": "NoSchedule"}]})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_bound_and_told_so() {
    let (cluster, _scheduler) = Cluster::with_scheduler().await;
    cluster.node("small", "1").await;
    cluster.node("large", "4").await;
    cluster.pod("a", "2", json!({})).await;
    cluster.placed(&["a@large"]).await;
    cluster.until::<Pod, _>(|p| condition(p, "a"), Some(("True".into(), String::new(), String::new()))).await;
    cluster.told("a", &["Scheduled: Successfully assigned default/a to large".into()]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_fits_nowhere_says_why_and_wakes_by_an_event_that_helps() {
    let cluster = Cluster::start().await;
    // Attempts are counted by profile: this test's are its own.
    let named = |config: &mut Config| config.scheduler_name = "waker".to_owned();
    let _scheduler = cluster.scheduler(named);
    cluster.node("n1", "1").await;
    cluster.node_with("n2", "4", json!({}), tainted("a", "b")).await;
    cluster.node_with("n3", "4", json!({}), tainted("a", "b")).await;
    cluster.pod("p", "2", json!({"schedulerName": "waker"})).await;
    let message = "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint {a: b}. preemption: 0/3 nodes \
                   are available: 3 Preemption is not helpful for scheduling.";
    let unschedulable = Some(("False".to_owned(), "Unschedulable".to_owned(), message.to_owned()));
    cluster.until::<Pod, _>(|p| condition(p, "p"), unschedulable).await;
    cluster.told("p", &[format!("FailedScheduling: {message}")]).await;
    let attempts = || ["unschedulable", "scheduled"].map(|result| Metrics::global().attempts(result, "waker"));
    // The pod may have been seen, and tried, before the last node was.
    let failed = attempts()[0];
    // What changes nothing that turned it away wakes nobody; another pod's coming is the proof that it was seen.
    cluster.change_node("n2", json!({"metadata": {"labels": {"a": "b"}}})).await;
    cluster.pod("other", "100m", json!({"schedulerName": "waker"})).await;
    cluster.placed(&["other@n1", "p@"]).await;
    assert_eq!(attempts()[0], failed);
    cluster.change_node("n2", json!({"spec": {"taints": null}})).await;
    cluster.placed(&["other@n1", "p@n2"]).await;
    let scheduled = "Scheduled: Successfully assigned default/p to n2".to_owned();
    cluster.told("p", &[format!("FailedScheduling: {message}"), scheduled]).await;
    assert_eq!(attempts(), [failed, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn room_that_a_pod_leaves_is_taken() {
    let (cluster, _scheduler) = Cluster::with_scheduler().await;
    cluster.node("n", "2").await;
    cluster.pod("first", "2", json!({})).await;
    cluster.placed(&["first@n"]).await;
    cluster.pod("second", "2", json!({})).await;
    let message = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims \
                   found for incoming pod.";
    let unschedulable = Some(("False".to_owned(), "Unschedulable".to_owned(), message.to_owned()));
    cluster.until::<Pod, _>(|p| condition(p, "second"), unschedulable).await;
    cluster.end("first").await;
    cluster.placed(&["second@n"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_nodes_says_so() {
    let (cluster, _scheduler) = Cluster::with_scheduler().await;
    cluster.pod("p", "1", json!({})).await;
    let why = Some(("False".into(), "Unschedulable".into(), "no nodes available to schedule pods".into()));
    cluster.until::<Pod, _>(|p| condition(p, "p"), why).await;
    cluster.node("n", "2").await;
    cluster.placed(&["p@n"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_important_pod_preempts_as_few_as_it_can() {
    let (cluster, _scheduler) = Cluster::with_scheduler().await;
    cluster.priority("high", 1000).await;
    cluster.priority("middle", 10).await;
    cluster.node("n", "4").await;
    cluster.pod("low", "2", json!({})).await;
    cluster.pod("mid", "1", json!({"priorityClassName": "middle"})).await;
    cluster.placed(&["low@n", "mid@n"]).await;
    let high = cluster.pod("vip", "3", json!({"priorityClassName": "high"})).await;
    let uid = high.metadata.uid.unwrap_or_default();
    // The victim is being deleted and says why; there is no kubelet, so the test ends it.
    let scheduled = "Scheduled: Successfully assigned default/low to n".to_owned();
    cluster.told("low", &[format!("Preempted: Preempted by pod {uid} on node n"), scheduled]).await;
    let victims = |pods: &[Arc<Pod>]| {
        let going = pods.iter().filter(|p| p.metadata.deletion_timestamp.is_some());
        going
            .map(|p| {
                let conditions = p.status.iter().flat_map(|s| s.conditions.iter().flatten());
                let target = conditions.into_iter().find(|c| c.type_ == "DisruptionTarget");
                (p.metadata.name.clone().unwrap_or_default(), target.and_then(|c| c.reason.clone()))
            })
            .collect::<Vec<_>>()
    };
    cluster.until::<Pod, _>(victims, vec![("low".to_owned(), Some("PreemptionByScheduler".to_owned()))]).await;
    let nominated = |pods: &[Arc<Pod>]| {
        let vip = pods.iter().find(|p| p.metadata.name.as_deref() == Some("vip"));
        vip.and_then(|p| p.status.as_ref()?.nominated_node_name.clone())
    };
    cluster.until::<Pod, _>(nominated, Some("n".to_owned())).await;
    // A less important pod does not get the room that was made.
    cluster.pod("thief", "1", json!({})).await;
    cluster.until::<Pod, _>(|p| condition(p, "thief").map(|c| c.0), Some("False".to_owned())).await;
    cluster.end("low").await;
    cluster.placed(&["mid@n", "thief@", "vip@n"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn room_that_is_kept_for_a_pod_is_anybodys_when_that_pod_is_deleted() {
    let (cluster, _scheduler) = Cluster::with_scheduler().await;
    cluster.priority("high", 1000).await;
    for (node, finalizers) in [("n1", json!([])), ("n2", json!(["example.com/stay"]))] {
        let here = |spec: Value| {
            let mut spec = spec;
            spec["nodeSelector"] = json!({"name": node});
            spec
        };
        let [low, vip, thief] = ["low", "vip", "thief"].map(|pod| format!("{pod}-{node}"));
        cluster.node_with(node, "4", json!({"name": node}), json!({})).await;
        cluster.pod(&low, "3", here(json!({}))).await;
        let vip_uid = cluster.pod(&vip, "3", here(json!({"priorityClassName": "high"}))).await.metadata.uid;
        let patch = kube::api::Patch::Merge(json!({"metadata": {"finalizers": finalizers}}));
        cluster.pods().patch(&vip, &kube::api::PatchParams::default(), &patch).await.expect("patched");
        let nominated = |pods: &[Arc<Pod>]| {
            let vip = pods.iter().find(|p| p.metadata.uid == vip_uid);
            vip.and_then(|p| p.status.as_ref()?.nominated_node_name.clone())
        };
        cluster.until::<Pod, _>(nominated, Some(node.to_owned())).await;
        cluster.pod(&thief, "1", here(json!({}))).await;
        cluster.until::<Pod, _>(|p| condition(p, &thief).map(|c| c.0), Some("False".to_owned())).await;
        cluster.end(&vip).await;
        // The victim is still there: this is what the node has beside it.
        let thief_at = |pods: &[Arc<Pod>]| placements(pods).contains(&format!("{thief}@{node}"));
        cluster.until::<Pod, _>(thief_at, true).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gates_hold_a_pod_back_and_other_schedulers_pods_are_left_alone() {
    let (cluster, _scheduler) = Cluster::with_scheduler().await;
    cluster.node("n", "4").await;
    cluster.pod("gated", "1", json!({"schedulingGates": [{"name": "example.com/wait"}]})).await;
    cluster.pod("foreign", "1", json!({"schedulerName": "somebody"})).await;
    cluster.pod("ours", "1", json!({})).await;
    cluster.placed(&["foreign@", "gated@", "ours@n"]).await;
    let gated = cluster.pods().get("gated").await.expect("a pod");
    let why = condition(&[Arc::new(gated)], "gated").map(|c| (c.0, c.1));
    assert_eq!(why, Some(("False".to_owned(), "SchedulingGated".to_owned())));
    let patch = kube::api::Patch::Merge(json!({"spec": {"schedulingGates": null}}));
    cluster.pods().patch("gated", &kube::api::PatchParams::default(), &patch).await.expect("patched");
    cluster.placed(&["foreign@", "gated@n", "ours@n"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_waiting_pods_the_most_important_goes_first() {
    let cluster = Cluster::start().await;
    cluster.priority("high", 1000).await;
    cluster.node("n", "1").await;
    cluster.pod("early", "1", json!({})).await;
    cluster.pod("late", "1", json!({"priorityClassName": "high"})).await;
    let _scheduler = cluster.scheduler(|_| {});
    cluster.placed(&["early@", "late@n"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_deleted_while_it_waits_is_forgotten() {
    let (cluster, _scheduler) = Cluster::with_scheduler().await;
    cluster.node("n", "1").await;
    cluster.pod("doomed", "2", json!({})).await;
    cluster.until::<Pod, _>(|p| condition(p, "doomed").map(|c| c.0), Some("False".to_owned())).await;
    cluster.end("doomed").await;
    // The same name again is another pod.
    cluster.pod("doomed", "500m", json!({})).await;
    cluster.placed(&["doomed@n"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_bound_counts() {
    let (cluster, _scheduler) = Cluster::with_scheduler().await;
    cluster.node("a", "2").await;
    cluster.node("b", "2").await;
    cluster.pod("foreign", "2", json!({"schedulerName": "somebody"})).await;
    cluster.bind("foreign", "a").await;
    cluster.placed(&["foreign@a"]).await;
    cluster.pod("ours", "2", json!({})).await;
    cluster.placed(&["foreign@a", "ours@b"]).await;
    // A pod that waits here and is bound there.
    cluster.pod("waiting", "2", json!({})).await;
    cluster.until::<Pod, _>(|p| condition(p, "waiting").map(|c| c.0), Some("False".to_owned())).await;
    cluster.node("c", "0").await;
    cluster.bind("waiting", "c").await;
    cluster.end("foreign").await;
    cluster.pod("last", "2", json!({})).await;
    cluster.placed(&["last@a", "ours@b", "waiting@c"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_scheduler_knows_what_runs() {
    let (cluster, scheduler) = Cluster::with_scheduler().await;
    cluster.node("n", "2").await;
    cluster.pod("a", "1500m", json!({})).await;
    cluster.placed(&["a@n"]).await;
    scheduler.end().await;
    cluster.pod("b", "1", json!({})).await;
    cluster.pod("c", "500m", json!({})).await;
    let _again = cluster.scheduler(|_| {});
    cluster.placed(&["a@n", "b@", "c@n"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_schedulers_the_other_goes_on_when_one_is_killed() {
    let cluster = Cluster::start().await;
    let candidate = |identity: &str| {
        cluster.scheduler(|config| {
            config.leader_elect = true;
            config.lease.identity = identity.to_owned();
            config.lease.lease_duration = Duration::from_secs(1);
            config.lease.renew_deadline = Duration::from_millis(600);
            config.lease.retry_period = Duration::from_millis(50);
        })
    };
    cluster.node("n", "4").await;
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), "kube-system");
    let holder = || async { leases.get("kube-scheduler").await.ok().and_then(|l| l.spec?.holder_identity) };
    let first = candidate("first");
    cluster.pod("a", "1", json!({})).await;
    cluster.placed(&["a@n"]).await;
    let _second = candidate("second");
    assert_eq!(holder().await.as_deref(), Some("first"));
    drop(first);
    cluster.pod("b", "1", json!({})).await;
    cluster.placed(&["a@n", "b@n"]).await;
    assert_eq!(holder().await.as_deref(), Some("second"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_is_spread_and_never_too_much_for_a_node() {
    let cluster = Cluster::start().await;
    for n in 0..10 {
        cluster.node(&format!("n{n}"), "8").await;
    }
    let pods = (0..105).map(|n| {
        let cluster = &cluster;
        async move { cluster.pod(&format!("p{n:03}"), "100m", json!({})).await }
    });
    futures::future::join_all(pods).await;
    let _scheduler = cluster.scheduler(|_| {});
    // Ten pods a node: five are left over.
    let crowd = |pods: &[Arc<Pod>]| {
        let mut by_node: BTreeMap<String, usize> = BTreeMap::new();
        for place in placements(pods) {
            let (_, node) = place.split_once('@').unwrap_or_default();
            *by_node.entry(node.to_owned()).or_default() += 1;
        }
        by_node
    };
    let mut wanted: BTreeMap<String, usize> = (0..10).map(|n| (format!("n{n}"), 10)).collect();
    wanted.insert(String::new(), 5);
    cluster.until::<Pod, _>(crowd, wanted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_binding_that_panics_is_made_again() {
    let cluster = Cluster::start().await;
    cluster.node("n", "4").await;
    let _scheduler = cluster.scheduler_failing_once(|_, path| path.ends_with("/binding"), || panic!("while binding"));
    cluster.pod("p", "1", json!({})).await;
    cluster.placed(&["p@n"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn room_that_could_not_be_made_is_made_later() {
    let cluster = Cluster::start().await;
    let deletion = |method: &http::Method, path: &str| *method == http::Method::DELETE && path.ends_with("/pods/low");
    let _scheduler = cluster.scheduler_failing_once(deletion, || ());
    cluster.priority("high", 1000).await;
    cluster.node("n", "4").await;
    cluster.pod("low", "3", json!({})).await;
    cluster.placed(&["low@n"]).await;
    cluster.pod("vip", "3", json!({"priorityClassName": "high"})).await;
    let going = |pods: &[Arc<Pod>]| pods.iter().any(|pod| pod.metadata.deletion_timestamp.is_some());
    cluster.until::<Pod, _>(going, true).await;
    cluster.end("low").await;
    cluster.placed(&["vip@n"]).await;
}
