//! Signs `kube-public/cluster-info` for those who have a bootstrap token and know nothing else: for each token that may be used so,
//! `jws-kubeconfig-ID` holds a signature (JWS, RFC 7515, without its content as in appendix F) of the map's kubeconfig by the
//! token's secret. Who finds it right has the cluster's authority from somebody who knows the secret.
//!
//! Watches that map and the tokens' Secrets in `kube-system`, owns the map's signatures; safe to run twice. One timer, for
//! when the next token expires.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use client::{Error, Informer, Key, Next, Options, Queue, Step, is_conflict, is_not_found};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::PostParams;
use ring::hmac;
use serde_json::json;

use crate::{context::Context, tokencleaner};

/// Its name, for `--controllers`; upstream's runs only when it is asked for, and so does this.
pub const NAME: &str = "bootstrap-signer-controller";
const NAMESPACE: &str = "kube-public";
const MAP: &str = "cluster-info";
const CONTENT: &str = "kubeconfig";
const SIGNATURE: &str = "jws-kubeconfig-";

/// The signature of `content` by a token: what `HEADER..SIGNATURE` leaves out, both sides know.
fn signature(content: &str, id: &str, secret: &str) -> String {
    // Verifiers compare texts: no blanks, keys in order.
    let header = URL_SAFE_NO_PAD.encode(json!({"alg": "HS256", "kid": id}).to_string());
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), signed.as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(tag))
}

/// A token's ID and secret, if it may sign now.
fn signer(token: &Secret, now: Timestamp) -> Option<(&str, &str)> {
    let text = |key: &str| {
        let value = token.data.as_ref()?.get(key)?;
        std::str::from_utf8(&value.0).ok().filter(|text| !text.is_empty())
    };
    let (id, secret) = (text("token-id")?, text("token-secret")?);
    let named = token.metadata.name.as_deref()?.strip_prefix("bootstrap-token-") == Some(id);
    let valid = tokencleaner::end(token).is_none_or(|end| end > now);
    (named && valid && text("usage-bootstrap-signing") == Some("true")).then_some((id, secret))
}

/// The map's data as it should be, if it is not so.
fn decide<'t>(
    map: &ConfigMap,
    tokens: impl Iterator<Item = &'t Secret>,
    now: Timestamp,
) -> Option<BTreeMap<String, String>> {
    let current = map.data.as_ref()?;
    let content = current.get(CONTENT)?;
    let mut wanted = current.clone();
    wanted.retain(|key, _| !key.starts_with(SIGNATURE));
    let signers = tokens.filter_map(|token| signer(token, now));
    wanted.extend(signers.map(|(id, secret)| (format!("{SIGNATURE}{id}"), signature(content, id, secret))));
    (wanted != *current).then_some(wanted)
}

struct Controller {
    ctx: Context,
    maps: Informer<ConfigMap>,
    tokens: Informer<Secret>,
}

/// Runs the controller until the context's shutdown.
pub async fn run(ctx: Context) {
    let only = Options { fields: Some(format!("metadata.name={MAP}")), ..Options::namespace(NAMESPACE) };
    let this = Arc::new(Controller {
        maps: ctx.informers.get_with(&(), only),
        tokens: tokencleaner::tokens(&ctx),
        ctx: ctx.clone(),
    });
    if ctx.until_stopped(futures::future::join(this.maps.synced(), this.tokens.synced())).await.is_none() {
        return;
    }
    let queue = Queue::new(NAME);
    // Whatever changes, it is the one map that is looked at.
    this.maps.wake(&queue, |_| [Key::new(NAMESPACE, MAP)]);
    this.tokens.wake(&queue, |_| [Key::new(NAMESPACE, MAP)]);
    client::controller::run(NAME, queue, 1, ctx.shutdown.clone(), move |key| this.clone().reconcile(key)).await;
}

impl Controller {
    async fn reconcile(self: Arc<Self>, key: Key) -> Result<Next, Error> {
        let Some(map) = self.maps.get(&key) else { return Ok(Next::Done) };
        let (tokens, now) = (self.tokens.list(), Timestamp::now());
        if let Some(data) = decide(&map, tokens.iter().map(Arc::as_ref), now) {
            let map = ConfigMap { data: Some(data), ..ConfigMap::clone(&map) };
            match self.ctx.api::<ConfigMap>(NAMESPACE).replace(MAP, &PostParams::default(), &map).await {
                Ok(map) => self.maps.ensure_seen(&map).await?,
                Err(error) if is_conflict(&error) => return Ok(Next::Again),
                Err(error) if is_not_found(&error) => return Ok(Next::Done),
                Err(error) => return Err(error).step("signing cluster-info"),
            }
        }
        let ends = tokens.iter().filter_map(|token| tokencleaner::end(token)).filter(|end| *end > now);
        let left = ends.min().and_then(|end| Duration::try_from(end.duration_since(now)).ok());
        Ok(left.map_or(Next::Done, Next::After))
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    /// As kubeadm and JOSE libraries do it: the content goes back between the dots, and the whole is verified by the key.
    fn verified(detached: &str, content: &str, id: &str, secret: &str) -> bool {
        let whole = detached.replace("..", &format!(".{}.", URL_SAFE_NO_PAD.encode(content)));
        let (signed, tag) = whole.rsplit_once('.').unwrap();
        let header = URL_SAFE_NO_PAD.decode(signed.split('.').next().unwrap()).unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let header_says = header == format!(r#"{{"alg":"HS256","kid":"{id}"}}"#).as_bytes();
        header_says && hmac::verify(&key, signed.as_bytes(), &URL_SAFE_NO_PAD.decode(tag).unwrap()).is_ok()
    }

    fn token(id: &str, more: &[(&str, &str)]) -> Secret {
        let fields = [("token-id", id), ("token-secret", "0123456789abcdef"), ("usage-bootstrap-signing", "true")];
        let fields = fields.iter().chain(more).map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().into())));
        Secret {
            data: Some(fields.collect()),
            ..serde_json::from_value(json!({"metadata": {"name": format!("bootstrap-token-{id}")}})).unwrap()
        }
    }

    #[test]
    fn verifiers_accept_what_a_token_signed() {
        let detached = signature("kubeconfig", "abcdef", "0123456789abcdef");
        let found = [("kubeconfig", "0123456789abcdef"), ("another", "0123456789abcdef"), ("kubeconfig", "guessed")]
            .map(|(content, secret)| verified(&detached, content, "abcdef", secret));
        assert_eq!(found, [true, false, false]);
        // What other libraries make of the same.
        assert_eq!(detached, "eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9..1aSmWQ8qI2kvFNOp1y4ORVTgvutw0Y5Y93MxMR3Qf2o");
    }

    #[test]
    fn the_tokens_that_may_sign_do() {
        let now = "2024-01-01T00:00:00Z".parse().unwrap();
        let tokens = [
            token("aaaaaa", &[]),
            token("bbbbbb", &[("usage-bootstrap-signing", "false")]),
            token("cccccc", &[("expiration", "2023-12-31T23:59:59Z")]),
            token("dddddd", &[("expiration", "2024-01-01T00:00:01Z")]),
            token("eeeeee", &[("token-id", "ffffff")]),
            token("gggggg", &[("token-secret", "")]),
        ];
        let map = |data: &[(&str, &str)]| ConfigMap {
            data: Some(data.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()),
            ..ConfigMap::default()
        };
        let signed =
            decide(&map(&[("kubeconfig", "x"), ("other", "y"), ("jws-kubeconfig-hhhhhh", "z")]), tokens.iter(), now);
        let signed = signed.expect("a change");
        let keys: Vec<&str> = signed.keys().map(String::as_str).collect();
        assert_eq!(keys, ["jws-kubeconfig-aaaaaa", "jws-kubeconfig-dddddd", "kubeconfig", "other"]);
        assert_eq!(signed["jws-kubeconfig-aaaaaa"], signature("x", "aaaaaa", "0123456789abcdef"));
        let done = ConfigMap { data: Some(signed), ..ConfigMap::default() };
        assert_eq!(decide(&done, tokens.iter(), now), None);
        assert_eq!(decide(&map(&[("other", "y")]), tokens.iter(), now), None);
    }
}
