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
    resources::{FileArgs, Object, Query, Target, Targets, items},
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
    let (mut objects, failures) = expand(cx, &query, targets).await?;
    if args.interactive {
        let Some(confirmed) = confirm(objects)? else { return Ok(()) };
        objects = confirmed;
    }
    deletion.run(cx, objects, failures).await
}

/// The objects that targets stand for; only lists are asked for.
async fn expand(cx: &Context, query: &Query<'_>, mut targets: Targets) -> Result<(Vec<Object>, Vec<Failure>), Failure> {
    let (mut objects, mut failures) = (Vec::new(), targets.failures());
    for target in targets.targets {
        match target {
            Target::Local(object) => objects.push(object),
            Target::Named { mapping, namespace, name } => {
                objects.push(Object {
                    mapping,
                    namespace,
                    name,
                    value: Value::Null,
                    source: String::new(),
                    list: None,
                    stream: 0,
                });
            }
            Target::List { ref mapping, .. } => match query.fetch(cx.client()?, &target, crate::client::JSON).await {
                Ok(pages) => {
                    let values = pages.into_iter().flat_map(items);
                    objects.extend(values.map(|value| Object::received(mapping, value)));
                }
                Err(failure) => failures.push(failure),
            },
        }
    }
    Ok((objects, failures))
}

/// Shows what would be deleted and asks. `None` is no.
fn confirm(objects: Vec<Object>) -> Result<Option<Vec<Object>>, Failure> {
    if objects.is_empty() {
        println!("No resources found");
        return Ok(None);
    }
    println!("You are about to delete the following {} resource(s):", objects.len());
    objects.iter().for_each(|object| println!("{}", object.named()));
    print!("Do you want to continue? (y/n): ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if answer.split_whitespace().next().is_some_and(|word| word.eq_ignore_ascii_case("y")) {
        return Ok(Some(objects));
    }
    println!("deletion is cancelled");
    Ok(None)
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

    /// Deletes objects and waits for them.
    ///
    /// # Errors
    /// What was handed in, and what could not be deleted.
    pub async fn run(&self, cx: &Context, objects: Vec<Object>, mut failures: Vec<Failure>) -> Result<(), Failure> {
        let mut warned = !self.warn_cluster_scope;
        let mut deleted = Vec::new();
        let mut seen = HashSet::new();
        failures.retain(|failure| !(self.ignore_not_found && failure.is_not_found()));
        let (found, mut refused, mut ignored) = (!objects.is_empty(), Vec::new(), false);
        for object in objects {
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
                    let uid = answer["details"]["uid"].as_str().or(answer["metadata"]["uid"].as_str()).map(str::to_owned);
                    if seen.insert(object.path()) {
                        deleted.push((object, uid));
                    }
                }
                Err(failure) if failure.is_not_found() && self.ignore_not_found => ignored = true,
                Err(failure) => refused.push(failure.with_source("deleting", &object.source)),
            }
        }
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
