//! `kubectl create token`.

use std::{io::IsTerminal, sync::Arc};

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::generator::one_name;
use crate::{
    cli,
    context::Context,
    discovery::Mapping,
    failure::{Failure, plain},
    output::{DryRun, OutputArgs},
    write::{Helper, Show},
};

/// Kinds that a token can be bound to.
const BOUND: &[&str] = &["Node", "Pod", "Secret"];

/// Arguments of `create token`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    print: OutputArgs,
    /// Who the token is for; may be given several times. Without one the API server is.
    #[arg(long = "audience")]
    audiences: Vec<String>,
    /// How long the token shall be valid; the server decides in the end
    #[arg(long, value_parser = cli::duration, default_value = "0s")]
    duration: SignedDuration,
    /// Kind of an object to bind the token to: Node, Pod or Secret
    #[arg(long, default_value = "", hide_default_value = true)]
    bound_object_kind: String,
    /// Name of the object to bind the token to
    #[arg(long, default_value = "", hide_default_value = true)]
    bound_object_name: String,
    /// UID of the object to bind the token to
    #[arg(long, default_value = "", hide_default_value = true)]
    bound_object_uid: String,
    /// Name of the service account
    names: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Bad arguments, or the server's refusal.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let (name, _) = one_name(cx, "token", &args.names)?;
    let namespace = cx.namespace()?;
    cx.client()?;
    let show = Show::new(&args.print, "created", DryRun::None)?;
    validate(name, &args).map_err(plain)?;
    let mapping = Arc::new(Mapping::guessed("v1", "ServiceAccount"));
    let helper = Helper::new(cx, &mapping).subresource("token");
    let failed = |why: String| plain(format!("failed to create token: {why}"));
    let response = helper.create_under(&namespace, name, &request(&args)).await.map_err(|f| failed(f.message()))?;
    let token = response["status"]["token"].as_str().filter(|token| !token.is_empty());
    let token = token.ok_or_else(|| failed("no token in server response".to_owned()))?;
    if args.print.output.is_some() {
        return show.typed(&response);
    }
    let end = if std::io::stdout().is_terminal() { "\n" } else { "" };
    print!("{token}{end}");
    Ok(())
}

fn validate(name: &str, args: &Args) -> Result<(), String> {
    let (kind, of_name, uid) = (&args.bound_object_kind, &args.bound_object_name, &args.bound_object_uid);
    let refused = if name.is_empty() {
        "service account name is required"
    } else if args.duration.is_negative() {
        "--duration must be greater than or equal to 0"
    } else if args.duration.subsec_nanos() != 0 {
        "--duration cannot be expressed in units less than seconds"
    } else if args.audiences.iter().any(String::is_empty) {
        "--audience must not be an empty string"
    } else if kind.is_empty() && !of_name.is_empty() {
        "--bound-object-name can only be set if --bound-object-kind is provided"
    } else if kind.is_empty() && !uid.is_empty() {
        "--bound-object-uid can only be set if --bound-object-kind is provided"
    } else if !kind.is_empty() && !BOUND.contains(&kind.as_str()) {
        return Err(format!("supported --bound-object-kind values are {}", BOUND.join(", ")));
    } else if !kind.is_empty() && of_name.is_empty() {
        "--bound-object-name is required if --bound-object-kind is provided"
    } else {
        return Ok(());
    };
    Err(refused.to_owned())
}

fn request(args: &Args) -> Value {
    let audiences = if args.audiences.is_empty() { Value::Null } else { json!(args.audiences) };
    let mut spec = json!({"audiences": audiences, "expirationSeconds": null, "boundObjectRef": null});
    if args.duration.as_secs() > 0 {
        spec["expirationSeconds"] = json!(args.duration.as_secs());
    }
    if !args.bound_object_kind.is_empty() {
        let mut bound = json!({"kind": args.bound_object_kind, "apiVersion": "v1", "name": args.bound_object_name});
        if !args.bound_object_uid.is_empty() {
            bound["uid"] = json!(args.bound_object_uid);
        }
        spec["boundObjectRef"] = bound;
    }
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {}, "spec": spec})
}
