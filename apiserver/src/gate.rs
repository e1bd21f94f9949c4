//! Who may come in and what lies behind: the seams between the registry and the parts that know certificates, tokens, RBAC
//! and kubelets. The registry calls these and nothing else of them; each has a stand-in for tests without security.

use std::sync::Arc;

use api::status::Status;
use async_trait::async_trait;
use axum::body::Body;
use http::{Request, Response, request::Parts};
use serde_json::Value;

use crate::{
    identity::{Identity, User},
    request::RequestInfo,
};

/// Establishes who sent a request.
#[async_trait]
pub trait Authenticate: Send + Sync + 'static {
    /// The user behind the request's credentials, `None` if it carries none. Peer certificates are in the extensions.
    async fn authenticate(&self, request: &Parts) -> Result<Option<Identity>, Unauthenticated>;
    /// Fills in the `status` of a TokenReview from its `spec`.
    async fn review(&self, spec: &Value) -> Value;
}

/// Credentials that don't hold (401).
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct Unauthenticated(pub String);

/// What authorization answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Go ahead; the reason is for SubjectAccessReview.
    Allow(String),
    /// No; the reason is appended to the Forbidden message.
    Deny(String),
}

/// Decides whether a user may do something.
pub trait Authorize: Send + Sync + 'static {
    /// The decision; plain and quick, from memory.
    fn authorize(&self, user: &User, attributes: &RequestInfo) -> Decision;
    /// The `status` of a SelfSubjectRulesReview: what the user may do in `namespace`.
    fn rules(&self, user: &User, namespace: &str) -> Value;
    /// Refuses a write of RBAC objects that would grant more than the writer has; `old` is what is there before.
    fn check_escalation(
        &self,
        _user: &User,
        _info: &RequestInfo,
        _object: &Value,
        _old: Option<&Value>,
    ) -> Result<(), Status> {
        Ok(())
    }
}

/// Signs service-account tokens.
#[async_trait]
pub trait IssueTokens: Send + Sync + 'static {
    /// Answers a TokenRequest for the service account object with the whole TokenRequest, status filled in.
    async fn issue(&self, service_account: &Value, token_request: Value) -> Result<Value, Status>;
}

/// Carries a request on to a kubelet, pod or service: log, exec, attach, port-forward, proxy.
#[async_trait]
pub trait Connect: Send + Sync + 'static {
    /// Answers the request, upgrades included. `object` is the pod, service or node as stored.
    async fn connect(&self, info: &RequestInfo, object: &Value, request: Request<Body>) -> Response<Body>;
}

/// All seams together.
#[derive(Clone)]
pub struct Gate {
    /// Authentication.
    pub authenticate: Arc<dyn Authenticate>,
    /// Authorization.
    pub authorize: Arc<dyn Authorize>,
    /// Token signing.
    pub tokens: Arc<dyn IssueTokens>,
    /// The way to kubelets.
    pub connect: Arc<dyn Connect>,
}

impl Gate {
    /// No security at all: requests without an identity are an administrator's. For tests on loopback.
    pub fn open() -> Self {
        let open = Arc::new(Open);
        Self { authenticate: open.clone(), authorize: open.clone(), tokens: open.clone(), connect: open }
    }
}

struct Open;

#[async_trait]
impl Authenticate for Open {
    async fn authenticate(&self, _request: &Parts) -> Result<Option<Identity>, Unauthenticated> {
        Ok(Some(Arc::new(User::new("kubernetes-admin", &[crate::identity::MASTERS]))))
    }

    async fn review(&self, _spec: &Value) -> Value {
        serde_json::json!({"authenticated": false, "error": "no token authenticator is configured"})
    }
}

impl Authorize for Open {
    fn authorize(&self, _user: &User, _attributes: &RequestInfo) -> Decision {
        Decision::Allow(String::new())
    }

    fn rules(&self, _user: &User, _namespace: &str) -> Value {
        serde_json::json!({
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            "incomplete": false,
        })
    }
}

#[async_trait]
impl IssueTokens for Open {
    async fn issue(&self, _service_account: &Value, _token_request: Value) -> Result<Value, Status> {
        Err(Status::bad_request("no token signer is configured"))
    }
}

#[async_trait]
impl Connect for Open {
    async fn connect(&self, _info: &RequestInfo, _object: &Value, _request: Request<Body>) -> Response<Body> {
        let mut response = Response::new(Body::from("no way to kubelets is configured"));
        *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
        response
    }
}
