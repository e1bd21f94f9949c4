//! `kubectl scale`.

use std::{sync::Arc, time::Duration};

use api::patch::PatchType;
use jiff::SignedDuration;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until, timeout};

use crate::{
    cli,
    client::Call,
    context::Context,
    discovery::Mapping,
    failure::{Failure, plain},
    output::{DryRun, DryRunArgs, OutputArgs},
    resources::{FileArgs, Object, Query},
    write::{Helper, Show},
};

/// How long conflicts are tried again.
const PATIENCE: Duration = Duration::from_secs(300);

/// Arguments of `scale`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    print: OutputArgs,
    /// All objects of the given types in the namespace
    #[arg(long)]
    all: bool,
    /// Only if the object is at this version
    #[arg(long, default_value = "", hide_default_value = true)]
    resource_version: String,
    /// Only if the object has this size; -1 is any
    #[arg(long, default_value_t = -1)]
    current_replicas: i64,
    /// The new size
    #[arg(long)]
    replicas: i64,
    /// How long to wait until the size is reached; zero is not at all
    #[arg(long, value_parser = cli::duration, default_value = "0s")]
    timeout: SignedDuration,
    #[command(flatten)]
    files: FileArgs,
    /// Labels of the objects
    #[arg(long, short = 'l')]
    selector: Option<String>,
    #[command(flatten)]
    dry_run: DryRunArgs,
    /// What to scale
    arguments: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Bad arguments, or what could not be scaled.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let dry_run = args.dry_run.strategy()?;
    let show = Show::new(&args.print, "scaled", dry_run)?;
    let replicas = args.replicas;
    if replicas < 0 {
        return Err(plain("The --replicas=COUNT flag is required, and COUNT must be greater than or equal to 0"));
    }
    if args.current_replicas < -1 {
        return Err(plain("The --current-replicas must specify an integer of -1 or greater"));
    }
    cx.namespace()?;
    cx.client()?;
    let query = Query {
        args: &args.arguments,
        files: Some(&args.files),
        labels: args.selector.as_deref(),
        type_suffices: args.all,
        ..Query::default()
    };
    let found = query.objects(cx).await?;
    if !args.resource_version.is_empty() && found.objects.len() > 1 {
        return Err(plain("cannot use --resource-version with multiple resources"));
    }
    if found.objects.is_empty() {
        return Err(match Failure::of(found.failures) {
            Err(failure) => plain(format!("no objects passed to scale {}", failure.message())),
            Ok(()) => plain("no objects passed to scale"),
        });
    }
    for object in &found.objects {
        if dry_run != DryRun::Client {
            one(&args, cx, object, replicas, dry_run).await?;
            if cx.globals().recording.given
                && let Some(patch) = cx.globals().recording.patch(&object.latest(cx.client()?).await?)
            {
                let helper = Helper::new(cx, &object.mapping).dry_run(dry_run);
                helper.patch(namespace(object), &object.name, PatchType::Merge, &patch).await?;
            }
        }
        show.print(&object.value)?;
    }
    Failure::of(found.failures)
}

async fn one(args: &Args, cx: &Context, object: &Object, replicas: i64, dry_run: DryRun) -> Result<(), Failure> {
    let helper = Helper::new(cx, &object.mapping).dry_run(dry_run).subresource("scale");
    let conditional = args.current_replicas != -1 || !args.resource_version.is_empty();
    let work = async {
        loop {
            let done = if conditional {
                conditionally(args, &helper, object, replicas).await
            } else {
                let patch = json!({"spec": {"replicas": replicas}}).to_string();
                helper.patch(namespace(object), &object.name, PatchType::Merge, &patch).await.map(drop)
            };
            match done {
                Err(failure) if failure.is_conflict() => sleep_until(Instant::now() + Duration::from_secs(1)).await,
                done => return done,
            }
        }
    };
    timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(plain("context deadline exceeded")))?;
    match Duration::try_from(args.timeout) {
        Ok(within) if !within.is_zero() && dry_run == DryRun::None => {
            let late = || plain(format!("timed out waiting for {} to be synced", api::field::go_quote(&object.name)));
            timeout(within, reached(cx, object, replicas)).await.unwrap_or_else(|_| Err(late()))
        }
        _ => Ok(()),
    }
}

fn namespace(object: &Object) -> &str {
    object.namespace.as_deref().unwrap_or_default()
}

async fn conditionally(args: &Args, helper: &Helper<'_>, object: &Object, replicas: i64) -> Result<(), Failure> {
    let mut scale = helper.get(namespace(object), &object.name).await?;
    let expected = |what: &str, wanted: &str, is: &str| plain(format!("Expected {what} to be {wanted}, was {is}"));
    let size = scale["spec"]["replicas"].as_i64().unwrap_or_default();
    if args.current_replicas != -1 && size != args.current_replicas {
        return Err(expected("replicas", &args.current_replicas.to_string(), &size.to_string()));
    }
    let version = scale["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    if !args.resource_version.is_empty() && version != args.resource_version {
        return Err(expected("resource version", &args.resource_version, version));
    }
    scale["spec"]["replicas"] = json!(replicas);
    helper.replace(namespace(object), &object.name, false, &scale).await.map(drop)
}

/// Waits until the scale's status has the size. Looks whenever the object itself changes.
async fn reached(cx: &Context, object: &Object, replicas: i64) -> Result<(), Failure> {
    let mapping: &Arc<Mapping> = &object.mapping;
    let client = cx.client()?;
    loop {
        let scale = client
            .json(Call::get(format!("{}/scale", mapping.path(object.namespace.as_deref(), Some(&object.name)))))
            .await?;
        if is_reached(&scale, replicas) {
            return Ok(());
        }
        let version = scale["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        let call = Call::get(object.collection())
            .query("fieldSelector", format!("metadata.name={}", object.name))
            .query("resourceVersion", version)
            .query("watch", "true");
        let mut changes = client.open(call).await?;
        changes.event().await?;
    }
}

/// A size that somebody else has changed since is none to wait for.
fn is_reached(scale: &Value, replicas: i64) -> bool {
    let number = |part: &str| scale[part]["replicas"].as_i64().unwrap_or_default();
    number("spec") != replicas || number("status") == replicas
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_reached_or_out_of_date() {
        let scale = |spec: i64, status: i64| json!({"spec": {"replicas": spec}, "status": {"replicas": status}});
        assert_eq!(
            [is_reached(&scale(3, 2), 3), is_reached(&scale(3, 3), 3), is_reached(&scale(4, 2), 3)],
            [false, true, true]
        );
    }
}
