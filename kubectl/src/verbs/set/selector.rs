//! `kubectl set selector`.

use api::patch::{PatchType, two_way_strategic};
use serde_json::{Value, json};

use super::{Scope, Shared};
use crate::{
    context::Context,
    failure::{Failure, plain},
    output::DryRun,
    resources::{Object, PlainFileArgs},
    typed,
    write::{Helper, Show, label_selector},
};

/// Arguments of `set selector`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    shared: Shared<PlainFileArgs>,
    /// Only if the object is at this version; for one object
    #[arg(long, default_value = "", hide_default_value = true)]
    resource_version: String,
    /// Objects, then the selector
    arguments: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Bad arguments, or what could not be changed.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let shared = &args.shared;
    let dry_run = shared.dry_run.strategy()?;
    let Some((selector, resources)) = args.arguments.split_last() else {
        return Err(plain("one selector is required"));
    };
    let selector = label_selector(selector).map_err(plain)?;
    let show = shared.show("selector updated", dry_run)?;
    let files = shared.scope.files();
    let query = match (shared.query(&files, resources), cx.namespace().map_err(Failure::in_list)) {
        (Ok(query), Ok(_)) => query,
        // Both are told as one of the configuration.
        (Err(first), Err(second)) => {
            let (first, second) = (first.message(), second.message());
            let second = second.strip_prefix("Error in configuration: ").unwrap_or(&second);
            return Err(Failure::Verbatim(format!("Error in configuration: \n* {first}\n* {second}"), 1));
        }
        (Err(failure), _) | (_, Err(failure)) => return Err(failure),
    };
    let change = async |mut object: Object| {
        object.value = typed::complete(object.value);
        one(&args, cx, object, &selector, (dry_run, &show)).await
    };
    query.visit(cx, change).await
}

async fn one(
    args: &Args,
    cx: &Context,
    mut object: Object,
    selector: &Value,
    (dry_run, show): (DryRun, &Show),
) -> Result<(), Failure> {
    let mut old = object.value.clone();
    if !args.resource_version.is_empty() {
        if let Some(metadata) = old["metadata"].as_object_mut() {
            metadata.remove("resourceVersion");
        }
        object.value["metadata"]["resourceVersion"] = json!(args.resource_version);
    }
    set(&mut object.value, selector).map_err(plain)?;
    if args.shared.local || dry_run == DryRun::Client {
        return show.typed(&object.value);
    }
    let patch = typed::type_of(&object.value).map(|ty| two_way_strategic(&old, &object.value, ty)).transpose();
    let patch = patch.map_err(|error| plain(error.to_string()))?.unwrap_or_default();
    let helper = Helper::new(cx, &object.mapping).dry_run(dry_run).manager(&args.shared.field_manager);
    let namespace = object.namespace.as_deref().unwrap_or_default();
    show.typed(&helper.patch(namespace, &object.name, PatchType::Strategic, &typed::sorted(&patch)).await?)
}

fn set(object: &mut Value, selector: &Value) -> Result<(), String> {
    if object["kind"] != "Service" {
        return Err("setting a selector is only supported for Services".to_owned());
    }
    if let Some(expressions) = selector["matchExpressions"].as_array() {
        let one = |e: &Value| {
            let text = |field: &str| e[field].as_str().unwrap_or_default().to_owned();
            let values: Vec<&str> = e["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            format!("{{{} {} [{}]}}", text("key"), text("operator"), values.join(" "))
        };
        let expressions: Vec<String> = expressions.iter().map(one).collect();
        return Err(format!("match expression [{}] not supported on this object", expressions.join(" ")));
    }
    match selector.get("matchLabels") {
        Some(labels) => object["spec"]["selector"] = labels.clone(),
        None => drop(object["spec"].as_object_mut().map(|spec| spec.remove("selector"))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_services_have_such_selectors() {
        let mut service = json!({"kind": "Service", "spec": {"selector": {"a": "b"}}});
        set(&mut service, &json!({"matchLabels": {"c": "d"}})).unwrap();
        assert_eq!(service["spec"], json!({"selector": {"c": "d"}}));
        let refused = set(&mut json!({"kind": "Pod"}), &json!({}));
        assert_eq!(refused, Err("setting a selector is only supported for Services".to_owned()));
    }
}
