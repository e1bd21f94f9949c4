//! Names, paths and addresses of a local cluster: everything follows from the cluster's name and its subnet.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use net::{Cidr, netns};

/// Where every local cluster has its folder.
pub const ROOT: &str = "/var/lib/knarr";
/// The most nodes a subnet and the pod range have room for.
pub const MOST_NODES: u8 = 200;

/// Refuses names that would not do as a path, a namespace and a node's name.
pub fn check_name(name: &str) -> Result<()> {
    let fits = (1..=40).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-');
    if !fits {
        bail!("{name:?} does not do as a cluster's name: use at most 40 lower case letters, digits and '-', a letter first");
    }
    Ok(())
}

/// The cluster's folder.
pub fn folder(cluster: &str) -> PathBuf {
    Path::new(ROOT).join(cluster)
}

/// A node's folder.
pub fn node_folder(cluster: &str, node: &str) -> PathBuf {
    folder(cluster).join(node)
}

/// The name of the `n`th node, from 1 on.
pub fn node_name(cluster: &str, n: u8) -> String {
    format!("{cluster}-{n}")
}

/// The namespace that is no node.
pub fn outside_name(cluster: &str) -> String {
    format!("{cluster}-outside")
}

/// Every namespace that a cluster may have, as far as names tell.
pub fn namespaces(cluster: &str) -> Vec<PathBuf> {
    let nodes = (1..=MOST_NODES).map(|n| node_name(cluster, n));
    nodes.chain([outside_name(cluster)]).map(|name| netns::named(&name)).collect()
}

/// The host's link in the cluster's network. Link names have at most 15 characters.
pub fn host_link(cluster: &str) -> String {
    match cluster.len() {
        0..=12 => format!("kn-{cluster}"),
        _ => format!("kn-{:012x}", net::hash(cluster) & 0xffff_ffff_ffff),
    }
}

/// The cgroup of a cluster, below each hierarchy's root.
pub fn cgroup(cluster: &str) -> String {
    format!("knarr/{cluster}")
}

/// The cgroup of a node.
pub fn node_cgroup(cluster: &str, node: &str) -> String {
    format!("knarr/{cluster}/{node}")
}

/// The host's address on the cluster's link.
pub fn host_address(subnet: Cidr) -> Ipv4Addr {
    address(subnet, 1)
}

/// The address of `NAME-outside`.
pub fn outside_address(subnet: Cidr) -> Ipv4Addr {
    address(subnet, 2)
}

/// The address of the `n`th node.
pub fn node_address(subnet: Cidr, n: u8) -> Ipv4Addr {
    address(subnet, 10 + u32::from(n))
}

/// The pods of the `n`th node.
pub fn node_pods(n: u8) -> Cidr {
    Cidr::new(Ipv4Addr::new(10, 42, n - 1, 0), 24)
}

fn address(subnet: Cidr, n: u32) -> Ipv4Addr {
    (u32::from(subnet.network()) + n).into()
}

/// A /24 for a new cluster that overlaps nothing in `taken` (routes other than the default, other clusters): the first free
/// one of 10.41.0.0/16, else of 172.29.0.0/16 or 192.168.0.0/16.
pub fn choose_subnet(taken: &[Cidr]) -> Result<Cidr> {
    let ranges = [(10, 41), (172, 29), (192, 168)];
    let mut candidates = ranges.iter().flat_map(|&(a, b)| (0..=255).map(move |c| Cidr::new(Ipv4Addr::new(a, b, c, 0), 24)));
    let free = candidates.find(|candidate| !taken.iter().any(|t| t.prefix() > 0 && t.overlaps(*candidate)));
    match free {
        Some(subnet) => Ok(subnet),
        None => bail!("no free subnet: routes of this machine cover 10.41.0.0/16, 172.29.0.0/16 and 192.168.0.0/16"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_labels() {
        let long = "a".repeat(41);
        let bad = ["", "A", "-a", "a-", "1a", "a/b", "..", "a.b", &long];
        assert_eq!(bad.into_iter().find(|name| check_name(name).is_ok()), None);
        check_name("knarr").unwrap();
        check_name("e2e-4711").unwrap();
        assert!(host_link("a-cluster-with-a-long-name").len() <= 15);
    }

    #[test]
    fn a_subnet_keeps_clear_of_routes() {
        let taken = |routes: &[&str]| routes.iter().map(|r| r.parse().unwrap()).collect::<Vec<Cidr>>();
        let chosen = [
            choose_subnet(&taken(&["0.0.0.0/0"])).unwrap(),
            choose_subnet(&taken(&["10.41.0.0/24", "10.41.1.7/32"])).unwrap(),
            choose_subnet(&taken(&["10.0.0.0/8"])).unwrap(),
        ];
        assert_eq!(chosen.map(|c| c.to_string()), ["10.41.0.0/24", "10.41.2.0/24", "172.29.0.0/24"]);
        assert!(choose_subnet(&taken(&["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"])).is_err());
    }
}
