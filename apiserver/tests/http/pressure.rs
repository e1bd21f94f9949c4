//! The server under load and with a store that misbehaves.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use async_trait::async_trait;
use axum::body::Body;
use http::Request;
use knarr_apiserver::identity::{Identity, User};
use serde_json::{Value, json};
use store::{Error, Export, Outcome, Page, Range, Revision, Store, Txn, Watch};

use crate::ask::*;

/// A store that does as it is told: 0 works, 1 panics, 2 fails.
struct Moody {
    inner: Arc<dyn Store>,
    mood: Arc<AtomicU8>,
}

#[async_trait]
impl Store for Moody {
    async fn revision(&self) -> Result<Revision, Error> {
        match self.mood.load(Ordering::SeqCst) {
            1 => panic!("a test's panic"),
            2 => Err(Error::Closed),
            _ => self.inner.revision().await,
        }
    }
    async fn get(&self, key: &str) -> Result<(Option<store::Entry>, Revision), Error> {
        self.inner.get(key).await
    }
    async fn range(&self, range: Range) -> Result<Page, Error> {
        self.inner.range(range).await
    }
    async fn commit(&self, txn: Txn) -> Result<Outcome, Error> {
        self.inner.commit(txn).await
    }
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, Error> {
        self.inner.watch(prefix, from).await
    }
    async fn request_progress(&self) -> Result<(), Error> {
        self.inner.request_progress().await
    }
    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.inner.compact(revision).await
    }
    async fn export(&self) -> Result<Export, Error> {
        self.inner.export().await
    }
    async fn close(&self) -> Result<(), Error> {
        self.inner.close().await
    }
}

async fn moody() -> (Door, Arc<AtomicU8>) {
    let mood = Arc::<AtomicU8>::default();
    let own = mood.clone();
    let door = door_with(move |config| config.store = Arc::new(Moody { inner: config.store.clone(), mood: own })).await;
    (door, mood)
}

#[tokio::test]
async fn a_panic_is_one_requests_end_and_not_the_servers() {
    let (door, mood) = moody().await;
    door.post(MAPS, &map("a", "1")).await.ok();
    mood.store(1, Ordering::SeqCst);
    let answer = door.get(&format!("{MAPS}/a")).await;
    let want = "This request caused apiserver to panic. Look in the logs for details.\n";
    assert_eq!((answer.status, answer.text().as_str()), (500, want));
    mood.store(0, Ordering::SeqCst);
    assert_eq!(door.get(&format!("{MAPS}/a")).await.status, 200);
}

#[tokio::test]
async fn a_store_that_is_gone_shows_in_readiness() {
    let (door, mood) = moody().await;
    let verbose = door.get("/readyz?verbose").await;
    let want = "[+]ping ok\n[+]log ok\n[+]etcd ok\n[+]etcd-readiness ok\n[+]informer-sync ok\n[+]shutdown ok\nreadyz check passed\n";
    assert_eq!((verbose.status, verbose.text().as_str()), (200, want));
    assert_eq!(door.get("/livez?verbose").await.text(), "[+]ping ok\n[+]log ok\n[+]etcd ok\nlivez check passed\n");
    mood.store(2, Ordering::SeqCst);
    let failed = door.get("/readyz").await;
    let want = "[+]ping ok\n[+]log ok\n[-]etcd failed: reason withheld\n[-]etcd-readiness failed: reason withheld\n[+]informer-sync ok\n[+]shutdown ok\nreadyz check failed\n";
    assert_eq!((failed.status, failed.text().as_str()), (500, want));
    assert_eq!(door.get("/livez/ping").await.text(), "ok");
    assert_eq!(door.get("/readyz/etcd").await.status, 500);
    let refused = door.get(MAPS).await.told();
    assert_eq!((refused.0, refused.1.as_str()), (500, "InternalError"));
    mood.store(0, Ordering::SeqCst);
    assert_eq!((door.get("/readyz").await.text(), door.get("/healthz").await.text()), ("ok".into(), "ok".into()));
}

#[tokio::test]
async fn too_many_requests_are_told_when_to_come_again() {
    let door = door_with(|config| config.in_flight = (0, 1)).await;
    let ask = |method: &'static str| {
        let user: Identity = Arc::new(User::new("alice", &[]));
        let request = Request::builder().method(method).uri(MAPS).extension(user).header("content-type", "application/json");
        door.send(request.body(Body::from(json!({"metadata": {"generateName": "x"}}).to_string())).unwrap())
    };
    let refused = ask("GET").await;
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (429, &"1".parse().unwrap()));
    let body = axum::body::to_bytes(refused.into_body(), 1000).await.unwrap();
    assert_eq!(body, "Too many requests, please try again later.\n");
    assert_eq!(ask("POST").await.status().as_u16(), 201);
    // Administrators are let through, and watches are not counted.
    assert_eq!(door.get(MAPS).await.status, 200);
}

#[tokio::test]
async fn large_answers_are_compressed_where_that_is_understood() {
    let door = door().await;
    for n in 0..3 {
        door.post(MAPS, &map(&format!("m{n}"), &"x".repeat(60_000))).await.ok();
    }
    let zipped = door.ask("GET", MAPS, &[("accept-encoding", "gzip")], "").await;
    assert_eq!((zipped.header("content-encoding"), zipped.header("vary")), ("gzip", "Accept-Encoding"));
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&zipped.body[..]), &mut text).unwrap();
    let plain = door.get(MAPS).await;
    assert_eq!((plain.header("content-encoding"), plain.text()), ("", text));
    // Whatever it is that is large.
    door.post(MAPS, &map("large", &"x".repeat(150_000))).await.ok();
    for path in [&format!("{MAPS}/large"), "/openapi/v2"] {
        let zipped = door.ask("GET", path, &[("accept-encoding", "gzip")], "").await;
        assert_eq!((zipped.status, zipped.header("content-encoding")), (200, "gzip"), "{path}");
    }
    let small = door.ask("GET", &format!("{MAPS}/m0"), &[("accept-encoding", "gzip")], "").await;
    assert_eq!(small.header("content-encoding"), "");
}

#[tokio::test]
async fn figures_have_upstreams_names() {
    let door = door().await;
    door.post(MAPS, &map("a", "1")).await.ok();
    let _watch = door.watch(&format!("{MAPS}?watch=1")).await;
    let text = door.get("/metrics").await.text();
    for want in [
        "apiserver_request_total{",
        "apiserver_request_duration_seconds_bucket{",
        "apiserver_current_inflight_requests{request_kind=\"mutating\"}",
        "apiserver_longrunning_requests{verb=\"WATCH\",group=\"\",version=\"v1\",resource=\"configmaps\",subresource=\"\",scope=\"namespace\",component=\"apiserver\"} 1",
        "apiserver_storage_objects{resource=\"configmaps\"} 1",
        "apiserver_watch_cache_events_received_total{group=\"\",resource=\"configmaps\"} 1",
        "etcd_request_duration_seconds_count{operation=\"create\"",
    ] {
        assert!(text.contains(want), "{want} is not in\n{text}");
    }
    let _: Value = door.get("/version").await.json();
}

/// Its store's thread may have panicked: then nothing can be written and nothing is told any more, which only a new process mends.
#[tokio::test]
async fn a_store_that_ended_ends_the_server() {
    let mut store = None;
    let door = door_with(|config| store = Some(config.store.clone())).await;
    let over = door.test.server.over();
    assert!(!over.is_cancelled());
    store.unwrap().close().await.unwrap();
    tokio::time::timeout(std::time::Duration::from_secs(20), over.cancelled()).await.expect("the server's end");
}
