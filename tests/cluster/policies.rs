//! NetworkPolicies between pods of two nodes that VXLAN joins, by the names and services that pods use.

use std::{collections::BTreeMap, time::Duration};

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

/// A pod that is reached by a port of the first node.
const BEHIND_A_HOST_PORT: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: behind}
spec:
  nodeName: NODE
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: "localhost/hello:1", ports: [{containerPort: 8080, hostPort: 8090}]}]
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

/// A pod of each node.
fn askers_by_node(cluster: &Cluster) -> Result<Vec<String>> {
    let each = "jsonpath={range .items[*]}{.spec.nodeName} {.metadata.name}{\"\\n\"}{end}";
    let pods = cluster.kubectl(&["get", "pods", "-l", "app=hello", "-o", each])?;
    let by_node: BTreeMap<&str, &str> = pods.lines().filter_map(|line| line.split_once(' ')).collect();
    assert_eq!(by_node.len(), 2, "{pods}");
    Ok(by_node.into_values().map(str::to_owned).collect())
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

    // A host port leads to a pod from outside, from its own node, and by the overlay from the other node's pods.
    cluster.apply(&BEHIND_A_HOST_PORT.replace("NODE", &format!("{}-1", cluster.name)))?;
    cluster.kubectl(&["wait", "pod/behind", "--for=condition=Ready", "--timeout=60s"])?;
    let page = format!("http://{}:8090/", cluster.address(1)?);
    for from in ["outside", "1", "2"] {
        assert_eq!(cluster.fetch(from, &page)?, "<h1>Hello from behind</h1>\n", "from {from}");
    }
    for asker in askers_by_node(&cluster)? {
        let said = cluster.kubectl(&["exec", &asker, "--", "timeout", "5", "busybox", "wget", "-q", "-O", "-", &page])?;
        assert_eq!(said, "<h1>Hello from behind</h1>\n", "from {asker}");
    }

    // A label makes a friend; the policy gone, everybody is one.
    cluster.kubectl(&["label", "pod", "stranger", "role=friend"])?;
    eventually_reaches(&cluster, "stranger", true)?;
    cluster.kubectl(&["label", "pod", "stranger", "role-"])?;
    eventually_reaches(&cluster, "stranger", false)?;
    cluster.kubectl(&["delete", "networkpolicy", "friends-only"])?;
    eventually_reaches(&cluster, "stranger", true)
}
