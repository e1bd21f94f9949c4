//! Makes a local cluster's namespaces and wires. All of it may be repeated on what is already there.

use std::os::fd::AsFd;

use anyhow::{Context, Result};
use net::{
    Cidr, Netlink, USUAL_PACKETS, VethEnd, netns,
    peers::{Mode, USUAL_MTU},
    vxlan,
};

use super::{
    layout,
    record::{Cluster, Node},
};
use crate::compose::agent::PodNetwork;

const SWITCH: &str = "knarr0";
/// What the wires take at once: nothing on the way is a wire for which packets would have to be cut, and three times the usual is
/// less work a byte. An overlay takes no more than usual.
const PACKETS: u32 = 3 * USUAL_PACKETS;

/// What a cluster's wires carry.
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

/// The namespace outside with the switch, and the host's wire to it.
pub async fn ensure_outside(cluster: &Cluster) -> Result<()> {
    let subnet = cluster.subnet()?;
    let path = netns::named(&layout::outside_name(&cluster.name));
    netns::create(&path)?;
    let outside = Netlink::in_namespace(&path)?;
    let wires = Wires::of(cluster)?;
    let switch = outside.ensure_bridge(SWITCH, Some(wires.mtu)).await?;
    let (bridge, mtu) = (switch.index, Some(switch.mtu));
    netns::within(&path, || {
        // The switch only switches: no rules to be asked on the way.
        match netns::set_sysctl("net.bridge.bridge-nf-call-iptables", "0") {
            Err(net::Error::System { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    })?;
    outside.add_address(bridge, layout::outside_address(subnet), subnet.prefix()).await?;
    let host = Netlink::new()?;
    let name = layout::host_link(&cluster.name);
    if host.link(&name).await?.is_none() || outside.link("host").await?.is_none() {
        host.delete_link(&name).await?;
        let namespace = netns::open(&path)?;
        let near = VethEnd { name: &name, mtu, ..VethEnd::default() };
        let far = VethEnd { name: "host", namespace: Some(namespace.as_fd()), mtu, ..VethEnd::default() };
        host.add_veth(near, far).await?;
    }
    let near = host.existing(&name).await?.index;
    host.set_up(near).await?;
    host.add_address(near, layout::host_address(subnet), subnet.prefix()).await?;
    let far = outside.existing("host").await?.index;
    outside.join_bridge(far, bridge).await?;
    for (side, link) in [(&host, near), (&outside, far), (&outside, bridge)] {
        side.set_packets(link, wires.packets).await?;
    }
    Ok(())
}

/// A node's namespace and its wire to the switch.
pub async fn ensure_node(cluster: &Cluster, node: &Node) -> Result<()> {
    let outside_path = netns::named(&layout::outside_name(&cluster.name));
    let path = netns::named(&node.name);
    netns::create(&path).with_context(|| format!("make the namespace of {}", node.name))?;
    let outside = Netlink::in_namespace(&outside_path)?;
    let inside = Netlink::in_namespace(&path)?;
    let port = port(node);
    // All wires of a switch carry the same, whatever made it.
    let switch = outside.existing(SWITCH).await?;
    let mtu = Some(switch.mtu);
    if outside.link(&port).await?.is_none() || inside.link("eth0").await?.is_none() {
        outside.delete_link(&port).await?;
        let namespace = netns::open(&path)?;
        let near = VethEnd { name: &port, mtu, ..VethEnd::default() };
        let mac = Some(hardware_address(node));
        let far = VethEnd { name: "eth0", namespace: Some(namespace.as_fd()), mac, mtu };
        outside.add_veth(near, far).await?;
    }
    let far = outside.existing(&port).await?.index;
    outside.join_bridge(far, switch.index).await?;
    let eth0 = inside.existing("eth0").await?.index;
    let packets = Wires::of(cluster)?.packets;
    outside.set_packets(far, packets).await?;
    inside.set_packets(eth0, packets).await?;
    inside.set_up(eth0).await?;
    inside.add_address(eth0, node.address, cluster.subnet()?.prefix()).await?;
    Ok(())
}

/// A node that was off comes back with the same card: its neighbours need not find out that it has another.
fn hardware_address(node: &Node) -> [u8; 6] {
    let [a, b, c, d] = node.address.octets();
    [0x02, 0x6e, a, b, c, d]
}

/// Cuts the node's wire to the switch, until [`ensure_node`].
pub async fn cut_node(cluster: &Cluster, node: &Node) -> Result<()> {
    let outside = Netlink::in_namespace(&netns::named(&layout::outside_name(&cluster.name)))?;
    let port = outside.existing(&port(node)).await?.index;
    outside.set_down(port).await.with_context(|| format!("cut the link of {}", node.name))
}

/// Removes the node's wire and namespace.
pub async fn remove_node(cluster: &Cluster, node: &Node) -> Result<()> {
    // Before the namespace, whose end the kernel would only clean up some time later.
    Netlink::in_namespace(&netns::named(&layout::outside_name(&cluster.name)))?.delete_link(&port(node)).await?;
    let path = netns::named(&node.name);
    if path.exists() {
        netns::delete(&path)?;
    }
    Ok(())
}

/// The switch's end of a node's wire.
fn port(node: &Node) -> String {
    format!("n{}", node.n)
}

/// Removes the host's wire and every namespace that the cluster may have.
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
