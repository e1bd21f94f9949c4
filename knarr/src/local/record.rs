//! What a cluster was made with, on disk before anything of it exists: an interrupted `up` can be finished or taken down.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow};
use net::Cidr;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::layout;
use crate::compose::agent::PodNetwork;

/// What objects are kept in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Store {
    /// In the API server's own process.
    #[default]
    Redb,
    /// In a local etcd.
    Etcd,
}

/// A cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// Its /24.
    pub subnet: String,
    /// How many nodes it has.
    pub nodes: u8,
    /// How many of its nodes, from the first on, are servers.
    #[serde(default = "one")]
    pub servers: u8,
    /// What it keeps its objects in.
    pub store: Store,
    /// How pods are connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_network: Option<String>,
    /// After how many milliseconds of silence a node is lost, if not after upstream's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_monitor_grace_ms: Option<u64>,
}

fn one() -> u8 {
    1
}

/// A node of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its number, from 1 on.
    pub n: u8,
    /// Its name, which is its namespace's too.
    pub name: String,
    /// Its address.
    pub address: std::net::Ipv4Addr,
    /// Its pods' range.
    pub pods: Cidr,
    /// Its folder.
    pub folder: PathBuf,
}

impl Cluster {
    /// The cluster's record, if there is one.
    pub fn load(name: &str) -> Result<Option<Self>> {
        let path = path(name);
        match fs::read(&path) {
            Ok(bytes) => {
                let cluster = serde_json::from_slice(&bytes).with_context(|| format!("read {}", path.display()))?;
                Ok(Some(cluster))
            }
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| format!("read {}", path.display())),
        }
    }

    /// The cluster's record, or an error that says how to get one.
    pub fn existing(name: &str) -> Result<Self> {
        Self::load(name)?.with_context(|| format!("there is no cluster {name:?}; `knarr up --name {name}` makes one"))
    }

    /// Writes the record, whole or not at all.
    pub fn save(&self) -> Result<()> {
        let folder = layout::folder(&self.name);
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        write_whole(&path(&self.name), &serde_json::to_vec_pretty(self)?, 0o644)
    }

    /// The names of all clusters that have a folder.
    pub fn names() -> Result<Vec<String>> {
        let entries = match fs::read_dir(layout::ROOT) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.with_context(|| format!("read {}", layout::ROOT))?,
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| layout::check_name(name).is_ok()).collect();
        names.sort();
        Ok(names)
    }

    /// The cluster's range of node addresses.
    pub fn subnet(&self) -> Result<Cidr> {
        self.subnet.parse().context("read the cluster's subnet")
    }

    /// How pods are connected.
    pub fn pod_network(&self) -> Result<PodNetwork> {
        let parse = |text: &String| text.parse().map_err(|error| anyhow!("read the cluster's pod network: {error}"));
        self.pod_network.as_ref().map_or(Ok(PodNetwork::default()), parse)
    }

    /// Its nodes.
    pub fn nodes(&self) -> Result<Vec<Node>> {
        let subnet = self.subnet()?;
        Ok((1..=self.nodes).map(|n| self.node(subnet, n)).collect())
    }

    /// Whether the node runs a control plane.
    pub fn is_server(&self, node: &Node) -> bool {
        (1..=self.servers).contains(&node.n)
    }

    /// The addresses of the servers.
    pub fn servers(&self) -> Result<Vec<String>> {
        Ok(self.nodes()?.iter().filter(|node| self.is_server(node)).map(|node| format!("{}:6443", node.address)).collect())
    }

    /// The address of the API server, as users reach it: the first node's, or with several servers that of a balancer, which is no
    /// node and goes on when any of them is gone.
    pub fn server(&self) -> Result<String> {
        let subnet = self.subnet()?;
        let address = if self.servers > 1 { layout::outside_address(subnet) } else { layout::node_address(subnet, 1) };
        Ok(format!("https://{address}:6443"))
    }

    /// The namespace that is no node, as the place of a process: number 0.
    pub fn outside(&self) -> Result<Node> {
        let name = layout::outside_name(&self.name);
        let folder = layout::node_folder(&self.name, &name);
        Ok(Node { n: 0, address: layout::outside_address(self.subnet()?), pods: layout::node_pods(1), folder, name })
    }

    /// Where the members of its etcd are, if they are more than a process beside the only server: on the first three nodes if these are
    /// servers, else outside, where no node's end is theirs.
    pub fn etcd_members(&self) -> Result<Vec<Node>> {
        match self.servers {
            0 | 1 => Ok(Vec::new()),
            2 => Ok(vec![self.outside()?]),
            _ => Ok(self.nodes()?.into_iter().take(3).collect()),
        }
    }

    /// Where the token is with which the cluster's servers share their keys.
    pub fn server_token(&self) -> PathBuf {
        layout::folder(&self.name).join("server-token")
    }

    fn node(&self, subnet: Cidr, n: u8) -> Node {
        let name = layout::node_name(&self.name, n);
        let folder = layout::node_folder(&self.name, &name);
        Node { n, address: layout::node_address(subnet, n), pods: layout::node_pods(n), folder, name }
    }
}

fn path(name: &str) -> PathBuf {
    layout::folder(name).join("cluster.json")
}

/// Replaces a file whole or not at all.
pub fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).with_context(|| format!("write in {}", folder.display()))?;
    std::io::Write::write_all(&mut file, bytes)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(path).with_context(|| format!("write {}", path.display()))?;
    Ok(())
}

/// Held while a cluster is being changed, or (empty name) while a subnet is being chosen. Waits for whoever holds it.
pub fn lock(cluster: &str) -> Result<Lock> {
    let folder = Path::new("/run/knarr");
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    Lock::take(folder.join(format!("{cluster}.lock")))
}

/// A locked file, which is removed when it is let go.
pub struct Lock {
    path: PathBuf,
    _held: Flock<fs::File>,
}

impl Lock {
    fn take(path: PathBuf) -> Result<Self> {
        loop {
            let file = fs::File::create(&path).with_context(|| format!("open {}", path.display()))?;
            let held = Flock::lock(file, FlockArg::LockExclusive)
                .map_err(|(_, errno)| errno)
                .with_context(|| format!("lock {}", path.display()))?;
            // Who held it before removed the file that was waited for: the next one may be somebody else's already.
            let inode = held.metadata()?.ino();
            if fs::metadata(&path).is_ok_and(|named| named.ino() == inode) {
                return Ok(Self { path, _held: held });
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is still held: nobody else's is removed.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn one_at_a_time_holds_a_lock_and_no_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cluster.lock");
        let held = AtomicBool::new(false);
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    for _ in 0..200 {
                        let _lock = Lock::take(path.clone()).unwrap();
                        assert!(!held.swap(true, Ordering::SeqCst), "two hold it");
                        std::thread::yield_now();
                        held.store(false, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_left_by_a_killed_holder_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cluster.lock");
        fs::write(&path, "").unwrap();
        drop(Lock::take(path.clone()).unwrap());
        assert!(!path.exists());
    }
}
