//! `kubectl set serviceaccount`.

use serde_json::json;

use super::{Shared, pods};
use crate::{
    context::Context,
    failure::{Failure, plain},
    output::DryRun,
    resources::FileArgs,
};

/// Arguments of `set serviceaccount`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    shared: Shared<FileArgs>,
    /// Objects, then the service account's name
    arguments: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Bad arguments, or what could not be changed.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let shared = &args.shared;
    let dry_run = shared.dry_run.strategy()?;
    shared.both_local_and_server(dry_run).map_err(plain)?;
    let show = shared.show("serviceaccount updated", dry_run)?;
    cx.namespace()?;
    let Some((account, resources)) = args.arguments.split_last() else {
        return Err(plain("serviceaccount is required"));
    };
    let mut failures = Vec::new();
    for mut object in shared.objects(cx, shared.asked(resources)).await? {
        let old = object.value.clone();
        match pods::spec_of(&mut object.value) {
            Ok(spec) => spec["serviceAccountName"] = json!(account),
            Err(why) => {
                failures.push(shared.refused(&object, &why));
                continue;
            }
        }
        if old == object.value {
            // Unlike other commands of `set`, this one tells of changes that are none.
            let told = match shared.local || dry_run == DryRun::Client {
                true => show.typed(&object.value),
                false => unchanged(shared, cx, &object, dry_run, &show).await,
            };
            failures.extend(told.err());
            continue;
        }
        failures.extend(shared.save(cx, &old, &object, (dry_run, &show), "failed to patch ServiceAccountName ").await.err());
    }
    Failure::of(failures)
}

async fn unchanged(
    shared: &Shared<FileArgs>,
    cx: &Context,
    object: &crate::resources::Object,
    dry_run: DryRun,
    show: &crate::write::Show,
) -> Result<(), Failure> {
    let helper = crate::write::Helper::new(cx, &object.mapping).dry_run(dry_run).manager(&shared.field_manager);
    let namespace = object.namespace.as_deref().unwrap_or_default();
    let patched = helper.patch(namespace, &object.name, api::patch::PatchType::Strategic, "{}").await;
    show.typed(&patched.map_err(|failure| plain(format!("failed to patch ServiceAccountName {}", failure.message())))?)
}
