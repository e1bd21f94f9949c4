//! Small HTTP answers: the proxy's own `/healthz`, and a port for each service with `externalTrafficPolicy: Local` that
//! tells load balancers whether this node has endpoints of it.
//!
//! One request a connection, read only as far as its head: enough for probes, and no server framework for it.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};

/// What a probe gets to hear.
type Answer = Arc<dyn Fn() -> (u16, String) + Send + Sync>;

/// The health-check ports of services, each with its server.
#[derive(Default)]
pub struct ServicePorts {
    namespace: Option<PathBuf>,
    open: BTreeMap<u16, Open>,
}

struct Open {
    server: AbortHandle,
    state: Arc<Mutex<(String, usize)>>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl ServicePorts {
    /// No ports yet.
    pub fn new(namespace: Option<PathBuf>) -> Self {
        Self { namespace, open: BTreeMap::new() }
    }

    /// Makes exactly these ports answer: port to service (`NAMESPACE/NAME`) and its number of local endpoints.
    pub fn set(&mut self, wanted: &BTreeMap<u16, (String, usize)>) {
        self.open.retain(|port, _| wanted.contains_key(port));
        for (port, state) in wanted {
            if let Some(open) = self.open.get(port) {
                *open.state.lock().unwrap_or_else(PoisonError::into_inner) = state.clone();
                continue;
            }
            let shared = Arc::new(Mutex::new(state.clone()));
            let answer = {
                let shared = shared.clone();
                move || service_answer(&shared.lock().unwrap_or_else(PoisonError::into_inner))
            };
            match listen(self.namespace.as_ref(), SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port))) {
                Ok(listener) => {
                    let server = tokio::spawn(serve(listener, Arc::new(answer))).abort_handle();
                    self.open.insert(*port, Open { server, state: shared });
                }
                Err(error) => tracing::warn!(port, service = state.0, %error, "cannot open a health-check node port"),
            }
        }
    }
}

fn service_answer((service, local): &(String, usize)) -> (u16, String) {
    let (namespace, name) = service.split_once('/').unwrap_or_default();
    let body = json!({
        "service": {"namespace": namespace, "name": name},
        "localEndpoints": local,
        "serviceProxyHealthy": true,
    });
    (if *local > 0 { 200 } else { 503 }, body.to_string())
}

/// Opens a listening socket in a namespace.
pub fn listen(namespace: Option<&PathBuf>, address: SocketAddr) -> std::io::Result<TcpListener> {
    let bind = move || -> std::io::Result<std::net::TcpListener> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    let listener = match namespace {
        None => bind(),
        Some(path) => net::netns::within(path, move || Ok(bind())).map_err(std::io::Error::other)?,
    };
    TcpListener::from_std(listener?)
}

/// Serves `answer` for any request.
pub async fn serve(listener: TcpListener, answer: Answer) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let answer = answer.clone();
                tokio::spawn(async move { tokio::time::timeout(Duration::from_secs(5), reply(stream, answer)).await });
            }
            // Out of descriptors: somebody else's trouble, which passes.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn reply(mut stream: TcpStream, answer: Answer) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < 16_384 {
        match stream.read(&mut chunk).await? {
            0 => break,
            n => head.extend_from_slice(&chunk[..n]),
        }
    }
    let (status, body) = answer();
    let reason = if status == 200 { "OK" } else { "Service Unavailable" };
    let text = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\nContent-Length: \
         {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}
