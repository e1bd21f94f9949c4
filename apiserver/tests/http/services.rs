//! Addresses and ports of services: unique, released, still taken after a restart, and finite.

use std::{net::Ipv4Addr, sync::Arc};

use knarr_apiserver::{Config, registry::ServiceRanges};
use serde_json::{Value, json};

use crate::ask::*;

fn service(name: &str, spec: &Value) -> Value {
    let mut object = json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
    spec.as_object().unwrap().iter().for_each(|(k, v)| object["spec"][k] = v.clone());
    object
}

fn tiny(config: &mut Config) {
    config.ranges = ServiceRanges { addresses: (Ipv4Addr::new(10, 99, 0, 0), 29), ports: (31000, 31001) };
}

#[tokio::test]
async fn ranges_run_out_and_fill_again() {
    let door = door_with(tiny).await;
    // A /29 has six addresses.
    for n in 0..6 {
        door.post(SERVICES, &service(&format!("s{n}"), &json!({}))).await.ok();
    }
    let full = door.post(SERVICES, &service("more", &json!({}))).await.told();
    let want = "Internal error occurred: failed to allocate a serviceIP: range is full";
    assert_eq!((full.0, full.2.as_str()), (500, want));
    let freed = door.delete(&format!("{SERVICES}/s3"), &Value::Null).await.ok();
    let next = door.post(SERVICES, &service("more", &json!({}))).await.ok();
    assert_eq!(next["spec"]["clusterIP"], freed["spec"]["clusterIP"]);
    door.delete(SERVICES, &Value::Null).await.ok();
    for n in 0..2 {
        door.post(SERVICES, &service(&format!("n{n}"), &json!({"type": "NodePort"}))).await.ok();
    }
    let full = door.post(SERVICES, &service("n2", &json!({"type": "NodePort"}))).await.told();
    assert_eq!((full.0, full.2.as_str()), (500, "Internal error occurred: failed to allocate a nodePort: range is full"));
    // A failed creation takes no address either: four are left.
    for n in 0..4 {
        door.post(SERVICES, &service(&format!("c{n}"), &json!({}))).await.ok();
    }
    // A service that stops being one of nodes gives its port back.
    door.merge(&format!("{SERVICES}/n0"), &json!({"spec": {"type": "ClusterIP"}})).await.ok();
    door.merge(&format!("{SERVICES}/c0"), &json!({"spec": {"type": "NodePort"}})).await.ok();
    let taken = door.get(SERVICES).await.ok();
    let ports: Vec<_> =
        taken["items"].as_array().unwrap().iter().filter_map(|s| s["spec"]["ports"][0]["nodePort"].as_i64()).collect();
    assert_eq!(ports.len(), 2);
}

#[tokio::test]
async fn a_condition_whose_time_nobody_gave_has_none() {
    let door = door().await;
    door.post(SERVICES, &service("a", &json!({}))).await.ok();
    let path = format!("{SERVICES}/a");
    let condition = json!({"type": "A", "status": "True", "reason": "R", "message": ""});
    let patched = door.merge(&format!("{path}/status"), &json!({"status": {"conditions": [condition]}})).await.ok();
    let mut want = condition.clone();
    want["lastTransitionTime"] = Value::Null;
    assert_eq!(patched["status"]["conditions"], json!([want]));
    assert_eq!(door.get(&path).await.ok(), patched);
    let proto = door.ask("GET", &path, &[("accept", "application/vnd.kubernetes.protobuf")], "").await;
    // A time that is not set is not there in protobuf.
    let mut bare = patched.clone();
    bare["status"]["conditions"] = json!([condition]);
    assert_eq!(api::protobuf::decode(&proto.body, None).unwrap(), bare);
    // It goes on as a service does: in tables, in what is selected by its fields, and through further writes.
    let table = door.ask("GET", SERVICES, &[("accept", "application/json;as=Table;g=meta.k8s.io;v=v1")], "").await.json();
    assert_eq!(table["rows"][0]["cells"][2], patched["spec"]["clusterIP"]);
    let selected = door.get(&format!("{SERVICES}?fieldSelector=spec.type%3DClusterIP")).await.ok();
    assert_eq!(selected["items"][0]["status"]["conditions"], json!([want]));
    let labelled = door.merge(&path, &json!({"metadata": {"labels": {"a": "b"}}})).await.ok();
    assert_eq!(labelled["status"]["conditions"], json!([want]));
    let same = door.merge(&path, &json!({"metadata": {"labels": {"a": "b"}}})).await.ok();
    assert_eq!(same["metadata"]["resourceVersion"], labelled["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn one_port_is_not_for_two_purposes() {
    let door = door().await;
    let spec = |health: u16| {
        json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": health,
            "ports": [{"port": 80, "nodePort": 30100}]})
    };
    let why = "Internal error occurred: failed to allocate requested HealthCheck NodePort 30100: provided port is already allocated";
    assert_eq!(door.post(SERVICES, &service("a", &spec(30100))).await.told(), (500, "InternalError".into(), why.into()));
    let made = door.post(SERVICES, &service("a", &spec(30101))).await.ok();
    assert_eq!(made["spec"]["healthCheckNodePort"], 30101);
}

#[tokio::test]
async fn a_dry_run_takes_nothing_and_looks_up_ports_alone() {
    let door = door().await;
    let spec = |port: u16| json!({"type": "NodePort", "clusterIP": "10.43.9.9", "ports": [{"port": 80, "nodePort": port}]});
    door.post(SERVICES, &service("a", &spec(30100))).await.ok();
    let tried = format!("{SERVICES}?dryRun=All");
    for port in [30101, 300] {
        let shown = door.post(&tried, &service("b", &spec(port))).await.ok();
        assert_eq!(shown["spec"]["clusterIP"], "10.43.9.9");
    }
    let why = "Service \"b\" is invalid: spec.ports[0].nodePort: Invalid value: 30100: provided port is already allocated";
    for path in [&tried, SERVICES] {
        assert_eq!(door.post(path, &service("b", &spec(30100))).await.told(), (422, "Invalid".into(), why.into()));
    }
    let why = "Service \"b\" is invalid: spec.ports[0].nodePort: Invalid value: 300: provided port is not in the valid range. The range of valid ports is 30000-32767";
    assert_eq!(door.post(SERVICES, &service("b", &spec(300))).await.told(), (422, "Invalid".into(), why.into()));
}

#[tokio::test]
async fn a_node_port_is_for_one_port_of_a_service_in_each_protocol() {
    let door = door().await;
    let spec = |ports: Value| json!({"type": "NodePort", "ports": ports});
    let port = |name: &str, port: u16, node_port: u16, protocol: &str| json!({"name": name, "port": port, "nodePort": node_port, "protocol": protocol});
    let two = json!([port("x", 80, 30600, "TCP"), port("y", 81, 30600, "TCP")]);
    let why = "Service \"a\" is invalid: spec.ports[1].nodePort: Invalid value: 30600: provided port is already allocated";
    assert_eq!(door.post(SERVICES, &service("a", &spec(two.clone()))).await.told(), (422, "Invalid".into(), why.into()));
    // A new service's port has one number, in whatever protocols it is spoken.
    let both = json!([{"name": "t", "port": 53, "protocol": "TCP"}, {"name": "u", "port": 53, "protocol": "UDP"}]);
    let made = door.post(SERVICES, &service("a", &spec(both))).await.ok();
    let ports = &made["spec"]["ports"];
    assert!(ports[0]["nodePort"].is_number() && ports[0]["nodePort"] == ports[1]["nodePort"], "{ports}");
    let path = format!("{SERVICES}/a");
    let told = door.put(&path, &service("a", &spec(two))).await.told();
    assert_eq!(told, (500, String::new(), "duplicate nodePort: {TCP 30600}".into()));
    let apart = json!([port("x", 80, 30600, "TCP"), port("y", 81, 30600, "UDP")]);
    door.put(&path, &service("a", &spec(apart))).await.ok();
    door.post(SERVICES, &service("b", &spec(json!([port("x", 80, 30601, "TCP")])))).await.ok();
    let why = "Service \"a\" is invalid: spec.ports[1].nodePort: Invalid value: 30601: provided port is already allocated";
    let taken = json!([port("x", 80, 30600, "TCP"), port("y", 81, 30601, "TCP")]);
    assert_eq!(door.put(&path, &service("a", &spec(taken))).await.told(), (422, "Invalid".into(), why.into()));
}

#[tokio::test]
async fn a_service_that_goes_takes_its_endpoints_with_it() {
    let door = door().await;
    let endpoints = SERVICES.replace("services", "endpoints");
    for finalizers in [json!([]), json!(["a/b"])] {
        let mut object = service("a", &json!({}));
        object["metadata"]["finalizers"] = finalizers.clone();
        door.post(SERVICES, &object).await.ok();
        for name in ["a", "b"] {
            door.post(&endpoints, &json!({"metadata": {"name": name}})).await;
        }
        door.delete(&format!("{SERVICES}/a?dryRun=All"), &Value::Null).await.ok();
        door.get(&format!("{endpoints}/a")).await.ok();
        door.delete(&format!("{SERVICES}/a"), &Value::Null).await.ok();
        if finalizers != json!([]) {
            door.get(&format!("{endpoints}/a")).await.ok();
            object["metadata"]["finalizers"] = json!([]);
            door.put(&format!("{SERVICES}/a"), &object).await.ok();
        }
        assert_eq!(door.get(&format!("{endpoints}/a")).await.told().0, 404);
        door.get(&format!("{endpoints}/b")).await.ok();
    }
}

#[tokio::test]
async fn an_address_stays_whatever_an_update_leaves_out() {
    let door = door().await;
    let made = door.post(SERVICES, &service("a", &json!({"clusterIP": "10.43.9.9"}))).await.ok();
    let path = format!("{SERVICES}/a");
    let same = door.put(&path, &service("a", &json!({}))).await.ok();
    assert_eq!(same["spec"], made["spec"]);
    let why = "Service \"a\" is invalid: spec.clusterIPs[0]: Invalid value: [\"10.43.9.10\"]: may not change once set";
    let moved = door.put(&path, &service("a", &json!({"clusterIP": "10.43.9.10"}))).await.told();
    assert_eq!(moved, (422, "Invalid".into(), why.into()));
}

#[tokio::test]
async fn what_is_taken_stays_taken_across_a_restart() {
    let directory = std::env::temp_dir().join(format!("knarr-services-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir_all(&directory).unwrap();
    let start = || async {
        let options = store::redb::Options { sync: false, ..Default::default() };
        let store = store::redb::RedbStore::open(directory.join("store.redb"), options).unwrap();
        let mut config = Config::new(Arc::new(store));
        tiny(&mut config);
        knarr_apiserver::Server::start(config).await.unwrap()
    };
    let ask = |server: &knarr_apiserver::Server, body: Value| {
        let client = server.client("admin", &["system:masters"]);
        async move {
            let request = http::Request::post(SERVICES).body(body.to_string().into_bytes()).unwrap();
            client.request::<Value>(request).await
        }
    };
    let first = start().await;
    let made = ask(&first, service("a", &json!({"type": "NodePort"}))).await.unwrap();
    first.stop().await;
    let second = start().await;
    let port = made["spec"]["ports"][0]["nodePort"].clone();
    let same = json!({"type": "NodePort", "clusterIP": made["spec"]["clusterIP"], "ports": [{"port": 80}]});
    let refused = ask(&second, service("b", &same)).await.unwrap_err().to_string();
    assert!(refused.contains("provided IP is already allocated"), "{refused}");
    let same = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]});
    let refused = ask(&second, service("b", &same)).await.unwrap_err().to_string();
    assert!(refused.contains("provided port is already allocated"), "{refused}");
    second.stop().await;
    std::fs::remove_dir_all(&directory).unwrap();
}
