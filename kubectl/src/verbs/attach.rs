//! `kubectl attach`.

use serde_json::Value;
use streaming::command::Size;
use tokio::io::{stderr, stdout};

use super::exec::{SessionArgs, check_phase};
use crate::{
    client::Client,
    context::Context,
    describe::json::Json,
    failure::{Failure, plain, usage},
    pods,
    remote::Program,
    resources::Query,
    terminal,
};

/// What `attach` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// POD, TYPE/NAME or TYPE NAME.
    #[arg(value_name = "POD")]
    pub args: Vec<String>,
    /// How to be connected.
    #[command(flatten)]
    pub session: SessionArgs,
}

/// Attaches to a running container.
///
/// # Errors
/// If that cannot be done.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    cx.namespace()?;
    let timeout = args.session.timeout().ok_or_else(|| usage("attach", "--pod-running-timeout must be higher than zero"))?;
    let client = cx.client()?;
    let query = match args.args.as_slice() {
        [] => return Err(plain("at least 1 argument is required for attach")),
        [_] => Query { args: &args.args, default_type: Some("pods"), ..Query::default() },
        [_, _] => Query { args: &args.args, ..Query::default() },
        many => {
            return Err(plain(format!(
                "expected POD, TYPE/NAME, or TYPE NAME, (at most 2 arguments) saw {}: [{}]",
                many.len(),
                many.join(" ")
            )));
        }
    };
    let objects = query.objects(cx).await?.all()?;
    let object = objects.first().ok_or_else(|| plain("no resources found"))?;
    let pod = pods::attachable(client, object, timeout).await?;
    check_phase(&pod, "attach")?;
    attach(client, &pod, &args.session).await
}

/// Attaches to a pod's container.
///
/// # Errors
/// If that cannot be done.
pub async fn attach(client: &Client, pod: &Value, session: &SessionArgs) -> Result<(), Failure> {
    let found = pods::container(pod, session.container.as_deref(), session.quiet);
    let container = found.map_err(|why| plain(format!("cannot attach to the container: {}", why.message())))?;
    let (name, has_terminal) = (container.text("name"), container.flag("tty"));
    if session.tty && !has_terminal && !session.quiet {
        eprintln!("error: Unable to use a TTY - container {name} did not allocate one");
    }
    // A program that has a terminal cannot be talked to without one.
    let tty = session.wants_terminal(has_terminal);
    // Another size and then the right one make the program draw its screen anew.
    let sizes = match terminal::size().filter(|_| tty) {
        Some(size) => vec![Size { width: size.width + 1, height: size.height + 1 }, size],
        None => Vec::new(),
    };
    if !session.quiet {
        eprintln!("If you don't see a command prompt, try pressing enter.");
    }
    let program = Program { pod, subresource: "attach", container: name, command: &[], tty };
    let raw = tty.then(terminal::Raw::enter);
    let done = program.run(client, session.input(), stdout(), stderr(), &sizes).await;
    drop(raw);
    done?;
    if !session.quiet && tty && pod.text("spec.restartPolicy") == "Always" {
        let (of, namespace) = (pod.text("metadata.name"), pod.text("metadata.namespace"));
        println!(
            "Session ended, resume using 'kubectl attach {of} -c {name} -n {namespace} -i -t' command when the pod is running"
        );
    }
    Ok(())
}
