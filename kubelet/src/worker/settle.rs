//! How a worker takes the end of an operation.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use super::{
    ops::{self, Done, MountFailures},
    start::Failure,
    work::{Stage, Worker},
};
use crate::pod::{backoff, memory::StartFailure, resize, spec, terminate};

impl Worker {
    /// Takes note of what an operation came to.
    pub(super) fn settle(&mut self, done: Done) {
        let now = self.ctx.now();
        let shown = || spec::full_name(&self.pod);
        match done {
            Done::Nothing => self.dirty = true,
            // Otherwise the next order tries again.
            Done::Reclaimed(all) => self.given_back |= all,
            Done::Resized { name, id, error } => self.resized(&name, &id, error, now),
            Done::Volumes(result) => self.mounted(result, now),
            Done::Sandbox(result) => {
                self.memory.sandbox_starting = false;
                self.dirty = true;
                match result {
                    Ok(()) => {
                        self.memory.sandbox_failures = 0;
                        // Addresses are known now.
                        self.mounting.stale |= shows_pod_ip(&self.pod);
                    }
                    Err(error) => {
                        self.memory.sandbox_failures += 1;
                        let wait = SignedDuration::from_secs(1 << self.memory.sandbox_failures.min(4));
                        self.memory.sandbox_retry_at = Some(now + wait);
                        let message = format!("Failed to create pod sandbox: {}", error.rpc());
                        self.ctx.event(&self.pod, "Warning", "FailedCreatePodSandBox", message);
                    }
                }
            }
            Done::SandboxesStopped(result) => {
                self.memory.sandbox_stopping = false;
                self.dirty = true;
                if let Err(error) = result {
                    let message = format!(
                        "error killing pod: failed to \"KillPodSandbox\" for \"{}\" with KillPodSandboxError: \"{}\"",
                        self.uid,
                        error.rpc()
                    );
                    self.ctx.event(&self.pod, "Warning", "FailedKillPod", message);
                    self.wake(now + SignedDuration::from_secs(1));
                }
            }
            Done::Started { name, result } => self.started(&name, result, now),
            Done::PostStart { name, id, result } => {
                self.memory.starting = None;
                self.start_task = None;
                self.dirty = true;
                self.memory.container_mut(&name).post_start_pending = result.is_err();
                if let Err(error) = result {
                    tracing::warn!(pod = spec::full_name(&self.pod), container = name, error, "postStart hook failed");
                    self.ctx.container_event(&self.pod, &name, "Warning", "FailedPostStartHook", "PostStartHook failed");
                    self.ctx.container_event(&self.pod, &name, "Normal", "Killing", "FailedPostStartHook");
                    self.begin_stop(&id, &name, terminate::deadline(&self.pod, now));
                }
            }
            Done::PreStop { id } => {
                if let Some(stopping) = self.memory.stopping.get_mut(&id) {
                    stopping.hook_done = true;
                }
            }
            Done::Stopped { id, result } => {
                self.dirty = true;
                if let Err(error) = result {
                    tracing::warn!(pod = shown(), container = id, %error, "container not stopped");
                    if let Some(stopping) = self.memory.stopping.get_mut(&id) {
                        stopping.sent = None;
                    }
                    self.wake(now + SignedDuration::from_secs(1));
                }
            }
            Done::Status(result) => {
                let gone = result.as_ref().is_err_and(|e| client::is_not_found(e) || client::is_conflict(e));
                self.writing.end(result.is_ok());
                match result {
                    Ok(pod) => {
                        if let Some((_, at)) = &mut self.last_patch {
                            *at = pod.metadata.resource_version.clone();
                        }
                        // A change of resources is the manager's to judge; it hears of it by its watch.
                        let pod = resize::with_resources_of(*pod, &self.pod);
                        self.take(&pod);
                    }
                    // Gone, or another pod of that name: the watch will say so.
                    Err(_) if gone => {}
                    Err(error) => tracing::warn!(pod = shown(), %error, "status not written"),
                }
            }
            Done::TornDown(result) => {
                self.removing.end(result.is_ok());
                match result {
                    Ok(()) => self.stage = Stage::Stopped,
                    Err(error) => tracing::warn!(pod = shown(), error, "volumes not torn down"),
                }
            }
            Done::Deleted(result) => {
                let gone = match &result {
                    Ok(()) => true,
                    Err(e) => client::is_not_found(e) || client::is_conflict(e),
                };
                self.deleting.end(gone);
                match result {
                    Err(error) if !gone => tracing::warn!(pod = shown(), %error, "pod not deleted"),
                    _ => self.removed = true,
                }
            }
            Done::Removed(result) => {
                self.removing.end(result.is_ok());
                match result {
                    Ok(()) => self.stage = Stage::Finished,
                    Err(error) => tracing::warn!(pod = shown(), %error, "dead containers not removed"),
                }
            }
        }
    }

    fn mounted(&mut self, result: Result<Option<Timestamp>, MountFailures>, now: Timestamp) {
        self.mounting.effort.end(result.is_ok());
        match result {
            Ok(renew) => (self.memory.volumes_ready, self.mounting.renew_at) = (true, renew),
            Err(failures) => {
                self.mounting.stale = true;
                let wait = SignedDuration::from_millis(500 << self.mounting.effort.failures.min(8));
                self.mounting.retry_at = Some(now + wait);
                for (volume, message) in failures {
                    let text = format!("MountVolume.SetUp failed for volume \"{volume}\" : {message}");
                    self.ctx.event(&self.pod, "Warning", "FailedMount", text);
                }
            }
        }
    }

    fn started(&mut self, name: &str, result: Result<String, Failure>, now: Timestamp) {
        if self.memory.starting.as_deref() != Some(name) {
            // Broken off by a termination, which looks at what the runtime has anyway.
            return;
        }
        self.memory.starting = None;
        self.start_task = None;
        self.replacing_until = None;
        self.dirty = true;
        let member = spec::member(&self.pod, name);
        let memory = self.memory.container_mut(name);
        match result {
            Ok(id) => {
                memory.failure = None;
                memory.pull.reset();
                if self.record.containers.iter().any(|c| !c.may_live() && c.name == name) {
                    self.running.spawn(ops::prune(self.ctx.clone(), self.record.clone(), id.clone()));
                }
                let hook = member.as_ref().and_then(|m| m.container.lifecycle.as_ref()).and_then(|l| l.post_start.clone());
                if let (Some(member), Some(hook), Stage::Running) = (member, hook, self.stage) {
                    self.committed = Arc::default();
                    memory.post_start_pending = true;
                    // The next container starts after the hook.
                    self.memory.starting = Some(name.to_owned());
                    let ip = self.ip();
                    let hook = ops::post_start(self.ctx.clone(), member, id, hook, ip);
                    self.start_task = Some(self.running.spawn(hook));
                }
            }
            Err(failure) => {
                let wait = match failure.reason {
                    "ErrImagePull" => memory.pull.next(now, now, backoff::LONGEST),
                    _ => Duration::from_secs(10),
                };
                memory.failure = Some(StartFailure {
                    reason: failure.reason.to_owned(),
                    message: failure.message,
                    at: now,
                    retry_at: now + wait,
                });
            }
        }
    }
}

/// Whether a volume shows the pod's address.
fn shows_pod_ip(pod: &Pod) -> bool {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    let mut items = volumes.flat_map(|v| {
        let own = v.downward_api.iter().flat_map(|d| d.items.iter().flatten());
        let projected = v.projected.iter().flat_map(|p| p.sources.iter().flatten());
        own.chain(projected.flat_map(|s| s.downward_api.iter().flat_map(|d| d.items.iter().flatten())))
    });
    items.any(|i| i.field_ref.as_ref().is_some_and(|f| f.field_path.starts_with("status.podIP")))
}
