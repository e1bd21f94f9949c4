//! The command line: one file a subcommand.

pub mod agent;
pub mod balancer;
pub mod component;
pub mod controller_manager;
pub mod down;
pub mod enter;
pub mod image;
pub mod install_service;
pub mod kubeconfig;
pub mod kubelet;
pub mod migrate;
pub mod network;
pub mod node;
pub mod proxy;
pub mod run_node;
pub mod runtime;
pub mod scheduler;
pub mod secure;
pub mod server;
pub mod snapshot;
pub mod status;
pub mod token;
pub mod up;

use std::{ffi::OsString, path::Path};

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Kubernetes in one binary.
#[derive(Debug, Parser)]
#[command(name = "knarr", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `knarr` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a local cluster, or what is dead of it.
    Up(up::Args),
    /// Show a local cluster's nodes.
    Status(status::Args),
    /// Print a local cluster's kubeconfig.
    Kubeconfig(kubeconfig::Args),
    /// Remove a local cluster with everything that belongs to it.
    Down(down::Args),
    /// Run a program inside a node of a local cluster.
    Enter(enter::Args),
    /// Load or list the images of a local cluster's nodes.
    Image(image::Args),
    /// Back up and restore the objects of a cluster.
    Snapshot(snapshot::Args),
    /// Carry the objects of a cluster from one store to another.
    Migrate(migrate::Args),
    /// Run a control plane, and a node, on this machine.
    Server(Box<server::Args>),
    /// Run a node on this machine.
    Agent(Box<agent::Args>),
    /// Run the API server.
    Apiserver(Box<server::ApiServerArgs>),
    /// Run the scheduler.
    Scheduler(Box<scheduler::Args>),
    /// Run the controllers.
    ControllerManager(Box<controller_manager::Args>),
    /// Run the kubelet.
    Kubelet(Box<kubelet::Args>),
    /// Run the container runtime.
    Runtime(runtime::Args),
    /// Run the service proxy.
    Proxy(proxy::Args),
    /// Stand in front of several API servers.
    Balancer(balancer::Args),
    /// Make, list or take back tokens with which agents join.
    Token(token::Args),
    /// Run a server or an agent as a systemd service.
    InstallService(install_service::Args),
    /// Stop, cut off or start a local cluster's node.
    Node(node::Args),
    /// One node of a local cluster; `up` starts it.
    #[command(hide = true)]
    RunNode(run_node::Args),
}

impl Command {
    /// Does it.
    pub fn run(self) -> Result<()> {
        match self {
            Self::Up(args) => up::run(&args),
            Self::Status(args) => status::run(&args),
            Self::Kubeconfig(args) => kubeconfig::run(&args),
            Self::Down(args) => down::run(&args),
            Self::Enter(args) => enter::run(&args),
            Self::Image(args) => image::run(&args),
            Self::Snapshot(args) => snapshot::run(&args),
            Self::Migrate(args) => migrate::run(&args),
            Self::Server(args) => server::run(*args),
            Self::Agent(args) => agent::run(*args),
            Self::Apiserver(args) => server::run_api_server(*args),
            Self::Scheduler(args) => scheduler::run(*args),
            Self::ControllerManager(args) => controller_manager::run(*args),
            Self::Kubelet(args) => kubelet::run(*args),
            Self::Runtime(args) => runtime::run(args),
            Self::Proxy(args) => proxy::run(args),
            Self::Balancer(args) => balancer::run(args),
            Self::Token(args) => token::run(&args),
            Self::InstallService(args) => install_service::run(&args),
            Self::Node(args) => node::run(&args),
            Self::RunNode(args) => run_node::run(&args),
        }
    }
}

/// The subcommands that the program's own name may stand for, with upstream's names.
const BY_NAME: &[(&str, &str)] = &[
    ("kube-apiserver", "apiserver"),
    ("kube-scheduler", "scheduler"),
    ("kube-controller-manager", "controller-manager"),
    ("kube-proxy", "proxy"),
    ("kubelet", "kubelet"),
    ("apiserver", "apiserver"),
    ("scheduler", "scheduler"),
    ("controller-manager", "controller-manager"),
    ("proxy", "proxy"),
];

/// Arguments with the subcommand put in where the program was called by a component's name.
pub fn by_program_name(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let called = arguments.first().and_then(|a| Path::new(a).file_name()).and_then(|n| n.to_str()).unwrap_or_default();
    if let Some((_, subcommand)) = BY_NAME.iter().find(|(name, _)| *name == called) {
        arguments.insert(1, (*subcommand).into());
    }
    arguments
}

/// A runtime for commands that only ask and wait.
pub fn small_runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn a_components_name_stands_for_its_subcommand() {
        let asked = |arguments: &[&str]| by_program_name(arguments.iter().map(OsString::from).collect());
        assert_eq!(asked(&["/usr/bin/kube-proxy", "--cleanup"]), ["/usr/bin/kube-proxy", "proxy", "--cleanup"]);
        assert_eq!(asked(&["knarr", "up"]), ["knarr", "up"]);
    }
}
