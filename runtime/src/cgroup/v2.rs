//! The second interface: one hierarchy.

use std::path::{Path, PathBuf};

use super::{
    Cgroups, Counters, DeviceIo, DeviceRule, Usage, cgroup_mounts, check_path, devices, field, join, make_group, number,
    processes_in, put, remove_group,
};
use crate::error::{Result, Step};

/// Handed down to every group made here, as far as they are there.
const CONTROLLERS: [&str; 5] = ["cpu", "memory", "pids", "cpuset", "hugetlb"];

/// The mounted v2 hierarchy.
pub struct V2 {
    root: PathBuf,
}

impl V2 {
    /// The hierarchy among the mounts.
    pub fn from_mounts(mountinfo: &str) -> Option<V2> {
        let mut found = cgroup_mounts(mountinfo).filter(|(_, _, kind, _)| *kind == "cgroup2");
        found.next().map(|(_, point, ..)| V2 { root: PathBuf::from(point) })
    }

    /// The hierarchy mounted at `root`.
    pub fn at(root: PathBuf) -> V2 {
        V2 { root }
    }

    /// Makes the group, with controllers handed down to it.
    fn make(&self, path: &str) -> Result<PathBuf> {
        let mut dir = self.root.clone();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            enable_controllers(&dir);
            dir.push(part);
            if !dir.is_dir() {
                make_group(&dir)?;
            }
        }
        Ok(dir)
    }
}

/// Hands controllers down one by one: those that are not there, or cannot be, leave the others alone.
fn enable_controllers(dir: &Path) {
    let read = |file| std::fs::read_to_string(dir.join(file)).unwrap_or_default();
    let (there, enabled) = (read("cgroup.controllers"), read("cgroup.subtree_control"));
    let has = |list: &str, name: &str| list.split_whitespace().any(|one| one == name);
    for controller in CONTROLLERS.iter().filter(|name| has(&there, name) && !has(&enabled, name)) {
        let _ = std::fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// cgroup v1's 2..262144 on v2's 1..10000, as runc and crun do it.
fn weight(shares: i64) -> i64 {
    1 + ((shares.clamp(2, 262_144) - 2) * 9_999) / 262_142
}

/// File and value, in order.
fn writes(resources: &cri::LinuxContainerResources) -> Vec<(String, String)> {
    let mut writes = Vec::new();
    let mut add = |file: &str, value: String| writes.push((file.to_owned(), value));
    if resources.cpu_shares > 0 {
        add("cpu.weight", weight(resources.cpu_shares).to_string());
    }
    if resources.cpu_quota != 0 || resources.cpu_period != 0 {
        let quota = if resources.cpu_quota > 0 { resources.cpu_quota.to_string() } else { "max".to_owned() };
        let period = if resources.cpu_period > 0 { resources.cpu_period } else { 100_000 };
        add("cpu.max", format!("{quota} {period}"));
    }
    let (memory, swap) = (resources.memory_limit_in_bytes, resources.memory_swap_limit_in_bytes);
    let bytes = |value: i64| if value < 0 { "max".to_owned() } else { value.to_string() };
    if swap != 0 && memory != 0 {
        // v1 counts memory and swap together, v2 swap alone.
        add("memory.swap.max", bytes(if swap < 0 { -1 } else { (swap - memory).max(0) }));
    }
    if memory != 0 {
        add("memory.max", bytes(memory));
    }
    for (file, value) in [("cpuset.cpus", &resources.cpuset_cpus), ("cpuset.mems", &resources.cpuset_mems)] {
        if !value.is_empty() {
            add(file, value.clone());
        }
    }
    for hugepage in &resources.hugepage_limits {
        add(&format!("hugetlb.{}.max", hugepage.page_size), hugepage.limit.to_string());
    }
    let mut unified: Vec<_> = resources.unified.iter().collect();
    unified.sort();
    unified.into_iter().for_each(|(file, value)| add(file, value.clone()));
    writes
}

fn apply(dir: &Path, resources: &cri::LinuxContainerResources) -> Result<()> {
    for (file, value) in writes(resources) {
        if file.contains('/') {
            return Err(crate::error::Error::Invalid(format!("{file:?} is not a cgroup file")));
        }
        // Limits on kinds of memory that the machine does not have.
        let optional = file.starts_with("hugetlb.") || file == "memory.swap.max";
        if !optional || dir.join(&file).exists() {
            put(dir, &file, &value)?;
        }
    }
    Ok(())
}

/// A line of io.stat.
fn device_io(line: &str) -> Option<DeviceIo> {
    let (device, rest) = line.split_once(' ')?;
    let (major, minor) = device.split_once(':')?;
    let value = |key: &str| {
        let found = rest.split(' ').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
        found.and_then(|value| value.parse().ok()).unwrap_or(0)
    };
    Some(DeviceIo {
        device: (major.parse().ok()?, minor.parse().ok()?),
        bytes: [value("rbytes"), value("wbytes")],
        operations: [value("rios"), value("wios")],
    })
}

impl Cgroups for V2 {
    fn version(&self) -> u8 {
        2
    }

    fn create(&self, path: &str, resources: &cri::LinuxContainerResources, rules: Option<&[DeviceRule]>) -> Result<()> {
        check_path(path)?;
        let dir = self.make(path)?;
        apply(&dir, resources)?;
        match rules {
            Some(rules) => devices::attach(&dir, rules).step("restrict devices"),
            None => Ok(()),
        }
    }

    fn update(&self, path: &str, resources: &cri::LinuxContainerResources) -> Result<()> {
        check_path(path)?;
        apply(&join(&self.root, path), resources)
    }

    /// A group of its own: groups with groups in them hold no processes.
    fn sandbox_group(&self, parent: &str, id: &str) -> String {
        format!("{}/{id}", parent.trim_end_matches('/'))
    }

    fn spec(&self, path: &str) -> shim::CgroupSpec {
        let dir = join(&self.root, path);
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        shim::CgroupSpec {
            join: Vec::new(),
            unified: text(dir.clone()),
            procs: text(dir.join("cgroup.procs")),
            oom: text(dir.join("memory.events")),
        }
    }

    fn processes(&self, path: &str) -> Vec<i32> {
        processes_in(&join(&self.root, path))
    }

    fn usage(&self, path: &str) -> Result<Usage> {
        let dir = join(&self.root, path);
        let read = |file| std::fs::read_to_string(dir.join(file)).unwrap_or_default();
        let cpu = std::fs::read_to_string(dir.join("cpu.stat")).step("read processor statistics")?;
        let stat = read("memory.stat");
        let memory = number(&dir, "memory.current").unwrap_or(0);
        Ok(Usage {
            cpu_ns: field(&cpu, "usage_usec") * 1_000,
            memory,
            working_set: memory.saturating_sub(field(&stat, "inactive_file")),
            rss: field(&stat, "anon"),
            page_faults: field(&stat, "pgfault"),
            major_page_faults: field(&stat, "pgmajfault"),
            swap: number(&dir, "memory.swap.current").unwrap_or(0),
            limit: number(&dir, "memory.max"),
            pids: number(&dir, "pids.current").unwrap_or(0),
        })
    }

    fn counters(&self, path: &str) -> Counters {
        let dir = join(&self.root, path);
        let read = |file| std::fs::read_to_string(dir.join(file)).unwrap_or_default();
        let (cpu, stat, events) = (read("cpu.stat"), read("memory.stat"), read("memory.events"));
        Counters {
            user_ns: field(&cpu, "user_usec") * 1_000,
            system_ns: field(&cpu, "system_usec") * 1_000,
            periods: field(&cpu, "nr_periods"),
            throttled_periods: field(&cpu, "nr_throttled"),
            throttled_ns: field(&cpu, "throttled_usec") * 1_000,
            cache: field(&stat, "file"),
            mapped: field(&stat, "file_mapped"),
            kernel: field(&stat, "kernel"),
            peak: number(&dir, "memory.peak").unwrap_or(0),
            limit_hits: field(&events, "max"),
            oom_kills: field(&events, "oom_kill"),
            pids_max: number(&dir, "pids.max").unwrap_or(0),
            io: read("io.stat").lines().filter_map(device_io).collect(),
        }
    }

    fn remove(&self, path: &str) -> Result<()> {
        check_path(path)?;
        remove_group(&join(&self.root, path))
    }

    fn mounts(&self) -> Vec<super::GroupMount> {
        vec![(String::new(), "cgroup2".to_owned(), Vec::new())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_that_start_at_once_share_their_parents() {
        let dir = tempfile::tempdir().unwrap();
        let groups = V2::at(dir.path().to_owned());
        for round in 0..50 {
            let start = std::sync::Barrier::new(4);
            let make = |n: usize| {
                start.wait();
                groups.make(&format!("/{round}/parent/{n}"))
            };
            std::thread::scope(|scope| {
                let made: Vec<_> = (0..4)
                    .map(|n| {
                        scope.spawn({
                            let make = &make;
                            move || make(n)
                        })
                    })
                    .collect();
                made.into_iter().for_each(|made| drop(made.join().unwrap().unwrap()));
            });
        }
    }

    #[test]
    fn reads_and_writes_of_devices() {
        let io = |line| device_io(line).map(|io| (io.device, io.bytes, io.operations));
        assert_eq!(io("8:16 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0"), Some(((8, 16), [10, 20], [1, 2])));
        assert_eq!(io("8:16"), None);
    }

    #[test]
    fn resources_become_files() {
        let resources = cri::LinuxContainerResources {
            cpu_shares: 1024,
            cpu_quota: 50_000,
            memory_limit_in_bytes: 2 << 20,
            memory_swap_limit_in_bytes: 3 << 20,
            unified: [("memory.oom.group".to_owned(), "1".to_owned())].into(),
            ..Default::default()
        };
        let files: Vec<_> = writes(&resources).into_iter().map(|(file, value)| format!("{file}={value}")).collect();
        let expected =
            ["cpu.weight=39", "cpu.max=50000 100000", "memory.swap.max=1048576", "memory.max=2097152", "memory.oom.group=1"];
        assert_eq!(files, expected);
    }
}
