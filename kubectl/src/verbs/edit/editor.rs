//! The user's editor on a temporary file.

use std::{io::Write, path::PathBuf};

use tokio::process::Command;

use crate::{
    client::log,
    failure::{Failure, plain},
};

fn log_opening(command: &Command) {
    let command = command.as_std();
    let words: Vec<_> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(|w| w.to_string_lossy()).collect();
    log::at(5, "launcher_others.go:62", &format!("Opening file with editor [{}]", words.join(" ")));
}

/// Shows text in the editor; gives what was saved, and the file, which stays.
///
/// # Errors
/// The file cannot be written or read, or the editor fails.
pub async fn edit(text: &str, extension: &str) -> Result<(String, PathBuf), Failure> {
    let name = format!("kubectl-edit-{}{extension}", rand::random::<u32>());
    let mut file = tempfile::Builder::new().prefix(&name).rand_bytes(0).tempfile()?;
    file.write_all(text.as_bytes())?;
    let path = file.into_temp_path().keep().map_err(|error| plain(error.to_string()))?;
    let (words, quoted) = command(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    let (program, arguments) = words.split_first().ok_or_else(|| plain("there is no editor"))?;
    let mut command = Command::new(program);
    match &quoted {
        // The shell reads the whole of it, the file's name too.
        Some(line) => command.args(arguments).arg(format!("{line} {}", api::field::go_quote(&path.display().to_string()))),
        None => command.args(arguments).arg(&path),
    };
    log_opening(&command);
    let shown: Vec<&str> = words.iter().map(String::as_str).chain(quoted.as_deref()).collect();
    let shown = api::field::go_quote(&shown.join(" "));
    match command.status().await {
        Ok(status) if status.success() => {}
        // Only a program that was looked for can have been not found.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !program.contains('/') => {
            return Err(plain(format!("unable to launch the editor {shown}")));
        }
        _ => return Err(plain(format!("there was a problem with the editor {shown}"))),
    }
    Ok((std::fs::read_to_string(&path)?, path))
}

/// The editor's words; where they need a shell, the shell's words and the line it is to read.
fn command(variable: impl Fn(&str) -> Option<String>) -> (Vec<String>, Option<String>) {
    let editor = variable("KUBE_EDITOR").or_else(|| variable("EDITOR")).unwrap_or_else(|| "vi".to_owned());
    if editor.contains(' ') && editor.contains(['"', '\'', '\\']) {
        let shell = variable("SHELL").unwrap_or_else(|| "/bin/bash".to_owned());
        return (vec![shell, "-c".to_owned()], Some(editor));
    }
    (editor.split(' ').map(str::to_owned).collect(), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn editors_have_arguments_or_need_a_shell() {
        let set = |value: &'static str| move |name: &str| (name == "EDITOR").then(|| value.to_owned());
        assert_eq!(command(|_| None), (vec!["vi".to_owned()], None));
        assert_eq!(command(set("code -w")), (vec!["code".to_owned(), "-w".to_owned()], None));
        assert_eq!(
            command(set("vim -c 'set ft=yaml'")),
            (vec!["/bin/bash".to_owned(), "-c".to_owned()], Some("vim -c 'set ft=yaml'".to_owned()))
        );
    }
}
