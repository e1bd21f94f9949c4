//! Containers' operations: create, start, stop, remove, update.

use std::sync::Arc;
use std::time::Duration;

use cri::ContainerEventType::{ContainerCreatedEvent, ContainerDeletedEvent, ContainerStartedEvent, ContainerStoppedEvent};
use cri::ContainerState::{ContainerCreated, ContainerExited, ContainerRunning};
use parking_lot::Mutex;
use prost::Message;
use shim::{Reply, Request};
use tokio::sync::watch;

use crate::core::Core;
use crate::disk;
use crate::error::{Error, Result, chain};
use crate::propagation;
use crate::sandbox::{GROUPS, kill_group, remove_dir};
use crate::shim_client;
use crate::spec::{self, Inputs, signal};
use crate::state::{Container, ContainerRecord, Exit, container_name, now_ns};

/// How long a killed container may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(30);
/// How long after its start a container may still be setting up its signal handlers.
const YOUNG: Duration = Duration::from_millis(500);
/// How often a cgroup's removal is tried: the kernel lets go of a dead process a little after it was reaped.
const GROUP_TRIES: u32 = 50;

impl Core {
    /// Makes a container and returns its ID.
    pub async fn create_container(self: &Arc<Self>, sandbox: &str, config: cri::ContainerConfig) -> Result<String> {
        let sandbox = self.sandbox(sandbox)?;
        let _one = sandbox.lifecycle.lock().await;
        if !sandbox.record().ready {
            return Err(Error::State(format!("sandbox {} is not running", sandbox.id)));
        }
        let invalid = |what: &str| Error::Invalid(format!("container config must include {what}"));
        let metadata = config.metadata.as_ref().ok_or_else(|| invalid("metadata"))?;
        let pod = sandbox.config.metadata.clone().unwrap_or_default();
        let image = config.image.as_ref().ok_or_else(|| invalid("image"))?.image.clone();
        let image = self.images.find(&image).ok_or_else(|| Error::NotFound(format!("failed to resolve image {image:?}")))?;
        let (id, name) = (disk::new_id(), container_name(metadata, &pod));
        self.reserve("container", &name, &id)?;
        let record = ContainerRecord {
            sandbox: sandbox.id.clone(),
            created_ns: now_ns(),
            image: image.id.clone(),
            run: Arc::new(image.config.config.clone()),
            ..ContainerRecord::default()
        };
        let container = Arc::new(Container {
            cgroup: format!("{}/{id}", sandbox.cgroup_parent()),
            dir: self.layout.container(&id),
            id: id.clone(),
            name: name.clone(),
            sandbox: sandbox.clone(),
            config,
            lifecycle: tokio::sync::Mutex::default(),
            starting: tokio::sync::Mutex::default(),
            ended: watch::Sender::new(false),
            live: Mutex::new(record),
        });
        let made = self.images.hold(&id, &image).and_then(|lower| {
            // Whatever is wrong with the request is said now, not when it is started.
            self.describe(&container, lower)?;
            for part in ["upper", "work"] {
                disk::make_dir(&container.dir.join(part))?;
            }
            // The root's own permissions are the image's.
            std::os::unix::fs::chown(container.dir.join("upper"), Some(0), Some(0)).ok();
            set_mode(&container.dir.join("upper"), 0o755)?;
            for mount in &container.config.mounts {
                make_mount_source(mount)?;
                propagation::check(mount)?;
            }
            disk::write(&container.dir.join("config.pb"), &container.config.encode_to_vec())?;
            container.change(|_| {})
        });
        if let Err(error) = made {
            self.images.release(&id);
            self.release_name(&name);
            disk::remove_dir(&container.dir)?;
            return Err(error);
        }
        self.add_container(container);
        self.announce(ContainerCreatedEvent, &id, &sandbox);
        Ok(id)
    }

    /// The container in a shim's words, and what it may do with devices. Without layers only its process is of interest.
    fn describe(&self, container: &Container, lower: Vec<String>) -> Result<(shim::ContainerSpec, spec::Devices)> {
        let security = container.config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let privileged = security.is_some_and(|security| security.privileged);
        let devices = match lower.is_empty() {
            // No root is made, so none are needed.
            true => spec::Devices { files: Vec::new(), rules: None },
            false => spec::devices(&container.config, privileged)?,
        };
        let run = container.live.lock().run.clone();
        let described = spec::container(&Inputs {
            id: &container.id,
            sandbox: &container.sandbox.config,
            hostname: &nix::unistd::gethostname().unwrap_or_default().to_string_lossy(),
            sandbox_dir: &container.sandbox.dir,
            config: &container.config,
            image: &run,
            layers_dir: &self.images.layers_dir(),
            lower,
            dir: &container.dir,
            cgroup: &container.cgroup,
            cgroups: self.cgroups.as_ref(),
            devices: &devices.files,
            seccomp: self.seccomp,
        })?;
        Ok((described, devices))
    }

    /// The description of a process in the container, as its user, for exec.
    pub(crate) fn describe_exec(&self, container: &Container, command: &[String], tty: bool) -> Result<shim::ProcessSpec> {
        let mut process = self.describe(container, Vec::new())?.0.process;
        process.args = command.to_vec();
        process.tty = tty;
        if let Some((uid, gid, groups)) = container.live.lock().user.clone() {
            (process.user, process.group, process.groups) = (uid.to_string(), gid.to_string(), groups);
            process.image_groups = false;
        }
        Ok(process)
    }

    /// Starts a container.
    pub async fn start_container(self: &Arc<Self>, id: &str) -> Result<()> {
        let container = self.container(id)?;
        let _one = container.lifecycle.lock().await;
        let _start = container.starting.lock().await;
        if container.state() != ContainerCreated {
            return Err(Error::State(format!("container {id} is in {} state", container.state().as_str_name())));
        }
        match self.start_locked(&container).await {
            Ok(()) => {
                self.announce(ContainerStartedEvent, &container.id, &container.sandbox);
                Ok(())
            }
            Err(error) => {
                let message = format!("failed to create task: {}", chain(&error));
                let exit =
                    Exit { code: 128, finished_ns: now_ns(), reason: "StartError".to_owned(), message: message.clone() };
                self.container_ended(&container, exit).await;
                Err(Error::Failed(message))
            }
        }
    }

    async fn start_locked(&self, container: &Arc<Container>) -> Result<()> {
        let shim = container.sandbox.shim()?;
        let image = container.record().image;
        let image = self.images.find(&image).ok_or_else(|| Error::NotFound(format!("image {image}")))?;
        let lower = self.images.hold(&container.id, &image)?;
        let resources = container.config.linux.as_ref().and_then(|linux| linux.resources.clone()).unwrap_or_default();
        let (description, devices) = self.describe(container, lower)?;
        self.cgroups.create(&container.cgroup, &resources, devices.rules.as_deref())?;
        // Hierarchies that only these resources need exist from here on.
        let description = shim::ContainerSpec { cgroup: self.cgroups.spec(&container.cgroup), ..description };
        let start = Request::StartContainer(Box::new(description));
        match self.soon("the container's first process", shim.start(&start)).await? {
            Reply::Started(started) => container.change(|record| {
                record.started_ns = started.started_ns;
                record.pid = started.pid;
                record.user = Some((started.uid, started.gid, started.groups));
            }),
            other => Err(Error::Failed(format!("shim gave an unexpected answer: {other:?}"))),
        }
    }

    /// Records a container's end, tells of it and lets its cgroup go.
    pub(crate) async fn container_ended(&self, container: &Arc<Container>, exit: Exit) {
        if !container.finish(exit) {
            return;
        }
        self.announce(ContainerStoppedEvent, &container.id, &container.sandbox);
        self.remove_group(container).await;
    }

    async fn remove_group(&self, container: &Container) {
        for _ in 0..GROUP_TRIES {
            let (cgroups, group) = (self.cgroups.clone(), container.cgroup.clone());
            let removed = GROUPS.run(move || {
                let removed = cgroups.remove(&group).is_ok();
                if !removed {
                    kill_group(&*cgroups, &group);
                }
                removed
            });
            if removed.await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tracing::warn!(container = container.id, cgroup = container.cgroup, "a container's cgroup cannot be removed");
    }

    /// Stops a container: its stop signal, and after `patience` SIGKILL. An absent or ended one is fine.
    pub async fn stop_container(&self, id: &str, patience: Duration) -> Result<()> {
        let container = match self.container(id) {
            Ok(container) => container,
            Err(Error::NotFound(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        if container.state() != ContainerRunning {
            return Ok(());
        }
        let shim = container.sandbox.shim()?;
        if !patience.is_zero() {
            let signal = signal::stop_signal(&container.config, &container.record().run.stop_signal);
            let gently = async {
                await_handler(&container, signal).await;
                // Not by its shim, which may stand still: what runs may end in order all the same.
                shim_client::signal_first(container.record().pid, &container.id, signal)?;
                container.wait().await;
                Ok(())
            };
            match tokio::time::timeout(patience, gently).await {
                Ok(done) => return done,
                Err(_) => tracing::debug!(container = container.id, "killing a container that does not stop"),
            }
        }
        match shim.kill(&container.id).await {
            // It stands still, and nothing of its pod can end as long as it does. The pod is made anew.
            Err(Error::Timeout(_)) => shim.kill_itself().await?,
            killed => killed?,
        }
        match tokio::time::timeout(KILL_PATIENCE, container.wait()).await {
            Ok(()) => Ok(()),
            Err(_) => Err(Error::Timeout(format!("container {id} does not end after SIGKILL"))),
        }
    }

    /// Removes a container, killing it first; an absent one is fine.
    pub async fn remove_container(self: &Arc<Self>, id: &str) -> Result<()> {
        let container = match self.container(id) {
            Ok(container) => container,
            Err(Error::NotFound(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        let _one = container.lifecycle.lock().await;
        self.stop_container(&container.id, Duration::ZERO).await?;
        if container.state() != ContainerExited {
            self.remove_group(&container).await;
        }
        remove_dir(container.dir.clone()).await?;
        self.images.release(&container.id);
        self.drop_container(&container);
        self.announce(ContainerDeletedEvent, &container.id, &container.sandbox);
        Ok(())
    }

    /// Changes a container's limits; what is not given stays.
    pub async fn update_container(&self, id: &str, resources: &cri::LinuxContainerResources) -> Result<()> {
        let container = self.container(id)?;
        let _one = container.lifecycle.lock().await;
        if container.state() != ContainerRunning {
            return Err(Error::State(format!("container {id} is not running")));
        }
        self.cgroups.update(&container.cgroup, resources)?;
        let merged = merge(container_resources(&container), resources);
        container.change(|record| record.resources = Some(merged.encode_to_vec()))
    }

    /// Opens a container's log anew.
    pub async fn reopen_log(&self, id: &str) -> Result<()> {
        let container = self.container(id)?;
        if container.state() != ContainerRunning {
            return Err(Error::State(format!("container {id} is not running")));
        }
        container.sandbox.shim()?.order(&Request::ReopenLog(container.id.clone())).await
    }
}

/// Waits while a container has just started and does not handle the signal yet. The kernel drops what a process namespace's
/// first process does not handle, so a container stopped right after its start would otherwise live for its whole grace
/// period.
async fn await_handler(container: &Container, signal: i32) {
    let record = container.record();
    let deaf = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", record.pid));
        status.is_ok_and(|status| signal::is_dropped(&status, signal))
    };
    while !*container.ended.borrow() && now_ns() - record.started_ns < YOUNG.as_nanos() as i64 && deaf() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The limits that hold now.
pub(crate) fn container_resources(container: &Container) -> cri::LinuxContainerResources {
    let updated = container.live.lock().resources.clone();
    let updated = updated.and_then(|bytes| cri::LinuxContainerResources::decode(bytes.as_slice()).ok());
    updated.or_else(|| container.config.linux.as_ref()?.resources.clone()).unwrap_or_default()
}

fn merge(mut old: cri::LinuxContainerResources, new: &cri::LinuxContainerResources) -> cri::LinuxContainerResources {
    let number = |old: &mut i64, new: i64| {
        if new != 0 {
            *old = new
        }
    };
    number(&mut old.cpu_period, new.cpu_period);
    number(&mut old.cpu_quota, new.cpu_quota);
    number(&mut old.cpu_shares, new.cpu_shares);
    number(&mut old.memory_limit_in_bytes, new.memory_limit_in_bytes);
    number(&mut old.memory_swap_limit_in_bytes, new.memory_swap_limit_in_bytes);
    number(&mut old.oom_score_adj, new.oom_score_adj);
    if !new.cpuset_cpus.is_empty() {
        old.cpuset_cpus.clone_from(&new.cpuset_cpus);
    }
    if !new.cpuset_mems.is_empty() {
        old.cpuset_mems.clone_from(&new.cpuset_mems);
    }
    old.unified.extend(new.unified.clone());
    old
}

/// Upstream's runtimes make a missing source a directory.
fn make_mount_source(mount: &cri::Mount) -> Result<()> {
    let path = std::path::Path::new(&mount.host_path);
    if path.exists() { Ok(()) } else { crate::error::Step::step(std::fs::create_dir_all(path), "make mount's source") }
}

fn set_mode(path: &std::path::Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    crate::error::Step::step(std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)), "set permissions")
}
