//! `kubectl create serviceaccount`.

use serde_json::json;

use super::generator::{Generated, Made, with_namespace};
use crate::{
    context::Context,
    failure::{Failure, plain},
};

/// Arguments of `create serviceaccount`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    made: Made,
    /// Name of the service account
    names: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Bad arguments, or the server's refusal.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let (name, _) = args.made.name(cx, "serviceaccount", &args.names)?;
    if name.is_empty() {
        return Err(plain("name must be specified"));
    }
    let object = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
    args.made
        .create(cx, Generated { object: with_namespace(object, cx), failing: "failed to create serviceaccount: " })
        .await
}
