//! TLS: trust, client certificates, and what goes wrong in Go's words.

use std::{io, sync::Arc};

use knarr_x509::Anyone;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::failure::{Failure, plain};

/// What a connection is to be checked with and to present. Everything is PEM.
#[derive(Clone, Debug, Default)]
pub struct Material {
    /// Trusted authorities; `None` is the system's.
    pub authority: Option<Vec<u8>>,
    /// The client's certificate (and chain) and key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// Whether the server's certificate goes unchecked.
    pub insecure: bool,
}

/// Where distributions keep the authorities that the system trusts.
const BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The configuration for connections.
///
/// # Errors
/// If a certificate or key cannot be read, in Go's words.
pub fn config(material: &Material) -> Result<ClientConfig, Failure> {
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| plain(e.to_string()))?;
    let builder = if material.insecure {
        builder.dangerous().with_custom_certificate_verifier(Anyone::new(provider))
    } else {
        builder.with_root_certificates(roots(material.authority.as_deref())?)
    };
    let mut config = match &material.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate).filter_map(Result::ok).collect();
            if chain.is_empty() {
                return Err(plain("tls: failed to find any PEM data in certificate input"));
            }
            let key =
                PrivateKeyDer::from_pem_slice(key).map_err(|_| plain("tls: failed to find any PEM data in key input"))?;
            builder.with_client_auth_cert(chain, key).map_err(|_| plain("tls: private key does not match public key"))?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn roots(authority: Option<&[u8]>) -> Result<RootCertStore, Failure> {
    let mut store = RootCertStore::empty();
    let system;
    let pem = match authority {
        Some(pem) => pem,
        None => {
            let named = std::env::var("SSL_CERT_FILE").ok();
            let read =
                named.iter().map(String::as_str).chain(BUNDLES.iter().copied()).find_map(|path| std::fs::read(path).ok());
            system = read.unwrap_or_default();
            &system
        }
    };
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect();
    let (added, _) = store.add_parsable_certificates(certificates);
    if added == 0 && authority.is_some() {
        return Err(plain("unable to load root certificates: unable to parse bytes as PEM block"));
    }
    Ok(store)
}

/// A failed handshake in Go's words.
pub fn told(error: &io::Error, name: &str) -> String {
    use rustls::{CertificateError as Wrong, Error};
    let Some(tls) = error.get_ref().and_then(|e| e.downcast_ref::<Error>()) else {
        return crate::failure::go_io(error);
    };
    match tls {
        Error::InvalidCertificate(wrong) => {
            let why = match wrong {
                Wrong::UnknownIssuer => "x509: certificate signed by unknown authority".to_owned(),
                Wrong::Expired | Wrong::ExpiredContext { .. } | Wrong::NotValidYet | Wrong::NotValidYetContext { .. } => {
                    "x509: certificate has expired or is not yet valid".to_owned()
                }
                Wrong::NotValidForName => format!("x509: certificate is not valid for {name}"),
                Wrong::NotValidForNameContext { presented, .. } => not_for(presented, name),
                other => format!("x509: {other}"),
            };
            format!("tls: failed to verify certificate: {why}")
        }
        Error::AlertReceived(alert) => format!("remote error: tls: {}", format!("{alert:?}").to_lowercase()),
        Error::InvalidMessage(_) => "tls: first record does not look like a TLS handshake".to_owned(),
        other => format!("tls: {other}"),
    }
}

/// What a certificate is for instead: names, or addresses where one is asked for.
fn not_for(presented: &[String], name: &str) -> String {
    let address = name.parse::<std::net::IpAddr>().is_ok();
    let alike = presented.iter().filter(|given| given.starts_with("IpAddress") == address);
    let given: Vec<&str> = alike.map(|given| short_name(given)).collect();
    match given.as_slice() {
        [] if address => format!("x509: cannot validate certificate for {name} because it doesn't contain any IP SANs"),
        [] => format!("x509: certificate is not valid for any names, but wanted to match {name}"),
        given => format!("x509: certificate is valid for {}, not {name}", given.join(", ")),
    }
}

/// `DnsName("a")` and `IpAddress(1.2.3.4)` without what is around.
fn short_name(presented: &str) -> &str {
    let inner = presented.split_once('(').map_or(presented, |(_, rest)| rest.trim_end_matches(')'));
    inner.trim_matches('"')
}
