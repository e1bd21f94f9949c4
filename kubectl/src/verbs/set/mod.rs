//! `kubectl set`: image, env, resources, selector, serviceaccount, subject.

mod env;
mod image;
mod pods;
mod resources;
mod selector;
mod serviceaccount;
mod subject;
mod variables;

use api::patch::{PatchType, two_way_strategic};
use serde_json::{Value, json};

use super::create::no_command;
use crate::{
    context::Context,
    failure::{Failure, plain},
    output::{DryRun, DryRunArgs, OutputArgs},
    resources::{FileArgs, Object, PlainFileArgs, Query, missing_locally},
    typed,
    write::{Helper, Show},
};

/// Arguments of `set`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// None are taken
    arguments: Vec<String>,
}

/// What can be set.
#[derive(clap::Subcommand, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one of it in a process")]
pub enum Command {
    /// Update environment variables on a pod template
    Env(env::Args),
    /// Update the image of a pod template
    Image(image::Args),
    /// Update resource requests/limits on objects with pod templates
    Resources(resources::Args),
    /// Set the selector on a resource
    Selector(selector::Args),
    /// Update the service account of a resource
    #[command(alias = "sa")]
    Serviceaccount(serviceaccount::Args),
    /// Update the user, group, or service account in a role binding or cluster role binding
    Subject(subject::Args),
}

/// Runs the command.
///
/// # Errors
/// Bad arguments, or what could not be set.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    match args.command {
        None => Err(no_command(&["set"], &args.arguments)),
        Some(Command::Env(args)) => env::run(args, cx).await,
        Some(Command::Image(args)) => image::run(args, cx).await,
        Some(Command::Resources(args)) => resources::run(args, cx).await,
        Some(Command::Selector(args)) => selector::run(args, cx).await,
        Some(Command::Serviceaccount(args)) => serviceaccount::run(args, cx).await,
        Some(Command::Subject(args)) => subject::run(args, cx).await,
    }
}

/// How objects are named besides by arguments: the commands differ in it.
pub trait Scope: clap::Args {
    /// Files.
    fn files(&self) -> FileArgs;

    /// `-l`.
    fn labels(&self) -> Option<&str> {
        None
    }
}

/// By files or labels.
#[derive(clap::Args, Debug)]
pub struct Labelled {
    #[command(flatten)]
    files: FileArgs,
    /// Labels of the objects
    #[arg(long, short = 'l')]
    selector: Option<String>,
}

impl Scope for Labelled {
    fn files(&self) -> FileArgs {
        self.files.clone()
    }

    fn labels(&self) -> Option<&str> {
        self.selector.as_deref()
    }
}

impl Scope for FileArgs {
    fn files(&self) -> FileArgs {
        self.clone()
    }
}

impl Scope for PlainFileArgs {
    fn files(&self) -> FileArgs {
        self.into()
    }
}

/// Flags that all of them take.
#[derive(clap::Args, Debug)]
pub struct Shared<S: Scope = Labelled> {
    #[command(flatten)]
    print: OutputArgs,
    #[command(flatten)]
    scope: S,
    /// All objects of the given types in the namespace
    #[arg(long)]
    all: bool,
    /// Ask no server; change what files hold
    #[arg(long)]
    local: bool,
    #[command(flatten)]
    dry_run: DryRunArgs,
    /// Name of the manager that owns the fields
    #[arg(long, default_value = "kubectl-set")]
    field_manager: String,
}

impl<S: Scope> Shared<S> {
    /// What is asked for.
    fn query<'a>(&'a self, files: &'a FileArgs, arguments: &'a [String]) -> Result<Query<'a>, Failure> {
        if self.local && !arguments.is_empty() {
            return Err(missing_locally());
        }
        Ok(Query {
            args: arguments,
            files: Some(files),
            labels: self.scope.labels(),
            type_suffices: self.all,
            latest: !self.local,
            local: self.local,
            typed: true,
            ..Query::default()
        })
    }

    /// The arguments that count for commands that take no notice of them with `--local`.
    fn asked<'a>(&self, arguments: &'a [String]) -> &'a [String] {
        if self.local { &[] } else { arguments }
    }

    /// The objects, whole as typed clients have them.
    async fn objects(&self, cx: &Context, arguments: &[String]) -> Result<Vec<Object>, Failure> {
        let files = self.scope.files();
        let query = self.query(&files, arguments)?;
        let mut objects = query.objects(cx).await?.all()?;
        for object in &mut objects {
            object.value = typed::complete(std::mem::take(&mut object.value));
        }
        Ok(objects)
    }

    fn both_local_and_server(&self, dry_run: DryRun) -> Result<(), String> {
        if self.local && dry_run == DryRun::Server {
            return Err("cannot specify --local and --dry-run=server - did you mean --dry-run=client?".to_owned());
        }
        Ok(())
    }

    fn all_and_selector(&self) -> Result<(), String> {
        if self.all && self.scope.labels().is_some_and(|s| !s.is_empty()) {
            return Err("cannot set --all and --selector at the same time".to_owned());
        }
        Ok(())
    }

    /// An object that a command cannot change, as upstream names it: by its kind, if there is no server to ask for the resource.
    fn refused(&self, object: &Object, why: &str) -> Failure {
        let Object { mapping, name, .. } = object;
        let kind = mapping.kind.to_lowercase();
        let named = match (self.local, mapping.group.as_str()) {
            (false, _) => format!("{}/{name}", mapping.resource),
            (true, "") => format!("{kind}/{name}"),
            (true, group) => format!("{kind}.{group}/{name}\n"),
        };
        Failure::Plain(format!("error: {named} {why}\n"))
    }

    fn show(&self, operation: &str, dry_run: DryRun) -> Result<Show, Failure> {
        Show::new(&self.print, operation, dry_run)
    }

    /// Saves objects that were changed, each as it was and as it is now, and fails with those that could not be, after other
    /// failures.
    async fn save_all(
        &self,
        cx: &Context,
        changed: Vec<Result<(Value, Object), Failure>>,
        how: (DryRun, &Show),
        failing: &str,
        mut failures: Vec<Failure>,
    ) -> Result<(), Failure> {
        for one in changed {
            let saved = match one {
                Ok((old, object)) => self.save(cx, &old, &object, how, failing).await,
                Err(refused) => Err(refused),
            };
            failures.extend(saved.err());
        }
        Failure::of(failures)
    }

    /// Sends the difference between an object as it was and as it is now, and shows the object.
    async fn save(
        &self,
        cx: &Context,
        old: &Value,
        object: &Object,
        (dry_run, show): (DryRun, &Show),
        failing: &str,
    ) -> Result<(), Failure> {
        let mut new = object.value.clone();
        cx.globals().recording.annotate(&mut new);
        let patch = typed::type_of(&new).map(|ty| two_way_strategic(old, &new, ty)).transpose();
        let patch = patch.map_err(|error| self.refused(object, &error.to_string()))?.unwrap_or_default();
        if patch == json!({}) {
            return Ok(());
        }
        if self.local || dry_run == DryRun::Client {
            return show.typed(&new);
        }
        let helper = Helper::new(cx, &object.mapping).dry_run(dry_run).manager(&self.field_manager);
        let namespace = object.namespace.as_deref().unwrap_or_default();
        let patched = helper.patch(namespace, &object.name, PatchType::Strategic, &typed::sorted(&patch)).await;
        show.typed(&patched.map_err(|failure| plain(format!("{failing}{}", failure.message())))?)
    }
}
