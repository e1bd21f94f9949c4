//! Help in cobra's layout, made from what is declared.

use clap::{Arg, Command};

use crate::flags::{flag_name, long_name, takes_bool};

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

/// Flags that every command takes and that upstream's command has of its own, so that its page shows them.
const ALSO_OWN: &[(&str, &[&str])] = &[
    ("kubectl config set-cluster", &["certificate-authority", "insecure-skip-tls-verify", "tls-server-name"]),
    ("kubectl config set-context", &["cluster", "user"]),
    ("kubectl config set-credentials", &["client-certificate", "client-key", "password", "token", "username"]),
];

/// Defaults that pages show as such and that are upstream's words for a flag that is not given.
const SHOWN_DEFAULTS: &[(&str, &str, &str)] = &[
    ("kubectl create clusterrole", "aggregation-rule", ""),
    ("kubectl scale", "replicas", "0"),
    ("kubectl autoscale", "max", "-1"),
    ("kubectl cluster-info dump", "output", "'json'"),
    ("kubectl logs", "tail", "-1"),
    ("kubectl port-forward", "address", "[localhost]"),
    ("kubectl api-resources", "namespaced", "true"),
    ("kubectl config view", "output", "'yaml'"),
];

/// What may be done with a command: the lines of its part of `examples.txt`.
fn examples(path: &str) -> impl Iterator<Item = &'static str> {
    let lines = include_str!("examples.txt").lines();
    let part = lines.skip_while(move |line| line.strip_prefix("= ") != Some(path)).skip(1);
    part.take_while(|line| !line.starts_with("= "))
}

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
    page(root, command, &known)
}

/// The help of `help`.
pub fn of_help() -> String {
    "Print the page of a command: kubectl help COMMAND...\n\nUsage:\n  kubectl help [command] [flags] [options]\n\n\
     Use \"kubectl options\" for a list of global command-line options (applies to all commands).\n"
        .to_owned()
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

fn page(root: &Command, command: &Command, path: &[String]) -> String {
    if path.len() == 1 {
        return front(command);
    }
    // Upstream's page of `options` is empty.
    if command.get_name() == "options" {
        return String::new();
    }
    let name = path.join(" ");
    let mut out = String::new();
    let about = command.get_long_about().or_else(|| command.get_about()).map(ToString::to_string).unwrap_or_default();
    let about = about.trim_end();
    out.push_str(&format!("{about}{}\n\n", if about.ends_with('.') { "" } else { "." }));
    let aliases: Vec<&str> = command.get_all_aliases().collect();
    if !aliases.is_empty() {
        out.push_str(&format!("Aliases:\n{}, {}\n\n", command.get_name(), aliases.join(", ")));
    }
    let mut examples = examples(&name).peekable();
    if examples.peek().is_some() {
        out.push_str("Examples:\n");
        examples.for_each(|line| out.push_str(&format!("  {line}\n")));
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
    let also_own = ALSO_OWN.iter().find(|(path, _)| *path == name).map_or(&[][..], |(_, flags)| flags);
    let own = command.get_arguments().filter(|a| !a.is_positional() && !a.is_hide_set() && !a.is_global_set());
    let global =
        root.get_arguments().filter(|a| a.is_global_set() && also_own.iter().any(|name| a.get_long() == Some(name)));
    let options: Vec<&Arg> = own.chain(global).collect();
    if !options.is_empty() {
        out.push_str("Options:\n");
        out.push_str(&flags_of(&name, options));
    }
    let by_default = || format!("{name} [flags] [options]");
    let usage = usage(path).map_or_else(by_default, str::to_owned);
    out.push_str(&format!("Usage:\n  {usage}\n\n"));
    if command.has_subcommands() {
        out.push_str(&format!("Use \"{name} <command> --help\" for more information about a given command.\n"));
    }
    out.push_str("Use \"kubectl options\" for a list of global command-line options (applies to all commands).\n");
    out
}

/// A command's flags with their defaults and what they do, sorted by name.
pub fn flags_of(path: &str, mut options: Vec<&Arg>) -> String {
    options.sort_by_key(|a| long_name(a).unwrap_or_default().to_owned());
    let mut out = String::new();
    for arg in options {
        let name = flag_name(arg);
        let default = arg.get_default_values().first().map(|v| v.to_string_lossy().into_owned());
        let bare = |text: &str| {
            text.parse::<f64>().is_ok() || matches!(text, "true" | "false") || api::duration::parse_go(text).is_ok()
        };
        let shown = SHOWN_DEFAULTS.iter().find(|(of, flag, _)| *of == path && Some(*flag) == long_name(arg));
        let default = match default {
            _ if let Some((.., shown)) = shown => (*shown).to_owned(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli;

    /// The commands below one, itself too, with their paths.
    fn all(command: &Command, path: &str) -> Vec<(String, Command)> {
        let below = command.get_subcommands().filter(|c| !c.is_hide_set());
        let below = below.flat_map(|below| all(below, &format!("{path} {}", below.get_name())));
        std::iter::once((path.to_owned(), command.clone())).chain(below).collect()
    }

    #[test]
    fn examples_are_commands_that_there_are() {
        let root = cli::declared();
        let names: Vec<String> = all(&root, "kubectl").into_iter().map(|(name, _)| name).collect();
        let mut of = "";
        for line in include_str!("examples.txt").lines() {
            if let Some(name) = line.strip_prefix("= ") {
                assert!(names.iter().any(|known| known == name), "{name}");
                of = name;
            } else if !line.is_empty() && !line.starts_with('#') {
                let (_, command) = line.split_once("kubectl ").unwrap_or_else(|| panic!("{of}: {line}"));
                let command = command.split([')', '>']).next().unwrap_or_default();
                let words: Vec<String> =
                    command.split_whitespace().map(|word| word.trim_matches(['\'', '"']).to_owned()).collect();
                assert!(
                    of.starts_with("kubectl plugin") || line.contains(of) || of == "kubectl create poddisruptionbudget",
                    "{of}: {line}"
                );
                assert!(cli::parse(&words).is_ok(), "{of}: {line}");
            }
        }
    }

    #[test]
    fn commands_that_do_something_have_examples_and_a_usage_line() {
        for (name, command) in all(&cli::declared(), "kubectl").into_iter().skip(1) {
            let path: Vec<String> = name.split(' ').map(str::to_owned).collect();
            assert!(usage(&path).is_some(), "{name}");
            assert!(command.has_subcommands() || examples(&name).next().is_some(), "{name}");
        }
    }

    #[test]
    fn pages_show_what_a_command_has_of_its_own() {
        let root = cli::declared();
        let of = |path: &[&str]| of(&root, &path.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        let page = of(&["config", "set-credentials"]);
        assert!(
            page.contains("    --token='':\n") && page.contains("    --client-key='':\n") && !page.contains("--context")
        );
        assert!(of(&["create", "cm"]).contains("\n\nAliases:\nconfigmap, cm\n\nExamples:\n"));
        assert!(of(&["logs"]).contains("    --tail=-1:\n"));
        assert!(of(&["debug"]).contains("    -i, --stdin=false:\n"));
        assert_eq!(of(&["options"]), "");
    }
}
