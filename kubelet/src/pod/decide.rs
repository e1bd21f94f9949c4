//! The next steps of a pod that is meant to run.
//!
//! ```text
//!   no sandbox ──StartSandbox──▶ sandbox ──Start──▶ init 0 … init n (sidecars keep running) ──▶ main containers
//!        ▲                          │                                                          │
//!        └───── sandbox lost ◀──────┴──────────── all ended, none restarts ──▶ `ended` ◀───────┘
//! ```
//!
//! The function is asked again after every event (a container's start or end, a probe's verdict, a changed pod, a timer) and
//! answers with everything that may be done now. It never assumes that an earlier answer was carried out: what is under way is
//! in [`Memory`].

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::{
    memory::{Memory, StartFailure},
    record::{PodRecord, Record, State},
    spec::{self, Member, Role},
};

/// Everything the decision looks at.
#[derive(Clone, Copy)]
pub struct Observed<'a> {
    /// The pod as the API has it.
    pub pod: &'a Pod,
    /// What the runtime holds.
    pub runtime: &'a PodRecord,
    /// What the worker remembers.
    pub memory: &'a Memory,
    /// Now.
    pub now: Timestamp,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make a sandbox.
    StartSandbox {
        /// Its attempt number.
        attempt: u32,
    },
    /// Pull the image if needed, create and start the container.
    Start {
        /// The container's name.
        name: String,
        /// When the instance it replaces ended; a restart counts against the crash back-off from there.
        after: Option<Timestamp>,
    },
    /// Stop one container so that it is replaced.
    Kill {
        /// Its id.
        id: String,
        /// Its name.
        name: String,
        /// What the event says.
        message: String,
        /// Seconds instead of the pod's grace period.
        grace: Option<i64>,
    },
}

/// A container that waits for its crash back-off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrashWait {
    /// The container.
    pub name: String,
    /// The end of the pause.
    pub until: Timestamp,
    /// The whole pause.
    pub pause: std::time::Duration,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// What to do now.
    pub actions: Vec<Action>,
    /// When to look again without an event.
    pub wake_at: Option<Timestamp>,
    /// Containers in their crash back-off.
    pub waiting: Vec<CrashWait>,
    /// The pod has run to its end: stop what is left and report the final phase.
    pub ended: bool,
}

impl Decision {
    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |w| w.min(at)));
    }
}

/// Decides the next steps.
pub fn decide(o: &Observed) -> Decision {
    let mut d = Decision::default();
    let members = spec::members(o.pod);
    if ended(o, &members) {
        d.ended = true;
        return d;
    }
    match o.runtime.ready_sandbox() {
        Some(sandbox) => within(o, &sandbox.id, &members, &mut d),
        None => without_sandbox(o, &mut d),
    }
    d
}

/// Whether all main containers ended for good, or an init container failed for good.
fn ended(o: &Observed, members: &[Member]) -> bool {
    let done = |m: &Member| {
        let code = o.runtime.latest(&m.container.name).and_then(Record::exit_code);
        code.map(|code| !spec::restarts(o.pod, &m.container, m.role, code))
    };
    let mut mains = members.iter().filter(|m| m.role == Role::Main).peekable();
    let mains_done = mains.peek().is_some() && mains.all(|m| done(m) == Some(true));
    let init_failed = members.iter().filter(|m| m.role == Role::Init).any(|m| {
        let code = o.runtime.latest(&m.container.name).and_then(Record::exit_code);
        code.is_some_and(|code| code != 0) && done(m) == Some(true)
    });
    mains_done || init_failed
}

fn without_sandbox(o: &Observed, d: &mut Decision) {
    let mut stopping = false;
    for record in o.runtime.living() {
        stopping = true;
        if !o.memory.stopping.contains_key(&record.id) {
            d.actions.push(Action::Kill {
                id: record.id.clone(),
                name: record.name.clone(),
                message: "Pod sandbox changed, it will be killed and re-created.".to_owned(),
                grace: None,
            });
        }
    }
    if stopping || o.memory.sandbox_starting || o.memory.sandbox_stopping {
        return;
    }
    match o.memory.sandbox_retry_at.filter(|at| *at > o.now) {
        Some(at) => d.wake(at),
        None => d.actions.push(Action::StartSandbox { attempt: o.runtime.sandboxes.first().map_or(0, |s| s.attempt + 1) }),
    }
}

fn within(o: &Observed, sandbox: &str, members: &[Member], d: &mut Decision) {
    let mut wanted: Vec<(String, Option<Timestamp>)> = Vec::new();
    for m in members.iter().filter(|m| m.role == Role::Ephemeral) {
        if o.runtime.latest(&m.container.name).is_none() {
            want(o, m, None, &mut wanted, d);
        }
    }
    let mains_begun =
        members.iter().filter(|m| m.role == Role::Main).any(|m| o.runtime.latest_in(&m.container.name, sandbox).is_some());
    let mut open = true;
    for m in members.iter().filter(|m| matches!(m.role, Role::Init | Role::Sidecar)) {
        if m.role == Role::Init && mains_begun {
            continue;
        }
        let passed = look_at(o, m, sandbox, &mut wanted, d);
        if !passed && !mains_begun {
            open = false;
            break;
        }
    }
    if open {
        for m in members.iter().filter(|m| m.role == Role::Main) {
            look_at(o, m, sandbox, &mut wanted, d);
        }
    }
    let free = o.memory.starting.is_none() && o.memory.volumes_ready;
    if let Some((name, after)) = wanted.into_iter().next().filter(|_| free) {
        d.actions.push(Action::Start { name, after });
    }
}

/// Looks at one container; true if the next one in order may go ahead.
fn look_at(
    o: &Observed,
    m: &Member,
    sandbox: &str,
    wanted: &mut Vec<(String, Option<Timestamp>)>,
    d: &mut Decision,
) -> bool {
    let name = &m.container.name;
    let Some(record) = o.runtime.latest_in(name, sandbox) else {
        // Its predecessor may have ended in an earlier sandbox: the same rules hold, except that init containers run again.
        let before = o.runtime.latest(name).filter(|r| r.is_exited());
        match before.and_then(Record::exit_code) {
            Some(code) if m.role == Role::Main && !spec::restarts(o.pod, &m.container, m.role, code) => {}
            _ => want(o, m, None, wanted, d),
        }
        return false;
    };
    match &record.state {
        // Created and not being started by us: left behind by a crash in between; it is replaced.
        State::Created => {
            want(o, m, None, wanted, d);
            false
        }
        State::Running { .. } => {
            let ok = running(o, m, record, d);
            m.role == Role::Sidecar && ok
        }
        State::Exited { exit_code, finished_at, .. } => {
            if m.role == Role::Init && *exit_code == 0 {
                return true;
            }
            if spec::restarts(o.pod, &m.container, m.role, *exit_code) {
                want(o, m, Some(*finished_at), wanted, d);
            }
            false
        }
        State::Unknown => {
            kill(o, record, format!("Container {name} is in unknown state, try killing it before restart"), None, d);
            false
        }
    }
}

/// Checks a running container; true once it counts as started.
fn running(o: &Observed, m: &Member, record: &Record, d: &mut Decision) -> bool {
    let c = &m.container;
    let probes = o.memory.probes(&c.name, &record.id);
    let again = if spec::restarts(o.pod, c, m.role, 137) { ", will be restarted" } else { "" };
    let grace_of =
        |p: &Option<k8s_openapi::api::core::v1::Probe>| p.as_ref().and_then(|p| p.termination_grace_period_seconds);
    if !record.hash.is_empty() && record.hash != spec::hash(c) && m.role != Role::Init {
        kill(o, record, format!("Container {} definition changed, will be restarted", c.name), None, d);
    } else if probes.liveness == Some(false) {
        let message = format!("Container {} failed liveness probe{again}", c.name);
        kill(o, record, message, grace_of(&c.liveness_probe), d);
    } else if probes.startup == Some(false) {
        let message = format!("Container {} failed startup probe{again}", c.name);
        kill(o, record, message, grace_of(&c.startup_probe), d);
    } else {
        let memory = o.memory.container(&c.name);
        return (c.startup_probe.is_none() || probes.startup == Some(true)) && !memory.post_start_pending;
    }
    false
}

fn kill(o: &Observed, record: &Record, message: String, grace: Option<i64>, d: &mut Decision) {
    if !o.memory.stopping.contains_key(&record.id) {
        d.actions.push(Action::Kill { id: record.id.clone(), name: record.name.clone(), message, grace });
    }
}

/// Asks for a start, unless a pause says later.
fn want(
    o: &Observed,
    m: &Member,
    after: Option<Timestamp>,
    wanted: &mut Vec<(String, Option<Timestamp>)>,
    d: &mut Decision,
) {
    let name = &m.container.name;
    if o.memory.starting.as_ref() == Some(name) {
        // Its pause speaks of the try under way.
        return;
    }
    let memory = o.memory.container(name);
    if let Some((until, pause)) = after.and_then(|after| memory.crash.wait(after, o.now)) {
        d.wake(until);
        if let Some(failure) = memory.failure.filter(|f| f.retry_at > o.now) {
            // Its status tells of the pause then.
            d.wake(failure.retry_at);
        }
        d.waiting.push(CrashWait { name: name.clone(), until, pause });
        return;
    }
    // What was made and did not start has ended like one that ran: the pause between restarts counts for it, of which the first
    // is none.
    let ended = |failure: &StartFailure| failure.reason == "RunContainerError" && after.is_some();
    match memory.failure.filter(|f| f.retry_at > o.now && !ended(f)) {
        Some(failure) => d.wake(failure.retry_at),
        None => wanted.push((name.clone(), after)),
    }
}

#[cfg(test)]
mod tests;
