//! Metrics of pods and containers, under the names that cAdvisor made known, for kubelets that take them from the runtime.
//!
//! One table says what there is; a metric that has labels of its own names them there. Times are whole seconds, since the
//! interface knows whole numbers only.

use std::sync::Arc;

use cri::MetricType::{self, Counter, Gauge};

use crate::cgroup::{Counters, Usage};
use crate::container::container_resources;
use crate::core::Core;
use crate::state::{Container, Sandbox, now_ns};
use crate::stats;

/// Labels of every metric.
const LABELS: [&str; 6] = ["id", "name", "image", "container", "pod", "namespace"];

/// Name, what it says, its type, labels of its own.
type Row = (&'static str, &'static str, MetricType, &'static [&'static str]);

const ROWS: &[Row] = &[
    (
        "container_blkio_device_usage_total",
        "Bytes moved to and from a block device",
        Counter,
        &["device", "major", "minor", "operation"],
    ),
    ("container_cpu_cfs_periods_total", "Quota periods with something to run", Counter, &[]),
    ("container_cpu_cfs_throttled_periods_total", "Quota periods in which the quota was used up", Counter, &[]),
    ("container_cpu_cfs_throttled_seconds_total", "Seconds spent waiting for quota", Counter, &[]),
    ("container_cpu_system_seconds_total", "Seconds of processor time in the kernel", Counter, &[]),
    ("container_cpu_usage_seconds_total", "Seconds of processor time", Counter, &[]),
    ("container_cpu_user_seconds_total", "Seconds of processor time outside the kernel", Counter, &[]),
    ("container_file_descriptors", "Open files", Gauge, &[]),
    ("container_fs_inodes_free", "Inodes left on the file system", Gauge, &["device"]),
    ("container_fs_inodes_total", "Inodes of the file system", Gauge, &["device"]),
    ("container_fs_limit_bytes", "Size of the file system", Gauge, &["device"]),
    ("container_fs_reads_bytes_total", "Bytes read from a block device", Counter, &["device"]),
    ("container_fs_reads_total", "Reads of a block device", Counter, &["device"]),
    ("container_fs_usage_bytes", "Bytes in the container's own layer", Gauge, &["device"]),
    ("container_fs_writes_bytes_total", "Bytes written to a block device", Counter, &["device"]),
    ("container_fs_writes_total", "Writes of a block device", Counter, &["device"]),
    ("container_last_seen", "When the container was looked at last, in seconds since the epoch", Gauge, &[]),
    ("container_memory_cache", "Bytes of page cache", Gauge, &[]),
    ("container_memory_failcnt", "How often the memory limit was hit", Counter, &[]),
    ("container_memory_failures_total", "Page faults", Counter, &["failure_type", "scope"]),
    ("container_memory_kernel_usage", "Bytes of kernel memory", Gauge, &[]),
    ("container_memory_mapped_file", "Bytes of mapped files", Gauge, &[]),
    ("container_memory_max_usage_bytes", "The most memory ever charged, in bytes", Gauge, &[]),
    ("container_memory_rss", "Bytes of anonymous memory", Gauge, &[]),
    ("container_memory_swap", "Bytes swapped out", Gauge, &[]),
    ("container_memory_usage_bytes", "Bytes of memory in use, page cache included", Gauge, &[]),
    ("container_memory_working_set_bytes", "Bytes of memory that cannot be dropped easily", Gauge, &[]),
    ("container_network_receive_bytes_total", "Bytes received", Counter, &["interface"]),
    ("container_network_receive_errors_total", "Errors while receiving", Counter, &["interface"]),
    ("container_network_receive_packets_dropped_total", "Received packets that were dropped", Counter, &["interface"]),
    ("container_network_receive_packets_total", "Packets received", Counter, &["interface"]),
    ("container_network_transmit_bytes_total", "Bytes sent", Counter, &["interface"]),
    ("container_network_transmit_errors_total", "Errors while sending", Counter, &["interface"]),
    (
        "container_network_transmit_packets_dropped_total",
        "Packets that were dropped instead of sent",
        Counter,
        &["interface"],
    ),
    ("container_network_transmit_packets_total", "Packets sent", Counter, &["interface"]),
    ("container_oom_events_total", "Processes killed for lack of memory", Counter, &[]),
    ("container_processes", "Processes", Gauge, &[]),
    ("container_sockets", "Open sockets", Gauge, &[]),
    ("container_spec_cpu_period", "The processor quota's period in microseconds", Gauge, &[]),
    ("container_spec_cpu_quota", "The processor quota in microseconds a period", Gauge, &[]),
    ("container_spec_cpu_shares", "The share of processor time", Gauge, &[]),
    ("container_spec_memory_limit_bytes", "The memory limit; 0 without one", Gauge, &[]),
    ("container_spec_memory_swap_limit_bytes", "The limit of memory and swap; 0 without one", Gauge, &[]),
    ("container_start_time_seconds", "When the container started, in seconds since the epoch", Gauge, &[]),
    ("container_threads", "Threads", Gauge, &[]),
    ("container_threads_max", "How many threads may be; 0 without a limit", Gauge, &[]),
    ("container_ulimits_soft", "Soft limits of the container's first process", Gauge, &["ulimit"]),
];

/// What every metric is called, says and is labelled with.
pub fn descriptors() -> Vec<cri::MetricDescriptor> {
    let descriptor = |(name, help, _, own): &Row| cri::MetricDescriptor {
        name: (*name).to_owned(),
        help: format!("{help}."),
        label_keys: LABELS.iter().chain(*own).map(ToString::to_string).collect(),
    };
    ROWS.iter().map(descriptor).collect()
}

/// Metrics of one thing in the making.
struct Metrics {
    labels: [String; LABELS.len()],
    list: Vec<cri::Metric>,
}

impl Metrics {
    fn add(&mut self, name: &str, own: &[&str], value: u64) {
        let Some((name, _, kind, _)) = ROWS.iter().find(|row| row.0 == name && row.3.len() == own.len()) else {
            debug_assert!(false, "{name} with {} labels is not in the table", own.len());
            return;
        };
        let labels = self.labels.iter().cloned().chain(own.iter().map(ToString::to_string));
        self.list.push(cri::Metric {
            name: (*name).to_owned(),
            timestamp: 0,
            metric_type: (*kind).into(),
            label_values: labels.collect(),
            value: Some(cri::UInt64Value { value }),
        });
    }

    fn all(&mut self, values: &[(&str, u64)]) {
        for (name, value) in values {
            self.add(name, &[], *value);
        }
    }

    fn group(&mut self, usage: &Usage, counters: &Counters) {
        let seconds = |ns: u64| ns / 1_000_000_000;
        self.all(&[
            ("container_cpu_cfs_periods_total", counters.periods),
            ("container_cpu_cfs_throttled_periods_total", counters.throttled_periods),
            ("container_cpu_cfs_throttled_seconds_total", seconds(counters.throttled_ns)),
            ("container_cpu_system_seconds_total", seconds(counters.system_ns)),
            ("container_cpu_usage_seconds_total", seconds(usage.cpu_ns)),
            ("container_cpu_user_seconds_total", seconds(counters.user_ns)),
            ("container_memory_cache", counters.cache),
            ("container_memory_failcnt", counters.limit_hits),
            ("container_memory_kernel_usage", counters.kernel),
            ("container_memory_mapped_file", counters.mapped),
            ("container_memory_max_usage_bytes", counters.peak),
            ("container_memory_rss", usage.rss),
            ("container_memory_swap", usage.swap),
            ("container_memory_usage_bytes", usage.memory),
            ("container_memory_working_set_bytes", usage.working_set),
            ("container_oom_events_total", counters.oom_kills),
            ("container_threads", usage.pids),
            ("container_threads_max", counters.pids_max),
        ]);
        self.add("container_memory_failures_total", &["pgfault", "hierarchy"], usage.page_faults);
        self.add("container_memory_failures_total", &["pgmajfault", "hierarchy"], usage.major_page_faults);
        for io in &counters.io {
            let (major, minor) = (io.device.0.to_string(), io.device.1.to_string());
            let device = format!("{major}:{minor}");
            for (operation, bytes) in ["Read", "Write"].into_iter().zip(io.bytes) {
                self.add("container_blkio_device_usage_total", &[&device, &major, &minor, operation], bytes);
            }
            self.add("container_fs_reads_bytes_total", &[&device], io.bytes[0]);
            self.add("container_fs_writes_bytes_total", &[&device], io.bytes[1]);
            self.add("container_fs_reads_total", &[&device], io.operations[0]);
            self.add("container_fs_writes_total", &[&device], io.operations[1]);
        }
    }

    /// From the lines of a pod's /proc/PID/net/dev.
    fn network(&mut self, text: &str) {
        for (name, numbers) in text.lines().filter_map(|line| line.split_once(':')) {
            let (name, numbers): (_, Vec<u64>) =
                (name.trim(), numbers.split_whitespace().filter_map(|number| number.parse().ok()).collect());
            if name == "lo" {
                continue;
            }
            for (direction, first) in [("receive", 0), ("transmit", 8)] {
                for (what, column) in [("bytes", 0), ("packets", 1), ("errors", 2), ("packets_dropped", 3)] {
                    let value = numbers.get(first + column).copied().unwrap_or(0);
                    self.add(&format!("container_network_{direction}_{what}_total"), &[name], value);
                }
            }
        }
    }
}

impl Core {
    /// The metrics of every pod that is up and of its containers that run.
    pub fn pod_metrics(&self) -> Vec<cri::PodSandboxMetrics> {
        let sandboxes = self.sandboxes();
        let ready = sandboxes.iter().filter(|sandbox| sandbox.record().ready);
        ready.map(|sandbox| self.metrics_of(sandbox)).collect()
    }

    fn metrics_of(&self, sandbox: &Sandbox) -> cri::PodSandboxMetrics {
        let mut pod = Metrics { labels: labels(sandbox, None), list: Vec::new() };
        let group = sandbox.cgroup_parent();
        if let Ok(usage) = self.cgroups.usage(&group) {
            pod.group(&usage, &self.cgroups.counters(&group));
        }
        let record = sandbox.record();
        if record.connected {
            pod.network(&std::fs::read_to_string(format!("/proc/{}/net/dev", record.pause)).unwrap_or_default());
        }
        let containers = self.containers_of(&sandbox.id);
        let running = containers.iter().filter(|one| one.state() == cri::ContainerState::ContainerRunning);
        cri::PodSandboxMetrics {
            pod_sandbox_id: sandbox.id.clone(),
            metrics: pod.list,
            container_metrics: running.map(|container| self.container_metrics(sandbox, container)).collect(),
        }
    }

    fn container_metrics(&self, sandbox: &Sandbox, container: &Arc<Container>) -> cri::ContainerMetrics {
        let mut metrics = Metrics { labels: labels(sandbox, Some(container)), list: Vec::new() };
        if let Ok(usage) = self.cgroups.usage(&container.cgroup) {
            metrics.group(&usage, &self.cgroups.counters(&container.cgroup));
        }
        let processes = self.cgroups.processes(&container.cgroup);
        let (files, sockets) = open_files(&processes);
        let resources = container_resources(container);
        let positive = |value: i64| u64::try_from(value).unwrap_or(0);
        let seconds = |ns: i64| positive(ns) / 1_000_000_000;
        metrics.all(&[
            ("container_file_descriptors", files),
            ("container_sockets", sockets),
            ("container_processes", processes.len() as u64),
            ("container_last_seen", seconds(now_ns())),
            ("container_start_time_seconds", seconds(container.record().started_ns)),
            ("container_spec_cpu_period", positive(resources.cpu_period)),
            ("container_spec_cpu_quota", positive(resources.cpu_quota)),
            ("container_spec_cpu_shares", positive(resources.cpu_shares)),
            ("container_spec_memory_limit_bytes", positive(resources.memory_limit_in_bytes)),
            ("container_spec_memory_swap_limit_bytes", positive(resources.memory_swap_limit_in_bytes)),
        ]);
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", container.record().pid)).unwrap_or_default();
        if let Some(files) = soft_limit_of_files(&limits) {
            metrics.add("container_ulimits_soft", &["max_open_files"], files);
        }
        if let Ok(disk) = nix::sys::statvfs::statvfs(&self.layout.root) {
            let device = self.layout.root.display().to_string();
            let used = stats::tree_usage(&container.dir.join("upper"), &self.layout.root).used_bytes;
            metrics.add("container_fs_inodes_free", &[&device], disk.files_free());
            metrics.add("container_fs_inodes_total", &[&device], disk.files());
            metrics.add("container_fs_limit_bytes", &[&device], disk.blocks() * disk.fragment_size());
            metrics.add("container_fs_usage_bytes", &[&device], used.map_or(0, |used| used.value));
        }
        cri::ContainerMetrics { container_id: container.id.clone(), metrics: metrics.list }
    }
}

fn labels(sandbox: &Sandbox, container: Option<&Container>) -> [String; LABELS.len()] {
    let pod = sandbox.config.metadata.clone().unwrap_or_default();
    let config = container.map(|container| &container.config);
    let name = config.and_then(|config| config.metadata.as_ref()).map(|metadata| metadata.name.clone());
    let image = config.and_then(|config| config.image.as_ref());
    let image =
        image.map(|image| if image.user_specified_image.is_empty() { &image.image } else { &image.user_specified_image });
    [
        container.map_or_else(|| sandbox.cgroup_parent(), |container| container.cgroup.clone()),
        container.map_or(&sandbox.id, |container| &container.id).clone(),
        image.cloned().unwrap_or_default(),
        name.unwrap_or_default(),
        pod.name,
        pod.namespace,
    ]
}

/// How many files these processes have open, and how many of those are sockets.
fn open_files(processes: &[i32]) -> (u64, u64) {
    let lists = processes.iter().filter_map(|pid| std::fs::read_dir(format!("/proc/{pid}/fd")).ok());
    lists.flatten().flatten().fold((0, 0), |(files, sockets), entry| {
        let is_socket =
            std::fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str().to_string_lossy().starts_with("socket:"));
        (files + 1, sockets + u64::from(is_socket))
    })
}

/// From the lines of /proc/PID/limits: how many files may be open; none where any number may.
fn soft_limit_of_files(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_files() {
        let text =
            |soft: &str| format!("Limit  Soft Limit  Hard Limit  Units\nMax open files            {soft}  524288  files\n");
        assert_eq!(["1024", "unlimited"].map(|soft| soft_limit_of_files(&text(soft))), [Some(1024), None]);
    }

    #[test]
    fn every_row_is_described_once_and_filled() {
        let mut metrics = Metrics { labels: Default::default(), list: Vec::new() };
        let io = crate::cgroup::DeviceIo { device: (8, 0), bytes: [1, 2], operations: [3, 4] };
        metrics.group(&Usage::default(), &Counters { io: vec![io], ..Counters::default() });
        metrics.network("  eth0: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n    lo: 9 9 9 9 0 0 0 0 9 9 9 9 0 0 0 0");
        let value = |name: &str| metrics.list.iter().find(|m| m.name == name).unwrap().value.unwrap().value;
        let network = ["receive_bytes", "receive_packets_dropped", "transmit_packets", "transmit_errors"];
        assert_eq!(network.map(|what| value(&format!("container_network_{what}_total"))), [1, 4, 6, 7]);
        let described = descriptors();
        for metric in &metrics.list {
            let mut alike = described.iter().filter(|one| one.name == metric.name);
            let keys = alike.next().map(|one| one.label_keys.len());
            assert_eq!((keys, alike.next()), (Some(metric.label_values.len()), None), "{}", metric.name);
        }
    }
}
