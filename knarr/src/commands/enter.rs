//! `knarr enter`: runs a program inside a node of a local cluster, with its network, its cgroups and mounts of its own.

use std::{ffi::OsString, os::unix::process::CommandExt, process::Command};

use anyhow::{Context, Result};

use crate::local::{enter, layout, record::Cluster};

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cluster.
    #[arg(long, default_value = "knarr")]
    name: String,
    /// The node [default: the first].
    #[arg(long)]
    node: Option<String>,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    program: Vec<OsString>,
}

/// Does it: becomes the program.
pub fn run(args: &Args) -> Result<()> {
    layout::check_name(&args.name)?;
    let nodes = Cluster::existing(&args.name)?.nodes()?;
    let node = match &args.node {
        Some(name) => nodes.iter().find(|node| node.name == *name).with_context(|| format!("find node {name:?}"))?,
        None => nodes.first().context("find a node")?,
    };
    // `down` ends whatever runs in the node, this included.
    enter::place(&args.name, &node.name, std::process::id())?;
    enter::node(&args.name, &node.name)?;
    let [program, arguments @ ..] = args.program.as_slice() else { return Ok(()) };
    let failed = Command::new(program).args(arguments).exec();
    Err(failed).with_context(|| format!("run {}", program.display()))
}
