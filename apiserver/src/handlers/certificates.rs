//! Who may decide about certificate requests: upstream's admission plugins CertificateApproval and CertificateSigning.
//!
//! A signer is a name; rights to it are rights to the resource `signers`, which exists for nothing else. A right to
//! `DOMAIN/*` is one to all signers of the domain.

use api::{kind::Subresource, status::Status};
use serde_json::Value;

use super::Ask;
use crate::{
    error::Result,
    gate::{Authorize, Decision},
    registry::{Entry, metadata},
    request::RequestInfo,
};

/// Refuses an approval, or a signature, by somebody who has no right to the request's signer.
pub fn may_decide(
    authorize: &dyn Authorize,
    ask: &Ask,
    entry: &Entry,
    at: Option<Subresource>,
    new: &Value,
    old: &Value,
) -> Result<()> {
    if entry.info().plural != "certificatesigningrequests" {
        return Ok(());
    }
    let verb = match at {
        Some(Subresource::Approval) => "approve",
        Some(Subresource::Status) if decides(new, old) => "sign",
        _ => return Ok(()),
    };
    let signer = old.pointer("/spec/signerName").and_then(Value::as_str).unwrap_or_default();
    let domain = signer.split('/').next().unwrap_or_default();
    let may = |name: &str| {
        let info = RequestInfo {
            is_resource: true,
            verb,
            group: "certificates.k8s.io".to_owned(),
            version: "*".to_owned(),
            resource: "signers".to_owned(),
            name: name.to_owned(),
            ..RequestInfo::default()
        };
        matches!(authorize.authorize(&ask.user, &info), Decision::Allow(_))
    };
    if may(signer) || may(&format!("{domain}/*")) {
        return Ok(());
    }
    let why = format!("user not permitted to {verb} requests with signerName {}", api::status::quote(signer));
    Err(Status::forbidden(entry.info().group_resource(), metadata::text(old, "name"), &why))
}

/// Whether a new status has another certificate or other conditions.
fn decides(new: &Value, old: &Value) -> bool {
    ["certificate", "conditions"].iter().any(|field| {
        let of = |object: &Value| object.pointer(&format!("/status/{field}")).filter(|value| !value.is_null()).cloned();
        of(new) != of(old)
    })
}
