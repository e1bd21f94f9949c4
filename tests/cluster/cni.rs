//! Pods connected by somebody else's plugins: Debian's, configured while the node runs.

use std::{collections::BTreeSet, fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use harness::{Cluster, Signal, eventually, root, signal, traces};

use crate::life::both_replicas;

const SECONDS_30: Duration = Duration::from_secs(30);

/// What is between two looks of a kubelet at a node that is not ready; an event comes sooner.
const SOON: Duration = Duration::from_secs(20);

/// A pod with a port of node 1's, which the plugins lead to it.
const BEHIND_A_HOST_PORT: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: behind}
spec:
  terminationGracePeriodSeconds: 0
  nodeSelector: {kubernetes.io/hostname: NODE}
  containers: [{name: main, image: "localhost/hello:1", ports: [{containerPort: 8080, hostPort: 8090}]}]
"#;

/// A node's only configuration.
fn configuration(cluster: &Cluster, n: usize) -> PathBuf {
    let node = format!("{}-{n}", cluster.name);
    PathBuf::from("/var/lib/knarr").join(&cluster.name).join(node).join("cni/net.d/10-test.conflist")
}

/// Configures a node's plugins; the folder in which they keep the addresses they gave.
fn configure(cluster: &Cluster, n: usize, mtu: u32) -> Result<PathBuf> {
    let conf = configuration(cluster, n);
    let leases = conf.with_file_name("leases");
    let list = format!(
        r#"{{"cniVersion": "1.0.0", "name": "test", "plugins": [
            {{"type": "ptp", "mtu": {mtu}, "capabilities": {{"ipRanges": true}},
              "ipam": {{"type": "host-local", "dataDir": "{}", "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
            {{"type": "portmap", "capabilities": {{"portMappings": true}}}}]}}"#,
        leases.display()
    );
    fs::write(conf, list)?;
    Ok(leases.join("test"))
}

/// Leads a node to another one's pods, which these plugins leave to others.
fn lead(cluster: &Cluster, from: usize, to: usize) -> Result<()> {
    let (from, other) = (format!("{}-{from}", cluster.name), format!("{}-{to}", cluster.name));
    let pods = cluster.kubectl(&["get", "node", &other, "-o", "jsonpath={.spec.podCIDR}"])?;
    let route = ["ip", "route", "add", &pods, "via", &cluster.address(to)?];
    cluster.knarr(&[&["enter", "--name", &cluster.name, "--node", &from, "--"], &route[..]].concat()).map(drop)
}

/// What a node's Ready condition says, once it says so.
fn ready_says(cluster: &Cluster, n: usize, status: &str) -> Result<String> {
    let node = format!("{}-{n}", cluster.name);
    eventually("see the node change", SOON, || {
        let condition = r#"{.status}|{.message}"#;
        let path = format!(r#"jsonpath={{range .status.conditions[?(@.type=="Ready")]}}{condition}{{end}}"#);
        let said = cluster.kubectl(&["get", "node", &node, "-o", &path])?;
        Ok(said.strip_prefix(&format!("{status}|")).map(str::to_owned))
    })
}

#[test]
fn plugins_connect_pods_instead_of_us() -> Result<()> {
    const NOTHING: &str = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady \
                           message:Network plugin returns error: cni plugin not initialized";
    let cluster = Cluster::named()?;
    let before = traces::of(&cluster.name);
    cluster.start(&["--pod-network", "cni", "--nodes", "2"])?;
    assert_eq!(ready_says(&cluster, 1, "False")?, NOTHING);

    let leases = configure(&cluster, 1, 1400)?;
    configure(&cluster, 2, 1400)?;
    for (n, other) in [(1, 2), (2, 1)] {
        ready_says(&cluster, n, "True")?;
        lead(&cluster, n, other)?;
    }
    cluster.load_example_image()?;
    cluster.apply(&fs::read_to_string(root().join("manifests/examples/deployment.yaml"))?)?;
    cluster.apply(&BEHIND_A_HOST_PORT.replace("NODE", &format!("{}-1", cluster.name)))?;
    cluster.kubectl(&["rollout", "status", "deployment/hello", "--timeout=90s"])?;
    cluster.kubectl(&["wait", "pod/behind", "--for=condition=Ready", "--timeout=60s"])?;

    let address = cluster.address(1)?;
    both_replicas(&cluster, "outside", &format!("http://{address}:30080/"))?;
    assert_eq!(cluster.fetch("outside", &format!("http://{address}:8090/"))?, "<h1>Hello from behind</h1>\n");
    // The replicas are on both nodes.
    let on = cluster.kubectl(&["get", "pods", "-l", "app=hello", "-o", "jsonpath={.items[*].spec.nodeName}"])?;
    assert_eq!(on.split(' ').collect::<BTreeSet<_>>().len(), 2, "{on}");
    // By a name, from pod to service: the plugins put the gateway's address, where names are answered, on the node.
    let mut pages = BTreeSet::new();
    eventually("fetch both replicas' pages by name", SECONDS_30, || {
        let ask = ["exec", "behind", "--", "timeout", "5", "busybox", "wget", "-q", "-O", "-", "http://hello/"];
        pages.extend(cluster.kubectl(&ask).ok());
        Ok((pages.len() == 2).then_some(()))
    })?;
    assert!(pages.iter().all(|page| page.starts_with("<h1>Hello from hello-")), "{pages:?}");
    let links = cluster.knarr(&["enter", "--name", &cluster.name, "--", "ip", "-o", "link"])?;
    assert!(!links.contains("cni0") && !links.contains("knarr.1"), "{links}");

    // A configuration that was edited is the next pod's; what is connected stays as it is.
    configure(&cluster, 1, 1300)?;
    cluster.apply(
        &BEHIND_A_HOST_PORT
            .replace("NODE", &format!("{}-1", cluster.name))
            .replace("behind", "next")
            .replace("8090", "8091"),
    )?;
    cluster.kubectl(&["wait", "pod/next", "--for=condition=Ready", "--timeout=60s"])?;
    let mtu = |pod: &str| cluster.kubectl(&["exec", pod, "--", "cat", "/sys/class/net/eth0/mtu"]);
    assert_eq!((mtu("behind")?.trim(), mtu("next")?.trim()), ("1400", "1300"));

    // The agent dies; the next one disconnects what the former one has connected, with the configuration of then.
    let agent = cluster.status()?["nodes"][0]["pids"]["kubelet"].as_i64().context("find the agent")?;
    signal(agent, Signal::SIGKILL)?;
    eventually("see the agent gone", SECONDS_30, || {
        Ok((cluster.status()?["nodes"][0]["pids"]["kubelet"].is_null()).then_some(()))
    })?;
    fs::remove_file(configuration(&cluster, 1))?;
    cluster.start(&[])?;
    assert_eq!(ready_says(&cluster, 1, "False")?, NOTHING);
    cluster.kubectl(&["delete", "deployment/hello", "pod/behind", "pod/next", "--timeout=60s"])?;
    let addresses = || -> Result<Vec<String>> {
        let names = fs::read_dir(&leases)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let names: Result<Vec<String>> = names.collect();
        Ok(names?.into_iter().filter(|name| name.starts_with("10.")).collect())
    };
    eventually("see all addresses given back", SECONDS_30, || Ok(addresses()?.is_empty().then_some(())))?;
    cluster.down()?;
    assert_eq!(traces::of(&cluster.name), before);
    Ok(())
}
