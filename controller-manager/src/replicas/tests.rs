#![allow(clippy::needless_pass_by_value, reason = "json! makes values")]

use std::collections::HashMap;

use k8s_openapi::api::apps::v1::ReplicaSet;
use serde_json::{Value, json};

use super::*;

fn set(replicas: i32, deleted: Option<&str>) -> Arc<ReplicaSet> {
    let set = json!({
        "metadata": {"namespace": "ns", "name": "web", "uid": "u", "generation": 1, "deletionTimestamp": deleted},
        "spec": {"replicas": replicas, "minReadySeconds": 10, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web", "v": "1"}}}},
    });
    Arc::new(serde_json::from_value(set).expect("a ReplicaSet"))
}

fn pod(name: &str, labels: Value, ready_at: Option<&str>) -> Arc<Pod> {
    let conditions: Vec<_> =
        ready_at.iter().map(|at| json!({"type": "Ready", "status": "True", "lastTransitionTime": at})).collect();
    let pod = json!({"metadata": {"namespace": "ns", "name": name, "uid": name, "labels": labels},
        "spec": {"nodeName": "n", "containers": []}, "status": {"phase": "Running", "conditions": conditions}});
    Arc::new(serde_json::from_value(pod).expect("a pod"))
}

fn observed(workload: Arc<ReplicaSet>, owned: Vec<Arc<Pod>>, orphans: Vec<Arc<Pod>>) -> Observed<ReplicaSet> {
    let now = "2024-01-01T00:00:30Z".parse().expect("a time");
    let (owned, leaving) = owned.into_iter().partition(|p| pods::is_active(p));
    Observed { workload, owned, leaving, orphans, neighbours: HashMap::new(), now }
}

#[test]
fn creates_what_is_missing_adopts_and_releases() {
    let (full, part) = (json!({"app": "web", "v": "1"}), json!({"app": "web"}));
    let stray = pod("stray", json!({"app": "other"}), None);
    let lost = pod("lost", part, Some("2024-01-01T00:00:26Z"));
    let foreign = pod("foreign", json!({}), None);
    let kept = pod("kept", full, Some("2024-01-01T00:00:00Z"));
    let plan = decide(&observed(set(5, None), vec![kept, stray.clone()], vec![lost.clone(), foreign]));
    assert_eq!(
        plan,
        Plan {
            actions: vec![Action::Release(stray), Action::Adopt(lost), Action::Create(3)],
            counts: Counts { replicas: 2, fully_labeled: 1, ready: 2, available: 1, terminating: 0 },
            wait: Some(Duration::from_secs(6)),
        }
    );
}

#[test]
fn those_on_their_way_out_are_told_and_replaced() {
    let leaving = |name: &str, labels: Value| {
        let mut pod = (*pod(name, labels, Some("2024-01-01T00:00:00Z"))).clone();
        pod.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time("2024-01-01T00:00:20Z".parse().expect("a time")));
        Arc::new(pod)
    };
    let labels = json!({"app": "web", "v": "1"});
    let plan = decide(&observed(set(1, None), vec![leaving("a", labels), leaving("released", json!({}))], vec![]));
    assert_eq!(plan.actions, vec![Action::Create(1)]);
    let told = set(1, None).with_status(&plan.counts, None, Timestamp::now()).and_then(|set| set.status).expect("a status");
    assert_eq!((told.replicas, told.terminating_replicas), (0, Some(1)));
}

#[test]
fn deletes_the_surplus_and_nothing_while_being_deleted() {
    let labels = json!({"app": "web", "v": "1"});
    let (ready, not) = (pod("ready", labels.clone(), Some("2024-01-01T00:00:00Z")), pod("not", labels, None));
    let gone = set(1, Some("2024-01-01T00:00:00Z"));
    let plans = [set(1, None), gone].map(|set| decide(&observed(set, vec![ready.clone(), not.clone()], vec![])).actions);
    assert_eq!(plans, [vec![Action::Delete(vec![not])], vec![]]);
}

#[test]
fn a_failure_is_told_once_and_taken_back() {
    let now = "2024-01-01T00:00:30Z".parse().expect("a time");
    let counts = Counts::default();
    let failed = set(1, None).with_status(&counts, Some(("FailedCreate", "no")), now).expect("a change");
    let again = failed.with_status(&counts, Some(("FailedCreate", "still no")), now);
    let healed = failed.with_status(&counts, None, now).expect("a change");
    let told = serde_json::to_value(&failed.status).expect("encodes");
    assert_eq!(
        (told, again, serde_json::to_value(&healed.status).expect("encodes")),
        (
            json!({"replicas": 0, "terminatingReplicas": 0, "observedGeneration": 1, "conditions": [{"type": "ReplicaFailure", "status": "True",
                "lastTransitionTime": "2024-01-01T00:00:30Z", "reason": "FailedCreate", "message": "no"}]}),
            None,
            json!({"replicas": 0, "terminatingReplicas": 0, "observedGeneration": 1}),
        )
    );
}
