//! The same core story on both stores, and on etcd what becomes of readiness when it goes.

use std::{
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use store::etcd::{EtcdStore, Options};

use crate::ask::*;

struct Etcd {
    process: Child,
    directory: PathBuf,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn address() -> String {
    format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap())
}

/// A server on an etcd of its own; `None` (said aloud) where none is installed.
async fn on_etcd() -> Option<(Door, Etcd)> {
    let directory = std::env::temp_dir().join(format!("knarr-apiserver-etcd-{}", uuid::Uuid::new_v4()));
    let (client, peer) = (address(), address());
    let spawned = Command::new("etcd")
        .args(["--name", "test", "--data-dir"])
        .arg(&directory)
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("test={peer}"), "--heartbeat-interval", "20", "--election-timeout", "200"])
        .args(["--unsafe-no-fsync"])
        .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let process = match spawned {
        Ok(process) => process,
        Err(error) => {
            eprintln!("skipped: etcd does not start: {error}");
            return None;
        }
    };
    let etcd = Etcd { process, directory };
    let options = Options { endpoints: vec![client], ..Default::default() };
    let connect = async {
        loop {
            match EtcdStore::connect(options.clone()).await {
                Ok(store) => return store,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let store = tokio::time::timeout(Duration::from_secs(30), connect).await.expect("etcd answers");
    Some((door_with(|config| config.store = Arc::new(store)).await, etcd))
}

async fn core_story(door: &Door) {
    let made = door.post(MAPS, &map("a", "1")).await.ok();
    assert_eq!(door.get(&format!("{MAPS}/a")).await.ok(), made);
    let revision = made["metadata"]["resourceVersion"].as_str().unwrap();
    let mut events = door.watch(&format!("{MAPS}?watch=1&resourceVersion={revision}")).await;
    let mut next = made.clone();
    next["data"]["k"] = json!("2");
    let second = door.put(&format!("{MAPS}/a"), &next).await.ok();
    assert_eq!(door.put(&format!("{MAPS}/a"), &next).await.told().1, "Conflict");
    assert_eq!(events.next().await.unwrap(), json!({"type": "MODIFIED", "object": second}));
    let old = door.get(&format!("{MAPS}?resourceVersion={revision}&resourceVersionMatch=Exact")).await.ok();
    let mut item = made.clone();
    for told_by_the_list in ["kind", "apiVersion"] {
        item.as_object_mut().unwrap().remove(told_by_the_list);
    }
    assert_eq!(old["items"], json!([item]));
    for n in 0..3 {
        door.post(MAPS, &map(&format!("m{n}"), "")).await.ok();
        assert_eq!(events.brief().await, Some(("ADDED".into(), format!("m{n}"))));
    }
    let page = door.get(&format!("{MAPS}?limit=2")).await.ok();
    assert_eq!(page["metadata"]["remainingItemCount"], 2);
    door.delete(&format!("{MAPS}/m2"), &Value::Null).await.ok();
    assert_eq!(events.brief().await, Some(("DELETED".into(), "m2".into())));
    let rest = door.get(&format!("{MAPS}?continue={}", page["metadata"]["continue"].as_str().unwrap())).await.ok();
    assert_eq!(rest["items"].as_array().unwrap().len(), 2, "the page is of the first page's snapshot");
    let service =
        json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30200}]}});
    door.post(SERVICES, &service).await.ok();
    let mut other = service.clone();
    other["metadata"]["name"] = json!("t");
    assert_eq!(door.post(SERVICES, &other).await.told().1, "Invalid");
    door.delete(&format!("{SERVICES}/s"), &Value::Null).await.ok();
    door.post(SERVICES, &other).await.ok();
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}});
    door.post("/api/v1/namespaces/default/events", &event).await.ok();
    let newest = door.store().revision().await.unwrap();
    door.store().compact(newest).await.unwrap();
    let gone = door.get(&format!("{MAPS}?resourceVersion={revision}&resourceVersionMatch=Exact")).await;
    assert_eq!(gone.told().1, "Expired");
}

#[tokio::test]
async fn the_story_on_redb() {
    core_story(&door().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_story_on_etcd_which_then_goes_away() {
    let Some((door, mut etcd)) = on_etcd().await else { return };
    core_story(&door).await;
    assert_eq!(door.get("/readyz").await.text(), "ok");
    etcd.process.kill().unwrap();
    etcd.process.wait().unwrap();
    let failed = door.get("/readyz").await;
    assert_eq!(failed.status, 500);
    assert!(failed.text().contains("[-]etcd failed: reason withheld"), "{}", failed.text());
    assert_eq!(door.get("/livez/ping").await.text(), "ok");
}
