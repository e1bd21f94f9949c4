//! Whether a private key belongs to a certificate, both in PEM: what a server that is given them would find wrong, in the
//! words of Go's `tls.X509KeyPair`, which upstream warns in.
//!
//! Keys come in three encodings (PKCS#1, SEC 1, PKCS#8), of which this reads as much as it takes to compare them with the
//! certificate's public key. Curves that nobody here can compute with (P-224, P-521) are taken on trust.

use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer, public_key::PublicKey};

use crate::pem::{self, Block};

const CERTIFICATE: &str = "CERTIFICATE";
const PRIVATE_KEY: &str = "PRIVATE KEY";
const MISMATCH: &str = "tls: private key does not match public key";
const OTHER_TYPE: &str = "tls: private key type does not match public key type";

/// Contents of object identifiers.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
const P384: &[u8] = &[0x2b, 0x81, 4, 0, 34];

/// What is wrong with a pair.
pub fn check(certificate: &[u8], key: &[u8]) -> Result<(), String> {
    let certificates = pem::blocks(certificate);
    let Some(leaf) = certificates.iter().find(|block| block.label == CERTIFICATE) else {
        return Err(no_certificate(&certificates));
    };
    let keys = pem::blocks(key);
    let Some(key) = keys.iter().find(|block| is_key(block)) else { return Err(no_key(&keys)) };
    let Ok((_, leaf)) = X509Certificate::from_der(&leaf.data) else {
        return Err("x509: malformed certificate".to_owned());
    };
    let key = Private::read(&key.data).ok_or("tls: failed to parse private key")?;
    key.fits(&leaf).map_err(str::to_owned)
}

fn is_key(block: &Block) -> bool {
    block.label == PRIVATE_KEY || block.label.ends_with(" PRIVATE KEY")
}

fn labels(blocks: &[Block]) -> String {
    let labels: Vec<&str> = blocks.iter().map(|block| block.label.as_str()).collect();
    format!("after skipping PEM blocks of the following types: [{}]", labels.join(" "))
}

fn no_certificate(blocks: &[Block]) -> String {
    match blocks {
        [] => "tls: failed to find any PEM data in certificate input".to_owned(),
        [only] if only.label.ends_with(PRIVATE_KEY) => "tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may have been switched".to_owned(),
        _ => format!("tls: failed to find \"CERTIFICATE\" PEM block in certificate input {}", labels(blocks)),
    }
}

fn no_key(blocks: &[Block]) -> String {
    match blocks {
        [] => "tls: failed to find any PEM data in key input".to_owned(),
        [only] if only.label == CERTIFICATE => {
            "tls: found a certificate rather than a key in the PEM for the private key".to_owned()
        }
        _ => format!("tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input {}", labels(blocks)),
    }
}

/// What of a private key tells whose it is.
#[derive(Debug, PartialEq, Eq)]
enum Private<'a> {
    /// The modulus.
    Rsa(&'a [u8]),
    /// The curve and the secret number.
    Ec(&'a [u8], &'a [u8]),
    /// The seed.
    Ed25519(&'a [u8]),
}

impl<'a> Private<'a> {
    fn read(der: &'a [u8]) -> Option<Self> {
        Self::pkcs1(der).or_else(|| Self::pkcs8(der)).or_else(|| Self::sec1(der, None))
    }

    fn pkcs1(der: &'a [u8]) -> Option<Self> {
        let mut fields = Der(only(der, SEQUENCE)?);
        fields.next(INTEGER)?;
        let modulus = fields.next(INTEGER)?;
        // Both exponents, both primes, and what is computed from them in advance.
        for _ in 0..7 {
            fields.next(INTEGER)?;
        }
        Some(Self::Rsa(without_zeros(modulus)))
    }

    fn pkcs8(der: &'a [u8]) -> Option<Self> {
        let mut fields = Der(only(der, SEQUENCE)?);
        fields.next(INTEGER)?;
        let mut algorithm = Der(fields.next(SEQUENCE)?);
        let key = fields.next(OCTETS)?;
        match algorithm.next(OBJECT_ID)? {
            RSA => Self::pkcs1(key),
            EC => Self::sec1(key, algorithm.next(OBJECT_ID)),
            ED25519 => Some(Self::Ed25519(only(key, OCTETS)?)),
            _ => None,
        }
    }

    fn sec1(der: &'a [u8], curve: Option<&'a [u8]>) -> Option<Self> {
        let mut fields = Der(only(der, SEQUENCE)?);
        fields.next(INTEGER)?;
        let secret = fields.next(OCTETS)?;
        let curve = curve.or_else(|| only(fields.next(PARAMETERS)?, OBJECT_ID))?;
        Some(Self::Ec(curve, secret))
    }

    fn fits(&self, certificate: &X509Certificate<'_>) -> Result<(), &'static str> {
        let public = certificate.public_key();
        let same = match (self, public.algorithm.algorithm.as_bytes()) {
            (Self::Rsa(modulus), RSA) => match public.parsed() {
                Ok(PublicKey::RSA(public)) => without_zeros(public.modulus) == *modulus,
                _ => return Err("x509: malformed certificate"),
            },
            (Self::Ec(curve, secret), EC) => {
                let of = public.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
                of.is_some_and(|of| of.as_bytes() == *curve) && is_point(curve, secret, &public.subject_public_key.data)
            }
            (Self::Ed25519(seed), ED25519) => Ed25519KeyPair::from_seed_unchecked(seed)
                .is_ok_and(|pair| pair.public_key().as_ref() == &*public.subject_public_key.data),
            (_, RSA | EC | ED25519) => return Err(OTHER_TYPE),
            _ => return Err("tls: unknown public key algorithm"),
        };
        if same { Ok(()) } else { Err(MISMATCH) }
    }
}

/// Whether a point of a curve belongs to a secret number.
fn is_point(curve: &[u8], secret: &[u8], point: &[u8]) -> bool {
    let (algorithm, width) = match curve {
        P256 => (&ECDSA_P256_SHA256_ASN1_SIGNING, 32),
        P384 => (&ECDSA_P384_SHA384_ASN1_SIGNING, 48),
        _ => return true,
    };
    let secret = without_zeros(secret);
    let mut padded = vec![0; usize::saturating_sub(width, secret.len())];
    padded.extend_from_slice(secret);
    EcdsaKeyPair::from_private_key_and_public_key(algorithm, &padded, point, &SystemRandom::new()).is_ok()
}

const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const OBJECT_ID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const PARAMETERS: u8 = 0xa0;

/// DER, one value after another.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The content of the next value, if it is of this sort.
    fn next(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (first, rest) = self.0.split_first()?;
        let (length, rest) = rest.split_first()?;
        let (length, rest) = match usize::from(*length) {
            short @ 0..0x80 => (short, rest),
            long => {
                let (bytes, rest) = rest.split_at_checked(long - 0x80).filter(|(bytes, _)| bytes.len() <= 4)?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        (*first == tag).then_some(content)
    }
}

/// The content of a value that is all there is.
fn only(der: &[u8], tag: u8) -> Option<&[u8]> {
    let mut values = Der(der);
    values.next(tag).filter(|_| values.0.is_empty())
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{
        CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SignatureAlgorithm,
    };

    use super::*;

    fn pair(algorithm: &'static SignatureAlgorithm) -> (String, String) {
        let key = KeyPair::generate_for(algorithm).unwrap();
        (CertificateParams::default().self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn told(certificate: &str, key: &str) -> String {
        check(certificate.as_bytes(), key.as_bytes()).err().unwrap_or_default()
    }

    #[test]
    fn a_key_fits_its_own_certificate_only() {
        for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
            let (one, other) = (pair(algorithm), pair(algorithm));
            assert_eq!([told(&one.0, &one.1), told(&one.0, &other.1)], ["", MISMATCH]);
        }
        let (ec, ed) = (pair(&PKCS_ECDSA_P256_SHA256), pair(&PKCS_ED25519));
        assert_eq!([told(&ec.0, &ed.1), told(&ed.0, &ec.1)], [OTHER_TYPE; 2]);
        assert_eq!(told(&ec.0, &pair(&PKCS_ECDSA_P384_SHA384).1), MISMATCH);
    }

    #[test]
    fn what_is_missing_is_said() {
        let (certificate, key) = pair(&PKCS_ECDSA_P256_SHA256);
        let other = pem::encode("PUBLIC KEY", b"x");
        for (certificate, key, want) in [
            ("", "", "tls: failed to find any PEM data in certificate input"),
            (
                &*key,
                &*certificate,
                "tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may have been switched",
            ),
            (&*certificate, "x", "tls: failed to find any PEM data in key input"),
            (&*certificate, &*certificate, "tls: found a certificate rather than a key in the PEM for the private key"),
            (
                &*certificate,
                &*other,
                "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input after skipping PEM blocks of the following types: [PUBLIC KEY]",
            ),
            (&*certificate, &*pem::encode("PRIVATE KEY", b"x"), "tls: failed to parse private key"),
            (&*pem::encode("CERTIFICATE", b"x"), &*key, "x509: malformed certificate"),
        ] {
            assert_eq!(told(certificate, key), want);
        }
        assert_eq!(told(&format!("{key}{certificate}"), &format!("{certificate}{key}")), "");
    }

    #[test]
    fn rsa_keys_are_read_in_both_forms() {
        let integers = [2, 1, 0, 2, 3, 0, 0xab, 0xcd].into_iter().chain([2, 1, 3].repeat(7));
        let fields: Vec<u8> = integers.collect();
        let key: Vec<u8> = [SEQUENCE, fields.len() as u8].into_iter().chain(fields).collect();
        assert_eq!(Private::read(&key), Some(Private::Rsa(&[0xab, 0xcd])));
        let algorithm: Vec<u8> = [SEQUENCE, 13, OBJECT_ID, 9].into_iter().chain(RSA.iter().copied()).chain([5, 0]).collect();
        let inner: Vec<u8> = [2, 1, 0].into_iter().chain(algorithm).chain([OCTETS, key.len() as u8]).chain(key).collect();
        let outer: Vec<u8> = [SEQUENCE, inner.len() as u8].into_iter().chain(inner).collect();
        assert_eq!(Private::read(&outer), Some(Private::Rsa(&[0xab, 0xcd])));
    }

    proptest! {
        #![proptest_config(crate::testing::cases(300))]

        #[test]
        fn garbage_is_no_key(der in prop::collection::vec(prop_oneof![Just(0x30u8), Just(2), Just(4), 0u8..9, any::<u8>()], 0..60)) {
            let _ = Private::read(&der);
        }
    }
}
