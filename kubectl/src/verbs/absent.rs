//! Commands that upstream has and this kubectl has not: each says so, after what upstream would say first.

use clap::{Arg, ArgAction, ArgMatches};

use crate::{
    context::Context,
    failure::{Failure, plain},
};

/// Any arguments.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Arguments.
    args: Vec<String>,
}

/// A flag that is read like upstream's and then refused with its command: its letter, its name, its default (a switch's is
/// `true` or `false`, a list's is `[]`), and what it means with upstream.
type Refused = (Option<char>, &'static str, &'static str, &'static str);

const OF_DEBUG: &[Refused] = &[
    (None, "arguments-only", "false", "What follows -- are arguments, not a command"),
    (None, "attach", "false", "Attach to the container once it runs"),
    (Some('c'), "container", "", "Name of the new container"),
    (None, "custom", "", "A file with fields of the new container"),
    (None, "env", "[]", "Variables of the new container"),
    (Some('f'), "filename", "[]", "Files that say whom to debug"),
    (None, "image-pull-policy", "", "When to pull the new container's image"),
    (None, "keep-annotations", "false", "The copy has the pod's annotations"),
    (None, "keep-init-containers", "true", "The copy has the pod's init containers"),
    (None, "keep-labels", "false", "The copy has the pod's labels"),
    (None, "keep-liveness", "false", "The copy has the pod's liveness probes"),
    (None, "keep-readiness", "false", "The copy has the pod's readiness probes"),
    (None, "keep-startup", "false", "The copy has the pod's startup probes"),
    (
        None,
        "local-profile",
        "legacy",
        "What the new container may: legacy, general, baseline, netadmin, restricted or sysadmin",
    ),
    (Some('q'), "quiet", "false", "Say less"),
    (None, "replace", "false", "Delete the pod that is copied"),
    (None, "same-node", "false", "The copy runs on the pod's node"),
    (None, "set-image", "[]", "Other images for containers of the copy: NAME=IMAGE"),
    (None, "share-processes", "true", "The copy's containers see each other's processes"),
    (Some('i'), "stdin", "false", "Pass stdin to the new container"),
    (None, "target", "", "The container whose processes the new one is to see"),
    (Some('t'), "tty", "false", "The new container's stdin is a terminal"),
];

fn declare(command: clap::Command, flags: &[Refused]) -> clap::Command {
    flags.iter().fold(command, |command, (letter, name, default, about)| {
        let arg = Arg::new(*name).long(*name).help(*about);
        let arg = if let Some(letter) = letter { arg.short(*letter) } else { arg };
        command.arg(match *default {
            "[]" => arg.action(ArgAction::Append),
            "false" | "true" => arg.action(ArgAction::SetTrue).default_value(*default),
            _ => arg.default_value(*default),
        })
    })
}

macro_rules! unread {
    ($name:ident $flags:ident) => {
        /// Flags that are read and refused.
        #[derive(Debug)]
        struct $name;

        impl clap::FromArgMatches for $name {
            fn from_arg_matches(_: &ArgMatches) -> Result<Self, clap::Error> {
                Ok(Self)
            }

            fn update_from_arg_matches(&mut self, _: &ArgMatches) -> Result<(), clap::Error> {
                Ok(())
            }
        }

        impl clap::Args for $name {
            fn augment_args(command: clap::Command) -> clap::Command {
                declare(command, $flags)
            }

            fn augment_args_for_update(command: clap::Command) -> clap::Command {
                declare(command, $flags)
            }
        }
    };
}

unread! { DebugFlags OF_DEBUG }

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
    #[command(flatten)]
    _flags: DebugFlags,
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
