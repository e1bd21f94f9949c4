//! Bootstrap tokens, certificate requests, and what a machine can know of a cluster before it is let in.

use std::time::{Duration, Instant};

use base64::{Engine, engine::general_purpose::STANDARD};
use knarr_apiserver::{Config, Server, identity::User, testing};
use serde_json::{Value, json};

use super::ask::{ask, done, refusal, with_token};

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const CLIENT: &str = include_str!("../../../libs/api/testdata/certificates/client.csr");
const MASTERS: &str = include_str!("../../../libs/api/testdata/certificates/masters-rsa.csr");
const ISSUED: &str = include_str!("../../../libs/api/testdata/certificates/issued.crt");
const TOKEN: &str = "abcdef.0123456789abcdef";

fn secret(change: &Value) -> Value {
    let mut object = json!({"metadata": {"name": "bootstrap-token-abcdef", "namespace": "kube-system"},
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {"token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true"}});
    for (key, value) in change.as_object().unwrap() {
        object["stringData"][key] = value.clone();
    }
    object
}

fn request(name: &str, pem: &str, signer: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"request": STANDARD.encode(pem), "signerName": signer,
        "usages": ["digital signature", "client auth"], "username": "somebody else", "groups": ["system:masters"]}})
}

fn approved() -> Value {
    json!([{"type": "Approved", "status": "True", "reason": "Test", "message": "is a test"}])
}

#[tokio::test]
async fn a_machine_with_a_token_asks_for_a_certificate_and_nothing_else() {
    let server = testing::start_secure().await;
    let admin = server.client();
    assert_eq!(refusal(&with_token(&server, Some(TOKEN)), "GET", REQUESTS, &Value::Null).await.0, 401);
    done(&admin, "POST", "/api/v1/namespaces/kube-system/secrets", &secret(&json!({}))).await;
    let machine = with_token(&server, Some(TOKEN));
    let made = done(&machine, "POST", REQUESTS, &request("a", CLIENT, "kubernetes.io/kube-apiserver-client-kubelet")).await;
    let spec = &made["spec"];
    assert_eq!(spec["username"], "system:bootstrap:abcdef");
    assert_eq!(spec["groups"], json!(["system:bootstrappers", "system:authenticated"]));
    assert_eq!(made["status"], json!({}));
    done(&machine, "GET", &format!("{REQUESTS}/a"), &Value::Null).await;
    for (method, path) in [("GET", "/api/v1/nodes"), ("GET", "/api/v1/namespaces/kube-system/secrets"), ("DELETE", REQUESTS)]
    {
        assert_eq!(refusal(&machine, method, path, &Value::Null).await.0, 403, "{method} {path}");
    }
    // Changing who is let in is changing the Secret.
    let wrong = with_token(&server, Some("abcdef.0123456789abcdee"));
    assert_eq!(refusal(&wrong, "GET", REQUESTS, &Value::Null).await.0, 401);
    let mut expired = secret(&json!({"token-id": "ghijkl", "expiration": "2020-01-01T00:00:00Z"}));
    expired["metadata"]["name"] = json!("bootstrap-token-ghijkl");
    done(&admin, "POST", "/api/v1/namespaces/kube-system/secrets", &expired).await;
    let late = with_token(&server, Some("ghijkl.0123456789abcdef"));
    assert_eq!(refusal(&late, "GET", REQUESTS, &Value::Null).await.0, 401);
}

#[tokio::test]
async fn requests_are_approved_and_signed_by_those_who_may() {
    let server = testing::start_secure().await;
    let admin = server.client();
    let kubelet_signer = "kubernetes.io/kube-apiserver-client-kubelet";
    done(&admin, "POST", REQUESTS, &request("a", CLIENT, kubelet_signer)).await;
    let role = json!({"metadata": {"name": "csr"}, "rules": [
        {"apiGroups": ["certificates.k8s.io"], "verbs": ["*"], "resources": ["certificatesigningrequests", "certificatesigningrequests/status", "certificatesigningrequests/approval"]}]});
    let roles = "/apis/rbac.authorization.k8s.io/v1";
    done(&admin, "POST", &format!("{roles}/clusterroles"), &role).await;
    let bind = |name: &str, role: &str, user: &str| {
        json!({"metadata": {"name": name}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]})
    };
    for user in ["clerk", "officer"] {
        done(&admin, "POST", &format!("{roles}/clusterrolebindings"), &bind(user, "csr", user)).await;
    }
    let approver = "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver";
    done(&admin, "POST", &format!("{roles}/clusterrolebindings"), &bind("approver", approver, "officer")).await;
    let (clerk, officer) = (server.client_of("clerk"), server.client_of("officer"));

    let approval = json!({"status": {"conditions": approved()}});
    let mut answer = (0, String::new());
    // Roles reach the authorizer a moment after they are written.
    let end = Instant::now() + Duration::from_secs(30);
    while Instant::now() < end {
        answer = refusal(&clerk, "PATCH", &format!("{REQUESTS}/a/approval"), &approval).await;
        if answer.1.contains("signerName") {
            break;
        }
        tokio::task::yield_now().await;
    }
    let want = format!(
        "certificatesigningrequests.certificates.k8s.io \"a\" is forbidden: user not permitted to approve requests with signerName {kubelet_signer:?}"
    );
    assert_eq!(answer, (403, want));
    let mut passed = Value::Null;
    while Instant::now() < end {
        if let (200, object) = ask(&officer, "PATCH", &format!("{REQUESTS}/a/approval"), &approval).await {
            passed = object;
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(passed["status"]["conditions"][0]["type"], "Approved");
    assert!(passed["status"]["conditions"][0]["lastUpdateTime"].is_string());

    let signed = json!({"status": {"certificate": STANDARD.encode(ISSUED)}});
    let (code, message) = refusal(&officer, "PATCH", &format!("{REQUESTS}/a/status"), &signed).await;
    assert!(code == 403 && message.contains("user not permitted to sign requests"), "{code} {message}");
    // Who may change the object may not thereby change its status.
    let other = done(
        &officer,
        "PATCH",
        &format!("{REQUESTS}/a"),
        &json!({"status": {"certificate": null}, "spec": {"signerName": "a.b/c"}}),
    )
    .await;
    assert_eq!((&other["spec"]["signerName"], &other["status"]), (&json!(kubelet_signer), &passed["status"]));
    let issued =
        done(&server.client_of("system:kube-controller-manager"), "PATCH", &format!("{REQUESTS}/a/status"), &signed).await;
    assert_eq!(issued["status"]["certificate"], STANDARD.encode(ISSUED));
}

#[tokio::test]
async fn nobody_becomes_an_administrator_by_a_certificate() {
    let server = testing::start_secure().await;
    let masters = request("m", MASTERS, "kubernetes.io/kube-apiserver-client");
    let want = "certificatesigningrequests.certificates.k8s.io \"m\" is forbidden: use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed";
    assert_eq!(refusal(&server.client(), "POST", REQUESTS, &masters).await, (403, want.to_owned()));
    let signer = "example.com/own";
    done(&server.client(), "POST", REQUESTS, &request("m", MASTERS, signer)).await;
}

#[tokio::test]
async fn anybody_learns_of_an_address_that_leads_to_all_servers() {
    let mut of_all = None;
    let _first = testing::start_secure_with(|config| of_all = Some(config.clone())).await;
    let told = async |own: &str, common: Option<&str>| {
        let (advertise, common) = (Some((own.to_owned(), 6443)), common.map(str::to_owned));
        let server = Server::start(Config { advertise, common, ..of_all.clone().unwrap() }).await.unwrap();
        let path = "/api/v1/namespaces/kube-public/configmaps/cluster-info";
        let map = done(&server.client("admin", &["system:masters"]), "GET", path, &Value::Null).await;
        let kubeconfig = map["data"]["kubeconfig"].as_str().unwrap();
        kubeconfig.lines().find_map(|line| line.trim().strip_prefix("server: ")).unwrap().to_owned()
    };
    assert_eq!(told("192.0.2.1", None).await, "https://192.0.2.1:6443");
    // One server's own address is as good as another's.
    assert_eq!(told("192.0.2.2", None).await, "https://192.0.2.1:6443");
    assert_eq!(told("192.0.2.2", Some("192.0.2.9")).await, "https://192.0.2.9:6443");
    assert_eq!(told("192.0.2.1", None).await, "https://192.0.2.9:6443");
}

#[tokio::test]
async fn anybody_learns_where_the_cluster_is() {
    let server = testing::start_secure_with(|config| config.advertise = Some(("192.0.2.1".to_owned(), 6443))).await;
    let nobody = server.server.client_as(std::sync::Arc::new(User::anonymous()));
    let path = "/api/v1/namespaces/kube-public/configmaps";
    let map = done(&nobody, "GET", &format!("{path}/cluster-info"), &Value::Null).await;
    let authority = server.server.security().unwrap().pki.authority_pem();
    let kubeconfig = map["data"]["kubeconfig"].as_str().unwrap();
    let config = kube::config::Kubeconfig::from_yaml(kubeconfig).unwrap();
    let cluster = config.clusters[0].cluster.clone().unwrap();
    assert_eq!(cluster.server.as_deref(), Some("https://192.0.2.1:6443"));
    assert_eq!(cluster.certificate_authority_data, Some(STANDARD.encode(authority)));
    assert_eq!(refusal(&nobody, "GET", path, &Value::Null).await.0, 403);
    assert_eq!(refusal(&nobody, "GET", &format!("{path}/kube-root-ca.crt"), &Value::Null).await.0, 403);
}
