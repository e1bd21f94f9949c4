//! What kubelets may do: the Node authorizer and NodeRestriction, rule by rule, allowed and refused.

use base64::{Engine, engine::general_purpose::STANDARD};
use knarr_apiserver::testing::{self, TestServer};
use kube::Client;
use serde_json::{Value, json};

use super::ask::{done, refusal};

const PODS: &str = "/api/v1/namespaces/default/pods";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
const CSI: &str = "/apis/storage.k8s.io/v1/csinodes";
const UNRELATED: &str = "no relationship found between node 'a' and this object";

/// A server with nodes `a` and `b`, each with a pod `on-a`, `on-b`; an administrator and the kubelet of `a`.
struct Cluster {
    server: TestServer,
    admin: Client,
    kubelet: Client,
}

fn pod(name: &str, node: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"nodeName": node, "automountServiceAccountToken": false,
        "containers": [{"name": "c", "image": "i", "envFrom": [{"secretRef": {"name": format!("secret-{node}")}}]}],
        "volumes": [{"name": "v", "configMap": {"name": format!("map-{node}")}}]}})
}

async fn cluster() -> Cluster {
    let server = testing::start_secure().await;
    let admin = server.client();
    for node in ["a", "b"] {
        let kubelet = server.server.client(&format!("system:node:{node}"), &["system:nodes"]);
        done(&kubelet, "POST", "/api/v1/nodes", &json!({"metadata": {"name": node}})).await;
        done(&admin, "POST", PODS, &pod(&format!("on-{node}"), node)).await;
        let meta = |kind: &str| json!({"metadata": {"name": format!("{kind}-{node}")}});
        done(&admin, "POST", "/api/v1/namespaces/default/secrets", &meta("secret")).await;
        done(&admin, "POST", "/api/v1/namespaces/default/configmaps", &meta("map")).await;
    }
    let kubelet = server.server.client("system:node:a", &["system:nodes"]);
    Cluster { server, admin, kubelet }
}

impl Cluster {
    async fn may(&self, method: &str, path: &str, body: &Value) -> Value {
        done(&self.kubelet, method, path, body).await
    }

    /// The request is refused with a message that ends so.
    async fn may_not(&self, method: &str, path: &str, body: &Value, why: &str) {
        let (code, message) = refusal(&self.kubelet, method, path, body).await;
        assert!(code == 403 && message.ends_with(why), "{method} {path}: {code} {message}");
    }

    async fn uid(&self, path: &str) -> String {
        done(&self.admin, "GET", path, &Value::Null).await["metadata"]["uid"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn a_node_reads_what_its_pods_name() {
    let cluster = cluster().await;
    for kind in ["secrets/secret", "configmaps/map"] {
        let path = format!("/api/v1/namespaces/default/{kind}");
        cluster.may("GET", &format!("{path}-a"), &Value::Null).await;
        cluster.may_not("GET", &format!("{path}-b"), &Value::Null, UNRELATED).await;
    }
    cluster.may_not("GET", "/api/v1/namespaces/default/secrets", &Value::Null, "No Object name found").await;
    cluster.may_not("GET", "/api/v1/secrets", &Value::Null, "can only read namespaced object of this type").await;
    let whole = "secrets \"secret-b\" is forbidden: User \"system:node:a\" cannot get resource \"secrets\" in API group \"\" in the namespace \"default\": no relationship found between node 'a' and this object";
    let path = "/api/v1/namespaces/default/secrets/secret-b";
    assert_eq!(refusal(&cluster.kubelet, "GET", path, &Value::Null).await, (403, whole.to_owned()));
    // A pod that comes brings its right along, and takes it away when it goes.
    done(&cluster.admin, "POST", PODS, &pod("other", "b")).await;
    let mut third = pod("third", "a");
    third["spec"]["containers"][0]["envFrom"][0]["secretRef"]["name"] = json!("secret-b");
    done(&cluster.admin, "POST", PODS, &third).await;
    cluster.may("GET", path, &Value::Null).await;
    done(&cluster.admin, "DELETE", &format!("{PODS}/third?gracePeriodSeconds=0"), &Value::Null).await;
    cluster.may_not("GET", path, &Value::Null, UNRELATED).await;
    let nodes = [
        ("/api/v1/nodes/a", None),
        ("/api/v1/nodes/b", Some("node 'a' cannot read 'b', only its own Node object")),
        ("/api/v1/pods?fieldSelector=spec.nodeName%3Da", None),
        ("/api/v1/pods", Some("can only list/watch pods with spec.nodeName field selector")),
        ("/api/v1/namespaces/default/pods/on-a", None),
        ("/api/v1/namespaces/default/pods/on-b", Some(UNRELATED)),
    ];
    for (path, refused) in nodes {
        match refused {
            None => drop(cluster.may("GET", path, &Value::Null).await),
            Some(why) => cluster.may_not("GET", path, &Value::Null, why).await,
        }
    }
}

#[tokio::test]
async fn a_node_changes_its_own_node_within_bounds() {
    let cluster = cluster().await;
    let labels = |label: &str| json!({"metadata": {"labels": {label: "x"}}});
    cluster.may("PATCH", "/api/v1/nodes/a", &labels("example.com/mine")).await;
    cluster.may("PATCH", "/api/v1/nodes/a", &labels("topology.kubernetes.io/zone")).await;
    cluster.may("PATCH", "/api/v1/nodes/a/status", &json!({"status": {"phase": "Running"}})).await;
    for label in ["node-restriction.kubernetes.io/a", "node-role.kubernetes.io/master"] {
        cluster
            .may_not("PATCH", "/api/v1/nodes/a", &labels(label), &format!("is not allowed to modify labels: {label}"))
            .await;
    }
    let taint = json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
    let why = "node \"a\" is not allowed to modify taints";
    cluster.may_not("PATCH", "/api/v1/nodes/a", &taint, why).await;
    cluster.may_not("PATCH", "/api/v1/nodes/a/status", &taint, why).await;
    let source = json!({"spec": {"configSource": {"configMap": {"namespace": "d", "name": "c", "kubeletConfigKey": "k"}}}});
    let why = "node \"a\" is not allowed to update configSource to a new non-nil configSource";
    cluster.may_not("PATCH", "/api/v1/nodes/a", &source, why).await;
    let why = "node \"a\" is not allowed to modify node \"b\"";
    cluster.may_not("PATCH", "/api/v1/nodes/b", &labels("example.com/mine"), why).await;
    cluster.may_not("PATCH", "/api/v1/nodes/b/status", &json!({"status": {"phase": "Running"}}), why).await;
    cluster
        .may_not(
            "POST",
            "/api/v1/nodes",
            &json!({"metadata": {"name": "c"}}),
            "node \"a\" is not allowed to modify node \"c\"",
        )
        .await;
    let stranger = cluster.server.server.client("system:node:d", &["system:nodes"]);
    let new = json!({"metadata": {"name": "d", "labels": {"node-role.kubernetes.io/x": "", "kubernetes.io/os": "linux"}}});
    let want = "nodes \"d\" is forbidden: node \"d\" is not allowed to set the following labels: node-role.kubernetes.io/x";
    assert_eq!(refusal(&stranger, "POST", "/api/v1/nodes", &new).await, (403, want.to_owned()));
}

#[tokio::test]
async fn a_node_shows_its_static_pods_and_nothing_more() {
    let cluster = cluster().await;
    let uid = cluster.uid("/api/v1/nodes/a").await;
    let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "a", "uid": uid, "controller": true});
    let mirror = json!({"metadata": {"name": "m", "annotations": {"kubernetes.io/config.mirror": "h"}, "ownerReferences": [owner]},
        "spec": {"nodeName": "a", "containers": [{"name": "c", "image": "i"}]}});
    let changes = [
        (
            json!({"metadata": {"annotations": null}}),
            "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"a\" can only create mirror pods",
        ),
        (json!({"spec": {"nodeName": "b"}}), "node \"a\" can only create pods with spec.nodeName set to itself"),
        (
            json!({"metadata": {"ownerReferences": null}}),
            "node \"a\" can only create pods with an owner reference set to itself",
        ),
        (
            json!({"metadata": {"ownerReferences": [owner, {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}]}}),
            "node \"a\" can only create pods with a single owner reference set to itself",
        ),
        (
            json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "b", "uid": uid, "controller": true}]}}),
            "node \"a\" can only create pods with an owner reference set to itself",
        ),
        (
            json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "a", "uid": uid}]}}),
            "node \"a\" can only create pods with a controller owner reference set to itself",
        ),
        (
            json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "a", "uid": uid, "controller": true, "blockOwnerDeletion": true}]}}),
            "node \"a\" must not set blockOwnerDeletion on an owner reference",
        ),
        (json!({"spec": {"serviceAccountName": "default"}}), "a mirror pod may not reference service accounts"),
        (
            json!({"spec": {"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}}),
            "a mirror pod may not reference secrets",
        ),
        (
            json!({"spec": {"volumes": [{"name": "v", "configMap": {"name": "s"}}]}}),
            "node \"a\" can not create pods that reference configmaps",
        ),
        (
            json!({"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "s"}}]}}),
            "node \"a\" can not create pods that reference persistentvolumeclaims",
        ),
    ];
    for (change, why) in changes {
        let mut pod = mirror.clone();
        json_patch::merge(&mut pod, &change);
        cluster.may_not("POST", PODS, &pod, why).await;
    }
    let mut other = mirror.clone();
    other["metadata"]["ownerReferences"][0]["uid"] = json!("x");
    cluster.may_not("POST", PODS, &other, &format!("node a UID mismatch: expected x got {uid}")).await;
    cluster.may("POST", PODS, &mirror).await;
    cluster.may("DELETE", &format!("{PODS}/m?gracePeriodSeconds=0"), &Value::Null).await;
}

#[tokio::test]
async fn a_node_reports_ends_and_evicts_its_own_pods() {
    let cluster = cluster().await;
    let status = json!({"status": {"phase": "Running"}});
    cluster.may("PATCH", &format!("{PODS}/on-a/status"), &status).await;
    let why = "node \"a\" can only update pod status for pods with spec.nodeName set to itself";
    cluster.may_not("PATCH", &format!("{PODS}/on-b/status"), &status, why).await;
    let relabelled = json!({"metadata": {"labels": {"app": "x"}}});
    cluster
        .may_not("PATCH", &format!("{PODS}/on-a/status"), &relabelled, "node \"a\" cannot update labels through pod status")
        .await;
    let eviction = |name: &str| json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
    let why = "node a can only evict pods with spec.nodeName set to itself";
    for named in ["on-b", "on-a"] {
        cluster.may_not("POST", &format!("{PODS}/on-b/eviction"), &eviction(named), why).await;
    }
    cluster.may("POST", &format!("{PODS}/on-a/eviction"), &eviction("on-a")).await;
    let why = "node \"a\" can only delete pods with spec.nodeName set to itself";
    cluster.may_not("DELETE", &format!("{PODS}/on-b"), &Value::Null, why).await;
    cluster.may("DELETE", &format!("{PODS}/on-a?gracePeriodSeconds=0"), &Value::Null).await;
    cluster.may_not("PATCH", &format!("{PODS}/on-b"), &relabelled, "in the namespace \"default\"").await;
}

#[tokio::test]
async fn a_node_has_its_own_lease_and_csi_node() {
    let cluster = cluster().await;
    let lease = |name: &str| json!({"metadata": {"name": name}, "spec": {"holderIdentity": name}});
    cluster.may("POST", LEASES, &lease("a")).await;
    cluster.may("PATCH", &format!("{LEASES}/a"), &json!({"spec": {"leaseDurationSeconds": 40}})).await;
    let why = "can only access node lease with the same name as the requesting node";
    cluster.may_not("POST", LEASES, &lease("b"), why).await;
    cluster.may_not("PUT", &format!("{LEASES}/b"), &lease("b"), why).await;
    let elsewhere = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    cluster
        .may_not("POST", elsewhere, &lease("a"), "can only access leases in the \"kube-node-lease\" system namespace")
        .await;
    let csi = |name: &str| json!({"metadata": {"name": name}, "spec": {"drivers": []}});
    cluster.may("POST", CSI, &csi("a")).await;
    let why = "can only access CSINode with the same name as the requesting node";
    cluster.may_not("POST", CSI, &csi("b"), why).await;
    cluster.may_not("GET", &format!("{CSI}/b"), &Value::Null, why).await;
    cluster.may("DELETE", &format!("{CSI}/a"), &Value::Null).await;
}

#[tokio::test]
async fn a_node_gets_tokens_for_pods_that_run_on_it() {
    let cluster = cluster().await;
    let tokens = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let (own, other) = (cluster.uid(&format!("{PODS}/on-a")).await, cluster.uid(&format!("{PODS}/on-b")).await);
    let bound = |name: &str, uid: &str| json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}}});
    let answer = cluster.may("POST", tokens, &bound("on-a", &own)).await;
    assert!(answer["status"]["token"].is_string());
    cluster.may_not("POST", tokens, &json!({"spec": {}}), "node requested token not bound to a pod").await;
    cluster.may_not("POST", tokens, &bound("on-a", ""), "node requested token with a pod binding without a uid").await;
    cluster.may_not("POST", tokens, &bound("on-a", "x"), "The object might have been deleted and then recreated").await;
    cluster
        .may_not("POST", tokens, &bound("on-b", &other), "node requested token bound to a pod scheduled on a different node")
        .await;
    let robot = "/api/v1/namespaces/default/serviceaccounts";
    done(&cluster.admin, "POST", robot, &json!({"metadata": {"name": "robot"}})).await;
    cluster.may_not("POST", &format!("{robot}/robot/token"), &bound("on-a", &own), UNRELATED).await;
    cluster
        .may_not("GET", &format!("{robot}/default"), &Value::Null, "can only create tokens for individual service accounts")
        .await;
}

#[tokio::test]
async fn a_node_asks_for_its_own_certificates() {
    let cluster = cluster().await;
    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let pem = include_str!("../../../libs/api/testdata/certificates/client.csr");
    let request = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {"request": STANDARD.encode(pem),
        "signerName": "kubernetes.io/kube-apiserver-client-kubelet", "usages": ["digital signature", "client auth"]}})
    };
    let made = cluster.may("POST", requests, &request("own")).await;
    assert_eq!(made["spec"]["username"], "system:node:a");
    let other = cluster.server.server.client("system:node:b", &["system:nodes"]);
    let want = "certificatesigningrequests.certificates.k8s.io \"other\" is forbidden: can only create a node CSR with CN=system:node:b";
    assert_eq!(refusal(&other, "POST", requests, &request("other")).await, (403, want.to_owned()));
}

#[tokio::test]
async fn whoever_only_looks_like_a_node_is_none() {
    let cluster = cluster().await;
    let named = cluster.server.server.client("system:node:a", &[]);
    assert_eq!(refusal(&named, "GET", "/api/v1/nodes/a", &Value::Null).await.0, 403);
    let grouped = cluster.server.server.client("alice", &["system:nodes"]);
    assert_eq!(refusal(&grouped, "GET", "/api/v1/namespaces/default/secrets/secret-a", &Value::Null).await.0, 403);
    let nameless = cluster.server.server.client("system:node:", &["system:nodes"]);
    let (code, message) = refusal(&nameless, "PATCH", "/api/v1/nodes/a/status", &json!({})).await;
    assert!(code == 403 && message.ends_with("unknown node for user \"system:node:\""), "{message}");
}

#[tokio::test]
async fn a_nodes_proxy_acts_as_the_proxy_and_as_nobody_else() {
    let cluster = cluster().await;
    let slices = async |user: &str| {
        let request = http::Request::get("/apis/discovery.k8s.io/v1/endpointslices").header("impersonate-user", user);
        match cluster.kubelet.request::<Value>(request.body(Vec::new()).unwrap()).await {
            Ok(_) => 200,
            Err(kube::Error::Api(status)) => status.code,
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!([slices("system:kube-proxy").await, slices("system:kube-scheduler").await], [200, 403]);
    let path = "/apis/discovery.k8s.io/v1/endpointslices";
    assert_eq!(refusal(&cluster.kubelet, "GET", path, &Value::Null).await.0, 403);
}
