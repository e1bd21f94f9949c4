//! Who asks, and whether they may: a certificate of the client authority or a bearer token (TokenReview), then
//! SubjectAccessReview on `nodes/SUBRESOURCE`. Nobody is anonymous here.
//!
//! Commands (`exec`, `attach`, `portForward`, `run`) need `create` on `nodes/proxy` whatever the HTTP method is: a WebSocket
//! begins with GET, and reading rights must not become a shell.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use axum::{
    extract::{Request, State},
    http::{Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::api::{Api, PostParams};
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};

use super::App;

/// An authenticated caller.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct User {
    /// Name.
    pub name: String,
    /// Groups.
    pub groups: Vec<String>,
    /// UID, if a token said so.
    pub uid: Option<String>,
}

/// What the connection itself says about the caller.
#[derive(Clone, Debug)]
pub struct Peer(Option<User>);

impl Peer {
    /// From the (already verified) client certificate.
    pub fn of(chain: Option<&[CertificateDer<'_>]>) -> Self {
        let user = || {
            let (_, certificate) = x509_parser::parse_x509_certificate(chain?.first()?).ok()?;
            let subject = certificate.subject();
            let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
            let groups = subject.iter_organization().filter_map(|o| o.as_str().ok().map(str::to_owned)).collect();
            Some(User { name, groups, uid: None })
        };
        Self(user())
    }
}

/// What a request wants, in RBAC's words.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Wish {
    verb: &'static str,
    /// Any of them suffices; the finest first (KEP-2862).
    subresources: Vec<&'static str>,
}

/// What a request wants.
pub fn wish(method: &Method, path: &str) -> Wish {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    if matches!(first, "exec" | "attach" | "portForward" | "run") {
        return Wish { verb: "create", subresources: vec!["proxy"] };
    }
    let verb = match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    };
    let subresources = match first {
        "stats" => vec!["stats"],
        "metrics" => vec!["metrics"],
        "logs" => vec!["log"],
        "checkpoint" => vec!["checkpoint"],
        "healthz" => vec!["healthz", "proxy"],
        "configz" => vec!["configz", "proxy"],
        "pods" | "runningpods" => vec!["pods", "proxy"],
        _ => vec!["proxy"],
    };
    Wish { verb, subresources }
}

const ALLOWED_FOR: Duration = Duration::from_secs(300);
const DENIED_FOR: Duration = Duration::from_secs(30);
const TOKEN_FOR: Duration = Duration::from_secs(120);
const REMEMBERED: usize = 1024;

/// Answers from the API, remembered for a while.
struct Cache<K, V>(Mutex<HashMap<K, (V, Instant)>>);

impl<K: std::hash::Hash + Eq, V: Clone> Cache<K, V> {
    fn new() -> Self {
        Self(Mutex::new(HashMap::new()))
    }

    fn get(&self, key: &K) -> Option<V> {
        self.0.lock().get(key).filter(|(_, until)| Instant::now() < *until).map(|(value, _)| value.clone())
    }

    fn put(&self, key: K, value: V, life: Duration) {
        let (mut map, now) = (self.0.lock(), Instant::now());
        if map.len() >= REMEMBERED {
            map.retain(|_, (_, until)| now < *until);
            if map.len() >= REMEMBERED {
                map.clear();
            }
        }
        map.insert(key, (value, now + life));
    }
}

/// Asks the API about callers.
pub struct Auth {
    client: kube::Client,
    node: String,
    tokens: Cache<[u8; 32], Option<User>>,
    access: Cache<(User, Wish), bool>,
}

impl Auth {
    /// For the node of that name.
    pub fn new(client: kube::Client, node: String) -> Self {
        Self { client, node, tokens: Cache::new(), access: Cache::new() }
    }

    async fn token(&self, token: &str) -> Result<Option<User>, kube::Error> {
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(known) = self.tokens.get(&key) {
            return Ok(known);
        }
        let review = TokenReview {
            spec: TokenReviewSpec { token: Some(token.to_owned()), audiences: None },
            ..TokenReview::default()
        };
        let answer = Api::<TokenReview>::all(self.client.clone()).create(&PostParams::default(), &review).await?;
        let status = answer.status.filter(|s| s.authenticated == Some(true));
        let user = status
            .and_then(|s| s.user)
            .and_then(|u| Some(User { name: u.username?, groups: u.groups.unwrap_or_default(), uid: u.uid }));
        self.tokens.put(key, user.clone(), if user.is_some() { TOKEN_FOR } else { Duration::from_secs(10) });
        Ok(user)
    }

    async fn allowed(&self, user: &User, wish: &Wish, path: &str) -> Result<bool, kube::Error> {
        let key = (user.clone(), wish.clone());
        if let Some(known) = self.access.get(&key) {
            return Ok(known);
        }
        let mut allowed = false;
        for subresource in &wish.subresources {
            let review = SubjectAccessReview {
                spec: SubjectAccessReviewSpec {
                    user: Some(user.name.clone()),
                    groups: Some(user.groups.clone()),
                    uid: user.uid.clone(),
                    resource_attributes: Some(ResourceAttributes {
                        group: Some(String::new()),
                        version: Some("v1".to_owned()),
                        resource: Some("nodes".to_owned()),
                        subresource: Some((*subresource).to_owned()),
                        name: Some(self.node.clone()),
                        verb: Some(wish.verb.to_owned()),
                        ..ResourceAttributes::default()
                    }),
                    ..SubjectAccessReviewSpec::default()
                },
                ..SubjectAccessReview::default()
            };
            let api = Api::<SubjectAccessReview>::all(self.client.clone());
            let answer = api.create(&PostParams::default(), &review).await?;
            if answer.status.is_some_and(|s| s.allowed && s.denied != Some(true)) {
                allowed = true;
                break;
            }
        }
        tracing::debug!(user = user.name, verb = wish.verb, path, allowed, "asked for access");
        self.access.put(key, allowed, if allowed { ALLOWED_FOR } else { DENIED_FOR });
        Ok(allowed)
    }
}

/// The middleware.
pub async fn check(State(app): State<App>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().cloned();
    let bearer = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.strip_prefix("Bearer "))
        .map(|t| t.trim().to_owned());
    let user = match (peer.and_then(|p| p.0), bearer) {
        (Some(user), _) => Ok(Some(user)),
        (None, Some(token)) => app.auth.token(&token).await,
        (None, None) => Ok(None),
    };
    let user = match user {
        Ok(Some(user)) => user,
        Ok(None) => return (StatusCode::UNAUTHORIZED, "Unauthorized").into_response(),
        Err(error) => {
            tracing::warn!(%error, "a token could not be reviewed");
            return (StatusCode::UNAUTHORIZED, "Unauthorized").into_response();
        }
    };
    let path = request.uri().path().to_owned();
    let wish = wish(request.method(), &path);
    match app.auth.allowed(&user, &wish, &path).await {
        Ok(true) => next.run(request).await,
        Ok(false) => {
            let message = format!(
                "Forbidden (user={}, verb={}, resource=nodes, subresource(s)=[{}])\n",
                user.name,
                wish.verb,
                wish.subresources.join(" ")
            );
            (StatusCode::FORBIDDEN, message).into_response()
        }
        Err(error) => {
            tracing::warn!(%error, "access could not be reviewed");
            let message = format!("Authorization error (user={}, verb={}, resource=nodes)", user.name, wish.verb);
            (StatusCode::INTERNAL_SERVER_ERROR, message).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_rights_never_become_a_shell() {
        for path in ["/exec/n/p/c", "/attach/n/p/c", "/portForward/n/p", "/run/n/p/c"] {
            let expected = Wish { verb: "create", subresources: vec!["proxy"] };
            assert_eq!(wish(&Method::GET, path), expected, "{path}");
        }
    }

    #[test]
    fn fine_grained_names() {
        let names = |path: &str| wish(&Method::GET, path).subresources.join(",");
        let cases = [
            ("/pods", "pods,proxy"),
            ("/healthz", "healthz,proxy"),
            ("/stats/summary", "stats"),
            ("/metrics/cadvisor", "metrics"),
            ("/containerLogs/n/p/c", "proxy"),
        ];
        for (path, expected) in cases {
            assert_eq!(names(path), expected, "{path}");
        }
    }
}
