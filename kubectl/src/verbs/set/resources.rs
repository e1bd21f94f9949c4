//! `kubectl set resources`.

use serde_json::{Map, Value, json};

use super::{Shared, pods};
use crate::{
    context::Context,
    failure::{Failure, plain},
    verbs::create::quota::resource_list,
};

/// Arguments of `set resources`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    shared: Shared,
    /// Names of the containers, with wildcards
    #[arg(long, short = 'c', default_value = "*")]
    containers: String,
    /// cpu=100m,memory=256Mi: what a container may use
    #[arg(long, default_value = "", hide_default_value = true)]
    limits: String,
    /// cpu=100m,memory=256Mi: what a container asks for
    #[arg(long, default_value = "", hide_default_value = true)]
    requests: String,
    /// Objects
    arguments: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Bad arguments, or what could not be changed.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let shared = &args.shared;
    let dry_run = shared.dry_run.strategy()?;
    let show = shared.show("resource requirements updated", dry_run)?;
    let objects = shared.objects(cx, &args.arguments).await?;
    shared.both_local_and_server(dry_run).map_err(plain)?;
    shared.all_and_selector().map_err(plain)?;
    if args.limits.is_empty() && args.requests.is_empty() {
        return Err(plain("you must specify an update to requests or limits (in the form of --requests/--limits)"));
    }
    let limits = resource_list(&args.limits).map_err(plain)?;
    let requests = resource_list(&args.requests).map_err(plain)?;
    let (mut failures, mut work) = (Vec::new(), Vec::new());
    for mut object in objects {
        let old = object.value.clone();
        match pods::spec_of(&mut object.value).map(|spec| set(spec, &args.containers, &limits, &requests)) {
            Ok(true) => work.push(Ok((old, object))),
            Ok(false) => failures.push(Failure::Plain(format!("error: unable to find container named {}", args.containers))),
            Err(why) => work.push(Err(shared.refused(&object, &why))),
        }
    }
    let failing = "failed to patch resources update to pod template ";
    shared.save_all(cx, work, (dry_run, &show), failing, failures).await
}

/// Whether any container fits.
fn set(spec: &mut Value, names: &str, limits: &Map<String, Value>, requests: &Map<String, Value>) -> bool {
    let containers = pods::containers(spec, names);
    let found = !containers.is_empty();
    for container in containers {
        for (field, list) in [("limits", limits), ("requests", requests)] {
            for (resource, quantity) in list {
                container["resources"][field][resource] = json!(quantity);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_are_merged() {
        let mut spec = json!({"containers": [{"name": "a", "resources": {"limits": {"cpu": "1", "memory": "1Mi"}}}]});
        let list = |text: &str| resource_list(text).unwrap();
        assert!(set(&mut spec, "a*", &list("cpu=2"), &list("memory=5Mi")));
        assert_eq!(
            spec["containers"][0]["resources"],
            json!({"limits": {"cpu": "2", "memory": "1Mi"}, "requests": {"memory": "5Mi"}})
        );
    }
}
