//! JSON web tokens, ES256: written, read and verified. Plain functions of key, text and time.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    digest,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, UnparsedPublicKey},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::x509;

/// How far clocks may differ (seconds).
pub const LEEWAY: i64 = 60;
/// No token of ours comes near this.
const MAX_TOKEN: usize = 16 << 10;

/// Signs and verifies with one key.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    point: Vec<u8>,
    /// `kid`: the hash of the public key, as upstream derives it.
    pub id: String,
}

/// An object named in a token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reference {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// The claim `kubernetes.io`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kubernetes {
    /// The service account's namespace.
    pub namespace: String,
    /// The node that the pod runs on, or that the token is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    /// The pod that the token is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    /// The secret that the token is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    /// Whose token it is.
    pub serviceaccount: Reference,
    /// When the holder should have renewed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// What a service-account token says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Claims {
    /// Whom it is meant for.
    #[serde(deserialize_with = "one_or_many")]
    pub aud: Vec<String>,
    /// Its end, seconds since 1970.
    pub exp: i64,
    /// When it was made.
    pub iat: i64,
    /// Who made it.
    pub iss: String,
    /// Its own id.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub jti: String,
    /// About whom.
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Kubernetes,
    /// Its beginning.
    pub nbf: i64,
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub sub: String,
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Either::deserialize(deserializer)? {
        Either::One(one) => vec![one],
        Either::Many(many) => many,
    })
}

/// Why a token is not accepted. The text is for TokenReview and logs; clients are only told that they are unauthorized.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Not a token of ours at all.
    #[error("invalid bearer token")]
    Foreign,
    /// Too late.
    #[error("service account token has expired")]
    Expired,
    /// Too early.
    #[error("service account token is not valid yet")]
    NotYet,
    /// Made later than now.
    #[error("service account token is issued in the future")]
    Future,
}

impl SigningKey {
    /// The key as a token signer.
    pub fn new(key: &x509::Key) -> Result<Self, x509::Error> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.pkcs8, &SystemRandom::new())
            .map_err(|_| x509::Error::Key)?;
        let id = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, &key.public_der()));
        Ok(Self { pair, point: key.public_point().to_vec(), id })
    }

    /// The token that says `claims`.
    pub fn sign(&self, claims: &Claims) -> Result<String, x509::Error> {
        let header = json!({"alg": "ES256", "kid": self.id}).to_string();
        let claims = serde_json::to_string(claims).map_err(|_| x509::Error::Sign)?;
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = self.pair.sign(&SystemRandom::new(), message.as_bytes()).map_err(|_| x509::Error::Sign)?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref())))
    }

    /// The claims of a token that we signed and that holds `now` (seconds since 1970).
    pub fn verify(&self, token: &str, issuer: &str, now: i64) -> Result<Claims, Invalid> {
        let claims = self.open(token).filter(|claims| claims.iss == issuer).ok_or(Invalid::Foreign)?;
        if now - LEEWAY > claims.exp {
            Err(Invalid::Expired)
        } else if now + LEEWAY < claims.nbf {
            Err(Invalid::NotYet)
        } else if now + LEEWAY < claims.iat {
            Err(Invalid::Future)
        } else {
            Ok(claims)
        }
    }

    fn open(&self, token: &str) -> Option<Claims> {
        if token.len() > MAX_TOKEN {
            return None;
        }
        let (message, signature) = token.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
        // The algorithm is ours, never the token's choice.
        if header.get("alg")?.as_str()? != "ES256" || header.get("kid").is_some_and(|kid| *kid != json!(self.id)) {
            return None;
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.point).verify(message.as_bytes(), &signature).ok()?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }

    /// The public key as a JSON web key set.
    pub fn key_set(&self) -> Value {
        // An uncompressed point: 4, then x and y.
        let (x, y) = self.point[1..].split_at(32);
        json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        }]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SigningKey {
        SigningKey::new(&x509::Key::generate().unwrap()).unwrap()
    }

    fn claims() -> Claims {
        Claims {
            aud: vec!["a".into()],
            exp: 2_000,
            iat: 1_000,
            nbf: 1_000,
            iss: "us".into(),
            sub: "system:serviceaccount:d:s".into(),
            ..Claims::default()
        }
    }

    #[test]
    fn tokens_hold_for_their_time() {
        let key = key();
        let token = key.sign(&claims()).unwrap();
        assert_eq!(key.verify(&token, "us", 1_500), Ok(claims()));
        assert_eq!(key.verify(&token, "us", 2_060), Ok(claims()));
        assert_eq!(key.verify(&token, "us", 2_061), Err(Invalid::Expired));
        assert_eq!(key.verify(&token, "us", 900), Err(Invalid::NotYet));
    }

    #[test]
    fn nobody_elses_tokens_are_taken() {
        let (ours, theirs) = (key(), key());
        let token = ours.sign(&claims()).unwrap();
        assert_eq!(ours.verify(&theirs.sign(&claims()).unwrap(), "us", 1_500), Err(Invalid::Foreign));
        assert_eq!(ours.verify(&token, "them", 1_500), Err(Invalid::Foreign));
        let none = format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), token.split('.').nth(1).unwrap());
        for bad in [none.as_str(), "", "a.b.c", "....", &token[..token.len() - 4]] {
            assert_eq!(ours.verify(bad, "us", 1_500), Err(Invalid::Foreign), "{bad}");
        }
    }

    #[test]
    fn one_audience_may_stand_without_a_list() {
        let claims: Claims = serde_json::from_str(r#"{"aud":"x"}"#).unwrap();
        assert_eq!(claims.aud, ["x"]);
    }
}
