//! A node for tests: a runtime with a state directory and cgroups of its own, a network that connects nothing, and images made
//! of the busybox that the machine has. Whatever a test leaves goes with it.

#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::large_futures, reason = "CRI's messages are large, and tests are not in a hurry")]
#![allow(clippy::needless_pass_by_value)]

pub mod image;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cri::{Channel, ImageServiceClient, RuntimeServiceClient};
use knarr_runtime as runtime;
use runtime::cgroup::Cgroups;
use runtime::network::Network;
use runtime::{Config, Runtime};

/// Images' name in these tests.
pub const BUSYBOX: &str = "test.local/busybox:1";

/// Every pod has the same address and no interface.
pub struct NoNetwork;

#[async_trait::async_trait]
impl Network for NoNetwork {
    async fn setup(&self, _: &Path, _: &str, _: &cri::PodSandboxConfig) -> runtime::Result<Vec<IpAddr>> {
        Ok(vec![Ipv4Addr::new(192, 0, 2, 1).into()])
    }
    async fn teardown(&self, _: &str) -> runtime::Result<()> {
        Ok(())
    }
    async fn retain(&self, _: &HashSet<String>) -> runtime::Result<()> {
        Ok(())
    }
    async fn set_pod_cidr(&self, _: &str) -> runtime::Result<()> {
        Ok(())
    }
    async fn ready(&self) -> Result<(), String> {
        Ok(())
    }
}

/// The shim's program, built if necessary: cargo builds no other package's programs for a test.
pub fn shim() -> &'static Path {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| {
        // Where there is no cargo: on the machine of `hack/vm-test`.
        if let Some(given) = std::env::var_os("KNARR_TEST_SHIM") {
            return PathBuf::from(given);
        }
        let own = std::env::current_exe().unwrap();
        // target/PROFILE/deps/TEST
        let profile = own.parent().and_then(Path::parent).unwrap();
        let mut build = std::process::Command::new(env!("CARGO"));
        build.args(["build", "-q", "-p", "knarr-shim", "--target-dir"]).arg(profile.parent().unwrap());
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success(), "the shim does not build");
        profile.join("knarr-shim")
    })
}

/// What a test changes on the machine.
pub struct Place {
    pub dir: tempfile::TempDir,
    pub cgroup: String,
}

impl Place {
    pub fn new() -> Place {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let cgroup = format!("/knarr-test-{}-{number}", std::process::id());
        Place { dir: tempfile::Builder::new().prefix("knarr-runtime-").tempdir().unwrap(), cgroup }
    }

    pub fn config(&self) -> Config {
        Config { state: self.dir.path().join("state"), shim: Some(shim().to_owned()), ..Config::default() }
    }

    /// Shims of this place that run.
    pub fn shims(&self) -> Vec<i32> {
        let mine = self.dir.path().to_str().unwrap().to_owned();
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let command = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        pids.filter(|pid| command(pid).starts_with("knarr-shim") && command(pid).contains(&mine)).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let cgroups = runtime::cgroup::detect().unwrap();
        let gone = || cgroups.remove(&self.cgroup).is_ok() && unified().is_none_or(|v2| v2.remove(&self.cgroup).is_ok());
        for _ in 0..200 {
            let shims = self.shims();
            // Their pods end with them.
            for pid in &shims {
                unsafe { libc::kill(*pid, libc::SIGKILL) };
            }
            if shims.is_empty() && gone() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A network namespace that is a node's, until the test ends. Its mount lies in a directory of its own.
pub struct Namespace(tempfile::TempDir);

impl Namespace {
    pub fn new() -> Namespace {
        let namespace = Namespace(tempfile::Builder::new().prefix("knarr-runtime-net-").tempdir().unwrap());
        net::netns::create(&namespace.path()).unwrap();
        namespace
    }

    pub fn path(&self) -> PathBuf {
        self.0.path().join("node")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = net::netns::delete(&self.path());
    }
}

/// The second interface to cgroups, if it is mounted, with or without controllers.
pub fn unified() -> Option<runtime::cgroup::V2> {
    runtime::cgroup::V2::from_mounts(&std::fs::read_to_string("/proc/self/mountinfo").unwrap())
}

/// A running node.
pub struct Node {
    pub place: Place,
    pub runtime: Runtime,
    pub channel: Channel,
    shutdown: tokio_util::sync::DropGuard,
    running: tokio::task::JoinHandle<()>,
}

impl Node {
    pub async fn start() -> Node {
        let node = Node::resume(Place::new()).await;
        node.runtime.images().import(image::busybox().as_slice()).unwrap();
        node
    }

    /// A node in a place where one has been before.
    pub async fn resume(place: Place) -> Node {
        let runtime = Runtime::start_with(place.config(), Arc::new(NoNetwork)).await.unwrap();
        Node::of(place, runtime)
    }

    pub fn of(place: Place, runtime: Runtime) -> Node {
        let shutdown = tokio_util::sync::CancellationToken::new();
        let (token, served) = (shutdown.clone(), runtime.clone());
        let running = tokio::spawn(async move { served.run(token).await.unwrap() });
        let channel = runtime.channel();
        Node { place, runtime, channel, shutdown: shutdown.drop_guard(), running }
    }

    /// Ends the runtime and leaves its pods running.
    pub async fn stop(self) -> Place {
        drop(self.shutdown);
        self.running.await.unwrap();
        self.place
    }

    pub fn cri(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone())
    }

    pub fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone())
    }

    /// A pod's configuration.
    pub fn pod(&self, name: &str) -> cri::PodSandboxConfig {
        let logs = self.place.dir.path().join("logs").join(name);
        std::fs::create_dir_all(&logs).unwrap();
        cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: name.into(),
                uid: format!("uid-{name}"),
                namespace: "default".into(),
                attempt: 0,
            }),
            hostname: name.into(),
            log_directory: logs.to_str().unwrap().into(),
            linux: Some(cri::LinuxPodSandboxConfig {
                cgroup_parent: self.place.cgroup.clone(),
                security_context: Some(cri::LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    pub async fn run(&self, pod: &cri::PodSandboxConfig) -> String {
        let request = cri::RunPodSandboxRequest { config: Some(pod.clone()), runtime_handler: String::new() };
        self.cri().run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id
    }

    pub async fn create(&self, sandbox: &str, pod: &cri::PodSandboxConfig, config: cri::ContainerConfig) -> String {
        self.try_create(sandbox, pod, config).await.unwrap()
    }

    pub async fn try_create(
        &self,
        sandbox: &str,
        pod: &cri::PodSandboxConfig,
        config: cri::ContainerConfig,
    ) -> Result<String, tonic::Status> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.into(),
            config: Some(config),
            sandbox_config: Some(pod.clone()),
        };
        Ok(self.cri().create_container(request).await?.into_inner().container_id)
    }

    pub async fn start_container(&self, id: &str) -> Result<(), tonic::Status> {
        self.cri().start_container(cri::StartContainerRequest { container_id: id.into() }).await.map(drop)
    }

    pub async fn status(&self, id: &str) -> cri::ContainerStatus {
        let request = cri::ContainerStatusRequest { container_id: id.into(), verbose: false };
        self.cri().container_status(request).await.unwrap().into_inner().status.unwrap()
    }

    /// Waits for a container's end.
    pub async fn ended(&self, id: &str) -> cri::ContainerStatus {
        let exited = |status: &cri::ContainerStatus| status.state() == cri::ContainerState::ContainerExited;
        eventually("the container ends", async || Some(self.status(id).await).filter(exited)).await
    }

    /// Waits until a container's log, without time stamps, is as it should be.
    pub async fn says(&self, id: &str, enough: impl Fn(&str) -> bool) -> String {
        eventually("the container says it", async || Some(log(&self.status(id).await)).filter(|log| enough(log))).await
    }

    /// Creates and starts a container in a new pod.
    pub async fn container(&self, name: &str, config: cri::ContainerConfig) -> String {
        let pod = self.pod(name);
        let sandbox = self.run(&pod).await;
        let id = self.create(&sandbox, &pod, config).await;
        self.start_container(&id).await.unwrap();
        id
    }

    /// Runs a container to its end and returns how it ended and what it said, without time stamps.
    pub async fn outcome(&self, name: &str, config: cri::ContainerConfig) -> (cri::ContainerStatus, String) {
        let id = self.container(name, config).await;
        let status = self.ended(&id).await;
        (status.clone(), log(&status))
    }

    pub async fn exec(&self, id: &str, command: &[&str]) -> (String, String, i32) {
        let cmd = command.iter().map(ToString::to_string).collect();
        let request = cri::ExecSyncRequest { container_id: id.into(), cmd, timeout: 10 };
        let answer = self.cri().exec_sync(request).await.unwrap().into_inner();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (text(answer.stdout), text(answer.stderr), answer.exit_code)
    }
}

/// Asks again and again; for what tells nobody when it is so.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            match ask().await {
                Some(answer) => return answer,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), asking).await.unwrap_or_else(|_| panic!("waiting until {what}"))
}

/// The kubelet's usual choice.
pub fn namespaces() -> cri::NamespaceOption {
    let mut options = cri::NamespaceOption::default();
    options.set_pid(cri::NamespaceMode::Container);
    options
}

/// A container that runs a shell script.
pub fn script(name: &str, script: &str) -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(cri::ImageSpec { image: BUSYBOX.into(), ..Default::default() }),
        command: vec!["sh".into(), "-c".into(), script.into()],
        log_path: format!("{name}.log"),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(cri::LinuxContainerResources::default()),
            security_context: Some(security()),
        }),
        ..Default::default()
    }
}

/// The kubelet's usual choice.
pub fn security() -> cri::LinuxContainerSecurityContext {
    cri::LinuxContainerSecurityContext {
        namespace_options: Some(namespaces()),
        masked_paths: ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"].map(String::from).to_vec(),
        readonly_paths: ["/proc/bus", "/proc/sys"].map(String::from).to_vec(),
        ..Default::default()
    }
}

/// Changes a container's security context.
pub fn with_security(
    mut config: cri::ContainerConfig,
    change: impl FnOnce(&mut cri::LinuxContainerSecurityContext),
) -> cri::ContainerConfig {
    change(config.linux.as_mut().unwrap().security_context.as_mut().unwrap());
    config
}

/// A log without time stamps.
pub fn log(status: &cri::ContainerStatus) -> String {
    let text = std::fs::read_to_string(&status.log_path).unwrap();
    text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned() + "\n").collect()
}
