//! `kubectl completion`: a script for a shell. Bash's asks `kubectl __complete` for whatever may come; those of the other shells
//! know commands and their flags, not names of objects.

use clap::Command;

use crate::{
    cli,
    context::Context,
    failure::{Failure, usage},
    flags::long_name,
};

const BASH: &str = include_str!("completion.bash");

/// What `completion` takes.
#[derive(clap::Args, Debug)]
#[command(override_usage = "kubectl completion SHELL [options]")]
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
    let words = words(&cli::declared());
    match shell {
        "bash" => print!("{BASH}"),
        "zsh" => print!("{}", zsh(&words)),
        "fish" => print!("{}", fish(&words)),
        "powershell" => print!("{}", powershell(&words)),
        other => {
            return Err(usage("completion", format!("Unsupported shell type {}.", api::field::go_quote(other))));
        }
    }
    Ok(())
}

/// What may follow each command: `("rollout", ["history", ..., "--help"])`.
fn words(root: &Command) -> Vec<(String, Vec<String>)> {
    fn walk(command: &Command, path: &str, out: &mut Vec<(String, Vec<String>)>) {
        let below: Vec<&Command> = command.get_subcommands().filter(|c| !c.is_hide_set()).collect();
        let mut words: Vec<String> = below.iter().map(|c| c.get_name().to_owned()).collect();
        words.extend(command.get_arguments().filter_map(long_name).map(|flag| format!("--{flag}")));
        out.push((path.to_owned(), words));
        for command in below {
            walk(command, format!("{path} {}", command.get_name()).trim(), out);
        }
    }
    let mut out = Vec::new();
    walk(root, "", &mut out);
    out
}

fn zsh(words: &[(String, Vec<String>)]) -> String {
    let mut script = String::from(
        "#compdef kubectl
autoload -U +X bashcompinit && bashcompinit
__kubectl_words() {
    case \"$1\" in
",
    );
    for (path, words) in words {
        script.push_str(&format!("        '{path}') echo '{}' ;;\n", words.join(" ")));
    }
    script.push_str(
        "        *) return 1 ;;
    esac
}
__kubectl_complete() {
    local path='' word at=1
    while [ \"$at\" -lt \"$COMP_CWORD\" ]; do
        word=${COMP_WORDS[at]}
        at=$((at + 1))
        case \"$word\" in -*) continue ;; esac
        __kubectl_words \"${path:+$path }$word\" >/dev/null || break
        path=${path:+$path }$word
    done
    COMPREPLY=($(compgen -W \"$(__kubectl_words \"$path\")\" -- \"${COMP_WORDS[COMP_CWORD]}\"))
}
complete -o default -F __kubectl_complete kubectl
",
    );
    script
}

fn fish(words: &[(String, Vec<String>)]) -> String {
    let mut script = String::from("complete -c kubectl -f\n");
    for (path, words) in words {
        let condition = match path.split(' ').next() {
            Some("") | None => "__fish_use_subcommand".to_owned(),
            Some(_) => {
                path.split(' ').map(|word| format!("__fish_seen_subcommand_from {word}")).collect::<Vec<_>>().join("; and ")
            }
        };
        script.push_str(&format!("complete -c kubectl -n '{condition}' -a '{}'\n", words.join(" ")));
    }
    script
}

fn powershell(words: &[(String, Vec<String>)]) -> String {
    let mut script = String::from(
        "Register-ArgumentCompleter -Native -CommandName kubectl -ScriptBlock {\n    param($word, $ast, $cursor)\n    $words = @{\n",
    );
    for (path, words) in words {
        script.push_str(&format!("        '{path}' = '{}'\n", words.join(" ")));
    }
    script.push_str(
        "    }
    $path = ''
    foreach ($element in ($ast.CommandElements | Select-Object -Skip 1)) {
        $next = (\"$path $element\").Trim()
        if ($words.ContainsKey($next)) { $path = $next }
    }
    $words[$path].Split(' ') | Where-Object { $_ -like \"$word*\" }
}
",
    );
    script
}

#[cfg(test)]
mod tests {
    #[test]
    fn commands_and_their_flags_are_known() {
        let words = super::words(&crate::cli::declared());
        let of = |path: &str| words.iter().find(|(p, _)| p == path).map(|(_, words)| words.clone()).unwrap_or_default();
        assert!(of("").contains(&"get".to_owned()));
        assert!(of("rollout").contains(&"undo".to_owned()));
        assert!(of("rollout undo").contains(&"--to-revision".to_owned()));
    }

    /// What Bash is told of a line whose cursor is at its end: what kubectl was asked, the options set and the choices.
    fn in_bash(line: &str, words: &[&str], answer: &str) -> String {
        let words: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let last = words.last().map_or("", String::as_str);
        // Bash says nothing of a word that is a break.
        let current = if last == "'='" { "''" } else { last };
        let driver = format!(
            "{}\ncompopt() {{ echo \"$@\"; }}\nkubectl() {{ printf '[%s]' \"$@\" >asked; printf '{answer}'; }}\n\
             COMP_LINE='{line}' COMP_POINT={} COMP_WORDS=({}) COMP_CWORD={}\n\
             __start_kubectl k {current}\necho \"$(<asked)\"\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"",
            super::BASH,
            line.len(),
            words.join(" "),
            words.len() - 1,
        );
        let folder = tempfile::tempdir().expect("make a directory");
        for file in ["a.yaml", "b.txt"] {
            std::fs::write(folder.path().join(file), "").expect("write a file");
        }
        std::fs::create_dir(folder.path().join("d")).expect("make a directory");
        let output = std::process::Command::new("bash")
            .args(["--norc", "-c", &driver])
            .env("LC_ALL", "C")
            .current_dir(&folder)
            .output()
            .expect("run bash");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    #[test]
    fn bash_asks_for_whole_words_and_gets_the_ends_of_them() {
        let told = in_bash("k get pods ", &["k", "get", "pods", ""], "web\\nweb-2\\n:4\\n");
        assert_eq!(told, "+o default\n[__completeNoDesc][get][pods][]\nweb\nweb-2\n");
        let told = in_bash("k get po", &["k", "get", "po"], "pods\\nsvc\\n:0\\n");
        assert_eq!(told, "[__completeNoDesc][get][po]\npods\n");
        let told = in_bash("k logs -n=ku", &["k", "logs", "-n", "=", "ku"], "kube-system\\n:4\\n");
        assert_eq!(told, "+o default\n[__completeNoDesc][logs][-n=ku]\nkube-system\n");
        let told = in_bash("k logs --namespace=", &["k", "logs", "--namespace", "="], "default\\n:4\\n");
        assert_eq!(told, "+o default\n[__completeNoDesc][logs][--namespace=]\ndefault\n");
        let told = in_bash("k cp a:b", &["k", "cp", "a", ":", "b"], "a:bc\\n:2\\n");
        assert_eq!(told, "-o nospace\n[__completeNoDesc][cp][a:b]\nbc\n");
        let told = in_bash("k get -l \"a in (b)\" po", &["k", "get", "-l", "\"a in (b)\"", "po"], "pods\\n:4\\n");
        assert_eq!(told, "+o default\n[__completeNoDesc][get][-l][a in (b)][po]\npods\n");
    }

    #[test]
    fn bash_offers_files_with_the_right_ending() {
        let told = in_bash("k apply -f ", &["k", "apply", "-f", ""], "json\\nyaml\\n:8\\n");
        assert_eq!(told, "-o filenames\n[__completeNoDesc][apply][-f][]\na.yaml\nd\n");
        // What went wrong offers nothing.
        assert_eq!(in_bash("k x ", &["k", "x", ""], "y\\n:1\\n"), "[__completeNoDesc][x][]\n\n");
        assert_eq!(in_bash("k x ", &["k", "x", ""], ""), "[__completeNoDesc][x][]\n\n");
    }
}
