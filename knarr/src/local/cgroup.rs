//! A node's control groups, in every hierarchy that is mounted: version 2, version 1, or both side by side.
//!
//! `knarr/CLUSTER/NODE` holds everything of a node, its containers included. The node's process enters it and makes it the
//! root of a cgroup namespace, so that kubelet and runtime find an ordinary root at `/sys/fs/cgroup` and need not know that
//! they share a machine. Membership is also how `down` finds every process, without a look at names.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// The group within a node's own that its agent moves to: version 2 lets no group have both members and children's limits.
const AGENT: &str = "agent";

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    mount: PathBuf,
    /// Version 1's mount options (`cpu,cpuacct` or `none,name=systemd`); `None` is version 2.
    v1: Option<String>,
}

/// Every hierarchy that is mounted, each once.
pub fn hierarchies() -> Result<Vec<Hierarchy>> {
    Ok(parse_mounts(&fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?))
}

fn parse_mounts(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let (Some(mount), right) = (left.split(' ').nth(4), right.split(' ').collect::<Vec<_>>()) else { continue };
        let v1 = match right.as_slice() {
            ["cgroup2", ..] => None,
            ["cgroup", _, options] => Some(v1_options(options)),
            _ => continue,
        };
        let hierarchy = Hierarchy { mount: mount.into(), v1 };
        if !found.iter().any(|h| h.v1 == hierarchy.v1) {
            found.push(hierarchy);
        }
    }
    found
}

fn v1_options(options: &str) -> String {
    let ours =
        |o: &&str| !matches!(*o, "rw" | "ro" | "xattr" | "noprefix" | "clone_children") && !o.starts_with("release_agent=");
    let kept: Vec<&str> = options.split(',').filter(ours).collect();
    let named = kept.iter().all(|o| o.starts_with("name="));
    if named { format!("none,{}", kept.join(",")) } else { kept.join(",") }
}

/// Makes the group and its parents in every hierarchy, with every controller passed down.
pub fn create(group: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let mut path = hierarchy.mount.clone();
        for part in group.split('/') {
            hierarchy.delegate(&path)?;
            path.push(part);
            hierarchy.make(&path)?;
        }
    }
    Ok(())
}

/// The group of a node's agent, below the node's own.
pub fn agent(node: &str) -> String {
    format!("{node}/{AGENT}")
}

/// Moves a process into the group.
pub fn enter(group: &str, pid: u32) -> Result<()> {
    for hierarchy in hierarchies()? {
        let procs = hierarchy.mount.join(group).join("cgroup.procs");
        fs::write(&procs, pid.to_string()).with_context(|| format!("enter {}", procs.display()))?;
    }
    Ok(())
}

/// For a process that has just entered new cgroup and mount namespaces: mounts every hierarchy anew, so that its own group
/// is the root, moves to a group below and passes every controller down.
pub fn settle() -> Result<()> {
    for hierarchy in hierarchies()? {
        let (kind, options) = match &hierarchy.v1 {
            Some(options) => ("cgroup", Some(options.as_str())),
            None => ("cgroup2", None),
        };
        // The kernel refuses to stack a filesystem on itself; the old mount goes from this mount namespace only.
        umount2(&hierarchy.mount, MntFlags::MNT_DETACH).with_context(|| format!("unmount {}", hierarchy.mount.display()))?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some(kind), &hierarchy.mount, Some(kind), flags, options)
            .with_context(|| format!("mount {}", hierarchy.mount.display()))?;
    }
    join()
}

/// The same where that is mounted already.
pub fn join() -> Result<()> {
    for hierarchy in hierarchies()? {
        // Controllers are passed down only once nobody is left above: version 2 makes a group with both a threaded one, and
        // those below it take no processes then.
        hierarchy.make(&hierarchy.mount.join(AGENT))?;
    }
    // By the number that this process has in its own pid namespace, which is the one that counts when it writes.
    enter(AGENT, std::process::id())?;
    for hierarchy in hierarchies()? {
        hierarchy.delegate(&hierarchy.mount)?;
    }
    Ok(())
}

/// Every process in the group or below it.
pub fn members(group: &str) -> Result<BTreeSet<i32>> {
    let mut pids = BTreeSet::new();
    for hierarchy in hierarchies()? {
        for path in tree(&hierarchy.mount.join(group)) {
            let procs = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
            pids.extend(procs.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
        }
    }
    Ok(pids)
}

/// Kills every process in the group and below, but for the calling one, and returns when none is left.
pub fn kill_all(group: &str) -> Result<()> {
    let own = std::process::id() as i32;
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let mut left = members(group)?;
        left.remove(&own);
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("processes {left:?} of cgroup {group} do not end");
        }
        for pid in &left {
            // Gone already is as good.
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        super::process::wait_gone(&left, Duration::from_millis(500));
    }
}

/// Removes the group with everything below it, and the parents that are empty then. It must have no members.
pub fn remove(group: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let top = hierarchy.mount.join(group);
        for path in tree(&top).iter().rev() {
            remove_one(path)?;
        }
        if let Some(parent) = top.parent().filter(|parent| *parent != hierarchy.mount) {
            // Other clusters may be in there.
            let _ = fs::remove_dir(parent);
        }
    }
    Ok(())
}

/// Every group's path, parents first.
fn tree(top: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if !top.is_dir() {
        return found;
    }
    found.push(top.to_owned());
    let mut next = 0;
    while let Some(path) = found.get(next).cloned() {
        let below = fs::read_dir(path).into_iter().flatten().flatten();
        found.extend(below.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
        next += 1;
    }
    found
}

fn remove_one(path: &Path) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            // The kernel lets go of a dead process' group a moment after the process; it tells nobody when (version 1).
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(e) => return Err(e).with_context(|| format!("remove the cgroup {}", path.display())),
        }
    }
}

impl Hierarchy {
    /// Whether the group is in this hierarchy.
    pub fn has(&self, group: &str) -> bool {
        self.mount.join(group).is_dir()
    }

    /// Makes one group, if it is not there.
    fn make(&self, path: &Path) -> Result<()> {
        match fs::create_dir(path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(e).with_context(|| format!("make the cgroup {}", path.display()));
            }
            _ => {}
        }
        self.inherit_cpuset(path)
    }

    /// Version 2: passes every controller of `path` down to its children.
    fn delegate(&self, path: &Path) -> Result<()> {
        if self.v1.is_some() {
            return Ok(());
        }
        let available = fs::read_to_string(path.join("cgroup.controllers")).unwrap_or_default();
        let passed = fs::read_to_string(path.join("cgroup.subtree_control")).unwrap_or_default();
        for controller in available.split_whitespace().filter(|c| !passed.split_whitespace().any(|p| p == *c)) {
            // A controller that cannot be passed on (cpu with real-time tasks around) is missed by nobody but its limits.
            if let Err(error) = fs::write(path.join("cgroup.subtree_control"), format!("+{controller}")) {
                tracing::warn!(controller, path = %path.display(), %error, "cannot pass a cgroup controller on");
            }
        }
        Ok(())
    }

    /// Version 1's cpuset takes no members before its processors and memory nodes are set.
    fn inherit_cpuset(&self, path: &Path) -> Result<()> {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let own = path.join(file);
            if self.v1.is_none() || fs::read_to_string(&own).map_or(true, |value| !value.trim().is_empty()) {
                continue;
            }
            let parent = path.parent().unwrap_or(path).join(file);
            let value = fs::read_to_string(&parent).with_context(|| format!("read {}", parent.display()))?;
            fs::write(&own, value.trim()).with_context(|| format!("write {}", own.display()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_mounts_of_both_versions() {
        let mountinfo = "\
30 23 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw,nsdelegate
32 30 0:28 / /sys/fs/cgroup/systemd rw shared:10 - cgroup cgroup rw,xattr,name=systemd
33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
34 30 0:29 / /somewhere/else rw - cgroup cgroup rw,cpu,cpuacct";
        let expected = [
            ("/sys/fs/cgroup/unified", None),
            ("/sys/fs/cgroup/systemd", Some("none,name=systemd")),
            ("/sys/fs/cgroup/cpu,cpuacct", Some("cpu,cpuacct")),
        ];
        let expected = expected.map(|(mount, v1)| Hierarchy { mount: mount.into(), v1: v1.map(str::to_owned) });
        assert_eq!(parse_mounts(mountinfo), expected);
    }
}
