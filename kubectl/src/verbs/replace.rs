//! `kubectl replace`.

use std::time::Duration;

use http::Method;
use serde_json::Value;

use super::delete::{Deletion, How};
use crate::{
    context::Context,
    failure::{Failure, plain},
    output::{DryRun, DryRunArgs, OutputArgs},
    resources::{FileArgs, Object, Query},
    write::{Helper, SaveConfig, Show, Validate, applied, gone, raw},
};

/// How long to wait for an object to go, where nothing is said.
const PATIENCE: Duration = Duration::from_secs(300);

/// Arguments of `replace`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    print: OutputArgs,
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    how: How,
    /// With --force, return when the old objects are gone
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    validate: Validate,
    #[command(flatten)]
    save_config: SaveConfig,
    #[command(flatten)]
    dry_run: DryRunArgs,
    /// Path to PUT to as it is
    #[arg(long, default_value = "", hide_default_value = true)]
    raw: String,
    /// Name of the manager that owns the fields
    #[arg(long, default_value = "kubectl-replace")]
    field_manager: String,
    /// The object's subresource to replace
    #[arg(long, default_value = "", hide_default_value = true)]
    subresource: String,
    /// None are taken
    arguments: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Bad arguments, or what could not be replaced.
pub async fn run(mut args: Args, cx: &Context) -> Result<(), Failure> {
    let validation = args.validate.directive()?;
    let dry_run = args.dry_run.strategy()?;
    cx.client()?;
    let show = Show::new(&args.print, "replaced", dry_run)?;
    let propagation = args.how.propagation()?;
    args.files.require()?;
    check(&args, dry_run)?;
    if !args.raw.is_empty() {
        raw::validate(&args.raw, &args.files, true, args.print.output.is_some())?;
        return raw::send(cx, Method::PUT, &args.raw, args.files.filename.first().map(String::as_str)).await;
    }
    let _held = if args.how.force { hold_stdin(&mut args.files)? } else { Vec::new() };
    let query = Query {
        files: Some(&args.files),
        validate: if args.how.force { "" } else { validation },
        subresource: &args.subresource,
        ..Query::default()
    };
    if args.how.force {
        return by_force(&args, cx, query, propagation, validation, &show).await;
    }
    let replace = async |mut object: Object| {
        args.save_config.annotate(&mut object.value, applied::untyped);
        let replaced = one(&args, cx, &object, dry_run, validation).await;
        show.print(&replaced.map_err(|failure| failure.with_source("replacing", &object.source))?)
    };
    query.visit(cx, replace).await
}

async fn one(args: &Args, cx: &Context, object: &Object, dry_run: DryRun, validation: &str) -> Result<Value, Failure> {
    if dry_run == DryRun::Client {
        return Ok(object.value.clone());
    }
    let helper = Helper::new(cx, &object.mapping).dry_run(dry_run).manager(&args.field_manager).validation(validation);
    let helper = helper.subresource(&args.subresource);
    helper.replace(object.namespace.as_deref().unwrap_or_default(), &object.name, true, &object.value).await
}

/// What comes from stdin is kept in a file, as it is read twice upstream, and goes by that name in messages. The file is there for
/// as long as what is returned.
fn hold_stdin(files: &mut FileArgs) -> Result<Vec<tempfile::TempDir>, Failure> {
    let mut held = Vec::new();
    for name in files.filename.iter_mut().filter(|name| *name == "-") {
        let prefix = format!("kubectl_replace_{}", rand::random::<u32>());
        let folder = tempfile::Builder::new().prefix(&prefix).rand_bytes(0).tempdir()?;
        let path = folder.path().join("resource.stdin");
        std::io::copy(&mut std::io::stdin(), &mut std::fs::File::create(&path)?)?;
        *name = path.display().to_string();
        held.push(folder);
    }
    Ok(held)
}

/// Deletes all objects, waits until they are gone and creates them again from the files, which are checked only then.
async fn by_force(
    args: &Args,
    cx: &Context,
    query: Query<'_>,
    propagation: &'static str,
    validation: &'static str,
    show: &Show,
) -> Result<(), Failure> {
    let grace_period = if args.how.grace_period == 0 { 1 } else { args.how.grace_period };
    let deletion = Deletion {
        propagation,
        grace_period,
        ignore_not_found: true,
        wait: (args.wait || args.how.grace_period == 0).then_some(args.how.within().unwrap_or(PATIENCE)),
        warn_cluster_scope: false,
        output: args.print.split().0.to_owned(),
        dry_run: DryRun::None,
    };
    deletion.run(cx, &query, query.targets(cx).await?).await?;
    let patience = args.how.within().unwrap_or(PATIENCE);
    query.visit(cx, async |object| gone(cx.client()?, &object, None, patience).await).await?;
    let mut any = false;
    let create = async |mut object: Object| {
        args.save_config.annotate(&mut object.value, applied::untyped);
        let helper = Helper::new(cx, &object.mapping).manager(&args.field_manager).validation(validation);
        let created = helper.create(object.namespace.as_deref().unwrap_or_default(), &object.value).await?;
        any = true;
        show.print(&created)
    };
    Query { validate: validation, ..query }.visit(cx, create).await?;
    if any { Ok(()) } else { Err(plain("no objects passed to replace")) }
}

fn check(args: &Args, dry_run: DryRun) -> Result<(), Failure> {
    let how = &args.how;
    if how.grace_period >= 0 && !how.force {
        return Err(plain("--grace-period must have --force specified"));
    }
    if !how.timeout.is_zero() && !how.force {
        return Err(plain("--timeout must have --force specified"));
    }
    if how.force && dry_run != DryRun::None {
        return Err(plain("--dry-run can not be used when --force is set"));
    }
    if args.files.is_empty() {
        return Err(plain("must specify --filename to replace"));
    }
    Ok(())
}
