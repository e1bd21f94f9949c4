//! `kubectl drain`, `kubectl cordon` and `kubectl uncordon`.

mod select;

use std::time::Duration;

use api::{patch::PatchType, selector::Selector};
use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};

use self::select::{Fate, Rules, by_reason, daemon_set, fate, skipped};
use crate::{
    cli,
    client::Call,
    context::Context,
    failure::{Failure, plain, usage},
    output::{DryRun, DryRunArgs, message},
    resources::{Object, Query, items, missing},
    write::{Helper, path, warn},
};

/// Arguments of `cordon` and `uncordon`.
#[derive(clap::Args, Debug)]
pub struct CordonArgs {
    #[command(flatten)]
    dry_run: DryRunArgs,
    /// Labels of the nodes
    #[arg(long, short = 'l')]
    selector: Option<String>,
    /// Names of the nodes
    arguments: Vec<String>,
}

/// Arguments of `drain`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Go on although there are pods without a controller
    #[arg(long)]
    force: bool,
    /// Leave the pods of DaemonSets alone
    #[arg(long)]
    ignore_daemonsets: bool,
    /// Go on although pods have emptyDir volumes, whose contents go with them
    #[arg(long)]
    delete_emptydir_data: bool,
    /// Seconds that each pod has to end; below zero its own
    #[arg(long, default_value_t = -1)]
    grace_period: i64,
    /// How long to go on; zero is as long as it takes
    #[arg(long, value_parser = cli::duration, default_value = "0s")]
    timeout: SignedDuration,
    /// Labels of the pods to remove
    #[arg(long, default_value = "", hide_default_value = true)]
    pod_selector: String,
    /// Delete pods instead of evicting them, whatever disruption budgets say
    #[arg(long)]
    disable_eviction: bool,
    /// Pods that have been going for more seconds than this are not waited for; 0 is never
    #[arg(long, default_value_t = 0)]
    skip_wait_for_delete_timeout: i64,
    /// How many pods to list at a time; 0 is all
    #[arg(long, default_value_t = 500)]
    chunk_size: i64,
    #[command(flatten)]
    dry_run: DryRunArgs,
    /// Labels of the nodes
    #[arg(long, short = 'l')]
    selector: Option<String>,
    /// Names of the nodes
    arguments: Vec<String>,
}

/// Runs `cordon` (`desired`) or `uncordon`.
///
/// # Errors
/// Bad arguments, or nodes that are not there.
pub async fn cordon(args: CordonArgs, cx: &Context, desired: bool) -> Result<(), Failure> {
    let verb = if desired { "cordon" } else { "uncordon" };
    check_names(verb, &args.arguments, args.selector.as_deref())?;
    let dry_run = args.dry_run.strategy()?;
    let nodes = nodes(cx, &args.arguments, args.selector.as_deref()).await?;
    mark(cx, &nodes, desired, dry_run).await;
    Ok(())
}

/// Runs `drain`.
///
/// # Errors
/// Bad arguments, or nodes that could not be drained.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    check_names("drain", &args.arguments, args.selector.as_deref())?;
    let dry_run = args.dry_run.strategy()?;
    if !args.pod_selector.is_empty() && Selector::parse(&args.pod_selector).is_err() {
        return Err(plain("--pod-selector=<pod_selector> must be a valid label selector"));
    }
    let nodes = nodes(cx, &args.arguments, args.selector.as_deref()).await?;
    mark(cx, &nodes, true, dry_run).await;
    let (mut failures, mut remaining) = (Vec::new(), Vec::new());
    for node in &nodes {
        match one(&args, cx, &node.name, dry_run).await {
            Ok(()) => tell(&node.value, "drained", dry_run),
            Err(failure) => {
                let (name, why) = (api::field::go_quote(&node.name), failure.message());
                eprintln!("error: unable to drain node {name} due to error: {why}, continuing command...");
                remaining.push(&node.name);
                failures.push(failure);
            }
        }
    }
    if !remaining.is_empty() {
        eprintln!("There are pending nodes to be drained:");
        remaining.iter().for_each(|name| eprintln!(" {name}"));
    }
    Failure::of(failures)
}

fn tell(object: &Value, operation: &str, dry_run: DryRun) {
    print!("{}", message(object, &format!("{operation}{}", dry_run.suffix())));
}

fn check_names(verb: &str, names: &[String], selector: Option<&str>) -> Result<(), Failure> {
    if names.is_empty() && selector.is_none() {
        return Err(usage(verb, format!("USAGE: {verb} NODE [flags]")));
    }
    if !names.is_empty() && selector.is_some_and(|s| !s.is_empty()) {
        return Err(usage(verb, "error: cannot specify both a node name and a --selector option"));
    }
    Ok(())
}

async fn nodes(cx: &Context, names: &[String], selector: Option<&str>) -> Result<Vec<Object>, Failure> {
    cx.client()?;
    let types = ["nodes".to_owned()];
    let query = match selector.filter(|s| !s.is_empty()) {
        None if names.is_empty() => return Err(missing()),
        None => Query { args: names, default_type: Some("nodes"), ..Query::default() },
        labels => Query { args: &types, labels, ..Query::default() },
    };
    let query = Query { latest: true, exact: true, single_type: true, ..query };
    let mut nodes = Vec::new();
    let visited = query.visit(cx, async |object| {
        let mapping = &object.mapping;
        if mapping.group_resource() != "nodes" {
            let resource = format!("{}/{}, Resource={}", mapping.group, mapping.version, mapping.resource);
            let resource = api::field::go_quote(&resource);
            return Err(Failure::Plain(format!("error: expected resource of type node, got {resource}")));
        }
        nodes.push(object);
        Ok(())
    });
    // Upstream stops at the first thing that is wrong.
    visited.await.map_err(Failure::first)?;
    Ok(nodes)
}

/// Marks nodes schedulable or not. What goes wrong with one is told and does not keep the others.
async fn mark(cx: &Context, nodes: &[Object], desired: bool, dry_run: DryRun) {
    let un = if desired { "" } else { "un" };
    for node in nodes {
        let is = node.value["spec"]["unschedulable"] == true;
        if is == desired {
            tell(&node.value, &format!("already {un}cordoned"), dry_run);
            continue;
        }
        if dry_run != DryRun::Client {
            let value = if desired { json!(true) } else { Value::Null };
            let patch = json!({"spec": {"unschedulable": value}}).to_string();
            let helper = Helper::new(cx, &node.mapping).dry_run(dry_run);
            if let Err(failure) = helper.patch("", &node.name, PatchType::Strategic, &patch).await {
                eprintln!("error: unable to {un}cordon node {}: {}", api::field::go_quote(&node.name), failure.message());
            }
        }
        tell(&node.value, &format!("{un}cordoned"), dry_run);
    }
}

/// Drains one node.
async fn one(args: &Args, cx: &Context, node: &str, dry_run: DryRun) -> Result<(), Failure> {
    let (pods, warnings) = pods_to_remove(args, cx, node).await?;
    if !warnings.is_empty() {
        warn(&warnings);
    }
    if dry_run == DryRun::Client {
        pods.iter().for_each(|pod| println!("evicting pod {} (dry run)", full_name(pod)));
        return Ok(());
    }
    let Err(failure) = remove(args, cx, &pods, dry_run).await else { return Ok(()) };
    match pods_to_remove(args, cx, node).await {
        Ok((pending, _)) if pending.is_empty() => {}
        Ok((pending, _)) => {
            let node = api::field::go_quote(node);
            eprintln!("There are pending pods in node {node} when an error occurred: {}", failure.message());
            pending.iter().for_each(|pod| eprintln!("pod/{}", name(pod)));
        }
        Err(other) => eprint!("Following errors occurred while getting the list of pods to delete:\n{}", other.message()),
    }
    Err(failure)
}

fn name(pod: &Value) -> &str {
    pod["metadata"]["name"].as_str().unwrap_or_default()
}

fn namespace(pod: &Value) -> &str {
    pod["metadata"]["namespace"].as_str().unwrap_or_default()
}

fn full_name(pod: &Value) -> String {
    format!("{}/{}", namespace(pod), name(pod))
}

/// The pods of a node that have to go, and what to warn of.
async fn pods_to_remove(args: &Args, cx: &Context, node: &str) -> Result<(Vec<Value>, String), Failure> {
    let client = cx.client()?;
    let (mut all, mut token) = (Vec::new(), String::new());
    loop {
        let mut call = Call::get("/api/v1/pods").query("fieldSelector", format!("spec.nodeName={node}"));
        call = call.query_if("labelSelector", &args.pod_selector).query_if("continue", &token);
        if args.chunk_size > 0 {
            call = call.query("limit", args.chunk_size.to_string());
        }
        let page = client.json(call).await.map_err(|failure| Failure::Many(vec![failure]))?;
        token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
        all.extend(items(page));
        if token.is_empty() {
            break;
        }
    }
    let rules = Rules {
        force: args.force,
        ignore_daemon_sets: args.ignore_daemonsets,
        delete_empty_dirs: args.delete_emptydir_data,
        skip_deleted_seconds: args.skip_wait_for_delete_timeout,
    };
    let (mut going, mut warned, mut fatal) = (Vec::new(), Vec::new(), Vec::new());
    for pod in all {
        let missing = match daemon_set(&pod) {
            Some(owner) => {
                let call =
                    Call::get(format!("/apis/apps/v1/namespaces/{}/daemonsets/{}", path(namespace(&pod)), path(owner)));
                client.json(call).await.err().map(|failure| (failure.message(), failure.is_not_found()))
            }
            None => None,
        };
        match fate(&pod, rules, missing, Timestamp::now()) {
            Fate::Go => going.push(pod),
            Fate::Stay => {}
            Fate::StayWarned(why) => warned.push((why, full_name(&pod))),
            Fate::GoWarned(why) => {
                warned.push((why, full_name(&pod)));
                going.push(pod);
            }
            Fate::Fatal(why) => fatal.push((why, full_name(&pod))),
        }
    }
    let fatal = by_reason(fatal).into_iter().map(|why| plain(format!("cannot delete {why}"))).collect();
    several(fatal)?;
    Ok((going, by_reason(warned).join("; ")))
}

/// Evicts or deletes pods and waits until they are gone.
async fn remove(args: &Args, cx: &Context, pods: &[Value], dry_run: DryRun) -> Result<(), Failure> {
    if pods.is_empty() {
        return Ok(());
    }
    let deadline = Duration::try_from(args.timeout).ok().filter(|t| !t.is_zero()).map(|t| Instant::now() + t);
    let mapping = cx.discovery()?.kind("v1", "Pod").await?;
    if args.disable_eviction || !mapping.subresources.iter().any(|s| s == "eviction") {
        let helper = Helper::new(cx, &mapping).dry_run(dry_run);
        for pod in pods {
            match helper.delete(namespace(pod), name(pod), delete_options(args)).await {
                Err(failure) if !failure.is_not_found() => return Err(failure),
                _ => {}
            }
        }
        let gone = join_all(pods.iter().map(|pod| wait(args, cx, pod, "deleted")));
        let late = || plain("context deadline exceeded");
        return until(deadline, gone).await.ok_or_else(late)?.into_iter().collect();
    }
    let evict = |pod| async move {
        let (pod_name, namespace) = (api::field::go_quote(name(pod)), api::field::go_quote(namespace(pod)));
        let late = || {
            let timeout = api::duration::go_string(args.timeout);
            plain(format!("error when evicting pods/{pod_name} -n {namespace}: global timeout reached: {timeout}"))
        };
        match until(deadline, evict(args, cx, pod, dry_run)).await {
            None => return Err(late()),
            Some(Ok(true)) => {}
            Some(done) => return done.map(drop),
        }
        let waiting =
            |why: &str| plain(format!("error when waiting for pod {pod_name} in namespace {namespace} to terminate: {why}"));
        match until(deadline, wait(args, cx, pod, "evicted")).await {
            None => Err(waiting("context deadline exceeded")),
            Some(done) => done.map_err(|failure| waiting(&failure.message())),
        }
    };
    several(join_all(pods.iter().map(evict)).await.into_iter().filter_map(Result::err).collect())
}

/// Upstream keeps these failures as several even if there is only one.
fn several(failures: Vec<Failure>) -> Result<(), Failure> {
    if failures.is_empty() { Ok(()) } else { Err(Failure::Many(failures)) }
}

async fn until<T>(deadline: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
    match deadline {
        Some(deadline) => timeout_at(deadline, work).await.ok(),
        None => Some(work.await),
    }
}

fn delete_options(args: &Args) -> Value {
    if args.grace_period >= 0 { json!({"gracePeriodSeconds": args.grace_period}) } else { json!({}) }
}

/// Asks for a pod's eviction until it is granted; whether there is something to wait for.
async fn evict(args: &Args, cx: &Context, pod: &Value, dry_run: DryRun) -> Result<bool, Failure> {
    let mapping = cx.discovery()?.kind("v1", "Pod").await?;
    let mut options = delete_options(args);
    if dry_run == DryRun::Server {
        options["dryRun"] = json!(["All"]);
    }
    let eviction = json!({
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name(pod), "namespace": namespace(pod), "creationTimestamp": null},
        "deleteOptions": options,
    });
    let helper = Helper::new(cx, &mapping).subresource("eviction");
    loop {
        println!("evicting pod {}{}", full_name(pod), if dry_run == DryRun::Server { dry_run.suffix() } else { "" });
        let failure = match helper.create_under(namespace(pod), name(pod), &eviction).await {
            Ok(_) => return Ok(dry_run != DryRun::Server),
            Err(failure) if failure.is_not_found() => return Ok(false),
            Err(failure) => failure,
        };
        let (pod_name, namespace, why) =
            (api::field::go_quote(name(pod)), api::field::go_quote(namespace(pod)), failure.message());
        let terminating = failure.reason() == "Forbidden" && has_cause(&failure, "NamespaceTerminating");
        match failure.reason() {
            "TooManyRequests" => {
                eprintln!("error when evicting pods/{pod_name} -n {namespace} (will retry after 5s): {why}")
            }
            _ if terminating && !pod["metadata"]["deletionTimestamp"].is_null() => return Ok(true),
            _ if terminating => eprintln!(
                "error when evicting pod {pod_name} from terminating namespace {namespace} (will retry after 5s): {why}"
            ),
            _ => return Err(plain(format!("error when evicting pods/{pod_name} -n {namespace}: {why}"))),
        }
        sleep(Duration::from_secs(5)).await;
    }
}

fn has_cause(failure: &Failure, reason: &str) -> bool {
    let details = failure.status().and_then(|status| status.details.as_ref());
    details.is_some_and(|details| details.causes.iter().any(|cause| cause.reason == reason))
}

/// Waits until a pod is gone or another has its name, and says so.
async fn wait(args: &Args, cx: &Context, pod: &Value, operation: &str) -> Result<(), Failure> {
    let client = cx.client()?;
    let collection = format!("/api/v1/namespaces/{}/pods", path(namespace(pod)));
    let path = format!("{collection}/{}", path(name(pod)));
    loop {
        let current = match client.json(Call::get(&path)).await {
            Err(failure) if failure.is_not_found() => break,
            answer => answer?,
        };
        if current["metadata"]["uid"] != pod["metadata"]["uid"] {
            break;
        }
        if skipped(&current, args.skip_wait_for_delete_timeout, Timestamp::now()) {
            let (name, seconds) = (api::field::go_quote(name(pod)), args.skip_wait_for_delete_timeout);
            println!("pod {name} has DeletionTimestamp older than {seconds} seconds, skipping");
            return Ok(());
        }
        let version = current["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        let call = Call::get(&collection)
            .query("fieldSelector", format!("metadata.name={}", api::selector::field::escape(name(pod))))
            .query("resourceVersion", version)
            .query("watch", "true");
        let mut changes = client.open(call).await?;
        // Whatever happens, look again; without a change, look when it is time to skip the pod.
        let event = changes.event();
        match args.skip_wait_for_delete_timeout {
            1.. => drop(tokio::time::timeout(Duration::from_secs(1), event).await),
            _ => drop(event.await),
        }
    }
    let mut gone = pod.clone();
    gone["apiVersion"] = json!("v1");
    gone["kind"] = json!("Pod");
    tell(&gone, operation, DryRun::None);
    Ok(())
}
