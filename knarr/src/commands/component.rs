//! What the components that run by themselves share: logging, a client from a kubeconfig, an orderly end.

use std::{
    future::Future,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use kube::Client;
use process::flags::LogFlags;
use tokio_util::sync::CancellationToken;

use crate::compose::failover;

/// How a component reaches the API server; upstream's flags.
#[derive(Clone, Debug, clap::Args)]
pub struct ClientFlags {
    /// Path to a kubeconfig file; where the pod's service account would do, it may be left out.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// The address of the API server (overrides any value in kubeconfig).
    #[arg(long)]
    pub master: Option<String>,
}

/// A client from flags.
pub async fn client(kubeconfig: Option<&Path>, master: Option<&str>) -> Result<Client> {
    failover::client(config(kubeconfig, master).await?)
}

/// The same without the credentials.
pub async fn anonymous_client(kubeconfig: Option<&Path>, master: Option<&str>) -> Result<Client> {
    let (mut config, servers) = config(kubeconfig, master).await?;
    config.auth_info = kube::config::AuthInfo::default();
    failover::client((config, servers))
}

/// The configuration, and the servers that the file names.
async fn config(kubeconfig: Option<&Path>, master: Option<&str>) -> Result<(kube::Config, Vec<String>)> {
    let (mut config, mut servers) = match kubeconfig {
        Some(path) => failover::read(path).await?,
        None => {
            let inferred = kube::Config::infer().await;
            (inferred.context("find out how to reach the API server; give --kubeconfig")?, Vec::new())
        }
    };
    if let Some(master) = master {
        config.cluster_url = master.parse().context("read --master")?;
        servers.clear();
    }
    Ok((config, servers))
}

/// The host's name, as a node's.
pub fn host_name() -> Result<String> {
    let name = nix::unistd::gethostname().context("read the host's name")?;
    Ok(name.to_string_lossy().trim().to_lowercase())
}

/// Unique among candidates for a lease, and readable.
pub fn identity() -> String {
    format!("{}_{}", host_name().unwrap_or_else(|_| "unknown".to_owned()), std::process::id())
}

/// The address of the default route's interface.
pub fn own_address() -> Result<Ipv4Addr> {
    // Connecting a datagram socket sends nothing; it only asks the routing table.
    let socket = UdpSocket::bind("0.0.0.0:0").context("open a socket")?;
    socket.connect("192.0.2.1:9").context("find this machine's address; give it by flag")?;
    match socket.local_addr()?.ip() {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(address) => bail!("{address} is no IPv4 address; give one by flag"),
    }
}

/// Sets logging up and runs `work` until it ends, handing it the token that SIGTERM cancels. Work that ends in order before that
/// has cancelled the token itself, because a task that it cannot do without panicked: an error, so that whoever started the
/// process starts it again.
pub fn run<F, Fut>(logs: &LogFlags, work: F) -> Result<()>
where
    F: FnOnce(CancellationToken) -> Fut,
    Fut: Future<Output = Result<()>>,
{
    process::logging::init(logs)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let shutdown = process::shutdown::on_signals().context("listen for signals")?;
        work(shutdown.child_token()).await?;
        if shutdown.is_cancelled() { Ok(()) } else { bail!("ended unasked; what is logged before says why") }
    })
}

/// The kubelet's configuration as a file says it, or the default.
pub fn kubelet_config(file: Option<&Path>) -> Result<kubelet::Config> {
    file.map_or_else(
        || Ok(kubelet::Config::default()),
        |file| kubelet::Config::of_file(file).context("configure the kubelet"),
    )
}
