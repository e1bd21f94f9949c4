//! The `iptables-save` and `iptables-restore` programs, run in a node's network namespace.
//!
//! One restore applies any number of changes to a table at once or not at all; the `iptables` crate runs one program a
//! rule and knows no restore, which is why it is not used. Whether the programs speak to nf_tables or to the older
//! x_tables is the distribution's choice (`update-alternatives`); we use nothing that differs between them.

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};

use crate::{Error, Result, netns};

/// Where iptables is to be run: in the process' own network namespace, or in one that is given (tests).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Iptables {
    namespace: Option<PathBuf>,
}

impl Iptables {
    /// For the process' own namespace.
    pub fn here() -> Self {
        Self::default()
    }

    /// For the namespace at `path`.
    pub fn within(path: impl Into<PathBuf>) -> Self {
        Self { namespace: Some(path.into()) }
    }

    /// Applies `input` (`*table`, chains, rules, `COMMIT`) and leaves chains that it does not name alone. Blocking.
    pub fn restore(&self, input: String) -> Result<()> {
        self.run("iptables-restore", &["--noflush", "--wait"], Some(input)).map(drop)
    }

    /// The whole of one table as `iptables-save` prints it. Blocking.
    pub fn save(&self, table: &str) -> Result<String> {
        self.run("iptables-save", &["-t", table], None)
    }

    /// Runs any network administration program here and returns what it printed. Blocking.
    pub fn run(&self, program: &str, arguments: &[&str], input: Option<String>) -> Result<String> {
        let program = program.to_owned();
        let arguments: Vec<String> = arguments.iter().map(|&a| a.to_owned()).collect();
        match &self.namespace {
            None => run(&program, &arguments, input.as_deref()),
            Some(path) => netns::within(path, move || run(&program, &arguments, input.as_deref())),
        }
    }
}

fn run(program: &str, arguments: &[String], input: Option<&str>) -> Result<String> {
    let failed = |step: &str| Error::system(format!("{step} {program}"));
    let mut command = Command::new(program);
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command.spawn().map_err(failed("run"))?;
    let output = std::thread::scope(|scope| {
        if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
            // A thread of its own, so that a program that prints before it has read everything cannot block us. One
            // that stops reading has failed, and says why.
            scope.spawn(move || stdin.write_all(input.as_bytes()));
        }
        child.wait_with_output()
    });
    let output = output.map_err(failed("wait for"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let command = [program].into_iter().chain(arguments.iter().map(String::as_str)).collect::<Vec<_>>().join(" ");
    Err(Error::Iptables { command, message: if message.is_empty() { output.status.to_string() } else { message } })
}
