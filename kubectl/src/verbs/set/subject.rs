//! `kubectl set subject`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::Shared;
use crate::{
    context::Context,
    failure::{Failure, plain},
};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Arguments of `set subject`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    shared: Shared,
    /// User to bind; may be given several times
    #[arg(long = "local-user")]
    users: Vec<String>,
    /// Group to bind; may be given several times
    #[arg(long = "group")]
    groups: Vec<String>,
    /// Service account to bind, as NAMESPACE:NAME; may be given several times
    #[arg(long = "serviceaccount")]
    service_accounts: Vec<String>,
    /// Bindings
    arguments: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Bad arguments, or what could not be changed.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let shared = &args.shared;
    let dry_run = shared.dry_run.strategy()?;
    let show = shared.show("subjects updated", dry_run)?;
    let objects = shared.objects(cx, &args.arguments).await?;
    shared.both_local_and_server(dry_run).map_err(plain)?;
    shared.all_and_selector().map_err(plain)?;
    if args.users.is_empty() && args.groups.is_empty() && args.service_accounts.is_empty() {
        return Err(plain("you must specify at least one value of user, group or serviceaccount"));
    }
    let cluster_wide = objects.iter().any(|object| object.mapping.kind == "ClusterRoleBinding");
    let subjects = subjects(&args, &cx.namespace()?, cluster_wide).map_err(plain)?;
    let mut failures = Vec::new();
    for mut object in objects {
        let old = object.value.clone();
        if !matches!(object.mapping.kind.as_str(), "RoleBinding" | "ClusterRoleBinding") {
            failures.push(shared.refused(&object, "setting subjects is only supported for RoleBinding/ClusterRoleBinding"));
            continue;
        }
        let mut list = object.value["subjects"].as_array().cloned().unwrap_or_default();
        list.extend(subjects.iter().filter(|subject| !list.contains(subject)).cloned().collect::<Vec<_>>());
        object.value["subjects"] = Value::Array(list);
        let failing = "failed to patch subjects to rolebinding: ";
        failures.extend(shared.save(cx, &old, &object, (dry_run, &show), failing).await.err());
    }
    Failure::of(failures)
}

fn subjects(args: &Args, namespace: &str, cluster_wide: bool) -> Result<Vec<Value>, String> {
    let mut list = Vec::new();
    for (kind, names) in [("User", &args.users), ("Group", &args.groups)] {
        let names: BTreeSet<&String> = names.iter().collect();
        list.extend(names.into_iter().map(|name| json!({"kind": kind, "apiGroup": GROUP, "name": name})));
    }
    for account in args.service_accounts.iter().collect::<BTreeSet<_>>() {
        let [own, name] = account.split(':').collect::<Vec<_>>()[..] else {
            return Err("serviceaccount must be <namespace>:<name>".to_owned());
        };
        if name.is_empty() {
            return Err("serviceaccount must be <namespace>:<name>".to_owned());
        }
        if own.is_empty() && cluster_wide {
            return Err("serviceaccount must be <namespace>:<name>, namespace must be specified".to_owned());
        }
        let namespace = if own.is_empty() { namespace } else { own };
        list.push(json!({"kind": "ServiceAccount", "namespace": namespace, "name": name}));
    }
    Ok(list)
}
