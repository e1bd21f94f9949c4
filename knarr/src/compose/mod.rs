//! Puts components together in one process: a node of a local cluster, a server, an agent. Node 1 has the control plane too,
//! and its components reach the API server in process, with neither socket nor TLS in between.

pub mod agent;
pub mod parts;

use anyhow::Result;

use crate::{
    commands::node::Report,
    local::record::{Cluster, Node},
};

/// Runs a node until it is told to end.
pub fn run(cluster: &Cluster, node: &Node) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        tracing::info!(cluster = cluster.name, node = node.name, "node process is up");
        Report::Ready.send();
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?.recv().await;
        Ok(())
    })
}
