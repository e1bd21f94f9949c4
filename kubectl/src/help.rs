//! Help in cobra's layout, made from what is declared.

use clap::{Arg, Command};

use crate::flags::flag_name;

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

fn page(command: &Command, path: &[String]) -> String {
    let mut out = String::new();
    let about = command.get_long_about().or_else(|| command.get_about()).map(ToString::to_string).unwrap_or_default();
    out.push_str(&format!("{}\n\n", about.trim_end()));
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
        let width = commands.iter().map(|c| c.get_name().len()).max().unwrap_or_default();
        for command in commands {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            out.push_str(&format!("  {:width$}   {about}\n", command.get_name()));
        }
        out.push('\n');
    }
    let is_root = path.len() == 1;
    let options: Vec<&Arg> =
        command.get_arguments().filter(|a| !a.is_positional() && !a.is_hide_set() && !a.is_global_set()).collect();
    if !options.is_empty() && !is_root {
        out.push_str("Options:\n");
        out.push_str(&flags_of(options));
    }
    let subcommands = if command.has_subcommands() { " SUBCOMMAND" } else { "" };
    let usage = match command.clone().render_usage().to_string().strip_prefix("Usage: ").map(str::to_owned) {
        Some(usage) if usage.starts_with("kubectl ") && !usage.contains("[OPTIONS]") && !usage.contains("<COMMAND>") => {
            usage
        }
        _ => format!("{}{subcommands} [flags] [options]", path.join(" ")),
    };
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
        let name = if arg.get_short().is_some() { name } else { format!("    {name}") };
        let default = arg.get_default_values().first().map(|v| v.to_string_lossy().into_owned());
        let number = default.as_deref().is_some_and(|d| d.parse::<f64>().is_ok() || matches!(d, "true" | "false"));
        let default = match default {
            Some(default) if number => default,
            Some(default) => format!("'{default}'"),
            None if matches!(arg.get_action(), clap::ArgAction::Append) => "[]".to_owned(),
            None => "''".to_owned(),
        };
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        out.push_str(&format!("    {name}={default}:\n        {}\n\n", help.replace('\n', "\n        ")));
    }
    out
}
