//! `knarr agent`: a node on this machine (runtime, kubelet and proxy in one process) for an API server elsewhere.

use std::{net::Ipv4Addr, path::PathBuf};

use anyhow::{Context, Result};
use net::Cidr;
use process::flags::LogFlags;

use crate::{
    commands::{component, network::NetworkFlags},
    compose::{agent, parts::Parts, registries},
};

/// Flags; the kubelet's where they exist.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Path to a kubeconfig file that acts as the node.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Path to a kubeconfig file that acts as the proxy [default: the node's].
    #[arg(long)]
    proxy_kubeconfig: Option<PathBuf>,
    /// Where everything of the node is kept.
    #[arg(long, default_value = "/var/lib/knarr-agent")]
    data_dir: PathBuf,
    /// The node's name [default: the host's].
    #[arg(long, visible_alias = "node-name")]
    hostname_override: Option<String>,
    /// IP address of the node [default: the address of the default route's interface].
    #[arg(long)]
    node_ip: Option<Ipv4Addr>,
    /// The disk is shared with other things than the node: how full it is says nothing about its pods, and evicts none.
    #[arg(long)]
    shared_disk: bool,
    /// The pods' range of this node [default: assigned by the cluster].
    #[arg(long)]
    pod_cidr: Option<Cidr>,
    /// Requests with a client certificate signed by one of these authorities are authenticated.
    #[arg(long)]
    client_ca_file: PathBuf,
    /// File containing the x509 certificate used for serving HTTPS.
    #[arg(long)]
    tls_cert_file: PathBuf,
    /// File containing the x509 private key matching --tls-cert-file.
    #[arg(long)]
    tls_private_key_file: PathBuf,
    /// Mirrors of registries and access to them [default: /etc/knarr/registries.yaml if it exists].
    #[arg(long)]
    registries_file: Option<PathBuf>,
    #[command(flatten)]
    network: NetworkFlags,
    #[command(flatten)]
    logs: LogFlags,
}

/// Does it.
pub fn run(args: Args) -> Result<()> {
    component::run(&args.logs, |shutdown| async move {
        let mut parts = Parts::new(shutdown);
        std::fs::create_dir_all(&args.data_dir).with_context(|| format!("create {}", args.data_dir.display()))?;
        let proxy = args.proxy_kubeconfig.as_ref().unwrap_or(&args.kubeconfig);
        let plan = agent::Plan {
            name: args.hostname_override.map_or_else(component::host_name, Ok)?,
            address: args.node_ip.map_or_else(component::own_address, Ok)?,
            folder: args.data_dir,
            pods: args.pod_cidr,
            network: args.network.into(),
            client_ca: args.client_ca_file,
            serving: (args.tls_cert_file, args.tls_private_key_file),
            registries: registries::load(args.registries_file.as_deref())?,
            shared_disk: args.shared_disk,
            kubelet_client: component::client(Some(&args.kubeconfig), None).await?,
            proxy_client: component::client(Some(proxy), None).await?,
        };
        agent::start(plan, &mut parts).await?;
        parts.finish().await;
        Ok(())
    })
}
