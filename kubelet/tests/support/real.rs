//! The built-in runtime with a directory and cgroups of its own and a network that connects nothing.

#[path = "../../../runtime/tests/support/image.rs"]
#[allow(dead_code, missing_docs)]
mod image;

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use runtime::{Runtime, network::Network};
use tokio_util::sync::CancellationToken;

/// The image that tests run.
pub const BUSYBOX: &str = "test.local/busybox:1";

struct NoNetwork;

#[async_trait::async_trait]
impl Network for NoNetwork {
    async fn setup(&self, _: &Path, _: &str, _: &cri::PodSandboxConfig) -> runtime::Result<Vec<IpAddr>> {
        Ok(vec![Ipv4Addr::new(192, 0, 2, 77).into()])
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
fn shim() -> &'static Path {
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

/// A running runtime. Whatever it runs goes with it.
pub struct Real {
    dir: tempfile::TempDir,
    pub cgroup: String,
    pub channel: cri::Channel,
    shutdown: CancellationToken,
}

impl Real {
    /// With the test image in it.
    pub async fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("knarr-kubelet-").tempdir().unwrap();
        let config =
            runtime::Config { state: dir.path().join("state"), shim: Some(shim().to_owned()), ..runtime::Config::default() };
        let runtime = Runtime::start_with(config, Arc::new(NoNetwork)).await.unwrap();
        runtime.images().import(image::busybox().as_slice()).unwrap();
        let shutdown = CancellationToken::new();
        let (token, served) = (shutdown.clone(), runtime.clone());
        tokio::spawn(async move { served.run(token).await });
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let cgroup = format!("/knarr-kubelet-real-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self { dir, cgroup, channel: runtime.channel(), shutdown }
    }

    fn shims(&self) -> Vec<i32> {
        let mine = self.dir.path().to_str().unwrap().to_owned();
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let command = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        pids.filter(|pid| command(pid).starts_with("knarr-shim") && command(pid).contains(&mine)).collect()
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        self.shutdown.cancel();
        let cgroups = runtime::cgroup::detect().unwrap();
        let mut quiet = 0;
        for _ in 0..300 {
            // Pods end with their shims. A kubelet that is still there may start a pod anew: quiet is what stays so.
            let shims = self.shims();
            for pid in &shims {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), nix::sys::signal::SIGKILL);
            }
            quiet = if shims.is_empty() && cgroups.remove(&self.cgroup).is_ok() { quiet + 1 } else { 0 };
            if quiet == 10 {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
