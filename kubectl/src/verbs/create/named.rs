//! `kubectl create namespace` and `kubectl create serviceaccount`: objects that are nothing but a name.

use serde_json::json;

use super::generator::{Generated, Made, with_namespace};
use crate::{
    context::Context,
    failure::{Failure, plain},
};

/// Arguments of both.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    made: Made,
    /// Name of what is created
    names: Vec<String>,
}

async fn run(args: Args, cx: &Context, kind: &str, namespaced: bool, failing: &'static str) -> Result<(), Failure> {
    let making = args.made.begin(cx, &kind.to_lowercase(), &args.names)?;
    let name = making.name;
    if name.is_empty() {
        return Err(plain("name must be specified"));
    }
    let object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}});
    let object = if namespaced { with_namespace(object, cx) } else { object };
    making.create(cx, Generated { object, failing }).await
}

/// `create namespace`.
///
/// # Errors
/// Bad arguments, or the server's refusal.
pub async fn namespace(args: Args, cx: &Context) -> Result<(), Failure> {
    run(args, cx, "Namespace", false, "").await
}

/// `create serviceaccount`.
///
/// # Errors
/// Bad arguments, or the server's refusal.
pub async fn serviceaccount(args: Args, cx: &Context) -> Result<(), Failure> {
    run(args, cx, "ServiceAccount", true, "failed to create serviceaccount: ").await
}
