//! What is asked of parts of objects is held to the objects that it is meant for.

use serde_json::json;

use crate::ask::door;

const PODS: &str = "/api/v1/namespaces/default/pods";
const SCALE: &str = "/apis/apps/v1/namespaces/default/replicasets/r/scale";

#[tokio::test]
async fn parts_name_the_object_that_they_are_meant_for() {
    let door = door().await;
    door.post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "default"}})).await;
    let spec = json!({"containers": [{"name": "c", "image": "i"}]});
    let pod = door.post(PODS, &json!({"metadata": {"name": "p"}, "spec": spec})).await.json();
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": spec});
    let set = json!({"metadata": {"name": "r"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}});
    door.post("/apis/apps/v1/namespaces/default/replicasets", &set).await;

    let stale = json!({"metadata": {"name": "p", "resourceVersion": "1"}, "target": {"name": "n"}});
    let fresh = json!({"metadata": {"name": "p", "uid": pod["metadata"]["uid"]}, "target": {"name": "n"}, "x": 1});
    let token = json!({"metadata": {"name": "other"}, "spec": {}});
    let foreign = json!({"kind": "Foo", "metadata": {"name": "r"}, "spec": {"replicas": 1}});
    let binding = format!("{PODS}/p/binding");
    let got = [
        door.post(&binding, &stale).await.status,
        door.post(&binding, &fresh).await.status,
        door.post("/api/v1/namespaces/default/serviceaccounts/default/token", &token).await.status,
        door.put(SCALE, &foreign).await.status,
        door.merge(SCALE, &foreign).await.status,
        door.post(&format!("{PODS}/p/log"), &json!({})).await.status,
        door.get(&format!("{PODS}/..")).await.status,
    ];
    assert_eq!(got, [409, 201, 422, 400, 422, 405, 400]);
}

#[tokio::test]
async fn what_a_part_does_not_know_is_warned_of() {
    let door = door().await;
    let eviction = json!({"metadata": {"name": "p"}, "target": 1});
    let answer = door.post(&format!("{PODS}/p/eviction"), &eviction).await;
    assert_eq!((answer.status, answer.header("warning")), (404, "299 - \"unknown field \\\"target\\\"\""));
}
