//! What the components that run by themselves share: logging, a client from a kubeconfig, an orderly end.

use std::{
    future::Future,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use kube::{
    Client,
    config::{KubeConfigOptions, Kubeconfig},
};
use process::flags::LogFlags;
use tokio_util::sync::CancellationToken;

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
    let mut config = match kubeconfig {
        Some(path) => {
            let read = Kubeconfig::read_from(path).with_context(|| format!("read {}", path.display()))?;
            kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.context("use the kubeconfig")?
        }
        None => kube::Config::infer().await.context("find out how to reach the API server; give --kubeconfig")?,
    };
    if let Some(master) = master {
        config.cluster_url = master.parse().context("read --master")?;
    }
    Client::try_from(config).context("make a client")
}

/// Sets logging up and runs `work` until it ends, handing it the token that SIGTERM cancels.
pub fn run<F, Fut>(logs: &LogFlags, work: F) -> Result<()>
where
    F: FnOnce(CancellationToken) -> Fut,
    Fut: Future<Output = Result<()>>,
{
    process::logging::init(logs)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let shutdown = process::shutdown::on_signals().context("listen for signals")?;
        work(shutdown).await
    })
}
