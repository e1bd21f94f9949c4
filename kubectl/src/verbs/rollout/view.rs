//! `kubectl rollout history`.

use super::{
    Which,
    history::{History, Kind},
    no_history,
};
use crate::{
    context::Context,
    failure::{Failure, plain},
    output::{DryRun, OutputArgs},
    resources::Object,
    typed,
    write::Show,
};

/// Arguments of `rollout history`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    print: OutputArgs,
    /// Show this revision with its pod template
    #[arg(long, default_value_t = 0)]
    revision: i64,
    #[command(flatten)]
    which: Which,
}

/// Runs the command.
///
/// # Errors
/// Bad arguments, or objects without a history.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    args.which.require(cx)?;
    if args.revision < 0 {
        return Err(plain(format!("revision must be a positive integer: {}", args.revision)));
    }
    let query = args.which.query();
    let targets = query.targets(cx).await?;
    let show = Show::new(&args.print, "", DryRun::None)?;
    let view = async |object: Object| {
        let (group, kind) = (&object.mapping.group, &object.mapping.kind);
        let kind = Kind::of(group, kind).ok_or_else(|| plain(no_history("history", group, kind)))?;
        let history = History::read(cx, kind, object.namespace.as_deref().unwrap_or_default(), &object.name).await?;
        one(&args, &show, &object.value, &history)
    };
    targets.visit(&query, cx, view).await
}

fn one(args: &Args, show: &Show, object: &serde_json::Value, history: &History) -> Result<(), Failure> {
    if args.print.output.is_some() {
        let objects = history.objects().map_err(plain)?;
        for (_, object) in objects.into_iter().filter(|(revision, _)| args.revision == 0 || *revision == args.revision) {
            show.typed(&typed::complete(object))?;
        }
        return Ok(());
    }
    let text = history.view(args.revision, crate::describe::template).map_err(plain)?;
    let revision = if args.revision > 0 { format!("with revision #{}", args.revision) } else { String::new() };
    show.print_as(object, &format!("{revision}\n{text}"))
}
