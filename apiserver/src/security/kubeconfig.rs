//! A kubeconfig with everything embedded, as `kubectl` reads it.

use std::{io, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};

use super::pki::{Pair, write_atomic};

/// What a kubeconfig says.
#[derive(Clone, Debug)]
pub struct Kubeconfig<'a> {
    /// The name of cluster and context.
    pub cluster: &'a str,
    /// The name of the user entry.
    pub user: &'a str,
    /// `https://192.0.2.1:6443`.
    pub server: &'a str,
    /// The authority's certificate, PEM.
    pub authority: &'a str,
    /// The client's pair.
    pub pair: &'a Pair,
}

impl Kubeconfig<'_> {
    /// The YAML; every value is a JSON string, which YAML reads too.
    pub fn to_yaml(&self) -> String {
        let quote = |text: &str| serde_json::Value::from(text).to_string();
        let data = |text: &str| STANDARD.encode(text);
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: {cluster}\n  cluster:\n    \
             certificate-authority-data: {ca}\n    server: {server}\ncontexts:\n- name: {cluster}\n  context:\n    \
             cluster: {cluster}\n    user: {user}\ncurrent-context: {cluster}\nusers:\n- name: {user}\n  user:\n    \
             client-certificate-data: {crt}\n    client-key-data: {key}\n",
            cluster = quote(self.cluster),
            user = quote(self.user),
            server = quote(self.server),
            ca = data(self.authority),
            crt = data(&self.pair.certificate),
            key = data(&self.pair.key),
        )
    }

    /// Writes it to `path`, readable by the owner alone.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        write_atomic(path, 0o600, &self.to_yaml())
    }
}
