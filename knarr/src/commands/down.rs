//! `knarr down`: removes a local cluster. Removing what is not there is fine.

use anyhow::Result;

use crate::{
    commands::small_runtime,
    local::{layout, progress::Progress, record, sweep},
};

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cluster.
    #[arg(long, default_value = "knarr", conflicts_with = "all")]
    name: String,
    /// Every local cluster.
    #[arg(long)]
    all: bool,
}

/// Does it.
pub fn run(args: &Args) -> Result<()> {
    let names = if args.all { record::Cluster::names()? } else { vec![args.name.clone()] };
    for name in &names {
        layout::check_name(name)?;
        let _lock = record::lock(name)?;
        if !sweep::exists(name)? {
            eprintln!("there is no cluster {name}");
            continue;
        }
        let mut progress = Progress::default();
        progress.step(format!("Removing cluster {name}"));
        small_runtime()?.block_on(sweep::cluster(name))?;
        progress.done();
    }
    Ok(())
}
