//! What a cluster has on the machine, as seen from the host.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

/// Everything that can be told to belong to a cluster, and what no cluster may change.
#[derive(Debug, PartialEq, Eq)]
pub struct Traces {
    /// Names in `/run/netns`.
    pub namespaces: BTreeSet<String>,
    /// The host's links.
    pub links: BTreeSet<String>,
    /// The host's mounts.
    pub mounts: BTreeSet<String>,
    /// Control groups.
    pub cgroups: BTreeSet<String>,
    /// Processes in those groups, or called with the cluster's name.
    pub processes: BTreeSet<i32>,
    /// Folders of state.
    pub folders: BTreeSet<String>,
    /// Files of locks.
    pub locks: BTreeSet<String>,
    /// The host's whole nat and filter tables, and whether it forwards.
    pub rules: Vec<String>,
}

/// Looks at the machine.
pub fn of(cluster: &str) -> Traces {
    let ours = |names: BTreeSet<String>| names.into_iter().filter(|name| name.contains(cluster)).collect();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let forwards = fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap_or_default();
    Traces {
        namespaces: ours(names("/run/netns")),
        links: ours(names("/sys/class/net")),
        mounts: ours(mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(str::to_owned).collect()),
        cgroups: cgroups(cluster),
        processes: processes(cluster).into_iter().chain(called(cluster)).collect(),
        folders: ours(names("/var/lib/knarr")),
        locks: ours(names("/run/knarr")),
        rules: rules().into_iter().chain([forwards]).collect(),
    }
}

fn names(folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// A cluster's control groups.
pub fn groups(cluster: &str) -> Vec<std::path::PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let hierarchies = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind) = (fields.next()?, fields.next()?);
        kind.starts_with("cgroup").then(|| Path::new(path).join("knarr").join(cluster))
    });
    hierarchies.filter(|path| path.exists()).collect()
}

fn cgroups(cluster: &str) -> BTreeSet<String> {
    groups(cluster).iter().map(|path| path.display().to_string()).collect()
}

/// Every process in the cluster's control groups.
pub fn processes(cluster: &str) -> Vec<i32> {
    let mut pids = BTreeSet::new();
    let mut left = groups(cluster);
    while let Some(path) = left.pop() {
        let procs = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
        pids.extend(procs.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
        let below = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
        left.extend(below.filter(|path| path.is_dir()));
    }
    pids.into_iter().collect()
}

/// Processes that were called with the cluster's name, but for this test itself.
fn called(cluster: &str) -> Vec<i32> {
    let pids = names("/proc").into_iter().filter_map(|name| name.parse::<i32>().ok());
    let named =
        |pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| String::from_utf8_lossy(&c).contains(cluster));
    pids.filter(named).collect()
}

fn rules() -> Vec<String> {
    let output = Command::new("iptables-save").output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    // Counters and times change by themselves.
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(" [").next().unwrap_or(line).to_owned()).collect()
}
