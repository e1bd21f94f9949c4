//! The controller manager: everything that makes the cluster's state follow its specifications, one controller a file.
//!
//! Each controller watches through shared informers, is woken by the name of an object, decides in a plain function and applies the
//! decision. None polls; timers exist only where time itself is the trigger (deadlines, grace periods, tolerations).

pub mod bootstrapsigner;
pub mod certificates;
pub mod clusterdns;
pub mod config;
pub mod context;
pub mod credentials;
pub mod deployment;
pub mod discovery;
pub mod endpoints;
pub mod endpointslice;
mod expiry;
pub mod garbage;
pub mod namespace;
pub mod nodeipam;
pub mod nodelifecycle;
pub mod podgc;
pub mod pods;
pub mod replicas;
pub mod rootca;
pub mod selection;
pub mod serviceaccount;
pub mod tainteviction;
pub mod tokencleaner;

use std::{future::Future, pin::Pin};

pub use config::Config;
use context::Context;
use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::ReplicationController};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Why the controller manager ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot run like this.
    #[error("the configuration is not usable")]
    Config(#[from] config::ConfigError),
    /// Another process leads now.
    #[error("the controller manager no longer leads")]
    Lost(#[from] client::leader::Lost),
}

type Running = Pin<Box<dyn Future<Output = ()> + Send>>;
type Start = fn(Context) -> Running;

/// All controllers under upstream's names.
const CONTROLLERS: &[(&str, Start)] = &[
    ("garbage-collector-controller", |ctx| Box::pin(garbage::run(ctx))),
    ("node-ipam-controller", |ctx| Box::pin(nodeipam::run(ctx))),
    ("node-lifecycle-controller", |ctx| Box::pin(nodelifecycle::run(ctx))),
    ("taint-eviction-controller", |ctx| Box::pin(tainteviction::run(ctx))),
    ("pod-garbage-collector-controller", |ctx| Box::pin(podgc::run(ctx))),
    ("namespace-controller", |ctx| Box::pin(namespace::run(ctx))),
    ("serviceaccount-controller", |ctx| Box::pin(serviceaccount::run(ctx))),
    ("root-ca-certificate-publisher-controller", |ctx| Box::pin(rootca::run(ctx))),
    ("certificatesigningrequest-signing-controller", |ctx| Box::pin(certificates::signing::run(ctx))),
    ("certificatesigningrequest-approving-controller", |ctx| Box::pin(certificates::approving::run(ctx))),
    ("certificatesigningrequest-cleaner-controller", |ctx| Box::pin(certificates::cleaning::run(ctx))),
    (bootstrapsigner::NAME, |ctx| Box::pin(bootstrapsigner::run(ctx))),
    (tokencleaner::NAME, |ctx| Box::pin(tokencleaner::run(ctx))),
    ("cluster-dns-controller", |ctx| Box::pin(clusterdns::run(ctx))),
    ("endpoints-controller", |ctx| Box::pin(endpoints::run(ctx))),
    ("endpointslice-controller", |ctx| Box::pin(endpointslice::run(ctx))),
    ("endpointslice-mirroring-controller", |ctx| Box::pin(endpointslice::mirroring::run(ctx))),
    ("deployment-controller", |ctx| Box::pin(deployment::run(ctx))),
    ("replicaset-controller", |ctx| Box::pin(replicas::run::<ReplicaSet>(ctx))),
    ("replicationcontroller-controller", |ctx| Box::pin(replicas::run::<ReplicationController>(ctx))),
];

/// Runs all enabled controllers until `shutdown`, as leader if so configured.
pub async fn run(config: Config, client: kube::Client, shutdown: CancellationToken) -> Result<(), Error> {
    let known: Vec<_> = CONTROLLERS.iter().map(|(name, _)| *name).collect();
    config.validate(&known)?;
    rootca::certificates(&config)?;
    certificates::signing::authority(&config)?;
    if !config.leader_elect {
        work(Context::new(client, config, shutdown), CONTROLLERS).await;
        return Ok(());
    }
    let lease = client::leader::Config {
        lease_duration: config.leader_elect_lease_duration,
        renew_deadline: config.leader_elect_renew_deadline,
        retry_period: config.leader_elect_retry_period,
        namespace: config.leader_elect_resource_namespace.clone(),
        ..client::leader::Config::new(&config.leader_elect_resource_name, identity())
    };
    let recorder = client::Recorder::new(client.clone(), "kube-controller-manager", None);
    let elector = client::LeaderElector::new(client.clone(), lease, Some(recorder));
    Ok(elector.run(shutdown, |stop| work(Context::new(client, config, stop), CONTROLLERS)).await?)
}

/// Unique among candidates, and readable.
fn identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_else(|_| "unknown".to_owned());
    format!("{}_{:016x}", host.trim(), rand::random::<u64>())
}

/// Returns when all have ended. One that panics ends them all: whoever runs them begins anew.
async fn work(ctx: Context, controllers: &[(&str, Start)]) {
    let mut running = JoinSet::new();
    for (name, start) in controllers.iter().filter(|(name, _)| ctx.config.enables(name)) {
        tracing::debug!(controller = name, "starting");
        running.spawn(start(ctx.acting_for(name)));
    }
    while let Some(ended) = running.join_next().await {
        if let Err(error) = ended {
            tracing::error!(error = &error as &dyn std::error::Error, "a controller ended; all begin anew");
            ctx.shutdown.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_controller_that_panics_ends_all() {
        let nobody = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("nobody is asked"))
        });
        let client = kube::Client::new(nobody, "default");
        let stop = CancellationToken::new();
        let controllers: [(&str, Start); 2] = [
            ("sturdy", |ctx| Box::pin(async move { ctx.shutdown.cancelled().await })),
            ("fragile", |_| Box::pin(async { panic!("of a controller") })),
        ];
        let working = work(Context::new(client, Config::default(), stop.clone()), &controllers);
        tokio::time::timeout(std::time::Duration::from_secs(10), working).await.expect("the end of all");
        assert!(stop.is_cancelled());
    }
}
