//! `kubectl wait`: until objects exist, are gone, or say what is wanted.

use std::time::Duration;

use api::{field::go_quote, jsonpath::JsonPath};
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    client::Client,
    context::Context,
    failure::{Failure, plain},
    output::{DryRun, OutputArgs},
    resources::{FileArgs, Follower, Object, PlainFileArgs, Query, missing_locally},
};

/// What `wait` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Types and names.
    #[arg(value_name = "TYPE")]
    pub args: Vec<String>,
    /// Files.
    #[command(flatten)]
    pub files: PlainFileArgs,
    /// Output.
    #[command(flatten)]
    pub output: OutputArgs,
    /// create, delete, condition=NAME[=VALUE] or jsonpath='{EXPRESSION}'[=VALUE].
    #[arg(long = "for", default_value = "")]
    pub condition: String,
    /// How long to wait; zero checks once, less than zero waits for a week.
    #[arg(long, default_value = "30s", value_parser = crate::cli::duration)]
    pub timeout: jiff::SignedDuration,
    /// Label selector.
    #[arg(long, short = 'l')]
    pub selector: Option<String>,
    /// Field selector.
    #[arg(long)]
    pub field_selector: Option<String>,
    /// All objects of the types.
    #[arg(long)]
    pub all: bool,
    /// Objects of all namespaces.
    #[arg(long, short = 'A')]
    pub all_namespaces: bool,
    /// Only look at files.
    #[arg(long)]
    pub local: bool,
}

const TIMED_OUT: &str = "timed out waiting for the condition";

/// What is waited for.
#[derive(Clone, Debug)]
enum Goal {
    Created,
    Deleted,
    Condition { name: String, status: String },
    Path { path: JsonPath, value: Option<String> },
}

impl Goal {
    fn parse(text: &str) -> Result<Self, Failure> {
        match text.to_lowercase().as_str() {
            "delete" => return Ok(Self::Deleted),
            "create" => return Ok(Self::Created),
            _ => {}
        }
        if let Some(rest) = text.strip_prefix("condition=") {
            let (name, status) = rest.split_once('=').unwrap_or((rest, "true"));
            return Ok(Self::Condition { name: name.to_owned(), status: status.to_owned() });
        }
        let Some(rest) = text.strip_prefix("jsonpath=") else {
            return Err(plain(format!("unrecognized condition: {}", go_quote(text))));
        };
        let parts = split(rest);
        let (expression, value) = match parts.as_slice() {
            [expression] => (expression, None),
            [expression, value] => (expression, Some(value.trim_matches(['\'', '"']).to_owned())),
            _ => {
                return Err(plain(
                    "jsonpath wait format must be --for=jsonpath='{.status.readyReplicas}'=3 or --for=jsonpath='{.status.readyReplicas}'",
                ));
            }
        };
        let relaxed = api::jsonpath::relaxed(expression)?;
        if value.as_deref() == Some("") {
            return Err(plain(
                "jsonpath wait has to have a value after equal sign, like --for=jsonpath='{.status.readyReplicas}'=3",
            ));
        }
        if relaxed.is_empty() {
            return Err(plain("jsonpath expression cannot be empty"));
        }
        Ok(Self::Path { path: JsonPath::parse(&relaxed)?.allow_missing_keys(true), value })
    }

    /// Whether an object is as wanted.
    fn met(&self, object: &Value) -> Result<bool, Failure> {
        match self {
            Self::Created => Ok(true),
            Self::Deleted => Ok(false),
            Self::Condition { name, status } => Ok(condition_met(object, name, status)),
            Self::Path { path, value } => {
                let found = path.find(object)?;
                let Some(found) = found.into_iter().next().filter(|f| !f.is_empty()) else { return Ok(false) };
                let Some(value) = value else { return Ok(true) };
                if found.len() > 1 {
                    return Err(plain("given jsonpath expression matches more than one value"));
                }
                match found[0].as_ref() {
                    Value::Array(_) | Value::Object(_) => {
                        Err(plain("jsonpath leads to a nested object or list which is not supported"))
                    }
                    one => Ok(api::jsonpath::go_format(one).trim() == value.trim()),
                }
            }
        }
    }
}

/// Splits at single `=`; double ones stay.
fn split(text: &str) -> Vec<String> {
    let mut out = vec![String::new()];
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        let last = out.len() - 1;
        match c {
            '=' if characters.peek() == Some(&'=') => {
                characters.next();
                out[last].push_str("==");
            }
            '=' => out.push(String::new()),
            c => out[last].push(c),
        }
    }
    out
}

fn condition_met(object: &Value, name: &str, status: &str) -> bool {
    let same = |value: &Value, text: &str| value.as_str().is_some_and(|v| v.to_lowercase() == text.to_lowercase());
    let conditions = object["status"]["conditions"].as_array();
    let Some(condition) = conditions.into_iter().flatten().find(|c| same(&c["type"], name) && c["status"].is_string())
    else {
        return false;
    };
    if let Some(generation) = object["metadata"]["generation"].as_i64() {
        let observed = condition["observedGeneration"].as_i64().or(object["status"]["observedGeneration"].as_i64());
        if observed.is_some_and(|o| o < generation) {
            return false;
        }
    }
    same(&condition["status"], status)
}

/// Waits.
///
/// # Errors
/// If time runs out, or what is asked for is not there.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let mut results = args.output.results("condition met", DryRun::None)?;
    cx.client()?;
    let files = FileArgs::from(&args.files);
    let mut query = Query {
        args: &args.args,
        files: Some(&files),
        labels: args.selector.as_deref(),
        fields: args.field_selector.as_deref(),
        type_suffices: args.all,
        all_namespaces: args.all_namespaces,
        latest: true,
        local: args.local,
        ..Query::default()
    };
    let goal = match Goal::parse(&args.condition) {
        Ok(goal) => goal,
        Err(failure) => {
            query.look_up(cx).await;
            return Err(failure);
        }
    };
    query.ignore_not_found = matches!(goal, Goal::Deleted);
    let timeout = match Duration::try_from(args.timeout) {
        Ok(timeout) => timeout,
        Err(_) => Duration::from_secs(168 * 3600),
    };
    let deadline = Instant::now() + timeout;
    if args.local && !args.args.is_empty() {
        return Err(missing_locally());
    }
    if matches!(goal, Goal::Created) {
        created(&query, cx, deadline).await?;
    }
    let mut found = false;
    let work = async |object: Object| {
        found = true;
        results.print(&one(cx.client()?, &goal, &object, timeout, deadline).await?)
    };
    query.visit(cx, work).await?;
    if found || matches!(goal, Goal::Deleted) { Ok(()) } else { Err(plain("no matching resources found")) }
}

/// Upstream asks twice a second: what is waited for may be anything that arguments can say. What a file names is not waited for, as
/// the failure of a file is not known for what it is.
async fn created(query: &Query<'_>, cx: &Context, deadline: Instant) -> Result<(), Failure> {
    loop {
        match query.objects(cx).await?.all() {
            Ok(_) => return Ok(()),
            Err(failure) if !failure.is_not_found() || query.files.is_some_and(|files| !files.is_empty()) => {
                return Err(failure);
            }
            Err(_) => {}
        }
        if Instant::now() + Duration::from_millis(500) > deadline {
            tokio::time::sleep_until(deadline).await;
            return Err(plain(TIMED_OUT));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn timed_out(object: &Object) -> Failure {
    plain(format!("{TIMED_OUT} on {}/{}", object.mapping.resource, object.name))
}

/// Waits for one object; gives it as it was last seen.
async fn one(client: &Client, goal: &Goal, object: &Object, timeout: Duration, deadline: Instant) -> Result<Value, Failure> {
    if matches!(goal, Goal::Created) {
        return Ok(object.value.clone());
    }
    if object.name.is_empty() {
        return Err(plain("resource name must be provided"));
    }
    if timeout.is_zero() {
        let now = object.latest(client).await;
        return match (goal, now) {
            (Goal::Deleted, Err(failure)) if failure.is_not_found() => Ok(object.value.clone()),
            (Goal::Deleted, Ok(_)) => {
                Err(plain(format!("condition not met for {}/{}", object.mapping.resource, object.name)))
            }
            (_, Err(failure)) => Err(failure),
            (_, Ok(now)) if goal.met(&now)? => Ok(now),
            (..) => Err(plain(format!("condition not met for {}/{}", object.mapping.resource, object.name))),
        };
    }
    if matches!(goal, Goal::Deleted) {
        // The first thing that is asked about an object whose deletion is awaited has its limit too.
        if Instant::now() >= deadline {
            return Err(plain("client rate limiter Wait returned an error: context deadline exceeded"));
        }
        match object.latest(client).await {
            Err(failure) if failure.is_not_found() => return Ok(object.value.clone()),
            now => drop(now?),
        }
    }
    match tokio::time::timeout_at(deadline, watched(client, goal, object)).await {
        Ok(done) => done,
        Err(_) => Err(timed_out(object)),
    }
}

/// Lists the object and watches it from there, again and again: watches end.
async fn watched(client: &Client, goal: &Goal, object: &Object) -> Result<Value, Failure> {
    let mut follower = Follower::new(object);
    let mut now = follower.list(client).await?;
    match (goal, &now) {
        (Goal::Deleted, None) => return Ok(object.value.clone()),
        (_, None) => return Err(absent(object)),
        _ => {}
    }
    loop {
        match (goal, now.take()) {
            (Goal::Deleted, None) => return Ok(object.value.clone()),
            (Goal::Deleted, Some(_)) | (_, None) => {}
            (_, Some(now)) if goal.met(&now)? => return Ok(now),
            _ => {}
        }
        now = follower.next(client).await?;
    }
}

fn absent(object: &Object) -> Failure {
    let status = serde_json::json!({"reason": "NotFound", "code": 404, "status": "Failure",
        "message": format!("{} {} not found", object.mapping.group_resource(), go_quote(&object.name))});
    serde_json::from_value(status).map_or_else(|e| plain(e.to_string()), |s| Failure::Status(Box::new(s)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn goals_are_met() {
        let object = json!({"metadata": {"generation": 2}, "status": {"phase": "Running", "observedGeneration": 2,
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "Old", "status": "True", "observedGeneration": 1}]}});
        for (goal, want) in [
            ("condition=ready", true),
            ("condition=Ready=false", false),
            ("condition=Old", false),
            ("condition=None", false),
            ("jsonpath={.status.phase}=Running", true),
            ("jsonpath=.status.phase", true),
            ("jsonpath={.status.conditions[?(@.type==\"Ready\")].status}=True", true),
            ("jsonpath={.status.none}", false),
            ("delete", false),
        ] {
            assert_eq!(Goal::parse(goal).unwrap().met(&object).unwrap(), want, "{goal}");
        }
        for (goal, want) in [
            ("nothing", "unrecognized condition: \"nothing\""),
            (
                "jsonpath={.a}=",
                "jsonpath wait has to have a value after equal sign, like --for=jsonpath='{.status.readyReplicas}'=3",
            ),
        ] {
            assert_eq!(Goal::parse(goal).unwrap_err().message(), want);
        }
    }
}
