//! `kubectl __complete WORD...`: what may stand in the place of the last word. The scripts of `kubectl completion` ask
//! for it, and so do those that upstream's kubectl has put into a shell's configuration.
//!
//! The answer is cobra's: a choice a line, with what it means behind a tab, then `:N`, the sum of what [`Answer`] tells the
//! shell. Whatever goes wrong, that is an answer without choices.

mod objects;

use clap::{Arg, ArgAction, Command};

use self::objects::Objects;
use crate::{
    cli,
    failure::Failure,
    flags::{self, Line, long_name},
};

/// The shell puts no space behind a lone choice.
const NO_SPACE: u8 = 2;
/// The shell offers no files if there are no choices.
const NO_FILES: u8 = 4;
/// The choices are endings of the names of files to offer.
const FILE_ENDINGS: u8 = 8;

const FORMATS: &[&str] = &[
    "json",
    "yaml",
    "name",
    "go-template",
    "go-template-file",
    "template",
    "templatefile",
    "jsonpath",
    "jsonpath-as-json",
    "jsonpath-file",
    "custom-columns",
    "custom-columns-file",
    "wide",
];

/// What may come, and what the shell is to do with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Answer {
    choices: Vec<String>,
    directive: u8,
}

impl Answer {
    /// Choices beside which there are no files.
    fn only(choices: Vec<String>) -> Self {
        Self { choices, directive: NO_FILES }
    }

    /// Those of the choices that begin as the word does.
    fn of(choices: &[&str], word: &str) -> Self {
        Self::only(choices.iter().filter(|choice| choice.starts_with(word)).map(|choice| (*choice).to_owned()).collect())
    }
}

/// Answers for the words after `kubectl __complete`; `described` is whether choices are explained.
///
/// # Errors
/// There is no word.
pub async fn run(words: &[String], described: bool) -> Result<(), Failure> {
    let Some((word, before)) = words.split_last() else {
        return Err(Failure::Verbatim("Error: requires at least 1 arg(s), only received 0".to_owned(), 1));
    };
    let answer = match answer(&cli::declared(), before, word).await {
        Ok(answer) => answer,
        Err(why) => {
            eprintln!("[Debug] [Error] {why}");
            Answer::default()
        }
    };
    for choice in &answer.choices {
        let choice = if described { choice } else { choice.split('\t').next().unwrap_or_default() };
        println!("{}", choice.lines().next().unwrap_or_default().trim());
    }
    println!(":{}", answer.directive);
    let told: Vec<&str> = [
        (NO_SPACE, "ShellCompDirectiveNoSpace"),
        (NO_FILES, "ShellCompDirectiveNoFileComp"),
        (FILE_ENDINGS, "ShellCompDirectiveFilterFileExt"),
    ]
    .iter()
    .filter(|(bit, _)| answer.directive & bit != 0)
    .map(|(_, name)| *name)
    .collect();
    let told = if told.is_empty() { "ShellCompDirectiveDefault".to_owned() } else { told.join(", ") };
    eprintln!("Completion ended with directive: {told}");
    Ok(())
}

async fn answer(root: &Command, before: &[String], word: &str) -> Result<Answer, String> {
    if let Some((help, topic)) = before.split_first()
        && help == "help"
    {
        return Ok(topics(root, topic, word));
    }
    let found = flags::locate(root, before);
    if found.path.is_empty() && found.has_arguments {
        eprintln!("[Debug] Cleared global flags for plugin completion");
        return plugin(before, word);
    }
    let (flag, rest, word) = match flag_with_value(root, &found, word) {
        Ok(found) => found,
        // Behind `--` there are no flags.
        Err(_) if found.rest.contains(&"--") => (None, found.rest.clone(), word),
        Err(why) => {
            flags::read_words(root, &found, &found.rest).map_err(|wrong| unread(&found.rest, &wrong))?;
            return Err(why);
        }
    };
    let line = flags::read_words(root, &found, &rest).map_err(|wrong| unread(&rest, &wrong))?;
    if line.help {
        return Ok(Answer::only(Vec::new()));
    }
    let flag = flag.filter(|_| line.dash.is_none());
    let at = Before { root, command: found.command, path: &found.path, line: &line };
    let objects = Objects::new(&line)?;
    match flag {
        Some(flag) => Ok(value(&at, flag, word, &objects).await),
        None if word.starts_with('-') && !word.contains('=') && line.dash.is_none() => Ok(at.flag_names(word)),
        None => Ok(argument(&at, word, &objects).await),
    }
}

fn unread(words: &[&str], why: &str) -> String {
    format!("Error while parsing flags from args [{}]: {why}", words.join(" "))
}

/// The flag whose value the word is, the words before that flag, and as much of the value as there is.
#[allow(clippy::type_complexity, reason = "used once, beside its explanation")]
fn flag_with_value<'a, 'w>(
    root: &'a Command,
    found: &flags::Located<'a, 'w>,
    word: &'w str,
) -> Result<(Option<&'a Arg>, Vec<&'w str>, &'w str), String> {
    let lookup = |name: &str| {
        let flag = flags::flag(root, found.command, name);
        let name_of = found.command.get_name();
        flag.ok_or_else(|| format!("subcommand '{name_of}' does not support flag '{name}'"))
    };
    // `-abc=VALUE` is about `c`.
    let name_in = |written: &'w str| match written.strip_prefix("--") {
        Some(long) => long,
        None => written.char_indices().last().map_or("", |(at, _)| &written[at..]),
    };
    if word.starts_with('-') {
        return match word.split_once('=') {
            Some((written, value)) => Ok((Some(lookup(name_in(written))?), found.rest.clone(), value)),
            None => Ok((None, found.rest.clone(), word)),
        };
    }
    let Some((previous, rest)) = found.rest.split_last() else { return Ok((None, Vec::new(), word)) };
    let is_flag = (previous.starts_with("--") && previous.len() > 2)
        || (previous.starts_with('-') && previous.len() > 1 && !previous.starts_with("--"));
    if !is_flag || previous.contains('=') {
        return Ok((None, found.rest.clone(), word));
    }
    if matches!(*previous, "--help" | "-h") {
        return Ok((None, found.rest.clone(), word));
    }
    let flag = lookup(name_in(previous))?;
    match flags::stands_alone(flag) {
        true => Ok((None, found.rest.clone(), word)),
        false => Ok((Some(flag), rest.to_vec(), word)),
    }
}

/// What stands before the word.
struct Before<'a> {
    root: &'a Command,
    command: &'a Command,
    path: &'a [String],
    line: &'a Line,
}

impl<'a> Before<'a> {
    fn path(&self) -> String {
        self.path.join(" ")
    }

    fn is_given(&self, arg: &Arg) -> bool {
        let name = format!("--{}", arg.get_long().unwrap_or_default());
        self.line.words.iter().take_while(|word| *word != "--").any(|word| word.split('=').next() == Some(name.as_str()))
    }

    /// The flags of every command, then the command's own; each sorted by name, as a name and what it is.
    fn flags(&self) -> Vec<(Option<&'a Arg>, String, String)> {
        let of = |command: &'a Command, global: bool| {
            let shown = command.get_arguments().filter(move |arg| !arg.is_positional() && !arg.is_hide_set());
            let mut flags: Vec<(Option<&Arg>, String, String)> = shown
                .filter(|arg| arg.is_global_set() == global)
                .map(|arg| {
                    let about = arg.get_help().map(ToString::to_string).unwrap_or_default();
                    (Some(arg), long_name(arg).unwrap_or_default().to_owned(), about)
                })
                .collect();
            if global == self.path.is_empty() {
                let name = if global { "kubectl" } else { self.command.get_name() };
                flags.push((None, "help".to_owned(), format!("help for {name}")));
            }
            flags.sort_by(|a, b| a.1.cmp(&b.1));
            flags
        };
        let mut flags = of(self.root, true);
        if !self.path.is_empty() {
            // A flag of the command's own takes the place of one that every command has.
            let own = of(self.command, false);
            flags.retain(|(_, name, _)| own.iter().all(|(_, other, _)| name != other));
            flags.extend(own);
        }
        flags
    }

    /// The names of flags that begin as the word does. As long as required ones are missing, these alone.
    fn flag_names(&self, word: &str) -> Answer {
        let required = self.required(word);
        if !required.is_empty() {
            return Answer::only(required);
        }
        let mut choices = Vec::new();
        for (arg, name, about) in self.flags() {
            let repeatable =
                |arg: &Arg| matches!(arg.get_action(), ArgAction::Append) || arg.get_value_delimiter().is_some();
            if arg.is_none_or(|arg| !self.is_given(arg) || repeatable(arg)) {
                let short = arg.map_or(Some('h'), Arg::get_short);
                choices.extend(spelled(&name, short, &about, word));
            }
        }
        Answer::only(choices)
    }

    /// The names of required flags that have not been given.
    fn required(&self, word: &str) -> Vec<String> {
        let mut choices = Vec::new();
        for (arg, name, about) in self.flags() {
            if let Some(arg) = arg.filter(|arg| arg.is_required_set() && !self.is_given(arg)) {
                choices.extend(spelled(&name, arg.get_short(), &about, word));
            }
        }
        choices
    }
}

/// A flag as it may be written, each with what it is.
fn spelled(name: &str, short: Option<char>, about: &str, word: &str) -> Vec<String> {
    let both = [Some(format!("--{name}")), short.map(|short| format!("-{short}"))];
    let fitting = both.into_iter().flatten().filter(|written| written.starts_with(word));
    fitting.map(|written| format!("{written}\t{}", about.replace('\n', " "))).collect()
}

/// The commands below one that begin as the word does.
fn commands(root: &Command, command: &Command, word: &str) -> Vec<String> {
    let about = |command: &Command| command.get_about().map(ToString::to_string).unwrap_or_default();
    let mut all: Vec<(String, String)> = command
        .get_subcommands()
        .filter(|c| !c.is_hide_set() || c.get_name() == "options")
        .map(|c| (c.get_name().to_owned(), about(c)))
        .collect();
    if command.get_name() == root.get_name() {
        all.push(("help".to_owned(), "Help about any command".to_owned()));
    }
    all.sort();
    all.into_iter().filter(|(name, _)| name.starts_with(word)).map(|(name, about)| format!("{name}\t{about}")).collect()
}

/// What `kubectl help` may be about.
fn topics(root: &Command, topic: &[String], word: &str) -> Answer {
    let found = flags::locate(root, topic);
    match found.path.is_empty() && found.has_arguments {
        true => Answer::only(Vec::new()),
        false => Answer::only(commands(root, found.command, word)),
    }
}

/// What may be a flag's value.
async fn value(at: &Before<'_>, flag: &Arg, word: &str, objects: &Objects) -> Answer {
    let names = |names: Vec<String>| Answer::only(names);
    match (at.path().as_str(), long_name(flag).unwrap_or_default()) {
        (_, "namespace") if flag.is_global_set() => names(objects.names("namespace", word).await),
        (_, "context" | "cluster" | "user") if flag.is_global_set() => {
            names(objects.entries(long_name(flag).unwrap_or_default(), word))
        }
        (_, "filename") => Answer { choices: ["json", "yaml", "yml"].map(str::to_owned).to_vec(), directive: FILE_ENDINGS },
        ("get", "output") => Answer::of(FORMATS, word),
        ("apply" | "edit" | "get" | "patch" | "replace", "subresource") => Answer::of(&["status", "scale", "resize"], word),
        ("exec", "container") => names(match at.line.arguments.first() {
            Some(pod) => objects.containers(pod, word).await,
            None => Vec::new(),
        }),
        ("create clusterrolebinding", "clusterrole") => names(objects.names("clusterrole", word).await),
        _ => Answer::default(),
    }
}

/// What may be an argument.
async fn argument(at: &Before<'_>, word: &str, objects: &Objects) -> Answer {
    let arguments = at.line.arguments.as_slice();
    let mut answer = Answer::default();
    let own = |(arg, ..): &(Option<&Arg>, String, String)| arg.is_some_and(|arg| !arg.is_global_set() && at.is_given(arg));
    let below = at.command.has_subcommands();
    if below && arguments.is_empty() && !at.flags().iter().any(own) {
        answer = Answer::only(commands(at.root, at.command, word));
    }
    answer.choices.extend(at.required(word));
    let path = at.path();
    let more = match path.as_str() {
        "completion" if arguments.is_empty() => Answer::of(&["bash", "fish", "powershell", "zsh"], word),
        "completion" => Answer::only(Vec::new()),
        "annotate"
        | "apply edit-last-applied"
        | "apply view-last-applied"
        | "delete"
        | "describe"
        | "edit"
        | "get"
        | "label"
        | "patch" => objects.types_and_names(&[], true, arguments, word).await,
        "autoscale" | "scale" => {
            let types = ["deployment", "replicaset", "replicationcontroller", "statefulset"];
            objects.types_and_names(&types, true, arguments, word).await
        }
        "expose" => {
            let types = ["pod", "service", "replicationcontroller", "deployment", "replicaset"];
            objects.types_and_names(&types, true, arguments, word).await
        }
        "rollout history" | "rollout restart" | "rollout undo" => {
            objects.types_and_names(&["deployment", "daemonset", "statefulset"], true, arguments, word).await
        }
        "rollout status" => {
            objects.types_and_names(&["deployment", "daemonset", "statefulset"], false, arguments, word).await
        }
        "rollout pause" | "rollout resume" => objects.types_and_names(&["deployment"], true, arguments, word).await,
        "set image" => {
            let types =
                ["daemonsets", "deployments", "pods", "cronjobs", "replicasets", "replicationcontrollers", "statefulsets"];
            objects.types_and_names(&types, true, arguments, word).await
        }
        "taint" => objects.types_and_names(&["node"], true, arguments, word).await,
        "cordon" | "uncordon" | "drain" | "top node" => objects.first("node", arguments, word).await,
        "top pod" => objects.first("pod", arguments, word).await,
        "create token" => objects.first("serviceaccount", arguments, word).await,
        "attach" | "exec" | "port-forward" => match arguments {
            [] => objects.pods(word).await,
            _ => Answer::only(Vec::new()),
        },
        "logs" => match arguments {
            [] => objects.pods(word).await,
            [pod] => Answer::only(objects.containers(pod, word).await),
            _ => Answer::only(Vec::new()),
        },
        "cp" => objects.copied(arguments, word).await,
        "config use-context" | "config delete-context" | "config rename-context" | "config set-context" => {
            objects.entry("context", arguments, word)
        }
        "config delete-cluster" => objects.entry("cluster", arguments, word),
        "config delete-user" => objects.entry("user", arguments, word),
        _ => return answer,
    };
    answer.choices.extend(more.choices);
    answer.directive = more.directive;
    answer
}

/// What a plugin's own program for it, `kubectl_complete-NAME`, says of words that are no command of ours.
fn plugin(before: &[String], word: &str) -> Result<Answer, String> {
    let unknown = || format!("unable to find a command for arguments: [{}]", before.join(" "));
    let (program, rest) = crate::verbs::plugin::completer(before).ok_or_else(unknown)?;
    let Some(program) = program else { return Ok(Answer::default()) };
    let output = std::process::Command::new(program).args(rest).arg(word).stderr(std::process::Stdio::inherit()).output();
    let Some(output) = output.ok().filter(|output| output.status.success()) else { return Ok(Answer::default()) };
    let text = String::from_utf8_lossy(&output.stdout);
    let mut choices: Vec<String> = text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
    let told = choices.last().and_then(|last| last.strip_prefix(':')?.parse().ok());
    if told.is_some() {
        choices.pop();
    }
    Ok(Answer { choices, directive: told.unwrap_or_default() })
}
