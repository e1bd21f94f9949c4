//! `kubectl rollout status`.

use std::time::Duration;

use jiff::SignedDuration;
use serde_json::Value;
use tokio::time::timeout;

use super::{Which, progress};
use crate::{
    cli,
    client::Call,
    context::Context,
    failure::{Failure, plain},
    resources::Object,
};

/// Arguments of `rollout status`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Follow the rollout until it is over
    #[arg(long, short = 'w', default_value = "true")]
    watch: bool,
    /// The revision that must be the one rolling out; 0 is any
    #[arg(long, default_value_t = 0)]
    revision: i64,
    /// How long to follow; zero is as long as it takes
    #[arg(long, value_parser = cli::duration, default_value = "0s")]
    timeout: SignedDuration,
    #[command(flatten)]
    which: Which,
}

/// Runs the command.
///
/// # Errors
/// Bad arguments, or a rollout that failed.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    args.which.require()?;
    if args.revision < 0 {
        return Err(plain(format!("revision must be a positive integer: {}", args.revision)));
    }
    let found = args.which.query().objects(cx).await?;
    if found.objects.is_empty() && found.failures.is_empty() {
        eprintln!("No resources found in {} namespace.", cx.namespace()?);
    }
    let mut failures = Vec::new();
    for object in found.in_order() {
        let object = match object {
            Ok(object) => object,
            Err(failure) => {
                failures.push(failure);
                continue;
            }
        };
        let work = follow(&args, cx, &object);
        let done = match Duration::try_from(args.timeout) {
            Ok(within) if !within.is_zero() => {
                timeout(within, work).await.unwrap_or_else(|_| Err(plain("timed out waiting for the condition")))
            }
            _ => work.await,
        };
        failures.extend(done.err());
    }
    Failure::of(failures)
}

async fn follow(args: &Args, cx: &Context, object: &Object) -> Result<(), Failure> {
    let (group, kind) = (&object.mapping.group, &object.mapping.kind);
    let told = |value: &Value| -> Result<bool, Failure> {
        let Some(progress) = progress::of(kind, group, value, args.revision) else {
            let kind = if group.is_empty() { kind.clone() } else { format!("{kind}.{group}") };
            return Err(plain(format!("no status viewer has been implemented for {kind}")));
        };
        let progress = progress.map_err(plain)?;
        print!("{}", progress.text);
        Ok(progress.done || !args.watch)
    };
    let client = cx.client()?;
    let mut seen = Value::Null;
    loop {
        let value = object.latest(client).await.map_err(|failure| match failure.is_not_found() && !seen.is_null() {
            true => plain("object has been deleted"),
            false => failure,
        })?;
        let version = value["metadata"]["resourceVersion"].clone();
        // After a watch that ended, only what is new is told.
        if version != seen && told(&value)? {
            return Ok(());
        }
        let call = Call::get(object.collection())
            .query("fieldSelector", format!("metadata.name={}", api::selector::field::escape(&object.name)))
            .query("resourceVersion", version.as_str().unwrap_or_default())
            .query("watch", "true");
        seen = version;
        let mut changes = client.open(call).await?;
        while let Ok(Some((kind, value))) = changes.event().await {
            match kind.as_str() {
                "DELETED" => return Err(plain("object has been deleted")),
                "ADDED" | "MODIFIED" if told(&value)? => return Ok(()),
                _ => seen = value["metadata"]["resourceVersion"].clone(),
            }
        }
    }
}
