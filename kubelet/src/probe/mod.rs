//! Probes: one small task per container and kind, from the container's start to its end.
//!
//! A task sleeps exactly until its next turn, asks, and counts: [`Tally`] says when enough successes or failures in a row
//! make a verdict, and only a changed verdict wakes the worker.

mod ask;
mod grpc;

use std::{
    collections::{HashMap, HashSet},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{
    metrics::{Metrics, Probed},
    pod::spec::{self, Member},
    shared::Ctx,
    worker::Input,
};

/// Which probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Until it succeeds, the others wait; if it fails, the container restarts.
    Startup,
    /// If it fails, the container restarts.
    Liveness,
    /// Whether the container takes traffic.
    Readiness,
}

impl Kind {
    /// As events name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// The probes of a container.
pub fn of(container: &Container) -> Vec<(Kind, &Probe)> {
    let c = container;
    let all =
        [(Kind::Startup, &c.startup_probe), (Kind::Liveness, &c.liveness_probe), (Kind::Readiness, &c.readiness_probe)];
    all.into_iter().filter_map(|(kind, probe)| Some((kind, probe.as_ref()?))).collect()
}

/// What a single try came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Healthy.
    Success,
    /// Healthy, with something for people to read.
    Warning(String),
    /// Not healthy, and why.
    Failure(String),
    /// The probe itself could not run; it does not count.
    Error(String),
}

/// Counts tries of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    success_threshold: i32,
    failure_threshold: i32,
    last: Option<bool>,
    run: i32,
}

impl Tally {
    /// With the probe's thresholds.
    pub fn new(probe: &Probe) -> Self {
        Self {
            success_threshold: probe.success_threshold.unwrap_or(1).max(1),
            failure_threshold: probe.failure_threshold.unwrap_or(3).max(1),
            last: None,
            run: 0,
        }
    }

    /// Counts a try; a verdict once enough of the same kind came in a row.
    pub fn count(&mut self, ok: bool) -> Option<bool> {
        self.run = if self.last == Some(ok) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(ok);
        let enough = if ok { self.success_threshold } else { self.failure_threshold };
        (self.run >= enough).then_some(ok)
    }
}

/// What is probed.
pub struct Subject<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub member: &'a Member,
    /// Its id.
    pub id: &'a str,
    /// When it started.
    pub started_at: Timestamp,
    /// Where to connect to.
    pub ip: &'a str,
}

/// The probe tasks of one pod.
pub struct Probes {
    inputs: mpsc::WeakUnboundedSender<Input>,
    tasks: HashMap<(String, Kind), (String, JoinHandle<()>)>,
    /// What was probed once stays counted as long as the pod is here, however often its containers restart.
    counted: HashMap<(String, Kind), Arc<Counted>>,
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.tasks.values().for_each(|(_, task)| task.abort());
    }
}

impl Probes {
    /// Verdicts go to `inputs`.
    pub fn new(inputs: mpsc::WeakUnboundedSender<Input>) -> Self {
        Self { inputs, tasks: HashMap::new(), counted: HashMap::new() }
    }

    /// Makes sure the probe runs for this container.
    pub fn ensure(&mut self, ctx: &Ctx, subject: &Subject, kind: Kind, probe: &Probe) {
        let key = (subject.member.container.name.clone(), kind);
        if self.tasks.get(&key).is_some_and(|(id, _)| id == subject.id) {
            return;
        }
        let counted = self.counted.entry(key.clone()).or_insert_with(|| Arc::new(Counted::new(subject, kind)));
        let task = Task {
            counted: counted.clone(),
            ctx: ctx.clone(),
            inputs: self.inputs.clone(),
            pod: subject.pod.clone(),
            container: subject.member.container.clone(),
            id: subject.id.to_owned(),
            ip: subject.ip.to_owned(),
            kind,
            probe: probe.clone(),
        };
        let handle = tokio::spawn(task.run(subject.started_at));
        if let Some((_, old)) = self.tasks.insert(key, (subject.id.to_owned(), handle)) {
            old.abort();
        }
    }

    /// Ends all others.
    pub fn keep(&mut self, wanted: &HashSet<(String, Kind)>) {
        self.tasks.retain(|key, (_, task)| {
            let keep = wanted.contains(key);
            if !keep {
                task.abort();
            }
            keep
        });
    }
}

struct Task {
    ctx: Ctx,
    inputs: mpsc::WeakUnboundedSender<Input>,
    pod: Pod,
    container: Container,
    id: String,
    ip: String,
    kind: Kind,
    probe: Probe,
    counted: Arc<Counted>,
}

/// What a task counts its tries under; forgotten when nobody counts any more.
struct Counted {
    probed: Probed,
    pod_uid: String,
}

impl Counted {
    fn new(subject: &Subject, kind: Kind) -> Self {
        let metadata = &subject.pod.metadata;
        let probed = Probed {
            probe_type: kind.name(),
            container: subject.member.container.name.clone(),
            pod: metadata.name.clone().unwrap_or_default(),
            namespace: metadata.namespace.clone().unwrap_or_default(),
        };
        Self { probed, pod_uid: spec::uid(subject.pod) }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        Metrics::global().forget(&self.probed, &self.pod_uid);
    }
}

fn seconds(value: Option<i32>, default: i32) -> Duration {
    Duration::from_secs(u64::try_from(value.unwrap_or(default).max(0)).unwrap_or(0))
}

impl Task {
    async fn run(self, started_at: Timestamp) {
        let delay = seconds(self.probe.initial_delay_seconds, 0);
        let period = seconds(self.probe.period_seconds, 10).max(Duration::from_secs(1));
        let since = Duration::try_from(self.ctx.now().duration_since(started_at)).unwrap_or_default();
        let mut turns = tokio::time::interval_at(tokio::time::Instant::now() + delay.saturating_sub(since), period);
        turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut tally, mut said) = (Tally::new(&self.probe), None);
        loop {
            turns.tick().await;
            let Some(ok) = self.attempt().await else { continue };
            let verdict = tally.count(ok);
            if verdict.is_some() && verdict != said {
                said = verdict;
                let Some(inputs) = self.inputs.upgrade() else { return };
                let container = self.container.name.clone();
                let input = Input::Probe { container, id: self.id.clone(), kind: self.kind, ok };
                if inputs.send(input).is_err() || (self.kind == Kind::Startup && ok) {
                    return;
                }
            }
        }
    }

    /// One try with its events; `None` if it does not count.
    async fn attempt(&self) -> Option<bool> {
        let since = Instant::now();
        let timeout = seconds(self.probe.timeout_seconds, 1).max(Duration::from_secs(1));
        let mut outcome = Outcome::Error(String::new());
        // A probe that cannot run is tried three times before the turn is given up.
        for _ in 0..3 {
            let asking = ask::ask(&self.ctx.runtime, &self.probe, &self.container, &self.id, &self.ip, timeout);
            let asked = AssertUnwindSafe(asking).catch_unwind().await;
            outcome = asked.unwrap_or_else(|_| Outcome::Error("the kubelet panicked; see its log".to_owned()));
            if !matches!(outcome, Outcome::Error(_)) {
                break;
            }
        }
        let (name, kind) = (&self.container.name, self.kind.name());
        let event = |reason: &str, message: String| self.ctx.container_event(&self.pod, name, "Warning", reason, message);
        let result = match outcome {
            Outcome::Success | Outcome::Warning(_) => "successful",
            Outcome::Failure(_) => "failed",
            Outcome::Error(_) => "unknown",
        };
        Metrics::global().probed(&self.counted.probed, &self.counted.pod_uid, result, since.elapsed());
        match outcome {
            Outcome::Success => Some(true),
            Outcome::Warning(text) => {
                event("ProbeWarning", format!("{kind} probe warning: {text}"));
                Some(true)
            }
            Outcome::Failure(text) => {
                event("Unhealthy", format!("{kind} probe failed: {text}"));
                Some(false)
            }
            Outcome::Error(text) => {
                event("Unhealthy", format!("{kind} probe errored and resulted in unknown state: {text}"));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_need_enough_in_a_row() {
        let probe = Probe { success_threshold: Some(2), failure_threshold: Some(3), ..Probe::default() };
        let mut tally = Tally::new(&probe);
        let tries = [true, false, true, true, false, false, true, false, false, false, false];
        let verdicts: Vec<_> = tries.map(|ok| tally.count(ok)).into();
        let (y, n) = (Some(true), Some(false));
        assert_eq!(verdicts, [None, None, None, y, None, None, None, None, None, n, n]);
    }
}
