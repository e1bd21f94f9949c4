//! `kubectl get`.

use crate::{
    context::Context,
    failure::Failure,
    output::OutputArgs,
    resources::{FileArgs, Query},
};

/// What `get` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Types and names.
    #[arg(value_name = "TYPE")]
    pub args: Vec<String>,
    /// Files.
    #[command(flatten)]
    pub files: FileArgs,
    /// Output.
    #[command(flatten)]
    pub output: OutputArgs,
    /// Label selector.
    #[arg(long, short = 'l')]
    pub selector: Option<String>,
    /// All namespaces.
    #[arg(long, short = 'A')]
    pub all_namespaces: bool,
}

/// Prints objects.
///
/// # Errors
/// If they cannot be had.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let query = Query {
        args: &args.args,
        files: Some(&args.files),
        labels: args.selector.as_deref(),
        all_namespaces: args.all_namespaces,
        type_suffices: true,
        latest: true,
        chunk_size: 500,
        ..Query::default()
    };
    let mut results = args.output.results("", crate::output::DryRun::None)?;
    for object in query.objects(cx).await?.all()? {
        results.print(&object.value)?;
    }
    Ok(())
}
