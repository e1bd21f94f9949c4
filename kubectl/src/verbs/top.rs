//! `kubectl top`: needs a metrics API, which nothing here serves.

use super::create::no_command;
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
    of: Option<Of>,
}

/// Whose resources.
#[derive(clap::Subcommand, Debug)]
pub enum Of {
    /// Display resource (CPU/memory) usage of nodes
    #[command(visible_alias = "nodes", alias = "no")]
    Node(Node),
    /// Display resource (CPU/memory) usage of pods
    #[command(visible_alias = "pods", alias = "po")]
    Pod(Pod),
}

/// What both take.
#[derive(clap::Args, Debug)]
pub struct Common {
    /// Labels of the objects
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    selector: String,
    /// cpu or memory
    #[arg(long, default_value = "", hide_default_value = true)]
    sort_by: String,
    /// No line of headers
    #[arg(long)]
    no_headers: bool,
    /// Read the metrics as protocol buffers
    #[arg(long, default_value_t = true)]
    use_protocol_buffers: bool,
    /// A name
    names: Vec<String>,
}

/// What `top node` takes.
#[derive(clap::Args, Debug)]
pub struct Node {
    #[command(flatten)]
    common: Common,
    /// Show capacity in the place of what can be allocated
    #[arg(long)]
    show_capacity: bool,
}

/// What `top pod` takes.
#[derive(clap::Args, Debug)]
pub struct Pod {
    #[command(flatten)]
    common: Common,
    /// Fields of the pods
    #[arg(long, default_value = "", hide_default_value = true)]
    field_selector: String,
    /// Show containers
    #[arg(long)]
    containers: bool,
    /// Look in all namespaces
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// Show the sum
    #[arg(long)]
    sum: bool,
}

/// Says that there are no metrics.
///
/// # Errors
/// Always.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let (common, command) = match &args.of {
        None => return Err(no_command(&["top"], &[])),
        Some(Of::Node(node)) => (&node.common, "node"),
        Some(Of::Pod(pod)) => (&pod.common, "pod"),
    };
    check(common, command)?;
    cx.namespace()?;
    let client = cx.client()?;
    match client.call(Call::get("/api")).await {
        Err(failure) if !matches!(failure.reason(), "NotFound" | "Forbidden") => return Err(failure),
        _ => {}
    }
    let groups = client.json(Call::get("/apis")).await?;
    let served = groups["groups"].as_array().into_iter().flatten().any(|group| group["name"] == "metrics.k8s.io");
    Err(plain(if served { "this kubectl does not read metrics" } else { "Metrics API not available" }))
}

fn check(args: &Common, command: &str) -> Result<(), Failure> {
    if args.names.len() > 1 {
        return Err(crate::failure::usage(&format!("top {command}"), format!("{command} [NAME | -l label]")));
    }
    if !matches!(args.sort_by.as_str(), "" | "cpu" | "memory") {
        return Err(plain("--sort-by accepts only cpu or memory"));
    }
    if !args.names.is_empty() && !args.selector.is_empty() {
        let selector = if command == "pod" { "selector" } else { "--selector" };
        return Err(plain(format!("only one of NAME or {selector} can be provided")));
    }
    Ok(())
}
