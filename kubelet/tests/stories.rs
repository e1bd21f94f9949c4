//! The kubelet between an API server and a runtime that only writes down what it is asked.

mod support;

use std::{sync::Arc, time::Duration};

use serde_json::json;
use support::{NODE, Stage, is, phase};

/// What of `calls` concerns containers and sandboxes.
fn lifecycle(stage: &Stage) -> Vec<String> {
    stage.cri.calls().into_iter().filter(|c| !c.starts_with("pod range")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_registers_and_becomes_ready() {
    let stage = Stage::start().await;
    let node = stage.api.wait("nodes", "", NODE, "ready", |n| is(n, "Ready")).await;
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], NODE);
    assert_eq!(node["status"]["nodeInfo"]["kubeletVersion"], "v1.35.0+knarr1");
    assert_eq!(node["status"]["nodeInfo"]["containerRuntimeVersion"], "fake://1");
    assert_eq!(node["status"]["addresses"][0]["address"], "192.0.2.10");
    let lease = stage.api.wait("leases", "kube-node-lease", NODE, "held", |l| !l["spec"]["renewTime"].is_null()).await;
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 40);
    let owned = |l: &serde_json::Value| l["metadata"]["ownerReferences"][0]["kind"] == "Node";
    stage.api.wait("leases", "kube-node-lease", NODE, "the node's", owned).await;
    stage.api.event(NODE, "NodeReady: Node node-1 status is now: NodeReady").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_runs_and_is_deleted() {
    let stage = Stage::start().await;
    stage.pod("p", json!({"containers": [{"name": "a"}, {"name": "b"}]}));
    let pod = stage.wait("p", "ready", |p| is(p, "Ready")).await;
    assert_eq!(phase(&pod), "Running");
    assert_eq!(pod["status"]["containerStatuses"][0]["containerID"], "fake://container2");
    assert_eq!(pod["status"]["hostIP"], "192.0.2.10");
    for event in ["Pulled: Container image \"busybox:1\" already present on machine", "Created: ", "Started: "] {
        stage.api.event("p", event).await;
    }
    stage.api.delete_pod("p", 30);
    stage.gone("p").await;
    stage.cri.called("remove sandbox").await;
    let mut calls = lifecycle(&stage);
    calls[3..5].sort();
    let expected = [
        "run sandbox p 0",
        "start a",
        "start b",
        "stop a",
        "stop b",
        "stop sandbox",
        "remove b",
        "remove a",
        "remove sandbox",
    ];
    assert_eq!(calls, expected);
    assert_eq!(stage.cri.holds(), (0, 0));
    assert!(!stage.config.root_dir.join("pods/uid-p").exists());
    stage.api.event("p", "Killing: Stopping container a").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn init_containers_then_sidecars_then_the_rest_and_back() {
    let stage = Stage::start().await;
    stage.cri.exec_exits("not-yet", 1);
    stage.pod(
        "p",
        json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
        "containers": [{"name": "a"}]}),
    );
    stage.cri.called("start i").await;
    let pod =
        stage.wait("p", "initializing", |p| p["status"]["initContainerStatuses"][0]["state"]["running"].is_object()).await;
    assert_eq!(phase(&pod), "Pending");
    stage.cri.exit("i", 0);
    stage.wait("p", "running", |p| phase(p) == "Running").await;
    assert_eq!(lifecycle(&stage), ["run sandbox p 0", "start i", "start s", "start a"]);
    stage.cri.exit("a", 0);
    let pod = stage.wait("p", "over", |p| phase(p) == "Succeeded").await;
    assert!(lifecycle(&stage).contains(&"stop s".to_owned()));
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_kubelet_takes_over_what_runs() {
    let mut stage = Stage::start().await;
    stage.pod(
        "p",
        json!({"containers": [{"name": "a", "readinessProbe": {"exec": {"command": ["ready"]}, "periodSeconds": 1}}]}),
    );
    let before = stage.wait("p", "ready", |p| is(p, "Ready")).await;
    stage.restart_kubelet().await;
    // Something happens after the restart, so that we know the new kubelet has looked.
    stage.pod("q", json!({"containers": [{"name": "b"}]}));
    stage.wait("q", "ready", |p| is(p, "Ready")).await;
    let after = stage.api.get("pods", "default", "p").unwrap();
    assert_eq!(after["status"]["containerStatuses"], before["status"]["containerStatuses"]);
    assert_eq!(lifecycle(&stage).iter().filter(|c| c.starts_with("start a") || c.starts_with("stop")).count(), 1);
    // And it still is in charge.
    stage.cri.exit("a", 1);
    let pod = stage.wait("p", "restarted", |p| p["status"]["containerStatuses"][0]["restartCount"] == 1).await;
    assert_eq!(pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 1);
}

/// One process may hold all components: whatever panics, what was under way is done after all, and nobody else notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_costs_a_pod_a_moment_and_others_nothing() {
    let stage = Stage::start().await;
    stage.pod("q", json!({"containers": [{"name": "b"}]}));
    let other = stage.wait("q", "ready", |p| is(p, "Ready")).await;
    // An operation, and a probe.
    for call in ["run sandbox p 0", "exec ready"] {
        stage.cri.panics_at(call);
    }
    stage.pod(
        "p",
        json!({"containers": [{"name": "a", "readinessProbe": {"exec": {"command": ["ready"]}, "periodSeconds": 1}}]}),
    );
    stage.wait("p", "ready", |p| is(p, "Ready")).await;
    stage.api.event("p", "FailedSync: error syncing pod: the kubelet panicked").await;
    // The worker itself, when it looks at what became of its containers.
    stage.cri.panics_at("list containers");
    stage.cri.exit("a", 1);
    stage.wait("p", "restarted", |p| is(p, "Ready") && p["status"]["containerStatuses"][0]["restartCount"] == 1).await;
    for call in ["stop a", "stop sandbox"] {
        stage.cri.panics_at(call);
    }
    stage.api.delete_pod("p", 30);
    stage.gone("p").await;
    stage.cri.called("remove sandbox").await;
    assert_eq!(stage.cri.holds(), (1, 1));
    assert_eq!(stage.api.get("pods", "default", "q").unwrap()["status"], other["status"]);
    assert_eq!(lifecycle(&stage).iter().filter(|call| *call == "start a").count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_crash_waits() {
    let stage = Stage::start().await;
    stage.pod("p", json!({"containers": [{"name": "a"}]}));
    stage.wait("p", "ready", |p| is(p, "Ready")).await;
    stage.cri.exit("a", 1);
    stage
        .wait("p", "restarted", |p| {
            p["status"]["containerStatuses"][0]["state"]["running"].is_object()
                && p["status"]["containerStatuses"][0]["restartCount"] == 1
        })
        .await;
    stage.cri.exit("a", 1);
    let pod = stage.wait("p", "waiting", |p| p["status"]["containerStatuses"][0]["state"]["waiting"].is_object()).await;
    let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
    assert_eq!(waiting["reason"], "CrashLoopBackOff");
    assert_eq!(waiting["message"], "back-off 10s restarting failed container=a pod=p_default(uid-p)");
    assert_eq!(phase(&pod), "Running");
    stage.api.event("p", "BackOff: Back-off restarting failed container a in pod p_default(uid-p)").await;
    // Another image is worth a try at once.
    let mut pod = pod;
    pod["spec"]["containers"][0]["image"] = "busybox:2".into();
    stage.api.put("/api/v1/namespaces/default/pods", pod);
    stage.wait("p", "ready with the other image", |p| is(p, "Ready")).await;
    let starts = lifecycle(&stage).iter().filter(|c| *c == "start a").count();
    assert_eq!(starts, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_liveness_probe_restarts() {
    let stage = Stage::start().await;
    stage.cri.exec_exits("alive", 1);
    stage.pod(
        "p",
        json!({"containers": [{"name": "a", "livenessProbe": {
        "exec": {"command": ["alive"]}, "periodSeconds": 1, "failureThreshold": 1}}]}),
    );
    stage.wait("p", "restarted", |p| p["status"]["containerStatuses"][0]["restartCount"].as_i64() >= Some(1)).await;
    stage.api.event("p", "Killing: Container a failed liveness probe, will be restarted").await;
    stage.api.event("p", "Unhealthy: Liveness probe failed: ").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_container_is_never_missed() {
    let stage = Stage::start().await;
    stage.pod("p", json!({"containers": [{"name": "a"}]}));
    let mut pod = stage.wait("p", "ready", |p| is(p, "Ready")).await;
    let before = stage.api.history("pods", "p").len();
    pod["spec"]["containers"][0]["image"] = "busybox:2".into();
    stage.api.put("/api/v1/namespaces/default/pods", pod);
    stage.wait("p", "restarted", |p| p["status"]["containerStatuses"][0]["restartCount"] == 1).await;
    let since = stage.api.history("pods", "p").split_off(before);
    assert!(since.iter().all(|p| is(p, "Ready")), "{since:#?}");
    let events = stage.api.events("p");
    assert!(!events.iter().any(|e| e.starts_with("BackOff")), "{events:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pre_stop_hook_runs_before_the_stop() {
    let stage = Stage::start().await;
    stage.pod("p", json!({"containers": [{"name": "a", "lifecycle": {"preStop": {"exec": {"command": ["bye"]}}}}]}));
    stage.wait("p", "ready", |p| is(p, "Ready")).await;
    stage.api.delete_pod("p", 5);
    stage.gone("p").await;
    let calls = lifecycle(&stage);
    assert_eq!(calls[2..5], ["exec bye", "stop a", "stop sandbox"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_vanishes_is_stopped() {
    let stage = Stage::start().await;
    stage.pod("p", json!({"containers": [{"name": "a"}]}));
    stage.wait("p", "ready", |p| is(p, "Ready")).await;
    stage.api.delete_pod("p", 0);
    stage.cri.called("remove sandbox").await;
    assert_eq!(stage.cri.holds(), (0, 0));
}

/// As the API takes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grace_period_may_be_longer_than_clocks_go() {
    let stage = Stage::start().await;
    stage.cri.exec_exits("alive", 1);
    stage.pod(
        "p",
        json!({"terminationGracePeriodSeconds": i64::MAX, "containers": [{"name": "a", "livenessProbe": {
        "exec": {"command": ["alive"]}, "periodSeconds": 1, "failureThreshold": 1}}]}),
    );
    stage.wait("p", "restarted", |p| p["status"]["containerStatuses"][0]["restartCount"].as_i64() >= Some(1)).await;
    stage.api.delete_pod("p", 0);
    stage.cri.called("remove sandbox").await;
    assert_eq!(stage.cri.holds(), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_sandbox_comes_back() {
    let stage = Stage::start().await;
    stage.pod("p", json!({"containers": [{"name": "a"}]}));
    let before = stage.wait("p", "ready", |p| is(p, "Ready")).await;
    stage.cri.lose_sandboxes();
    stage.cri.called("run sandbox p 1").await;
    let address = before["status"]["podIP"].clone();
    let pod = stage.wait("p", "ready again", |p| is(p, "Ready") && p["status"]["podIP"] != address).await;
    assert_eq!(pod["status"]["podIPs"].as_array().unwrap().len(), 1);
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 1);
    // The lost one gave back what it had before; it goes with the last container that is told of.
    let one_more = ["run sandbox p 0", "start a", "stop sandbox", "run sandbox p 1", "start a"];
    assert_eq!(lifecycle(&stage), one_more);
    stage.cri.lose_sandboxes();
    stage.cri.called("remove sandbox").await;
    stage.wait("p", "ready once more", |p| is(p, "Ready") && p["status"]["containerStatuses"][0]["restartCount"] == 2).await;
    assert_eq!(stage.cri.holds(), (2, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_config_map_holds_a_pod_until_it_comes() {
    let stage = Stage::start().await;
    stage.pod(
        "p",
        json!({"volumes": [{"name": "v", "configMap": {"name": "later"}}],
        "containers": [{"name": "a", "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            "env": [{"name": "K", "valueFrom": {"configMapKeyRef": {"name": "later", "key": "k"}}}]}]}),
    );
    stage.api.event("p", "FailedMount: MountVolume.SetUp failed for volume \"v\" : configmap \"later\" not found").await;
    let path = "/api/v1/namespaces/default/configmaps";
    stage.api.put(path, json!({"metadata": {"name": "later"}, "data": {"k": "1"}}));
    stage.wait("p", "ready", |p| is(p, "Ready")).await;
    let config = stage.cri.config("a");
    assert!(config.envs.iter().any(|e| e.key == "K" && e.value == b"1"));
    let mount = config.mounts.iter().find(|m| m.container_path == "/v").unwrap();
    let file = std::path::Path::new(&mount.host_path).join("k");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "1");
    // A change reaches the running pod.
    stage.api.put(path, json!({"metadata": {"name": "later"}, "data": {"k": "2"}}));
    let end = std::time::Instant::now() + support::PATIENCE;
    while std::fs::read_to_string(&file).unwrap() != "2" {
        assert!(std::time::Instant::now() < end, "the change never arrives");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_cannot_be_pulled_is_named() {
    let stage = Stage::start().await;
    stage.pod("p", json!({"containers": [{"name": "a", "image": "nowhere.test/x:1"}]}));
    let pod = stage
        .wait("p", "failing", |p| p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ErrImagePull")
        .await;
    let message = "rpc error: code = NotFound desc = nowhere.test/x:1: not found";
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"], message);
    let pod = stage
        .wait("p", "backing off", |p| {
            p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ImagePullBackOff"
        })
        .await;
    let message = format!("Back-off pulling image \"nowhere.test/x:1\": ErrImagePull: {message}");
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"], message);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_does_not_fit_is_turned_away() {
    let stage = Stage::start().await;
    stage.api.wait("nodes", "", NODE, "ready", |n| is(n, "Ready")).await;
    stage.pod("p", json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "1000"}}}]}));
    let pod = stage.wait("p", "failed", |p| phase(p) == "Failed").await;
    assert_eq!(pod["status"]["reason"], "OutOfcpu");
    let message = pod["status"]["message"].as_str().unwrap();
    assert!(
        message
            .starts_with("Pod was rejected: Node didn't have enough resource: cpu, requested: 1000000, used: 0, capacity: "),
        "{message}"
    );
    assert!(lifecycle(&stage).is_empty());
    stage.api.delete_pod("p", 30);
    stage.gone("p").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_ends_a_pod() {
    let stage = Stage::start().await;
    // It counts from a whole second, so of the first one nothing may be left.
    stage.pod("p", json!({"activeDeadlineSeconds": 2, "containers": [{"name": "a"}]}));
    let pod = stage.wait("p", "failed", |p| phase(p) == "Failed").await;
    assert_eq!(pod["status"]["reason"], "DeadlineExceeded");
    assert!(lifecycle(&stage).contains(&"stop a".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shorter_grace_period_takes_over() {
    let stage = Stage::start().await;
    stage.cri.stubborn("a");
    stage.pod("p", json!({"terminationGracePeriodSeconds": 3600, "containers": [{"name": "a"}]}));
    stage.wait("p", "ready", |p| is(p, "Ready")).await;
    stage.api.delete_pod("p", 3600);
    stage.cri.called("stop a").await;
    stage.api.delete_pod("p", 1);
    stage.gone("p").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_belongs_to_nobody_is_removed() {
    let mut stage = Stage::start().await;
    stage.pod("p", json!({"containers": [{"name": "a"}]}));
    stage.wait("p", "ready", |p| is(p, "Ready")).await;
    // The pod goes while no kubelet runs.
    stage.shutdown.cancel();
    stage.api.delete_pod("p", 0);
    // The logs of another could not be removed when it went.
    let logs = stage.config.pod_logs_dir.join("default_q_uid-q");
    std::fs::create_dir_all(logs.join("a")).unwrap();
    stage.restart_kubelet().await;
    stage.cri.called("remove sandbox").await;
    assert_eq!(stage.cri.holds(), (0, 0));
    tokio::time::timeout(Duration::from_secs(10), async {
        while logs.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the logs are removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_limits_reach_a_running_container() {
    let stage = Stage::start().await;
    let spec =
        |memory: &str| json!({"containers": [{"name": "a", "resources": {"limits": {"cpu": "1", "memory": memory}}}]});
    stage.pod("p", spec("64Mi"));
    let mut pod = stage.wait("p", "ready", |p| is(p, "Ready")).await;
    pod["spec"]["containers"][0]["resources"]["limits"]["memory"] = "128Mi".into();
    stage.api.put("/api/v1/namespaces/default/pods", pod);
    stage.cri.called("update a memory 134217728").await;
    let settled = |p: &serde_json::Value| {
        let status = &p["status"];
        status["containerStatuses"][0]["resources"]["limits"]["memory"] == "128Mi" && !is(p, "PodResizeInProgress")
    };
    stage.wait("p", "resized", settled).await;
    assert!(!lifecycle(&stage).contains(&"stop a".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gets_less_memory_than_is_used() {
    let stage = Stage::start().await;
    stage.pod("p", json!({"containers": [{"name": "a", "resources": {"limits": {"cpu": "1", "memory": "128Mi"}}}]}));
    let mut pod = stage.wait("p", "ready", |p| is(p, "Ready")).await;
    stage.cri.uses("a", 100 << 20);
    pod["spec"]["containers"][0]["resources"]["limits"]["memory"] = "64Mi".into();
    stage.api.put("/api/v1/namespaces/default/pods", pod);
    let refused = |p: &serde_json::Value| {
        let all = p["status"]["conditions"].as_array();
        all.is_some_and(|all| all.iter().any(|c| c["type"] == "PodResizeInProgress" && c["reason"] == "Error"))
    };
    let mut pod = stage.wait("p", "refused", refused).await;
    assert_eq!(pod["status"]["containerStatuses"][0]["resources"]["limits"]["memory"], "128Mi");
    // Another wish takes the place of the one that waits.
    pod["spec"]["containers"][0]["resources"]["limits"]["memory"] = "120Mi".into();
    stage.api.put("/api/v1/namespaces/default/pods", pod);
    stage.cri.called("update a memory 125829120").await;
    let settled = |p: &serde_json::Value| {
        p["status"]["containerStatuses"][0]["resources"]["limits"]["memory"] == "120Mi" && !is(p, "PodResizeInProgress")
    };
    stage.wait("p", "resized", settled).await;
    assert!(!stage.cri.calls().contains(&"update a memory 67108864".to_owned()));
}

/// A folder of static pods with one in it.
struct Manifests {
    folder: tempfile::TempDir,
    file: std::path::PathBuf,
}

impl Manifests {
    const WEB: &str =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  - {name: a, image: 'busybox:1'}\n";

    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("web.yaml");
        std::fs::write(&file, Self::WEB).unwrap();
        Self { folder, file }
    }

    /// A kubelet that runs what is there.
    async fn kubelet(&self) -> Stage {
        Stage::start_with(|config| config.pod_manifest_path = Some(self.folder.path().to_owned())).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_becomes_a_pod_that_the_api_shows() {
    let manifests = Manifests::new();
    let stage = manifests.kubelet().await;
    let mirror = stage.wait("web-node-1", "ready", |p| is(p, "Ready")).await;
    assert!(mirror["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string());
    // Deleting the picture does not touch the pod; the picture comes back.
    stage.api.delete_pod("web-node-1", 0);
    stage.wait("web-node-1", "ready again", |p| is(p, "Ready")).await;
    assert_eq!(lifecycle(&stage), ["run sandbox web-node-1 0", "start a"]);
    // Another file is another pod; no file is none.
    std::fs::write(&manifests.file, Manifests::WEB.replace("name: a", "name: b")).unwrap();
    stage.cri.called("start b").await;
    std::fs::remove_file(&manifests.file).unwrap();
    stage.gone("web-node-1").await;
    stage.cri.called("remove b").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_goes_while_the_api_is_away_is_shown_no_more() {
    let manifests = Manifests::new();
    let stage = manifests.kubelet().await;
    stage.wait("web-node-1", "ready", |p| is(p, "Ready")).await;
    stage.api.down(true);
    std::fs::remove_file(&manifests.file).unwrap();
    stage.cri.called("remove sandbox").await;
    stage.api.down(false);
    stage.gone("web-node-1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_becomes_a_pod_without_the_api() {
    let manifests = tempfile::tempdir().unwrap();
    let folder = manifests.path().join("manifests");
    let path = folder.clone();
    let mut stage = Stage::start_with(|config| config.pod_manifest_path = Some(path)).await;
    stage.api.down(true);
    stage.restart_kubelet().await;
    // The folder may come later than the kubelet.
    std::fs::create_dir(&folder).unwrap();
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: etcd}\nspec:\n  hostNetwork: true\n  containers:\n  - {name: a, image: 'busybox:1'}\n";
    std::fs::write(folder.join("etcd.yaml"), text).unwrap();
    stage.cri.called("start a").await;
    assert!(stage.api.get("pods", "default", "etcd-node-1").is_none());
    stage.api.down(false);
    let mirror = stage.wait("etcd-node-1", "ready", |p| is(p, "Ready")).await;
    let seen = mirror["metadata"]["annotations"]["kubernetes.io/config.seen"].as_str().unwrap();
    assert!(seen.parse::<jiff::Timestamp>().is_ok(), "{seen}");
    assert_eq!(lifecycle(&stage), ["run sandbox etcd-node-1 0", "start a"]);
}

/// systemd-logind announces a shutdown: pods end, critical ones last, and then the machine may go down; or not after all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_end_before_their_machine() {
    let mut bus = support::bus::Bus::start();
    let socket = bus.socket();
    let stage = Stage::start_with(|config| {
        config.system_bus = socket;
        config.shutdown_grace_period = Duration::from_secs(60);
        config.shutdown_grace_period_critical_pods = Duration::from_secs(20);
    })
    .await;
    let lock = bus.locked().await;
    stage.pod("system", json!({"priority": 2_000_001_000, "containers": [{"name": "s"}]}));
    stage.pod("plain", json!({"containers": [{"name": "a"}]}));
    stage.wait("system", "ready", |p| is(p, "Ready")).await;
    stage.wait("plain", "ready", |p| is(p, "Ready")).await;

    bus.announce(true);
    for name in ["plain", "system"] {
        let pod = stage.wait(name, "ended", |p| phase(p) == "Failed").await;
        let message = "Pod was terminated in response to imminent node shutdown.";
        let says = (&pod["status"]["reason"], &pod["status"]["message"]);
        assert_eq!(says, (&json!("Terminated"), &json!(message)));
        assert!(is(&pod, "DisruptionTarget"));
    }
    lock.released().await;
    assert_eq!(lifecycle(&stage).into_iter().filter(|c| c.starts_with("stop ")).collect::<Vec<_>>()[..1], ["stop a"]);
    let not_ready = |n: &serde_json::Value| {
        let conditions = n["status"]["conditions"].as_array().unwrap();
        conditions.iter().any(|c| c["type"] == "Ready" && c["message"] == "node is shutting down")
    };
    stage.api.wait("nodes", "", NODE, "going down", not_ready).await;
    stage.pod("late", json!({"containers": [{"name": "l"}]}));
    let late = stage.wait("late", "turned away", |p| phase(p) == "Failed").await;
    assert_eq!(late["status"]["reason"], "NodeShutdown");
    stage.api.event(NODE, "NodeShutdown: Shutdown manager detected shutdown event").await;

    bus.announce(false);
    bus.locked().await;
    stage.api.wait("nodes", "", NODE, "ready again", |n| is(n, "Ready")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_said_of_containers_before_the_runtime_answers() {
    let mut stage = Stage::start().await;
    stage.pod("p", json!({"containers": [{"name": "a"}]}));
    let before = stage.wait("p", "ready", |p| is(p, "Ready")).await;
    stage.cri.deaf(true);
    stage.restart_kubelet().await;
    stage.cri.called("asked in vain").await;
    stage.pod("q", json!({"containers": [{"name": "b"}]}));
    assert_eq!(stage.api.get("pods", "default", "p").unwrap()["status"], before["status"]);
    stage.cri.deaf(false);
    stage.wait("q", "ready", |p| is(p, "Ready")).await;
    assert_eq!(
        stage.api.get("pods", "default", "p").unwrap()["status"]["containerStatuses"],
        before["status"]["containerStatuses"]
    );
}

/// A node that is short of memory says so, evicts one pod after the other, and takes no more that promise nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_short_of_memory_evicts() {
    let stage = Stage::start_with(|config| config.eviction_hard = "memory.available<1000Ti".parse().unwrap()).await;
    stage.api.wait("nodes", "", NODE, "short of memory", |n| is(n, "MemoryPressure")).await;
    stage.pod("greedy", json!({"containers": [{"name": "a", "resources": {"requests": {"memory": "1Mi"}}}]}));
    stage.pod("best", json!({"containers": [{"name": "a"}]}));
    let rejected = stage.wait("best", "turned away", |p| phase(p) == "Failed").await;
    let evicted = stage.wait("greedy", "evicted", |p| phase(p) == "Failed").await;

    let says = |pod: &serde_json::Value| {
        let status = &pod["status"];
        (status["reason"].as_str().unwrap().to_owned(), status["message"].as_str().unwrap().to_owned())
    };
    let refusal = "Pod was rejected: The node had condition: [MemoryPressure]. ";
    assert_eq!(says(&rejected), ("Evicted".to_owned(), refusal.to_owned()));
    let (reason, message) = says(&evicted);
    let begin = "The node was low on resource: memory. Threshold quantity: 1000Ti, available: ";
    assert!(reason == "Evicted" && message.starts_with(begin), "{reason}: {message}");
    let conditions = evicted["status"]["conditions"].as_array().unwrap();
    let target = conditions.iter().find(|c| c["type"] == "DisruptionTarget").unwrap();
    assert_eq!((&target["reason"], &target["message"]), (&json!("TerminationByKubelet"), &json!(message)));
    stage.cri.called("stop a").await;
    stage.api.event("greedy", "Evicted: The node was low on resource").await;
    stage.api.event(NODE, "EvictionThresholdMet: Attempting to reclaim memory").await;
}

/// What an evicted pod has written goes at once, before another pod has to: its object may stay for long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_evicted_pod_leaves_nothing_on_a_full_disk() {
    let mut stage = Stage::start().await;
    stage.pod("p", json!({"containers": [{"name": "a"}]}));
    stage.wait("p", "ready", |p| is(p, "Ready")).await;
    stage.config.eviction_hard = "nodefs.available<1000Ti".parse().unwrap();
    // What could not be removed at first is removed the next time that the kubelet looks for room.
    stage.cri.fails_at("remove a");
    stage.restart_kubelet().await;
    // It is Failed from the decision on; its containers end after that.
    let ended =
        |p: &serde_json::Value| phase(p) == "Failed" && p.pointer("/status/containerStatuses/0/state/terminated").is_some();
    let pod = stage.wait("p", "evicted", ended).await;
    let begin = "The node was low on resource: ephemeral-storage. Threshold quantity: ";
    assert!(pod["status"]["message"].as_str().unwrap().starts_with(begin), "{}", pod["status"]);
    stage.cri.called("remove a").await;
    stage.api.delete_pod("p", 0);
    stage.cri.called("remove sandbox").await;
    let said = stage.api.history("pods", "p").pop().unwrap();
    assert_eq!(said["status"]["containerStatuses"], pod["status"]["containerStatuses"]);
}

/// A file system of 16 MiB with room for 40 files.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (flags, options) = (nix::mount::MsFlags::empty(), Some("size=16m,nr_inodes=40"));
        nix::mount::mount(Some("tmpfs"), dir.path(), Some("tmpfs"), flags, options).unwrap();
        Self(dir)
    }

    fn write(&self, name: &str, mebibytes: usize) {
        std::fs::write(self.0.path().join(name), vec![1; mebibytes << 20]).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Images that nobody uses go down to the low mark, then all of them before a pod has to, and what is not enough is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unused_images_go_before_pods_when_their_disk_fills_up() {
    let disk = Disk::new();
    [("pinned", 4), ("a", 3), ("b", 3)].into_iter().for_each(|(name, size)| disk.write(name, size));
    let cri = Arc::new(support::cri::Fake::new());
    cri.keeps_images_in(disk.0.path());
    let channel = cri.channel();
    let mut stage = Stage::start_on(cri, channel, |config| {
        (config.image_gc_high_threshold, config.image_gc_low_threshold) = (60, 50);
    });
    stage.pod("p", json!({"containers": [{"name": "c"}]}));
    stage.wait("p", "ready", |p| is(p, "Ready")).await;
    stage.cri.called("remove image a").await;

    stage.config.eviction_hard = "imagefs.available<60%".parse().unwrap();
    stage.restart_kubelet().await;
    stage.cri.called("remove image b").await;

    stage.config.image_gc_high_threshold = 10;
    stage.config.image_gc_low_threshold = 0;
    stage.config.eviction_hard = "imagefs.inodesFree<99%".parse().unwrap();
    stage.restart_kubelet().await;
    let failed = "FreeDiskSpaceFailed: Failed to garbage collect required amount of images. Attempted to free 4194304 bytes, \
                  but only found 0 bytes eligible to free.";
    stage.api.event(NODE, failed).await;
    let evicted = stage.wait("p", "evicted", |p| phase(p) == "Failed").await;
    let said = json!([evicted["status"]["reason"], evicted["status"]["message"]]);
    let message = "The node was low on resource: inodes. Threshold quantity: 39, available: 38. ";
    assert_eq!(said, json!(["Evicted", message]));
    let removed: Vec<String> = stage.cri.calls().into_iter().filter(|call| call.starts_with("remove image")).collect();
    assert_eq!(removed, ["remove image a", "remove image b"]);
}
