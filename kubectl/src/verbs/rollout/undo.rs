//! `kubectl rollout undo`.

use api::patch::PatchType;

use super::{
    Which,
    history::{Change, History, Kind},
    no_history,
};
use crate::{
    context::Context,
    failure::{Failure, plain},
    output::{DryRun, DryRunArgs, OutputArgs},
    resources::Object,
    typed,
    write::{Helper, Show},
};

/// Arguments of `rollout undo`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    print: OutputArgs,
    /// The revision to go back to; 0 is the one before
    #[arg(long, default_value_t = 0)]
    to_revision: i64,
    #[command(flatten)]
    dry_run: DryRunArgs,
    #[command(flatten)]
    which: Which,
}

/// Runs the command.
///
/// # Errors
/// Bad arguments, or rollouts that could not be undone.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let dry_run = args.dry_run.strategy()?;
    args.which.require(cx)?;
    let undo = async |object: Object| {
        let result = one(&args, cx, &object, dry_run).await?;
        // Only what was done is printed: a form that there is not is found out then, as upstream has it.
        Show::new(&args.print, "rolled back", dry_run)?.typed_as(&object.value, &result)
    };
    args.which.query().visit(cx, undo).await
}

async fn one(args: &Args, cx: &Context, object: &Object, dry_run: DryRun) -> Result<String, Failure> {
    let (group, kind) = (&object.mapping.group, &object.mapping.kind);
    let kind = Kind::of(group, kind).ok_or_else(|| plain(no_history("undo", group, kind)))?;
    let namespace = object.namespace.as_deref().unwrap_or_default();
    let history = History::read(cx, kind, namespace, &object.name).await?;
    let undo = history.undo(args.to_revision).map_err(plain)?;
    if dry_run == DryRun::Client {
        let text = crate::describe::template(&undo.template);
        return Ok(if kind == Kind::Deployment { text } else { format!("will roll back to {text}") });
    }
    let (patch_type, patch) = match undo.change {
        Change::None => {
            return Ok(format!("skipped rollback (current template already matches revision {})", args.to_revision));
        }
        Change::Paused => {
            return Err(plain(
                "you cannot rollback a paused deployment; resume it first with 'kubectl rollout resume' and try again",
            ));
        }
        Change::Json(patch) => (PatchType::Json, patch),
        Change::Strategic(patch) => (PatchType::Strategic, patch),
    };
    let helper = Helper::new(cx, &object.mapping).dry_run(dry_run);
    let failed = |failure: Failure| plain(format!("failed restoring revision {}: {}", args.to_revision, failure.message()));
    helper.patch(namespace, &object.name, patch_type, &typed::sorted(&patch)).await.map_err(failed)?;
    Ok("rolled back".to_owned())
}
