//! `kubectl create`: from files, or by one of the commands that make an object from arguments.

mod configmap;
mod cronjob;
mod data;
mod deployment;
pub mod generator;
mod ingress;
mod job;
mod named;
mod pair;
mod pdb;
mod priorityclass;
pub mod quota;
mod role;
mod rolebinding;
mod secret;
mod service;
mod token;

use http::Method;
use serde_json::Value;

use super::edit;
use crate::{
    cli,
    context::Context,
    failure::{Failure, plain, usage},
    help,
    output::{DryRun, DryRunArgs, OutputArgs},
    resources::{FileArgs, Object, Query},
    write::{Helper, SaveConfig, Show, Validate, applied, raw},
};

/// Arguments of `create`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    kind: Option<Kind>,
    #[command(flatten)]
    print: OutputArgs,
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    validate: Validate,
    /// Edit the objects before they are created
    #[arg(long)]
    edit: bool,
    #[command(flatten)]
    save_config: SaveConfig,
    #[command(flatten)]
    dry_run: DryRunArgs,
    /// Labels of the objects in the files
    #[arg(long, short = 'l')]
    selector: Option<String>,
    /// Path to POST to as it is
    #[arg(long, default_value = "", hide_default_value = true)]
    raw: String,
    /// With --edit, end lines as Windows does
    #[arg(long)]
    windows_line_endings: bool,
    /// Name of the manager that owns the fields
    #[arg(long, default_value = "kubectl-create")]
    field_manager: String,
    /// None are taken
    arguments: Vec<String>,
}

/// What can be made from arguments.
#[derive(clap::Subcommand, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one of it in a process")]
pub enum Kind {
    /// Create a cluster role
    Clusterrole(role::ClusterArgs),
    /// Create a cluster role binding for a particular cluster role
    Clusterrolebinding(rolebinding::ClusterArgs),
    /// Create a config map from a local file, directory or literal value
    #[command(alias = "cm")]
    Configmap(configmap::Args),
    /// Create a cron job with the specified name
    #[command(alias = "cj")]
    Cronjob(cronjob::Args),
    /// Create a deployment with the specified name
    #[command(alias = "deploy")]
    Deployment(deployment::Args),
    /// Create an ingress with the specified name
    #[command(alias = "ing")]
    Ingress(ingress::Args),
    /// Create a job with the specified name
    Job(job::Args),
    /// Create a namespace with the specified name
    #[command(alias = "ns")]
    Namespace(named::Args),
    /// Create a pod disruption budget with the specified name
    #[command(alias = "pdb")]
    Poddisruptionbudget(pdb::Args),
    /// Create a priority class with the specified name
    #[command(alias = "pc")]
    Priorityclass(priorityclass::Args),
    /// Create a quota with the specified name
    #[command(alias = "resourcequota")]
    Quota(quota::Args),
    /// Create a role with single rule
    Role(role::Args),
    /// Create a role binding for a particular role or cluster role
    Rolebinding(rolebinding::Args),
    /// Create a secret using a specified subcommand
    Secret(Secret),
    /// Create a service using a specified subcommand
    #[command(alias = "svc")]
    Service(Service),
    /// Create a service account with the specified name
    #[command(alias = "sa")]
    Serviceaccount(named::Args),
    /// Request a service account token
    Token(token::Args),
}

/// Arguments of `create secret`.
#[derive(clap::Args, Debug)]
pub struct Secret {
    #[command(subcommand)]
    kind: Option<secret::Kind>,
    /// None are taken
    arguments: Vec<String>,
}

/// Arguments of `create service`.
#[derive(clap::Args, Debug)]
pub struct Service {
    #[command(subcommand)]
    kind: Option<service::Kind>,
    /// None are taken
    arguments: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Bad arguments, or what could not be created.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    match args.kind {
        None => from_files(args, cx).await,
        Some(Kind::Clusterrole(args)) => role::run_cluster(args, cx).await,
        Some(Kind::Clusterrolebinding(args)) => rolebinding::run_cluster(args, cx).await,
        Some(Kind::Configmap(args)) => configmap::run(args, cx).await,
        Some(Kind::Cronjob(args)) => cronjob::run(args, cx).await,
        Some(Kind::Deployment(args)) => deployment::run(args, cx).await,
        Some(Kind::Ingress(args)) => ingress::run(args, cx).await,
        Some(Kind::Job(args)) => job::run(args, cx).await,
        Some(Kind::Namespace(args)) => named::namespace(args, cx).await,
        Some(Kind::Poddisruptionbudget(args)) => pdb::run(args, cx).await,
        Some(Kind::Priorityclass(args)) => priorityclass::run(args, cx).await,
        Some(Kind::Quota(args)) => quota::run(args, cx).await,
        Some(Kind::Role(args)) => role::run(args, cx).await,
        Some(Kind::Rolebinding(args)) => rolebinding::run(args, cx).await,
        Some(Kind::Secret(Secret { kind: Some(kind), .. })) => secret::run(kind, cx).await,
        Some(Kind::Secret(Secret { arguments, .. })) => Err(no_command(&["create", "secret"], &arguments)),
        Some(Kind::Service(Service { kind: Some(kind), .. })) => service::run(kind, cx).await,
        Some(Kind::Service(Service { arguments, .. })) => Err(no_command(&["create", "service"], &arguments)),
        Some(Kind::Serviceaccount(args)) => named::serviceaccount(args, cx).await,
        Some(Kind::Token(args)) => token::run(args, cx).await,
    }
}

/// A command that only has commands below it was called by itself: its help, as a failure.
pub fn no_command(path: &[&str], arguments: &[String]) -> Failure {
    if !arguments.is_empty() {
        let unknown = api::field::go_quote(&arguments.join(" "));
        return usage(&path.join(" "), format!("unknown command {unknown}"));
    }
    let path: Vec<String> = path.iter().map(ToString::to_string).collect();
    Failure::Verbatim(help::of(&cli::declared(), &path), 1)
}

async fn from_files(args: Args, cx: &Context) -> Result<(), Failure> {
    if !args.arguments.is_empty() {
        return Err(usage("create", format!("Unexpected args: [{}]", args.arguments.join(" "))));
    }
    let dry_run = args.dry_run.strategy()?;
    let validation = args.validate.directive()?;
    let show = Show::new(&args.print, "created", dry_run)?;
    args.files.require()?;
    if !args.raw.is_empty() {
        if args.edit {
            return Err(plain("--raw and --edit are mutually exclusive"));
        }
        if args.selector.is_some() {
            return Err(plain("--raw and --selector (-l) are mutually exclusive"));
        }
        raw::validate(&args.raw, &args.files, true, args.print.output.is_some())?;
        return raw::send(cx, Method::POST, &args.raw, args.files.filename.first().map(String::as_str)).await;
    }
    let query = Query {
        files: Some(&args.files),
        labels: args.selector.as_deref(),
        // What is yet to be edited is not held against anybody.
        validate: if args.edit { "" } else { validation },
        ..Query::default()
    };
    cx.client()?;
    if args.edit {
        let editing =
            edit::Editing::before_create(cx, &args.print, args.save_config, validation, args.windows_line_endings)?;
        return query.visit(cx, async |object| editing.edit(vec![object]).await).await;
    }
    let mut count = 0;
    let create = async |mut object: Object| {
        args.save_config.annotate(&mut object.value, applied::untyped);
        cx.globals().recording.annotate(&mut object.value);
        let created = one(&args, cx, &object, dry_run, validation).await;
        let created = created.map_err(|failure| failure.with_source("creating", &object.source))?;
        count += 1;
        show.print(&created)
    };
    query.visit(cx, create).await?;
    if count == 0 { Err(plain("no objects passed to create")) } else { Ok(()) }
}

async fn one(args: &Args, cx: &Context, object: &Object, dry_run: DryRun, validation: &str) -> Result<Value, Failure> {
    if dry_run == DryRun::Client {
        return Ok(object.value.clone());
    }
    let helper = Helper::new(cx, &object.mapping).dry_run(dry_run).manager(&args.field_manager).validation(validation);
    helper.create(object.namespace.as_deref().unwrap_or_default(), &object.value).await
}

#[cfg(test)]
mod tests {
    use clap::{Args, Command};
    use serde_json::Value;

    use crate::typed;

    /// Arguments as the command line would have them.
    pub fn parse<T: Args>(words: &[&str]) -> T {
        let matches = T::augment_args(Command::new("test")).no_binary_name(true).get_matches_from(words);
        T::from_arg_matches(&matches).unwrap()
    }

    /// An object as typed clients write it.
    pub fn written(object: Value) -> String {
        typed::compact(&typed::complete(object))
    }
}
