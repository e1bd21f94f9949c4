//! `kubectl apply view-last-applied`.

use serde_json::Value;

use crate::{
    context::Context,
    failure::{Failure, plain, usage},
    output::json,
    resources::{FileArgs, Object, Query},
    write::applied,
};

/// Arguments of `apply view-last-applied`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// yaml or json
    #[arg(long, short = 'o', default_value = "yaml")]
    output: String,
    /// All objects of the given types in the namespace
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    files: FileArgs,
    /// Labels of the objects
    #[arg(long, short = 'l')]
    selector: Option<String>,
    /// What to view
    arguments: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Bad arguments, or objects that remember nothing.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    if let (true, Some(selector)) = (args.all, &args.selector) {
        let selector = api::field::go_quote(selector);
        return Err(plain(format!("found non-empty label selector {selector} with previously set 'all' parameter. ")));
    }
    let query = Query {
        args: &args.arguments,
        files: Some(&args.files),
        labels: args.selector.as_deref(),
        all: args.all,
        latest: true,
        type_suffices: cx.explicit_namespace().is_some(),
        ..Query::default()
    };
    let mut texts = Vec::new();
    let remembered = async |object: Object| {
        match applied::original(&object.value) {
            Some(text) => texts.push(text.to_owned()),
            None if object.source.is_empty() => {}
            None => {
                let missing = format!("no last-applied-configuration annotation found on resource: {}\n", object.name);
                return Err(plain("<nil>").with_source(&missing, &object.source));
            }
        }
        Ok(())
    };
    query.visit_parts(cx, remembered).await?;
    for text in texts {
        let value: Value = serde_json::from_str(&text)?;
        match args.output.as_str() {
            // The text's own line end stays.
            "json" => println!("{}", json::pretty_with(&value, "  ")),
            "yaml" => print!("{}", api::yaml::of_json(&value)?),
            other => {
                let wrong = format!("Unexpected -o output mode: {other}, the flag 'output' must be one of yaml|json");
                return Err(usage("apply view-last-applied", wrong));
            }
        }
    }
    Ok(())
}
