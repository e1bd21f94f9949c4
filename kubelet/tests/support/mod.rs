//! A kubelet between a small API server and a recording runtime, all in this process.

pub mod api;
pub mod bus;
pub mod cri;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// Everything a story needs. Dropping it stops the kubelet; directories go with it.
pub struct Stage {
    pub api: Arc<api::Api>,
    pub cri: Arc<cri::Fake>,
    channel: ::cri::Channel,
    pub config: knarr_kubelet::Config,
    pub shutdown: CancellationToken,
    task: Option<tokio::task::JoinHandle<Result<(), knarr_kubelet::Error>>>,
    dir: tempfile::TempDir,
}

pub const NODE: &str = "node-1";

impl Stage {
    /// With a running kubelet.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// With a running kubelet of that configuration.
    pub async fn start_with(configure: impl FnOnce(&mut knarr_kubelet::Config)) -> Self {
        let cri = Arc::new(cri::Fake::new());
        let channel = cri.channel();
        Self::start_on(cri, channel, configure)
    }

    /// With a running kubelet on the runtime behind `channel`.
    pub fn start_on(
        cri: Arc<cri::Fake>,
        channel: ::cri::Channel,
        configure: impl FnOnce(&mut knarr_kubelet::Config),
    ) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = tempfile::tempdir().unwrap();
        let api = Arc::new(api::Api::default());
        let mut config = knarr_kubelet::Config {
            hostname_override: Some(NODE.into()),
            node_ip: Some("192.0.2.10".parse().unwrap()),
            root_dir: dir.path().join("kubelet"),
            pod_logs_dir: dir.path().join("logs"),
            // A tree of our own, never the machine's.
            cgroup_root: format!("knarr-kubelet-test-{}-{number}", std::process::id()),
            address: "127.0.0.1".parse().unwrap(),
            port: 0,
            healthz_port: 0,
            pod_cidr: Some("10.42.0.0/24".into()),
            // How full this machine is decides nothing here.
            eviction_hard: knarr_kubelet::Bounds::default(),
            image_gc_high_threshold: 100,
            ..knarr_kubelet::Config::default()
        };
        configure(&mut config);
        let mut stage = Self { api, cri, channel, config, shutdown: CancellationToken::new(), task: None, dir };
        stage.run_kubelet();
        stage
    }

    fn run_kubelet(&mut self) {
        self.shutdown = CancellationToken::new();
        let run = knarr_kubelet::run(self.config.clone(), self.api.client(), self.channel.clone(), self.shutdown.clone());
        self.task = Some(tokio::spawn(run));
    }

    /// Ends the kubelet as a crash would: nothing is tidied up. Then starts another.
    pub async fn restart_kubelet(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
        self.shutdown.cancel();
        self.run_kubelet();
    }

    /// Creates a pod bound to the node.
    pub fn pod(&self, name: &str, spec: Value) {
        let mut spec = spec;
        spec["nodeName"] = json!(NODE);
        for list in ["containers", "initContainers"] {
            for container in spec[list].as_array_mut().into_iter().flatten() {
                container["image"] = container["image"].as_str().unwrap_or("busybox:1").into();
                container["imagePullPolicy"] = "IfNotPresent".into();
            }
        }
        let pod = json!({"metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")}, "spec": spec});
        self.api.put("/api/v1/namespaces/default/pods", pod);
    }

    /// Waits until the pod is as `test` wants it.
    pub async fn wait(&self, name: &str, what: &str, test: impl Fn(&Value) -> bool) -> Value {
        self.api.wait("pods", "default", name, what, test).await
    }

    /// Waits until the pod is gone.
    pub async fn gone(&self, name: &str) {
        self.api.gone("pods", "default", name).await;
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(task) = self.task.take() {
            let ended = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(task));
            assert!(std::thread::panicking() || ended.is_ok(), "the kubelet panicked");
        }
        // What it was just making, on other threads, may come after a first look.
        let mut quiet = 0;
        for _ in 0..200 {
            let found = self.cgroups().iter().filter(|dir| remove_tree(dir)).count();
            quiet = if found > 0 { 0 } else { quiet + 1 };
            if quiet == 3 {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        // Volumes in memory of pods that still ran.
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        for point in points.filter(|point| std::path::Path::new(point).starts_with(self.dir.path())) {
            let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

impl Stage {
    /// Where this stage's groups may be.
    fn cgroups(&self) -> Vec<std::path::PathBuf> {
        let root = self.config.cgroup_root.trim_matches('/');
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|e| e.path());
        hierarchies.chain(["/sys/fs/cgroup".into()]).map(|h| h.join(root)).filter(|_| !root.is_empty()).collect()
    }
}

/// Removes a group and those below it; true if there was one. A group with processes in it stays.
fn remove_tree(dir: &std::path::Path) -> bool {
    let Ok(entries) = std::fs::read_dir(dir) else { return false };
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        remove_tree(&entry.path());
    }
    // Busy or gone: the next round will tell.
    let _ = std::fs::remove_dir(dir);
    true
}

/// The pod's phase.
pub fn phase(pod: &Value) -> &str {
    pod["status"]["phase"].as_str().unwrap_or_default()
}

/// Whether the pod has that condition.
pub fn is(pod: &Value, condition: &str) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == condition && c["status"] == "True")
}

/// Longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(20);
