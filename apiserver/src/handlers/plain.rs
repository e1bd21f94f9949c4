//! Paths that are no resources: discovery, OpenAPI, health, version, metrics.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use api::{
    discovery::{self, Aggregated},
    kind::{KindInfo, NameRule},
    schema::openapi,
    status::Status,
};
use axum::{body::Body, response::Response};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use process::{
    health::{self, Check},
    version,
};
use serde_json::json;

use super::App;
use crate::{
    error,
    request::{RequestInfo, query_value},
    wire::negotiate::{self, Encoding},
};

/// Documents about the served kinds, each made when first asked for.
pub struct Documents {
    kinds: Vec<KindInfo>,
    v2: OnceLock<(Bytes, Bytes, String)>,
    v3: parking_lot::Mutex<std::collections::HashMap<String, Option<(Bytes, String)>>>,
    /// Health checks of `/readyz`.
    pub checks: Vec<Check>,
    /// Why the store does not answer, as the last health request found.
    pub store: Arc<parking_lot::Mutex<Option<String>>>,
}

/// Checks that only readiness needs; `/livez` and `/healthz` leave them out.
const ONLY_READY: &[&str] = &["etcd-readiness", "informer-sync", "shutdown"];
/// How long the store may take to say that it is there.
const STORE_PATIENCE: Duration = Duration::from_secs(2);

/// What a health request wants to know is found out when it is asked for: nothing runs in the background.
pub async fn look_after(app: &App, info: &RequestInfo) {
    if !["/healthz", "/livez", "/readyz"].iter().any(|p| info.path.starts_with(p)) {
        return;
    }
    let asked = tokio::time::timeout(STORE_PATIENCE, app.registry.store().revision()).await;
    *app.static_documents.store.lock() = match asked {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error::chain(&error)),
        Err(_) => Some("context deadline exceeded".to_owned()),
    };
}

fn checks_of(app: &App, name: &str) -> Vec<Check> {
    let checks = app.static_documents.checks.iter();
    checks.filter(|c| name == "readyz" || !ONLY_READY.contains(&c.name)).cloned().collect()
}

const fn review(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    namespaced: bool,
) -> KindInfo {
    KindInfo {
        group,
        version: "v1",
        kind,
        plural,
        singular,
        namespaced,
        verbs: &["create"],
        name_rule: NameRule::DnsSubdomain,
        ..KindInfo::BASE
    }
}

/// What is served without being stored.
const UNSTORED: &[KindInfo] = &[
    review("", "Binding", "bindings", "binding", true),
    review("authentication.k8s.io", "SelfSubjectReview", "selfsubjectreviews", "selfsubjectreview", false),
    review("authentication.k8s.io", "TokenReview", "tokenreviews", "tokenreview", false),
    review(
        "authorization.k8s.io",
        "LocalSubjectAccessReview",
        "localsubjectaccessreviews",
        "localsubjectaccessreview",
        true,
    ),
    review("authorization.k8s.io", "SelfSubjectAccessReview", "selfsubjectaccessreviews", "selfsubjectaccessreview", false),
    review("authorization.k8s.io", "SelfSubjectRulesReview", "selfsubjectrulesreviews", "selfsubjectrulesreview", false),
    review("authorization.k8s.io", "SubjectAccessReview", "subjectaccessreviews", "subjectaccessreview", false),
];

impl Documents {
    /// For the kinds served.
    pub fn new(kinds: impl IntoIterator<Item = KindInfo>, checks: Vec<Check>) -> Self {
        let kinds = kinds.into_iter().chain(UNSTORED.iter().cloned()).collect();
        let store = Arc::<parking_lot::Mutex<Option<String>>>::default();
        let answers = |name: &'static str| {
            let store = store.clone();
            Check::new(name, move || store.lock().clone().map_or(Ok(()), Err))
        };
        let mut all = vec![Check::ping(), Check::new("log", || Ok(())), answers("etcd"), answers("etcd-readiness")];
        all.extend(checks);
        Self { kinds, v2: OnceLock::new(), v3: parking_lot::Mutex::default(), checks: all, store }
    }

    fn infos(&self) -> Vec<&KindInfo> {
        self.kinds.iter().collect()
    }
}

fn text(status: StatusCode, kind: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if kind == TEXT {
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    response
}

/// Discovery in the encoding that the client prefers; `routed` as upstream's router sees it.
fn document(request: &Request<Body>, routed: bool, json: Vec<u8>) -> Response {
    let encoding = match negotiate::document(request.headers(), routed) {
        Ok(encoding) => encoding,
        Err(status) => return refuse(request, &status),
    };
    if encoding == Encoding::Json {
        return text(StatusCode::OK, JSON, json);
    }
    let mut value: serde_json::Value = serde_json::from_slice(&json).unwrap_or_default();
    if encoding == Encoding::Yaml {
        return text(StatusCode::OK, "application/yaml", api::yaml::to_string(&value));
    }
    // Some of these kinds tell no version.
    if value["apiVersion"].is_null() {
        value["apiVersion"] = "v1".into();
    }
    match api::protobuf::encode(&value) {
        Ok(bytes) => text(StatusCode::OK, api::protobuf::MEDIA_TYPE, bytes),
        Err(_) => text(StatusCode::OK, JSON, json),
    }
}

/// An error as the client can read it.
fn refuse(request: &Request<Body>, status: &Status) -> Response {
    let pretty = request.uri().query().and_then(|query| query_value(query, "pretty"));
    error::respond_as(status, negotiate::of_errors(request.headers(), pretty.as_deref()))
}

/// A document with one media type, behind upstream's router.
fn only(request: &Request<Body>, kind: &'static str, body: impl Into<Body>) -> Response {
    match negotiate::only(request.headers(), kind) {
        Ok(()) => text(StatusCode::OK, kind, body),
        Err(status) => refuse(request, &status),
    }
}

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// Whether a path is below a root of an API that there is.
pub fn is_below_a_root(app: &App, path: &str) -> bool {
    let mut parts = path.strip_prefix('/').unwrap_or(path).split('/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some("api" | "version"), Some(_), _) => true,
        (Some("apis"), Some(group), Some(_)) => {
            !group.is_empty() && app.static_documents.kinds.iter().any(|kind| kind.group == group)
        }
        _ => false,
    }
}

/// The paths that `/` lists.
fn paths(app: &App) -> Vec<u8> {
    let infos = app.static_documents.infos();
    let mut paths = vec![
        "/.well-known/openid-configuration".to_owned(),
        "/api".into(),
        "/api/v1".into(),
        "/apis".into(),
        "/apis/".into(),
    ];
    for (group, versions) in discovery::group_versions(&infos).into_iter().filter(|(g, _)| !g.is_empty()) {
        paths.push(format!("/apis/{group}"));
        paths.extend(versions.iter().map(|v| format!("/apis/{group}/{v}")));
    }
    for name in ["healthz", "livez", "readyz"] {
        paths.push(format!("/{name}"));
        paths.extend(checks_of(app, name).iter().map(|c| format!("/{name}/{}", c.name)));
    }
    paths.extend(["/metrics", "/openapi/v2", "/openapi/v3", "/openid/v1/jwks", "/version"].map(str::to_owned));
    paths.sort();
    let mut body = serde_json::to_vec_pretty(&json!({ "paths": paths })).unwrap_or_default();
    body.push(b'\n');
    body
}

fn version() -> Vec<u8> {
    serde_json::to_vec_pretty(&json!({
        "major": version::MAJOR, "minor": version::MINOR,
        "emulationMajor": version::MAJOR, "emulationMinor": version::MINOR,
        "minCompatibilityMajor": "1", "minCompatibilityMinor": "34",
        "gitVersion": version::VERSION, "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "rust", "compiler": "rustc", "platform": version::platform(),
    }))
    .unwrap_or_default()
}

/// Answers such a path.
///
/// As upstream, what is behind its router (a group's version, `/version`, keys of tokens) is read with GET and nothing else; what is
/// in front of it (groups, OpenAPI, health, metrics, the list of paths) is answered whatever the method is, and knows no empty
/// parts of paths.
pub fn answer(app: &Arc<App>, info: &RequestInfo, request: &Request<Body>) -> Response {
    let parts: Vec<&str> = info.path.split('/').filter(|p| !p.is_empty()).collect();
    let infos = app.static_documents.infos();
    let routed = match parts.as_slice() {
        ["api"] => Some(aggregated(app, request, true)),
        ["api", version] => discovery::api_resource_list(&infos, "", version).map(|body| document(request, true, body)),
        ["apis", group, version] if !info.path.starts_with("/apis//") => {
            discovery::api_resource_list(&infos, group, version).map(|body| document(request, true, body))
        }
        ["version"] => Some(only(request, JSON, version())),
        [".well-known" | "openid", ..] => (app.documents)(&info.path).map(|(kind, document)| {
            let mut response = only(request, kind, document.to_string());
            if response.status() == StatusCode::OK {
                let for_an_hour = HeaderValue::from_static("public, max-age=3600");
                response.headers_mut().insert(header::CACHE_CONTROL, for_an_hour);
            }
            response
        }),
        _ => return in_front(app, info, request, &parts),
    };
    match routed {
        Some(_) if *request.method() != Method::GET => refuse(request, &Status::method_not_allowed()),
        Some(response) => response,
        None => unknown(app, info, request),
    }
}

/// See [`answer`].
fn in_front(app: &Arc<App>, info: &RequestInfo, request: &Request<Body>, parts: &[&str]) -> Response {
    let query = request.uri().query().unwrap_or("");
    let infos = app.static_documents.infos();
    let version_3 = info.path.strip_prefix("/openapi/v3/");
    if version_3.is_some_and(|rest| rest.split('/').any(str::is_empty)) {
        return nothing();
    }
    let slashed = info.path.ends_with('/') && !matches!(parts, [] | ["apis", ..]);
    if slashed || info.path.contains("//") {
        return unknown(app, info, request);
    }
    match parts {
        [] | ["index.html"] => text(StatusCode::OK, JSON, paths(app)),
        [name @ ("healthz" | "livez" | "readyz"), rest @ ..] => {
            let one = (!rest.is_empty()).then(|| rest.join("/"));
            let (status, body) = health::answer(name, &checks_of(app, name), one.as_deref(), query);
            let mut response = text(status, TEXT, body);
            if one.is_some() && status == StatusCode::OK {
                response.headers_mut().remove(header::X_CONTENT_TYPE_OPTIONS);
            }
            response
        }
        ["metrics"] => text(StatusCode::OK, process::metrics::CONTENT_TYPE, app.metrics.text(&app.registry)),
        ["apis"] => aggregated(app, request, false),
        ["apis", group] => {
            let found = discovery::api_group(&infos, group);
            found.map_or_else(|| unknown(app, info, request), |body| document(request, false, body))
        }
        ["openapi", "v2"] => openapi_v2(app, request),
        ["openapi", "v3"] => text(StatusCode::OK, JSON, openapi::v3_index(&infos)),
        ["openapi", "v3", "api", version] => openapi_v3(app, "", version, request),
        ["openapi", "v3", "apis", group, version] => openapi_v3(app, group, version, request),
        ["openapi", "v3", ..] => nothing(),
        _ => unknown(app, info, request),
    }
}

/// What is said of a path that is not known, in the form that the client prefers.
fn unknown(app: &App, info: &RequestInfo, request: &Request<Body>) -> Response {
    super::unknown(app, &info.path).unwrap_or_else(|status| refuse(request, &status))
}

/// A 404 that says nothing.
fn nothing() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

/// The groups (or the `core` one), with all of their resources if the client knows that form.
fn aggregated(app: &App, request: &Request<Body>, core: bool) -> Response {
    let infos = app.static_documents.infos();
    let accept = request.headers().get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    let Some((form, yaml)) = Aggregated::from_accept(accept) else {
        let body = if core { discovery::api_versions(&app.address) } else { discovery::api_group_list(&infos) };
        return document(request, core, body);
    };
    let body = discovery::aggregated(&infos, form, core);
    let etag = openapi::etag(infos.iter().copied().filter(|k| k.group.is_empty() == core));
    let mut response = if yaml {
        let value: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        cached(api::yaml::to_string(&value).into(), form.content_type(true), &etag, request)
    } else {
        cached(body.into(), form.content_type(false), &etag, request)
    };
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
    response
}

/// A document that a client may have already.
fn cached(body: Bytes, kind: &'static str, etag: &str, request: &Request<Body>) -> Response {
    let quoted = format!("\"{etag}\"");
    let known =
        request.headers().get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()).is_some_and(|v| v.contains(&quoted));
    let mut response =
        if known { text(StatusCode::NOT_MODIFIED, kind, Body::empty()) } else { text(StatusCode::OK, kind, body) };
    if let Ok(value) = HeaderValue::from_str(&quoted) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

/// A 406 that says nothing.
fn unacceptable() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_ACCEPTABLE;
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

fn openapi_v2(app: &App, request: &Request<Body>) -> Response {
    const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    let documents = &app.static_documents;
    let (json, proto, etag) = documents.v2.get_or_init(|| {
        let infos = documents.infos();
        (openapi::v2_json(&infos).into(), openapi::v2_protobuf(&infos).into(), openapi::etag(infos.iter().copied()))
    });
    // The older name is no media type by the rules, so there is another.
    let older = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    match negotiate::wanted(request.headers(), &[JSON, older, PROTOBUF]) {
        Some(JSON) => cached(json.clone(), JSON, etag, request),
        Some(_) => cached(proto.clone(), PROTOBUF, etag, request),
        None => unacceptable(),
    }
}

fn openapi_v3(app: &App, group: &str, version: &str, request: &Request<Body>) -> Response {
    let documents = &app.static_documents;
    let path = openapi::group_version_path(group, version);
    let found = documents.v3.lock().get(&path).cloned();
    let found = found.unwrap_or_else(|| {
        let infos = documents.infos();
        let etag = openapi::etag(infos.iter().copied().filter(|k| k.group == group && k.version == version));
        let made = openapi::v3(&infos, group, version).map(|body| (Bytes::from(body), etag));
        if made.is_some() {
            documents.v3.lock().insert(path, made.clone());
        }
        made
    });
    match found {
        Some(_) if negotiate::wanted(request.headers(), &[JSON]).is_none() => unacceptable(),
        Some((body, etag)) => cached(body, JSON, &etag, request),
        None => nothing(),
    }
}
