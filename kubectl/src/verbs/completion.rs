//! `kubectl completion`: a script for a shell that completes commands and their flags. Names of objects are not completed.

use clap::Command;

use crate::{
    cli,
    context::Context,
    failure::{Failure, usage},
    flags::long_name,
};

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
        "bash" => print!("{}", bash(&words)),
        "zsh" => print!("#compdef kubectl\nautoload -U +X bashcompinit && bashcompinit\n{}", bash(&words)),
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

fn bash(words: &[(String, Vec<String>)]) -> String {
    let mut script = String::from("__kubectl_words() {\n    case \"$1\" in\n");
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
}
