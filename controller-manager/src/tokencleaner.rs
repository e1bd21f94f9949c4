//! Removes bootstrap tokens (Secrets of type `bootstrap.kubernetes.io/token` in `kube-system`) when they have expired.
//!
//! Watches those Secrets, owns nothing; safe to run twice. Each token that expires has one timer.

use std::{sync::Arc, time::Duration};

use client::{Change, Error, Informer, Key, Next, Options, Queue, Step, is_not_found};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{DeleteParams, Preconditions},
};

use crate::context::Context;

/// Its name, for `--controllers`; upstream's runs only when it is asked for, and so does this.
pub const NAME: &str = "token-cleaner-controller";
const NAMESPACE: &str = "kube-system";
const KIND: &str = "bootstrap.kubernetes.io/token";

/// When a token expires; `None` is never. What cannot be read has expired.
fn end(token: &Secret) -> Option<Timestamp> {
    let text = token.data.as_ref()?.get("expiration").filter(|text| !text.0.is_empty())?;
    let read = std::str::from_utf8(&text.0).ok().and_then(|text| text.parse().ok());
    Some(read.unwrap_or(Timestamp::MIN))
}

/// Runs the controller until the context's shutdown.
pub async fn run(ctx: Context) {
    let queue = Queue::new(NAME);
    let options = Options { fields: Some(format!("type={KIND}")), ..Options::namespace(NAMESPACE) };
    let tokens: Informer<Secret> = ctx.informers.get_with(&(), options);
    if ctx.until_stopped(tokens.synced()).await.is_none() {
        return;
    }
    tokens.on_change({
        let queue = queue.clone();
        move |change| {
            if !matches!(change, Change::Deleted(_)) {
                queue.add(Key::of(&change.object().metadata));
            }
        }
    });
    let api: Arc<Api<Secret>> = Arc::new(ctx.api(NAMESPACE));
    client::controller::run(NAME, queue, 1, ctx.shutdown.clone(), move |key: Key| {
        let (tokens, api) = (tokens.clone(), api.clone());
        async move {
            let Some(token) = tokens.get(&key) else { return Ok(Next::Done) };
            let Some(end) = end(&token) else { return Ok(Next::Done) };
            let left = end.duration_since(Timestamp::now());
            if left.is_positive() {
                return Ok(Next::After(Duration::try_from(left).unwrap_or_default()));
            }
            delete(&api, &token, &key).await
        }
    })
    .await;
}

async fn delete(api: &Api<Secret>, token: &Secret, key: &Key) -> Result<Next, Error> {
    let preconditions = Some(Preconditions { uid: token.metadata.uid.clone(), resource_version: None });
    match api.delete(&key.name, &DeleteParams { preconditions, ..DeleteParams::default() }).await {
        Err(error) if is_not_found(&error) => Ok(Next::Done),
        done => done.map(|_| Next::Done).step("removing a token that has expired"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tokens_end_when_they_say() {
        let token = |expiration: &[u8]| Secret {
            data: Some([("expiration".to_owned(), k8s_openapi::ByteString(expiration.to_vec()))].into()),
            ..serde_json::from_value(json!({"metadata": {"name": "bootstrap-token-abcdef"}})).expect("a secret")
        };
        let ends = [token(b""), token(b"2024-01-01T00:00:00Z"), token(b"soon")].map(|token| end(&token));
        assert_eq!(ends, [None, "2024-01-01T00:00:00Z".parse().ok(), Some(Timestamp::MIN)]);
    }
}
