//! `knarr controller-manager`: the controllers by themselves.

use anyhow::Result;
use process::flags::LogFlags;

use crate::commands::component::{self, ClientFlags};

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: controller_manager::Config,
    #[command(flatten)]
    client: ClientFlags,
    #[command(flatten)]
    logs: LogFlags,
}

/// Does it.
pub fn run(args: Args) -> Result<()> {
    component::run(&args.logs, |shutdown| async move {
        let client = component::client(args.client.kubeconfig.as_deref(), args.client.master.as_deref()).await?;
        Ok(controller_manager::run(args.config, client, shutdown).await?)
    })
}
