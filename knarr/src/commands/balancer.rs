//! `knarr balancer`: one address in front of several API servers, for programs that know one address only, such as kubectl.

use std::{net::SocketAddr, os::fd::AsFd, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use process::flags::LogFlags;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    balance::{self, Servers, with_given},
    commands::component,
    compose::{
        failover,
        join::{follow_servers, host_and_port},
    },
    notify,
};

/// How often the credentials are read: the server renews them long before they end.
const CREDENTIALS_SEEN: Duration = Duration::from_hours(24);
/// Until a kubeconfig that cannot be used is looked at again.
const PAUSE: Duration = Duration::from_mins(1);

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
    #[arg(long, required_unless_present = "kubeconfig", value_delimiter = ',')]
    server: Vec<String>,
    /// A file with more of them, a JSON list of "HOST:PORT" that is read before each connection. An agent and a server that
    /// shares an etcd keep theirs in servers.json, in their data directory.
    #[arg(long)]
    servers_file: Option<PathBuf>,
    /// A kubeconfig that names servers, and whose user may watch EndpointSlices (system:kube-proxy may): servers that come are
    /// learned of from those that are there.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
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

/// Keeps learning who the servers are, with the credentials that the file has by then.
async fn follow(
    kubeconfig: PathBuf,
    servers: Arc<Servers>,
    given: Vec<String>,
    notes: Option<PathBuf>,
    shutdown: CancellationToken,
) {
    while !shutdown.is_cancelled() {
        let client = failover::read(&kubeconfig).await.and_then(|(config, _)| failover::over(config, &servers));
        let today = shutdown.child_token();
        let client = match client {
            Ok(client) => client,
            Err(error) => {
                tracing::warn!("servers that come are not learned of: {error:#}");
                shutdown.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
                continue;
            }
        };
        let following = follow_servers(client, servers.clone(), given.clone(), notes.clone(), |_| (), today.clone());
        let _ = tokio::time::timeout(CREDENTIALS_SEEN, following).await;
        today.cancel();
    }
}

/// Does it.
pub fn run(args: Args) -> Result<()> {
    component::run(&args.logs.clone(), |shutdown| async move {
        let mut given = args.server.iter().map(|url| host_and_port(url)).collect::<Result<Vec<_>>>()?;
        if let Some(path) = &args.kubeconfig {
            given = with_given(given, &failover::read(path).await?.1);
            // A server's own kubeconfig may lead to this very place.
            given.retain(|server| *server != args.listen.to_string());
        }
        let listener = args.listener().await?;
        let servers = match args.servers_file.clone() {
            Some(file) => Servers::noted(file, given.clone()),
            None => Servers::new(given.clone()),
        };
        notify::ready();
        if let Some(path) = args.kubeconfig {
            tokio::spawn(follow(path, servers.clone(), given, args.servers_file, shutdown.clone()));
        }
        balance::serve(listener, servers, shutdown).await;
        Ok(())
    })
}
