//! `knarr node`: the process of one node of a local cluster. `up` starts it, reads its reports from its standard output until it
//! is ready, and leaves it running.

use std::io::Write;

use anyhow::{Context, Result};
use nix::sys::signal::{SigHandler, Signal, signal};
use serde::{Deserialize, Serialize};

use crate::local::{enter, layout, process::Identity, record::Cluster};

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
    let cluster = Cluster::existing(&args.cluster)?;
    let node = cluster.nodes()?.into_iter().find(|node| node.n == args.number).context("find the node in the cluster")?;
    let _ = nix::unistd::setsid();
    // SAFETY: ignoring a signal installs no handler.
    unsafe { signal(Signal::SIGHUP, SigHandler::SigIgn) }.context("ignore hang-ups")?;
    // Before any thread is started: namespaces belong to threads.
    enter::node(&cluster.name, &node.name)?;
    Identity::own().context("read our own start time")?.save(&node.folder, "knarr")?;
    crate::compose::run(&cluster, &node)
}
