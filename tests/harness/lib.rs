//! What the end-to-end tests share: a cluster of their own that goes when the test ends, the programs that drive it, and
//! a look at what it has left on the machine.

pub mod traces;

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
pub use nix::sys::signal::Signal;
use serde_json::Value;

/// A local cluster with a name and a kubeconfig of its own.
pub struct Cluster {
    /// Its name.
    pub name: String,
    folder: tempfile::TempDir,
}

impl Cluster {
    /// A name that nobody else has; nothing is started.
    pub fn named() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("e2e-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Ok(Self { name, folder: tempfile::tempdir()? })
    }

    /// A running cluster.
    pub fn up(arguments: &[&str]) -> Result<Self> {
        let cluster = Self::named()?;
        cluster.start(arguments)?;
        Ok(cluster)
    }

    /// Runs `knarr up`.
    pub fn start(&self, arguments: &[&str]) -> Result<()> {
        self.knarr(&[&["up", "--name", &self.name], arguments].concat()).map(drop)
    }

    /// Runs `knarr down`.
    pub fn down(&self) -> Result<()> {
        self.knarr(&["down", "--name", &self.name]).map(drop)
    }

    /// `knarr status -o json`.
    pub fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.knarr(&["status", "--name", &self.name, "-o", "json"])?)?)
    }

    /// Runs `knarr` and returns what it printed.
    pub fn knarr(&self, arguments: &[&str]) -> Result<String> {
        succeeded(self.command(program("knarr")?).args(arguments))
    }

    /// Runs our `kubectl` and returns what it printed.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        succeeded(self.kubectl_command()?.args(arguments))
    }

    /// Our `kubectl`, to be run.
    pub fn kubectl_command(&self) -> Result<Command> {
        Ok(self.command(program("kubectl")?))
    }

    /// Applies a manifest.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        let path = self.folder.path().join("manifest.yaml");
        std::fs::write(&path, manifest)?;
        self.kubectl(&["apply", "-f", &path.to_string_lossy()]).map(drop)
    }

    /// A program with this cluster's kubeconfig.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("KUBECONFIG", self.kubeconfig()).stdin(Stdio::null());
        command
    }

    /// Its kubeconfig, which is nobody else's.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// Loads the example's image into every node.
    pub fn load_example_image(&self) -> Result<()> {
        let image = example_image()?;
        self.knarr(&["image", "load", &image.to_string_lossy(), "--name", &self.name]).map(drop)
    }

    /// Fetches a page, from the namespace of this name suffix (`outside`, `1`).
    pub fn fetch(&self, from: &str, url: &str) -> Result<String> {
        let namespace = format!("--net=/run/netns/{}-{from}", self.name);
        succeeded(Command::new("nsenter").args([&namespace, "timeout", "5", "busybox", "wget", "-q", "-O", "-", url]))
    }

    /// The address of the `n`th node.
    pub fn address(&self, n: usize) -> Result<String> {
        let status = self.status()?;
        Ok(status["nodes"][n - 1]["address"].as_str().context("find the node's address")?.to_owned())
    }

    /// Every process of the cluster, found by cgroup.
    pub fn processes(&self) -> Vec<i32> {
        traces::processes(&self.name)
    }

    /// Kills everything of the cluster at once.
    pub fn kill_everything(&self) -> Result<()> {
        for pid in self.processes() {
            // What has ended meanwhile is as good as killed.
            let _ = signal(pid.into(), Signal::SIGKILL);
        }
        Ok(())
    }
}

/// Sends a process a signal. The program for that is not on every Debian.
pub fn signal(pid: i64, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).context("a process' number")?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal)
        .with_context(|| format!("send {signal} to process {pid}"))
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        let _ = self.down();
    }
}

impl Cluster {
    fn logs(&self) -> String {
        let log = Path::new("/var/lib/knarr").join(&self.name).join(format!("{}-1/knarr.log", self.name));
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let from = text.len().saturating_sub(6000);
        let from = (from..text.len()).find(|i| text.is_char_boundary(*i)).unwrap_or(text.len());
        format!("--- the end of {}\n{}", log.display(), &text[from..])
    }
}

/// One of our programs, built beside this test.
pub fn program(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    // target/PROFILE/deps/TEST
    let profile = test.parent().and_then(Path::parent).context("find the folder of built programs")?;
    let path = profile.join(name);
    if !path.exists() {
        bail!("{} is missing: `cargo build --workspace --bins` makes it", path.display());
    }
    Ok(path)
}

/// The kubectls to compare: ours, and a real one where it is installed (or named by `KUBECTL`).
pub fn kubectls() -> Result<Vec<PathBuf>> {
    let real = std::env::var_os("KUBECTL").map_or_else(|| "/usr/bin/kubectl".into(), PathBuf::from);
    let works = |path: &PathBuf| {
        let version = Command::new(path).args(["version", "--client"]).stderr(Stdio::null()).output();
        version.is_ok_and(|output| output.status.success() && !output.stdout.is_empty())
    };
    Ok(std::iter::once(program("kubectl")?).chain(Some(real).filter(works)).collect())
}

/// The repository.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The example's image, built once.
fn example_image() -> Result<PathBuf> {
    static BUILT: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one_builds = BUILT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let path = program("knarr")?.with_file_name("hello.tar");
    if !path.exists() {
        succeeded(Command::new(root().join("hack/image")).arg(&path))?;
    }
    Ok(path)
}

/// Runs a command that must succeed and returns its standard output.
pub fn succeeded(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}\n{}", output.status, both(&output));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn both(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Asks again and again until the answer satisfies; for what tells nobody when it is so.
pub fn eventually<T>(what: &str, most: Duration, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + most;
    let mut last = None;
    loop {
        match ask() {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => {}
            Err(error) => last = Some(error),
        }
        if Instant::now() > deadline {
            return Err(last.unwrap_or_else(|| anyhow::anyhow!("it did not come to be"))).context(what.to_owned());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
