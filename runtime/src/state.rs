//! Sandboxes and containers: what is kept on disk about them, and what is known while they live.
//!
//! ```text
//! sandbox:    ready ──stop, or its pause process ends──> not ready ──remove──> gone
//! container:  created ──start──> running ──ends──> exited ──remove──> gone
//!                  └──start fails──────────────────┘
//! ```
//!
//! A container's state is not stored as such: it follows from what has happened (`started_at`, `exit`), so a report of its end
//! that overtakes the report of its start does no harm.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::disk;
use crate::error::{Error, Result};
use crate::image::RunConfig;
use crate::shim_client::Shim;

/// A sandbox's file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// Since the epoch.
    pub created_ns: i64,
    /// Serves containers.
    pub ready: bool,
    /// Connected to the pod network.
    pub connected: bool,
    /// The pod's addresses, the main one first.
    pub addresses: Vec<IpAddr>,
    /// The pause process.
    pub pause: u32,
}

/// A sandbox.
pub struct Sandbox {
    /// Its ID.
    pub id: String,
    /// Its reserved name.
    pub name: String,
    /// What the kubelet asked for.
    pub config: cri::PodSandboxConfig,
    /// Its directory.
    pub dir: PathBuf,
    /// Held while it is stopped or removed.
    pub lifecycle: tokio::sync::Mutex<()>,
    /// What changes.
    pub live: Mutex<LiveSandbox>,
}

/// What changes about a sandbox.
pub struct LiveSandbox {
    /// What is on disk.
    pub record: SandboxRecord,
    /// Its shim while it runs.
    pub shim: Option<Arc<Shim>>,
}

impl Sandbox {
    /// The cgroup that holds its containers' ones.
    pub fn cgroup_parent(&self) -> String {
        cgroup_parent(&self.config)
    }

    /// Its shim.
    pub fn shim(&self) -> Result<Arc<Shim>> {
        self.live.lock().shim.clone().ok_or_else(|| Error::State(format!("sandbox {} is not running", self.id)))
    }

    /// A copy of the record.
    pub fn record(&self) -> SandboxRecord {
        self.live.lock().record.clone()
    }

    /// Changes the record, in memory and on disk.
    pub fn change(&self, change: impl FnOnce(&mut SandboxRecord)) -> Result<()> {
        let mut live = self.live.lock();
        change(&mut live.record);
        disk::write_json(&self.dir.join("state.json"), &live.record)
    }
}

/// The cgroup that a pod's containers go below.
pub fn cgroup_parent(config: &cri::PodSandboxConfig) -> String {
    let given = config.linux.as_ref().map(|linux| linux.cgroup_parent.trim_end_matches('/')).unwrap_or("");
    if given.is_empty() { "/knarr".to_owned() } else { given.to_owned() }
}

/// What the shim writes of a container's end, in the container's directory.
pub const EXIT_FILE: &str = "exit";

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code, or 128 and the signal.
    pub code: i32,
    /// Since the epoch.
    pub finished_ns: i64,
    /// One word.
    pub reason: String,
    /// A sentence; mostly empty.
    pub message: String,
}

impl Exit {
    /// The end that a shim has told of.
    pub fn from_shim(record: &shim::ExitRecord) -> Exit {
        let reason = match (record.oom, record.code) {
            (true, _) => "OOMKilled",
            (false, 0) => "Completed",
            _ => "Error",
        };
        Exit { code: record.code, finished_ns: record.finished_ns, reason: reason.to_owned(), message: String::new() }
    }

    /// The end of a container whose shim has ended: the kernel kills it then.
    pub fn killed(now_ns: i64) -> Exit {
        let message = "the pod's shim has ended, and its containers with it".to_owned();
        Exit { code: 128 + libc::SIGKILL, finished_ns: now_ns, reason: "Error".to_owned(), message }
    }

    /// An end that nobody saw.
    pub fn unknown(now_ns: i64) -> Exit {
        Exit { code: 255, finished_ns: now_ns, reason: "Unknown".to_owned(), message: String::new() }
    }
}

/// A container's file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Its sandbox.
    pub sandbox: String,
    /// Since the epoch.
    pub created_ns: i64,
    /// The image's ID.
    pub image: String,
    /// How the image wants to be run; the image may be gone when this is needed again.
    pub run: Arc<RunConfig>,
    /// 0 until it has started.
    pub started_ns: i64,
    /// Its first process.
    pub pid: u32,
    /// As whom it runs.
    pub user: Option<(u32, u32, Vec<u32>)>,
    /// Resources after an update, encoded.
    #[serde(default)]
    pub resources: Option<Vec<u8>>,
    /// Its end.
    pub exit: Option<Exit>,
}

/// A container.
pub struct Container {
    /// Its ID.
    pub id: String,
    /// Its reserved name.
    pub name: String,
    /// Its sandbox.
    pub sandbox: Arc<Sandbox>,
    /// What the kubelet asked for.
    pub config: cri::ContainerConfig,
    /// Its directory.
    pub dir: PathBuf,
    /// Its cgroup.
    pub cgroup: String,
    /// Held while it is started, or removed.
    pub lifecycle: tokio::sync::Mutex<()>,
    /// Held while it is started: what the shim tells of its end waits for that.
    pub starting: tokio::sync::Mutex<()>,
    /// Whether it has ended.
    pub ended: watch::Sender<bool>,
    /// What changes; on disk as it is here.
    pub live: Mutex<ContainerRecord>,
}

impl ContainerRecord {
    /// The state that it tells.
    pub fn state(&self) -> cri::ContainerState {
        match (&self.exit, self.started_ns) {
            (Some(_), _) => cri::ContainerState::ContainerExited,
            (None, 0) => cri::ContainerState::ContainerCreated,
            (None, _) => cri::ContainerState::ContainerRunning,
        }
    }
}

impl Container {
    /// A copy of the record.
    pub fn record(&self) -> ContainerRecord {
        self.live.lock().clone()
    }

    /// Its state.
    pub fn state(&self) -> cri::ContainerState {
        self.live.lock().state()
    }

    /// Changes the record, in memory and on disk.
    pub fn change(&self, change: impl FnOnce(&mut ContainerRecord)) -> Result<()> {
        let mut live = self.live.lock();
        change(&mut live);
        disk::write_json(&self.dir.join("state.json"), &*live)
    }

    /// Records its end, once; true for the first time. An end that the shim has written down need not be written again: whoever
    /// loads the record reads that too.
    pub fn finish(&self, exit: Exit) -> bool {
        // The shim says nothing in words.
        let of_shim = exit.message.is_empty();
        let first = {
            let mut live = self.live.lock();
            let first = live.exit.is_none();
            if first {
                live.exit = Some(exit);
            }
            first
        };
        if first {
            let written = of_shim && self.dir.join(EXIT_FILE).exists();
            if let Err(error) = if written { Ok(()) } else { self.change(|_| {}) } {
                tracing::warn!(container = self.id, error = crate::error::chain(&error), "a container's end is not on disk");
            }
            self.ended.send_replace(true);
        }
        first
    }

    /// Waits for its end.
    pub async fn wait(&self) {
        // The sender lives as long as the container.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }
}

/// The name under which a sandbox exists once.
pub fn sandbox_name(metadata: &cri::PodSandboxMetadata) -> String {
    format!("{}_{}_{}_{}", metadata.name, metadata.namespace, metadata.uid, metadata.attempt)
}

/// The name under which a container exists once.
pub fn container_name(metadata: &cri::ContainerMetadata, sandbox: &cri::PodSandboxMetadata) -> String {
    let pod = format!("{}_{}_{}", sandbox.name, sandbox.namespace, sandbox.uid);
    format!("{}_{pod}_{}", metadata.name, metadata.attempt)
}

/// Nanoseconds since the epoch.
pub fn now_ns() -> i64 {
    jiff::Timestamp::now().as_nanosecond().try_into().unwrap_or(i64::MAX)
}
