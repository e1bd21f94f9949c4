//! `--record`: the command line kept in an annotation of what it changes. Upstream has deprecated it and hides it in its help,
//! and scripts still use it: `rollout history` shows the annotation.

use clap::{Arg, ArgAction, Command};
use serde_json::{Value, json};

use crate::flags::Line;

const ANNOTATION: &str = "kubernetes.io/change-cause";

/// The commands that take the flag.
const COMMANDS: &[&[&str]] = &[
    &["annotate"],
    &["apply"],
    &["autoscale"],
    &["create"],
    &["edit"],
    &["expose"],
    &["label"],
    &["patch"],
    &["run"],
    &["scale"],
    &["set", "image"],
    &["set", "resources"],
    &["set", "selector"],
    &["set", "serviceaccount"],
];

/// Adds the flag to the commands that take it.
pub fn declare(root: Command) -> Command {
    below(root, COMMANDS)
}

fn below(command: Command, paths: &[&[&str]]) -> Command {
    let command = match paths.iter().any(|path| path.is_empty()) {
        true => command.arg(Arg::new("record").long("record").action(ArgAction::SetTrue).hide(true)),
        false => command,
    };
    // Each subcommand is taken out and comes back as the last one: all of them, so that their order stays.
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    names.iter().fold(command, |command, name| {
        let rest = paths.iter().filter_map(|path| path.split_first().filter(|(first, _)| *first == name));
        let rest: Vec<&[&str]> = rest.map(|(_, rest)| rest).collect();
        command.mut_subcommand(name, |sub| if rest.is_empty() { sub } else { below(sub, &rest) })
    })
}

/// What is to be recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    /// Whether the flag was given, with any value: then it is said that it is deprecated.
    pub given: bool,
    cause: Option<String>,
}

impl Recording {
    /// What a command line asks for.
    pub fn of(line: &Line) -> Self {
        let flags: Vec<&str> =
            line.words.iter().skip(1 + line.path.len()).map(String::as_str).take_while(|word| *word != "--").collect();
        let Some(last) = flags.iter().rev().find(|word| word.starts_with("--record=")) else { return Self::default() };
        let words = line.path.iter().chain(&line.arguments).map(String::as_str);
        let cause = std::iter::once("kubectl").chain(words).chain(flags.iter().copied()).collect::<Vec<_>>().join(" ");
        Self { given: true, cause: (*last == "--record=true").then_some(cause) }
    }

    /// Notes the command in an object that it makes or changes.
    pub fn annotate(&self, object: &mut Value) {
        if let Some(cause) = &self.cause {
            object["metadata"]["annotations"][ANNOTATION] = cause.as_str().into();
        }
    }

    /// The merge patch that notes the command in an object that was changed already.
    pub fn patch(&self, object: &Value) -> Option<String> {
        let cause = self.cause.as_deref().filter(|cause| object["metadata"]["annotations"][ANNOTATION] != **cause)?;
        Some(json!({"metadata": {"annotations": {ANNOTATION: cause}}}).to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_kept_as_upstream_writes_it() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let line = Line {
            words: words("kubectl set image --namespace=x --record=true -- deploy/web c=i"),
            path: words("set image"),
            arguments: words("deploy/web c=i"),
            ..Line::default()
        };
        let recording = Recording::of(&line);
        let mut object = json!({"metadata": {"name": "web"}});
        recording.annotate(&mut object);
        let cause = "kubectl set image deploy/web c=i --namespace=x --record=true";
        assert_eq!(object, json!({"metadata": {"name": "web", "annotations": {ANNOTATION: cause}}}));
        assert_eq!(recording.patch(&object), None);
    }
}
