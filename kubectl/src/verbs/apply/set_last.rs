//! `kubectl apply set-last-applied`.

use api::patch::{PatchType, two_way_json_merge};

use super::{about, same_configuration};
use crate::{
    context::Context,
    failure::{Failure, plain},
    output::{DryRun, DryRunArgs, OutputArgs},
    resources::{FileArgs, Object, Query},
    typed,
    write::{Helper, Show, applied},
};

/// Arguments of `apply set-last-applied`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    print: OutputArgs,
    #[command(flatten)]
    dry_run: DryRunArgs,
    /// Annotate objects that have no such annotation
    #[arg(long)]
    create_annotation: bool,
    /// Files, directories or URLs that hold the configurations; - is stdin
    #[arg(long, short = 'f', value_delimiter = ',')]
    filename: Vec<String>,
    /// What else there is; nothing of it means anything.
    #[arg(hide = true)]
    ignored: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Bad arguments, or objects that could not be annotated.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let dry_run = args.dry_run.strategy()?;
    let show = Show::new(&args.print, "configured", dry_run)?;
    let files = FileArgs { filename: args.filename.clone(), ..FileArgs::default() };
    let mut patches = Vec::new();
    let query = Query { files: Some(&files), ..Query::default() };
    let changed = async |object: Object| {
        let text = format!("{}\n", typed::sorted(&object.value));
        let mut annotated = object.value.clone();
        annotated["metadata"]["annotations"][applied::ANNOTATION] = text.clone().into();
        let patch = two_way_json_merge(&object.value, &annotated);
        let current = object.current(cx.client()?).await.map_err(|failure| match failure.is_not_found() {
            true => failure,
            false => {
                let doing = format!("retrieving current configuration of:\n{}\nfrom server for:", about(&object));
                failure.with_source(&doing, &object.source)
            }
        })?;
        match applied::original(&current) {
            None if !args.create_annotation => {
                let name = &object.name;
                return Err(plain(format!(
                    "no last-applied-configuration annotation found on resource: {name}, to create the annotation, run the command with --create-annotation"
                )));
            }
            Some(original) if same_configuration(original, &text) => {
                println!("set-last-applied {}: no changes required.", object.name);
            }
            _ => patches.push((object, current, patch)),
        }
        Ok(())
    };
    query.visit_parts(cx, changed).await?;
    for (object, current, patch) in patches {
        let mut result = current;
        if dry_run != DryRun::Client {
            let helper = Helper::new(cx, &object.mapping).dry_run(dry_run);
            let namespace = object.namespace.as_deref().unwrap_or_default();
            result = helper.patch(namespace, &object.name, PatchType::Merge, &typed::sorted(&patch)).await?;
        }
        show.print(&result)?;
    }
    Ok(())
}
