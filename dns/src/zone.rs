//! What the cluster's names stand for: entries by service, and the answer to a query as plain values.
//!
//! ```text
//! SERVICE.NAMESPACE.svc.DOMAIN                   A, AAAA, SRV; CNAME of an ExternalName
//! _PORT._PROTOCOL.SERVICE.NAMESPACE.svc.DOMAIN   SRV
//! HOST.SERVICE.NAMESPACE.svc.DOMAIN              A, AAAA of one endpoint of a headless service
//! A-B-C-D.NAMESPACE.pod.DOMAIN                   A
//! D.C.B.A.in-addr.arpa                           PTR of cluster addresses and of headless endpoints
//! dns-version.DOMAIN                             TXT
//! ```

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};

/// The version of the specification that names follow.
const SPECIFICATION: &str = "1.1.0";

/// What a query asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An IPv4 address.
    A,
    /// An IPv6 address.
    Aaaa,
    /// Ports and hosts of a service.
    Srv,
    /// The name of an address.
    Ptr,
    /// An alias.
    Cname,
    /// Text.
    Txt,
    /// The zone's authority.
    Soa,
    /// The zone's name server.
    Ns,
    /// Anything that the zone has none of.
    Other,
}

/// One record without its time to live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The owner's full name, lower case, without the last dot.
    pub name: String,
    /// What it stands for.
    pub data: Data,
}

/// What a record says. Names are full, without the last dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// `A` or `AAAA`.
    Address(IpAddr),
    /// `SRV`; the priority is always 0.
    Service {
        /// This target's share of 100.
        weight: u16,
        /// The port.
        port: u16,
        /// The host.
        target: String,
    },
    /// `PTR`
    Pointer(String),
    /// `CNAME`
    Alias(String),
    /// `TXT`
    Text(String),
    /// `NS`
    NameServer(String),
    /// `SOA` of the cluster's domain.
    Authority,
}

/// What a query is answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The records, and addresses of hosts they name.
    Rows(Vec<Row>, Vec<Row>),
    /// The name is an alias; the asker wants what this other name stands for.
    Alias(String, String),
    /// The name exists, but has nothing of this kind.
    NoData,
    /// The name does not exist.
    NoName,
    /// Not the cluster's name.
    Outside,
}

/// Why a zone cannot be.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a range of addresses, such as 10.42.0.0/16")]
pub struct RangeError(String);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Port {
    name: String,
    protocol: String,
    number: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Endpoint {
    host: String,
    address: IpAddr,
    ports: Arc<[Port]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Cluster(Vec<IpAddr>, Vec<Port>),
    Headless(Vec<Endpoint>),
    External(String),
}

/// What a service's names stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry(Target);

impl Entry {
    /// The entry of a service with these slices.
    pub fn of<'a>(service: &Service, slices: impl Iterator<Item = &'a EndpointSlice>) -> Self {
        let spec = service.spec.as_ref();
        if let Some(name) =
            spec.filter(|s| s.type_.as_deref() == Some("ExternalName")).and_then(|s| s.external_name.as_deref())
        {
            return Self(Target::External(name.trim_end_matches('.').to_ascii_lowercase()));
        }
        let listed = spec.and_then(|s| s.cluster_ips.as_deref()).unwrap_or_default();
        let single = spec.and_then(|s| s.cluster_ip.as_ref());
        let addresses: Vec<IpAddr> = if listed.is_empty() {
            single.into_iter().filter_map(|address| parsed(address)).collect()
        } else {
            listed.iter().filter_map(|address| parsed(address)).collect()
        };
        if addresses.is_empty() {
            let mut endpoints: Vec<Endpoint> = slices.flat_map(endpoints).collect();
            endpoints.sort_by_key(|endpoint| endpoint.address);
            // One that moves from one slice to another is in both for a moment.
            endpoints.dedup();
            return Self(Target::Headless(endpoints));
        }
        let ports = spec.and_then(|s| s.ports.as_deref()).unwrap_or_default().iter();
        let ports = ports.map(|p| port(p.name.as_deref(), p.protocol.as_deref(), p.port));
        Self(Target::Cluster(addresses, ports.collect()))
    }

    /// Addresses whose reverse name is this service's or one of its endpoints', with the host in front of the service's name.
    fn reverse(&self) -> Vec<(IpAddr, Option<&str>)> {
        match &self.0 {
            Target::Cluster(addresses, _) => addresses.iter().map(|a| (*a, None)).collect(),
            Target::Headless(endpoints) => endpoints.iter().map(|e| (e.address, Some(e.host.as_str()))).collect(),
            Target::External(_) => Vec::new(),
        }
    }
}

fn parsed(address: &str) -> Option<IpAddr> {
    address.parse().ok()
}

fn port(name: Option<&str>, protocol: Option<&str>, number: i32) -> Port {
    Port {
        name: name.unwrap_or_default().to_ascii_lowercase(),
        protocol: protocol.unwrap_or("TCP").to_ascii_lowercase(),
        number: u16::try_from(number).unwrap_or_default(),
    }
}

/// The endpoints of a slice that may be named: the ready ones. One without a hostname is called by its address.
fn endpoints(slice: &EndpointSlice) -> impl Iterator<Item = Endpoint> {
    let ports = slice.ports.iter().flatten();
    let ports: Arc<[Port]> = ports.filter_map(|p| Some(port(p.name.as_deref(), p.protocol.as_deref(), p.port?))).collect();
    let ready = slice.endpoints.iter().filter(|e| e.conditions.as_ref().and_then(|c| c.ready) != Some(false));
    ready.filter_map(move |endpoint| {
        let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
        let host = endpoint.hostname.clone().filter(|h| !h.is_empty());
        let host = host.unwrap_or_else(|| address.to_string().replace(['.', ':'], "-")).to_ascii_lowercase();
        Some(Endpoint { host, address, ports: ports.clone() })
    })
}

/// The names of a cluster.
pub struct Zone {
    domain: String,
    ranges: Vec<(IpAddr, u8)>,
    /// How many services each namespace has.
    namespaces: HashMap<String, usize>,
    services: HashMap<String, Entry>,
    reverse: HashMap<IpAddr, BTreeSet<String>>,
}

impl Zone {
    /// A zone without services, for a domain and for the reverse names of the cluster's ranges (`10.42.0.0/16`).
    pub fn new(domain: &str, ranges: &[String]) -> Result<Self, RangeError> {
        let range = |text: &String| {
            let (address, bits) = text.split_once('/')?;
            Some((address.parse().ok()?, bits.parse().ok().filter(|b| *b <= 128)?))
        };
        let ranges = ranges.iter().map(|text| range(text).ok_or_else(|| RangeError(text.clone())));
        Ok(Self {
            domain: domain.trim_end_matches('.').to_ascii_lowercase(),
            ranges: ranges.collect::<Result<_, _>>()?,
            namespaces: HashMap::new(),
            services: HashMap::new(),
            reverse: HashMap::new(),
        })
    }

    /// The cluster's domain, without the last dot.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Notes what a service's names stand for; `None` when it is gone.
    pub fn set_service(&mut self, namespace: &str, name: &str, entry: Option<Entry>) {
        let key = format!("{name}.{namespace}");
        let full = format!("{key}.svc.{}", self.domain);
        let named = |host: Option<&str>| host.map_or_else(|| full.clone(), |host| format!("{host}.{full}"));
        if let Some(old) = self.services.remove(&key) {
            if let Some(count) = self.namespaces.get_mut(namespace) {
                *count -= 1;
                if *count == 0 {
                    self.namespaces.remove(namespace);
                }
            }
            for (address, host) in old.reverse() {
                let names = self.reverse.entry(address).or_default();
                names.remove(&named(host));
                if names.is_empty() {
                    self.reverse.remove(&address);
                }
            }
        }
        if let Some(entry) = entry {
            for (address, host) in entry.reverse() {
                self.reverse.entry(address).or_default().insert(named(host));
            }
            *self.namespaces.entry(namespace.to_owned()).or_default() += 1;
            self.services.insert(key, entry);
        }
    }

    /// Answers a query for a full name, lower case, without the last dot.
    pub fn answer(&self, name: &str, kind: Kind) -> Answer {
        if let Some(address) = reversed(name) {
            return self.pointer(name, address, kind);
        }
        let Some(rest) = name.strip_suffix(self.domain.as_str()) else { return Answer::Outside };
        let row = |data| Answer::Rows(vec![Row { name: name.to_owned(), data }], Vec::new());
        let Some(rest) = rest.strip_suffix('.') else {
            return match (rest.is_empty(), kind) {
                (true, Kind::Soa) => row(Data::Authority),
                (true, Kind::Ns) => row(Data::NameServer(format!("ns.dns.{}", self.domain))),
                (true, _) => Answer::NoData,
                (false, _) => Answer::Outside,
            };
        };
        let labels: Vec<&str> = rest.rsplit('.').collect();
        match (labels.as_slice(), kind) {
            (["dns-version"], Kind::Txt) => row(Data::Text(SPECIFICATION.to_owned())),
            (["dns-version" | "svc" | "pod" | "dns"], _) => Answer::NoData,
            (["dns", "ns"], _) => self.service(name, "kube-dns.kube-system", kind),
            (["svc", namespace], _) if self.namespaces.contains_key(*namespace) => Answer::NoData,
            (["svc", namespace, service], _) => self.service(name, &format!("{service}.{namespace}"), kind),
            (["svc", namespace, service, host], _) => self.host(name, &format!("{service}.{namespace}"), host, kind),
            (["svc", namespace, service, protocol, port], _) => {
                self.port(name, &format!("{service}.{namespace}"), (port, protocol), kind)
            }
            (["pod", _], _) => Answer::NoData,
            (["pod", _, address], _) => match dashed(address) {
                Some(address) => rows(addresses(name, [address], kind), Vec::new()),
                None => Answer::NoName,
            },
            _ => Answer::NoName,
        }
    }

    fn service(&self, name: &str, key: &str, kind: Kind) -> Answer {
        let Some(Entry(target)) = self.services.get(key) else { return Answer::NoName };
        match (target, kind) {
            (Target::External(to), Kind::Cname) => {
                rows(vec![Row { name: name.to_owned(), data: Data::Alias(to.clone()) }], Vec::new())
            }
            (Target::External(to), _) => Answer::Alias(name.to_owned(), to.clone()),
            // So the specification has it (2.4.1).
            (Target::Headless(list), _) if list.is_empty() => Answer::NoName,
            (_, Kind::Srv) => self.records_of_ports(name, key, target, |_| true),
            (Target::Cluster(list, _), _) => rows(addresses(name, list.iter().copied(), kind), Vec::new()),
            (Target::Headless(list), _) => rows(addresses(name, list.iter().map(|e| e.address), kind), Vec::new()),
        }
    }

    fn host(&self, name: &str, key: &str, host: &str, kind: Kind) -> Answer {
        match self.services.get(key) {
            Some(Entry(Target::Headless(list))) if list.iter().any(|e| e.host == host) => {
                let named: Vec<_> = list.iter().filter(|e| e.host == host).cloned().collect();
                if kind == Kind::Srv {
                    return self.records_of_ports(name, key, &Target::Headless(named), |_| true);
                }
                rows(addresses(name, named.iter().map(|e| e.address), kind), Vec::new())
            }
            // Above names of ports there is nothing to have.
            Some(Entry(Target::Headless(list))) if list.is_empty() => Answer::NoName,
            Some(Entry(Target::Headless(_) | Target::Cluster(..))) if matches!(host, "_tcp" | "_udp" | "_sctp") => {
                Answer::NoData
            }
            _ => Answer::NoName,
        }
    }

    fn port(&self, name: &str, key: &str, (port, protocol): (&str, &str), kind: Kind) -> Answer {
        let (Some(Entry(target)), Some(port), Some(protocol)) =
            (self.services.get(key), port.strip_prefix('_'), protocol.strip_prefix('_'))
        else {
            return Answer::NoName;
        };
        match self.records_of_ports(name, key, target, |p| p.name == port && p.protocol == protocol) {
            Answer::NoData => Answer::NoName,
            _ if kind != Kind::Srv => Answer::NoData,
            found => found,
        }
    }

    /// A record for every port that is wanted, of every host; their addresses besides.
    fn records_of_ports(&self, name: &str, key: &str, target: &Target, wanted: impl Fn(&Port) -> bool) -> Answer {
        let full = format!("{key}.svc.{}", self.domain);
        let mut found: Vec<(u16, String)> = Vec::new();
        let mut hosts: Vec<Row> = Vec::new();
        match target {
            Target::External(_) => {}
            Target::Cluster(list, ports) => {
                found.extend(ports.iter().filter(|p| wanted(p)).map(|p| (p.number, full.clone())));
                hosts.extend(list.iter().map(|a| Row { name: full.clone(), data: Data::Address(*a) }));
            }
            Target::Headless(list) => {
                for endpoint in list {
                    let host = format!("{}.{full}", endpoint.host);
                    let before = found.len();
                    found.extend(endpoint.ports.iter().filter(|p| wanted(p)).map(|p| (p.number, host.clone())));
                    if found.len() > before {
                        hosts.push(Row { name: host, data: Data::Address(endpoint.address) });
                    }
                }
            }
        }
        found.dedup();
        let weight = u16::try_from(100 / found.len().max(1)).unwrap_or(1).max(1);
        let records = found
            .into_iter()
            .map(|(port, target)| Row { name: name.to_owned(), data: Data::Service { weight, port, target } });
        rows(records.collect(), hosts)
    }

    fn pointer(&self, name: &str, address: IpAddr, kind: Kind) -> Answer {
        match self.reverse.get(&address) {
            Some(_) if kind != Kind::Ptr => Answer::NoData,
            Some(names) => {
                let row = |to: &String| Row { name: name.to_owned(), data: Data::Pointer(to.clone()) };
                rows(names.iter().map(row).collect(), Vec::new())
            }
            None if self.ranges.iter().any(|range| contains(*range, address)) => Answer::NoName,
            None => Answer::Outside,
        }
    }
}

fn rows(answers: Vec<Row>, additional: Vec<Row>) -> Answer {
    if answers.is_empty() { Answer::NoData } else { Answer::Rows(answers, additional) }
}

fn addresses(name: &str, list: impl IntoIterator<Item = IpAddr>, kind: Kind) -> Vec<Row> {
    let fits = |address: &IpAddr| match kind {
        Kind::A => address.is_ipv4(),
        Kind::Aaaa => address.is_ipv6(),
        _ => false,
    };
    // Several endpoints may share an address.
    let once: BTreeSet<IpAddr> = list.into_iter().filter(fits).collect();
    once.into_iter().map(|a| Row { name: name.to_owned(), data: Data::Address(a) }).collect()
}

/// The address in a pod's name: `10-42-0-7`, `fd00--7`.
fn dashed(label: &str) -> Option<IpAddr> {
    label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4).ok().or_else(|| label.replace('-', ":").parse().ok())
}

/// The address that a reverse name is for.
fn reversed(name: &str) -> Option<IpAddr> {
    if let Some(labels) = name.strip_suffix(".in-addr.arpa") {
        let bytes: Vec<u8> = labels.rsplit('.').map(|l| l.parse().ok()).collect::<Option<_>>()?;
        return Some(IpAddr::V4(<[u8; 4]>::try_from(bytes).ok()?.into()));
    }
    let labels = name.strip_suffix(".ip6.arpa")?;
    let nibbles: Vec<&str> = labels.rsplit('.').collect();
    let fits = nibbles.len() == 32 && nibbles.iter().all(|n| n.len() == 1);
    let number = u128::from_str_radix(&nibbles.concat(), 16).ok().filter(|_| fits)?;
    Some(IpAddr::V6(Ipv6Addr::from(number)))
}

fn contains((network, bits): (IpAddr, u8), address: IpAddr) -> bool {
    let differs = |a: u128, b: u128, width: u32| {
        let shift = width.saturating_sub(u32::from(bits));
        shift < width && (a >> shift) != (b >> shift)
    };
    match (network, address) {
        (IpAddr::V4(n), IpAddr::V4(a)) => !differs(u32::from(n).into(), u32::from(a).into(), 32),
        (IpAddr::V6(n), IpAddr::V6(a)) => !differs(n.into(), a.into(), 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
