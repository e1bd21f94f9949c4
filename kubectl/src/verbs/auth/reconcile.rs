//! `kubectl auth reconcile`: roles and bindings get what files say they must at least hold.

use std::collections::BTreeSet;

use api::field::go_quote;
use serde_json::{Map, Value, json};

use crate::{
    client::log,
    context::Context,
    discovery::Mapping,
    failure::{Failure, plain},
    output::{DryRun, DryRunArgs, OutputArgs},
    resources::{FileArgs, Object, Query},
    write::{Helper, Show},
};

/// What `auth reconcile` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    print: OutputArgs,
    #[command(flatten)]
    dry_run: DryRunArgs,
    #[command(flatten)]
    files: FileArgs,
    /// Take rules away that the files don't hold
    #[arg(long)]
    remove_extra_permissions: bool,
    /// Take subjects away that the files don't hold
    #[arg(long)]
    remove_extra_subjects: bool,
    /// None are taken
    arguments: Vec<String>,
}

/// What there is to do.
#[derive(Debug, PartialEq)]
struct Plan {
    operation: &'static str,
    object: Value,
    missing: Vec<Value>,
    extra: Vec<Value>,
    protected: bool,
}

/// Runs the command.
///
/// # Errors
/// Bad arguments, or what the server refused.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    args.files.require()?;
    if !args.arguments.is_empty() {
        return Err(plain("no arguments are allowed"));
    }
    let dry_run = dry_run(&args)?;
    cx.namespace()?;
    let query = Query { files: Some(&args.files), local: true, typed: true, ..Query::default() };
    let targets = query.targets(cx).await?;
    cx.client()?;
    let show = Show::new(&args.print, "reconciled", dry_run)?;
    targets.visit(&query, cx, async |object| one(&args, cx, object, dry_run, &show).await).await
}

fn dry_run(args: &Args) -> Result<DryRun, Failure> {
    match args.dry_run.strategy() {
        Ok(DryRun::Server) => Err(plain("--dry-run=server for command reconcile is not supported yet")),
        Err(why) => Err(plain(format!("error accessing --dry-run flag for command reconcile: {}", why.message()))),
        client => client,
    }
}

/// Makes sure that there is the namespace that something is about to be created in.
async fn ensure_namespace(cx: &Context, namespace: &str) -> Result<(), Failure> {
    let mapping = std::sync::Arc::new(Mapping::guessed("v1", "Namespace"));
    let helper = Helper::new(cx, &mapping);
    match helper.get("", namespace).await {
        Err(failure) if matches!(failure.reason(), "NotFound" | "Forbidden") => {}
        other => return other.map(drop),
    }
    let object = json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": namespace}});
    match helper.create("", &object).await {
        Err(failure) if !matches!(failure.reason(), "AlreadyExists" | "Forbidden") => Err(failure),
        _ => Ok(()),
    }
}

async fn one(args: &Args, cx: &Context, object: Object, dry_run: DryRun, show: &Show) -> Result<(), Failure> {
    let binding = match (object.mapping.group.as_str(), object.mapping.kind.as_str()) {
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => false,
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => true,
        // Other kinds are passed over.
        (_, kind) => {
            let version = go_quote(&object.mapping.api_version());
            let text = format!("skipping &v1.TypeMeta{{Kind:{}, APIVersion:{version}}}", go_quote(kind));
            log::at(1, "reconcile.go:279", &text);
            return Ok(());
        }
    };
    let field = if binding { "subjects" } else { "rules" };
    let remove = if binding { args.remove_extra_subjects } else { args.remove_extra_permissions };
    let helper = Helper::new(cx, &object.mapping);
    let namespace = object.namespace.as_deref().unwrap_or_default();
    let existing = match helper.get(namespace, &object.name).await {
        Ok(existing) => Some(existing),
        Err(failure) if failure.is_not_found() => None,
        Err(failure) => return Err(failure),
    };
    let mut plan = plan(&object.value, existing.as_ref(), field, remove);
    if dry_run == DryRun::None && !plan.protected {
        plan.object = match plan.operation {
            "create" => {
                if object.mapping.namespaced {
                    ensure_namespace(cx, namespace).await?;
                }
                helper.create(namespace, &plan.object).await?
            }
            "update" => helper.replace(namespace, &object.name, false, &plan.object).await?,
            "recreate" => {
                helper.delete(namespace, &object.name, json!({})).await?;
                helper.create(namespace, &plan.object).await?
            }
            _ => plan.object,
        };
    }
    show.typed(&plan.object)?;
    tell(&plan, field, remove);
    Ok(())
}

fn tell(plan: &Plan, field: &str, remove: bool) {
    if plan.operation.is_empty() {
        return;
    }
    let caveat = match plan.protected {
        true => ", but object opted out (rbac.authorization.kubernetes.io/autoupdate: false)",
        false => "",
    };
    eprintln!("\treconciliation required {}{caveat}", plan.operation);
    for (items, what) in [(&plan.missing, "missing"), (&plan.extra, "extra")] {
        if items.is_empty() || (what == "extra" && !remove) {
            continue;
        }
        eprintln!("\t{what} {field} {}:", if what == "missing" { "added" } else { "removed" });
        items.iter().for_each(|item| eprintln!("\t\t{}", go_struct(item, field)));
    }
}

/// A rule or subject as Go's `%+v` prints it.
fn go_struct(item: &Value, field: &str) -> String {
    let list = |name: &str| format!("[{}]", super::texts(&item[name]).join(" "));
    let text = |name: &str| item[name].as_str().unwrap_or_default().to_owned();
    match field {
        "rules" => format!(
            "{{Verbs:{} APIGroups:{} Resources:{} ResourceNames:{} NonResourceURLs:{}}}",
            list("verbs"),
            list("apiGroups"),
            list("resources"),
            list("resourceNames"),
            list("nonResourceURLs")
        ),
        _ => format!(
            "{{Kind:{} APIGroup:{} Name:{} Namespace:{}}}",
            text("kind"),
            text("apiGroup"),
            text("name"),
            text("namespace")
        ),
    }
}

fn items(object: &Value, field: &str) -> Vec<Value> {
    object[field].as_array().cloned().unwrap_or_default()
}

fn plan(wanted: &Value, existing: Option<&Value>, field: &str, remove: bool) -> Plan {
    let Some(existing) = existing else {
        let missing = items(wanted, field);
        return Plan { operation: "create", object: wanted.clone(), missing, extra: Vec::new(), protected: false };
    };
    let key = "rbac.authorization.kubernetes.io/autoupdate";
    let protected = existing["metadata"]["annotations"][key] == "false";
    let mut object = existing.clone();
    let mut operation = "";
    for of in ["labels", "annotations"] {
        let mut all: Map<String, Value> = existing["metadata"][of].as_object().cloned().unwrap_or_default();
        let before = all.clone();
        // What is there wins.
        for (name, value) in wanted["metadata"][of].as_object().into_iter().flatten() {
            all.entry(name.clone()).or_insert_with(|| value.clone());
        }
        if all != before {
            operation = "update";
            object["metadata"][of] = Value::Object(all);
        }
    }
    let (have, want) = (items(existing, field), items(wanted, field));
    let (missing, extra) = match field {
        "rules" => (uncovered(&want, &have), uncovered(&have, &want)),
        _ => {
            let without = |of: &[Value], other: &[Value]| -> Vec<Value> {
                of.iter()
                    .filter(|item| !other.iter().any(|o| go_struct(o, field) == go_struct(item, field)))
                    .cloned()
                    .collect()
            };
            (without(&want, &have), without(&have, &want))
        }
    };
    if remove && (!missing.is_empty() || !extra.is_empty()) {
        operation = "update";
        object[field] = want.into();
    } else if !missing.is_empty() {
        operation = "update";
        object[field] = have.into_iter().chain(missing.clone()).collect();
    }
    if field == "subjects" && existing["roleRef"]["name"] != wanted["roleRef"]["name"] {
        operation = "recreate";
        object = wanted.clone();
    }
    Plan { operation, object, missing, extra, protected }
}

/// A rule as single permissions: verb, group and resource, name; or verb and path.
fn permissions(rule: &Value) -> BTreeSet<[String; 4]> {
    let list = |name: &str| super::texts(&rule[name]);
    let names = match list("resourceNames") {
        names if names.is_empty() => vec![String::new()],
        names => names,
    };
    let mut out = BTreeSet::new();
    for verb in list("verbs") {
        for url in list("nonResourceURLs") {
            out.insert([verb.clone(), url, String::new(), "url".to_owned()]);
        }
        for group in list("apiGroups") {
            for resource in list("resources") {
                for name in &names {
                    out.insert([verb.clone(), group.clone(), resource.clone(), name.clone()]);
                }
            }
        }
    }
    out
}

/// The permissions of some rules that others don't give, as rules again.
fn uncovered(rules: &[Value], by: &[Value]) -> Vec<Value> {
    let given: BTreeSet<[String; 4]> = by.iter().flat_map(permissions).collect();
    let covered = |wanted: &[String; 4]| {
        given.iter().any(|have| {
            let same = |at: usize| have[at] == wanted[at] || have[at] == "*";
            let name = have[3] == wanted[3] || (have[3].is_empty() && wanted[3] != "url");
            same(0) && same(1) && same(2) && name
        })
    };
    let mut out = Vec::new();
    for permission in rules.iter().flat_map(permissions).filter(|permission| !covered(permission)) {
        let [verb, group, resource, name] = permission;
        let rule = match name.as_str() {
            "url" => json!({"verbs": [verb], "nonResourceURLs": [group]}),
            "" => json!({"verbs": [verb], "apiGroups": [group], "resources": [resource]}),
            name => json!({"verbs": [verb], "apiGroups": [group], "resources": [resource], "resourceNames": [name]}),
        };
        out.push(rule);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_added() {
        let role = |verbs: &[&str]| json!({"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": verbs}]});
        let plan = plan(&role(&["get", "list"]), Some(&role(&["get", "watch"])), "rules", false);
        assert_eq!(plan.operation, "update");
        assert_eq!(plan.missing, [json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]})]);
        assert_eq!(plan.object["rules"].as_array().map(Vec::len), Some(2));
    }
}
