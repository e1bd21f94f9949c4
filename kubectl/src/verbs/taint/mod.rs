//! `kubectl taint`.

mod taints;

use api::patch::{PatchType, two_way_strategic};

use self::taints::{Changes, split};
use crate::{
    context::Context,
    failure::{Failure, plain, usage},
    output::{DryRun, DryRunArgs, OutputArgs},
    resources::{Object, Query},
    typed,
    write::{Helper, Show, Validate, unresolved},
};

/// Arguments of `taint`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    print: OutputArgs,
    #[command(flatten)]
    dry_run: DryRunArgs,
    #[command(flatten)]
    validate: Validate,
    /// Labels of the nodes
    #[arg(long, short = 'l')]
    selector: Option<String>,
    /// Change taints that are there already
    #[arg(long)]
    overwrite: bool,
    /// All nodes
    #[arg(long)]
    all: bool,
    /// Name of the manager that owns the fields
    #[arg(long, default_value = "kubectl-taint")]
    field_manager: String,
    /// node NAME..., then KEY[=VALUE]:EFFECT or KEY[:EFFECT]-
    arguments: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Bad arguments, or nodes that could not be tainted.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    cx.namespace()?;
    cx.client()?;
    let dry_run = args.dry_run.strategy()?;
    let validation = args.validate.directive()?;
    let (resources, specs) = split(&args.arguments).map_err(plain)?;
    let Some((resource, names)) = resources.split_first() else {
        return Err(plain("one or more resources must be specified as <resource> <name>"));
    };
    if specs.is_empty() {
        return Err(plain("at least one taint update is required"));
    }
    let changes = Changes::parse(&specs).map_err(|why| usage("taint", why))?;
    let resource = resource.to_lowercase();
    if cx.discovery()?.resource(&resource).await.map_err(unresolved)?.kind != "Node" {
        return Err(plain(format!("invalid resource type {resource}, only node types are supported")));
    }
    changes.validate().map_err(plain)?;
    let selected = args.selector.as_deref().is_some_and(|s| !s.is_empty());
    if args.all && selected {
        return Err(plain("setting 'all' parameter with a non empty selector is prohibited"));
    }
    if !args.all && !selected && names.is_empty() {
        return Err(plain("at least one resource name must be specified since 'all' parameter is not set"));
    }
    let mut query_args = vec!["node".to_owned()];
    if !args.all && !selected {
        query_args.extend(names.iter().cloned());
    }
    let query =
        Query { args: &query_args, labels: args.selector.as_deref(), all: args.all, latest: true, ..Query::default() };
    query.visit(cx, async |object| one(&args, cx, &object, &changes, dry_run, validation).await).await
}

async fn one(
    args: &Args,
    cx: &Context,
    object: &Object,
    changes: &Changes,
    dry_run: DryRun,
    validation: &str,
) -> Result<(), Failure> {
    let mut node = object.value.clone();
    let operation = changes.apply(&mut node, args.overwrite).map_err(plain)?;
    // Upstream's line says nothing of a dry run.
    let show = Show::new(&args.print, operation, DryRun::None)?;
    if dry_run == DryRun::Client {
        return show.print(&typed::complete(node));
    }
    let patch = typed::type_of(&node).map(|ty| two_way_strategic(&object.value, &node, ty)).transpose();
    let patch = patch.map_err(|error| plain(error.to_string()))?.unwrap_or_default();
    let helper = Helper::new(cx, &object.mapping).dry_run(dry_run).manager(&args.field_manager).validation(validation);
    show.typed(&helper.patch("", &object.name, PatchType::Strategic, &typed::sorted(&patch)).await?)
}
