//! The loop: informers name services, their fragments are made from the informers' stores, the proxier applies them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use client::{Informer, Informers, Key, Options};
use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use net::monitor::Monitor;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    Config, conntrack,
    freshness::Freshness,
    health::{self, Reply},
    model::{self, NodeInfo},
    proxier::Proxier,
    rules::{Fragment, Setting, fragment},
};

const BY_SERVICE: &str = "service";
/// After how long a health-check node port is tried again that somebody else had.
const PORT_RETRY: Duration = Duration::from_secs(2);

/// Why the proxy cannot work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The tables cannot be read or written.
    #[error("set up the service rules")]
    Tables(#[from] net::Error),
    /// The kernel tells nothing of changes.
    #[error("watch the service rules")]
    Monitor(#[source] std::io::Error),
    /// An address to answer on is not to be had.
    #[error("serve {what} on {address}")]
    Serve {
        /// What was to be answered there.
        what: &'static str,
        /// What was asked for.
        address: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A thread that worked on the tables panicked.
    #[error("work on the service rules panicked")]
    Panicked,
}

/// Keeps the node's rules as services and endpoints ask, until `shutdown`. The rules stay behind: what is connected stays so.
pub async fn run(config: Config, client: kube::Client, shutdown: CancellationToken) -> Result<(), Error> {
    let mut proxier = Proxier::new(config.namespace.clone());
    let nf_tables = proxier.is_nf_tables()?;
    let mut monitor = Monitor::new(config.namespace.clone(), nf_tables, &["nat", "filter"]).map_err(Error::Monitor)?;
    let fresh = Arc::new(Freshness::default());
    let servers = [serve_healthz(&config, &fresh)?, serve_metrics(&config, &fresh)?];
    let informers = Informers::new(client, shutdown.clone());
    let watched = Watched::start(&informers, &config.node_name);
    let mut health_ports = health::ServicePorts::new(config.namespace.clone(), fresh.clone());
    let all_synced = async {
        watched.services.synced().await;
        watched.slices.synced().await;
        watched.node.synced().await;
    };
    if shutdown.run_until_cancelled(all_synced).await.is_none() {
        return Ok(());
    }
    tracing::info!(services = watched.services.len(), nf_tables, "Caches are synced, proxying");
    if config.iptables_localhost_nodeports
        && let Err(error) = blocking(&mut proxier, Proxier::open_loopback).await?
    {
        tracing::warn!(%error, "node ports will not answer on 127.0.0.1");
    }
    let mut setting = Setting {
        cluster_cidr: config.cluster_cidr,
        masquerade_all: config.masquerade_all,
        node: watched.node_info(&config.node_name),
    };
    fresh.queued(Timestamp::now());
    watched.dirty.add_all(watched.keys());
    let mut failures = 0u32;
    // Once there are rules the kernel tracks connections, and has the settings.
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let mut limits = Some(conntrack::limits(&config, processors));
    while !shutdown.is_cancelled() {
        fresh.node(watched.node.get(&Key::cluster(&config.node_name)).as_deref());
        let node = watched.node_info(&config.node_name);
        if node != setting.node {
            setting.node = node;
            watched.dirty.add_all(watched.keys());
        }
        let keys = watched.dirty.take();
        let changes: BTreeMap<String, Option<Fragment>> =
            keys.iter().map(|key| (key.clone(), watched.fragment(key, &setting))).collect();
        let begun = Instant::now();
        let outcome = blocking(&mut proxier, move |proxier| proxier.apply(changes)).await?;
        fresh.applied(outcome.is_ok(), begun.elapsed(), watched.services.len(), Timestamp::now());
        monitor.settle();
        let all_open = health_ports.set(&watched.health_checks(&setting.node));
        match outcome {
            Ok(()) => {
                failures = 0;
                if let Some(limits) = limits.take() {
                    let namespace = config.namespace.clone();
                    tokio::task::spawn_blocking(move || conntrack::raise(namespace, limits))
                        .await
                        .map_err(|_| Error::Panicked)?;
                }
            }
            Err(error) => {
                failures += 1;
                tracing::error!(error = %error, "cannot apply service rules");
                // The proxier knows that it must write everything; only the time to do so is missing.
                let pause = Duration::from_millis(200 << failures.min(7));
                shutdown.run_until_cancelled(tokio::time::sleep(pause)).await;
                continue;
            }
        }
        wait(&watched, &mut monitor, &mut proxier, &fresh, all_open, &shutdown).await?;
        fresh.queued(Timestamp::now());
    }
    drop(servers);
    Ok(())
}

/// Returns when a service or the node changed, or there is something to be tried again; keeps the rules as they are meanwhile.
async fn wait(
    watched: &Watched,
    monitor: &mut Monitor,
    proxier: &mut Proxier,
    fresh: &Freshness,
    all_open: bool,
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = watched.dirty.wait() => return Ok(()),
            // Nobody tells when a port becomes free.
            () = tokio::time::sleep(PORT_RETRY), if !all_open => return Ok(()),
            () = monitor.changed() => {
                match blocking(proxier, Proxier::repair).await? {
                    Ok(true) => {
                        fresh.repaired();
                        monitor.settle();
                    }
                    Ok(false) => {}
                    Err(error) => {
                        tracing::error!(error = %error, "cannot repair service rules");
                        // All are written, however many tries that takes.
                        return Ok(());
                    }
                }
            }
        }
    }
}

/// Removes everything that a proxy left in the tables.
pub async fn cleanup(namespace: Option<PathBuf>) -> Result<(), Error> {
    let mut proxier = Proxier::new(namespace);
    Ok(blocking(&mut proxier, Proxier::cleanup).await??)
}

/// Lends the proxier to a thread that may block.
async fn blocking<T: Send + 'static>(
    proxier: &mut Proxier,
    work: impl FnOnce(&mut Proxier) -> T + Send + 'static,
) -> Result<T, Error> {
    let mut lent = std::mem::replace(proxier, Proxier::new(None));
    let (back, outcome) = tokio::task::spawn_blocking(move || {
        let outcome = work(&mut lent);
        (lent, outcome)
    })
    .await
    .map_err(|_| Error::Panicked)?;
    *proxier = back;
    Ok(outcome)
}

struct Watched {
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    node: Informer<Node>,
    dirty: Arc<Dirty>,
}

impl Watched {
    fn start(informers: &Informers, node_name: &str) -> Self {
        let services: Informer<Service> = informers.get();
        let slices: Informer<EndpointSlice> = informers.get();
        let node: Informer<Node> = informers.get_with(&(), Options::fields(format!("metadata.name={node_name}")));
        slices.add_index(BY_SERVICE, |slice| model::slice_service(slice).into_iter().collect());
        let dirty = Arc::new(Dirty::default());
        let mark = dirty.clone();
        services.on_change(move |change| mark.add(model::key_of(&change.object().metadata)));
        let mark = dirty.clone();
        slices.on_change(move |change| {
            // A slice may change hands by its label.
            let services = change.old().into_iter().chain([change.object()]);
            mark.add_all(services.filter_map(|slice| model::slice_service(slice)));
        });
        let mark = dirty.clone();
        let name = node_name.to_owned();
        node.on_change(move |change| {
            let read = |node: Option<&Arc<Node>>| NodeInfo::read(&name, node.map(Arc::as_ref));
            // A node that is about to go has its taint or time of deletion: the loop looks at both.
            let fate = |node: Option<&Arc<Node>>| {
                node.map(|n| (n.metadata.deletion_timestamp.clone(), n.spec.as_ref().and_then(|s| s.taints.clone())))
            };
            if read(change.old()) != read(Some(change.object())) || fate(change.old()) != fate(Some(change.object())) {
                mark.wake();
            }
        });
        Self { services, slices, node, dirty }
    }

    fn keys(&self) -> Vec<String> {
        self.services.list().iter().map(|service| model::key_of(&service.metadata)).collect()
    }

    fn node_info(&self, name: &str) -> NodeInfo {
        NodeInfo::read(name, self.node.get(&Key::cluster(name)).as_deref())
    }

    /// What the service of this key asks for; `None` if it is gone or needs no rules.
    fn fragment(&self, key: &str, setting: &Setting) -> Option<Fragment> {
        let (namespace, name) = key.split_once('/')?;
        let service = self.services.get(&Key::new(namespace, name))?;
        let slices = self.slices.by_index(BY_SERVICE, key);
        let ports = model::service_ports(&service).into_iter().map(|port| {
            let endpoints = model::endpoints(&port, slices.iter().map(Arc::as_ref), &setting.node);
            (port, endpoints)
        });
        let ports: Vec<_> = ports.collect();
        (!ports.is_empty()).then(|| fragment(&ports, model::health_check_port(&service), setting))
    }

    fn health_checks(&self, node: &NodeInfo) -> BTreeMap<u16, (String, usize)> {
        let checked = self.services.list().into_iter().filter_map(|s| Some((model::health_check_port(&s)?, s)));
        checked
            .map(|(port, service)| {
                let key = model::key_of(&service.metadata);
                let slices = self.slices.by_index(BY_SERVICE, &key);
                let first = model::service_ports(&service).into_iter().next();
                let endpoints = first.map(|p| model::endpoints(&p, slices.iter().map(Arc::as_ref), node));
                let local = endpoints.into_iter().flatten().filter(|e| e.local && e.ready).count();
                (port, (key, local))
            })
            .collect()
    }
}

/// The services that changed since they were last looked at.
#[derive(Default)]
struct Dirty {
    keys: Mutex<BTreeSet<String>>,
    notify: Notify,
}

impl Dirty {
    fn add(&self, key: String) {
        self.add_all([key]);
    }

    fn add_all(&self, keys: impl IntoIterator<Item = String>) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).extend(keys);
        self.wake();
    }

    fn wake(&self) {
        self.notify.notify_one();
    }

    fn take(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.keys.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn wait(&self) {
        self.notify.notified().await;
    }
}

/// A server that ends when dropped.
struct Server(tokio::task::AbortHandle);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn serve(config: &Config, address: &str, what: &'static str, answer: health::Answer) -> Result<Option<Server>, Error> {
    if address.is_empty() {
        return Ok(None);
    }
    let failed = |source| Error::Serve { what, address: address.to_owned(), source };
    let parsed = address.parse().map_err(|e| failed(std::io::Error::new(std::io::ErrorKind::InvalidInput, e)))?;
    let listener = health::listen(config.namespace.as_ref(), parsed).map_err(failed)?;
    Ok(Some(Server(tokio::spawn(health::serve(listener, answer)).abort_handle())))
}

fn serve_healthz(config: &Config, fresh: &Arc<Freshness>) -> Result<Option<Server>, Error> {
    let fresh = fresh.clone();
    let answer = move |path: &str| match path {
        "/healthz" => Reply::json(fresh.healthz(Timestamp::now())),
        "/livez" => Reply::json(fresh.livez(Timestamp::now())),
        _ => Reply::text(404, "404 page not found\n"),
    };
    serve(config, &config.healthz_bind_address, "/healthz", Arc::new(answer))
}

fn serve_metrics(config: &Config, fresh: &Arc<Freshness>) -> Result<Option<Server>, Error> {
    let fresh = fresh.clone();
    let process = process::metrics::Metrics::default();
    let answer = move |path: &str| match path {
        "/metrics" => {
            Reply { kind: "text/plain; version=0.0.4; charset=utf-8", ..Reply::text(200, process.text() + &fresh.metrics()) }
        }
        "/healthz" => Reply::text(200, "ok"),
        "/proxyMode" => Reply::text(200, "iptables"),
        _ => Reply::text(404, "404 page not found\n"),
    };
    serve(config, &config.metrics_bind_address, "/metrics", Arc::new(answer))
}
