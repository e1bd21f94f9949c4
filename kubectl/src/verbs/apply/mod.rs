//! `kubectl apply`: objects become what files say, and what files no longer say goes.

mod patch;
mod set_last;
mod view_last;

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use self::patch::{Unpatchable, without_nulls};
pub use self::patch::{between, same_configuration};
use super::{delete::How, edit};
use crate::{
    client::log,
    context::Context,
    failure::{Failure, plain, usage},
    output::{DryRun, DryRunArgs, OutputArgs},
    resources::{FileArgs, Object, Query},
    typed,
    write::{Helper, Show, Validate, applied, gone, warn},
};

/// How often a patch is made anew when somebody else was faster.
const RETRIES: u32 = 5;

/// Arguments of `apply`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    print: OutputArgs,
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    how: How,
    /// With --force, wait for what is deleted
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    validate: Validate,
    #[command(flatten)]
    dry_run: DryRunArgs,
    /// Apply in the server (not supported)
    #[arg(long)]
    server_side: bool,
    /// With --server-side, take fields from other managers (not supported)
    #[arg(long)]
    force_conflicts: bool,
    /// Name of the manager that owns the fields
    #[arg(long, default_value = "kubectl-client-side-apply")]
    field_manager: String,
    /// Labels of the objects in the files
    #[arg(long, short = 'l')]
    selector: Option<String>,
    /// Delete objects that files no longer hold (not supported)
    #[arg(long)]
    prune: bool,
    /// Kinds that --prune looks at (not supported)
    #[arg(long)]
    prune_allowlist: Vec<String>,
    /// With --prune, look at all objects of the kinds (not supported)
    #[arg(long)]
    all: bool,
    /// Change fields that somebody else has changed since
    #[arg(long, default_value = "true")]
    overwrite: bool,
    /// Whether patches are made by the server's OpenAPI document where clients do not know the kind; both give the same here
    #[arg(long, default_value_t = true)]
    openapi_patch: bool,
    /// The object's subresource, with --server-side (not supported)
    #[arg(long, default_value = "", hide_default_value = true)]
    subresource: String,
    /// None are taken
    arguments: Vec<String>,
}

/// What can be done with the configuration that objects remember.
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Edit latest last-applied-configuration annotations of a resource/object
    EditLastApplied(edit::LastAppliedArgs),
    /// Set the last-applied-configuration annotation on a live object to match the contents of a file
    SetLastApplied(set_last::Args),
    /// View the latest last-applied-configuration annotations of a resource/object
    ViewLastApplied(view_last::Args),
}

/// Runs the command.
///
/// # Errors
/// Bad arguments, or what could not be applied.
pub async fn run(mut args: Args, cx: &Context) -> Result<(), Failure> {
    match args.command.take() {
        None => apply(args, cx).await,
        Some(Command::EditLastApplied(args)) => edit::last_applied(args, cx).await,
        Some(Command::SetLastApplied(args)) => set_last::run(args, cx).await,
        Some(Command::ViewLastApplied(args)) => view_last::run(args, cx).await,
    }
}

async fn apply(args: Args, cx: &Context) -> Result<(), Failure> {
    if !args.arguments.is_empty() {
        return Err(usage("apply", format!("Unexpected args: [{}]", args.arguments.join(" "))));
    }
    let dry_run = args.dry_run.strategy()?;
    cx.client()?;
    let propagation = args.how.propagation()?;
    args.files.require()?;
    let validation = args.validate.directive()?;
    check(&args, dry_run).map_err(plain)?;
    let show = Show::new(&args.print, "", dry_run)?;
    let query =
        Query { files: Some(&args.files), labels: args.selector.as_deref(), validate: validation, ..Query::default() };
    let found = query.objects(cx).await?;
    if found.objects.is_empty() && found.failures.is_empty() {
        return Err(plain("no objects passed to apply"));
    }
    let (mut failures, mut applied) = (Vec::new(), Vec::new());
    let work = Work { args: &args, cx, dry_run, propagation, validation, show: &show };
    for mut object in found.objects {
        cx.globals().recording.annotate(&mut object.value);
        match work.apply(object).await {
            Ok(object) => applied.push(object),
            Err(failure) => failures.push(failure),
        }
    }
    let mut all = Failure::grouped(found.failures, failures.is_empty());
    all.append(&mut failures);
    Failure::of(all)?;
    log::at(4, "apply.go:548", "Running apply post-processor function");
    match (args.as_list(), applied.as_slice()) {
        (false, _) | (true, []) => Ok(()),
        (true, [one]) => show.print(one),
        (true, several) => show.typed(&json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": several})),
    }
}

impl Args {
    /// Whether what was applied is printed in the end, several objects as one list, and not each as it is applied.
    fn as_list(&self) -> bool {
        !matches!(self.print.split().0, "" | "name")
    }
}

fn check(args: &Args, dry_run: DryRun) -> Result<(), String> {
    let refused = |why: &str| Err(why.to_owned());
    if args.force_conflicts && !args.server_side {
        return refused("--force-conflicts only works with --server-side");
    }
    if args.server_side && dry_run == DryRun::Client {
        return refused("--dry-run=client doesn't work with --server-side (did you mean --dry-run=server instead?)");
    }
    if args.server_side && args.how.force {
        return refused("--force cannot be used with --server-side");
    }
    if dry_run == DryRun::Server && args.how.force {
        return refused("--dry-run=server cannot be used with --force");
    }
    if args.all && args.selector.as_deref().is_some_and(|s| !s.is_empty()) {
        return refused("cannot set --all and --selector at the same time");
    }
    if !args.subresource.is_empty() && !args.server_side {
        return refused("--subresource can only be specified for --server-side");
    }
    if args.server_side {
        return refused("--server-side is not supported yet");
    }
    if args.prune && !args.all && args.selector.as_deref().unwrap_or_default().is_empty() {
        return refused(
            "all resources selected for prune without explicitly passing --all. To prune all resources, pass the --all flag. If you did not mean to prune all resources, specify a label selector",
        );
    }
    if args.prune {
        return refused("--prune is not supported yet");
    }
    Ok(())
}

struct Work<'a> {
    args: &'a Args,
    cx: &'a Context,
    dry_run: DryRun,
    propagation: &'static str,
    validation: &'static str,
    show: &'a Show,
}

impl Work<'_> {
    fn helper(&self, object: &Object) -> Helper<'_> {
        let helper = Helper::new(self.cx, &object.mapping).dry_run(self.dry_run);
        helper.manager(&self.args.field_manager).validation(self.validation)
    }

    fn tell(&self, object: &Value, operation: &str) -> Result<(), Failure> {
        if self.args.as_list() { Ok(()) } else { self.show.print_as(object, operation) }
    }

    /// Applies one object; gives it as it is then.
    async fn apply(&self, object: Object) -> Result<Value, Failure> {
        if object.name.is_empty()
            && let Some(prefix) = object.value["metadata"]["generateName"].as_str().filter(|p| !p.is_empty())
        {
            return Err(plain(format!("from {prefix}: cannot use generate name with apply")));
        }
        let modified = applied::modified(&object.value);
        let current = match object.current(self.cx.client()?).await {
            Ok(current) => current,
            Err(failure) if failure.is_not_found() => return self.create(&object, modified).await,
            Err(failure) => {
                let doing = format!("retrieving current configuration of:\n{}\nfrom server for:", about(&object));
                return Err(failure.with_source(&doing, &object.source));
            }
        };
        if self.dry_run == DryRun::Client {
            self.tell(&current, "configured")?;
            return Ok(current);
        }
        if applied::original(&current).is_none() {
            let object = format!("{}/{}", object.mapping.resource, object.name);
            let key = applied::ANNOTATION;
            warn(&format!(
                "resource {object} is missing the {key} annotation which is required by kubectl apply. kubectl apply should only be used on resources created declaratively by either kubectl create --save-config or kubectl apply. The missing annotation will be patched automatically."
            ));
        }
        let (patch, patched) = self.patch(&object, &modified, current).await?;
        if patched["metadata"].get("deletionTimestamp").is_some_and(|time| !time.is_null()) {
            warn(&format!("Detected changes to resource {} which is currently being deleted.", object.name));
        }
        self.tell(&patched, if patch == json!({}) { "unchanged" } else { "configured" })?;
        Ok(patched)
    }

    async fn create(&self, object: &Object, mut modified: Value) -> Result<Value, Failure> {
        without_nulls(&mut modified);
        if self.dry_run != DryRun::Client {
            let namespace = object.namespace.as_deref().unwrap_or_default();
            let created = self.helper(object).create(namespace, &modified).await;
            modified = created.map_err(|failure| failure.with_source("creating", &object.source))?;
        }
        self.tell(&modified, "created")?;
        Ok(modified)
    }

    async fn patch(&self, object: &Object, modified: &Value, mut current: Value) -> Result<(Value, Value), Failure> {
        let namespace = object.namespace.as_deref().unwrap_or_default();
        let helper = self.helper(object);
        let mut tried = 0;
        loop {
            let (kind, patch) = match between(modified, &current, self.args.overwrite) {
                Ok(patch) => patch,
                Err(why) => return Err(unpatchable(object, modified, &current, why)),
            };
            if patch == json!({}) {
                return Ok((patch, current));
            }
            let text = typed::sorted(&patch);
            let failure = match helper.patch(namespace, &object.name, kind, &text).await {
                Ok(patched) => return Ok((patch, patched)),
                Err(failure) => failure,
            };
            if failure.is_conflict() && tried < RETRIES {
                tried += 1;
                if tried > 1 {
                    sleep_until(Instant::now() + Duration::from_secs(1)).await;
                }
                current = helper.get(namespace, &object.name).await?;
                continue;
            }
            if self.args.how.force && (failure.is_conflict() || failure.reason() == "Invalid") {
                let created = self.recreate(object, modified, &current).await;
                let doing = format!("applying patch:\n{}\n\nto:\n{}\nfor:", typed::sorted(modified), about(object));
                let created = created.map_err(|failure| failure.with_source(&doing, &object.source))?;
                return Ok((modified.clone(), created));
            }
            let doing = format!("applying patch:\n{text}\nto:\n{}\nfor:", about(object));
            return Err(failure.with_source("patching", &object.source).with_source(&doing, &object.source));
        }
    }

    /// With `--force`: the object goes and comes back as it should be; or as it was, if it cannot be as it should.
    async fn recreate(&self, object: &Object, modified: &Value, old: &Value) -> Result<Value, Failure> {
        let namespace = object.namespace.as_deref().unwrap_or_default();
        let helper = self.helper(object);
        let mut options = json!({"propagationPolicy": self.propagation});
        if self.args.how.grace_period >= 0 {
            options["gracePeriodSeconds"] = json!(self.args.how.grace_period);
        }
        helper.delete(namespace, &object.name, options).await?;
        let patience = self.args.how.within().unwrap_or(Duration::from_secs(300));
        let late = |_| plain("context deadline exceeded");
        gone(self.cx.client()?, object, None, patience).await.map_err(late)?;
        let failure = match helper.create(namespace, modified).await {
            Ok(created) => return Ok(created),
            Err(failure) => failure,
        };
        match helper.create(namespace, old).await {
            Ok(_) => Err(failure),
            Err(worse) => Err(plain(format!(
                "An error occurred force-replacing the existing object with the newly provided one:\n\n{}.\n\nAdditionally, an error occurred attempting to restore the original object:\n\n{}",
                failure.message(),
                worse.message()
            ))),
        }
    }
}

/// An object as upstream's longer messages describe it.
pub fn about(object: &Object) -> String {
    let mapping = &object.mapping;
    let version = format!("{}/{}", mapping.group, mapping.version);
    let resource = api::field::go_quote(&format!("{version}, Resource={}", mapping.resource));
    let kind = api::field::go_quote(&format!("{version}, Kind={}", mapping.kind));
    let (name, namespace) =
        (api::field::go_quote(&object.name), api::field::go_quote(object.namespace.as_deref().unwrap_or_default()));
    format!("Resource: {resource}, GroupVersionKind: {kind}\nName: {name}, Namespace: {namespace}")
}

fn unpatchable(object: &Object, modified: &Value, current: &Value, why: Unpatchable) -> Failure {
    let why = match why {
        Unpatchable::Conflict(why) => {
            // Upstream tries one schema after the other and hears the same from each.
            eprintln!("warning: error calculating patch from openapi v3 spec: {why}");
            eprintln!("warning: error calculating patch from openapi spec: {why}");
            why
        }
        Unpatchable::Other(why) => why,
    };
    let line = |value: &Value| format!("{}\n", typed::sorted(value));
    let original = applied::original(current).unwrap_or_default();
    let doing = format!(
        "creating patch with:\noriginal:\n{original}\nmodified:\n{}\ncurrent:\n{}\nfor:",
        line(modified),
        line(current)
    );
    let doing = format!("{doing}: {why}");
    plain(doing)
        .with_source("patching", &object.source)
        .with_source(&format!("applying patch:\n\nto:\n{}\nfor:", about(object)), &object.source)
}
