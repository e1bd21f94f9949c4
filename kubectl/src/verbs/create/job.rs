//! `kubectl create job`.

use serde_json::{Value, json};

use super::generator::{Generated, Made, with_namespace};
use crate::{
    context::Context,
    failure::{Failure, plain},
    resources::Query,
};

/// Arguments of `create job`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    made: Made,
    /// Image to run
    #[arg(long, default_value = "", hide_default_value = true)]
    image: String,
    /// What to make the job from: cronjob/NAME
    #[arg(long, default_value = "", hide_default_value = true)]
    from: String,
    /// Name of the job; after `--` the container's command
    arguments: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Bad arguments, or the server's refusal.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let making = args.made.begin(cx, "job", &args.arguments)?;
    let (name, command) = (making.name, making.command);
    if args.image.is_empty() == args.from.is_empty() {
        return Err(plain("either --image or --from must be specified"));
    }
    if !command.is_empty() && !args.from.is_empty() {
        return Err(plain("cannot specify --from and command"));
    }
    let object = if args.from.is_empty() {
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec(name, &args.image, command, "Never")})
    } else {
        let from = [args.from.clone()];
        let found = Query { args: &from, latest: true, ..Query::default() }.objects(cx).await?.all()?;
        match found.as_slice() {
            [one] if one.value["kind"] == "CronJob" => from_cron_job(name, &one.value),
            [one] => {
                return Err(plain(format!("unknown object type *v1.{}", one.value["kind"].as_str().unwrap_or_default())));
            }
            _ => return Err(plain("from must be an existing cronjob")),
        }
    };
    making.create(cx, Generated { object: with_namespace(object, cx), failing: "failed to create job: " }).await
}

/// A job's spec of one container.
pub fn spec(name: &str, image: &str, command: &[String], restart: &str) -> Value {
    let mut container = json!({"name": name, "image": image});
    if !command.is_empty() {
        container["command"] = json!(command);
    }
    json!({"template": {"spec": {"containers": [container], "restartPolicy": restart}}})
}

fn from_cron_job(name: &str, cron_job: &Value) -> Value {
    let template = &cron_job["spec"]["jobTemplate"];
    let mut annotations = json!({"cronjob.kubernetes.io/instantiate": "manual"});
    for (key, value) in template["metadata"]["annotations"].as_object().into_iter().flatten() {
        annotations[key] = value.clone();
    }
    let mut object = json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "annotations": annotations,
            "ownerReferences": [{
                "apiVersion": "batch/v1",
                "kind": "CronJob",
                "name": cron_job["metadata"]["name"],
                "uid": cron_job["metadata"]["uid"],
                "controller": true,
            }],
        },
        "spec": template["spec"],
    });
    if let Some(labels) = template["metadata"].get("labels") {
        object["metadata"]["labels"] = labels.clone();
    }
    object
}
