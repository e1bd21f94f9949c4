//! `knarr proxy`: the service proxy by itself, as upstream's kube-proxy is run.

use anyhow::Result;
use process::flags::LogFlags;

use crate::commands::component::{self, ClientFlags};

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: proxy::Config,
    #[command(flatten)]
    client: ClientFlags,
    #[command(flatten)]
    logs: LogFlags,
    /// Remove everything that the proxy left in the tables, and exit.
    #[arg(long)]
    cleanup: bool,
}

/// Does it.
pub fn run(args: Args) -> Result<()> {
    component::run(&args.logs, |shutdown| async move {
        if args.cleanup {
            return Ok(proxy::cleanup(None).await?);
        }
        let mut config = args.config;
        if config.node_name.is_empty() {
            config.node_name = component::host_name()?;
        }
        let client = component::client(args.client.kubeconfig.as_deref(), args.client.master.as_deref()).await?;
        Ok(proxy::run(config, client, shutdown).await?)
    })
}
