//! The registry's semantics over the in-process client: a story a test.

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use knarr_apiserver::testing::{self, TestServer};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
};
use serde_json::{Value, json};

fn config_map(name: &str, value: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"k": value}})).unwrap()
}

fn pod(name: &str) -> Pod {
    serde_json::from_value(
        json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}),
    )
    .unwrap()
}

fn maps(client: &Client) -> Api<ConfigMap> {
    Api::default_namespaced(client.clone())
}

async fn server() -> (TestServer, Client) {
    let server = testing::start().await;
    let client = server.client();
    (server, client)
}

fn code(error: kube::Error) -> (u16, String, String) {
    match error {
        kube::Error::Api(status) => (status.code, status.reason.clone(), status.message.clone()),
        other => panic!("{other}"),
    }
}

async fn raw(client: &Client, path: &str, accept: &str) -> String {
    let request = http::Request::get(path).header("accept", accept).body(Vec::new()).unwrap();
    client.request_text(request).await.unwrap()
}

#[tokio::test]
async fn what_was_written_is_read_at_once_and_only_once_created() {
    let (_server, client) = server().await;
    let maps = maps(&client);
    let made = maps.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    let read = maps.get("a").await.unwrap();
    assert_eq!(made, read);
    assert!(read.metadata.uid.is_some() && read.metadata.creation_timestamp.is_some());
    let again = code(maps.create(&PostParams::default(), &config_map("a", "1")).await.unwrap_err());
    assert_eq!(again, (409, "AlreadyExists".into(), "configmaps \"a\" already exists".into()));
    let missing = code(maps.get("b").await.unwrap_err());
    assert_eq!(missing, (404, "NotFound".into(), "configmaps \"b\" not found".into()));
}

#[tokio::test]
async fn an_update_from_an_old_revision_is_refused() {
    let (_server, client) = server().await;
    let maps = maps(&client);
    let first = maps.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    let mut next = first.clone();
    next.data.as_mut().unwrap().insert("k".into(), "2".into());
    let second = maps.replace("a", &PostParams::default(), &next).await.unwrap();
    assert_ne!(first.resource_version(), second.resource_version());
    let stale = code(maps.replace("a", &PostParams::default(), &next).await.unwrap_err());
    let want = "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again";
    assert_eq!(stale, (409, "Conflict".into(), want.into()));
    let same = maps.replace("a", &PostParams::default(), &second).await.unwrap();
    assert_eq!(same.resource_version(), second.resource_version(), "nothing changed, nothing written");
}

#[tokio::test]
async fn parallel_patches_all_count() {
    let (_server, client) = server().await;
    let maps = maps(&client);
    maps.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    let patches = (0..4).map(|i| {
        let maps = maps.clone();
        async move {
            for n in 0..5 {
                let patch = json!({"data": {format!("k{i}-{n}"): "x"}});
                maps.patch("a", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
            }
        }
    });
    futures::future::join_all(patches).await;
    assert_eq!(maps.get("a").await.unwrap().data.unwrap().len(), 21);
}

#[tokio::test]
async fn a_list_and_the_watch_after_it_leave_no_gap() {
    let (_server, client) = server().await;
    let maps = maps(&client);
    maps.create(&PostParams::default(), &config_map("a", "0")).await.unwrap();
    let writer = {
        let maps = maps.clone();
        tokio::spawn(async move {
            for n in 1..=50 {
                let patch = json!({"data": {"k": n.to_string()}});
                maps.patch("a", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
            }
        })
    };
    let listed = maps.list(&ListParams::default()).await.unwrap();
    let mut last: u64 =
        listed.items.iter().find(|m| m.name_any() == "a").unwrap().data.as_ref().unwrap()["k"].parse().unwrap();
    let revision = listed.metadata.resource_version.unwrap();
    let events = maps.watch(&WatchParams::default(), &revision).await.unwrap();
    let mut events = std::pin::pin!(events);
    while last < 50 {
        match events.next().await.unwrap().unwrap() {
            WatchEvent::Modified(map) => {
                let now: u64 = map.data.unwrap()["k"].parse().unwrap();
                assert_eq!(now, last + 1);
                last = now;
            }
            WatchEvent::Bookmark(_) => {}
            other => panic!("{other:?}"),
        }
    }
    writer.await.unwrap();
}

#[tokio::test]
async fn selectors_turn_changes_into_arrivals_and_departures() {
    let (_server, client) = server().await;
    let maps = maps(&client);
    let made = maps.create(&PostParams::default(), &config_map("a", "0")).await.unwrap();
    let from = made.resource_version().unwrap();
    let label = |value: Value| json!({"metadata": {"labels": {"on": value}}});
    for patch in [label(json!("yes")), json!({"data": {"k": "1"}}), label(Value::Null)] {
        maps.patch("a", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    }
    let events = maps.watch(&WatchParams::default().labels("on=yes"), &from).await.unwrap();
    let seen: Vec<_> = events.take(3).try_collect().await.unwrap();
    let kinds: Vec<&str> = seen
        .iter()
        .map(|e| match e {
            WatchEvent::Added(_) => "ADDED",
            WatchEvent::Modified(_) => "MODIFIED",
            WatchEvent::Deleted(_) => "DELETED",
            _ => "OTHER",
        })
        .collect();
    assert_eq!(kinds, ["ADDED", "MODIFIED", "DELETED"]);
}

#[tokio::test]
async fn pages_stay_on_one_snapshot() {
    let (_server, client) = server().await;
    let maps = maps(&client);
    for n in 0..5 {
        maps.create(&PostParams::default(), &config_map(&format!("m{n}"), "")).await.unwrap();
    }
    let first = maps.list(&ListParams::default().limit(2)).await.unwrap();
    assert_eq!(first.metadata.remaining_item_count, Some(3));
    maps.delete("m4", &DeleteParams::default()).await.unwrap();
    let token = first.metadata.continue_.clone().unwrap();
    let rest = maps.list(&ListParams::default().continue_token(&token)).await.unwrap();
    let names: Vec<String> = first.items.iter().chain(&rest.items).map(ResourceExt::name_any).collect();
    assert_eq!(names, ["m0", "m1", "m2", "m3", "m4"]);
    assert_eq!(first.metadata.resource_version, rest.metadata.resource_version);
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let (_server, client) = server().await;
    maps(&client).create(&PostParams::default(), &config_map("a", "")).await.unwrap();
    let path = "/api/v1/namespaces/default/configmaps?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1";
    let text = raw(&client, path, "application/json").await;
    let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!((&lines[0]["type"], &lines[0]["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("a")));
    assert_eq!(lines[1]["object"]["metadata"]["annotations"], json!({"k8s.io/initial-events-end": "true"}));
}

#[tokio::test]
async fn finalizers_hold_until_the_last_is_gone() {
    let (_server, client) = server().await;
    let maps = maps(&client);
    let mut held = config_map("a", "");
    held.metadata.finalizers = Some(vec!["example.com/x".into()]);
    maps.create(&PostParams::default(), &held).await.unwrap();
    let marked = maps.delete("a", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert!(marked.metadata.deletion_timestamp.is_some());
    let patch = json!({"metadata": {"finalizers": null}});
    maps.patch("a", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    assert_eq!(code(maps.get("a").await.unwrap_err()).0, 404);
}

#[tokio::test]
async fn pods_get_an_account_and_go_gracefully_once_bound() {
    let (_server, client) = server().await;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let made = pods.create(&PostParams::default(), &pod("a")).await.unwrap();
    let spec = made.spec.unwrap();
    assert_eq!(spec.service_account_name.as_deref(), Some("default"));
    assert!(spec.volumes.unwrap()[0].name.starts_with("kube-api-access-"));
    assert_eq!(made.status.unwrap().phase.as_deref(), Some("Pending"));
    let binding =
        json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n"}});
    let bind = || {
        let request =
            http::Request::post("/api/v1/namespaces/default/pods/a/binding").body(binding.to_string().into_bytes()).unwrap();
        client.request::<Value>(request)
    };
    bind().await.unwrap();
    let again = code(bind().await.unwrap_err());
    assert_eq!(again.2, "Operation cannot be fulfilled on pods/binding \"a\": pod a is already assigned to node \"n\"");
    let on_node = pods.list(&ListParams::default().fields("spec.nodeName=n")).await.unwrap();
    assert_eq!(on_node.items.len(), 1);
    let marked = pods.delete("a", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert_eq!(marked.metadata.deletion_grace_period_seconds, Some(30));
    assert!(pods.get("a").await.is_ok());
    pods.delete("a", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert_eq!(code(pods.get("a").await.unwrap_err()).0, 404);
}

#[tokio::test]
async fn a_pod_without_its_account_is_refused() {
    let (_server, client) = server().await;
    let pods: Api<Pod> = Api::default_namespaced(client);
    let mut pod = pod("a");
    pod.spec.as_mut().unwrap().service_account_name = Some("x".into());
    let refused = code(pods.create(&PostParams::default(), &pod).await.unwrap_err());
    let want = "pods \"a\" is forbidden: error looking up service account default/x: serviceaccount \"x\" not found";
    assert_eq!(refused, (403, "Forbidden".into(), want.into()));
}

#[tokio::test]
async fn services_get_addresses_and_ports_that_nobody_else_has() {
    let (_server, client) = server().await;
    let services: Api<Service> = Api::default_namespaced(client);
    let service = |name: &str, port: Option<i32>| -> Service {
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "selector": {"a": "b"}, "ports": [{"port": 80, "nodePort": port}]}})).unwrap()
    };
    let made = futures::future::join_all((0..20).map(|n| {
        let (services, service) = (services.clone(), service(&format!("s{n}"), None));
        async move { services.create(&PostParams::default(), &service).await.unwrap().spec.unwrap() }
    }))
    .await;
    let addresses: std::collections::BTreeSet<_> = made.iter().map(|s| s.cluster_ip.clone().unwrap()).collect();
    let ports: std::collections::BTreeSet<_> =
        made.iter().map(|s| s.ports.as_ref().unwrap()[0].node_port.unwrap()).collect();
    assert_eq!((addresses.len(), ports.len()), (20, 20));
    services.create(&PostParams::default(), &service("fixed", Some(30080))).await.unwrap();
    let taken = code(services.create(&PostParams::default(), &service("other", Some(30080))).await.unwrap_err());
    assert_eq!(
        taken.2,
        "Service \"other\" is invalid: spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated"
    );
    services.delete("fixed", &DeleteParams::default()).await.unwrap();
    services.create(&PostParams::default(), &service("other", Some(30080))).await.unwrap();
    let at = |name: &str, address: &str| {
        let mut service = service(name, None);
        service.spec.as_mut().unwrap().cluster_ip = Some(address.to_owned());
        service
    };
    // Leading zeros are allowed and mean nothing.
    let zeros = services.create(&PostParams::default(), &at("zeros", "10.43.0.011")).await.unwrap();
    assert_eq!(zeros.spec.unwrap().cluster_ip.as_deref(), Some("10.43.0.011"));
    let taken = code(services.create(&PostParams::default(), &at("same", "10.43.0.11")).await.unwrap_err());
    assert_eq!(
        taken.2,
        "Service \"same\" is invalid: spec.clusterIPs: Invalid value: [\"10.43.0.11\"]: failed to allocate IP 10.43.0.11: \
         provided IP is already allocated"
    );
}

#[tokio::test]
async fn nothing_is_created_in_a_namespace_that_is_missing_or_going() {
    let (_server, client) = server().await;
    let nowhere: Api<ConfigMap> = Api::namespaced(client.clone(), "nowhere");
    let refused = code(nowhere.create(&PostParams::default(), &config_map("a", "")).await.unwrap_err());
    assert_eq!(refused.2, "namespaces \"nowhere\" not found");
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client.clone());
    let namespace = serde_json::from_value(json!({"metadata": {"name": "going"}})).unwrap();
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    namespaces.delete("going", &DeleteParams::default()).await.unwrap();
    assert_eq!(namespaces.get("going").await.unwrap().status.unwrap().phase.as_deref(), Some("Terminating"));
    let going: Api<ConfigMap> = Api::namespaced(client.clone(), "going");
    let refused = code(going.create(&PostParams::default(), &config_map("a", "")).await.unwrap_err());
    let want =
        "configmaps \"a\" is forbidden: unable to create new content in namespace going because it is being terminated";
    assert_eq!(refused.2, want);
    let kept = code(namespaces.delete("default", &DeleteParams::default()).await.unwrap_err());
    assert_eq!(kept.2, "namespaces \"default\" is forbidden: this namespace may not be deleted");
    let mut finalized = namespaces.get("going").await.unwrap();
    finalized.spec.as_mut().unwrap().finalizers = None;
    let request =
        http::Request::put("/api/v1/namespaces/going/finalize").body(serde_json::to_vec(&finalized).unwrap()).unwrap();
    client.request::<Value>(request).await.unwrap();
    assert_eq!(code(namespaces.get("going").await.unwrap_err()).0, 404);
}

#[tokio::test]
async fn a_revision_from_the_future_times_out() {
    let server = testing::start_with(|config| config.patience = std::time::Duration::from_millis(50)).await;
    let client = server.client();
    let request = http::Request::get("/api/v1/configmaps?timeout=soon").body(Vec::new()).unwrap();
    let refused = code(client.request_text(request).await.unwrap_err());
    let want = "invalid timeout specified in the request URL - time: invalid duration \"soon\"";
    assert_eq!((refused.0, refused.2.as_str()), (400, want));
    let request = http::Request::get("/api/v1/configmaps?resourceVersion=999999").body(Vec::new()).unwrap();
    let refused = code(client.request::<Value>(request).await.unwrap_err());
    assert_eq!((refused.0, refused.1.as_str()), (504, "Timeout"));
    assert!(refused.2.starts_with("Timeout: Too large resource version: 999999, current: "), "{}", refused.2);
}

#[tokio::test]
async fn tables_have_a_row_an_object() {
    let (_server, client) = server().await;
    maps(&client).create(&PostParams::default(), &config_map("a", "")).await.unwrap();
    let text = raw(&client, "/api/v1/namespaces/default/configmaps", "application/json;as=Table;v=v1;g=meta.k8s.io").await;
    let table: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&table["kind"], &table["rows"][0]["cells"][0]), (&json!("Table"), &json!("a")));
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
}

#[tokio::test]
async fn both_event_groups_show_the_same_events() {
    let (_server, client) = server().await;
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}, "message": "hello", "reason": "R", "type": "Normal"});
    let request = http::Request::post("/api/v1/namespaces/default/events").body(event.to_string().into_bytes()).unwrap();
    client.request::<Value>(request).await.unwrap();
    let path = "/apis/events.k8s.io/v1/namespaces/default/events?fieldSelector=regarding.name%3Dp";
    let list: Value = serde_json::from_str(&raw(&client, path, "application/json").await).unwrap();
    assert_eq!(list["items"][0]["note"], "hello");
    assert_eq!(list["items"][0]["regarding"]["name"], "p");
}

#[tokio::test]
async fn every_served_path_answers() {
    let (_server, client) = server().await;
    for path in [
        "/",
        "/api",
        "/apis",
        "/api/v1",
        "/apis/apps",
        "/apis/apps/v1",
        "/version",
        "/livez",
        "/readyz?verbose",
        "/healthz/ping",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openapi/v3/apis/apps/v1",
    ] {
        assert!(!raw(&client, path, "application/json").await.is_empty(), "{path}");
    }
    for kind in api::kinds::INFOS {
        let root =
            if kind.group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{}/{}", kind.group, kind.version) };
        let list: Value =
            serde_json::from_str(&raw(&client, &format!("{root}/{}", kind.plural), "application/json").await).unwrap();
        assert_eq!(list["kind"], format!("{}List", kind.kind));
    }
}

#[tokio::test]
async fn history_survives_in_the_store_and_the_cache_is_rebuilt() {
    let directory = std::env::temp_dir().join(format!("knarr-restart-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).unwrap();
    let start = || async {
        let options = store::redb::Options::default();
        let store = store::redb::RedbStore::open(directory.join("store.redb"), options).unwrap();
        knarr_apiserver::Server::start(knarr_apiserver::Config::new(std::sync::Arc::new(store))).await.unwrap()
    };
    let first = start().await;
    let made =
        maps(&first.client("a", &["system:masters"])).create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    first.stop().await;
    let second = start().await;
    let read = maps(&second.client("a", &["system:masters"])).get("a").await.unwrap();
    second.stop().await;
    let _ = std::fs::remove_dir_all(&directory);
    assert_eq!(made, read);
}
