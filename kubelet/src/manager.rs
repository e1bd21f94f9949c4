//! Who runs here: pods from the API become workers, workers that end are forgotten, what nobody owns is removed.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use client::{Change, Informer};
use cri::v1;
use futures::FutureExt;
use k8s_openapi::api::core::v1::Pod;
use process::task::vital;
use tokio::sync::{Notify, mpsc};
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;

use crate::{
    eviction::Order,
    pod::{
        admission,
        record::keys,
        resize::{self, Pending},
        resources::{self, Qos},
        spec,
    },
    shared::Ctx,
    shutdown::Round,
    static_pods,
    worker::{self, Finished, Handle, Input},
};

/// How often the disk and the runtime are searched for what nobody owns.
const HOUSEKEEPING: Duration = Duration::from_secs(120);

/// Something the manager acts on.
enum Signal {
    Pod(Arc<Pod>),
    Gone(Arc<Pod>),
}

/// What the manager hears from elsewhere in the kubelet.
pub struct Inputs {
    /// UIDs of pods that refer to objects which changed.
    pub sources: mpsc::UnboundedReceiver<String>,
    /// Pods that have to go, and what they leave behind.
    pub orders: mpsc::UnboundedReceiver<Order>,
    /// Pods that have to end because the machine does.
    pub rounds: mpsc::UnboundedReceiver<Round>,
}

/// A pod that has a worker.
struct Running {
    handle: Handle,
    pod: Arc<Pod>,
    /// What it asks for in the burstable class.
    burstable_cpu: i64,
}

impl Running {
    fn new(handle: Handle, pod: Arc<Pod>) -> Self {
        let burstable = resources::qos(&pod) == Qos::Burstable;
        let burstable_cpu = if burstable { resources::pod_requests(&pod).get("cpu").copied().unwrap_or(0) } else { 0 };
        Self { handle, pod, burstable_cpu }
    }
}

/// The pods of this node.
pub struct Manager {
    ctx: Ctx,
    pods: Informer<Pod>,
    workers: HashMap<String, Running>,
    /// Turned away: they hold no resources.
    rejected: HashSet<String>,
    /// Ended by us; the object may still be there (a finalizer).
    done: HashSet<String>,
    ended: mpsc::UnboundedSender<Finished>,
    shutdown: CancellationToken,
    burstable_cpu: i64,
    /// What pods wait for before they get the resources that they ask for, by UID.
    resizing: BTreeMap<String, Pending>,
    /// Pods from files, by UID.
    statics: BTreeMap<String, Arc<Pod>>,
}

impl Manager {
    /// Runs until `shutdown`.
    pub async fn run(ctx: Ctx, pods: Informer<Pod>, inputs: Inputs, poke: Arc<Notify>, shutdown: CancellationToken) {
        let Inputs { mut sources, mut orders, mut rounds } = inputs;
        let (ended, mut endings) = mpsc::unbounded_channel();
        let (signal, mut signals) = mpsc::unbounded_channel();
        let (runtime_changes, mut runtime_events) = mpsc::unbounded_channel();
        let mut manager = Self {
            ctx: ctx.clone(),
            pods: pods.clone(),
            workers: HashMap::new(),
            rejected: HashSet::new(),
            done: HashSet::new(),
            ended,
            shutdown: shutdown.clone(),
            burstable_cpu: 0,
            resizing: BTreeMap::new(),
            statics: BTreeMap::new(),
        };
        vital(&shutdown, watch_runtime(ctx.clone(), runtime_changes, poke, shutdown.clone()));
        let (sets, mut static_sets) = mpsc::unbounded_channel();
        if let Some(path) = ctx.config.pod_manifest_path.clone() {
            let watch = static_pods::watch(path, ctx.facts.name.clone(), sets);
            let stop = shutdown.clone();
            vital(&shutdown, async move { stop.run_until_cancelled(watch).await });
            // What runs of them already is nobody's orphan. They need no API: it may be one of them.
            if let Some(Some(first)) = shutdown.run_until_cancelled(static_sets.recv()).await {
                manager.statics(first);
            }
        }
        // Admission needs the node's labels; the first pods of the API wait for them.
        let (known, of_api) = (ctx.clone(), pods.clone());
        let synced = async move { tokio::join!(known.node.synced(), of_api.synced()) };
        tokio::pin!(synced);
        let mut knows_pods = false;
        let mut network = ctx.network_problem.subscribe();
        let (found, mut findings) = mpsc::unbounded_channel();
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        housekeeping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                _ = &mut synced, if !knows_pods => {
                    knows_pods = true;
                    let signal = signal.clone();
                    pods.on_change(move |change| {
                        let message = match change {
                            Change::Deleted(pod) => Signal::Gone(pod.clone()),
                            other => Signal::Pod(other.object().clone()),
                        };
                        // The receiver only goes with the kubelet.
                        let _ = signal.send(message);
                    });
                }
                Some(Finished(uid)) = endings.recv() => manager.finished(&uid),
                Some(signal) = signals.recv() => manager.signal(signal),
                Some(set) = static_sets.recv() => manager.statics(set),
                Some(uid) = runtime_events.recv() => {
                    manager.tell(&uid, &Input::Runtime);
                    // Nobody need be following a log.
                    let _ = ctx.pod_changes.send(uid);
                }
                // Whoever gives orders may know of pods before there is anybody to tell.
                Some(order) = orders.recv(), if knows_pods => match order {
                    Order::Evict(eviction) => manager.tell(&eviction.uid.clone(), &Input::Evict(eviction)),
                    Order::Reclaim(hold) => manager.tell_all(&Input::Reclaim(hold)),
                },
                Some(round) = rounds.recv() => manager.end(&round),
                Some(uid) = sources.recv() => manager.tell(&uid, &Input::Sources),
                Ok(()) = network.changed() => manager.tell_all(&Input::Node),
                _ = housekeeping.tick(), if knows_pods => {
                    let (look, found) = (Found::look(ctx.clone()), found.clone());
                    tokio::spawn(async move {
                        if let Some(all) = look.await {
                            // The receiver only goes with the kubelet.
                            let _ = found.send(all);
                        }
                    });
                }
                Some(all) = findings.recv() => manager.remove_orphans(all),
            }
        }
    }

    fn tell(&self, uid: &str, input: &Input) {
        match self.workers.get(uid) {
            Some(known) => known.handle.send(input.clone()),
            // Everything may have changed (the event stream was interrupted).
            None if uid.is_empty() => self.tell_all(input),
            None => {}
        }
    }

    fn tell_all(&self, input: &Input) {
        self.workers.values().for_each(|known| known.handle.send(input.clone()));
    }

    /// Ends the pods of a round. Who holds nothing has ended.
    fn end(&self, round: &Round) {
        for Running { handle, pod, .. } in self.workers.values().filter(|known| round.covers(spec::priority(&known.pod))) {
            tracing::info!(pod = spec::full_name(pod), "ending a pod: the machine shuts down");
            handle.send(Input::Shutdown { seconds: round.seconds, hold: round.hold.clone() });
        }
    }

    fn signal(&mut self, signal: Signal) {
        match signal {
            Signal::Gone(pod) => {
                let uid = spec::uid(&pod);
                self.done.remove(&uid);
                if spec::is_mirror(&pod) {
                    self.tell(&uid, &Input::Mirror(None));
                    self.mirror_static(&uid);
                } else {
                    self.tell(&uid, &Input::Removed);
                }
            }
            Signal::Pod(pod) => self.pod(pod),
        }
        self.retry_resizes();
        self.share();
    }

    fn pod(&mut self, pod: Arc<Pod>) {
        let uid = spec::uid(&pod);
        if spec::is_mirror(&pod) {
            return self.mirror(&uid, pod);
        }
        if let Some(Running { handle, pod: known, .. }) = self.workers.get(&uid) {
            let asks = pod.clone();
            let (pod, pending) = self.allocate(known, pod);
            if let Some(pending) = pending.as_ref().filter(|pending| self.resizing.get(&uid) != Some(pending)) {
                let message = resize::summary(&asks, pending.reason, Some(&pending.message));
                self.ctx.event(&asks, "Warning", pending.event(), message);
            }
            handle.send(Input::Resize(pending.clone()));
            handle.send(Input::Pod(pod.clone()));
            return self.holds(uid, pod, pending);
        }
        if self.done.contains(&uid) {
            return;
        }
        let rejected = self.admit(&pod);
        if let Some(r) = &rejected {
            self.ctx.event(&pod, "Warning", &r.reason, r.message.clone());
            self.rejected.insert(uid.clone());
        }
        let held = resize::held(&pod);
        let (pod, pending) = self.allocate(&held, pod);
        let held = (!resources::resizes(&held, &pod).is_empty()).then_some(held);
        let first = worker::First { rejected, resize: pending.clone(), held };
        let handle = worker::spawn(self.ctx.clone(), Pod::clone(&pod), first, self.ended.clone(), self.shutdown.clone());
        self.workers.insert(uid.clone(), Running::new(handle, pod.clone()));
        self.holds(uid, pod, pending);
    }

    /// The pod with the resources that it may have now, given those it holds, and what it waits for to have all.
    fn allocate(&self, held: &Pod, pod: Arc<Pod>) -> (Arc<Pod>, Option<Pending>) {
        let uid = spec::uid(&pod);
        let others = || self.active().filter(|other| spec::uid(other) != uid).collect();
        match resize::judge(held, &pod, &self.ctx.facts.allocatable, others) {
            None => (pod, None),
            pending => (Arc::new(resize::with_resources_of(Pod::clone(&pod), held)), pending),
        }
    }

    /// Takes note of what a pod holds and waits for.
    fn holds(&mut self, uid: String, pod: Arc<Pod>, pending: Option<Pending>) {
        if let Some(known) = self.workers.get_mut(&uid).filter(|known| !Arc::ptr_eq(&known.pod, &pod)) {
            *known = Running::new(known.handle.clone(), pod);
        }
        match pending {
            Some(pending) => self.resizing.insert(uid, pending),
            None => self.resizing.remove(&uid),
        };
    }

    /// Gives pods the resources that they wait for as soon as there is room.
    fn retry_resizes(&mut self) {
        for (uid, pending) in self.resizing.clone() {
            let Some(Running { pod: known, .. }) = self.workers.get(&uid) else {
                self.resizing.remove(&uid);
                continue;
            };
            let asks = self.pods.get(&client::Key::of(&known.metadata)).filter(|pod| spec::uid(pod) == uid);
            if let Some(asks) = asks.filter(|asks| self.allocate(known, asks.clone()).1.as_ref() != Some(&pending)) {
                self.pod(asks);
            }
        }
    }

    /// A mirror object appeared or changed: its worker reports to it, unless it shows nothing (any more).
    fn mirror(&self, uid: &str, pod: Arc<Pod>) {
        if self.statics.contains_key(uid) && !spec::is_deleting(&pod) {
            return self.tell(uid, &Input::Mirror(Some(pod)));
        }
        self.draw(self.statics.get(uid).cloned(), Some(pod));
    }

    /// Shows a static pod in the API.
    fn mirror_static(&self, uid: &str) {
        let Some(pod) = self.statics.get(uid).cloned() else { return };
        let shown = self.pods.get(&client::Key::of(&pod.metadata));
        self.draw(Some(pod), shown);
    }

    /// Makes the API's picture of a static pod what it is to be, however many tries that takes: nothing would remind of it.
    fn draw(&self, current: Option<Arc<Pod>>, shown: Option<Arc<Pod>>) {
        let (ctx, shutdown) = (self.ctx.clone(), self.shutdown.clone());
        tokio::spawn(async move {
            let mut pause = Duration::from_millis(100);
            let work = async {
                loop {
                    let drawing = static_pods::draw(&ctx, current.as_deref(), shown.as_deref());
                    match AssertUnwindSafe(drawing).catch_unwind().await {
                        Ok(Ok(())) => return,
                        Ok(Err(error)) => {
                            let pod = current.as_deref().or(shown.as_deref()).map(spec::full_name);
                            tracing::debug!(pod, %error, "mirror pod not brought up to date");
                        }
                        // A panic, which is in the log.
                        Err(_) => {}
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(10));
                }
            };
            shutdown.run_until_cancelled(work).await;
        });
    }

    /// The files changed: pods that are gone stop, new ones start as soon as nothing of their name runs.
    fn statics(&mut self, set: BTreeMap<String, Pod>) {
        let gone: Vec<String> = self.statics.keys().filter(|uid| !set.contains_key(*uid)).cloned().collect();
        for uid in gone {
            self.statics.remove(&uid);
            self.tell(&uid, &Input::Removed);
        }
        for (uid, pod) in set {
            let now = self.ctx.now();
            self.statics.entry(uid).or_insert_with(|| Arc::new(static_pods::seen(pod, now)));
        }
        self.start_statics();
        let shown: Vec<Arc<Pod>> = self.pods.list().into_iter().filter(|p| spec::is_mirror(p)).collect();
        for mirror in shown.into_iter().filter(|m| !self.statics.contains_key(&spec::uid(m))) {
            self.mirror(&spec::uid(&mirror), mirror);
        }
    }

    fn start_statics(&mut self) {
        if *self.ctx.shutting_down.borrow() {
            return;
        }
        let waiting: Vec<(String, Arc<Pod>)> = self
            .statics
            .iter()
            .filter(|(uid, _)| !self.workers.contains_key(*uid))
            .map(|(uid, pod)| (uid.clone(), pod.clone()))
            .collect();
        for (uid, pod) in waiting {
            let same =
                |other: &Pod| spec::name(other) == spec::name(&pod) && spec::namespace(other) == spec::namespace(&pod);
            if self.workers.values().any(|other| same(&other.pod)) {
                continue;
            }
            let handle = worker::spawn(
                self.ctx.clone(),
                Pod::clone(&pod),
                worker::First::default(),
                self.ended.clone(),
                self.shutdown.clone(),
            );
            if let Some(mirror) = self.pods.get(&client::Key::of(&pod.metadata)).filter(|m| spec::uid(m) == uid) {
                handle.send(Input::Mirror(Some(mirror)));
            }
            self.workers.insert(uid.clone(), Running::new(handle, pod));
            self.mirror_static(&uid);
        }
    }

    /// Decides whether a pod that this kubelet has not seen yet may run.
    fn admit(&self, pod: &Pod) -> Option<admission::Rejection> {
        let status = pod.status.as_ref();
        let over = spec::is_terminal(status.and_then(|s| s.phase.as_deref())) || spec::is_deleting(pod);
        // A pod that already ran here (before a restart of the kubelet) was admitted then.
        let ran = status.is_some_and(|s| s.container_statuses.iter().flatten().any(|c| c.container_id.is_some()));
        if over || ran {
            return None;
        }
        let active: Vec<&Pod> = self.active().collect();
        let node = self.ctx.node.get(&client::Key::cluster(&self.ctx.facts.name));
        // Before the node's object has come back, it is what we registered.
        let node = node.map_or_else(|| self.registered(), |n| k8s_openapi::api::core::v1::Node::clone(&n));
        let pressures = self.ctx.pressures.borrow().clone();
        admission::shutdown(*self.ctx.shutting_down.borrow())
            .or_else(|| admission::pressure(pod, &pressures))
            .or_else(|| admission::check(pod, &node, &self.ctx.facts.allocatable, &active))
            .or_else(|| admission::sysctls(pod, &self.ctx.config.allowed_unsafe_sysctls))
            .or_else(|| admission::unsupported(pod))
    }

    fn registered(&self) -> k8s_openapi::api::core::v1::Node {
        let mut node = k8s_openapi::api::core::v1::Node::default();
        let name = &self.ctx.facts.name;
        node.metadata.name = Some(name.clone());
        node.metadata.labels = Some(crate::node::object::labels(name, &self.ctx.config.node_labels));
        node
    }

    /// Pods that hold resources.
    fn active(&self) -> impl Iterator<Item = &Pod> {
        self.holding().map(|known| &*known.pod)
    }

    fn holding(&self) -> impl Iterator<Item = &Running> {
        let over = |pod: &Pod| spec::is_terminal(pod.status.as_ref().and_then(|s| s.phase.as_deref()));
        let holds = move |(uid, known): &(&String, &Running)| !self.rejected.contains(*uid) && !over(&known.pod);
        self.workers.iter().filter(holds).map(|(_, known)| known)
    }

    /// Keeps the burstable class' share at the sum of its pods' requests.
    fn share(&mut self) {
        let cpu = self.holding().map(|known| known.burstable_cpu).fold(0, i64::saturating_add);
        if cpu != self.burstable_cpu {
            self.burstable_cpu = cpu;
            self.ctx.cgroups.share(cpu);
        }
    }

    fn finished(&mut self, uid: &str) {
        self.rejected.remove(uid);
        if let Some(Running { pod, .. }) = self.workers.remove(uid)
            && !spec::is_static(&pod)
            && self.pods.get(&client::Key::of(&pod.metadata)).is_some_and(|p| spec::uid(&p) == uid)
        {
            self.done.insert(uid.to_owned());
        }
        self.start_statics();
        self.retry_resizes();
        self.share();
    }

    /// Keeps of what was found only what belongs to no pod, and has it removed: it was left behind by pods that went while
    /// no kubelet ran. What was found is older than what is known now, so a new pod's things are never taken for orphans.
    fn remove_orphans(&self, found: Found) {
        let unknown = |uid: &String| {
            !uid.is_empty() && !self.workers.contains_key(uid) && !self.done.contains(uid) && !self.statics.contains_key(uid)
        };
        let orphans: Vec<Found> =
            found.by_pod().into_iter().filter(|(uid, _)| unknown(uid)).map(|(_, of_pod)| of_pod).collect();
        for orphan in orphans {
            tokio::spawn(orphan.remove(self.ctx.clone()));
        }
    }
}

/// What runtime and disk hold, by pod.
#[derive(Default)]
struct Found {
    containers: Vec<v1::Container>,
    sandboxes: Vec<v1::PodSandbox>,
    left: Vec<String>,
}

fn uid_label(labels: &HashMap<String, String>) -> String {
    labels.get(keys::POD_UID).cloned().unwrap_or_default()
}

impl Found {
    async fn look(ctx: Ctx) -> Option<Self> {
        let containers = ctx.runtime.containers(None).await.ok()?;
        let sandboxes = ctx.runtime.sandboxes(None).await.ok()?;
        let list = move || {
            let logs = ctx.log_dirs().into_iter().map(|(uid, _)| uid);
            ctx.volumes.pods().into_iter().chain(ctx.cgroups.pods()).chain(logs).collect()
        };
        let left = tokio::task::spawn_blocking(list).await.ok()?;
        Some(Self { containers, sandboxes, left })
    }

    fn by_pod(self) -> BTreeMap<String, Found> {
        let mut pods: BTreeMap<String, Found> = BTreeMap::new();
        for c in self.containers {
            pods.entry(uid_label(&c.labels)).or_default().containers.push(c);
        }
        for s in self.sandboxes {
            pods.entry(uid_label(&s.labels)).or_default().sandboxes.push(s);
        }
        for uid in self.left {
            pods.entry(uid.clone()).or_default().left.push(uid);
        }
        pods
    }

    /// Stops and removes everything; what fails is found again the next time.
    async fn remove(self, ctx: Ctx) {
        let stops = self.containers.iter().filter(|c| c.state() == v1::ContainerState::ContainerRunning).map(|c| {
            tracing::info!(container = c.id, "stopping a container of a pod that is gone");
            let grace = c.annotations.get(keys::GRACE).and_then(|g| g.parse().ok()).unwrap_or(30);
            ctx.runtime.stop_container(&c.id, grace)
        });
        futures::future::join_all(stops).await;
        let work = async {
            for container in &self.containers {
                ctx.runtime.remove_container(&container.id).await?;
            }
            for sandbox in &self.sandboxes {
                ctx.runtime.stop_sandbox(&sandbox.id).await?;
                ctx.runtime.remove_sandbox(&sandbox.id).await?;
            }
            Ok::<(), crate::runtime::RuntimeError>(())
        };
        if let Err(error) = work.await {
            tracing::warn!(call = error.call, %error, "what a pod left behind was not removed");
            return;
        }
        let uids: HashSet<String> = self.left.into_iter().collect();
        let sweep = move || {
            for uid in &uids {
                ctx.cgroups.remove_pod(uid);
                if let Err(error) = ctx.volumes.tear_down(uid) {
                    tracing::warn!(uid, %error, "orphaned volumes not removed");
                }
            }
            for (uid, dir) in ctx.log_dirs().into_iter().filter(|(uid, _)| uids.contains(uid)) {
                if let Err(error) = std::fs::remove_dir_all(&dir) {
                    tracing::warn!(uid, dir = %dir.display(), %error, "orphaned logs not removed");
                }
            }
        };
        if let Err(error) = tokio::task::spawn_blocking(sweep).await {
            tracing::warn!(%error, "housekeeping broke off");
        }
    }
}

/// Turns the runtime's events into UIDs; an empty one says that anything may have changed.
async fn watch_runtime(ctx: Ctx, changes: mpsc::UnboundedSender<String>, poke: Arc<Notify>, shutdown: CancellationToken) {
    let work = async {
        loop {
            match ctx.runtime.events().await {
                Ok(mut events) => {
                    let _ = changes.send(String::new());
                    poke.notify_one();
                    while let Some(Ok(event)) = events.next().await {
                        let _ = changes.send(uid_of(&event));
                    }
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Err(error) if error.is_unimplemented() => return relist(&ctx, &changes).await,
                Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
            }
        }
    };
    shutdown.run_until_cancelled(work).await;
}

/// Whose event it is; empty (anyone's) if the runtime does not say.
fn uid_of(event: &v1::ContainerEventResponse) -> String {
    let metadata = event.pod_sandbox_status.as_ref().and_then(|s| s.metadata.as_ref());
    metadata.map(|m| m.uid.clone()).unwrap_or_default()
}

/// For runtimes without an event stream: looks once a second and compares.
async fn relist(ctx: &Ctx, changes: &mpsc::UnboundedSender<String>) {
    let mut known: HashMap<String, (String, i32)> = HashMap::new();
    loop {
        if let (Ok(sandboxes), Ok(containers)) = (ctx.runtime.sandboxes(None).await, ctx.runtime.containers(None).await) {
            let uid = |labels: &HashMap<String, String>| labels.get(keys::POD_UID).cloned().unwrap_or_default();
            let boxes = sandboxes.iter().map(|s| (s.id.clone(), (uid(&s.labels), s.state)));
            let all = containers.iter().map(|c| (c.id.clone(), (uid(&c.labels), c.state)));
            let now: HashMap<_, _> = boxes.chain(all).collect();
            let gone = known.iter().filter(|(id, _)| !now.contains_key(*id));
            let new = now.iter().filter(|(id, state)| known.get(*id) != Some(*state));
            let dirty: HashSet<&String> = gone.chain(new).map(|(_, (uid, _))| uid).filter(|u| !u.is_empty()).collect();
            for uid in dirty {
                let _ = changes.send(uid.clone());
            }
            known = now;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
