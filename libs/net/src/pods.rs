//! A node's pod network: a veth pair and a route a pod, and the rules around them.
//!
//! A pod has its address as a /32 and reaches everything, its neighbours on the same node included, through the node
//! (`default via GATEWAY`): the node's end of each pair has the gateway's address, and a route to the pod. So every packet passes
//! the node's routing and its service and policy rules once.
//!
//! One more link, the anchor, has the gateway's address while there are no pods. It is a bridge without ports, for the kernel's
//! `dummy` is a module that not every machine has.
//!
//! Nothing of the pod and service ranges may stray off the node: parts of the pod range that no route leads to are
//! unreachable; the service range leads to the anchor (a local sender's packet needs *some* route before the OUTPUT chain
//! translates its destination; by way of loopback the kernel could not send the sender its ICMP errors) and what is still
//! untranslated afterwards is rejected.
//!
//! All of it is idempotent and rebuilt from the leases on disk ([`crate::ipam`]), so a node's agent may die at any point.

use std::{
    collections::HashSet,
    net::Ipv4Addr,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::{mpsc, oneshot};

use crate::{
    Cidr, Error, HostPort, Ipv4Setting, LinkEnd, Netlink, Result, Route, USUAL_PACKETS, Via, hash, host_ports,
    ipam::{Ipam, Lease},
    iptables::Iptables,
    netns, vxlan,
};

/// What a node's pod network is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The node's own range (`spec.podCIDR`).
    pub pod_cidr: Cidr,
    /// Every node's pods.
    pub cluster_cidr: Cidr,
    /// Services.
    pub service_cidr: Cidr,
    /// The node's address: what its own packets to services come from.
    pub node_address: Option<Ipv4Addr>,
    /// The anchor's name.
    pub anchor: String,
    /// The pods' MTU; what the way to other nodes has room for if `None`.
    pub mtu: Option<u32>,
    /// Where leases are kept.
    pub state: PathBuf,
    /// The network namespace of the node; the process' own if `None`.
    pub namespace: Option<PathBuf>,
}

impl Config {
    /// The usual ranges and names.
    pub fn new(pod_cidr: Cidr, state: impl Into<PathBuf>) -> Self {
        Self {
            pod_cidr,
            cluster_cidr: Cidr::new(Ipv4Addr::new(10, 42, 0, 0), 16),
            service_cidr: Cidr::new(Ipv4Addr::new(10, 43, 0, 0), 16),
            node_address: None,
            anchor: "cni0".to_owned(),
            mtu: None,
            state: state.into(),
            namespace: None,
        }
    }
}

/// A pod on the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The pod's address.
    pub address: Ipv4Addr,
    /// Its way out.
    pub gateway: Ipv4Addr,
}

/// A pod to be taken off, by its key, and who is told of the lease that ended with it.
type Doomed = (String, oneshot::Sender<Result<Option<Lease>>>);

/// A node's pod network. Methods may run concurrently for different pods.
#[derive(Debug)]
pub struct PodNetwork {
    config: Config,
    ipam: Arc<Ipam>,
    netlink: Netlink,
    iptables: Iptables,
    /// Keys of pods to be taken off, with whom to tell when they are.
    doomed: mpsc::UnboundedSender<Doomed>,
    /// Serialises changes of the host-port chain, each of which writes the whole chain.
    host_ports: tokio::sync::Mutex<()>,
}

/// What a pod's link is to take, where that is not the kernel's default.
#[derive(Debug, Default)]
struct Width {
    mtu: Option<u32>,
    /// [`crate::Link::packets`].
    packets: Option<u32>,
}

impl PodNetwork {
    /// Sets the node up: anchor, forwarding, routes, rules. Safe to repeat.
    pub async fn start(config: Config) -> Result<Self> {
        let folder = config.state.join("addresses");
        let ipam = Arc::new(Ipam::open(config.pod_cidr, &folder)?);
        let (netlink, iptables) = match &config.namespace {
            Some(path) => (Netlink::in_namespace(path)?, Iptables::within(path)),
            None => (Netlink::new()?, Iptables::here()),
        };
        if let Some(node) = config.node_address
            && !netlink.addresses().await?.iter().any(|held| held.address == node)
        {
            return Err(Error::NotHere(node));
        }
        let anchor = netlink.ensure_bridge(&config.anchor, config.mtu).await?.index;
        netlink.add_address(anchor, config.pod_cidr.gateway(), 32).await?;
        for route in routes(&config, anchor) {
            netlink.set_route(route).await?;
        }
        let (doomed, queue) = mpsc::unbounded_channel();
        tokio::spawn(take_off_in_batches(netlink.clone(), ipam.clone(), queue));
        let host_ports = tokio::sync::Mutex::default();
        let network = Self { config, ipam, netlink, iptables, doomed, host_ports };
        network.in_node(|| {
            netns::set_sysctl("net.ipv4.ip_forward", "1")?;
            netns::set_sysctl("net.ipv4.conf.all.send_redirects", "0")
        })?;
        network.write_rules().await?;
        Ok(network)
    }

    /// Connects the namespace at `netns` as `eth0` and returns its address. Repeating it for the same key gives the same
    /// address and a fresh interface.
    pub async fn attach(&self, netns: &Path, key: &str, host_ports: &[HostPort]) -> Result<Attachment> {
        let namespace = netns::open(netns)?;
        self.attach_fd(namespace.as_fd(), key, host_ports).await
    }

    /// [`PodNetwork::attach`] for an open namespace.
    pub async fn attach_fd(&self, netns: BorrowedFd<'_>, key: &str, host_ports: &[HostPort]) -> Result<Attachment> {
        let notes: Vec<String> = host_ports.iter().copied().map(HostPort::to_note).collect();
        let address = self.ipam.allocate(key, &notes)?;
        let gateway = self.config.pod_cidr.gateway();
        let name = host_interface(key);
        let Width { mtu, packets } = self.width().await?;
        let near = LinkEnd { name: &name, mtu, ..LinkEnd::default() };
        let far = LinkEnd { name: "eth0", namespace: Some(netns), mtu, mac: Some(mac(address)) };
        if let Err(error) = self.netlink.add_veth(near, far).await {
            if error.raw_os_error() != Some(libc::EEXIST) {
                return Err(error);
            }
            // An attempt that a crash cut short.
            self.netlink.delete_link(&name).await?;
            self.netlink.add_veth(near, far).await?;
        }
        let near = self.netlink.existing(&name).await?.index;
        // A pod's packets to a service that leads back to it leave by the link that they came in by: no reason to tell it of a
        // shorter way. The node's own packets to a host port of 127.0.0.1 leave by it, too; KNARR-LOOPBACK keeps the pod's
        // packets with such addresses out.
        let settings = [(Ipv4Setting::SendRedirects, false), (Ipv4Setting::RouteLocalnet, !host_ports.is_empty())];
        self.netlink.set_ipv4(near, &settings).await?;
        // Rules are IPv4's: the pod has nobody to speak to by another protocol.
        self.netlink.set_without_ipv6_address(near).await?;
        let fd = netns.try_clone_to_owned().map_err(Error::system("duplicate a namespace's descriptor"))?;
        let pod = Netlink::in_namespace_fd(fd)?;
        let eth0 = pod.existing("eth0").await?.index;
        if let Some(packets) = packets {
            self.netlink.set_packets(near, packets).await?;
            pod.set_packets(eth0, packets).await?;
        }
        pod.set_up(pod.existing("lo").await?.index).await?;
        pod.set_up(eth0).await?;
        pod.add_address(eth0, address, 32).await?;
        pod.set_route(Route {
            destination: Cidr::new(gateway, 32),
            via: Via::Link { index: eth0, source: None },
            metric: 0,
        })
        .await?;
        let everywhere = Cidr::new(Ipv4Addr::UNSPECIFIED, 0);
        pod.set_route(Route { destination: everywhere, via: Via::Gateway(gateway), metric: 0 }).await?;
        self.netlink.add_address(near, gateway, 32).await?;
        let to_pod = Via::Link { index: near, source: Some(gateway) };
        self.netlink.set_route(Route { destination: Cidr::new(address, 32), via: to_pod, metric: 0 }).await?;
        if !host_ports.is_empty() {
            self.write_rules().await?;
        }
        Ok(Attachment { address, gateway })
    }

    /// Takes a pod off the network: interface, host ports, address. Nothing to take off is fine.
    pub async fn detach(&self, key: &str) -> Result<()> {
        let (tell, told) = oneshot::channel();
        // The queue's task lives as long as `doomed`; should it have panicked, the link goes with the pod's namespace.
        let _ = self.doomed.send((key.to_owned(), tell));
        let ended = match told.await {
            Ok(outcome) => outcome?,
            Err(_) => self.ipam.release(key)?,
        };
        if ended.is_some_and(|lease| !lease.notes.is_empty()) {
            self.write_rules().await?;
        }
        Ok(())
    }

    /// The address of an attached pod.
    pub fn address(&self, key: &str) -> Option<Ipv4Addr> {
        self.ipam.get(key).map(|lease| lease.address)
    }

    /// Detaches every pod whose key is not in `keep`: what a crash left behind.
    pub async fn retain(&self, keep: &HashSet<String>) -> Result<()> {
        let stray = self.ipam.leases().into_iter().filter(|lease| !keep.contains(&lease.key));
        let detached = stray.map(|lease| async move { self.detach(&lease.key).await });
        futures::future::try_join_all(detached).await.map(drop)
    }

    /// What the network was made from.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What a new pod's link takes: what the link takes which bears the node's address, or the overlay where there is one. Pods that
    /// are there already learn of a narrower way by the node's ICMP messages.
    async fn width(&self) -> Result<Width> {
        let (None, Some(node)) = (self.config.mtu, self.config.node_address) else {
            return Ok(Width { mtu: self.config.mtu, packets: None });
        };
        if let Some(overlay) = self.netlink.link(vxlan::NAME).await? {
            return Ok(Width { mtu: Some(overlay.mtu), packets: None });
        }
        let bearer = self.netlink.addresses().await?.into_iter().find(|bearer| bearer.address == node);
        let Some(bearer) = bearer else { return Ok(Width::default()) };
        let link = self.netlink.link_of_index(bearer.link).await?.filter(|link| link.name != "lo");
        Ok(link.map_or_else(Width::default, |link| Width {
            mtu: Some(link.mtu),
            packets: Some(link.packets).filter(|packets| *packets > USUAL_PACKETS),
        }))
    }

    async fn write_rules(&self) -> Result<()> {
        let _only_writer = self.host_ports.lock().await;
        let (config, iptables, leases) = (self.config.clone(), self.iptables.clone(), self.ipam.leases());
        let written = tokio::task::spawn_blocking(move || {
            let present = iptables.save("nat")? + &iptables.save("filter")?;
            iptables.restore(rules(&config, &leases, &present))
        });
        written.await.map_err(|_| Error::Panicked)?
    }

    fn in_node(&self, work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
        match &self.config.namespace {
            Some(path) => netns::within(path, work),
            None => work(),
        }
    }
}

/// Deletes links as they come, all that wait at once, and gives their addresses back where the disk may take its time.
async fn take_off_in_batches(netlink: Netlink, ipam: Arc<Ipam>, mut queue: mpsc::UnboundedReceiver<Doomed>) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, 256).await > 0 {
        let names: Vec<String> = batch.iter().map(|(key, _)| host_interface(key)).collect();
        let together = netlink.delete_links(&names).await.is_ok();
        let mut gone = Vec::with_capacity(names.len());
        for (name, (key, tell)) in names.iter().zip(batch.drain(..)) {
            match if together { Ok(()) } else { netlink.delete_link(name).await } {
                Ok(()) => gone.push((key, tell)),
                // Who waits for it may have been given up.
                Err(error) => drop(tell.send(Err(error))),
            }
        }
        let ipam = ipam.clone();
        let release = move || gone.into_iter().for_each(|(key, tell)| drop(tell.send(ipam.release(&key))));
        // Should it break off, those who wait do it themselves.
        let _ = tokio::task::spawn_blocking(release).await;
    }
}

/// What the names of the node's ends of pods' veth pairs begin with.
pub(crate) const VETH: &str = "veth";

/// The node's end of a pod's veth pair.
pub fn host_interface(key: &str) -> String {
    format!("{VETH}{:010x}", hash(key) & 0xff_ffff_ffff)
}

/// A pod's hardware address follows from its address: whoever gets the address again is not shadowed by a stale neighbour
/// entry.
fn mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x58, a, b, c, d]
}

/// Our chains of table `filter`.
pub(crate) const FILTER_CHAINS: [&str; 3] = ["KNARR-STRAY", "KNARR-FORWARD", "KNARR-LOOPBACK"];

fn routes(config: &Config, anchor: u32) -> [Route; 2] {
    // Above any route that leads somewhere.
    const LAST: u32 = 0x7fff_ffff;
    let services = Via::Link { index: anchor, source: config.node_address };
    [
        Route { destination: config.cluster_cidr, via: Via::Unreachable, metric: LAST },
        Route { destination: config.service_cidr, via: services, metric: LAST },
    ]
}

/// The whole of our chains, and jumps to them where `present` (the saved tables) has none yet.
fn rules(config: &Config, leases: &[Lease], present: &str) -> String {
    let Config { pod_cidr, cluster_cidr, service_cidr, .. } = config;
    let mut nat = vec![
        format!("-A KNARR-POSTROUTING -s 127.0.0.0/8 -d {pod_cidr} -j MASQUERADE --random-fully"),
        format!("-A KNARR-POSTROUTING -s {pod_cidr} -d 224.0.0.0/4 -j RETURN"),
        format!(
            "-A KNARR-POSTROUTING -s {pod_cidr} ! -d {cluster_cidr} -m comment --comment \"pods leave the cluster as their \
             node\" -j MASQUERADE --random-fully"
        ),
    ];
    for lease in leases {
        let ports: Vec<HostPort> = lease.notes.iter().filter_map(|note| HostPort::from_note(note)).collect();
        nat.extend(host_ports::rules(lease.address, &ports));
    }
    let filter = vec![
        format!("-A KNARR-STRAY -d {service_cidr} -j REJECT --reject-with icmp-host-unreachable"),
        format!("-A KNARR-FORWARD -s {cluster_cidr} -j ACCEPT"),
        format!("-A KNARR-FORWARD -d {cluster_cidr} -j ACCEPT"),
        "-A KNARR-LOOPBACK -s 127.0.0.0/8 ! -i lo -j DROP".to_owned(),
        // Answers from host ports bear the address that the node's own sender had.
        "-A KNARR-LOOPBACK -d 127.0.0.0/8 ! -i lo -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP".to_owned(),
    ];
    let filter_jumps = ["-A FORWARD -j KNARR-STRAY", "-A OUTPUT -j KNARR-STRAY", "-A FORWARD -j KNARR-FORWARD"];
    let missing = |jumps: &[&str]| host_ports::missing(jumps, present);
    // Before what others accept.
    let first = ["-A INPUT -j KNARR-LOOPBACK", "-A FORWARD -j KNARR-LOOPBACK"];
    let first = missing(&first).into_iter().map(|jump| jump.replacen("-A", "-I", 1)).collect();
    table("nat", &host_ports::CHAINS, &[nat, missing(&host_ports::JUMPS)])
        + &table("filter", &FILTER_CHAINS, &[filter, missing(&filter_jumps), first])
}

pub(crate) fn table(name: &str, chains: &[&str], rules: &[Vec<String>]) -> String {
    let mut text = format!("*{name}\n");
    for chain in chains {
        text += &format!(":{chain} - [0:0]\n");
    }
    for rule in rules.iter().flatten() {
        text += rule;
        text.push('\n');
    }
    text + "COMMIT\n"
}
