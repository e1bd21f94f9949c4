//! The way to the API server: one pooled HTTP/1.1 client whose errors are [`Failure`]s in upstream's words.
//!
//! Not kube's client: what kubectl says about connections, certificates and answers is upstream's to the letter, watches and
//! logs are read as they come, and a command that asks one question should cost a connection and nothing else.

mod call;
mod connect;
pub mod log;
mod refusal;
pub mod tls;
mod warnings;

use std::{sync::Arc, time::Duration};

use api::{field::go_quote, status::Status};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, upgrade::Upgraded};
use hyper_util::{
    client::legacy::{Client as Pool, connect::capture_connection},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use serde_json::Value;

pub use self::{
    call::{ANY, Call, JSON, escape},
    connect::resolve,
    warnings::Warnings,
};
use self::{connect::Connector, refusal::refused};
use crate::failure::{Failure, plain};

/// What the client says it is.
pub const USER_AGENT: &str = concat!("kubectl/v1.35.0+knarr1 knarr/", env!("CARGO_PKG_VERSION"));

/// Where the server is and how one proves who one is.
#[derive(Clone, Debug, Default)]
pub struct Endpoint {
    /// `https` or `http`.
    pub scheme: String,
    /// A name and `:***` for its password, where the URL had them.
    pub user: Option<String>,
    /// The host and the port as in the URL.
    pub authority: String,
    /// The host without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// What comes before every path, without a slash at its end.
    pub prefix: String,
    /// TLS, with `https`.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// The name that the certificate must have, where it is not the host.
    pub server_name: Option<String>,
    /// Sent with every request: authorization and impersonation.
    pub headers: HeaderMap,
    /// For each request; zero is none.
    pub timeout: Duration,
    /// The same as the server is told it; empty for none.
    pub timeout_told: String,
    /// Why there is no connecting to it.
    pub unreachable: Option<String>,
    /// An HTTP proxy's `host:port`.
    pub proxy: Option<String>,
    /// Hosts and ports of the cluster's other servers: as good as this one where it cannot be reached.
    pub others: Vec<(String, u16)>,
    /// Whether the server must be of our version.
    pub match_version: bool,
    /// How often a connection that is silent is tried, if at all.
    pub keepalive: Option<Duration>,
}

impl Endpoint {
    /// `https://127.0.0.1:6443`.
    pub fn url(&self) -> String {
        let user = self.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
        format!("{}://{user}{}{}", self.scheme, self.authority, self.prefix)
    }
}

/// An answer, whole.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The code.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Errors
    /// If it is none.
    pub fn json(&self) -> Result<Value, Failure> {
        serde_json::from_slice(&self.body).map_err(|e| plain(format!("unable to decode the server's answer: {e}")))
    }

    /// Its media type with parameters.
    pub fn media(&self) -> &str {
        self.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }
}

/// What came of asking for another protocol.
pub enum Upgrade {
    /// The connection and the 101's headers.
    Done(TokioIo<Upgraded>, HeaderMap),
    /// Any other answer.
    Refused(Answer),
}

impl Upgrade {
    /// The connection.
    ///
    /// # Errors
    /// The Status or text that the server refused with.
    pub fn accepted(self) -> Result<(TokioIo<Upgraded>, HeaderMap), Failure> {
        let answer = match self {
            Self::Done(io, headers) => return Ok((io, headers)),
            Self::Refused(answer) => answer,
        };
        match serde_json::from_slice::<Status>(&answer.body) {
            Ok(status) if status.status == "Failure" => Err(Failure::Status(Box::new(status))),
            _ => Err(plain(format!("unable to upgrade connection: {}", String::from_utf8_lossy(&answer.body).trim()))),
        }
    }
}

/// An answer that is read as it comes.
pub struct Stream {
    body: Incoming,
    rest: Vec<u8>,
    /// How far `rest` is known to hold no newline.
    searched: usize,
    /// When its time is over.
    ends: Option<Ends>,
}

impl Stream {
    /// The next piece, `None` at the end.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let frame = in_time(self.ends, self.body.frame()).await;
            let Some(frame) = frame.ok_or_else(|| plain(format!("{CANCELED} {UNREAD}")))? else { return Ok(None) };
            match frame {
                Ok(frame) => match frame.into_data() {
                    Ok(data) => return Ok(Some(data)),
                    Err(_) => continue,
                },
                Err(error) => return Err(plain(broken(&error))),
            }
        }
    }

    /// The next line without its newline; the last one may have none. `None` at the end.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn line(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        loop {
            if let Some(at) = self.rest[self.searched..].iter().position(|b| *b == b'\n') {
                let mut line: Vec<u8> = self.rest.drain(..=self.searched + at).collect();
                line.pop();
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.rest.len();
            match self.chunk().await? {
                Some(chunk) => self.rest.extend_from_slice(&chunk),
                None if self.rest.is_empty() => return Ok(None),
                None => {
                    self.searched = 0;
                    return Ok(Some(std::mem::take(&mut self.rest)));
                }
            }
        }
    }

    /// The next event of a watch: its type and object. `None` at the end.
    ///
    /// # Errors
    /// If the connection breaks, what comes is no event, or the event is an error (then its Status).
    pub async fn event(&mut self) -> Result<Option<(String, Value)>, Failure> {
        let Some(line) = self.line().await? else { return Ok(None) };
        let mut event: Value = serde_json::from_slice(&line)
            .map_err(|e| plain(format!("unable to decode an event from the watch stream: {e}")))?;
        let object = event.get_mut("object").map(Value::take).unwrap_or_default();
        let kind = event.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        if kind == "ERROR" {
            return Err(match serde_json::from_value::<Status>(object) {
                Ok(status) => Failure::Status(Box::new(status)),
                Err(error) => plain(error.to_string()),
            });
        }
        Ok(Some((kind, object)))
    }
}

/// Go's words for time that is over.
const CANCELED: &str = "net/http: request canceled";
const UNANSWERED: &str = "(Client.Timeout exceeded while awaiting headers)";
const UNREAD: &str = "(Client.Timeout or context cancellation while reading body)";

/// When a request's time is over, kept with its answer.
#[derive(Clone, Copy)]
struct Ends(tokio::time::Instant);

/// What comes of work in its time.
async fn in_time<T>(ends: Option<Ends>, work: impl Future<Output = T>) -> Option<T> {
    match ends {
        Some(ends) => tokio::time::timeout_at(ends.0, work).await.ok(),
        None => Some(work.await),
    }
}

async fn whole_body(body: Incoming) -> Result<Bytes, String> {
    body.collect().await.map(http_body_util::Collected::to_bytes).map_err(|error| broken(&error))
}

/// A method as Go names it in errors: `Get`.
fn in_words(method: &Method) -> String {
    let method = method.as_str();
    format!("{}{}", &method[..1], method[1..].to_lowercase())
}

/// Why a request did not get to the server.
fn why_unsent(error: &(dyn std::error::Error + 'static)) -> String {
    let mut source = Some(error);
    while let Some(error) = source {
        if let Some(told) = error.downcast_ref::<connect::Error>() {
            return told.0.clone();
        }
        source = error.source();
    }
    match broken(error).as_str() {
        "unexpected EOF" => "EOF".to_owned(),
        other => other.to_owned(),
    }
}

fn broken(error: &(dyn std::error::Error + 'static)) -> String {
    let mut source = Some(error);
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return crate::failure::go_io(io);
        }
        source = error.source();
    }
    "unexpected EOF".to_owned()
}

/// A body that is there.
fn whole(bytes: Bytes) -> UnsyncBoxBody<Bytes, hyper::Error> {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

struct Inner {
    endpoint: Endpoint,
    pool: Pool<Connector, UnsyncBoxBody<Bytes, hyper::Error>>,
    warnings: Warnings,
    matches: tokio::sync::OnceCell<Result<(), Failure>>,
}

/// The client; clones share connections.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

impl Client {
    /// A client that has not connected yet.
    pub fn new(endpoint: Endpoint) -> Self {
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .http1_title_case_headers(true)
            .build(Connector::new(&endpoint));
        Self(Arc::new(Inner { endpoint, pool, warnings: Warnings::default(), matches: tokio::sync::OnceCell::new() }))
    }

    /// Where the server is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.0.endpoint
    }

    /// How many different warnings the server has given.
    pub fn warnings(&self) -> usize {
        self.0.warnings.count()
    }

    async fn send(&self, call: &Call) -> Result<http::Response<Incoming>, Failure> {
        self.matched().await?;
        self.transmit(call).await
    }

    /// Whether the server is of our version, where it must be.
    ///
    /// # Errors
    /// It is not, or does not say.
    pub async fn matched(&self) -> Result<(), Failure> {
        match self.0.endpoint.match_version {
            true => self.0.matches.get_or_init(|| self.match_versions()).await.clone(),
            false => Ok(()),
        }
    }

    /// Compares the server's version to ours.
    async fn match_versions(&self) -> Result<(), Failure> {
        let unread = |why: String| plain(format!("couldn't read version from server: {why}"));
        let call = Call::get("/version").soon();
        let response = self.transmit(&call).await.map_err(|failure| unread(failure.message()))?;
        let body = whole_body(response.into_body()).await.map_err(unread)?;
        let server: Value = serde_json::from_slice(&body).map_err(|error| unread(error.to_string()))?;
        crate::verbs::version::matches(&server).map_err(plain)
    }

    async fn transmit(&self, call: &Call) -> Result<http::Response<Incoming>, Failure> {
        let endpoint = &self.0.endpoint;
        let target = call.target(&endpoint.timeout_told);
        let failed = |reason: String| Failure::Connection {
            host: endpoint.authority.clone(),
            request: format!("{} {}", in_words(&call.method), go_quote(&format!("{}{target}", endpoint.url()))),
            reason,
        };
        if let Some(why) = &endpoint.unreachable {
            return Err(failed(why.clone()));
        }
        // It was over before it began.
        if !endpoint.timeout.is_zero() && endpoint.timeout < Duration::from_micros(1) {
            return Err(Failure::Plain("context deadline exceeded".to_owned()));
        }
        let uri = format!("{}://{}{}{target}", endpoint.scheme, endpoint.authority, endpoint.prefix);
        let mut request = http::Request::new(whole(call.body.clone()));
        *request.method_mut() = call.method.clone();
        *request.uri_mut() = uri.parse().map_err(|e| plain(format!("parse {}: {e}", go_quote(&uri))))?;
        let headers = request.headers_mut();
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        for (name, value) in endpoint.headers.iter().chain(&call.headers) {
            headers.append(name, value.clone());
        }
        let connection = capture_connection(&mut request);
        if !call.unlogged {
            log::request(call, request.uri(), request.headers());
        }
        let uri = request.uri().clone();
        let begun = std::time::Instant::now();
        let ends = Some(endpoint.timeout).filter(|t| !t.is_zero()).map(|timeout| Ends((begun + timeout).into()));
        let work = async { self.0.pool.request(request).await.map_err(|error| why_unsent(&error)) };
        let sent = match in_time(ends, work).await {
            Some(sent) => sent,
            None if connection.connection_metadata().is_none() => {
                Err(format!("{CANCELED} while waiting for connection {UNANSWERED}"))
            }
            None => Err(format!("{CANCELED} {UNANSWERED}")),
        };
        if !call.unlogged {
            log::response(call, &uri, &sent, begun.elapsed());
        }
        let mut response = sent.map_err(failed)?;
        self.0.warnings.note(response.headers());
        ends.map(|ends| response.extensions_mut().insert(ends));
        Ok(response)
    }

    /// Asks and reads the answer whole, whatever its code.
    ///
    /// # Errors
    /// If the server cannot be reached.
    pub async fn raw(&self, call: Call) -> Result<Answer, Failure> {
        let (parts, body) = self.send(&call).await?.into_parts();
        let read = in_time(parts.extensions.get::<Ends>().copied(), whole_body(body)).await;
        let body = read.unwrap_or_else(|| Err(format!("{CANCELED} {UNREAD}"))).map_err(|why| {
            log::error("request.go:1332", &format!("Unexpected error when reading response body: {why}"));
            plain(format!("unexpected error when reading response body. Please retry. Original error: {why}"))
        })?;
        if !call.unlogged {
            log::answered(&body);
        }
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }

    /// Asks and reads the answer whole.
    ///
    /// # Errors
    /// If the server cannot be reached or refuses.
    pub async fn call(&self, call: Call) -> Result<Answer, Failure> {
        let (method, path) = (call.method.clone(), call.path.clone());
        let answer = self.raw(call).await?;
        if answer.status.is_success() { Ok(answer) } else { Err(refused(&method, &path, &answer)) }
    }

    /// Asks and reads the answer's JSON.
    ///
    /// # Errors
    /// If the server cannot be reached, refuses, or answers something else.
    pub async fn json(&self, call: Call) -> Result<Value, Failure> {
        self.call(call).await?.json()
    }

    /// Asks and hands back the answer's stream (watches, logs).
    ///
    /// # Errors
    /// If the server cannot be reached or refuses.
    pub async fn open(&self, call: Call) -> Result<Stream, Failure> {
        let (parts, body) = self.send(&call).await?.into_parts();
        if parts.status.is_success() {
            let ends = parts.extensions.get::<Ends>().copied();
            return Ok(Stream { body, rest: Vec::new(), searched: 0, ends });
        }
        let body = whole_body(body).await.unwrap_or_default();
        let answer = Answer { status: parts.status, headers: parts.headers, body };
        Err(refused(&call.method, &call.path, &answer))
    }

    /// Asks for another protocol; the call's headers name it.
    ///
    /// # Errors
    /// If the server cannot be reached.
    pub async fn upgrade(&self, mut call: Call) -> Result<Upgrade, Failure> {
        // Container runtimes that serve streams themselves answer 406 to one who accepts only JSON.
        call.headers.remove(header::ACCEPT);
        let mut response = self.send(&call).await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let headers = std::mem::take(response.headers_mut());
            let io = hyper::upgrade::on(response).await.map_err(|e| plain(broken(&e)))?;
            return Ok(Upgrade::Done(TokioIo::new(io), headers));
        }
        let (parts, body) = response.into_parts();
        let body = whole_body(body).await.unwrap_or_default();
        Ok(Upgrade::Refused(Answer { status: parts.status, headers: parts.headers, body }))
    }

    /// Sends on the request of somebody else, whose URI is a path below the server's address, with as much of our headers as
    /// it lacks; hands back the answer as it comes.
    ///
    /// # Errors
    /// Why the server cannot be reached, in Go's words.
    pub async fn forward(&self, mut request: http::Request<Incoming>) -> Result<http::Response<Incoming>, String> {
        let endpoint = &self.0.endpoint;
        if let Some(why) = &endpoint.unreachable {
            return Err(why.clone());
        }
        let uri = format!("{}://{}{}", endpoint.scheme, endpoint.authority, request.uri());
        *request.uri_mut() = uri.parse().map_err(|error| format!("parse {}: {error}", go_quote(&uri)))?;
        let headers = request.headers_mut();
        headers.remove(header::HOST);
        headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static(USER_AGENT));
        // Who says himself who he is, or as whom he acts, says it all.
        let authorized = headers.contains_key(header::AUTHORIZATION);
        let impersonating = headers.contains_key("impersonate-user");
        for (name, value) in &endpoint.headers {
            let said = if *name == header::AUTHORIZATION { authorized } else { impersonating };
            if !said {
                headers.append(name, value.clone());
            }
        }
        self.0.pool.request(request.map(BodyExt::boxed_unsync)).await.map_err(|error| why_unsent(&error))
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// A client of a server that says `said` to a request and then nothing more.
    async fn stuck(scheme: &str, said: &'static str) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            while connection.read(&mut request).await.is_ok_and(|read| read > 0) {
                connection.write_all(said.as_bytes()).await.unwrap();
            }
        });
        let tls = (scheme == "https").then(|| Arc::new(tls::config(&tls::Material::default()).unwrap()));
        let (host, authority) = ("127.0.0.1".to_owned(), format!("127.0.0.1:{port}"));
        let timeout = Duration::from_millis(50);
        Client::new(Endpoint { scheme: scheme.to_owned(), authority, host, port, tls, timeout, ..Endpoint::default() })
    }

    #[tokio::test]
    async fn time_that_is_over_is_told_by_what_it_was_spent_on() {
        const CUT: &str = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{";
        let read = "unexpected error when reading response body. Please retry. Original error: net/http: request canceled \
                    (Client.Timeout or context cancellation while reading body)";
        for (scheme, said, want) in [
            ("https", "", "while waiting for connection (Client.Timeout exceeded while awaiting headers)"),
            ("http", "", "net/http: request canceled (Client.Timeout exceeded while awaiting headers)"),
            ("http", CUT, read),
        ] {
            let failure = stuck(scheme, said).await.raw(Call::get("/x")).await.unwrap_err();
            assert!(failure.message().ends_with(want), "{scheme} {said:?}: {failure}");
        }
    }

    #[tokio::test]
    async fn streams_end_in_time_too() {
        let client = stuck("http", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{").await;
        let mut stream = client.open(Call::get("/x")).await.unwrap();
        assert_eq!(stream.chunk().await.unwrap().unwrap(), "{");
        let failure = stream.chunk().await.unwrap_err();
        assert!(failure.message().ends_with("while reading body)"), "{failure}");
    }
}
