//! The kubelet's own port: HTTPS on 10250, every request authenticated and authorized ([`auth`]); healthz on 10248.

mod auth;
mod container_logs;
mod node_logs;
mod stats;
mod streams;
mod tls;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{Request, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{any, get},
};
use client::Informer;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use k8s_openapi::api::core::v1::Pod;
use process::idle::{self, Idle};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::{
    certificate,
    pod::{
        record::PodRecord,
        spec::{self},
    },
    shared::Ctx,
};

/// For the first request, and for a request's head from the end of the one before. Upstream's figure.
const IDLE: Duration = Duration::from_secs(90);
/// How often a peer that speaks HTTP/2 is asked whether it is there, and for how long.
const PROBE: Duration = Duration::from_secs(15);

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A port is taken or not allowed.
    #[error("listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The certificates cannot be used.
    #[error("set up TLS")]
    Tls(#[from] tls::TlsError),
}

/// What handlers share.
#[derive(Clone)]
pub struct App {
    ctx: Ctx,
    pods: Informer<Pod>,
    auth: Arc<auth::Auth>,
}

/// An answer that is not the thing asked for.
#[derive(Debug)]
pub struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

/// A server that listens but does not serve yet.
pub struct Server {
    app: App,
    listener: TcpListener,
    acceptor: tokio_rustls::TlsAcceptor,
    healthz: Option<TcpListener>,
}

impl Server {
    /// Takes the ports.
    pub async fn bind(ctx: Ctx, pods: Informer<Pod>, serving: Option<&certificate::Keeper>) -> Result<Self, ServerError> {
        let config = &ctx.config;
        let acceptor = tls::acceptor(config, &ctx.facts, serving)?;
        let listener = listen(SocketAddr::new(config.address, config.port)).await?;
        let healthz = match config.healthz_port {
            0 => None,
            port => Some(listen(SocketAddr::new(config.healthz_bind_address, port)).await?),
        };
        let auth = Arc::new(auth::Auth::new(ctx.client.clone(), ctx.facts.name.clone()));
        Ok(Self { app: App { ctx, pods, auth }, listener, acceptor, healthz })
    }

    /// Where HTTPS is served.
    pub fn port(&self) -> Option<u16> {
        self.listener.local_addr().ok().map(|a| a.port())
    }

    /// Serves until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let router = router(self.app.clone());
        if let Some(healthz) = self.healthz {
            let ctx = self.app.ctx.clone();
            let plain = Router::new().route("/healthz", get(move || health(ctx.clone())));
            let stop = shutdown.clone();
            tokio::spawn(async move {
                let served = axum::serve(healthz, plain).with_graceful_shutdown(stop.cancelled_owned()).await;
                if let Err(error) = served {
                    tracing::warn!(%error, "healthz is no longer served");
                }
            });
        }
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else {
                // Out of descriptors: the next one may have better luck.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let (router, acceptor, stop) = (router.clone(), self.acceptor.clone(), shutdown.clone());
            tokio::spawn(async move {
                stop.run_until_cancelled(connection(stream, acceptor, router)).await;
            });
        }
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ServerError> {
    TcpListener::bind(address).await.map_err(|source| ServerError::Listen { address, source })
}

async fn connection(stream: tokio::net::TcpStream, acceptor: tokio_rustls::TlsAcceptor, router: Router) {
    // Small answers must not wait for one another.
    let _ = stream.set_nodelay(true);
    let handshake = tokio::time::timeout(Duration::from_secs(10), acceptor.accept(stream)).await;
    let Ok(Ok(stream)) = handshake else { return };
    let peer = auth::Peer::of(stream.get_ref().1.peer_certificates());
    serve(stream, peer, router, IDLE).await;
}

/// Serves requests until the peer leaves, or asks for nothing for so long.
async fn serve<T>(stream: T, peer: auth::Peer, router: Router, patience: Duration)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let idle = Idle::new();
    let asked = idle.clone();
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let under_way = asked.request();
        let (router, mut request) = (router.clone(), request.map(Body::new));
        request.extensions_mut().insert(peer.clone());
        async move { router.oneshot(request).await.map(|answer| under_way.answered_by(answer)) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(patience);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(100)
        .max_pending_accept_reset_streams(Some(20))
        .keep_alive_interval(Some(PROBE))
        .keep_alive_timeout(PROBE);
    let connection = std::pin::pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    match idle::serve(connection, &idle, idle.lasts(patience), |connection| connection.graceful_shutdown()).await {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!(error, "a connection ended"),
        None => tracing::debug!("a connection closed: nothing was asked for, and the peer holds it"),
    }
}

fn router(app: App) -> Router {
    let state = app.clone();
    Router::new()
        .route("/healthz", get(|State(app): State<App>| health(app.ctx)))
        .route("/pods", get(pods))
        .route("/pods/", get(pods))
        .route("/runningpods", get(running_pods))
        .route("/runningpods/", get(running_pods))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(container_logs::handle))
        .route("/exec/{namespace}/{pod}/{container}", any(streams::exec))
        .route("/exec/{namespace}/{pod}/{uid}/{container}", any(streams::exec_uid))
        .route("/attach/{namespace}/{pod}/{container}", any(streams::attach))
        .route("/attach/{namespace}/{pod}/{uid}/{container}", any(streams::attach_uid))
        .route("/portForward/{namespace}/{pod}", any(streams::port_forward))
        .route("/portForward/{namespace}/{pod}/{uid}", any(streams::port_forward_uid))
        .route("/run/{namespace}/{pod}/{container}", axum::routing::post(streams::run))
        .route("/run/{namespace}/{pod}/{uid}/{container}", axum::routing::post(streams::run_uid))
        .route("/logs", get(node_logs::handle))
        .route("/logs/", get(node_logs::handle))
        .route("/logs/{*path}", get(node_logs::handle))
        .route("/stats/summary", get(stats::summary))
        .route("/metrics", get(stats::metrics))
        .route("/metrics/resource", get(stats::resource))
        .route("/metrics/cadvisor", get(stats::cadvisor))
        .route("/metrics/probes", get(stats::probes))
        .layer(middleware::from_fn_with_state(state, auth::check))
        .with_state(app)
}

async fn health(ctx: Ctx) -> Response {
    match ctx.runtime_answers() {
        true => "ok".into_response(),
        false => (StatusCode::INTERNAL_SERVER_ERROR, "the container runtime does not answer").into_response(),
    }
}

fn json(value: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(bytes) => ([(header::CONTENT_TYPE, "application/json")], bytes).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn pod_list(items: &[serde_json::Value]) -> Response {
    json(&serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}

async fn pods(State(app): State<App>) -> Response {
    let all = app.pods.list();
    pod_list(&all.iter().filter_map(|p| serde_json::to_value(&**p).ok()).collect::<Vec<_>>())
}

async fn running_pods(State(app): State<App>) -> Result<Response, Refusal> {
    let failed = |e: crate::runtime::RuntimeError| Refusal(StatusCode::INTERNAL_SERVER_ERROR, e.rpc());
    let containers = app.ctx.runtime.containers(None).await.map_err(failed)?;
    let running = cri::v1::ContainerState::ContainerRunning;
    let mut pods: std::collections::BTreeMap<(String, String, String), Vec<serde_json::Value>> = Default::default();
    for c in containers.iter().filter(|c| c.state() == running) {
        let label = |key: &str| c.labels.get(key).cloned().unwrap_or_default();
        use crate::pod::record::keys;
        let key = (label(keys::POD_NAMESPACE), label(keys::POD_NAME), label(keys::POD_UID));
        let image = c.image.as_ref().map(|i| i.image.clone()).unwrap_or_default();
        pods.entry(key)
            .or_default()
            .push(serde_json::json!({"name": label(keys::CONTAINER_NAME), "image": image, "resources": {}}));
    }
    let item = |((namespace, name, uid), containers)| serde_json::json!({"metadata": {"name": name, "namespace": namespace, "uid": uid}, "spec": {"containers": containers}, "status": {}});
    Ok(pod_list(&pods.into_iter().map(item).collect::<Vec<_>>()))
}

impl App {
    /// A pod of this node, optionally with that UID, and what the runtime holds of it.
    async fn find(&self, namespace: &str, name: &str, uid: Option<&str>) -> Result<(Arc<Pod>, PodRecord), Refusal> {
        let pod = self
            .pods
            .get(&client::Key::new(namespace, name))
            .filter(|p| uid.is_none_or(|u| u == spec::uid(p)))
            .ok_or_else(|| Refusal(StatusCode::NOT_FOUND, "pod does not exist".to_owned()))?;
        let record = self.ctx.runtime.pod(&spec::uid(&pod), &PodRecord::default()).await;
        let record = record.map_err(|e| Refusal(StatusCode::INTERNAL_SERVER_ERROR, e.rpc()))?;
        Ok((pod, record))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn who_says_nothing_is_let_go() {
        let idle = Duration::from_millis(50);
        let said = async |words: &[u8]| {
            let (mut near, far) = tokio::io::duplex(1 << 16);
            let router = Router::new().route("/", get(|| async { "there" }));
            tokio::spawn(serve(far, auth::Peer::of(None), router, idle));
            near.write_all(words).await.unwrap();
            let mut answer = String::new();
            let ended = tokio::time::timeout(Duration::from_secs(20), near.read_to_string(&mut answer)).await;
            ended.expect("the connection ends").unwrap();
            answer.rsplit("\r\n").next().unwrap_or_default().to_owned()
        };
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM";
        let all = [said(b"").await, said(preface).await, said(b"GET / HTTP/1.1\r\nhost: n\r\n\r\n").await];
        assert_eq!(all, ["", "", "there"]);
    }

    #[tokio::test]
    async fn who_asked_once_over_http2_is_let_go_in_order_and_who_follows_is_not() {
        use http_body_util::{BodyExt, Empty};
        let idle = Duration::from_millis(50);
        let (near, far) = tokio::io::duplex(1 << 16);
        let late = move || async move {
            tokio::time::sleep(idle * 2).await;
            Ok::<_, std::io::Error>("late")
        };
        let router = Router::new().route("/", get(move || async move { Body::from_stream(futures::stream::once(late())) }));
        tokio::spawn(serve(far, auth::Peer::of(None), router, idle));
        let shaking = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(near));
        let (mut send, connection) = shaking.await.unwrap();
        let connection = tokio::spawn(connection);
        let request = Request::get("http://n/").body(Empty::<bytes::Bytes>::new()).unwrap();
        let body = send.send_request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "late");
        let ended = tokio::time::timeout(Duration::from_secs(20), connection).await;
        ended.expect("the connection ends").unwrap().unwrap();
    }
}
