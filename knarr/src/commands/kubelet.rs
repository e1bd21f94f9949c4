//! `knarr kubelet`: the kubelet by itself, on any container runtime that speaks CRI.

use std::ffi::OsString;

use anyhow::{Context, Result};
use clap::Parser;
use process::flags::LogFlags;

use crate::commands::component;

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: kubelet::Config,
    #[command(flatten)]
    logs: LogFlags,
}

/// The flags once more, after those that a configuration file amounts to.
#[derive(clap::Parser)]
#[command(args_override_self = true, no_binary_name = true)]
struct WithFile {
    #[command(flatten)]
    args: Args,
}

/// Does it.
pub fn run(args: Args) -> Result<()> {
    let args = match &args.config.config {
        Some(file) => {
            let said = kubelet::flags_of_file(file)?.into_iter().map(OsString::from);
            // The program and the subcommand come first.
            let own = super::by_program_name(std::env::args_os().collect()).into_iter().skip(2);
            WithFile::try_parse_from(said.chain(own)).context("use the configuration file")?.args
        }
        None => args,
    };
    component::run(&args.logs, |shutdown| async move {
        let client = component::client(args.config.kubeconfig.as_deref(), None).await?;
        let runtime = cri::Channel::connect(&args.config.container_runtime_endpoint)
            .context("reach the container runtime at --container-runtime-endpoint")?;
        Ok(Box::pin(kubelet::run(args.config, client, runtime, shutdown)).await?)
    })
}
