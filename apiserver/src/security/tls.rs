//! The listener: TLS with optional client certificates, HTTP/1.1 (upgrades included) and HTTP/2 on one port.
//!
//! A client certificate that does not verify ends no handshake: as upstream, the connection stands and its requests are
//! answered 401, which clients can show to people. rustls still checks that the peer holds the certificate's key; chain and
//! validity are checked here once a connection, expiry again with every request ([`Peer`]).

use std::{
    fmt, io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use knarr_x509::Anyone;
use process::{
    idle::{self, Idle},
    quiet::Quiet,
};
use rustls::{
    DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use super::{
    pki::Pair,
    refusal::{Asked, Telling},
    socket::Socket,
    x509,
};
use crate::identity::User;

const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a connection is kept on which nothing is asked for. Upstream's figure.
const IDLE: Duration = Duration::from_secs(90);
/// How long running requests may go on after the shutdown began.
const DRAIN: Duration = Duration::from_secs(5);
const PROBE: Duration = Duration::from_secs(15);
/// Upstream's `--http2-max-streams-per-connection`.
const STREAMS: u32 = 250;

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A PEM text held no certificate or no key.
    #[error("read the {0} from PEM")]
    Pem(&'static str),
    /// rustls refused.
    #[error("configure TLS")]
    Rustls(#[from] rustls::Error),
    /// The authorities are no use.
    #[error("configure client certificates")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// Who is at the other end of a connection; in the extensions of every request from the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// What its client certificate says.
    pub certificate: Certificate,
}

/// The outcome of looking at a client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// None was shown.
    Absent,
    /// One was shown that does not hold; the reason is for the log.
    Bad(String),
    /// One that holds until `not_after` (seconds since 1970).
    Good {
        /// The user: CN, and O as groups.
        user: Arc<User>,
        /// Its end.
        not_after: i64,
    },
}

/// Takes any certificate whose key the peer holds; [`Verifier::judge`] says later what it is worth.
struct Verifier(Arc<dyn ClientCertVerifier>);

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}

impl Verifier {
    fn judge(&self, chain: Option<&[CertificateDer<'_>]>) -> Certificate {
        let Some([leaf, rest @ ..]) = chain else { return Certificate::Absent };
        if let Err(error) = self.0.verify_client_cert(leaf, rest, UnixTime::now()) {
            return Certificate::Bad(error.to_string());
        }
        match x509::read(leaf) {
            Ok(facts) if facts.common_name.is_empty() => Certificate::Bad("the subject has no common name".to_owned()),
            Ok(facts) => {
                let groups: Vec<&str> = facts.organizations.iter().map(String::as_str).collect();
                Certificate::Good { user: Arc::new(User::new(&facts.common_name, &groups)), not_after: facts.not_after }
            }
            Err(error) => Certificate::Bad(error.to_string()),
        }
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// A listener's TLS side. Clones share the certificate, which can be exchanged while serving.
#[derive(Clone)]
pub struct Tls {
    current: Arc<ArcSwap<Current>>,
}

struct Current {
    config: Arc<ServerConfig>,
    verifier: Arc<Verifier>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

/// The process' one TLS provider.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The certificates in a PEM bundle as trust anchors.
pub fn roots(pem: &str) -> Result<RootCertStore, Error> {
    use rustls::pki_types::pem::PemObject;
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        store.add(certificate.map_err(|_| Error::Pem("authority"))?)?;
    }
    if store.is_empty() { Err(Error::Pem("authority")) } else { Ok(store) }
}

impl Tls {
    /// Serves as `pair` and takes client certificates signed by `authorities` (PEM).
    pub fn new(pair: &Pair, authorities: &str) -> Result<Self, Error> {
        Ok(Self { current: Arc::new(ArcSwap::from_pointee(Current::new(pair, authorities)?)) })
    }

    /// Serves new connections as `pair` from now on.
    pub fn exchange(&self, pair: &Pair, authorities: &str) -> Result<(), Error> {
        self.current.store(Arc::new(Current::new(pair, authorities)?));
        Ok(())
    }
}

impl Current {
    fn new(pair: &Pair, authorities: &str) -> Result<Self, Error> {
        let inner = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(authorities)?), provider()).build()?;
        let verifier = Arc::new(Verifier(inner));
        let (chain, key) = pair.der().ok_or(Error::Pem("serving certificate and key"))?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier.clone())
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // A connection's certificate is judged from the handshake itself: no resumption that skips it.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { config: Arc::new(config), verifier })
    }
}

/// A TLS client's side: trusts `authorities` (PEM) and shows `pair`.
pub fn client(pair: Option<&Pair>, authorities: &str) -> Result<rustls::ClientConfig, Error> {
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(authorities)?);
    Ok(match pair {
        Some(pair) => {
            let (chain, key) = pair.der().ok_or(Error::Pem("client certificate and key"))?;
            builder.with_client_auth_cert(chain, key)?
        }
        None => builder.with_no_client_auth(),
    })
}

/// A TLS client's side that shows nothing and trusts anyone: what a pod or service serves is not the cluster's to vouch for.
pub fn insecure_client() -> Result<rustls::ClientConfig, Error> {
    Ok(rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Anyone::new(provider()))
        .with_no_client_auth())
}

/// Accepts and serves until `shutdown`, then lets running requests finish for a few seconds.
pub async fn serve(listener: TcpListener, tls: Tls, service: axum::Router, shutdown: CancellationToken) {
    serve_patiently(listener, tls, service, IDLE, shutdown).await;
}

async fn serve_patiently(
    listener: TcpListener,
    tls: Tls,
    service: axum::Router,
    patience: Duration,
    shutdown: CancellationToken,
) {
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                pause_after(&error).await;
                continue;
            }
        };
        let (current, service, shutdown) = (tls.current.load_full(), service.clone(), shutdown.clone());
        tasks.spawn(async move {
            keep_alive(&stream);
            let acceptor = tokio_rustls::TlsAcceptor::from(current.config.clone());
            match tokio::time::timeout(HANDSHAKE, handshake(&acceptor, stream)).await {
                Ok(Ok(stream)) => {
                    let certificate = current.verifier.judge(stream.get_ref().1.peer_certificates());
                    connection(stream, Peer { address, certificate }, service, patience, shutdown).await;
                }
                Ok(Err(error)) => tracing::info!("http: TLS handshake error from {address}: {error}"),
                Err(_) => tracing::info!("http: TLS handshake error from {address}: timeout"),
            }
        });
    }
    tasks.close();
    if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
        tracing::info!(connections = tasks.len(), "Left connections behind");
    }
}

/// Peers that vanish without a word (watchers above all) are noticed by the kernel, as Go's listeners do it.
fn keep_alive(stream: &TcpStream) {
    let probes = socket2::TcpKeepalive::new().with_time(PROBE).with_interval(PROBE);
    let _ = stream.set_nodelay(true);
    let _ = socket2::SockRef::from(stream).set_tcp_keepalive(&probes);
}

/// Out of descriptors is a matter of time; anything else concerns one connection only.
async fn pause_after(error: &io::Error) {
    tracing::warn!(%error, "Could not accept a connection");
    if matches!(error.raw_os_error(), Some(code) if code == EMFILE || code == ENFILE || code == ENOMEM) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

const EMFILE: i32 = 24;
const ENFILE: i32 = 23;
const ENOMEM: i32 = 12;

type Stream = tokio_rustls::server::TlsStream<Socket>;

/// The handshake, with a plain answer to clients that speak HTTP to the TLS port.
async fn handshake(acceptor: &tokio_rustls::TlsAcceptor, stream: TcpStream) -> io::Result<Stream> {
    let mut first = [0u8; 4];
    let seen = stream.peek(&mut first).await?;
    if matches!(&first[..seen], b"GET " | b"POST" | b"PUT " | b"HEAD" | b"DELE" | b"OPTI" | b"PATC") {
        let mut stream = stream;
        let body = "Client sent an HTTP request to an HTTPS server.\n";
        let answer = format!("HTTP/1.0 400 Bad Request\r\n\r\n{body}");
        stream.write_all(answer.as_bytes()).await?;
        return Err(io::Error::other("client sent an HTTP request to an HTTPS server"));
    }
    acceptor.accept(Socket(stream)).await
}

async fn connection(stream: Stream, peer: Peer, service: axum::Router, patience: Duration, shutdown: CancellationToken) {
    let address = peer.address;
    let idle = Idle::new();
    let counted = idle.clone();
    let asked = Asked::new(idle.clone());
    let stream = Telling::new(stream, asked.clone());
    let service = hyper::service::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
        asked.of(&request);
        let under_way = counted.request();
        request.extensions_mut().insert(peer.clone());
        let answering = service.clone().oneshot(request);
        async move { answering.await.map(|answer| under_way.answered_by(answer)) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(patience).max_buf_size(1 << 20);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_pending_accept_reset_streams(Some(20))
        .max_header_list_size(1 << 20)
        .initial_stream_window_size(256 << 10)
        .initial_connection_window_size(1 << 20)
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(15));
    let connection = std::pin::pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let over = async {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = idle.lasts(patience) => {}
        }
    };
    match idle::serve(connection, &idle, Quiet::new(over), |connection| connection.graceful_shutdown()).await {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!("Connection from {address} ended: {error}"),
        None => tracing::debug!("Connection from {address} closed: nothing was asked for, and the peer holds it"),
    }
}

/// Seconds since 1970.
pub fn unix_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
}

#[cfg(test)]
mod tests {
    use axum::{Extension, Router, routing::get};
    use http_body_util::{BodyExt, Empty};
    use hyper::body::Bytes;

    use super::*;
    use crate::security::pki::{Pki, Subject};

    struct Dir(std::path::PathBuf);

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn pki() -> (Dir, Pki) {
        let dir = Dir(std::env::temp_dir().join(format!("knarr-tls-{}", uuid::Uuid::new_v4())));
        let pki = Pki::open(&dir.0, time::OffsetDateTime::now_utc()).unwrap();
        (dir, pki)
    }

    async fn ask(address: SocketAddr, config: rustls::ClientConfig) -> String {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::get("/").header("host", "x").body(Empty::<Bytes>::new()).unwrap();
        let body = send.send_request(request).await.unwrap().into_body().collect().await.unwrap();
        String::from_utf8(body.to_bytes().to_vec()).unwrap()
    }

    /// A server that is patient for a short while; `/watch` has its only event after twice as long.
    async fn impatient(patience: Duration) -> (Dir, Pki, SocketAddr, tokio_util::sync::DropGuard) {
        let (dir, pki) = pki();
        let tls = Tls::new(&pki.api_server(&[]).unwrap(), pki.authority_pem()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let late = move || async move {
            tokio::time::sleep(patience * 2).await;
            Ok::<_, io::Error>("late")
        };
        let watch = get(move || async move { axum::body::Body::from_stream(futures::stream::once(late())) });
        let router = Router::new().route("/", get(|| async { "there" })).route("/watch", watch);
        let shutdown = CancellationToken::new();
        tokio::spawn(serve_patiently(listener, tls, router, patience, shutdown.clone()));
        (dir, pki, address, shutdown.drop_guard())
    }

    async fn connect(address: SocketAddr, pki: &Pki) -> tokio_rustls::client::TlsStream<TcpStream> {
        let stream = TcpStream::connect(address).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client(None, pki.authority_pem()).unwrap()));
        connector.connect(rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap(), stream).await.unwrap()
    }

    const FOREVER: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn who_shakes_hands_and_asks_for_nothing_is_let_go() {
        use tokio::io::AsyncReadExt;
        let patience = Duration::from_millis(100);
        let (_dir, pki, address, _end) = impatient(patience).await;
        let began = std::time::Instant::now();
        let mut silent = connect(address, &pki).await;
        let ended = tokio::time::timeout(FOREVER, silent.read(&mut [0])).await.expect("the connection's end");
        assert_eq!(ended.unwrap_or_default(), 0);
        assert!(began.elapsed() >= patience);
    }

    #[tokio::test]
    async fn who_asked_once_is_let_go_in_order_and_a_watch_is_not() {
        let patience = Duration::from_millis(100);
        let (_dir, pki, address, _end) = impatient(patience).await;
        for (path, said) in [("/", "there"), ("/watch", "late")] {
            let request = || http::Request::get(format!("https://x{path}")).body(Empty::<Bytes>::new()).unwrap();
            let stream = TokioIo::new(connect(address, &pki).await);
            let executor = TokioExecutor::new();
            let (mut send, connection) = hyper::client::conn::http2::handshake(executor, stream).await.unwrap();
            let connection = tokio::spawn(connection);
            let body = send.send_request(request()).await.unwrap().into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body, said);
            // A GOAWAY, and not a broken connection: else this is an error.
            tokio::time::timeout(FOREVER, connection).await.expect("the connection's end").unwrap().unwrap();
            assert!(send.send_request(request()).await.is_err());

            let stream = TokioIo::new(connect(address, &pki).await);
            let (mut send, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
            let connection = tokio::spawn(connection);
            let request = http::Request::get(path).header("host", "x").body(Empty::<Bytes>::new()).unwrap();
            let body = send.send_request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body, said);
            let _ = tokio::time::timeout(FOREVER, connection).await.expect("the connection's end");
        }
    }

    #[tokio::test]
    async fn who_does_not_speak_http_is_told_so() {
        use tokio::io::AsyncReadExt;
        let (_dir, pki, address, _end) = impatient(FOREVER).await;
        for (request, told) in [
            ("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n", "400 Bad Request"),
            ("GET / HTTP/1.1\r\nHost: x\r\nNa me: v\r\n\r\n", "400 Bad Request: invalid header name"),
            ("GET / HTTP/4.2\r\nHost: x\r\n\r\n", "505 HTTP Version Not Supported: unsupported protocol version"),
        ] {
            let mut stream = connect(address, &pki).await;
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            let read = tokio::time::timeout(FOREVER, stream.read_to_string(&mut answer));
            let _ = read.await.expect("the connection's end");
            let fields = "Content-Type: text/plain; charset=utf-8\r\nConnection: close";
            assert_eq!(answer, format!("HTTP/1.1 {told}\r\n{fields}\r\n\r\n{told}"));
        }
    }

    #[tokio::test]
    async fn certificates_name_users_and_bad_ones_still_connect() {
        let ((_d1, ours), (_d2, theirs)) = (pki(), pki());
        let tls = Tls::new(&ours.api_server(&[]).unwrap(), ours.authority_pem()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route(
            "/",
            get(|Extension(peer): Extension<Peer>| async move {
                match peer.certificate {
                    Certificate::Absent => "absent".to_owned(),
                    Certificate::Bad(_) => "bad".to_owned(),
                    Certificate::Good { user, .. } => format!("{} {:?}", user.name, user.groups),
                }
            }),
        );
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(serve(listener, tls, router, shutdown.clone()));
        let subject = Subject::client("alice", &["dev", "ops"]);
        let mut got = Vec::new();
        for pair in [None, Some(ours.issue(&subject).unwrap()), Some(theirs.issue(&subject).unwrap())] {
            got.push(ask(address, client(pair.as_ref(), ours.authority_pem()).unwrap()).await);
        }
        assert_eq!(got, ["absent", "alice [\"dev\", \"ops\", \"system:authenticated\"]", "bad"]);
        shutdown.cancel();
        server.await.unwrap();
    }
}
