//! Sandboxes' operations: run, stop, remove.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cri::ContainerEventType::{ContainerCreatedEvent, ContainerDeletedEvent, ContainerStartedEvent, ContainerStoppedEvent};
use parking_lot::Mutex;
use process::blocking::Room;
use prost::Message;
use shim::{Event, Reply, Request};
use tokio::sync::mpsc;

use crate::cgroup::Cgroups;
use crate::core::Core;
use crate::disk;
use crate::error::{Error, Result, Step, chain};
use crate::shim_client::{News, Shim};
use crate::spec;
use crate::state::{EXIT_FILE, Exit, LiveSandbox, Sandbox, SandboxRecord, cgroup_parent, now_ns, sandbox_name};

/// Where control groups and small files of pods that end are removed and written.
pub(crate) static GROUPS: Room = Room::new(4);
/// Where their directories are removed, which may hold much.
static DIRECTORIES: Room = Room::new(4);

impl Core {
    /// Makes a sandbox and returns its ID. All of it is undone when a step fails.
    pub async fn run_sandbox(self: &Arc<Self>, config: cri::PodSandboxConfig, handler: &str) -> Result<String> {
        if !handler.is_empty() {
            return Err(Error::Invalid(format!("no runtime for {handler:?} is configured")));
        }
        let metadata =
            config.metadata.as_ref().ok_or_else(|| Error::Invalid("sandbox config must include metadata".to_owned()))?;
        let (id, name) = (disk::new_id(), sandbox_name(metadata));
        self.reserve("sandbox", &name, &id)?;
        match self.make_sandbox(&id, &name, config).await {
            Ok(sandbox) => {
                self.add_sandbox(sandbox.clone());
                self.announce(ContainerCreatedEvent, &id, &sandbox);
                self.announce(ContainerStartedEvent, &id, &sandbox);
                Ok(id)
            }
            Err(error) => {
                self.release_name(&name);
                Err(error)
            }
        }
    }

    async fn make_sandbox(self: &Arc<Self>, id: &str, name: &str, config: cri::PodSandboxConfig) -> Result<Arc<Sandbox>> {
        let dir = self.layout.sandbox(id);
        let group = self.cgroups.sandbox_group(&cgroup_parent(&config), id);
        let description = spec::sandbox(&config, self.cgroups.spec(&group))?;
        disk::make_dir(&dir)?;
        let made = async {
            spec::sandbox_files(&dir, &config)?;
            disk::write(&dir.join("config.pb"), &config.encode_to_vec())?;
            self.cgroups.create(&group, &cri::LinuxContainerResources::default(), None)?;
            let (sender, news) = mpsc::unbounded_channel();
            let shim = Shim::new(id, self.launcher.start(&dir)?, self.shim_patience(), sender);
            let finished = async {
                self.soon("the shim", shim.hello()).await?;
                self.start_and_connect(id, &config, &shim, description).await
            };
            let finished = finished.await;
            let record = match finished {
                Ok(record) => record,
                Err(error) => {
                    if let Err(error) = shim.shut_down().await {
                        tracing::warn!(sandbox = id, error = chain(&error), "a failed sandbox' shim goes on");
                    }
                    return Err(error);
                }
            };
            let sandbox = Arc::new(Sandbox {
                id: id.to_owned(),
                name: name.to_owned(),
                config,
                dir: dir.clone(),
                lifecycle: tokio::sync::Mutex::default(),
                live: Mutex::new(LiveSandbox { record, shim: Some(shim) }),
            });
            sandbox.change(|_| {})?;
            self.follow(sandbox.clone(), news);
            Ok(sandbox)
        };
        match made.await {
            Ok(sandbox) => Ok(sandbox),
            Err(error) => {
                self.clean_up(id, &group, &dir).await;
                Err(error)
            }
        }
    }

    async fn start_and_connect(
        &self,
        id: &str,
        config: &cri::PodSandboxConfig,
        shim: &Shim,
        description: shim::SandboxSpec,
    ) -> Result<SandboxRecord> {
        let pause = match self.soon("the pause process", shim.start(&Request::StartSandbox(description))).await? {
            Reply::Sandbox(pid) => pid,
            other => return Err(Error::Failed(format!("shim gave an unexpected answer: {other:?}"))),
        };
        let connected = !spec::has_host_network(config);
        let addresses = match connected {
            true => self.network.setup(Path::new(&format!("/proc/{pause}/ns/net")), id, config).await?,
            false => Vec::new(),
        };
        Ok(SandboxRecord { created_ns: now_ns(), ready: true, connected, addresses, pause })
    }

    /// Undoes a sandbox that was not finished.
    async fn clean_up(&self, id: &str, group: &str, dir: &Path) {
        let network = self.network.teardown(id).await;
        let cgroup = self.remove_own_group(group, id);
        for error in [network, cgroup, disk::remove_dir(dir)].into_iter().filter_map(Result::err) {
            tracing::warn!(sandbox = id, error = chain(&error), "something of a failed sandbox is left");
        }
    }

    /// Removes the pause process' cgroup unless it is the pod's, which is the kubelet's.
    pub(crate) fn remove_own_group(&self, group: &str, id: &str) -> Result<()> {
        if group.ends_with(id) { self.cgroups.remove(group) } else { Ok(()) }
    }

    /// Acts on what a sandbox's shim tells, until it is gone.
    pub(crate) async fn listen(&self, sandbox: Arc<Sandbox>, mut news: mpsc::UnboundedReceiver<News>) {
        while let Some(Some(event)) = news.recv().await {
            match event {
                Event::ContainerExited(record) => match self.container(&record.container) {
                    Ok(container) => {
                        // Its end may overtake the answer to its start, which is recorded and told of first.
                        drop(container.starting.lock().await);
                        self.container_ended(&container, Exit::from_shim(&record)).await;
                    }
                    Err(_) => tracing::debug!(container = record.container, "an unknown container has ended"),
                },
                Event::SandboxExited => self.sandbox_ended(&sandbox),
                Event::ExecExited(_) => {}
            }
        }
        let shim = sandbox.live.lock().shim.take();
        // One that cannot be understood any more would go on with nobody to talk to.
        if let Some(Err(error)) = shim.map(|shim| shim.kill_now()) {
            tracing::warn!(sandbox = sandbox.id, error = chain(&error), "a shim that cannot be talked to goes on");
        }
        self.sandbox_ended(&sandbox);
        self.abandon_containers(&sandbox, Exit::killed).await;
    }

    fn sandbox_ended(&self, sandbox: &Sandbox) {
        // Not written down: after a restart the pause process, or the shim, is missed.
        if !std::mem::replace(&mut sandbox.live.lock().record.ready, false) {
            return;
        }
        self.announce(ContainerStoppedEvent, &sandbox.id, sandbox);
    }

    /// Ends the containers of a shim that is gone: the kernel has killed their first processes along with it, and what is left
    /// in their cgroups follows. Their records tell how those ended that the shim still saw.
    pub(crate) async fn abandon_containers(&self, sandbox: &Sandbox, unseen: impl Fn(i64) -> Exit) {
        for container in self.containers_of(&sandbox.id) {
            if container.state() == cri::ContainerState::ContainerRunning {
                kill_group(&*self.cgroups, &container.cgroup);
                let exit = read_exit(&container.dir).unwrap_or_else(|| unseen(now_ns()));
                self.container_ended(&container, exit).await;
            }
        }
    }

    /// Stops a sandbox; a stopped or absent one is fine.
    pub async fn stop_sandbox(self: &Arc<Self>, id: &str) -> Result<()> {
        match self.sandbox(id) {
            Ok(sandbox) => {
                let _one = sandbox.lifecycle.lock().await;
                self.stop_locked(&sandbox).await
            }
            Err(Error::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn stop_locked(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<()> {
        let shim = sandbox.live.lock().shim.clone();
        if let Some(shim) = shim {
            shim.shut_down().await.step_with(|| format!("stop sandbox {}", sandbox.id))?;
            sandbox.live.lock().shim = None;
        }
        for container in self.containers_of(&sandbox.id) {
            if container.state() == cri::ContainerState::ContainerRunning {
                // The news of its end is on its way.
                let _ = tokio::time::timeout(self.shim_patience(), container.wait()).await;
            }
        }
        self.sandbox_ended(sandbox);
        let record = sandbox.record();
        if record.connected {
            self.network.teardown(&sandbox.id).await?;
        }
        let (core, sandbox) = (self.clone(), sandbox.clone());
        let rest = move || {
            if record.connected {
                sandbox.change(|record| record.connected = false)?;
            }
            core.remove_own_group(&core.cgroups.sandbox_group(&sandbox.cgroup_parent(), &sandbox.id), &sandbox.id)
        };
        GROUPS.run(rest).await
    }

    /// Removes a sandbox and its containers; an absent one is fine.
    pub async fn remove_sandbox(self: &Arc<Self>, id: &str) -> Result<()> {
        let sandbox = match self.sandbox(id) {
            Ok(sandbox) => sandbox,
            Err(Error::NotFound(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        let _one = sandbox.lifecycle.lock().await;
        self.stop_locked(&sandbox).await?;
        for container in self.containers_of(&sandbox.id) {
            self.remove_container(&container.id).await?;
        }
        remove_dir(sandbox.dir.clone()).await?;
        self.drop_sandbox(&sandbox);
        self.announce(ContainerDeletedEvent, &sandbox.id, &sandbox);
        Ok(())
    }
}

/// What the shim wrote about a container's end.
pub(crate) fn read_exit(dir: &Path) -> Option<Exit> {
    let bytes = std::fs::read(dir.join(EXIT_FILE)).ok()?;
    let record: shim::ExitRecord = shim::wire::Wire::from_bytes(&bytes).ok()?;
    Some(Exit::from_shim(&record))
}

/// Kills every process of a cgroup.
pub(crate) fn kill_group(cgroups: &dyn Cgroups, group: &str) {
    for pid in cgroups.processes(group) {
        // SAFETY: numbers only.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
}

/// Removes a directory elsewhere than on the event loop.
pub(crate) async fn remove_dir(path: PathBuf) -> Result<()> {
    DIRECTORIES.run(move || disk::remove_dir(&path)).await
}
