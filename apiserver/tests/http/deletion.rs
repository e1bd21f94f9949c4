//! Deletion: what stays, what is marked, what goes.

use serde_json::{Value, json};

use crate::ask::*;

#[tokio::test]
async fn propagation_becomes_a_finalizer() {
    let door = door().await;
    for (name, options, want) in [
        ("orphan", json!({"propagationPolicy": "Orphan"}), Some("orphan")),
        ("foreground", json!({"propagationPolicy": "Foreground"}), Some("foregroundDeletion")),
        ("background", json!({"propagationPolicy": "Background"}), None),
        ("old-orphan", json!({"orphanDependents": true}), Some("orphan")),
    ] {
        door.post(DEPLOYMENTS, &deployment(name)).await.ok();
        let path = format!("{DEPLOYMENTS}/{name}");
        let answer = door.delete(&path, &options).await.ok();
        match want {
            Some(finalizer) => {
                let object = door.get(&path).await.ok();
                assert_eq!(object["metadata"]["finalizers"], json!([finalizer]), "{name}");
                assert_eq!(object["metadata"]["deletionGracePeriodSeconds"], 0, "{name}");
                assert_eq!(object["metadata"]["generation"], 2, "{name}");
                door.merge(&path, &json!({"metadata": {"finalizers": null}})).await.ok();
            }
            None => {
                let details = json!({"name": name, "group": "apps", "kind": "deployments", "uid": answer["details"]["uid"]});
                let want =
                    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
                assert_eq!(answer, want);
            }
        }
        assert_eq!(door.get(&path).await.status, 404, "{name}");
    }
    let both = door.delete(&format!("{MAPS}/x"), &json!({"propagationPolicy": "Orphan", "orphanDependents": true})).await;
    assert_eq!((both.status, both.told().1.as_str()), (422, "Invalid"));
}

#[tokio::test]
async fn a_bound_pod_goes_in_its_own_time_and_only_faster() {
    let door = door().await;
    let path = format!("{PODS}/p");
    door.post(PODS, &pod("p")).await.ok();
    door.post(&format!("{path}/binding"), &json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}}))
        .await
        .ok();
    let seconds = |object: &Value| object["metadata"]["deletionGracePeriodSeconds"].clone();
    let uid = door.get(&path).await.ok()["metadata"]["uid"].as_str().unwrap().to_owned();
    let stale = door.delete(&path, &json!({"preconditions": {"uid": "other"}})).await.told();
    let want = format!(
        "Operation cannot be fulfilled on Pod \"p\": the UID in the precondition (other) does not match the UID in record ({uid}). The object might have been deleted and then recreated"
    );
    assert_eq!((stale.0, stale.1.as_str(), stale.2), (409, "Conflict", want));
    let stale = door.delete(&path, &json!({"preconditions": {"resourceVersion": "1"}})).await.told();
    assert!(stale.0 == 409 && stale.2.contains("the ResourceVersion in the precondition (1) does not match"), "{}", stale.2);
    let marked = door.delete(&path, &json!({"gracePeriodSeconds": 20, "preconditions": {"uid": uid}})).await.ok();
    assert_eq!((seconds(&marked), marked["metadata"]["deletionTimestamp"].is_string()), (json!(20), true));
    let again = door.delete(&path, &json!({"gracePeriodSeconds": 60})).await.ok();
    assert_eq!(seconds(&again), 20, "a deletion under way is not put off");
    let faster = door.delete(&path, &json!({"gracePeriodSeconds": 5})).await.ok();
    assert_eq!(seconds(&faster), 5);
    let negative = door.delete(&path, &json!({"gracePeriodSeconds": -1})).await.ok();
    assert_eq!(seconds(&negative), 1);
    door.delete(&path, &json!({"gracePeriodSeconds": 0})).await.ok();
    assert_eq!(door.get(&path).await.status, 404);
}

#[tokio::test]
async fn an_unbound_pod_goes_at_once() {
    let door = door().await;
    door.post(PODS, &pod("p")).await.ok();
    let gone = door.delete(&format!("{PODS}/p"), &Value::Null).await.ok();
    assert_eq!((&gone["kind"], &gone["metadata"]["name"]), (&json!("Pod"), &json!("p")));
    assert_eq!(door.get(&format!("{PODS}/p")).await.status, 404);
}

#[tokio::test]
async fn collections_go_by_selector() {
    let door = door().await;
    for (name, tier) in [("a", "web"), ("b", "web"), ("c", "db")] {
        door.post(MAPS, &json!({"metadata": {"name": name, "labels": {"tier": tier}}})).await.ok();
    }
    let names = |list: Value| -> Vec<String> {
        list["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    let gone = door.delete(&format!("{MAPS}?labelSelector=tier%3Dweb"), &Value::Null).await.ok();
    assert_eq!((gone["kind"].clone(), names(gone)), (json!("ConfigMapList"), vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!(names(door.get(MAPS).await.ok()), ["c"]);
    door.delete(&format!("{MAPS}?fieldSelector=metadata.name%21%3Dc"), &Value::Null).await.ok();
    assert_eq!(names(door.get(MAPS).await.ok()), ["c"]);
    door.delete(MAPS, &json!({"propagationPolicy": "Background"})).await.ok();
    assert_eq!(names(door.get(MAPS).await.ok()), Vec::<String>::new());
}

#[tokio::test]
async fn the_systems_priority_classes_stay() {
    let door = door().await;
    let path = "/apis/scheduling.k8s.io/v1/priorityclasses/system-node-critical";
    let refused = door.delete(path, &json!({})).await.told();
    let why = "priorityclasses.scheduling.k8s.io \"system-node-critical\" is forbidden: this is a system priority class and cannot be deleted";
    assert_eq!(refused, (403, "Forbidden".into(), why.into()));
    // As upstream: nobody minds if all are deleted.
    let all = "/apis/scheduling.k8s.io/v1/priorityclasses";
    let shown = door.delete(&format!("{all}?dryRun=All"), &Value::Null).await.ok();
    assert_eq!(shown["items"].as_array().map(Vec::len), Some(2), "{shown}");
    assert_eq!(door.get(path).await.status, 200);
    door.delete(all, &json!({})).await.ok();
    assert_eq!(door.get(path).await.status, 404);
    let mut critical = pod("p");
    critical["spec"]["priorityClassName"] = "system-node-critical".into();
    assert_eq!(door.post(PODS, &critical).await.ok()["spec"]["priority"], 2_000_001_000);
}

#[tokio::test]
async fn a_name_on_its_way_out_is_taken() {
    let door = door().await;
    let mut held = map("a", "1");
    held["metadata"]["finalizers"] = json!(["a.b/c"]);
    door.post(MAPS, &held).await.ok();
    let taken = "configmaps \"a\" already exists";
    assert_eq!(door.post(MAPS, &held).await.told(), (409, "AlreadyExists".into(), taken.into()));
    door.delete(&format!("{MAPS}/a"), &Value::Null).await.ok();
    for path in [MAPS.to_owned(), format!("{MAPS}?dryRun=All")] {
        let going = format!("object is being deleted: {taken}");
        assert_eq!(door.post(&path, &held).await.told(), (409, "AlreadyExists".into(), going));
    }
}

#[tokio::test]
async fn what_is_deleted_is_shown_in_the_form_asked_for() {
    let door = door().await;
    door.post(PODS, &pod("p")).await.ok();
    let form = |kind: &str| format!("application/json;as={kind};g=meta.k8s.io;v=v1");
    let one = format!("{PODS}/p?dryRun=All");
    let all = format!("{PODS}?dryRun=All");
    let asked = |path: &str, kind: &str| {
        let (path, accept, door) = (path.to_owned(), form(kind), &door);
        async move { door.ask("DELETE", &path, &[("accept", &accept)], "").await }
    };
    for path in [&one, &all] {
        let table = asked(path, "Table").await.ok();
        let row = &table["rows"][0];
        assert_eq!((&table["kind"], &row["cells"][0]), (&json!("Table"), &json!("p")), "{path}");
        assert_eq!(row["object"]["kind"], "PartialObjectMetadata", "{path}");
    }
    let metadata = asked(&one, "PartialObjectMetadata").await.ok();
    assert_eq!((&metadata["kind"], &metadata["spec"]), (&json!("PartialObjectMetadata"), &Value::Null));
    let list = asked(&all, "PartialObjectMetadataList").await.ok();
    assert_eq!((&list["kind"], &list["items"][0]["spec"]), (&json!("PartialObjectMetadataList"), &Value::Null));
    let told = asked(&one, "PartialObjectMetadataList").await.told();
    let why = "you requested PartialObjectMetadataList, but the requested object is not a list (*core.Pod)";
    assert_eq!((told.0, told.2.as_str()), (406, why));
    // What is gone is a Status in any form.
    door.post(MAPS, &map("m", "a")).await.ok();
    assert_eq!(asked(&format!("{MAPS}/m"), "Table").await.ok()["kind"], "Status");
}
