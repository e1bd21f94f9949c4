//! Ports of a node that lead to its pods.
//!
//! The rules are the same whoever connects the pods: the runtime's own network ([`crate::pods`]) writes them among its others,
//! and for pods that a CNI plugin has connected, and which no plugin leads ports to, [`HostPorts`] writes them alone.

use std::{fmt, net::Ipv4Addr, path::PathBuf, str::FromStr};

use crate::{
    Result,
    iptables::Iptables,
    pods::{FILTER_CHAINS, table},
};

/// The chains of table `nat` that they need.
pub(crate) const CHAINS: [&str; 2] = ["KNARR-POSTROUTING", "KNARR-HOSTPORTS"];
/// The ways into those.
pub(crate) const JUMPS: [&str; 3] = [
    "-A POSTROUTING -j KNARR-POSTROUTING",
    "-A PREROUTING -m addrtype --dst-type LOCAL -j KNARR-HOSTPORTS",
    "-A OUTPUT -m addrtype --dst-type LOCAL -j KNARR-HOSTPORTS",
];

/// A transport protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

impl FromStr for Protocol {
    type Err = ();

    /// Reads upper and lower case.
    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Ok(Self::Sctp),
            _ => Err(()),
        }
    }
}

/// A port of the node that leads to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// The protocol.
    pub protocol: Protocol,
    /// The node's address that it listens on; any if `None`.
    pub host_ip: Option<Ipv4Addr>,
    /// The node's port.
    pub host_port: u16,
    /// The pod's port.
    pub container_port: u16,
}

impl HostPort {
    /// A line that [`HostPort::from_note`] reads.
    pub fn to_note(self) -> String {
        let ip = self.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED);
        format!("{} {ip} {} {}", self.protocol, self.host_port, self.container_port)
    }

    /// Reads [`HostPort::to_note`]'s line.
    pub fn from_note(note: &str) -> Option<Self> {
        let mut words = note.split(' ');
        let protocol = words.next()?.parse().ok()?;
        let ip: Ipv4Addr = words.next()?.parse().ok()?;
        let host_ip = Some(ip).filter(|ip| !ip.is_unspecified());
        Some(Self { protocol, host_ip, host_port: words.next()?.parse().ok()?, container_port: words.next()?.parse().ok()? })
    }
}

/// The rules for one pod's ports.
pub(crate) fn rules(pod: Ipv4Addr, ports: &[HostPort]) -> Vec<String> {
    let lead = |port: &HostPort| {
        let ip = port.host_ip.map(|ip| format!(" -d {ip}/32")).unwrap_or_default();
        format!(
            "-A KNARR-HOSTPORTS{ip} -p {0} -m {0} --dport {1} -j DNAT --to-destination {pod}:{2}",
            port.protocol, port.host_port, port.container_port
        )
    };
    let mut rules: Vec<String> = ports.iter().map(lead).collect();
    if !ports.is_empty() {
        // A pod that calls its own port would answer itself past the node.
        rules.push(format!("-A KNARR-POSTROUTING -s {pod}/32 -d {pod}/32 -j MASQUERADE --random-fully"));
    }
    rules
}

/// Those of `jumps` that the saved tables do not have.
pub(crate) fn missing(jumps: &[&str], present: &str) -> Vec<String> {
    jumps.iter().filter(|jump| !present.lines().any(|line| line == **jump)).map(|&jump| jump.to_owned()).collect()
}

/// A pod's address and its ports.
pub type PodPorts = (Ipv4Addr, Vec<HostPort>);

/// The rules for ports alone.
#[derive(Clone, Debug)]
pub struct HostPorts(Iptables);

impl HostPorts {
    /// For a node's network namespace; the process' own if `None`.
    pub fn new(namespace: Option<PathBuf>) -> Self {
        Self(namespace.map_or_else(Iptables::here, Iptables::within))
    }

    /// Writes the rules for these pods, and none for others. Blocking; calls must not overlap.
    pub fn write(&self, pods: &[PodPorts]) -> Result<()> {
        self.0.restore(nat(pods, &self.0.save("nat")?))
    }

    /// The same where the runtime's own network may have been before: its other rules go. Blocking.
    pub fn take_over(&self, pods: &[PodPorts]) -> Result<()> {
        let (saved, filter) = (self.0.save("nat")?, self.0.save("filter")?);
        let present = |saved: &str, chain: &str| saved.lines().any(|line| line.starts_with(&format!(":{chain} ")));
        let mut input = String::new();
        if !pods.is_empty() || CHAINS.iter().any(|chain| present(&saved, chain)) {
            input += &nat(pods, &saved);
        }
        let stale: Vec<&str> = FILTER_CHAINS.into_iter().filter(|chain| present(&filter, chain)).collect();
        if !stale.is_empty() {
            input += &table("filter", &stale, &[]);
        }
        if input.is_empty() { Ok(()) } else { self.0.restore(input) }
    }
}

/// Both chains of `nat` with nothing but ports.
fn nat(pods: &[PodPorts], present: &str) -> String {
    let all: Vec<String> = pods.iter().flat_map(|(pod, ports)| rules(*pod, ports)).collect();
    table("nat", &CHAINS, &[all, missing(&JUMPS, present)])
}
