//! TCP from a pod to a pod on another node, over plain routes and over VXLAN, beside a bare veth pair between two network
//! namespaces.
//!
//! The three take turns, so what else the machine does hits all alike, and what is compared are turns that followed each
//! other. iperf3 is the host's, started inside the pods' network namespaces: the same program on either side of each way,
//! under no container's limits. Sender and receiver have a core each where there are two: left alone they share one at times
//! and not at others, which makes more of a difference than the ways do.

use std::{
    io::{BufRead, BufReader},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail};
use net::{LinkEnd, Netlink, netns};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use crate::{
    cluster::Cluster,
    measure::{median, report, rounded},
    node::{Pods, State, wait_for_account},
    objects::{self, PODS},
};

const ROUNDS: usize = 21;
const SECONDS: &str = "1";
const PORT: &str = "5201";
/// The bare pair's addresses, of a range that is nobody's (RFC 5737).
const BARE: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];

/// From where to where.
#[derive(Clone)]
struct Way {
    metric: &'static str,
    from: PathBuf,
    to: PathBuf,
    address: Ipv4Addr,
    mtu: u32,
}

/// What one run said.
struct Run {
    gbit: f64,
    cpu_s_per_gb: f64,
    machine_s_per_gb: f64,
    retransmits: f64,
}

/// Measures.
pub async fn run() -> Result<()> {
    let clusters = [Cluster::named("bench-host-gw")?, Cluster::named("bench-vxlan")?];
    let pair = Pair::new().await?;
    let mut ways = vec![Way {
        metric: "bare veth pair",
        from: pair.0[0].clone(),
        to: pair.0[1].clone(),
        address: BARE[1],
        mtu: mtu(&pair.0[0]).await?,
    }];
    for (cluster, (metric, mode)) in clusters.iter().zip([("host-gw", "host-gw"), ("VXLAN", "vxlan")]) {
        ways.push(between_pods(cluster, metric, mode).await?);
    }
    // New network namespaces take it from the machine's own.
    let control = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control")?;
    let measured = ways.clone();
    let runs = spawn_blocking(move || {
        (0..ROUNDS).map(|_| measured.iter().map(once).collect::<Result<Vec<Run>>>()).collect::<Result<Vec<_>>>()
    });
    let runs = runs.await??;
    for (at, way) in ways.iter().enumerate() {
        let of = |figure: fn(&Run) -> f64| median(runs.iter().map(|round| figure(&round[at]))).unwrap_or(f64::NAN);
        let share = median(runs.iter().map(|round| round[at].gbit / round[0].gbit * 100.0));
        let why = json!({
            "of_bare_percent": share.map(rounded),
            "cpu_s_per_gb": rounded(of(|run| run.cpu_s_per_gb)),
            "machine_cpu_s_per_gb": rounded(of(|run| run.machine_s_per_gb)),
            "retransmits": of(|run| run.retransmits), "mtu": way.mtu, "runs": ROUNDS, "congestion_control": control.trim(),
            "gbit_s": runs.iter().map(|round| rounded(round[at].gbit)).collect::<Vec<_>>(),
            "explained": "one TCP stream; of_bare_percent is the median of what each round had of its own bare run; \
                          cpu_s_per_gb is sender's and receiver's, machine_cpu_s_per_gb everything's",
        });
        report("net", way.metric, of(|run| run.gbit), "Gbit/s", why);
    }
    Ok(())
}

/// A cluster of two nodes and a pod on each.
async fn between_pods(cluster: &Cluster, metric: &'static str, mode: &str) -> Result<Way> {
    cluster.knarr(&["up", "--name", &cluster.name, "--nodes", "2", "--pod-network", mode])?;
    let target = cluster.target()?;
    wait_for_account(&target).await?;
    let mut pods = Pods::watch(&target).await?;
    let mut connection = target.connect().await?;
    for n in 1..=2 {
        let node = format!("{}-{n}", cluster.name);
        cluster.load_image_into(&node)?;
        let mut pod = objects::pod(&format!("pod-{n}"));
        pod["spec"]["nodeName"] = json!(node);
        connection.json("POST", PODS, &pod).await?;
    }
    pods.until_count(2, State::Ready).await?;
    let namespace = |node| -> Result<PathBuf> {
        cluster.pod_namespaces(node)?.into_values().next().with_context(|| format!("find the pod on node {node}"))
    };
    let (from, to) = (namespace(1)?, namespace(2)?);
    let answer = connection.json("GET", &format!("{PODS}/pod-2"), &Value::Null).await?;
    let address = answer["status"]["podIP"].as_str().context("find the pod's address")?.parse()?;
    Ok(Way { metric, mtu: mtu(&from).await?, from, to, address })
}

async fn mtu(namespace: &Path) -> Result<u32> {
    Ok(Netlink::in_namespace(namespace)?.existing("eth0").await?.mtu)
}

/// Two network namespaces joined by a veth pair; gone when dropped.
struct Pair([PathBuf; 2]);

impl Pair {
    async fn new() -> Result<Self> {
        let pair = Self(["bench-net-1", "bench-net-2"].map(netns::named));
        pair.remove();
        pair.0.iter().try_for_each(|path| netns::create(path))?;
        let far = netns::open(&pair.0[1])?;
        let end = LinkEnd { name: "eth0", ..LinkEnd::default() };
        let near = Netlink::in_namespace(&pair.0[0])?;
        near.add_veth(end, LinkEnd { namespace: Some(std::os::fd::AsFd::as_fd(&far)), ..end }).await?;
        for (path, address) in pair.0.iter().zip(BARE) {
            let netlink = Netlink::in_namespace(path)?;
            let link = netlink.existing("eth0").await?;
            netlink.add_address(link.index, address, 24).await?;
            netlink.set_up(link.index).await?;
        }
        Ok(pair)
    }

    fn remove(&self) {
        for path in &self.0 {
            let _ = netns::delete(path);
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.remove();
    }
}

/// A receiver of one test; ended when dropped.
struct Receiver(Child);

impl Receiver {
    fn start(namespace: &Path) -> Result<Self> {
        let mut command = Command::new("iperf3");
        command.args(["--server", "--one-off", "--forceflush", "--port", PORT]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut receiver = Self(netns::within(namespace, move || Ok(command.spawn()))?.context("start iperf3")?);
        let out = receiver.0.stdout.take().context("read iperf3's output")?;
        let mut lines = BufReader::new(out).lines();
        if !lines.any(|line| line.is_ok_and(|line| line.contains("listening"))) {
            bail!("iperf3 does not listen in {}", namespace.display());
        }
        // What it prints goes on being read: a full pipe would stop it.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(receiver)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One test. Blocks.
fn once(way: &Way) -> Result<Run> {
    let _receiver = Receiver::start(&way.to)?;
    let mut command = Command::new("iperf3");
    command.args(["--client", &way.address.to_string(), "--port", PORT, "--time", SECONDS, "--json"]);
    if std::thread::available_parallelism()?.get() > 1 {
        command.args(["--affinity", "0,1"]);
    }
    let before = machine_cpu()?;
    let output = netns::within(&way.from, move || Ok(command.output()))?.context("run iperf3")?;
    let machine = machine_cpu()? - before;
    let said: Value = serde_json::from_slice(&output.stdout).context("read what iperf3 says")?;
    if let Some(error) = said["error"].as_str() {
        bail!("iperf3 over {}: {error}", way.metric);
    }
    let end = &said["end"];
    let number = |value: &Value| value.as_f64().context("find a figure in what iperf3 says");
    let gigabytes = number(&end["sum_received"]["bytes"])? / 1e9;
    let cpu = &end["cpu_utilization_percent"];
    let busy = (number(&cpu["host_total"])? + number(&cpu["remote_total"])?) / 100.0;
    Ok(Run {
        gbit: number(&end["sum_received"]["bits_per_second"])? / 1e9,
        cpu_s_per_gb: busy * number(&end["sum_sent"]["seconds"])? / gigabytes,
        machine_s_per_gb: machine / gigabytes,
        retransmits: number(&end["sum_sent"]["retransmits"])?,
    })
}

/// Seconds that all cores together were busy.
fn machine_cpu() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let all: Vec<f64> = text.lines().next().unwrap_or_default().split_whitespace().filter_map(|n| n.parse().ok()).collect();
    let [user, nice, system, _, _, irq, softirq, ..] = all[..] else { bail!("/proc/stat is not as it should be") };
    Ok((user + nice + system + irq + softirq) / 100.0)
}
