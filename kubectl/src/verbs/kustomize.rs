//! `kubectl kustomize`.

use std::path::Path;

use clap::{Arg, ArgAction, ArgMatches, parser::ValueSource};
use serde_json::Value;

use crate::{
    context::Context,
    failure::{Failure, go_io, plain},
    kustomize,
};

/// What `kustomize` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    plugins: Plugins,
    /// Whether files may lie outside the directory: LoadRestrictionsNone
    #[arg(long, default_value = "LoadRestrictionsRootOnly")]
    load_restrictor: String,
    /// The file to write to, or a directory to write a file a resource to
    #[arg(long, short, default_value = "")]
    output: String,
    /// The directory.
    args: Vec<String>,
}

/// A flag of what there is not: its letter, its name, its default (a switch's is `false`, a list's is `[]`), and what it means
/// with upstream.
type Flag = (Option<char>, &'static str, &'static str, &'static str);

/// Flags of plugins: functions in containers and Helm charts. With another value than the default they are refused.
const OF_PLUGINS: &[Flag] = &[
    (None, "as-current-user", "false", "Run functions as the user who runs kubectl (not supported)"),
    (None, "enable-alpha-plugins", "false", "Allow plugins (not supported)"),
    (None, "enable-helm", "false", "Allow Helm charts (not supported)"),
    (Some('e'), "env", "[]", "Variables of functions (not supported)"),
    (None, "helm-api-versions", "[]", "The API versions that Helm is told of (not supported)"),
    (None, "helm-command", "helm", "The Helm to run (not supported)"),
    (None, "helm-debug", "false", "Let Helm say what it does (not supported)"),
    (None, "helm-kube-version", "", "The version of Kubernetes that Helm is told of (not supported)"),
    (None, "mount", "[]", "What functions may read of the file system (not supported)"),
    (None, "network", "false", "Let functions use the network (not supported)"),
    (None, "network-name", "bridge", "The network of functions (not supported)"),
];

/// The first of these flags that is given.
#[derive(Debug)]
struct Plugins(Option<&'static str>);

impl clap::FromArgMatches for Plugins {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |name: &&&str| matches.value_source(name) == Some(ValueSource::CommandLine);
        Ok(Self(OF_PLUGINS.iter().map(|(_, name, ..)| name).find(given).copied()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for Plugins {
    fn augment_args(command: clap::Command) -> clap::Command {
        OF_PLUGINS.iter().fold(command, |command, (letter, name, default, about)| {
            let arg = Arg::new(*name).long(*name).help(*about);
            let arg = if let Some(letter) = letter { arg.short(*letter) } else { arg };
            command.arg(match *default {
                "[]" => arg.action(ArgAction::Append),
                "false" => arg.action(ArgAction::SetTrue).default_value(*default),
                _ => arg.default_value(*default),
            })
        })
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

/// Builds a kustomization and prints it.
///
/// # Errors
/// What is wrong with the command line, with the kustomization, or with writing.
pub async fn run(args: Args, _: &Context) -> Result<(), Failure> {
    let directory = match args.args.as_slice() {
        [] => ".",
        [directory] => directory.as_str(),
        _ => return Err(plain("specify one path to kustomization.yaml")),
    };
    let unrestricted = match args.load_restrictor.as_str() {
        "" | "LoadRestrictionsRootOnly" => false,
        "LoadRestrictionsNone" => true,
        other => {
            return Err(plain(format!(
                "illegal flag value --load-restrictor {other}; legal values: [LoadRestrictionsRootOnly LoadRestrictionsNone]"
            )));
        }
    };
    if let Some(name) = args.plugins.0 {
        return Err(plain(format!("--{name} is not supported by this kubectl, which knows no plugins")));
    }
    let built = kustomize::build(directory, unrestricted)?;
    if args.output.is_empty() {
        print!("{}", built.text);
        return Ok(());
    }
    let path = Path::new(&args.output);
    if path.is_dir() {
        return built.files().iter().try_for_each(|(name, value)| write(&path.join(name), value));
    }
    std::fs::write(path, &built.text).map_err(|error| unwritten(path, &error))
}

fn write(path: &Path, value: &Value) -> Result<(), Failure> {
    std::fs::write(path, api::yaml::to_string(value)).map_err(|error| unwritten(path, &error))
}

fn unwritten(path: &Path, error: &std::io::Error) -> Failure {
    plain(format!("open {}: {}", path.display(), go_io(error)))
}
