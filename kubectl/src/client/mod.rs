//! The way to the API server: one pooled HTTP/1.1 client whose errors are [`Failure`]s in upstream's words.
//!
//! Not kube's client: what kubectl says about connections, certificates and answers is upstream's to the letter, watches and
//! logs are read as they come, and a command that asks one question should cost a connection and nothing else.

mod connect;
pub mod tls;
mod warnings;

use std::{sync::Arc, time::Duration};

use api::status::Status;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, upgrade::Upgraded};
use hyper_util::{
    client::legacy::Client as Pool,
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use serde_json::Value;

use self::{connect::Connector, warnings::Warnings};
use crate::failure::{Failure, plain};

/// What the client says it is.
pub const USER_AGENT: &str = concat!("kubectl/v1.35.0+knarr1 knarr/", env!("CARGO_PKG_VERSION"));

/// The media type of patches and bodies in JSON.
pub const JSON: &str = "application/json";

/// Where the server is and how one proves who one is.
#[derive(Clone, Debug, Default)]
pub struct Endpoint {
    /// `https` or `http`.
    pub scheme: String,
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
    /// An HTTP proxy's `host:port`.
    pub proxy: Option<String>,
    /// From `-v`.
    pub verbosity: i32,
}

impl Endpoint {
    /// `127.0.0.1:6443`, as in the URL.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.scheme.as_str(), self.port) {
            ("https", 443) | ("http", 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }

    /// `https://127.0.0.1:6443`.
    pub fn url(&self) -> String {
        format!("{}://{}{}", self.scheme, self.authority(), self.prefix)
    }
}

/// A request.
#[derive(Clone, Debug)]
pub struct Call {
    /// The verb.
    pub method: Method,
    /// Below the server's address, escaped: `/api/v1/namespaces/default/pods`.
    pub path: String,
    /// Pairs, not escaped.
    pub query: Vec<(String, String)>,
    /// Besides the endpoint's.
    pub headers: HeaderMap,
    /// Empty for none.
    pub body: Bytes,
}

impl Call {
    /// A request without a body that asks for JSON.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(JSON));
        Self { method, path: path.into(), query: Vec::new(), headers, body: Bytes::new() }
    }

    /// A GET.
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    /// A POST of JSON.
    pub fn post(path: impl Into<String>, body: &Value) -> Self {
        Self::new(Method::POST, path).json(body)
    }

    /// A PUT of JSON.
    pub fn put(path: impl Into<String>, body: &Value) -> Self {
        Self::new(Method::PUT, path).json(body)
    }

    /// A PATCH of the given media type (`application/merge-patch+json`).
    pub fn patch(path: impl Into<String>, media: &str, body: impl Into<Bytes>) -> Self {
        Self::new(Method::PATCH, path).body(media, body)
    }

    /// A DELETE.
    pub fn delete(path: impl Into<String>) -> Self {
        Self::new(Method::DELETE, path)
    }

    /// With one more parameter.
    #[must_use]
    pub fn query(mut self, name: &str, value: impl Into<String>) -> Self {
        self.query.push((name.to_owned(), value.into()));
        self
    }

    /// With one more parameter unless it is empty.
    #[must_use]
    pub fn query_if(self, name: &str, value: &str) -> Self {
        if value.is_empty() { self } else { self.query(name, value) }
    }

    /// With a header in place of its older value. Names and values that no header may have are left out.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    /// Asks for other media types.
    #[must_use]
    pub fn accept(self, media: &str) -> Self {
        self.header(header::ACCEPT, media)
    }

    /// With a body.
    #[must_use]
    pub fn body(mut self, media: &str, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self.header(header::CONTENT_TYPE, media)
    }

    /// With a body in JSON.
    #[must_use]
    pub fn json(self, body: &Value) -> Self {
        self.body(JSON, body.to_string())
    }

    fn target(&self) -> String {
        if self.query.is_empty() {
            return self.path.clone();
        }
        let pairs: Vec<String> = self.query.iter().map(|(k, v)| format!("{}={}", escape(k, ""), escape(v, ""))).collect();
        let joint = if self.path.contains('?') { '&' } else { '?' };
        format!("{}{joint}{}", self.path, pairs.join("&"))
    }
}

/// Text as part of a URL; what is in `also` stays as it is besides letters, digits and `-._~`.
pub fn escape(text: &str, also: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || also.as_bytes().contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
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
}

impl Stream {
    /// The next piece, `None` at the end.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        while let Some(frame) = self.body.frame().await {
            match frame {
                Ok(frame) => match frame.into_data() {
                    Ok(data) => return Ok(Some(data)),
                    Err(_) => continue,
                },
                Err(error) => return Err(plain(broken(&error))),
            }
        }
        Ok(None)
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

struct Inner {
    endpoint: Endpoint,
    pool: Pool<Connector, Full<Bytes>>,
    warnings: Warnings,
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
        Self(Arc::new(Inner { endpoint, pool, warnings: Warnings::default() }))
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
        let endpoint = &self.0.endpoint;
        let target = call.target();
        let uri = format!("{}://{}{}{target}", endpoint.scheme, endpoint.authority(), endpoint.prefix);
        let mut request = http::Request::new(Full::new(call.body.clone()));
        *request.method_mut() = call.method.clone();
        *request.uri_mut() = uri.parse().map_err(|e| plain(format!("parse {}: {e}", api::field::go_quote(&uri))))?;
        let headers = request.headers_mut();
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        for (name, value) in endpoint.headers.iter().chain(&call.headers) {
            headers.append(name, value.clone());
        }
        let begun = std::time::Instant::now();
        let sent = self.0.pool.request(request).await;
        if endpoint.verbosity >= 6 {
            log(call, &uri, &sent, begun.elapsed(), endpoint.verbosity);
        }
        let response = sent.map_err(|error| self.connection_failure(&error))?;
        self.0.warnings.note(response.headers());
        Ok(response)
    }

    fn connection_failure(&self, error: &(dyn std::error::Error + 'static)) -> Failure {
        let mut source = Some(error);
        while let Some(error) = source {
            if let Some(told) = error.downcast_ref::<connect::Error>() {
                return Failure::Connection { host: self.0.endpoint.authority(), reason: told.0.clone() };
            }
            source = error.source();
        }
        let reason = match broken(error).as_str() {
            "unexpected EOF" => "EOF".to_owned(),
            other => other.to_owned(),
        };
        Failure::Connection { host: self.0.endpoint.authority(), reason }
    }

    async fn limited<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let limit = self.0.endpoint.timeout;
        if limit.is_zero() {
            return work.await;
        }
        match tokio::time::timeout(limit, work).await {
            Ok(done) => done,
            Err(_) => Err(Failure::Connection {
                host: self.0.endpoint.authority(),
                reason: "net/http: request canceled (Client.Timeout exceeded while awaiting headers)".to_owned(),
            }),
        }
    }

    /// Asks and reads the answer whole, whatever its code.
    ///
    /// # Errors
    /// If the server cannot be reached.
    pub async fn raw(&self, call: Call) -> Result<Answer, Failure> {
        let work = async {
            let (parts, body) = self.send(&call).await?.into_parts();
            let body = body.collect().await.map_err(|e| plain(broken(&e)))?.to_bytes();
            if self.0.endpoint.verbosity >= 8 {
                eprintln!("{}Response Body: {}", log_head(), String::from_utf8_lossy(&body));
            }
            Ok(Answer { status: parts.status, headers: parts.headers, body })
        };
        self.limited(work).await
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
        let response = self.limited(self.send(&call)).await?;
        let (parts, body) = response.into_parts();
        if parts.status.is_success() {
            return Ok(Stream { body, rest: Vec::new(), searched: 0 });
        }
        let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
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
        let mut response = self.limited(self.send(&call)).await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let headers = std::mem::take(response.headers_mut());
            let io = hyper::upgrade::on(response).await.map_err(|e| plain(broken(&e)))?;
            return Ok(Upgrade::Done(TokioIo::new(io), headers));
        }
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        Ok(Upgrade::Refused(Answer { status: parts.status, headers: parts.headers, body }))
    }
}

/// What a refusal says: the Status in the body, or what client-go makes of an answer without one.
fn refused(method: &Method, path: &str, answer: &Answer) -> Failure {
    if let Ok(status) = serde_json::from_slice::<Value>(&answer.body)
        && status["kind"] == "Status"
        && let Ok(status) = serde_json::from_value::<Status>(status)
    {
        return Failure::Status(Box::new(status));
    }
    Failure::Status(Box::new(generic(method, path, answer)))
}

fn generic(method: &Method, path: &str, answer: &Answer) -> Status {
    let text = String::from_utf8_lossy(&answer.body);
    let text = text.trim();
    let verb = match *method {
        Method::GET => "get",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    };
    let code = answer.status.as_u16();
    let (reason, message) = match code {
        409 if *method == Method::POST => ("AlreadyExists", "the server reported a conflict".to_owned()),
        409 => ("Conflict", "the server reported a conflict".to_owned()),
        404 => ("NotFound", "the server could not find the requested resource".to_owned()),
        400 => ("BadRequest", "the server rejected our request for an unknown reason".to_owned()),
        401 => ("Unauthorized", "the server has asked for the client to provide credentials".to_owned()),
        403 if text.is_empty() => ("Forbidden", format!("{path} is forbidden")),
        403 => ("Forbidden", text.to_owned()),
        406 => ("NotAcceptable", if text.is_empty() { "unknown".to_owned() } else { text.to_owned() }),
        415 => ("UnsupportedMediaType", if text.is_empty() { "unknown".to_owned() } else { text.to_owned() }),
        405 => ("MethodNotAllowed", "the server does not allow this method on the requested resource".to_owned()),
        422 => ("Invalid", "the server rejected our request due to an error in our request".to_owned()),
        503 => ("ServiceUnavailable", "the server is currently unable to handle the request".to_owned()),
        504 => (
            "Timeout",
            "the server was unable to return a response in the time allotted, but may still be processing the request"
                .to_owned(),
        ),
        429 => {
            ("TooManyRequests", "the server has received too many requests and has asked us to try again later".to_owned())
        }
        500.. => (
            "InternalError",
            format!(
                "an error on the server ({}) has prevented the request from succeeding",
                api::field::go_quote(if text.is_empty() { "unknown" } else { text })
            ),
        ),
        _ => ("", format!("the server responded with the status code {code} but did not return more information")),
    };
    let about = if verb.is_empty() || code >= 500 && code != 503 && code != 504 {
        String::new()
    } else {
        format!(" ({verb} {})", resource_of(path))
    };
    let message = match reason {
        "" | "Forbidden" | "NotAcceptable" | "UnsupportedMediaType" | "InternalError" => message,
        _ if about.ends_with(" )") => message,
        _ => format!("{message}{about}"),
    };
    let mut status = Status::default();
    status.status = "Failure".to_owned();
    status.reason = reason.to_owned();
    status.message = message;
    status.code = i32::from(code);
    status
}

/// `pods web` for the path of a pod: what client-go names in messages.
fn resource_of(path: &str) -> String {
    let parts: Vec<&str> = path.split('?').next().unwrap_or_default().split('/').filter(|p| !p.is_empty()).collect();
    let (group, rest): (String, &[&str]) = match parts.as_slice() {
        ["api", _, rest @ ..] => (String::new(), rest),
        ["apis", group, _, rest @ ..] => (format!(".{group}"), rest),
        _ => (String::new(), &[]),
    };
    let rest: &[&str] = match rest {
        ["namespaces", _, rest @ ..] if !rest.is_empty() => rest,
        rest => rest,
    };
    match rest {
        [] => String::new(),
        [resource] => format!("{resource}{group}"),
        [resource, name, ..] => format!("{resource}{group} {name}"),
    }
}

fn log_head() -> String {
    let now = jiff::Zoned::now();
    format!("I{} {:>7} client.rs:1] ", now.strftime("%m%d %H:%M:%S%.6f"), std::process::id())
}

fn log<E>(call: &Call, uri: &str, sent: &Result<http::Response<Incoming>, E>, took: Duration, verbosity: i32) {
    let outcome = sent.as_ref().map_or_else(|_| String::new(), |r| r.status().to_string());
    eprintln!("{}{} {uri} {outcome} in {} milliseconds", log_head(), call.method, took.as_millis());
    if verbosity >= 7 {
        eprintln!("{}Request Headers:", log_head());
        for (name, value) in &call.headers {
            eprintln!("{}    {name}: {}", log_head(), String::from_utf8_lossy(value.as_bytes()));
        }
    }
    if verbosity >= 8 {
        if !call.body.is_empty() {
            eprintln!("{}Request Body: {}", log_head(), String::from_utf8_lossy(&call.body));
        }
        if let Ok(response) = sent {
            eprintln!("{}Response Headers:", log_head());
            for (name, value) in response.headers() {
                eprintln!("{}    {name}: {}", log_head(), String::from_utf8_lossy(value.as_bytes()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_escaped() {
        let call = Call::get("/api/v1/pods").query("labelSelector", "a=b,c in (d)").query_if("limit", "");
        assert_eq!(call.target(), "/api/v1/pods?labelSelector=a%3Db%2Cc%20in%20%28d%29");
    }

    #[test]
    fn answers_without_a_status_are_explained() {
        let answer = Answer {
            status: StatusCode::NOT_FOUND,
            headers: HeaderMap::new(),
            body: Bytes::from_static(b"404 page not found"),
        };
        let failure = refused(&Method::GET, "/api/v1/namespaces/a/pods/x", &answer);
        assert_eq!(
            failure.to_string(),
            "Error from server (NotFound): the server could not find the requested resource (get pods x)"
        );
    }
}
