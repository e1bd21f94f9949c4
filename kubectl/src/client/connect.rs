//! Connections: plain, TLS, through an HTTP proxy; failures in Go's words.
//!
//! Where the kubeconfig names more servers than one, the next is tried as soon as one fails or hesitates, and the first that can be
//! spoken with is taken. Nothing is asked of any until then, so nothing is asked twice.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use http::Uri;
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::Endpoint;

/// How long one server is waited for before the next is tried beside it.
const HESITATION: Duration = Duration::from_millis(500);

/// Why there is no connection.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection of any of the kinds.
pub struct Wire(Box<dyn Io>);

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Makes connections to one endpoint.
#[derive(Clone)]
pub struct Connector {
    endpoint: Arc<Endpoint>,
    /// Which server answered last: the endpoint's own, or one of the others.
    last: Arc<AtomicUsize>,
}

impl Connector {
    pub fn new(endpoint: &Endpoint) -> Self {
        Self { endpoint: Arc::new(endpoint.clone()), last: Arc::default() }
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Wire>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { this.connect().await.map(TokioIo::new) })
    }
}

impl Connector {
    /// A connection with any of the servers, the one that answered last before the others. What is wrong with the endpoint's own
    /// is told if there is none.
    async fn connect(&self) -> Result<Wire, Error> {
        let endpoint = &self.endpoint;
        let own = (endpoint.host.clone(), endpoint.port);
        let servers: Vec<&(String, u16)> = std::iter::once(&own).chain(&endpoint.others).collect();
        let last = self.last.load(Ordering::Relaxed);
        let mut left = (0..servers.len()).map(|n| (last + n) % servers.len()).peekable();
        let (mut tries, mut failed) = (FuturesUnordered::new(), None);
        loop {
            if let Some(at) = left.next() {
                let (host, port) = servers[at];
                tries.push(async move { (at, reach(endpoint, host, *port).await) });
            }
            let done = tokio::select! {
                done = tries.next() => done,
                () = tokio::time::sleep(HESITATION), if left.peek().is_some() => continue,
            };
            match done {
                Some((at, Ok(wire))) => {
                    self.last.store(at, Ordering::Relaxed);
                    return Ok(wire);
                }
                Some((0, Err(error))) => failed = Some(error),
                Some((_, Err(_))) => {}
                None => return Err(failed.unwrap_or_else(|| Error("there is no server to connect with".to_owned()))),
            }
        }
    }
}

async fn reach(endpoint: &Endpoint, host: &str, port: u16) -> Result<Wire, Error> {
    let target = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let tcp = match &endpoint.proxy {
        None => dial(host, port).await?,
        Some(proxy) => {
            let (proxy, port) = proxy.rsplit_once(':').unwrap_or((proxy, "80"));
            tunnel(dial(proxy, port.parse().unwrap_or(80)).await?, &target).await?
        }
    };
    // Requests go out in one piece; delaying them for more helps nobody.
    let _ = tcp.set_nodelay(true);
    if let Some(period) = endpoint.keepalive {
        keep_alive(&tcp, period).map_err(|error| Error(format!("set tcp {target}: {error}")))?;
    }
    let Some(config) = &endpoint.tls else { return Ok(Wire(Box::new(tcp))) };
    let name = endpoint.server_name.as_deref().unwrap_or(host);
    let server = ServerName::try_from(name.to_owned()).map_err(|_| Error(format!("tls: invalid server name {name}")))?;
    match TlsConnector::from(config.clone()).connect(server, tcp).await {
        Ok(tls) => Ok(Wire(Box::new(tls))),
        Err(error) => Err(Error(super::tls::told(&error, name))),
    }
}

/// Has the system try a silent connection every so often, in whole seconds.
fn keep_alive(tcp: &TcpStream, period: Duration) -> nix::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt};
    let seconds = u32::try_from(period.as_millis().div_ceil(1000)).unwrap_or(u32::MAX);
    setsockopt(tcp, sockopt::KeepAlive, &true)?;
    setsockopt(tcp, sockopt::TcpKeepIdle, &seconds)?;
    setsockopt(tcp, sockopt::TcpKeepInterval, &seconds)
}

async fn dial(host: &str, port: u16) -> Result<TcpStream, Error> {
    let shown = |host: &str| if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let addresses = resolve(host, port).await.map_err(Error)?;
    let mut last = Error(unknown(host));
    for address in addresses {
        match tokio::time::timeout(Duration::from_secs(30), TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(error)) => {
                let why = crate::failure::go_io(&error);
                let why = if why.starts_with("connect: ") { why } else { format!("connect: {why}") };
                last = Error(format!("dial tcp {}: {why}", shown(&address.ip().to_string())));
            }
            Err(_) => last = Error(format!("dial tcp {}: i/o timeout", shown(&address.ip().to_string()))),
        }
    }
    Err(last)
}

/// What a name or an address stands for.
///
/// # Errors
/// What Go's resolver says of a name that nobody knows.
pub async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let found = tokio::net::lookup_host((host, port)).await;
    found.map(Iterator::collect).map_err(|_| unknown(host))
}

/// What Go's resolver says of a name that nobody knows: it names the server that it asked, if the name was fit for one.
fn unknown(host: &str) -> String {
    let fits = |label: &str| !label.is_empty() && label.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_');
    let servers = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let server = servers.lines().find_map(|line| line.strip_prefix("nameserver")?.split_whitespace().next());
    let server = server.map_or_else(|| "127.0.0.1".to_owned(), str::to_owned);
    let server = if server.contains(':') { format!("[{server}]") } else { server };
    // A name has something in it that no number has.
    let named = host.contains(|c: char| c.is_alphabetic() || c == '-' || c == '_');
    match named && host.trim_end_matches('.').split('.').all(fits) {
        true => format!("dial tcp: lookup {host} on {server}:53: no such host"),
        false => format!("dial tcp: lookup {host}: no such host"),
    }
}

async fn tunnel(mut tcp: TcpStream, target: &str) -> Result<TcpStream, Error> {
    let failed = |error: io::Error| Error(format!("proxyconnect tcp: {}", crate::failure::go_io(&error)));
    tcp.write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes()).await.map_err(failed)?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() > 16 << 10 {
            return Err(Error("proxyconnect tcp: malformed HTTP response".to_owned()));
        }
        answer.push(tcp.read_u8().await.map_err(failed)?);
    }
    let line = String::from_utf8_lossy(&answer);
    let line = line.lines().next().unwrap_or_default().to_owned();
    match line.split(' ').nth(1) {
        Some("200") => Ok(tcp),
        _ => Err(Error(line.split_once(' ').map_or(line.clone(), |(_, status)| status.to_owned()))),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn the_next_server_is_taken_where_one_is_not_reached() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let open = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = |port| ("127.0.0.1".to_owned(), port);
        let endpoint = |others| Endpoint { host: "127.0.0.1".to_owned(), port: closed, others, ..Endpoint::default() };

        let two = Connector::new(&endpoint(vec![at(closed), at(open.local_addr().unwrap().port())]));
        assert!(two.connect().await.is_ok());
        assert_eq!(two.last.load(Ordering::Relaxed), 2);
        let none = Connector::new(&endpoint(vec![("nobody.invalid".to_owned(), 1)]));
        let told = none.connect().await.err().unwrap().to_string();
        assert_eq!(told, format!("dial tcp 127.0.0.1:{closed}: connect: connection refused"));
    }
}
