//! How a pod comes to its end: evicted, with its machine, or because it is deleted; and how one of its containers does.

use std::sync::atomic::Ordering;

use jiff::Timestamp;

use super::{
    ops,
    work::{Stage, Worker},
};
use crate::{
    eviction::Eviction,
    pod::{
        memory::Stopping,
        spec,
        terminate::{self, StopAction},
    },
    shutdown::{self, Hold},
};

impl Worker {
    pub(super) fn evict(&mut self, eviction: Eviction) {
        if self.stage != Stage::Running || self.rejected.is_some() {
            return;
        }
        self.ctx.event(&self.pod, "Warning", "Evicted", eviction.message.clone());
        self.disrupted = eviction.disrupted.then(|| eviction.message.clone());
        self.terminate(Some(("Evicted".to_owned(), eviction.message)), Some(eviction.grace));
    }

    /// Gives back what the dead containers of a pod that has ended hold. Its status stays as it is from then on.
    pub(super) fn reclaim(&mut self, hold: Hold) {
        match self.stage {
            Stage::TearingDown => self.reclaim_next = Some(hold),
            Stage::Stopped if self.observed && !self.given_back => {
                self.reclaimed = true;
                self.running.spawn(ops::reclaim(self.ctx.clone(), self.record.clone(), hold));
            }
            _ => {}
        }
    }

    /// Ends the pod because the machine goes down.
    pub(super) fn end_with_machine(&mut self, seconds: i64, hold: Hold) {
        match self.stage {
            Stage::Running => {
                self.disrupted = Some(shutdown::MESSAGE.to_owned());
                self.terminate(Some((shutdown::REASON.to_owned(), shutdown::MESSAGE.to_owned())), Some(seconds));
            }
            Stage::Terminating { deadline, grace } => {
                let latest = terminate::later(self.ctx.now(), seconds);
                self.stage = Stage::Terminating { deadline: deadline.min(latest), grace: grace.min(seconds) };
            }
            Stage::TearingDown => {}
            Stage::Stopped | Stage::Removing | Stage::Finished => return,
        }
        self.hold = Some(hold);
    }

    /// Begins the end, within the pod's grace period or a shorter one.
    pub(super) fn terminate(&mut self, failed: Option<(String, String)>, at_most: Option<i64>) {
        self.failed = self.failed.take().or(failed);
        // A pull may take hours; a container that is just being made is stopped when that is done.
        if !self.committed.load(Ordering::Relaxed) {
            self.break_off();
        }
        let grace = terminate::grace_seconds(&self.pod).min(at_most.unwrap_or(i64::MAX));
        self.stage = Stage::Terminating { deadline: terminate::later(self.ctx.now(), grace), grace };
    }

    /// Ends the start or hook under way; whatever was made by then is seen and stopped.
    fn break_off(&mut self) {
        if let Some(task) = self.start_task.take() {
            task.abort();
            self.memory.starting = None;
            self.dirty = true;
        }
    }

    pub(super) fn stop_stage(&mut self, deadline: Timestamp, grace: i64, now: Timestamp) {
        let mut deadline = deadline;
        let asked = terminate::grace_seconds(&self.pod);
        if asked < grace {
            // A deletion with a shorter grace period has come in. It counts from now: when the API wants the pod gone is told by
            // another machine's clock.
            deadline = deadline.min(terminate::later(now, asked));
            self.stage = Stage::Terminating { deadline, grace: asked };
        }
        if self.memory.starting.is_some() && now < deadline {
            return self.wake(deadline);
        }
        self.break_off();
        if self.dirty {
            return;
        }
        let stops = terminate::pod(&self.pod, &self.record, &self.memory, deadline, now);
        if stops.done {
            self.stage = Stage::TearingDown;
        } else {
            self.carry_out(stops);
        }
    }

    pub(super) fn stopped_stage(&mut self, written: bool) {
        if let Some(hold) = self.reclaim_next.take() {
            self.reclaim(hold);
        }
        if self.removed {
            self.stage = Stage::Removing;
        } else if spec::is_deleting(&self.pod) && written && !self.deleting.busy {
            self.deleting.busy = true;
            self.running.spawn(ops::delete(self.ctx.clone(), self.pod.clone(), self.deleting.pause()));
        }
    }

    /// Begins to stop a container: the preStop hook first.
    pub(super) fn begin_stop(&mut self, id: &str, name: &str, deadline: Timestamp) {
        let member = spec::member(&self.pod, name);
        let hook = member.as_ref().and_then(|m| m.container.lifecycle.as_ref()).and_then(|l| l.pre_stop.clone());
        let stopping = Stopping { deadline, hook_done: hook.is_none(), sent: None };
        self.memory.stopping.insert(id.to_owned(), stopping);
        if let (Some(member), Some(hook)) = (member, hook) {
            let (pod, id, ip) = (self.pod.clone(), id.to_owned(), self.ip());
            let order = ops::PreStop { pod, member, id, hook, ip, deadline };
            self.running.spawn(ops::pre_stop(self.ctx.clone(), order));
        }
        // The next step follows at once.
        self.wake(self.ctx.now());
    }

    pub(super) fn carry_out(&mut self, stops: terminate::Stops) {
        for action in stops.actions {
            match action {
                StopAction::Begin { id, name, deadline } => {
                    let message = format!("Stopping container {name}");
                    self.ctx.container_event(&self.pod, &name, "Normal", "Killing", message);
                    self.begin_stop(&id, &name, deadline);
                }
                StopAction::Stop { id, timeout, deadline, .. } => {
                    if let Some(stopping) = self.memory.stopping.get_mut(&id) {
                        stopping.sent = Some(deadline);
                    }
                    self.running.spawn(ops::stop(self.ctx.clone(), id, timeout));
                }
                StopAction::StopSandboxes => self.stop_sandboxes(),
            }
        }
        if let Some(at) = stops.wake_at {
            self.wake(at);
        }
    }

    fn stop_sandboxes(&mut self) {
        self.memory.sandbox_stopping = true;
        let ids = self.record.sandboxes.iter().filter(|s| s.ready).map(|s| s.id.clone()).collect();
        self.running.spawn(ops::stop_sandboxes(self.ctx.clone(), ids));
    }
}
