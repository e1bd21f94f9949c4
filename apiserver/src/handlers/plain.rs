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
use process::health::{self, Check};
use serde_json::json;

use super::App;
use crate::{
    error,
    request::RequestInfo,
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

/// Discovery in the encoding that the client prefers.
fn document(request: &Request<Body>, json: Vec<u8>) -> Response {
    let encoding = match negotiate::document(request.headers()) {
        Ok(encoding) => encoding,
        Err(status) => return error::respond(&status),
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

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// Whether a path is below a root of an API that there is.
pub fn is_below_a_root(app: &App, path: &str) -> bool {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    match (parts.next(), parts.next(), parts.next()) {
        (Some("api" | "version"), Some(_), _) => true,
        (Some("apis"), Some(group), Some(_)) => app.static_documents.kinds.iter().any(|kind| kind.group == group),
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
        "major": "1", "minor": "35", "emulationMajor": "1", "emulationMinor": "35",
        "minCompatibilityMajor": "1", "minCompatibilityMinor": "34",
        "gitVersion": "v1.35.0+knarr1", "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "rust", "compiler": "rustc", "platform": "linux/amd64",
    }))
    .unwrap_or_default()
}

/// Answers such a path.
pub fn answer(app: &Arc<App>, info: &RequestInfo, request: &Request<Body>) -> Response {
    let query = request.uri().query().unwrap_or("");
    let accept = request.headers().get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    let infos = app.static_documents.infos();
    let parts: Vec<&str> = info.path.split('/').filter(|p| !p.is_empty()).collect();
    let found = |body: Option<Vec<u8>>| body.map_or_else(|| super::unknown(app, &info.path), |body| document(request, body));
    // Health, metrics and the list of paths are answered whatever the method is, documents of the API are only read.
    let documents = matches!(parts.first(), Some(&("api" | "apis" | "version" | "openapi")));
    if documents && !matches!(*request.method(), Method::GET | Method::HEAD) {
        return error::respond(&Status::method_not_allowed());
    }
    if parts.len() == 1 && info.path.ends_with('/') && matches!(parts[0], "healthz" | "livez" | "readyz" | "metrics") {
        return super::unknown(app, &info.path);
    }
    match parts.as_slice() {
        [] => text(StatusCode::OK, JSON, paths(app)),
        [name @ ("healthz" | "livez" | "readyz"), rest @ ..] => {
            let one = (!rest.is_empty()).then(|| rest.join("/"));
            let (status, body) = health::answer(name, &checks_of(app, name), one.as_deref(), query);
            text(status, TEXT, body)
        }
        ["version"] => text(StatusCode::OK, JSON, version()),
        ["metrics"] => text(StatusCode::OK, process::metrics::CONTENT_TYPE, app.metrics.text(&app.registry)),
        ["api"] | ["apis"] => match Aggregated::from_accept(accept) {
            Some(form) => {
                let core = parts[0] == "api";
                let body = discovery::aggregated(&infos, form, core);
                let etag = openapi::etag(infos.iter().copied().filter(|k| k.group.is_empty() == core));
                cached(body.into(), form.content_type(), &etag, request)
            }
            None if parts[0] == "api" => document(request, discovery::api_versions(&app.address)),
            None => document(request, discovery::api_group_list(&infos)),
        },
        ["api", version] => found(discovery::api_resource_list(&infos, "", version)),
        ["apis", group] => found(discovery::api_group(&infos, group)),
        ["apis", group, version] => found(discovery::api_resource_list(&infos, group, version)),
        ["openapi", "v2"] => openapi_v2(app, accept, request),
        ["openapi", "v3"] => text(StatusCode::OK, JSON, openapi::v3_index(&infos)),
        ["openapi", "v3", "api", version] => openapi_v3(app, "", version, request),
        ["openapi", "v3", "apis", group, version] => openapi_v3(app, group, version, request),
        _ => match (app.documents)(&info.path) {
            Some(_) if !matches!(*request.method(), Method::GET | Method::HEAD) => {
                error::respond(&Status::method_not_allowed())
            }
            Some((kind, document)) => text(StatusCode::OK, kind, document.to_string()),
            None => super::unknown(app, &info.path),
        },
    }
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

fn openapi_v2(app: &App, accept: &str, request: &Request<Body>) -> Response {
    let documents = &app.static_documents;
    let (json, proto, etag) = documents.v2.get_or_init(|| {
        let infos = documents.infos();
        (openapi::v2_json(&infos).into(), openapi::v2_protobuf(&infos).into(), openapi::etag(infos.iter().copied()))
    });
    if accept.contains("application/com.github.proto-openapi.spec.v2@v1.0+protobuf") {
        return cached(proto.clone(), "application/com.github.proto-openapi.spec.v2.v1.0+protobuf", etag, request);
    }
    cached(json.clone(), JSON, etag, request)
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
        Some((body, etag)) => cached(body, JSON, &etag, request),
        None => super::unknown(app, "/openapi"),
    }
}
