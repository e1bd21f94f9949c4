//! `knarr balancer`: one address in front of several API servers, for programs that know one address only, such as kubectl.

use std::{net::SocketAddr, os::fd::AsFd, path::PathBuf};

use anyhow::{Context, Result};
use process::flags::LogFlags;
use tokio::net::TcpListener;

use crate::{
    balance::{self, Servers},
    commands::component,
    compose::join::host_and_port,
    notify,
};

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:6443")]
    listen: SocketAddr,
    /// Somebody listens there already: the socket is the standard input.
    #[arg(long, hide = true)]
    listening: bool,
    /// An API server, as https://HOST:PORT; may be given several times.
    #[arg(long, required = true, value_delimiter = ',')]
    server: Vec<String>,
    /// A file with more of them, a JSON list of "HOST:PORT" that is read before each connection. An agent and a server that
    /// shares an etcd keep theirs in servers.json, in their data directory.
    #[arg(long)]
    servers_file: Option<PathBuf>,
    #[command(flatten)]
    logs: LogFlags,
}

impl Args {
    async fn listener(&self) -> Result<TcpListener> {
        if !self.listening {
            return TcpListener::bind(self.listen).await.with_context(|| format!("listen on {}", self.listen));
        }
        let socket = std::io::stdin().as_fd().try_clone_to_owned().context("take the socket")?;
        let listener = std::net::TcpListener::from(socket);
        listener.set_nonblocking(true).context("take the socket")?;
        TcpListener::from_std(listener).context("take the socket")
    }
}

/// Does it.
pub fn run(args: Args) -> Result<()> {
    component::run(&args.logs.clone(), |shutdown| async move {
        let given = args.server.iter().map(|url| host_and_port(url)).collect::<Result<Vec<_>>>()?;
        let listener = args.listener().await?;
        let servers = match args.servers_file {
            Some(file) => Servers::noted(file, given),
            None => Servers::new(given),
        };
        notify::ready();
        balance::serve(listener, servers, shutdown).await;
        Ok(())
    })
}
