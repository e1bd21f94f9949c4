//! One registry of metrics a process, shared by its components, printed on `/metrics` in Prometheus' text format 0.0.4, as upstream
//! does. Names are upstream's (without `_total`, which is added to counters).

use std::{fmt::Write as _, sync::Arc};

use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text::encode},
    metrics::{
        counter::ConstCounter,
        family::Family,
        gauge::{ConstGauge, Gauge},
    },
    registry::{Metric, Registry},
};

use crate::version;

/// The content type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A shared registry: components register when they start, the endpoint prints.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Default for Metrics {
    /// A registry with the process' own figures (CPU, memory, descriptors) and its version in it.
    fn default() -> Self {
        let metrics = Self::empty();
        metrics.collect(Process);
        metrics.collect(BuildInfo);
        metrics
    }
}

impl Metrics {
    /// A registry with nothing in it.
    pub fn empty() -> Self {
        Self(Arc::new(Mutex::new(Registry::default())))
    }

    /// Registers a metric and hands it back, to be kept where it is counted.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        self.0.lock().register(name, help, metric.clone());
        metric
    }

    /// Registers a collector: figures computed when asked for.
    pub fn collect(&self, collector: impl Collector + 'static) {
        self.0.lock().register_collector(Box::new(collector));
    }

    /// The whole registry as text.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail; a metric that cannot be encoded leaves the rest unprinted.
        if let Err(error) = encode(&mut out, &self.0.lock()) {
            tracing::warn!(%error, "Could not encode metrics");
        }
        plain(&out)
    }
}

/// One metric to print: its name, what it counts, and its values.
pub type Row<'a> = (&'a str, &'a str, &'a dyn EncodeMetric);

/// Prints metrics that a [`Collector`] keeps by itself.
pub fn encode_rows(mut out: DescriptorEncoder<'_>, rows: &[Row<'_>]) -> Result<(), std::fmt::Error> {
    for (name, help, metric) in rows {
        metric.encode(out.encode_descriptor(name, help, None, metric.metric_type())?)?;
    }
    Ok(())
}

/// OpenMetrics as the older text format: a counter is described by the name that it is printed with, there are no units, and
/// the text just ends.
fn plain(open: &str) -> String {
    let mut out = String::with_capacity(open.len() + 256);
    let mut lines = open.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
            let counted = format!("# TYPE {name} counter");
            if lines.next_if(|next| **next == counted).is_some() {
                let _ = writeln!(out, "# HELP {name}_total {help}\n# TYPE {name}_total counter");
                continue;
            }
        }
        if !(line.starts_with("# UNIT ") || line == "# EOF") {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Build {
    major: &'static str,
    minor: &'static str,
    git_version: &'static str,
    git_commit: &'static str,
    git_tree_state: &'static str,
    compiler: &'static str,
    platform: String,
}

/// What was built.
#[derive(Debug)]
struct BuildInfo;

impl Collector for BuildInfo {
    fn encode(&self, out: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let build = Build {
            major: version::MAJOR,
            minor: version::MINOR,
            git_version: version::VERSION,
            git_commit: "",
            git_tree_state: "clean",
            compiler: "rustc",
            platform: version::platform(),
        };
        let info = Family::<Build, Gauge>::default();
        info.get_or_create(&build).set(1);
        encode_rows(out, &[("kubernetes_build_info", "What this is; always 1", &info)])
    }
}

/// `/proc/self` as upstream's process collector names it.
#[derive(Debug)]
struct Process;

#[derive(Debug, PartialEq)]
struct Figures {
    cpu_seconds: f64,
    /// Seconds from the machine's start to the process'.
    started: f64,
    virtual_bytes: u64,
    resident_bytes: u64,
}

/// Reads the fields of `/proc/self/stat` after the command name (which may hold spaces and parentheses).
fn parse_stat(stat: &str, ticks_per_second: f64, page_bytes: u64) -> Option<Figures> {
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let number = |at: usize| fields.get(at).and_then(|f| f.trim().parse::<u64>().ok());
    Some(Figures {
        cpu_seconds: (number(11)? + number(12)?) as f64 / ticks_per_second,
        started: number(19)? as f64 / ticks_per_second,
        virtual_bytes: number(20)?,
        resident_bytes: number(21)? * page_bytes,
    })
}

/// When the machine started, in seconds since 1970, from `/proc/stat`.
fn booted(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// From `/proc/self/limits`: how many files may be open.
fn most_descriptors(limits: &str) -> Option<i64> {
    limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?.parse().ok()
}

impl Collector for Process {
    fn encode(&self, out: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        // Linux fixes USER_HZ at 100; pages are 4 KiB on the platforms we build for.
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let Some(figures) = parse_stat(&stat, 100.0, 4096) else { return Ok(()) };
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpu = ConstCounter::new(figures.cpu_seconds);
        let started = booted(&read("/proc/stat")).map(|booted| ConstGauge::new(booted + figures.started));
        let [virtual_bytes, resident_bytes] =
            [figures.virtual_bytes, figures.resident_bytes].map(|bytes| ConstGauge::new(bytes as i64));
        let open = ConstGauge::new(std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as i64));
        let most = ConstGauge::new(most_descriptors(&read("/proc/self/limits")).unwrap_or(-1));
        let mut rows: Vec<Row<'_>> = vec![
            ("process_cpu_seconds", "Total user and system CPU time spent in seconds", &cpu),
            ("process_virtual_memory_bytes", "Virtual memory size in bytes", &virtual_bytes),
            ("process_resident_memory_bytes", "Resident memory size in bytes", &resident_bytes),
            ("process_open_fds", "Number of open file descriptors", &open),
            ("process_max_fds", "Maximum number of open file descriptors", &most),
        ];
        if let Some(started) = &started {
            rows.push(("process_start_time_seconds", "Start time of the process since unix epoch in seconds", started));
        }
        encode_rows(out, &rows)
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
        let things = "# HELP knarr_things_total Things.\n# TYPE knarr_things_total counter\nknarr_things_total 1\n";
        assert!(text.contains(things), "{text}");
        assert!(!text.contains("# EOF") && !text.contains("# UNIT"), "{text}");
        assert!(text.contains("process_cpu_seconds_total "), "{text}");
        assert!(text.contains("process_resident_memory_bytes "), "{text}");
        assert!(text.contains("process_start_time_seconds 1") && text.contains("process_max_fds "), "{text}");
        assert!(text.contains("git_version=\"v1.35.0+knarr1\""), "{text}");
    }

    #[test]
    fn stat_survives_odd_command_names() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 90 0 0 0 150 50 0 0 20 0 3 0 150 8192 2 1";
        let want = Figures { cpu_seconds: 2.0, started: 1.5, virtual_bytes: 8192, resident_bytes: 8192 };
        assert_eq!(parse_stat(stat, 100.0, 4096), Some(want));
    }

    #[test]
    fn of_the_machine_and_its_limits() {
        assert_eq!(booted("cpu 1 2\nbtime 1700000000\nprocesses 9\n"), Some(1_700_000_000.0));
        assert_eq!(most_descriptors("Limit  Soft  Hard\nMax open files            1024   4096   files\n"), Some(1024));
        assert_eq!(most_descriptors("Max open files            unlimited  unlimited  files\n"), None);
    }
}
