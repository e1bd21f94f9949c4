//! What a server does in its own cluster once it runs: the token with which agents join, and its node's role.

use std::path::Path;

use anyhow::{Context, Result};
use client::{Informer, Key, Options, is_already_exists, is_not_found};
use k8s_openapi::{
    ByteString,
    api::core::v1::{Node, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use ring::hmac;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    local::record::write_whole,
    token::{Fingerprint, Join, letters},
};

/// The label by which people see which nodes are servers. Kubelets may not set it.
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";
/// Where bootstrap tokens are.
pub const NAMESPACE: &str = "kube-system";
/// The type of their Secrets.
pub const TOKEN: &str = "bootstrap.kubernetes.io/token";

/// The token that all servers of a cluster hand out: it follows from the authority's key, so that they need not agree on it.
fn node_token(authority_key: &str, authority: Fingerprint) -> Join {
    let key = hmac::Key::new(hmac::HMAC_SHA256, authority_key.as_bytes());
    let part = |what: &str, length| letters(&hmac::sign(&key, what.as_bytes()).as_ref()[..length]);
    Join { authority, id: part("node token, id", 6), secret: part("node token, secret", 16) }
}

/// A token as the Secret in which the API server looks for it.
pub fn secret(token: &Join, description: &str, expiration: Option<String>) -> Secret {
    let text = |text: &str| ByteString(text.as_bytes().to_vec());
    let mut data = std::collections::BTreeMap::from([
        ("token-id".to_owned(), text(&token.id)),
        ("token-secret".to_owned(), text(&token.secret)),
        ("usage-bootstrap-authentication".to_owned(), text("true")),
        // Who has the token alone can verify what kube-public/cluster-info says.
        ("usage-bootstrap-signing".to_owned(), text("true")),
        ("description".to_owned(), text(description)),
    ]);
    data.extend(expiration.map(|expiration| ("expiration".to_owned(), text(&expiration))));
    Secret {
        metadata: ObjectMeta {
            name: Some(secret_name(&token.id)),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        type_: Some(TOKEN.to_owned()),
        data: Some(data),
        ..Secret::default()
    }
}

/// The name of a token's Secret.
pub fn secret_name(id: &str) -> String {
    format!("bootstrap-token-{id}")
}

/// Makes the token with which agents join, once, and keeps it in `DATA/node-token`. Who deletes its Secret takes it back for good.
pub async fn ensure_node_token(client: &Client, data: &Path, authority: &str, authority_key: &str) -> Result<()> {
    let path = data.join("node-token");
    if path.exists() {
        return Ok(());
    }
    let token = node_token(authority_key, Fingerprint::of_pem(authority)?);
    let secret = secret(&token, "The token in node-token, with which agents join; it does not expire.", None);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    match secrets.create(&PostParams::default(), &secret).await {
        Err(error) if !is_already_exists(&error) => return Err(error).context("make the token for agents"),
        _ => {}
    }
    write_whole(&path, format!("{}\n", token.text()).as_bytes(), 0o600)
}

/// Keeps the role of the server's own node on its object, until `shutdown`.
pub async fn show_role(client: Client, node: String, shutdown: CancellationToken) {
    let only = Options::fields(format!("metadata.name={node}"));
    let nodes: Informer<Node> = Informer::start(client.clone(), only, shutdown);
    let mut changes = nodes.changes();
    loop {
        if let Some(found) = nodes.get(&Key::cluster(&node))
            && !found.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(CONTROL_PLANE))
        {
            let label = json!({"metadata": {"labels": {CONTROL_PLANE: ""}}});
            let patched = Api::<Node>::all(client.clone()).patch(&node, &PatchParams::default(), &Patch::Merge(label)).await;
            match patched {
                Err(error) if !is_not_found(&error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "the node's role is not shown");
                }
                _ => {}
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_agree_on_the_token() {
        let authority: Fingerprint = "ab".repeat(32).parse().unwrap();
        let token = node_token("key", authority);
        assert!(token.text().parse::<Join>().unwrap() == token && node_token("key", authority) == token);
        assert!(node_token("another", authority) != token);
    }
}
