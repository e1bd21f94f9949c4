//! `kubectl expose`.

mod service;

use serde_json::Value;

use self::service::{Wanted, can_be_exposed};
use crate::{
    context::Context,
    failure::{Failure, plain},
    output::{DryRun, DryRunArgs, OutputArgs},
    resources::{FileArgs, Object, Query},
    typed,
    write::{Helper, SaveConfig, Show, applied, overridden},
};

/// Arguments of `expose`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    print: OutputArgs,
    /// TCP, UDP or SCTP; where nothing is said it is the object's, or TCP
    #[arg(long, default_value = "", hide_default_value = true)]
    protocol: String,
    /// The service's port; the object's where nothing is said
    #[arg(long, default_value = "", hide_default_value = true)]
    port: String,
    /// ClusterIP, NodePort, LoadBalancer or ExternalName
    #[arg(long = "type", default_value = "", hide_default_value = true)]
    of_type: String,
    /// Address of the load balancer
    #[arg(long, default_value = "", hide_default_value = true)]
    load_balancer_ip: String,
    /// Labels of the pods; the object's selector where nothing is said
    #[arg(long, default_value = "", hide_default_value = true)]
    selector: String,
    /// Labels of the service; the object's where nothing is said
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    labels: String,
    /// Name or number of the container's port
    #[arg(long, default_value = "", hide_default_value = true)]
    target_port: String,
    /// One more address that the service is to have
    #[arg(long, default_value = "", hide_default_value = true)]
    external_ip: String,
    /// Name of the service; the object's where nothing is said
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    /// None or ClientIP
    #[arg(long, default_value = "", hide_default_value = true)]
    session_affinity: String,
    /// The service's address, or None
    #[arg(long, default_value = "", hide_default_value = true)]
    cluster_ip: String,
    /// Name of the manager that owns the fields
    #[arg(long, default_value = "kubectl-expose")]
    field_manager: String,
    /// JSON that is merged into the service
    #[arg(long, default_value = "", hide_default_value = true)]
    overrides: String,
    /// How: json, merge or strategic
    #[arg(long, default_value = "merge")]
    override_type: String,
    #[command(flatten)]
    dry_run: DryRunArgs,
    #[command(flatten)]
    save_config: SaveConfig,
    #[command(flatten)]
    files: FileArgs,
    /// What to expose
    arguments: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Bad arguments, or what could not be exposed.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let dry_run = args.dry_run.strategy()?;
    let show = Show::new(&args.print, "exposed", dry_run)?;
    cx.client()?;
    let query = Query { args: &args.arguments, files: Some(&args.files), typed: true, ..Query::default() };
    let mut wanted = wanted(&args);
    query.visit(cx, async |object| show.typed(&one(&args, cx, &object, &mut wanted, dry_run).await?)).await
}

async fn one(args: &Args, cx: &Context, object: &Object, wanted: &mut Wanted, dry_run: DryRun) -> Result<Value, Failure> {
    can_be_exposed(&object.mapping.group, &object.mapping.kind).map_err(plain)?;
    let service = service::service(&object.value, wanted).map_err(plain)?;
    let mut service = overridden(typed::complete(service), &args.overrides, &args.override_type).map_err(plain)?;
    cx.globals().recording.annotate(&mut service);
    if dry_run == DryRun::Client {
        if let Some(namespace) = cx.explicit_namespace() {
            service["metadata"]["namespace"] = namespace.into();
        }
        return Ok(service);
    }
    args.save_config.annotate(&mut service, applied::typed_text);
    let mapping = cx.discovery()?.kind("v1", "Service").await?;
    let helper = Helper::new(cx, &mapping).dry_run(dry_run).manager(&args.field_manager);
    helper.create(&cx.namespace()?, &service).await
}

fn wanted(args: &Args) -> Wanted {
    Wanted {
        name: args.name.clone(),
        selector: args.selector.clone(),
        port: args.port.clone(),
        ports: String::new(),
        protocols: Vec::new(),
        protocol: args.protocol.clone(),
        target_port: args.target_port.clone(),
        labels: args.labels.clone(),
        external_ip: args.external_ip.clone(),
        load_balancer_ip: args.load_balancer_ip.clone(),
        of_type: args.of_type.clone(),
        session_affinity: args.session_affinity.clone(),
        cluster_ip: args.cluster_ip.clone(),
    }
}
