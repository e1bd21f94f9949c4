//! `kubectl label`.

use api::{
    names,
    patch::{PatchType, two_way_json_merge},
};
use serde_json::{Value, json};

use super::labels::{Changes, Common, map_of, split};
use crate::{
    context::Context,
    failure::{Failure, plain},
    output::DryRun,
    resources::Object,
    typed,
    write::{Helper, Show},
};

/// Arguments of `label`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// Name of the manager that owns the fields
    #[arg(long, default_value = "kubectl-label")]
    field_manager: String,
    /// Objects, then KEY=VALUE or KEY-
    arguments: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Bad arguments, or what could not be labeled.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let dry_run = args.common.dry_run.strategy()?;
    let (resources, changes) = split(&args.arguments, "label").map_err(plain)?;
    let changes = parse(&changes).map_err(plain)?;
    args.common.one_way_to_print().map_err(plain)?;
    cx.namespace()?;
    args.common.validate(&resources, &changes, dry_run, ("label", "pod")).map_err(plain)?;
    args.common.visit(cx, &resources, async |object, single| one(&args, cx, &changes, dry_run, object, single).await).await
}

async fn one(
    args: &Args,
    cx: &Context,
    changes: &Changes,
    dry_run: DryRun,
    mut object: Object,
    single: bool,
) -> Result<(), Failure> {
    if !args.common.resource_version.is_empty()
        && let Some(metadata) = object.value["metadata"].as_object_mut()
    {
        metadata.remove("resourceVersion");
    }
    let old = object.value.clone();
    let send = !(dry_run == DryRun::Client || args.common.local || args.common.list);
    let labels = map_of(&old, "labels");
    if send {
        for key in changes.remove.iter().filter(|key| !labels.contains_key(*key)) {
            println!("label {} not found.", api::field::go_quote(key));
        }
    }
    if !args.common.overwrite {
        let taken = changes.overwritten(&labels);
        let taken = taken.iter().map(|(k, v)| plain(format!("'{k}' already has a value ({v}), and --overwrite is false")));
        Failure::of(taken.collect())?;
    }
    changes.apply(&mut object.value, "labels");
    if !args.common.resource_version.is_empty() {
        object.value["metadata"]["resourceVersion"] = json!(args.common.resource_version);
    }
    cx.globals().recording.annotate(&mut object.value);
    let done = operation(&old, &object.value, args.common.overwrite);
    if send {
        let patch = two_way_json_merge(&old, &object.value);
        let helper = Helper::new(cx, &object.mapping).dry_run(dry_run).manager(&args.field_manager);
        let namespace = object.namespace.as_deref().unwrap_or_default();
        helper.patch(namespace, &object.name, PatchType::Merge, &typed::sorted(&patch)).await?;
    }
    if args.common.list {
        list(&object, "labels", single);
        return Ok(());
    }
    Show::new(&args.common.print, done, dry_run)?.print(&object.value)
}

/// Prints an object's labels or annotations, with a heading unless it is the only object.
pub fn list(object: &Object, field: &str, single: bool) {
    let indent = if single { "" } else { " " };
    if !single {
        println!("Listing {field} for {}.{}/{}:", object.mapping.kind, object.mapping.group, object.name);
    }
    for (key, value) in map_of(&object.value, field) {
        println!("{indent}{key}={}", value.as_str().unwrap_or_default());
    }
}

/// Upstream judges by the lengths of the encodings.
fn operation(old: &Value, new: &Value, overwrite: bool) -> &'static str {
    let (before, after) = (typed::sorted(old), typed::sorted(new));
    match before == after {
        true => "not labeled",
        false if !overwrite && after.len() < before.len() => "unlabeled",
        false => "labeled",
    }
}

fn parse(specs: &[String]) -> Result<Changes, String> {
    let mut changes = Changes::default();
    for spec in specs {
        if spec.contains('=') {
            let [key, value] = spec.split('=').collect::<Vec<_>>()[..] else {
                return Err(format!("invalid label spec: {spec}"));
            };
            let problems = names::label_value(value);
            if !problems.is_empty() {
                return Err(format!("invalid label value: {}: {}", api::field::go_quote(spec), problems.join(";")));
            }
            changes.set.insert(key.to_owned(), value.to_owned());
        } else if let Some(key) = spec.strip_suffix('-') {
            changes.remove.push(key.to_owned());
        } else {
            return Err(format!("unknown label spec: {spec}"));
        }
    }
    if changes.remove.iter().any(|key| changes.set.contains_key(key)) {
        return Err("can not both modify and remove a label in the same command".to_owned());
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_set_or_remove() {
        let strings = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        let changes = parse(&strings(&["a=b", "c-"])).unwrap();
        assert_eq!((changes.set.get("a").map(String::as_str), changes.remove), (Some("b"), strings(&["c"])));
        assert_eq!(parse(&strings(&["a=b=c"])), Err("invalid label spec: a=b=c".to_owned()));
        assert_eq!(
            parse(&strings(&["a=b", "a-"])),
            Err("can not both modify and remove a label in the same command".to_owned())
        );
    }

    #[test]
    fn the_operation_goes_by_length() {
        let labeled = |labels: Value| json!({"metadata": {"labels": labels}});
        let (some, none) = (labeled(json!({"a": "b"})), labeled(json!({})));
        assert_eq!(operation(&none, &some, false), "labeled");
        assert_eq!(operation(&some, &some, false), "not labeled");
        assert_eq!(operation(&some, &none, false), "unlabeled");
        assert_eq!(operation(&some, &none, true), "labeled");
    }
}
