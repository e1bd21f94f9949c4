//! Certificates written and signed: values in, DER out. Shared by the API server, which makes the cluster's authority, and by the
//! controller that signs what others ask for. Besides, the one verifier of those who ask for no identity: [`Anyone`].
//!
//! `rcgen` would do but for one thing: its names keep one value a type, so that of several `O=` (a user's groups) one is
//! left. With the subject written here anyway, the rest of a certificate is a page of DER, and nothing else of it is needed.

mod anyone;

use std::net::IpAddr;

pub use anyone::Anyone;

use ring::{
    digest,
    rand::{SecureRandom, SystemRandom},
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair},
};
use time::OffsetDateTime;
use yasna::{
    DERWriter, DERWriterSeq, Tag,
    models::{GeneralizedTime, ObjectIdentifier, UTCTime},
};

const ECDSA_WITH_SHA256: &[u64] = &[1, 2, 840, 10045, 4, 3, 2];
const EC_PUBLIC_KEY: &[u64] = &[1, 2, 840, 10045, 2, 1];
const PRIME256V1: &[u64] = &[1, 2, 840, 10045, 3, 1, 7];
const COMMON_NAME: &[u64] = &[2, 5, 4, 3];
const ORGANIZATION: &[u64] = &[2, 5, 4, 10];
const SUBJECT_KEY_ID: &[u64] = &[2, 5, 29, 14];
const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
const SUBJECT_ALT_NAME: &[u64] = &[2, 5, 29, 17];
const BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
const AUTHORITY_KEY_ID: &[u64] = &[2, 5, 29, 35];
const EXT_KEY_USAGE: &[u64] = &[2, 5, 29, 37];
/// What a certificate is for: TLS servers.
pub const SERVER_AUTH: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 3, 1];
/// What a certificate is for: TLS clients.
pub const CLIENT_AUTH: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 3, 2];

/// The first of the nine bits of a certificate's key usage.
pub const DIGITAL_SIGNATURE: u16 = 1 << 15;
/// The third.
pub const KEY_ENCIPHERMENT: u16 = 1 << 13;
/// The sixth.
pub const CERT_SIGN: u16 = 1 << 10;
/// The seventh.
pub const CRL_SIGN: u16 = 1 << 9;

/// Why a key or certificate could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system's randomness or the key material failed.
    #[error("generate or read a P-256 key")]
    Key,
    /// Signing failed.
    #[error("sign with a P-256 key")]
    Sign,
    /// Not a certificate.
    #[error("read a certificate")]
    Certificate,
}

/// An ECDSA P-256 key with its PKCS#8 form.
pub struct Key {
    /// PKCS#8 DER.
    pub pkcs8: Vec<u8>,
    pair: EcdsaKeyPair,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Key {
    /// A new key.
    pub fn generate() -> Result<Self, Error> {
        let document =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new()).map_err(|_| Error::Key)?;
        Self::from_pkcs8(document.as_ref())
    }

    /// The key in a PKCS#8 document.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, Error> {
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der, &SystemRandom::new()).map_err(|_| Error::Key)?;
        Ok(Self { pkcs8: der.to_vec(), pair })
    }

    /// The public key as an uncompressed point.
    pub fn public_point(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    /// The public key as SubjectPublicKeyInfo DER.
    pub fn public_der(&self) -> Vec<u8> {
        yasna::construct_der(|w| {
            w.write_sequence(|w| {
                w.next().write_sequence(|w| {
                    oid(w.next(), EC_PUBLIC_KEY);
                    oid(w.next(), PRIME256V1);
                });
                let point = self.public_point();
                w.next().write_bitvec_bytes(point, point.len() * 8);
            });
        })
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let signature = self.pair.sign(&SystemRandom::new(), message).map_err(|_| Error::Sign)?;
        Ok(signature.as_ref().to_vec())
    }
}

/// What a certificate may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// Signing other certificates.
    Authority,
    /// TLS servers.
    Server,
    /// TLS clients.
    Client,
    /// TLS servers that call one another with the same certificate.
    Both,
}

/// A name in a certificate's SubjectAltName.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AltName {
    /// A host name.
    Dns(String),
    /// An address.
    Ip(IpAddr),
    /// A mail address.
    Email(String),
    /// A URI.
    Uri(String),
}

impl From<&str> for AltName {
    fn from(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Dns(text.to_owned()), Self::Ip)
    }
}

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// CN: the user's name.
    pub common_name: String,
    /// O, each once: the user's groups.
    pub organizations: Vec<String>,
    /// SubjectAltName.
    pub alt_names: Vec<AltName>,
    /// What it is for.
    pub usage: Usage,
    /// Valid from.
    pub not_before: OffsetDateTime,
    /// Valid until.
    pub not_after: OffsetDateTime,
}

/// Who signs: a name (DER) and a key.
pub struct Signer<'a> {
    /// The issuer's subject as DER.
    pub name: &'a [u8],
    /// The issuer's key.
    pub key: &'a Key,
}

fn oid(w: DERWriter<'_>, components: &[u64]) {
    w.write_oid(&ObjectIdentifier::from_slice(components));
}

/// A distinguished name as Go's `pkix.Name` orders it: organizations first, one RDN each, then the common name.
pub fn name(common_name: &str, organizations: &[String]) -> Vec<u8> {
    let mut rdns: Vec<(&[u64], &str)> = organizations.iter().map(|o| (ORGANIZATION, o.as_str())).collect();
    rdns.push((COMMON_NAME, common_name));
    yasna::construct_der(|w| {
        w.write_sequence(|w| {
            for (kind, value) in rdns {
                w.next().write_set(|w| {
                    w.next().write_sequence(|w| {
                        oid(w.next(), kind);
                        w.next().write_utf8_string(value);
                    });
                });
            }
        });
    })
}

/// RFC 5280: UTCTime through 2049, GeneralizedTime from then on.
fn date(w: DERWriter<'_>, at: OffsetDateTime) {
    let at = at.replace_nanosecond(0).unwrap_or(at);
    if (1950..2050).contains(&at.year()) {
        w.write_utctime(&UTCTime::from_datetime(at));
    } else {
        w.write_generalized_time(&GeneralizedTime::from_datetime(at));
    }
}

fn extension(w: &mut DERWriterSeq<'_>, id: &[u64], critical: bool, value: &[u8]) {
    w.next().write_sequence(|w| {
        oid(w.next(), id);
        if critical {
            w.next().write_bool(true);
        }
        w.next().write_bytes(value);
    });
}

/// RFC 7093 method 1: the first 160 bits of the SHA-256 of the public key.
fn key_id(public_point: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, public_point).as_ref()[..20].to_vec()
}

fn alt_names(names: &[AltName]) -> Vec<u8> {
    yasna::construct_der(|w| {
        w.write_sequence(|w| {
            for name in names {
                match name {
                    AltName::Dns(host) => {
                        w.next().write_tagged_implicit(Tag::context(2), |w| w.write_ia5_string(host));
                    }
                    AltName::Ip(IpAddr::V4(ip)) => {
                        w.next().write_tagged_implicit(Tag::context(7), |w| w.write_bytes(&ip.octets()));
                    }
                    AltName::Ip(IpAddr::V6(ip)) => {
                        w.next().write_tagged_implicit(Tag::context(7), |w| w.write_bytes(&ip.octets()));
                    }
                    AltName::Email(address) => {
                        w.next().write_tagged_implicit(Tag::context(1), |w| w.write_ia5_string(address));
                    }
                    AltName::Uri(uri) => {
                        w.next().write_tagged_implicit(Tag::context(6), |w| w.write_ia5_string(uri));
                    }
                }
            }
        });
    })
}

/// A bit string without the zeros at its end, as DER wants named bits.
fn named_bits(bits: u16) -> (Vec<u8>, usize) {
    let length = 16 - bits.trailing_zeros().min(16) as usize;
    (bits.to_be_bytes()[..length.div_ceil(8)].to_vec(), length)
}

fn extensions(w: &mut DERWriterSeq<'_>, template: &Template<'_>, own_id: &[u8], issuer_id: &[u8]) {
    if template.key_usage != 0 {
        let (bits, length) = named_bits(template.key_usage);
        extension(w, KEY_USAGE, true, &yasna::construct_der(|w| w.write_bitvec_bytes(&bits, length)));
    }
    if !template.purposes.is_empty() {
        let value = yasna::construct_der(|w| {
            w.write_sequence(|w| template.purposes.iter().for_each(|p| oid(w.next(), p)));
        });
        extension(w, EXT_KEY_USAGE, false, &value);
    }
    let constraints = yasna::construct_der(|w| {
        w.write_sequence(|w| {
            if template.authority {
                w.next().write_bool(true);
            }
        });
    });
    extension(w, BASIC_CONSTRAINTS, true, &constraints);
    if template.authority {
        extension(w, SUBJECT_KEY_ID, false, &yasna::construct_der(|w| w.write_bytes(own_id)));
    }
    let authority_id = yasna::construct_der(|w| {
        w.write_sequence(|w| w.next().write_tagged_implicit(Tag::context(0), |w| w.write_bytes(issuer_id)));
    });
    extension(w, AUTHORITY_KEY_ID, false, &authority_id);
    if !template.alt_names.is_empty() {
        extension(w, SUBJECT_ALT_NAME, false, &alt_names(template.alt_names));
    }
}

/// Signs a certificate for a key of our own.
pub fn issue(contents: &Contents, subject: &Key, signer: &Signer<'_>) -> Result<Vec<u8>, Error> {
    let purposes: &[&[u64]] = match contents.usage {
        Usage::Authority => &[],
        Usage::Server => &[SERVER_AUTH],
        Usage::Client => &[CLIENT_AUTH],
        Usage::Both => &[SERVER_AUTH, CLIENT_AUTH],
    };
    let authority = contents.usage == Usage::Authority;
    let key_usage = if authority { DIGITAL_SIGNATURE | CERT_SIGN | CRL_SIGN } else { DIGITAL_SIGNATURE | KEY_ENCIPHERMENT };
    let template = Template {
        subject: &name(&contents.common_name, &contents.organizations),
        public_key: &subject.public_der(),
        key_usage,
        purposes,
        alt_names: &contents.alt_names,
        authority,
        not_before: contents.not_before,
        not_after: contents.not_after,
    };
    sign(&template, &key_id(subject.public_point()), signer)
}

/// What a certificate says, in the encodings in which somebody asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template<'a> {
    /// The subject's name (DER).
    pub subject: &'a [u8],
    /// The subject's key (SubjectPublicKeyInfo, DER).
    pub public_key: &'a [u8],
    /// Key usage, its first bit the highest: [`DIGITAL_SIGNATURE`] and the like.
    pub key_usage: u16,
    /// Extended key usage.
    pub purposes: &'a [&'a [u64]],
    /// SubjectAltName.
    pub alt_names: &'a [AltName],
    /// It may sign others.
    pub authority: bool,
    /// Valid from.
    pub not_before: OffsetDateTime,
    /// Valid until.
    pub not_after: OffsetDateTime,
}

/// Signs a leaf for somebody else's key.
pub fn certify(template: &Template<'_>, signer: &Signer<'_>) -> Result<Vec<u8>, Error> {
    sign(template, &[], signer)
}

fn sign(template: &Template<'_>, own_id: &[u8], signer: &Signer<'_>) -> Result<Vec<u8>, Error> {
    let mut serial = [0u8; 16];
    SystemRandom::new().fill(&mut serial).map_err(|_| Error::Key)?;
    // Positive, and of full length: DER would drop a leading zero.
    serial[0] = serial[0] & 0x7f | 0x40;
    let algorithm = |w: DERWriter<'_>| w.write_sequence(|w| oid(w.next(), ECDSA_WITH_SHA256));
    let body = yasna::construct_der(|w| {
        w.write_sequence(|w| {
            w.next().write_tagged(Tag::context(0), |w| w.write_u8(2));
            w.next().write_bigint_bytes(&serial, true);
            algorithm(w.next());
            w.next().write_der(signer.name);
            w.next().write_sequence(|w| {
                date(w.next(), template.not_before);
                date(w.next(), template.not_after);
            });
            w.next().write_der(template.subject);
            w.next().write_der(template.public_key);
            w.next().write_tagged(Tag::context(3), |w| {
                w.write_sequence(|w| extensions(w, template, own_id, &key_id(signer.key.public_point())));
            });
        });
    });
    let signature = signer.key.sign(&body)?;
    Ok(yasna::construct_der(|w| {
        w.write_sequence(|w| {
            w.next().write_der(&body);
            algorithm(w.next());
            w.next().write_bitvec_bytes(&signature, signature.len() * 8);
        });
    }))
}

/// An authority: who signs.
#[derive(Debug)]
pub struct Authority {
    key: Key,
    name: Vec<u8>,
    /// When its certificate ends, in seconds since 1970.
    pub not_after: i64,
}

impl Authority {
    /// Reads certificate and key (P-256, PKCS#8) from PEM; they must belong together.
    pub fn read(certificate: &str, key: &str) -> Result<Self, Error> {
        use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject};
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|_| Error::Certificate)?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(key.as_bytes()).map_err(|_| Error::Key)?;
        let key = Key::from_pkcs8(key.secret_pkcs8_der())?;
        let facts = read(&der)?;
        if facts.public_key != key.public_der() {
            return Err(Error::Key);
        }
        Ok(Self { key, name: facts.subject, not_after: facts.not_after })
    }

    /// Its side of [`certify`].
    pub fn signer(&self) -> Signer<'_> {
        Signer { name: &self.name, key: &self.key }
    }
}

/// What is read back from a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The last CN.
    pub common_name: String,
    /// Every O, in order.
    pub organizations: Vec<String>,
    /// SubjectAltName's hosts and addresses.
    pub alt_names: Vec<AltName>,
    /// Seconds since 1970.
    pub not_before: i64,
    /// Seconds since 1970.
    pub not_after: i64,
    /// The subject as DER.
    pub subject: Vec<u8>,
    /// The key, SubjectPublicKeyInfo as DER.
    pub public_key: Vec<u8>,
}

/// Reads a certificate's facts; nothing is verified.
pub fn read(der: &[u8]) -> Result<Facts, Error> {
    use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| Error::Certificate)?;
    let subject = certificate.subject();
    let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().map(str::to_owned).unwrap_or_default();
    let mut names = Vec::new();
    if let Ok(Some(extension)) = certificate.subject_alternative_name() {
        for name in &extension.value.general_names {
            match name {
                GeneralName::DNSName(host) => names.push(AltName::Dns((*host).to_owned())),
                GeneralName::IPAddress(raw) => {
                    let ip = <[u8; 4]>::try_from(*raw)
                        .map(IpAddr::from)
                        .or_else(|_| <[u8; 16]>::try_from(*raw).map(IpAddr::from));
                    names.extend(ip.ok().map(AltName::Ip));
                }
                _ => {}
            }
        }
    }
    Ok(Facts {
        common_name: subject.iter_common_name().last().map(text).unwrap_or_default(),
        organizations: subject.iter_organization().map(text).collect(),
        alt_names: names,
        not_before: certificate.validity().not_before.timestamp(),
        not_after: certificate.validity().not_after.timestamp(),
        subject: subject.as_raw().to_vec(),
        public_key: certificate.public_key().raw.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_organization_survives() {
        let key = Key::generate().unwrap();
        let now = OffsetDateTime::from_unix_timestamp(1_763_690_000).unwrap();
        let contents = Contents {
            common_name: "alice".into(),
            organizations: vec!["dev".into(), "ops".into(), "system:masters".into()],
            alt_names: vec!["10.43.0.1".into(), "kubernetes.default".into(), "::1".into()],
            usage: Usage::Client,
            not_before: now,
            not_after: now + time::Duration::days(365),
        };
        let der = issue(&contents, &key, &Signer { name: &name("ca", &[]), key: &key }).unwrap();
        let want = Facts {
            common_name: "alice".into(),
            organizations: contents.organizations.clone(),
            alt_names: contents.alt_names.clone(),
            not_before: 1_763_690_000,
            not_after: 1_763_690_000 + 365 * 86_400,
            subject: name("alice", &contents.organizations),
            public_key: key.public_der(),
        };
        assert_eq!(read(&der).unwrap(), want);
    }

    #[test]
    fn named_bits_end_with_a_one() {
        let all = [DIGITAL_SIGNATURE | KEY_ENCIPHERMENT, DIGITAL_SIGNATURE | CERT_SIGN | CRL_SIGN, 1 << 7];
        assert_eq!(all.map(named_bits), [(vec![0b1010_0000], 3), (vec![0b1000_0110], 7), (vec![0, 0b1000_0000], 9)]);
    }
}
