//! What the scheduler counts, under upstream's names.
//!
//! One set a process; schedulers of other names in the same process differ by the label `profile`.

use std::sync::OnceLock;

use process::metrics::{Row, encode_rows};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};

/// How an attempt ended, and whose it was.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// `scheduled`, `unschedulable` or `error`.
    pub result: &'static str,
    /// `spec.schedulerName`.
    pub profile: String,
}

/// A part of the queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Part {
    queue: &'static str,
}

/// A kind of thing that the snapshot holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Held {
    r#type: &'static str,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// All of them; register [`Metrics::global`]'s clone as a collector.
#[derive(Clone, Debug)]
pub struct Metrics {
    attempts: Family<Outcome, Counter>,
    attempt_seconds: Histograms<Outcome>,
    algorithm_seconds: Histogram,
    pending: Family<Part, Gauge>,
    cached: Family<Held, Gauge>,
    preemptions: Counter,
    victims: Histogram,
    tries: Histogram,
}

fn seconds() -> Histogram {
    // 1 ms doubling to 16 s, as upstream's buckets.
    Histogram::new((0..15).map(|n| 0.001 * f64::from(1 << n)))
}

impl Metrics {
    /// The process' set.
    pub fn global() -> &'static Self {
        static METRICS: OnceLock<Metrics> = OnceLock::new();
        METRICS.get_or_init(|| Self {
            attempts: Family::default(),
            attempt_seconds: Family::new_with_constructor(seconds as fn() -> Histogram),
            algorithm_seconds: seconds(),
            pending: Family::default(),
            cached: Family::default(),
            preemptions: Counter::default(),
            victims: Histogram::new((0..7).map(|n| f64::from(1 << n))),
            tries: Histogram::new((0..5).map(|n| f64::from(1 << n))),
        })
    }

    /// An attempt ended after this many seconds.
    pub(crate) fn attempted(&self, result: &'static str, profile: &str, seconds: f64) {
        let outcome = Outcome { result, profile: profile.to_owned() };
        self.attempt_seconds.get_or_create(&outcome).observe(seconds);
        self.attempts.get_or_create(&outcome).inc();
    }

    /// A decision took this many seconds.
    pub(crate) fn decided(&self, seconds: f64) {
        self.algorithm_seconds.observe(seconds);
    }

    /// A pod was bound at its nth try.
    pub(crate) fn bound_at(&self, attempt: u32) {
        self.tries.observe(f64::from(attempt));
    }

    /// A pod preempted this many others.
    pub(crate) fn preempted(&self, victims: usize) {
        self.victims.observe(victims as f64);
    }

    /// Preemption was tried.
    pub(crate) fn tried_to_preempt(&self) {
        self.preemptions.inc();
    }

    /// How many pods wait in each part of the queue; how many nodes and pods are known.
    pub(crate) fn sizes(&self, waiting: [usize; 4], nodes: usize, pods: usize) {
        for (queue, length) in ["active", "backoff", "unschedulable", "gated"].into_iter().zip(waiting) {
            self.pending.get_or_create(&Part { queue }).set(length as i64);
        }
        for (r#type, length) in [("nodes", nodes), ("pods", pods)] {
            self.cached.get_or_create(&Held { r#type }).set(length as i64);
        }
    }

    /// How many attempts of a scheduler ended so.
    pub fn attempts(&self, result: &'static str, profile: &str) -> u64 {
        self.attempts.get_or_create(&Outcome { result, profile: profile.to_owned() }).get()
    }
}

impl Collector for Metrics {
    fn encode(&self, encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let rows: [Row<'_>; 8] = [
            ("scheduler_schedule_attempts", "Number of attempts to schedule pods, by the result", &self.attempts),
            (
                "scheduler_scheduling_attempt_duration_seconds",
                "Scheduling attempt latency in seconds (algorithm and binding)",
                &self.attempt_seconds,
            ),
            (
                "scheduler_scheduling_algorithm_duration_seconds",
                "Scheduling algorithm latency in seconds",
                &self.algorithm_seconds,
            ),
            ("scheduler_pending_pods", "Number of pending pods, by the part of the queue", &self.pending),
            ("scheduler_scheduler_cache_size", "Number of nodes and pods in the scheduler's snapshot", &self.cached),
            ("scheduler_preemption_attempts", "Preemption attempts in the cluster till now", &self.preemptions),
            ("scheduler_preemption_victims", "Number of selected preemption victims", &self.victims),
            ("scheduler_pod_scheduling_attempts", "Number of attempts to successfully schedule a pod", &self.tries),
        ];
        encode_rows(encoder, &rows)
    }
}
