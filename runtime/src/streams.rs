//! The server behind the URLs that Exec, Attach and PortForward return: on the loopback, each URL good once and for a minute.
//!
//! The kubelet fetches them on its client's behalf; whoever else finds the port cannot guess a token.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use streaming::command::Options;
use streaming::negotiate::Rejection;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::core::Core;
use crate::error::{Error, Result, Step};

const GOOD_FOR: Duration = Duration::from_secs(60);
/// Unfetched streams; more are refused.
const LIMIT: usize = 1000;

/// What a URL stands for.
#[derive(Debug, Clone)]
pub enum Wanted {
    /// A command in a container.
    Exec {
        /// Where.
        container: String,
        /// What.
        command: Vec<String>,
        /// Which streams.
        options: Options,
    },
    /// A container's own streams.
    Attach {
        /// Whose.
        container: String,
        /// Which streams.
        options: Options,
    },
    /// Ports of a pod.
    PortForward {
        /// Whose.
        sandbox: String,
    },
}

/// Streams that wait to be fetched, and where.
pub struct Streams {
    address: SocketAddr,
    listener: TcpListener,
    waiting: Mutex<HashMap<String, (Instant, Wanted)>>,
}

impl Streams {
    /// Takes a port of the loopback.
    pub async fn bind() -> Result<Streams> {
        let listener = TcpListener::bind((IpAddr::V4(Ipv4Addr::LOCALHOST), 0)).await.step("listen for streams")?;
        let address = listener.local_addr().step("listen for streams")?;
        Ok(Streams { address, listener, waiting: Mutex::default() })
    }

    /// A URL for a stream.
    pub fn offer(&self, wanted: Wanted, query: &str) -> Result<String> {
        let mut waiting = self.waiting.lock();
        waiting.retain(|_, (since, _)| since.elapsed() < GOOD_FOR);
        if waiting.len() >= LIMIT {
            return Err(Error::State("maximum number of in-flight requests exceeded".to_owned()));
        }
        let kind = match &wanted {
            Wanted::Exec { .. } => "exec",
            Wanted::Attach { .. } => "attach",
            Wanted::PortForward { .. } => "portforward",
        };
        let token = uuid::Uuid::new_v4().simple().to_string();
        waiting.insert(token.clone(), (Instant::now(), wanted));
        Ok(format!("http://{}/{kind}/{token}{query}", self.address))
    }

    fn take(&self, path: &str) -> Option<Wanted> {
        let (_, token) = path.rsplit_once('/')?;
        let (since, wanted) = self.waiting.lock().remove(token)?;
        (since.elapsed() < GOOD_FOR).then_some(wanted)
    }
}

/// Serves streams until told to end. Streams that are open then go on while the process lives.
pub async fn serve(core: Arc<Core>, shutdown: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = core.streams.listener.accept() => accepted,
        };
        let Ok((connection, _)) = accepted else {
            // Out of descriptors, mostly: others must end first.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let _ = connection.set_nodelay(true);
        let core = core.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let core = core.clone();
                async move { Ok::<_, std::convert::Infallible>(answer(core, request)) }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            // Whoever finds the port may connect, but not stay without a URL.
            http.timer(TokioTimer::new()).header_read_timeout(GOOD_FOR);
            let _ = http.serve_connection(TokioIo::new(connection), service).with_upgrades().await;
        });
    }
}

fn answer(core: Arc<Core>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let Some(wanted) = core.streams.take(request.uri().path()) else {
        let mut response = Response::new(Full::from("404 page not found\n"));
        *response.status_mut() = StatusCode::NOT_FOUND;
        return response;
    };
    begin(core, wanted, request).unwrap_or_else(|rejection| rejection.response().map(Full::from))
}

/// Upgrades the connection and leaves the rest to a task.
fn begin(core: Arc<Core>, wanted: Wanted, mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Rejection> {
    let response = match wanted {
        Wanted::Exec { container, command, options } => {
            let (response, pending) = streaming::command::upgrade(&mut request, options)?;
            tokio::spawn(async move {
                match pending.streams().await {
                    Ok(remote) => core.exec_stream(&container, &command, options.tty, remote).await,
                    Err(error) => tracing::debug!(%error, "a client did not open its streams"),
                }
            });
            response
        }
        Wanted::Attach { container, options } => {
            let (response, pending) = streaming::command::upgrade(&mut request, options)?;
            tokio::spawn(async move {
                match pending.streams().await {
                    Ok(remote) => core.attach_stream(&container, options, remote).await,
                    Err(error) => tracing::debug!(%error, "a client did not open its streams"),
                }
            });
            response
        }
        Wanted::PortForward { sandbox } => {
            let (response, pending) = streaming::forward::upgrade(&mut request)?;
            tokio::spawn(async move {
                match pending.forwards().await {
                    Ok(forwards) => forward_ports(core, sandbox, forwards).await,
                    Err(error) => tracing::debug!(%error, "a client did not open its streams"),
                }
            });
            response
        }
    };
    Ok(response.map(|()| Full::default()))
}

async fn forward_ports(core: Arc<Core>, sandbox: String, mut forwards: streaming::forward::PortForward) {
    let mut served = tokio::task::JoinSet::new();
    while let Some(forward) = forwards.next().await {
        let (core, sandbox) = (core.clone(), sandbox.clone());
        served.spawn(async move {
            let target = core.connect_port(&sandbox, forward.port).await;
            forward.serve(&sandbox, target).await;
        });
    }
    while served.join_next().await.is_some() {}
    forwards.close().await;
}
