//! `kubectl exec`.

use std::time::Duration;

use jiff::SignedDuration;
use serde_json::Value;
use tokio::io::{stderr, stdout};

use crate::{
    cli,
    context::Context,
    describe::json::Json,
    failure::{Failure, plain, usage},
    pods,
    remote::{Input, Program, stdin},
    resources::{FileArgs, Query},
    terminal,
};

/// What `exec` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// POD or TYPE/NAME, and behind -- the command.
    #[arg(value_name = "POD")]
    pub args: Vec<String>,
    /// A file that names the resource.
    #[arg(long, short = 'f', value_delimiter = ',')]
    pub filename: Vec<String>,
    /// How to run and be connected.
    #[command(flatten)]
    pub session: SessionArgs,
}

/// Flags of a session with a container.
#[derive(clap::Args, Clone, Debug)]
pub struct SessionArgs {
    /// Container name. If omitted, the kubectl.kubernetes.io/default-container annotation or the first container counts.
    #[arg(long, short = 'c')]
    pub container: Option<String>,
    /// Pass stdin to the container.
    #[arg(long, short = 'i')]
    pub stdin: bool,
    /// Stdin is a terminal.
    #[arg(long, short = 't')]
    pub tty: bool,
    /// Only print output of the remote session.
    #[arg(long, short = 'q')]
    pub quiet: bool,
    /// How long to wait until at least one pod is running.
    #[arg(long, default_value = "1m0s", value_parser = cli::duration)]
    pub pod_running_timeout: SignedDuration,
}

impl SessionArgs {
    /// How long to wait for a pod; `None` if that is no time.
    pub fn timeout(&self) -> Option<Duration> {
        Duration::try_from(self.pod_running_timeout).ok().filter(|timeout| !timeout.is_zero())
    }

    /// Whether our terminal can be the program's; says why not.
    pub fn wants_terminal(&self, tty: bool) -> bool {
        if !self.stdin || !tty {
            return false;
        }
        let usable = terminal::is_terminal();
        if !usable && !self.quiet {
            eprintln!("Unable to use a TTY - input is not a terminal or the right kind of file");
        }
        usable
    }

    /// What the program reads.
    pub fn input(&self) -> Option<Input> {
        self.stdin.then(stdin)
    }
}

/// `cannot exec into a container in a completed pod`, and what else is in the way.
///
/// # Errors
/// If the pod has ended.
pub fn check_phase(pod: &Value, doing: &str) -> Result<(), Failure> {
    match pod.text("status.phase") {
        phase @ ("Succeeded" | "Failed") => {
            Err(plain(format!("cannot {doing} a container in a completed pod; current phase is {phase}")))
        }
        _ => Ok(()),
    }
}

/// Runs a command in a container.
///
/// # Errors
/// If it cannot be run, or ended with a code other than zero.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let (name, command) = match (cx.dash(), args.args.as_slice()) {
        (Some(0), command) => (None, command),
        (Some(before), given) => (given.first(), given.get(before..).unwrap_or_default()),
        (_, given) if given.len() > 1 || (!given.is_empty() && !args.filename.is_empty()) => {
            return Err(usage("exec", "exec [POD] [COMMAND] is not supported anymore. Use exec [POD] -- [COMMAND] instead"));
        }
        (_, given) => (given.first(), &[][..]),
    };
    cx.namespace()?;
    let timeout = args.session.timeout().ok_or_else(|| usage("exec", "--pod-running-timeout must be higher than zero"))?;
    let client = cx.client()?;
    if name.is_none_or(String::is_empty) && args.filename.is_empty() {
        return Err(plain("pod, type/name or --filename must be specified"));
    }
    if command.is_empty() {
        return Err(plain("you must specify at least one command for the container"));
    }
    let words: Vec<String> = name.into_iter().cloned().collect();
    let files = FileArgs { filename: args.filename.clone(), ..FileArgs::default() };
    let query = Query { args: &words, files: Some(&files), default_type: Some("pods"), typed: true, ..Query::default() };
    let objects = query.objects(cx).await?.all()?;
    let [object] = objects.as_slice() else {
        return Err(plain("cannot exec into multiple objects at a time"));
    };
    let pod = pods::attachable(client, object, timeout).await?;
    check_phase(&pod, "exec into")?;
    let session = &args.session;
    // Whether there is a container of that name is the server's to say.
    let container = match session.container.as_deref() {
        Some(name) if !name.is_empty() => name,
        _ => pods::container(&pod, None, session.quiet)?.text("name"),
    };
    let tty = session.wants_terminal(session.tty);
    let program = Program { pod: &pod, subresource: "exec", container, command, tty };
    let raw = tty.then(terminal::Raw::enter);
    let sizes: Vec<_> = terminal::size().filter(|_| tty).into_iter().collect();
    let done = program.run(client, session.input(), stdout(), stderr(), &sizes).await;
    drop(raw);
    done
}
