//! `knarr kubeconfig`: prints a local cluster's kubeconfig.

use anyhow::Result;

use crate::local::{kubeconfig, layout, record::Cluster};

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cluster.
    #[arg(long, default_value = "knarr")]
    name: String,
}

/// Does it.
pub fn run(args: &Args) -> Result<()> {
    layout::check_name(&args.name)?;
    Cluster::existing(&args.name)?;
    print!("{}", kubeconfig::own(&args.name)?);
    Ok(())
}
