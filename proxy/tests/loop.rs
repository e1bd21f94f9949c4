//! The whole proxy against an API server played by the test: objects by list and watch, rules in a namespace of its own.

use std::{
    collections::HashMap,
    io::{Read, Write},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Body, extract::Request, response::Response};
use futures::StreamExt;
use knarr_proxy::Config;
use net::{iptables::Iptables, netns};
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A collection's objects, and the stream of its watch events.
type Collection = (Vec<Value>, Option<broadcast::Sender<String>>);

/// Collections by path.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<HashMap<String, Collection>>>);

impl Fake {
    fn put(&self, path: &str, kind: &str, object: Value) {
        let mut object = object;
        let mut all = self.0.lock().unwrap();
        let (objects, events) = all.entry(path.to_owned()).or_default();
        let same = |o: &Value| o["metadata"]["name"] == object["metadata"]["name"];
        let (known, revision) = (objects.iter().any(same), objects.len() + 10);
        object["metadata"]["resourceVersion"] = revision.to_string().into();
        object["kind"] = kind.into();
        let event = json!({"type": if known { "MODIFIED" } else { "ADDED" }, "object": object});
        objects.retain(|o| o["metadata"]["name"] != object["metadata"]["name"]);
        objects.push(object);
        if let Some(events) = events {
            let _ = events.send(format!("{event}\n"));
        }
    }

    fn answer(&self, request: &Request) -> Response {
        let mut all = self.0.lock().unwrap();
        let (objects, events) = all.entry(request.uri().path().to_owned()).or_default();
        if request.uri().query().unwrap_or_default().contains("watch=true") {
            let events = events.get_or_insert_with(|| broadcast::channel(64).0).subscribe();
            let stream = tokio_stream::wrappers::BroadcastStream::new(events).map(|line| line.map(axum::body::Bytes::from));
            return Response::new(Body::from_stream(stream));
        }
        events.get_or_insert_with(|| broadcast::channel(64).0);
        let list = json!({"metadata": {"resourceVersion": "9"}, "items": objects});
        Response::new(Body::from(list.to_string()))
    }
}

struct Namespace(tempfile::TempDir);

impl Namespace {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        netns::create(&folder.path().join("node")).unwrap();
        Self(folder)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("node")
    }

    /// What `PORT/PATH` of the node's loopback answers: status and body.
    fn http(&self, what: &str) -> (u16, String) {
        self.try_http(what).unwrap()
    }

    fn try_http(&self, what: &str) -> std::io::Result<(u16, String)> {
        let (port, path) = what.split_once('/').unwrap();
        let (port, path) = (port.parse::<u16>().unwrap(), path.to_owned());
        let ask = move || {
            let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
            write!(stream, "GET /{path} HTTP/1.1\r\nHost: node\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok::<_, std::io::Error>(text)
        };
        let text = netns::within(&self.path(), move || Ok(ask())).unwrap()?;
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        Ok((head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned()))
    }

    /// Waits until some rule of the nat table holds `text`, or none does.
    async fn nat(&self, text: &str, there: bool) {
        let iptables = Iptables::within(self.path());
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while iptables.save("nat").unwrap().contains(text) != there {
            assert!(tokio::time::Instant::now() < deadline, "{text:?} there: {}", !there);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = netns::delete(&self.path());
    }
}

fn service(name: &str, ip: &str) -> Value {
    let ports = json!([{"port": 80, "nodePort": 30080}]);
    json!({"metadata": {"namespace": "d", "name": name}, "spec": {"clusterIP": ip, "ports": ports}})
}

fn slice(name: &str, ip: &str) -> Value {
    json!({
        "metadata": {"namespace": "d", "name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"port": 8080}],
        "endpoints": [{"addresses": [ip]}],
    })
}

const SERVICES: &str = "/api/v1/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";

/// A proxy in the namespace that asks the fake API, and what ends it.
fn start(namespace: &Namespace, fake: &Fake) -> (JoinHandle<Result<(), knarr_proxy::Error>>, CancellationToken) {
    let server = fake.clone();
    let router = Router::new().fallback(move |request: Request| {
        let answer = server.answer(&request);
        async move { answer }
    });
    let config = Config { namespace: Some(namespace.path()), node_name: "here".into(), ..Config::default() };
    let shutdown = CancellationToken::new();
    (tokio::spawn(knarr_proxy::run(config, kube::Client::new(router, "default"), shutdown.clone())), shutdown)
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_follow_objects_and_come_back() {
    let (namespace, fake) = (Namespace::new(), Fake::default());
    fake.put(SERVICES, "Service", service("web", "10.43.0.7"));
    fake.put(SLICES, "EndpointSlice", slice("web", "10.42.0.2"));
    let (proxy, shutdown) = start(&namespace, &fake);

    namespace.nat("--to-destination 10.42.0.2:8080", true).await;
    fake.put(SLICES, "EndpointSlice", slice("web", "10.42.0.3"));
    namespace.nat("--to-destination 10.42.0.3:8080", true).await;
    namespace.nat("--to-destination 10.42.0.2:8080", false).await;
    fake.put(SERVICES, "Service", service("web", "10.43.0.8"));
    namespace.nat("10.43.0.8/32", true).await;
    namespace.nat("10.43.0.7/32", false).await;

    Iptables::within(namespace.path()).restore("*nat\n-F\nCOMMIT\n".to_owned()).unwrap();
    namespace.nat("--to-destination 10.42.0.3:8080", true).await;

    let first_lines =
        ["10256/healthz", "10256/livez", "10249/metrics", "10249/proxyMode", "10249/x"].map(|what| namespace.http(what));
    assert_eq!(first_lines.each_ref().map(|(status, _)| *status), [200, 200, 200, 200, 404]);
    assert!(first_lines[0].1.contains("\"nodeEligible\": true"), "{}", first_lines[0].1);
    assert!(first_lines[2].1.contains("kubeproxy_sync_proxy_rules_services 1\n"), "{}", first_lines[2].1);
    assert_eq!(first_lines[3].1, "iptables");
    // Said before the first change that was followed.
    let remembered = || Ok(std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait").unwrap());
    assert_eq!(netns::within(&namespace.path(), remembered).unwrap(), "3600\n");

    shutdown.cancel();
    proxy.await.unwrap().unwrap();
    knarr_proxy::cleanup(Some(namespace.path())).await.unwrap();
    namespace.nat("KUBE-", false).await;
}

/// Somebody else may have the port for a moment, as any connection of the node may.
#[tokio::test(flavor = "multi_thread")]
async fn a_health_check_port_that_is_taken_is_had_when_it_is_free() {
    let (namespace, fake) = (Namespace::new(), Fake::default());
    let taken = netns::within(&namespace.path(), || Ok(std::net::TcpListener::bind("0.0.0.0:31000").unwrap())).unwrap();
    let mut balanced = service("web", "10.43.0.7");
    balanced["spec"]["type"] = "LoadBalancer".into();
    balanced["spec"]["externalTrafficPolicy"] = "Local".into();
    balanced["spec"]["healthCheckNodePort"] = 31000.into();
    fake.put(SERVICES, "Service", balanced);
    fake.put(SLICES, "EndpointSlice", slice("web", "10.42.0.2"));
    let (proxy, shutdown) = start(&namespace, &fake);
    namespace.nat("--to-destination 10.42.0.2:8080", true).await;
    drop(taken);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    // Until then nobody answers there; for a moment a program that is just being started may still hold the port that was given up.
    let (_, answer) = loop {
        match namespace.try_http("31000/") {
            Ok(answer) => break answer,
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "the port does not answer: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(answer.contains("\"name\": \"web\""), "{answer}");
    shutdown.cancel();
    proxy.await.unwrap().unwrap();
}
