//! The kubelet with the built-in runtime: what containers really see. Needs root.

#[allow(dead_code)]
mod support;
#[path = "support/real.rs"]
mod real;

use real::{BUSYBOX, Real};
use serde_json::{Value, json};
use support::{Stage, is, phase};

fn script(name: &str, text: &str) -> Value {
    json!({"name": name, "image": BUSYBOX, "command": ["sh", "-c", text]})
}

async fn stage() -> (Stage, Real) {
    let real = Real::start().await;
    let cgroup = real.cgroup.clone();
    let stage = Stage::start_on(real.channel.clone(), |config| config.cgroup_root = cgroup).await;
    (stage, real)
}

/// Containers see their volumes, environment and identity, say why they ended, and restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_container_sees() {
    let (stage, _real) = stage().await;
    stage.api.put("/api/v1/namespaces/default/configmaps", json!({"metadata": {"name": "cm"}, "data": {"k": "from-map"}}));
    let mut main = script("a", "cat /cm/k /sub/f; echo $HOST $GREETING; cat /etc/hosts | grep p-host; id -G; printf bye > /dev/termination-log; exit 3");
    main["env"] = json!([
        {"name": "HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "GREETING", "value": "hello-$(HOST)"}]);
    main["volumeMounts"] = json!([
        {"name": "cm", "mountPath": "/cm"},
        {"name": "data", "mountPath": "/sub", "subPath": "deep/er"},
        {"name": "mem", "mountPath": "/mem"}]);
    let mut init = script("i", "echo from-init > /data/deep/er/f");
    init["volumeMounts"] = json!([{"name": "data", "mountPath": "/data/deep/er", "subPath": "deep/er"}]);
    stage.pod("p", json!({
        "restartPolicy": "Never", "hostname": "p-host", "securityContext": {"fsGroup": 4711},
        "volumes": [
            {"name": "cm", "configMap": {"name": "cm"}}, {"name": "data", "emptyDir": {}},
            {"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}],
        "initContainers": [init], "containers": [main]}));
    let pod = stage.wait("p", "over", |p| phase(p) == "Failed").await;
    let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((ended["exitCode"].as_i64(), ended["reason"].as_str(), ended["message"].as_str()), (Some(3), Some("Error"), Some("bye")));
    let log = stage.config.pod_logs_dir.join("default_p_uid-p/a/0.log");
    let said: Vec<String> = std::fs::read_to_string(&log).unwrap().lines().filter_map(|l| Some(l.splitn(4, ' ').nth(3)?.to_owned())).collect();
    assert_eq!(said[0], "from-mapfrom-init");
    assert_eq!(said[1], "192.0.2.77 hello-192.0.2.77");
    assert_eq!(said[2], "192.0.2.77\tp-host");
    assert!(said[3].split(' ').any(|g| g == "4711"), "{said:?}");
    stage.api.delete_pod("p", 30);
    stage.gone("p").await;
    let dir = stage.config.root_dir.join("pods/uid-p");
    assert!(!dir.exists());
}

/// A kubelet that is gone takes nothing with it, and its successor goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_takes_over() {
    let (mut stage, _real) = stage().await;
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
