//! `knarr balancer`: one address in front of several API servers, for programs that know one address only, such as kubectl.

use std::net::SocketAddr;

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
    /// An API server, as https://HOST:PORT; may be given several times.
    #[arg(long, required = true, value_delimiter = ',')]
    server: Vec<String>,
    #[command(flatten)]
    logs: LogFlags,
}

/// Does it.
pub fn run(args: Args) -> Result<()> {
    component::run(&args.logs, |shutdown| async move {
        let servers = args.server.iter().map(|url| host_and_port(url)).collect::<Result<Vec<_>>>()?;
        let listener = TcpListener::bind(args.listen).await.with_context(|| format!("listen on {}", args.listen))?;
        notify::ready();
        balance::serve(listener, Servers::new(servers), shutdown).await;
        Ok(())
    })
}
