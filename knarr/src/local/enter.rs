//! How a process becomes a node's: its cgroup, network namespace, mount namespace and cgroup namespace, in this order.

use anyhow::{Context, Result};
use net::netns;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};

use super::{cgroup, layout};

/// Makes the calling process, which must have one thread only, part of the node.
pub fn node(cluster: &str, node: &str) -> Result<()> {
    cgroup::create(&layout::node_cgroup(cluster, node))?;
    cgroup::enter(&layout::node_cgroup(cluster, node))?;
    let namespace = netns::open(&netns::named(node))?;
    setns(&namespace, CloneFlags::CLONE_NEWNET).context("enter the node's network namespace")?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWCGROUP).context("make mount and cgroup namespaces")?;
    // What the host mounts later shows up here; what we mount stays here.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .context("cut the node's mounts off from the host's")?;
    cgroup::settle()
}
