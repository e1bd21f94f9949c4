//! The node's VXLAN device and what it knows of other nodes: no multicast, no learning, every entry written by us.
//!
//! A node's hardware address on the overlay follows from its range of pods, so that nodes need to tell each other nothing.
//! What the device holds is read back from the kernel before every change: whoever deletes an entry gets it put back, and a
//! restarted process starts from what is there.

use std::{collections::BTreeMap, net::Ipv4Addr};

use futures::TryStreamExt;
use netlink_packet_route::{
    AddressFamily,
    link::{InfoData, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
};
use rtnetlink::{LinkUnspec, LinkVxlan};

use crate::{Cidr, Error, Netlink, Result, netlink::ignore};

/// The device's name.
pub const NAME: &str = "knarr.1";
/// Where nodes send encapsulated packets to.
pub const PORT: u16 = 8472;
/// The number of the overlay.
pub const VNI: u32 = 1;
/// What encapsulation takes of an IPv4 packet's room: outer IPv4, UDP, VXLAN and inner Ethernet headers.
pub const OVERHEAD: u32 = 50;

/// A hardware address.
pub type Mac = [u8; 6];

/// The hardware address of the node with this range of pods.
pub fn mac(pods: Cidr) -> Mac {
    let [a, b, c, d] = pods.network().octets();
    [0x02, 0x6b, a, b, c, d]
}

/// A device as it is or is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its hardware address.
    pub mac: Mac,
    /// The source of what it sends.
    pub local: Ipv4Addr,
    /// The largest packet before encapsulation.
    pub mtu: u32,
}

impl Netlink {
    /// The overlay's device: its index, and what it was made as; `None` in the second place for a foreign device.
    pub async fn vxlan(&self) -> Result<Option<(u32, Option<Device>)>> {
        let found = self.find_link(self.handle().link().get().match_name(NAME), NAME).await?;
        Ok(found.map(|message| (message.header.index, read(&message))))
    }

    /// Makes the overlay's device as it is to be, anew if it is another, and returns its index.
    pub async fn ensure_vxlan(&self, device: &Device) -> Result<u32> {
        match self.vxlan().await? {
            Some((index, Some(present))) if present == *device => {
                self.set_up(index).await?;
                return Ok(index);
            }
            Some((index, Some(present))) if (Device { mtu: device.mtu, ..present }) == *device => {
                let message = LinkUnspec::new_with_index(index).mtu(device.mtu).up().build();
                self.handle().link().set(message).execute().await.map_err(Error::netlink("change the overlay's MTU"))?;
                return Ok(index);
            }
            Some(_) => self.delete_link(NAME).await?,
            None => {}
        }
        let link = LinkVxlan::new(NAME, VNI).local(device.local).port(PORT).learning(false);
        let link = link.address(device.mac.to_vec()).mtu(device.mtu).up().build();
        self.handle().link().add(link).execute().await.map_err(Error::netlink(format!("add link {NAME}")))?;
        Ok(self.existing(NAME).await?.index)
    }

    /// Brings the device's two tables to `wanted`: per node its hardware address, its address on the overlay and the one on
    /// the network below. Returns how many entries had to change.
    pub async fn set_overlay_peers(&self, index: u32, wanted: &[(Mac, Ipv4Addr, Ipv4Addr)]) -> Result<usize> {
        let below: BTreeMap<(Mac, Ipv4Addr), ()> = wanted.iter().map(|(mac, _, node)| ((*mac, *node), ())).collect();
        let above: BTreeMap<(Mac, Ipv4Addr), ()> = wanted.iter().map(|(mac, inner, _)| ((*mac, *inner), ())).collect();
        let mut changed = 0;
        for (family, wanted) in [(AddressFamily::Bridge, below), (AddressFamily::Inet, above)] {
            let mut missing = wanted.clone();
            for entry in self.entries(index, family).await? {
                let permanent = entry.header.state == NeighbourState::Permanent;
                if !(permanent && pair(&entry).is_some_and(|pair| missing.remove(&pair).is_some())) {
                    // The kernel's own unfinished attempts too: they would stand in the way.
                    let gone = self.handle().neighbours().del(entry).execute().await;
                    ignore(libc::ENOENT, gone, || "delete an overlay entry".to_owned())?;
                    changed += 1;
                }
            }
            for (mac, address) in missing.into_keys() {
                let request = match family {
                    AddressFamily::Bridge => {
                        let request = self.handle().neighbours().add_bridge(index, &mac);
                        request.flags(NeighbourFlags::Own).destination(address.into())
                    }
                    _ => self.handle().neighbours().add(index, address.into()).link_layer_address(&mac),
                };
                let added = request.replace().execute().await;
                added.map_err(Error::netlink(format!("lead to {address} on the overlay")))?;
                changed += 1;
            }
        }
        Ok(changed)
    }

    async fn entries(&self, index: u32, family: AddressFamily) -> Result<Vec<NeighbourMessage>> {
        let mut request = self.handle().neighbours().get().set_address_family(family);
        request.message_mut().header.ifindex = index;
        let all: Vec<NeighbourMessage> =
            request.execute().try_collect().await.map_err(Error::netlink("list overlay entries"))?;
        // Older kernels dump every link's.
        Ok(all.into_iter().filter(|entry| entry.header.ifindex == index && is_entry(entry)).collect())
    }
}

/// Whether it leads to somebody: the kernel also lists multicast and broadcast addresses of the link.
fn is_entry(entry: &NeighbourMessage) -> bool {
    entry.header.family == AddressFamily::Bridge || entry.header.state != NeighbourState::Noarp
}

fn pair(entry: &NeighbourMessage) -> Option<(Mac, Ipv4Addr)> {
    let mac = entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(mac) => mac.as_slice().try_into().ok(),
        _ => None,
    })?;
    let address = entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(*address),
        // A bridge's entry does not say of which family it is.
        NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
            Some(<[u8; 4]>::try_from(bytes.as_slice()).ok()?.into())
        }
        _ => None,
    })?;
    Some((mac, address))
}

/// What a device was made as, if it is a VXLAN of ours.
fn read(message: &LinkMessage) -> Option<Device> {
    let mut device = Device { mac: [0; 6], local: Ipv4Addr::UNSPECIFIED, mtu: 0 };
    let mut details = None;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(mac) => device.mac = mac.as_slice().try_into().ok()?,
            LinkAttribute::Mtu(mtu) => device.mtu = *mtu,
            LinkAttribute::LinkInfo(infos) => {
                details = infos.iter().find_map(|info| match info {
                    LinkInfo::Data(InfoData::Vxlan(details)) => Some(details),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    let details = details?;
    let ours = [InfoVxlan::Id(VNI), InfoVxlan::Port(PORT), InfoVxlan::Learning(false)];
    if !ours.iter().all(|setting| details.contains(setting)) {
        return None;
    }
    device.local = details.iter().find_map(|detail| match detail {
        InfoVxlan::Local(address) => Some(*address),
        _ => None,
    })?;
    Some(device)
}
