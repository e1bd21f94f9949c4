//! Command lines as cobra and pflag read them, turned into ones that clap reads without surprises.
//!
//! Flags are declared with clap, but how they may be written is pflag's: `-ojson`, `-o=json`, `--watch=false`, `-wA`, `_` for
//! `-` in names, flags before and after arguments, errors in its words. [`normalize`] walks the words with the declared flags
//! at hand and writes `COMMAND... --flag=value... -- ARGUMENTS...`. So clap never guesses, and verbs declare plain fields.

use std::{any::TypeId, collections::BTreeMap};

use api::field::go_quote;
use clap::{Arg, ArgAction, Command};

/// What a command line says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// For clap, the program's name first.
    pub words: Vec<String>,
    /// The command's path: `["rollout", "status"]`.
    pub path: Vec<String>,
    /// Arguments that are no flags.
    pub arguments: Vec<String>,
    /// How many of the arguments stood before a `--`, where there was one.
    pub dash: Option<usize>,
    /// Whether help was asked for.
    pub help: bool,
}

/// Lets every switch take `=true` and `=false`, and the last of repeated flags win.
pub fn prepare(command: Command) -> Command {
    let command = command.args_override_self(true).disable_help_flag(true).disable_help_subcommand(true);
    let command = command.mut_args(|arg| match arg.get_action() {
        ArgAction::SetTrue => {
            let with_default = !arg.get_default_values().is_empty();
            let arg = arg.action(ArgAction::Set).num_args(1).value_parser(clap::value_parser!(bool));
            if with_default { arg } else { arg.default_value("false") }
        }
        _ => arg,
    });
    let names: Vec<String> = command.get_subcommands().map(|s| s.get_name().to_owned()).collect();
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, prepare))
}

/// What kind of value a flag takes, as far as spelling and messages go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Bool,
    Int(u8),
    Duration,
    Pairs,
    Optional,
    Other,
}

fn takes(arg: &Arg) -> Takes {
    let id = arg.get_value_parser().type_id();
    if id == TypeId::of::<bool>() {
        return Takes::Bool;
    }
    if id == TypeId::of::<jiff::SignedDuration>() && arg.get_long() != Some("log-flush-frequency") {
        return Takes::Duration;
    }
    if id == TypeId::of::<BTreeMap<String, String>>() {
        return Takes::Pairs;
    }
    if arg.get_num_args().is_some_and(|range| range.min_values() == 0) {
        return Takes::Optional;
    }
    for (kind, bits) in
        [(TypeId::of::<i16>(), 16), (TypeId::of::<i32>(), 32), (TypeId::of::<i64>(), 64), (TypeId::of::<isize>(), 64)]
    {
        if id == kind {
            return Takes::Int(bits);
        }
    }
    Takes::Other
}

/// Whether a flag is a switch.
pub fn takes_bool(arg: &Arg) -> bool {
    takes(arg) == Takes::Bool
}

struct Flags<'a> {
    all: Vec<&'a Arg>,
}

impl<'a> Flags<'a> {
    fn of(root: &'a Command, command: &'a Command) -> Self {
        let own: Vec<&Arg> = command.get_arguments().filter(|arg| !arg.is_positional()).collect();
        // A global flag stands behind the command's own flag of its name, with its letter.
        let hidden = |arg: &&Arg| !own.iter().any(|own| long_name(own) == long_name(arg));
        let global = root.get_arguments().filter(|arg| arg.is_global_set()).filter(hidden);
        Self { all: own.iter().copied().chain(global).collect() }
    }

    fn long(&self, name: &str) -> Option<&'a Arg> {
        let name = name.replace('_', "-");
        let fits = |arg: &&&Arg| {
            long_name(arg) == Some(name.as_str()) || arg.get_all_aliases().is_some_and(|all| all.contains(&name.as_str()))
        };
        self.all.iter().find(fits).copied()
    }

    fn short(&self, name: char) -> Option<&'a Arg> {
        self.all.iter().find(|arg| arg.get_short() == Some(name)).copied()
    }

    /// Whether the flag may stand without a value (cobra's question while it looks for the command).
    fn stands_alone(&self, word: &str) -> bool {
        let arg = match word.strip_prefix("--") {
            Some(name) => self.long(name),
            None => word.chars().nth(1).and_then(|c| self.short(c)),
        };
        arg.is_some_and(stands_alone)
    }
}

fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// Go's `strconv.ParseInt(text, 0, bits)`.
fn go_int(text: &str, bits: u8) -> Result<i64, String> {
    let invalid = || format!("strconv.ParseInt: parsing {}: invalid syntax", go_quote(text));
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.as_str() {
        d if d.starts_with("0x") => (16, &d[2..]),
        d if d.starts_with("0b") => (2, &d[2..]),
        d if d.starts_with("0o") => (8, &d[2..]),
        d if d.len() > 1 && d.starts_with('0') => (8, &d[1..]),
        d => (10, d),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(invalid());
    }
    let out_of_range = || format!("strconv.ParseInt: parsing {}: value out of range", go_quote(text));
    let value = i128::from_str_radix(digits, radix).map_err(|_| out_of_range())?;
    let value = if negative { -value } else { value };
    let limit = 1_i128 << (bits - 1);
    if value < -limit || value >= limit {
        return Err(out_of_range());
    }
    i64::try_from(value).map_err(|_| out_of_range())
}

/// A flag's long name. A verb's own flag that has a global one's name is declared as `local-NAME`: clap wants them apart.
pub fn long_name(arg: &Arg) -> Option<&str> {
    arg.get_long().map(|long| long.strip_prefix("local-").unwrap_or(long))
}

/// A flag as messages name it: `-w, --watch`.
pub fn flag_name(arg: &Arg) -> String {
    match (arg.get_short(), long_name(arg)) {
        (Some(short), Some(long)) => format!("-{short}, --{long}"),
        (None, Some(long)) => format!("--{long}"),
        (Some(short), None) => format!("-{short}"),
        (None, None) => arg.get_id().to_string(),
    }
}

/// A flag with its value for clap; nothing for an empty list, which adds nothing to the flag's values.
fn written(arg: &Arg, value: &str) -> Result<Option<String>, String> {
    if value.is_empty() && arg.get_value_delimiter() == Some(',') {
        return Ok(None);
    }
    checked(arg, value).map(Some)
}

fn checked(arg: &Arg, value: &str) -> Result<String, String> {
    let name = match (arg.get_long(), arg.get_short()) {
        (Some(long), _) => format!("--{long}="),
        (None, Some(short)) => format!("-{short}="),
        (None, None) => String::new(),
    };
    let wrong = |why: String| format!("invalid argument {} for \"{}\" flag: {why}", go_quote(value), flag_name(arg));
    match takes(arg) {
        Takes::Bool => match go_bool(value) {
            Some(value) => Ok(format!("{name}{value}")),
            None => Err(wrong(format!("strconv.ParseBool: parsing {}: invalid syntax", go_quote(value)))),
        },
        Takes::Int(bits) => go_int(value, bits).map(|value| format!("{name}{value}")).map_err(wrong),
        // Here and not in clap: mistakes are told in the order of the flags.
        Takes::Duration => crate::cli::duration(value).map(|_| format!("{name}{value}")).map_err(wrong),
        Takes::Pairs => crate::cli::pairs(value).map(|_| format!("{name}{value}")).map_err(wrong),
        Takes::Optional | Takes::Other => Ok(format!("{name}{value}")),
    }
}

/// Finds the command as cobra does: the first words that are neither flags nor flags' values.
fn find<'a>(root: &'a Command, words: &[String]) -> (&'a Command, Vec<String>, Vec<usize>) {
    let (mut command, mut path, mut used) = (root, Vec::new(), Vec::new());
    let mut at = 0;
    while at < words.len() {
        let word = words[at].as_str();
        if word == "--" {
            break;
        }
        let flag = word.starts_with('-') && word.len() > 1;
        let lone = (word.starts_with("--") || word.chars().count() == 2) && !word.contains('=');
        if flag {
            if lone && !matches!(word, "--help" | "-h") && !Flags::of(root, command).stands_alone(word) {
                at += 1;
            }
        } else {
            match command.get_subcommands().find(|s| s.get_name() == word || s.get_all_aliases().any(|a| a == word)) {
                Some(found) => {
                    command = found;
                    path.push(found.get_name().to_owned());
                    used.push(at);
                }
                None => break,
            }
        }
        at += 1;
    }
    (command, path, used)
}

/// The first word that should be a command and is none. Upstream looks for it before it reads any flag: one that is not known
/// at this place takes the word after it for its value.
pub fn stray<'w>(root: &Command, words: &'w [String]) -> Option<&'w str> {
    let flags = Flags::of(root, root);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--" => return None,
            "" => {}
            flag if flag.starts_with('-') => {
                let lone = (flag.starts_with("--") || flag.chars().count() == 2) && !flag.contains('=');
                if lone && !flags.stands_alone(flag) {
                    words.next();
                }
            }
            word => return root.find_subcommand(word).is_none().then_some(word),
        }
    }
    None
}

/// Where a command line leads.
pub struct Located<'a, 'w> {
    /// The command.
    pub command: &'a Command,
    /// Its path: `["rollout", "status"]`.
    pub path: Vec<String>,
    /// The words but for the path.
    pub rest: Vec<&'w str>,
    /// Whether an argument follows that is no flag.
    pub has_arguments: bool,
}

/// Finds the command of words that may be half a command line.
pub fn locate<'a, 'w>(root: &'a Command, words: &'w [String]) -> Located<'a, 'w> {
    let (command, path, used) = find(root, words);
    let rest: Vec<&str> =
        words.iter().enumerate().filter(|(at, _)| !used.contains(at)).map(|(_, word)| word.as_str()).collect();
    let flags = Flags::of(root, command);
    let (mut words, mut has_arguments) = (rest.iter(), false);
    while let Some(word) = words.next() {
        match *word {
            "--" => break,
            flag if flag.starts_with('-') && flag.len() > 1 => {
                let lone = (flag.starts_with("--") || flag.chars().count() == 2) && !flag.contains('=');
                if lone && !matches!(flag, "--help" | "-h") && !flags.stands_alone(flag) {
                    words.next();
                }
            }
            "" => {}
            _ => has_arguments = true,
        }
    }
    Located { command, path, rest, has_arguments }
}

/// Reads the words of a located command line, or some of them.
///
/// # Errors
/// What pflag says of them.
pub fn read_words(root: &Command, found: &Located<'_, '_>, words: &[&str]) -> Result<Line, String> {
    let flags = Flags::of(root, found.command);
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let mut line = Line { path: found.path.clone(), ..Line::default() };
    let mut options = Vec::new();
    read(&flags, &words.iter().collect::<Vec<_>>(), &mut line, &mut options)?;
    line.words = options;
    Ok(line)
}

/// A command's flag by its long name or its letter.
pub fn flag<'a>(root: &'a Command, command: &'a Command, name: &str) -> Option<&'a Arg> {
    let flags = Flags::of(root, command);
    let mut letters = name.chars();
    let short = match (letters.next(), letters.next()) {
        (Some(letter), None) => flags.short(letter),
        _ => None,
    };
    short.or_else(|| flags.long(name))
}

/// Whether a flag may stand without a value.
pub fn stands_alone(arg: &Arg) -> bool {
    matches!(takes(arg), Takes::Bool | Takes::Optional)
}

/// Reads a command line (without the program's name).
///
/// # Errors
/// What pflag says of it.
pub fn normalize(root: &Command, words: &[String]) -> Result<Line, (Vec<String>, String)> {
    let (command, path, used) = find(root, words);
    let flags = Flags::of(root, command);
    let rest: Vec<&String> = words.iter().enumerate().filter(|(i, _)| !used.contains(i)).map(|(_, w)| w).collect();
    let mut line = Line { path: path.clone(), ..Line::default() };
    let mut options = Vec::new();
    read(&flags, &rest, &mut line, &mut options).map_err(|message| (path.clone(), message))?;
    line.words = std::iter::once("kubectl".to_owned()).chain(path).chain(options).collect();
    line.words.push("--".to_owned());
    line.words.extend(line.arguments.iter().cloned());
    Ok(line)
}

fn read(flags: &Flags<'_>, words: &[&String], line: &mut Line, options: &mut Vec<String>) -> Result<(), String> {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if *word == "--" {
            line.dash = Some(line.arguments.len());
            line.arguments.extend(words.by_ref().map(|w| (*w).clone()));
        } else if let Some(long) = word.strip_prefix("--") {
            let (name, value) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (long, None),
            };
            if name.is_empty() || name.starts_with('-') {
                return Err(format!("bad flag syntax: {word}"));
            }
            let Some(arg) = flags.long(name) else {
                if name == "help" {
                    line.help = value.is_none_or(|v| go_bool(v) == Some(true));
                    continue;
                }
                return Err(format!("unknown flag: --{name}"));
            };
            options.extend(match (value, takes(arg)) {
                (Some(value), _) => written(arg, value)?,
                (None, Takes::Bool) => written(arg, "true")?,
                (None, Takes::Optional) => Some(format!("--{}", arg.get_long().unwrap_or(name))),
                (None, _) => {
                    let value = words.next().ok_or_else(|| format!("flag needs an argument: --{name}"))?;
                    written(arg, value)?
                }
            });
        } else if word.len() > 1 && word.starts_with('-') {
            shorts(flags, word, &mut words, line, options)?;
        } else {
            line.arguments.push((*word).clone());
        }
    }
    Ok(())
}

fn shorts<'a>(
    flags: &Flags<'_>,
    word: &str,
    words: &mut impl Iterator<Item = &'a &'a String>,
    line: &mut Line,
    options: &mut Vec<String>,
) -> Result<(), String> {
    let mut rest = &word[1..];
    while let Some(name) = rest.chars().next() {
        let after = &rest[name.len_utf8()..];
        let Some(arg) = flags.short(name) else {
            if name == 'h' {
                line.help = true;
                rest = after;
                continue;
            }
            return Err(format!("unknown shorthand flag: '{name}' in -{rest}"));
        };
        // `-o=` alone gives `=` for a value.
        if let Some(value) = after.strip_prefix('=').filter(|value| !value.is_empty()) {
            options.extend(written(arg, value)?);
            return Ok(());
        }
        match takes(arg) {
            Takes::Bool => options.extend(written(arg, "true")?),
            Takes::Optional => options.push(format!("--{}", arg.get_long().unwrap_or_default())),
            _ if !after.is_empty() => {
                options.extend(written(arg, after)?);
                return Ok(());
            }
            _ => {
                let value = words.next().ok_or_else(|| format!("flag needs an argument: '{name}' in -{rest}"))?;
                options.extend(written(arg, value)?);
                return Ok(());
            }
        }
        rest = after;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Root {
        #[arg(long, short, global = true)]
        namespace: Option<String>,
        #[command(subcommand)]
        _command: Option<Sub>,
    }

    #[derive(clap::Subcommand)]
    enum Sub {
        Get {
            #[arg(long, short)]
            output: Option<String>,
            #[arg(long, short)]
            watch: bool,
            #[arg(long, short = 'A')]
            all_namespaces: bool,
            #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "unchanged")]
            dry_run: Option<String>,
            #[arg(long)]
            replicas: Option<i32>,
            names: Vec<String>,
        },
    }

    fn line(text: &str) -> Result<(String, Option<usize>), String> {
        let root = prepare(Root::command());
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        normalize(&root, &words).map(|line| (line.words[1..].join(" "), line.dash)).map_err(|(_, message)| message)
    }

    #[test]
    fn flags_may_be_written_in_pflags_ways() {
        for (text, want) in [
            ("get pods -ojson", "get --output=json -- pods"),
            ("get -o=json pods", "get --output=json -- pods"),
            ("get -o json pods", "get --output=json -- pods"),
            ("get -o= pods", "get --output== -- pods"),
            ("-n x get pods -wA", "get --namespace=x --watch=true --all-namespaces=true -- pods"),
            ("get pods --watch=false --all_namespaces", "get --watch=false --all-namespaces=true -- pods"),
            ("get --dry-run pods", "get --dry-run -- pods"),
            ("get --dry-run=client pods", "get --dry-run=client -- pods"),
            ("get --replicas 3 -", "get --replicas=3 -- -"),
        ] {
            assert_eq!(line(text), Ok((want.to_owned(), None)), "{text}");
        }
        assert_eq!(line("get a -- -x b"), Ok(("get -- a -x b".to_owned(), Some(1))));
    }

    #[test]
    fn mistakes_are_told_in_pflags_words() {
        for (text, want) in [
            ("get --foo", "unknown flag: --foo"),
            ("get -zx", "unknown shorthand flag: 'z' in -zx"),
            ("get -o", "flag needs an argument: 'o' in -o"),
            ("get --output", "flag needs an argument: --output"),
            ("get -w=", "unknown shorthand flag: '=' in -="),
            (
                "get --watch=x",
                "invalid argument \"x\" for \"-w, --watch\" flag: strconv.ParseBool: parsing \"x\": invalid syntax",
            ),
            (
                "get --replicas=x",
                "invalid argument \"x\" for \"--replicas\" flag: strconv.ParseInt: parsing \"x\": invalid syntax",
            ),
        ] {
            assert_eq!(line(text), Err(want.to_owned()), "{text}");
        }
    }

    #[test]
    fn clap_reads_what_is_written() {
        use clap::FromArgMatches;
        let root = prepare(Root::command());
        let words: Vec<String> = ["get", "-w=true", "--dry-run", "a"].map(str::to_owned).to_vec();
        let line = normalize(&root, &words).unwrap();
        let parsed = Root::from_arg_matches(&root.try_get_matches_from(line.words).unwrap()).unwrap();
        let Some(Sub::Get { watch, all_namespaces, dry_run, names, .. }) = parsed._command else { panic!() };
        assert_eq!(
            (watch, all_namespaces, dry_run.as_deref(), names),
            (true, false, Some("unchanged"), vec!["a".to_owned()])
        );
    }
}
