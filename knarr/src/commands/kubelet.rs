//! `knarr kubelet`: the kubelet by itself, on any container runtime that speaks CRI.

use anyhow::{Context, Result};
use process::flags::LogFlags;

use crate::commands::component;

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: kubelet::Config,
    #[command(flatten)]
    logs: LogFlags,
}

/// Does it.
pub fn run(args: Args) -> Result<()> {
    component::run(&args.logs, |shutdown| async move {
        let client = component::client(args.config.kubeconfig.as_deref(), None).await?;
        let runtime = cri::Channel::connect(&args.config.container_runtime_endpoint)
            .context("reach the container runtime at --container-runtime-endpoint")?;
        Ok(Box::pin(kubelet::run(args.config, client, runtime, shutdown)).await?)
    })
}
