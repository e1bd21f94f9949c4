//! What the kubelet counts, under upstream's names: calls of the runtime, pods and containers started, evictions, probes.

use std::{sync::OnceLock, time::Duration};

use jiff::SignedDuration;
use process::metrics::{Row, encode_rows};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};

use crate::pod::spec::Role;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    operation_type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Started {
    container_type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NotStarted {
    container_type: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Signal {
    eviction_signal: &'static str,
}

/// Whose probes are counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Probed {
    /// `Liveness`.
    pub probe_type: &'static str,
    /// The container's name.
    pub container: String,
    /// The pod's.
    pub pod: String,
    /// Its namespace.
    pub namespace: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Tried {
    #[prometheus(flatten)]
    probed: Probed,
    pod_uid: String,
    result: &'static str,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// All of them, one set a process.
#[derive(Debug)]
pub struct Metrics {
    calls: Family<Operation, Counter>,
    failed_calls: Family<Operation, Counter>,
    call_seconds: Histograms<Operation>,
    pods: Counter,
    failed_pods: Counter,
    pod_seconds: Histogram,
    containers: Family<Started, Counter>,
    failed_containers: Family<NotStarted, Counter>,
    /// A gauge, for a counter's name would end in `_total`; upstream's doesn't.
    evictions: Family<Signal, Gauge>,
    probes: Family<Tried, Counter>,
    probe_seconds: Histograms<Probed>,
}

fn call_seconds() -> Histogram {
    // 5 ms, each next 2.5 times as long, as upstream's.
    Histogram::new((0..14).map(|n| 0.005 * 2.5f64.powi(n)))
}

fn probe_seconds() -> Histogram {
    Histogram::new([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])
}

/// The runtime's method (`run_pod_sandbox`) as upstream's metrics call it.
fn operation(method: &'static str) -> &'static str {
    match method {
        "run_pod_sandbox" => "run_podsandbox",
        "stop_pod_sandbox" => "stop_podsandbox",
        "remove_pod_sandbox" => "remove_podsandbox",
        "pod_sandbox_status" => "podsandbox_status",
        "list_pod_sandbox" => "list_podsandbox",
        "list_pod_sandbox_stats" => "list_podsandbox_stats",
        "list_pod_sandbox_metrics" => "list_podsandbox_metrics",
        "update_container_resources" => "update_container",
        other => other,
    }
}

fn container_type(role: Role) -> &'static str {
    match role {
        Role::Init | Role::Sidecar => "init_container",
        Role::Main => "container",
        Role::Ephemeral => "ephemeral_container",
    }
}

impl Metrics {
    /// The process' set.
    pub fn global() -> &'static Self {
        static METRICS: OnceLock<Metrics> = OnceLock::new();
        METRICS.get_or_init(Self::new)
    }

    fn new() -> Self {
        Self {
            calls: Family::default(),
            failed_calls: Family::default(),
            call_seconds: Family::new_with_constructor(call_seconds as fn() -> Histogram),
            pods: Counter::default(),
            failed_pods: Counter::default(),
            // Upstream's buckets.
            pod_seconds: Histogram::new([0.5].into_iter().chain((1..=5).map(f64::from)).chain([
                6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0, 1200.0,
                1800.0, 2700.0, 3600.0,
            ])),
            containers: Family::default(),
            failed_containers: Family::default(),
            evictions: Family::default(),
            probes: Family::default(),
            probe_seconds: Family::new_with_constructor(probe_seconds as fn() -> Histogram),
        }
    }

    /// A call of the runtime ended after so long.
    pub fn called(&self, method: &'static str, took: Duration, ok: bool) {
        let operation = Operation { operation_type: operation(method) };
        self.call_seconds.get_or_create(&operation).observe(took.as_secs_f64());
        self.calls.get_or_create(&operation).inc();
        if !ok {
            self.failed_calls.get_or_create(&operation).inc();
        }
    }

    /// A sandbox is about to be started.
    pub fn starting_sandbox(&self) {
        self.pods.inc();
        self.containers.get_or_create(&Started { container_type: "pod_sandbox" }).inc();
    }

    /// It did not start.
    pub fn sandbox_failed(&self) {
        self.failed_pods.inc();
        self.failed_containers
            .get_or_create(&NotStarted { container_type: "pod_sandbox", code: "CreatePodSandboxError" })
            .inc();
    }

    /// A container is about to be started.
    pub fn starting(&self, role: Role) {
        self.containers.get_or_create(&Started { container_type: container_type(role) }).inc();
    }

    /// It did not start, for this reason.
    pub fn failed_to_start(&self, role: Role, code: &'static str) {
        self.failed_containers.get_or_create(&NotStarted { container_type: container_type(role), code }).inc();
    }

    /// A pod runs, so long after the kubelet first saw it.
    pub fn pod_runs(&self, after: SignedDuration) {
        self.pod_seconds.observe(after.as_secs_f64().max(0.0));
    }

    /// A pod was told to go, for want of this (`memory.available`).
    pub fn evicted(&self, signal: &'static str) {
        self.evictions.get_or_create(&Signal { eviction_signal: signal }).inc();
    }

    /// A probe came to `result` (`successful`, `failed`, `unknown`) after so long.
    pub fn probed(&self, probed: &Probed, pod_uid: &str, result: &'static str, took: Duration) {
        let tried = Tried { probed: probed.clone(), pod_uid: pod_uid.to_owned(), result };
        self.probes.get_or_create(&tried).inc();
        // As upstream: how long a failure takes is not told.
        if result != "failed" {
            self.probe_seconds.get_or_create(probed).observe(took.as_secs_f64());
        }
    }

    /// Nothing is probed there any more.
    pub fn forget(&self, probed: &Probed, pod_uid: &str) {
        for result in ["successful", "failed", "unknown"] {
            self.probes.remove(&Tried { probed: probed.clone(), pod_uid: pod_uid.to_owned(), result });
        }
        self.probe_seconds.remove(probed);
    }
}

/// What `/metrics` shows of [`Metrics`].
#[derive(Debug)]
pub struct Shown(pub &'static Metrics);

impl Collector for Shown {
    fn encode(&self, encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let m = self.0;
        let rows: [Row<'_>; 9] = [
            ("kubelet_runtime_operations", "Cumulative number of runtime operations by operation type", &m.calls),
            (
                "kubelet_runtime_operations_errors",
                "Cumulative number of runtime operation errors by operation type",
                &m.failed_calls,
            ),
            ("kubelet_runtime_operations_duration_seconds", "Duration in seconds of runtime operations", &m.call_seconds),
            ("kubelet_started_pods", "Cumulative number of pods started", &m.pods),
            ("kubelet_started_pods_errors", "Cumulative number of errors when starting pods", &m.failed_pods),
            (
                "kubelet_pod_start_duration_seconds",
                "Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run",
                &m.pod_seconds,
            ),
            ("kubelet_started_containers", "Cumulative number of containers started", &m.containers),
            (
                "kubelet_started_containers_errors",
                "Cumulative number of errors when starting containers",
                &m.failed_containers,
            ),
            ("kubelet_evictions", "Cumulative number of pod evictions by eviction signal", &m.evictions),
        ];
        encode_rows(encoder, &rows)
    }
}

/// What `/metrics/probes` shows.
#[derive(Debug)]
pub struct ShownProbes(pub &'static Metrics);

impl Collector for ShownProbes {
    fn encode(&self, encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let help = "Cumulative number of a liveness, readiness or startup probe for a container by result";
        let rows: [Row<'_>; 2] = [
            ("prober_probe", help, &self.0.probes),
            ("prober_probe_duration_seconds", "Duration in seconds for a probe response", &self.0.probe_seconds),
        ];
        encode_rows(encoder, &rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Kind;

    fn text(collector: impl Collector + 'static) -> String {
        let metrics = process::metrics::Metrics::empty();
        metrics.collect(collector);
        metrics.text()
    }

    #[test]
    fn calls_and_starts_have_upstreams_names() {
        let metrics: &'static Metrics = Box::leak(Box::new(Metrics::new()));
        metrics.called("run_pod_sandbox", Duration::from_millis(7), true);
        metrics.called("pull_image", Duration::from_secs(3), false);
        metrics.starting(Role::Sidecar);
        metrics.failed_to_start(Role::Main, "ErrImagePull");
        metrics.evicted("memory.available");
        let text = text(Shown(metrics));
        for line in [
            "kubelet_runtime_operations_total{operation_type=\"run_podsandbox\"} 1",
            "kubelet_runtime_operations_duration_seconds_bucket{le=\"0.0125\",operation_type=\"run_podsandbox\"} 1",
            "kubelet_runtime_operations_errors_total{operation_type=\"pull_image\"} 1",
            "kubelet_started_containers_total{container_type=\"init_container\"} 1",
            "kubelet_started_containers_errors_total{container_type=\"container\",code=\"ErrImagePull\"} 1",
            "kubelet_evictions{eviction_signal=\"memory.available\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }

    #[test]
    fn probes_are_counted_while_they_are_made() {
        let metrics: &'static Metrics = Box::leak(Box::new(Metrics::new()));
        let names = ["c", "p", "n"].map(str::to_owned);
        let [container, pod, namespace] = names;
        let probed = Probed { probe_type: Kind::Liveness.name(), container, pod, namespace };
        metrics.probed(&probed, "u", "successful", Duration::from_millis(1));
        metrics.probed(&probed, "u", "failed", Duration::from_millis(1));
        let shown = text(ShownProbes(metrics));
        let labels = "probe_type=\"Liveness\",container=\"c\",pod=\"p\",namespace=\"n\"";
        for line in [
            format!("prober_probe_total{{{labels},pod_uid=\"u\",result=\"successful\"}} 1"),
            format!("prober_probe_total{{{labels},pod_uid=\"u\",result=\"failed\"}} 1"),
            format!("prober_probe_duration_seconds_count{{{labels}}} 1"),
        ] {
            assert!(shown.contains(&line), "{line} is not in {shown}");
        }
        metrics.forget(&probed, "u");
        assert!(!text(ShownProbes(metrics)).contains("result="));
    }
}
