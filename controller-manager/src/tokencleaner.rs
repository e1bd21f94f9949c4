//! Removes bootstrap tokens (Secrets of type `bootstrap.kubernetes.io/token` in `kube-system`) when they have expired.
//!
//! Watches those Secrets, owns nothing; safe to run twice.

use client::{Informer, Options};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;

use crate::{context::Context, expiry};

/// Its name, for `--controllers`; upstream's runs only when it is asked for, and so does this.
pub const NAME: &str = "token-cleaner-controller";
const NAMESPACE: &str = "kube-system";
const KIND: &str = "bootstrap.kubernetes.io/token";

/// When a token expires; `None` is never. What cannot be read has expired.
pub fn end(token: &Secret) -> Option<Timestamp> {
    let text = token.data.as_ref()?.get("expiration").filter(|text| !text.0.is_empty())?;
    let read = std::str::from_utf8(&text.0).ok().and_then(|text| text.parse().ok());
    Some(read.unwrap_or(Timestamp::MIN))
}

/// The tokens.
pub fn tokens(ctx: &Context) -> Informer<Secret> {
    ctx.informers.get_with(&(), Options { fields: Some(format!("type={KIND}")), ..Options::namespace(NAMESPACE) })
}

/// Runs the controller until the context's shutdown.
pub async fn run(ctx: Context) {
    let (tokens, api) = (tokens(&ctx), ctx.api(NAMESPACE));
    expiry::run(ctx, NAME, tokens, api, end).await;
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
