//! Discovery and documents.

use serde_json::{Value, json};

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
    for path in ["/api/v1/nothings", "/api/v9"] {
        let answer = door.ask("GET", path, &[("accept", "application/yaml")], "").await;
        assert_eq!((answer.status, answer.header("content-type")), (404, "application/yaml"), "{path}");
        assert!(answer.text().starts_with("apiVersion: v1\ncode: 404\n"), "{path}: {}", answer.text());
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

#[tokio::test]
async fn documents_are_for_those_who_read_them() {
    let door = door().await;
    let plain = [("accept", "text/plain")];
    for (path, head) in
        [("/version", 405), ("/api", 405), ("/api/v1", 405), ("/apis", 200), ("/openapi/v2", 200), ("/healthz", 200)]
    {
        assert_eq!(door.ask("HEAD", path, &[], "").await.status, head, "{path}");
    }
    let refused = |kinds: &str| {
        (406, "NotAcceptable".to_owned(), format!("406: Not Acceptable\n\nAvailable representations: {kinds}"))
    };
    assert_eq!(door.ask("GET", "/version", &plain, "").await.told(), refused("application/json"));
    let three = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
    assert_eq!(door.ask("GET", "/api", &plain, "").await.told(), refused(three));
    let listed = format!("only the following media types are accepted: {three}");
    assert_eq!(door.ask("GET", "/apis", &plain, "").await.told(), (406, "NotAcceptable".into(), listed));
    for path in ["/openapi/v2", "/openapi/v3/api/v1"] {
        let answer = door.ask("GET", path, &plain, "").await;
        assert_eq!((answer.status, answer.body.len(), answer.header("vary")), (406, 0, "Accept"), "{path}");
    }
    let yaml = "application/yaml;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let answer = door.ask("GET", "/apis", &[("accept", yaml)], "").await;
    assert_eq!((answer.status, answer.header("content-type"), answer.header("cache-control")), (200, yaml, "public"));
}

#[tokio::test]
async fn paths_are_read_as_they_are_meant() {
    let door = door().await;
    assert_eq!(door.get("/%61pi/v1/%6Eamespaces/de%66ault").await.ok()["kind"], "Namespace");
    assert_eq!(door.get("/api/v1/namespaces/default%2Fconfigmaps").await.ok()["kind"], "ConfigMapList");
    for path in ["//", "//api/v1", "//api/v1/nodes", "/apis//", "/apis//apps", "/healthz//", "/openapi//v2", "/openapi/v2/"]
    {
        let answer = door.get(path).await;
        assert_eq!((answer.status, answer.text().as_str()), (404, "404 page not found\n"), "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
    }
    let answer = door.get("/openapi/v3//api/v1").await;
    assert_eq!((answer.status, answer.body.len()), (404, 0));
    let answer = door.get("/api/v1/namespaces/default/configmaps/a%zz").await;
    assert_eq!((answer.status, answer.text().as_str()), (400, "400 Bad Request"));
    let two = [("host", "a"), ("host", "b")];
    assert_eq!(door.ask("GET", "/version", &two, "").await.text(), "400 Bad Request");
    assert_eq!(door.ask("GET", "/version", &[("host", "a b")], "").await.status, 400);
    assert_eq!(door.ask("GET", "/version", &[("host", "[::1]:6443")], "").await.status, 200);
    assert_eq!(door.ask("GET", "/version", &[("expect", "miracles")], "").await.status, 417);
    assert_eq!(door.ask("GET", "/version", &[("expect", "100-Continue")], "").await.status, 200);
    assert_eq!(door.ask("CONNECT", "a:1", &[], "").await.status, 404);
    assert_eq!(door.ask("OPTIONS", "*", &[], "").await.status, 200);
    let answer = door.get("/api/v1/watch?a=b").await;
    let why = "failed to create RequestInfo: unable to determine kind and namespace from url, /api/v1/watch?a=b\n";
    assert_eq!((answer.status, answer.text()), (500, format!("Internal Server Error: \"/api/v1/watch?a=b\": {why}")));
    for (method, verdict) in [("GET", 400), ("DELETE", 400), ("POST", 405)] {
        assert_eq!(door.ask(method, &format!("{MAPS}/%2E%2E"), &[], "").await.status, verdict, "{method}");
    }
    for (query, why) in [
        ("timeoutSeconds=", "strconv.ParseInt: parsing \"\": invalid syntax"),
        ("limit=", "strconv.ParseInt: parsing \"\": invalid syntax"),
        ("timeout=%00", "invalid timeout specified in the request URL - time: invalid duration \"\\x00\""),
        (
            "continue=All",
            "invalid continue token: continue key is not valid: invalid character '\\x02' looking for beginning of value",
        ),
    ] {
        let told = door.get(&format!("{MAPS}?{query}")).await.told();
        assert_eq!(told, (400, "BadRequest".into(), why.into()));
    }
    let told = door.get(&format!("{MAPS}/a?export=1")).await.told();
    assert_eq!((told.0, told.2.as_str()), (400, "the export parameter, deprecated since v1.14, is no longer supported"));
    assert_eq!(door.get(&format!("{MAPS}/a?export=0")).await.status, 404);
    // An object in a namespace is nowhere else, and an empty namespace is none.
    for (path, found, missing) in [
        ("/api/v1/pods/x", 404, ""),
        ("/api/v1/pods/x/status", 404, ""),
        ("/api/v1/pods/x/log", 404, ""),
        ("/apis/apps/v1/deployments/x/scale", 404, ""),
        ("/api/v1/nodes/x/nothing", 404, ""),
        ("/api/v1/namespaces/default/nodes/x", 404, ""),
        ("/api/v1/namespaces//nodes", 404, ""),
        ("/api/v1/namespaces/default/namespaces", 404, ""),
        ("/api/v1/namespaces/default/bindings/x", 404, ""),
        ("/api/v1/namespaces/default/pods/x/status/y", 404, ""),
        ("/apis/authorization.k8s.io/v1/localsubjectaccessreviews", 404, ""),
        ("/apis/authorization.k8s.io/v1/namespaces/default/selfsubjectaccessreviews", 404, ""),
        ("/apis/authentication.k8s.io/v1/tokenreviews/x", 404, ""),
        ("/apis/authentication.k8s.io/v9/tokenreviews", 404, ""),
        ("/api/v1/watch/namespaces/default/pods/x/status", 404, ""),
        ("/api/v1/namespaces//pods/x", 400, "HEAD POST OPTIONS"),
        ("/api/v1/namespaces//pods/x/status", 400, "HEAD POST DELETE OPTIONS"),
        ("/api/v1/namespaces//status", 400, "HEAD POST DELETE OPTIONS"),
        ("/api/v1/namespaces/default/pods//log", 400, "HEAD POST PUT PATCH DELETE OPTIONS"),
        ("/api/v1/nodes//proxy", 400, ""),
        ("/api/v1/namespaces//pods", 400, "HEAD PUT PATCH OPTIONS"),
        ("/api/v1/namespaces/../pods", 500, "HEAD PUT PATCH OPTIONS"),
        ("/api/v1/namespaces/../pods/x", 500, "HEAD POST OPTIONS"),
        ("/api/v1/nodes/..", 400, "HEAD POST OPTIONS"),
    ] {
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            // A list of an empty namespace is one of all; deleting there is deleting what is nowhere.
            let listed = path == "/api/v1/namespaces//pods" && matches!(method, "GET" | "DELETE");
            let want = if missing.contains(method) {
                405
            } else if listed {
                200
            } else {
                found
            };
            let body = match method {
                "POST" if path.ends_with("/pods") => pod("x").to_string(),
                "PUT" => json!({"metadata": {"name": if path.ends_with("..") { ".." } else { "x" }}}).to_string(),
                "PATCH" | "POST" => "{}".to_owned(),
                _ => String::new(),
            };
            let content = if method == "PATCH" { MERGE } else { "application/json" };
            // A pod of no namespace has no account.
            let want = if (method, path) == ("POST", "/api/v1/namespaces//pods") { 403 } else { want };
            let answer = door.ask(method, path, &[("content-type", content)], body).await;
            assert_eq!(answer.status, want, "{method} {path}: {}", answer.text());
        }
    }
    for path in ["/api/v1/namespaces/default/pods/x/log/y", "/api/v1/namespaces/default/pods/x/exec/y"] {
        assert_eq!(door.get(path).await.told().2, "the server could not find the requested resource");
    }
    let answer = door.ask("POST", "/api/v1/namespaces/default/pods/x/proxy/?dryRun=All", &[], "").await;
    assert_eq!(answer.told(), (400, "BadRequest".into(), "dryRun is not supported".into()));
}

#[tokio::test]
async fn no_namespace_and_none_that_can_be_are_told() {
    let door = door().await;
    door.post(MAPS, &map("a", "b")).await.ok();
    let nowhere = "/api/v1/namespaces//configmaps";
    let told = door.delete(nowhere, &Value::Null).await.told();
    assert_eq!(told, (400, "BadRequest".into(), "Namespace parameter required.".into()));
    let none = door.delete(&format!("{nowhere}?labelSelector=no=one"), &Value::Null).await.ok();
    assert_eq!(none["items"], json!([]));
    assert_eq!(door.get(&format!("{MAPS}/a")).await.status, 200);
    // What the object says of its namespace is not asked for.
    let told = door.post(nowhere, &json!({"metadata": {"name": "x", "namespace": "default"}})).await.told();
    let why = "ConfigMap \"x\" is invalid: metadata.namespace: Required value";
    assert_eq!(told, (422, "Invalid".into(), why.into()));
    let told = door.post("/api/v1/namespaces//pods", &pod("x")).await.told();
    let why = "pods \"x\" is forbidden: error looking up service account /default: an empty namespace may not be set when a resource name is provided";
    assert_eq!(told, (403, "Forbidden".into(), why.into()));
    let told = door.post("/api/v1/namespaces//pods", &json!({})).await.told();
    assert_eq!((told.0, told.2), (403, why.replace("\"x\"", "\"Unknown\"")));
    let told = door.post("/api/v1/namespaces/../bindings", &json!({"metadata": {"name": "x"}})).await.told();
    let why = "Internal error occurred: invalid resource name \"..\": [may not be '..']";
    assert_eq!(told, (500, "InternalError".into(), why.into()));
    for (path, code, why) in [
        ("/api/v1/namespaces/../services/x", 500, "invalid key: \"/services/specs/../x\""),
        ("/api/v1/namespaces/../pods?watch=1&fieldSelector=metadata.name=x", 500, "invalid key: \"/pods/../x\""),
        ("/apis/apps/v1/namespaces//deployments/x/scale", 404, "deployments/scale.apps \"x\" not found"),
    ] {
        let told = door.get(path).await.told();
        assert_eq!((told.0, told.2.as_str()), (code, why), "{path}");
    }
    let both = door.ask("DELETE", &format!("{MAPS}?resourceVersion=x"), &[], "[]").await.told();
    assert_eq!(both.0, 500, "the body is looked at before the revision: {}", both.2);
    for (path, body) in [
        ("pods/x/eviction", json!({"metadata": {"name": "x"}})),
        ("pods/x/binding", json!({"metadata": {"name": "x"}, "target": {"name": "n"}})),
        ("pods/x/binding", json!({})),
        ("serviceaccounts/x/token", json!({})),
    ] {
        let told = door.post(&format!("/api/v1/namespaces/none/{path}"), &body).await.told();
        assert_eq!(told, (404, "NotFound".into(), "namespaces \"none\" not found".into()), "{path}");
    }
}

#[tokio::test]
async fn a_list_has_not_the_metadata_of_an_object() {
    let door = door().await;
    door.post(MAPS, &map("a", "b")).await.ok();
    let form = |kind: &str| format!("application/json;as={kind};g=meta.k8s.io;v=v1");
    let asked = |path: String, kind: &str| {
        let accept = form(kind);
        let door = &door;
        async move { door.ask("GET", &path, &[("accept", &accept)], "").await.told() }
    };
    let object = "you requested PartialObjectMetadata, but the requested object is a list (*core.ConfigMapList)";
    assert_eq!(asked(MAPS.to_owned(), "PartialObjectMetadata").await, (406, "NotAcceptable".into(), object.into()));
    let list = "you requested PartialObjectMetadataList, but the requested object is not a list (*core.ConfigMap)";
    let named = format!("{MAPS}/a");
    assert_eq!(asked(named, "PartialObjectMetadataList").await, (406, "NotAcceptable".into(), list.into()));
    assert_eq!(asked(format!("{MAPS}/none"), "PartialObjectMetadataList").await.0, 404);
    let answer = door.ask("GET", MAPS, &[("accept", "application/json;v=v1;g=meta.k8s.io")], "").await;
    assert_eq!(answer.status, 406);
    // A watch of lists ends at its first event, without a word.
    let accept = form("PartialObjectMetadataList");
    let watched = door.ask("GET", &format!("{MAPS}?watch=1"), &[("accept", &accept)], "").await;
    assert_eq!((watched.status, watched.text().as_str()), (200, ""));
}

#[tokio::test]
async fn errors_are_indented_for_people() {
    let door = door().await;
    let path = format!("{MAPS}/none");
    let curl = door.ask("GET", &path, &[("user-agent", "curl/8")], "").await.text();
    assert_eq!(curl, door.get(&format!("{path}?pretty=1")).await.text());
    assert!(curl.starts_with("{\n  \"kind\": \"Status\",\n"), "{curl}");
}
