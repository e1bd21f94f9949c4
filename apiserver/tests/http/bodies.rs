//! What clients get wrong, and what they are told: code, reason and message are upstream's.

use serde_json::json;

use crate::ask::*;

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";

/// Method, path, content type, body; code, reason and message (empty where it is a parser's).
type Case = (&'static str, String, &'static str, String, (u16, &'static str, String));

#[tokio::test]
async fn bad_bodies_are_refused_in_upstreams_words() {
    let door = door().await;
    door.post(MAPS, &map("a", "1")).await.ok();
    let name = |length: usize| "x".repeat(length);
    let deep = format!("{}1{}", "[".repeat(20_000), "]".repeat(20_000));
    let item = format!("{MAPS}/a");
    let unrecognized =
        |kind: &str, why: &str| format!("the object provided is unrecognized (must be of type {kind}): {why}");
    let subdomain = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
    let cases: Vec<Case> = vec![
        ("POST", MAPS.into(), JSON, "{".into(), (400, "BadRequest", unrecognized("ConfigMap", "couldn't get version/kind; json parse error: unexpected end of JSON input ({)"))),
        ("POST", MAPS.into(), JSON, "{\"a\" 1}".into(), (400, "BadRequest", unrecognized("ConfigMap", "couldn't get version/kind; json parse error: invalid character '1' after object key ({\"a\" 1})"))),
        ("POST", MAPS.into(), YAML, "a: [".into(), (400, "BadRequest", String::new())),
        ("POST", MAPS.into(), JSON, json!({"metadata": {"name": 1}}).to_string(), (400, "BadRequest", "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct field ObjectMeta.metadata.name of type string".into())),
        ("POST", MAPS.into(), JSON, json!({"metadata": {"name": "b"}, "data": {"k": 1}}).to_string(), (400, "BadRequest", "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct field ConfigMap.data of type string".into())),
        ("POST", DEPLOYMENTS.into(), JSON, json!({"metadata": {"name": "b"}, "spec": {"replicas": "x"}}).to_string(), (400, "BadRequest", "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32".into())),
        (
            "POST",
            MAPS.into(),
            JSON,
            json!({"kind": "Thing", "apiVersion": "v1", "metadata": {"name": "b"}}).to_string(),
            (400, "BadRequest", "Thing in version \"v1\" cannot be handled as a ConfigMap: no kind \"Thing\" is registered for version \"v1\" in scheme \"pkg/api/legacyscheme/scheme.go:30\"".into()),
        ),
        ("POST", MAPS.into(), JSON, json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "b"}}).to_string(), (400, "BadRequest", "Secret in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Secret) to (core.ConfigMap): unknown conversion".into())),
        ("POST", DEPLOYMENTS.into(), JSON, json!({"kind": "Deployment", "apiVersion": "apps/v1beta9", "metadata": {"name": "b"}}).to_string(), (400, "BadRequest", "Deployment in version \"v1beta9\" cannot be handled as a Deployment: no kind \"Deployment\" is registered for version \"apps/v1beta9\" in scheme \"pkg/api/legacyscheme/scheme.go:30\"".into())),
        ("POST", MAPS.into(), JSON, "{\"apiVersion\":\"a/b/c\"}".into(), (400, "BadRequest", unrecognized("ConfigMap", "unexpected GroupVersion string: a/b/c ({\"apiVersion\":\"a/b/c\"})"))),
        ("DELETE", item.clone(), JSON, json!({"apiVersion": "a/b/c"}).to_string(), (500, "", "unexpected GroupVersion string: a/b/c".into())),
        ("POST", MAPS.into(), "text/plain", "{}".into(), (415, "UnsupportedMediaType", "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf".into())),
        ("POST", MAPS.into(), JSON, deep.clone(), (400, "BadRequest", String::new())),
        ("POST", MAPS.into(), JSON, json!({"metadata": {"name": "A_b"}}).to_string(), (422, "Invalid", format!("ConfigMap \"A_b\" is invalid: metadata.name: Invalid value: \"A_b\": {subdomain}"))),
        ("POST", MAPS.into(), JSON, json!({"metadata": {"name": name(254)}}).to_string(), (422, "Invalid", format!("ConfigMap \"{0}\" is invalid: metadata.name: Invalid value: \"{0}\": must be no more than 253 characters", name(254)))),
        ("POST", MAPS.into(), JSON, "{}".into(), (422, "Invalid", "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required".into())),
        ("POST", MAPS.into(), JSON, json!({"metadata": {"name": "b", "namespace": "other"}}).to_string(), (400, "BadRequest", "the namespace of the provided object does not match the namespace sent on the request".into())),
        ("POST", MAPS.into(), JSON, json!({"metadata": {"name": "b", "resourceVersion": "7"}}).to_string(), (500, "", "resourceVersion should not be set on objects to be created".into())),
        ("POST", MAPS.into(), JSON, json!({"metadata": {"name": "b", "labels": {"-": "x"}}}).to_string(), (422, "Invalid", "ConfigMap \"b\" is invalid: metadata.labels: Invalid value: \"-\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')".into())),
        ("PUT", item.clone(), JSON, json!({"data": {}}).to_string(), (400, "BadRequest", "the name of the object (a based on URL) was undeterminable: name must be provided".into())),
        ("PUT", item.clone(), JSON, map("b", "").to_string(), (400, "BadRequest", "the name of the object (b) does not match the name on the URL (a)".into())),
        ("PUT", item.clone(), JSON, json!({"metadata": {"name": "a", "resourceVersion": "1"}}).to_string(), (409, "Conflict", "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again".into())),
        ("PUT", item.clone(), JSON, json!({"metadata": {"name": "a", "resourceVersion": "x"}}).to_string(), (500, "", "strconv.ParseUint: parsing \"x\": invalid syntax".into())),
        ("PATCH", item.clone(), JSON, "{}".into(), (415, "UnsupportedMediaType", "415: Unsupported Media Type".into())),
        ("PATCH", item.clone(), MERGE, "[".into(), (400, "BadRequest", String::new())),
        ("PATCH", item.clone(), "application/json-patch+json", json!([{"op": "test", "path": "/data/k", "value": "2"}]).to_string(), (422, "Invalid", String::new())),
        ("PATCH", item.clone(), "application/json-patch+json", json!({"op": "test"}).to_string(), (400, "BadRequest", String::new())),
        ("PATCH", item.clone(), MERGE, json!({"metadata": {"resourceVersion": "1"}}).to_string(), (409, "Conflict", "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again".into())),
        ("PATCH", item.clone(), MERGE, json!({"metadata": {"name": "b"}}).to_string(), (400, "BadRequest", "the name of the object (b) does not match the name on the URL (a)".into())),
        ("PATCH", format!("{MAPS}/none"), MERGE, "{}".into(), (404, "NotFound", "configmaps \"none\" not found".into())),
        ("DELETE", item.clone(), JSON, json!({"propagationPolicy": "Sideways"}).to_string(), (422, "Invalid", "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"Sideways\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"".into())),
        ("DELETE", item.clone(), JSON, json!({"dryRun": ["All", "x"]}).to_string(), (422, "Invalid", "DeleteOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"All\",\"x\"]: supported values: \"All\"".into())),
        ("DELETE", item.clone(), JSON, json!({"preconditions": {"uid": "u"}}).to_string(), (409, "Conflict", String::new())),
        ("GET", format!("{MAPS}?labelSelector=a%3D%3D%3Db"), JSON, String::new(), (400, "BadRequest", "unable to parse requirement: found '=', expected: identifier".into())),
        ("GET", format!("{MAPS}?labelSelector=a+in+%28b"), JSON, String::new(), (400, "BadRequest", "unable to parse requirement: found '', expected: ',' or ')'".into())),
        ("GET", format!("{MAPS}?fieldSelector=spec.x%3Dy"), JSON, String::new(), (400, "BadRequest", "\"spec.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"".into())),
        ("GET", "/api/v1/namespaces?fieldSelector=name%3Dy".into(), JSON, String::new(), (400, "BadRequest", "field label not supported: name".into())),
        ("GET", "/apis/apps/v1/replicasets?fieldSelector=status.replicas%3D0".into(), JSON, String::new(), (400, "BadRequest", "\"status.replicas\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"".into())),
        ("GET", format!("{PODS}?fieldSelector=spec.x%3Dy"), JSON, String::new(), (400, "BadRequest", "field label not supported: spec.x".into())),
        ("GET", format!("{PODS}?fieldSelector=spec.x"), JSON, String::new(), (400, "BadRequest", "invalid selector: 'spec.x'; can't understand 'spec.x'".into())),
        ("GET", format!("{MAPS}?resourceVersion=x"), JSON, String::new(), (400, "BadRequest", "invalid resource version: resourceVersion: Invalid value: \"x\": strconv.ParseUint: parsing \"x\": invalid syntax".into())),
        ("GET", format!("{MAPS}?limit=x"), JSON, String::new(), (400, "BadRequest", "strconv.ParseInt: parsing \"x\": invalid syntax".into())),
        ("GET", format!("{MAPS}?continue=%21"), JSON, String::new(), (400, "BadRequest", "invalid continue token: continue key is not valid: illegal base64 data at input byte 0".into())),
        ("POST", format!("{MAPS}?dryRun=Some"), JSON, "{}".into(), (422, "Invalid", "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"".into())),
        ("POST", format!("{MAPS}?fieldValidation=Maybe"), JSON, "{}".into(), (422, "Invalid", "CreateOptions.meta.k8s.io \"\" is invalid: fieldValidation: Unsupported value: \"Maybe\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"".into())),
        ("POST", MAPS.into(), JSON, "[]".into(), (400, "BadRequest", unrecognized("ConfigMap", "couldn't get version/kind; json parse error: json: cannot unmarshal array into Go value of type struct { APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" } (5b5d)"))),
        (
            "POST",
            MAPS.into(),
            JSON,
            json!({"kind": "DeleteOptions", "apiVersion": "v1"}).to_string(),
            (400, "BadRequest", "DeleteOptions in version \"v1\" cannot be handled as a ConfigMap: converting (v1.DeleteOptions) to (core.ConfigMap): unknown conversion".into()),
        ),
        ("POST", MAPS.into(), JSON, "null".into(), (422, "Invalid", "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required".into())),
        ("POST", MAPS.into(), JSON, json!({"metadata": {"name": "b", "finalizers": ["x", "orphan", "a.io/b"]}}).to_string(), (422, "Invalid", "ConfigMap \"b\" is invalid: metadata.finalizers[0]: Invalid value: \"x\": name is neither a standard finalizer name nor is it fully qualified".into())),
        ("PATCH", item.clone(), MERGE, json!({"metadata": {"finalizers": ["x"]}}).to_string(), (422, "Invalid", "ConfigMap \"a\" is invalid: metadata.finalizers[0]: Invalid value: \"x\": name is neither a standard finalizer name nor is it fully qualified".into())),
        ("PATCH", item.clone(), MERGE, json!({"metadata": {"uid": "x"}}).to_string(), (422, "Invalid", "ConfigMap \"a\" is invalid: metadata.uid: Invalid value: \"x\": field is immutable".into())),
        ("PUT", item.clone(), JSON, json!({"metadata": {"name": "a", "uid": "x"}}).to_string(), (409, "Conflict", String::new())),
        ("PATCH", item.clone(), MERGE, json!({"kind": "Thing"}).to_string(), (422, "Invalid", String::new())),
        ("PATCH", format!("{item}?force=true"), MERGE, "{}".into(), (422, "Invalid", "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch".into())),
        ("PATCH", item.clone(), "application/apply-patch+yaml", "{}".into(), (415, "UnsupportedMediaType", "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json".into())),
        ("PATCH", item.clone(), "application/json-patch+json", json!([{"op": "turn", "path": "/data"}]).to_string(), (422, "Invalid", "the server rejected our request due to an error in our request".into())),
        ("PATCH", item.clone(), "application/strategic-merge-patch+json", json!({"$patch": "turn"}).to_string(), (500, "", "unknown patch type: turn in map: map[$patch:turn]".into())),
        ("DELETE", item.clone(), JSON, "{".into(), (500, "", "couldn't get version/kind; json parse error: unexpected end of JSON input".into())),
        ("DELETE", item.clone(), JSON, json!({"kind": "Thing", "apiVersion": "v1"}).to_string(), (500, "", "no kind \"Thing\" is registered for version \"v1\" in scheme \"k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme/register.go:27\"".into())),
        ("DELETE", "/api/v1/configmaps".into(), JSON, String::new(), (405, "MethodNotAllowed", "the server does not allow this method on the requested resource".into())),
        ("POST", item.clone(), JSON, "{}".into(), (405, "MethodNotAllowed", "the server does not allow this method on the requested resource".into())),
        ("PUT", MAPS.into(), JSON, "{}".into(), (405, "MethodNotAllowed", "the server does not allow this method on the requested resource".into())),
    ];
    let mut wrong = Vec::new();
    for (method, path, kind, body, (code, reason, message)) in cases {
        let answer = door.ask(method, &path, &[("content-type", kind)], body.clone()).await;
        let got = answer.told();
        // Where the words are a parser's, they differ from Go's; the rest must not.
        let same = got.0 == code && got.1 == reason && (message.is_empty() || got.2 == message);
        if !same {
            wrong.push(format!("{method} {path} {body:.60}\n  want {:?}\n  got  {got:?}", (code, reason, message)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let list = door.get(MAPS).await.json();
    assert_eq!(list["items"].as_array().unwrap().len(), 1, "nothing was half-written: {list}");
}

#[tokio::test]
async fn bodies_have_a_limit() {
    let door = door().await;
    let large = format!("{{\"data\": {{\"k\": \"{}\"}}}}", "x".repeat(3 << 20));
    for (method, path) in [("POST", MAPS.to_owned()), ("PUT", format!("{MAPS}/a")), ("DELETE", format!("{MAPS}/a"))] {
        let answer = door.ask(method, &path, &[("content-type", JSON)], large.clone()).await;
        let want = "Request entity too large: limit is 3145728";
        assert_eq!(answer.told(), (413, "RequestEntityTooLarge".into(), want.into()), "{method}");
    }
}

#[tokio::test]
async fn unknown_and_repeated_fields_are_refused_warned_of_or_dropped() {
    let door = door().await;
    let body = |name: &str| {
        format!(r#"{{"metadata":{{"name":"{name}","labels":{{"a":"1","a":"2"}}}},"data":{{"k":"v"}},"extra":1}}"#)
    };
    let ask = |name: &'static str, how: &'static str| {
        let (path, body) = (format!("{MAPS}?fieldValidation={how}"), body(name));
        let door = &door;
        async move { door.ask("POST", &path, &[("content-type", JSON)], body).await }
    };
    let strict = ask("a", "Strict").await;
    let want = "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: duplicate field \"metadata.labels.a\", unknown field \"extra\"";
    assert_eq!(strict.told(), (400, "BadRequest".into(), want.into()));
    let warned = ask("b", "Warn").await;
    let want = ["299 - \"duplicate field \\\"metadata.labels.a\\\"\"", "299 - \"unknown field \\\"extra\\\"\""];
    assert_eq!((warned.status, warned.warnings()), (201, want.to_vec()));
    assert_eq!((warned.json().get("extra"), &warned.json()["metadata"]["labels"]["a"]), (None, &json!("2")));
    let ignored = ask("c", "Ignore").await;
    assert_eq!((ignored.status, ignored.warnings()), (201, vec![]));
    let silent = ask("d", "").await;
    assert_eq!(silent.warnings().len(), 2, "Warn is the default");

    let patch = json!({"extra": 1});
    let path = format!("{MAPS}/b?fieldValidation=Strict");
    let told = door.merge(&path, &patch).await.told();
    assert_eq!((told.0, told.1.as_str()), (422, "Invalid"));
    assert!(told.2.starts_with(" \"\" is invalid: patch: Invalid value: \"{"), "{}", told.2);
    assert!(told.2.ends_with("}\": strict decoding error: unknown field \"extra\""), "{}", told.2);
    let warned = door.merge(&format!("{MAPS}/b"), &patch).await;
    assert_eq!((warned.status, warned.warnings()), (200, vec!["299 - \"unknown field \\\"extra\\\"\""]));
    let (kind, twice) = ("application/merge-patch+json", r#"{"data": {"k": "1", "k": "2"}}"#);
    for (name, code, want) in [("b", 200, vec!["299 - \"duplicate field \\\"data.k\\\"\""]), ("none", 404, Vec::new())] {
        let answer = door.ask("PATCH", &format!("{MAPS}/{name}"), &[("content-type", kind)], twice).await;
        assert_eq!((answer.status, answer.warnings()), (code, want));
    }
}

#[tokio::test]
async fn yaml_goes_in_and_out() {
    let door = door().await;
    let yaml = "metadata:\n  name: a\ndata:\n  mode: \"0644\"\n  text: |\n    one\n    two\n";
    let made = door.ask("POST", MAPS, &[("content-type", YAML), ("accept", YAML)], yaml).await;
    assert_eq!((made.status, made.header("content-type")), (201, YAML));
    assert!(made.text().contains("mode: \"0644\""), "{}", made.text());
    assert_eq!(door.get(&format!("{MAPS}/a")).await.json()["data"], json!({"mode": "0644", "text": "one\ntwo\n"}));
    let twice = "metadata: {name: b}\ndata:\n  k: a\n  k: b\n";
    let refused = door.ask("POST", &format!("{MAPS}?fieldValidation=Strict"), &[("content-type", YAML)], twice).await;
    let told = refused.told();
    assert_eq!((told.0, told.1.as_str()), (400, "BadRequest"));
    assert!(told.2.contains("line 4: key \"k\" already set in map"), "{}", told.2);
    let bomb = format!(
        "a: &a [x,x,x,x,x,x,x,x,x]\n{}",
        (0..9)
            .map(|n| format!(
                "b{n}: &b{n} [{}]\n",
                vec![if n == 0 { "*a".to_owned() } else { format!("*b{}", n - 1) }; 9].join(",")
            ))
            .collect::<String>()
    );
    assert_eq!(door.ask("POST", MAPS, &[("content-type", YAML)], bomb).await.status, 400);
}

#[tokio::test]
async fn problems_are_told_in_the_order_of_the_body() {
    let door = door().await;
    let body = r#"{"metadata":{"name":"a","name":"b","zone":1},"data":{"k":"1","k":"2"},"dat":{"x":1,"x":2},"dat":2}"#;
    let json = [("content-type", "application/json")];
    let (_, _, words) = door.ask("POST", &format!("{MAPS}?fieldValidation=Strict"), &json, body).await.told();
    let want = r#"ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: duplicate field "metadata.name", unknown field "metadata.zone", duplicate field "data.k", unknown field "dat""#;
    assert_eq!(words, want);
}

#[tokio::test]
async fn what_nobody_wants_is_read_before_it_is_refused() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let mut server = knarr_apiserver::testing::start().await;
    let url = server.url().await;
    let known = ("content-length: 2", "{}");
    let chunked = ("transfer-encoding: chunked", "2\r\n{}\r\n0\r\n\r\n");
    for (length, body) in [known, chunked] {
        let mut stream = tokio::net::TcpStream::connect(url.trim_start_matches("http://")).await.unwrap();
        // The body comes later than the head, and another request after both.
        let head = format!("DELETE /version HTTP/1.1\r\nhost: a\r\n{length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let early = tokio::time::timeout(std::time::Duration::from_millis(50), stream.read_u8()).await;
        assert!(early.is_err(), "{length}: answered before the body had come");
        let rest = format!("{body}GET /version HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        stream.write_all(rest.as_bytes()).await.unwrap();
        let mut answers = String::new();
        stream.read_to_string(&mut answers).await.unwrap();
        let codes: Vec<&str> = answers.lines().filter(|line| line.starts_with("HTTP/1.1 ")).collect();
        assert_eq!(codes, ["HTTP/1.1 405 Method Not Allowed", "HTTP/1.1 200 OK"], "{length}");
    }
}

#[tokio::test]
async fn depth_ends_no_server() {
    let door = door().await;
    let deep = ["{a: ".repeat(5_000), "- ".repeat(5_000), "[".repeat(5_000)];
    for text in deep.iter().map(|deep| format!("data: {deep}")) {
        let answer = door.ask("POST", MAPS, &[("content-type", "application/yaml")], text).await;
        assert_eq!(answer.status, 400);
    }
    assert_eq!(door.get("/api/v1/namespaces/default").await.status, 200);
}

#[tokio::test]
async fn what_is_not_known_may_be_deep() {
    let door = door().await;
    let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    let json = |depth: usize| format!("{{\"metadata\":{{\"name\":\"a\"}},\"zz\":{}}}", nested(depth));
    let path = format!("{MAPS}?dryRun=All");
    let made = door.ask("POST", &path, &[("content-type", JSON)], json(9_999)).await;
    assert_eq!((made.status, made.warnings()), (201, vec!["299 - \"unknown field \\\"zz\\\"\""]));
    let refused = door.ask("POST", &path, &[("content-type", JSON)], json(10_000)).await.told();
    let why = "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: invalid character '[' exceeded max depth ({\"metadata\":{\"name\":\"a\"},\"zz\": ...)";
    assert_eq!(refused, (400, "BadRequest".into(), why.into()));
    let typed = json(5_000).replace("zz", "data");
    let why = "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal array into Go struct field ConfigMap.data of type map[string]string";
    assert_eq!(door.ask("POST", &path, &[("content-type", JSON)], typed).await.told().2, why);
    let yaml = format!("metadata: {{name: a}}\nzz: {}", nested(240));
    assert_eq!(door.ask("POST", &path, &[("content-type", YAML)], yaml).await.status, 201);
    door.post(MAPS, &map("a", "1")).await.ok();
    let patch = format!("{{\"zz\":{}}}", nested(9_999));
    assert_eq!(door.ask("PATCH", &format!("{MAPS}/a"), &[("content-type", MERGE)], patch).await.status, 200);
    // What keeps anything keeps it whole or not at all.
    let revisions = "/apis/apps/v1/namespaces/default/controllerrevisions";
    let revision = |name: &str, depth: usize| {
        format!("{{\"metadata\":{{\"name\":\"{name}\"}},\"revision\":1,\"data\":{}}}", nested(depth))
    };
    let kept = door.ask("POST", revisions, &[("content-type", JSON)], revision("a", 100)).await;
    assert!(kept.status == 201 && kept.text().contains(&nested(100)), "{}", kept.text());
    assert_eq!(door.ask("POST", revisions, &[("content-type", JSON)], revision("b", 101)).await.status, 400);
    assert_eq!(door.get(&format!("{revisions}/b")).await.status, 404);
}

#[tokio::test]
async fn a_kind_is_found_whatever_its_case() {
    let door = door().await;
    let tell = |body: &'static str| door.ask("POST", MAPS, &[("content-type", JSON)], body);
    let why = "Secret in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Secret) to (core.ConfigMap): unknown conversion";
    let told = tell("{\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\",\"metadata\":{\"name\":\"a\"},\"Kind\":\"Secret\"}")
        .await
        .told();
    assert_eq!(told, (400, "BadRequest".into(), why.into()));
    let made = tell("{\"Kind\":\"Secret\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"a\"}}").await;
    assert_eq!((made.status, made.warnings()), (201, vec!["299 - \"unknown field \\\"Kind\\\"\""]));
}

#[tokio::test]
async fn a_patch_leaves_a_kind_and_a_version() {
    const STRATEGIC: &str = "application/strategic-merge-patch+json";
    const OPERATIONS: &str = "application/json-patch+json";
    let door = door().await;
    let item = format!("{MAPS}/a");
    door.post(MAPS, &map("a", "1")).await.ok();
    let tell = |how: &'static str, kind: &'static str, patch: serde_json::Value| {
        let (path, door) = (format!("{item}?fieldValidation={how}"), &door);
        async move { door.ask("PATCH", &path, &[("content-type", kind)], patch.to_string()).await }
    };
    let number = "couldn't get version/kind; json parse error: json: cannot unmarshal number into Go struct field .kind of type string";
    let array = "couldn't get version/kind; json parse error: json: cannot unmarshal array into Go struct field .apiVersion of type string";
    let replace = |field: &str, value: serde_json::Value| json!([{"op": "replace", "path": field, "value": value}]);
    for (kind, patch, why) in [
        (STRATEGIC, json!({"kind": true}), "patch: Invalid value: \"map[kind:true]\": unrecognized type: string"),
        (STRATEGIC, json!({"kind": 1.5}), "unrecognized type: string"),
        (STRATEGIC, json!({"apiVersion": ["v1"]}), "unrecognized type: string"),
        (STRATEGIC, json!({"kind": {"a": "b"}}), "unrecognized type: string"),
        (STRATEGIC, json!({"apiVersion": 1}), "patch: Invalid value: \"map[apiVersion:1]\": cannot convert int64 to string"),
        (MERGE, json!({"kind": 1}), number),
        (MERGE, json!({"KIND": 1}), number),
        (OPERATIONS, replace("/kind", json!(1)), number),
        (OPERATIONS, replace("/apiVersion", json!([])), array),
        (MERGE, json!({"apiVersion": "a/b/c"}), "unexpected GroupVersion string: a/b/c"),
        (OPERATIONS, replace("/apiVersion", json!("a/b/c")), "unexpected GroupVersion string: a/b/c"),
    ] {
        let (code, reason, message) = tell("Warn", kind, patch.clone()).await.told();
        assert_eq!((code, reason.as_str()), (422, "Invalid"), "{patch}: {message}");
        assert!(message.ends_with(&format!(": {why}")) || message.ends_with(why), "{patch}: {message}");
    }
    // Without a version nothing is known of the object, not even its name.
    let nameless = "the name of the object (a based on URL) was undeterminable: name must be provided";
    for (kind, patch) in [
        (MERGE, json!({"apiVersion": null})),
        (MERGE, json!({"apiVersion": ""})),
        (OPERATIONS, json!([{"op": "remove", "path": "/apiVersion"}])),
    ] {
        for how in ["Warn", "Ignore"] {
            let answer = tell(how, kind, patch.clone()).await;
            assert_eq!(answer.told(), (400, "BadRequest".into(), nameless.into()), "{patch}");
            let want = ["299 - \"unknown field \\\"data\\\"\"", "299 - \"unknown field \\\"metadata\\\"\""];
            assert_eq!(answer.warnings(), if how == "Warn" { want.to_vec() } else { Vec::new() }, "{patch}");
        }
        let (code, _, message) = tell("Strict", kind, patch.clone()).await.told();
        let why = ": strict decoding error: unknown field \"data\", unknown field \"metadata\"";
        assert!(code == 422 && message.ends_with(why), "{patch}: {message}");
    }
    // The kind is known by the path, and a strategic patch changes neither.
    let before = door.get(&item).await.json();
    for (kind, patch) in [
        (MERGE, json!({"kind": null})),
        (MERGE, json!({"kind": ""})),
        (MERGE, json!({"KIND": "Thing"})),
        (STRATEGIC, json!({"kind": "Thing", "apiVersion": null})),
    ] {
        let answer = tell("Warn", kind, patch.clone()).await;
        assert_eq!((answer.status, answer.json()), (200, before.clone()), "{patch}");
    }
}

#[tokio::test]
async fn bodies_are_in_chunks_or_plain() {
    let door = door().await;
    for encoding in ["gzip, chunked", "identity"] {
        let answer = door.ask("POST", MAPS, &[("content-type", JSON), ("transfer-encoding", encoding)], "{}").await;
        assert_eq!((answer.status, answer.text().as_str()), (501, "Unsupported transfer encoding"));
    }
    let chunked =
        door.ask("POST", MAPS, &[("content-type", JSON), ("transfer-encoding", "Chunked")], map("a", "1").to_string()).await;
    assert_eq!(chunked.status, 201);
}

#[tokio::test]
async fn of_several_fields_of_the_wrong_type_the_first_one_is_told() {
    let door = door().await;
    let told = |body: &'static str| {
        let door = &door;
        async move { door.ask("POST", MAPS, &[("content-type", "application/json")], body).await.told().2 }
    };
    let cannot = "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal";
    for (body, want) in [
        (r#"{"immutable":"x","data":5}"#, "string into Go struct field ConfigMap.immutable of type bool"),
        (r#"{"data":5,"immutable":"x"}"#, "number into Go struct field ConfigMap.data of type map[string]string"),
        (
            r#"{"metadata":{"labels":{"a":1},"annotations":5}}"#,
            "number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            r#"{"metadata":{"finalizers":["a",1],"annotations":5}}"#,
            "number into Go struct field ObjectMeta.metadata.finalizers of type string",
        ),
    ] {
        assert_eq!(told(body).await, format!("{cannot} {want}"), "{body}");
    }
}
