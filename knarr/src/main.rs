//! The one binary: local clusters (`up`, `down`, `status`, ...), whole nodes (`server`, `agent`) and every component by
//! itself, also under upstream's names (`kubelet` as a link to `knarr` runs the kubelet).

mod balance;
mod commands;
mod compose;
mod local;
mod notify;
mod token;

use clap::Parser;

fn main() -> std::process::ExitCode {
    // One provider of cryptography for the whole process, before anybody speaks TLS.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let arguments = commands::by_program_name(std::env::args_os().collect());
    match commands::Cli::parse_from(arguments).command.run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
