//! The secure port of a component that runs by itself: `/healthz`, `/livez`, `/readyz` and `/metrics` over HTTPS.
//!
//! As upstream: health is for everybody, the rest for whom the API server knows (a client certificate of the cluster's
//! authority, or a bearer token) and lets. Where no certificate is given the component makes one for itself.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use apiserver::{
    identity::User,
    security::{
        pki::Pair,
        tls::{self, Certificate, Peer, Tls},
    },
};
use axum::{
    Router,
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    authorization::v1::{NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
    core::v1::ConfigMap,
};
use kube::{Api, Client, api::PostParams};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::commands::component;

/// Flags of the secure port; upstream's.
#[derive(Clone, Debug, clap::Args)]
pub struct SecureFlags {
    /// The IP address on which to listen for the --secure-port port.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    bind_address: IpAddr,
    /// The port on which to serve HTTPS with authentication and authorization; 0 serves none [default: upstream's].
    #[arg(long)]
    secure_port: Option<u16>,
    /// File containing the x509 certificate for HTTPS; without it one is made that nobody vouches for.
    #[arg(long, requires = "tls_private_key_file")]
    tls_cert_file: Option<PathBuf>,
    /// File containing the x509 private key matching --tls-cert-file.
    #[arg(long, requires = "tls_cert_file")]
    tls_private_key_file: Option<PathBuf>,
    /// Requests with a client certificate signed by one of these authorities are authenticated [default: the cluster's, as
    /// published in kube-system/extension-apiserver-authentication].
    #[arg(long)]
    client_ca_file: Option<PathBuf>,
    /// kubeconfig file for asking the API server who the bearer of a token is [default: --kubeconfig].
    #[arg(long)]
    authentication_kubeconfig: Option<PathBuf>,
    /// kubeconfig file for asking the API server what a user may do [default: --kubeconfig].
    #[arg(long)]
    authorization_kubeconfig: Option<PathBuf>,
    /// Paths that anybody may get.
    #[arg(long, value_delimiter = ',', default_value = "/healthz,/readyz,/livez")]
    authorization_always_allow_paths: Vec<String>,
}

/// Who is let in.
struct Door {
    authentication: Client,
    authorization: Client,
    open: Vec<String>,
}

impl SecureFlags {
    /// Listens, and serves `router` in the background until `shutdown`. An address that is taken is an error at once; the cluster's
    /// authority is waited for, since the API server may be starting, too.
    pub async fn serve(&self, port: u16, router: Router, client: &Client, shutdown: CancellationToken) -> Result<()> {
        let port = self.secure_port.unwrap_or(port);
        if port == 0 {
            return Ok(());
        }
        let address = SocketAddr::new(self.bind_address, port);
        let listener = TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
        let pair = self.pair()?;
        let other = async |path: &Option<PathBuf>| match path {
            Some(path) => component::client(Some(path), None).await,
            None => Ok(client.clone()),
        };
        let door = Door {
            authentication: other(&self.authentication_kubeconfig).await?,
            authorization: other(&self.authorization_kubeconfig).await?,
            open: self.authorization_always_allow_paths.clone(),
        };
        let authority = match &self.client_ca_file {
            Some(path) => {
                Some(std::fs::read_to_string(path).with_context(|| format!("read --client-ca-file {}", path.display()))?)
            }
            None => None,
        };
        let lookup = door.authentication.clone();
        let router = router.layer(middleware::from_fn_with_state(Arc::new(door), admit));
        tokio::spawn(async move {
            let authority = match authority {
                Some(authority) => authority,
                None => match shutdown.run_until_cancelled(published_authority(lookup)).await {
                    Some(authority) => authority,
                    None => return,
                },
            };
            match Tls::new(&pair, &authority) {
                Ok(tls) => tls::serve(listener, tls, router, shutdown).await,
                Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "the secure port is not served"),
            }
        });
        Ok(())
    }

    fn pair(&self) -> Result<Pair> {
        let read = |path: &PathBuf| std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()));
        match (&self.tls_cert_file, &self.tls_private_key_file) {
            (Some(certificate), Some(key)) => Ok(Pair { certificate: read(certificate)?, key: read(key)? }),
            (None, None) => {
                let mut names = vec!["localhost".to_owned(), component::host_name()?];
                if !self.bind_address.is_unspecified() {
                    names.push(self.bind_address.to_string());
                }
                let made = rcgen::generate_simple_self_signed(names).context("make a serving certificate")?;
                Ok(Pair { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() })
            }
            _ => bail!("--tls-cert-file and --tls-private-key-file go together"),
        }
    }
}

/// The authority of the cluster's clients, once the API server tells it.
async fn published_authority(client: Client) -> String {
    let maps: Api<ConfigMap> = Api::namespaced(client, "kube-system");
    loop {
        match maps.get("extension-apiserver-authentication").await {
            Ok(map) => {
                if let Some(authority) = map.data.and_then(|mut data| data.remove("client-ca-file")) {
                    return authority;
                }
                tracing::warn!("kube-system/extension-apiserver-authentication names no client authority yet");
            }
            Err(error) => tracing::warn!(%error, "the cluster's client authority is not known yet"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn refuse(code: StatusCode, reason: &str, message: &str) -> Response {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
        "reason": reason, "code": code.as_u16()});
    (code, [(header::CONTENT_TYPE, "application/json")], status.to_string()).into_response()
}

async fn admit(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    // `/healthz/*` style entries open what is below, as upstream's do.
    let opens = |entry: &String| entry.strip_suffix('*').map_or(path == *entry, |start| path.starts_with(start));
    if door.open.iter().any(opens) {
        return next.run(request).await;
    }
    let user = match door.user(shown(&request)).await {
        Ok(Some(user)) => user,
        Ok(None) => return refuse(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized"),
        Err(error) => return refuse(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", &error.to_string()),
    };
    let verb = request.method().as_str().to_lowercase();
    match door.allows(&user, &path, &verb).await {
        Ok(true) => next.run(request).await,
        Ok(false) => {
            let message = format!("forbidden: User {:?} cannot {verb} path {path:?}", user.name);
            refuse(StatusCode::FORBIDDEN, "Forbidden", &message)
        }
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", &error.to_string()),
    }
}

/// The credentials of a request.
enum Shown {
    Nothing,
    Bad,
    Certificate(Arc<User>),
    Token(String),
}

fn shown(request: &Request) -> Shown {
    match request.extensions().get::<Peer>().map(|peer| &peer.certificate) {
        Some(Certificate::Good { user, not_after }) if *not_after > unix_seconds() => {
            return Shown::Certificate(user.clone());
        }
        Some(Certificate::Good { .. } | Certificate::Bad(_)) => return Shown::Bad,
        Some(Certificate::Absent) | None => {}
    }
    let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = header.and_then(|value| value.strip_prefix("Bearer "));
    token.map_or(Shown::Nothing, |token| Shown::Token(token.trim().to_owned()))
}

impl Door {
    /// Who asks; `None` for credentials that are no good.
    async fn user(&self, shown: Shown) -> Result<Option<User>, kube::Error> {
        let token = match shown {
            Shown::Nothing => return Ok(Some(User::anonymous())),
            Shown::Bad => return Ok(None),
            Shown::Certificate(user) => return Ok(Some((*user).clone())),
            Shown::Token(token) => token,
        };
        let spec = TokenReviewSpec { token: Some(token), audiences: None };
        let review = TokenReview { spec, ..TokenReview::default() };
        let answer = Api::<TokenReview>::all(self.authentication.clone()).create(&PostParams::default(), &review).await?;
        let known = answer.status.filter(|status| status.authenticated == Some(true)).and_then(|status| status.user);
        Ok(known.map(|user| User {
            name: user.username.unwrap_or_default(),
            uid: user.uid.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
            ..User::default()
        }))
    }

    async fn allows(&self, user: &User, path: &str, verb: &str) -> Result<bool, kube::Error> {
        let asked = NonResourceAttributes { path: Some(path.to_owned()), verb: Some(verb.to_owned()) };
        let spec = SubjectAccessReviewSpec {
            user: Some(user.name.clone()),
            groups: Some(user.groups.clone()),
            non_resource_attributes: Some(asked),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let reviews: Api<SubjectAccessReview> = Api::all(self.authorization.clone());
        let answer = reviews.create(&PostParams::default(), &review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed && status.denied != Some(true)))
    }
}

fn unix_seconds() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
