//! One registry of metrics a process, shared by its components, printed as OpenMetrics text on `/metrics`. Names are
//! upstream's (without `_total`, which the text format adds to counters).

use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text::encode},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::{Metric, Registry, Unit},
};

/// The content type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A shared registry: components register when they start, the endpoint prints.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Default for Metrics {
    /// A registry with the process' own figures (CPU, memory, descriptors) in it.
    fn default() -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process));
        Self(Arc::new(Mutex::new(registry)))
    }
}

impl Metrics {
    /// Registers a metric and hands it back, to be kept where it is counted.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        self.0.lock().register(name, help, metric.clone());
        metric
    }

    /// Registers a collector: figures computed when asked for.
    pub fn collect(&self, collector: impl Collector + 'static) {
        self.0.lock().register_collector(Box::new(collector));
    }

    /// The whole registry as OpenMetrics text.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail; a metric that cannot be encoded leaves the rest unprinted.
        if let Err(error) = encode(&mut out, &self.0.lock()) {
            tracing::warn!(%error, "Could not encode metrics");
        }
        out
    }
}

/// `/proc/self` as upstream's process collector names it.
#[derive(Debug)]
struct Process;

#[derive(Debug, PartialEq)]
struct Figures {
    cpu_seconds: f64,
    virtual_bytes: u64,
    resident_bytes: u64,
}

/// Reads the fields of `/proc/self/stat` after the command name (which may hold spaces and parentheses).
fn parse_stat(stat: &str, ticks_per_second: f64, page_bytes: u64) -> Option<Figures> {
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let number = |at: usize| fields.get(at).and_then(|f| f.trim().parse::<u64>().ok());
    Some(Figures {
        cpu_seconds: (number(11)? + number(12)?) as f64 / ticks_per_second,
        virtual_bytes: number(20)?,
        resident_bytes: number(21)? * page_bytes,
    })
}

impl Collector for Process {
    fn encode(&self, mut out: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        // Linux fixes USER_HZ at 100; pages are 4 KiB on the platforms we build for.
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let Some(figures) = parse_stat(&stat, 100.0, 4096) else { return Ok(()) };
        let cpu = ConstCounter::new(figures.cpu_seconds);
        cpu.encode(out.encode_descriptor(
            "process_cpu",
            "Total user and system CPU time spent in seconds",
            Some(&Unit::Seconds),
            cpu.metric_type(),
        )?)?;
        let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as i64);
        let gauges = [
            ("process_virtual_memory", "Virtual memory size in bytes", Some(&Unit::Bytes), figures.virtual_bytes as i64),
            ("process_resident_memory", "Resident memory size in bytes", Some(&Unit::Bytes), figures.resident_bytes as i64),
            ("process_open_fds", "Number of open file descriptors", None, descriptors),
        ];
        for (name, help, unit, value) in gauges {
            let gauge = ConstGauge::new(value);
            gauge.encode(out.encode_descriptor(name, help, unit, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    #[test]
    fn a_registered_counter_is_printed() {
        let metrics = Metrics::default();
        let counter = metrics.register("knarr_things", "Things", Counter::<u64>::default());
        counter.inc();
        let text = metrics.text();
        assert!(text.contains("knarr_things_total 1\n"), "{text}");
        assert!(text.contains("process_cpu_seconds_total "), "{text}");
        assert!(text.contains("process_resident_memory_bytes "), "{text}");
    }

    #[test]
    fn stat_survives_odd_command_names() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 90 0 0 0 150 50 0 0 20 0 3 0 100 8192 2 1";
        let want = Figures { cpu_seconds: 2.0, virtual_bytes: 8192, resident_bytes: 8192 };
        assert_eq!(parse_stat(stat, 100.0, 4096), Some(want));
    }
}
