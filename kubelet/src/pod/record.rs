//! What the runtime holds of one pod, in our own words: filled from CRI answers by [`crate::runtime`].

use std::{cmp::Reverse, collections::BTreeMap};

use jiff::Timestamp;

/// Labels and annotations that kubelets put on CRI objects; containerd and other kubelets know the same names.
pub mod keys {
    /// Label: the pod's name.
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    /// Label: the pod's namespace.
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    /// Label: the pod's UID.
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    /// Label: the container's name in the spec.
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    /// Annotation: [`crate::pod::spec::hash`].
    pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
    /// Annotation: how often the container was started before.
    pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    /// Annotation: `terminationMessagePath`.
    pub const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    /// Annotation: `terminationMessagePolicy`.
    pub const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    /// Annotation: the preStop handler as JSON.
    pub const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
    /// Annotation: the ports as JSON.
    pub const PORTS: &str = "io.kubernetes.container.ports";
    /// Annotation: the pod's `terminationGracePeriodSeconds`.
    pub const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
    /// Annotation: the pod's `deletionGracePeriodSeconds`.
    pub const DELETION_GRACE: &str = "io.kubernetes.pod.deletionGracePeriod";
}

/// A container's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Created, not started.
    Created,
    /// Running since.
    Running {
        /// When it started.
        started_at: Timestamp,
    },
    /// Ended.
    Exited {
        /// When it started; `None` if it never did.
        started_at: Option<Timestamp>,
        /// When it ended.
        finished_at: Timestamp,
        /// Its exit code.
        exit_code: i32,
        /// The runtime's reason (`Completed`, `Error`, `OOMKilled`, `StartError`).
        reason: String,
        /// The runtime's message, or the termination message once it has been read.
        message: String,
    },
    /// The runtime lost sight of it.
    Unknown,
}

/// Who a container runs as (CRI `LinuxContainerUser`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: i64,
    /// Primary group.
    pub gid: i64,
    /// All groups.
    pub groups: Vec<i64>,
}

/// One container that the runtime holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The runtime's id.
    pub id: String,
    /// The name in the spec.
    pub name: String,
    /// The sandbox it belongs to.
    pub sandbox_id: String,
    /// How often it was started before.
    pub restart_count: i32,
    /// [`crate::pod::spec::hash`] at creation; empty if unknown.
    pub hash: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// What it is doing.
    pub state: State,
    /// The image as the runtime names it.
    pub image: String,
    /// What goes into `imageID`.
    pub image_id: String,
    /// Where its log is.
    pub log_path: String,
    /// Who it runs as, if the runtime says so.
    pub user: Option<User>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Host path of its termination message file, if it has one.
    pub message_file: Option<String>,
}

impl Record {
    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// Whether it ended.
    pub fn is_exited(&self) -> bool {
        matches!(self.state, State::Exited { .. })
    }

    /// Whether something of it may still be alive.
    pub fn may_live(&self) -> bool {
        matches!(self.state, State::Running { .. } | State::Unknown)
    }

    /// Its exit code, once it has one.
    pub fn exit_code(&self) -> Option<i32> {
        match self.state {
            State::Exited { exit_code, .. } => Some(exit_code),
            _ => None,
        }
    }
}

/// One sandbox that the runtime holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// The runtime's id.
    pub id: String,
    /// Which try this is, from 0.
    pub attempt: u32,
    /// Whether its namespaces live.
    pub ready: bool,
    /// When it was created.
    pub created_at: Timestamp,
    /// Its addresses; empty on the node's network.
    pub ips: Vec<String>,
}

/// Everything the runtime holds of one pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodRecord {
    /// Newest first.
    pub sandboxes: Vec<Sandbox>,
    /// Newest first.
    pub containers: Vec<Record>,
}

impl PodRecord {
    /// The newest sandbox, if it is ready.
    pub fn ready_sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first().filter(|s| s.ready)
    }

    /// The newest container of that name.
    pub fn latest(&self, name: &str) -> Option<&Record> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// The newest container of that name in that sandbox.
    pub fn latest_in(&self, name: &str, sandbox: &str) -> Option<&Record> {
        self.containers.iter().find(|c| c.name == name && c.sandbox_id == sandbox)
    }

    /// The newest container of that name that ended, other than `id`.
    pub fn previous(&self, name: &str, id: &str) -> Option<&Record> {
        self.containers.iter().find(|c| c.name == name && c.id != id && c.is_exited())
    }

    /// Containers that may be alive.
    pub fn living(&self) -> impl Iterator<Item = &Record> {
        self.containers.iter().filter(|c| c.may_live())
    }

    /// Sorts newest first, as every reader expects.
    pub fn sort(&mut self) {
        self.sandboxes.sort_by_key(|s| Reverse((s.created_at, s.attempt)));
        self.containers.sort_by_key(|c| Reverse((c.created_at, c.restart_count)));
    }
}
