//! `kubectl set image`.

use serde_json::{Value, json};

use super::{Shared, pods};
use crate::{
    context::Context,
    failure::{Failure, plain},
    verbs::labels::split,
};

/// Arguments of `set image`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    shared: Shared,
    /// Objects, then CONTAINER=IMAGE
    arguments: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Bad arguments, or what could not be changed.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let shared = &args.shared;
    let dry_run = shared.dry_run.strategy()?;
    let show = shared.show("image updated", dry_run)?;
    cx.namespace()?;
    let (resources, pairs) = split(&args.arguments, "image").map_err(plain)?;
    let images = parse(&pairs).map_err(plain)?;
    let objects = shared.objects(cx, &resources).await;
    // Upstream gathers what is wrong with the flags once it has the objects.
    let objects = objects?;
    let mut failures: Vec<Failure> = shared.all_and_selector().err().map(plain).into_iter().collect();
    if resources.is_empty() && shared.scope.files.is_empty() {
        failures.push(plain("one or more resources must be specified as <resource> <name> or <resource>/<name>"));
    }
    if images.is_empty() {
        failures.push(plain("at least one image update is required"));
    } else if images.len() > 1 && images.iter().any(|(name, _)| name == "*") {
        failures.push(plain(
            "all containers are already specified by *, but saw more than one container_name=container_image pairs",
        ));
    }
    failures.extend(shared.both_local_and_server(dry_run).err().map(plain));
    Failure::of(std::mem::take(&mut failures))?;
    let mut work = Vec::new();
    for mut object in objects {
        let old = object.value.clone();
        match pods::spec_of(&mut object.value) {
            Ok(spec) => {
                let missing = images.iter().filter(|(name, image)| !set(spec, name, image));
                let told = |(name, _): &(String, String)| {
                    Failure::Plain(format!("error: unable to find container named {}", api::field::go_quote(name)))
                };
                failures.extend(missing.map(told));
                work.push(Ok((old, object)));
            }
            Err(why) => work.push(Err(shared.refused(&object, &why))),
        }
    }
    let failing = "failed to patch image update to pod template: ";
    shared.save_all(cx, work, (dry_run, &show), failing, failures).await
}

fn parse(pairs: &[String]) -> Result<Vec<(String, String)>, String> {
    let mut images: Vec<(String, String)> = Vec::new();
    let mut invalid = Vec::new();
    for pair in pairs {
        match pair.split_once('=').filter(|(name, _)| !name.is_empty()) {
            Some((name, image)) => {
                images.retain(|(n, _)| n != name);
                images.push((name.to_owned(), image.to_owned()));
            }
            None => invalid.push(pair.as_str()),
        }
    }
    if invalid.is_empty() { Ok(images) } else { Err(format!("invalid image format: {}", invalid.join(", "))) }
}

/// Whether there is a container of that name (`*` is any).
fn set(spec: &mut Value, name: &str, image: &str) -> bool {
    let mut found = false;
    for field in ["initContainers", "containers"] {
        for container in spec.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
            if name == "*" || container["name"] == name {
                container["image"] = json!(image);
                found = true;
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_set_by_name() {
        let mut spec = json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]});
        assert!(set(&mut spec, "b", "2") && !set(&mut spec, "c", "2"));
        assert_eq!(spec, json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]}));
    }
}
