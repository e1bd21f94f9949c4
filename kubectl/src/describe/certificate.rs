//! CertificateSigningRequests.

use api::pkcs10::Request;
use base64::Engine;
use serde_json::Value;
use x509_parser::{
    oid_registry::{
        OID_X509_COUNTRY_NAME, OID_X509_LOCALITY_NAME, OID_X509_ORGANIZATIONAL_UNIT, OID_X509_POSTAL_CODE,
        OID_X509_SERIALNUMBER, OID_X509_STATE_OR_PROVINCE_NAME, OID_X509_STREET_ADDRESS, Oid,
    },
    prelude::{FromDer, X509Name},
};

use super::{json::Json, parts, writer::Writer};
use crate::{
    failure::{Failure, plain},
    line,
};

/// A CertificateSigningRequest.
///
/// # Errors
/// If what it holds is no request.
pub fn describe(w: &mut Writer, object: &Value, events: Option<&[Value]>) -> Result<(), Failure> {
    let pem = base64::engine::general_purpose::STANDARD.decode(object.text("spec.request")).unwrap_or_default();
    let request = Request::read(&pem).map_err(|error| plain(format!("Error parsing CSR: {error}")))?;
    line!(w, 0, "Name:\t{}", object.text("metadata.name"));
    line!(w, 0, "Labels:\t{}", parts::set(&object.pairs("metadata.labels")));
    line!(w, 0, "Annotations:\t{}", parts::set(&object.pairs("metadata.annotations")));
    let created = w.time(object.at("metadata.creationTimestamp"));
    line!(w, 0, "CreationTimestamp:\t{created}");
    line!(w, 0, "Requesting User:\t{}", object.text("spec.username"));
    if !object.text("spec.signerName").is_empty() {
        line!(w, 0, "Signer:\t{}", object.text("spec.signerName"));
    }
    if object.has("spec.expirationSeconds") {
        let asked = jiff::SignedDuration::from_secs(object.int("spec.expirationSeconds"));
        line!(w, 0, "Requested Duration:\t{}", api::duration::human(asked));
    }
    line!(w, 0, "Status:\t{}", status(object));
    w.line(0, "Subject:");
    subject(w, &request);
    names(w, &request);
    parts::events(w, events);
    Ok(())
}

fn status(object: &Value) -> String {
    let has = |kind: &str| object.items("status.conditions").iter().any(|condition| condition.text("type") == kind);
    let decided = match () {
        () if has("Denied") => "Denied",
        () if has("Approved") => "Approved",
        () => "Pending",
    };
    let failed = if has("Failed") { ",Failed" } else { "" };
    let issued = if object.text("status.certificate").is_empty() { "" } else { ",Issued" };
    format!("{decided}{failed}{issued}")
}

/// Values below each other, if there are any.
fn list(w: &mut Writer, title: &str, values: &[String]) {
    if !values.is_empty() {
        line!(w, 0, "\t{title}:\t{}", values.join("\n\t\t"));
    }
}

fn subject(w: &mut Writer, request: &Request) {
    let subject = X509Name::from_der(&request.subject_der).map(|(_, name)| name).ok();
    let all = |oid: &Oid<'_>| -> Vec<String> {
        let attributes = subject.iter().flat_map(|subject| subject.iter_by_oid(oid));
        attributes.filter_map(|attribute| attribute.as_str().ok()).map(str::to_owned).collect()
    };
    line!(w, 0, "\tCommon Name:\t{}", request.common_name);
    line!(w, 0, "\tSerial Number:\t{}", all(&OID_X509_SERIALNUMBER).last().map_or("", String::as_str));
    list(w, "Organization", &request.organizations);
    for (title, oid) in [
        ("Organizational Unit", OID_X509_ORGANIZATIONAL_UNIT),
        ("Country", OID_X509_COUNTRY_NAME),
        ("Locality", OID_X509_LOCALITY_NAME),
        ("Province", OID_X509_STATE_OR_PROVINCE_NAME),
        ("StreetAddress", OID_X509_STREET_ADDRESS),
        ("PostalCode", OID_X509_POSTAL_CODE),
    ] {
        list(w, title, &all(&oid));
    }
}

fn names(w: &mut Writer, request: &Request) {
    let addresses: Vec<String> = request.ip_addresses.iter().map(ToString::to_string).collect();
    let names = [
        ("DNS Names", &request.dns_names),
        ("Email Addresses", &request.email_addresses),
        ("URIs", &request.uris),
        ("IP Addresses", &addresses),
    ];
    if names.iter().any(|(_, values)| !values.is_empty()) {
        w.line(0, "Subject Alternative Names:");
        names.iter().for_each(|(title, values)| list(w, title, values));
    }
}
