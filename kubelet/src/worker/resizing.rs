//! How running containers get other resources (KEP-1287): in place, again after a while if that did not work, or by a restart.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};

use super::{
    ops,
    work::{Stage, Worker},
};
use crate::pod::{
    container_config,
    resize::{self, Changing},
    resources, spec, terminate,
};

/// How long after a failure it is tried again.
const AGAIN: SignedDuration = SignedDuration::from_secs(10);

impl Worker {
    /// Gives running containers whose requests or limits changed the new ones.
    pub(super) fn begin_resize(&mut self, old: &Pod) {
        let mut begun = false;
        for change in resources::resizes(old, &self.pod) {
            let Some(record) = self.record.latest(&change.name).filter(|r| r.is_running()) else { continue };
            let id = record.id.clone();
            let before = self.changing.remove(&change.name).filter(|before| before.id == id);
            let has = match &before {
                Some(before) => before.has.clone(),
                None => spec::member(old, &change.name).and_then(|member| member.container.resources),
            };
            let busy = before.is_some_and(|before| before.busy);
            let changing = Changing { id: id.clone(), has, busy, stale: busy, error: None, retry_at: None };
            self.changing.insert(change.name.clone(), changing);
            begun = true;
            if change.restart {
                let message = format!("Container {} resize requires restart", change.name);
                self.ctx.container_event(&self.pod, &change.name, "Normal", "Killing", message);
                self.begin_stop(&id, &change.name, terminate::deadline(&self.pod, self.ctx.now()));
            } else if !busy {
                self.apply(&change.name);
            }
        }
        if begun {
            self.resizing = true;
            self.ctx.event(&self.pod, "Normal", "ResizeStarted", resize::summary(&self.pod, "started", None));
        }
    }

    fn apply(&mut self, name: &str) {
        let (Some(change), Some(member)) = (self.changing.get_mut(name), spec::member(&self.pod, name)) else { return };
        (change.busy, change.stale, change.retry_at) = (true, false, None);
        let limits = resources::limits(&member.container);
        let order = ops::Resize {
            pod: self.pod.clone(),
            name: name.to_owned(),
            id: change.id.clone(),
            linux: container_config::limits(&resources::requests(&member.container), &limits),
            shrinks_to: resize::shrinks_to(change.has.as_ref(), &limits),
        };
        self.running.spawn(ops::resize(self.ctx.clone(), order));
    }

    /// Tries again what did not work.
    pub(super) fn retry_resizes(&mut self, now: Timestamp) {
        let waiting = self.changing.iter().filter_map(|(name, change)| Some((name.clone(), change.retry_at?)));
        for (name, at) in waiting.collect::<Vec<_>>() {
            if now < at {
                self.wake(at);
            } else {
                self.apply(&name);
            }
        }
    }

    /// Takes note of what a try came to.
    pub(super) fn resized(&mut self, name: &str, id: &str, error: Option<String>, now: Timestamp) {
        self.dirty = true;
        let Some(change) = self.changing.get_mut(name).filter(|change| change.id == id) else { return };
        change.busy = false;
        if change.stale {
            return self.apply(name);
        }
        let Some(error) = error else { return drop(self.changing.remove(name)) };
        change.retry_at = Some(now + AGAIN);
        if change.error.as_ref() != Some(&error) {
            let message = resize::summary(&self.pod, "error", Some(&error));
            self.ctx.event(&self.pod, "Warning", "ResizeError", message);
            change.error = Some(error);
        }
    }

    /// Says in the status what is being changed, and of what nothing has changed yet.
    pub(super) fn show_resizes(&mut self, status: &mut PodStatus, now: Timestamp) {
        let generation = self.pod.metadata.generation;
        resize::show(status, self.resize.as_ref(), generation, now);
        let record = &self.record;
        self.changing.retain(|name, change| record.latest(name).is_some_and(|latest| latest.id == change.id));
        resize::show_progress(status, self.changing.values(), generation, now);
        resize::show_what_they_have(status, &self.changing);
        if self.stage == Stage::Running && self.changing.is_empty() && std::mem::take(&mut self.resizing) {
            self.ctx.event(&self.pod, "Normal", "ResizeCompleted", resize::summary(&self.pod, "completed", None));
        }
    }
}
