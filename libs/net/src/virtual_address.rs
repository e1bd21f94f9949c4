//! An address that several machines of a link have in turn, one at a time. Whose turn it is, is decided elsewhere (by a lease); here a
//! machine takes the address, keeps it and gives it up.
//!
//! A machine has it for a few seconds only and from then on by extending them. So the kernel takes it away from a machine whose program
//! was killed, or stands still, and cannot do so itself. [`lifetime`] is how long it may be kept.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    Address, Cidr, Error, Link, Netlink, Result,
    arp::{self, Mac},
    netns,
};

/// How much later than asked the kernel may take an address away: it waits that long between two looks.
pub const LATE: Duration = Duration::from_secs(1);

/// For how many seconds the kernel may keep an address that is ours for `lease`, counted from `age` ago; `None` if it is too late to
/// ask for any. Whoever takes the address when the lease is over finds it gone here.
pub fn lifetime(lease: Duration, age: Duration) -> Option<u32> {
    let whole = lease.checked_sub(LATE)?.checked_sub(age)?.as_secs();
    u32::try_from(whole).ok().filter(|seconds| *seconds > 0)
}

/// Why an address cannot be one that moves between machines here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It is none that a machine can have on a link.
    #[error("{0} is not an address that a machine on a link can have")]
    Special(Ipv4Addr),
    /// It is in a range of the cluster's.
    #[error("{0} is in {1}, a range of the cluster's own pods or services")]
    Taken(Ipv4Addr, Cidr),
    /// It is one of this machine's own.
    #[error("{0} is this machine's own address (on {1}): choose one that is nobody's")]
    Own(Ipv4Addr, String),
    /// The address that it is to be beside is on no link.
    #[error("no link of this machine has the address {0}, beside which the virtual address would be")]
    NoBearer(Ipv4Addr),
    /// The link is none of Ethernet's.
    #[error("{0} is not an Ethernet link")]
    NotEthernet(String),
    /// It is on another link, or on none.
    #[error("{address} is in no subnet of {link} ({subnets}): neighbours there would not look for it on that link")]
    Elsewhere {
        /// The address.
        address: Ipv4Addr,
        /// The link's name.
        link: String,
        /// The link's subnets.
        subnets: String,
    },
}

/// The link that is to bear the address, which is the one that has the address `beside`; and the links that have the address from an
/// earlier run. `ranges` are those that the cluster gives addresses from.
pub fn bearer<'l>(
    address: Ipv4Addr,
    beside: Ipv4Addr,
    ranges: &[Cidr],
    links: &'l [Link],
    addresses: &[Address],
) -> std::result::Result<(&'l Link, Mac, Vec<u32>), Unfit> {
    let special = address.is_unspecified() || address.is_loopback() || address.is_multicast() || address.octets()[0] >= 240;
    if special || address.octets()[0] == 0 {
        return Err(Unfit::Special(address));
    }
    if let Some(range) = ranges.iter().find(|range| range.contains(address)) {
        return Err(Unfit::Taken(address, *range));
    }
    let name = |index| links.iter().find(|link| link.index == index).map_or_else(String::new, |link| link.name.clone());
    let found = addresses.iter().find(|own| own.address == beside);
    let link = found.and_then(|own| links.iter().find(|link| link.index == own.link)).ok_or(Unfit::NoBearer(beside))?;
    // We add nothing but such.
    let left = |own: &Address| own.prefix == 32 && (own.link == link.index || !own.permanent) && address != beside;
    let (left, own): (Vec<&Address>, Vec<_>) =
        addresses.iter().filter(|own| own.address == address).partition(|own| left(own));
    if let Some(own) = own.first() {
        return Err(Unfit::Own(address, name(own.link)));
    }
    let near = addresses.iter().filter(|own| own.link == link.index && own.prefix < 32);
    let subnets: BTreeSet<Cidr> = near.map(|own| Cidr::new(own.address, own.prefix)).collect();
    let Some(subnet) = subnets.iter().find(|subnet| subnet.contains(address)) else {
        let subnets = subnets.iter().map(Cidr::to_string).collect::<Vec<_>>().join(", ");
        let subnets = if subnets.is_empty() { "it has none".to_owned() } else { subnets };
        return Err(Unfit::Elsewhere { address, link: link.name.clone(), subnets });
    };
    if subnet.prefix() < 31 && (address == subnet.network() || address == subnet.last()) {
        return Err(Unfit::Special(address));
    }
    let mac = link.mac.ok_or_else(|| Unfit::NotEthernet(link.name.clone()))?;
    Ok((link, mac, left.iter().map(|own| own.link).collect()))
}

/// The address, which this machine may take. It takes `CAP_NET_ADMIN` and `CAP_NET_RAW`.
#[derive(Debug)]
pub struct VirtualAddress {
    netlink: Netlink,
    namespace: Option<PathBuf>,
    address: Ipv4Addr,
    link: Link,
    mac: Mac,
}

impl VirtualAddress {
    /// On the link that has the address `beside`, in the namespace at `namespace` or the process' own. Takes the address away if
    /// the machine has it from an earlier run.
    pub async fn open(namespace: Option<PathBuf>, address: Ipv4Addr, beside: Ipv4Addr, ranges: &[Cidr]) -> Result<Self> {
        let netlink = match &namespace {
            Some(path) => Netlink::in_namespace(path)?,
            None => Netlink::new()?,
        };
        let (links, addresses) = (netlink.links().await?, netlink.addresses().await?);
        let (link, mac, left) = bearer(address, beside, ranges, &links, &addresses)?;
        for index in left {
            netlink.delete_address(index, address, 32).await?;
        }
        let this = Self { netlink, namespace, address, link: link.clone(), mac };
        // What would be refused later is refused now.
        this.withdraw().await?;
        this.with_socket(|_| Ok(())).await?;
        Ok(this)
    }

    /// The name of the link that bears it.
    pub fn link(&self) -> &str {
        &self.link.name
    }

    /// Who else on the link has the address. To be asked before it is taken; takes half a second when nobody has.
    pub async fn other_holder(&self) -> Result<Option<Mac>> {
        let address = self.address;
        self.with_socket(move |socket| socket.probe(address)).await
    }

    /// Takes the address for so many seconds, or keeps it for so many more. Fails if the link is not connected to anything.
    pub async fn keep(&self, seconds: u32) -> Result<()> {
        if !self.netlink.link_of_index(self.link.index).await?.is_some_and(|link| link.running) {
            return Err(Error::NotConnected(self.link.name.clone()));
        }
        self.netlink.set_address_for(self.link.index, self.address, 32, seconds).await
    }

    /// Tells everybody on the link that the address is here.
    pub async fn announce(&self) -> Result<()> {
        let address = self.address;
        self.with_socket(move |socket| socket.announce(address)).await
    }

    /// Gives the address up; fine without it.
    pub async fn withdraw(&self) -> Result<()> {
        self.netlink.delete_address(self.link.index, self.address, 32).await
    }

    async fn with_socket<T: Send + 'static>(
        &self,
        work: impl FnOnce(&arp::Socket) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (namespace, link, mac) = (self.namespace.clone(), self.link.index, self.mac);
        let work = move || work(&arp::Socket::open(link, mac)?);
        let done = tokio::task::spawn_blocking(move || match namespace.as_deref() {
            Some(path) => netns::within(path, work),
            None::<&Path> => work(),
        });
        done.await.map_err(|_| Error::Panicked)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_done_with_it_when_the_lease_is() {
        let lifetimes = [0, 10, 1000, 1010, 2990, 3010, 9000].map(|age| {
            let age = Duration::from_millis(age);
            let seconds = lifetime(Duration::from_secs(5), age);
            let end = age + Duration::from_secs(seconds.unwrap_or_default().into()) + LATE;
            assert!(seconds.is_none() || end <= Duration::from_secs(5));
            seconds
        });
        assert_eq!(lifetimes, [Some(4), Some(3), Some(3), Some(2), Some(1), None, None]);
    }

    fn link(index: u32, name: &str, mac: Option<Mac>) -> Link {
        let (up, running, mtu, packets, controller) = (true, true, 1500, crate::USUAL_PACKETS, None);
        Link { index, name: name.to_owned(), up, running, mac, mtu, packets, controller }
    }

    fn own(link: u32, address: &str, permanent: bool) -> Address {
        let (address, prefix) = address.split_once('/').unwrap();
        Address { link, address: address.parse().unwrap(), prefix: prefix.parse().unwrap(), permanent }
    }

    #[test]
    fn an_address_must_be_one_of_the_servers_link() {
        let mac = [2, 0, 0, 0, 0, 1];
        let links = [link(1, "lo", Some([0; 6])), link(2, "eth0", Some(mac)), link(3, "eth1", None)];
        let addresses = [
            own(1, "127.0.0.1/8", true),
            own(1, "192.0.2.77/32", true),
            own(2, "192.0.2.5/24", true),
            own(2, "192.0.2.6/24", false),
            own(2, "192.0.2.70/32", true),
            own(2, "192.0.2.71/32", false),
            own(3, "192.0.2.72/32", false),
            own(3, "198.51.100.5/24", true),
        ];
        let ranges = ["192.0.2.64/30", "10.43.0.0/16"].map(|range| range.parse().unwrap());
        let ask = |address: &str, beside: &str| {
            let (address, beside) = (address.parse().unwrap(), beside.parse().unwrap());
            bearer(address, beside, &ranges, &links, &addresses).map(|(link, _, left)| (link.index, left))
        };
        let fit = ["192.0.2.9", "192.0.2.70", "192.0.2.71", "192.0.2.72"].map(|address| ask(address, "192.0.2.5"));
        assert_eq!(fit, [Ok((2, vec![])), Ok((2, vec![2])), Ok((2, vec![2])), Ok((2, vec![3]))]);

        let special = ["0.0.0.0", "0.1.2.3", "127.0.0.5", "224.0.0.18", "255.255.255.255", "192.0.2.0", "192.0.2.255"];
        for address in special {
            assert_eq!(ask(address, "192.0.2.5"), Err(Unfit::Special(address.parse().unwrap())));
        }
        let ip = |text: &str| text.parse::<Ipv4Addr>().unwrap();
        let subnets = "192.0.2.0/24".to_owned();
        let refused = [
            (ask("10.43.0.1", "192.0.2.5"), Unfit::Taken(ip("10.43.0.1"), ranges[1])),
            (ask("192.0.2.5", "192.0.2.5"), Unfit::Own(ip("192.0.2.5"), "eth0".to_owned())),
            (ask("192.0.2.6", "192.0.2.5"), Unfit::Own(ip("192.0.2.6"), "eth0".to_owned())),
            (ask("192.0.2.77", "192.0.2.5"), Unfit::Own(ip("192.0.2.77"), "lo".to_owned())),
            (ask("192.0.2.9", "192.0.2.4"), Unfit::NoBearer(ip("192.0.2.4"))),
            (ask("198.51.100.9", "198.51.100.5"), Unfit::NotEthernet("eth1".to_owned())),
            (
                ask("203.0.113.1", "192.0.2.5"),
                Unfit::Elsewhere { address: ip("203.0.113.1"), link: "eth0".to_owned(), subnets },
            ),
        ];
        for (got, wanted) in refused {
            assert_eq!(got, Err(wanted));
        }
    }
}
