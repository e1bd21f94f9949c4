//! Stores to test: a redb file in a temporary directory, an etcd process on ephemeral loopback ports.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use knarr_store::{Store, etcd::EtcdStore, redb::RedbStore};

pub struct Redb {
    pub store: Arc<dyn Store>,
    _dir: tempfile::TempDir,
}

impl Redb {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = RedbStore::open(dir.path().join("store.redb"), Default::default()).expect("a new store");
        Self { store: Arc::new(store), _dir: dir }
    }
}

pub struct Etcd {
    pub store: Arc<dyn Store>,
    pub endpoint: String,
    process: Child,
    _dir: tempfile::TempDir,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Etcd {
    /// `None` (said aloud) where no etcd is installed; `hack/test` installs one.
    pub async fn start() -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (client, peer) = (address(), address());
        let spawned = Command::new("etcd")
            .args(["--name", "test", "--data-dir"])
            .arg(dir.path().join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("test={peer}"), "--heartbeat-interval", "20", "--election-timeout", "200"])
            .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let process = match spawned {
            Ok(process) => process,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                assert!(std::env::var_os("CI").is_none(), "etcd must be installed where CI is set");
                eprintln!("skipped: etcd is not installed");
                return None;
            }
            Err(error) => panic!("starting etcd: {error}"),
        };
        let mut it = Self { store: Redb::new().store, endpoint: client.clone(), process, _dir: dir };
        let options = knarr_store::etcd::Options { endpoints: vec![client], ..Default::default() };
        let connected = tokio::time::timeout(Duration::from_secs(30), async {
            loop {
                match EtcdStore::connect(options.clone()).await {
                    Ok(store) => return store,
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        });
        it.store = Arc::new(connected.await.expect("etcd answers within 30 s"));
        Some(it)
    }
}

/// An address on loopback that is free.
pub fn address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("an ephemeral port");
    format!("http://{}", listener.local_addr().expect("its address"))
}
