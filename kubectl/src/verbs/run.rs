//! `kubectl run`.

use std::{sync::LazyLock, time::Duration};

use api::{field::go_quote, names::strict_env_var_name};
use jiff::SignedDuration;
use regex::Regex;
use serde_json::{Map, Value, json};

use super::{attach::attach, delete::How, exec::SessionArgs};
use crate::{
    cli,
    client::{Call, Client},
    context::Context,
    describe::json::Json,
    failure::{Failure, plain, usage},
    output::{DryRun, DryRunArgs, OutputArgs},
    pods,
    resources::FileArgs,
    typed,
    write::{Helper, SaveConfig, Show, applied, overridden},
};

/// What `run` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// NAME, and behind -- arguments or a command.
    #[arg(value_name = "NAME")]
    pub args: Vec<String>,
    /// The image of the container.
    #[arg(long)]
    pub image: String,
    /// Annotations of the pod.
    #[arg(long)]
    pub annotations: Vec<String>,
    /// When the image is pulled.
    #[arg(long, default_value = "")]
    pub image_pull_policy: String,
    /// Delete the pod after it has ended. Only with --attach or -i.
    #[arg(long)]
    pub rm: bool,
    /// What becomes of dependents of what --rm deletes. As upstream, the other flags of deletions are taken and mean nothing.
    #[command(flatten)]
    pub how: How,
    /// As for deletions; a pod is never waited for.
    #[arg(long)]
    pub wait: bool,
    /// As for deletions, to no effect.
    #[command(flatten)]
    pub files: FileArgs,
    /// Environment variables of the container.
    #[arg(long)]
    pub env: Vec<String>,
    /// The port that the container exposes.
    #[arg(long, default_value = "")]
    pub port: String,
    /// Labels of the pod, with commas between them.
    #[arg(long, short = 'l', default_value = "")]
    pub labels: String,
    /// Keep stdin open on the container.
    #[arg(long, short = 'i')]
    pub stdin: bool,
    /// Allocate a terminal for the container.
    #[arg(long, short = 't')]
    pub tty: bool,
    /// Attach once the pod runs; so by default with -i.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub attach: Option<bool>,
    /// Leave stdin open after the first attach ends.
    #[arg(long)]
    pub leave_stdin_open: bool,
    /// The pod's restart policy: Always, OnFailure or Never.
    #[arg(long, default_value = "Always")]
    pub restart: String,
    /// The arguments are the command and not its arguments.
    #[arg(long)]
    pub command: bool,
    /// Create a service of the pod too; needs --port.
    #[arg(long)]
    pub expose: bool,
    /// Say nothing but what the pod says.
    #[arg(long, short = 'q')]
    pub quiet: bool,
    /// Run the container in privileged mode.
    #[arg(long)]
    pub privileged: bool,
    /// Name of the manager that owns the fields.
    #[arg(long, default_value = "kubectl-run")]
    pub field_manager: String,
    /// JSON that is merged into the pod.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub overrides: String,
    /// How: json, merge or strategic.
    #[arg(long, default_value = "merge")]
    pub override_type: String,
    /// How long to wait until the pod is running.
    #[arg(long, default_value = "1m0s", value_parser = cli::duration)]
    pub pod_running_timeout: SignedDuration,
    /// Whether for real.
    #[command(flatten)]
    pub dry_run: DryRunArgs,
    /// Whether to keep the configuration.
    #[command(flatten)]
    pub save_config: SaveConfig,
    /// Output.
    #[command(flatten)]
    pub output: OutputArgs,
}

impl Args {
    /// Whether to attach to the pod.
    fn attaches(&self) -> bool {
        self.attach.unwrap_or(self.stdin)
    }
}

/// Flags, understood.
struct Wanted {
    annotations: Map<String, Value>,
    labels: Map<String, Value>,
    env: Vec<Value>,
    attach: bool,
    timeout: Duration,
    dry_run: DryRun,
    port: i64,
}

/// Runs an image in a pod.
///
/// # Errors
/// If it cannot be run; attached, also if it ended badly.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let image = args.image.as_str();
    let dry_run = args.dry_run.strategy()?;
    cx.client()?;
    let show = Show::new(&args.output, "created", dry_run)?;
    let policy = args.how.propagation()?;
    let timeout = check(&args, image, dry_run)?;
    let wanted = understand(&args, dry_run, timeout)?;
    let (name, arguments) = args.args.split_first().ok_or_else(|| plain("NAME is required for run"))?;
    let namespace = cx.namespace()?;
    let pod = overridden(typed::complete(pod(&args, image, &wanted, name, arguments)), &args.overrides, &args.override_type);
    let pod = pod.map_err(plain)?;
    let mut created = vec![create(&args, cx, &wanted, typed::complete(pod)).await?];
    let mut failures = Vec::new();
    if args.expose {
        match create(&args, cx, &wanted, typed::complete(service(&wanted, name))).await {
            Ok(service) => {
                show.typed(&service)?;
                // Upstream parts the two, and then its printer does.
                if args.output.output.as_deref() == Some("yaml") {
                    println!("---");
                }
                created.push(service);
            }
            Err(failure) => failures.push(failure),
        }
    }
    if !wanted.attach {
        show.typed(&created[0])?;
        return Failure::of(failures);
    }
    let client = cx.client()?;
    let done = accompany(&args, client, &namespace, name, wanted.timeout).await;
    if args.rm {
        for object in &created {
            remove(client, &namespace, object, policy, args.quiet).await?;
        }
    }
    done
}

/// What the pod is made of, in the order in which upstream reads it.
fn understand(args: &Args, dry_run: DryRun, timeout: Duration) -> Result<Wanted, Failure> {
    let mut env = Vec::new();
    for text in &args.env {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() && strict_env_var_name(name).is_empty() => {
                let mut variable = json!({"name": name});
                if !value.is_empty() {
                    variable["value"] = value.into();
                }
                env.push(variable);
            }
            _ => return Err(plain(format!("invalid env: {text}"))),
        }
    }
    let mut annotations = Map::new();
    let mut wrong = Vec::new();
    for pair in &args.annotations {
        match pair.split_once('=') {
            Some((key, value)) if !key.is_empty() => drop(annotations.insert(key.to_owned(), value.into())),
            _ => wrong.push(pair.as_str()),
        }
    }
    if !wrong.is_empty() {
        return Err(plain(format!("invalid annotations format: {}", wrong.join(", "))));
    }
    let mut labels = Map::new();
    for spec in args.labels.split(',').filter(|_| !args.labels.is_empty()) {
        match spec.split('=').collect::<Vec<_>>().as_slice() {
            ["", _] => return Err(plain("unexpected empty label key")),
            [key, value] => drop(labels.insert((*key).to_owned(), (*value).into())),
            _ => return Err(plain(format!("unexpected label spec: {spec}"))),
        }
    }
    let port = match args.port.as_str() {
        "" => 0,
        port => port.parse().map_err(|_| plain(format!("strconv.Atoi: parsing {}: invalid syntax", go_quote(port))))?,
    };
    Ok(Wanted { annotations, labels, env, attach: args.attaches(), timeout, dry_run, port })
}

fn one_of(what: &str, value: &str, known: &[&str]) -> Result<(), Failure> {
    // Empty is the default of either.
    match value.is_empty() || known.contains(&value) {
        true => Ok(()),
        false => Err(usage("run", format!("invalid {what}: {value}"))),
    }
}

/// What an image is called: a name with perhaps a registry before it, and a tag or a digest behind it.
static REFERENCE: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let part = "(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])";
    let registry = format!(r"(?:{part}(?:\.{part})*|\[(?:[a-fA-F0-9:]+)\])(?::[0-9]+)?");
    let name = "[a-z0-9]+(?:(?:[._]|__|[-]+)[a-z0-9]+)*";
    let digest = "[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}";
    let tag = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}";
    Regex::new(&format!("^(?:{registry}/)?{name}(?:/{name})*(?::{tag})?(?:@{digest})?$")).ok()
});

/// Refuses wrong combinations; gives how long to wait for the pod.
fn check(args: &Args, image: &str, dry_run: DryRun) -> Result<Duration, Failure> {
    let refuse = |message: &str| Err(usage("run", message));
    if args.args.is_empty() {
        return refuse("NAME is required for run");
    }
    let timeout = Duration::try_from(args.pod_running_timeout).ok().filter(|timeout| !timeout.is_zero());
    let timeout = timeout.ok_or_else(|| usage("run", "--pod-running-timeout must be higher than zero"))?;
    if image.is_empty() {
        return Err(plain("--image is required"));
    }
    if !REFERENCE.as_ref().is_some_and(|reference| reference.is_match(image)) {
        return Err(plain(format!("Invalid image name {}: invalid reference format", go_quote(image))));
    }
    if args.tty && !args.stdin {
        return refuse("-i/--stdin is required for containers with -t/--tty=true");
    }
    if args.expose && args.port.is_empty() {
        return refuse("--port must be set when exposing a service");
    }
    one_of("restart policy", &args.restart, &["Always", "OnFailure", "Never"])?;
    if !args.attaches() && args.rm {
        return refuse("--rm should only be used for attached containers");
    }
    if args.attaches() && dry_run != DryRun::None {
        return refuse(
            "--dry-run=[server|client] can't be used with attached containers options (--attach, --stdin, or --tty)",
        );
    }
    if !args.image_pull_policy.is_empty() {
        one_of("image pull policy", &args.image_pull_policy, &["Always", "IfNotPresent", "Never"])?;
    }
    Ok(timeout)
}

fn pod_labels(wanted: &Wanted, name: &str) -> Value {
    match wanted.labels.is_empty() {
        true => json!({"run": name}),
        false => Value::Object(wanted.labels.clone()),
    }
}

fn pod(args: &Args, image: &str, wanted: &Wanted, name: &str, arguments: &[String]) -> Value {
    let mut container = json!({"name": name, "image": image});
    let mut set = |field: &str, value: Value, wanted: bool| {
        if wanted {
            container[field] = value;
        }
    };
    set("env", json!(wanted.env), !wanted.env.is_empty());
    set("stdin", true.into(), args.stdin);
    set("stdinOnce", true.into(), args.stdin && !args.leave_stdin_open);
    set("tty", true.into(), args.tty);
    set("imagePullPolicy", args.image_pull_policy.clone().into(), !args.image_pull_policy.is_empty());
    set("securityContext", json!({"privileged": true}), args.privileged);
    set("ports", json!([{"containerPort": wanted.port}]), !args.port.is_empty());
    set(if args.command { "command" } else { "args" }, json!(arguments), !arguments.is_empty());
    let mut metadata = json!({"name": name, "labels": pod_labels(wanted, name)});
    if !wanted.annotations.is_empty() {
        metadata["annotations"] = Value::Object(wanted.annotations.clone());
    }
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": [container], "dnsPolicy": "ClusterFirst", "restartPolicy": restart(args)},
    })
}

fn restart(args: &Args) -> &str {
    match args.restart.as_str() {
        "" if args.stdin => "OnFailure",
        "" => "Always",
        policy => policy,
    }
}

fn service(wanted: &Wanted, name: &str) -> Value {
    let mut metadata = json!({"name": name});
    if !wanted.labels.is_empty() {
        metadata["labels"] = Value::Object(wanted.labels.clone());
    }
    let port = json!({"port": wanted.port, "protocol": "TCP", "targetPort": wanted.port});
    let spec = json!({"ports": [port], "selector": pod_labels(wanted, name)});
    json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
}

async fn create(args: &Args, cx: &Context, wanted: &Wanted, mut object: Value) -> Result<Value, Failure> {
    cx.globals().recording.annotate(&mut object);
    let mapping = cx.discovery()?.kind("v1", object.text("kind")).await?;
    if wanted.dry_run == DryRun::Client {
        if let Some(namespace) = cx.explicit_namespace() {
            object["metadata"]["namespace"] = namespace.into();
        }
        return Ok(object);
    }
    args.save_config.annotate(&mut object, applied::typed_text);
    let helper = Helper::new(cx, &mapping).dry_run(wanted.dry_run).manager(&args.field_manager);
    helper.create(&cx.namespace()?, &object).await
}

/// Waits until the pod runs, attaches, and tells how it ended.
async fn accompany(args: &Args, client: &Client, namespace: &str, name: &str, timeout: Duration) -> Result<(), Failure> {
    let begun = |pod: &Value| pods::is_ready(pod) && pod.text("status.phase") == "Running" || ended(pod);
    let pod = wait_for(client, namespace, name, timeout, begun).await?;
    if ended(&pod) {
        logs(client, &pod).await?;
    } else {
        let session = SessionArgs {
            container: None,
            stdin: args.stdin,
            tty: args.tty,
            quiet: args.quiet,
            pod_running_timeout: args.pod_running_timeout,
        };
        if let Err(failure) = attach(client, &pod, &session).await {
            eprintln!("warning: couldn't attach to pod/{name}, falling back to streaming logs: {}", failure.message());
            logs(client, &pod).await?;
        }
    }
    let policy = restart(args);
    if args.leave_stdin_open || policy == "Always" {
        return Ok(());
    }
    let over = |pod: &Value| pod.text("status.phase") == "Succeeded" || (policy == "Never" && ended(pod));
    verdict(&wait_for(client, namespace, name, timeout, over).await?)
}

fn ended(pod: &Value) -> bool {
    matches!(pod.text("status.phase"), "Succeeded" | "Failed")
}

/// Success, or the container's exit code.
fn verdict(pod: &Value) -> Result<(), Failure> {
    let name = format!("{}/{}", pod.text("metadata.namespace"), pod.text("metadata.name"));
    match pod.text("status.phase") {
        "Succeeded" => Ok(()),
        "Failed" => {
            let statuses = pod.items("status.containerStatuses");
            let end = statuses.first().map_or(&Value::Null, |status| status.at("state.terminated"));
            match i32::try_from(end.int("exitCode")) {
                Ok(code) if code != 0 => {
                    let text = format!("pod {name} terminated ({})\n{}", end.text("reason"), end.text("message"));
                    Err(Failure::Verbatim(text, code))
                }
                _ => Err(plain(format!("pod {name} failed with unknown exit code"))),
            }
        }
        phase => Err(plain(format!("pod {name} left in phase {phase}"))),
    }
}

/// Waits until a pod is as it should be.
async fn wait_for(
    client: &Client,
    namespace: &str,
    name: &str,
    timeout: Duration,
    reached: impl Fn(&Value) -> bool,
) -> Result<Value, Failure> {
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let selector = format!("metadata.name={name}");
    let waiting = async {
        let list = client.json(Call::get(&*path).query("fieldSelector", &*selector)).await?;
        let mut version = list.text("metadata.resourceVersion").to_owned();
        if let Some(pod) = list.items("items").iter().find(|pod| reached(pod)) {
            return Ok(pod.clone());
        }
        loop {
            let call = Call::get(&*path).query("fieldSelector", &*selector).query("watch", "true");
            let mut stream = client.open(call.query("resourceVersion", &*version)).await?;
            while let Some((kind, pod)) = stream.event().await? {
                version = pod.text("metadata.resourceVersion").to_owned();
                if kind == "DELETED" {
                    return Err(Failure::Verbatim("Error from server (NotFound): pods \"\" not found".to_owned(), 1));
                }
                if reached(&pod) {
                    return Ok(pod);
                }
            }
        }
    };
    let late = || plain("timed out waiting for the condition");
    tokio::time::timeout(timeout, waiting).await.unwrap_or_else(|_| Err(late()))
}

async fn logs(client: &Client, pod: &Value) -> Result<(), Failure> {
    use std::io::Write;
    let container = pods::container(pod, None, true)?.text("name");
    let mut stream = client.open(Call::get(pods::subresource(pod, "log")).query("container", container)).await?;
    while let Some(chunk) = stream.chunk().await? {
        let mut out = std::io::stdout().lock();
        out.write_all(&chunk).and_then(|()| out.flush()).map_err(|error| plain(error.to_string()))?;
    }
    Ok(())
}

async fn remove(client: &Client, namespace: &str, object: &Value, policy: &str, quiet: bool) -> Result<(), Failure> {
    let (kind, name) = (object.text("kind").to_lowercase(), object.text("metadata.name"));
    let call = Call::delete(format!("/api/v1/namespaces/{namespace}/{kind}s/{name}"));
    match client.json(call.json(&json!({"propagationPolicy": policy}))).await {
        Ok(_) if quiet => {}
        Ok(_) => println!("{kind} \"{name}\" deleted"),
        // Whoever removed it first did what we wanted.
        Err(failure) if failure.is_not_found() => {}
        Err(failure) => return Err(failure),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels_of(text: &str) -> Result<Map<String, Value>, String> {
        use clap::Parser;
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            args: Args,
        }
        let line = Line::parse_from(["run", "--image=i", &format!("--labels={text}")]);
        understand(&line.args, DryRun::None, Duration::ZERO).map(|wanted| wanted.labels).map_err(|failure| failure.message())
    }

    #[test]
    fn images_have_names() {
        let known = |image: &str| REFERENCE.as_ref().is_some_and(|reference| reference.is_match(image));
        let good =
            ["nginx", "docker.io/library/nginx:1.2", "localhost:5000/a_b/c-d@sha256:0123456789012345678901234567890123"];
        assert!(good.iter().all(|image| known(image)));
        assert!(!["", "a b", "Nginx", "a:", "a:b:c"].iter().any(|image| known(image)));
    }

    #[test]
    fn labels_are_pairs() {
        assert_eq!(labels_of("a=b").unwrap()["a"], "b");
        assert_eq!(labels_of("a"), Err("unexpected label spec: a".to_owned()));
        assert_eq!(labels_of("=b"), Err("unexpected empty label key".to_owned()));
    }

    #[test]
    fn exit_codes_are_the_containers() {
        let pod = |code: i64| {
            let state = json!({"terminated": {"exitCode": code, "reason": "Error"}});
            json!({"metadata": {"name": "p", "namespace": "n"}, "status": {"phase": "Failed", "containerStatuses": [{"state": state}]}})
        };
        let failure = verdict(&pod(3)).unwrap_err();
        assert_eq!((failure.code(), failure.message()), (3, "pod n/p terminated (Error)\n".to_owned()));
        assert_eq!(verdict(&pod(0)).unwrap_err().message(), "pod n/p failed with unknown exit code");
    }
}
