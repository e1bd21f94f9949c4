//! The ways to the other nodes' pods: a plain route where a node is on a link of ours, VXLAN where it is not.
//!
//! [`plan`] decides from what is known of the nodes and of our own addresses; [`PeerRoutes::apply`] reads what the kernel has and
//! changes what differs. Routes of ours bear a protocol number of their own, so that those of nodes that are gone are found
//! after any restart, and nobody else's are touched. The rest of the pod range stays unreachable ([`crate::pods`]).
//!
//! VXLAN believes whoever sends it packets. So they are accepted from the nodes' addresses only, and what a pod sends to a
//! node's VXLAN port is dropped on the pod's own node: on leaving it would bear that node's address.

use std::{
    collections::BTreeMap,
    fmt,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use futures::{StreamExt, TryStreamExt};

use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressHeaderFlags},
    link::LinkAttribute,
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteType},
};
use rtnetlink::{MulticastGroup, RouteMessageBuilder, packet_core::NetlinkPayload};
use tokio::sync::Notify;

use crate::{
    Cidr, Error, Netlink, Result,
    iptables::Iptables,
    netlink::ignore,
    netns,
    pods::VETH,
    vxlan::{self, Device},
};

/// The protocol number that our routes bear: spelled "k", and nobody's in `/etc/iproute2/rt_protos`.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(0x6b);
/// What a link's MTU is when no link of ours says: Ethernet's.
pub const USUAL_MTU: u32 = 1500;

/// How to reach other nodes' pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// For each node as it lies: by its address where that is on a link of ours, by VXLAN where it is not.
    #[default]
    Auto,
    /// By the node's address only; pods of nodes elsewhere are unreachable.
    HostGw,
    /// By VXLAN only.
    Vxlan,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::HostGw => "host-gw",
            Self::Vxlan => "vxlan",
        })
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let all = [Self::Auto, Self::HostGw, Self::Vxlan];
        all.into_iter().find(|mode| mode.to_string() == text).ok_or_else(|| "use auto, host-gw or vxlan".to_owned())
    }
}

/// A node, as far as packets are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Its addresses; the first is where it is reached.
    pub addresses: Vec<Ipv4Addr>,
    /// Its pods.
    pub pods: Option<Cidr>,
}

/// An address of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Own {
    /// The address.
    pub address: Ipv4Addr,
    /// What is on its link, as its prefix says.
    pub link: Cidr,
    /// The link's MTU.
    pub mtu: u32,
}

/// What the kernel is to be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The overlay's device and its address there, if any node takes it.
    pub device: Option<(Device, Ipv4Addr)>,
    /// Per range of pods the address of its node on a link of ours.
    pub gateways: BTreeMap<Cidr, Ipv4Addr>,
    /// Per range of pods the address of its node behind the overlay.
    pub tunnels: BTreeMap<Cidr, Ipv4Addr>,
    /// Who may send us encapsulated packets; `None` if nobody needs to be kept out.
    pub trusted: Option<Vec<Ipv4Addr>>,
    /// Nodes that nothing leads to, with the reason.
    pub unreachable: BTreeMap<String, &'static str>,
}

/// Decides which way leads to whom. `cluster` is every node's pods: what lies outside is nobody's to claim.
pub fn plan(mode: Mode, cluster: Cidr, us: &Peer, others: &[Peer], own: &[Own]) -> Plan {
    let mut plan = Plan::default();
    let mut taken: Vec<Cidr> = us.pods.into_iter().collect();
    for peer in others {
        let (Some(pods), Some(&address)) = (peer.pods, peer.addresses.first()) else {
            plan.unreachable.insert(peer.name.clone(), "it has no IPv4 address or no range of pods yet");
            continue;
        };
        if !(cluster.contains(pods.network()) && pods.prefix() >= cluster.prefix()) {
            plan.unreachable.insert(peer.name.clone(), "its pods are outside the cluster's range");
            continue;
        }
        if taken.iter().any(|range| range.overlaps(pods)) {
            plan.unreachable.insert(peer.name.clone(), "its range of pods overlaps another node's");
            continue;
        }
        taken.push(pods);
        let near = own.iter().any(|own| own.link.prefix() < 32 && own.link.contains(address) && own.address != address);
        match mode {
            Mode::Auto | Mode::HostGw if near => drop(plan.gateways.insert(pods, address)),
            Mode::HostGw => drop(plan.unreachable.insert(peer.name.clone(), "it is on no link of this node's")),
            Mode::Auto | Mode::Vxlan => drop(plan.tunnels.insert(pods, address)),
        }
    }
    if mode != Mode::HostGw {
        let mut trusted: Vec<Ipv4Addr> = others.iter().flat_map(|peer| peer.addresses.clone()).collect();
        trusted.sort_unstable();
        trusted.dedup();
        plan.trusted = Some(trusted);
    }
    if let (Some(pods), Some(&local)) = (us.pods, us.addresses.first())
        && (mode == Mode::Vxlan || !plan.tunnels.is_empty())
    {
        let below = own.iter().find(|own| own.address == local).map_or(USUAL_MTU, |own| own.mtu);
        let device = Device { mac: vxlan::mac(pods), local, mtu: below.saturating_sub(vxlan::OVERHEAD) };
        plan.device = Some((device, pods.network()));
    }
    plan
}

/// The ways as the kernel has them.
#[derive(Debug)]
pub struct PeerRoutes {
    netlink: Netlink,
    iptables: Iptables,
    namespace: Option<PathBuf>,
    one_machine: bool,
}

impl PeerRoutes {
    /// For the node whose network namespace is at `namespace`, or the process' own. If all nodes are namespaces
    /// of `one_machine`, packets arrive as they were sent, and by the way that answers take: neither is looked at.
    pub fn new(namespace: Option<PathBuf>, one_machine: bool) -> Result<Self> {
        let (netlink, iptables) = match &namespace {
            Some(path) => (Netlink::in_namespace(path)?, Iptables::within(path)),
            None => (Netlink::new()?, Iptables::here()),
        };
        Ok(Self { netlink, iptables, namespace, one_machine })
    }

    /// The node's addresses, without those of the overlay and in the range of its pods.
    pub async fn own(&self, pods: Option<Cidr>) -> Result<Vec<Own>> {
        let links: BTreeMap<u32, crate::Link> =
            self.netlink.links().await?.into_iter().map(|link| (link.index, link)).collect();
        let of = |own: crate::Address| {
            let link = links.get(&own.link)?;
            let (address, near) = (own.address, Cidr::new(own.address, own.prefix));
            let ours = link.name == vxlan::NAME || link.name == "lo" || pods.is_some_and(|pods| pods.contains(address));
            (!ours && link.up).then_some(Own { address, link: near, mtu: link.mtu })
        };
        Ok(self.netlink.addresses().await?.into_iter().filter_map(of).collect())
    }

    /// Brings the kernel to the plan; returns how much had to change.
    pub async fn apply(&self, plan: &Plan) -> Result<usize> {
        let mut changed = self.protect(plan).await?;
        let mut wanted: BTreeMap<Cidr, (Ipv4Addr, Option<u32>)> =
            plan.gateways.iter().map(|(pods, node)| (*pods, (*node, None))).collect();
        match &plan.device {
            Some((device, address)) => changed += self.set_overlay(plan, device, *address, &mut wanted).await?,
            None => {
                if self.netlink.vxlan().await?.is_some() {
                    self.netlink.delete_link(vxlan::NAME).await?;
                    changed += 1;
                }
            }
        }
        for message in self.routes().await? {
            let known = destination(&message).and_then(|pods| Some((pods, *wanted.get(&pods)?)));
            match known {
                Some((pods, way)) if way == leads(&message, way.1.is_some()) => drop(wanted.remove(&pods)),
                // It will be replaced.
                Some(_) => {}
                None => {
                    let gone = self.netlink.handle().route().del(message).execute().await;
                    ignore(libc::ESRCH, gone, || "delete the route of a node that is gone".to_owned())?;
                    changed += 1;
                }
            }
        }
        for (pods, (gateway, device)) in wanted {
            let builder = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(pods.network(), pods.prefix());
            let builder = builder.gateway(gateway).protocol(PROTOCOL);
            let message = match device {
                None => builder.build(),
                Some(index) => {
                    let mut message = builder.output_interface(index).build();
                    // The overlay's address of the other node is on no range of ours.
                    message.header.flags |= RouteFlags::Onlink;
                    message
                }
            };
            let set = self.netlink.handle().route().add(message).replace().execute().await;
            set.map_err(Error::netlink(format!("lead to pods {pods} by {gateway}")))?;
            changed += 1;
        }
        Ok(changed)
    }

    async fn set_overlay(
        &self,
        plan: &Plan,
        device: &Device,
        address: Ipv4Addr,
        wanted: &mut BTreeMap<Cidr, (Ipv4Addr, Option<u32>)>,
    ) -> Result<usize> {
        let before = self.netlink.vxlan().await?;
        let index = self.netlink.ensure_vxlan(device).await?;
        let mut changed = usize::from(before != Some((index, Some(*device))));
        for other in self.netlink.addresses().await?.into_iter().filter(|other| other.link == index) {
            if (other.address, other.prefix) != (address, 32) {
                self.netlink.delete_address(index, other.address, other.prefix).await?;
            }
        }
        self.netlink.add_address(index, address, 32).await?;
        let one_machine = self.one_machine;
        self.in_node(move || {
            if one_machine {
                // There is nothing to be put together again.
                netns::set_gro(vxlan::NAME, false)?;
            }
            // A node may see us on its link where we do not see it on ours: packets then come by another way than answers go.
            netns::set_sysctl("net.ipv4.conf.knarr/1.rp_filter", if one_machine { "0" } else { "2" })?;
            netns::set_sysctl("net.ipv4.conf.knarr/1.send_redirects", "0")?;
            netns::set_sysctl("net.ipv4.ip_forward", "1")
        })?;
        let peers: Vec<_> = plan.tunnels.iter().map(|(pods, node)| (vxlan::mac(*pods), pods.network(), *node)).collect();
        changed += self.netlink.set_overlay_peers(index, &peers).await?;
        wanted.extend(plan.tunnels.keys().map(|pods| (*pods, (pods.network(), Some(index)))));
        Ok(changed)
    }

    /// Our routes in the main table.
    async fn routes(&self) -> Result<Vec<RouteMessage>> {
        let request = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let all: Vec<RouteMessage> = self
            .netlink
            .handle()
            .route()
            .get(request)
            .execute()
            .try_collect()
            .await
            .map_err(Error::netlink("list routes"))?;
        let ours = |message: &RouteMessage| message.header.protocol == PROTOCOL && message.header.kind == RouteType::Unicast;
        Ok(all.into_iter().filter(ours).collect())
    }

    /// Writes who may send encapsulated packets, and that connections are tracked without them, if it is not what is there.
    async fn protect(&self, plan: &Plan) -> Result<usize> {
        let (iptables, trusted) = (self.iptables.clone(), plan.trusted.clone());
        let local = plan.device.as_ref().map(|(device, _)| device.local);
        let written = tokio::task::spawn_blocking(move || {
            let rules = protection(trusted.as_deref(), &iptables.save("filter")?);
            // A kernel without this table has nothing to be taken away.
            let tracking = tracking(local, &iptables.save("raw").unwrap_or_default());
            let input: String = rules.into_iter().chain(tracking).collect();
            if input.is_empty() { Ok(0) } else { iptables.restore(input).map(|()| 1) }
        });
        written.await.map_err(|_| Error::Panicked)?
    }

    fn in_node(&self, work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
        match &self.namespace {
            Some(path) => netns::within(path, work),
            None => work(),
        }
    }
}

/// The input that makes the rules about encapsulated packets as they should be; `None` if they are so in `saved`.
fn protection(trusted: Option<&[Ipv4Addr]>, saved: &str) -> Option<String> {
    let port = vxlan::PORT;
    let into = |from: &str, chain: &str| format!("-A {from} -p udp -m udp --dport {port} -j {chain}");
    let jumps = [into("INPUT", "KNARR-VXLAN-IN"), into("FORWARD", "KNARR-VXLAN-OUT")];
    let present = |line: &str| saved.lines().any(|other| other == line);
    let rules: Vec<&str> = saved.lines().filter(|line| line.starts_with("-A KNARR-VXLAN-")).collect();
    let mut input = "*filter\n:KNARR-VXLAN-IN - [0:0]\n:KNARR-VXLAN-OUT - [0:0]\n".to_owned();
    let Some(trusted) = trusted else {
        if !saved.lines().any(|line| line.starts_with(":KNARR-VXLAN-")) {
            return None;
        }
        for jump in jumps.iter().filter(|jump| present(jump)) {
            input += &format!("{}\n", jump.replacen("-A", "-D", 1));
        }
        return Some(input + "-X KNARR-VXLAN-IN\n-X KNARR-VXLAN-OUT\nCOMMIT\n");
    };
    let mut wanted: Vec<String> = trusted.iter().map(|node| format!("-A KNARR-VXLAN-IN -s {node}/32 -j ACCEPT")).collect();
    wanted.push("-A KNARR-VXLAN-IN -j DROP".to_owned());
    wanted.extend(trusted.iter().map(|node| format!("-A KNARR-VXLAN-OUT -d {node}/32 -j DROP")));
    if wanted == rules && jumps.iter().all(|jump| present(jump)) {
        return None;
    }
    for rule in &wanted {
        input += &format!("{rule}\n");
    }
    // Before what others accept.
    for jump in jumps.iter().filter(|jump| !present(jump)) {
        input += &format!("{}\n", jump.replacen("-A", "-I", 1));
    }
    Some(input + "COMMIT\n")
}

/// The input that takes encapsulated packets to and from `local` out of connection tracking, where what they carry is tracked, too:
/// half the entries, and less work a packet. `None` if it is so in `saved`.
fn tracking(local: Option<Ipv4Addr>, saved: &str) -> Option<String> {
    let port = vxlan::PORT;
    let not = format!("-p udp -m udp --dport {port} -j CT --notrack");
    let wanted: Vec<String> = local.map_or_else(Vec::new, |local| {
        [("PREROUTING", 'd'), ("OUTPUT", 's')].map(|(chain, end)| format!("-A {chain} -{end} {local}/32 {not}")).into()
    });
    let present: Vec<&str> = saved.lines().filter(|line| line.starts_with("-A") && line.ends_with(&not)).collect();
    let gone =
        present.iter().filter(|line| !wanted.iter().any(|rule| rule == *line)).map(|line| line.replacen("-A", "-D", 1));
    let new = wanted.iter().filter(|rule| !present.contains(&rule.as_str())).cloned();
    let changes: Vec<String> = gone.chain(new).collect();
    (!changes.is_empty()).then(|| format!("*raw\n{}\nCOMMIT\n", changes.join("\n")))
}

fn destination(message: &RouteMessage) -> Option<Cidr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => {
            Some(Cidr::new(*address, message.header.destination_prefix_length))
        }
        _ => None,
    })
}

/// Where a route leads; the link only if it is looked at.
fn leads(message: &RouteMessage, link: bool) -> (Ipv4Addr, Option<u32>) {
    let gateway = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(address)) => Some(*address),
        _ => None,
    });
    let index = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    (gateway.unwrap_or(Ipv4Addr::UNSPECIFIED), index.filter(|_| link))
}

/// Tells of changes of links, addresses and routes in a namespace, pods' own links left out.
#[derive(Debug)]
pub struct Changes {
    news: Arc<Notify>,
    /// Ends with it.
    reader: tokio::task::JoinHandle<()>,
}

impl Changes {
    /// For the namespace at `namespace`, or the process' own.
    pub fn subscribe(namespace: Option<&Path>) -> Result<Self> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv4Route];
        let runtime = tokio::runtime::Handle::current();
        let open = move || {
            let _inside = runtime.enter();
            rtnetlink::new_multicast_connection(&groups).map_err(Error::system("open a netlink socket"))
        };
        let (connection, handle, mut messages) = match namespace {
            Some(path) => netns::within(path, open)?,
            None => open()?,
        };
        let news = Arc::new(Notify::new());
        let tell = news.clone();
        let reader = tokio::spawn(async move {
            let _open = handle;
            let reading = async {
                while let Some((message, _)) = messages.next().await {
                    if is_news(&message.payload) {
                        tell.notify_one();
                    }
                }
            };
            tokio::join!(connection, reading);
        });
        Ok(Self { news, reader })
    }

    /// Returns when something has changed since the last call. Safe to cancel.
    pub async fn changed(&self) {
        self.news.notified().await;
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

fn is_news(message: &NetlinkPayload<RouteNetlinkMessage>) -> bool {
    use RouteNetlinkMessage as Message;
    match message {
        NetlinkPayload::InnerMessage(Message::NewLink(link) | Message::DelLink(link)) => {
            // Every pod brings some.
            let pods =
                |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::IfName(name) if name.starts_with(VETH));
            !link.attributes.iter().any(pods)
        }
        NetlinkPayload::InnerMessage(Message::NewAddress(own) | Message::DelAddress(own)) => {
            // A virtual address is extended every second, and has no neighbours.
            let stays = own.header.prefix_len < 32 || own.header.flags.contains(AddressHeaderFlags::Permanent);
            let pods =
                |attribute: &AddressAttribute| matches!(attribute, AddressAttribute::Label(name) if name.starts_with(VETH));
            stays && !own.attributes.iter().any(pods)
        }
        // Other nodes' pods are reached by their ranges.
        NetlinkPayload::InnerMessage(Message::NewRoute(route) | Message::DelRoute(route)) => {
            route.header.destination_prefix_length < 32
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: &str, address: &str, pods: &str) -> Peer {
        Peer { name: name.into(), addresses: address.parse().into_iter().collect(), pods: pods.parse().ok() }
    }

    fn decide(mode: Mode, others: &[Peer]) -> Plan {
        let us = peer("us", "192.168.7.2", "10.42.0.0/24");
        let own = ["192.168.7.2", "100.64.0.2"].map(|address| {
            let address: Ipv4Addr = address.parse().unwrap();
            let prefix = if address.octets()[0] == 192 { 24 } else { 32 };
            Own { address, link: Cidr::new(address, prefix), mtu: 1400 }
        });
        plan(mode, "10.42.0.0/16".parse().unwrap(), &us, others, &own)
    }

    #[test]
    fn neighbours_are_gateways_and_others_behind_the_overlay() {
        let nodes = [
            peer("near", "192.168.7.3", "10.42.1.0/24"),
            peer("far", "192.168.8.3", "10.42.2.0/24"),
            peer("young", "192.168.7.4", ""),
            peer("thief", "192.168.7.5", "10.42.0.0/20"),
            peer("stranger", "192.168.7.6", "0.0.0.0/0"),
        ];
        let auto = decide(Mode::Auto, &nodes);
        let words = |plan: &Plan| {
            let list =
                |ways: &BTreeMap<Cidr, Ipv4Addr>| ways.values().map(Ipv4Addr::to_string).collect::<Vec<_>>().join(" ");
            (
                list(&plan.gateways),
                list(&plan.tunnels),
                plan.device.map(|(d, a)| (d.mtu, a.to_string())),
                plan.unreachable.len(),
            )
        };
        let address = "10.42.0.0".to_owned();
        assert_eq!(words(&auto), ("192.168.7.3".into(), "192.168.8.3".into(), Some((1350, address.clone())), 3));
        assert_eq!(words(&decide(Mode::Auto, &nodes[..1])), ("192.168.7.3".into(), String::new(), None, 0));
        assert_eq!(words(&decide(Mode::HostGw, &nodes)), ("192.168.7.3".into(), String::new(), None, 4));
        let both = "192.168.7.3 192.168.8.3".to_owned();
        assert_eq!(words(&decide(Mode::Vxlan, &nodes)), (String::new(), both, Some((1350, address)), 3));
    }

    #[test]
    fn an_address_that_is_extended_every_second_is_no_news() {
        let told = |prefix_len, flags| {
            let mut message = netlink_packet_route::address::AddressMessage::default();
            (message.header.prefix_len, message.header.flags) = (prefix_len, flags);
            is_news(&NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(message)))
        };
        let (permanent, passing) = (AddressHeaderFlags::Permanent, AddressHeaderFlags::empty());
        assert_eq!(
            [told(24, permanent), told(24, passing), told(32, permanent), told(32, passing)],
            [true, true, true, false]
        );
    }

    #[test]
    fn rules_are_written_once_and_taken_away() {
        let nodes: [Ipv4Addr; 1] = ["192.168.7.3".parse().unwrap()];
        let input = protection(Some(&nodes), ":INPUT ACCEPT [0:0]").unwrap();
        assert_eq!(
            input,
            "*filter\n:KNARR-VXLAN-IN - [0:0]\n:KNARR-VXLAN-OUT - [0:0]\n\
             -A KNARR-VXLAN-IN -s 192.168.7.3/32 -j ACCEPT\n-A KNARR-VXLAN-IN -j DROP\n\
             -A KNARR-VXLAN-OUT -d 192.168.7.3/32 -j DROP\n\
             -I INPUT -p udp -m udp --dport 8472 -j KNARR-VXLAN-IN\n\
             -I FORWARD -p udp -m udp --dport 8472 -j KNARR-VXLAN-OUT\nCOMMIT\n"
        );
        let saved = input.replace("-I ", "-A ");
        assert_eq!(protection(Some(&nodes), &saved), None);
        assert!(protection(None, &saved).unwrap().contains("-X KNARR-VXLAN-IN"));
        assert_eq!(protection(None, ""), None);
    }

    #[test]
    fn encapsulated_packets_are_not_tracked() {
        let rule = |change: &str, local: &str| {
            let [into, out] = [("PREROUTING", 'd'), ("OUTPUT", 's')].map(|(chain, end)| {
                format!("-{change} {chain} -{end} {local}/32 -p udp -m udp --dport 8472 -j CT --notrack\n")
            });
            into + &out
        };
        let (one, other) = ("10.0.0.1".parse().ok(), "10.0.0.2".parse().ok());
        let saved = format!("*raw\n:PREROUTING ACCEPT [0:0]\n-A OUTPUT -j ACCEPT\n{}COMMIT\n", rule("A", "10.0.0.1"));
        assert_eq!(tracking(one, ""), Some(format!("*raw\n{}COMMIT\n", rule("A", "10.0.0.1"))));
        assert_eq!(tracking(one, &saved), None);
        let moved = rule("D", "10.0.0.1") + &rule("A", "10.0.0.2");
        assert_eq!(tracking(other, &saved), Some(format!("*raw\n{moved}COMMIT\n")));
        assert_eq!(tracking(None, &saved), Some(format!("*raw\n{}COMMIT\n", rule("D", "10.0.0.1"))));
        assert_eq!(tracking(None, ""), None);
    }
}
