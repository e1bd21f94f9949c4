//! Takes a cluster away, whatever state it is in: half made, killed, or already gone. Nothing here trusts the record; names
//! and cgroup membership say what belongs to the cluster.

use std::{fs, io::ErrorKind, path::Path};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};

use super::{cgroup, kubeconfig, layout, link};

/// Ends every process of the cluster and removes its namespaces, links, cgroups, mounts, files and kubeconfig entries.
pub async fn cluster(name: &str) -> Result<()> {
    let group = layout::cgroup(name);
    cgroup::kill_all(&group)?;
    link::remove(name).await?;
    cgroup::remove(&group)?;
    remove_folder(&layout::folder(name))?;
    kubeconfig::forget(name)
}

/// Whether anything of the cluster is there.
pub fn exists(name: &str) -> Result<bool> {
    let grouped = cgroup::hierarchies()?.iter().any(|h| h.has(&layout::cgroup(name)));
    Ok(grouped || layout::folder(name).exists() || layout::namespaces(name).iter().any(|path| path.exists()))
}

fn remove_folder(folder: &Path) -> Result<()> {
    unmount_below(folder)?;
    match process::tree::remove(folder) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e).with_context(|| format!("remove {}", folder.display())),
        _ => Ok(()),
    }
}

/// Mounts of ours live in the nodes' mount namespaces and end with them; should one have got into the host's, it goes here.
fn unmount_below(folder: &Path) -> Result<()> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    for point in points.filter(|point| Path::new(point).starts_with(folder)).collect::<Vec<_>>().into_iter().rev() {
        umount2(point, MntFlags::MNT_DETACH).with_context(|| format!("unmount {point}"))?;
    }
    Ok(())
}
