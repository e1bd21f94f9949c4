//! What is measured: a local cluster of `knarr up`, or an API server by itself; gone when dropped.

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{http::Target, measure::Subject};

/// One of our programs, built beside this one.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    if !path.exists() {
        bail!("{} is missing; hack/bench builds it", path.display());
    }
    Ok(path)
}

/// A local cluster with the example's image on its node.
pub struct Cluster {
    /// Its name.
    pub name: String,
    folder: tempfile::TempDir,
}

impl Cluster {
    /// A name; nothing is started. Whatever an interrupted run left under it is removed.
    pub fn named(name: &str) -> Result<Self> {
        let cluster = Self { name: name.to_owned(), folder: tempfile::tempdir()? };
        cluster.down();
        Ok(cluster)
    }

    /// A running cluster with the image.
    pub fn up(name: &str) -> Result<Self> {
        let cluster = Self::named(name)?;
        cluster.start()?;
        cluster.load_image()?;
        Ok(cluster)
    }

    /// `knarr up`.
    pub fn start(&self) -> Result<()> {
        let store = std::env::var("BENCH_STORE").unwrap_or_else(|_| "redb".to_owned());
        self.knarr(&["up", "--name", &self.name, "--store", &store]).map(drop)
    }

    /// `knarr image load`.
    pub fn load_image(&self) -> Result<()> {
        let image = program("hello.tar")?;
        self.knarr(&["image", "load", &image.to_string_lossy(), "--name", &self.name]).map(drop)
    }

    /// The same for one node.
    pub fn load_image_into(&self, node: &str) -> Result<()> {
        let image = program("hello.tar")?;
        self.knarr(&["image", "load", &image.to_string_lossy(), "--name", &self.name, "--node", node]).map(drop)
    }

    /// `knarr down`.
    pub fn down(&self) {
        let _ = self.knarr(&["down", "--name", &self.name]);
    }

    /// How to reach its API server; the whole cluster pays.
    pub fn target(&self) -> Result<Target> {
        Target::new(&self.knarr(&["kubeconfig", "--name", &self.name])?, self.subject())
    }

    /// All its processes.
    pub fn subject(&self) -> Subject {
        Subject::Cluster(self.name.clone())
    }

    /// How to enter the network namespaces of a node's pods, by inode.
    pub fn pod_namespaces(&self, node: usize) -> Result<BTreeMap<u64, PathBuf>> {
        let node = format!("{}-{node}", self.name);
        let inode = |path: &Path| fs::metadata(path).map(|found| found.ino());
        let own = inode(&net::netns::named(&node))?;
        let pids = Subject::Cluster(format!("{}/{node}", self.name)).pids();
        let paths = pids.into_iter().map(|pid| PathBuf::from(format!("/proc/{pid}/ns/net")));
        // A process may have ended meanwhile.
        let all = paths.filter_map(|path| Some((inode(&path).ok()?, path)));
        Ok(all.filter(|(inode, _)| *inode != own).collect())
    }

    /// A `knarr` to be run.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(program("knarr")?);
        command.args(arguments).env("KUBECONFIG", self.folder.path().join("kubeconfig")).stdin(Stdio::null());
        Ok(command)
    }

    /// Runs `knarr` and returns what it printed.
    pub fn knarr(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments)?.output()?;
        if !output.status.success() {
            bail!("knarr {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.down();
    }
}

/// A component by itself.
pub struct Component(Child);

impl Component {
    /// Starts `knarr NAME ...` with its output in a file.
    pub fn start(arguments: &[&str], log: &Path) -> Result<Self> {
        let log = fs::File::create(log)?;
        let mut command = Command::new(program("knarr")?);
        command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Self(command.spawn().with_context(|| format!("start knarr {}", arguments.join(" ")))?))
    }

    /// Its process.
    pub fn subject(&self) -> Subject {
        Subject::Process(self.0.id())
    }
}

impl Drop for Component {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `knarr apiserver` on loopback, with its store on the disk that clusters use.
pub struct ApiServer {
    /// How to reach it.
    pub target: Target,
    folder: tempfile::TempDir,
    port: u16,
    component: Option<Component>,
}

impl ApiServer {
    /// Starts it with an empty store.
    pub async fn start() -> Result<Self> {
        fs::create_dir_all("/var/lib/knarr")?;
        let folder = tempfile::Builder::new().prefix(".bench-").tempdir_in("/var/lib/knarr")?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let component = launch(folder.path(), port)?;
        let target = reach(folder.path(), &component).await?;
        Ok(Self { target, folder, port, component: Some(component) })
    }

    /// Ends it and starts it again on the same store; how long until it answers.
    pub async fn restart(&mut self) -> Result<Duration> {
        self.component = None;
        let started = Instant::now();
        let component = launch(self.folder.path(), self.port)?;
        self.target = reach(self.folder.path(), &component).await?;
        self.component = Some(component);
        Ok(started.elapsed())
    }

    /// Its administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        kubeconfig(self.folder.path())
    }

    /// A file beside its store.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn kubeconfig(folder: &Path) -> PathBuf {
    folder.join("admin.kubeconfig")
}

fn launch(folder: &Path, port: u16) -> Result<Component> {
    let (data, port) = (folder.to_string_lossy(), port.to_string());
    let local = "127.0.0.1";
    let mut arguments = vec!["apiserver", "--data-dir", &data];
    arguments.extend(["--bind-address", local, "--advertise-address", local, "--secure-port", &port]);
    Component::start(&arguments, &folder.join("log"))
}

async fn reach(folder: &Path, component: &Component) -> Result<Target> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let tried: Result<Target> = async {
            let target = Target::new(&fs::read_to_string(kubeconfig(folder))?, component.subject())?;
            match target.connect().await?.send("GET", "/readyz", "", b"").await?.0 {
                200 => Ok(target),
                status => bail!("/readyz answers {status}"),
            }
        }
        .await;
        match tried {
            Ok(target) => return Ok(target),
            Err(error) if Instant::now() > deadline => {
                let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
                return Err(error.context(format!("the API server does not answer; its log:\n{log}")));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}
