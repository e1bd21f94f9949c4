//! `knarr kubeconfig`: prints a local cluster's kubeconfig, or one for a component that is to reach a server.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    balance,
    compose::{balancer, control_plane, failover},
    local::{kubeconfig, layout, record::Cluster},
};

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cluster.
    #[arg(long, default_value = "knarr")]
    name: String,
    /// Not a local cluster's, but for the server (`knarr server`, `knarr apiserver`) whose keys are kept here.
    #[arg(long, conflicts_with = "name", requires = "server")]
    data_dir: Option<PathBuf>,
    /// How the server is reached: https://ADDRESS:6443. Where it is one of several, the others are named besides.
    #[arg(long, requires = "data_dir")]
    server: Option<String>,
    /// Whom it is for: admin, system:kube-scheduler, system:kube-controller-manager, system:kube-proxy or system:node:NAME.
    #[arg(long, default_value = "admin", requires = "data_dir")]
    user: String,
    /// For a node: also make its serving certificate for this address, in pki/nodes/NAME-server.crt and .key.
    #[arg(long, requires = "data_dir")]
    node_ip: Option<Ipv4Addr>,
}

/// Does it.
pub fn run(args: &Args) -> Result<()> {
    if let (Some(data), Some(server)) = (&args.data_dir, &args.server) {
        print!("{}", of_server(data, server, args)?);
        return Ok(());
    }
    layout::check_name(&args.name)?;
    Cluster::existing(&args.name)?;
    print!("{}", kubeconfig::own(&args.name)?);
    Ok(())
}

fn of_server(data: &Path, server: &str, args: &Args) -> Result<String> {
    // Opening makes what is missing: an authority made here by mistake would be no cluster's.
    let authority = data.join("pki/ca.key");
    std::fs::metadata(&authority).with_context(|| format!("find the server's keys at {}", authority.display()))?;
    if let Some(address) = args.node_ip {
        let node = args.user.strip_prefix("system:node:").context("--node-ip needs --user system:node:NAME")?;
        control_plane::kubelet_certificate(data, node, address)?;
    }
    let text = control_plane::kubeconfig(data, server, &args.user)?;
    failover::naming(&text, &balance::remembered(&balancer::notes(data)))
}
