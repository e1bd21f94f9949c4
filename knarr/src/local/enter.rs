//! How a process becomes a node's: its cgroup and cgroup namespace, its network namespace, a hostname and a mount namespace.
//!
//! The cgroup namespace is made by the node's first process and kept as a file in the node's folder. A later one joins it:
//! it could not make the same again, since a version 2 group whose controllers are passed down takes no more members, and a
//! cgroup namespace begins where its maker is. The mount namespace is kept by the shims of pods that run on.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use net::netns;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};

use super::{cgroup, layout};

/// Puts a process that will join the node into the node's cgroup: before it does anything, so that `down` finds it.
pub fn place(cluster: &str, node: &str, pid: u32) -> Result<()> {
    let group = layout::node_cgroup(cluster, node);
    cgroup::create(&group)?;
    match netns::exists(&kept(cluster, node)) {
        true => cgroup::enter(&cgroup::agent(&group), pid),
        false => cgroup::enter(&group, pid),
    }
}

/// Makes the calling process, which must have one thread only and be in its place, part of the node.
pub fn node(cluster: &str, node: &str) -> Result<()> {
    let kept = kept(cluster, node);
    if netns::exists(&kept) {
        setns(netns::open(&kept)?, CloneFlags::CLONE_NEWCGROUP).context("enter the node's cgroup namespace")?;
    } else {
        unshare(CloneFlags::CLONE_NEWCGROUP).context("make a cgroup namespace")?;
        keep(&kept)?;
    }
    setns(netns::open(&netns::named(node))?, CloneFlags::CLONE_NEWNET).context("enter the node's network namespace")?;
    // Pods on the node's network are called what the node is called.
    unshare(CloneFlags::CLONE_NEWUTS).context("make a hostname namespace")?;
    nix::unistd::sethostname(node).context("set the node's hostname")?;
    // Volumes in memory of pods that run on since an earlier process lie in its mount namespace, to be renewed there.
    if let Some(earlier) = mounts_of_a_shim(cluster, node) {
        setns(earlier, CloneFlags::CLONE_NEWNS).context("enter the node's mount namespace")?;
        return cgroup::join();
    }
    unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace")?;
    // What the host mounts later shows up here; what we mount stays here.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .context("cut the node's mounts off from the host's")?;
    // Between the node and its pods they pass, as on a machine of its own.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SHARED, None::<&str>)
        .context("share the node's mounts with its pods")?;
    cgroup::settle()
}

/// The mount namespace of a shim of this node, which is the one of the process that started it.
fn mounts_of_a_shim(cluster: &str, node: &str) -> Option<File> {
    let sandboxes = layout::node_folder(cluster, node).join("runtime/sandboxes");
    let is_shim = |process: &PathBuf| {
        let named = std::fs::read(process.join("cmdline")).is_ok_and(|line| line.starts_with(b"knarr-shim\0"));
        named && std::fs::read_link(process.join("cwd")).is_ok_and(|folder| folder.starts_with(&sandboxes))
    };
    let processes = std::fs::read_dir("/proc").ok()?.flatten().map(|entry| entry.path());
    processes.filter(is_shim).find_map(|shim| File::open(shim.join("ns/mnt")).ok())
}

fn kept(cluster: &str, node: &str) -> PathBuf {
    layout::node_folder(cluster, node).join("cgroup.ns")
}

/// Binds the calling process' cgroup namespace to a file.
fn keep(path: &Path) -> Result<()> {
    File::create(path).with_context(|| format!("create {}", path.display()))?;
    mount(Some("/proc/self/ns/cgroup"), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("bind the cgroup namespace to {}", path.display()))
}
