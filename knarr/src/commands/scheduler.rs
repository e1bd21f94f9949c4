//! `knarr scheduler`: the scheduler by itself.

use std::time::Duration;

use anyhow::{Result, bail};
use process::{
    flags::{LogFlags, duration},
    health::{self, Check},
    metrics::Metrics,
};

use crate::commands::{
    component::{self, ClientFlags},
    secure::SecureFlags,
};

/// Where upstream's scheduler serves.
const PORT: u16 = 10259;

/// Flags; upstream's where they exist.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Schedules pods whose spec.schedulerName is this.
    #[arg(long, default_value = "default-scheduler")]
    scheduler_name: String,
    #[command(flatten)]
    leader: LeaderFlags,
    #[command(flatten)]
    secure: SecureFlags,
    #[command(flatten)]
    client: ClientFlags,
    #[command(flatten)]
    logs: LogFlags,
}

/// Leader election; upstream's flags.
#[derive(Debug, clap::Args)]
struct LeaderFlags {
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
    /// How long others wait after a renewal they saw before they take over.
    #[arg(long, default_value = "15s", value_parser = duration)]
    leader_elect_lease_duration: Duration,
    /// How long the leader tries to renew before it gives up.
    #[arg(long, default_value = "10s", value_parser = duration)]
    leader_elect_renew_deadline: Duration,
    /// The time between two tries to acquire or renew.
    #[arg(long, default_value = "2s", value_parser = duration)]
    leader_elect_retry_period: Duration,
    /// The kind of object that is led by.
    #[arg(long, default_value = "leases", value_parser = ["leases"])]
    leader_elect_resource_lock: String,
    /// The name of the Lease.
    #[arg(long, default_value = "kube-scheduler")]
    leader_elect_resource_name: String,
    /// The namespace of the Lease.
    #[arg(long, default_value = "kube-system")]
    leader_elect_resource_namespace: String,
}

impl Args {
    fn config(&self) -> Result<scheduler::Config> {
        let leader = &self.leader;
        let (lease, renew, retry) =
            (leader.leader_elect_lease_duration, leader.leader_elect_renew_deadline, leader.leader_elect_retry_period);
        if leader.leader_elect && !(lease > renew && renew > retry) {
            bail!("leader election needs lease duration > renew deadline > retry period");
        }
        Ok(scheduler::Config {
            scheduler_name: self.scheduler_name.clone(),
            leader_elect: leader.leader_elect,
            lease: client::leader::Config {
                namespace: leader.leader_elect_resource_namespace.clone(),
                lease_duration: lease,
                renew_deadline: renew,
                retry_period: retry,
                ..client::leader::Config::new(&leader.leader_elect_resource_name, component::identity())
            },
        })
    }
}

/// Does it.
pub fn run(args: Args) -> Result<()> {
    component::run(&args.logs.clone(), |shutdown| async move {
        let config = args.config()?;
        let client = component::client(args.client.kubeconfig.as_deref(), args.client.master.as_deref()).await?;
        let metrics = Metrics::default();
        metrics.collect(client::metrics::Metrics::global().clone());
        metrics.collect(scheduler::metrics::Metrics::global().clone());
        args.secure.serve(PORT, health::router(vec![Check::ping()], metrics), &client, shutdown.clone()).await?;
        Ok(scheduler::run(config, client, shutdown).await?)
    })
}
