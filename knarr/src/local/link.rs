//! Makes a local cluster's namespaces and links. All of it may be repeated on what is already there.

use std::{net::Ipv4Addr, os::fd::AsFd, path::Path};

use anyhow::{Context, Result};
use net::{
    Cidr, LinkEnd, Netlink, USUAL_PACKETS, netns,
    peers::{Mode, USUAL_MTU},
    vxlan,
};

use super::{
    layout,
    record::{Cluster, Node},
};
use crate::compose::agent::PodNetwork;

/// What all links of a cluster are on top of.
const WIRE: &str = "wire";
/// Its other end.
const WIRE_END: &str = "end";
/// The link of the namespace that both are in. Before Linux 6.13 no node's can be called the same: a new link's name must not be taken
/// where it is asked for.
const OUTSIDE_LINK: &str = "outside";
/// A node's link.
const NODE_LINK: &str = "eth0";
/// What the links take at once: nothing on the way is a wire for which packets would have to be cut, and three times the usual is
/// less work a byte. An overlay takes no more than usual.
const PACKETS: u32 = 3 * USUAL_PACKETS;

/// What a cluster's links carry.
struct Wires {
    /// A frame's payload. Where pods' packets travel in an overlay's there is room for its headers, so that pods have the usual MTU
    /// either way.
    mtu: u32,
    packets: u32,
}

impl Wires {
    fn of(cluster: &Cluster) -> Result<Self> {
        Ok(match cluster.pod_network()? {
            PodNetwork::Own(Mode::Vxlan) => Self { mtu: USUAL_MTU + vxlan::OVERHEAD, packets: USUAL_PACKETS },
            _ => Self { mtu: USUAL_MTU, packets: PACKETS },
        })
    }
}

/// A free subnet for a new cluster on this machine.
pub async fn free_subnet() -> Result<Cidr> {
    let mut taken = Netlink::new()?.route_destinations().await?;
    for other in Cluster::names()? {
        if let Ok(Some(other)) = Cluster::load(&other) {
            taken.extend(other.subnet().ok());
        }
    }
    layout::choose_subnet(&taken)
}

/// The namespace outside with the wire, its own link and the host's. Returns whether the wire is new: no node has a link on it.
pub async fn ensure_outside(cluster: &Cluster) -> Result<bool> {
    let (subnet, wires) = (cluster.subnet()?, Wires::of(cluster)?);
    let path = netns::named(&layout::outside_name(&cluster.name));
    netns::create(&path)?;
    let outside = Netlink::in_namespace(&path)?;
    let new = outside.link(WIRE).await?.is_none();
    if new {
        remove_bridge(&outside).await?;
        let end = |name| LinkEnd { name, mtu: Some(wires.mtu), ..LinkEnd::default() };
        outside.add_veth(end(WIRE), end(WIRE_END)).await?;
    }
    outside.set_up(outside.existing(WIRE).await?.index).await?;
    // What is for none of the links on the wire ends here. It would answer for this namespace's address, past the link that has it.
    outside.set_up_without_arp(outside.existing(WIRE_END).await?.index).await?;
    let here = LinkEnd { name: OUTSIDE_LINK, ..LinkEnd::default() };
    ensure_link(cluster, &outside, &outside, here, layout::outside_address(subnet)).await?;
    let (host, namespace) = (Netlink::new()?, netns::open(Path::new("/proc/thread-self/ns/net"))?);
    let name = layout::host_link(&cluster.name);
    let near = LinkEnd { name: &name, namespace: Some(namespace.as_fd()), ..LinkEnd::default() };
    ensure_link(cluster, &outside, &host, near, layout::host_address(subnet)).await?;
    Ok(new)
}

/// A node's namespace and its link.
pub async fn ensure_node(cluster: &Cluster, node: &Node) -> Result<()> {
    let path = netns::named(&node.name);
    netns::create(&path).with_context(|| format!("make the namespace of {}", node.name))?;
    // Nodes pass on what is for their pods: to look for a socket of their own first is in vain, except for what comes from other
    // nodes' processes.
    netns::within(&path, || netns::set_sysctl("net.ipv4.ip_early_demux", "0"))?;
    let outside = Netlink::in_namespace(&netns::named(&layout::outside_name(&cluster.name)))?;
    let (inside, namespace) = (Netlink::in_namespace(&path)?, netns::open(&path)?);
    let mac = Some(hardware_address(node));
    let link = LinkEnd { name: NODE_LINK, namespace: Some(namespace.as_fd()), mac, mtu: None };
    ensure_link(cluster, &outside, &inside, link, node.address).await
}

/// A link to the cluster's network with an address, connected. `place` is where it belongs.
async fn ensure_link(
    cluster: &Cluster,
    outside: &Netlink,
    place: &Netlink,
    link: LinkEnd<'_>,
    address: Ipv4Addr,
) -> Result<()> {
    if place.link(link.name).await?.is_none() {
        outside.add_macvlan(outside.existing(WIRE).await?.index, link).await?;
    }
    let present = place.existing(link.name).await?.index;
    place.set_connected(present, true).await?;
    place.set_packets(present, Wires::of(cluster)?.packets).await?;
    place.set_up(present).await?;
    Ok(place.add_address(present, address, cluster.subnet()?.prefix()).await?)
}

/// Removes what older builds joined a cluster's nodes by: a bridge, and wires to it from the nodes and from the host.
async fn remove_bridge(outside: &Netlink) -> Result<()> {
    if let Some(bridge) = outside.link("knarr0").await? {
        let ports = outside.links().await?.into_iter().filter(|link| link.controller == Some(bridge.index));
        outside.delete_links(&ports.map(|port| port.name).collect::<Vec<_>>()).await?;
        outside.delete_link(&bridge.name).await?;
    }
    Ok(())
}

/// A node that was off comes back with the same card: its neighbours need not find out that it has another.
fn hardware_address(node: &Node) -> [u8; 6] {
    let [a, b, c, d] = node.address.octets();
    [0x02, 0x6e, a, b, c, d]
}

/// Cuts the node off from all others, until [`ensure_node`].
pub async fn cut_node(node: &Node) -> Result<()> {
    let inside = Netlink::in_namespace(&netns::named(&node.name))?;
    let link = inside.existing(NODE_LINK).await?.index;
    inside.set_connected(link, false).await.with_context(|| format!("cut the link of {}", node.name))
}

/// Removes the node's link and namespace.
pub async fn remove_node(node: &Node) -> Result<()> {
    let path = netns::named(&node.name);
    if path.exists() {
        // Before the namespace, whose end the kernel would only clean up some time later.
        Netlink::in_namespace(&path)?.delete_link(NODE_LINK).await?;
        netns::delete(&path)?;
    }
    Ok(())
}

/// Removes the host's link and every namespace that the cluster may have.
pub async fn remove(cluster: &str) -> Result<()> {
    // Before the namespace, whose end the kernel would only clean up some time later.
    Netlink::new()?.delete_link(&layout::host_link(cluster)).await?;
    for path in layout::namespaces(cluster) {
        if path.exists() {
            netns::delete(&path)?;
        }
    }
    Ok(())
}
