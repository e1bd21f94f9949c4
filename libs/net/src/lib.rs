//! The kernel's network by netlink: namespaces, links, addresses, routes, and the pod network made of them.
//!
//! - [`netns`]: network namespaces as files, and work inside them;
//! - [`netlink`]: links, addresses and routes of one namespace;
//! - [`pods`]: a node's pods, their addresses ([`ipam`]), masquerading and [`host_ports`];
//! - [`peers`]: the ways to other nodes' pods, by route or by [`vxlan`];
//! - [`virtual_address`]: an address that moves between machines of a link, which learn of it by [`arp`];
//! - [`testing`]: namespaces with real packets for tests;
//! - [`iptables`]: the save and restore programs, and what they print ([`saved`]); [`monitor`] notices what others change by them.

pub mod arp;
pub mod cidr;
pub mod error;
pub mod host_ports;
pub mod ipam;
pub mod iptables;
pub mod monitor;
pub mod netlink;
pub mod netns;
pub mod peers;
pub mod pods;
pub mod saved;
pub mod testing;
pub mod virtual_address;
pub mod vxlan;

pub use cidr::Cidr;
pub use error::{Error, Result};
pub use host_ports::{HostPort, HostPorts, Protocol};
pub use netlink::{Address, Ipv4Setting, Link, LinkEnd, Netlink, Route, USUAL_PACKETS, Via};
pub use pods::{Attachment, Config, PodNetwork};
pub use saved::Saved;

/// A stable 64-bit hash (FNV-1a) for names that the kernel limits to a few characters.
pub fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
