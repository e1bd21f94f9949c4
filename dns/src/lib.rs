//! Cluster DNS: services, endpoints and pods as names, by the rules of Kubernetes' DNS specification 1.1.
//!
//! Every node answers for its own pods: the agent listens on the node's address in the pod network, and service `kube-dns`
//! leads each pod to its own node. So no query crosses machines and names go on being answered whatever other nodes do.
//!
//! Informers name the services that changed; a plain function turns a service with its slices into an [`zone::Entry`]; queries
//! are answered from those in memory ([`zone::Zone`]). Names outside the cluster's domain go to the node's own resolvers
//! ([`forward`]), whose answers, refusals included, are remembered for as long as they say.
//!
//! Wire, TCP framing and the client side of forwarding are `hickory`'s.

mod config;
mod forward;
mod server;
mod watch;
pub mod zone;

pub use config::Config;
pub use server::Error;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

/// Answers on `config.listen` until `shutdown`. Answers begin when services and endpoints are known.
pub async fn run(config: Config, client: kube::Client, shutdown: CancellationToken) -> Result<(), Error> {
    let zone = Arc::new(parking_lot::RwLock::new(zone::Zone::new(&config.cluster_domain, &config.cluster_ranges)?));
    let watching = watch::Watched::start(client, zone.clone(), shutdown.clone());
    if shutdown.run_until_cancelled(watching.synced()).await.is_none() {
        return Ok(());
    }
    let forwarder = forward::Forwarder::new(&config.resolv_conf, config.listen.ip())?;
    let (mut server, address) = server::listen(config.listen, zone, forwarder)?;
    tracing::info!(%address, "answering names");
    tokio::select! {
        () = watching.run(shutdown.clone()) => {}
        () = shutdown.cancelled() => {}
    }
    let _ = server.shutdown_gracefully().await;
    Ok(())
}
