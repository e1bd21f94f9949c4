//! Removes certificate requests that are of no use any more: an hour after they were issued, denied or had failed, a day after
//! they were made if nobody cared, and when the certificate has ended.
//!
//! Watches requests, owns nothing; safe to run twice.

use api::pem;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::Api;

use super::{APPROVED, DENIED, FAILED, certificate, conditions};
use crate::{context::Context, expiry};

const NAME: &str = "certificatesigningrequest-cleaner-controller";
const DECIDED: SignedDuration = SignedDuration::from_hours(1);
const PENDING: SignedDuration = SignedDuration::from_hours(24);

/// When a request is to go.
fn end(csr: &CertificateSigningRequest) -> Option<Timestamp> {
    let after = |from: Option<Timestamp>, life| from.and_then(|from| from.checked_add(life).ok());
    let issued = certificate(csr);
    if conditions(csr).is_empty() {
        return after(csr.metadata.creation_timestamp.as_ref().map(|t| t.0), PENDING);
    }
    let told = conditions(csr).iter().filter_map(|c| match c.type_.as_str() {
        DENIED | FAILED => after(c.last_update_time.as_ref().map(|t| t.0), DECIDED),
        APPROVED if issued.is_some() => after(c.last_update_time.as_ref().map(|t| t.0), DECIDED),
        _ => None,
    });
    told.chain(issued.and_then(expiry)).min()
}

/// When a certificate ends.
fn expiry(certificate: &[u8]) -> Option<Timestamp> {
    let first = pem::blocks(certificate).into_iter().next()?;
    Timestamp::from_second(knarr_x509::read(&first.data).ok()?.not_after).ok()
}

/// Runs the controller until the context's shutdown.
pub async fn run(ctx: Context) {
    let (requests, api) = (ctx.informer(), Api::all(ctx.client.clone()));
    expiry::run(ctx, NAME, requests, api, end).await;
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{super::testing::request, *};

    #[test]
    fn requests_go_when_they_are_of_no_use() {
        let end =
            |status: Value| end(&request(&json!({"signerName": "s", "request": ""}), &status)).map(|end| end.to_string());
        let told = |kind: &str| json!({"type": kind, "status": "True", "lastUpdateTime": "2024-01-01T10:00:00Z"});
        assert_eq!(end(json!({})).as_deref(), Some("2024-01-02T00:00:00Z"));
        assert_eq!(end(json!({"conditions": [told("Denied")]})).as_deref(), Some("2024-01-01T11:00:00Z"));
        assert_eq!(end(json!({"conditions": [told("Approved")]})), None);
        assert_eq!(
            end(json!({"conditions": [told("Approved")], "certificate": "AQ=="})).as_deref(),
            Some("2024-01-01T11:00:00Z")
        );
    }
}
