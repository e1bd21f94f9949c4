//! `kubectl delete`.

use std::{collections::HashSet, io::Write, time::Duration};

use http::Method;
use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::{
    cli,
    context::Context,
    failure::{Failure, plain},
    output::{DryRun, DryRunArgs},
    resources::{FileArgs, Object, Query, Sources, Target, Targets, Turn, items},
    write::{Helper, gone, raw, warn},
};

/// How long to wait where nothing is said: a week.
const FOREVER: Duration = Duration::from_secs(168 * 3600);

/// Arguments of `delete`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    files: FileArgs,
    /// Labels of the objects to delete
    #[arg(long, short = 'l')]
    selector: Option<String>,
    /// Fields of the objects to delete
    #[arg(long)]
    field_selector: Option<String>,
    /// Delete all objects of the given types in the namespace
    #[arg(long)]
    all: bool,
    /// Look in all namespaces
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    #[command(flatten)]
    how: How,
    /// An object that is not there counts as deleted; so it does with --all and selectors, unless this says otherwise
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ignore_not_found: Option<bool>,
    /// The same as --grace-period=1
    #[arg(long)]
    now: bool,
    /// Return when the objects are gone
    #[arg(long, default_value = "true")]
    wait: bool,
    /// `name` prints only names
    #[arg(long, short = 'o', default_value = "", hide_default_value = true)]
    output: String,
    /// Path to DELETE as it is
    #[arg(long, default_value = "", hide_default_value = true)]
    raw: String,
    /// Ask before deleting
    #[arg(long, short = 'i')]
    interactive: bool,
    #[command(flatten)]
    dry_run: DryRunArgs,
    /// What to delete
    arguments: Vec<String>,
}

/// `--cascade`.
#[derive(clap::Args, Clone, Debug)]
pub struct Cascade {
    /// What becomes of dependents: background, foreground or orphan
    #[arg(long, default_value = "background", default_missing_value = "background", num_args = 0..=1, require_equals = true)]
    cascade: String,
}

impl Cascade {
    /// The request's `propagationPolicy`.
    ///
    /// # Errors
    /// No such policy.
    pub fn propagation(&self) -> Result<&'static str, Failure> {
        let old = |policy: &str| {
            let given = &self.cascade;
            eprintln!(
                "warning: --cascade={given} is deprecated (boolean value) and can be replaced with --cascade={policy}."
            );
        };
        match self.cascade.as_str() {
            "background" => Ok("Background"),
            "foreground" => Ok("Foreground"),
            "orphan" => Ok("Orphan"),
            "1" | "t" | "T" | "TRUE" | "true" | "True" => {
                old("background");
                Ok("Background")
            }
            "0" | "f" | "F" | "FALSE" | "false" | "False" => {
                old("orphan");
                Ok("Orphan")
            }
            other => {
                Err(plain(format!(r#"invalid cascade value ({other}). Must be "background", "foreground", or "orphan""#)))
            }
        }
    }
}

/// How to delete: flags that `apply` and `replace` take too.
#[derive(clap::Args, Clone, Debug)]
pub struct How {
    #[command(flatten)]
    cascade: Cascade,
    /// Take objects out of the API at once, whatever still runs
    #[arg(long)]
    pub force: bool,
    /// Seconds that the object has to end; below zero its own, 0 only with --force
    #[arg(long, default_value_t = -1)]
    pub grace_period: i64,
    /// How long to wait, zero is as long as it takes
    #[arg(long, value_parser = cli::duration, default_value = "0s")]
    pub timeout: SignedDuration,
}

impl How {
    /// The request's `propagationPolicy`.
    ///
    /// # Errors
    /// No such policy.
    pub fn propagation(&self) -> Result<&'static str, Failure> {
        self.cascade.propagation()
    }

    /// The time to wait, where one is given.
    pub fn within(&self) -> Option<Duration> {
        Duration::try_from(self.timeout).ok().filter(|within| !within.is_zero())
    }
}

/// A deletion, decided.
#[derive(Clone, Debug)]
pub struct Deletion {
    /// `Background`.
    pub propagation: &'static str,
    /// Below zero: the object's own.
    pub grace_period: i64,
    /// Whether what is not there is no failure.
    pub ignore_not_found: bool,
    /// Whether and how long to wait.
    pub wait: Option<Duration>,
    /// Whether the namespace flag was given: then objects without a namespace are worth a warning.
    pub warn_cluster_scope: bool,
    /// `name` or nothing.
    pub output: String,
    /// Whether only to try.
    pub dry_run: DryRun,
}

/// Runs the command.
///
/// # Errors
/// Bad arguments, or what could not be deleted.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let propagation = args.how.propagation()?;
    let selected = args.all || args.selector.is_some() || args.field_selector.is_some();
    let mut grace_period = args.how.grace_period;
    if args.now {
        if grace_period != -1 {
            return Err(plain("--now and --grace-period cannot be specified together"));
        }
        grace_period = 1;
    }
    grace_period = match (grace_period, args.how.force) {
        (0, false) => 1,
        (..0, true) => 0,
        (other, _) => other,
    };
    let dry_run = args.dry_run.strategy()?;
    let query = Query {
        args: &args.arguments,
        files: Some(&args.files),
        labels: args.selector.as_deref(),
        fields: args.field_selector.as_deref(),
        all: args.all,
        all_namespaces: args.all_namespaces,
        ..Query::default()
    };
    let targets = if args.raw.is_empty() { Some(query.targets(cx).await?) } else { None };
    if !matches!(args.output.as_str(), "" | "name") {
        return Err(plain(format!("unexpected -o output mode: {}. We only support '-o name'", args.output)));
    }
    match (grace_period, args.how.force) {
        (0, true) => warn(
            "Immediate deletion does not wait for confirmation that the running resource has been terminated. The resource may continue to run on the cluster indefinitely.",
        ),
        (1.., true) => return Err(plain("--force and --grace-period greater than 0 cannot be specified together")),
        _ => {}
    }
    let Some(targets) = targets else {
        if args.interactive {
            return Err(plain("--interactive can not be used with --raw"));
        }
        raw::validate(&args.raw, &args.files, false, !args.output.is_empty())?;
        return raw::send(cx, Method::DELETE, &args.raw, args.files.filename.first().map(String::as_str)).await;
    };
    let deletion = Deletion {
        propagation,
        grace_period,
        ignore_not_found: args.ignore_not_found.unwrap_or(selected),
        wait: args.wait.then(|| args.how.within().unwrap_or(FOREVER)),
        warn_cluster_scope: cx.explicit_namespace().is_some() && !args.all_namespaces,
        output: args.output.clone(),
        dry_run,
    };
    if args.interactive && !confirm(&preview(cx, &query, deletion.ignore_not_found).await?)? {
        return Ok(());
    }
    deletion.run(cx, &query, targets).await
}

/// The objects that a target stands for; only lists are asked for.
async fn expand(cx: &Context, query: &Query<'_>, target: Result<Target, Failure>) -> Result<Vec<Object>, Failure> {
    match target? {
        Target::Local(object) => Ok(vec![object]),
        Target::Named { mapping, namespace, name } => {
            let (value, source) = (Value::Null, String::new());
            Ok(vec![Object { mapping, namespace, name, value, source }])
        }
        ref target @ Target::List { ref mapping, .. } => {
            let pages = query.fetch(cx.client()?, target, crate::client::JSON).await?;
            Ok(pages.into_iter().flat_map(items).map(|value| Object::received(mapping, value)).collect())
        }
    }
}

/// All that would be deleted.
async fn preview(cx: &Context, query: &Query<'_>, ignore_not_found: bool) -> Result<Vec<Object>, Failure> {
    let (mut targets, mut objects, mut failures) = (query.targets(cx).await?, Vec::new(), Sources::default());
    while let Some(Turn { list, target }) = targets.next(query, cx).await {
        match expand(cx, query, target).await {
            Ok(found) => objects.extend(found),
            Err(failure) => failures.add(list, failure),
        }
    }
    let mut failures = failures.failures;
    if ignore_not_found {
        failures = Failure::but_missing(failures);
    }
    Failure::of(failures).map(|()| objects)
}

/// Shows what would be deleted and asks.
fn confirm(objects: &[Object]) -> Result<bool, Failure> {
    if objects.is_empty() {
        println!("No resources found");
        return Ok(false);
    }
    println!("You are about to delete the following {} resource(s):", objects.len());
    objects.iter().for_each(|object| println!("{}", object.named()));
    print!("Do you want to continue? (y/n): ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if answer.split_whitespace().next().is_some_and(|word| word.eq_ignore_ascii_case("y")) {
        return Ok(true);
    }
    println!("deletion is cancelled");
    Ok(false)
}

impl Deletion {
    fn options(&self) -> Value {
        let mut options = json!({"propagationPolicy": self.propagation});
        if self.grace_period >= 0 {
            options["gracePeriodSeconds"] = json!(self.grace_period);
        }
        options
    }

    /// The line that tells of a deletion.
    fn line(&self, object: &Object) -> String {
        if self.output == "name" {
            return object.named();
        }
        let done = if self.grace_period == 0 { "force deleted" } else { "deleted" };
        let tried = match self.dry_run {
            DryRun::None => "",
            DryRun::Client => " (dry run)",
            DryRun::Server => " (server dry run)",
        };
        format!("{} \"{}\" {done}{tried}", object.mapping.type_name(), object.name)
    }

    /// Deletes what is asked for as it comes, and waits for it.
    ///
    /// # Errors
    /// What could not be read or deleted.
    pub async fn run(&self, cx: &Context, query: &Query<'_>, mut targets: Targets) -> Result<(), Failure> {
        let mut warned = !self.warn_cluster_scope;
        let (mut deleted, mut seen, mut failures) = (Vec::new(), HashSet::new(), Sources::default());
        let (mut found, mut refused, mut ignored) = (false, Vec::new(), false);
        while let Some(Turn { list, target }) = targets.next(query, cx).await {
            let objects = match expand(cx, query, target).await {
                Ok(objects) => objects,
                Err(failure) => {
                    failures.add(list, failure);
                    continue;
                }
            };
            for object in objects {
                found = true;
                if !warned && !object.mapping.namespaced {
                    warn("deleting cluster-scoped resources, not scoped to the provided namespace");
                    warned = true;
                }
                if self.dry_run == DryRun::Client {
                    println!("{}", self.line(&object));
                    continue;
                }
                let helper = Helper::new(cx, &object.mapping).dry_run(self.dry_run);
                let namespace = object.namespace.as_deref().unwrap_or_default();
                match helper.delete(namespace, &object.name, self.options()).await {
                    Ok(answer) => {
                        println!("{}", self.line(&object));
                        let uid = answer["details"]["uid"].as_str().or(answer["metadata"]["uid"].as_str());
                        let uid = uid.map(str::to_owned);
                        if seen.insert(object.path()) {
                            deleted.push((object, uid));
                        }
                    }
                    Err(failure) if failure.is_not_found() && self.ignore_not_found => {
                        ignored = true;
                        // Whether it is gone is looked at all the same.
                        if seen.insert(object.path()) {
                            deleted.push((object, None));
                        }
                    }
                    Err(failure) => refused.push(failure.with_source("deleting", &object.source)),
                }
            }
        }
        let mut failures = failures.failures;
        failures.retain(|failure| !(self.ignore_not_found && failure.is_not_found()));
        // What could not be read comes last, as a list of errors in the list from which upstream takes the ignored ones.
        if ignored && refused.is_empty() && failures.len() == 1 {
            return Err(Failure::Many(failures));
        }
        let unread = Failure::grouped(failures, refused.is_empty());
        refused.extend(unread);
        Failure::of(refused)?;
        if !found {
            println!("No resources found");
            return Ok(());
        }
        let (Some(within), DryRun::None) = (self.wait, self.dry_run) else { return Ok(()) };
        std::io::stdout().flush()?;
        for (object, uid) in deleted {
            match gone(cx.client()?, &object, uid.as_deref(), within).await {
                // Who may delete need not be allowed to look.
                Err(failure) if matches!(failure.reason(), "Forbidden" | "MethodNotAllowed") => {}
                done => done?,
            }
        }
        Ok(())
    }
}
