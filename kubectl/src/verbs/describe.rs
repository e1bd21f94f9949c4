//! `kubectl describe`.

use crate::{
    context::Context,
    describe::{Settings, describe},
    failure::{Failure, plain},
    resources::{FileArgs, Object, Query, nameable},
};

/// What `describe` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// TYPE, TYPE NAME_PREFIX, TYPE/NAME.
    #[arg(value_name = "TYPE")]
    pub args: Vec<String>,
    /// Files.
    #[command(flatten)]
    pub files: FileArgs,
    /// Selector (label query) to filter on.
    #[arg(long, short = 'l')]
    pub selector: Option<String>,
    /// Describe objects of all namespaces.
    #[arg(long, short = 'A')]
    pub all_namespaces: bool,
    /// Show the events about objects.
    #[arg(long, default_missing_value = "true", default_value_t = true, num_args = 0..=1, require_equals = true)]
    pub show_events: bool,
    /// How many objects are asked for at once; 0 is all.
    #[arg(long, default_value_t = 500)]
    pub chunk_size: i64,
}

/// Describes objects.
///
/// # Errors
/// All that could not be described.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    cx.namespace()?;
    if args.args.is_empty() && args.files.is_empty() {
        return Err(plain(
            "You must specify the type of resource to describe. Use \"kubectl api-resources\" for a complete list of supported resources.",
        ));
    }
    let query = Query {
        args: &args.args,
        files: Some(&args.files),
        labels: args.selector.as_deref(),
        all_namespaces: args.all_namespaces,
        type_suffices: true,
        chunk_size: args.chunk_size,
        by_kind: true,
        ..Query::default()
    };
    let found = query.objects(cx).await?;
    let settings = Settings { events: args.show_events, chunk_size: args.chunk_size };
    let mut failures = Vec::new();
    // What is wrong with files comes as a list, if it is of one.
    let listed = !found.failures.is_empty() && !args.files.is_empty();
    if let ([first], [kind, prefix]) = (found.failures.as_slice(), args.args.as_slice())
        && first.is_not_found()
    {
        return matching(cx, first.clone(), kind, prefix, settings).await;
    }
    if found.objects.is_empty() && found.failures.is_empty() {
        match args.all_namespaces {
            true => eprintln!("No resources found"),
            false => eprintln!("No resources found in {} namespace.", cx.namespace()?),
        }
    }
    let mut first = true;
    for object in found.objects {
        match text(cx, &object, settings).await {
            Ok(text) => {
                print!("{}{text}", if first { "" } else { "\n\n" });
                first = false;
            }
            Err(failure) if failures.iter().any(|known: &Failure| known.message() == failure.message()) => {}
            Err(failure) => failures.push(failure),
        }
    }
    let mut all = Failure::grouped(found.failures, failures.is_empty());
    all.append(&mut failures);
    if listed { Err(Failure::Many(all)) } else { Failure::of(all) }
}

async fn text(cx: &Context, object: &Object, settings: Settings) -> Result<String, Failure> {
    nameable(&object.name)?;
    describe(cx.client()?, &object.mapping, object.namespace.as_deref(), &object.name, settings).await
}

/// Describes what has a name that begins so; where nothing has, `original` is what went wrong.
async fn matching(cx: &Context, original: Failure, kind: &str, prefix: &str, settings: Settings) -> Result<(), Failure> {
    let args = [kind.to_owned()];
    let query =
        Query { args: &args, type_suffices: true, single_type: true, chunk_size: settings.chunk_size, ..Query::default() };
    let mut found = false;
    for object in query.objects(cx).await?.all()? {
        if object.name.starts_with(prefix) {
            found = true;
            println!("{}", text(cx, &object, settings).await?);
        }
    }
    if found { Ok(()) } else { Err(original) }
}
