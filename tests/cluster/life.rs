//! From nothing to a served page and back to nothing, whatever happens in between.

use std::{collections::BTreeSet, os::unix::fs::PermissionsExt, process::Stdio, time::Duration};

use anyhow::{Context, Result};
use harness::{Cluster, Signal, eventually, program, root, signal, traces};

const SECONDS_60: Duration = Duration::from_secs(60);

/// The page's answers, until two replicas have given theirs.
pub fn both_replicas(cluster: &Cluster, from: &str, url: &str) -> Result<BTreeSet<String>> {
    let mut seen = BTreeSet::new();
    eventually("hear both replicas", SECONDS_60, || {
        seen.insert(cluster.fetch(from, url)?);
        Ok((seen.len() >= 2).then(|| seen.clone()))
    })
}

/// A cluster that runs the example, all replicas ready.
pub fn with_example(arguments: &[&str]) -> Result<Cluster> {
    let cluster = Cluster::up(arguments)?;
    cluster.load_example_image()?;
    let manifest = root().join("manifests/examples/deployment.yaml");
    cluster.kubectl(&["apply", "-f", &manifest.to_string_lossy()])?;
    cluster.kubectl(&["rollout", "status", "deployment/hello", "--timeout=90s"])?;
    Ok(cluster)
}

#[test]
fn a_newcomer_gets_a_page_from_both_replicas_and_a_clean_machine_afterwards() -> Result<()> {
    let cluster = Cluster::named()?;
    let before = traces::of(&cluster.name);
    cluster.start(&[])?;
    cluster.load_example_image()?;
    let manifest = root().join("manifests/examples/deployment.yaml");
    cluster.kubectl(&["apply", "-f", &manifest.to_string_lossy()])?;
    cluster.kubectl(&["rollout", "status", "deployment/hello", "--timeout=90s"])?;

    let page = format!("http://{}:30080/", cluster.address(1)?);
    both_replicas(&cluster, "outside", &page)?;

    let mode = std::fs::metadata(cluster.kubeconfig())?.permissions().mode() & 0o777;
    let ready = cluster.status()?["nodes"][0]["ready"].clone();
    assert_eq!((mode, ready, traces::of(&cluster.name).rules), (0o600, true.into(), before.rules.clone()));
    // A second `up` finds everything alive and changes nothing.
    let pids = cluster.status()?["nodes"][0]["pids"].clone();
    cluster.start(&[])?;
    assert_eq!(cluster.status()?["nodes"][0]["pids"], pids);
    cluster.down()?;
    assert_eq!(traces::of(&cluster.name), before);
    cluster.down()
}

#[test]
fn down_cleans_up_after_everything_was_killed() -> Result<()> {
    let cluster = Cluster::named()?;
    let before = traces::of(&cluster.name);
    cluster.start(&[])?;
    cluster.load_example_image()?;
    cluster.apply(&std::fs::read_to_string(root().join("manifests/examples/deployment.yaml"))?)?;
    cluster.kubectl(&["rollout", "status", "deployment/hello", "--timeout=90s"])?;
    cluster.kill_everything()?;
    cluster.down()?;
    assert_eq!(traces::of(&cluster.name), before);
    Ok(())
}

#[test]
fn an_interrupted_up_can_be_taken_down_or_finished() -> Result<()> {
    let cluster = Cluster::named()?;
    let before = traces::of(&cluster.name);
    // At a few moments of its way, from the first namespace to almost done.
    for pause_ms in [5, 40, 150, 600] {
        let mut up = cluster.command(program("knarr")?);
        let mut up = up.args(["up", "--name", &cluster.name]).stderr(Stdio::null()).spawn()?;
        std::thread::sleep(Duration::from_millis(pause_ms));
        up.kill()?;
        up.wait()?;
        cluster.down()?;
        assert_eq!(traces::of(&cluster.name), before, "interrupted after {pause_ms} ms");
    }
    let mut up = cluster.command(program("knarr")?);
    let mut up = up.args(["up", "--name", &cluster.name]).stderr(Stdio::null()).spawn()?;
    std::thread::sleep(Duration::from_millis(100));
    up.kill()?;
    up.wait()?;
    cluster.start(&[])?;
    assert_eq!(cluster.status()?["nodes"][0]["ready"], true);
    Ok(())
}

#[test]
fn containers_outlive_their_agent() -> Result<()> {
    let cluster = with_example(&[])?;
    let containers = "jsonpath={range .items[*]}{.status.containerStatuses[0].containerID} \
                      {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}";
    let before = cluster.kubectl(&["get", "pods", "-o", containers])?;
    let agent = cluster.status()?["nodes"][0]["pids"]["kubelet"].as_i64().context("find the agent")?;
    let page = format!("http://{}:30080/", cluster.address(1)?);

    signal(agent, Signal::SIGKILL)?;
    eventually("see the agent dead", SECONDS_60, || {
        Ok((cluster.status()?["nodes"][0]["pids"]["kubelet"].is_null()).then_some(()))
    })?;
    both_replicas(&cluster, "outside", &page)?;

    cluster.start(&[])?;
    let after = eventually("see the pods again", SECONDS_60, || {
        let now = cluster.kubectl(&["get", "pods", "-o", containers])?;
        Ok((now == before).then_some(now))
    })?;
    both_replicas(&cluster, "outside", &page)?;
    assert_eq!(after, before);
    Ok(())
}

#[test]
fn three_nodes_serve_on_every_address() -> Result<()> {
    let cluster = with_example(&["--nodes", "3"])?;
    for n in 1..=3 {
        let page = format!("http://{}:30080/", cluster.address(n)?);
        both_replicas(&cluster, "outside", &page)?;
    }
    let status = cluster.status()?;
    let ready = status["nodes"].as_array().context("read the nodes")?.iter().filter(|n| n["ready"] == true).count();
    assert_eq!(ready, 3);
    let node = format!("{}-2", cluster.name);
    assert_eq!(cluster.knarr(&["enter", "--name", &cluster.name, "--node", &node, "hostname"])?.trim(), node);
    Ok(())
}

#[test]
fn etcd_keeps_the_objects_over_a_restart() -> Result<()> {
    let cluster = Cluster::up(&["--store", "etcd"])?;
    cluster.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kept}\ndata: {a: b}\n")?;
    cluster.kill_everything()?;
    cluster.start(&[])?;
    let kept = || cluster.kubectl(&["get", "configmap", "kept", "-o", "jsonpath={.data.a}"]);
    assert_eq!(kept()?, "b");

    // etcd alone dies: its node starts it again.
    let etcd = || Ok::<_, anyhow::Error>(cluster.status()?["nodes"][0]["pids"]["etcd"].as_i64());
    let former = etcd()?.context("find etcd")?;
    signal(former, Signal::SIGKILL)?;
    eventually("see another etcd", SECONDS_60, || Ok(etcd()?.filter(|pid| *pid != former)))?;
    eventually("write again", SECONDS_60, || Ok(cluster.kubectl(&["create", "configmap", "after"]).ok()))?;
    assert_eq!(kept()?, "b");
    Ok(())
}
