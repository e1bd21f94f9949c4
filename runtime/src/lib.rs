//! The container runtime: a CRI server for images, sandboxes and containers.
//!
//! It decides and keeps account; what runs is made and owned by one shim a pod (`shim/`), a small process that outlives this
//! one. [`spec`] turns CRI's and an image's words into the shim's, [`sandbox`] and [`container`] are the operations,
//! [`restore`] finds everything again after a restart, [`image`] fills the layers, [`cgroup`] and [`seccomp`] speak with the
//! kernel's two other languages, [`service`] speaks gRPC.
//!
//! A kubelet in the same process uses [`Runtime::channel`], others the socket; both lead to the same service.
//!
//! ```text
//! kubelet ──CRI──> service ──> Core ──protocol──> shim (1 a pod) ──fork──> containers
//!                    ^          │  state on disk     │ logs, exit records
//!                    └─ events ─┴────────<───────────┘
//! ```

pub mod cgroup;
mod container;
mod core;
pub mod disk;
pub mod error;
mod exec;
pub mod image;
mod metrics;
pub mod network;
mod propagation;
mod restore;
mod sandbox;
pub mod seccomp;
mod service;
mod shim_client;
mod spec;
mod state;
mod stats;
mod streams;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::error::Step;
pub use crate::error::{Error, Result};
pub use crate::image::{Credentials, ImageRecord, ImageStore, Registry};
use crate::network::{Chosen, Network, Own, OwnSettings, PluginSettings, Plugins};
use crate::service::Service;

/// How a runtime is set up.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Where its state is; on a file system that overlayfs can use for writing.
    pub state: PathBuf,
    /// The unix socket to serve CRI on, if any.
    pub socket: Option<PathBuf>,
    /// The shim's program; `knarr-shim` beside this program when absent.
    pub shim: Option<PathBuf>,
    /// How long a shim may take to begin, and to start the first process of a sandbox or a container; 100 s when absent, less than
    /// a kubelet waits.
    pub start_patience: Option<Duration>,
    /// How long a shim may take to end its pod, and to answer what it answers at once; 10 s when absent. One that stands still when its
    /// pod, or a container of it, is to end is killed then.
    pub shim_patience: Option<Duration>,
    /// How registries are reached.
    pub registries: Vec<Registry>,
    /// The default pod network.
    pub own: OwnSettings,
    /// What connects pods instead of it, if that is wanted.
    pub plugins: PluginSettings,
}

/// A running runtime. Clones share it.
#[derive(Clone)]
pub struct Runtime {
    core: Arc<crate::core::Core>,
    _only_one: Arc<nix::fcntl::Flock<std::fs::File>>,
}

impl Runtime {
    /// Starts with its own network, or plugins if they are wanted, and takes over what an earlier process has left.
    pub async fn start(config: Config) -> Result<Runtime> {
        disk::make_dir(&config.state)?;
        let own = match config.plugins.wanted {
            true => None,
            false => Some(Own::new(config.state.join("network"), config.own.clone()).await?),
        };
        let plugins = Plugins::new(&config.state.join("cni"), config.plugins.clone()).await?;
        Runtime::start_with(config, Arc::new(Chosen::new(own, plugins))).await
    }

    /// The same with another network.
    pub async fn start_with(config: Config, network: Arc<dyn Network>) -> Result<Runtime> {
        Runtime::start_on(config, network, cgroup::detect()?).await
    }

    /// The same with chosen control groups, too.
    pub async fn start_on(config: Config, network: Arc<dyn Network>, cgroups: Box<dyn cgroup::Cgroups>) -> Result<Runtime> {
        disk::make_dir(&config.state)?;
        // Shims live in other directories than this process does.
        let state = std::path::absolute(&config.state).step("find state directory")?;
        let config = Config { state, ..config };
        let only_one = Arc::new(lock(&config.state)?);
        check_overlay(&config.state)?;
        let shim = match &config.shim {
            Some(path) => path.clone(),
            None => beside_this_program()?,
        };
        let images = ImageStore::open(config.state.join("images"))?;
        let launcher = shim_client::Launcher::new(shim)?;
        let streams = streams::Streams::bind().await?;
        let core = crate::core::Core::new(config, images, cgroups, network, launcher, streams);
        let core = Arc::new(core);
        core.restore().await?;
        Ok(Runtime { core, _only_one: only_one })
    }

    /// A connection within this process.
    pub fn channel(&self) -> cri::Channel {
        let (runtime, images) = self.services();
        cri::Channel::local(runtime, images).with_news(self.core.network.news())
    }

    /// The images, to load archives into.
    pub fn images(&self) -> Arc<ImageStore> {
        self.core.images.clone()
    }

    /// Serves streams, and CRI on the socket if there is one, until told to end. Containers go on. After an error everything but the
    /// serving goes on, and this may be called again.
    pub async fn run(&self, shutdown: CancellationToken) -> Result<()> {
        let streams = async {
            streams::serve(self.core.clone(), shutdown.clone()).await;
            Ok(())
        };
        match self.core.config.socket.clone() {
            Some(socket) => tokio::try_join!(streams, self.serve(socket, shutdown.clone())).map(drop)?,
            None => streams.await?,
        }
        self.core.leave().await;
        Ok(())
    }

    async fn serve(&self, socket: PathBuf, shutdown: CancellationToken) -> Result<()> {
        match std::fs::remove_file(&socket) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).step("remove old socket"),
            _ => {}
        }
        let listener = tokio::net::UnixListener::bind(&socket).step_with(|| format!("listen on {}", socket.display()))?;
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600)).step("protect socket")?;
        let (runtime, images) = self.services();
        let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
        let server = tonic::transport::Server::builder().add_service(runtime).add_service(images);
        let served = server.serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned()).await;
        let _ = std::fs::remove_file(&socket);
        served.step("serve CRI")
    }

    fn services(&self) -> (cri::RuntimeServiceServer<Service>, cri::ImageServiceServer<Service>) {
        let service = Service(self.core.clone());
        (
            cri::RuntimeServiceServer::new(service.clone()).max_decoding_message_size(cri::MAX_MESSAGE_BYTES),
            cri::ImageServiceServer::new(service).max_decoding_message_size(cri::MAX_MESSAGE_BYTES),
        )
    }
}

fn beside_this_program() -> Result<PathBuf> {
    let own = std::env::current_exe().step("find this program")?;
    Ok(own.with_file_name("knarr-shim"))
}

/// Keeps a second runtime away from the state.
fn lock(state: &std::path::Path) -> Result<nix::fcntl::Flock<std::fs::File>> {
    let file = std::fs::File::create(state.join("lock")).step("open the state directory's lock")?;
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock)
        .map_err(|_| Error::State(format!("another runtime is using {}", state.display())))
}

/// Tries an overlay mount with its writable layer in the state directory, in a mount namespace that ends with the try.
fn check_overlay(state: &std::path::Path) -> Result<()> {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    let dir = tempfile::tempdir_in(state).step("make temporary directory")?;
    for name in ["lower", "upper", "work"] {
        std::fs::create_dir(dir.path().join(name)).step("make temporary directory")?;
    }
    let path = dir.path().to_owned();
    let tried = std::thread::spawn(move || {
        const NONE: Option<&str> = None;
        let options = ["lower", "upper", "work"].map(|name| format!("{name}dir={}", path.join(name).display())).join(",");
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS)?;
        mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
        mount(Some("overlay"), &path.join("lower"), Some("overlay"), MsFlags::empty(), Some(options.as_str()))
    });
    let tried = tried.join().map_err(|_| Error::Failed("the overlay try panicked".to_owned()))?;
    tried.step_with(|| {
        format!(
            "use overlayfs on {}: the state directory must be on a file system that can hold overlayfs's writable layers \
             (ext4, xfs, btrfs or tmpfs, not another overlay)",
            state.display()
        )
    })
}
