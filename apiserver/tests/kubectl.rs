//! A real kubectl against the server, where one is installed.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use knarr_apiserver::testing;
use tokio::process::Command;

struct Home(PathBuf);

impl Drop for Home {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn is_installed() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join("kubectl").is_file());
    if !found {
        eprintln!("skipped: kubectl is not installed");
    }
    found
}

async fn kubectl(url: &str, home: &Path, arguments: &str) -> String {
    let output = Command::new("kubectl")
        .args(["--server", url])
        .args(arguments.split_whitespace())
        .env("HOME", home)
        .env_remove("KUBECONFIG")
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "kubectl {arguments}: {text}");
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_does_its_work() {
    if !is_installed() {
        return;
    }
    let mut server = testing::start().await;
    let url = server.url().await;
    let home = Home(std::env::temp_dir().join(format!("knarr-kubectl-{}", std::process::id())));
    std::fs::create_dir_all(&home.0).unwrap();
    let file = home.0.join("deployment.yaml");
    std::fs::write(
        &file,
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  replicas: 2\n  selector: {matchLabels: {app: web}}\n  template:\n    metadata: {labels: {app: web}}\n    spec:\n      containers: [{name: c, image: i}]\n",
    )
    .unwrap();
    let file = file.display();
    let map = home.0.join("map.yaml");
    std::fs::write(&map, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {a: b}\n").unwrap();
    let run = |arguments: String| {
        let (url, home) = (url.clone(), home.0.clone());
        async move { kubectl(&url, &home, &arguments).await }
    };
    assert_eq!(run(format!("apply -f {file}")).await, "deployment.apps/web created\n");
    assert_eq!(run(format!("apply -f {file}")).await, "deployment.apps/web unchanged\n");
    assert_eq!(run("scale deployment web --replicas 3".into()).await, "deployment.apps/web scaled\n");
    assert_eq!(run("get deployment web -o jsonpath={.spec.replicas}".into()).await, "3");
    assert_eq!(run("label deployment web x=y".into()).await, "deployment.apps/web labeled\n");
    assert_eq!(run(format!("create -f {}", map.display())).await, "configmap/c created\n");
    assert_eq!(run("patch configmap c -p {\"data\":{\"a\":\"c\"}}".into()).await, "configmap/c patched\n");
    assert_eq!(run("get configmap c -o jsonpath={.data.a}".into()).await, "c");
    assert!(run("get deployments".into()).await.starts_with("NAME   READY   UP-TO-DATE   AVAILABLE   AGE\nweb    0/3"));
    assert!(run("explain deployment.spec.replicas".into()).await.contains("FIELD: replicas <integer>"));
    assert!(run("api-resources".into()).await.contains("deployments"));
    assert_eq!(
        run("wait --for=jsonpath={.spec.replicas}=3 deployment/web --timeout 5s".into()).await,
        "deployment.apps/web condition met\n"
    );
    assert!(run("delete deployment web".into()).await.starts_with("deployment.apps \"web\" deleted"));
    assert!(run("version".into()).await.contains("Server Version: v1.35.0+knarr1"));
}

/// A node as a kubelet registers it, with a pod on it.
fn node_with_pod() -> String {
    "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Node, metadata: {name: node-1}}\n- {apiVersion: v1, kind: Pod, metadata: {name: p, namespace: default}, spec: {nodeName: node-1, containers: [{name: c, image: i}]}}\n".to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_asks_for_rights_tokens_and_evictions() {
    if !is_installed() {
        return;
    }
    let server = testing::start_secure().await;
    let url = format!("https://{}", server.server.address().unwrap());
    let home = Home(std::env::temp_dir().join(format!("knarr-kubectl-secure-{}", std::process::id())));
    std::fs::create_dir_all(&home.0).unwrap();
    let (config, list) = (home.0.join("config"), home.0.join("list.yaml"));
    std::fs::write(&config, server.kubeconfig()).unwrap();
    std::fs::write(&list, node_with_pod()).unwrap();
    let authority = home.0.join("ca.crt");
    std::fs::write(&authority, server.server.security().unwrap().pki.authority_pem()).unwrap();
    let admin = format!("--kubeconfig {}", config.display());
    let run = |arguments: String| {
        let (url, home) = (url.clone(), home.0.clone());
        async move { kubectl(&url, &home, &arguments).await }
    };
    assert_eq!(run(format!("{admin} create configmap c --from-literal a=b")).await, "configmap/c created\n");
    assert_eq!(run(format!("{admin} create deployment web --image i")).await, "deployment.apps/web created\n");
    assert_eq!(run(format!("{admin} scale deployment web --replicas 4")).await, "deployment.apps/web scaled\n");
    assert_eq!(run(format!("{admin} auth can-i create pods")).await, "yes\n");
    assert!(run(format!("{admin} auth can-i --list --as bob")).await.contains("selfsubjectreviews.authentication.k8s.io"));
    let token = run(format!("{admin} create token default --duration 1h")).await;
    let me = format!(
        "--certificate-authority {} --token {} auth whoami -o jsonpath={{.status.userInfo.username}}",
        authority.display(),
        token.trim()
    );
    assert_eq!(run(me).await, "system:serviceaccount:default:default");
    assert_eq!(run(format!("{admin} create -f {}", list.display())).await, "node/node-1 created\npod/p created\n");
    let drained = run(format!("{admin} drain node-1 --force --grace-period 0 --timeout 20s")).await;
    assert!(drained.contains("pod/p evicted") && drained.contains("node/node-1 drained"), "{drained}");
    assert_eq!(run(format!("{admin} get node node-1 -o jsonpath={{.spec.unschedulable}}")).await, "true");
}
