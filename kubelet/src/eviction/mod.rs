//! What happens when the node runs short: conditions, images removed, pods evicted (one at a time, upstream's order, reasons
//! and messages), and pods that use more local storage than they may.
//!
//! ```text
//!   kernel ──levels──▶ thresholds (decide) ──▶ conditions of the node, admission
//!                                         └──▶ images removed; if that is not enough, the first of the ranked pods evicted
//!   disk ──sizes──▶ limits of pods (once a minute, only pods that have any)
//! ```
//!
//! Levels cost two system calls a look, so a node that is short of nothing does next to nothing. Available memory is the
//! kernel's own estimate (`MemAvailable`): upstream counts page cache that is mapped or recently read as used, and so evicts
//! pods from nodes whose memory is full of cache.

mod decide;
pub mod images;
pub mod signals;
pub mod usage;

use std::{
    collections::{BTreeSet, HashSet},
    path::PathBuf,
    time::Duration,
};

use client::Informer;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{clock::Steady, metrics::Metrics, node::object::node_reference, pod::spec, shared::Ctx};
pub use decide::{SYSTEM_PRIORITY, is_critical};
use images::Images;
pub use signals::Pressure;
use signals::Threshold;

/// How often levels are looked at, and pods with limits of local storage measured.
const LOOK: Duration = Duration::from_secs(10);
/// The same while pods have to go.
const LOOK_CLOSELY: Duration = Duration::from_secs(1);
/// What a pod gets to end when the node cannot wait.
const AT_ONCE: i64 = 1;
/// How long dead containers may take to be removed.
const RECLAIM: Duration = Duration::from_secs(10);
/// How long the next pod waits for the one that was told to go.
const PATIENCE: SignedDuration = SignedDuration::from_secs(30);

/// What pods are told for the node's sake.
#[derive(Clone, Debug)]
pub enum Order {
    /// One has to go.
    Evict(Eviction),
    /// Those that have ended give back what their dead containers hold. The sender is dropped when it is done.
    Reclaim(mpsc::Sender<()>),
}

/// A pod has to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// Whose.
    pub uid: String,
    /// What its status says.
    pub message: String,
    /// How long it may take to end, in seconds.
    pub grace: i64,
    /// It goes for the node's sake, not for its own use: it gets the condition DisruptionTarget.
    pub disrupted: bool,
}

/// Looks after the node until `shutdown`.
pub async fn run(
    ctx: Ctx,
    pods: Informer<Pod>,
    thresholds: Vec<Threshold>,
    orders: mpsc::UnboundedSender<Order>,
    shutdown: CancellationToken,
) {
    let mut keeper = Keeper {
        image_path: image_path(&ctx).await,
        clock: Steady::new(ctx.now()),
        ctx,
        pods,
        thresholds,
        orders,
        memory: decide::Memory::default(),
        images: Images::default(),
        measured: None,
        cleaned: None,
        unclean: false,
        short: false,
        going: None,
    };
    let work = async {
        loop {
            keeper.look().await;
            tokio::time::sleep(if keeper.short { LOOK_CLOSELY } else { LOOK }).await;
        }
    };
    shutdown.run_until_cancelled(work).await;
}

/// A path on the file system that holds the runtime's images.
async fn image_path(ctx: &Ctx) -> PathBuf {
    let said = ctx.runtime.image_mount_point().await.ok().flatten().map(PathBuf::from);
    // A runtime in another mount namespace may name a path that is none here.
    said.filter(|path| path.is_dir()).unwrap_or_else(|| ctx.config.root_dir.clone())
}

struct Keeper {
    ctx: Ctx,
    clock: Steady,
    pods: Informer<Pod>,
    thresholds: Vec<Threshold>,
    orders: mpsc::UnboundedSender<Order>,
    image_path: PathBuf,
    memory: decide::Memory,
    images: Images,
    measured: Option<Timestamp>,
    cleaned: Option<Timestamp>,
    /// That did not free what it was to.
    unclean: bool,
    /// Pods have to go.
    short: bool,
    /// The pod that was told to go for the node's sake, and when.
    going: Option<(String, Timestamp)>,
}

impl Keeper {
    async fn look(&mut self) {
        let now = self.clock.now();
        let levels = usage::levels(&self.ctx.config.root_dir, &self.image_path);
        let transition = SignedDuration::try_from(self.ctx.config.eviction_pressure_transition_period).unwrap_or_default();
        let verdict = self.memory.look(&self.thresholds, &levels, transition, now);
        self.tell(verdict.pressures);
        if self.cleaned.is_none_or(|last| now.duration_since(last) >= images::EVERY) {
            self.cleaned = Some(now);
            self.clean_images(now).await;
        }
        if self.measured.is_none_or(|last| Duration::try_from(now.duration_since(last)).is_ok_and(|past| past >= LOOK)) {
            self.measured = Some(now);
            if self.hold_to_limits().await {
                return;
            }
        }
        let Some(threshold) = verdict.due.first().map(|place| self.thresholds[*place].clone()) else {
            (self.going, self.short) = (None, false);
            return;
        };
        let announced = std::mem::replace(&mut self.short, true);
        if self.still_going(now) {
            return;
        }
        let resource = threshold.signal.resource();
        if !announced {
            let node = node_reference(&self.ctx.facts.name);
            self.ctx.recorder.warning(&node, "EvictionThresholdMet", format!("Attempting to reclaim {resource}"));
        }
        if threshold.signal.pressure() == Pressure::Disk {
            // What the pod that went last has left behind comes before the next pod.
            self.reclaim_containers().await;
            self.reclaim_images(now).await;
            if self.is_enough(&threshold) {
                return;
            }
        }
        self.evict_one(&threshold, now).await;
    }

    fn tell(&self, pressures: BTreeSet<Pressure>) {
        self.ctx.pressures.send_if_modified(|known| {
            let changed = *known != pressures;
            *known = pressures;
            changed
        });
    }

    /// Pods that run here and may be told to go.
    fn candidates(&self) -> Vec<Pod> {
        let all = self.pods.list();
        let lives = |pod: &Pod| {
            let status = pod.status.as_ref();
            let started = status.is_some_and(|s| s.container_statuses.iter().flatten().any(|c| c.container_id.is_some()));
            !spec::is_terminal(status.and_then(|s| s.phase.as_deref())) && !decide::is_critical(pod) && started
        };
        all.iter().filter(|pod| lives(pod)).map(|pod| Pod::clone(pod)).collect()
    }

    fn still_going(&mut self, now: Timestamp) -> bool {
        let Some((uid, since)) = &self.going else { return false };
        let here = self.candidates().iter().any(|pod| spec::uid(pod) == *uid);
        here && now.duration_since(*since) < PATIENCE
    }

    fn send(&self, pod: &Pod, message: String, grace: i64, disrupted: bool) {
        tracing::warn!(pod = spec::full_name(pod), message, "evicting a pod");
        // The receiver only goes with the kubelet.
        let _ = self.orders.send(Order::Evict(Eviction { uid: spec::uid(pod), message, grace, disrupted }));
    }

    /// Evicts pods that are over limits of their own; true if there was one.
    async fn hold_to_limits(&self) -> bool {
        let pods: Vec<Pod> = self.candidates().into_iter().filter(decide::has_limits).collect();
        if pods.is_empty() {
            return false;
        }
        let usage = usage::of_pods(&self.ctx, &pods, |_| true).await;
        let mut any = false;
        for pod in pods.iter().filter(|pod| !spec::is_deleting(pod)) {
            let Some(message) = usage.get(&spec::uid(pod)).and_then(|usage| decide::over_its_limits(pod, usage)) else {
                continue;
            };
            self.send(pod, message, AT_ONCE, false);
            any = true;
        }
        any
    }

    async fn evict_one(&mut self, threshold: &Threshold, now: Timestamp) {
        let pods = self.candidates();
        let usage = usage::of_pods(&self.ctx, &pods, |_| threshold.signal.pressure() == Pressure::Disk).await;
        let processes = match threshold.signal.pressure() {
            Pressure::Pid => usage::processes_of(&self.ctx, &pods).await,
            _ => Default::default(),
        };
        let mut ranked = usage::by_pod(pods, usage, &processes);
        decide::rank(threshold.signal, &mut ranked);
        let Some((pod, usage)) = ranked.iter().find(|(pod, _)| !spec::is_deleting(pod)) else {
            tracing::debug!(signal = threshold.signal.name(), "the node is short of something and no pod can be evicted");
            return;
        };
        // As it is now: measuring may have taken a while.
        let levels = usage::levels(&self.ctx.config.root_dir, &self.image_path);
        let level = levels.get(&threshold.signal).copied().unwrap_or_default();
        let grace = match threshold.grace {
            None => AT_ONCE,
            Some(_) => i64::try_from(self.ctx.config.eviction_max_pod_grace_period).unwrap_or(i64::MAX),
        };
        self.send(pod, decide::message(threshold, level, pod, usage), grace, true);
        Metrics::global().evicted(threshold.signal.name());
        self.going = Some((spec::uid(pod), now));
    }

    /// Removes unused images where the disk is fuller than the flags allow.
    async fn clean_images(&mut self, now: Timestamp) {
        let policy = self.ctx.config.image_policy();
        let Some((space, _)) = usage::file_system(&self.image_path) else { return };
        let wanted = images::wanted(&policy, space.capacity, space.available);
        let freed = self.remove_images(&policy, wanted.unwrap_or(0), now).await;
        let failed = wanted.filter(|wanted| freed < *wanted);
        let again = std::mem::replace(&mut self.unclean, failed.is_some());
        if let Some(wanted) = failed {
            let node = node_reference(&self.ctx.facts.name);
            let (reasons, message) = images::complaint(wanted, freed, again);
            for reason in reasons {
                self.ctx.recorder.warning(&node, reason, message.clone());
            }
        }
    }

    /// Removes the dead containers of pods that have ended, and with them their writable layers.
    async fn reclaim_containers(&self) {
        let (hold, mut held) = mpsc::channel(1);
        // The receiver only goes with the kubelet.
        let _ = self.orders.send(Order::Reclaim(hold));
        if tokio::time::timeout(RECLAIM, held.recv()).await.is_err() {
            tracing::warn!("dead containers are not removed yet");
        }
    }

    /// Removes all unused images.
    async fn reclaim_images(&mut self, now: Timestamp) {
        let policy = self.ctx.config.image_policy();
        self.remove_images(&policy, u64::MAX, now).await;
    }

    /// Whether a threshold has what it wants.
    fn is_enough(&self, threshold: &Threshold) -> bool {
        let levels = usage::levels(&self.ctx.config.root_dir, &self.image_path);
        levels.get(&threshold.signal).is_some_and(|level| {
            let more = threshold.reclaim.as_ref().map_or(0, |reclaim| reclaim.of(level.capacity));
            level.available >= threshold.bound.of(level.capacity).saturating_add(more)
        })
    }

    /// Removes unused images until `wanted` bytes are free; returns how many bytes they had.
    async fn remove_images(&mut self, policy: &images::Policy, wanted: u64, now: Timestamp) -> u64 {
        let (all, containers) = tokio::join!(self.ctx.runtime.images(), self.ctx.runtime.containers(None));
        let (Ok(all), Ok(containers)) = (all, containers) else { return 0 };
        let named = |c: cri::v1::Container| [c.image_id, c.image_ref, c.image.unwrap_or_default().image];
        let used: HashSet<String> = containers.into_iter().flat_map(named).filter(|name| !name.is_empty()).collect();
        self.images.note(&all, &used, now);
        let mut freed = 0;
        for (id, size) in self.images.victims(&all, &used, policy, wanted, now) {
            match self.ctx.runtime.remove_image(&id).await {
                Ok(()) => {
                    tracing::info!(image = id, bytes = size, "removed an unused image");
                    freed += size;
                }
                Err(error) => tracing::warn!(image = id, %error, "an unused image is not removed"),
            }
        }
        freed
    }
}
