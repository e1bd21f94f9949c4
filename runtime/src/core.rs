//! What the operations on sandboxes, containers and images share: the registry of what exists, names, and events.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{broadcast, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::Config;
use crate::cgroup::Cgroups;
use crate::disk::Layout;
use crate::error::{Error, Result};
use crate::image::ImageStore;
use crate::network::Network;
use crate::service::convert;
use crate::shim_client::{Launcher, News};
use crate::state::{Container, Sandbox, now_ns};
use crate::streams::Streams;

/// How long what a shim starts may take.
const START_PATIENCE: Duration = Duration::from_secs(100);
/// How long a shim may take to answer, and what it kills to be gone.
const SHIM_PATIENCE: Duration = Duration::from_secs(10);
/// Events a slow listener may fall behind before it loses some.
const EVENT_BACKLOG: usize = 1024;

/// The runtime's inside.
pub struct Core {
    /// How it is set up.
    pub config: Config,
    /// Where its files are.
    pub layout: Layout,
    /// Images.
    pub images: Arc<ImageStore>,
    /// Control groups.
    pub cgroups: Arc<dyn Cgroups>,
    /// The pod network.
    pub network: Arc<dyn Network>,
    /// Starts shims.
    pub launcher: Launcher,
    /// Streams that wait to be fetched.
    pub streams: Streams,
    /// Looks at what was used.
    pub samples: crate::stats::Samples,
    /// Whether the kernel has seccomp filters.
    pub seccomp: bool,
    registry: Mutex<Registry>,
    events: broadcast::Sender<cri::ContainerEventResponse>,
    /// Who listens to shims, and what ends that.
    followers: TaskTracker,
    leaving: CancellationToken,
}

#[derive(Default)]
struct Registry {
    sandboxes: BTreeMap<String, Arc<Sandbox>>,
    containers: BTreeMap<String, Arc<Container>>,
    /// IDs by name.
    names: HashMap<String, String>,
}

impl Core {
    /// An empty runtime.
    pub fn new(
        config: Config,
        images: ImageStore,
        cgroups: Box<dyn Cgroups>,
        network: Arc<dyn Network>,
        launcher: Launcher,
        streams: Streams,
    ) -> Core {
        let actions = std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
        Core {
            layout: Layout { root: config.state.clone() },
            config,
            images: Arc::new(images),
            cgroups: cgroups.into(),
            network,
            launcher,
            streams,
            samples: crate::stats::Samples::default(),
            seccomp: actions.contains("errno"),
            registry: Mutex::default(),
            events: broadcast::channel(EVENT_BACKLOG).0,
            followers: TaskTracker::new(),
            leaving: CancellationToken::new(),
        }
    }

    /// What a shim starts is there soon, or has failed: who waits for it holds up the rest of its pod's life, and its end.
    pub async fn soon<T>(&self, what: &str, start: impl Future<Output = Result<T>>) -> Result<T> {
        let patience = self.config.start_patience.unwrap_or(START_PATIENCE);
        let started = tokio::time::timeout(patience, start).await;
        started.unwrap_or_else(|_| Err(Error::Timeout(format!("{what} has not started within {patience:?}"))))
    }

    /// How long a shim may take to answer, and what it kills to be gone.
    pub fn shim_patience(&self) -> Duration {
        self.config.shim_patience.unwrap_or(SHIM_PATIENCE)
    }

    /// Acts on what a sandbox's shim tells, until it or this runtime is gone.
    pub fn follow(self: &Arc<Self>, sandbox: Arc<Sandbox>, news: mpsc::UnboundedReceiver<News>) {
        let core = self.clone();
        self.followers.spawn(async move {
            core.leaving.run_until_cancelled(core.listen(sandbox, news)).await;
        });
    }

    /// Leaves pods to the next runtime: from here on this one writes nothing of theirs.
    pub async fn leave(&self) {
        self.leaving.cancel();
        self.followers.close();
        self.followers.wait().await;
    }

    /// Keeps a name for an ID.
    pub fn reserve(&self, kind: &str, name: &str, id: &str) -> Result<()> {
        let mut registry = self.registry.lock();
        match registry.names.get(name) {
            Some(holder) if holder != id => Err(Error::Exists(format!(
                "failed to reserve {kind} name {name:?}: name {name:?} is reserved for {holder:?}"
            ))),
            _ => {
                registry.names.insert(name.to_owned(), id.to_owned());
                Ok(())
            }
        }
    }

    /// Gives a name back.
    pub fn release_name(&self, name: &str) {
        self.registry.lock().names.remove(name);
    }

    /// Adds a sandbox.
    pub fn add_sandbox(&self, sandbox: Arc<Sandbox>) {
        self.registry.lock().sandboxes.insert(sandbox.id.clone(), sandbox);
    }

    /// Forgets a sandbox.
    pub fn drop_sandbox(&self, sandbox: &Sandbox) {
        let mut registry = self.registry.lock();
        registry.sandboxes.remove(&sandbox.id);
        registry.names.remove(&sandbox.name);
    }

    /// Adds a container.
    pub fn add_container(&self, container: Arc<Container>) {
        self.registry.lock().containers.insert(container.id.clone(), container);
    }

    /// Forgets a container.
    pub fn drop_container(&self, container: &Container) {
        let mut registry = self.registry.lock();
        registry.containers.remove(&container.id);
        registry.names.remove(&container.name);
    }

    /// Every sandbox.
    pub fn sandboxes(&self) -> Vec<Arc<Sandbox>> {
        self.registry.lock().sandboxes.values().cloned().collect()
    }

    /// Every container.
    pub fn containers(&self) -> Vec<Arc<Container>> {
        self.registry.lock().containers.values().cloned().collect()
    }

    /// A sandbox's containers.
    pub fn containers_of(&self, sandbox: &str) -> Vec<Arc<Container>> {
        let registry = self.registry.lock();
        registry.containers.values().filter(|container| container.sandbox.id == sandbox).cloned().collect()
    }

    /// The sandbox with this ID, or the only one whose ID begins so.
    pub fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>> {
        let found = by_prefix(&self.registry.lock().sandboxes, id);
        found.ok_or_else(|| Error::NotFound(format!("an error occurred when try to find sandbox {id:?}")))
    }

    /// The container with this ID, or the only one whose ID begins so.
    pub fn container(&self, id: &str) -> Result<Arc<Container>> {
        let found = by_prefix(&self.registry.lock().containers, id);
        found.ok_or_else(|| Error::NotFound(format!("an error occurred when try to find container {id:?}")))
    }

    /// Listens to events from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<cri::ContainerEventResponse> {
        self.events.subscribe()
    }

    /// Tells of a change. `id` is a container's or the sandbox's own.
    pub fn announce(&self, kind: cri::ContainerEventType, id: &str, sandbox: &Sandbox) {
        if self.events.receiver_count() == 0 {
            return;
        }
        let containers = self.containers_of(&sandbox.id);
        let _ = self.events.send(cri::ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind.into(),
            created_at: now_ns(),
            pod_sandbox_status: Some(convert::sandbox_status(sandbox)),
            containers_statuses: containers
                .iter()
                .map(|container| convert::container_status(container, &self.images))
                .collect(),
        });
    }
}

fn by_prefix<T>(all: &BTreeMap<String, Arc<T>>, id: &str) -> Option<Arc<T>> {
    if let Some(found) = all.get(id) {
        return Some(found.clone());
    }
    let mut alike = all.range(id.to_owned()..).take_while(|(key, _)| !id.is_empty() && key.starts_with(id));
    match (alike.next(), alike.next()) {
        (Some((_, found)), None) => Some(found.clone()),
        _ => None,
    }
}
