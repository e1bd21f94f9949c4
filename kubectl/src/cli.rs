//! The command line: global flags, the verbs, and how mistakes in either are told.

use std::collections::BTreeMap;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind};

use crate::{
    client::log::Verbosity,
    context::Context,
    failure::{Failure, plain},
    flags, help, verbs,
    write::record::{self, Recording},
};

/// kubectl controls the Kubernetes cluster manager.
#[derive(Parser, Debug)]
#[command(name = "kubectl")]
pub struct Cli {
    /// Flags that every verb takes.
    #[command(flatten)]
    pub globals: Globals,
    /// The verb.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Flags that every verb takes.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Globals {
    /// What `--record` asks for.
    #[arg(skip)]
    pub recording: Recording,
    /// Path to the kubeconfig file to use.
    #[arg(long, global = true)]
    pub kubeconfig: Option<String>,
    /// The kubeconfig's context to use.
    #[arg(long, global = true)]
    pub context: Option<String>,
    /// The kubeconfig's cluster to use.
    #[arg(long, global = true)]
    pub cluster: Option<String>,
    /// The kubeconfig's user to use.
    #[arg(long, global = true)]
    pub user: Option<String>,
    /// The namespace of this request.
    #[arg(long, short, global = true)]
    pub namespace: Option<String>,
    /// The address and port of the API server.
    #[arg(long, short, global = true)]
    pub server: Option<String>,
    /// Bearer token for the API server.
    #[arg(long, global = true)]
    pub token: Option<String>,
    /// Username for basic authentication.
    #[arg(long, global = true)]
    pub username: Option<String>,
    /// Password for basic authentication.
    #[arg(long, global = true)]
    pub password: Option<String>,
    /// Username to act as: a user or a service account.
    #[arg(long = "as", global = true)]
    pub impersonate: Option<String>,
    /// Group to act as; may be given several times.
    #[arg(long = "as-group", global = true)]
    pub impersonate_groups: Vec<String>,
    /// UID to act as.
    #[arg(long = "as-uid", global = true)]
    pub impersonate_uid: Option<String>,
    /// Path to a certificate authority's certificate.
    #[arg(long, global = true)]
    pub certificate_authority: Option<String>,
    /// Path to a client certificate.
    #[arg(long, global = true)]
    pub client_certificate: Option<String>,
    /// Path to the client certificate's key.
    #[arg(long, global = true)]
    pub client_key: Option<String>,
    /// Whether the server's certificate goes unchecked, which makes connections insecure.
    #[arg(long, global = true)]
    pub insecure_skip_tls_verify: bool,
    /// The name to check the server's certificate for, where it is not the host's.
    #[arg(long, global = true)]
    pub tls_server_name: Option<String>,
    /// How long to wait for one request, such as 1s, 2m or 3h; zero is forever.
    #[arg(long, global = true)]
    pub request_timeout: Option<String>,
    /// Directory of the cache.
    #[arg(long, global = true)]
    pub cache_dir: Option<String>,
    /// Ask the server not to compress its answers; ours never do.
    #[arg(long, global = true)]
    pub disable_compression: bool,
    /// Treat warnings of the server as errors: exit with a code other than zero.
    #[arg(long, global = true)]
    pub warnings_as_errors: bool,
    /// Require the server's version to be the client's.
    #[arg(long, global = true)]
    pub match_server_version: bool,
    /// A profile to write; there are none.
    #[arg(long, global = true, default_value = "none")]
    pub profile: String,
    /// The file to write a profile to.
    #[arg(long, global = true, default_value = "profile.pprof")]
    pub profile_output: String,
    /// How much to log: 6 shows requests, 8 and more their headers and bodies.
    #[arg(long = "v", short = 'v', global = true, default_value = "0")]
    pub level: i32,
    /// How much to log of single files, in place of -v: PATTERN=N, with commas between several.
    #[arg(long, global = true, default_value = "", hide_default_value = true, value_parser = vmodule)]
    pub vmodule: Modules,
    /// How long lines of the log may be held back; ours never are.
    #[arg(long, global = true, default_value = "5s", value_parser = log_flush_frequency)]
    pub log_flush_frequency: jiff::SignedDuration,
}

impl Globals {
    /// Those of a command line that may lack the rest of what its command takes.
    ///
    /// # Errors
    /// A value that is none.
    pub fn of(line: &flags::Line) -> Result<Self, clap::Error> {
        #[derive(Parser)]
        struct Alone {
            #[command(flatten)]
            globals: Globals,
        }
        let alone = flags::prepare(Alone::command());
        let names: Vec<&str> = alone.get_arguments().filter_map(clap::Arg::get_long).collect();
        let known = |word: &&String| {
            let name = word.split('=').next().and_then(|name| name.strip_prefix("--"));
            name.is_some_and(|name| names.contains(&name))
        };
        let words: Vec<String> = line.words.iter().filter(known).cloned().collect();
        let words = std::iter::once("kubectl".to_owned()).chain(words);
        Alone::from_arg_matches(&alone.clone().try_get_matches_from(words)?).map(|alone| alone.globals)
    }

    /// How much is to be logged.
    pub fn verbosity(&self) -> Verbosity {
        Verbosity { level: self.level, modules: self.vmodule.0.clone() }
    }
}

/// `--vmodule`, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Modules(Vec<(String, i32)>);

fn vmodule(text: &str) -> Result<Modules, String> {
    let parts = text.split(',').filter(|part| !part.is_empty());
    let read = |part: &str| {
        let (pattern, level) = part.split_once('=').filter(|(pattern, level)| !pattern.is_empty() && !level.is_empty())?;
        Some((pattern.to_owned(), level.parse().ok()?))
    };
    let modules: Option<Vec<_>> = parts.map(read).collect();
    modules.map(Modules).ok_or_else(|| "syntax error: expect comma-separated list of filename=N".to_owned())
}

fn log_flush_frequency(text: &str) -> Result<jiff::SignedDuration, String> {
    duration(text).map_err(|_| "parse error".to_owned())
}

/// The verbs, in upstream's order: its suggestions and its help have it. A variant's first line is its short help.
#[derive(Subcommand, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one of it in a process")]
pub enum Command {
    /// Create a resource from a file or from stdin
    Create(verbs::create::Args),
    /// Take a replication controller, service, deployment or pod and expose it as a new Kubernetes service
    Expose(verbs::expose::Args),
    /// Run a particular image on the cluster
    Run(verbs::run::Args),
    /// Set specific features on objects
    Set(verbs::set::Args),
    /// Get documentation for a resource
    Explain(verbs::explain::Args),
    /// Display one or many resources
    Get(verbs::get::Args),
    /// Edit a resource on the server
    Edit(verbs::edit::Args),
    /// Delete resources by file names, stdin, resources and names, or by resources and label selector
    Delete(verbs::delete::Args),
    /// Manage the rollout of a resource
    Rollout(verbs::rollout::Args),
    /// Set a new size for a deployment, replica set, or replication controller
    Scale(verbs::scale::Args),
    /// Auto-scale a deployment, replica set, stateful set, or replication controller
    Autoscale(verbs::autoscale::Args),
    /// Modify certificate resources
    Certificate(verbs::certificate::Args),
    /// Display cluster information
    ClusterInfo(verbs::cluster_info::Args),
    /// Display resource (CPU/memory) usage
    Top(verbs::top::Args),
    /// Mark node as unschedulable
    Cordon(verbs::drain::CordonArgs),
    /// Mark node as schedulable
    Uncordon(verbs::drain::CordonArgs),
    /// Drain node in preparation for maintenance
    Drain(verbs::drain::Args),
    /// Update the taints on one or more nodes
    Taint(verbs::taint::Args),
    /// Show details of a specific resource or group of resources
    Describe(verbs::describe::Args),
    /// Print the logs for a container in a pod
    Logs(verbs::logs::Args),
    /// Attach to a running container
    Attach(verbs::attach::Args),
    /// Execute a command in a container
    Exec(verbs::exec::Args),
    /// Forward one or more local ports to a pod
    PortForward(verbs::port_forward::Args),
    /// Run a proxy to the Kubernetes API server
    Proxy(verbs::proxy::Args),
    /// Copy files and directories to and from containers
    Cp(verbs::cp::Args),
    /// Inspect authorization
    Auth(verbs::auth::Args),
    /// Create debugging sessions for troubleshooting workloads and nodes
    Debug(verbs::absent::Debug),
    /// List events
    Events(verbs::events::Args),
    /// Diff the live version against a would-be applied version
    Diff(verbs::diff::Args),
    /// Apply a configuration to a resource by file name or stdin
    Apply(verbs::apply::Args),
    /// Update fields of a resource
    Patch(verbs::patch::Args),
    /// Replace a resource by file name or stdin
    Replace(verbs::replace::Args),
    /// Experimental: Wait for a specific condition on one or many resources
    Wait(verbs::wait::Args),
    /// Build a kustomization target from a directory or URL
    Kustomize(verbs::kustomize::Args),
    /// Update the labels on a resource
    Label(verbs::label::Args),
    /// Update the annotations on a resource
    Annotate(verbs::annotate::Args),
    /// Output shell completion code for the specified shell (bash, zsh, fish, or powershell)
    Completion(verbs::completion::Args),
    /// Commands for features in alpha
    #[command(hide = true)]
    Alpha(verbs::absent::Args),
    /// Print the supported API resources on the server
    ApiResources(verbs::api_resources::Args),
    /// Print the supported API versions on the server, in the form of "group/version"
    ApiVersions(verbs::api_versions::Args),
    /// Modify kubeconfig files
    Config(verbs::config::Args),
    /// Print the list of flags inherited by all commands
    #[command(hide = true)]
    Options(verbs::options::Args),
    /// Provides utilities for interacting with plugins
    Plugin(verbs::plugin::Args),
    /// Print the client and server version information
    Version(verbs::version::Args),
}

impl Command {
    /// Does it.
    ///
    /// # Errors
    /// What is to be shown, with the exit code.
    pub async fn run(self, cx: &Context) -> Result<(), Failure> {
        match self {
            Self::Auth(args) => Box::pin(verbs::auth::run(args, cx)).await,
            Self::Explain(args) => Box::pin(verbs::explain::run(args, cx)).await,
            Self::Annotate(args) => Box::pin(verbs::annotate::run(args, cx)).await,
            Self::Apply(args) => Box::pin(verbs::apply::run(args, cx)).await,
            Self::Cordon(args) => Box::pin(verbs::drain::cordon(args, cx, true)).await,
            Self::Create(args) => Box::pin(verbs::create::run(args, cx)).await,
            Self::Delete(args) => Box::pin(verbs::delete::run(args, cx)).await,
            Self::Diff(args) => Box::pin(verbs::diff::run(args, cx)).await,
            Self::Drain(args) => Box::pin(verbs::drain::run(args, cx)).await,
            Self::Edit(args) => Box::pin(verbs::edit::run(args, cx)).await,
            Self::Expose(args) => Box::pin(verbs::expose::run(args, cx)).await,
            Self::Get(args) => Box::pin(verbs::get::run(args, cx)).await,
            Self::Events(args) => Box::pin(verbs::events::run(args, cx)).await,
            Self::Logs(args) => Box::pin(verbs::logs::run(args, cx)).await,
            Self::Exec(args) => Box::pin(verbs::exec::run(args, cx)).await,
            Self::Attach(args) => Box::pin(verbs::attach::run(args, cx)).await,
            Self::PortForward(args) => Box::pin(verbs::port_forward::run(args, cx)).await,
            Self::Cp(args) => Box::pin(verbs::cp::run(args, cx)).await,
            Self::Run(args) => Box::pin(verbs::run::run(args, cx)).await,
            Self::Top(args) => Box::pin(verbs::top::run(args, cx)).await,
            Self::Describe(args) => Box::pin(verbs::describe::run(args, cx)).await,
            Self::Label(args) => Box::pin(verbs::label::run(args, cx)).await,
            Self::Patch(args) => Box::pin(verbs::patch::run(args, cx)).await,
            Self::Replace(args) => Box::pin(verbs::replace::run(args, cx)).await,
            Self::Rollout(args) => Box::pin(verbs::rollout::run(args, cx)).await,
            Self::Scale(args) => Box::pin(verbs::scale::run(args, cx)).await,
            Self::Set(args) => Box::pin(verbs::set::run(args, cx)).await,
            Self::Taint(args) => Box::pin(verbs::taint::run(args, cx)).await,
            Self::Uncordon(args) => Box::pin(verbs::drain::cordon(args, cx, false)).await,
            Self::ApiResources(args) => Box::pin(verbs::api_resources::run(args, cx)).await,
            Self::ApiVersions(args) => Box::pin(verbs::api_versions::run(args, cx)).await,
            Self::ClusterInfo(args) => Box::pin(verbs::cluster_info::run(args, cx)).await,
            Self::Config(args) => Box::pin(verbs::config::run(args, cx)).await,
            Self::Options(args) => Box::pin(verbs::options::run(args, cx)).await,
            Self::Version(args) => Box::pin(verbs::version::run(args, cx)).await,
            Self::Wait(args) => Box::pin(verbs::wait::run(args, cx)).await,
            Self::Autoscale(args) => Box::pin(verbs::autoscale::run(args, cx)).await,
            Self::Certificate(args) => Box::pin(verbs::certificate::run(args, cx)).await,
            Self::Completion(args) => Box::pin(verbs::completion::run(args, cx)).await,
            Self::Plugin(args) => Box::pin(verbs::plugin::run(args, cx)).await,
            Self::Alpha(args) => Box::pin(verbs::absent::alpha(args, cx)).await,
            Self::Kustomize(args) => Box::pin(verbs::kustomize::run(args, cx)).await,
            Self::Debug(args) => Box::pin(verbs::absent::debug(args, cx)).await,
            Self::Proxy(args) => Box::pin(verbs::proxy::run(args, cx)).await,
        }
    }
}

/// What to do.
pub enum Request {
    /// Print this (help) and end well.
    Print(String),
    /// Say what may stand in the place of the last word, explained or not.
    Complete(Vec<String>, bool),
    /// Run the verb with these global flags and, where a `--` was given, the number of arguments before it.
    Run(Box<Globals>, Box<Command>, Option<usize>),
}

/// The whole declared command line.
pub fn declared() -> clap::Command {
    flags::prepare(record::declare(Cli::command()))
}

/// Reads a command line, the program's name left out.
///
/// # Errors
/// What kubectl says of a mistake in it.
pub fn parse(words: &[String]) -> Result<Request, Failure> {
    if let Some((name, rest)) = words.split_first()
        && (name == "__complete" || name == "__completeNoDesc")
    {
        return Ok(Request::Complete(rest.to_vec(), name == "__complete"));
    }
    let root = declared();
    if words.first().is_some_and(|w| w == "help") {
        let topic: Vec<String> = words[1..].iter().take_while(|word| !word.starts_with('-')).cloned().collect();
        if topic.first().is_some_and(|name| name == "help") {
            return Ok(Request::Print(help::of_help()));
        }
        if topic.first().is_some_and(|name| root.find_subcommand(name).is_none()) {
            return Err(Failure::Verbatim(help::unknown_topic(&root, &topic), 0));
        }
        return Ok(Request::Print(help::of(&root, &topic)));
    }
    // What is no command of ours may be a plugin, whose flags are its own business.
    if let Some(unknown) = flags::stray(&root, words) {
        if let Some(flag) = words.first().filter(|word| word.starts_with('-')) {
            return Err(Failure::Verbatim(format!("Error: flags cannot be placed before plugin name: {flag}"), 1));
        }
        return Err(verbs::plugin::become_plugin(words).unwrap_or_else(|| unknown_command(&root, unknown)));
    }
    let line = flags::normalize(&root, words).map_err(|(path, message)| {
        if path == ["options"] {
            return Failure::Verbatim(format!("Error: {message}\nRun 'kubectl options' without flags."), 1);
        }
        mistaken(&path, &message)
    })?;
    let recording = Recording::of(&line);
    if recording.given {
        eprintln!("Flag --record has been deprecated, --record will be removed in the future");
    }
    if line.help {
        return Ok(Request::Print(help::of(&root, &line.path)));
    }
    if line.path.is_empty() {
        return Ok(Request::Print(help::of(&root, &[])));
    }
    if let Some(unknown) = line.arguments.first()
        && only_has_subcommands(&root, &line.path)
    {
        let path = line.path.join(" ");
        return Err(crate::failure::usage(&path, format!("unknown command {}", api::field::go_quote(unknown))));
    }
    let matches = root.clone().try_get_matches_from(&line.words).map_err(|error| told(&error, &line.path))?;
    let mut cli = Cli::from_arg_matches(&matches).map_err(|error| told(&error, &line.path))?;
    cli.globals.recording = recording;
    match cli.command {
        Some(command) => Ok(Request::Run(Box::new(cli.globals), Box::new(command), line.dash)),
        None => Ok(Request::Print(help::of(&root, &line.path))),
    }
}

/// A mistake in flags.
fn mistaken(path: &[String], message: &str) -> Failure {
    // What `diff` exits with says whether there are differences; 1 would be that.
    if path == ["diff"] {
        return Failure::Verbatim(crate::failure::usage("diff", message).to_string(), 2);
    }
    let path: String = path.iter().map(|p| format!(" {p}")).collect();
    Failure::Verbatim(format!("Error: {message}\nSee 'kubectl{path} --help' for usage."), 1)
}

/// Whether the command at a path does nothing by itself.
fn only_has_subcommands(root: &clap::Command, path: &[String]) -> bool {
    let found = path.iter().try_fold(root, |command, name| command.find_subcommand(name));
    found.is_some_and(|command| command.has_subcommands() && command.get_positionals().next().is_none())
}

/// clap's error in pflag's and cobra's words.
fn told(error: &clap::Error, path: &[String]) -> Failure {
    use clap::error::{ContextKind, ContextValue};
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(", "),
        _ => String::new(),
    };
    match error.kind() {
        ErrorKind::ValueValidation | ErrorKind::InvalidValue => {
            let flag = text(ContextKind::InvalidArg);
            let flag = flag.split([' ', '=', '[']).next().unwrap_or_default().to_owned();
            let value = api::field::go_quote(&text(ContextKind::InvalidValue));
            let why = std::error::Error::source(error).map_or_else(|| error.kind().to_string(), ToString::to_string);
            mistaken(path, &format!("invalid argument {value} for \"{flag}\" flag: {why}"))
        }
        ErrorKind::MissingRequiredArgument => {
            let Some(ContextValue::Strings(flags)) = error.get(ContextKind::InvalidArg) else {
                return plain(error.to_string());
            };
            let name =
                |flag: &String| flag.trim_start_matches('-').split([' ', '=']).next().map(|name| format!("\"{name}\""));
            let mut names: Vec<String> = flags.iter().filter_map(name).collect();
            names.sort();
            plain(format!("required flag(s) {} not set", names.join(", ")))
        }
        ErrorKind::UnknownArgument => {
            let unknown = api::field::go_quote(&text(ContextKind::InvalidArg));
            plain(format!("unknown command {unknown} for \"kubectl {}\"", path.join(" ")))
        }
        _ => plain(error.render().to_string().trim_start_matches("error: ").trim_end().to_owned()),
    }
}

/// What upstream's commands are suggested for, as other programs call the like.
const CALLED: [(&str, &[&str]); 3] = [("get", &["list", "ps"]), ("wait", &["list", "ps"]), ("delete", &["rm"])];

fn unknown_command(root: &clap::Command, unknown: &str) -> Failure {
    let near: Vec<&str> = root
        .get_subcommands()
        .filter(|s| !s.is_hide_set())
        .map(clap::Command::get_name)
        .filter(|name| {
            let mut called = CALLED.iter().filter(|(command, _)| command == name).flat_map(|(_, called)| *called);
            distance(unknown, name) <= 2
                || name.to_lowercase().starts_with(&unknown.to_lowercase())
                || called.any(|called| called.eq_ignore_ascii_case(unknown))
        })
        .collect();
    let mut message = format!("Error: unknown command {} for \"kubectl\"", api::field::go_quote(unknown));
    if !near.is_empty() {
        message.push_str("\n\nDid you mean this?\n");
        near.iter().for_each(|name| message.push_str(&format!("\t{name}\n")));
        message.push('\n');
    }
    Failure::Verbatim(message, 1)
}

/// Levenshtein's distance, without regard to case.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.to_lowercase().chars().collect(), b.to_lowercase().chars().collect());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y { diagonal } else { 1 + diagonal.min(above).min(row[j]) };
            diagonal = above;
        }
    }
    row[b.len()]
}

/// A value parser for Go's durations: `#[arg(long, value_parser = cli::duration)]` on a `jiff::SignedDuration`.
///
/// # Errors
/// Go's complaint.
pub fn duration(text: &str) -> Result<jiff::SignedDuration, String> {
    api::duration::parse_go(text).map_err(|e| e.to_string())
}

/// A value parser for pairs of texts: `a=b,c=d`.
///
/// # Errors
/// A pair that is none.
pub fn pairs(text: &str) -> Result<BTreeMap<String, String>, String> {
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=').ok_or("malformed pair, expect string=string")?;
        Ok((key.trim().to_owned(), value.trim().to_owned()))
    };
    text.split(',').filter(|part| !part.is_empty()).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(line: &str) -> String {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&words).err().map(|f| f.to_string()).unwrap_or_default()
    }

    #[test]
    fn the_declaration_is_sound() {
        declared().debug_assert();
    }

    #[test]
    fn mistakes_are_told_as_upstream_does() {
        assert_eq!(failure("get --foo"), "Error: unknown flag: --foo\nSee 'kubectl get --help' for usage.");
        assert_eq!(
            failure("gett"),
            "Error: unknown command \"gett\" for \"kubectl\"\n\nDid you mean this?\n\tset\n\tget\n\n"
        );
        assert_eq!(
            failure("list"),
            "Error: unknown command \"list\" for \"kubectl\"\n\nDid you mean this?\n\tget\n\twait\n\n"
        );
        for line in ["frobnicate", "frobnicate --foo", "frobnicate -Z x", "frobnicate --help"] {
            assert_eq!(failure(line), "Error: unknown command \"frobnicate\" for \"kubectl\"", "{line}");
        }
        assert_eq!(failure("-n x frobnicate"), "Error: flags cannot be placed before plugin name: -n");
    }
}
