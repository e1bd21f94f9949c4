//! `kubectl create poddisruptionbudget`.

use serde_json::{Value, json};

use super::generator::{Generated, Made, with_namespace};
use crate::{
    context::Context,
    failure::{Failure, plain},
    write::label_selector,
};

/// Arguments of `create poddisruptionbudget`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    made: Made,
    /// How many pods, or what percentage of them, must stay
    #[arg(long, default_value = "", hide_default_value = true)]
    min_available: String,
    /// How many pods, or what percentage of them, may be gone
    #[arg(long, default_value = "", hide_default_value = true)]
    max_unavailable: String,
    /// Labels of the pods
    #[arg(long, default_value = "", hide_default_value = true)]
    selector: String,
    /// Name of the budget
    names: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Bad arguments, or the server's refusal.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let making = args.made.begin(cx, "poddisruptionbudget", &args.names)?;
    let name = making.name;
    let object = budget(name, &args).map_err(plain)?;
    making
        .create(cx, Generated { object: with_namespace(object, cx), failing: "failed to create poddisruptionbudgets: " })
        .await
}

fn budget(name: &str, args: &Args) -> Result<Value, String> {
    let refused = |why: &str| Err(why.to_owned());
    if name.is_empty() {
        return refused("name must be specified");
    }
    if args.selector.is_empty() {
        return refused("a selector must be specified");
    }
    let (field, flag, text) = match (args.min_available.as_str(), args.max_unavailable.as_str()) {
        ("", "") => return refused("one of min-available or max-unavailable must be specified"),
        (min, "") => ("minAvailable", "min-available", min),
        ("", max) => ("maxUnavailable", "max-unavailable", max),
        _ => return refused("min-available and max-unavailable cannot be both specified"),
    };
    let digits = text.strip_suffix('%').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("invalid format specified for {flag}"));
    }
    let amount = text.parse::<i32>().map_or_else(|_| json!(text), |number| json!(number));
    Ok(json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": name},
        "spec": {field: amount, "selector": label_selector(&args.selector)?},
    }))
}
