//! The node agent: runs the pods that the API assigns to this node, through any CRI runtime.
//!
//! ```text
//!   API ──pods of this node──▶ manager ──one task a pod──▶ worker ──decide──▶ operations ──▶ CRI, disk, API status
//!   CRI ──container events───────┘                            ▲
//!   API ──ConfigMaps, Secrets a pod names─────────────────────┤
//!   probes ──verdicts─────────────────────────────────────────┘
//! ```
//!
//! Decisions are plain functions in [`pod`]; [`worker`] carries them out. Nothing is kept on disk that is not in the API or
//! the runtime: a kubelet that was killed reads both and goes on where things are, and containers never notice.

// Tests write objects in place: `pod(json!({..}))`.
#![cfg_attr(test, allow(clippy::needless_pass_by_value))]

pub mod certificate;
mod cgroup;
mod clock;
mod config;
mod config_file;
mod eviction;
mod fs;
mod http_get;
mod logs;
mod manager;
mod metrics;
mod node;
mod pod;
mod probe;
mod pulled;
mod references;
mod runtime;
mod server;
mod shared;
mod shutdown;
mod static_pods;
mod tokens;
mod volume;
mod worker;

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use client::{Informer, Options, Recorder};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use tokio::sync::{Notify, Semaphore, broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use config::{Config, ConfigError};
pub use config_file::flags_of_file;
pub use eviction::signals::Bounds;
use pod::{resolver::Resolver, resources::Amounts, sandbox_config};
use runtime::Runtime;
use shared::{Ctx, NodeFacts, Shared};

/// Why a kubelet could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot work.
    #[error("the configuration is not usable")]
    Config(#[from] ConfigError),
    /// Its port cannot be served.
    #[error("serve the kubelet's port")]
    Server(#[from] server::ServerError),
    /// Its serving certificate cannot be kept.
    #[error("keep the serving certificate")]
    Certificate(#[from] certificate::Error),
    /// A directory of its own cannot be made.
    #[error("make the directory {path}")]
    Directory {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Runs the kubelet until `shutdown` fires. Containers keep running.
pub async fn run(
    config: Config,
    client: kube::Client,
    runtime: cri::Channel,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    config.validate()?;
    let thresholds = config.eviction_thresholds()?;
    let periods = config.shutdown_periods();
    let name = config.node_name()?;
    for dir in [config.root_dir.join("pods"), config.pod_logs_dir.clone()] {
        std::fs::create_dir_all(&dir).map_err(|source| Error::Directory { path: dir, source })?;
    }
    let news = runtime.news();
    let runtime = Runtime::new(runtime);
    let Some(version) = shutdown.run_until_cancelled(version(&runtime)).await else { return Ok(()) };
    let capacity = node::facts::capacity(&config.root_dir, config.max_pods);
    let facts = NodeFacts {
        ips: vec![config.address()?.to_string()],
        allocatable: allocatable(&config, &capacity),
        memory: node::facts::memory(),
        runtime_name: version.runtime_name.clone(),
        net: sandbox_config::NodeNet {
            cluster_dns: config.cluster_dns.iter().map(ToString::to_string).collect(),
            cluster_domain: config.cluster_domain.clone(),
            resolver: resolver(&config.resolv_conf),
        },
        name: name.clone(),
    };
    let pods: Informer<Pod> =
        Informer::start(client.clone(), Options::fields(format!("spec.nodeName={name}")), shutdown.clone());
    let node: Informer<Node> =
        Informer::start(client.clone(), Options::fields(format!("metadata.name={name}")), shutdown.clone());
    let services: Informer<Service> =
        Informer::start(client.clone(), Options { transform: only_addresses, ..Options::default() }, shutdown.clone());
    let (wake, sources) = mpsc::unbounded_channel();
    let cgroups = cgroup::Cgroups::new(&config.cgroup_root, config.pod_max_pids);
    cgroups.prepare(facts.allocatable.get("cpu").copied().unwrap_or(0));
    let ctx: Ctx = Arc::new(Shared {
        recorder: Recorder::new(client.clone(), "kubelet", Some(&name)),
        volumes: volume::Volumes::new(&config.root_dir),
        cgroups,
        references: references::References::new(client.clone(), wake, shutdown.clone()),
        tokens: tokens::Tokens::new(client.clone()),
        services,
        node,
        pulls: Semaphore::new(config.pulls()),
        network_problem: watch::Sender::new(Some("container runtime status is not known yet".to_owned())),
        runtime_ready: AtomicBool::new(true),
        pod_changes: broadcast::Sender::new(64),
        pressures: watch::Sender::new(Default::default()),
        shutting_down: watch::Sender::new(false),
        config,
        client,
        runtime,
        facts,
    });
    let serving = ctx.config.rotate_server_certificates.then(|| serving(&ctx)).transpose()?;
    let server = server::Server::bind(ctx.clone(), pods.clone(), serving.as_ref()).await?;
    let port = server.port().unwrap_or(ctx.config.port);
    let poke = Arc::new(Notify::new());
    let poked = poke.clone();
    ctx.node.on_change(move |_| poked.notify_one());
    let news = runtime_news(news, poke.clone(), shutdown.clone());
    let (order, orders) = mpsc::unbounded_channel();
    let (end, rounds) = mpsc::unbounded_channel();
    let full = format!("{}://{}", version.runtime_name, version.runtime_version);
    let reporter = node::reporter::Reporter::new(ctx.clone(), capacity, &full, port);
    tokio::join!(
        reporter.run(poke.clone(), shutdown.clone()),
        news,
        node::lease::run(ctx.clone(), shutdown.clone()),
        logs::rotate::run(ctx.clone(), shutdown.clone()),
        server.run(shutdown.clone()),
        renew(serving, ctx.clone(), shutdown.clone()),
        eviction::run(ctx.clone(), pods.clone(), thresholds, order, shutdown.clone()),
        shutdown::run(ctx.clone(), periods, end, shutdown.clone()),
        manager::Manager::run(ctx.clone(), pods, manager::Inputs { sources, orders, rounds }, poke, shutdown.clone()),
    );
    Ok(())
}

/// Has the node's status looked at when the runtime's may have changed.
async fn runtime_news(news: Option<watch::Receiver<()>>, poke: Arc<Notify>, shutdown: CancellationToken) {
    let Some(mut news) = news else { return };
    while let Some(Ok(())) = shutdown.run_until_cancelled(news.changed()).await {
        poke.notify_one();
    }
}

/// The serving certificate, where the cluster is to sign it.
fn serving(ctx: &Ctx) -> Result<certificate::Keeper, certificate::Error> {
    let folder = ctx.config.cert_dir.clone().unwrap_or_else(|| ctx.config.root_dir.join("pki"));
    let addresses = ctx.facts.ips.iter().filter_map(|ip| ip.parse().ok()).collect();
    let wish = certificate::Wish { node: ctx.facts.name.clone(), serving: Some(addresses) };
    certificate::Keeper::open(folder.join("kubelet-server-current.pem"), wish)
}

async fn renew(serving: Option<certificate::Keeper>, ctx: Ctx, shutdown: CancellationToken) {
    if let Some(serving) = serving {
        serving.keep(&ctx.client, shutdown).await;
    }
}

/// Of services only what becomes environment variables is kept.
fn only_addresses(service: &mut Service) {
    let meta = &mut service.metadata;
    (meta.managed_fields, meta.labels, meta.annotations, service.status) = (None, None, None, None);
    if let Some(spec) = &mut service.spec {
        (spec.selector, spec.cluster_ips, spec.ip_families) = (None, None, None);
    }
}

/// The runtime's name and version, once it answers.
async fn version(runtime: &Runtime) -> cri::v1::VersionResponse {
    let mut pause = std::time::Duration::from_millis(20);
    loop {
        match runtime.version().await {
            Ok(version) => return version,
            Err(error) => tracing::debug!(%error, "the runtime does not answer yet"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(std::time::Duration::from_secs(1));
    }
}

/// What pods may use: the capacity without what is reserved.
fn allocatable(config: &Config, capacity: &Amounts) -> Amounts {
    let mut amounts = capacity.clone();
    for (name, value) in config.system_reserved.iter().chain(&config.kube_reserved) {
        let quantity = k8s_openapi::apimachinery::pkg::api::resource::Quantity(value.clone());
        if let Some(amount) = amounts.get_mut(name) {
            *amount = (*amount - pod::resources::amount(name, &quantity)).max(0);
        }
    }
    amounts
}

fn resolver(path: &Path) -> Resolver {
    std::fs::read_to_string(path).map(|text| Resolver::parse(&text)).unwrap_or_default()
}
