//! `kubectl logs`.

use std::{
    io::Write,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use api::field::go_quote;
use futures::{StreamExt, stream::FuturesUnordered};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::{
    cli,
    client::{Call, Client},
    context::Context,
    describe::{json::Json, writer::escape},
    failure::{Failure, plain, usage},
    pods::{self, Preference},
    resources::{Object, Query},
};

const EXPECTED: &str = "expected 'logs [-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]'.\nPOD or TYPE/NAME is a required argument for the logs command";
const LINES_OF_A_SELECTOR: i64 = 10;

/// What `logs` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// POD or TYPE/NAME, and perhaps a container.
    #[arg(value_name = "POD")]
    pub args: Vec<String>,
    /// Logs of all pods of the object; prefixes lines.
    #[arg(long)]
    pub all_pods: bool,
    /// Logs of all containers.
    #[arg(long)]
    pub all_containers: bool,
    /// Print what is logged as it comes.
    #[arg(long, short = 'f')]
    pub follow: bool,
    /// Begin lines with the time they were logged at.
    #[arg(long)]
    pub timestamps: bool,
    /// At most so many bytes.
    #[arg(long, default_value_t = 0)]
    pub limit_bytes: i64,
    /// Logs of the container's last run before this one.
    #[arg(long, short = 'p')]
    pub previous: bool,
    /// The last so many lines; -1 is all. With a selector 10, if not given.
    #[arg(long)]
    pub tail: Option<i64>,
    /// Go on where the logs of one cannot be had.
    #[arg(long)]
    pub ignore_errors: bool,
    /// Only what was logged after this moment (RFC3339).
    #[arg(long, default_value = "")]
    pub since_time: String,
    /// Only what is newer, like 5s, 2m, or 3h.
    #[arg(long, default_value = "0s", value_parser = cli::duration)]
    pub since: SignedDuration,
    /// The container.
    #[arg(long, short = 'c')]
    pub container: Option<String>,
    /// Do not verify who the kubelet is that has the logs.
    #[arg(long)]
    pub insecure_skip_tls_verify_backend: bool,
    /// How long to wait until at least one pod is running.
    #[arg(long, default_value = "20s", value_parser = cli::duration)]
    pub pod_running_timeout: SignedDuration,
    /// Selector (label query) of pods.
    #[arg(long, short = 'l')]
    pub selector: Option<String>,
    /// How many logs may be followed at once.
    #[arg(long, default_value_t = 5)]
    pub max_log_requests: i64,
    /// Begin lines with their source.
    #[arg(long)]
    pub prefix: bool,
}

/// One log to be printed.
#[derive(Debug)]
struct Log {
    call: Call,
    prefix: String,
}

/// Prints logs.
///
/// # Errors
/// If they cannot be had.
pub async fn run(mut args: Args, cx: &Context) -> Result<(), Failure> {
    let selector = args.selector.clone().filter(|selector| !selector.is_empty());
    let mut container = args.container.clone().unwrap_or_default();
    match (args.args.as_slice(), &selector) {
        ([], None) => return Err(usage("logs", EXPECTED)),
        ([_], Some(_)) => return Err(usage("logs", "only a selector (-l) or a POD name is allowed")),
        ([_, inline], _) => container.clone_from(inline),
        ([_, _, _, ..], _) => return Err(usage("logs", EXPECTED)),
        _ => {}
    }
    args.prefix |= args.all_pods;
    cx.namespace()?;
    let timeout = Duration::try_from(args.pod_running_timeout).ok().filter(|timeout| !timeout.is_zero());
    let timeout = timeout.ok_or_else(|| plain("--pod-running-timeout must be higher than zero"))?;
    let call = options(&args, selector.is_some())?;
    let objects = objects(cx, &args, selector.as_deref()).await?;
    validate(&args, &container)?;
    let client = cx.client()?;
    let mut logs = Vec::new();
    match &selector {
        Some(_) => {
            for object in &objects {
                logs.extend(of_pod(&object.value, &container, &call, &args)?);
            }
        }
        None => {
            let [object] = objects.as_slice() else { return Err(plain("expected a resource")) };
            for pod in pods_of(client, object, &args, timeout).await? {
                logs.extend(of_pod(&pod, &container, &call, &args)?);
            }
        }
    }
    if args.follow && logs.len() > 1 {
        return follow(client, logs, &args).await;
    }
    for log in logs {
        consume(client, log, &args, &Mutex::new(())).await?;
    }
    Ok(())
}

/// The request's parameters that all logs have in common; its path comes later.
fn options(args: &Args, selector: bool) -> Result<Call, Failure> {
    let mut call = Call::get("");
    for (name, wanted) in [
        ("follow", args.follow),
        ("previous", args.previous),
        ("timestamps", args.timestamps),
        ("insecureSkipTLSVerifyBackend", args.insecure_skip_tls_verify_backend),
    ] {
        call = call.query_if(name, if wanted { "true" } else { "" });
    }
    if !args.since_time.is_empty() {
        let time: Timestamp = args.since_time.parse().map_err(|_| plain(go_time_error(&args.since_time)))?;
        call = call.query("sinceTime", time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    }
    if args.limit_bytes != 0 {
        call = call.query("limitBytes", args.limit_bytes.to_string());
    }
    if !args.since.is_zero() {
        let seconds = (args.since.as_secs_f64()).round() as i64;
        call = call.query("sinceSeconds", seconds.to_string());
    }
    match args.tail {
        None if selector => call = call.query("tailLines", LINES_OF_A_SELECTOR.to_string()),
        Some(lines) if lines != -1 => call = call.query("tailLines", lines.to_string()),
        _ => {}
    }
    Ok(call)
}

/// What Go says of a text that is no time: how far it came, and what it wanted there.
fn go_time_error(text: &str) -> String {
    const PARTS: [(&str, usize); 11] = [
        ("2006", 4),
        ("-", 0),
        ("01", 2),
        ("-", 0),
        ("02", 2),
        ("T", 0),
        ("15", 2),
        (":", 0),
        ("04", 2),
        (":", 0),
        ("05", 2),
    ];
    let quoted = go_quote(text);
    let mut rest = text;
    for (part, digits) in PARTS {
        let number = rest.get(..digits).filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
        let Some(after) = (if digits == 0 { rest.strip_prefix(part) } else { number.and_then(|_| rest.get(digits..)) })
        else {
            let rest = go_quote(rest);
            return format!("parsing time {quoted} as \"2006-01-02T15:04:05Z07:00\": cannot parse {rest} as {part:?}");
        };
        let number: u32 = number.and_then(|number| number.parse().ok()).unwrap_or_default();
        let (what, wrong) = match part {
            "01" => ("month", number == 0 || number > 12),
            "15" => ("hour", number > 23),
            "04" => ("minute", number > 59),
            "05" => ("second", number > 59),
            _ => ("", false),
        };
        if wrong {
            return format!("parsing time {quoted}: {what} out of range");
        }
        rest = after;
    }
    let rest = go_quote(rest);
    format!("parsing time {quoted} as \"2006-01-02T15:04:05Z07:00\": cannot parse {rest} as \"Z07:00\"")
}

async fn objects(cx: &Context, args: &Args, selector: Option<&str>) -> Result<Vec<Object>, Failure> {
    let namespace = cx.namespace()?;
    let pods = ["pods".to_owned()];
    let query = match selector {
        // With a name, too, upstream says that it is one thing too many.
        Some(labels) => Query {
            args: args.args.get(..1).unwrap_or(&pods),
            labels: Some(labels),
            default_type: args.args.first().map(|_| "pods"),
            type_suffices: true,
            exact: true,
            ..Query::default()
        },
        None => {
            let named = if args.args[0].is_empty() { &[] } else { &args.args[..1] };
            Query { args: named, default_type: Some("pods"), single_type: true, ..Query::default() }
        }
    };
    let objects = query.objects(cx).await.and_then(|found| found.all()).map_err(|failure| match failure.is_not_found() {
        true => plain(format!("error from server (NotFound): {} in namespace {}", failure.message(), go_quote(&namespace))),
        false => failure,
    })?;
    if selector.is_some() && objects.is_empty() {
        eprintln!("No resources found in {namespace} namespace.");
    }
    Ok(objects)
}

fn validate(args: &Args, container: &str) -> Result<(), Failure> {
    let refuse = |message: &str| Err(plain(message));
    if !args.since_time.is_empty() && !args.since.is_zero() {
        return refuse("at most one of `sinceTime` or `sinceSeconds` may be specified");
    }
    if args.all_containers && !container.is_empty() {
        return Err(plain(format!("--all-containers=true should not be specified with container name {container}")));
    }
    if args.container.is_some() && args.args.len() == 2 {
        return refuse("only one of -c or an inline [CONTAINER] arg is allowed");
    }
    if args.limit_bytes < 0 {
        return refuse("--limit-bytes must be greater than 0");
    }
    if args.since.as_secs_f64().round() < 0.0 {
        return refuse("--since must be greater than 0");
    }
    if args.tail.is_some_and(|lines| lines < -1) {
        return refuse("--tail must be greater than or equal to -1");
    }
    Ok(())
}

/// The pods whose logs an object stands for.
async fn pods_of(client: &Client, object: &Object, args: &Args, timeout: Duration) -> Result<Vec<Value>, Failure> {
    if object.mapping.group.is_empty() && object.mapping.kind == "Pod" {
        return Ok(vec![object.value.clone()]);
    }
    let selector =
        pods::selector(object).map_err(|why| plain(format!("cannot get the logs from {}: {why}", pods::go_type(object))))?;
    let mut found = pods::of_object(client, object, &selector, Preference::Logging, timeout).await?;
    if !args.all_pods {
        if let [first, _, ..] = found.as_slice() {
            eprintln!("Found {} pods, using pod/{}", found.len(), first.text("metadata.name"));
        }
        found.truncate(1);
    }
    Ok(found)
}

/// The logs of one pod's containers.
fn of_pod(pod: &Value, container: &str, call: &Call, args: &Args) -> Result<Vec<Log>, Failure> {
    let log = |name: &str| {
        let mut call = call.clone().query("container", name);
        call.path = pods::subresource(pod, "log");
        let prefix = if args.prefix { format!("[pod/{}/{name}] ", pod.text("metadata.name")) } else { String::new() };
        Log { call, prefix }
    };
    if args.all_containers {
        let fields = ["spec.initContainers", "spec.containers", "spec.ephemeralContainers"];
        return Ok(fields.iter().flat_map(|field| pod.items(field)).map(|c| log(c.text("name"))).collect());
    }
    if !container.is_empty() {
        if pods::find_container(pod, container).is_none() {
            let name = pod.text("metadata.name");
            return Err(plain(format!("container {container} is not valid for pod {name}")));
        }
        return Ok(vec![log(container)]);
    }
    if let Some(name) = pods::annotated(pod) {
        match pods::find_container(pod, &name) {
            Some(_) => return Ok(vec![log(&name)]),
            None => eprintln!("Default container name {} not found in pod {}", go_quote(&name), pod.text("metadata.name")),
        }
    }
    if let Some(said) = pods::defaulted(pod).filter(|_| !args.all_pods) {
        eprintln!("{}", escape(&said));
    }
    Ok(pod.items("spec.containers").first().map(|first| log(first.text("name"))).into_iter().collect())
}

/// Follows several logs at once; lines stay whole.
async fn follow(client: &Client, logs: Vec<Log>, args: &Args) -> Result<(), Failure> {
    if i64::try_from(logs.len()).is_ok_and(|streams| streams > args.max_log_requests) {
        return Err(plain(format!(
            "you are attempting to follow {} log streams, but maximum allowed concurrency is {}, use --max-log-requests to increase the limit",
            logs.len(),
            args.max_log_requests
        )));
    }
    let turn = Arc::new(Mutex::new(()));
    let mut running: FuturesUnordered<_> = logs.into_iter().map(|log| consume(client, log, args, &turn)).collect();
    while let Some(done) = running.next().await {
        done?;
    }
    Ok(())
}

/// Prints one log to its end.
async fn consume(client: &Client, log: Log, args: &Args, turn: &Mutex<()>) -> Result<(), Failure> {
    let done = print(client, log, turn).await;
    match done {
        Err(failure) if args.ignore_errors => {
            println!("error: {}", failure.message());
            Ok(())
        }
        done => done,
    }
}

async fn print(client: &Client, log: Log, turn: &Mutex<()>) -> Result<(), Failure> {
    let mut stream = client.open(log.call).await?;
    let write = |bytes: &[u8]| {
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = std::io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| plain(error.to_string()))
    };
    let mut line = log.prefix.clone().into_bytes();
    let start = line.len();
    while let Some(chunk) = stream.chunk().await? {
        let mut whole = Vec::new();
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                whole.append(&mut line);
                line.extend_from_slice(log.prefix.as_bytes());
            }
        }
        write(&whole)?;
    }
    // The last line may have no end.
    if line.len() > start { write(&line) } else { Ok(()) }
}
