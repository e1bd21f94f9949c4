//! Commands that upstream has and this kubectl has not: each says so, after what upstream would say first.

use crate::{
    context::Context,
    failure::{Failure, plain},
    resources::kustomization,
};

/// Any arguments.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Arguments.
    args: Vec<String>,
}

/// `kubectl kustomize`.
///
/// # Errors
/// Always.
pub async fn kustomize(args: Args, _: &Context) -> Result<(), Failure> {
    let directory = match args.args.as_slice() {
        [] => ".",
        [directory] => directory.as_str(),
        _ => return Err(plain("specify one path to kustomization.yaml")),
    };
    kustomization(directory)?;
    Err(plain("kustomizations are not supported by this kubectl"))
}

/// `kubectl alpha`.
///
/// # Errors
/// None.
pub async fn alpha(_: Args, _: &Context) -> Result<(), Failure> {
    eprintln!("No alpha commands are available in this version of kubectl");
    Ok(())
}

/// What `debug` takes, as far as it is looked at.
#[derive(clap::Args, Debug)]
pub struct Debug {
    /// The image of the container to debug with
    #[arg(long, default_value = "", hide_default_value = true)]
    image: String,
    /// The name of a copy of the pod
    #[arg(long, default_value = "", hide_default_value = true)]
    copy_to: String,
    /// Whom to debug
    arguments: Vec<String>,
}

/// `kubectl debug`.
///
/// # Errors
/// Always.
pub async fn debug(args: Debug, _: &Context) -> Result<(), Failure> {
    if args.image.is_empty() && args.copy_to.is_empty() {
        return Err(plain("you must specify --image when not using --copy-to."));
    }
    let what = if args.arguments.is_empty() { String::new() } else { format!(" ({})", args.arguments.join(" ")) };
    Err(plain(format!("kubectl debug is not supported by this kubectl{what}")))
}
