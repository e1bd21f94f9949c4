//! `kubectl rollout status`.

use std::time::Duration;

use jiff::SignedDuration;
use serde_json::Value;
use tokio::time::timeout;

use super::{Which, progress};
use crate::{
    cli,
    context::Context,
    failure::{Failure, plain},
    resources::{Follower, Object},
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
    args.which.require(cx)?;
    if args.revision < 0 {
        return Err(plain(format!("revision must be a positive integer: {}", args.revision)));
    }
    let mut found = false;
    let status = async |object: Object| {
        found = true;
        let work = follow(&args, cx, &object);
        match Duration::try_from(args.timeout) {
            Ok(within) if !within.is_zero() => {
                timeout(within, work).await.unwrap_or_else(|_| Err(plain("timed out waiting for the condition")))
            }
            _ => work.await,
        }
    };
    args.which.query().visit(cx, status).await?;
    if !found {
        eprintln!("No resources found in {} namespace.", cx.namespace()?);
    }
    Ok(())
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
    if progress::of(kind, group, &Value::Null, 0).is_none() {
        told(&Value::Null)?;
    }
    let mut follower = Follower::new(object);
    let mut now = follower.list(client).await?;
    let mut seen = false;
    loop {
        match now {
            Some(value) if told(&value)? => return Ok(()),
            None if seen => return Err(plain("object has been deleted")),
            None => {}
            Some(_) => seen = true,
        }
        now = follower.next(client).await?;
    }
}
