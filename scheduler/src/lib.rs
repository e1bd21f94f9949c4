//! The scheduler: gives every pending pod a node.
//!
//! One loop owns all state (a [`snapshot::Snapshot`] and a [`queue::Queue`]) and is fed by informers through a channel: one
//! writer, no locks. A decision ([`cycle::schedule`]) is a plain function of them. What it decides is assumed at once and
//! bound by a task of its own, so that the next decision doesn't wait for the API server. A pod that fits nowhere says why
//! and sleeps until an event that its plugins named.
//!
//! Deliberately absent: extenders, profiles by configuration file, volume binding, dynamic resource allocation.

mod cycle;
mod driver;
pub mod framework;
pub mod metrics;
pub mod plugins;
pub mod pod;
mod preemption;
mod queue;
pub mod resources;
pub mod snapshot;

use client::{LeaderElector, Recorder, leader};
use kube::Client;
use tokio_util::sync::CancellationToken;

pub use cycle::{Placement, Unfit, schedule};

/// How a scheduler runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Schedules pods whose `spec.schedulerName` is this.
    pub scheduler_name: String,
    /// Whether to lead by [`Config::lease`] first (`--leader-elect`).
    pub leader_elect: bool,
    /// The Lease, who we are among candidates, and the deadlines.
    pub lease: leader::Config,
}

impl Default for Config {
    fn default() -> Self {
        let lease = leader::Config::new("kube-scheduler", "kube-scheduler".to_owned());
        Self { scheduler_name: "default-scheduler".to_owned(), leader_elect: true, lease }
    }
}

/// Why the scheduler stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another candidate took the lease over: the process should end and start again.
    #[error("the scheduler's lease was lost")]
    LeaseLost,
}

/// Schedules until `shutdown` fires.
pub async fn run(config: Config, client: Client, shutdown: CancellationToken) -> Result<(), Error> {
    let recorder = Recorder::new(client.clone(), &config.scheduler_name, None);
    if !config.leader_elect {
        driver::run(&config, client, recorder, shutdown).await;
        return Ok(());
    }
    let elector = LeaderElector::new(client.clone(), config.lease.clone(), Some(recorder.clone()));
    let work = |stop| async move { driver::run(&config, client, recorder, stop).await };
    elector.run(shutdown, work).await.map_err(|_| Error::LeaseLost)
}
