//! A whole API server for tests of this and other crates: a store in a directory of its own that goes with it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use store::redb::{Options, RedbStore};

use crate::{
    identity::MASTERS,
    security::{self, kubeconfig::Kubeconfig},
    server::{Config, Server},
};

/// A running server without security and its directory.
pub struct TestServer {
    /// The server.
    pub server: Server,
    _directory: Directory,
}

struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        // Nothing can be done about a directory that stays.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Starts a server on an empty store that does not wait for the disk. The `default` service account is there, since no
/// controller makes it.
///
/// # Panics
/// If the server does not start: the test cannot go on.
pub async fn start() -> TestServer {
    start_with(|_| {}).await
}

/// The same with a changed configuration.
///
/// # Panics
/// If the server does not start.
pub async fn start_with(change: impl FnOnce(&mut Config)) -> TestServer {
    start_in(|config, _| change(config)).await
}

/// The same with keys, certificates and RBAC, serving HTTPS on loopback ([`TestServer::kubeconfig`]).
///
/// # Panics
/// If the server does not start.
pub async fn start_secure() -> TestServer {
    start_secure_with(|_| {}).await
}

/// The same with a changed configuration.
///
/// # Panics
/// If the server does not start.
pub async fn start_secure_with(change: impl FnOnce(&mut Config)) -> TestServer {
    start_in(|config, directory| {
        let addresses = vec!["127.0.0.1".to_owned()];
        let pki = directory.join("pki");
        config.security = Some(security::Config {
            pki,
            addresses,
            loopback_kubelets: true,
            files: Default::default(),
            access: Default::default(),
        });
        config.listen = Some(([127, 0, 0, 1], 0).into());
        change(config);
    })
    .await
}

async fn start_in(change: impl FnOnce(&mut Config, &Path)) -> TestServer {
    let directory = Directory(std::env::temp_dir().join(format!("knarr-apiserver-{}", uuid::Uuid::new_v4())));
    std::fs::create_dir_all(&directory.0).expect("the temporary directory can be written");
    let options = Options { sync: false, ..Options::default() };
    let store = RedbStore::open(directory.0.join("store.redb"), options).expect("an empty store opens");
    let mut config = Config::new(Arc::new(store));
    change(&mut config, &directory.0);
    let server = Server::start(config).await.expect("the server starts");
    let test = TestServer { server, _directory: directory };
    let account = serde_json::json!({"kind": "ServiceAccount", "apiVersion": "v1", "metadata": {"name": "default", "namespace": "default"}});
    let accounts: kube::Api<k8s_openapi::api::core::v1::ServiceAccount> = kube::Api::namespaced(test.client(), "default");
    let account = serde_json::from_value(account).expect("a service account");
    accounts.create(&kube::api::PostParams::default(), &account).await.expect("the default service account is made");
    test
}

impl TestServer {
    /// An administrator's client.
    pub fn client(&self) -> kube::Client {
        self.server.client("kubernetes-admin", &[MASTERS])
    }

    /// A client of a component's name.
    pub fn client_of(&self, user: &str) -> kube::Client {
        self.server.client(user, &[])
    }

    /// An administrator's kubeconfig of a server with security.
    ///
    /// # Panics
    /// If the server has none.
    pub fn kubeconfig(&self) -> String {
        let pki = &self.server.security().expect("the server has security").pki;
        let address = self.server.address().expect("the server listens");
        let kubeconfig = Kubeconfig {
            cluster: "test",
            user: "admin",
            server: &format!("https://{address}"),
            authority: pki.authority_pem(),
            pair: &pki.admin().expect("an administrator's certificate"),
        };
        kubeconfig.to_yaml()
    }

    /// A plain HTTP listener on loopback, for real clients: `http://ADDRESS`.
    ///
    /// # Panics
    /// If loopback cannot be listened on.
    pub async fn url(&mut self) -> String {
        let address = self.server.listen_plainly().await.expect("loopback can be listened on");
        format!("http://{address}")
    }
}
