//! Admission of new certificate requests: upstream's CertificateSubjectRestriction.

use api::{
    kinds::certificate_signing_request::CLIENT_SIGNER,
    pkcs10::{Error, Request},
    status::Status,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;

use crate::{
    error::Result,
    identity::MASTERS,
    registry::{Entry, metadata},
};

/// Whether these are certificate requests.
pub fn concern(entry: &Entry) -> bool {
    entry.info().group == "certificates.k8s.io" && entry.info().plural == "certificatesigningrequests"
}

/// What is asked for, and of whom. What is no request is told so by validation.
pub fn read(object: &Value) -> (&str, std::result::Result<Request, Error>) {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let pem = STANDARD.decode(text("/spec/request")).unwrap_or_default();
    (text("/spec/signerName"), Request::read(&pem))
}

/// Nobody becomes an administrator by a certificate.
pub fn on_create(entry: &Entry, object: &Value) -> Result<()> {
    let (CLIENT_SIGNER, Ok(request)) = read(object) else { return Ok(()) };
    if !request.organizations.iter().any(|group| group == MASTERS) {
        return Ok(());
    }
    let why = format!("use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed");
    Err(Status::forbidden(entry.info().group_resource(), metadata::text(object, "name"), &why))
}
