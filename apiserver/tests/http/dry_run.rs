//! `dryRun=All`: answered like the real thing, and nothing written.

use serde_json::{Value, json};

use crate::ask::*;

#[tokio::test]
async fn every_verb_can_be_tried_without_a_trace() {
    let door = door().await;
    let (map_path, pod_path, web) = (format!("{MAPS}/a"), format!("{PODS}/p"), format!("{DEPLOYMENTS}/web"));
    door.post(MAPS, &map("a", "1")).await.ok();
    door.post(PODS, &pod("p")).await.ok();
    door.post(DEPLOYMENTS, &deployment("web")).await.ok();
    let before = door.store().revision().await.unwrap();
    let dry = |path: &str| format!("{path}?dryRun=All");

    let made = door.post(&dry(MAPS), &map("b", "1")).await.ok();
    assert!(made["metadata"]["uid"].is_string() && made["metadata"].get("resourceVersion").is_none(), "{made}");
    assert_eq!(door.post(&dry(MAPS), &map("a", "1")).await.told().1, "AlreadyExists");
    let revised = json!({"metadata": {"name": "b", "resourceVersion": "5"}});
    assert_eq!(door.post(&dry(MAPS), &revised).await.ok()["metadata"]["resourceVersion"], "5");
    for said in ["0", "x\"y"] {
        let revised = json!({"metadata": {"name": "b", "resourceVersion": said}});
        assert_eq!(door.post(&dry(MAPS), &revised).await.ok()["metadata"]["resourceVersion"], said);
    }
    let service =
        json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30100}]}});
    let shown = door.post(&dry(SERVICES), &service).await.ok();
    assert_eq!(shown["spec"]["ports"][0]["nodePort"], 30100);
    assert_eq!(door.put(&dry(&map_path), &map("a", "2")).await.ok()["data"]["k"], "2");
    assert_eq!(door.merge(&dry(&map_path), &json!({"data": {"k": "3"}})).await.ok()["data"]["k"], "3");
    let scale = json!({"metadata": {"name": "web"}, "spec": {"replicas": 7}});
    assert_eq!(door.put(&dry(&format!("{web}/scale")), &scale).await.ok()["spec"]["replicas"], 7);
    let status = json!({"status": {"replicas": 4}});
    assert_eq!(door.merge(&dry(&format!("{web}/status")), &status).await.ok()["status"]["replicas"], 4);
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    assert_eq!(door.post(&dry(&format!("{pod_path}/binding")), &binding).await.status, 201);
    let eviction = json!({"metadata": {"name": "p"}});
    assert_eq!(door.post(&dry(&format!("{pod_path}/eviction")), &eviction).await.status, 201);
    let older = json!({"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": {"name": "p"}});
    assert_eq!(door.post(&dry(&format!("{pod_path}/eviction")), &older).await.status, 201);
    door.delete(&dry(&map_path), &Value::Null).await.ok();
    door.delete(&pod_path, &json!({"dryRun": ["All"]})).await.ok();
    door.delete(&dry(MAPS), &Value::Null).await.ok();
    assert_eq!(door.store().revision().await.unwrap(), before);

    // The port that was only tried is free.
    door.post(SERVICES, &service).await.ok();
}
