//! `knarr proxy`: the service proxy by itself, as upstream's kube-proxy is run.

use anyhow::{Context, Result};
use process::{flags::LogFlags, health, metrics::Metrics};
use tokio_util::sync::CancellationToken;

use crate::commands::component::{self, ClientFlags};

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: proxy::Config,
    #[command(flatten)]
    client: ClientFlags,
    #[command(flatten)]
    logs: LogFlags,
    /// The address and port at which /metrics is served; empty for nowhere.
    #[arg(long, default_value = "127.0.0.1:10249")]
    metrics_bind_address: String,
    /// Remove everything that the proxy left in the tables, and exit.
    #[arg(long)]
    cleanup: bool,
}

/// Does it.
pub fn run(args: Args) -> Result<()> {
    component::run(&args.logs, |shutdown| async move {
        if args.cleanup {
            return Ok(proxy::cleanup(None).await?);
        }
        let mut config = args.config;
        if config.node_name.is_empty() {
            config.node_name = component::host_name()?;
        }
        let client = component::client(args.client.kubeconfig.as_deref(), args.client.master.as_deref()).await?;
        serve_metrics(&args.metrics_bind_address, shutdown.clone()).await?;
        Ok(proxy::run(config, client, shutdown).await?)
    })
}

/// Plain HTTP on loopback, as upstream.
async fn serve_metrics(address: &str, shutdown: CancellationToken) -> Result<()> {
    if address.is_empty() {
        return Ok(());
    }
    let listener = tokio::net::TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
    let metrics = Metrics::default();
    metrics.collect(client::metrics::Metrics::global().clone());
    let router = health::router(vec![health::Check::ping()], metrics);
    tokio::spawn(async move {
        let serving = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned());
        if let Err(error) = serving.await {
            tracing::warn!(%error, "metrics are no longer served");
        }
    });
    Ok(())
}
