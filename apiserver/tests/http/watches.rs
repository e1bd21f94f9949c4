//! Watches: where they start, what they promise, how they end.

use std::time::Duration;

use knarr_apiserver::cache::Limits;
use serde_json::{Value, json};

use crate::ask::*;

fn revision(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap()
}

fn brief(change: &str, name: &str) -> Option<(String, String)> {
    Some((change.to_owned(), name.to_owned()))
}

fn short_history(config: &mut knarr_apiserver::Config) {
    config.history = Limits { bytes: 1, age: Duration::from_secs(300), at_least: 4 };
}

#[tokio::test]
async fn a_watch_from_before_the_history_ends_in_an_error_event() {
    let door = door_with(short_history).await;
    let first = door.post(MAPS, &map("a", "0")).await.ok();
    for n in 1..20 {
        door.merge(&format!("{MAPS}/a"), &json!({"data": {"k": n.to_string()}})).await.ok();
    }
    let mut events = door.watch(&format!("{MAPS}?watch=1&resourceVersion={}", revision(&first))).await;
    let event = events.next().await.unwrap();
    assert_eq!(
        (&event["type"], &event["object"]["code"], &event["object"]["reason"]),
        (&json!("ERROR"), &json!(410), &json!("Expired"))
    );
    assert!(event["object"]["message"].as_str().unwrap().starts_with("too old resource version: "), "{event}");
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn a_slow_watcher_is_let_go_and_loses_nothing() {
    let door = door_with(short_history).await;
    let first = door.post(MAPS, &map("a", "0")).await.ok();
    let mut events = door.watch(&format!("{MAPS}?watch=1&resourceVersion={}", revision(&first))).await;
    for n in 1..=20 {
        door.merge(&format!("{MAPS}/a"), &json!({"data": {"k": n.to_string()}})).await.ok();
    }
    // It was not read while the history moved on: it ends without a word.
    assert_eq!(events.next().await, None);
    // The client lists again and sees the newest; a watch from there has no gap.
    let list = door.get(MAPS).await.ok();
    assert_eq!(list["items"][0]["data"]["k"], "20");
    let mut events = door.watch(&format!("{MAPS}?watch=1&resourceVersion={}", revision(&list))).await;
    door.merge(&format!("{MAPS}/a"), &json!({"data": {"k": "21"}})).await.ok();
    assert_eq!(events.next().await.unwrap()["object"]["data"]["k"], "21");
}

#[tokio::test]
async fn initial_events_need_their_options() {
    let door = door().await;
    door.post(MAPS, &map("a", "0")).await.ok();
    let head = "ListOptions.meta.k8s.io \"\" is invalid: ";
    for (query, want) in [
        (
            "sendInitialEvents=true",
            "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ),
        (
            "resourceVersionMatch=NotOlderThan",
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ),
        (
            "sendInitialEvents=true&resourceVersionMatch=Exact",
            "[resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan, resourceVersionMatch: Unsupported value: \"Exact\": supported values: \"NotOlderThan\"]",
        ),
    ] {
        let told = door.get(&format!("{MAPS}?watch=1&{query}")).await.told();
        assert_eq!(told, (422, "Invalid".into(), format!("{head}{want}")), "{query}");
    }
    // Without bookmarks the end of the initial events goes untold, with sendInitialEvents=false there are none.
    let without = format!("{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=1");
    let mut events = door.watch(&without).await;
    assert_eq!(events.brief().await, brief("ADDED", "a"));
    assert_eq!(events.next().await, None);
    let mut events = door.watch(&format!("{MAPS}?watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan")).await;
    door.post(MAPS, &map("b", "0")).await.ok();
    assert_eq!(events.brief().await, brief("ADDED", "b"));
}

#[tokio::test]
async fn a_watch_ends_when_its_time_is_up_with_a_bookmark_if_asked_for() {
    let door = door().await;
    door.post(MAPS, &map("a", "0")).await.ok();
    let mut events = door.watch(&format!("{MAPS}?watch=1&timeoutSeconds=1&allowWatchBookmarks=true")).await;
    assert_eq!(events.brief().await, brief("ADDED", "a"));
    let bookmark = events.next().await.unwrap();
    let newest = door.store().revision().await.unwrap().to_string();
    let want = json!({"type": "BOOKMARK", "object": {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"resourceVersion": newest}}});
    assert_eq!((bookmark, events.next().await), (want, None));
    // Longer than clocks go.
    let mut events = door.watch(&format!("{MAPS}?watch=1&timeoutSeconds={}", i64::MAX)).await;
    assert_eq!(events.brief().await, brief("ADDED", "a"));
}

#[tokio::test]
async fn one_object_is_watched_by_its_name() {
    let door = door().await;
    let other = "/api/v1/watch/namespaces/default/configmaps/b?fieldSelector=metadata.name%3Da";
    let why = "fieldSelector metadata.name doesn't match requested name";
    assert_eq!(door.get(other).await.told(), (400, "BadRequest".into(), why.into()));
    door.post(MAPS, &map("a", "0")).await.ok();
    let b = door.post(MAPS, &map("b", "0")).await.ok();
    for path in [
        format!("{MAPS}?watch=1&fieldSelector=metadata.name%3Db&resourceVersion={}", revision(&b)),
        format!("/api/v1/watch/namespaces/default/configmaps/b?resourceVersion={}", revision(&b)),
    ] {
        let mut events = door.watch(&path).await;
        door.merge(&format!("{MAPS}/a"), &json!({"data": {"k": path}})).await.ok();
        door.merge(&format!("{MAPS}/b"), &json!({"data": {"k": path}})).await.ok();
        loop {
            let event = events.next().await.unwrap();
            assert_eq!(event["object"]["metadata"]["name"], "b");
            if event["object"]["data"]["k"] == path.as_str() {
                break;
            }
        }
    }
}
