//! `kubectl top`: needs a metrics API, which nothing here serves.

use crate::{
    client::Call,
    context::Context,
    failure::{Failure, plain},
};

/// What `top` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// `node` or `pod`.
    #[command(subcommand)]
    pub of: Of,
}

/// Whose resources.
#[derive(clap::Subcommand, Debug)]
pub enum Of {
    /// Display resource (CPU/memory) usage of nodes
    #[command(visible_alias = "nodes", alias = "no")]
    Node(Names),
    /// Display resource (CPU/memory) usage of pods
    #[command(visible_alias = "pods", alias = "po")]
    Pod(Names),
}

/// Names.
#[derive(clap::Args, Debug)]
pub struct Names {
    /// Names.
    pub names: Vec<String>,
}

/// Says that there are no metrics.
///
/// # Errors
/// Always.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let (Of::Node(names) | Of::Pod(names)) = args.of;
    let groups = cx.client()?.json(Call::get("/apis")).await?;
    let served = groups["groups"].as_array().into_iter().flatten().any(|group| group["name"] == "metrics.k8s.io");
    match served {
        false => Err(plain("Metrics API not available")),
        true => Err(plain(format!(
            "this kubectl does not read metrics{}",
            names.names.first().map_or_else(String::new, |n| format!(" (of {n})"))
        ))),
    }
}
