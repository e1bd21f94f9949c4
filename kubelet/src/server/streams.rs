//! exec, attach, port-forward and run: the runtime says where to connect, the request is carried on there.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use axum::{
    body::Body,
    extract::{Path, Request, State},
    http::{HeaderValue, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use cri::v1;
use streaming::{command::Options, forward, proxy};

use super::{App, Refusal};
use crate::pod::record::PodRecord;

type Place = Path<(String, String, String)>;
type PlaceUid = Path<(String, String, String, String)>;

fn bad(message: impl Into<String>) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, message.into())
}

/// `command=a&command=b` of a query, decoded.
fn commands(query: &str) -> Vec<String> {
    let pairs = query.split('&').filter_map(|p| p.split_once('='));
    pairs.filter(|(k, _)| matches!(*k, "command" | "cmd")).map(|(_, v)| decode(v)).collect()
}

/// Percent and plus decoding of a query value.
pub fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = bytes.get(i + 1..i + 3).filter(|_| bytes[i] == b'%').and_then(|h| std::str::from_utf8(h).ok());
        match (bytes[i], hex.and_then(|h| u8::from_str_radix(h, 16).ok())) {
            (_, Some(byte)) => {
                out.push(byte);
                i += 3;
            }
            (b'+', None) => {
                out.push(b' ');
                i += 1;
            }
            (byte, None) => {
                out.push(byte);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn options(request: &Request) -> Result<Options, Refusal> {
    let query = request.uri().query().unwrap_or_default();
    Options::from_query(query).map_err(|_| bad("you must specify at least 1 of stdin, stdout, stderr"))
}

/// The id of the running container of that name.
fn running(record: &PodRecord, container: &str) -> Result<String, Refusal> {
    match record.latest(container) {
        Some(c) if c.is_running() => Ok(c.id.clone()),
        Some(c) => Err(Refusal(StatusCode::INTERNAL_SERVER_ERROR, format!("container not running ({})", c.id))),
        None => Err(Refusal(StatusCode::NOT_FOUND, format!("container not found (\"{container}\")"))),
    }
}

/// Carries the request on to where the runtime streams.
async fn carry(url: &str, request: Request) -> Result<Response, Refusal> {
    let failed = |what: String| Refusal(StatusCode::INTERNAL_SERVER_ERROR, what);
    let (backend, target, host) =
        address(url).ok_or_else(|| failed(format!("the runtime's address {url:?} is unusable")))?;
    let answer = proxy::forward(request, &backend, target, host).await;
    answer.map(|r| r.map(Body::new)).map_err(|e| failed(format!("{}: {e}", backend.target())))
}

fn address(url: &str) -> Option<(proxy::Backend, http::uri::PathAndQuery, HeaderValue)> {
    if let Some(rest) = url.strip_prefix("unix://") {
        // unix:///path/to.sock:/token
        let (socket, target) = rest.split_once(':').unwrap_or((rest, "/"));
        let host = HeaderValue::from_static("localhost");
        return Some((proxy::Backend::Unix(PathBuf::from(socket)), target.parse().ok()?, host));
    }
    let uri: Uri = url.parse().ok()?;
    let authority = uri.authority()?.clone();
    let host = authority.host().trim_matches(['[', ']']);
    let address = SocketAddr::new(host.replace("localhost", "127.0.0.1").parse().ok()?, authority.port_u16().unwrap_or(80));
    Some((proxy::Backend::Tcp(address), uri.path_and_query()?.clone(), authority.as_str().parse().ok()?))
}

async fn exec_in(app: App, place: (&str, &str, Option<&str>, &str), request: Request) -> Result<Response, Refusal> {
    let (namespace, name, uid, container) = place;
    let (_, record) = app.find(namespace, name, uid).await?;
    let (id, streams) = (running(&record, container)?, options(&request)?);
    let cmd = commands(request.uri().query().unwrap_or_default());
    if cmd.is_empty() {
        return Err(bad("you must specify a command"));
    }
    let Options { stdin, stdout, stderr, tty } = streams;
    let url = app.ctx.runtime.exec(v1::ExecRequest { container_id: id, cmd, tty, stdin, stdout, stderr }).await;
    carry(&url.map_err(|e| Refusal(StatusCode::INTERNAL_SERVER_ERROR, e.rpc()))?, request).await
}

async fn attach_to(app: App, place: (&str, &str, Option<&str>, &str), request: Request) -> Result<Response, Refusal> {
    let (namespace, name, uid, container) = place;
    let (pod, record) = app.find(namespace, name, uid).await?;
    let (id, streams) = (running(&record, container)?, options(&request)?);
    let tty = crate::pod::spec::member(&pod, container).and_then(|m| m.container.tty).unwrap_or(false);
    let Options { stdin, stdout, stderr, .. } = streams;
    let request_ = v1::AttachRequest { container_id: id, stdin, tty, stdout, stderr: stderr && !tty };
    let url = app.ctx.runtime.attach(request_).await;
    carry(&url.map_err(|e| Refusal(StatusCode::INTERNAL_SERVER_ERROR, e.rpc()))?, request).await
}

async fn forward_to(app: App, place: (&str, &str, Option<&str>), request: Request) -> Result<Response, Refusal> {
    let (namespace, name, uid) = place;
    let (_, record) = app.find(namespace, name, uid).await?;
    let ports = forward::ports(request.uri().query().unwrap_or_default()).map_err(|_| bad("invalid port"))?;
    let Some(sandbox) = record.ready_sandbox() else {
        return Err(Refusal(StatusCode::NOT_FOUND, format!("pod not found (\"{name}_{namespace}\")")));
    };
    let port = ports.into_iter().map(i32::from).collect();
    let url = app.ctx.runtime.port_forward(v1::PortForwardRequest { pod_sandbox_id: sandbox.id.clone(), port }).await;
    carry(&url.map_err(|e| Refusal(StatusCode::INTERNAL_SERVER_ERROR, e.rpc()))?, request).await
}

async fn run_in(app: App, place: (&str, &str, Option<&str>, &str), request: Request) -> Result<Response, Refusal> {
    let (namespace, name, uid, container) = place;
    let (_, record) = app.find(namespace, name, uid).await?;
    let id = running(&record, container)?;
    let query = request.uri().query().unwrap_or_default();
    let command: Vec<String> = commands(query).iter().flat_map(|c| c.split(' ').map(str::to_owned)).collect();
    if command.is_empty() {
        return Err(bad("you must specify a command"));
    }
    let out = app.ctx.runtime.exec_sync(&id, &command, Duration::from_secs(600)).await;
    let out = out.map_err(|e| Refusal(StatusCode::INTERNAL_SERVER_ERROR, e.rpc()))?;
    let mut text = out.stdout;
    text.extend_from_slice(&out.stderr);
    match out.exit_code {
        0 => Ok(text.into_response()),
        code => {
            let message = format!("command terminated with exit code {code}: {}", String::from_utf8_lossy(&text));
            Err(Refusal(StatusCode::INTERNAL_SERVER_ERROR, message))
        }
    }
}

/// `/exec/NAMESPACE/POD/CONTAINER`.
pub async fn exec(State(app): State<App>, Path((n, p, c)): Place, request: Request) -> Result<Response, Refusal> {
    exec_in(app, (&n, &p, None, &c), request).await
}

/// `/exec/NAMESPACE/POD/UID/CONTAINER`.
pub async fn exec_uid(State(app): State<App>, Path((n, p, u, c)): PlaceUid, request: Request) -> Result<Response, Refusal> {
    exec_in(app, (&n, &p, Some(&u), &c), request).await
}

/// `/attach/NAMESPACE/POD/CONTAINER`.
pub async fn attach(State(app): State<App>, Path((n, p, c)): Place, request: Request) -> Result<Response, Refusal> {
    attach_to(app, (&n, &p, None, &c), request).await
}

/// `/attach/NAMESPACE/POD/UID/CONTAINER`.
pub async fn attach_uid(
    State(app): State<App>,
    Path((n, p, u, c)): PlaceUid,
    request: Request,
) -> Result<Response, Refusal> {
    attach_to(app, (&n, &p, Some(&u), &c), request).await
}

/// `/portForward/NAMESPACE/POD`.
pub async fn port_forward(
    State(app): State<App>,
    Path((n, p)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Refusal> {
    forward_to(app, (&n, &p, None), request).await
}

/// `/portForward/NAMESPACE/POD/UID`.
pub async fn port_forward_uid(
    State(app): State<App>,
    Path((n, p, u)): Place,
    request: Request,
) -> Result<Response, Refusal> {
    forward_to(app, (&n, &p, Some(&u)), request).await
}

/// `/run/NAMESPACE/POD/CONTAINER`.
pub async fn run(State(app): State<App>, Path((n, p, c)): Place, request: Request) -> Result<Response, Refusal> {
    run_in(app, (&n, &p, None, &c), request).await
}

/// `/run/NAMESPACE/POD/UID/CONTAINER`.
pub async fn run_uid(State(app): State<App>, Path((n, p, u, c)): PlaceUid, request: Request) -> Result<Response, Refusal> {
    run_in(app, (&n, &p, Some(&u), &c), request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        assert_eq!(commands("command=sh&command=-c&command=echo+a%26b&input=1"), ["sh", "-c", "echo a&b"]);
        assert_eq!(decode("100%"), "100%");
    }

    #[test]
    fn addresses() {
        let shown = |url: &str| address(url).map(|(b, t, h)| format!("{} {t} {}", b.target(), h.to_str().unwrap()));
        assert_eq!(shown("http://127.0.0.1:4000/exec/t?x=1").unwrap(), "tcp 127.0.0.1:4000 /exec/t?x=1 127.0.0.1:4000");
        assert_eq!(shown("http://[::1]:4000/a").unwrap(), "tcp [::1]:4000 /a [::1]:4000");
        assert_eq!(shown("unix:///run/s.sock:/exec/t").unwrap(), "unix /run/s.sock /exec/t localhost");
        assert_eq!(shown("nonsense"), None);
    }
}
