//! `kubectl annotate`.

use api::patch::{PatchType, two_way_json_merge};
use serde_json::json;

use super::{
    label::list,
    labels::{Changes, Common, map_of, split},
};
use crate::{
    context::Context,
    failure::{Failure, plain},
    output::DryRun,
    resources::Object,
    typed,
    write::{Helper, Show},
};

/// May be changed without being asked: it tells of the last change.
const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";

/// Arguments of `annotate`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// Name of the manager that owns the fields
    #[arg(long, default_value = "kubectl-annotate")]
    field_manager: String,
    /// Objects, then KEY=VALUE or KEY-
    arguments: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Bad arguments, or what could not be annotated.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let dry_run = args.common.dry_run.strategy()?;
    let show = Show::new(&args.common.print, "annotated", dry_run)?;
    cx.namespace()?;
    let (resources, changes) = split(&args.arguments, "annotation").map_err(plain)?;
    let changes = parse(&changes).map_err(plain)?;
    args.common.one_way_to_print().map_err(plain)?;
    args.common.validate(&resources, &changes, dry_run, ("annotation", "rsrc")).map_err(plain)?;
    let both: Vec<&str> = changes.remove.iter().filter(|key| changes.set.contains_key(*key)).map(String::as_str).collect();
    if !both.is_empty() {
        let both = both.join(", ");
        return Err(plain(format!(
            "can not both modify and remove the following annotation(s) in the same command: {both}"
        )));
    }
    args.common
        .visit(cx, &resources, async |object, single| one(&args, cx, &changes, (dry_run, &show), object, single).await)
        .await
}

async fn one(
    args: &Args,
    cx: &Context,
    changes: &Changes,
    (dry_run, show): (DryRun, &Show),
    mut object: Object,
    single: bool,
) -> Result<(), Failure> {
    let send = !(dry_run == DryRun::Client || args.common.local || args.common.list);
    let mut old = object.value.clone();
    if !args.common.resource_version.is_empty()
        && let Some(metadata) = old["metadata"].as_object_mut()
    {
        metadata.remove("resourceVersion");
    }
    if !args.common.overwrite {
        let annotations = map_of(&object.value, "annotations");
        let taken = changes.overwritten(&annotations).into_iter().filter(|(key, _)| *key != CHANGE_CAUSE);
        let taken: Vec<String> = taken.map(|(key, value)| format!("'{key}' already has a value ({value})")).collect();
        if !taken.is_empty() {
            let taken = taken.join("; ");
            return Err(plain(format!("--overwrite is false but found the following declared annotation(s): {taken}")));
        }
    }
    changes.apply(&mut object.value, "annotations");
    if !args.common.resource_version.is_empty() {
        object.value["metadata"]["resourceVersion"] = json!(args.common.resource_version);
    }
    cx.globals().recording.annotate(&mut object.value);
    if send {
        let patch = two_way_json_merge(&old, &object.value);
        let helper = Helper::new(cx, &object.mapping).dry_run(dry_run).manager(&args.field_manager);
        let namespace = object.namespace.as_deref().unwrap_or_default();
        object.value = helper.patch(namespace, &object.name, PatchType::Merge, &typed::sorted(&patch)).await?;
    }
    if args.common.list {
        list(&object, "annotations", single);
        return Ok(());
    }
    show.print(&object.value)
}

fn parse(specs: &[String]) -> Result<Changes, String> {
    let mut changes = Changes::default();
    let mut invalid = Vec::new();
    for spec in specs {
        match spec.split_once('=') {
            Some((key, value)) if !key.is_empty() => drop(changes.set.insert(key.to_owned(), value.to_owned())),
            _ => match spec.strip_suffix('-').filter(|key| !key.is_empty()) {
                Some(key) => changes.remove.push(key.to_owned()),
                None => invalid.push(spec.as_str()),
            },
        }
    }
    if invalid.is_empty() { Ok(changes) } else { Err(format!("invalid annotation format: {}", invalid.join(", "))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_may_hold_anything() {
        let strings = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        let changes = parse(&strings(&["a=b=c d", "e-"])).unwrap();
        assert_eq!((changes.set.get("a").map(String::as_str), changes.remove), (Some("b=c d"), strings(&["e"])));
    }
}
