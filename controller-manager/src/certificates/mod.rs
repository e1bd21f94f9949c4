//! Certificates that others ask for: requests are approved where it is clear who asks for what ([`approving`]), signed when they
//! are approved ([`signing`]), and removed when nobody needs them any more ([`cleaning`]). Upstream's three controllers, and one
//! decision that upstream leaves to add-ons: kubelets' serving certificates.

pub mod approving;
pub mod cleaning;
pub mod signing;
mod usages;

use client::{Error, Informer, Key, Next, Queue};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};

use crate::context::Context;

const APPROVED: &str = "Approved";
const DENIED: &str = "Denied";
const FAILED: &str = "Failed";

/// The signers that the cluster's authority stands behind.
mod signer {
    pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
    pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
    pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
    pub const LEGACY: &str = "kubernetes.io/legacy-unknown";
}

fn conditions(request: &CertificateSigningRequest) -> &[CertificateSigningRequestCondition] {
    request.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}

fn has(request: &CertificateSigningRequest, condition: &str) -> bool {
    conditions(request).iter().any(|c| c.type_ == condition)
}

fn certificate(request: &CertificateSigningRequest) -> Option<&[u8]> {
    let issued = request.status.as_ref()?.certificate.as_ref()?;
    (!issued.0.is_empty()).then_some(issued.0.as_slice())
}

fn condition(kind: &str, reason: &str, message: String) -> CertificateSigningRequestCondition {
    CertificateSigningRequestCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        ..CertificateSigningRequestCondition::default()
    }
}

/// The request with one condition more.
fn with(request: &CertificateSigningRequest, more: CertificateSigningRequestCondition) -> CertificateSigningRequest {
    let mut new = request.clone();
    new.status.get_or_insert_default().conditions.get_or_insert_default().push(more);
    new
}

/// Decides by `reconcile` about each request that is there or comes and is `wanted`, until the context's shutdown.
async fn follow<F, Fut>(
    ctx: &Context,
    name: &'static str,
    queue: Queue<Key>,
    requests: &Informer<CertificateSigningRequest>,
    wanted: fn(&CertificateSigningRequest) -> bool,
    reconcile: F,
) where
    F: Fn(Key) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Next, Error>> + Send,
{
    if ctx.until_stopped(requests.synced()).await.is_none() {
        return;
    }
    requests.wake(&queue, move |change| change.present().filter(|csr| wanted(csr)).map(|csr| Key::of(&csr.metadata)));
    client::controller::run(name, queue, 2, ctx.shutdown.clone(), reconcile).await;
}

#[cfg(test)]
mod testing {
    use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
    use serde_json::{Value, json};

    /// A request as it is read from the API.
    pub fn request(spec: &Value, status: &Value) -> CertificateSigningRequest {
        let object =
            json!({"metadata": {"name": "r", "creationTimestamp": "2024-01-01T00:00:00Z"}, "spec": spec, "status": status});
        serde_json::from_value(object).expect("a request")
    }
}
