//! Creation and change: names, generations, parts of objects.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::ask::*;

#[tokio::test]
async fn a_generated_name_that_is_taken_is_generated_again_eight_times() {
    static TRIES: AtomicUsize = AtomicUsize::new(0);
    let door = door_with(|config| {
        config.names = |base| {
            let n = TRIES.fetch_add(1, Ordering::SeqCst);
            if n < 3 { format!("{base}same") } else { format!("{base}{}", n.min(3)) }
        }
    })
    .await;
    let generate = json!({"metadata": {"generateName": "g-"}});
    assert_eq!(door.post(MAPS, &generate).await.ok()["metadata"]["name"], "g-same");
    assert_eq!(door.post(MAPS, &generate).await.ok()["metadata"]["name"], "g-3");
    assert_eq!(TRIES.load(Ordering::SeqCst), 4);
    let full = door.post(MAPS, &generate).await;
    let want = "configmaps \"g-3\" already exists, the server was not able to generate a unique name for the object";
    assert_eq!(full.told(), (409, "AlreadyExists".into(), want.into()));
    assert_eq!(TRIES.load(Ordering::SeqCst), 4 + 8);
    assert_eq!(full.header("retry-after"), "1");
    // Whoever sends a beginning of names is told of it, though the name was sent as well.
    let named = json!({"metadata": {"name": "g-3", "generateName": "g-"}});
    assert_eq!(door.post(MAPS, &named).await.told(), (409, "AlreadyExists".into(), want.into()));
}

#[tokio::test]
async fn generations_count_changes_of_the_spec_and_status_is_apart() {
    let door = door().await;
    let path = format!("{DEPLOYMENTS}/web");
    let made = door
        .post(DEPLOYMENTS, &{
            let mut object = deployment("web");
            object["status"] = json!({"replicas": 9});
            object
        })
        .await
        .ok();
    assert_eq!((&made["metadata"]["generation"], made["status"].get("replicas")), (&json!(1), None));
    let labelled = door.merge(&path, &json!({"metadata": {"labels": {"a": "b"}}})).await.ok();
    assert_eq!(labelled["metadata"]["generation"], 1);
    let scaled = door.merge(&path, &json!({"spec": {"replicas": 3}, "status": {"replicas": 3}})).await.ok();
    assert_eq!((&scaled["metadata"]["generation"], scaled["status"].get("replicas")), (&json!(2), None));
    let wish = json!({"metadata": {"annotations": {"a": "b"}}, "spec": {"replicas": 8}, "status": {"replicas": 3}});
    let status = door.merge(&format!("{path}/status"), &wish).await.ok();
    let seen = (&status["spec"]["replicas"], &status["status"]["replicas"], &status["metadata"]["generation"]);
    assert_eq!(seen, (&json!(3), &json!(3), &json!(2)));
    let scale = door.get(&format!("{path}/scale")).await.ok();
    assert_eq!((&scale["kind"], &scale["status"]), (&json!("Scale"), &json!({"replicas": 3, "selector": "app=web"})));
    let wished = door.merge(&format!("{path}/scale"), &json!({"spec": {"replicas": 0}})).await.ok();
    assert_eq!(wished["spec"].get("replicas"), None);
    assert_eq!(door.get(&path).await.ok()["spec"]["replicas"], 0);
    let negative = door.merge(&format!("{path}/scale"), &json!({"spec": {"replicas": -1}})).await.told();
    let want = "Scale.autoscaling \"web\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0";
    assert_eq!(negative, (422, "Invalid".into(), want.into()));
    let mut stale = scale;
    stale["spec"]["replicas"] = json!(1);
    assert_eq!(door.put(&format!("{path}/scale"), &stale).await.told().1, "Conflict");
}

#[tokio::test]
async fn parts_of_pods_are_changed_by_their_paths() {
    let door = door().await;
    let path = format!("{PODS}/p");
    let mut object = pod("p");
    object["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "100m"}});
    door.post(PODS, &object).await.ok();
    let moved = door.merge(&path, &json!({"spec": {"nodeName": "n"}})).await.told();
    assert_eq!((moved.0, moved.1.as_str()), (422, "Invalid"));
    let debug = json!({"spec": {"ephemeralContainers": [{"name": "d", "image": "i"}]}});
    let shown = door.merge(&format!("{path}/ephemeralcontainers"), &debug).await.ok();
    assert_eq!(shown["spec"]["ephemeralContainers"][0]["name"], "d");
    let wish = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "200m"}}}]}});
    let strategic = [("content-type", "application/strategic-merge-patch+json")];
    let resized = door.ask("PATCH", &format!("{path}/resize"), &strategic, wish.to_string()).await.ok();
    assert_eq!(resized["spec"]["containers"][0]["resources"]["requests"]["cpu"], "200m");
    let other = json!({"metadata": {"name": "q"}, "target": {"name": "n"}});
    assert_eq!(door.post(&format!("{path}/binding"), &other).await.status, 400);
    let by_collection = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    assert_eq!(door.post("/api/v1/namespaces/default/bindings", &by_collection).await.status, 201);
    assert_eq!(door.get(&path).await.ok()["spec"]["nodeName"], "n");
    assert_eq!(door.post(&format!("{path}/eviction"), &json!({"metadata": {"name": "q"}})).await.status, 400);
    assert_eq!(door.post(&format!("{PODS}/none/eviction"), &json!({"metadata": {"name": "none"}})).await.status, 404);
    assert_eq!(door.post(&format!("{path}/eviction"), &json!({})).await.status, 400);
    assert_eq!(door.post(&format!("{path}/eviction"), &json!({"metadata": {"name": "p"}})).await.status, 201);
    assert_eq!(door.get(&path).await.ok()["metadata"]["deletionGracePeriodSeconds"], 30);
}

#[tokio::test]
async fn a_scale_is_of_its_object_and_a_number() {
    let door = door().await;
    door.post(DEPLOYMENTS, &deployment("web")).await.ok();
    let path = format!("{DEPLOYMENTS}/web/scale");
    let codes = [
        door.merge(&path, &json!({"spec": {"replicas": "x"}})).await.status,
        door.merge(&path, &json!({"metadata": {"name": "other"}})).await.status,
        door.put(&path, &json!({"metadata": {"name": "web", "namespace": "other"}})).await.status,
        door.put(&path, &json!({"metadata": {"name": "web", "uid": "other"}})).await.status,
    ];
    assert_eq!(codes, [422, 400, 400, 409]);
    let told = door.merge(&path, &json!({"metadata": {"finalizers": ["é"]}, "spec": {"replicas": -1}})).await.told();
    let long = json!({"metadata": {"finalizers": ["5"]}});
    assert!(
        door.merge(&path, &long)
            .await
            .told()
            .2
            .ends_with("name is neither a standard finalizer name nor is it fully qualified")
    );
    let why = "Scale.autoscaling \"web\" is invalid: [metadata.finalizers: Invalid value: \"é\": ";
    assert!(told.0 == 422 && told.2.starts_with(why) && told.2.contains("spec.replicas"), "{told:?}");
}

#[tokio::test]
async fn an_account_with_an_impossible_name_is_not_looked_for() {
    let door = door().await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"serviceAccountName": "a/b", "containers": []}});
    let why = "error looking up service account default/a/b: invalid resource name \"a/b\": [may not contain '/']";
    let told = door.post("/api/v1/namespaces/default/pods", &pod).await.told();
    assert_eq!(told, (403, "Forbidden".into(), format!("pods \"p\" is forbidden: {why}")));
}

#[tokio::test]
async fn an_update_of_what_is_not_there_creates_only_some_kinds() {
    let door = door().await;
    assert_eq!(door.put(&format!("{MAPS}/x"), &map("x", "")).await.told().1, "NotFound");
    let lease = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "me"}});
    let path = "/apis/coordination.k8s.io/v1/namespaces/default/leases/l";
    let answer = door.put(path, &lease).await;
    assert_eq!(answer.status, 201);
    let blind = door.put(path, &lease).await.told();
    let want = "leases.coordination.k8s.io \"l\" is invalid: metadata.resourceVersion: Invalid value: 0x0: must be specified for an update";
    assert_eq!(blind, (422, "Invalid".into(), want.into()));
    let _: Value = answer.json();
}

#[tokio::test]
async fn what_is_meant_for_another_object_is_put_nowhere() {
    let door = door().await;
    let path = format!("{MAPS}/a");
    let meant = json!({"metadata": {"name": "a", "uid": "u"}});
    let why = |key: &str, own: &str| {
        let why = format!("Precondition failed: UID in precondition: u, UID in object meta: {own}");
        let error =
            format!("StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: {why}");
        (409, "Conflict".to_owned(), format!("Operation cannot be fulfilled on configmaps \"a\": {error}"))
    };
    assert_eq!(door.put(&path, &meant).await.told(), why("/registry/configmaps/default/a", ""));
    assert_eq!(door.put(&format!("{path}?dryRun=All"), &meant).await.told(), why("/configmaps/default/a", ""));
    let made = door.post(MAPS, &map("a", "b")).await.ok();
    let uid = made["metadata"]["uid"].as_str().unwrap();
    assert_eq!(door.put(&path, &meant).await.told(), why("/registry/configmaps/default/a", uid));
    // What a body says of its kind and place comes before what it is called.
    let secret = json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "b"}});
    let kind = "Secret in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Secret) to (core.ConfigMap): unknown conversion";
    assert_eq!(door.put(&path, &secret).await.told().2, kind);
    let elsewhere = json!({"metadata": {"name": "b", "namespace": "c"}, "nothing": 1});
    let refused = door.put(&path, &elsewhere).await;
    assert_eq!(refused.told().2, "the namespace of the provided object does not match the namespace sent on the request");
    assert_eq!(refused.warnings(), ["299 - \"unknown field \\\"nothing\\\"\""]);
}

#[tokio::test]
async fn revisions_are_numbers() {
    let door = door().await;
    door.post(MAPS, &map("a", "b")).await.ok();
    let path = format!("{MAPS}/a");
    let parse = |text: &str| format!("strconv.ParseUint: parsing \"{text}\": invalid syntax");
    let body = json!({"metadata": {"name": "a", "resourceVersion": "x"}});
    assert_eq!(door.put(&path, &body).await.told(), (500, String::new(), parse("x")));
    assert_eq!(door.merge(&path, &body).await.told(), (500, String::new(), parse("x")));
    let field = format!("resourceVersion: Invalid value: \"-1\": {}", parse("-1"));
    assert_eq!(door.get(&format!("{path}?resourceVersion=-1")).await.told(), (500, String::new(), field.clone()));
    let watched = door.get(&format!("{MAPS}?watch=1&resourceVersion=-1")).await;
    assert_eq!(watched.told(), (500, String::new(), field.clone()));
    let listed = door.get(&format!("{MAPS}?resourceVersion=-1")).await;
    assert_eq!(listed.told(), (400, "BadRequest".into(), format!("invalid resource version: {field}")));
    // All else that is wrong comes first.
    let label = "field label not supported: x";
    for query in ["watch=1&resourceVersion=-1", "resourceVersion=-1"] {
        let told = door.get(&format!("{PODS}?{query}&fieldSelector=x%3Dy")).await.told();
        assert_eq!(told, (400, "BadRequest".into(), label.into()), "{query}");
    }
    let gone = door.delete(&format!("{path}?resourceVersion=1"), &json!(null)).await;
    assert_eq!(gone.status, 409, "{}", gone.text());
    // Of a collection it is the revision that is looked at, too.
    let before = door.delete(&format!("{MAPS}?resourceVersion=1"), &json!(null)).await.ok();
    assert_eq!(before["items"], json!([]));
    let newest = door.post(MAPS, &map("b", "b")).await.ok()["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let gone = door.delete(&format!("{MAPS}?resourceVersion={newest}"), &json!(null)).await;
    assert_eq!(gone.status, 409, "{}", gone.text());
    assert_eq!(door.delete(&format!("{path}?uid=1"), &json!(null)).await.status, 409);
    door.post("/api/v1/namespaces", &json!({"metadata": {"name": "n"}})).await.ok();
    let other = door.delete("/api/v1/namespaces/n", &json!({"preconditions": {"uid": "u"}})).await.told().2;
    let words = "Operation cannot be fulfilled on namespaces \"n\": Precondition failed: UID in precondition: u, UID in object meta: ";
    assert!(other.starts_with(words), "{other}");
}

#[tokio::test]
async fn a_patch_of_what_is_not_there_is_not_read() {
    let door = door().await;
    let broken = |path: String| {
        let door = &door;
        async move { door.ask("PATCH", &path, &[("content-type", MERGE)], "{").await.status }
    };
    door.post(MAPS, &map("a", "b")).await.ok();
    assert_eq!(broken(format!("{MAPS}/none")).await, 404);
    assert_eq!(broken(format!("{MAPS}/a")).await, 400);
    let unknown = door.ask("PATCH", &format!("{MAPS}/a"), &[("content-type", "application/json")], "").await;
    assert_eq!(unknown.told().2, "406: Not Acceptable\n\nAvailable representations: ");
}

#[tokio::test]
async fn an_evicted_pod_tells_why_it_goes() {
    let door = door().await;
    door.post(PODS, &pod("a")).await.ok();
    let bind = json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n"}});
    door.post(&format!("{PODS}/a/binding"), &bind).await.ok();
    let evict = json!({"metadata": {"name": "a"}});
    door.post(&format!("{PODS}/a/eviction?dryRun=All"), &evict).await.ok();
    let conditions = |pod: &Value| {
        let all = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let told = all.iter().find(|c| c["type"] == "DisruptionTarget").map(|c| c["reason"].clone());
        (told, pod["metadata"].get("deletionTimestamp").is_some())
    };
    assert_eq!(conditions(&door.get(&format!("{PODS}/a")).await.ok()), (None, false));
    door.post(&format!("{PODS}/a/eviction"), &evict).await.ok();
    assert_eq!(conditions(&door.get(&format!("{PODS}/a")).await.ok()), (Some(json!("EvictionByEvictionAPI")), true));
    let wrong = json!({"metadata": {"name": "none"}, "deleteOptions": {"dryRun": ["Bad"]}});
    assert_eq!(door.post(&format!("{PODS}/none/eviction"), &wrong).await.status, 404);
}

#[tokio::test]
async fn owners_are_named_once() {
    let door = door().await;
    let owner = |uid: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid});
    let mut object = map("a", "1");
    object["metadata"]["ownerReferences"] = json!([owner("u"), owner("v"), owner("u"), owner("u")]);
    let why = |when: &str| {
        format!(
            "299 - \".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: u, u\""
        )
    };
    let made = door.post(MAPS, &object).await;
    assert_eq!(made.warnings(), [why("")]);
    assert_eq!(made.ok()["metadata"]["ownerReferences"], json!([owner("u"), owner("v")]));
    let patched = door.merge(&format!("{MAPS}/a"), &object).await;
    assert_eq!(patched.warnings(), [why(" after mutating admission happens")]);
    assert_eq!(patched.ok()["metadata"]["ownerReferences"], json!([owner("u"), owner("v")]));
    door.post(DEPLOYMENTS, &deployment("web")).await.ok();
    let scale = json!({"metadata": {"name": "web", "ownerReferences": object["metadata"]["ownerReferences"]}});
    let path = format!("{DEPLOYMENTS}/web/scale");
    assert_eq!(door.put(&path, &scale).await.warnings(), [why("")]);
    assert_eq!(door.merge(&path, &scale).await.warnings(), [why(" after mutating admission happens")]);
    object["metadata"]["ownerReferences"] = json!([{"apiVersion": "a/b/c", "kind": "Pod", "name": "p", "uid": "u"}]);
    let told = door.put(&format!("{MAPS}/a"), &object).await.told();
    assert!(
        told.2.contains("metadata.ownerReferences.apiVersion: Invalid value: \"a/b/c\": version must not be empty"),
        "{}",
        told.2
    );
}

#[tokio::test]
async fn a_new_object_has_no_revision_to_be_at() {
    let door = door().await;
    let at = |name: &str, revision: &str| {
        let mut object = map(name, "1");
        object["metadata"]["resourceVersion"] = revision.into();
        object
    };
    assert_eq!(door.post(MAPS, &at("a", "7")).await.status, 500);
    for (name, says_nothing) in [("b", ""), ("c", "0"), ("d", "seven"), ("e", "+7")] {
        let made = door.post(MAPS, &at(name, says_nothing)).await.ok();
        assert!(made["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() > 0, "{made}");
    }
}

#[tokio::test]
async fn what_is_put_where_nothing_is_may_name_any_revision_and_be_on_its_way_out() {
    let door = door().await;
    let path = "/apis/coordination.k8s.io/v1/namespaces/default/leases/l";
    let at = |revision: &str| json!({"metadata": {"name": "l", "resourceVersion": revision}});
    let why = "strconv.ParseUint: parsing \"abc\": invalid syntax";
    assert_eq!(door.put(path, &at("abc")).await.told(), (500, String::new(), why.into()));
    assert_eq!(door.get(path).await.status, 404);
    let tried = door.put(&format!("{path}?dryRun=All"), &at("7")).await;
    assert_eq!((tried.status, &tried.json()["metadata"]["resourceVersion"]), (201, &json!("7")));
    let mut lease = at("7");
    lease["metadata"]["selfLink"] = json!("/l");
    lease["metadata"]["deletionTimestamp"] = json!("2020-01-01T00:00:00Z");
    let made = door.put(path, &lease).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let metadata = &made.json()["metadata"];
    assert_ne!(metadata["resourceVersion"], "7");
    assert_eq!((&metadata["deletionTimestamp"], metadata.get("selfLink")), (&json!("2020-01-01T00:00:00Z"), None));
    assert_eq!(door.get(path).await.ok(), made.json());
    door.delete(path, &Value::Null).await.ok();
    assert_eq!(door.get(path).await.status, 404);
    // Of what is posted nothing is on its way out.
    let mut object = map("a", "1");
    object["metadata"]["deletionTimestamp"] = json!("2020-01-01T00:00:00Z");
    assert_eq!(door.post(MAPS, &object).await.ok()["metadata"].get("deletionTimestamp"), None);
}

#[tokio::test]
async fn when_an_object_was_made_is_not_for_clients_to_say() {
    let door = door().await;
    let made = door.post(MAPS, &map("a", "1")).await.ok();
    let other = json!({"metadata": {"creationTimestamp": "2020-01-01T00:00:00Z"}});
    let patched = door.merge(&format!("{MAPS}/a"), &other).await.ok();
    assert_eq!(patched["metadata"]["creationTimestamp"], made["metadata"]["creationTimestamp"]);
}

#[tokio::test]
async fn generated_names_have_beginnings_of_the_kind() {
    let door = door().await;
    door.post(MAPS, &map("a", "1")).await.ok();
    let told = door.merge(&format!("{MAPS}/a"), &json!({"metadata": {"generateName": "A_"}})).await.told();
    assert_eq!((told.0, told.1.as_str()), (422, "Invalid"));
    assert!(told.2.contains("metadata.generateName: Invalid value: \"A_\": a lowercase RFC 1123 subdomain"), "{}", told.2);
}

#[tokio::test]
async fn patches_are_judged_by_their_type_first_and_read_for_objects_that_exist() {
    let door = door().await;
    door.post(DEPLOYMENTS, &deployment("web")).await.ok();
    let ask = |path: String, kind: &'static str, body: &'static str| {
        let door = &door;
        async move { door.ask("PATCH", &path, &[("content-type", kind)], body).await.told() }
    };
    let odd = format!("{DEPLOYMENTS}/web?fieldManager={}", "x".repeat(129));
    assert_eq!(ask(odd.clone(), "application/json", "{}").await.0, 415);
    assert_eq!(ask(odd, MERGE, "{}").await.0, 422);
    assert_eq!(ask(format!("{DEPLOYMENTS}/web/scale"), MERGE, "{").await.0, 400);
    let missing = "deployments.apps \"none\" not found";
    assert_eq!(ask(format!("{DEPLOYMENTS}/none/scale"), MERGE, "{").await, (404, "NotFound".into(), missing.into()));
}

#[tokio::test]
async fn what_is_there_already_is_told_with_what_the_new_one_was_warned_of() {
    let door = door().await;
    let mut pod = pod("a");
    pod["spec"]["nodeSelector"] = json!({"beta.kubernetes.io/os": "linux"});
    let made = door.post(PODS, &pod).await;
    let warned: Vec<String> = made.warnings().into_iter().map(str::to_owned).collect();
    assert_eq!(warned.len(), 1);
    for path in [PODS.to_owned(), format!("{PODS}?dryRun=All")] {
        let again = door.post(&path, &pod).await;
        assert_eq!((again.told().0, again.warnings()), (409, warned.iter().map(String::as_str).collect()));
    }
    // An update that comes too late is not looked at.
    pod["metadata"]["resourceVersion"] = json!("1");
    let late = door.put(&format!("{PODS}/a"), &pod).await;
    assert_eq!((late.told().0, late.warnings().len()), (409, 0));
}
