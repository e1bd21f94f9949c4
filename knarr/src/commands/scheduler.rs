//! `knarr scheduler`: the scheduler by itself.

use anyhow::Result;
use process::flags::LogFlags;

use crate::commands::component::{self, ClientFlags};

/// Flags; upstream's where they exist.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Schedules pods whose spec.schedulerName is this.
    #[arg(long, default_value = "default-scheduler")]
    scheduler_name: String,
    /// Start a leader election and gain leadership before working. Needed where several schedulers run.
    #[arg(
        long,
        default_value_t = true,
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    leader_elect: bool,
    #[command(flatten)]
    client: ClientFlags,
    #[command(flatten)]
    logs: LogFlags,
}

/// Does it.
pub fn run(args: Args) -> Result<()> {
    component::run(&args.logs, |shutdown| async move {
        let config = scheduler::Config {
            scheduler_name: args.scheduler_name,
            leader_elect: args.leader_elect,
            lease: client::leader::Config::new("kube-scheduler", component::identity()),
        };
        let client = component::client(args.client.kubeconfig.as_deref(), args.client.master.as_deref()).await?;
        Ok(scheduler::run(config, client, shutdown).await?)
    })
}
