//! `knarr node`: lets people see what a cluster does when a machine is lost, cut off, or back.

use anyhow::{Context, Result};

use crate::{
    commands::{small_runtime, up},
    local::{
        cgroup, layout, link,
        progress::Progress,
        record::{self, Cluster, Node},
    },
};

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Power a node off: every process of it is killed, its network is gone; its disk stays.
    Stop {
        /// The node, such as knarr-2.
        node: String,
    },
    /// Bring a node back that was stopped, died, or was cut off.
    Start {
        /// The node, such as knarr-2.
        node: String,
    },
    /// Cut a node's link: it runs on and reaches nobody, until it is started again.
    Partition {
        /// The node, such as knarr-2.
        node: String,
    },
}

/// Does it.
pub fn run(args: &Args) -> Result<()> {
    let (Action::Stop { node } | Action::Start { node } | Action::Partition { node }) = &args.action;
    let (cluster, _) = node.rsplit_once('-').with_context(|| format!("{node:?} is not a node's name, such as knarr-2"))?;
    layout::check_name(cluster)?;
    let _lock = record::lock(cluster)?;
    let cluster = Cluster::existing(cluster)?;
    let node = cluster.nodes()?.into_iter().find(|n| n.name == *node).with_context(|| {
        format!("there is no node {node} in cluster {}, which has {} of them", cluster.name, cluster.nodes)
    })?;
    match args.action {
        Action::Stop { .. } => stop(&cluster, &node),
        Action::Start { .. } => start(&cluster, &node),
        Action::Partition { .. } => small_runtime()?.block_on(link::cut_node(&node)),
    }
}

fn stop(cluster: &Cluster, node: &Node) -> Result<()> {
    let mut progress = Progress::default();
    progress.step(format!("Stopping {}", node.name));
    cgroup::kill_all(&layout::node_cgroup(&cluster.name, &node.name))?;
    small_runtime()?.block_on(link::remove_node(node))?;
    progress.done();
    Ok(())
}

fn start(cluster: &Cluster, node: &Node) -> Result<()> {
    let nodes = std::slice::from_ref(node);
    small_runtime()?.block_on(up::ensure_network(cluster, nodes))?;
    up::start(cluster, nodes, &mut Progress::default())
}
