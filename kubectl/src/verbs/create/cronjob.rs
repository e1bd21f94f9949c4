//! `kubectl create cronjob`.

use serde_json::json;

use super::{
    generator::{Generated, Made, with_namespace},
    job,
};
use crate::{context::Context, failure::Failure};

/// Arguments of `create cronjob`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    made: Made,
    /// Image to run
    #[arg(long)]
    image: String,
    /// When to run, in cron's format
    #[arg(long)]
    schedule: String,
    /// Whether the job's pods are restarted: OnFailure or Never
    #[arg(long, default_value = "", hide_default_value = true)]
    restart: String,
    /// Name of the cron job; after `--` the container's command
    arguments: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Bad arguments, or the server's refusal.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let making = args.made.begin(cx, "cronjob", &args.arguments)?;
    let (name, command) = (making.name, making.command);
    let restart = if args.restart.is_empty() { "OnFailure" } else { &args.restart };
    let spec = job::spec(name, &args.image, command, restart);
    let object = json!({
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": name},
        "spec": {"schedule": args.schedule, "jobTemplate": {"metadata": {"name": name}, "spec": spec}},
    });
    making.create(cx, Generated { object: with_namespace(object, cx), failing: "failed to create cronjob: " }).await
}
