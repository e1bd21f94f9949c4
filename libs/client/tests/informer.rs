//! The informer against a scripted API server: lists, changes, lost history, and waiting for one's own writes.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use axum::{Router, body::Body, extract::RawQuery, response::IntoResponse, routing::get};
use client::{Change, Informer, Key, Options};
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use knarr_client as client;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::UnboundedReceiverStream};
use tokio_util::sync::CancellationToken;

fn map(name: &str, colour: &str, revision: u64) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"colour": colour},
        "metadata": {"namespace": "ns", "name": name, "uid": name, "resourceVersion": revision.to_string(), "managedFields": []}})
}

fn list(revision: u64, items: &[Value]) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": {"resourceVersion": revision.to_string()}, "items": items})
}

fn event(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": kind, "object": object}))
}

/// Answers lists from a script and every watch with a stream that the test feeds.
#[derive(Clone, Default)]
struct Server {
    lists: Arc<Mutex<VecDeque<Value>>>,
    asked: Arc<Mutex<Vec<String>>>,
    watches: Arc<Mutex<VecDeque<mpsc::UnboundedReceiver<String>>>>,
}

impl Server {
    fn client(&self) -> kube::Client {
        let server = self.clone();
        let handler = move |RawQuery(query): RawQuery| async move {
            let query = query.unwrap_or_default();
            let watch = query.contains("watch=true");
            server.asked.lock().expect("lock").push(query);
            if !watch {
                let list = server.lists.lock().expect("lock").pop_front().expect("an expected list");
                return axum::response::Response::new(Body::from(list.to_string()));
            }
            let lines = server.watches.lock().expect("lock").pop_front();
            match lines {
                Some(lines) => {
                    Body::from_stream(UnboundedReceiverStream::new(lines).map(Ok::<_, std::io::Error>)).into_response()
                }
                None => Body::from_stream(tokio_stream::pending::<Result<String, std::io::Error>>()).into_response(),
            }
        };
        kube::Client::new(Router::new().route("/api/v1/{kind}", get(handler)), "default")
    }

    fn watch(&self) -> mpsc::UnboundedSender<String> {
        let (lines, receiver) = mpsc::unbounded_channel();
        self.watches.lock().expect("lock").push_back(receiver);
        lines
    }
}

#[tokio::test]
async fn changes_survive_lost_history() {
    let server = Server::default();
    server.lists.lock().expect("lock").extend([
        list(10, &[map("a", "red", 5), map("b", "red", 6)]),
        list(40, &[map("b", "blue", 12), map("d", "red", 30)]),
    ]);
    let (first, _second) = (server.watch(), server.watch());
    let stop = CancellationToken::new();
    let _guard = stop.clone().drop_guard();
    let informer: Informer<ConfigMap> = Informer::start(server.client(), Options::default(), stop);
    informer.add_index("colour", |m| m.data.iter().flat_map(|d| d.values().cloned()).collect());
    informer.synced().await;

    let log = Arc::new(Mutex::new(Vec::new()));
    informer.on_change({
        let log = log.clone();
        move |change| {
            let kind = match change {
                Change::Added(_) => "added",
                Change::Updated(..) => "updated",
                Change::Deleted(_) => "deleted",
            };
            log.lock().expect("lock").push(format!("{kind} {}", Key::for_object(&**change.object())));
        }
    });
    for line in [
        event("MODIFIED", &map("b", "blue", 12)),
        event("ADDED", &map("c", "blue", 13)),
        event("DELETED", &map("a", "red", 14)),
    ] {
        first.send(line).expect("connected");
    }
    informer.wait_for_revision(14).await.expect("caught up");
    let blue: Vec<_> = informer.by_index("colour", "blue").iter().map(|m| Key::for_object(&**m).to_string()).collect();
    assert_eq!(blue, ["ns/b", "ns/c"]);

    let gone = json!({"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old"});
    first.send(event("ERROR", &gone)).expect("connected");
    informer.wait_for_revision(40).await.expect("listed again");
    assert_eq!(
        *log.lock().expect("lock"),
        ["added ns/a", "added ns/b", "updated ns/b", "added ns/c", "deleted ns/a", "deleted ns/c", "added ns/d"]
    );
    let lists: Vec<_> = server.asked.lock().expect("lock").iter().filter(|q| !q.contains("watch")).cloned().collect();
    assert_eq!(lists, ["&resourceVersion=0", "&resourceVersion=14&resourceVersionMatch=NotOlderThan"]);
    let kept = informer.get(&Key::new("ns", "d")).expect("kept");
    assert_eq!(kept.metadata.managed_fields, None);
}

/// Upstream writes `null` for a time that nobody gave where our types require one.
#[tokio::test]
async fn times_that_are_not_given_stop_no_informer() {
    let service = |name: &str, revision: u64| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "ns", "name": name, "uid": name,
            "resourceVersion": revision.to_string()}, "status": {"conditions": [
                {"type": "A", "status": "True", "reason": "R", "message": "m", "lastTransitionTime": null}]}})
    };
    let server = Server::default();
    let listed = json!({"apiVersion": "v1", "kind": "ServiceList", "metadata": {"resourceVersion": "10"},
        "items": [service("a", 5)]});
    server.lists.lock().expect("lock").push_back(listed);
    let watch = server.watch();
    let stop = CancellationToken::new();
    let _guard = stop.clone().drop_guard();
    let informer: Informer<Service> = Informer::start(server.client(), Options::default(), stop);
    informer.synced().await;
    watch.send(event("ADDED", &service("b", 11))).expect("connected");
    informer.wait_for_revision(11).await.expect("caught up");
    for name in ["a", "b"] {
        let kept = informer.get(&Key::new("ns", name)).expect("kept");
        let conditions = kept.status.as_ref().and_then(|status| status.conditions.as_ref()).expect("conditions");
        assert_eq!(conditions[0].last_transition_time.0.to_string(), "0001-01-01T00:00:00Z");
    }
}

#[tokio::test]
async fn a_pool_watches_a_kind_once() {
    let server = Server::default();
    server.lists.lock().expect("lock").push_back(list(1, &[]));
    let stop = CancellationToken::new();
    let _guard = stop.clone().drop_guard();
    let pool = client::Informers::new(server.client(), stop);
    pool.get::<ConfigMap>().synced().await;
    pool.get::<ConfigMap>().synced().await;
    let lists = server.asked.lock().expect("lock").iter().filter(|q| !q.contains("watch")).count();
    assert_eq!(lists, 1);
}

/// A handler that panics has lost a change for good: its component may not go on as if nothing had happened.
#[tokio::test]
async fn a_panic_of_a_handler_ends_the_component() {
    let server = Server::default();
    server.lists.lock().expect("lock").push_back(list(10, &[]));
    let lines = server.watch();
    let component = CancellationToken::new();
    let _guard = component.clone().drop_guard();
    // It may be ended before its component without ending that.
    let until = component.child_token();
    let options = Options { until: Some(until.clone()), ..Options::default() };
    let informer: Informer<ConfigMap> = Informer::start(server.client(), options, component.clone());
    informer.on_change(|_| panic!("at a change"));
    informer.synced().await;
    assert!(!component.is_cancelled());
    lines.send(event("ADDED", &map("a", "red", 11))).expect("a watch");
    tokio::time::timeout(std::time::Duration::from_secs(10), component.cancelled()).await.expect("the component's end");
}
