//! What a worker says of its pod, and what its probes say to it.

use std::collections::HashSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};

use super::{
    ops,
    work::{Stage, Worker},
};
use crate::{
    metrics::Metrics,
    pod::{
        memory::ProbeResults,
        record::State,
        resize,
        spec::{self, Role},
        status, status_patch,
    },
    probe,
};

impl Worker {
    /// The pod with the newest status known: ours where we have spoken, others' conditions as the API has them.
    pub(super) fn view(&self) -> Pod {
        let mut pod = self.pod.clone();
        if let Some(mirror) = &self.mirror {
            pod.status = mirror.status.clone();
        }
        let Some(said) = &self.said else { return pod };
        let own = [
            "PodReadyToStartContainers",
            "Initialized",
            "Ready",
            "ContainersReady",
            "PodScheduled",
            resize::PENDING,
            resize::IN_PROGRESS,
        ];
        let ours = |c: &&k8s_openapi::api::core::v1::PodCondition| {
            own.contains(&c.type_.as_str()) || (c.type_ == "DisruptionTarget" && self.disrupted.is_some())
        };
        let mut status = said.clone();
        let mut conditions: Vec<_> = said.conditions.iter().flatten().filter(ours).cloned().collect();
        let theirs = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
        conditions.extend(theirs.filter(|c| !ours(c)).cloned());
        status.conditions = Some(conditions);
        status.resize = pod.status.as_ref().and_then(|s| s.resize.clone());
        pod.status = Some(status);
        pod
    }

    /// Computes the status and writes it if it differs; true if the API has it.
    pub(super) fn publish(&mut self, now: Timestamp) -> bool {
        if self.removed {
            return true;
        }
        if !self.observed && self.rejected.is_none() {
            return false;
        }
        if let Some(until) = self.replacing_until.filter(|until| *until > now && self.stage == Stage::Running) {
            self.wake(until);
            return false;
        }
        let view = self.view();
        let mut status = match &self.rejected {
            Some(r) => status::rejected(&view, &r.reason, &r.message, now),
            None => status::generate(&status::Input {
                pod: &view,
                runtime: &self.record,
                memory: &self.memory,
                runtime_name: &self.ctx.facts.runtime_name,
                host_ips: &self.ctx.facts.ips,
                now,
                ending: self.stage != Stage::Running,
                failed: self.failed.as_ref().map(|(r, m)| (r.as_str(), m.as_str())),
            }),
        };
        if matches!(self.stage, Stage::Terminating { .. }) {
            hold_phase(&mut status, &view);
        } else if self.stage != Stage::Running && self.rejected.is_none() {
            status::finish(&self.pod, &mut status);
        }
        if !matches!(self.stage, Stage::Terminating { .. })
            && let Some(message) = &self.disrupted
        {
            status::disrupt(&mut status, message, now);
        }
        self.show_resizes(&mut status, now);
        let shown = match spec::is_static(&self.pod) {
            true => self.mirror.as_ref(),
            false => Some(&self.pod),
        };
        let patch = shown.and_then(|p| match &p.status {
            Some(old) => status_patch::diff(p, old, &status),
            None => status_patch::diff(p, &PodStatus::default(), &status),
        });
        let phase = |status: &PodStatus| status.phase.as_deref() == Some("Running");
        if phase(&status) && !view.status.as_ref().is_some_and(phase) {
            Metrics::global().pod_runs(now.duration_since(self.began));
        }
        self.said = Some(status);
        let revision = shown.and_then(|p| p.metadata.resource_version.clone());
        // The API may not keep everything that we say; saying it again would change nothing.
        let patch = patch.filter(|p| self.last_patch.as_ref().is_none_or(|(last, at)| last != p || *at != revision));
        let Some(patch) = patch else { return !self.writing.busy };
        if !self.writing.busy {
            self.writing.busy = true;
            self.last_patch = Some((patch.clone(), None));
            let op = ops::status(self.ctx.clone(), self.pod.clone(), patch, self.writing.pause());
            self.running.spawn(op);
        }
        false
    }

    /// Starts and ends probe tasks as containers come and go.
    pub(super) fn watch_probes(&mut self) {
        let ending = self.stage != Stage::Running;
        let members = match self.stage {
            Stage::Running | Stage::Terminating { .. } => spec::members(&self.pod),
            _ => Vec::new(),
        };
        let ip = self.ip();
        let mut wanted = HashSet::new();
        for m in members.iter().filter(|m| matches!(m.role, Role::Main | Role::Sidecar)) {
            let Some(record) = self.record.latest(&m.container.name) else { continue };
            let State::Running { started_at } = record.state else { continue };
            let memory = self.memory.containers.entry(m.container.name.clone()).or_default();
            if memory.probed.as_deref() != Some(record.id.as_str()) {
                memory.probed = Some(record.id.clone());
                memory.probes = inherited(&self.pod, &format!("{}://{}", self.ctx.facts.runtime_name, record.id));
            }
            let stopping = ending || self.memory.stopping.contains_key(&record.id);
            let started = m.container.startup_probe.is_none() || memory.probes.startup == Some(true);
            for (kind, probe) in probe::of(&m.container) {
                let due = match kind {
                    probe::Kind::Startup => !started && !stopping,
                    probe::Kind::Liveness => started && !stopping,
                    // Readiness goes on to the end, so that endpoints know.
                    probe::Kind::Readiness => started,
                };
                if due {
                    wanted.insert((m.container.name.clone(), kind));
                    let target = probe::Subject { pod: &self.pod, member: m, id: &record.id, started_at, ip: &ip };
                    self.probes.ensure(&self.ctx, &target, kind, probe);
                }
            }
        }
        self.probes.keep(&wanted);
    }
}

/// A container that was ready before this kubelet started stays so until a probe says otherwise.
fn inherited(pod: &Pod, id: &str) -> ProbeResults {
    let Some(status) = &pod.status else { return ProbeResults::default() };
    let mut said = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    match said.find(|s| s.container_id.as_deref() == Some(id)) {
        Some(before) => ProbeResults {
            startup: before.started.filter(|s| *s),
            readiness: Some(before.ready).filter(|r| *r),
            liveness: None,
        },
        None => ProbeResults::default(),
    }
}

/// While containers are still stopping, the phase stays what it was, and so does what is said with it: the final one says that
/// nothing lives any more.
fn hold_phase(status: &mut PodStatus, view: &Pod) {
    let before = view.status.clone().unwrap_or_default();
    if spec::is_terminal(status.phase.as_deref()) && !spec::is_terminal(before.phase.as_deref()) {
        status.phase = before.phase.or(Some("Pending".to_owned()));
        (status.reason, status.message) = (before.reason, before.message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_evicted_pod_says_so_when_it_has_ended() {
        let status = |phase: &str, reason: Option<&str>| -> PodStatus {
            serde_json::from_value(json!({"phase": phase, "reason": reason, "message": reason})).unwrap()
        };
        let view = Pod { status: Some(status("Running", None)), ..Pod::default() };
        let mut ending = status("Failed", Some("Evicted"));
        hold_phase(&mut ending, &view);
        assert_eq!(ending, status("Running", None));
    }
}
