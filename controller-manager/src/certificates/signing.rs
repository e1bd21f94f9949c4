//! Signs approved certificate requests with the cluster's authority, for the signers `kubernetes.io/kube-apiserver-client`,
//! `kube-apiserver-client-kubelet`, `kubelet-serving` and `legacy-unknown`.
//!
//! Watches requests, owns nothing. Safe to run twice: what has a certificate is left alone. A request that its signer does not
//! take fails for good, and says so. Names are taken over from the request, usages and life follow upstream's rules. Without an authority in
//! the configuration it does not run.

use std::{sync::Arc, time::Duration};

use api::{pem, pkcs10::Request};
use client::{Error, Informer, Key, Next, Queue, Step, is_conflict, is_not_found};
use jiff::Timestamp;
use k8s_openapi::{ByteString, api::certificates::v1::CertificateSigningRequest, apimachinery::pkg::apis::meta::v1::Time};
use knarr_x509::{AltName, Authority, Template, certify};
use kube::{Api, api::PostParams};
use time::OffsetDateTime;

use super::{APPROVED, FAILED, certificate, condition, follow, has, signer, usages, with};
use crate::{Config, config::ConfigError, context::Context};

const NAME: &str = "certificatesigningrequest-signing-controller";
/// Clocks differ a little.
const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// What lives shorter is not shortened by the backdating.
const SHORT: Duration = Duration::from_secs(8 * 3600);
/// Nobody gets less.
const SHORTEST: Duration = Duration::from_secs(10 * 60);

/// The authority to sign with, if there is one.
pub fn authority(config: &Config) -> Result<Option<Authority>, ConfigError> {
    let read = |path: &std::path::Path| {
        std::fs::read_to_string(path).map_err(|e| ConfigError::Signing(format!("{}: {e}", path.display())))
    };
    let (certificate, key) = match (&config.signing, &config.cluster_signing_cert_file, &config.cluster_signing_key_file) {
        (Some(pair), ..) => (pair.certificate.clone(), pair.key.clone()),
        (None, Some(certificate), Some(key)) => (read(certificate)?, read(key)?),
        _ => return Ok(None),
    };
    let authority = Authority::read(&certificate, &key);
    authority.map(Some).map_err(|e| ConfigError::Signing(format!("{e}; the key must be ECDSA P-256 in PKCS#8 form")))
}

/// What is to be done about a request.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// Not ours, not approved, or done.
    Nothing,
    Sign,
    /// Its signer does not take it.
    Fail(String),
}

fn decide(csr: &CertificateSigningRequest, request: &Request) -> Verdict {
    if certificate(csr).is_some() || !has(csr, APPROVED) || has(csr, FAILED) {
        return Verdict::Nothing;
    }
    let usages = csr.spec.usages.as_deref().unwrap_or_default();
    let checked = match csr.spec.signer_name.as_str() {
        signer::KUBELET_CLIENT => request.is_kubelet_client(usages).map_err(str::to_owned),
        signer::KUBELET_SERVING => request.is_kubelet_serving(usages).map_err(str::to_owned),
        signer::CLIENT => is_client(usages),
        signer::LEGACY => Ok(()),
        _ => return Verdict::Nothing,
    };
    checked.map_or_else(Verdict::Fail, |()| Verdict::Sign)
}

fn is_client(usages: &[String]) -> Result<(), String> {
    let optional = ["digital signature", "key encipherment"];
    match usages.iter().find(|usage| *usage != "client auth" && !optional.contains(&usage.as_str())) {
        Some(other) => Err(format!("invalid usage for client certificate: {other}")),
        None if usages.iter().any(|usage| usage == "client auth") => Ok(()),
        None => Err("missing required usage for client certificate: client auth".to_owned()),
    }
}

/// From when to when a certificate holds: not beyond `end`, that of the authority.
fn life(wish: Option<i32>, most: Duration, now: i64, end: i64) -> (i64, i64) {
    let wish = wish.map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)));
    let life = wish.map_or(most, |wish| if wish > most { most } else { wish.max(SHORTEST) });
    let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX / 4);
    let backdate = if life < SHORT { 0 } else { seconds(BACKDATE) };
    (now - seconds(BACKDATE), (now + seconds(life) - backdate).min(end))
}

fn sign(
    csr: &CertificateSigningRequest,
    request: &Request,
    authority: &Authority,
    most: Duration,
    now: i64,
) -> Result<String, String> {
    if now >= authority.not_after {
        return Err("the cluster's authority has expired".to_owned());
    }
    let (key_usage, purposes) = usages::read(csr.spec.usages.as_deref().unwrap_or_default())?;
    let (from, until) = life(csr.spec.expiration_seconds, most, now, authority.not_after);
    let dns = request.dns_names.iter().cloned().map(AltName::Dns);
    let mail = request.email_addresses.iter().cloned().map(AltName::Email);
    let addresses = request.ip_addresses.iter().copied().map(AltName::Ip);
    let names: Vec<AltName> =
        dns.chain(mail).chain(addresses).chain(request.uris.iter().cloned().map(AltName::Uri)).collect();
    let at = |seconds| OffsetDateTime::from_unix_timestamp(seconds).map_err(|e| e.to_string());
    let template = Template {
        subject: &request.subject_der,
        public_key: &request.public_key_der,
        key_usage,
        purposes: &purposes,
        alt_names: &names,
        authority: false,
        not_before: at(from)?,
        not_after: at(until)?,
    };
    let der = certify(&template, &authority.signer()).map_err(|e| e.to_string())?;
    Ok(pem::encode("CERTIFICATE", &der))
}

struct Controller {
    api: Api<CertificateSigningRequest>,
    authority: Authority,
    most: Duration,
    requests: Informer<CertificateSigningRequest>,
}

/// Runs the controller until the context's shutdown.
pub async fn run(ctx: Context) {
    let authority = match authority(&ctx.config) {
        Ok(Some(authority)) => authority,
        Ok(None) => return,
        Err(error) => {
            return tracing::error!(error = &error as &dyn std::error::Error, "certificate requests are not signed");
        }
    };
    let (api, most) = (Api::all(ctx.client.clone()), ctx.config.cluster_signing_duration);
    let requests = ctx.informer();
    let this = Arc::new(Controller { api, authority, most, requests: requests.clone() });
    follow(&ctx, NAME, Queue::new(NAME), &requests, |_| true, move |key| this.clone().reconcile(key)).await;
}

impl Controller {
    async fn reconcile(self: Arc<Self>, key: Key) -> Result<Next, Error> {
        let Some(csr) = self.requests.get(&key) else { return Ok(Next::Done) };
        let failed = |e: api::pkcs10::Error| Error::Other(format!("unable to parse csr {:?}: {e}", key.name));
        let request = Request::read(&csr.spec.request.0).map_err(failed)?;
        let now = Timestamp::now();
        let changed = match decide(&csr, &request) {
            Verdict::Nothing => return Ok(Next::Done),
            Verdict::Fail(why) => {
                let mut failure = condition(FAILED, "SignerValidationFailure", why);
                failure.last_update_time = Some(Time(now));
                with(&csr, failure)
            }
            Verdict::Sign => {
                // The signature shows that who asks has the key.
                let request = Request::verified(&csr.spec.request.0).map_err(failed)?;
                let signed = sign(&csr, &request, &self.authority, self.most, now.as_second());
                let signed = signed.map_err(|e| Error::Other(format!("error auto signing csr: {e}")))?;
                let mut new = (*csr).clone();
                new.status.get_or_insert_default().certificate = Some(ByteString(signed.into_bytes()));
                new
            }
        };
        match self.api.replace_status(&key.name, &PostParams::default(), &changed).await {
            Ok(written) => self.requests.ensure_seen(&written).await.map(|()| Next::Done),
            Err(error) if is_not_found(&error) => Ok(Next::Done),
            Err(error) if is_conflict(&error) => Ok(Next::Again),
            Err(error) => Err(error).step("writing a certificate"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::testing::request, *};

    fn decided(signer: &str, usages: &[&str], status: &serde_json::Value) -> Verdict {
        let csr = request(&json!({"signerName": signer, "usages": usages, "request": ""}), status);
        decide(&csr, &Request { common_name: "alice".into(), ..Request::default() })
    }

    #[test]
    fn only_what_is_approved_and_open_is_signed() {
        let approved = json!({"conditions": [{"type": "Approved", "status": "True"}]});
        let failed = json!({"conditions": [{"type": "Approved", "status": "True"}, {"type": "Failed", "status": "True"}]});
        let done = json!({"certificate": "AQ==", "conditions": [{"type": "Approved", "status": "True"}]});
        let client = |status: &serde_json::Value| decided(signer::CLIENT, &["client auth"], status);
        assert_eq!(
            [
                client(&json!({})),
                client(&approved),
                client(&failed),
                client(&done),
                decided("example.com/x", &[], &approved)
            ],
            [Verdict::Nothing, Verdict::Sign, Verdict::Nothing, Verdict::Nothing, Verdict::Nothing]
        );
        let refused = decided(signer::CLIENT, &["server auth", "client auth"], &approved);
        assert_eq!(refused, Verdict::Fail("invalid usage for client certificate: server auth".into()));
        let refused = decided(signer::KUBELET_CLIENT, &["client auth"], &approved);
        assert_eq!(refused, Verdict::Fail("subject organization is not system:nodes".into()));
    }

    #[test]
    fn lives_follow_upstreams_rules() {
        let (hour, year) = (3600, Duration::from_secs(365 * 86_400));
        let at = |wish, end| life(wish, year, 1_000_000, end);
        assert_eq!(
            [
                at(None, i64::MAX),
                at(Some(1), i64::MAX),
                at(Some(hour), i64::MAX),
                at(Some(i32::MAX), i64::MAX),
                at(None, 1_000_009)
            ],
            [
                (999_700, 1_000_000 + 365 * 86_400 - 300),
                (999_700, 1_000_600),
                (999_700, 1_003_600),
                (999_700, 1_000_000 + 365 * 86_400 - 300),
                (999_700, 1_000_009),
            ]
        );
    }
}
