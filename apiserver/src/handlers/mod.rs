//! From a request that was let in to its answer: one dispatcher for every kind.

pub mod certificates;
pub mod plain;
pub mod read;
pub mod subresource;
pub mod watch;
pub mod write;

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use api::{kind::KindInfo, status::Status};
use axum::{body::Body, response::Response};
use futures::FutureExt;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::{
    error::{self, Result},
    gate::Gate,
    identity::{Identity, User},
    metrics::ApiMetrics,
    registry::{Entry, Registry, Written},
    request::RequestInfo,
    security::{
        guard::{self, Refusal},
        tls::Peer,
    },
    wire::{
        body::Pieces,
        compress,
        negotiate::{self, Encoding, Form, Shape},
        options::Query,
    },
};

/// A path's content type and document, if there is one.
pub type Documented = Box<dyn Fn(&str) -> Option<(&'static str, Value)> + Send + Sync>;

/// Everything a handler may use.
pub struct App {
    /// The registry.
    pub registry: Arc<Registry>,
    /// Security.
    pub gate: Gate,
    /// Counters.
    pub metrics: ApiMetrics,
    /// `HOST:PORT` as discovery tells it.
    pub address: String,
    /// Documents that security answers without authorization details (`/openid/v1/jwks`).
    pub documents: Documented,
    /// Reads and writes at a time.
    pub limits: (Semaphore, Semaphore),
    /// How long an ordinary request may take.
    pub timeout: Duration,
    /// Discovery and OpenAPI, made once.
    pub static_documents: plain::Documents,
    /// Fires when the server goes down: watches end.
    pub shutdown: tokio_util::sync::CancellationToken,
}

/// A request taken apart.
pub struct Ask {
    /// Who.
    pub user: Identity,
    /// What.
    pub info: RequestInfo,
    /// Query parameters.
    pub query: Query,
    /// Headers.
    pub headers: HeaderMap,
    /// When.
    pub now: Timestamp,
}

fn is_long(info: &RequestInfo) -> bool {
    info.verb == "watch" || matches!(info.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy")
}

/// Answers any request; never fails, never panics.
pub async fn serve(app: Arc<App>, request: Request<Body>) -> Response {
    let started = std::time::Instant::now();
    if let Some(refused) = malformed(&request) {
        return refused;
    }
    let info = RequestInfo::parse(request.method(), request.uri().path(), request.uri().query());
    let audit = request.headers().get("audit-id").cloned();
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let handled = AssertUnwindSafe(handle(&app, request)).catch_unwind().await;
    let mut response = handled.unwrap_or_else(|_| {
        tracing::error!(path = info.path, "a handler panicked");
        let text = "This request caused apiserver to panic. Look in the logs for details.\n";
        plain_text(StatusCode::INTERNAL_SERVER_ERROR, text)
    });
    let headers = response.headers_mut();
    let id = audit.or_else(|| HeaderValue::from_str(random_id().encode_lower(&mut uuid::Uuid::encode_buffer())).ok());
    if let Some(id) = id {
        headers.insert("audit-id", id);
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
    app.metrics.request(&info, (&method, uri.query()), response.status(), started.elapsed());
    response
}

/// What is wrong with the host that a request is for, which one over a connection has to name.
fn wrong_host(request: &Request<Body>) -> Option<&'static str> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"!$%&'()*+,-.:;=[]_~".contains(byte);
    match host {
        None if request.version() == http::Version::HTTP_11 && request.extensions().get::<Peer>().is_some() => {
            Some("400 Bad Request: missing required Host header")
        }
        Some(_) if hosts.next().is_some() => Some("400 Bad Request"),
        Some(host) if !host.as_bytes().iter().all(plain) => Some("400 Bad Request: malformed Host header"),
        _ => None,
    }
}

/// An answer of the HTTP server that Go has, after which it hangs up.
fn last_words(request: &Request<Body>, status: StatusCode, text: &'static str) -> Response {
    let mut response = plain_text(status, text);
    let headers = response.headers_mut();
    headers.remove(header::X_CONTENT_TYPE_OPTIONS);
    if text.is_empty() {
        headers.remove(header::CONTENT_TYPE);
    }
    if request.version() < http::Version::HTTP_2 {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    // Go says why beside the status, too.
    if let Some(reason) = text.split_once(' ').map(|(_, reason)| reason).filter(|reason| reason.contains(": ")) {
        response.extensions_mut().insert(hyper::ext::ReasonPhrase::from_static(reason.as_bytes()));
    }
    response
}

/// The answer to a request that cannot be made sense of: before anybody asks who sent it.
fn malformed(request: &Request<Body>) -> Option<Response> {
    let uri = request.uri();
    if uri.path() == "*" && request.method() == Method::OPTIONS {
        return Some(last_words(request, StatusCode::OK, ""));
    }
    if request.method() == Method::CONNECT {
        return Some(plain_text(StatusCode::NOT_FOUND, NOTHING));
    }
    if !uri.path().starts_with('/') || !crate::request::is_escaped(uri.path()) {
        return Some(last_words(request, StatusCode::BAD_REQUEST, "400 Bad Request"));
    }
    if let Some(why) = wrong_host(request) {
        return Some(last_words(request, StatusCode::BAD_REQUEST, why));
    }
    let mut encodings = request.headers().get_all(header::TRANSFER_ENCODING).iter();
    if encodings.next().is_some_and(|first| !first.as_bytes().eq_ignore_ascii_case(b"chunked") || encodings.next().is_some())
    {
        // Whoever stands in front of us may take such a body for another than we do.
        return Some(last_words(request, StatusCode::NOT_IMPLEMENTED, "Unsupported transfer encoding"));
    }
    let expected = request.headers().get(header::EXPECT).map(|expected| expected.as_bytes().to_ascii_lowercase());
    if expected.is_some_and(|expected| !expected.is_empty() && expected != b"100-continue") {
        return Some(last_words(request, StatusCode::EXPECTATION_FAILED, ""));
    }
    crate::request::ends_early(&crate::request::unescape(uri.path())).then(|| {
        let asked = error::asked(uri);
        let why = format!("failed to create RequestInfo: unable to determine kind and namespace from url, {asked}");
        error::of_the_server(&asked, &why)
    })
}

/// Every request has one: made by this thread's own generator, which asks the kernel once, not each time.
fn random_id() -> uuid::fmt::Hyphenated {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid().hyphenated()
}

async fn handle(app: &Arc<App>, request: Request<Body>) -> Response {
    let pretty = request.uri().query().and_then(|query| crate::request::query_value(query, "pretty"));
    let form = negotiate::of_errors(request.headers(), pretty.as_deref());
    let zip = compress::wanted(request.headers());
    let result = async {
        let request = match guard::admit(&app.gate, request).await {
            Err(Refusal::Answered(response)) => return Ok(*response),
            Err(Refusal::Told(status)) => return Err(status),
            Ok(request) => request,
        };
        let info = request.extensions().get::<RequestInfo>().cloned().unwrap_or_default();
        let user: Identity = request.extensions().get::<Identity>().cloned().unwrap_or_else(|| Arc::new(User::anonymous()));
        if is_long(&info) {
            return route(app, user, info, request).await;
        }
        let patience = deadline(request.uri().query())?.map_or(app.timeout, |asked| asked.min(app.timeout));
        let reading = matches!(info.verb, "get" | "list") || !info.is_resource;
        let permits = if reading { &app.limits.0 } else { &app.limits.1 };
        let unlimited = user.is_in(crate::identity::MASTERS);
        let permit = permits.try_acquire().ok();
        if permit.is_none() && !unlimited {
            return Ok(too_many());
        }
        let _counted = app.metrics.in_flight(reading);
        let work = async {
            let response = route(app, user, info, request).await?;
            Ok(if zip { compress::large(response).await } else { response })
        };
        tokio::time::timeout(patience, work)
            .await
            .unwrap_or_else(|_| Err(Status::timeout("request did not complete within the allotted timeout", 0)))
    };
    result.await.unwrap_or_else(|status| error::respond_as(&status, form))
}

/// How long the client lets a request take (`timeout`), if it says so and means it: nothing and less mean the server's own
/// patience.
fn deadline(query: Option<&str>) -> Result<Option<Duration>> {
    let asked = query.and_then(|query| crate::request::query_value(query, "timeout")).unwrap_or_default();
    if asked.is_empty() {
        return Ok(None);
    }
    let length = api::duration::parse_go(&asked);
    let length = length.map_err(|e| Status::bad_request(format!("invalid timeout specified in the request URL - {e}")))?;
    Ok(Duration::try_from(length).ok().filter(|length| !length.is_zero()))
}

fn too_many() -> Response {
    let mut response = plain_text(StatusCode::TOO_MANY_REQUESTS, "Too many requests, please try again later.\n");
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// An error without a Status, as Go's `http.Error` writes it.
pub fn plain_text(status: StatusCode, text: impl Into<Body>) -> Response {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn route(app: &Arc<App>, user: Identity, info: RequestInfo, request: Request<Body>) -> Result<Response> {
    if info.path.starts_with("//") {
        return Ok(plain_text(StatusCode::NOT_FOUND, NOTHING));
    }
    if !info.is_resource {
        plain::look_after(app, &info).await;
        return Ok(plain::answer(app, &info, &request));
    }
    let served = app.registry.entry(&info.group, &info.version, &info.resource).cloned();
    let methods = match &served {
        Some(entry) => methods(entry.info(), &info),
        None => methods_of_reviews(&info),
    };
    if methods.is_empty() {
        return unknown(app, &info.path);
    }
    if !methods.contains(request.method()) {
        return Err(Status::method_not_allowed());
    }
    if info.is_named && info.name.is_empty() {
        return Err(Status::bad_request("name must be provided"));
    }
    if subresource::is_streaming(&info) {
        return subresource::connect(app, &info, request).await;
    }
    let (parts, body) = request.into_parts();
    let ask = Ask { user, query: Query::parse(parts.uri.query()), headers: parts.headers, now: Timestamp::now(), info };
    let Some(entry) = served else {
        return match ask.info.resource.as_str() {
            "bindings" => subresource::bind(app, &ask, body).await,
            _ => write::review(app, &ask, body).await,
        };
    };
    if !ask.info.subresource.is_empty() {
        return subresource::answer(app, &entry, ask, body).await;
    }
    match (parts.method, ask.info.is_named) {
        (Method::GET, _) if ask.info.verb == "watch" => watch::watch(app, &entry, &ask).await,
        (Method::GET, true) => read::get(app, &entry, &ask).await,
        (Method::GET, false) => read::list(app, &entry, &ask).await,
        (Method::PUT, _) => write::update(app, &entry, &ask, None, body).await,
        (Method::PATCH, _) => write::patch(app, &entry, &ask, None, body).await,
        (Method::DELETE, true) => write::delete(app, &entry, &ask, body).await,
        (Method::DELETE, false) => write::delete_collection(app, &entry, &ask, body).await,
        _ => write::create(app, &entry, &ask, body).await,
    }
}

/// The methods that a path of a kind knows; none where there is no such path. An object in a namespace is nowhere else, and
/// across namespaces one may look, and no more.
fn methods(kind: &KindInfo, asked: &RequestInfo) -> &'static [Method] {
    const LOOK: &[Method] = &[Method::GET];
    const WHOLE: &[Method] = &[Method::GET, Method::PUT, Method::PATCH, Method::DELETE];
    let across = kind.namespaced && !asked.in_namespace;
    if across && asked.is_named || asked.in_namespace && !kind.namespaced {
        return &[];
    }
    if !asked.subresource.is_empty() {
        return match subresource::of(kind, asked) {
            _ if asked.forced_watch => &[],
            Some(part) => subresource::methods(part),
            None => &[],
        };
    }
    match (asked.is_named, kind.verbs.contains(&"deletecollection")) {
        _ if across || asked.forced_watch => LOOK,
        (true, _) => WHOLE,
        (false, true) => &[Method::GET, Method::POST, Method::DELETE],
        (false, false) => &[Method::GET, Method::POST],
    }
}

/// The same for what is created and never kept.
fn methods_of_reviews(asked: &RequestInfo) -> &'static [Method] {
    let known = match (asked.group.as_str(), asked.resource.as_str()) {
        ("", "bindings") => asked.in_namespace,
        (group, resource) => {
            crate::security::reviews::is_review(group, resource)
                && asked.in_namespace == (resource == "localsubjectaccessreviews")
        }
    };
    if known && asked.version == "v1" && !asked.is_named && !asked.forced_watch { &[Method::POST] } else { &[] }
}

const NOTHING: &str = "404 page not found\n";

/// What is said to a path that is not known: a Status below the roots of APIs that there are, else what upstream's
/// outermost router says.
pub fn unknown(app: &App, path: &str) -> Result<Response> {
    if plain::is_below_a_root(app, path) {
        return Err(Status::no_such_path());
    }
    Ok(plain_text(StatusCode::NOT_FOUND, NOTHING))
}

/// A response of encoded JSON in the form asked for.
pub fn encoded(status: StatusCode, form: Form, json: bytes::Bytes) -> Response {
    let body = match (form.encoding, form.pretty) {
        (Encoding::Json, false) => {
            let newline = if json.ends_with(b"\n") { bytes::Bytes::new() } else { bytes::Bytes::from_static(b"\n") };
            Body::new(Pieces::new([json, newline]))
        }
        (Encoding::Json, true) => {
            let value: Value = serde_json::from_slice(&json).unwrap_or_default();
            let mut text = serde_json::to_vec_pretty(&value).unwrap_or_default();
            text.push(b'\n');
            Body::from(text)
        }
        (Encoding::Yaml, _) => {
            let value: Value = serde_json::from_slice(&json).unwrap_or_default();
            Body::from(api::yaml::to_string(&value))
        }
        (Encoding::Protobuf, _) => {
            let value: Value = serde_json::from_slice(&json).unwrap_or_default();
            match api::protobuf::encode(&value) {
                Ok(bytes) => Body::from(bytes),
                Err(error) => return error::respond(&error::not_marshalable(&error)),
            }
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(form.content_type()));
    response
}

/// One object in the form asked for.
pub fn object(entry: &Entry, ask: &Ask, form: Form, status: StatusCode, json: bytes::Bytes) -> Response {
    if let Shape::Unfit(asked) = form.shape {
        return error::respond_as(&error::unfit(asked, entry.info()), form);
    }
    let json = read::shaped(entry, ask, form.shape, json);
    encoded(status, form, json)
}

/// Adds `Warning` headers.
pub fn warn(response: &mut Response, warnings: &[String]) {
    for warning in warnings {
        let text: String = warning.chars().filter(|c| !c.is_control()).collect();
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            response.headers_mut().append("warning", value);
        }
    }
}

/// The response of a write.
pub fn written(entry: &Entry, ask: &Ask, form: Form, mut extra: Vec<String>, written: Written) -> Response {
    let status = if written.created { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = object(entry, ask, form, status, written.json);
    extra.extend(written.warnings);
    warn(&mut response, &extra);
    response
}
