//! `kubectl rollout`: history, pause, restart, resume, status, undo.

mod change;
pub mod history;
mod progress;
mod status;
mod undo;
mod view;

use super::create::no_command;
use crate::{context::Context, failure::Failure, resources::FileArgs};

/// Arguments of `rollout`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// None are taken
    arguments: Vec<String>,
}

/// What can be done with rollouts.
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// View rollout history
    History(view::Args),
    /// Mark the provided resource as paused
    Pause(change::Args),
    /// Restart a resource
    Restart(change::Args),
    /// Resume a paused resource
    Resume(change::Args),
    /// Show the status of the rollout
    Status(status::Args),
    /// Undo a previous rollout
    Undo(undo::Args),
}

/// What objects are meant.
#[derive(clap::Args, Debug)]
pub struct Which {
    #[command(flatten)]
    files: FileArgs,
    /// Labels of the objects
    #[arg(long, short = 'l')]
    selector: Option<String>,
    /// TYPE NAME or TYPE/NAME
    arguments: Vec<String>,
}

impl Which {
    fn require(&self, cx: &crate::context::Context) -> Result<(), Failure> {
        cx.namespace()?;
        if self.arguments.is_empty() && self.files.is_empty() {
            return Err(crate::failure::plain("required resource not specified"));
        }
        Ok(())
    }

    fn query(&self) -> crate::resources::Query<'_> {
        crate::resources::Query {
            args: &self.arguments,
            files: Some(&self.files),
            labels: self.selector.as_deref(),
            type_suffices: true,
            latest: true,
            typed: true,
            ..crate::resources::Query::default()
        }
    }
}

/// Runs the command.
///
/// # Errors
/// Bad arguments, or what failed.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    match args.command {
        // Of all such commands this one's help goes to stdout.
        None if args.arguments.is_empty() => {
            print!("{}", crate::help::of(&crate::cli::declared(), &["rollout".to_owned()]));
            Err(Failure::Silent(1))
        }
        None => Err(no_command(&["rollout"], &args.arguments)),
        Some(Command::History(args)) => view::run(args, cx).await,
        Some(Command::Pause(args)) => change::run(args, cx, change::Change::Pause).await,
        Some(Command::Restart(args)) => change::run(args, cx, change::Change::Restart).await,
        Some(Command::Resume(args)) => change::run(args, cx, change::Change::Resume).await,
        Some(Command::Status(args)) => status::run(args, cx).await,
        Some(Command::Undo(args)) => undo::run(args, cx).await,
    }
}

/// What upstream says of kinds that have no revisions: it knows these kinds of pods' owners, and others not at all.
fn no_history(doing: &str, group: &str, kind: &str) -> String {
    let named = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
    let known = matches!(
        (group, kind),
        ("apps" | "extensions", "ReplicaSet") | ("", "Pod" | "ReplicationController") | ("batch", "Job" | "CronJob")
    );
    let quoted = api::field::go_quote(&named);
    match (doing, known) {
        ("history", true) => format!("no history viewer has been implemented for {quoted}"),
        (_, true) => format!("no rollbacker has been implemented for {quoted}"),
        ("history", false) => {
            format!("error retrieving history for {quoted}, no visitor method exists for {{{group} {kind}}}")
        }
        (_, false) => format!("error retrieving rollbacker for {quoted}, no visitor method exists for {{{group} {kind}}}"),
    }
}
