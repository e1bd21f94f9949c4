//! The numbers a component shows of its queues, caches and leadership, under upstream's names.

use std::sync::OnceLock;

use process::metrics::{Row, encode_rows};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};

/// The label of all queue metrics.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Name {
    name: String,
}

impl Name {
    /// The label's value.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned() }
    }
}

/// All metrics of this crate. One set per process, to be registered once as a collector ([`Metrics::global`]'s clone): components in
/// one process share it and differ by name.
#[derive(Clone, Debug)]
pub struct Metrics {
    depth: Family<Name, Gauge>,
    adds: Family<Name, Counter>,
    retries: Family<Name, Counter>,
    queued: Family<Name, Histogram, fn() -> Histogram>,
    worked: Family<Name, Histogram, fn() -> Histogram>,
    leading: Family<Name, Gauge>,
}

/// One queue's part of [`Metrics`], looked up once.
#[derive(Clone, Debug)]
pub struct QueueMetrics {
    pub(crate) depth: Gauge,
    pub(crate) adds: Counter,
    pub(crate) retries: Counter,
    pub(crate) queued: Histogram,
    pub(crate) worked: Histogram,
}

fn seconds() -> Histogram {
    // 10 ns to 10 s in powers of ten, as upstream's buckets.
    Histogram::new((-8..=1).map(|e| 10f64.powi(e)))
}

impl Metrics {
    /// The process' set.
    pub fn global() -> &'static Self {
        static METRICS: OnceLock<Metrics> = OnceLock::new();
        METRICS.get_or_init(|| Self {
            queued: Family::new_with_constructor(seconds as fn() -> Histogram),
            worked: Family::new_with_constructor(seconds as fn() -> Histogram),
            depth: Family::default(),
            adds: Family::default(),
            retries: Family::default(),
            leading: Family::default(),
        })
    }

    pub(crate) fn queue(&self, name: &str) -> QueueMetrics {
        let name = Name::new(name);
        QueueMetrics {
            depth: self.depth.get_or_create_owned(&name),
            adds: self.adds.get_or_create_owned(&name),
            retries: self.retries.get_or_create_owned(&name),
            queued: self.queued.get_or_create_owned(&name),
            worked: self.worked.get_or_create_owned(&name),
        }
    }

    pub(crate) fn leading(&self, name: &str) -> Gauge {
        self.leading.get_or_create_owned(&Name::new(name))
    }
}

impl Collector for Metrics {
    fn encode(&self, encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let rows: [Row<'_>; 6] = [
            ("workqueue_depth", "Current depth of workqueue", &self.depth),
            ("workqueue_adds", "Total number of adds handled by workqueue", &self.adds),
            ("workqueue_retries", "Total number of retries handled by workqueue", &self.retries),
            (
                "workqueue_queue_duration_seconds",
                "How long in seconds an item stays in workqueue before being requested",
                &self.queued,
            ),
            ("workqueue_work_duration_seconds", "How long in seconds processing an item from workqueue takes", &self.worked),
            ("leader_election_master_status", "Whether this process holds the lease (1) or not (0)", &self.leading),
        ];
        encode_rows(encoder, &rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_under_upstreams_names() {
        let metrics = Metrics { leading: Family::default(), ..Metrics::global().clone() };
        metrics.queue("shown").adds.inc();
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register_collector(Box::new(metrics));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
        assert!(text.contains("workqueue_adds_total{name=\"shown\"} 1"), "{text}");
    }
}
