//! `kubectl autoscale`.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{
    context::Context,
    discovery::Mapping,
    failure::{Failure, plain},
    output::{DryRun, DryRunArgs, OutputArgs},
    resources::{FileArgs, Object, Query},
    typed,
    write::{Helper, SaveConfig, Show, applied},
};

/// What `autoscale` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    print: OutputArgs,
    #[command(flatten)]
    dry_run: DryRunArgs,
    #[command(flatten)]
    save_config: SaveConfig,
    #[command(flatten)]
    files: FileArgs,
    /// The fewest pods; the server decides where it is below zero
    #[arg(long, default_value_t = -1)]
    min: i32,
    /// The most pods
    #[arg(long)]
    max: i32,
    /// The wanted average of the pods' CPU, in percent of what they request; the server decides where it is below zero
    #[arg(long, default_value_t = -1)]
    cpu_percent: i32,
    /// Name of the autoscaler; the object's where nothing is said
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    /// Name of the manager that owns the fields
    #[arg(long, default_value = "kubectl-autoscale")]
    field_manager: String,
    /// What to scale
    arguments: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Bad arguments, or what could not be made.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let dry_run = args.dry_run.strategy()?;
    cx.client()?;
    let max = args.max;
    if max < 1 {
        return Err(plain(format!("--max=MAXPODS is required and must be at least 1, max: {max}")));
    }
    if max < args.min {
        let min = args.min;
        return Err(plain(format!("--max=MAXPODS must be larger or equal to --min=MINPODS, max: {max}, min: {min}")));
    }
    let query = Query { args: &args.arguments, files: Some(&args.files), by_kind: true, ..Query::default() };
    let mut count = 0;
    let autoscale = async |object: Object| {
        one(&args, cx, &object, max, dry_run).await?;
        count += 1;
        Ok(())
    };
    query.visit(cx, autoscale).await?;
    if count == 0 { Err(plain("no objects passed to autoscale")) } else { Ok(()) }
}

async fn one(args: &Args, cx: &Context, of: &Object, max: i32, dry_run: DryRun) -> Result<(), Failure> {
    let mapping = &of.mapping;
    if !matches!(mapping.kind.as_str(), "ReplicationController" | "Deployment" | "StatefulSet" | "ReplicaSet") {
        let resource = format!("{}/{}, Resource={}", mapping.group, mapping.version, mapping.resource);
        return Err(plain(format!(
            "cannot autoscale a {}: could not find scale subresource for {resource} in discovery information",
            mapping.kind
        )));
    }
    let mut object = typed::complete(autoscaler(args, of, max));
    cx.globals().recording.annotate(&mut object);
    if dry_run != DryRun::Client {
        args.save_config.annotate(&mut object, applied::typed_text);
        let mapping = Arc::new(Mapping::guessed("autoscaling/v1", "HorizontalPodAutoscaler"));
        let helper = Helper::new(cx, &mapping).dry_run(dry_run).manager(&args.field_manager);
        object = helper.create(of.namespace.as_deref().unwrap_or_default(), &object).await?;
    }
    // Only what was done is printed: a form that there is not is found out then, as upstream has it.
    let done = if dry_run == DryRun::Client { "created" } else { "autoscaled" };
    Show::new(&args.print, done, dry_run)?.typed(&object)
}

fn autoscaler(args: &Args, of: &Object, max: i32) -> Value {
    let name = if args.name.is_empty() { of.name.as_str() } else { args.name.as_str() };
    let mut spec = json!({
        "scaleTargetRef": {"apiVersion": of.mapping.api_version(), "kind": of.mapping.kind, "name": of.name},
        "maxReplicas": max,
    });
    if args.min > 0 {
        spec["minReplicas"] = json!(args.min);
    }
    if args.cpu_percent >= 0 {
        spec["targetCPUUtilizationPercentage"] = json!(args.cpu_percent);
    }
    json!({
        "apiVersion": "autoscaling/v1",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "creationTimestamp": null},
        "spec": spec,
        "status": {"currentReplicas": 0, "desiredReplicas": 0},
    })
}
