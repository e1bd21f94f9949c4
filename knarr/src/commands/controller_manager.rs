//! `knarr controller-manager`: the controllers by themselves.

use anyhow::Result;
use process::{
    flags::LogFlags,
    health::{self, Check},
    metrics::Metrics,
};

use crate::commands::{
    component::{self, ClientFlags},
    secure::SecureFlags,
};

/// Where upstream's controller manager serves.
const PORT: u16 = 10257;

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: controller_manager::Config,
    #[command(flatten)]
    secure: SecureFlags,
    #[command(flatten)]
    client: ClientFlags,
    #[command(flatten)]
    logs: LogFlags,
}

/// Does it.
pub fn run(args: Args) -> Result<()> {
    component::run(&args.logs, |shutdown| async move {
        let mut config = args.config;
        if config.use_service_account_credentials {
            let client =
                component::anonymous_client(args.client.kubeconfig.as_deref(), args.client.master.as_deref()).await?;
            config.anonymous = controller_manager::credentials::Anonymous(Some(client));
        }
        let client = component::client(args.client.kubeconfig.as_deref(), args.client.master.as_deref()).await?;
        let metrics = Metrics::default();
        metrics.collect(client::metrics::Metrics::global().clone());
        args.secure.serve(PORT, health::router(vec![Check::ping()], metrics), &client, shutdown.clone()).await?;
        Ok(controller_manager::run(config, client, shutdown).await?)
    })
}
