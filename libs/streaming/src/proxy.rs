//! Between client and container: a request is carried on to another server, upgrades included, and bytes are copied
//! without a look at them. API server → kubelet and kubelet → CRI streaming URL both are this.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header, uri::PathAndQuery};
use http_body::Body;
use http_body_util::{BodyExt, Either, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};

const CONNECT: Duration = Duration::from_secs(30);
/// How long one direction may go on when the other has ended.
const LINGER: Duration = Duration::from_secs(5);

/// Where a request goes.
#[derive(Clone, Debug)]
pub enum Backend {
    /// Plain TCP.
    Tcp(SocketAddr),
    /// TLS; the server's certificate must be for `name`.
    Tls {
        /// Where.
        address: SocketAddr,
        /// Whose certificate.
        name: ServerName<'static>,
        /// Trust and, if need be, our own certificate.
        config: Arc<ClientConfig>,
    },
    /// A unix socket.
    Unix(PathBuf),
}

/// Why a request did not get through.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No connection (upstream's words for `dial tcp 192.0.2.1:10250: …`).
    #[error("dial {target}")]
    Connect {
        /// What was dialled.
        target: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The backend did not answer as HTTP.
    #[error("exchange the request with {target}")]
    Exchange {
        /// With whom.
        target: String,
        /// Why not.
        #[source]
        source: hyper::Error,
    },
    /// The backend asks to be asked elsewhere: never followed (it could point anywhere).
    #[error("{target} redirects, which is not followed")]
    Redirect {
        /// Who.
        target: String,
    },
}

/// Either half of what can be dialled.
trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

impl Backend {
    /// For messages.
    pub fn target(&self) -> String {
        match self {
            Self::Tcp(address) | Self::Tls { address, .. } => format!("tcp {address}"),
            Self::Unix(path) => format!("unix {}", path.display()),
        }
    }

    async fn connect(&self) -> io::Result<Box<dyn Wire>> {
        Ok(match self {
            Self::Unix(path) => Box::new(UnixStream::connect(path).await?),
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Self::Tls { address, name, config } => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                let connector = tokio_rustls::TlsConnector::from(config.clone());
                Box::new(connector.connect(name.clone(), stream).await?)
            }
        })
    }
}

/// Headers that concern one connection only.
const HOPS: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The headers without those that concern one connection only; with an upgrade's where one is asked for or agreed.
pub fn end_to_end(headers: &HeaderMap, upgrade: Option<&HeaderValue>) -> HeaderMap {
    let named: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(',').map(|t| t.trim().to_ascii_lowercase()))
        .collect();
    let mut out: HeaderMap = headers
        .iter()
        .filter(|(name, _)| {
            let name = name.as_str();
            !HOPS.contains(&name) && !named.iter().any(|n| n == name)
        })
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if let Some(protocol) = upgrade {
        out.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        out.insert(header::UPGRADE, protocol.clone());
    }
    out
}

/// The headers to hand on to a backend that learns who we are, never who the caller is or how he proves it.
fn handed_on(headers: &HeaderMap, upgrade: Option<&HeaderValue>) -> HeaderMap {
    let mut headers = end_to_end(headers, upgrade);
    let about_caller = |name: &&http::HeaderName| {
        *name == header::AUTHORIZATION || name.as_str().starts_with("impersonate-") || name.as_str().starts_with("x-remote-")
    };
    for name in headers.keys().filter(about_caller).cloned().collect::<Vec<_>>() {
        headers.remove(name);
    }
    headers
}

/// A connection's driver, ended with the body that it feeds.
struct Driver(tokio::task::JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A backend's body. Dropped (the client went away), it ends the backend's connection.
pub struct ProxyBody {
    inner: Either<Incoming, Empty<Bytes>>,
    _driver: Option<Driver>,
}

impl Body for ProxyBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, hyper::Error>>> {
        match &mut self.inner {
            Either::Left(body) => Pin::new(body).poll_frame(cx),
            Either::Right(_) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Either::Left(body) => body.is_end_stream(),
            Either::Right(_) => true,
        }
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match &self.inner {
            Either::Left(body) => body.size_hint(),
            Either::Right(_) => http_body::SizeHint::with_exact(0),
        }
    }
}

/// Carries `request` on to `target` (path and query) at `backend`. A 101 is answered with a 101 and the two connections
/// are joined behind the scenes; anything else is streamed back.
pub async fn forward<B>(
    mut request: Request<B>,
    backend: &Backend,
    target: PathAndQuery,
    host: HeaderValue,
) -> Result<Response<ProxyBody>, Error>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let name = backend.target();
    let io = tokio::time::timeout(CONNECT, backend.connect())
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "i/o timeout")))
        .map_err(|source| Error::Connect { target: name.clone(), source })?;
    let failed = |source| Error::Exchange { target: name.clone(), source };
    let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.map_err(failed)?;
    let driver = Driver(tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "A proxied connection ended");
        }
    }));
    let upgrade = asked_upgrade(request.headers());
    let client = upgrade.as_ref().map(|_| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let mut onward = Request::new(body.boxed_unsync());
    *onward.method_mut() = parts.method;
    *onward.uri_mut() = Uri::from(target);
    *onward.headers_mut() = handed_on(&parts.headers, upgrade.as_ref());
    onward.headers_mut().insert(header::HOST, host);
    let mut response = send.send_request(onward).await.map_err(failed)?;
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if response.status().is_redirection() && upgrade.is_some() {
        return Err(Error::Redirect { target: name });
    }
    let protocol = response.headers().get(header::UPGRADE).cloned();
    let headers = handed_on(response.headers(), protocol.as_ref().filter(|_| switched));
    let mut answer = Response::new(());
    *answer.status_mut() = response.status();
    *answer.headers_mut() = headers;
    if let (true, Some(client)) = (switched, client) {
        let backend = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            // Both drivers must run until both sides are handed over.
            let _driver = driver;
            match tokio::try_join!(client, backend) {
                Ok((client, backend)) => tunnel(TokioIo::new(client), TokioIo::new(backend)).await,
                Err(error) => tracing::debug!(%error, "An upgrade was not carried through"),
            }
        });
        return Ok(answer.map(|()| ProxyBody { inner: Either::Right(Empty::new()), _driver: None }));
    }
    Ok(answer.map(|()| ProxyBody { inner: Either::Left(response.into_body()), _driver: Some(driver) }))
}

/// The protocol that a request asks to be upgraded to.
pub fn asked_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let asks = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .any(|v| v.split(',').any(|t| t.trim().eq_ignore_ascii_case("upgrade")));
    if asks { headers.get(header::UPGRADE).cloned() } else { None }
}

/// Copies one way and ends the other side's input.
async fn one_way(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    let _ = tokio::io::copy(&mut from, &mut to).await;
    let _ = to.shutdown().await;
}

/// Joins two connections until one has ended; the other direction then has a moment to say what it has to say.
pub async fn tunnel(a: impl AsyncRead + AsyncWrite, b: impl AsyncRead + AsyncWrite) {
    let (a_read, a_write) = tokio::io::split(a);
    let (b_read, b_write) = tokio::io::split(b);
    let there = std::pin::pin!(one_way(a_read, b_write));
    let back = std::pin::pin!(one_way(b_read, a_write));
    match futures::future::select(there, back).await {
        futures::future::Either::Left(((), rest)) => drop(tokio::time::timeout(LINGER, rest).await),
        futures::future::Either::Right(((), rest)) => drop(tokio::time::timeout(LINGER, rest).await),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_and_hop_headers_stay_behind() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer x"),
            ("impersonate-user", "root"),
            ("x-remote-user", "root"),
            ("connection", "Upgrade, X-Hop"),
            ("upgrade", "websocket"),
            ("x-hop", "1"),
            ("accept", "*/*"),
            ("sec-websocket-key", "k"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let mut want = HeaderMap::new();
        want.insert("accept", HeaderValue::from_static("*/*"));
        want.insert("sec-websocket-key", HeaderValue::from_static("k"));
        assert_eq!(handed_on(&headers, None), want);
        want.insert("connection", HeaderValue::from_static("Upgrade"));
        want.insert("upgrade", HeaderValue::from_static("websocket"));
        assert_eq!(handed_on(&headers, asked_upgrade(&headers).as_ref()), want);
    }
}
