//! `knarr up`: makes a local cluster, or starts what is dead of one.

use std::{
    collections::VecDeque,
    fs,
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use net::netns;

use crate::{
    commands::{run_node::Report, small_runtime},
    compose::agent::PodNetwork,
    local::{
        control, enter, etcd, kubeconfig, layout, link,
        process::Identity,
        progress::Progress,
        record::{self, Cluster, Node, Store},
    },
};

/// How long a node may take to become ready.
const PATIENCE: Duration = Duration::from_secs(120);

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cluster's name; also its kubeconfig context.
    #[arg(long, default_value = "knarr")]
    name: String,
    /// How many nodes it has [default: 1, or what it was made with].
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=i64::from(layout::MOST_NODES)))]
    nodes: Option<u8>,
    /// How many of its nodes, from the first on, are servers, each with an API server, a scheduler and controllers [default: 1,
    /// or what it was made with]; more than one need --store etcd.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=7))]
    servers: Option<u8>,
    /// What it keeps its objects in [default: redb, or what it was made with].
    #[arg(long, value_enum)]
    store: Option<Store>,
    /// How pods are connected: auto, host-gw, vxlan or cni [default: auto, or what it was made with]. Nodes of a local cluster
    /// look for the configuration of CNI plugins in a folder of their own, /var/lib/knarr/NAME/NODE/cni/net.d; with cni they are not ready before there is one.
    #[arg(long)]
    pod_network: Option<PodNetwork>,
    /// How long a node may be silent before it counts as lost, from the nodes' next start on [default: 50s, or what was asked
    /// for before].
    #[arg(long, value_parser = grace_period)]
    node_monitor_grace_period: Option<Duration>,
}

fn grace_period(text: &str) -> Result<Duration, String> {
    let period = process::flags::duration(text).map_err(|error| error.to_string())?;
    match period < Duration::from_secs(2) {
        true => Err("nodes tell of themselves once a second at most: it takes 2s or more".to_owned()),
        false => Ok(period),
    }
}

/// Does it.
pub fn run(args: &Args) -> Result<()> {
    layout::check_name(&args.name)?;
    if !nix::unistd::geteuid().is_root() {
        bail!("a local cluster is made of namespaces, which takes root");
    }
    let _lock = record::lock(&args.name)?;
    kubeconfig::check_free(&args.name)?;
    let mut progress = Progress::default();
    progress.step(format!("Preparing cluster {}", args.name));
    let runtime = small_runtime()?;
    let cluster = runtime.block_on(ensure_record(args))?;
    let nodes = cluster.nodes()?;
    runtime.block_on(ensure_network(&cluster, &nodes))?;
    if cluster.servers > 1 {
        ensure_outside(&cluster, &mut progress)?;
    }
    // The servers hold the control plane, which the others need.
    let (servers, others): (Vec<Node>, Vec<Node>) = nodes.into_iter().partition(|node| cluster.is_server(node));
    start(&cluster, &servers, &mut progress)?;
    start(&cluster, &others, &mut progress)?;
    progress.step("Writing kubeconfig");
    let path = kubeconfig::publish(&cluster.name)?;
    progress.done();
    eprintln!("Cluster {0} is up: {1}, context {0} in {2}", cluster.name, cluster.server()?, path.display());
    Ok(())
}

async fn ensure_record(args: &Args) -> Result<Cluster> {
    let cluster = match Cluster::load(&args.name)? {
        Some(mut cluster) => {
            if args.store.is_some_and(|store| store != cluster.store) {
                bail!("cluster {} was made with another --store; take it down first", args.name);
            }
            if args.pod_network.is_some_and(|mode| cluster.pod_network().ok() != Some(mode)) {
                bail!("cluster {} was made with another --pod-network; take it down first", args.name);
            }
            if args.servers.is_some_and(|servers| servers != cluster.servers) {
                bail!("cluster {} was made with another --servers; take it down first", args.name);
            }
            cluster.nodes = cluster.nodes.max(args.nodes.unwrap_or(1));
            cluster
        }
        None => {
            let servers = args.servers.unwrap_or(1);
            let (nodes, store) = (args.nodes.unwrap_or(servers), args.store.unwrap_or_default());
            if servers > 1 && store != Store::Etcd {
                bail!("--servers {servers} needs --store etcd: redb is one server's own");
            }
            if servers > nodes {
                bail!("--servers {servers} are more than --nodes {nodes}");
            }
            let _only_one_chooses = record::lock("")?;
            let cluster = Cluster {
                name: args.name.clone(),
                subnet: link::free_subnet().await?.to_string(),
                nodes,
                servers,
                store,
                pod_network: args.pod_network.map(|mode| mode.to_string()),
                node_monitor_grace_ms: None,
            };
            cluster.save()?;
            cluster
        }
    };
    let grace = args.node_monitor_grace_period.map(|grace| grace.as_millis() as u64);
    let cluster = Cluster { node_monitor_grace_ms: grace.or(cluster.node_monitor_grace_ms), ..cluster };
    cluster.save()?;
    Ok(cluster)
}

/// The cluster's network, and these nodes' namespaces and links.
pub async fn ensure_network(cluster: &Cluster, nodes: &[Node]) -> Result<()> {
    let new = link::ensure_outside(cluster).await.context("make the cluster's network")?;
    let all = cluster.nodes()?;
    let joined = |node: &Node| netns::exists(&netns::named(&node.name));
    for node in all.iter().filter(|node| nodes.contains(node) || new && joined(node)) {
        fs::create_dir_all(&node.folder).with_context(|| format!("create {}", node.folder.display()))?;
        link::ensure_node(cluster, node).await.with_context(|| format!("connect {}", node.name))?;
    }
    Ok(())
}

/// What a cluster of several servers has besides them: the token by which they share their keys, certificates for its etcd, and
/// a process in `NAME-outside` with the balancer (and with etcd, where it is on no node).
fn ensure_outside(cluster: &Cluster, progress: &mut Progress) -> Result<()> {
    let token = cluster.server_token();
    if !token.exists() {
        record::write_whole(&token, crate::token::Share::generate()?.secret.as_bytes(), 0o600)?;
    }
    etcd::ensure_certificates(cluster)?;
    let outside = cluster.outside()?;
    fs::create_dir_all(&outside.folder).with_context(|| format!("create {}", outside.folder.display()))?;
    start(cluster, &[outside], progress)
}

/// Starts those nodes that are dead, side by side, and returns when all of them are ready.
pub fn start(cluster: &Cluster, nodes: &[Node], progress: &mut Progress) -> Result<()> {
    let (reports, inbox) = mpsc::channel();
    for node in nodes {
        match Identity::load(&node.folder, "knarr") {
            // An earlier `up` may have been interrupted while it waited.
            Some(alive) => wait_ready(node.clone(), alive, reports.clone()),
            None => {
                progress.step(format!("Starting {}", node.name));
                listen(node.name.clone(), spawn(cluster, node)?, reports.clone());
            }
        }
    }
    drop(reports);
    let deadline = Instant::now() + PATIENCE;
    let mut waiting: Vec<&Node> = nodes.iter().collect();
    while let Some(&first) = waiting.first() {
        let left = deadline.saturating_duration_since(Instant::now());
        match inbox.recv_timeout(left) {
            Ok((name, Some(Report::Ready))) => waiting.retain(|node| node.name != name),
            Ok((name, Some(Report::Step(text)))) => progress.step(format!("{name}: {text}")),
            Ok((name, Some(Report::Failed(error)))) => bail!("{name} did not start: {error}"),
            Ok((name, None)) => {
                if let Some(node) = waiting.iter().find(|node| node.name == name) {
                    bail!("{name} ended while starting; its log ends with:\n{}", log_tail(node));
                }
            }
            Err(_) => bail!(
                "{} is not ready after {} s; its log, {}, ends with:\n{}",
                first.name,
                PATIENCE.as_secs(),
                first.folder.join(LOG).display(),
                log_tail(first)
            ),
        }
    }
    progress.done();
    Ok(())
}

const LOG: &str = "knarr.log";

fn spawn(cluster: &Cluster, node: &Node) -> Result<Child> {
    let path = node.folder.join(LOG);
    let log = fs::OpenOptions::new().create(true).append(true).open(&path);
    let log = log.with_context(|| format!("open {}", path.display()))?;
    let mut command = Command::new(std::env::current_exe().context("find our own program")?);
    command.args(["run-node", "--cluster", &cluster.name, "--number", &node.n.to_string()]);
    // Not the caller's directory: it could not be unmounted while the cluster runs.
    command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
    let mut child = command.spawn().with_context(|| format!("start {}", node.name))?;
    let pid = child.id();
    let placed = enter::place(&cluster.name, &node.name, pid).and_then(|()| {
        let identity = i32::try_from(pid).ok().and_then(Identity::of).context("read the process' start time")?;
        identity.save(&node.folder, "knarr")
    });
    // Without this line, when the pipe closes, it ends.
    let told = placed.and_then(|()| Ok(child.stdin.take().context("speak to it")?.write_all(b"go\n")?));
    if let Err(error) = told {
        let _ = child.kill();
        return Err(error).with_context(|| format!("start {}", node.name));
    }
    Ok(child)
}

/// Asks a node that runs already to say when it is ready.
fn wait_ready(node: Node, alive: Identity, reports: mpsc::Sender<(String, Option<Report>)>) {
    std::thread::spawn(move || {
        // It may not have opened its socket yet.
        while alive.is_alive() {
            if control::ask(&node.folder, "wait ready", std::io::empty()).is_ok() {
                let _ = reports.send((node.name, Some(Report::Ready)));
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = reports.send((node.name, None));
    });
}

/// Passes on what a node reports; `None` when it stops reporting.
fn listen(name: String, mut child: Child, reports: mpsc::Sender<(String, Option<Report>)>) {
    let Some(stdout) = child.stdout.take() else { return };
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if let Ok(report) = serde_json::from_str(&line) {
                let ready = matches!(report, Report::Ready);
                if reports.send((name.clone(), Some(report))).is_err() || ready {
                    return;
                }
            }
        }
        let _ = child.wait();
        let _ = reports.send((name, None));
    });
}

fn log_tail(node: &Node) -> String {
    let mut last = VecDeque::new();
    if let Ok(file) = fs::File::open(node.folder.join(LOG)) {
        for line in BufReader::new(file).lines().map_while(Result::ok) {
            last.push_back(line.chars().take(300).collect::<String>());
            if last.len() > 15 {
                last.pop_front();
            }
        }
    }
    Vec::from(last).join("\n")
}
