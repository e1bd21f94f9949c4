//! Discovery and documents.

use serde_json::json;

use crate::ask::*;

#[tokio::test]
async fn documents_are_sent_once() {
    let door = door().await;
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    for (path, accept) in [
        ("/apis", aggregated),
        ("/api", aggregated),
        ("/openapi/v2", "application/json"),
        ("/openapi/v3/apis/apps/v1", "application/json"),
    ] {
        let first = door.ask("GET", path, &[("accept", accept)], "").await;
        let tag = first.header("etag").to_owned();
        assert!(first.status == 200 && tag.len() > 2, "{path}");
        let again = door.ask("GET", path, &[("accept", accept), ("if-none-match", &tag)], "").await;
        assert_eq!((again.status, again.body.len(), again.header("etag")), (304, 0, tag.as_str()), "{path}");
    }
}

#[tokio::test]
async fn both_forms_of_discovery_name_the_same_resources() {
    let door = door().await;
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let new = door.ask("GET", "/apis", &[("accept", accept)], "").await;
    assert_eq!(new.header("content-type"), accept);
    let new = new.json();
    let old = door.get("/apis").await.json();
    assert_eq!((&new["kind"], &old["kind"]), (&json!("APIGroupDiscoveryList"), &json!("APIGroupList")));
    for group in old["groups"].as_array().unwrap() {
        let version = &group["preferredVersion"]["groupVersion"];
        let list = door.get(&format!("/apis/{}", version.as_str().unwrap())).await.json();
        let plain: Vec<_> = list["resources"]
            .as_array()
            .unwrap()
            .iter()
            .map(|r| r["name"].as_str().unwrap())
            .filter(|n| !n.contains('/'))
            .collect();
        let found = new["items"].as_array().unwrap().iter().find(|g| g["metadata"]["name"] == group["name"]).unwrap();
        let theirs: Vec<_> =
            found["versions"][0]["resources"].as_array().unwrap().iter().map(|r| r["resource"].as_str().unwrap()).collect();
        assert_eq!(plain, theirs, "{version}");
    }
}

#[tokio::test]
async fn unknown_paths_are_unknown() {
    let door = door().await;
    for path in ["/api/v1/nothings", "/apis/apps/v9", "/apis/apps/v1/namespaces/default/deployments/a/nothing", "/version/x"]
    {
        let words = "the server could not find the requested resource";
        assert_eq!(door.get(path).await.told(), (404, "NotFound".into(), words.into()), "{path}");
    }
    for path in ["/nothing", "/apis/none/v1", "/openapi/v4"] {
        let answer = door.get(path).await;
        assert_eq!(
            (answer.status, answer.text().as_str(), answer.header("content-type")),
            (404, "404 page not found\n", "text/plain; charset=utf-8"),
            "{path}"
        );
    }
    assert_eq!(door.post("/version", &json!({})).await.status, 405);
    assert_eq!(door.get("/healthz/ping").await.text(), "ok");
    assert_eq!(door.get("/readyz/nothing").await.status, 404);
}
