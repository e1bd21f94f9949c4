//! `kubectl create priorityclass`.

use serde_json::{Value, json};

use super::generator::{Generated, Made};
use crate::{context::Context, failure::Failure};

/// Arguments of `create priorityclass`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    made: Made,
    /// The priority
    #[arg(long, default_value_t = 0)]
    value: i32,
    /// Whether pods without a class get this one
    #[arg(long)]
    global_default: bool,
    /// When this class should be used
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
    /// Whether pods of lower priority make room: PreemptLowerPriority or Never
    #[arg(long, default_value = "PreemptLowerPriority")]
    preemption_policy: String,
    /// Name of the class
    names: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Bad arguments, or the server's refusal.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let making = args.made.begin(cx, "priorityclass", &args.names)?;
    let name = making.name;
    let object = priority_class(name, &args);
    making.create(cx, Generated { object, failing: "failed to create priorityclass: " }).await
}

fn priority_class(name: &str, args: &Args) -> Value {
    let mut object = json!({
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": name},
        "value": args.value,
        "preemptionPolicy": args.preemption_policy,
    });
    if args.global_default {
        object["globalDefault"] = json!(true);
    }
    if !args.description.is_empty() {
        object["description"] = json!(args.description);
    }
    object
}
