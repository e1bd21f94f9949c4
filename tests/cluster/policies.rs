//! NetworkPolicies between pods of two nodes that VXLAN joins, by the names and services that pods use.

use std::time::Duration;

use anyhow::Result;
use harness::{Cluster, eventually};

use crate::life::with_example;

const SECONDS_30: Duration = Duration::from_secs(30);

const ASKERS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: friend, labels: {role: friend}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: "localhost/hello:1"}]
---
apiVersion: v1
kind: Pod
metadata: {name: stranger}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: "localhost/hello:1"}]
"#;

const FRIENDS_ONLY: &str = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: friends-only}
spec:
  podSelector: {matchLabels: {app: hello}}
  ingress:
  - from: [{podSelector: {matchLabels: {role: friend}}}]
    ports: [{port: http}]
"#;

/// Whether the service's page reaches the pod.
fn reaches(cluster: &Cluster, pod: &str) -> bool {
    cluster
        .kubectl(&["exec", pod, "--", "timeout", "2", "busybox", "wget", "-q", "-O", "-", "http://hello/"])
        .is_ok_and(|page| page.contains("Hello from hello-"))
}

fn eventually_reaches(cluster: &Cluster, pod: &str, wanted: bool) -> Result<()> {
    let what = format!("see {pod} {}", if wanted { "let in" } else { "kept out" });
    eventually(&what, SECONDS_30, || Ok((reaches(cluster, pod) == wanted).then_some(())))
}

#[test]
fn policies_say_who_reaches_a_service() -> Result<()> {
    let cluster = with_example(&["--nodes", "2", "--pod-network", "vxlan"])?;
    cluster.apply(ASKERS)?;
    cluster.kubectl(&["wait", "pod/friend", "pod/stranger", "--for=condition=Ready", "--timeout=60s"])?;
    eventually_reaches(&cluster, "friend", true)?;
    eventually_reaches(&cluster, "stranger", true)?;

    cluster.apply(FRIENDS_ONLY)?;
    eventually_reaches(&cluster, "stranger", false)?;
    eventually_reaches(&cluster, "friend", true)?;

    // A label makes a friend; the policy gone, everybody is one.
    cluster.kubectl(&["label", "pod", "stranger", "role=friend"])?;
    eventually_reaches(&cluster, "stranger", true)?;
    cluster.kubectl(&["label", "pod", "stranger", "role-"])?;
    eventually_reaches(&cluster, "stranger", false)?;
    cluster.kubectl(&["delete", "networkpolicy", "friends-only"])?;
    eventually_reaches(&cluster, "stranger", true)
}
