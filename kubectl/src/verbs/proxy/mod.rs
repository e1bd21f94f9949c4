//! `kubectl proxy`: the cluster's API without credentials, for programs of the user's own on this machine.
//!
//! Whoever can connect may do what the user may. So it listens on loopback unless told otherwise, and [`filter`] turns away
//! what a browser could be led to. Requests go on as they are, with the user's credentials; answers come back as they are,
//! piece by piece, and after an upgrade (`exec`, `port-forward`) so do bytes.

mod files;
mod filter;

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::FileTypeExt,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use jiff::SignedDuration;
use nix::sys::stat::{Mode, umask};
use streaming::proxy::{asked_upgrade, end_to_end, tunnel};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
};

use self::filter::{Fate, Filter, Routes, patterns};
use crate::{
    cli,
    client::{Client, Endpoint, log},
    context::Context,
    failure::{Failure, plain},
};

const PORT: i64 = 8001;
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// What `proxy` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Patterns (regular expressions, with commas between them) of hosts that requests may name.
    #[arg(long, default_value = r"^localhost$,^127\.0\.0\.1$,^\[::1\]$")]
    pub accept_hosts: String,
    /// Patterns of paths that requests may be to.
    #[arg(long, default_value = "^.*")]
    pub accept_paths: String,
    /// The IP address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    pub address: String,
    /// What paths to the API begin with.
    #[arg(long, default_value = "/")]
    pub api_prefix: String,
    /// Put the path of the kubeconfig's server before that of each request.
    #[arg(long)]
    pub append_server_path: bool,
    /// Let every request pass, even those that a web page could make with your credentials.
    #[arg(long)]
    pub disable_filter: bool,
    /// How often to try whether the server is still there when it is silent; 0 is never.
    #[arg(long, default_value = "0s", value_parser = cli::duration)]
    pub keepalive: SignedDuration,
    /// The port to listen on; 0 is any that is free.
    #[arg(long, short = 'p', default_value_t = PORT)]
    pub port: i64,
    /// Patterns of HTTP methods that requests may not have, such as 'POST,PUT,PATCH'.
    #[arg(long, default_value = "^$")]
    pub reject_methods: String,
    /// Patterns of paths that requests may not be to, even if --accept-paths has them.
    #[arg(long, default_value = "^/api/.*/pods/.*/exec,^/api/.*/pods/.*/attach")]
    pub reject_paths: String,
    /// The unix socket to listen on instead of a port.
    #[arg(long, short = 'u', default_value = "", hide_default_value = true)]
    pub unix_socket: String,
    /// A directory whose files are served too.
    #[arg(long, short = 'w', default_value = "", hide_default_value = true)]
    pub www: String,
    /// What paths to files begin with, if there are any.
    #[arg(long, short = 'P', default_value = "/static/")]
    pub www_prefix: String,
    /// What else there is; nothing of it means anything.
    #[arg(hide = true)]
    pub ignored: Vec<String>,
}

/// Serves until it is interrupted.
///
/// # Errors
/// Flags that make no sense, or an address that cannot be listened on.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let endpoint = cx.client()?.endpoint().clone();
    cx.client()?.matched().await?;
    let routes = routes(&args, &endpoint)?;
    if args.port != PORT && !args.unix_socket.is_empty() {
        return Err(plain("cannot set --unix-socket and --port at the same time"));
    }
    match std::fs::metadata(&args.www) {
        _ if args.www.is_empty() => {}
        Ok(about) if about.is_dir() => {}
        Ok(_) => log::warning("proxy.go:202", &format!("Static file directory {} is not a directory", args.www)),
        Err(error) => {
            let why = crate::failure::go_io(&error);
            let told = format!("Failed to stat static file directory {0}: stat {0}: {why}", args.www);
            log::warning("proxy.go:200", &told);
        }
    }
    if routes.files.as_ref() == Some(&routes.api) {
        return Err(plain(format!("--www-prefix and --api-prefix must differ, and are both {}", routes.api)));
    }
    let keepalive = Duration::try_from(args.keepalive).ok().filter(|period| !period.is_zero());
    let prefix = if args.append_server_path { endpoint.prefix.clone() } else { String::new() };
    let proxy = Arc::new(Proxy {
        client: Client::new(Endpoint { keepalive, prefix, ..endpoint }),
        routes,
        files: PathBuf::from(args.www),
    });
    match args.unix_socket.as_str() {
        "" => {
            let listener = listen(&args.address, args.port).await.map_err(|why| plain(format!("listen tcp{why}")))?;
            println!("Starting to serve on {}", listener.local_addr()?);
            loop {
                match listener.accept().await {
                    Ok((connection, from)) => drop(tokio::spawn(serve(proxy.clone(), connection, Some(from)))),
                    Err(error) => unaccepted(&error).await,
                }
            }
        }
        path => {
            let failed = |error| plain(format!("listen unix {path}: bind: {}", crate::failure::go_io(&error)));
            let listener = listen_unix(path).map_err(failed)?;
            println!("Starting to serve on {path}");
            loop {
                match listener.accept().await {
                    Ok((connection, _)) => drop(tokio::spawn(serve(proxy.clone(), connection, None))),
                    Err(error) => unaccepted(&error).await,
                }
            }
        }
    }
}

fn routes(args: &Args, endpoint: &Endpoint) -> Result<Routes, Failure> {
    let with_slash = |prefix: &str| if prefix.ends_with('/') { prefix.to_owned() } else { format!("{prefix}/") };
    if !args.append_server_path && !endpoint.prefix.is_empty() {
        let path = &endpoint.prefix;
        let told = format!(
            "Your kube context contains a server path {path}, use --append-server-path to automatically append the path to \
             each request"
        );
        log::warning("proxy.go:172", &told);
    }
    let fatal =
        |why: String| Failure::Verbatim(log::fatal("proxy_server.go:83", &format!("Error compiling re: {why}")), 255);
    let filter = if args.disable_filter {
        if args.unix_socket.is_empty() {
            let told = "Request filter disabled, your proxy is vulnerable to XSRF attacks, please be cautious";
            log::warning("proxy.go:177", told);
        }
        None
    } else {
        Some(Filter {
            accept_paths: patterns(&args.accept_paths).map_err(fatal)?,
            reject_paths: patterns(&args.reject_paths).map_err(fatal)?,
            accept_hosts: patterns(&args.accept_hosts).map_err(fatal)?,
            reject_methods: patterns(&args.reject_methods).map_err(fatal)?,
        })
    };
    let files = (!args.www.is_empty()).then(|| with_slash(&args.www_prefix));
    Ok(Routes { api: with_slash(&args.api_prefix), files, filter })
}

/// A listener, or what follows `listen tcp` in Go's words for why there is none.
async fn listen(address: &str, port: i64) -> Result<TcpListener, String> {
    let (host, family) = match address.strip_prefix('[') {
        Some(rest) => {
            (rest.strip_suffix(']').ok_or_else(|| format!(": address {address}:{port}: missing ']' in address"))?, 6)
        }
        None if address.contains(':') => return Err(format!(": address {address}:{port}: too many colons in address")),
        None => (address, 4),
    };
    let port = u16::try_from(port).map_err(|_| format!(": address {port}: invalid port"))?;
    if host.is_empty() {
        // Both families at once, where there are two.
        let all = TcpListener::bind((IpAddr::from([0; 16]), port)).await;
        return all.map_err(|error| format!(" :{port}: bind: {}", crate::failure::go_io(&error)));
    }
    let found = crate::client::resolve(host, port).await.map_err(|why| why.replacen("dial tcp", "", 1))?;
    let wanted = |address: &&SocketAddr| address.is_ipv4() == (family == 4);
    let Some(at) = found.iter().find(wanted).or(found.first()) else { return Err(format!(": lookup {host}: no such host")) };
    TcpListener::bind(at).await.map_err(|error| format!(" {at}: bind: {}", crate::failure::go_io(&error)))
}

/// A socket for its user alone, in place of an older one.
fn listen_unix(path: &str) -> io::Result<UnixListener> {
    if std::fs::metadata(path).is_ok_and(|about| about.file_type().is_socket()) {
        std::fs::remove_file(path)?;
    }
    let before = umask(Mode::S_IRWXG | Mode::S_IRWXO);
    let listener = UnixListener::bind(path);
    umask(before);
    listener
}

/// There is no telling when there are descriptors or memory again; whatever ends gives some back.
async fn unaccepted(error: &io::Error) {
    log::error("proxy_server.go:235", &format!("accept: {error}; retrying in 100ms"));
    tokio::time::sleep(Duration::from_millis(100)).await;
}

struct Proxy {
    client: Client,
    routes: Routes,
    files: PathBuf,
}

async fn serve(
    proxy: Arc<Proxy>,
    connection: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    from: Option<SocketAddr>,
) {
    let service = service_fn(move |request| {
        let proxy = proxy.clone();
        let answer: Pin<Box<dyn Future<Output = _> + Send>> =
            Box::pin(async move { Ok::<_, Infallible>(proxy.answer(request, from).await) });
        answer
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    let served = server.title_case_headers(true).serve_connection(TokioIo::new(connection), service).with_upgrades();
    if let Err(error) = served.await {
        log::at(6, "proxy_server.go:235", &format!("a connection broke: {error}"));
    }
}

impl Proxy {
    async fn answer(&self, request: Request<Incoming>, from: Option<SocketAddr>) -> Response<Body> {
        let host = match request.uri().authority() {
            Some(authority) => authority.as_str(),
            None => request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
        };
        let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        match self.routes.fate(request.method().as_str(), request.uri().path(), host) {
            Fate::Server(path) => self.forward(request, &format!("{path}{query}"), from).await,
            Fate::File(name) => {
                let (parts, _) = request.into_parts();
                let mut response = files::answer(&self.files, &name, &parts).await;
                if parts.method == Method::HEAD {
                    *response.body_mut() = full(String::new());
                }
                response
            }
            Fate::Moved(path) => moved(request.method(), &format!("{path}{query}")),
            Fate::Nothing => not_found(),
            Fate::Forbidden => said(StatusCode::FORBIDDEN, "Forbidden"),
            Fate::Wrong => said(StatusCode::BAD_REQUEST, "400 Bad Request"),
        }
    }

    /// The server's answer to a request, at another path than it came to.
    async fn forward(&self, mut request: Request<Incoming>, target: &str, from: Option<SocketAddr>) -> Response<Body> {
        let failed = |why: String| {
            log::error("proxy_server.go:147", &format!("Error while proxying request: {why}"));
            said(StatusCode::INTERNAL_SERVER_ERROR, &why)
        };
        let uri: Uri = match target.parse() {
            Ok(uri) => uri,
            Err(error) => return failed(format!("parse {}: {error}", api::field::go_quote(target))),
        };
        let upgrade = asked_upgrade(request.headers());
        let near = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
        *request.uri_mut() = uri;
        *request.version_mut() = http::Version::HTTP_11;
        *request.headers_mut() = end_to_end(request.headers(), upgrade.as_ref());
        if let Some(from) = from {
            forwarded_for(request.headers_mut(), from.ip());
        }
        let mut response = match self.client.forward(request).await {
            Ok(response) => response,
            Err(why) => return failed(why),
        };
        let status = response.status();
        let switched = status == StatusCode::SWITCHING_PROTOCOLS;
        if switched != near.is_some() && status.as_u16() < 400 && (switched || near.is_some()) {
            return failed(format!("invalid upgrade response: status code {}", status.as_u16()));
        }
        let protocol = response.headers().get(header::UPGRADE).cloned();
        let headers = end_to_end(response.headers(), protocol.as_ref().filter(|_| switched));
        let body = match near.filter(|_| switched) {
            Some(near) => {
                let far = hyper::upgrade::on(&mut response);
                tokio::spawn(async move {
                    match tokio::try_join!(near, far) {
                        Ok((near, far)) => tunnel(TokioIo::new(near), TokioIo::new(far)).await,
                        Err(error) => {
                            log::error("upgradeaware.go:413", &format!("an upgrade was not carried through: {error}"))
                        }
                    }
                });
                full(String::new())
            }
            None => response.into_body().map_err(Into::into).boxed_unsync(),
        };
        let mut answer = Response::new(body);
        *answer.status_mut() = status;
        *answer.headers_mut() = headers;
        answer
    }
}

/// Adds a client's address to those that the request came by.
fn forwarded_for(headers: &mut http::HeaderMap, ip: IpAddr) {
    let before: Vec<&str> = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()).collect();
    let all = before.into_iter().map(str::to_owned).chain([ip.to_string()]).collect::<Vec<_>>().join(", ");
    if let Ok(all) = HeaderValue::from_str(&all) {
        headers.insert(FORWARDED_FOR, all);
    }
}

fn full(text: String) -> Body {
    Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync()
}

fn text(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    response
}

/// A line of text, as Go's `http.Error` sends it.
fn said(status: StatusCode, line: &str) -> Response<Body> {
    let mut response = text(status, format!("{line}\n"));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn not_found() -> Response<Body> {
    said(StatusCode::NOT_FOUND, "404 page not found")
}

/// The path that should have been asked for.
fn moved(method: &Method, to: &str) -> Response<Body> {
    let shown = matches!(*method, Method::GET | Method::HEAD);
    let escaped =
        to.replace('&', "&amp;").replace('"', "&#34;").replace('\'', "&#39;").replace('<', "&lt;").replace('>', "&gt;");
    let page =
        if *method == Method::GET { format!("<a href=\"{escaped}\">Moved Permanently</a>.\n\n") } else { String::new() };
    let mut response = text(StatusCode::MOVED_PERMANENTLY, page);
    let headers = response.headers_mut();
    if shown {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    }
    headers.extend(HeaderValue::from_str(to).ok().map(|to| (header::LOCATION, to)));
    response
}
