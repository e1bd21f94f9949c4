//! Control groups: one trait over both of the kernel's interfaces.
//!
//! What to write is decided by plain functions (`writes` in each module) from CRI's resources; the trait's methods write it.
//! Only the controllers that limit or count something here are joined: each one costs every container a directory.

pub mod devices;
mod v1;
mod v2;

use std::path::{Path, PathBuf};

pub use devices::DeviceRule;
pub use v1::V1;
pub use v2::V2;

use crate::error::{Error, Result, Step};

/// What a group has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time.
    pub cpu_ns: u64,
    /// All charged memory.
    pub memory: u64,
    /// Memory without files that could be dropped.
    pub working_set: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// Page faults.
    pub page_faults: u64,
    /// Those that waited for the disk.
    pub major_page_faults: u64,
    /// Swapped out.
    pub swap: u64,
    /// The memory limit; `None` without one.
    pub limit: Option<u64>,
    /// Processes and threads.
    pub pids: u64,
}

/// What else the kernel counts for a group, and some limits. What it does not count is 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Processor time outside the kernel.
    pub user_ns: u64,
    /// Processor time in the kernel.
    pub system_ns: u64,
    /// Quota periods with something to run.
    pub periods: u64,
    /// Those in which the quota was used up.
    pub throttled_periods: u64,
    /// Time spent waiting for quota.
    pub throttled_ns: u64,
    /// Page cache.
    pub cache: u64,
    /// Mapped files.
    pub mapped: u64,
    /// The kernel's memory.
    pub kernel: u64,
    /// The most memory ever charged.
    pub peak: u64,
    /// How often the memory limit was hit.
    pub limit_hits: u64,
    /// Processes that were killed for lack of memory.
    pub oom_kills: u64,
    /// How many processes and threads may be; 0 without a limit.
    pub pids_max: u64,
    /// Reads and writes of block devices.
    pub io: Vec<DeviceIo>,
}

/// What a group did to one block device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceIo {
    /// Major and minor number.
    pub device: (u32, u32),
    /// Bytes read and written.
    pub bytes: [u64; 2],
    /// Operations that read and wrote.
    pub operations: [u64; 2],
}

/// A file system for a container: subdirectory of /sys/fs/cgroup, type, options.
pub type GroupMount = (String, String, Vec<(String, String)>);

/// The control groups of a node. Paths begin with `/` and are the same in every hierarchy.
pub trait Cgroups: Send + Sync {
    /// 1 or 2.
    fn version(&self) -> u8;
    /// Makes a group (and what is missing above it) and sets its limits. No device rules: every device.
    fn create(&self, path: &str, resources: &cri::LinuxContainerResources, devices: Option<&[DeviceRule]>) -> Result<()>;
    /// Changes limits; what is not given stays.
    fn update(&self, path: &str, resources: &cri::LinuxContainerResources) -> Result<()>;
    /// The group for the pause process of a pod whose containers' groups lie in `parent`.
    fn sandbox_group(&self, parent: &str, id: &str) -> String;
    /// How a process gets into the group.
    fn spec(&self, path: &str) -> shim::CgroupSpec;
    /// The group's processes, those in groups within it included.
    fn processes(&self, path: &str) -> Vec<i32>;
    /// What it has used.
    fn usage(&self, path: &str) -> Result<Usage>;
    /// What else is known about it; of a group that is not there, nothing.
    fn counters(&self, path: &str) -> Counters;
    /// Removes the group; an absent one is fine. Fails while a process is in it.
    fn remove(&self, path: &str) -> Result<()>;
    /// File systems that a container sees below /sys/fs/cgroup in a cgroup namespace of its own. The first is the directory
    /// itself.
    fn mounts(&self) -> Vec<GroupMount>;
}

/// The interface that this machine has its controllers on.
pub fn detect() -> Result<Box<dyn Cgroups>> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").step("read mounts")?;
    let v1 = V1::from_mounts(&mounts);
    if v1.is_usable() {
        return Ok(Box::new(v1));
    }
    match V2::from_mounts(&mounts) {
        Some(v2) => Ok(Box::new(v2)),
        None => Err(Error::Failed("no cgroup hierarchy is mounted; mount cgroup2 at /sys/fs/cgroup".to_owned())),
    }
}

/// A mount of a cgroup file system: (root inside it, mount point, type, super block's options).
fn cgroup_mounts(mountinfo: &str) -> impl Iterator<Item = (&str, &str, &str, &str)> {
    mountinfo.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ');
        let (root, point) = (left.nth(3)?, left.next()?);
        let mut right = right.split(' ');
        let (kind, options) = (right.next()?, right.nth(1)?);
        kind.starts_with("cgroup").then_some((root, point, kind, options))
    })
}

/// Checks a group's path, which comes from outside.
pub fn check_path(path: &str) -> Result<()> {
    let odd = |part: &str| part == ".." || part == "." || part.contains('\0');
    match path.starts_with('/') && !path.split('/').any(odd) {
        true => Ok(()),
        false => {
            Err(Error::Invalid(format!("cgroup path {path:?} is not an absolute path; the systemd driver is not supported")))
        }
    }
}

fn join(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_matches('/'))
}

/// Makes a group. Another pod that needs the same parent may be faster.
fn make_group(dir: &Path) -> Result<()> {
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        made => made.step_with(|| format!("make cgroup {}", dir.display())),
    }
}

/// Writes a value; the error names file and value.
fn put(dir: &Path, file: &str, value: &str) -> Result<()> {
    let path = dir.join(file);
    std::fs::write(&path, value).step_with(|| format!("write {value:?} to {}", path.display()))
}

fn number(dir: &Path, file: &str) -> Option<u64> {
    std::fs::read_to_string(dir.join(file)).ok()?.trim().parse().ok()
}

/// The value of `key` in a file of `key value` lines.
fn field(content: &str, key: &str) -> u64 {
    let mut lines = content.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(name, _)| *name == key).and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(0)
}

/// The processes of a group and of those that a container has made within its own.
fn processes_in(dir: &Path) -> Vec<i32> {
    let listed = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    let below = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let below = below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let own = listed.lines().filter_map(|line| line.parse().ok());
    own.chain(below.flat_map(|entry| processes_in(&entry.path()))).collect()
}

fn remove_group(dir: &Path) -> Result<()> {
    let gone = |removed: std::io::Result<()>| match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    if gone(std::fs::remove_dir(dir)).is_ok() {
        return Ok(());
    }
    // Groups that a container made within its own go with it.
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_group(&entry.path())?;
        }
    }
    gone(std::fs::remove_dir(dir)).step_with(|| format!("remove {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        assert!(check_path("/kubepods/burstable/pod1").is_ok());
        assert!(check_path("/a/../../b").is_err());
        assert!(check_path("kubepods-burstable.slice").is_err());
    }

    #[test]
    fn mounts_are_found() {
        let line = "33 32 0:28 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory";
        let found: Vec<_> = cgroup_mounts(line).collect();
        assert_eq!(found, [("/", "/sys/fs/cgroup/memory", "cgroup", "rw,memory")]);
    }
}
