//! Keeps the ways to other nodes' pods as the nodes' objects say: by difference, and whenever somebody has changed something.
//!
//! Nothing is remembered between rounds. A round reads the nodes, our own addresses and what the kernel has, and changes what
//! differs; so a restart is a round like any other, and what an unreachable API server says nothing about stays as it is.

use std::{net::Ipv4Addr, path::PathBuf, sync::Arc, time::Duration};

use client::{Informer, Options};
use k8s_openapi::api::core::v1::{Node, NodeAddress, NodeStatus};
use net::{
    Cidr,
    peers::{self, Changes, Mode, Peer, PeerRoutes, Plan},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How often everything is compared whatever the kernel says.
const LOOK: Duration = Duration::from_secs(60);
/// Changes come in bursts: look when they pause.
const PAUSE: Duration = Duration::from_millis(50);

/// What to keep up.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node's name.
    pub node_name: String,
    /// How other nodes' pods are reached.
    pub mode: Mode,
    /// Every node's pods.
    pub cluster_cidr: Cidr,
    /// The node's network namespace; the process' own if `None`.
    pub namespace: Option<PathBuf>,
    /// All nodes are namespaces of one machine ([`PeerRoutes::new`]).
    pub one_machine: bool,
}

impl Config {
    /// The usual range.
    pub fn new(node_name: impl Into<String>, mode: Mode) -> Self {
        let cluster_cidr = Cidr::new(Ipv4Addr::new(10, 42, 0, 0), 16);
        Self { node_name: node_name.into(), mode, cluster_cidr, namespace: None, one_machine: false }
    }
}

/// Keeps the node's routes until `shutdown`. They stay behind: what is connected stays so.
pub async fn run(config: Config, client: kube::Client, shutdown: CancellationToken) -> Result<(), net::Error> {
    let routes = PeerRoutes::new(config.namespace.clone(), config.one_machine)?;
    let kernel = Changes::subscribe(config.namespace.as_deref())?;
    let nodes: Informer<Node> =
        Informer::start(client, Options { transform: strip, ..Options::default() }, shutdown.clone());
    let news = Arc::new(Notify::new());
    let tell = news.clone();
    nodes.on_change(move |change| {
        if change.old().map(|old| peer(old)) != Some(peer(change.object())) || matches!(change, client::Change::Deleted(_)) {
            tell.notify_one();
        }
    });
    if shutdown.run_until_cancelled(nodes.synced()).await.is_none() {
        return Ok(());
    }
    let mut failures = 0u32;
    let mut told = Plan::default();
    loop {
        let outcome = round(&config, &routes, &nodes, &mut told).await;
        let patience = match outcome {
            Ok(()) => {
                failures = 0;
                LOOK
            }
            Err(error) => {
                failures += 1;
                let reason = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::error!(%error, reason, "cannot lead to other nodes' pods");
                Duration::from_millis(200 << failures.min(7))
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = news.notified() => {}
            () = kernel.changed(), if failures == 0 => {}
            () = tokio::time::sleep(patience) => {}
        }
        if shutdown.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_none() {
            return Ok(());
        }
    }
}

/// Takes away all ways that were ever made here, where another network leads to other nodes' pods.
pub async fn withdraw() -> Result<(), net::Error> {
    PeerRoutes::new(None, false)?.apply(&Plan::default()).await.map(drop)
}

async fn round(config: &Config, routes: &PeerRoutes, nodes: &Informer<Node>, told: &mut Plan) -> Result<(), net::Error> {
    let mut all: Vec<Peer> = nodes.list().iter().map(|node| peer(node)).collect();
    // Who came first keeps what two claim.
    all.sort_by(|a, b| a.name.cmp(&b.name));
    let Some(us) = all.iter().position(|peer| peer.name == config.node_name).map(|at| all.remove(at)) else {
        // Not registered yet, or deleted by mistake: nobody knows what is whose.
        return Ok(());
    };
    let own = routes.own(us.pods).await?;
    let plan = peers::plan(config.mode, config.cluster_cidr, &us, &all, &own);
    let changed = routes.apply(&plan).await?;
    if plan != *told || changed > 0 {
        let (direct, overlay) = (plan.gateways.len(), plan.tunnels.len());
        tracing::info!(direct, overlay, changed, unreachable = ?plan.unreachable, "Ways to other nodes' pods are set");
        *told = plan;
    }
    Ok(())
}

/// What of a node matters here.
fn peer(node: &Node) -> Peer {
    let spec = node.spec.as_ref();
    let ranges = spec.into_iter().flat_map(|spec| spec.pod_cidr.iter().chain(spec.pod_cidrs.iter().flatten()));
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let internal = addresses.filter(|address| address.type_ == "InternalIP");
    Peer {
        name: node.metadata.name.clone().unwrap_or_default(),
        addresses: internal.filter_map(|address| address.address.parse().ok()).collect(),
        pods: ranges.filter_map(|range| range.parse().ok()).next(),
    }
}

/// Keeps what [`peer`] reads.
fn strip(node: &mut Node) {
    let addresses: Option<Vec<NodeAddress>> = node.status.take().and_then(|status| status.addresses);
    node.status = Some(NodeStatus { addresses, ..NodeStatus::default() });
    let metadata = &mut node.metadata;
    (metadata.managed_fields, metadata.annotations, metadata.labels) = (None, None, None);
}
