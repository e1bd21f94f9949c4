//! Everything together: what the API server starts, and what it hands to the registry.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use process::task::vital;
use serde_json::{Value, json};
use store::{Op, Outcome, Store, Txn};
use tokio_util::sync::CancellationToken;

use super::{
    authn::Authenticator,
    lookup::Lookup,
    modes::{Mode, Modes},
    node::{BoundPods, NodeAuthorizer},
    pki::{self, Pki},
    rbac::{Rbac, follow, policy},
    tls::{self, Tls},
    tokens::Tokens,
    x509,
};
use crate::{gate::Gate, upgrade::Kubelets};

/// What security needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// `DATA/pki`.
    pub pki: PathBuf,
    /// Addresses and names of this server for its certificate, besides [`pki::SERVER_NAMES`].
    pub addresses: Vec<String>,
    /// Kubelets on this machine's loopback may be called.
    pub loopback_kubelets: bool,
    /// What is brought along instead of being made.
    pub files: Files,
    /// Which ways in there are.
    pub access: Access,
}

/// Which ways in there are, besides certificates and service accounts' tokens.
#[derive(Clone, Debug)]
pub struct Access {
    /// Bootstrap tokens are taken.
    pub bootstrap_tokens: bool,
    /// Who decides what users may do.
    pub modes: Vec<Mode>,
}

impl Default for Access {
    fn default() -> Self {
        Self { bootstrap_tokens: true, modes: vec![Mode::Node, Mode::Rbac] }
    }
}

/// Keys and certificates that were made elsewhere.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// The serving certificate and its key.
    pub serving: Option<(PathBuf, PathBuf)>,
    /// Authorities whose clients are let in, besides our own.
    pub client_authorities: Option<PathBuf>,
    /// The key that signs service accounts' tokens: P-256, PKCS#8.
    pub service_account_key: Option<PathBuf>,
}

impl Config {
    fn serving(&self, pki: &Pki) -> Result<pki::Pair, pki::Error> {
        match &self.files.serving {
            Some((certificate, key)) => Ok(pki::Pair { certificate: pki::file(certificate)?, key: pki::file(key)? }),
            None => pki.api_server(&self.addresses.iter().map(String::as_str).collect::<Vec<_>>()),
        }
    }

    fn authorities(&self, pki: &Pki) -> Result<String, pki::Error> {
        let more = self.files.client_authorities.as_deref().map(pki::file).transpose()?.unwrap_or_default();
        let own = pki.authority_pem();
        Ok(if more.is_empty() { own.to_owned() } else { format!("{}\n{own}", more.trim_end()) })
    }
}

/// Why security could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Keys or certificates.
    #[error("prepare the cluster's keys")]
    Pki(#[from] pki::Error),
    /// The token signer.
    #[error("prepare the token signer")]
    Signer(#[source] x509::Error),
    /// TLS.
    #[error("prepare TLS")]
    Tls(#[from] tls::Error),
    /// Roles.
    #[error("prepare roles and bindings")]
    Roles(#[from] store::Error),
}

/// A server's security, running.
pub struct Security {
    /// Keys and certificates: for kubeconfigs and other components.
    pub pki: Pki,
    /// The listener's side.
    pub tls: Tls,
    /// The seams.
    pub gate: Gate,
    /// The roles and bindings behind the gate.
    pub rbac: Arc<Rbac>,
    /// The token signer behind the gate; also answers token discovery.
    pub tokens: Arc<Tokens>,
    /// The certificates of the authorities that are trusted (PEM).
    pub authorities: String,
    follower: tokio::task::JoinHandle<()>,
}

impl Security {
    /// Makes or loads keys, writes the bootstrap policy, loads roles and follows them until `shutdown`.
    pub async fn start(
        config: &Config,
        store: Arc<dyn Store>,
        lookup: Arc<dyn Lookup>,
        pods: Arc<dyn BoundPods>,
        shutdown: CancellationToken,
    ) -> Result<Self, Error> {
        let mut pki = Pki::open(&config.pki, SystemTime::now().into())?;
        if let Some(path) = &config.files.service_account_key {
            pki.service_account = pki::key_file(path)?;
        }
        let authorities = config.authorities(&pki)?;
        let tls = Tls::new(&config.serving(&pki)?, &authorities)?;
        let rbac = Arc::new(Rbac::default());
        follow::bootstrap(store.as_ref(), jiff::Timestamp::now()).await?;
        publish_authority(store.as_ref(), &authorities).await?;
        publish_names(store.as_ref(), &config.addresses).await?;
        let follower = follow::start(store, rbac.clone()).await?;
        let tokens = Arc::new(Tokens::new(&pki, lookup.clone()).map_err(Error::Signer)?);
        let has = |mode: Mode| config.access.modes.contains(&mode);
        let authorize = Arc::new(Modes {
            node: has(Mode::Node).then(|| NodeAuthorizer::new(pods, policy::rules_of_role("system:node"))),
            rbac: has(Mode::Rbac).then(|| rbac.clone()),
        });
        let bootstrap = config.access.bootstrap_tokens.then(|| lookup.clone());
        let kubelets = Kubelets {
            tls: Arc::new(tls::client(Some(&pki.kubelet_client()?), pki.authority_pem())?),
            insecure: Arc::new(tls::insecure_client()?),
            lookup,
            authorize: authorize.clone(),
            loopback: config.loopback_kubelets,
        };
        let gate = Gate {
            authenticate: Arc::new(Authenticator::new(tokens.clone(), bootstrap)),
            authorize,
            tokens: tokens.clone(),
            connect: Arc::new(kubelets),
        };
        vital(&shutdown, renew(config.clone(), tls.clone(), shutdown.clone()));
        let follower = vital(&shutdown, follower.run(shutdown.clone()));
        Ok(Self { pki, tls, gate, rbac, tokens, authorities, follower })
    }

    /// `/.well-known/openid-configuration` and `/openid/v1/jwks`: content type and document.
    pub fn discovery(&self, path: &str) -> Option<(&'static str, Value)> {
        self.tokens.discovery(path)
    }

    /// Waits for the follower after the shutdown began.
    pub async fn stopped(self) {
        let _ = self.follower.await;
    }
}

/// Looks at the serving certificate once a day and exchanges it when it is due.
async fn renew(config: Config, tls: Tls, shutdown: CancellationToken) {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    loop {
        tokio::select! {
            () = tokio::time::sleep(DAY) => {}
            () = shutdown.cancelled() => return,
        }
        let renewed = || -> Result<(), Error> {
            let pki = Pki::open(&config.pki, SystemTime::now().into())?;
            Ok(tls.exchange(&config.serving(&pki)?, &config.authorities(&pki)?)?)
        };
        if let Err(error) = renewed() {
            tracing::error!(error = &error as &dyn std::error::Error, "Could not renew the serving certificate");
        }
    }
}

/// The ConfigMap by which extension servers learn whose client certificates to take.
async fn publish_authority(store: &dyn Store, authorities: &str) -> Result<(), store::Error> {
    publish(store, "extension-apiserver-authentication", "client-ca-file", |_| authorities.to_owned()).await
}

/// The ConfigMap that keeps by which names and addresses API servers were ever reached, a line each: nobody else is certified for
/// them. Whoever has taken a server away for good, and wants its address for a node, takes the line out.
async fn publish_names(store: &dyn Store, names: &[String]) -> Result<(), store::Error> {
    publish(store, api::servers::CONFIG_MAP, api::servers::ENTRY, |before| {
        let all: BTreeSet<&str> = before.lines().chain(names.iter().map(String::as_str)).collect();
        all.into_iter().collect::<Vec<_>>().join("\n")
    })
    .await
}

/// Writes what `wanted` makes of what a ConfigMap of `kube-system` has under `key` (nothing: the empty text).
async fn publish(store: &dyn Store, name: &str, key: &str, wanted: impl Fn(&str) -> String) -> Result<(), store::Error> {
    let path = format!("/registry/configmaps/kube-system/{name}");
    loop {
        let (found, _) = store.get(&path).await?;
        let mut object: Value =
            found.as_ref().and_then(|entry| serde_json::from_slice(&entry.value).ok()).unwrap_or_else(|| {
                json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {
                    "name": name, "namespace": "kube-system",
                    "uid": uuid::Uuid::new_v4().to_string(),
                    "creationTimestamp": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
                }})
            });
        if !object["data"].is_object() {
            object["data"] = json!({});
        }
        let before = object["data"][key].as_str();
        let after = wanted(before.unwrap_or_default());
        if before == Some(&after) {
            return Ok(());
        }
        object["data"][key] = json!(after);
        let value = serde_json::to_vec(&object).unwrap_or_default().into();
        let txn = Txn {
            compare: vec![(path.as_str().into(), found.map_or(0, |entry| entry.mod_revision))],
            ops: vec![Op::Put { key: path.as_str().into(), value, ttl: None }],
            ..Txn::default()
        };
        match store.commit(txn).await? {
            Outcome::Committed(_) => return Ok(()),
            // Another server was faster.
            Outcome::Conflict(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_of_servers_are_kept_when_others_come() {
        let folder = std::env::temp_dir().join(format!("knarr-setup-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&folder).unwrap();
        let store = store::redb::RedbStore::open(folder.join("s.redb"), store::redb::Options::default()).unwrap();
        let before = store.revision().await.unwrap();
        for more in [&["192.0.2.1", "api.example.com"][..], &["192.0.2.2"], &["192.0.2.1"]] {
            publish_names(&store, &more.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).await.unwrap();
        }
        let (entry, _) = store.get("/registry/configmaps/kube-system/knarr-apiserver-names").await.unwrap();
        let object: Value = serde_json::from_slice(&entry.unwrap().value).unwrap();
        assert_eq!(object["data"]["names"], "192.0.2.1\n192.0.2.2\napi.example.com");
        assert_eq!(store.revision().await.unwrap(), before + 2, "what is there is not written again");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
