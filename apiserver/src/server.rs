//! The server put together: store, caches, registry, security, listeners, background work.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use api::{kind::Kind, status::Status};
use async_trait::async_trait;
use axum::{Router, body::Body, response::Response};
use futures::future::BoxFuture;
use http::Request;
use process::{health::Check, metrics::Metrics, task::vital};
use serde_json::Value;
use store::Store;
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::{
    bootstrap,
    cache::{Limits, feed::Caches},
    error::chain,
    gate::Gate,
    handlers::{App, plain::Documents, serve},
    identity::{Identity, User},
    living::Lease,
    measured::Measured,
    metrics::ApiMetrics,
    registry::{Registry, ServiceRanges},
    security::{self, Security, lookup::Lookup, tls},
    wire::body,
};

/// How a server is set up.
#[derive(Clone)]
pub struct Config {
    /// Where objects are kept.
    pub store: Arc<dyn Store>,
    /// Keys, certificates, RBAC; without it everybody in process may do everything (tests).
    pub security: Option<security::Config>,
    /// The HTTPS listener's address; `None` serves in process only.
    pub listen: Option<SocketAddr>,
    /// The address that the `kubernetes` Service leads to, with the port; `None` makes no such Service.
    pub advertise: Option<(String, u16)>,
    /// An address that leads to whichever server lives, at the same port: joining machines are told it in place of `advertise`'s.
    pub common: Option<String>,
    /// Other API servers use the same store.
    pub shared: bool,
    /// Addresses and ports of Services.
    pub ranges: ServiceRanges,
    /// How often older history is forgotten.
    pub compaction: Duration,
    /// How long a resourceVersion from the future is waited for.
    pub patience: Duration,
    /// How many reads and how many writes may be under way at once.
    pub in_flight: (usize, usize),
    /// How many recent changes are kept for watches.
    pub history: Limits,
    /// Makes a name out of `generateName`.
    pub names: fn(&str) -> String,
    /// The process' metrics.
    pub metrics: Metrics,
    /// Ends the server when it fires.
    pub shutdown: CancellationToken,
}

impl Config {
    /// The defaults over a store: in process, no security.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            security: None,
            listen: None,
            advertise: None,
            common: None,
            shared: false,
            ranges: ServiceRanges::default(),
            compaction: Duration::from_secs(300),
            patience: Duration::from_secs(3),
            in_flight: (400, 200),
            history: Limits::default(),
            names: |base| api::names::generate_name(base, &mut rand::rng()),
            metrics: Metrics::default(),
            shutdown: CancellationToken::new(),
        }
    }
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store could not be read.
    #[error("load the store")]
    Load(#[source] store::Error),
    /// Keys, certificates or roles.
    #[error("set up security")]
    Security(#[from] security::setup::Error),
    /// The listener's address.
    #[error("listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The objects that every cluster has.
    #[error("make the default objects")]
    Bootstrap(#[source] Status),
    /// The record of the API servers that live.
    #[error("join the other API servers")]
    Lease(#[source] crate::living::Error),
}

/// A running server. Dropping it stops it.
pub struct Server {
    app: Arc<App>,
    security: Option<Security>,
    address: Option<SocketAddr>,
    lease: Option<Arc<Lease>>,
    shutdown: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

struct FromCache(Arc<Registry>);

#[async_trait]
impl Lookup for FromCache {
    async fn find(&self, plural: &str, namespace: &str, name: &str) -> Result<Option<Value>, Status> {
        self.0.find(plural, namespace, name).await
    }
}

impl Server {
    /// Loads the store, sets everything up and begins to serve.
    pub async fn start(config: Config) -> Result<Self, Error> {
        let shutdown = config.shutdown.child_token();
        let mut tasks = Vec::new();
        let kinds: Vec<Arc<Kind>> = api::kinds::all().into_iter().map(Arc::new).collect();
        let store: Arc<dyn Store> = Arc::new(Measured::new(config.store.clone(), &kinds, &config.metrics));
        let storing = kinds.iter().filter(|k| k.info.stored_as.is_none());
        let caches = Arc::new(Caches::new(store.clone(), storing, config.history));
        let registry = Registry::new(store.clone(), caches.clone(), kinds, config.ranges.clone(), config.patience);
        let registry = Arc::new(registry.naming(config.names));
        let changes = caches.load().await.map_err(Error::Load)?;
        tasks.push(vital(&shutdown, caches.run(changes, shutdown.clone())));

        let (base, _) = config.ranges.addresses;
        let first = std::net::Ipv4Addr::from(u32::from(base) + 1);
        let advertised = config.advertise.as_ref().map(|(a, p)| (a.as_str(), *p));
        bootstrap::cluster(&registry, first, advertised).await.map_err(Error::Bootstrap)?;
        let mut lease = None;
        match &config.advertise {
            Some((own, port)) if config.shared => {
                let of_ours = Arc::new(Lease::new(registry.clone(), own, *port));
                of_ours.renew().await.map_err(Error::Lease)?;
                tasks.push(vital(&shutdown, of_ours.clone().keep(shutdown.clone())));
                lease = Some(of_ours);
            }
            Some((own, port)) => {
                let only = std::slice::from_ref(own);
                bootstrap::endpoints(&registry, only, *port).await.map_err(Error::Bootstrap)?;
            }
            None => {}
        }

        let security = match &config.security {
            Some(security) => {
                let lookup = Arc::new(FromCache(registry.clone()));
                let pods = registry.core("pods").map_err(Error::Bootstrap)?.cache.clone();
                Some(Security::start(security, config.store.clone(), lookup, pods, shutdown.clone()).await?)
            }
            None => None,
        };
        if let (Some(security), Some((host, port))) = (&security, &config.advertise) {
            let place = match &config.common {
                Some(host) => bootstrap::Place::Common(format!("https://{host}:{port}")),
                None => bootstrap::Place::Own(format!("https://{host}:{port}")),
            };
            Box::pin(bootstrap::cluster_info(&registry, &place, &security.authorities)).await.map_err(Error::Bootstrap)?;
        }
        let gate = security.as_ref().map_or_else(Gate::open, |s| s.gate.clone());
        let tokens = security.as_ref().map(|s| s.tokens.clone());
        let (fed, going) = (registry.clone(), shutdown.clone());
        let checks =
            vec![
                Check::new("informer-sync", move || {
                    if fed.caches().applied().revision() > 0 { Ok(()) } else { Err("the cache is not loaded".to_owned()) }
                }),
                Check::new("shutdown", move || {
                    if going.is_cancelled() { Err("process is shutting down".to_owned()) } else { Ok(()) }
                }),
            ];
        let listener = match config.listen {
            Some(address) => {
                let listen = |source| Error::Listen { address, source };
                Some(TcpListener::bind(address).await.map_err(listen)?)
            }
            None => None,
        };
        let address = listener.as_ref().and_then(|l| l.local_addr().ok());
        let told = match &config.advertise {
            Some((host, port)) => format!("{host}:{port}"),
            None => address.map_or_else(|| "127.0.0.1:6443".to_owned(), |a| a.to_string()),
        };
        let app = Arc::new(App {
            gate,
            metrics: ApiMetrics::new(config.metrics),
            address: told,
            documents: Box::new(move |path| tokens.as_ref().and_then(|t| t.discovery(path))),
            limits: (Semaphore::new(config.in_flight.0), Semaphore::new(config.in_flight.1)),
            timeout: Duration::from_secs(60),
            static_documents: Documents::new(registry.kinds().iter().map(|k| k.info.clone()), checks),
            shutdown: shutdown.clone(),
            registry: registry.clone(),
        });
        let compactor = registry.clone();
        let until = shutdown.clone();
        tasks.push(vital(&shutdown, async move { compactor.compact_regularly(config.compaction, until).await }));
        let server = Self { app, security, address, lease, shutdown, tasks };
        Ok(server.listen(listener))
    }

    fn listen(mut self, listener: Option<TcpListener>) -> Self {
        let Some(listener) = listener else { return self };
        let router = self.router();
        let until = self.shutdown.clone();
        self.tasks.push(match &self.security {
            Some(security) => vital(&self.shutdown, tls::serve(listener, security.tls.clone(), router, until)),
            None => vital(&self.shutdown, plain_http(listener, router, until)),
        });
        self
    }

    /// Serves plain HTTP on an address of its own, for tests; the address.
    pub async fn listen_plainly(&mut self) -> std::io::Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        self.tasks.push(vital(&self.shutdown, plain_http(listener, self.router(), self.shutdown.clone())));
        Ok(address)
    }

    /// Everything behind the listener, the door included.
    pub fn router(&self) -> Router {
        let app = self.app.clone();
        Router::new().fallback(move |request: Request<Body>| {
            let app = app.clone();
            let answer: BoxFuture<'static, Response> = Box::pin(serve_whole(app, request));
            answer
        })
    }

    /// A client in this process: no socket, no TLS, but the same door.
    pub fn client(&self, user: &str, groups: &[&str]) -> kube::Client {
        self.client_as(Arc::new(User::new(user, groups)))
    }

    /// The same for a user known in detail.
    pub fn client_as(&self, identity: Identity) -> kube::Client {
        let app = self.app.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let app = app.clone();
            let (mut parts, body) = request.into_parts();
            parts.extensions.insert(identity.clone());
            let request = Request::from_parts(parts, Body::new(body));
            async move { Ok::<_, std::convert::Infallible>(serve(app, request).await) }
        });
        kube::Client::new(service, "default")
    }

    /// Where HTTPS is served.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Keys and certificates, if the server has security.
    pub fn security(&self) -> Option<&Security> {
        self.security.as_ref()
    }

    /// The registry, for parts that live in the same process.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.app.registry
    }

    /// Fires when the server is stopped, and when it ends by itself: a task panicked without which its answers would be wrong.
    pub fn over(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Ends watches, listeners and background work, then closes the store.
    pub async fn stop(mut self) {
        if let Some(lease) = &self.lease {
            lease.withdraw().await;
        }
        self.shutdown.cancel();
        let store = self.app.registry.store().clone();
        for task in std::mem::take(&mut self.tasks) {
            if let Err(error) = task.await {
                tracing::warn!(%error, "a task of the API server ended badly");
            }
        }
        if let Some(security) = self.security.take() {
            security.stopped().await;
        }
        if let Err(error) = store.close().await {
            tracing::warn!(error = chain(&error), "could not close the store");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Answers a request that came over a connection, once all of it has come.
async fn serve_whole(app: Arc<App>, request: Request<Body>) -> Response {
    if request.version() >= http::Version::HTTP_2 || http_body::Body::is_end_stream(request.body()) {
        return serve(app, request).await;
    }
    let (parts, body) = request.into_parts();
    let (body, rest) = body::lend(body);
    let response = serve(app, Request::from_parts(parts, body)).await;
    rest.drain().await;
    response
}

async fn plain_http(listener: TcpListener, router: Router, until: CancellationToken) {
    use hyper_util::{
        rt::{TokioExecutor, TokioIo},
        server::conn::auto::Builder,
        service::TowerToHyperService,
    };
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = until.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else { continue };
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        connections.spawn(async move {
            let builder = Builder::new(TokioExecutor::new());
            let served = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
            if let Err(error) = served {
                tracing::debug!(%error, "a connection ended");
            }
        });
        while connections.try_join_next().is_some() {}
    }
}
