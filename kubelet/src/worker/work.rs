//! The worker's loop: what it looks at and what it starts. How operations end is in [`super::settle`].

use std::{
    collections::{BTreeMap, HashSet},
    panic::{AssertUnwindSafe, resume_unwind},
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

use super::{
    Handle, Input,
    ops::{self, Done},
    start::Order,
};
use crate::{
    clock::{self, Steady},
    pod::{
        admission::Rejection,
        decide::{self, Action, Observed},
        memory::Memory,
        record::PodRecord,
        resize::{self, Changing, Pending},
        spec, terminate,
    },
    probe,
    shared::Ctx,
    shutdown::Hold,
};

/// How long a container that was stopped to be replaced is not reported as ended. Upstream says nothing between the two
/// either, for however long that takes.
const REPLACEMENT: SignedDuration = SignedDuration::from_secs(1);

/// The shortest and the longest pause after a panic.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(60));
/// Who has worked for so long had nothing to do with the panic before.
const STEADY: Duration = Duration::from_secs(120);

/// Where a pod stands on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Meant to run.
    Running,
    /// Being stopped.
    Terminating {
        /// Gone by then.
        deadline: Timestamp,
        /// The seconds of grace that were given.
        grace: i64,
    },
    /// Nothing lives; volumes and cgroup are being removed.
    TearingDown,
    /// Nothing is left but dead containers and their logs.
    Stopped,
    /// The object is gone: the rest is being removed.
    Removing,
    /// Over.
    Finished,
}

/// A worker that has ended, by UID.
#[derive(Clone, Debug)]
pub struct Finished(pub String);

/// One kind of operation: whether it is under way, and how often it failed since it last went well.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Effort {
    pub busy: bool,
    pub failures: u32,
}

impl Effort {
    /// How long to wait before the next try.
    pub(super) fn pause(self) -> Duration {
        if self.failures == 0 { Duration::ZERO } else { Duration::from_millis(250 << self.failures.min(7)) }
    }

    pub(super) fn end(&mut self, ok: bool) {
        self.busy = false;
        self.failures = if ok { 0 } else { self.failures + 1 };
    }
}

/// What a worker knows of its pod's volumes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mounting {
    pub effort: Effort,
    /// Something may have changed.
    pub stale: bool,
    pub retry_at: Option<Timestamp>,
    /// A token wants renewal.
    pub renew_at: Option<Timestamp>,
}

impl Default for Mounting {
    fn default() -> Self {
        Self { effort: Effort::default(), stale: true, retry_at: None, renew_at: None }
    }
}

pub(super) struct Worker {
    pub ctx: Ctx,
    pub uid: String,
    pub pod: Pod,
    /// For a static pod: the object that shows it, to which its status goes.
    pub mirror: Option<Pod>,
    /// What we last said; its timestamps and states carry over.
    pub said: Option<PodStatus>,
    /// The object is gone from the API.
    pub removed: bool,
    pub stage: Stage,
    /// What ended the pod before its containers did.
    pub failed: Option<(String, String)>,
    /// It was ended for the node's sake: what its condition says.
    pub disrupted: Option<String>,
    /// Dead containers have been removed, or are about to be: `record` is what they were.
    pub reclaimed: bool,
    /// All of them have been.
    pub given_back: bool,
    /// That is to be done when the pod has stopped.
    pub reclaim_next: Option<Hold>,
    /// The machine's shutdown waits for the pod's end.
    pub hold: Option<Hold>,
    pub rejected: Option<Rejection>,
    /// What the pod waits for before it gets the resources that it asks for.
    pub resize: Option<Pending>,
    /// Containers that are being given other resources, by name.
    pub changing: BTreeMap<String, Changing>,
    /// That was told; its end is not yet.
    pub resizing: bool,
    /// What the containers have that ran before this process did, if that is not what they are to have.
    held: Option<Pod>,
    pub record: PodRecord,
    /// The runtime has answered at least once: before, nothing can be said of containers.
    pub observed: bool,
    /// The runtime may hold something else than `record`.
    pub dirty: bool,
    pub memory: Memory,
    pub probes: probe::Probes,
    pub running: JoinSet<Done>,
    /// The start (or postStart hook) under way; a termination breaks it off.
    pub start_task: Option<AbortHandle>,
    /// The start under way is past its pull.
    pub committed: Arc<AtomicBool>,
    /// The last patch that was written and the revision it led to: if it changes nothing, it is not written again.
    pub last_patch: Option<(serde_json::Value, Option<String>)>,
    /// Notices when the machine's clock is set.
    clock: Steady,
    wake_at: Option<Timestamp>,
    /// A container that we stopped is being replaced: until then its absence is not worth a word.
    pub replacing_until: Option<Timestamp>,
    pub mounting: Mounting,
    pub writing: Effort,
    pub removing: Effort,
    pub deleting: Effort,
    network_announced: bool,
    /// When this process first saw the pod.
    pub began: Timestamp,
}

/// What was decided of a pod before its worker starts.
#[derive(Clone, Debug, Default)]
pub struct First {
    /// The node does not take the pod: the worker only reports that.
    pub rejected: Option<Rejection>,
    /// What the pod waits for before it gets the resources that it asks for.
    pub resize: Option<Pending>,
    /// What its containers have, where that is not what they are to have: an earlier process was changing it.
    pub held: Option<Pod>,
}

/// Starts a worker. `ended` hears of its end.
pub fn spawn(
    ctx: Ctx,
    pod: Pod,
    first: First,
    ended: mpsc::UnboundedSender<Finished>,
    shutdown: CancellationToken,
) -> Handle {
    let (inputs, mailbox) = mpsc::unbounded_channel();
    let worker = Worker::new(ctx, pod, first, probe::Probes::new(inputs.downgrade()));
    let uid = worker.uid.clone();
    let life = Box::pin(worker.live(mailbox));
    tokio::spawn(async move {
        if shutdown.run_until_cancelled(life).await.is_some() {
            // The manager only goes with the kubelet.
            let _ = ended.send(Finished(uid));
        }
    });
    Handle { inputs }
}

impl Worker {
    fn new(ctx: Ctx, pod: Pod, first: First, probes: probe::Probes) -> Self {
        let First { rejected, resize, held } = first;
        Self {
            uid: spec::uid(&pod),
            mirror: None,
            said: None,
            removed: false,
            stage: if rejected.is_some() { Stage::Stopped } else { Stage::Running },
            failed: None,
            disrupted: None,
            reclaimed: false,
            given_back: false,
            reclaim_next: None,
            hold: None,
            rejected,
            resize,
            changing: BTreeMap::new(),
            resizing: false,
            held,
            record: PodRecord::default(),
            observed: false,
            dirty: true,
            memory: Memory::default(),
            probes,
            running: JoinSet::new(),
            start_task: None,
            committed: Arc::default(),
            last_patch: None,
            clock: Steady::new(ctx.now()),
            wake_at: None,
            replacing_until: None,
            mounting: Mounting::default(),
            writing: Effort::default(),
            removing: Effort::default(),
            deleting: Effort::default(),
            network_announced: false,
            began: ctx.now(),
            pod,
            ctx,
        }
    }

    /// Works until the pod has finished. A panic, of the worker or of an operation, costs what was under way: after a pause the
    /// worker begins anew, as every worker does when the kubelet is restarted, and no other pod notices.
    async fn live(mut self, mut mailbox: mpsc::UnboundedReceiver<Input>) {
        let mut pause = PAUSES.0;
        loop {
            let began = Instant::now();
            if AssertUnwindSafe(self.run(&mut mailbox)).catch_unwind().await.is_ok() {
                return;
            }
            if began.elapsed() > STEADY {
                pause = PAUSES.0;
            }
            let message =
                format!("error syncing pod: the kubelet panicked (see its log); it looks at the pod again in {pause:?}");
            tracing::error!(pod = spec::full_name(&self.pod), message);
            self.ctx.event(&self.pod, "Warning", "FailedSync", message);
            self.forget();
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Ends what is under way and forgets what a restarted kubelet would not know, too. What was decided of the pod stays.
    fn forget(&mut self) {
        self.probes.keep(&HashSet::new());
        self.running = JoinSet::new();
        (self.start_task, self.committed) = (None, Arc::default());
        self.memory = Memory::default();
        self.dirty = true;
        (self.last_patch, self.replacing_until) = (None, None);
        self.mounting = Mounting::default();
        (self.writing, self.removing, self.deleting) = Default::default();
        if !self.changing.is_empty() {
            // What the containers have was told in the status.
            self.changing.clear();
            self.held = Some(resize::held(&self.view()));
        }
    }

    async fn run(&mut self, mailbox: &mut mpsc::UnboundedReceiver<Input>) {
        if self.stage == Stage::Running {
            self.ctx.references.register(&self.pod);
            if spec::is_terminal(self.pod.status.as_ref().and_then(|s| s.phase.as_deref())) {
                self.terminate(None, None);
            }
        }
        while self.stage != Stage::Finished {
            self.step().await;
            let timer = self.wake_at.map(|at| Duration::try_from(at.duration_since(self.ctx.now())).unwrap_or_default());
            if self.stage == Stage::Finished {
                break;
            }
            tokio::select! {
                biased;
                input = mailbox.recv() => match input {
                    Some(input) => self.hear(input),
                    None => break,
                },
                Some(done) = self.running.join_next() => self.joined(done),
                () = tokio::time::sleep(timer.unwrap_or_default()), if timer.is_some() => {}
            }
            // What the runtime tells of an operation and the operation's own end come together: one look does for both.
            tokio::task::yield_now().await;
            while let Ok(input) = mailbox.try_recv() {
                self.hear(input);
            }
            while let Some(done) = self.running.try_join_next() {
                self.joined(done);
            }
        }
        self.ctx.references.unregister(&self.uid);
    }

    fn joined(&mut self, done: Result<Done, JoinError>) {
        match done {
            Ok(done) => self.settle(done),
            Err(error) => {
                if let Ok(panic) = error.try_into_panic() {
                    resume_unwind(panic);
                }
            }
        }
    }

    fn hear(&mut self, input: Input) {
        match input {
            Input::Pod(pod) => self.take(&pod),
            Input::Mirror(None) => self.mirror = None,
            Input::Mirror(Some(mirror)) => self.take(&mirror),
            Input::Removed => self.removed = true,
            Input::Runtime => self.dirty = true,
            Input::Node => {
                self.dirty = true;
                self.memory.sandbox_retry_at = None;
            }
            Input::Sources => {
                self.mounting.stale = true;
                self.mounting.retry_at = None;
                for container in self.memory.containers.values_mut() {
                    // What could not be configured may be possible now.
                    if container.failure.as_ref().is_some_and(|f| f.reason == "CreateContainerConfigError") {
                        container.failure = None;
                    }
                }
            }
            Input::Evict(eviction) => self.evict(eviction),
            Input::Reclaim(hold) => self.reclaim(hold),
            Input::Shutdown { seconds, hold } => self.end_with_machine(seconds, hold),
            Input::Resize(pending) => self.resize = pending,
            Input::Probe { container, id, kind, ok } => {
                let memory = self.memory.container_mut(&container);
                if memory.probed.as_deref() == Some(id.as_str()) {
                    match kind {
                        probe::Kind::Startup => memory.probes.startup = Some(ok),
                        probe::Kind::Liveness => memory.probes.liveness = Some(ok),
                        probe::Kind::Readiness => memory.probes.readiness = Some(ok),
                    }
                }
            }
        }
    }

    /// Takes a newer state of the object.
    pub(super) fn take(&mut self, pod: &Pod) {
        if spec::is_mirror(pod) {
            // The answer to a write may come after the object's successor.
            let known = self.mirror.as_ref().map_or(0, |m| client::revision_of(&m.metadata));
            if client::revision_of(&pod.metadata) >= known {
                self.mirror = Some(pod.clone());
            }
            return;
        }
        if client::revision_of(&pod.metadata) < client::revision_of(&self.pod.metadata) {
            return;
        }
        let changed = (&pod.spec, &pod.metadata.labels, &pod.metadata.annotations)
            != (&self.pod.spec, &self.pod.metadata.labels, &self.pod.metadata.annotations);
        let old = std::mem::replace(&mut self.pod, pod.clone());
        if changed && self.stage == Stage::Running {
            self.mounting.stale = true;
            self.ctx.references.register(&self.pod);
            self.forgive(&old);
            self.begin_resize(&old);
        }
    }

    /// A container with another image is another one: what its predecessor did wrong is not held against it.
    fn forgive(&mut self, old: &Pod) {
        for new in spec::members(&self.pod) {
            let before = spec::member(old, &new.container.name);
            if before.is_some_and(|before| spec::hash(&before.container) != spec::hash(&new.container)) {
                let memory = self.memory.container_mut(&new.container.name);
                memory.crash.reset();
                memory.pull.reset();
                memory.failure = None;
            }
        }
    }

    pub(super) fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |w| w.min(at)));
    }

    /// One look: observe, decide, act, publish.
    async fn step(&mut self) {
        self.wake_at = None;
        if self.dirty && !self.reclaimed {
            self.observe().await;
        }
        let now = self.ctx.now();
        if let Some(by) = self.clock.follow(now) {
            self.shift(by);
        }
        if self.stage == Stage::Running {
            self.run_stage(now);
        }
        if let Stage::Terminating { deadline, grace } = self.stage {
            self.stop_stage(deadline, grace, now);
        }
        if self.stage == Stage::TearingDown && !self.removing.busy {
            self.removing.busy = true;
            self.running.spawn(ops::tear_down(self.ctx.clone(), self.uid.clone(), self.removing.pause()));
        }
        self.watch_probes();
        let written = self.publish(now);
        // Where the API has gone down already, nobody can be told.
        if matches!(self.stage, Stage::Stopped | Stage::Removing) && (written || self.writing.failures > 0) {
            self.hold = None;
        }
        if self.stage == Stage::Stopped {
            self.stopped_stage(written);
        }
        if self.stage == Stage::Removing && !self.removing.busy {
            self.removing.busy = true;
            let (logs, record) = (self.ctx.log_dir(&self.pod), self.record.clone());
            self.running.spawn(ops::remove(self.ctx.clone(), record, logs, self.removing.pause()));
        }
    }

    /// The machine's clock was set: pauses and grace periods last as long as they were to.
    fn shift(&mut self, by: SignedDuration) {
        let move_by = |at: &mut Timestamp| *at = clock::later(*at, by);
        if let Stage::Terminating { deadline, .. } = &mut self.stage {
            move_by(deadline);
        }
        self.mounting.retry_at.iter_mut().chain(&mut self.replacing_until).for_each(move_by);
        self.memory.shift(by);
    }

    async fn observe(&mut self) {
        match self.ctx.runtime.pod(&self.uid, &self.record).await {
            Ok(record) => (self.record, self.dirty, self.observed) = (record, false, true),
            Err(error) => {
                tracing::warn!(pod = spec::full_name(&self.pod), call = error.call, %error, "the runtime does not answer");
                self.wake(self.ctx.now() + SignedDuration::from_secs(1));
            }
        }
    }

    fn run_stage(&mut self, now: Timestamp) {
        if self.removed || spec::is_deleting(&self.pod) {
            return self.terminate(None, None);
        }
        if let Some(deadline) = self.active_deadline() {
            if now >= deadline {
                let message = "Pod was active on the node longer than the specified deadline".to_owned();
                self.ctx.event(&self.pod, "Normal", "DeadlineExceeded", message.clone());
                return self.terminate(Some(("DeadlineExceeded".to_owned(), message)), None);
            }
            self.wake(deadline);
        }
        if self.dirty {
            // Without knowing what runs, nothing is started.
            return;
        }
        if let Some(held) = self.held.take() {
            self.begin_resize(&held);
        }
        self.retry_resizes(now);
        self.mount(now);
        let view = self.view();
        let decision = decide::decide(&Observed { pod: &view, runtime: &self.record, memory: &self.memory, now });
        if decision.ended {
            return self.terminate(None, None);
        }
        if let Some(at) = decision.wake_at {
            self.wake(at);
        }
        self.note_crash_waits(&decision.waiting);
        for action in decision.actions {
            self.act(action, now);
        }
        let mut stops = terminate::Stops::default();
        terminate::advance(&self.pod, &self.record, &self.memory, None, now, &mut stops);
        self.carry_out(stops);
        self.pull_backoffs(now);
    }

    fn note_crash_waits(&mut self, waiting: &[decide::CrashWait]) {
        for wait in waiting {
            let (ctx, pod) = (&self.ctx, &self.pod);
            let memory = self.memory.containers.entry(wait.name.clone()).or_default();
            if memory.waiting_until != Some(wait.until) {
                let text = format!("Back-off restarting failed container {} in pod {}", wait.name, spec::full_name(pod));
                ctx.container_event(pod, &wait.name, "Warning", "BackOff", text);
            }
            memory.waiting_until = Some(wait.until);
        }
        for (name, memory) in &mut self.memory.containers {
            if !waiting.iter().any(|w| w.name == *name) {
                memory.waiting_until = None;
            }
        }
    }

    fn active_deadline(&self) -> Option<Timestamp> {
        let seconds = self.pod.spec.as_ref()?.active_deadline_seconds?;
        let start = self.pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map_or(self.began, |t| t.0);
        Some(terminate::later(start, seconds))
    }

    /// Keeps volumes in place and up to date.
    fn mount(&mut self, now: Timestamp) {
        if let Some(at) = self.mounting.renew_at {
            if now >= at {
                (self.mounting.stale, self.mounting.renew_at) = (true, None);
            } else {
                self.wake(at);
            }
        }
        if let Some(at) = self.mounting.retry_at.filter(|at| *at > now) {
            return self.wake(at);
        }
        if self.mounting.stale && !self.mounting.effort.busy {
            (self.mounting.stale, self.mounting.effort.busy) = (false, true);
            let ips = self.record.ready_sandbox().map(|s| s.ips.clone()).unwrap_or_default();
            self.running.spawn(ops::volumes(self.ctx.clone(), self.pod.clone(), ips));
        }
    }

    fn act(&mut self, action: Action, now: Timestamp) {
        match action {
            Action::StartSandbox { attempt } => {
                let problem = self.ctx.network_problem.borrow().clone().filter(|_| !spec::host_network(&self.pod));
                if let Some(problem) = problem {
                    if !std::mem::replace(&mut self.network_announced, true) {
                        let message = format!("network is not ready: {problem}");
                        self.ctx.event(&self.pod, "Warning", "NetworkNotReady", message);
                    }
                    return;
                }
                if attempt > 0 {
                    let message = "Pod sandbox changed, it will be killed and re-created.";
                    self.ctx.event(&self.pod, "Normal", "SandboxChanged", message);
                }
                self.memory.sandbox_starting = true;
                let former = self.record.sandboxes.iter().map(|s| s.id.clone()).collect();
                self.running.spawn(ops::sandbox(self.ctx.clone(), self.pod.clone(), attempt, former));
            }
            Action::Start { name, after } => self.start(&name, after, now),
            Action::Kill { id, name, message, grace } => {
                let grace = grace.unwrap_or_else(|| terminate::grace_seconds(&self.pod));
                self.ctx.container_event(&self.pod, &name, "Normal", "Killing", message);
                self.begin_stop(&id, &name, terminate::later(now, grace));
            }
        }
    }

    fn start(&mut self, name: &str, after: Option<Timestamp>, now: Timestamp) {
        let (Some(member), Some(sandbox)) = (spec::member(&self.pod, name), self.record.ready_sandbox()) else { return };
        let view = self.view();
        let before = self.record.latest(name).map(|r| r.restart_count + 1);
        let replaces = self.record.latest(name).is_some_and(|r| self.memory.stopping.contains_key(&r.id));
        self.replacing_until = replaces.then(|| now + REPLACEMENT);
        let restart_count = before.unwrap_or_else(|| said_restarts(&view, name));
        let order = Order {
            sandbox: sandbox.id.clone(),
            sandbox_attempt: sandbox.attempt,
            restart_count,
            ips: if spec::host_network(&view) { self.ctx.facts.ips.clone() } else { sandbox.ips.clone() },
            target_id: member.target.as_ref().and_then(|t| self.record.latest(t)).map(|r| r.id.clone()),
            pod: view,
            member,
            committed: Arc::default(),
        };
        self.committed = order.committed.clone();
        let memory = self.memory.container_mut(name);
        if let Some(after) = after {
            memory.crash.next(after, now, self.ctx.config.crash_loop_back_off_max_container_restart_period);
        }
        memory.waiting_until = None;
        self.memory.starting = Some(name.to_owned());
        self.start_task = Some(self.running.spawn(ops::start(self.ctx.clone(), order)));
    }

    /// The address that probes and hooks connect to.
    pub(super) fn ip(&self) -> String {
        let own = self.record.ready_sandbox().and_then(|s| s.ips.first().cloned());
        own.or_else(|| self.ctx.facts.ips.first().cloned()).unwrap_or_default()
    }

    /// `ErrImagePull` turns into `ImagePullBackOff` while it waits.
    fn pull_backoffs(&mut self, now: Timestamp) {
        let mut look_again = None;
        for (name, memory) in &mut self.memory.containers {
            let Some(failure) = memory.failure.as_mut().filter(|f| f.reason == "ErrImagePull") else { continue };
            let turn = failure.at + SignedDuration::from_secs(3);
            if now < turn {
                look_again = Some(turn);
                continue;
            }
            let image = spec::member(&self.pod, name).and_then(|m| m.container.image).unwrap_or_default();
            let text = format!("Back-off pulling image \"{image}\"");
            failure.message = format!("{text}: ErrImagePull: {}", failure.message);
            failure.reason = "ImagePullBackOff".to_owned();
            self.ctx.container_event(&self.pod, name, "Normal", "BackOff", text);
            self.ctx.container_event(&self.pod, name, "Warning", "Failed", "Error: ImagePullBackOff");
        }
        if let Some(at) = look_again {
            self.wake(at);
        }
    }
}

/// How often a container was started before, where only the status remembers.
fn said_restarts(pod: &Pod, name: &str) -> i32 {
    let Some(status) = &pod.status else { return 0 };
    let lists = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    let said = lists.into_iter().flatten().flatten().find(|c| c.name == name);
    said.map_or(0, |s| {
        let ended_or_running = s.state.as_ref().is_some_and(|s| s.waiting.is_none());
        s.restart_count + i32::from(ended_or_running && s.container_id.is_some())
    })
}
