//! kubectl: the command-line client of the Kubernetes API.
//!
//! A verb is a file in [`verbs`]: what it takes (`Args`, declared with clap) and what it does (`run`). It finds its objects with
//! [`resources`], talks to the server through [`client`], prints with [`output`], and ends with a [`failure::Failure`] whose
//! text is what upstream's kubectl says to the letter. How flags may be written is pflag's business ([`flags`]).
//!
//! What users see is upstream's: columns, messages, exit codes. What is absent is in docs/limitations.md.

pub mod cli;
pub mod client;
pub mod complete;
pub mod context;
pub mod credentials;
pub mod describe;
pub mod discovery;
pub mod failure;
pub mod flags;
pub mod help;
pub mod kubeconfig;
mod kustomize;
pub mod order;
pub mod output;
pub mod pods;
pub mod remote;
pub mod resources;
pub mod server;
pub mod terminal;
pub mod typed;
pub mod verbs;
pub mod write;

use std::io::Write;

use cli::Request;
use context::Context;
use failure::Failure;

/// Does what a command line (without the program's name) says; gives the exit code.
pub fn run(words: &[String]) -> i32 {
    let request = match cli::parse(words) {
        Ok(request) => request,
        Err(failure) => return report(&failure),
    };
    match request {
        Request::Print(text) => {
            print!("{text}");
            0
        }
        Request::Complete(words, described) => {
            let runtime = match runtime() {
                Ok(runtime) => runtime,
                Err(failure) => return report(&failure),
            };
            runtime.block_on(complete::run(&words, described)).map_or_else(|failure| report(&failure), |()| 0)
        }
        Request::Run(globals, command, dash) => {
            let runtime = match runtime() {
                Ok(runtime) => runtime,
                Err(failure) => return report(&failure),
            };
            client::log::set(globals.verbosity());
            if globals.profile != "none" {
                return report(&unprofiled(&globals.profile));
            }
            let strict = globals.warnings_as_errors;
            let cx = Context::new(*globals, dash);
            let mut done = runtime.block_on(command.run(&cx));
            if let (Ok(()), true, count @ 1..) = (&done, strict, cx.warnings()) {
                done = Err(failure::plain(format!("{count} warning{} received", if count == 1 { "" } else { "s" })));
            }
            // A task that still reads stdin would hold the process up.
            runtime.shutdown_background();
            let _ = std::io::stdout().flush();
            done.map_or_else(|failure| report(&failure), |()| 0)
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// Why there is no profile of that name.
fn unprofiled(name: &str) -> Failure {
    match name {
        "cpu" | "heap" | "goroutine" | "threadcreate" | "block" | "mutex" => {
            failure::plain(format!("profiles are not supported: there is no {name} profile to capture"))
        }
        _ => failure::plain(format!("unknown profile '{name}'")),
    }
}

fn report(failure: &Failure) -> i32 {
    client::log::failed(failure);
    let text = failure.to_string();
    if !text.is_empty() {
        let _ = std::io::stdout().flush();
        eprint!("{text}{}", if text.ends_with('\n') { "" } else { "\n" });
    }
    failure.code()
}
