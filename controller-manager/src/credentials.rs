//! Service accounts for controllers: with `--use-service-account-credentials` each acts as `kube-system/ITS-NAME`, and may do only
//! what that account is bound to. What is watched is watched with the controller manager's own rights, as upstream's is.
//!
//! Tokens are asked for when a request needs one, last an hour, and are replaced when a fifth of that is left or when the
//! API server no longer takes them.

use std::{
    fmt,
    sync::Arc,
    task::{self, Poll},
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use k8s_openapi::{
    api::{
        authentication::v1::{TokenRequest, TokenRequestSpec},
        core::v1::ServiceAccount,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::PostParams, client::Body};
use tokio::sync::Mutex;
use tower::{BoxError, Service};

const NAMESPACE: &str = "kube-system";
const LIFE: Duration = Duration::from_secs(3600);
/// When a token is replaced.
const FRESH: Duration = Duration::from_secs(3600 * 4 / 5);

/// A client that shows no credentials.
#[derive(Clone, Default)]
pub struct Anonymous(pub Option<Client>);

impl fmt::Debug for Anonymous {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Anonymous(..)" } else { "None" })
    }
}

/// The service account of a controller; `None` for one that upstream has no account for.
pub fn account(controller: &str) -> Option<&'static str> {
    Some(match controller {
        "garbage-collector-controller" => "generic-garbage-collector",
        "node-ipam-controller" | "node-lifecycle-controller" | "taint-eviction-controller" => "node-controller",
        "pod-garbage-collector-controller" => "pod-garbage-collector",
        "namespace-controller" => "namespace-controller",
        "serviceaccount-controller" => "service-account-controller",
        "root-ca-certificate-publisher-controller" => "root-ca-cert-publisher",
        "certificatesigningrequest-signing-controller"
        | "certificatesigningrequest-approving-controller"
        | "certificatesigningrequest-cleaner-controller" => "certificate-controller",
        "bootstrap-signer-controller" => "bootstrap-signer",
        "token-cleaner-controller" => "token-cleaner",
        "endpoints-controller" => "endpoint-controller",
        "endpointslice-controller" => "endpointslice-controller",
        "endpointslice-mirroring-controller" => "endpointslicemirroring-controller",
        "deployment-controller" => "deployment-controller",
        "replicaset-controller" => "replicaset-controller",
        "replicationcontroller-controller" => "replication-controller",
        _ => return None,
    })
}

/// A client that acts as a service account: tokens come by `own`, requests go out by `anonymous`.
pub fn client(own: &Client, anonymous: &Client, account: &'static str) -> Client {
    let tokens = Arc::new(Tokens { accounts: Api::namespaced(own.clone(), NAMESPACE), account, held: Mutex::new(None) });
    Client::new(As { tokens, inner: anonymous.clone() }, "default")
}

struct Tokens {
    accounts: Api<ServiceAccount>,
    account: &'static str,
    held: Mutex<Option<(http::HeaderValue, Instant)>>,
}

impl Tokens {
    async fn current(&self) -> Result<http::HeaderValue, BoxError> {
        let mut held = self.held.lock().await;
        if let Some((header, since)) = held.as_ref()
            && since.elapsed() < FRESH
        {
            return Ok(header.clone());
        }
        let asked = Instant::now();
        let token = match self.request().await {
            Err(kube::Error::Api(status)) if status.code == 404 => {
                self.create().await?;
                self.request().await?
            }
            other => other?,
        };
        let mut header = http::HeaderValue::try_from(format!("Bearer {token}"))?;
        header.set_sensitive(true);
        *held = Some((header.clone(), asked));
        Ok(header)
    }

    async fn request(&self) -> Result<String, kube::Error> {
        let spec = TokenRequestSpec { expiration_seconds: Some(LIFE.as_secs() as i64), ..TokenRequestSpec::default() };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let answer = self.accounts.create_token_request(self.account, &PostParams::default(), &request).await?;
        Ok(answer.status.map(|status| status.token).unwrap_or_default())
    }

    async fn create(&self) -> Result<(), kube::Error> {
        let metadata = ObjectMeta { name: Some(self.account.to_owned()), ..ObjectMeta::default() };
        let account = ServiceAccount { metadata, ..ServiceAccount::default() };
        match self.accounts.create(&PostParams::default(), &account).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            other => other.map(drop),
        }
    }

    async fn forget(&self, refused: &http::HeaderValue) {
        let mut held = self.held.lock().await;
        if held.as_ref().is_some_and(|(header, _)| header == refused) {
            *held = None;
        }
    }
}

/// Requests with a token.
#[derive(Clone)]
struct As {
    tokens: Arc<Tokens>,
    inner: Client,
}

impl Service<http::Request<Body>> for As {
    type Response = http::Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let Self { tokens, inner } = self.clone();
        Box::pin(async move {
            let token = tokens.current().await?;
            request.headers_mut().insert(http::header::AUTHORIZATION, token.clone());
            let response = inner.send(request).await?;
            if response.status() == http::StatusCode::UNAUTHORIZED {
                tokens.forget(&token).await;
            }
            Ok(response)
        })
    }
}
