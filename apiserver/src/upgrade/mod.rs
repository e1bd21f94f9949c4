//! Requests that end at a kubelet, pod or service and not here: logs, exec, attach, port-forward and the proxies.
//!
//! [`location`] decides where a request goes; [`streaming::proxy`] carries it there. Three rules hold for all of them: the
//! caller's credentials stay here, an address must come from an object and be one that may be called, and a redirect is
//! not followed.

mod html;
pub mod location;

use std::sync::Arc;

use api::status::{GroupResource, Status, forbidden_message};
use async_trait::async_trait;
use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header, uri::PathAndQuery};
use http_body_util::BodyExt;
use rustls::{ClientConfig, pki_types::ServerName};
use serde_json::Value;
use streaming::{
    negotiate::{self, Wire},
    proxy::{self, Backend, asked_upgrade},
    reader,
};

use crate::{
    gate::{Authorize, Connect, Decision},
    identity::Identity,
    request::{RequestInfo, query_value},
    security::{authn::SOCKET_TOKEN, lookup::Lookup},
};

/// How much of a kubelet's error is passed on.
const ERROR_BYTES: usize = 2048;

/// The way to kubelets, pods and services.
pub struct Kubelets {
    /// Shows the API server's kubelet client certificate, trusts the cluster's authority.
    pub tls: Arc<ClientConfig>,
    /// Trusts anyone and shows nothing: pods' and services' own HTTPS.
    pub insecure: Arc<ClientConfig>,
    /// Nodes, pods, endpoints.
    pub lookup: Arc<dyn Lookup>,
    /// For rights that depend on more than method and path.
    pub authorize: Arc<dyn Authorize>,
    /// Kubelets on this machine's loopback may be called (a cluster of one process, tests).
    pub loopback: bool,
}

fn answer(status: &Status) -> Response {
    let mut response = Response::new(Body::from(status.to_bytes()));
    *response.status_mut() = u16::try_from(status.code)
        .ok()
        .and_then(|code| StatusCode::from_u16(code).ok())
        .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An error that upstream does not classify: 500 with the bare message.
fn plain(message: String) -> Status {
    let mut status = Status::internal("");
    status.message = message;
    status.reason = String::new();
    status.details = None;
    status
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

/// Upstream's words for the kernel's.
fn dial_error(error: &proxy::Error) -> String {
    match error {
        proxy::Error::Connect { target, source } if source.kind() == std::io::ErrorKind::ConnectionRefused => {
            format!("dial {target}: connect: connection refused")
        }
        other => chain(other),
    }
}

fn path_and_query(path: &str, query: &str) -> Result<PathAndQuery, Status> {
    let text = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
    text.parse().map_err(|_| Status::bad_request(format!("invalid path {path:?}")))
}

/// Takes a token out of WebSocket protocols: it was for us.
fn without_token(headers: &mut HeaderMap) {
    let protocols: Vec<String> = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(',').map(|p| p.trim().to_owned()))
        .filter(|p| !p.is_empty())
        .collect();
    if protocols.iter().any(|p| p.starts_with(SOCKET_TOKEN)) {
        headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
        let rest: Vec<&str> = protocols.iter().map(String::as_str).filter(|p| !p.starts_with(SOCKET_TOKEN)).collect();
        if let Ok(value) = HeaderValue::from_str(&rest.join(", ")) {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value);
        }
    }
}

/// Whether a GET reaches something that needs `create`: running commands must not come with the right to look.
fn needs_create(info: &RequestInfo, method: &Method, upgrade: bool) -> bool {
    let streams = matches!(info.subresource.as_str(), "exec" | "attach" | "portforward");
    let first = info.rest.trim_start_matches('/').split('/').next().unwrap_or("");
    let first = crate::request::unescape(first).to_ascii_lowercase();
    let kubelet = info.resource == "nodes"
        && info.subresource == "proxy"
        && (upgrade || matches!(first.as_str(), "exec" | "attach" | "run" | "portforward" | "cri"));
    method == Method::GET && (info.resource == "pods" && streams || kubelet)
}

impl Kubelets {
    async fn serve(&self, info: &RequestInfo, object: &Value, mut request: Request<Body>) -> Result<Response, Status> {
        let upgrade = asked_upgrade(request.headers()).is_some();
        if needs_create(info, request.method(), upgrade) {
            self.require_create(info, request.extensions().get::<Identity>())?;
        }
        without_token(request.headers_mut());
        match (info.resource.as_str(), info.subresource.as_str()) {
            ("pods", "log") => self.log(object, request).await,
            ("pods", "exec" | "attach" | "portforward") if !upgrade => Err(Status::bad_request("Upgrade request required")),
            ("pods", kind @ ("exec" | "attach" | "portforward")) => self.stream(kind, object, request).await,
            ("pods", "proxy") => {
                let target = location::target(&info.name)
                    .ok_or_else(|| Status::bad_request(format!("invalid pod request {:?}", info.name)))?;
                let address = location::pod(object, &target)?;
                self.proxy(info, self.open(address, target.https), request).await
            }
            ("services", "proxy") => {
                let target = location::target(&info.name)
                    .ok_or_else(|| Status::bad_request(format!("invalid service request {:?}", info.name)))?;
                let address = self.endpoint(info, object, &target).await?;
                self.proxy(info, self.open(address, target.https), request).await
            }
            ("nodes", "proxy") => {
                let target = location::target(&info.name)
                    .ok_or_else(|| Status::bad_request(format!("invalid node request {:?}", info.name)))?;
                let kubelet = location::kubelet(object, self.loopback)?;
                let backend = match target.port.parse::<u16>() {
                    Ok(port) if port != kubelet.port() => {
                        self.open(std::net::SocketAddr::new(kubelet.ip(), port), target.https)
                    }
                    _ if target.port.is_empty() || target.port == kubelet.port().to_string() => self.secure(kubelet),
                    _ => return Err(Status::bad_request(format!("invalid node request {:?}", info.name))),
                };
                self.proxy(info, backend, request).await
            }
            _ => Err(Status::no_such_path()),
        }
    }

    fn require_create(&self, info: &RequestInfo, user: Option<&Identity>) -> Result<(), Status> {
        let wish = RequestInfo { verb: "create", ..info.clone() };
        let resource = GroupResource { group: &info.group, resource: &info.resource };
        let name = user.map(|u| u.name.as_str()).unwrap_or_default();
        let decision = user.map(|user| self.authorize.authorize(user, &wish));
        match decision {
            Some(Decision::Allow(_)) => Ok(()),
            _ => {
                let message = forbidden_message(name, "create", resource, &info.subresource, &info.namespace);
                Err(Status::forbidden(resource, &info.name, &message))
            }
        }
    }

    fn secure(&self, address: std::net::SocketAddr) -> Backend {
        Backend::Tls { address, name: ServerName::IpAddress(address.ip().into()), config: self.tls.clone() }
    }

    fn open(&self, address: std::net::SocketAddr, https: bool) -> Backend {
        if https {
            Backend::Tls { address, name: ServerName::IpAddress(address.ip().into()), config: self.insecure.clone() }
        } else {
            Backend::Tcp(address)
        }
    }

    async fn kubelet_of(&self, node: &str) -> Result<std::net::SocketAddr, Status> {
        let object = self.lookup.find("nodes", "", node).await?;
        let resource = GroupResource { group: "", resource: "nodes" };
        location::kubelet(&object.ok_or_else(|| Status::not_found(resource, node))?, self.loopback)
    }

    async fn log(&self, pod: &Value, mut request: Request<Body>) -> Result<Response, Status> {
        let query = request.uri().query().unwrap_or("").to_owned();
        let (namespace, name) = (location::text(pod, "/metadata/namespace"), location::text(pod, "/metadata/name"));
        let onward = location::log_query(name, &query)?;
        let asked = query_value(&query, "container").unwrap_or_default();
        let container = location::container(pod, &asked)?;
        let node = location::text(pod, "/spec/nodeName");
        if node.is_empty() {
            let mut nothing = Response::new(Body::empty());
            *nothing.status_mut() = StatusCode::NO_CONTENT;
            return Ok(nothing);
        }
        let kubelet = self.kubelet_of(node).await?;
        let target = path_and_query(&format!("/containerLogs/{namespace}/{name}/{container}"), &onward)?;
        let skip = query_value(&query, "insecureSkipTLSVerifyBackend").is_some_and(|v| v == "true" || v == "1");
        let backend = if skip { self.open(kubelet, true) } else { self.secure(kubelet) };
        let url = format!("https://{kubelet}{target}");
        let mut get = Request::new(Body::empty());
        *get.method_mut() = Method::GET;
        let response = proxy::forward(get, &backend, target, host(kubelet)?)
            .await
            .map_err(|error| plain(format!("Get {url:?}: {}", dial_error(&error))))?;
        let code = response.status();
        if (200..=206).contains(&code.as_u16()) {
            if negotiate::wire(request.headers()) == Some(Wire::WebSocket) {
                return Ok(over_websocket(&mut request, response.into_body().into_data_stream()));
            }
            let mut answer = Response::new(Body::new(response.into_body()));
            answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            return Ok(answer);
        }
        let body = http_body_util::Limited::new(response.into_body(), ERROR_BYTES).collect().await;
        let text = body.map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned()).unwrap_or_default();
        Err(match code {
            StatusCode::BAD_REQUEST => Status::bad_request(text),
            StatusCode::INTERNAL_SERVER_ERROR => Status::internal(&text),
            _ => unexpected(code, name, &text),
        })
    }

    async fn stream(&self, kind: &str, pod: &Value, request: Request<Body>) -> Result<Response, Status> {
        let query = request.uri().query().unwrap_or("").to_owned();
        let (namespace, name) = (location::text(pod, "/metadata/namespace"), location::text(pod, "/metadata/name"));
        let path = if kind == "portforward" {
            format!("/portForward/{namespace}/{name}")
        } else {
            let asked = query_value(&query, "container").unwrap_or_default();
            format!("/{kind}/{namespace}/{name}/{}", location::container(pod, &asked)?)
        };
        let kubelet = self.kubelet_of(location::node_of(pod)?).await?;
        let target = path_and_query(&path, &location::stream_query(kind, &query))?;
        let response = proxy::forward(request, &self.secure(kubelet), target, host(kubelet)?)
            .await
            .map_err(|error| plain(format!("error dialing backend: {}", dial_error(&error))))?;
        Ok(response.map(Body::new))
    }

    /// A pod behind the service's port: the endpoint must be a pod that has this address.
    async fn endpoint(
        &self,
        info: &RequestInfo,
        service: &Value,
        target: &location::Target<'_>,
    ) -> Result<std::net::SocketAddr, Status> {
        let port = location::service_port(service, target.port)?;
        let resource = GroupResource { group: "", resource: "endpoints" };
        let none = || Status::service_unavailable(&format!("no endpoints available for service {:?}", info.name));
        let endpoints = self.lookup.find("endpoints", &info.namespace, target.name).await?;
        let endpoints = endpoints.ok_or_else(|| Status::not_found(resource, target.name))?;
        let found = location::endpoints(&endpoints, &port);
        let start = if found.is_empty() { 0 } else { rand::random_range(0..found.len()) };
        for (ip, port, namespace, name) in found.iter().cycle().skip(start).take(found.len()) {
            let pod = self.lookup.find("pods", namespace, name).await?;
            let is_its = pod.as_ref().is_some_and(|pod| location::pod_ips(pod).contains(ip));
            let address = ip.parse().ok().filter(|ip| location::allowed(*ip));
            if let (true, Some(address)) = (is_its, address) {
                return Ok(std::net::SocketAddr::new(address, *port));
            }
        }
        Err(none())
    }

    async fn proxy(&self, info: &RequestInfo, backend: Backend, request: Request<Body>) -> Result<Response, Status> {
        let query = request.uri().query().unwrap_or("").to_owned();
        let upgrade = asked_upgrade(request.headers()).is_some();
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        if info.rest.is_empty() && !info.path.ends_with('/') && !upgrade && is_read {
            // Relative links of the page behind would otherwise miss the last path segment.
            return redirect(request.uri().path(), &query);
        }
        let rest = info.rest.trim_start_matches('/');
        let whole = request.uri().path();
        let prefix = whole.strip_suffix(rest).unwrap_or(whole).trim_end_matches('/').to_owned();
        let target = path_and_query(&format!("/{rest}"), &query)?;
        let address = match &backend {
            Backend::Tcp(address) | Backend::Tls { address, .. } => *address,
            Backend::Unix(_) => return Err(Status::bad_request("address not allowed")),
        };
        let mut request = request;
        let asked = request.headers().get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default().to_owned();
        let forwarded = [("x-forwarded-uri", info.path.as_str()), ("x-forwarded-proto", "https")];
        for (name, value) in forwarded {
            if let Ok(value) = HeaderValue::from_str(value) {
                request.headers_mut().insert(name, value);
            }
        }
        if let Some(host) = request.headers().get(header::HOST).cloned() {
            request.headers_mut().insert("x-forwarded-host", host);
        }
        let response = proxy::forward(request, &backend, target, host(address)?).await.map_err(|error| {
            Status::service_unavailable(&format!("error trying to reach service: {}", dial_error(&error)))
        })?;
        let mut response = response.map(Body::new);
        relocate(response.headers_mut(), &prefix, address);
        Ok(relinked(response, html::Place { prefix, backend: address.to_string(), asked }))
    }
}

/// Links of an HTML page stay behind the proxy's path.
fn relinked(response: Response, place: html::Place) -> Response {
    let said = |name| response.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().trim();
    let is_page = said(header::CONTENT_TYPE).split(';').next().is_some_and(|t| t.trim().eq_ignore_ascii_case("text/html"));
    let packed = match said(header::CONTENT_ENCODING) {
        "" | "identity" => false,
        "gzip" => true,
        _ => return response,
    };
    if !is_page || response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return response;
    }
    let (mut head, body) = response.into_parts();
    head.headers.remove(header::CONTENT_LENGTH);
    let pieces = body.into_data_stream().map(Some).chain(stream::iter([None]));
    let failed = |error: axum::Error| std::io::Error::other(error);
    let body = if packed {
        let mut links = html::Packed::new(place);
        Body::from_stream(pieces.map(move |piece| match piece {
            Some(piece) => links.feed(&piece.map_err(failed)?),
            None => links.finish(),
        }))
    } else {
        let mut links = html::Links::new(place);
        Body::from_stream(pieces.map(move |piece| match piece {
            Some(piece) => Ok(links.feed(&piece.map_err(failed)?)),
            None => Ok::<_, std::io::Error>(links.finish()),
        }))
    };
    Response::from_parts(head, body)
}

/// Redirects of the backend stay behind the proxy's path; the client follows them, not we.
fn relocate(headers: &mut HeaderMap, prefix: &str, backend: std::net::SocketAddr) {
    let Some(location) = headers.get(header::LOCATION).and_then(|l| l.to_str().ok()) else { return };
    let own = [format!("http://{backend}"), format!("https://{backend}")];
    let path = own.iter().find_map(|own| location.strip_prefix(own.as_str())).unwrap_or(location);
    if path.starts_with('/')
        && !path.starts_with("//")
        && let Ok(value) = HeaderValue::from_str(&format!("{prefix}{path}"))
    {
        headers.insert(header::LOCATION, value);
    }
}

fn redirect(path: &str, query: &str) -> Result<Response, Status> {
    let location = if query.is_empty() { format!("{path}/") } else { format!("{path}/?{query}") };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    let value = HeaderValue::from_str(&location).map_err(|_| Status::bad_request("invalid path"))?;
    response.headers_mut().insert(header::LOCATION, value);
    Ok(response)
}

/// Answers with messages instead of a body.
fn over_websocket<E: Send + 'static>(
    request: &mut Request<Body>,
    bytes: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
) -> Response {
    match reader::upgrade(request) {
        Ok((response, pending)) => {
            tokio::spawn(async move {
                if let Err(error) = pending.send(bytes).await {
                    tracing::debug!(%error, "a client left before its connection was upgraded");
                }
            });
            response.map(|()| Body::empty())
        }
        Err(rejection) => rejection.response().map(Body::from),
    }
}

fn host(address: std::net::SocketAddr) -> Result<HeaderValue, Status> {
    HeaderValue::from_str(&address.to_string()).map_err(|_| Status::bad_request("address not allowed"))
}

/// A kubelet's answer that has no meaning of its own here.
fn unexpected(code: StatusCode, name: &str, text: &str) -> Status {
    let (reason, message) = match code {
        StatusCode::NOT_FOUND => ("NotFound", "the server could not find the requested resource"),
        StatusCode::FORBIDDEN => ("Forbidden", text),
        StatusCode::UNAUTHORIZED => ("Unauthorized", "the server has asked for the client to provide credentials"),
        _ => ("", "the server responded with an unexpected status"),
    };
    let mut status = Status::internal("");
    status.code = i32::from(code.as_u16());
    reason.clone_into(&mut status.reason);
    status.message = format!("{message} ( pods/log {name})");
    status.details = None;
    status
}

#[async_trait]
impl Connect for Kubelets {
    async fn connect(&self, info: &RequestInfo, object: &Value, request: Request<Body>) -> Response<Body> {
        self.serve(info, object, request).await.unwrap_or_else(|status| answer(&status))
    }
}

#[cfg(test)]
mod tests;
