//! Certificate requests (PKCS#10): what they ask for, whether they are signed by the key they name, and whether they are what
//! upstream's signers take from kubelets.

use std::{collections::BTreeSet, net::IpAddr};

use x509_parser::{
    certification_request::X509CertificationRequest,
    error::X509Error,
    extensions::{GeneralName, ParsedExtension},
    oid_registry::{OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA},
    prelude::FromDer,
};

use crate::pem;

/// The label of a request's PEM block.
pub const LABEL: &str = "CERTIFICATE REQUEST";

/// Why something is no request, or not a good one.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// No PEM, or of something else.
    #[error("PEM block type must be CERTIFICATE REQUEST")]
    NotARequest,
    /// No DER of a request.
    #[error("x509: malformed certificate request")]
    Malformed,
    /// The signature is not by the request's key.
    #[error("x509: certificate request signature verification failure")]
    Signature,
    /// A key or digest that is not known here.
    #[error("x509: cannot verify signature: algorithm unimplemented")]
    Algorithm,
}

/// What a request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The last `CN=` of the subject.
    pub common_name: String,
    /// Every `O=` of the subject, in order.
    pub organizations: Vec<String>,
    /// The subject as it is encoded.
    pub subject_der: Vec<u8>,
    /// The SubjectPublicKeyInfo as it is encoded.
    pub public_key_der: Vec<u8>,
    /// Host names asked for.
    pub dns_names: Vec<String>,
    /// Addresses asked for.
    pub ip_addresses: Vec<IpAddr>,
    /// Mail addresses asked for.
    pub email_addresses: Vec<String>,
    /// URIs asked for.
    pub uris: Vec<String>,
}

impl Request {
    /// Reads the first PEM block and checks the signature.
    pub fn verified(pem: &[u8]) -> Result<Self, Error> {
        let der = der(pem)?;
        let request = parse(&der)?;
        if [OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA].contains(&request.signature_algorithm.algorithm) {
            return Err(Error::Algorithm);
        }
        request.verify_signature().map_err(|error| match error {
            X509Error::SignatureUnsupportedAlgorithm => Error::Algorithm,
            _ => Error::Signature,
        })?;
        Ok(Self::of(&request))
    }

    /// Reads the first PEM block.
    pub fn read(pem: &[u8]) -> Result<Self, Error> {
        let der = der(pem)?;
        Ok(Self::of(&parse(&der)?))
    }

    fn of(request: &X509CertificationRequest) -> Self {
        let info = &request.certification_request_info;
        let mut found = Self {
            common_name: info
                .subject
                .iter_common_name()
                .filter_map(|name| name.as_str().ok())
                .last()
                .unwrap_or_default()
                .into(),
            organizations: info.subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect(),
            subject_der: info.subject.as_raw().to_vec(),
            public_key_der: info.subject_pki.raw.to_vec(),
            ..Self::default()
        };
        for extension in request.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
            for name in &names.general_names {
                found.add(name);
            }
        }
        found
    }

    fn add(&mut self, name: &GeneralName) {
        match name {
            GeneralName::DNSName(name) => self.dns_names.push((*name).to_owned()),
            GeneralName::RFC822Name(address) => self.email_addresses.push((*address).to_owned()),
            GeneralName::URI(uri) => self.uris.push((*uri).to_owned()),
            GeneralName::IPAddress(bytes) => {
                let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                let address = four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
                self.ip_addresses.extend(address);
            }
            _ => {}
        }
    }

    /// Whether signer `kubernetes.io/kube-apiserver-client-kubelet` may take it; why not.
    pub fn is_kubelet_client(&self, usages: &[String]) -> Result<(), &'static str> {
        self.is_of_a_node()?;
        let named = [
            (self.dns_names.is_empty(), "DNS subjectAltNames are not allowed"),
            (self.email_addresses.is_empty(), "Email subjectAltNames are not allowed"),
            (self.ip_addresses.is_empty(), "IP subjectAltNames are not allowed"),
            (self.uris.is_empty(), "URI subjectAltNames are not allowed"),
        ];
        if let Some((_, why)) = named.into_iter().find(|(absent, _)| !absent) {
            return Err(why);
        }
        self.has_node_name()?;
        let fit = are(usages, "client auth");
        if fit { Ok(()) } else { Err("usages did not match [client auth digital signature key encipherment]") }
    }

    /// Whether signer `kubernetes.io/kubelet-serving` may take it; why not.
    pub fn is_kubelet_serving(&self, usages: &[String]) -> Result<(), &'static str> {
        self.is_of_a_node()?;
        if self.dns_names.is_empty() && self.ip_addresses.is_empty() {
            return Err("DNS or IP subjectAltName is required");
        }
        if !self.email_addresses.is_empty() {
            return Err("Email subjectAltNames are not allowed");
        }
        if !self.uris.is_empty() {
            return Err("URI subjectAltNames are not allowed");
        }
        if !are(usages, "server auth") {
            return Err("usages did not match [digital signature key encipherment server auth]");
        }
        self.has_node_name()
    }

    fn is_of_a_node(&self) -> Result<(), &'static str> {
        if self.organizations == ["system:nodes"] { Ok(()) } else { Err("subject organization is not system:nodes") }
    }

    fn has_node_name(&self) -> Result<(), &'static str> {
        let fit = self.common_name.starts_with("system:node:");
        if fit { Ok(()) } else { Err("subject common name does not begin with system:node:") }
    }
}

/// A kubelet's usages: signatures, one sort of TLS, and encipherment where the key is RSA.
fn are(usages: &[String], tls: &str) -> bool {
    let mut usages: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
    usages.remove("key encipherment");
    usages == BTreeSet::from(["digital signature", tls])
}

fn der(pem: &[u8]) -> Result<Vec<u8>, Error> {
    let first = pem::blocks(pem).into_iter().next().filter(|block| block.label == LABEL);
    first.map(|block| block.data).ok_or(Error::NotARequest)
}

fn parse(der: &[u8]) -> Result<X509CertificationRequest<'_>, Error> {
    match X509CertificationRequest::from_der(der) {
        Ok(([], request)) => Ok(request),
        _ => Err(Error::Malformed),
    }
}

/// Whether issued certificates are what upstream stores: at least one PEM block, nothing but certificates.
pub fn check_certificates(pem: &[u8]) -> Result<(), String> {
    let blocks = pem::blocks(pem);
    for block in &blocks {
        if block.label != "CERTIFICATE" {
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.label));
        }
        if block.has_headers {
            return Err("no PEM block headers are permitted".to_owned());
        }
        let parsed = x509_parser::certificate::X509Certificate::from_der(&block.data);
        if !matches!(parsed, Ok(([], _))) {
            return Err("x509: malformed certificate".to_owned());
        }
    }
    if blocks.is_empty() {
        return Err("must contain at least one CERTIFICATE PEM block".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `openssl req -new` with `O=system:nodes, CN=system:node:a`, P-256; and with names, RSA and Ed25519.
    const CLIENT: &str = include_str!("../testdata/certificates/client.csr");
    const SERVING: &str = include_str!("../testdata/certificates/serving.csr");
    const RSA: &str = include_str!("../testdata/certificates/masters-rsa.csr");
    const EDWARDS: &str = include_str!("../testdata/certificates/ed25519.csr");

    fn usages(all: &[&str]) -> Vec<String> {
        all.iter().map(|usage| (*usage).to_owned()).collect()
    }

    #[test]
    fn a_request_says_what_it_asks_for() {
        let mut serving = Request::verified(SERVING.as_bytes()).unwrap();
        assert!(serving.subject_der.len() > 20 && serving.public_key_der.len() > 20);
        (serving.subject_der, serving.public_key_der) = Default::default();
        let want = Request {
            common_name: "system:node:a".into(),
            organizations: vec!["system:nodes".into()],
            dns_names: vec!["a".into(), "a.example.com".into()],
            ip_addresses: vec!["10.1.2.3".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            ..Request::default()
        };
        assert_eq!(serving, want);
        let masters = Request::verified(RSA.as_bytes()).unwrap();
        assert_eq!(masters.organizations, ["dev", "system:masters"]);
        assert_eq!(Request::verified(EDWARDS.as_bytes()).unwrap().common_name, "ed");
    }

    #[test]
    fn kubelets_requests_are_told_from_others() {
        let client = Request::read(CLIENT.as_bytes()).unwrap();
        let serving = Request::read(SERVING.as_bytes()).unwrap();
        let (both, one) = (["digital signature", "key encipherment", "client auth"], ["digital signature", "client auth"]);
        assert_eq!(client.is_kubelet_client(&usages(&both)), Ok(()));
        assert_eq!(client.is_kubelet_client(&usages(&one)), Ok(()));
        assert!(client.is_kubelet_client(&usages(&["client auth"])).is_err());
        assert_eq!(
            client.is_kubelet_serving(&usages(&["digital signature", "server auth"])),
            Err("DNS or IP subjectAltName is required")
        );
        assert_eq!(serving.is_kubelet_serving(&usages(&["digital signature", "server auth"])), Ok(()));
        assert_eq!(serving.is_kubelet_client(&usages(&one)), Err("DNS subjectAltNames are not allowed"));
        let other = Request { organizations: usages(&["system:nodes", "system:masters"]), ..client.clone() };
        assert_eq!(other.is_kubelet_client(&usages(&one)), Err("subject organization is not system:nodes"));
        let other = Request { common_name: "me".into(), ..client };
        assert_eq!(other.is_kubelet_client(&usages(&one)), Err("subject common name does not begin with system:node:"));
    }

    #[test]
    fn what_is_no_good_request_is_refused() {
        assert_eq!(Request::verified(b"nothing"), Err(Error::NotARequest));
        let mut block = pem::blocks(CLIENT.as_bytes()).remove(0);
        let last = block.data.len() - 1;
        block.data[last] ^= 1;
        assert_eq!(Request::verified(pem::encode(LABEL, &block.data).as_bytes()), Err(Error::Signature));
        block.data.push(0);
        assert_eq!(Request::verified(pem::encode(LABEL, &block.data).as_bytes()), Err(Error::Malformed));
        assert_eq!(Request::verified(pem::encode("CERTIFICATE", &block.data).as_bytes()), Err(Error::NotARequest));
        assert!(check_certificates(b"").is_err() && check_certificates(CLIENT.as_bytes()).is_err());
        assert_eq!(
            check_certificates(pem::encode("CERTIFICATE", b"x").as_bytes()),
            Err("x509: malformed certificate".into())
        );
    }
}
