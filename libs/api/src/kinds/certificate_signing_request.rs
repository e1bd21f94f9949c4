//! certificates.k8s.io/v1 CertificateSigningRequest: who asks is written by the server, what is asked for never changes;
//! approval and the certificate have subresources of their own.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::certificates::v1::{
        CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
        CertificateSigningRequestStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use serde_json::Value;

use super::shared::{
    cells,
    columns::{AGE, NAME, column},
    metadata_accessors, text,
};
use crate::{
    duration,
    field::{FieldErrors, go_quote},
    field_path::Path,
    kind::{Context, KindInfo, NameRule, Resource, Subresource},
    names, pkcs10,
};

/// The type of this kind.
pub type Served = CertificateSigningRequest;

/// Client certificates for the API server.
pub const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";
/// Client certificates of kubelets.
pub const KUBELET_CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Serving certificates of kubelets.
pub const KUBELET_SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";
/// What nobody may ask for any more.
pub const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";

const APPROVED: &str = "Approved";
const DENIED: &str = "Denied";
const FAILED: &str = "Failed";

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

impl Resource for CertificateSigningRequest {
    const INFO: KindInfo = KindInfo {
        group: "certificates.k8s.io",
        kind: "CertificateSigningRequest",
        plural: "certificatesigningrequests",
        singular: "certificatesigningrequest",
        short_names: &["csr"],
        namespaced: false,
        subresources: &[Subresource::Approval, Subresource::Status],
        name_rule: NameRule::AnySegment,
        fields: &["spec.signerName"],
        columns: &[
            NAME,
            AGE,
            column("SignerName", "string", "Who is to sign."),
            column("Requestor", "string", "Who asked."),
            column("RequestedDuration", "string", "How long the certificate is to be valid."),
            column("Condition", "string", "What has become of the request."),
        ],
        ..KindInfo::BASE
    };

    metadata_accessors!();

    fn prepare_for_create(&mut self, ctx: &Context) {
        let spec = &mut self.spec;
        spec.username = Some(ctx.user.to_owned());
        spec.uid = (!ctx.requester.uid.is_empty()).then(|| ctx.requester.uid.to_owned());
        spec.groups = (!ctx.requester.groups.is_empty()).then(|| ctx.requester.groups.to_vec());
        spec.extra = ctx.requester.extra.filter(|extra| !extra.is_empty()).cloned();
        self.status = Some(CertificateSigningRequestStatus::default());
    }

    fn prepare_for_update(&mut self, old: &Self, at: Option<Subresource>, ctx: &Context) {
        self.spec.clone_from(&old.spec);
        if at.is_none() {
            self.status.clone_from(&old.status);
            return;
        }
        let was = old.status.clone().unwrap_or_default();
        let status = self.status.get_or_insert_default();
        let conditions = status.conditions.get_or_insert_default();
        let before = was.conditions.unwrap_or_default();
        if at == Some(Subresource::Status) {
            // Approval has a subresource of its own: here its conditions stay what they are.
            for decision in [APPROVED, DENIED] {
                keep(conditions, &before, decision);
            }
        }
        stamp(conditions, &before, ctx.now);
        status.conditions = status.conditions.take().filter(|conditions| !conditions.is_empty());
        status.certificate = status.certificate.take().filter(|certificate| !certificate.0.is_empty());
        if at == Some(Subresource::Approval) {
            status.certificate = was.certificate;
        }
    }

    fn validate(&self, errors: &mut FieldErrors) {
        check_spec(&self.spec, &Path::root("spec"), errors);
    }

    fn validate_update(&self, old: &Self, at: Option<Subresource>, errors: &mut FieldErrors) {
        let none = CertificateSigningRequestStatus::default();
        let (new, old) = (self.status.as_ref().unwrap_or(&none), old.status.as_ref().unwrap_or(&none));
        check_status(new, old, at, errors);
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        vec![("spec.signerName", self.spec.signer_name.clone())]
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let signer = match self.spec.signer_name.as_str() {
            "" => "<none>",
            signer => signer,
        };
        let seconds = self.spec.expiration_seconds.map(|seconds| SignedDuration::from_secs(seconds.into()));
        vec![
            cells::name(&self.metadata),
            cells::age(&self.metadata, now),
            signer.into(),
            text(self.spec.username.as_ref()).into(),
            seconds.map_or_else(|| "<none>".to_owned(), duration::human).into(),
            outcome(self).into(),
        ]
    }
}

/// Conditions of one type are exchanged by the old ones, if there are as many.
fn keep(conditions: &mut [CertificateSigningRequestCondition], before: &[CertificateSigningRequestCondition], kind: &str) {
    let old: Vec<_> = before.iter().filter(|condition| condition.type_ == kind).collect();
    let new: Vec<_> = conditions.iter_mut().filter(|condition| condition.type_ == kind).collect();
    if old.len() == new.len() {
        new.into_iter().zip(old).for_each(|(new, old)| new.clone_from(old));
    }
}

/// Times that are not given are filled in.
fn stamp(
    conditions: &mut [CertificateSigningRequestCondition],
    before: &[CertificateSigningRequestCondition],
    now: Timestamp,
) {
    let now = Time(now.round(jiff::Unit::Second).unwrap_or(now));
    for condition in conditions {
        condition.last_update_time.get_or_insert_with(|| now.clone());
        if condition.last_transition_time.is_none() {
            let same = |old: &&CertificateSigningRequestCondition| {
                old.type_ == condition.type_ && old.status == condition.status && old.last_transition_time.is_some()
            };
            let known = before.iter().find(same).and_then(|old| old.last_transition_time.clone());
            condition.last_transition_time = Some(known.unwrap_or_else(|| now.clone()));
        }
    }
}

fn outcome(request: &CertificateSigningRequest) -> String {
    let none = CertificateSigningRequestStatus::default();
    let status = request.status.as_ref().unwrap_or(&none);
    let has = |kind: &str| status.conditions.iter().flatten().any(|condition| condition.type_ == kind);
    let decision = if has(DENIED) {
        DENIED
    } else if has(APPROVED) {
        APPROVED
    } else {
        "Pending"
    };
    let failed = if has(FAILED) { ",Failed" } else { "" };
    let issued = if has_certificate(status) { ",Issued" } else { "" };
    format!("{decision}{failed}{issued}")
}

fn has_certificate(status: &CertificateSigningRequestStatus) -> bool {
    status.certificate.as_ref().is_some_and(|bytes| !bytes.0.is_empty())
}

fn check_spec(spec: &CertificateSigningRequestSpec, path: &Path, errors: &mut FieldErrors) {
    if let Err(why) = pkcs10::Request::verified(&spec.request.0) {
        let shown = Some(&spec.request).filter(|request| !request.0.is_empty());
        errors.invalid(path.child("request"), &shown, why.to_string());
    }
    let (at, usages) = (path.child("usages"), spec.usages.as_deref().unwrap_or_default());
    if usages.is_empty() {
        errors.required(at, "");
    }
    for (i, usage) in usages.iter().enumerate() {
        errors.one_of(&at.index(i), Some(usage), USAGES);
    }
    let mut seen = BTreeSet::new();
    for (i, usage) in usages.iter().enumerate().filter(|(_, usage)| !seen.insert(*usage)) {
        errors.duplicate(at.index(i), usage);
    }
    let at = path.child("signerName");
    if spec.signer_name == LEGACY_SIGNER {
        errors.invalid(at, &spec.signer_name, "the legacy signerName is not allowed via this API version");
    } else {
        check_signer(&spec.signer_name, &at, errors);
    }
    if let Some(seconds) = spec.expiration_seconds.filter(|seconds| *seconds < 600) {
        let why = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.invalid(path.child("expirationSeconds"), &seconds, why);
    }
}

/// `example.com/some.thing`: a domain and a path that has room for a namespace and a name.
fn check_signer(signer: &str, path: &Path, errors: &mut FieldErrors) {
    const LONGEST_DOMAIN: usize = 253;
    const LONGEST: usize = LONGEST_DOMAIN + 1 + 253 + 63 + 1;
    if signer.is_empty() {
        return errors.required(path, "");
    }
    let parts: Vec<&str> = signer.split('/').collect();
    let &[domain, rest] = parts.as_slice() else {
        let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return errors.invalid(path, &signer, why);
    };
    if domain.len() > LONGEST_DOMAIN {
        errors.too_long(path, LONGEST_DOMAIN);
    }
    first_bad(domain, names::dns1123_label, path, errors);
    if !domain.contains('.') {
        errors.invalid(path, &domain, "should be a domain with at least two segments separated by dots");
    }
    first_bad(rest, names::dns1123_subdomain, path, errors);
    if signer.len() > LONGEST {
        errors.too_long(path, LONGEST);
    }
}

/// What is wrong with the first bad one of the parts between dots.
fn first_bad(text: &str, grammar: fn(&str) -> Vec<String>, path: &Path, errors: &mut FieldErrors) {
    let bad = text.split('.').map(|label| (label, grammar(label))).find(|(_, messages)| !messages.is_empty());
    let Some((label, messages)) = bad else { return };
    for message in messages {
        errors.invalid(path, &text, format!("validating label {}: {message}", go_quote(label)));
    }
}

fn check_status(
    new: &CertificateSigningRequestStatus,
    old: &CertificateSigningRequestStatus,
    at: Option<Subresource>,
    errors: &mut FieldErrors,
) {
    let status = Path::root("status");
    let (path, certificate) = (status.child("conditions"), status.child("certificate"));
    let conditions = new.conditions.as_deref().unwrap_or_default();
    check_conditions(conditions, &path, errors);
    let changed = new.certificate != old.certificate && (has_certificate(new) || has_certificate(old));
    if changed
        && has_certificate(new)
        && let Some(Err(why)) = new.certificate.as_ref().map(|bytes| pkcs10::check_certificates(&bytes.0))
    {
        errors.invalid(certificate, &"<certificate data>", why);
    }
    let counts = |kind: &str| {
        let of = |conditions: &[CertificateSigningRequestCondition]| conditions.iter().filter(|c| c.type_ == kind).count();
        (of(conditions), of(old.conditions.as_deref().unwrap_or_default()))
    };
    for kind in [APPROVED, DENIED, FAILED] {
        let (now, before) = counts(kind);
        if now < before {
            errors.forbidden(path, format!("updates may not remove a condition of type {kind:?}"));
        }
    }
    for kind in [APPROVED, DENIED].iter().filter(|_| at != Some(Subresource::Approval)) {
        let (now, before) = counts(kind);
        if now > before {
            errors.forbidden(path, format!("updates may not add a condition of type {kind:?}"));
        }
    }
    if changed && at != Some(Subresource::Status) {
        errors.forbidden(certificate, "updates may not set certificate content");
    } else if changed && has_certificate(old) {
        errors.forbidden(certificate, "updates may not modify existing certificate content");
    }
}

fn check_conditions(conditions: &[CertificateSigningRequestCondition], path: &Path, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (i, condition) in conditions.iter().enumerate() {
        let path = path.index(i);
        let (kind, at) = (condition.type_.as_str(), path.child("type"));
        if kind.is_empty() {
            errors.required(at, "");
        }
        let allowed: &[&str] =
            if [APPROVED, DENIED, FAILED].contains(&kind) { &["True"] } else { &["False", "True", "Unknown"] };
        errors.required_one_of(&path.child("status"), Some(&condition.status), allowed);
        if (kind == APPROVED && seen.contains(DENIED)) || (kind == DENIED && seen.contains(APPROVED)) {
            errors.invalid(at, &kind, "Approved and Denied conditions are mutually exclusive");
        }
        if !seen.insert(kind) {
            errors.duplicate(at, &kind);
        }
    }
}
