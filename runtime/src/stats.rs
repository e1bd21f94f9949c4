//! What containers and pods use.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::cgroup::Usage;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::service::convert;
use crate::state::{Container, Sandbox, now_ns};

/// The last looks at processor time, by ID: a rate needs two.
#[derive(Default)]
pub struct Samples(Mutex<HashMap<String, (i64, u64)>>);

impl Samples {
    /// Nanoseconds of processor time a second since the last look.
    fn rate(&self, id: &str, now: i64, cpu_ns: u64) -> Option<u64> {
        let (before, used) = self.0.lock().insert(id.to_owned(), (now, cpu_ns))?;
        let (elapsed, grown) = (u128::try_from(now - before).ok()?, u128::from(cpu_ns.checked_sub(used)?));
        u64::try_from((grown * 1_000_000_000).checked_div(elapsed)?).ok()
    }

    /// Forgets everything but these.
    pub fn retain(&self, known: impl Fn(&str) -> bool) {
        self.0.lock().retain(|id, _| known(id));
    }
}

fn value(value: u64) -> Option<cri::UInt64Value> {
    Some(cri::UInt64Value { value })
}

fn cpu(samples: &Samples, id: &str, now: i64, usage: &Usage) -> cri::CpuUsage {
    cri::CpuUsage {
        timestamp: now,
        usage_core_nano_seconds: value(usage.cpu_ns),
        usage_nano_cores: samples.rate(id, now, usage.cpu_ns).and_then(value),
        psi: None,
    }
}

fn memory(now: i64, usage: &Usage) -> cri::MemoryUsage {
    cri::MemoryUsage {
        timestamp: now,
        working_set_bytes: value(usage.working_set),
        available_bytes: usage.limit.and_then(|limit| value(limit.saturating_sub(usage.working_set))),
        usage_bytes: value(usage.memory),
        rss_bytes: value(usage.rss),
        page_faults: value(usage.page_faults),
        major_page_faults: value(usage.major_page_faults),
        psi: None,
    }
}

impl Core {
    /// A container's use; of one that does not run, its files only.
    pub fn container_stats(&self, container: &Container) -> Result<cri::ContainerStats> {
        let now = now_ns();
        let record = container.record();
        let mut stats = cri::ContainerStats {
            attributes: Some(cri::ContainerAttributes {
                id: container.id.clone(),
                metadata: container.config.metadata.clone(),
                labels: container.config.labels.clone(),
                annotations: container.config.annotations.clone(),
            }),
            writable_layer: Some(tree_usage(&container.dir.join("upper"), &self.layout.root)),
            ..Default::default()
        };
        if record.started_ns != 0 && record.exit.is_none() {
            let usage = self.cgroups.usage(&container.cgroup)?;
            stats.cpu = Some(cpu(&self.samples, &container.id, now, &usage));
            stats.memory = Some(memory(now, &usage));
            stats.swap =
                Some(cri::SwapUsage { timestamp: now, swap_available_bytes: None, swap_usage_bytes: value(usage.swap) });
        }
        Ok(stats)
    }

    /// A pod's use.
    pub fn sandbox_stats(&self, sandbox: &Sandbox) -> Result<cri::PodSandboxStats> {
        let now = now_ns();
        let record = sandbox.record();
        if !record.ready {
            return Err(Error::State(format!("sandbox {} is not running", sandbox.id)));
        }
        let usage = self.cgroups.usage(&sandbox.cgroup_parent())?;
        let containers = self.containers_of(&sandbox.id);
        let running = containers.iter().filter(|one| one.state() == cri::ContainerState::ContainerRunning);
        let pids = |one: &Arc<Container>| self.cgroups.usage(&one.cgroup).map_or(0, |usage| usage.pids);
        Ok(cri::PodSandboxStats {
            attributes: Some(cri::PodSandboxAttributes {
                id: sandbox.id.clone(),
                metadata: sandbox.config.metadata.clone(),
                labels: sandbox.config.labels.clone(),
                annotations: sandbox.config.annotations.clone(),
            }),
            linux: Some(cri::LinuxPodSandboxStats {
                cpu: Some(cpu(&self.samples, &sandbox.id, now, &usage)),
                memory: Some(memory(now, &usage)),
                network: network(record.pause, now),
                process: Some(cri::ProcessUsage {
                    timestamp: now,
                    process_count: value(running.map(pids).sum::<u64>() + 1),
                }),
                containers: containers.iter().filter_map(|container| self.container_stats(container).ok()).collect(),
                io: None,
            }),
        })
    }

    /// Containers that a filter lets through.
    pub fn filtered_stats(&self, filter: &cri::ContainerStatsFilter) -> Vec<cri::ContainerStats> {
        let containers = self.containers();
        self.samples.retain(|id| self.container(id).is_ok() || self.sandbox(id).is_ok());
        let wanted = containers.iter().filter(|container| {
            (filter.id.is_empty() || container.id.starts_with(&filter.id))
                && (filter.pod_sandbox_id.is_empty() || container.sandbox.id.starts_with(&filter.pod_sandbox_id))
                && convert::labels_match(&container.config.labels, &filter.label_selector)
        });
        wanted.filter_map(|container| self.container_stats(container).ok()).collect()
    }
}

/// Interfaces of the pod, read through its pause process.
fn network(pause: u32, now: i64) -> Option<cri::NetworkUsage> {
    let text = std::fs::read_to_string(format!("/proc/{pause}/net/dev")).ok()?;
    let mut interfaces: Vec<cri::NetworkInterfaceUsage> = text.lines().filter_map(interface).collect();
    let main = interfaces.iter().position(|one| one.name == "eth0")?;
    let default_interface = Some(interfaces.remove(main));
    interfaces.retain(|one| one.name != "lo");
    Some(cri::NetworkUsage { timestamp: now, default_interface, interfaces })
}

fn interface(line: &str) -> Option<cri::NetworkInterfaceUsage> {
    let (name, numbers) = line.split_once(':')?;
    let numbers: Vec<u64> = numbers.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    let at = |index: usize| numbers.get(index).copied().and_then(value);
    Some(cri::NetworkInterfaceUsage {
        name: name.trim().to_owned(),
        rx_bytes: at(0),
        rx_errors: at(2),
        tx_bytes: at(8),
        tx_errors: at(10),
    })
}

/// Bytes and inodes below a directory, on one file system.
pub fn tree_usage(dir: &Path, mount: &Path) -> cri::FilesystemUsage {
    let size = process::tree::size(dir);
    cri::FilesystemUsage {
        timestamp: now_ns(),
        fs_id: Some(cri::FilesystemIdentifier { mountpoint: mount.to_string_lossy().into_owned() }),
        used_bytes: value(size.bytes.cast_unsigned()),
        inodes_used: value(size.inodes.cast_unsigned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_parsed() {
        let line = "  eth0:    1296      16    1    0    0     0          0         0     1130      14    2    0    0     0       0          0";
        let usage = interface(line).unwrap();
        let numbers = [usage.rx_bytes, usage.rx_errors, usage.tx_bytes, usage.tx_errors].map(|number| number.unwrap().value);
        assert_eq!((usage.name.as_str(), numbers), ("eth0", [1296, 1, 1130, 2]));
    }

    #[test]
    fn a_rate_needs_two_looks() {
        let samples = Samples::default();
        assert_eq!(samples.rate("a", 0, 100), None);
        assert_eq!(samples.rate("a", 2_000_000_000, 1_000_000_100), Some(500_000_000));
    }
}
