//! `kubectl options`: the flags that every verb takes.

use crate::{cli, context::Context, failure::Failure, help};

/// What `options` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Nothing.
    #[arg(hide = true)]
    pub args: Vec<String>,
}

/// Prints the global flags.
///
/// # Errors
/// None.
pub async fn run(_: Args, _: &Context) -> Result<(), Failure> {
    let root = cli::declared();
    let global = root.get_arguments().filter(|a| a.is_global_set() && !a.is_hide_set()).collect();
    print!("The following options can be passed to any command:\n\n{}", help::flags_of("kubectl options", global));
    Ok(())
}
