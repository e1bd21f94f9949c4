//! `kubectl rollout pause`, `resume` and `restart`: small patches of pod templates' owners.

use api::patch::{PatchType, two_way_strategic};
use serde_json::{Value, json};

use super::Which;
use crate::{
    context::Context,
    failure::{Failure, plain},
    output::{DryRun, OutputArgs},
    typed,
    write::{Helper, Show},
};

/// Arguments of each.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    print: OutputArgs,
    /// Name of the manager that owns the fields
    #[arg(long, default_value = "kubectl-rollout")]
    field_manager: String,
    #[command(flatten)]
    which: Which,
}

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Changes of the template start nothing any more.
    Pause,
    /// All pods are replaced.
    Restart,
    /// The opposite of pause.
    Resume,
}

/// Runs one.
///
/// # Errors
/// Bad arguments, or what could not be changed.
pub async fn run(args: Args, cx: &Context, change: Change) -> Result<(), Failure> {
    args.which.require(cx)?;
    let found = args.which.query().objects(cx).await?;
    if found.objects.is_empty() && found.failures.is_empty() {
        eprintln!("No resources found in {} namespace.", cx.namespace()?);
        return Ok(());
    }
    let now = jiff::Zoned::now().strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
    let now = now.strip_suffix("+00:00").map(|utc| format!("{utc}Z")).unwrap_or(now);
    let mut failures = Vec::new();
    for object in found.objects {
        let old = typed::complete(object.value.clone());
        let new = match change.of(&old, &now) {
            Ok(new) => new,
            Err(why) => {
                let named = format!("{} {}", object.mapping.group_resource(), api::field::go_quote(&object.name));
                failures.push(Failure::Plain(format!("error: {named} {why}")));
                continue;
            }
        };
        let patch = typed::type_of(&old).map(|ty| two_way_strategic(&old, &new, ty)).transpose();
        let patch = patch.map_err(|error| plain(error.to_string()))?.unwrap_or_default();
        if patch == json!({}) {
            failures.push(plain(format!(
                "failed to create patch for {}: if restart has already been triggered within the past second, please wait before attempting to trigger another",
                object.name
            )));
            continue;
        }
        let helper = Helper::new(cx, &object.mapping).manager(&args.field_manager);
        let namespace = object.namespace.as_deref().unwrap_or_default();
        match helper.patch(namespace, &object.name, PatchType::Strategic, &typed::sorted(&patch)).await {
            // Only what was done is printed: a form that there is not is found out then, as upstream has it.
            Ok(patched) => {
                let printed = Show::new(&args.print, change.done(), DryRun::None).and_then(|show| show.typed(&patched));
                failures.extend(printed.err());
            }
            Err(failure) => failures.push(plain(format!("failed to patch: {}", failure.message()))),
        }
    }
    // What is wrong with files comes as a list, if it is of one.
    if failures.is_empty() && !found.failures.is_empty() && !args.which.files.is_empty() {
        return Err(Failure::Many(found.failures));
    }
    let mut all = match found.failures.as_slice() {
        // What is wrong with one name is told as it is.
        [_] if args.which.files.is_empty() => found.failures,
        _ => Failure::grouped(found.failures, failures.is_empty()),
    };
    all.append(&mut failures);
    Failure::of(all)
}

impl Change {
    fn done(self) -> &'static str {
        match self {
            Self::Pause => "paused",
            Self::Restart => "restarted",
            Self::Resume => "resumed",
        }
    }

    /// The object changed, or why it cannot be.
    fn of(self, object: &Value, now: &str) -> Result<Value, &'static str> {
        let mut new = object.clone();
        let paused = object["spec"]["paused"] == true;
        match (self, object["kind"].as_str().unwrap_or_default()) {
            (Self::Pause, "Deployment") if paused => return Err("is already paused"),
            (Self::Pause, "Deployment") => new["spec"]["paused"] = json!(true),
            (Self::Pause, _) => return Err("pausing is not supported"),
            (Self::Resume, "Deployment") if !paused => return Err("is not paused"),
            (Self::Resume, "Deployment") => {
                if let Some(spec) = new["spec"].as_object_mut() {
                    spec.remove("paused");
                }
            }
            (Self::Resume, _) => return Err("resuming is not supported"),
            (Self::Restart, "Deployment") if paused => {
                return Err("can't restart paused deployment (run rollout resume first)");
            }
            (Self::Restart, "Deployment" | "DaemonSet" | "StatefulSet") => {
                new["spec"]["template"]["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"] = json!(now);
            }
            (Self::Restart, _) => return Err("restarting is not supported"),
        }
        Ok(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deployments_pause_and_resume() {
        let running = json!({"kind": "Deployment", "spec": {}});
        let paused = json!({"kind": "Deployment", "spec": {"paused": true}});
        assert_eq!(Change::Pause.of(&running, ""), Ok(paused.clone()));
        assert_eq!(Change::Resume.of(&paused, ""), Ok(running.clone()));
        assert_eq!(Change::Pause.of(&paused, ""), Err("is already paused"));
        assert_eq!(Change::Resume.of(&running, ""), Err("is not paused"));
        assert_eq!(Change::Restart.of(&paused, ""), Err("can't restart paused deployment (run rollout resume first)"));
        assert_eq!(Change::Pause.of(&json!({"kind": "Pod"}), ""), Err("pausing is not supported"));
    }

    #[test]
    fn a_restart_annotates_the_template() {
        let restarted = Change::Restart.of(&json!({"kind": "DaemonSet"}), "now").unwrap();
        let annotations = json!({"kubectl.kubernetes.io/restartedAt": "now"});
        assert_eq!(restarted["spec"]["template"]["metadata"]["annotations"], annotations);
    }
}
