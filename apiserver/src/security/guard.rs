//! The door: every request passes it once, and comes out with an [`Identity`] and a [`RequestInfo`] in its extensions or not
//! at all. In-process clients bring their identity along and are authorized like everybody else.

use std::sync::Arc;

use api::status::{GroupResource, Status, forbidden_message, forbidden_path_message};
use axum::{
    body::Body,
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderValue, StatusCode, header};

use super::impersonation::{self, Refused};
use crate::{
    error,
    gate::{Decision, Gate},
    identity::{Identity, User},
    request::RequestInfo,
};

/// Why a request goes no further.
#[derive(Debug)]
pub enum Refusal {
    /// For a reason that is told as a Status.
    Told(Status),
    /// In plain text, as upstream's outer layers do.
    Answered(Box<Response>),
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self::Told(status)
    }
}

/// Middleware (`axum::middleware::from_fn_with_state(gate, guard)`): authentication, impersonation, authorization.
pub async fn guard(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    match admit(&gate, request).await {
        Ok(request) => next.run(request).await,
        Err(Refusal::Told(status)) => refuse(&status),
        Err(Refusal::Answered(response)) => *response,
    }
}

/// The request with its identity and what it asks for, or why it goes no further.
pub async fn admit(gate: &Gate, request: Request) -> Result<Request, Refusal> {
    let (mut parts, body) = request.into_parts();
    let mut user: Identity = match parts.extensions.get::<Identity>() {
        Some(brought) => brought.clone(),
        None => match gate.authenticate.authenticate(&parts).await {
            Ok(Some(user)) => user,
            Ok(None) => Arc::new(User::anonymous()),
            Err(error) => {
                // The reason is for us: a client that guesses tokens learns nothing.
                tracing::info!(path = parts.uri.path(), "Unable to authenticate the request: {error}");
                return Err(Status::unauthorized("").into());
            }
        },
    };
    match impersonation::apply(&mut parts.headers, &user, gate.authorize.as_ref()) {
        Ok(None) => {}
        Ok(Some(other)) => user = other,
        Err(Refused::Forbidden(status)) => return Err(status.into()),
        Err(Refused::Malformed(why)) => {
            return Err(Refusal::Answered(Box::new(error::of_the_server(&error::asked(&parts.uri), &why))));
        }
    }
    // Whoever stands behind us must not see what was for us.
    parts.headers.remove(header::AUTHORIZATION);
    let info = RequestInfo::parse(&parts.method, parts.uri.path(), parts.uri.query());
    if let Decision::Deny(reason) = gate.authorize.authorize(&user, &info) {
        return Err(forbidden(&user, &info, &reason).into());
    }
    parts.extensions.insert(user);
    parts.extensions.insert(info);
    Ok(Request::from_parts(parts, body))
}

/// A 403 in upstream's words.
pub fn forbidden(user: &User, info: &RequestInfo, reason: &str) -> Status {
    let resource = GroupResource { group: &info.group, resource: &info.resource };
    let message = if info.is_resource {
        forbidden_message(&user.name, info.verb, resource, &info.subresource, &info.namespace)
    } else {
        forbidden_path_message(&user.name, info.verb, &info.path)
    };
    let why = if reason.is_empty() { message } else { format!("{message}: {reason}") };
    if info.is_resource {
        Status::forbidden(resource, &info.name, &why)
    } else {
        Status::forbidden(GroupResource { group: "", resource: "" }, "", &why)
    }
}

fn refuse(status: &Status) -> Response {
    let mut response = Response::new(Body::from(status.to_bytes()));
    *response.status_mut() = u16::try_from(status.code)
        .ok()
        .and_then(|code| StatusCode::from_u16(code).ok())
        .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::{Extension, Router, routing::any};
    use http_body_util::{BodyExt, Empty};
    use hyper_util::rt::TokioIo;
    use serde_json::{Value, json};
    use store::{Op, Store, Txn};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::security::{
        Config, Security,
        lookup::InStore,
        pki::{Pair, Pki, Subject},
        tls,
    };

    struct Dir(std::path::PathBuf);

    impl Dir {
        fn new() -> Self {
            let dir = Self(std::env::temp_dir().join(format!("knarr-guard-{}", uuid::Uuid::new_v4())));
            std::fs::create_dir_all(&dir.0).unwrap();
            dir
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    struct Server {
        security: Security,
        store: Arc<dyn Store>,
        address: SocketAddr,
        shutdown: CancellationToken,
        _dir: Dir,
    }

    async fn server() -> Server {
        let dir = Dir::new();
        let options = store::redb::Options::default();
        let store: Arc<dyn Store> = Arc::new(store::redb::RedbStore::open(dir.0.join("store.redb"), options).unwrap());
        let config = Config {
            pki: dir.0.join("pki"),
            addresses: Vec::new(),
            loopback_kubelets: true,
            files: Default::default(),
            access: Default::default(),
        };
        let shutdown = CancellationToken::new();
        let lookup = Arc::new(InStore(store.clone()));
        let security = Security::start(&config, store.clone(), lookup, Arc::new(()), shutdown.clone()).await.unwrap();
        let who = any(|Extension(user): Extension<Identity>| async move { user.name.clone() });
        let layer = axum::middleware::from_fn_with_state(security.gate.clone(), guard);
        let router = Router::new().fallback(who).layer(layer);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(tls::serve(listener, security.tls.clone(), router, shutdown.clone()));
        Server { security, store, address, shutdown, _dir: dir }
    }

    impl Server {
        async fn ask(&self, pair: Option<&Pair>, path: &str, headers: &[(&'static str, String)]) -> (u16, String) {
            let config = tls::client(pair, self.security.pki.authority_pem()).unwrap();
            let stream = TcpStream::connect(self.address).await.unwrap();
            let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
            let name = "kubernetes.default".try_into().unwrap();
            let stream = TokioIo::new(connector.connect(name, stream).await.unwrap());
            let (mut send, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            let mut request = http::Request::get(path).header("host", "x");
            for (name, value) in headers {
                request = request.header(*name, value);
            }
            let response = send.send_request(request.body(Empty::<bytes::Bytes>::new()).unwrap()).await.unwrap();
            let code = response.status().as_u16();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            (code, String::from_utf8(body.to_vec()).unwrap())
        }
    }

    #[tokio::test]
    async fn whoever_comes_is_known_and_may_or_may_not() {
        let server = server().await;
        let (admin, pki) = (server.security.pki.admin().unwrap(), &server.security.pki);
        let alice = pki.issue(&Subject::client("alice", &["dev"])).unwrap();
        let elsewhere = Dir::new();
        let stranger = Pki::open(&elsewhere.0, time::OffsetDateTime::now_utc()).unwrap().admin().unwrap();

        assert_eq!(server.ask(None, "/readyz", &[]).await, (200, "system:anonymous".into()));
        let pods = "/api/v1/namespaces/d/pods";
        assert_eq!(server.ask(Some(&admin), pods, &[]).await, (200, "kubernetes-admin".into()));
        let as_alice = [("impersonate-user", "alice".to_owned())];
        assert_eq!(server.ask(Some(&admin), "/apis", &as_alice).await, (200, "alice".into()));

        let unauthorized = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"Unauthorized","reason":"Unauthorized","code":401}"#.to_owned() + "\n";
        assert_eq!(server.ask(Some(&stranger), "/readyz", &[]).await, (401, unauthorized.clone()));
        let forged = [("authorization", "Bearer e30.e30.e30".to_owned())];
        assert_eq!(server.ask(None, "/readyz", &forged).await, (401, unauthorized));

        let (code, body) = server.ask(Some(&alice), pods, &[]).await;
        let want = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"pods is forbidden: User \"alice\" cannot list resource \"pods\" in API group \"\" in the namespace \"d\"","reason":"Forbidden","details":{"kind":"pods"},"code":403}"#;
        assert_eq!((code, body.trim_end()), (403, want));
        let (code, body) = server.ask(None, "/api", &[]).await;
        let status: Value = serde_json::from_str(&body).unwrap();
        let want = json!("forbidden: User \"system:anonymous\" cannot get path \"/api\"");
        assert_eq!((code, &status["message"]), (403, &want));
        server.shutdown.cancel();
    }

    #[tokio::test]
    async fn a_service_account_comes_with_its_token() {
        let server = server().await;
        let account = json!({"kind": "ServiceAccount", "apiVersion": "v1",
            "metadata": {"name": "robot", "namespace": "d", "uid": "1"}});
        let put = |value: &Value| Txn {
            ops: vec![Op::Put {
                key: "/registry/serviceaccounts/d/robot".into(),
                value: value.to_string().into(),
                ttl: None,
            }],
            ..Txn::default()
        };
        server.store.commit(put(&account)).await.unwrap();
        let answer = server.security.gate.tokens.issue(&account, json!({})).await.unwrap();
        let token = format!("Bearer {}", answer["status"]["token"].as_str().unwrap());
        let headers = [("authorization", token)];
        let want = (200, "system:serviceaccount:d:robot".to_owned());
        assert_eq!(server.ask(None, "/apis", &headers).await, want);
        assert_eq!(server.ask(None, "/openid/v1/jwks", &headers).await, want);
        assert_eq!(server.ask(None, "/api/v1/pods", &headers).await.0, 403);
        server.shutdown.cancel();
    }
}
