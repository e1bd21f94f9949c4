//! `kubectl api-versions`.

use crate::{
    context::Context,
    failure::{Failure, plain, usage},
};

/// What `api-versions` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Nothing.
    #[arg(hide = true)]
    pub args: Vec<String>,
}

/// Prints the server's groups and versions.
///
/// # Errors
/// If the server cannot be asked.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    if !args.args.is_empty() {
        return Err(usage("api-versions", format!("unexpected arguments: [{}]", args.args.join(" "))));
    }
    let catalog = cx.discovery()?.refresh().await;
    let catalog = catalog.map_err(|f| plain(format!("couldn't get available api versions from server: {}", f.message())))?;
    let mut versions = catalog.versions.clone();
    versions.sort();
    versions.iter().for_each(|version| println!("{version}"));
    Ok(())
}
