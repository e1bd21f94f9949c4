//! The kubelet with the built-in runtime: what containers really see. Needs root.

// By the name that it has in its own tests.
extern crate runtime as knarr_runtime;

#[path = "../../runtime/tests/support/mod.rs"]
mod node;
#[allow(dead_code)]
mod support;

use std::sync::Arc;

use node::{BUSYBOX, Node};
use serde_json::{Value, json};
use support::{Stage, is, phase};

fn script(name: &str, text: &str) -> Value {
    json!({"name": name, "image": BUSYBOX, "command": ["sh", "-c", text]})
}

/// The kubelet ends before its runtime does.
async fn stage() -> (Node, Stage) {
    let node = Node::start().await;
    let (fake, cgroup) = (Arc::new(support::cri::Fake::new()), node.place.cgroup.clone());
    let stage = Stage::start_on(fake, node.channel.clone(), |config| config.cgroup_root = cgroup);
    (node, stage)
}

/// Containers see their volumes, environment and identity, say why they ended, and restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_container_sees() {
    let (_node, stage) = stage().await;
    stage.api.put("/api/v1/namespaces/default/configmaps", json!({"metadata": {"name": "cm"}, "data": {"k": "from-map"}}));
    let mut main = script(
        "a",
        "cat /cm/k /sub/f; echo $HOST $GREETING; cat /etc/hosts | grep p-host; id -G; stat -c %a /mem; printf bye > /dev/termination-log; exit 3",
    );
    main["env"] = json!([
        {"name": "HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "GREETING", "value": "hello-$(HOST)"}]);
    main["volumeMounts"] = json!([
        {"name": "cm", "mountPath": "/cm"},
        {"name": "data", "mountPath": "/sub", "subPath": "deep/er"},
        {"name": "mem", "mountPath": "/mem"}]);
    let mut init = script("i", "echo from-init > /data/deep/er/f");
    init["volumeMounts"] = json!([{"name": "data", "mountPath": "/data/deep/er", "subPath": "deep/er"}]);
    stage.pod(
        "p",
        json!({
        "restartPolicy": "Never", "hostname": "p-host", "securityContext": {"fsGroup": 4711},
        "volumes": [
            {"name": "cm", "configMap": {"name": "cm"}}, {"name": "data", "emptyDir": {}},
            {"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}],
        "initContainers": [init], "containers": [main]}),
    );
    let pod = stage.wait("p", "over", |p| phase(p) == "Failed").await;
    let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(
        (ended["exitCode"].as_i64(), ended["reason"].as_str(), ended["message"].as_str()),
        (Some(3), Some("Error"), Some("bye"))
    );
    let log = stage.config.pod_logs_dir.join("default_p_uid-p/a/0.log");
    let said: Vec<String> =
        std::fs::read_to_string(&log).unwrap().lines().filter_map(|l| Some(l.splitn(4, ' ').nth(3)?.to_owned())).collect();
    assert_eq!(said[0], "from-mapfrom-init");
    assert_eq!(said[1], "192.0.2.1 hello-192.0.2.1");
    assert_eq!(said[2], "192.0.2.1\tp-host");
    assert!(said[3].split(' ').any(|g| g == "4711"), "{said:?}");
    assert_eq!(said[4], "3777");
    stage.api.delete_pod("p", 30);
    stage.gone("p").await;
    let dir = stage.config.root_dir.join("pods/uid-p");
    assert!(!dir.exists());
}

/// A kubelet that is gone takes nothing with it, and its successor goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_takes_over() {
    let (_node, mut stage) = stage().await;
    stage.pod("p", json!({"containers": [script("a", "trap 'exit 0' TERM; while :; do sleep 0.05; done")]}));
    let started = std::time::Instant::now();
    let before = stage.wait("p", "ready", |p| is(p, "Ready")).await;
    println!("bound to ready: {:?}", started.elapsed());
    stage.restart_kubelet().await;
    stage.pod("q", json!({"containers": [script("b", "trap 'exit 0' TERM; while :; do sleep 0.05; done")]}));
    let started = std::time::Instant::now();
    stage.wait("q", "ready", |p| is(p, "Ready")).await;
    println!("bound to ready: {:?}", started.elapsed());
    let after = stage.api.get("pods", "default", "p").unwrap();
    assert_eq!(after["status"]["containerStatuses"], before["status"]["containerStatuses"]);
    for pod in ["p", "q"] {
        stage.api.delete_pod(pod, 30);
    }
    let started = std::time::Instant::now();
    stage.gone("p").await;
    stage.gone("q").await;
    println!("deleted to gone: {:?}", started.elapsed());
}

/// A TLS connection to the kubelet's port.
async fn connect(stage: &Stage, port: u16) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    use tokio_rustls::rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    };
    let own = CertificateDer::from_pem_file(stage.config.root_dir.join("pki/kubelet.crt")).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(own).unwrap();
    let config = ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let name = ServerName::try_from(support::NODE).unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

/// The port that the node announces.
async fn port(stage: &Stage) -> u16 {
    let served = |n: &Value| n["status"]["daemonEndpoints"].is_object();
    let node = stage.api.wait("nodes", "", support::NODE, "served", served).await;
    u16::try_from(node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().unwrap()).unwrap()
}

/// Asks the kubelet's port; gives the status line's code and everything after the headers.
async fn ask(stage: &Stage, port: u16, path: &str, token: Option<&str>) -> (u16, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = connect(stage, port).await;
    let token = token.map_or(String::new(), |t| format!("Authorization: Bearer {t}\r\n"));
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{token}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // Servers may close without TLS's goodbye.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (head.split(' ').nth(1).and_then(|c| c.parse().ok()).unwrap_or(0), body.to_owned())
}

/// Runs a command in a container through the kubelet's port; gives output and last words.
async fn exec(stage: &Stage, port: u16, wire: streaming::negotiate::Wire, query: &str) -> (String, String) {
    use http_body_util::Empty;
    use hyper_util::rt::TokioIo;
    use streaming::{client, command, negotiate::Wire};
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(connect(stage, port).await)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let protocols = match wire {
        Wire::Spdy => command::SPDY_PROTOCOLS,
        Wire::WebSocket => command::WEBSOCKET_PROTOCOLS,
    };
    let mut request = hyper::Request::get(format!("/exec/default/p/a?{query}")).body(Empty::<bytes::Bytes>::new()).unwrap();
    *request.headers_mut() = client::upgrade_headers(wire, protocols);
    request.headers_mut().insert("authorization", "Bearer admin".parse().unwrap());
    request.headers_mut().insert("host", "x".parse().unwrap());
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 101);
    let agreed = client::agreed(response.headers()).unwrap();
    let io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let options = command::Options::from_query(query).unwrap();
    let mut command = client::Command::open(io, &agreed, options).await.unwrap();
    let read = async |mut from: streaming::stream::Receive| {
        let mut text = String::new();
        while let Some(piece) = from.next().await {
            text.push_str(std::str::from_utf8(&piece).unwrap());
        }
        text
    };
    let output = read(command.stdout.take().unwrap()).await;
    (output, read(command.error).await)
}

/// Commands run through the port on either wire, and say how they ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_run_through_the_port() {
    use streaming::negotiate::Wire;
    let (_node, stage) = stage().await;
    let port = port(&stage).await;
    stage.pod("p", json!({"terminationGracePeriodSeconds": 1, "containers": [script("a", "sleep 1000")]}));
    stage.wait("p", "running", |p| is(p, "Ready")).await;
    for wire in [Wire::WebSocket, Wire::Spdy] {
        let (output, end) = exec(&stage, port, wire, "command=echo&command=hello+there&output=1").await;
        assert_eq!(output, "hello there\n", "{wire:?}");
        assert!(end.contains("\"Success\""), "{wire:?}: {end}");
        let (_, end) = exec(&stage, port, wire, "command=sh&command=-c&command=exit+7&output=1").await;
        assert!(end.contains("exit status 7") || end.contains("\"7\""), "{wire:?}: {end}");
    }
}

/// The port knows who asks, what they may, and follows a log to its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kubelets_port() {
    let (_node, stage) = stage().await;
    let port = port(&stage).await;
    let mut main = script("a", "echo one; sleep 0.3; echo two; sleep 0.3; echo three; test $A = b");
    main["env"] = json!([{"name": "A", "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": "env", "key": "A"}}}]);
    let mut first = script("first", "echo \"A='b'\" >/v/env; dd if=/dev/zero of=/v/big bs=64k count=1");
    first["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    for (pod, main) in [("p", main), ("q", script("a", "exec sleep 1000"))] {
        let volumes = json!([{"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}, {"name": "h", "hostPath": {"path": "/"}}]);
        let spec = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "initContainers": [first],
            "containers": [main], "volumes": volumes});
        stage.pod(pod, spec);
    }
    stage.wait("p", "running", |p| phase(p) == "Running").await;
    let (code, text) = ask(&stage, port, "/containerLogs/default/p/a?follow=true", Some("good")).await;
    assert_eq!(code, 200);
    for word in ["one\n", "two\n", "three\n"] {
        assert!(text.contains(word), "{word:?} is missing in {text:?}");
    }
    let codes = [
        ask(&stage, port, "/pods", None).await.0,
        ask(&stage, port, "/pods", Some("bad")).await.0,
        ask(&stage, port, "/pods", Some("good")).await.0,
        ask(&stage, port, "/healthz", Some("good")).await.0,
        ask(&stage, port, "/exec/default/p/a?command=sh&output=1", Some("good")).await.0,
        ask(&stage, port, "/stats/summary", Some("good")).await.0,
        ask(&stage, port, "/metrics/resource", Some("good")).await.0,
        ask(&stage, port, "/metrics/probes", Some("good")).await.0,
        ask(&stage, port, "/containerLogs/default/none/a", Some("good")).await.0,
        ask(&stage, port, "/containerLogs/default/p/none", Some("good")).await.0,
        ask(&stage, port, "/containerLogs/default/p/a?previous=true", Some("good")).await.0,
    ];
    assert_eq!(codes, [401, 401, 200, 200, 403, 200, 200, 200, 404, 404, 400]);
    // What the first container wrote was in the environment.
    stage.wait("p", "ended well", |p| phase(p) == "Succeeded").await;

    // A page and sixteen in the volume and two files; of the host's directory nothing is said.
    stage.wait("q", "running", |p| phase(p) == "Running").await;
    let (_, text) = ask(&stage, port, "/metrics/cadvisor", Some("good")).await;
    let of_q = |name: &str| text.lines().any(|line| line.starts_with(&format!("{name}{{")) && line.contains("pod=\"q\""));
    let measured =
        ["container_memory_working_set_bytes", "container_cpu_usage_seconds_total", "container_threads"].map(of_q);
    assert_eq!(measured, [true; 3], "{text}");
    assert!(text.contains("container_cpu_usage_seconds_total{id=\"/\"} "), "{text}");
    let (_, text) = ask(&stage, port, "/metrics", Some("good")).await;
    assert!(text.contains("kubelet_runtime_operations_total{operation_type=\"run_podsandbox\"}"), "{text}");
    let (_, text) = ask(&stage, port, "/stats/summary", Some("good")).await;
    let summary: Value = serde_json::from_str(&text).unwrap();
    let of_q = summary["pods"].as_array().unwrap().iter().find(|pod| pod["podRef"]["name"] == "q").unwrap();
    let volume = |v: &Value| ["name", "usedBytes", "capacityBytes", "inodesUsed"].map(|field| v[field].clone());
    let volumes: Vec<_> = of_q["volume"].as_array().into_iter().flatten().map(volume).collect();
    assert_eq!(json!(volumes), json!([["v", 69632, 1 << 20, 3]]), "{text}");
}

/// A pod that writes more than it may into its volume ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_over_its_limit_evicts_its_pod() {
    let (_node, stage) = stage().await;
    let mut main = script("a", "dd if=/dev/zero of=/v/big bs=64k count=64; exec sleep 1000");
    main["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    stage.pod(
        "p",
        json!({"terminationGracePeriodSeconds": 0, "containers": [main],
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}]}),
    );
    let pod = stage.wait("p", "evicted", |p| phase(p) == "Failed").await;
    let expected = "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ";
    assert_eq!((&pod["status"]["reason"], &pod["status"]["message"]), (&json!("Evicted"), &json!(expected)));
}
