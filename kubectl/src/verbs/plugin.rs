//! `kubectl plugin`, and commands that are plugins: programs in PATH called `kubectl-NAME`.

use std::{
    collections::HashMap,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
};

use super::create::no_command;
use crate::{
    context::Context,
    failure::{Failure, go_io, plain},
};

/// What `plugin` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    command: Option<Command>,
}

/// What can be done.
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// List all visible plugin executables on a user's PATH
    List {
        /// Names without directories.
        #[arg(long)]
        name_only: bool,
        /// What else there is; nothing of it means anything.
        #[arg(hide = true)]
        ignored: Vec<String>,
    },
}

fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

fn directories() -> Vec<PathBuf> {
    let mut seen: Vec<PathBuf> = Vec::new();
    for directory in std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()) {
        if !seen.contains(&directory) {
            seen.push(directory);
        }
    }
    seen
}

/// Runs the command.
///
/// # Errors
/// There are no plugins, or there is something wrong with one.
pub async fn run(args: Args, _: &Context) -> Result<(), Failure> {
    match args.command {
        None => Err(no_command(&["plugin"], &[])),
        Some(Command::List { name_only, .. }) => list(name_only),
    }
}

fn list(name_only: bool) -> Result<(), Failure> {
    let (mut found, mut wrong) = (Vec::new(), Vec::new());
    for directory in directories().iter().filter(|directory| !directory.as_os_str().is_empty()) {
        let entries = match std::fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) => {
                eprintln!(
                    "Unable to read directory {} from your PATH: open {}: {}. Skipping...",
                    api::field::go_quote(&directory.display().to_string()),
                    directory.display(),
                    go_io(&error)
                );
                continue;
            }
        };
        let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.sort();
        for name in names.into_iter().filter(|name| name.starts_with("kubectl-")) {
            let path = directory.join(&name);
            if !path.is_dir() {
                found.push((path, name));
            }
        }
    }
    if found.is_empty() {
        return Err(plain("unable to find any kubectl plugins in your PATH"));
    }
    println!("The following compatible plugins are available:\n");
    let mut first: HashMap<String, PathBuf> = HashMap::new();
    for (path, name) in found {
        println!("{}", if name_only { name.clone() } else { path.display().to_string() });
        if !is_executable(&path) {
            wrong.push(format!("warning: {} identified as a kubectl plugin, but it is not executable", path.display()));
        }
        match first.get(&name) {
            Some(other) => wrong.push(format!(
                "warning: {} is overshadowed by a similarly named plugin: {}",
                path.display(),
                other.display()
            )),
            None => drop(first.insert(name, path)),
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    eprintln!();
    wrong.iter().for_each(|text| eprintln!("  - {text}"));
    Err(plain(match wrong.len() {
        1 => "one plugin warning was found".to_owned(),
        count => format!("{count} plugin warnings were found"),
    }))
}

/// The program that completes the arguments of the plugin that the words name, `kubectl_complete-NAME`, where there is one, and
/// those arguments; nothing if there is no such plugin.
pub fn completer(words: &[String]) -> Option<(Option<PathBuf>, &[String])> {
    let (name, count, _) = named(words)?;
    eprintln!("[Debug] About to look for: kubectl_complete-{name}");
    let program = installed(&format!("kubectl_complete-{name}"));
    let rest = &words[count..];
    if program.is_none() {
        eprintln!("[Debug] Plugin kubectl-{name} does not provide a matching completion executable");
    }
    Some((program, rest))
}

fn installed(program: &str) -> Option<PathBuf> {
    directories().into_iter().map(|directory| directory.join(program)).find(|path| is_executable(path))
}

/// The longest of `a-b-c`, `a-b`, `a` that is a plugin's name, how many words it took, and the plugin.
fn named(words: &[String]) -> Option<(String, usize, PathBuf)> {
    let plain: Vec<String> =
        words.iter().take_while(|word| !word.starts_with('-')).map(|word| word.replace('-', "_")).collect();
    (1..=plain.len()).rev().find_map(|count| {
        let name = plain[..count].join("-");
        installed(&format!("kubectl-{name}")).map(|path| (name, count, path))
    })
}

/// Becomes the plugin that the words name: of `kubectl a b c` the longest of `kubectl-a-b-c`, `kubectl-a-b`, `kubectl-a` that
/// there is. Comes back if there is none.
pub fn become_plugin(words: &[String]) -> Option<Failure> {
    let (_, count, path) = named(words)?;
    let error = std::process::Command::new(&path).args(&words[count..]).exec();
    Some(plain(format!("fork/exec {}: {}", path.display(), go_io(&error))))
}
