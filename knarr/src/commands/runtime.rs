//! `knarr runtime`: the container runtime by itself, for any kubelet or other client that speaks CRI.

use std::{net::Ipv4Addr, path::PathBuf};

use anyhow::{Context, Result};
use net::Cidr;
use process::flags::LogFlags;

use crate::{commands::component, compose::registries};

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where images, containers and their records are kept.
    #[arg(long, default_value = "/var/lib/knarr-runtime")]
    root: PathBuf,
    /// The unix socket to serve the container runtime interface on.
    #[arg(long, default_value = "unix:///run/knarr/knarr.sock")]
    listen: String,
    /// Range of the pods' addresses on this node [default: told by the kubelet].
    #[arg(long)]
    pod_cidr: Option<Cidr>,
    /// Range of all nodes' pods' addresses.
    #[arg(long)]
    cluster_cidr: Option<Cidr>,
    /// IP address of the node.
    #[arg(long)]
    node_ip: Option<Ipv4Addr>,
    /// What connects pods: own (veth pairs and routes), cni (plugins), or auto: plugins if --cni-conf-dir holds a configuration at
    /// the start, else own.
    #[arg(long, default_value = "auto", value_parser = ["auto", "own", "cni"])]
    pod_network: String,
    /// Folder with the configuration of CNI plugins; of its files *.conf, *.conflist and *.json the first by name counts.
    #[arg(long, default_value = "/etc/cni/net.d")]
    cni_conf_dir: PathBuf,
    /// Folders with CNI plugins' programs, comma-separated.
    #[arg(long, value_delimiter = ',', default_value = "/opt/cni/bin,/usr/lib/cni")]
    cni_bin_dir: Vec<PathBuf>,
    /// Mirrors of registries and access to them [default: /etc/knarr/registries.yaml if it exists].
    #[arg(long)]
    registries_file: Option<PathBuf>,
    #[command(flatten)]
    logs: LogFlags,
}

/// Does it.
pub fn run(args: Args) -> Result<()> {
    component::run(&args.logs, |shutdown| async move {
        let socket = args.listen.strip_prefix("unix://").context("--listen must begin with unix://")?;
        let socket = std::path::absolute(socket).context("read --listen")?;
        if let Some(folder) = socket.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        let plugins = match args.pod_network.as_str() {
            "auto" => runtime::network::plugins::configured(&args.cni_conf_dir),
            choice => choice == "cni",
        };
        let config = runtime::Config {
            state: args.root,
            socket: Some(socket),
            shim: None,
            start_patience: None,
            shim_patience: None,
            registries: registries::load(args.registries_file.as_deref())?,
            own: runtime::network::OwnSettings {
                pod_cidr: args.pod_cidr.map(|cidr| cidr.to_string()),
                cluster_cidr: args.cluster_cidr.map(|cidr| cidr.to_string()),
                node_address: args.node_ip,
                ..Default::default()
            },
            plugins: runtime::network::PluginSettings {
                wanted: plugins,
                conf_dir: args.cni_conf_dir,
                bin_dirs: args.cni_bin_dir,
                namespace: None,
            },
        };
        Ok(runtime::Runtime::start(config).await?.run(shutdown).await?)
    })
}
