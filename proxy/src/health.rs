//! Small HTTP answers: the proxy's own `/healthz` and `/metrics`, and a port for each service with `externalTrafficPolicy: Local` that
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

use jiff::Timestamp;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};

use crate::freshness::Freshness;

/// What is answered to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// 200, 404 or 503.
    pub status: u16,
    /// `application/json` or `text/plain`.
    pub kind: &'static str,
    /// Further header lines, each with its end of line.
    pub headers: String,
    /// The body.
    pub body: String,
}

impl Reply {
    /// JSON.
    pub fn json((status, body): (u16, String)) -> Self {
        Self { status, kind: "application/json", headers: String::new(), body }
    }

    /// Plain text.
    pub fn text(status: u16, body: impl Into<String>) -> Self {
        Self { status, kind: "text/plain; charset=utf-8", headers: String::new(), body: body.into() }
    }
}

/// What a path is answered with.
pub type Answer = Arc<dyn Fn(&str) -> Reply + Send + Sync>;

/// The health-check ports of services, each with its server.
pub struct ServicePorts {
    namespace: Option<PathBuf>,
    fresh: Arc<Freshness>,
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
    pub fn new(namespace: Option<PathBuf>, fresh: Arc<Freshness>) -> Self {
        Self { namespace, fresh, open: BTreeMap::new() }
    }

    /// Makes exactly these ports answer: port to service (`NAMESPACE/NAME`) and its number of local endpoints. Whether all do.
    pub fn set(&mut self, wanted: &BTreeMap<u16, (String, usize)>) -> bool {
        self.open.retain(|port, _| wanted.contains_key(port));
        for (port, state) in wanted {
            if let Some(open) = self.open.get(port) {
                *open.state.lock().unwrap_or_else(PoisonError::into_inner) = state.clone();
                continue;
            }
            let shared = Arc::new(Mutex::new(state.clone()));
            let answer = {
                let (shared, fresh) = (shared.clone(), self.fresh.clone());
                move |_: &str| {
                    let state = shared.lock().unwrap_or_else(PoisonError::into_inner);
                    service_answer(&state, fresh.is_healthy(Timestamp::now()))
                }
            };
            match listen(self.namespace.as_ref(), SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port))) {
                Ok(listener) => {
                    let server = tokio::spawn(serve(listener, Arc::new(answer))).abort_handle();
                    self.open.insert(*port, Open { server, state: shared });
                }
                Err(error) => tracing::warn!(port, service = state.0, %error, "cannot open a health-check node port"),
            }
        }
        self.open.len() == wanted.len()
    }
}

fn service_answer((service, local): &(String, usize), healthy: bool) -> Reply {
    let (namespace, name) = service.split_once('/').unwrap_or_default();
    // Names are labels: nothing of them needs escaping.
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{namespace}\",\n\t\t\"name\": \"{name}\"\n\t}},\n\t\"localEndpoints\": \
         {local},\n\t\"serviceProxyHealthy\": {healthy}\n}}"
    );
    let status = if *local > 0 && healthy { 200 } else { 503 };
    Reply { headers: format!("X-Load-Balancing-Endpoint-Weight: {local}\r\n"), ..Reply::json((status, body)) }
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
    let reply = answer(path_of(&head));
    let reason = match reply.status {
        200 => "OK",
        404 => "Not Found",
        _ => "Service Unavailable",
    };
    let text = format!(
        "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nX-Content-Type-Options: nosniff\r\n{}Content-Length: \
         {}\r\nConnection: close\r\n\r\n{}",
        reply.status,
        reply.kind,
        reply.headers,
        reply.body.len(),
        reply.body
    );
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}

/// The path of a request's first line.
fn path_of(head: &[u8]) -> &str {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let target = std::str::from_utf8(line).ok().and_then(|line| line.split(' ').nth(1)).unwrap_or("/");
    target.split('?').next().unwrap_or("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        assert_eq!(
            ["GET /a?b=c HTTP/1.1\r\nHost: x\r\n", "nonsense", ""].map(|head| path_of(head.as_bytes())),
            ["/a", "/", "/"]
        );
    }

    #[test]
    fn what_load_balancers_hear() {
        let reply = service_answer(&("d/web".to_owned(), 2), true);
        let body = "{\n\t\"service\": {\n\t\t\"namespace\": \"d\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": 2,\n\t\
                    \"serviceProxyHealthy\": true\n}";
        assert_eq!(
            (reply.status, reply.body.as_str(), reply.headers.trim()),
            (200, body, "X-Load-Balancing-Endpoint-Weight: 2")
        );
        let statuses =
            [(0, true), (2, false)].map(|(local, healthy)| service_answer(&("d/web".into(), local), healthy).status);
        assert_eq!(statuses, [503, 503]);
    }
}
