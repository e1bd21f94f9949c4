//! `kubectl create namespace`.

use serde_json::json;

use super::generator::{Generated, Made};
use crate::{
    context::Context,
    failure::{Failure, plain},
};

/// Arguments of `create namespace`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    made: Made,
    /// Name of the namespace
    names: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Bad arguments, or the server's refusal.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let (name, _) = args.made.name(cx, "namespace", &args.names)?;
    if name.is_empty() {
        return Err(plain("name must be specified"));
    }
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    args.made.create(cx, Generated { object, failing: "" }).await
}
