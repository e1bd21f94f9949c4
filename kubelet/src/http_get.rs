//! One HTTP request as probes and lifecycle hooks make it: no proxy, no pool, certificates not checked, time limited.

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use k8s_openapi::{
    api::core::v1::{Container, HTTPGetAction, TCPSocketAction},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tokio::net::TcpStream;

/// What is read of a body at most.
const BODY_BYTES: usize = 10 * 1024;
/// Redirects followed, on the same host only.
const REDIRECTS: usize = 10;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// The beginning of the body.
    pub body: String,
    /// The request was sent to another host, which is not followed.
    pub redirected_away: bool,
}

/// Where to send a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    tls: bool,
    host: String,
    port: u16,
    path: String,
    headers: Vec<(String, String)>,
    agent: &'static str,
}

/// A named or numbered port of a container.
pub fn port(port: &IntOrString, container: &Container) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name));
            named.map(|p| p.container_port).or_else(|| name.parse().ok())?
        }
    };
    u16::try_from(number).ok().filter(|p| *p > 0)
}

impl Target {
    /// The target of an action; `ip` is the pod's address.
    pub fn of(action: &HTTPGetAction, container: &Container, ip: &str) -> Result<Self, String> {
        let port = port(&action.port, container).ok_or_else(|| format!("invalid port: {:?}", action.port))?;
        let path = action.path.clone().filter(|p| !p.is_empty()).unwrap_or("/".to_owned());
        Ok(Self {
            tls: action.scheme.as_deref() == Some("HTTPS"),
            host: action.host.clone().filter(|h| !h.is_empty()).unwrap_or(ip.to_owned()),
            port,
            path: if path.starts_with('/') { path } else { format!("/{path}") },
            headers: action.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect(),
            agent: "kube-probe/1.35",
        })
    }

    /// The same for a lifecycle hook.
    pub fn of_hook(action: &HTTPGetAction, container: &Container, ip: &str) -> Result<Self, String> {
        Self::of(action, container, ip).map(|target| Self { agent: "kube-lifecycle/1.35", ..target })
    }

    fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("{host}:{}", self.port)
    }

    /// The URL, as messages show it.
    pub fn url(&self) -> String {
        format!("{}://{}{}", if self.tls { "https" } else { "http" }, self.authority(), self.path)
    }
}

/// Sends a GET and follows redirects on the same host. The error is what messages show.
pub async fn get(target: &Target, timeout: Duration) -> Result<Answer, String> {
    let shown = target.url();
    match tokio::time::timeout(timeout, follow(target.clone())).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(format!("Get \"{shown}\": {error}")),
        Err(_) => {
            Err(format!("Get \"{shown}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"))
        }
    }
}

async fn follow(mut target: Target) -> Result<Answer, String> {
    for _ in 0..=REDIRECTS {
        let (status, location, body) = once(&target).await?;
        let Some(location) = location.filter(|_| (300..400).contains(&status) && status != 304) else {
            return Ok(Answer { status, body, redirected_away: false });
        };
        let Some(next) = redirect(&target, &location) else {
            return Ok(Answer { status, body, redirected_away: true });
        };
        target = next;
    }
    Err("stopped after 10 redirects".to_owned())
}

fn redirect(from: &Target, location: &str) -> Option<Target> {
    if location.starts_with('/') && !location.starts_with("//") {
        return Some(Target { path: location.to_owned(), ..from.clone() });
    }
    let uri: http::Uri = location.parse().ok()?;
    let tls = uri.scheme_str()? == "https";
    let host = uri.host()?.trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let path = uri.path_and_query().map_or("/".to_owned(), ToString::to_string);
    (host == from.host).then(|| Target { tls, host, port, path, ..from.clone() })
}

async fn once(target: &Target) -> Result<(u16, Option<String>, String), String> {
    let stream = connect(&target.host, target.port).await?;
    if !target.tls {
        return exchange(target, TokioIo::new(stream)).await;
    }
    let name = rustls::pki_types::ServerName::try_from(target.host.clone()).map_err(|e| e.to_string())?;
    let stream =
        tokio_rustls::TlsConnector::from(trusting()).connect(name, stream).await.map_err(|e| handshake_error(&e))?;
    exchange(target, TokioIo::new(stream)).await
}

/// What a failed handshake is called.
fn handshake_error(error: &std::io::Error) -> String {
    use rustls::{Error, InvalidMessage};
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<Error>());
    match cause {
        Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            "http: server gave HTTP response to HTTPS client".to_owned()
        }
        _ => error.to_string(),
    }
}

async fn exchange<S>(target: &Target, stream: S) -> Result<(u16, Option<String>, String), String>
where
    S: Read + Write + Unpin + Send + 'static,
{
    let stream = AskFirst { stream, asked: false, listening: None };
    // Names as Go's client writes them: servers that are shell scripts know no others.
    let client = hyper::client::conn::http1::Builder::new().title_case_headers(true).handshake(stream).await;
    let (mut sender, connection) = client.map_err(|e| e.to_string())?;
    let connection = tokio::spawn(connection);
    let given: BTreeMap<String, &str> = target.headers.iter().map(|(k, v)| (k.to_lowercase(), v.as_str())).collect();
    let mut request = hyper::Request::builder().uri(&target.path);
    let standing = [("host", target.authority()), ("user-agent", target.agent.to_owned()), ("accept", "*/*".to_owned())];
    for (name, value) in standing.iter().filter(|(n, _)| !given.contains_key(*n)) {
        request = request.header(*name, value);
    }
    // An empty Accept or User-Agent header means: send none.
    for (name, value) in target.headers.iter().filter(|(_, v)| !v.is_empty()) {
        request = request.header(name, value);
    }
    let request = request.header("connection", "close").body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|e| match e.is_incomplete_message() {
            true => "EOF".to_owned(),
            false => e.to_string(),
        })?;
        let status = response.status().as_u16();
        let location = response.headers().get("location").and_then(|l| l.to_str().ok()).map(str::to_owned);
        let body = Limited::new(response.into_body(), BODY_BYTES).collect().await;
        // A body that is too long or breaks off says nothing about health.
        let body = body.map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned()).unwrap_or_default();
        Ok((status, location, body))
    }
    .await;
    connection.abort();
    answer
}

/// A connection on which nothing is heard before something was said. Servers that are shell scripts answer whoever connects, and
/// hyper gives up a connection on which an answer comes before its question; Go's client mostly has asked by then.
struct AskFirst<S> {
    stream: S,
    asked: bool,
    listening: Option<Waker>,
}

impl<S: Read + Unpin> Read for AskFirst<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        if self.asked {
            return Pin::new(&mut self.stream).poll_read(cx, to);
        }
        self.listening = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl<S: Write + Unpin> Write for AskFirst<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes));
        self.asked = true;
        self.listening.take().into_iter().for_each(Waker::wake);
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let shown = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let refused = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::ConnectionRefused => format!("dial tcp {shown}: connect: connection refused"),
        _ => format!("dial tcp {shown}: {e}"),
    };
    TcpStream::connect((host, port)).await.map_err(refused)
}

/// Whether a TCP connection can be made. The error is what messages show.
pub async fn tcp(action: &TCPSocketAction, container: &Container, ip: &str, timeout: Duration) -> Result<(), String> {
    let port = port(&action.port, container).ok_or_else(|| format!("invalid port: {:?}", action.port))?;
    let host = action.host.clone().filter(|h| !h.is_empty()).unwrap_or(ip.to_owned());
    match tokio::time::timeout(timeout, connect(&host, port)).await {
        Ok(result) => result.map(drop),
        Err(_) => Err(format!("dial tcp {host}:{port}: i/o timeout")),
    }
}

/// A client that takes any certificate: a probe asks about health, not identity.
fn trusting() -> Arc<rustls::ClientConfig> {
    static CONFIG: std::sync::OnceLock<Arc<rustls::ClientConfig>> = std::sync::OnceLock::new();
    let make = || {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider.clone());
        let versions = builder
            .with_safe_default_protocol_versions()
            .unwrap_or_else(|_| rustls::ClientConfig::builder_with_protocol_versions(rustls::DEFAULT_VERSIONS));
        let config =
            versions.dangerous().with_custom_certificate_verifier(knarr_x509::Anyone::new(provider)).with_no_client_auth();
        Arc::new(config)
    };
    CONFIG.get_or_init(make).clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn targets() {
        let container: Container =
            serde_json::from_value(json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]})).unwrap();
        let action = |v| serde_json::from_value::<HTTPGetAction>(v).unwrap();
        let url = |v| Target::of(&action(v), &container, "10.42.0.2").map(|t| t.url());
        assert_eq!(url(json!({"port": "web", "path": "/ok"})).unwrap(), "http://10.42.0.2:8080/ok");
        assert_eq!(url(json!({"port": 1, "scheme": "HTTPS", "host": "h"})).unwrap(), "https://h:1/");
        assert!(url(json!({"port": "none"})).is_err());
    }

    #[test]
    fn redirects_stay_on_the_host() {
        let action: HTTPGetAction = serde_json::from_value(json!({"port": 80, "path": "/a"})).unwrap();
        let target = Target::of(&action, &Container::default(), "10.42.0.2").unwrap();
        assert_eq!(redirect(&target, "/b").unwrap().url(), "http://10.42.0.2:80/b");
        assert_eq!(redirect(&target, "https://10.42.0.2/b").unwrap().url(), "https://10.42.0.2:443/b");
        assert_eq!(redirect(&target, "http://elsewhere/b"), None);
    }
    #[tokio::test]
    async fn a_server_may_answer_before_it_is_asked() {
        use tokio::io::AsyncWriteExt;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let action: HTTPGetAction = serde_json::from_value(json!({"port": address.port()})).unwrap();
        let target = Target::of(&action, &Container::default(), "127.0.0.1").unwrap();
        let stream = connect("127.0.0.1", address.port()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        stream.readable().await.unwrap();
        assert_eq!(exchange(&target, TokioIo::new(stream)).await, Ok((200, None, "ok".to_owned())));
    }
}
