//! `knarr run-node`: the process of one node of a local cluster. `up` starts it, puts it into its cgroup and records it, and only
//! then lets it go by a line on its standard input; if `up` dies before, it ends with the input. It reports on its
//! standard output until it is ready. Number 0 is no node: the balancer of a cluster with several servers.

use std::io::Write;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigHandler, Signal, signal};
use serde::{Deserialize, Serialize};

use crate::local::{enter, layout, record::Cluster};

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cluster.
    #[arg(long)]
    cluster: String,
    /// Which of its nodes.
    #[arg(long)]
    number: u8,
}

/// A line of a node's standard output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Report {
    /// What it is doing.
    Step(String),
    /// It is ready.
    Ready,
    /// It cannot start.
    Failed(String),
}

impl Report {
    /// Tells whoever listens.
    pub fn send(&self) {
        // Nobody listens once `up` is gone.
        if let Ok(line) = serde_json::to_string(self) {
            let _ = writeln!(std::io::stdout(), "{line}");
        }
    }
}

/// Does it.
pub fn run(args: &Args) -> Result<()> {
    let outcome = serve(args);
    if let Err(error) = &outcome {
        Report::Failed(format!("{error:#}")).send();
    }
    outcome
}

fn serve(args: &Args) -> Result<()> {
    layout::check_name(&args.cluster)?;
    let mut go = String::new();
    std::io::stdin().read_line(&mut go).context("wait for permission to start")?;
    if go.trim() != "go" {
        bail!("this is started by `knarr up`");
    }
    let cluster = Cluster::existing(&args.cluster)?;
    let node = match args.number {
        0 => cluster.outside()?,
        n => cluster.nodes()?.into_iter().find(|node| node.n == n).context("find the node in the cluster")?,
    };
    let _ = nix::unistd::setsid();
    // SAFETY: ignoring a signal installs no handler.
    unsafe { signal(Signal::SIGHUP, SigHandler::SigIgn) }.context("ignore hang-ups")?;
    // Before any thread is started: namespaces belong to threads.
    enter::node(&cluster.name, &node.name)?;
    match args.number {
        0 => crate::compose::outside::run(&cluster, &node),
        _ => crate::compose::run(&cluster, &node),
    }
}
