//! The way to a stand-in kubelet that speaks TLS with the cluster's certificates.

use std::{collections::HashMap, net::SocketAddr};

use axum::{Router, extract::Request as AxumRequest, routing::any};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    identity::User,
    security::{
        pki::Pki,
        rbac::{Rbac, index::Source},
        tls::{self, Certificate, Peer, Tls},
    },
};

struct Dir(std::path::PathBuf);

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Objects(HashMap<String, Value>);

#[async_trait]
impl Lookup for Objects {
    async fn find(&self, plural: &str, _namespace: &str, name: &str) -> Result<Option<Value>, Status> {
        Ok(self.0.get(&format!("{plural}/{name}")).cloned())
    }
}

struct World {
    kubelets: Kubelets,
    pod: Value,
    _dir: Dir,
    shutdown: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Says who calls and what for; `waiting` containers have no log yet.
async fn kubelet(request: AxumRequest) -> Response {
    let peer = request.extensions().get::<Peer>().cloned();
    let user = match peer.map(|p| p.certificate) {
        Some(Certificate::Good { user, .. }) => user.name.clone(),
        _ => "nobody".to_owned(),
    };
    let mut response = Response::new(Body::from(format!("{user} {}", request.uri())));
    if request.uri().path().ends_with("/waiting") {
        *response.status_mut() = StatusCode::BAD_REQUEST;
        *response.body_mut() = Body::from("container \"waiting\" in pod \"p\" is waiting to start: ContainerCreating");
    }
    response
}

fn node(address: SocketAddr) -> Value {
    json!({"status": {"addresses": [{"type": "InternalIP", "address": address.ip()}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": address.port()}}}})
}

async fn world() -> World {
    let dir = Dir(std::env::temp_dir().join(format!("knarr-upgrade-{}", uuid::Uuid::new_v4())));
    let pki = Pki::open(&dir.0, time::OffsetDateTime::now_utc()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = Tls::new(&pki.kubelet_server("n", &["127.0.0.1"]).unwrap(), pki.authority_pem()).unwrap();
    let shutdown = CancellationToken::new();
    tokio::spawn(tls::serve(listener, serving, Router::new().fallback(any(kubelet)), shutdown.clone()));
    let rbac = Rbac::default();
    let role = json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods/exec", "nodes/proxy"]}]});
    rbac.apply(Source::ClusterRole, "", "looker", Some(&role));
    let binding = json!({"roleRef": {"kind": "ClusterRole", "name": "looker"},
        "subjects": [{"kind": "User", "name": "looker"}]});
    rbac.apply(Source::ClusterRoleBinding, "", "b", Some(&binding));
    let config = tls::client(Some(&pki.kubelet_client().unwrap()), pki.authority_pem()).unwrap();
    let kubelets = Kubelets {
        tls: Arc::new(config),
        insecure: Arc::new(tls::insecure_client().unwrap()),
        lookup: Arc::new(Objects(HashMap::from([("nodes/n".to_owned(), node(address))]))),
        authorize: Arc::new(rbac),
        loopback: true,
    };
    let pod = json!({"metadata": {"name": "p", "namespace": "d"},
        "spec": {"nodeName": "n", "containers": [{"name": "c"}, {"name": "waiting"}]},
        "status": {"podIPs": [{"ip": "127.0.0.1"}]}});
    World { kubelets, pod, _dir: dir, shutdown }
}

fn request(uri: &str, user: &str, upgrade: bool) -> (RequestInfo, Request<Body>) {
    let mut request = Request::get(uri).body(Body::empty()).unwrap();
    request.extensions_mut().insert::<Identity>(Arc::new(User::new(user, &[])));
    request.headers_mut().insert("authorization", HeaderValue::from_static("Bearer secret"));
    if upgrade {
        request.headers_mut().insert("connection", HeaderValue::from_static("Upgrade"));
        request.headers_mut().insert("upgrade", HeaderValue::from_static("websocket"));
    }
    (RequestInfo::parse(&Method::GET, request.uri().path(), request.uri().query()), request)
}

async fn told(response: Response) -> (u16, String) {
    let code = response.status().as_u16();
    let text = String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
    let message = serde_json::from_str::<Value>(&text).ok().map(|status| location::text(&status, "/message").to_owned());
    (code, message.unwrap_or(text))
}

#[tokio::test]
async fn logs_come_from_the_kubelet_or_its_error_does() {
    let world = world().await;
    let ask = async |query: &str| {
        let (info, request) = request(&format!("/api/v1/namespaces/d/pods/p/log?{query}"), "alice", false);
        told(world.kubelets.connect(&info, &world.pod, request).await).await
    };
    let want = "kube-apiserver-kubelet-client /containerLogs/d/p/c?follow=true&tailLines=5";
    assert_eq!(ask("container=c&follow=true&tailLines=5").await, (200, want.to_owned()));
    let want = "container \"waiting\" in pod \"p\" is waiting to start: ContainerCreating";
    assert_eq!(ask("container=waiting").await, (400, want.to_owned()));
    let want = "a container name must be specified for pod p, choose one of: [c waiting]";
    assert_eq!(ask("").await, (400, want.to_owned()));
}

#[tokio::test]
async fn the_right_to_look_is_not_the_right_to_run() {
    let world = world().await;
    let node = world.kubelets.lookup.find("nodes", "", "n").await.unwrap().unwrap();
    let exec = "/api/v1/namespaces/d/pods/p/exec?container=c&command=sh&stdout=true";
    let through_node = "/api/v1/nodes/n/proxy/exec/d/p/c?command=sh&output=1";
    let metrics = "/api/v1/nodes/n/proxy/metrics";
    let (info, asked) = request(exec, "looker", true);
    let want = "pods \"p\" is forbidden: User \"looker\" cannot create resource \"pods/exec\" in API group \"\" in the \
                namespace \"d\"";
    assert_eq!(told(world.kubelets.connect(&info, &world.pod, asked).await).await, (403, want.to_owned()));
    for (uri, upgrade, want) in
        [(through_node, true, 403), (through_node, false, 403), (metrics, true, 403), (metrics, false, 200)]
    {
        let (info, asked) = request(uri, "looker", upgrade);
        assert_eq!(told(world.kubelets.connect(&info, &node, asked).await).await.0, want, "{uri}");
    }
}

#[tokio::test]
async fn pods_on_our_own_address_are_not_called() {
    let world = world().await;
    let (info, asked) = request("/api/v1/namespaces/d/pods/p:80/proxy/x", "alice", false);
    let got = told(world.kubelets.connect(&info, &world.pod, asked).await).await;
    assert_eq!(got, (400, "address not allowed".to_owned()));
}

#[tokio::test]
async fn reading_a_proxy_without_a_path_leads_to_its_root() {
    let world = world().await;
    let node = world.kubelets.lookup.find("nodes", "", "n").await.unwrap().unwrap();
    let mut got = Vec::new();
    for method in [Method::GET, Method::HEAD, Method::PUT] {
        let (info, mut asked) = request("/api/v1/nodes/n/proxy?a=b", "alice", false);
        *asked.method_mut() = method;
        let response = world.kubelets.connect(&info, &node, asked).await;
        let location = response.headers().get(header::LOCATION).map(|l| l.to_str().unwrap().to_owned());
        got.push((response.status().as_u16(), location));
    }
    let moved = (301, Some("/api/v1/nodes/n/proxy/?a=b".to_owned()));
    assert_eq!(got, [moved.clone(), moved, (200, None)]);
}

#[tokio::test]
async fn a_kubelet_that_is_away_is_an_error_in_upstreams_words() {
    let mut world = world().await;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    world.kubelets.lookup = Arc::new(Objects(HashMap::from([("nodes/n".to_owned(), node(free))])));
    let (info, asked) = request("/api/v1/namespaces/d/pods/p/log?container=c", "alice", false);
    let want = format!("Get \"https://{free}/containerLogs/d/p/c\": dial tcp {free}: connect: connection refused");
    assert_eq!(told(world.kubelets.connect(&info, &world.pod, asked).await).await, (500, want));
}

#[test]
fn redirects_stay_behind_the_proxy() {
    let backend: SocketAddr = "10.42.0.5:80".parse().unwrap();
    let cases = [
        ("/login", "/p/login"),
        ("http://10.42.0.5:80/login", "/p/login"),
        ("https://elsewhere.example/", "https://elsewhere.example/"),
        ("//elsewhere.example/", "//elsewhere.example/"),
    ];
    for (location, want) in cases {
        let mut headers = HeaderMap::from_iter([(header::LOCATION, HeaderValue::from_static(location))]);
        relocate(&mut headers, "/p", backend);
        assert_eq!(headers[header::LOCATION], want);
    }
}
