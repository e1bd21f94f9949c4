//! Ours against a real kubectl, command by command, byte by byte: stdout, stderr and exit code.
//!
//! # Adding cases
//! A script is a text file in `cases/`; one test runs it (add its name to [`scripts!`]). Two servers in this process, empty
//! but for what an API server makes itself, get the same script in step: one from ours, one from a real kubectl. So both see
//! the same names, resource versions and allocations. There are no nodes and no controllers: what these would write, a script
//! writes itself. A line begins with what is to be done; lines that begin with `| ` belong to the line before:
//!
//! ```text
//! # a comment
//! > PUT /api/v1/namespaces/default/pods/web/status     a request to both servers, which must succeed; its body (YAML) follows
//! | {status: {phase: Running}}
//! + pod.yaml                  a file in the directory that the commands run in; its content follows
//! | kind: Pod
//! $ kubectl get pods          a shell command whose outcomes are compared; `kubectl` is the one under test; its stdin follows
//! % kubectl apply -f pod.yaml the same, but it only has to succeed: for setting things up
//! @ get                       a heading, for what a failure prints
//! ```
//!
//! Both sides have a home directory, a kubeconfig
//! (context `test`) and a clock in common; `TZ` is UTC. What must differ is masked, narrowly, by `mask.rs`: UUIDs, the
//! servers' ports, times of today; ages may differ by a few seconds. A command that reads and whose outcomes differ is run
//! again, in case a second made a column wider.
//!
//! A command that ends by its time (`timeout`, `--timeout`) says `$T` or `${T}` for the seconds: few at first, many on further
//! tries, so that a busy machine takes longer and decides nothing. It must be one that may be run again.
//!
//! `cargo test -p kubectl --test compare NAME` runs one script; with `CASE=TEXT` set, only commands with that text in them are
//! compared (the others still run); with `CASES=FOLDER`, scripts are read from there, for trying something out. Without a real
//! kubectl of 1.32 or newer in PATH (or in `KUBECTL`) all are skipped, which is printed.

mod mask;
mod script;
mod side;

use std::path::{Path, PathBuf};

use script::{Script, Step};
use side::{Outcome, Side};

macro_rules! scripts {
    ($($name:ident)*) => {
        const NAMES: &[&str] = &[$(stringify!($name)),*];
        mod scripts {
            $(#[test]
            fn $name() {
                super::compare(stringify!($name));
            })*
        }
    };
}

scripts! { apply basics change complete config connect create describe edges edit events files get kustomize lists mistakes odd order output patches proxy run set shell streams templates usage verbs }

/// What `$T` is, in seconds, try by try.
const TIMES: [&str; 4] = ["0.5", "2", "6", "20"];

fn folder() -> PathBuf {
    let ours = || concat!(env!("CARGO_MANIFEST_DIR"), "/tests/compare/cases").into();
    std::env::var_os("CASES").map_or_else(ours, PathBuf::from)
}

#[test]
fn every_script_has_a_test() {
    let mut found: Vec<String> = std::fs::read_dir(folder())
        .expect("read the folder of scripts")
        .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    let mut named: Vec<String> = NAMES.iter().map(|name| (*name).to_owned()).collect();
    found.sort();
    named.sort();
    assert_eq!(found, named);
}

fn compare(name: &str) {
    let Some(real) = side::real() else {
        println!("skipped: no kubectl of 1.32 or newer in PATH to compare with");
        return;
    };
    let text = std::fs::read_to_string(folder().join(format!("{name}.txt"))).expect("read the script");
    let script = script::parse(&text).unwrap_or_else(|error| panic!("{name}.txt: {error}"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let differences = runtime.block_on(run(&real, &script));
    assert!(differences.is_empty(), "{} commands differ:\n{}", differences.len(), differences.join("\n"));
}

async fn run(real: &Path, script: &Script) -> Vec<String> {
    let wanted = std::env::var("CASE").unwrap_or_default();
    let ours = Path::new(env!("CARGO_BIN_EXE_kubectl"));
    let (real, ours) = tokio::join!(Side::start(real), Side::start(ours));
    let mut differences = Vec::new();
    let mut heading = "";
    for (line, step) in script {
        match step {
            Step::Heading(text) => heading = text,
            Step::File(name, content) => {
                real.write(name, content);
                ours.write(name, content);
            }
            Step::Request { method, path, body } => {
                for side in [&real, &ours] {
                    if let Err(error) = side.request(method, path, body.as_ref()).await {
                        differences.push(format!("line {line}: {method} {path}: {error}"));
                    }
                }
            }
            Step::Run(command, stdin) => {
                for (side, who) in [(&real, "the real one"), (&ours, "ours")] {
                    let outcome = side.run(command, stdin, TIMES[0]).await;
                    if outcome.code != 0 {
                        differences.push(format!("line {line}: {command}: fails with {who}: {}", outcome.stderr));
                    }
                }
            }
            Step::Compare(command, stdin) => {
                let again = reads(command) || command.contains("$T") || command.contains("${T}");
                let both = async |time| tokio::join!(real.run(command, stdin, time), ours.run(command, stdin, time));
                let (mut want, mut got) = both(TIMES[0]).await;
                for time in &TIMES[1..] {
                    if !again || want.same(&got) {
                        break;
                    }
                    (want, got) = both(time).await;
                }
                if !want.same(&got) && command.contains(&wanted) {
                    differences.push(difference(*line, heading, command, &want, &got));
                }
            }
        }
    }
    differences
}

/// Whether a command may be run again.
fn reads(command: &str) -> bool {
    let verb = command.split_whitespace().skip_while(|word| *word != "kubectl").nth(1).unwrap_or("");
    matches!(
        verb,
        "get" | "describe" | "events" | "explain" | "api-resources" | "api-versions" | "version" | "cluster-info" | "logs"
    )
}

fn difference(line: usize, heading: &str, command: &str, want: &Outcome, got: &Outcome) -> String {
    let mut text = format!("--- line {line} ({heading}): {command}\n");
    for (what, want, got) in [("stdout", &want.stdout, &got.stdout), ("stderr", &want.stderr, &got.stderr)] {
        if !mask::same(want, got) {
            text += &format!("{what}:\n{}", lines(want, got));
        }
    }
    if want.code != got.code {
        text += &format!("exit code: {} wanted, ours is {}\n", want.code, got.code);
    }
    text
}

/// The lines that two texts do not share: `-` the real one's, `+` ours, with the line before each run of them.
fn lines(want: &str, got: &str) -> String {
    let (want, got): (Vec<&str>, Vec<&str>) = (want.split('\n').collect(), got.split('\n').collect());
    // Longest common subsequences of what is left from (i, j) on.
    let mut longest = vec![vec![0_usize; got.len() + 1]; want.len() + 1];
    for i in (0..want.len()).rev() {
        for j in (0..got.len()).rev() {
            longest[i][j] =
                if want[i] == got[j] { longest[i + 1][j + 1] + 1 } else { longest[i + 1][j].max(longest[i][j + 1]) };
        }
    }
    let (mut text, mut i, mut j, mut shared) = (String::new(), 0, 0, None);
    while i < want.len() || j < got.len() {
        let (sign, line) = if i < want.len() && j < got.len() && want[i] == got[j] {
            shared = Some(want[i]);
            (i, j) = (i + 1, j + 1);
            continue;
        } else if j == got.len() || (i < want.len() && longest[i + 1][j] >= longest[i][j + 1]) {
            i += 1;
            ('-', want[i - 1])
        } else {
            j += 1;
            ('+', got[j - 1])
        };
        if let Some(before) = shared.take() {
            text += &format!("  {before}\n");
        }
        // A mark at the end shows trailing spaces.
        text += &format!("{sign} {}\n", line.strip_suffix(' ').map_or_else(|| line.to_owned(), |line| format!("{line}·")));
    }
    text
}
