//! The first interface: a hierarchy for each controller.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;

use super::{
    Cgroups, Counters, DeviceRule, Usage, cgroup_mounts, check_path, field, join, make_group, number, processes_in, put,
    remove_group,
};
use crate::error::{Result, Step};

/// Joined by every container.
const ALWAYS: [&str; 5] = ["cpu", "cpuacct", "memory", "pids", "devices"];
/// Joined once something is to be limited there.
const ON_DEMAND: [&str; 2] = ["cpuset", "hugetlb"];

/// cpuacct.stat counts in hundredths of a second, whatever the kernel's own tick is.
const TICK_NS: u64 = 10_000_000;

/// Mounted v1 hierarchies.
pub struct V1 {
    /// Mount point by controller; several controllers may share one.
    roots: BTreeMap<String, PathBuf>,
}

/// Controller, file and value, in order.
type Write = (&'static str, String, String);

impl V1 {
    /// The hierarchies among the mounts.
    pub fn from_mounts(mountinfo: &str) -> V1 {
        let known = || ALWAYS.into_iter().chain(ON_DEMAND);
        let mut roots = BTreeMap::new();
        for (_, point, _, options) in cgroup_mounts(mountinfo).filter(|(_, _, kind, _)| *kind == "cgroup") {
            for controller in options.split(',').filter(|option| known().any(|one| one == *option)) {
                roots.entry(controller.to_owned()).or_insert_with(|| PathBuf::from(point));
            }
        }
        V1 { roots }
    }

    /// Whether the controllers that matter are here.
    pub fn is_usable(&self) -> bool {
        ["cpu", "memory"].iter().all(|controller| self.roots.contains_key(*controller))
    }

    fn dir(&self, controller: &str, path: &str) -> Option<PathBuf> {
        self.roots.get(controller).map(|root| join(root, path))
    }

    /// Directories that every container has, each once.
    fn dirs(&self, path: &str) -> Vec<PathBuf> {
        let mut dirs: Vec<PathBuf> = ALWAYS.iter().filter_map(|controller| self.dir(controller, path)).collect();
        dirs.sort();
        dirs.dedup();
        dirs
    }

    fn apply(&self, path: &str, writes: Vec<Write>) -> Result<()> {
        for (controller, file, value) in writes {
            let Some(dir) = self.dir(controller, path) else { continue };
            if ON_DEMAND.contains(&controller) && !dir.is_dir() {
                self.make_on_demand(controller, path)?;
            }
            // Swap accounting may be off.
            if file.starts_with("memory.memsw") && !dir.join(&file).exists() {
                continue;
            }
            put(&dir, &file, &value)?;
        }
        Ok(())
    }

    /// Makes the group in a hierarchy that it did not need so far, and moves its processes there.
    fn make_on_demand(&self, controller: &str, path: &str) -> Result<()> {
        let Some(root) = self.roots.get(controller) else { return Ok(()) };
        let mut dir = root.clone();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let parent = dir.clone();
            dir.push(part);
            if dir.is_dir() {
                continue;
            }
            make_group(&dir)?;
            // A new cpuset is empty, and nothing may enter it.
            for file in ["cpuset.cpus", "cpuset.mems"].iter().filter(|_| controller == "cpuset") {
                let inherited = std::fs::read_to_string(parent.join(file)).step("read cpuset")?;
                put(&dir, file, inherited.trim())?;
            }
        }
        for pid in self.processes(path) {
            // One that has just ended does not matter.
            let _ = std::fs::write(dir.join("cgroup.procs"), pid.to_string());
        }
        Ok(())
    }
}

/// What resources mean here. `limit` is the present memory limit: it and the one with swap must change in the right order.
fn writes(resources: &cri::LinuxContainerResources, limit: Option<u64>) -> Vec<Write> {
    let mut writes: Vec<Write> = Vec::new();
    let mut add = |controller, file: &str, value: i64| {
        if value != 0 {
            writes.push((controller, file.to_owned(), value.to_string()));
        }
    };
    add("cpu", "cpu.shares", resources.cpu_shares.clamp(0, 262_144));
    add("cpu", "cpu.cfs_period_us", resources.cpu_period);
    add("cpu", "cpu.cfs_quota_us", resources.cpu_quota);
    let memory = ("memory.limit_in_bytes", resources.memory_limit_in_bytes);
    let swap = ("memory.memsw.limit_in_bytes", resources.memory_swap_limit_in_bytes);
    let grows = limit.is_some_and(|limit| memory.1 > 0 && memory.1 as u64 > limit);
    for (file, value) in if grows { [swap, memory] } else { [memory, swap] } {
        add("memory", file, value);
    }
    for hugepage in &resources.hugepage_limits {
        let file = format!("hugetlb.{}.limit_in_bytes", hugepage.page_size);
        writes.push(("hugetlb", file, hugepage.limit.to_string()));
    }
    for (file, value) in [("cpuset.cpus", &resources.cpuset_cpus), ("cpuset.mems", &resources.cpuset_mems)] {
        if !value.is_empty() {
            writes.push(("cpuset", file.to_owned(), value.clone()));
        }
    }
    writes
}

impl Cgroups for V1 {
    fn version(&self) -> u8 {
        1
    }

    fn create(&self, path: &str, resources: &cri::LinuxContainerResources, devices: Option<&[DeviceRule]>) -> Result<()> {
        check_path(path)?;
        for dir in self.dirs(path) {
            std::fs::create_dir_all(&dir).step_with(|| format!("make cgroup {}", dir.display()))?;
        }
        self.apply(path, writes(resources, None))?;
        if let (Some(rules), Some(dir)) = (devices, self.dir("devices", path)) {
            put(&dir, "devices.deny", "a")?;
            let path = dir.join("devices.allow");
            let allow = std::fs::OpenOptions::new().write(true).open(&path);
            let mut allow = allow.step_with(|| format!("open {}", path.display()))?;
            for rule in rules.iter().map(ToString::to_string) {
                // Each in a write of its own.
                allow.write_all(rule.as_bytes()).step_with(|| format!("write {rule:?} to {}", path.display()))?;
            }
        }
        Ok(())
    }

    fn update(&self, path: &str, resources: &cri::LinuxContainerResources) -> Result<()> {
        check_path(path)?;
        let limit = self.dir("memory", path).and_then(|dir| number(&dir, "memory.limit_in_bytes"));
        self.apply(path, writes(resources, limit))
    }

    /// Groups with groups in them may hold processes here: the pod's own will do.
    fn sandbox_group(&self, parent: &str, _id: &str) -> String {
        parent.to_owned()
    }

    fn spec(&self, path: &str) -> shim::CgroupSpec {
        let mut dirs = self.dirs(path);
        dirs.extend(ON_DEMAND.iter().filter_map(|controller| self.dir(controller, path)).filter(|dir| dir.is_dir()));
        let file = |dir: PathBuf, name: &str| dir.join(name).to_string_lossy().into_owned();
        let memory = self.dir("memory", path).unwrap_or_default();
        shim::CgroupSpec {
            join: dirs.into_iter().map(|dir| file(dir, "tasks")).collect(),
            unified: String::new(),
            procs: file(memory.clone(), "cgroup.procs"),
            oom: file(memory, "memory.oom_control"),
        }
    }

    fn processes(&self, path: &str) -> Vec<i32> {
        self.dir("memory", path).map(|dir| processes_in(&dir)).unwrap_or_default()
    }

    fn usage(&self, path: &str) -> Result<Usage> {
        let dir = |controller| self.dir(controller, path).unwrap_or_default();
        let (memory_dir, cpu_dir) = (dir("memory"), dir("cpuacct"));
        let stat = std::fs::read_to_string(memory_dir.join("memory.stat")).step("read memory statistics")?;
        let memory = number(&memory_dir, "memory.usage_in_bytes").unwrap_or(0);
        let limit = field(&stat, "hierarchical_memory_limit");
        Ok(Usage {
            cpu_ns: number(&cpu_dir, "cpuacct.usage").unwrap_or(0),
            memory,
            working_set: memory.saturating_sub(field(&stat, "total_inactive_file")),
            rss: field(&stat, "total_rss"),
            page_faults: field(&stat, "total_pgfault"),
            major_page_faults: field(&stat, "total_pgmajfault"),
            swap: field(&stat, "total_swap"),
            // "No limit" is the greatest number of whole pages.
            limit: (limit > 0 && limit < 1 << 62).then_some(limit),
            pids: number(&dir("pids"), "pids.current").unwrap_or(0),
        })
    }

    fn counters(&self, path: &str) -> Counters {
        let dir = |controller| self.dir(controller, path).unwrap_or_default();
        let (memory, cpu, accounts, pids) = (dir("memory"), dir("cpu"), dir("cpuacct"), dir("pids"));
        let read = |dir: &PathBuf, file: &str| std::fs::read_to_string(dir.join(file)).unwrap_or_default();
        let (stat, quota, times) = (read(&memory, "memory.stat"), read(&cpu, "cpu.stat"), read(&accounts, "cpuacct.stat"));
        Counters {
            user_ns: field(&times, "user") * TICK_NS,
            system_ns: field(&times, "system") * TICK_NS,
            periods: field(&quota, "nr_periods"),
            throttled_periods: field(&quota, "nr_throttled"),
            throttled_ns: field(&quota, "throttled_time"),
            cache: field(&stat, "total_cache"),
            mapped: field(&stat, "total_mapped_file"),
            kernel: number(&memory, "memory.kmem.usage_in_bytes").unwrap_or(0),
            peak: number(&memory, "memory.max_usage_in_bytes").unwrap_or(0),
            limit_hits: number(&memory, "memory.failcnt").unwrap_or(0),
            oom_kills: field(&read(&memory, "memory.oom_control"), "oom_kill"),
            pids_max: number(&pids, "pids.max").unwrap_or(0),
            // The hierarchy that counts this is not joined.
            io: Vec::new(),
        }
    }

    fn remove(&self, path: &str) -> Result<()> {
        check_path(path)?;
        let on_demand = ON_DEMAND.iter().filter_map(|controller| self.dir(controller, path));
        self.dirs(path).into_iter().chain(on_demand).try_for_each(|dir| remove_group(&dir))
    }

    fn mounts(&self) -> Vec<super::GroupMount> {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let mut mounts = vec![(String::new(), "tmpfs".to_owned(), vec![pair("mode", "755"), pair("size", "64k")])];
        let mut by_root: BTreeMap<&PathBuf, Vec<&str>> = BTreeMap::new();
        for (controller, root) in &self.roots {
            by_root.entry(root).or_default().push(controller);
        }
        for (_, controllers) in by_root {
            let options = controllers.iter().map(|controller| pair(controller, "")).collect();
            mounts.push((controllers.join(","), "cgroup".to_owned(), options));
        }
        mounts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_become_files() {
        let resources = cri::LinuxContainerResources {
            cpu_shares: 512,
            cpu_quota: 50_000,
            cpu_period: 100_000,
            memory_limit_in_bytes: 2 << 20,
            memory_swap_limit_in_bytes: 2 << 20,
            ..Default::default()
        };
        let files = |limit| {
            writes(&resources, limit).into_iter().map(|(_, file, value)| format!("{file}={value}")).collect::<Vec<_>>()
        };
        let cpu = ["cpu.shares=512", "cpu.cfs_period_us=100000", "cpu.cfs_quota_us=50000"];
        let (memory, swap) = ("memory.limit_in_bytes=2097152", "memory.memsw.limit_in_bytes=2097152");
        assert_eq!(files(None), [cpu.as_slice(), &[memory, swap]].concat());
        assert_eq!(files(Some(1 << 20)), [cpu.as_slice(), &[swap, memory]].concat());
    }
}
