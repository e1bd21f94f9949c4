//! `kubectl completion`: a script for a shell, which asks `kubectl __complete` for whatever may come.

use crate::{
    context::Context,
    failure::{Failure, usage},
};

const BASH: &str = include_str!("completion/kubectl.bash");
const FISH: &str = include_str!("completion/kubectl.fish");
const POWERSHELL: &str = include_str!("completion/kubectl.ps1");
const ZSH: &str = include_str!("completion/kubectl.zsh");

/// What `completion` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// bash, zsh, fish or powershell.
    #[arg(value_name = "SHELL")]
    shell: Vec<String>,
}

/// Prints a script.
///
/// # Errors
/// Not one shell, or one that is not known.
pub async fn run(args: Args, _: &Context) -> Result<(), Failure> {
    let shell = match args.shell.as_slice() {
        [] => return Err(usage("completion", "Shell not specified.")),
        [shell] => shell.as_str(),
        _ => return Err(usage("completion", "Too many arguments. Expected only the shell type.")),
    };
    let script = match shell {
        "bash" => BASH,
        "fish" => FISH,
        "powershell" => POWERSHELL,
        "zsh" => ZSH,
        other => {
            return Err(usage("completion", format!("Unsupported shell type {}.", api::field::go_quote(other))));
        }
    };
    print!("{script}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    /// A directory with a few files in `work`, and in `bin` a `kubectl` that writes down what it is asked and answers so.
    fn folder(answer: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("make a directory");
        for name in ["bin", "work/d"] {
            std::fs::create_dir_all(folder.path().join(name)).expect("make a directory");
        }
        for name in ["work/a.yaml", "work/b.txt"] {
            std::fs::write(folder.path().join(name), "").expect("write a file");
        }
        // A shell writes the program, as a file that this process has open for writing cannot be run.
        let script = format!("#!/bin/sh\nprintf '[%s]' \"$@\" >../asked; printf -- '{answer}'\n");
        let written = Command::new("sh")
            .args(["-c", "printf %s \"$1\" >bin/kubectl && chmod +x bin/kubectl", "sh", &script])
            .current_dir(&folder)
            .status();
        assert!(written.expect("run a shell").success());
        folder
    }

    /// What a shell prints of a program of its own there, and what kubectl was asked; nothing without that shell.
    fn in_shell(shell: &[&str], driver: &str, answer: &str) -> Option<String> {
        let folder = folder(answer);
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", folder.path().join("bin").display());
        let output = Command::new(shell[0])
            .args(&shell[1..])
            .args(["-c", driver])
            .env_clear()
            .envs([("PATH", path.as_str()), ("LC_ALL", "C.UTF-8")])
            .env("HOME", folder.path())
            .current_dir(folder.path().join("work"))
            .output();
        let output = match output {
            Ok(output) => output,
            Err(error) => {
                println!("skipped: {}: {error}", shell[0]);
                return None;
            }
        };
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        let asked = std::fs::read_to_string(folder.path().join("asked")).unwrap_or_default();
        Some(format!("{}{asked}", String::from_utf8_lossy(&output.stdout)))
    }

    /// What Bash is told of a line whose cursor is at its end: what kubectl was asked, the options set and the choices.
    fn in_bash(line: &str, words: &[&str], answer: &str) -> String {
        let words: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let last = words.last().map_or("", String::as_str);
        // Bash says nothing of a word that is a break.
        let current = if last == "'='" { "''" } else { last };
        let driver = format!(
            "{}\ncompopt() {{ echo \"$@\"; }}\n\
             COMP_LINE='{line}' COMP_POINT={} COMP_WORDS=({}) COMP_CWORD={}\n\
             __start_kubectl k {current}\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"",
            super::BASH,
            line.len(),
            words.join(" "),
            words.len() - 1,
        );
        in_shell(&["bash", "--norc"], &driver, answer).expect("run bash")
    }

    #[test]
    fn bash_asks_for_whole_words_and_gets_the_ends_of_them() {
        let told = in_bash("k get pods ", &["k", "get", "pods", ""], "web\\nweb-2\\n:4\\n");
        assert_eq!(told, "+o default\nweb\nweb-2\n[__complete][get][pods][]");
        let told = in_bash("k get po", &["k", "get", "po"], "pods\\nsvc\\n:0\\n");
        assert_eq!(told, "pods\n[__complete][get][po]");
        let told = in_bash("k logs -n=ku", &["k", "logs", "-n", "=", "ku"], "kube-system\\n:4\\n");
        assert_eq!(told, "+o default\nkube-system\n[__complete][logs][-n=ku]");
        let told = in_bash("k logs --namespace=", &["k", "logs", "--namespace", "="], "default\\n:4\\n");
        assert_eq!(told, "+o default\ndefault\n[__complete][logs][--namespace=]");
        let told = in_bash("k cp a:b", &["k", "cp", "a", ":", "b"], "a:bc\\n:2\\n");
        assert_eq!(told, "-o nospace\nbc\n[__complete][cp][a:b]");
        let told = in_bash("k get -l \"a in (b)\" po", &["k", "get", "-l", "\"a in (b)\"", "po"], "pods\\n:4\\n");
        assert_eq!(told, "+o default\npods\n[__complete][get][-l][a in (b)][po]");
    }

    #[test]
    fn bash_shows_what_choices_mean_where_there_are_several() {
        let answer = "pods\\tThings\\npodtemplates\\tForms\\npo\\nsvc\\tServices\\n:4\\n";
        let told = in_bash("k get po", &["k", "get", "po"], answer);
        let want = "+o default\npods          (Things)\npodtemplates  (Forms)\npo\n[__complete][get][po]";
        assert_eq!(told, want);
        assert_eq!(in_bash("k get pods", &["k", "get", "pods"], answer), "+o default\npods\n[__complete][get][pods]");
    }

    #[test]
    fn bash_offers_files_with_the_right_ending() {
        let told = in_bash("k apply -f ", &["k", "apply", "-f", ""], "json\\nyaml\\n:8\\n");
        assert_eq!(told, "-o filenames\na.yaml\nd\n[__complete][apply][-f][]");
        // What went wrong offers nothing.
        assert_eq!(in_bash("k x ", &["k", "x", ""], "y\\n:1\\n"), "\n[__complete][x][]");
        assert_eq!(in_bash("k x ", &["k", "x", ""], ""), "\n[__complete][x][]");
    }

    /// What fish offers for the end of a line.
    fn in_fish(line: &str, answer: &str) -> Option<String> {
        let driver = format!("{}\nalias k=kubectl\ncomplete -C \"{line}\"", super::FISH);
        in_shell(&["fish", "--no-config"], &driver, answer)
    }

    #[test]
    fn fish_offers_choices_and_what_they_mean() {
        let cases = [
            ("kubectl get pods ", "web\\tA pod\\nx-2\\n:4\\n", "web\tA pod\nx-2\n[__complete][get][pods][]"),
            ("kubectl get po", "pods\\nsvc\\n:0\\n", "pods\n[__complete][get][po]"),
            ("kubectl logs -n=ku", "kube-system\\n:4\\n", "-n=kube-system\n[__complete][logs][-n=ku]"),
            ("k cp a:", "a:bc\\n:2\\n", "a:bc\n[__complete][cp][a:]"),
            ("kubectl get -l 'a in (b)' po", "pods\\n:4\\n", "pods\n[__complete][get][-l][a in (b)][po]"),
            ("kubectl get -", "--x\\tX\\n:4\\n", "--x\tX\n[__complete][get][-]"),
            ("kubectl get pods x", ":4\\n", "[__complete][get][pods][x]"),
            // Files are fish's own business.
            ("kubectl apply -f a", "json\\nyaml\\n:8\\n", "a.yaml\n[__complete][apply][-f][a]"),
            ("kubectl apply -f a", ":0\\n", "a.yaml\n[__complete][apply][-f][a]"),
            ("kubectl x a", "ab\\n:1\\n", "a.yaml\n[__complete][x][a]"),
        ];
        for (line, answer, want) in cases {
            let Some(told) = in_fish(line, answer) else { return };
            assert_eq!(told, want, "{line}");
        }
    }

    /// What zsh's own functions are given for the words of a line.
    fn in_zsh(words: &str, answer: &str) -> Option<String> {
        let driver = format!(
            "compdef() {{ [[ $1 == _kubectl ]] }}\n{}\n\
             compset() {{ echo prefix \"$2\" }}\n_files() {{ echo files \"$@\" }}\n\
             _describe() {{ echo \"$@:\" ${{(qq)choices}}; (( $#choices )) }}\n\
             words=({words}) CURRENT=$#words\n_kubectl || echo failed",
            super::ZSH,
        );
        in_shell(&["zsh", "-f"], &driver, answer)
    }

    #[test]
    fn zsh_offers_choices_and_what_they_mean() {
        let cases = [
            (
                "kubectl get pods ''",
                "web\\tA: pod\\na:b\\n:4\\n",
                "choice choices: 'web:A: pod' 'a\\:b'\n[__complete][get][pods][]",
            ),
            ("k logs -n=ku", "kube-system\\n:4\\n", "prefix -n=\nchoice choices: 'kube-system'\n[__complete][logs][-n=ku]"),
            ("kubectl cp a:", "a:bc\\n:2\\n", "choice choices -S : 'a\\:bc'\n[__complete][cp][a:]"),
            ("kubectl x ''", "b\\na\\n:36\\n", "-V choice choices: 'b' 'a'\n[__complete][x][]"),
            (
                "kubectl get -l \"'a in (b)'\" po",
                "pods\\n:4\\n",
                "choice choices: 'pods'\n[__complete][get][-l][a in (b)][po]",
            ),
            ("kubectl get pods x", ":4\\n", "choice choices: ''\nfailed\n[__complete][get][pods][x]"),
            ("kubectl apply -f ''", "json\\nyaml\\n:8\\n", "files -g *.(json|yaml)\n[__complete][apply][-f][]"),
            ("kubectl x ''", ":16\\n", "files -/\n[__complete][x][]"),
            ("kubectl x ''", ":0\\n", "choice choices: ''\nfiles\n[__complete][x][]"),
            ("kubectl x ''", "y\\n:1\\n", "failed\n[__complete][x][]"),
            ("kubectl x ''", "", "failed\n[__complete][x][]"),
        ];
        for (words, answer, want) in cases {
            let Some(told) = in_zsh(words, answer) else { return };
            assert_eq!(told, want, "{words}");
        }
    }
}
