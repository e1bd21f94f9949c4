//! Who sent a request: a client certificate, else a bearer token (a service account's or a bootstrap token), else nobody.
//!
//! Tokens are checked against stored objects; a service account's success is remembered for ten seconds (upstream's
//! figure), so that a busy pod costs one signature check in that time and a revoked token lives on no longer than that.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, header, request::Parts};
use parking_lot::Mutex;
use ring::digest;
use serde_json::{Value, json};

use super::{
    bootstrap_token,
    lookup::Lookup,
    tls::{Certificate, Peer, unix_now},
    tokens::{ISSUER, Tokens},
};
use crate::{
    gate::{Authenticate, Unauthenticated},
    identity::{Identity, User},
};

/// What is said of tokens that are none of ours.
const INVALID: &str = "invalid bearer token";
const REMEMBER: Duration = Duration::from_secs(10);
const REMEMBERED: usize = 4096;
/// Browsers cannot set headers on WebSockets: the token stands among the protocols.
pub const SOCKET_TOKEN: &str = "base64url.bearer.authorization.k8s.io.";

struct Known {
    user: Identity,
    audiences: Vec<String>,
    until: Instant,
    end: i64,
}

/// The authenticator.
pub struct Authenticator {
    tokens: Arc<Tokens>,
    bootstrap: Option<Arc<dyn Lookup>>,
    known: Mutex<HashMap<[u8; 32], Known>>,
}

/// The bearer token in a request's headers.
pub fn bearer(headers: &HeaderMap) -> Option<String> {
    if let Some(value) = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()) {
        let (scheme, token) = value.trim().split_once(' ')?;
        let token = token.trim();
        return (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned());
    }
    headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .find_map(|protocol| {
            let encoded = protocol.trim().strip_prefix(SOCKET_TOKEN)?;
            String::from_utf8(URL_SAFE_NO_PAD.decode(encoded.trim_end_matches('=')).ok()?).ok()
        })
}

impl Authenticator {
    /// Service accounts' tokens are checked by `tokens`, bootstrap tokens (if they are let in) by the Secrets in `bootstrap`;
    /// certificates have been by the listener.
    pub fn new(tokens: Arc<Tokens>, bootstrap: Option<Arc<dyn Lookup>>) -> Self {
        Self { tokens, bootstrap, known: Mutex::default() }
    }

    async fn token(&self, token: &str) -> Result<(Identity, Vec<String>), String> {
        match (&self.bootstrap, bootstrap_token::parse(token)) {
            (Some(secrets), Some((id, secret))) => Self::joining(secrets.as_ref(), id, secret).await,
            _ => self.account(token).await,
        }
    }

    /// The user behind a bootstrap token. It is not remembered: its Secret is in memory, and who deletes that has taken the
    /// token back.
    async fn joining(secrets: &dyn Lookup, id: &str, secret: &str) -> Result<(Identity, Vec<String>), String> {
        let user = bootstrap_token::user(secrets, id, secret, jiff::Timestamp::now()).await.map_err(|why| {
            tracing::debug!(id, "{why}");
            INVALID.to_owned()
        })?;
        Ok((Arc::new(user), vec![ISSUER.to_owned()]))
    }

    /// The user behind a service account's token.
    async fn account(&self, token: &str) -> Result<(Identity, Vec<String>), String> {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        let now = Instant::now();
        if let Some(known) = self.known.lock().get(&hash)
            && known.until > now
            && known.end > unix_now()
        {
            return Ok((known.user.clone(), known.audiences.clone()));
        }
        let (user, audiences, end) = self.tokens.user(token).await?;
        let user: Identity = Arc::new(user);
        let mut known = self.known.lock();
        if known.len() >= REMEMBERED {
            known.retain(|_, k| k.until > now);
            if known.len() >= REMEMBERED {
                known.clear();
            }
        }
        known.insert(hash, Known { user: user.clone(), audiences: audiences.clone(), until: now + REMEMBER, end });
        Ok((user, audiences))
    }

    async fn for_audiences(&self, token: &str, wanted: &[String]) -> Result<(Identity, Vec<String>), String> {
        let (user, audiences) = self.token(token).await?;
        let common: Vec<String> = wanted.iter().filter(|a| audiences.contains(a)).cloned().collect();
        if common.is_empty() {
            return Err(format!("token audiences {audiences:?} is invalid for the target audiences {wanted:?}"));
        }
        Ok((user, common))
    }
}

/// What a certificate is worth at `now`.
fn by_certificate(peer: Option<&Peer>, now: i64) -> Result<Option<Identity>, String> {
    match peer.map(|p| &p.certificate) {
        Some(Certificate::Good { user, not_after }) if *not_after > now => Ok(Some(user.clone())),
        Some(Certificate::Good { .. }) => Err("x509: certificate has expired or is not yet valid".to_owned()),
        Some(Certificate::Bad(why)) => Err(format!("x509: {why}")),
        Some(Certificate::Absent) | None => Ok(None),
    }
}

#[async_trait]
impl Authenticate for Authenticator {
    async fn authenticate(&self, request: &Parts) -> Result<Option<Identity>, Unauthenticated> {
        let certificate = by_certificate(request.extensions.get(), unix_now());
        if let Ok(Some(user)) = certificate {
            return Ok(Some(user));
        }
        if let Some(token) = bearer(&request.headers) {
            let user = self.for_audiences(&token, &[ISSUER.to_owned()]).await.map_err(Unauthenticated)?;
            return Ok(Some(user.0));
        }
        certificate.map_err(Unauthenticated)
    }

    async fn review(&self, spec: &Value) -> Value {
        let wanted: Vec<String> =
            spec.get("audiences").and_then(|a| serde_json::from_value(a.clone()).ok()).unwrap_or_default();
        let wanted = if wanted.is_empty() { vec![ISSUER.to_owned()] } else { wanted };
        let token = spec.get("token").and_then(Value::as_str).unwrap_or_default();
        match self.for_audiences(token, &wanted).await {
            Ok((user, audiences)) => json!({"authenticated": true, "user": info(&user), "audiences": audiences}),
            Err(error) if error == INVALID => json!({"user": {}, "error": error}),
            Err(error) => json!({"user": {}, "error": format!("[{INVALID}, {error}]")}),
        }
    }
}

/// `authentication.k8s.io/v1` UserInfo.
pub fn info(user: &User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = json!(user.uid);
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn tokens_are_found_in_headers() {
        let of = |name: &'static str, value: &'static str| {
            bearer(&HeaderMap::from_iter([(http::HeaderName::from_static(name), HeaderValue::from_static(value))]))
        };
        assert_eq!(of("authorization", "Bearer abc"), Some("abc".into()));
        assert_eq!(of("authorization", "bearer  abc "), Some("abc".into()));
        assert_eq!(of("authorization", "Basic abc"), None);
        assert_eq!(of("authorization", "Bearer "), None);
        let protocols = "v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.YWJj";
        assert_eq!(of("sec-websocket-protocol", protocols), Some("abc".into()));
    }

    #[test]
    fn certificates_hold_until_their_end() {
        let user = Arc::new(User::new("alice", &[]));
        let peer = Peer {
            address: ([127, 0, 0, 1], 1).into(),
            certificate: Certificate::Good { user: user.clone(), not_after: 100 },
        };
        assert_eq!(by_certificate(Some(&peer), 99), Ok(Some(user)));
        assert!(by_certificate(Some(&peer), 100).is_err());
        assert_eq!(by_certificate(None, 1), Ok(None));
    }
}
