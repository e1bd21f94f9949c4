//! What a worker remembers of its pod between looks, because neither the API nor the runtime keeps it.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::backoff::Backoff;
use crate::clock::later;

/// Why a container could not be started, as its waiting state says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartFailure {
    /// `ErrImagePull`, `CreateContainerConfigError`, ...
    pub reason: String,
    /// The message.
    pub message: String,
    /// When.
    pub at: Timestamp,
    /// The next try is not before; of a container that was made and has ended, [`ContainerMemory::crash`] says that.
    pub retry_at: Timestamp,
}

/// Results of a container's probes; `None` until the first verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeResults {
    /// Startup.
    pub startup: Option<bool>,
    /// Liveness.
    pub liveness: Option<bool>,
    /// Readiness.
    pub readiness: Option<bool>,
}

/// How far the ordered stop of one container has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopping {
    /// The container must be gone by then.
    pub deadline: Timestamp,
    /// Its preStop hook has ended (or it has none).
    pub hook_done: bool,
    /// A stop was sent with this deadline.
    pub sent: Option<Timestamp>,
}

/// What is remembered of one container, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerMemory {
    /// Pause between restarts.
    pub crash: Backoff,
    /// Pause between pulls.
    pub pull: Backoff,
    /// The last start failed.
    pub failure: Option<StartFailure>,
    /// The crash pause that status and events speak of, while it lasts.
    pub waiting_until: Option<Timestamp>,
    /// Probe verdicts for the container `probed`.
    pub probes: ProbeResults,
    /// The id that `probes` and `hooked` speak of.
    pub probed: Option<String>,
    /// The postStart hook of `probed` is still running, or has failed.
    pub post_start_pending: bool,
}

/// What is remembered of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// By container name.
    pub containers: BTreeMap<String, ContainerMemory>,
    /// The container being started, if any: starts happen one after the other, as upstream's do.
    pub starting: Option<String>,
    /// A sandbox is being made.
    pub sandbox_starting: bool,
    /// Sandboxes being stopped.
    pub sandbox_stopping: bool,
    /// No new sandbox before this (a failed one).
    pub sandbox_retry_at: Option<Timestamp>,
    /// Pause between failed sandboxes.
    pub sandbox_failures: u32,
    /// Containers being stopped, by id.
    pub stopping: BTreeMap<String, Stopping>,
    /// Volumes are in place.
    pub volumes_ready: bool,
}

impl Memory {
    /// What is remembered of a container.
    pub fn container(&self, name: &str) -> ContainerMemory {
        self.containers.get(name).cloned().unwrap_or_default()
    }

    /// The same, to change.
    pub fn container_mut(&mut self, name: &str) -> &mut ContainerMemory {
        self.containers.entry(name.to_owned()).or_default()
    }

    /// The machine's clock was set: what is to come, comes after as long as before.
    pub fn shift(&mut self, by: SignedDuration) {
        let move_by = |at: &mut Timestamp| *at = later(*at, by);
        for stopping in self.stopping.values_mut() {
            [Some(&mut stopping.deadline), stopping.sent.as_mut()].into_iter().flatten().for_each(move_by);
        }
        for container in self.containers.values_mut() {
            let failure = container.failure.as_mut().map(|f| [&mut f.at, &mut f.retry_at]);
            failure.into_iter().flatten().for_each(move_by);
        }
        self.sandbox_retry_at.iter_mut().for_each(move_by);
    }

    /// Probe verdicts of the container with that name, if they speak of `id`.
    pub fn probes(&self, name: &str, id: &str) -> ProbeResults {
        self.containers.get(name).filter(|c| c.probed.as_deref() == Some(id)).map(|c| c.probes).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_brings_nothing_nearer() {
        let at = |seconds: i64| Timestamp::from_second(1_000_000 + seconds).unwrap();
        let mut memory = Memory { sandbox_retry_at: Some(at(1)), ..Memory::default() };
        let stopping = |id: &str, sent: Option<i64>| {
            (id.to_owned(), Stopping { deadline: at(2), hook_done: false, sent: sent.map(at) })
        };
        memory.stopping = [stopping("a", Some(3)), stopping("b", None)].into();
        let (reason, message) = ("ErrImagePull".to_owned(), String::new());
        memory.container_mut("c").failure = Some(StartFailure { reason, message, at: at(4), retry_at: at(5) });
        memory.container_mut("d");
        let before = memory.clone();
        memory.shift(SignedDuration::from_hours(1));
        let all = |memory: &Memory| {
            let stops = memory.stopping.values().flat_map(|s| [Some(s.deadline), s.sent]).collect::<Vec<_>>();
            let failure = memory.container("c").failure.unwrap();
            [vec![memory.sandbox_retry_at, Some(failure.at), Some(failure.retry_at)], stops].concat()
        };
        let hour = |at: Timestamp| later(at, SignedDuration::from_hours(1));
        assert_eq!(all(&memory), all(&before).into_iter().map(|at| at.map(hour)).collect::<Vec<_>>());
        memory.shift(SignedDuration::from_hours(-1));
        assert_eq!(memory, before);
    }
}
