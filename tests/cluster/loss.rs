//! Machines that are lost, cut off and back.

use std::time::Duration;

use anyhow::Result;
use harness::{Cluster, eventually};

use crate::life::with_example;

const SECONDS_30: Duration = Duration::from_secs(30);

fn answers(cluster: &Cluster, node: usize) -> Result<bool> {
    Ok(cluster.fetch("outside", &format!("http://{}:30080/", cluster.address(node)?)).is_ok())
}

fn answers_again(cluster: &Cluster, node: usize) -> Result<()> {
    eventually("be answered by the node again", SECONDS_30, || Ok(answers(cluster, node)?.then_some(())))
}

#[test]
fn a_node_is_stopped_or_cut_off_and_comes_back() -> Result<()> {
    let cluster = with_example(&["--nodes", "2"])?;
    let second = format!("{}-2", cluster.name);
    let uids = || cluster.kubectl(&["get", "pods", "-o", "jsonpath={range .items[*]}{.metadata.uid} {end}"]);
    let before = uids()?;
    answers_again(&cluster, 2)?;

    cluster.knarr(&["node", "partition", &second])?;
    assert!(!answers(&cluster, 2)?);
    cluster.knarr(&["node", "start", &second])?;
    answers_again(&cluster, 2)?;

    cluster.knarr(&["node", "stop", &second])?;
    let status = cluster.status()?["nodes"][1]["pids"].clone();
    assert_eq!((status, answers(&cluster, 2)?), (serde_json::json!({}), false));
    cluster.knarr(&["node", "start", &second])?;
    answers_again(&cluster, 2)?;

    // It was away for less than the grace period: its pods are the same, in new containers.
    assert_eq!(uids()?, before);
    let restarts = cluster.kubectl(&[
        "get",
        "pods",
        "-o",
        "jsonpath={range .items[*]}{.spec.nodeName}={.status.containerStatuses[0].restartCount} {end}",
    ])?;
    let mut restarts: Vec<&str> = restarts.split_whitespace().collect();
    restarts.sort_unstable();
    assert_eq!(restarts, [format!("{}-1=0", cluster.name), format!("{second}=1")]);
    let unknown = cluster.knarr(&["node", "stop", &format!("{}-9", cluster.name)]).unwrap_err().to_string();
    assert!(unknown.contains("there is no node"), "{unknown}");
    Ok(())
}
