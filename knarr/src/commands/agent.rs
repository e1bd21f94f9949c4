//! `knarr agent`: a node on this machine (runtime, kubelet and proxy in one process) for an API server elsewhere. It joins with a
//! token, or acts by kubeconfigs and certificates that somebody made for it.

use std::{net::Ipv4Addr, path::PathBuf};

use anyhow::{Context, Result};
use net::Cidr;
use process::flags::LogFlags;

use crate::{
    commands::{component, network::NetworkFlags},
    compose::{agent, join, parts::Parts, registries},
    notify,
    token::TokenFlags,
};

/// Flags; the kubelet's where they exist.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A server to join by, as https://HOST:PORT; may be given several times. The others are learned.
    #[arg(long, value_delimiter = ',', required_unless_present = "kubeconfig", conflicts_with = "kubeconfig")]
    server: Vec<String>,
    #[command(flatten)]
    token: TokenFlags,
    /// Path to a kubeconfig file that acts as the node, instead of joining.
    #[arg(long, requires = "client_ca_file", requires = "tls_cert_file")]
    kubeconfig: Option<PathBuf>,
    /// Path to a kubeconfig file that acts as the proxy [default: the node's].
    #[arg(long, requires = "kubeconfig")]
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
    /// A KubeletConfiguration file (kubelet.config.k8s.io/v1beta1) for what this program does not say itself.
    #[arg(long)]
    kubelet_config: Option<PathBuf>,
    /// The pods' range of this node [default: assigned by the cluster].
    #[arg(long)]
    pod_cidr: Option<Cidr>,
    /// Requests with a client certificate signed by one of these authorities are authenticated.
    #[arg(long, requires = "kubeconfig")]
    client_ca_file: Option<PathBuf>,
    /// File containing the x509 certificate used for serving HTTPS.
    #[arg(long, requires = "tls_private_key_file", requires = "kubeconfig")]
    tls_cert_file: Option<PathBuf>,
    /// File containing the x509 private key matching --tls-cert-file.
    #[arg(long, requires = "tls_cert_file")]
    tls_private_key_file: Option<PathBuf>,
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
        let mut parts = Parts::new(shutdown.clone());
        std::fs::create_dir_all(&args.data_dir).with_context(|| format!("create {}", args.data_dir.display()))?;
        let name = args.hostname_override.map_or_else(component::host_name, Ok)?;
        let serving = args.tls_cert_file.zip(args.tls_private_key_file);
        let (client_ca, kubelet_client, proxy_client) = match (&args.kubeconfig, args.client_ca_file) {
            (Some(kubeconfig), Some(authority)) => {
                let proxy = args.proxy_kubeconfig.as_ref().unwrap_or(kubeconfig);
                let own = component::client(Some(kubeconfig), None).await?;
                (authority, own, component::client(Some(proxy), None).await?)
            }
            _ => {
                let (token, folder) = (args.token.read()?, args.data_dir.clone());
                let plan = join::Plan { servers: args.server, token, folder, node: name.clone() };
                let joined = join::join(plan, &shutdown).await?;
                (joined.authority, joined.client, joined.proxy)
            }
        };
        let plan = agent::Plan {
            name,
            address: args.node_ip.map_or_else(component::own_address, Ok)?,
            folder: args.data_dir,
            pods: args.pod_cidr,
            network: args.network.into(),
            client_ca,
            serving,
            registries: registries::load(args.registries_file.as_deref())?,
            shared_disk: args.shared_disk,
            kubelet: component::kubelet_config(args.kubelet_config.as_deref())?,
            kubelet_client,
            proxy_client,
        };
        agent::start(plan, &mut parts).await?;
        notify::ready();
        parts.finish().await;
        Ok(())
    })
}
