//! `kubectl auth`: who one is and what one may do.

pub mod reconcile;

use std::{collections::BTreeMap, sync::Arc};

use clap::Subcommand;
use serde_json::{Value, json};

use crate::{
    client::Call,
    context::Context,
    discovery::Mapping,
    failure::{Failure, plain},
    output::{OutputArgs, Printer, json, table::TabWriter},
};

/// What `auth` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What can be asked.
#[derive(Subcommand, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one of it in a process")]
pub enum Command {
    /// Check whether an action is allowed
    CanI(CanI),
    /// Reconciles rules for RBAC role, role binding, cluster role, and cluster role binding objects
    Reconcile(reconcile::Args),
    /// Experimental: Check self subject attributes
    Whoami {
        /// Nothing.
        #[arg(hide = true)]
        args: Vec<String>,
        /// Output.
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// What `auth can-i` takes.
#[derive(clap::Args, Debug)]
pub struct CanI {
    /// The verb, and a type, type/name or path.
    pub args: Vec<String>,
    /// In all namespaces.
    #[arg(long, short = 'A')]
    pub all_namespaces: bool,
    /// Print nothing; only exit accordingly.
    #[arg(long, short)]
    pub quiet: bool,
    /// A subresource, such as log.
    #[arg(long, default_value = "")]
    pub subresource: String,
    /// List all that is allowed.
    #[arg(long)]
    pub list: bool,
    /// No headers in the list.
    #[arg(long)]
    pub no_headers: bool,
}

/// The order of the fields of a review.
const ORDER: &[&str] = &["kind", "apiVersion", "metadata", "status", "userInfo", "username", "uid", "groups", "extra"];

const VERBS: &[&str] = &[
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "use",
    "bind",
    "impersonate",
    "*",
    "approve",
    "sign",
    "escalate",
    "attest",
];
const URL_VERBS: &[&str] = &["get", "put", "post", "head", "options", "delete", "patch", "*"];

/// Asks the server.
///
/// # Errors
/// If it cannot be asked; silently, with code 1, if the answer is no.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    match args.command {
        Some(Command::CanI(args)) if args.list => list(&args, cx).await,
        Some(Command::CanI(args)) => can_i(&args, cx).await,
        Some(Command::Reconcile(args)) => reconcile::run(args, cx).await,
        Some(Command::Whoami { output, .. }) => whoami(&output, cx).await,
        None => Err(super::create::no_command(&["auth"], &[])),
    }
}

fn warn(text: &str) {
    eprintln!("Warning: {text}\n");
}

async fn can_i(args: &CanI, cx: &Context) -> Result<(), Failure> {
    let [verb, what] = args.args.as_slice() else {
        return Err(plain(
            "you must specify two arguments: verb resource or verb resource/resourceName.\nSee 'kubectl auth can-i -h' for help and examples.",
        ));
    };
    cx.client()?;
    let namespace = if args.all_namespaces { String::new() } else { cx.namespace()? };
    let spec = if what.starts_with('/') {
        if !args.subresource.is_empty() {
            return Err(plain("--subresource can not be used with NonResourceURL"));
        }
        if !URL_VERBS.contains(&verb.as_str()) {
            warn(&format!("verb '{verb}' is not a known verb"));
        }
        json!({"nonResourceAttributes": {"verb": verb, "path": what}})
    } else {
        let (kind, name) = what.split_once('/').unwrap_or((what, ""));
        let found = resource(cx, kind).await?;
        let (group, resource) = found.as_ref().map_or(("", kind), |found| (&found.group, &found.resource));
        if !args.all_namespaces {
            if let Some(found) = &found
                && !namespaced(cx, found).await?
            {
                warn(&match group {
                    "" => format!("resource '{resource}' is not namespace scoped"),
                    group => format!("resource '{resource}' is not namespace scoped in group '{group}'"),
                });
            }
            if !VERBS.contains(&verb.as_str()) {
                warn(&format!("verb '{verb}' is not a known verb"));
            }
        }
        let all = [
            ("namespace", namespace.as_str()),
            ("verb", verb),
            ("group", group),
            ("resource", resource),
            ("subresource", &args.subresource),
            ("name", name),
        ];
        let given: serde_json::Map<String, Value> =
            all.iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| ((*k).to_owned(), Value::from(*v))).collect();
        json!({"resourceAttributes": given})
    };
    if args.no_headers {
        return Err(plain("--no-headers cannot be set without --list specified"));
    }
    let review =
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "metadata": {}, "spec": spec});
    let answer = cx.client()?.json(Call::post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review)).await?;
    let allowed = answer["status"]["allowed"] == true;
    if !args.quiet {
        let why: String = ["reason", "evaluationError"]
            .iter()
            .filter_map(|field| answer["status"][field].as_str().filter(|t| !t.is_empty()))
            .map(|text| format!(" - {text}"))
            .collect();
        println!("{}", if allowed { "yes".to_owned() } else { format!("no{why}") });
    }
    if allowed { Ok(()) } else { Err(Failure::Silent(1)) }
}

/// What the server has by that name. What it does not know is taken as it is, with a warning.
async fn resource(cx: &Context, kind: &str) -> Result<Option<Arc<Mapping>>, Failure> {
    if kind == "*" {
        return Ok(None);
    }
    let lower = kind.to_lowercase();
    if let Ok(Some(found)) = cx.discovery()?.find(|catalog| catalog.argument(&lower).cloned()).await {
        return Ok(Some(found));
    }
    let (name, group) = lower.split_once('.').unwrap_or((&lower, ""));
    if !["users", "groups"].contains(&lower.as_str()) {
        warn(&match group {
            "" => format!("the server doesn't have a resource type '{name}'"),
            group => format!("the server doesn't have a resource type '{name}' in group '{group}'"),
        });
    }
    Ok(None)
}

/// Whether a resource lives in namespaces, as the server has it now; one that does not say is believed to.
async fn namespaced(cx: &Context, resource: &Mapping) -> Result<bool, Failure> {
    let Ok(list) = cx.client()?.json(Call::get(resource.version_path())).await else { return Ok(true) };
    let resources = list["resources"].as_array();
    let found = resources.into_iter().flatten().find(|found| found["name"] == resource.resource);
    Ok(found.is_none_or(|found| found["namespaced"] == true))
}

/// A rule that names one resource or one path.
#[derive(Clone, Debug, Default, PartialEq)]
struct Rule {
    group: Option<String>,
    resource: String,
    names: Vec<String>,
    urls: Vec<String>,
    verbs: Vec<String>,
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Rules split to one resource or path each, those of the same resource joined, in upstream's order.
fn rules(status: &Value) -> Vec<Rule> {
    let mut by_resource: BTreeMap<(String, String, Option<String>), Rule> = BTreeMap::new();
    for rule in status["resourceRules"].as_array().into_iter().flatten() {
        let names: Vec<Option<String>> = match texts(&rule["resourceNames"]) {
            names if names.is_empty() => vec![None],
            names => names.into_iter().map(Some).collect(),
        };
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                for name in &names {
                    let joined =
                        by_resource.entry((group.clone(), resource.clone(), name.clone())).or_insert_with(|| Rule {
                            group: Some(group.clone()),
                            resource: resource.clone(),
                            names: name.iter().cloned().collect(),
                            ..Rule::default()
                        });
                    joined.verbs.extend(texts(&rule["verbs"]));
                }
            }
        }
    }
    let mut all: Vec<Rule> = Vec::new();
    for rule in status["nonResourceRules"].as_array().into_iter().flatten() {
        for url in texts(&rule["nonResourceURLs"]) {
            all.push(Rule { urls: vec![url], verbs: texts(&rule["verbs"]), ..Rule::default() });
        }
    }
    all.extend(by_resource.into_values());
    all.sort_by_key(|rule| {
        let list = |texts: &[String]| texts.join(" ");
        let resources = if rule.group.is_some() { rule.resource.as_str() } else { "" };
        format!(
            "&PolicyRule{{Verbs:[{}],APIGroups:[{}],Resources:[{resources}],ResourceNames:[{}],NonResourceURLs:[{}],}}",
            list(&rule.verbs),
            rule.group.as_deref().unwrap_or_default(),
            list(&rule.names),
            list(&rule.urls)
        )
    });
    all
}

async fn list(args: &CanI, cx: &Context) -> Result<(), Failure> {
    if !args.args.is_empty() {
        return Err(plain("list option must be specified with no arguments"));
    }
    if args.quiet || args.all_namespaces || !args.subresource.is_empty() {
        return Err(plain("list option can't be specified with neither quiet, all-namespaces nor subresource options"));
    }
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "metadata": {},
        "spec": {"namespace": cx.namespace()?}});
    let answer = cx.client()?.json(Call::post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", &review)).await?;
    let status = &answer["status"];
    if status["incomplete"] == true {
        warn(&format!("the list may be incomplete: {}", status["evaluationError"].as_str().unwrap_or_default()));
    }
    let mut rows: Vec<Vec<String>> = Vec::new();
    if !args.no_headers {
        rows.push(["Resources", "Non-Resource URLs", "Resource Names", "Verbs"].map(str::to_owned).to_vec());
    }
    for rule in rules(status) {
        let (name, subresource) =
            rule.resource.split_once('/').map_or((rule.resource.as_str(), None), |(n, s)| (n, Some(s)));
        let group = rule.group.as_deref().filter(|g| !g.is_empty()).map(|g| format!(".{g}")).unwrap_or_default();
        let subresource = subresource.map(|s| format!("/{s}")).unwrap_or_default();
        let list = |texts: &[String]| format!("[{}]", texts.join(" "));
        rows.push(vec![format!("{name}{group}{subresource}"), list(&rule.urls), list(&rule.names), list(&rule.verbs)]);
    }
    print!("{}", TabWriter::default().lines(&rows));
    Ok(())
}

async fn whoami(output: &OutputArgs, cx: &Context) -> Result<(), Failure> {
    let printer = output.printer_of_output()?;
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview", "metadata": {}});
    let asked = cx.client()?.json(Call::post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &review)).await;
    let mut answer = asked.map_err(|failure| match failure.reason() {
        "Forbidden" => plain("the selfsubjectreviews API is not enabled in the cluster or you do not have permission to call it"),
        "NotFound" => plain(
            "the selfsubjectreviews API is not enabled in the cluster\nenable APISelfSubjectReview feature gate and authentication.k8s.io/v1alpha1 or authentication.k8s.io/v1beta1 API",
        ),
        _ => failure,
    })?;
    if let Some(printer) = printer {
        // Upstream prints its typed object.
        answer["metadata"]["creationTimestamp"] = answer["metadata"]["creationTimestamp"].take();
        match printer {
            Printer::Json => println!("{}", json::pretty_in_order(&answer, "    ", ORDER)),
            other => print!("{}", other.print(&answer, 0)?),
        }
        return Ok(());
    }
    // An empty form is one all the same: a message about an object without a name.
    if output.output.as_deref() == Some("") {
        println!("selfsubjectreview.authentication.k8s.io/<unknown>");
        return Ok(());
    }
    let user = &answer["status"]["userInfo"];
    let mut rows = vec![vec!["ATTRIBUTE".to_owned(), "VALUE".to_owned()]];
    for (field, name) in [("username", "Username"), ("uid", "UID")] {
        if let Some(text) = user[field].as_str().filter(|t| !t.is_empty()) {
            rows.push(vec![name.to_owned(), text.to_owned()]);
        }
    }
    let list = |value: &Value| format!("[{}]", texts(value).join(" "));
    if user["groups"].as_array().is_some_and(|g| !g.is_empty()) {
        rows.push(vec!["Groups".to_owned(), list(&user["groups"])]);
    }
    let mut extra: Vec<(&String, &Value)> = user["extra"].as_object().into_iter().flatten().collect();
    extra.sort_by_key(|(key, _)| *key);
    rows.extend(extra.into_iter().map(|(key, value)| vec![format!("Extra: {key}"), list(value)]));
    print!("{}", TabWriter::default().lines(&rows));
    Ok(())
}
