//! Links, addresses and routes of one network namespace, over one rtnetlink connection.
//!
//! The socket belongs to the namespace it was opened in, wherever the task that uses it runs. Every change is idempotent:
//! what is already as asked for is no error, so that a start after a crash can simply do everything again.

use std::{
    fmt::Display,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use futures::TryStreamExt;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage, CacheInfo},
    link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkMessage, MacVlanMode},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteScope, RouteType},
};
use parking_lot::Mutex;
use rtnetlink::{
    Handle, LinkBridge, LinkGetRequest, LinkMacVlan, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_core::{DefaultNla, Emitable, NLA_F_NESTED, NLM_F_ACK, NLM_F_REQUEST},
};
use tokio::task::JoinHandle;

use crate::{Cidr, Error, Result, netns};

/// A connection to one namespace's rtnetlink, opened anew should it be lost. Cheap to clone; it ends with the last clone.
#[derive(Clone, Debug)]
pub struct Netlink {
    connection: Arc<Mutex<Connection>>,
    namespace: Arc<OwnedFd>,
    /// Held while something is listed: the kernel lists one thing at a time on a socket, and refuses a second (`EBUSY`).
    listing: Arc<tokio::sync::Mutex<()>>,
}

/// An open socket: what requests go through, and the task that sends them and reads the answers.
#[derive(Debug)]
struct Connection {
    handle: Handle,
    task: JoinHandle<()>,
}

impl Connection {
    fn open() -> Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(Error::system("open a netlink socket"))?;
        Ok(Self { handle, task: tokio::spawn(connection) })
    }
}

/// What links take if nobody says otherwise ([`Link::packets`]).
pub const USUAL_PACKETS: u32 = 65536;

/// A network interface, as far as we look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it is up and connected (`IFF_RUNNING`): a cable is in, a bridge has a port that is.
    pub running: bool,
    /// Its hardware address, if it is one of Ethernet's size.
    pub mac: Option<[u8; 6]>,
    /// Its MTU.
    pub mtu: u32,
    /// The largest IPv4 packet in bytes that it takes to be cut for the wire only at its end ([`Netlink::set_packets`]).
    pub packets: u32,
    /// The bridge it is a port of.
    pub controller: Option<u32>,
}

/// An IPv4 address of a network interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The link's index.
    pub link: u32,
    /// The address.
    pub address: Ipv4Addr,
    /// How many of its leading bits it shares with what is on the link.
    pub prefix: u8,
    /// Whether it stays until somebody takes it away; the kernel removes others when their time is over.
    pub permanent: bool,
}

/// A link to be made, or one end of a veth pair.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkEnd<'a> {
    /// Its name.
    pub name: &'a str,
    /// The namespace it goes to; the connection's own if `None`.
    pub namespace: Option<BorrowedFd<'a>>,
    /// Its MTU; the kernel's choice if `None`.
    pub mtu: Option<u32>,
    /// Its hardware address; random if `None`.
    pub mac: Option<[u8; 6]>,
}

/// A setting of IPv4 for one link, by its number in the kernel (`/proc/sys/net/ipv4/conf/LINK/...`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Ipv4Setting {
    /// `send_redirects`: senders on the link are told of shorter ways.
    SendRedirects = 6,
    /// `route_localnet`: packets with loopback's addresses may come and go by it.
    RouteLocalnet = 26,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// Straight out of a link, optionally with a preferred source address.
    Link {
        /// The link's index.
        index: u32,
        /// The source address for packets of this machine's own.
        source: Option<Ipv4Addr>,
    },
    /// To a neighbour on a link we are on.
    Gateway(Ipv4Addr),
    /// Nowhere: senders get "host unreachable" at once, and nothing leaves.
    Unreachable,
}

/// One entry of the main routing table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Which packets.
    pub destination: Cidr,
    /// Where to.
    pub via: Via,
    /// Lower wins; 0 is the kernel's default.
    pub metric: u32,
}

impl Netlink {
    /// Connects to the calling thread's namespace. Must be called within a tokio runtime.
    pub fn new() -> Result<Self> {
        let namespace = Arc::new(netns::open(Path::new("/proc/thread-self/ns/net"))?);
        let connection = Arc::new(Mutex::new(Connection::open()?));
        Ok(Self { connection, namespace, listing: Arc::default() })
    }

    /// Connects to the namespace at `path`. Must be called within a tokio runtime.
    pub fn in_namespace(path: &Path) -> Result<Self> {
        Self::in_namespace_fd(netns::open(path)?)
    }

    /// [`Netlink::in_namespace`] for an open namespace.
    pub fn in_namespace_fd(namespace: OwnedFd) -> Result<Self> {
        inside(namespace, Self::new)
    }

    /// What requests go through. A task that has panicked answers none any more: another one takes its place.
    pub(crate) fn handle(&self) -> Handle {
        let mut connection = self.connection.lock();
        if connection.task.is_finished() {
            let namespace = self.namespace.try_clone().map_err(Error::system("keep a network namespace"));
            match namespace.and_then(|namespace| inside(namespace, Connection::open)) {
                Ok(anew) => *connection = anew,
                Err(error) => tracing::error!(%error, "a lost netlink connection cannot be opened anew"),
            }
        }
        connection.handle.clone()
    }

    /// The link called `name`.
    pub async fn link(&self, name: &str) -> Result<Option<Link>> {
        let found = self.find_link(self.handle().link().get().match_name(name), name).await?;
        Ok(found.map(|message| read_link(&message)))
    }

    /// The link of this index.
    pub async fn link_of_index(&self, index: u32) -> Result<Option<Link>> {
        let found = self.find_link(self.handle().link().get().match_index(index), index).await?;
        Ok(found.map(|message| read_link(&message)))
    }

    pub(crate) async fn find_link(&self, request: LinkGetRequest, what: impl Display) -> Result<Option<LinkMessage>> {
        match Box::pin(request.execute()).try_next().await {
            Err(rtnetlink::Error::NetlinkError(m)) if m.code.is_some_and(|c| c.get() == -libc::ENODEV) => Ok(None),
            other => other.map_err(Error::netlink(format!("look up link {what}"))),
        }
    }

    /// The link called `name`, or an error.
    pub async fn existing(&self, name: &str) -> Result<Link> {
        self.link(name).await?.ok_or_else(|| Error::NoLink(name.to_owned()))
    }

    /// Every link.
    pub async fn links(&self) -> Result<Vec<Link>> {
        let _listing = self.listing.lock().await;
        let all: Vec<LinkMessage> =
            self.handle().link().get().execute().try_collect().await.map_err(Error::netlink("list links"))?;
        Ok(all.iter().map(read_link).collect())
    }

    /// Makes sure that a bridge of this name exists and is up.
    pub async fn ensure_bridge(&self, name: &str, mtu: Option<u32>) -> Result<Link> {
        if self.link(name).await?.is_none() {
            // Its own hardware address, so that it does not change with the ports that come and go.
            let mut bridge = LinkBridge::new(name).address(stable_mac(name));
            if let Some(mtu) = mtu {
                bridge = bridge.mtu(mtu);
            }
            ignore(libc::EEXIST, self.handle().link().add(bridge.build()).execute().await, || format!("add bridge {name}"))?;
        }
        let link = self.existing(name).await?;
        self.set_up(link.index).await?;
        Ok(link)
    }

    /// Makes a veth pair. The near end is up; the kernel refuses to bring the far end up before the pair is complete.
    pub async fn add_veth(&self, near: LinkEnd<'_>, far: LinkEnd<'_>) -> Result<()> {
        let step = format!("add veth {}", near.name);
        let peer = with_end(LinkMessageBuilder::<LinkUnspec>::new().name(far.name), &far).build();
        let veth = with_end(LinkVeth::new(near.name, far.name), &near).up();
        let message = veth.set_info_data(InfoData::Veth(InfoVeth::Peer(peer))).build();
        self.handle().link().add(message).execute().await.map_err(Error::netlink(step))
    }

    /// Makes a link with a hardware address of its own on top of another (macvlan). Those on top of the same link reach each other
    /// by it, as if a switch were between them, for less work than a switch and a wire to it take.
    pub async fn add_macvlan(&self, below: u32, link: LinkEnd<'_>) -> Result<()> {
        let message = with_end(LinkMacVlan::new(link.name, below, MacVlanMode::Bridge), &link).build();
        self.handle().link().add(message).execute().await.map_err(Error::netlink(format!("add macvlan {}", link.name)))
    }

    /// Lets a link that [`Netlink::add_macvlan`] made reach the others, or takes it off from them: nothing passes either way.
    pub async fn set_connected(&self, index: u32, connected: bool) -> Result<()> {
        // In the mode "source" a link takes only what comes from a list of senders, which is empty, and sends to no other.
        let mode = if connected { MacVlanMode::Bridge } else { MacVlanMode::Source };
        let link = LinkMessageBuilder::<LinkMacVlan>::new_with_info_kind(InfoKind::MacVlan).index(index).mode(mode);
        // What a kind of link has of its own is changed by the message that makes links, told not to make one.
        let change = self.handle().link().add(link.build()).set_flags(NLM_F_REQUEST | NLM_F_ACK);
        change.execute().await.map_err(Error::netlink("connect a macvlan or cut it off"))
    }

    /// Switches settings of IPv4 on or off for a link: without the thread inside the namespace that their files take.
    pub async fn set_ipv4(&self, index: u32, settings: &[(Ipv4Setting, bool)]) -> Result<()> {
        const INET_CONF: u16 = 1;
        let numbers = settings.iter().map(|(setting, on)| attribute(*setting as u16, &u32::from(*on).to_ne_bytes()));
        let conf = attribute(NLA_F_NESTED | INET_CONF, &numbers.flatten().collect::<Vec<_>>());
        let inet = attribute(NLA_F_NESTED | libc::AF_INET as u16, &conf);
        let mut message = LinkUnspec::new_with_index(index).build();
        message.attributes.push(LinkAttribute::AfSpecUnknown(inet));
        self.handle().link().set(message).execute().await.map_err(Error::netlink("set how IPv4 uses a link"))
    }

    /// Keeps a link that is not connected yet from having an IPv6 address by itself. Where there is no IPv6, none is what it has.
    pub async fn set_without_ipv6_address(&self, index: u32) -> Result<()> {
        const INET6_ADDR_GEN_MODE: u16 = 8;
        const NONE: u8 = 1;
        let mode = attribute(INET6_ADDR_GEN_MODE, &[NONE]);
        let inet6 = attribute(NLA_F_NESTED | libc::AF_INET6 as u16, &mode);
        let mut message = LinkUnspec::new_with_index(index).build();
        message.attributes.push(LinkAttribute::AfSpecUnknown(inet6));
        let step = || "keep a link from having an IPv6 address".to_owned();
        ignore(libc::EAFNOSUPPORT, self.handle().link().set(message).execute().await, step)
    }

    /// Lets a link take IPv4 packets of so many bytes that are cut for the wire only later (segmentation offload), or not at
    /// all: more than the usual [`USUAL_PACKETS`] is less work a byte, if all links on the way take them. Kernels before 6.3 know no
    /// more and leave the link as it is.
    pub async fn set_packets(&self, index: u32, bytes: u32) -> Result<()> {
        let mut message = LinkUnspec::new_with_index(index).build();
        message.attributes.extend([LinkAttribute::GsoIpv4MaxSize(bytes), LinkAttribute::GroIpv4MaxSize(bytes)]);
        self.handle().link().set(message).execute().await.map_err(Error::netlink("let a link take larger packets"))
    }

    /// Brings a link up.
    pub async fn set_up(&self, index: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(index).up().build();
        self.handle().link().set(message).execute().await.map_err(Error::netlink("bring a link up"))
    }

    /// Brings a link up that neither asks for hardware addresses nor answers who does.
    pub async fn set_up_without_arp(&self, index: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(index).arp(false).up().build();
        self.handle().link().set(message).execute().await.map_err(Error::netlink("bring a link up without ARP"))
    }

    /// Deletes the link called `name`; none is fine.
    pub async fn delete_link(&self, name: &str) -> Result<()> {
        let message = LinkUnspec::new_with_name(name).build();
        let deleted = self.handle().link().del_with_message(message).execute().await;
        ignore(libc::ENODEV, deleted, || format!("delete link {name}"))
    }

    /// Deletes all links of these names together, those that exist. The kernel waits for its readers once, not once a link
    /// (15 to 40 ms each).
    pub async fn delete_links(&self, names: &[String]) -> Result<()> {
        // A group that nobody else uses: spelled "knar".
        const DOOMED: u32 = 0x6b6e_6172;
        for name in names {
            let message = LinkUnspec::new_with_name(name).link_group(DOOMED).build();
            let marked = self.handle().link().set(message).execute().await;
            ignore(libc::ENODEV, marked, || format!("mark link {name}"))?;
        }
        let group = LinkMessageBuilder::<LinkUnspec>::new().link_group(DOOMED).build();
        let deleted = self.handle().link().del_with_message(group).execute().await;
        ignore(libc::ENODEV, deleted, || "delete links".to_owned())
    }

    /// Gives a link an address.
    pub async fn add_address(&self, link: u32, address: Ipv4Addr, prefix: u8) -> Result<()> {
        let added = self.handle().address().add(link, IpAddr::V4(address), prefix).execute().await;
        ignore(libc::EEXIST, added, || format!("add address {address}/{prefix}"))
    }

    /// Gives a link an address for so many seconds (1 or more), or so many from now on if it has it already. The kernel takes it away
    /// when they are over, up to a second late, whatever has become of this process.
    pub async fn set_address_for(&self, link: u32, address: Ipv4Addr, prefix: u8, seconds: u32) -> Result<()> {
        let mut life = CacheInfo::default();
        // The kernel looks at addresses when they cease to be preferred, and at no other time of its own.
        (life.ifa_preferred, life.ifa_valid) = (seconds, seconds);
        let mut request = self.handle().address().add(link, IpAddr::V4(address), prefix).replace();
        request.message_mut().attributes.push(AddressAttribute::CacheInfo(life));
        request
            .execute()
            .await
            .map_err(Error::netlink(format!("give a link the address {address}/{prefix} for {seconds} s")))
    }

    /// Takes an address off a link; none is fine.
    pub async fn delete_address(&self, link: u32, address: Ipv4Addr, prefix: u8) -> Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.index = link;
        message.header.prefix_len = prefix;
        message.attributes.push(AddressAttribute::Local(address.into()));
        let done = self.handle().address().del(message).execute().await;
        ignore(libc::EADDRNOTAVAIL, done, || format!("delete address {address}/{prefix}"))
    }

    /// Every IPv4 address of the namespace.
    pub async fn addresses(&self) -> Result<Vec<Address>> {
        let _listing = self.listing.lock().await;
        let all: Vec<_> =
            self.handle().address().get().execute().try_collect().await.map_err(Error::netlink("list addresses"))?;
        Ok(all.iter().filter_map(read_address).collect())
    }

    /// Adds a route, or replaces the one of the same destination and metric.
    pub async fn set_route(&self, route: Route) -> Result<()> {
        let done = self.handle().route().add(route_message(route)).replace().execute().await;
        done.map_err(Error::netlink(format!("set route {}", route.destination)))
    }

    /// Removes a route; none is fine.
    pub async fn delete_route(&self, route: Route) -> Result<()> {
        let done = self.handle().route().del(route_message(route)).execute().await;
        ignore(libc::ESRCH, done, || format!("delete route {}", route.destination))
    }

    /// The destinations of every IPv4 route of every table: what a new range must not clash with.
    pub async fn route_destinations(&self) -> Result<Vec<Cidr>> {
        let request = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let _listing = self.listing.lock().await;
        let all: Vec<RouteMessage> =
            self.handle().route().get(request).execute().try_collect().await.map_err(Error::netlink("list routes"))?;
        let destination = |route: RouteMessage| {
            let prefix = route.header.destination_prefix_length;
            route.attributes.into_iter().find_map(|a| match a {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(Cidr::new(address, prefix)),
                _ => None,
            })
        };
        Ok(all.into_iter().filter_map(destination).collect())
    }
}

/// Runs something that needs tokio on a thread in the namespace.
fn inside<T: Send + 'static>(namespace: OwnedFd, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let runtime = tokio::runtime::Handle::current();
    netns::within_fd(namespace, move || {
        let _inside = runtime.enter();
        work()
    })
}

/// Fills in what one end of a veth pair has.
fn with_end<T: Default>(mut builder: LinkMessageBuilder<T>, end: &LinkEnd<'_>) -> LinkMessageBuilder<T> {
    if let Some(namespace) = end.namespace {
        builder = builder.setns_by_fd(namespace.as_raw_fd());
    }
    if let Some(mtu) = end.mtu {
        builder = builder.mtu(mtu);
    }
    if let Some(mac) = end.mac {
        builder = builder.address(mac.to_vec());
    }
    builder
}

/// A netlink attribute as bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let attribute = DefaultNla::new(kind, value.to_vec());
    let mut bytes = vec![0; attribute.buffer_len()];
    attribute.emit(&mut bytes);
    bytes
}

fn route_message(route: Route) -> RouteMessage {
    let builder = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(route.destination.network(), route.destination.prefix())
        .priority(route.metric);
    match route.via {
        Via::Link { index, source } => {
            let builder = builder.output_interface(index).scope(RouteScope::Link);
            match source {
                Some(source) => builder.pref_source(source).build(),
                None => builder.build(),
            }
        }
        Via::Gateway(gateway) => builder.gateway(gateway).build(),
        Via::Unreachable => builder.kind(RouteType::Unreachable).build(),
    }
}

fn read_link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        up: message.header.flags.contains(LinkFlags::Up),
        running: message.header.flags.contains(LinkFlags::Running),
        mac: None,
        mtu: 0,
        packets: USUAL_PACKETS,
        controller: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok(),
            LinkAttribute::GsoIpv4MaxSize(bytes) => link.packets = *bytes,
            LinkAttribute::Controller(index) => link.controller = Some(*index),
            _ => {}
        }
    }
    link
}

fn read_address(message: &AddressMessage) -> Option<Address> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
        _ => None,
    })?;
    let permanent = message.header.flags.contains(AddressHeaderFlags::Permanent);
    Some(Address { link: message.header.index, address: local, prefix: message.header.prefix_len, permanent })
}

pub(crate) fn ignore(
    errno: i32,
    outcome: std::result::Result<(), rtnetlink::Error>,
    step: impl FnOnce() -> String,
) -> Result<()> {
    match outcome {
        Err(rtnetlink::Error::NetlinkError(m)) if m.code.is_some_and(|c| c.get() == -errno) => Ok(()),
        other => other.map_err(|e| Error::netlink(step())(e)),
    }
}

/// A locally administered hardware address made from a name (FNV-1a).
fn stable_mac(name: &str) -> Vec<u8> {
    let hash = crate::hash(name).to_be_bytes();
    vec![0x02, hash[1], hash[2], hash[3], hash[4], hash[5]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lost_connection_is_opened_anew() {
        let netlink = Netlink::new().unwrap();
        let before = netlink.existing("lo").await.unwrap();
        let clone = netlink.clone();
        netlink.connection.lock().task.abort();
        while !netlink.connection.lock().task.is_finished() {
            tokio::task::yield_now().await;
        }
        assert_eq!(clone.existing("lo").await.unwrap(), before);
    }
}
