//! Help in cobra's layout, made from what is declared.

use clap::{Arg, Command};

use crate::flags::{flag_name, takes_bool};

/// Where the names of commands end, at least, in lists of them.
const NAME_WIDTH: usize = 11;

/// The groups of commands that there are for everybody, in order; what is in none of them is another command.
const GROUPS: &[(&str, &[&str])] = &[
    ("Basic Commands (Beginner)", &["create", "expose", "run", "set"]),
    ("Basic Commands (Intermediate)", &["explain", "get", "edit", "delete"]),
    ("Deploy Commands", &["rollout", "scale", "autoscale"]),
    ("Cluster Management Commands", &["certificate", "cluster-info", "top", "cordon", "uncordon", "drain", "taint"]),
    (
        "Troubleshooting and Debugging Commands",
        &["describe", "logs", "attach", "exec", "port-forward", "proxy", "cp", "auth", "debug", "events"],
    ),
    ("Advanced Commands", &["diff", "apply", "patch", "replace", "wait", "kustomize"]),
    ("Settings Commands", &["label", "annotate", "completion"]),
    ("Subcommands provided by plugins", &[]),
    ("Other Commands", &["api-resources", "api-versions", "config", "plugin", "version"]),
];

/// How a command is called; nothing for one that is not in the list.
fn usage(path: &[String]) -> Option<&'static str> {
    let path = path.join(" ");
    include_str!("usage.txt").lines().find(|line| {
        let Some(rest) = line.strip_prefix(&path) else { return false };
        // `create service` is no line about `create service nodeport`: what follows a command's own path are arguments.
        rest.strip_prefix(' ').is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_lowercase()))
    })
}

/// The help of the command at a path; of the nearest one above it where there is none.
pub fn of(root: &Command, path: &[String]) -> String {
    let (mut command, mut known) = (root, vec!["kubectl".to_owned()]);
    for name in path {
        match command.find_subcommand(name) {
            Some(found) => {
                command = found;
                known.push(found.get_name().to_owned());
            }
            None => break,
        }
    }
    page(command, &known)
}

/// A command's name and what it does.
fn entry(command: &Command, width: usize) -> String {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    format!("  {:width$}   {about}\n", command.get_name())
}

fn front(root: &Command) -> String {
    let about = "kubectl controls the Kubernetes cluster manager.";
    let more = "Find more information at: https://kubernetes.io/docs/reference/kubectl/";
    format!("{about}\n\n {more}\n\n{}", groups(root))
}

/// What is said of a topic that there is none of.
pub fn unknown_topic(root: &Command, topic: &[String]) -> String {
    let shown: Vec<String> = topic.iter().map(|name| format!("`{name}`")).collect();
    format!("Unknown help topic [{}]\n\n\n{}", shown.join(" "), groups(root))
}

fn groups(root: &Command) -> String {
    let mut out = String::new();
    let width = GROUPS.iter().flat_map(|(_, names)| *names).map(|name| name.len()).max().unwrap_or_default();
    for (title, names) in GROUPS {
        out.push_str(&format!("{title}:\n"));
        for command in names.iter().filter_map(|name| root.find_subcommand(name)) {
            out.push_str(&entry(command, width));
        }
        out.push('\n');
    }
    out.push_str("Usage:\n  kubectl [flags] [options]\n\n");
    out.push_str("Use \"kubectl <command> --help\" for more information about a given command.\n");
    out + "Use \"kubectl options\" for a list of global command-line options (applies to all commands).\n"
}

fn page(command: &Command, path: &[String]) -> String {
    if path.len() == 1 {
        return front(command);
    }
    let mut out = String::new();
    let about = command.get_long_about().or_else(|| command.get_about()).map(ToString::to_string).unwrap_or_default();
    let about = about.trim_end();
    out.push_str(&format!("{about}{}\n\n", if about.ends_with('.') { "" } else { "." }));
    if let Some(examples) = command.get_after_help() {
        out.push_str("Examples:\n");
        for line in examples.to_string().lines() {
            out.push_str(&format!("{}\n", format!("  {line}").trim_end()));
        }
        out.push('\n');
    }
    let commands: Vec<&Command> = command.get_subcommands().filter(|c| !c.is_hide_set()).collect();
    if !commands.is_empty() {
        out.push_str("Available Commands:\n");
        let width = commands.iter().map(|c| c.get_name().len()).max().unwrap_or_default().max(NAME_WIDTH);
        let mut commands = commands;
        commands.sort_by_key(|command| command.get_name().to_owned());
        commands.iter().for_each(|command| out.push_str(&entry(command, width)));
        out.push('\n');
    }
    let options: Vec<&Arg> =
        command.get_arguments().filter(|a| !a.is_positional() && !a.is_hide_set() && !a.is_global_set()).collect();
    if !options.is_empty() {
        out.push_str("Options:\n");
        out.push_str(&flags_of(options));
    }
    let by_default = || format!("{} [flags] [options]", path.join(" "));
    let usage = usage(path).map_or_else(by_default, str::to_owned);
    out.push_str(&format!("Usage:\n  {usage}\n\n"));
    if command.has_subcommands() {
        out.push_str(&format!("Use \"{} <command> --help\" for more information about a given command.\n", path.join(" ")));
    }
    out.push_str("Use \"kubectl options\" for a list of global command-line options (applies to all commands).\n");
    out
}

/// Flags with their defaults and what they do, sorted by name.
pub fn flags_of(mut options: Vec<&Arg>) -> String {
    options.sort_by_key(|a| a.get_long().unwrap_or_default().to_owned());
    let mut out = String::new();
    for arg in options {
        let name = flag_name(arg);
        let default = arg.get_default_values().first().map(|v| v.to_string_lossy().into_owned());
        let bare = |text: &str| {
            text.parse::<f64>().is_ok() || matches!(text, "true" | "false") || api::duration::parse_go(text).is_ok()
        };
        let default = match default {
            Some(default) if bare(&default) => default,
            Some(default) => format!("'{default}'"),
            None if matches!(arg.get_action(), clap::ArgAction::Append) => "[]".to_owned(),
            None if takes_bool(arg) => "false".to_owned(),
            None => "''".to_owned(),
        };
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        out.push_str(&format!("    {name}={default}:\n\t{}\n\n", help.replace('\n', " ")));
    }
    out
}
