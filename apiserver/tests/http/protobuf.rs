//! Clients that speak protobuf, as upstream's components do.

use axum::body::Body;
use futures::StreamExt;
use http::Request;
use serde_json::{Value, json};

use crate::ask::*;

const TYPE: &str = "application/vnd.kubernetes.protobuf";
const EITHER: &str = "application/vnd.kubernetes.protobuf,application/json";

fn body(object: &Value) -> Vec<u8> {
    api::protobuf::encode(object).unwrap()
}

fn read(answer: &Answer) -> Value {
    assert_eq!(answer.header("content-type"), TYPE, "{}", answer.text());
    api::protobuf::decode(&answer.body, None).unwrap()
}

#[tokio::test]
async fn what_is_written_in_protobuf_is_read_in_json_and_back() {
    let door = door().await;
    let headers = [("content-type", TYPE), ("accept", EITHER)];
    let mut object = deployment("web");
    object["kind"] = json!("Deployment");
    object["apiVersion"] = json!("apps/v1");
    let made = door.ask("POST", DEPLOYMENTS, &headers, body(&object)).await;
    assert_eq!(made.status, 201);
    let path = format!("{DEPLOYMENTS}/web");
    let shown = door.get(&path).await.json();
    assert_eq!(read(&made), shown);
    assert_eq!(read(&door.ask("GET", &path, &[("accept", EITHER)], "").await), shown);
    let list = read(&door.ask("GET", DEPLOYMENTS, &[("accept", EITHER)], "").await);
    let mut item = shown.clone();
    item.as_object_mut().unwrap().retain(|k, _| k != "kind" && k != "apiVersion");
    assert_eq!((&list["kind"], &list["items"]), (&json!("DeploymentList"), &json!([item])));
    let partial = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let list = read(&door.ask("GET", DEPLOYMENTS, &[("accept", partial)], "").await);
    assert_eq!(list["items"][0]["metadata"], shown["metadata"]);
    let mut changed = shown.clone();
    changed["spec"]["replicas"] = json!(0);
    let put = door.ask("PUT", &path, &headers, body(&changed)).await;
    assert_eq!(read(&put)["spec"]["replicas"], 0);
    let options = json!({"kind": "DeleteOptions", "apiVersion": "apps/v1", "propagationPolicy": "Background",
        "preconditions": {"uid": shown["metadata"]["uid"]}});
    let gone = read(&door.ask("DELETE", &path, &headers, body(&options)).await);
    assert_eq!((&gone["kind"], &gone["status"]), (&json!("Status"), &json!("Success")));
}

#[tokio::test]
async fn errors_come_in_the_form_that_is_preferred() {
    let door = door().await;
    let missing = door.ask("GET", &format!("{MAPS}/x"), &[("accept", EITHER)], "").await;
    assert_eq!((missing.status, &read(&missing)["message"]), (404, &json!("configmaps \"x\" not found")));
    let odd = door.ask("GET", MAPS, &[("accept", "application/cbor")], "").await;
    let want = "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, application/vnd.kubernetes.protobuf, application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
    assert_eq!(odd.told(), (406, "NotAcceptable".into(), want.into()));
    let yaml = door.ask("GET", &format!("{MAPS}/x"), &[("accept", "application/yaml")], "").await;
    assert_eq!((yaml.status, yaml.header("content-type")), (404, "application/yaml"));
    for path in ["/api", "/apis", "/apis/apps", "/api/v1"] {
        let answer = door.ask("GET", path, &[("accept", EITHER)], "").await;
        assert_eq!((answer.status, answer.header("content-type")), (200, TYPE), "{path}");
    }
    let no_table = "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1,application/json";
    assert_eq!(door.ask("GET", MAPS, &[("accept", no_table)], "").await.header("content-type"), "application/json");
    let stream = door.ask("GET", &format!("{MAPS}?watch=1"), &[("accept", "application/yaml")], "").await;
    let want = "only the following media types are accepted: application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
    assert!(stream.status == 406 && String::from_utf8_lossy(&stream.body).replace("\n  ", " ").contains(want));
    let nonsense = door.ask("POST", MAPS, &[("content-type", TYPE)], "{}").await;
    let want = "the object provided is unrecognized (must be of type ConfigMap): provided data does not appear to be a protobuf message, expected prefix [107 56 115 0] ({})";
    assert_eq!(nonsense.told(), (400, "BadRequest".into(), want.into()));
}

#[tokio::test]
async fn subresources_take_protobuf() {
    let door = door().await;
    let headers = [("content-type", TYPE), ("accept", EITHER)];
    door.post(PODS, &pod("a")).await.ok();
    door.post(DEPLOYMENTS, &deployment("web")).await.ok();
    let binding =
        json!({"kind": "Binding", "apiVersion": "v1", "metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n"}});
    let bound = door.ask("POST", &format!("{PODS}/a/binding"), &headers, body(&binding)).await;
    assert_eq!((bound.status, &read(&bound)["status"]), (201, &json!("Success")));
    let scale = json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": {"name": "web", "namespace": "default"}, "spec": {"replicas": 5}});
    let scaled = door.ask("PUT", &format!("{DEPLOYMENTS}/web/scale"), &headers, body(&scale)).await;
    assert_eq!(read(&scaled)["spec"]["replicas"], 5);
    let eviction = json!({"kind": "Eviction", "apiVersion": "policy/v1", "metadata": {"name": "a", "namespace": "default"}, "deleteOptions": {"gracePeriodSeconds": 5}});
    let evicted = door.ask("POST", &format!("{PODS}/a/eviction"), &headers, body(&eviction)).await;
    assert_eq!(evicted.status, 201);
    assert_eq!(door.get(&format!("{PODS}/a")).await.json()["metadata"]["deletionGracePeriodSeconds"], 5);
    let review = json!({"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1",
        "spec": {"resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "default"}}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(read(&door.ask("POST", path, &headers, body(&review)).await)["status"]["allowed"], true);
}

#[tokio::test]
async fn watches_are_framed() {
    let door = door().await;
    door.post(MAPS, &map("a", "1")).await.ok();
    let path = format!("{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true");
    let response = door.send(Request::get(&path).header("accept", EITHER).body(Body::empty()).unwrap()).await;
    assert_eq!(response.headers()["content-type"], "application/vnd.kubernetes.protobuf;stream=watch");
    let (mut stream, mut bytes) = (response.into_body().into_data_stream(), Vec::new());
    let mut seen = Vec::new();
    while seen.len() < 3 {
        match api::protobuf::read_watch_frame(&bytes).unwrap() {
            Some((change, object, length)) => {
                bytes.drain(..length);
                seen.push((change, object["metadata"]["name"].as_str().unwrap_or_default().to_owned()));
                if seen.len() == 2 {
                    door.merge(&format!("{MAPS}/a"), &json!({"data": {"k": "2"}})).await.ok();
                }
            }
            None => bytes.extend_from_slice(&stream.next().await.unwrap().unwrap()),
        }
    }
    let want = [("ADDED", "a"), ("BOOKMARK", ""), ("MODIFIED", "a")].map(|(c, n)| (c.to_owned(), n.to_owned()));
    assert_eq!(seen, want);
}
