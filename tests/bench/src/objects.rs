//! The objects that benches make.

use serde_json::{Value, json};

/// Where ordinary pods live.
pub const PODS: &str = "/api/v1/namespaces/default/pods";
/// Where ConfigMaps live.
pub const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A container that sleeps until it is told to end.
pub fn pod_spec() -> Value {
    json!({
        "containers": [{
            "name": "main", "image": "localhost/hello:1", "imagePullPolicy": "Never",
            "command": ["/bin/sh", "-c", "trap 'exit 0' TERM; sleep 1000000 & wait"],
        }],
    })
}

/// A pod to be run.
pub fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "bench"}}, "spec": pod_spec(),
    })
}

/// A ConfigMap of 1 KiB of data.
pub fn config_map(name: &str, says: &str) -> Value {
    let data = "0123456789abcdef".repeat(64);
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"says": says, "value": data},
    })
}

/// A pod as people have them, 5.6 KB when stored, that no scheduler takes.
pub fn large_pod(name: &str) -> Value {
    let env: Vec<Value> = (0..16)
        .map(|i| json!({"name": format!("SETTING_{i}"), "value": format!("the value of setting number {i}, as long as they are")}))
        .collect();
    let container = |name: &str| {
        json!({
            "name": name, "image": format!("registry.example.com/team/{name}:v1.2.3"), "env": env,
            "ports": [{"name": "http", "containerPort": 8080}],
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "1", "memory": "512Mi"}},
            "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 5},
            "livenessProbe": {"httpGet": {"path": "/live", "port": 8080}, "periodSeconds": 10},
            "volumeMounts": [{"name": "config", "mountPath": "/etc/config"}, {"name": "cache", "mountPath": "/var/cache"}],
        })
    };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {"app": "shop", "tier": "web", "pod-template-hash": "6d4cf56db6", "version": "v1.2.3"},
            "annotations": {"example.com/checksum": "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"},
        },
        "spec": {
            "schedulerName": "nobody",
            "containers": [container("web"), container("sidecar")],
            "volumes": [{"name": "config", "configMap": {"name": "shop"}}, {"name": "cache", "emptyDir": {}}],
        },
    })
}

/// A node that nobody runs.
pub fn node(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}},
    })
}

/// Its status: room for pods.
pub fn node_status() -> Value {
    let room = json!({"cpu": "32", "memory": "64Gi", "pods": "110", "ephemeral-storage": "100Gi"});
    json!({"status": {
        "capacity": room, "allocatable": room,
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ready"}],
    }})
}

/// A pod that waits for a scheduler.
pub fn waiting_pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "bench"}},
        "spec": {"containers": [{
            "name": "main", "image": "localhost/hello:1", "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
        }]},
    })
}
