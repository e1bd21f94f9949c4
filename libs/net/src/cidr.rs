//! IPv4 ranges: parsing, membership, and the addresses a pod may have.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use crate::Error;

/// An IPv4 range such as `10.42.0.0/24`. Host bits are dropped when parsed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    network: u32,
    prefix: u8,
}

impl Cidr {
    /// The range of `prefix` bits that holds `address`; a prefix past 32 counts as 32.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        Self { network: u32::from(address) & mask(prefix), prefix }
    }

    /// The network's own address.
    pub fn network(self) -> Ipv4Addr {
        self.network.into()
    }

    /// The number of leading bits that are fixed.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The last address (broadcast on an ordinary link).
    pub fn last(self) -> Ipv4Addr {
        (self.network | !mask(self.prefix)).into()
    }

    /// Whether `address` belongs to the range.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix) == self.network
    }

    /// Whether the two ranges share an address.
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.network()) || other.contains(self.network())
    }

    /// The `n`th address, the network's own being number 0.
    pub fn nth(self, n: u32) -> Option<Ipv4Addr> {
        let address = self.network.checked_add(n)?;
        self.contains(address.into()).then(|| address.into())
    }

    /// The first address after the network's own: a pod range's gateway.
    pub fn gateway(self) -> Ipv4Addr {
        (self.network | 1).into()
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.prefix)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Cidr {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parsed = text.split_once('/').and_then(|(address, prefix)| {
            let prefix: u8 = prefix.parse().ok().filter(|p| *p <= 32)?;
            Some(Self::new(address.parse().ok()?, prefix))
        });
        parsed.ok_or_else(|| Error::BadCidr(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_prints() {
        let range: Cidr = "10.42.3.7/24".parse().unwrap();
        assert_eq!(
            (range.to_string(), range.gateway(), range.last(), range.nth(256)),
            ("10.42.3.0/24".into(), Ipv4Addr::new(10, 42, 3, 1), Ipv4Addr::new(10, 42, 3, 255), None)
        );
        for bad in ["", "10.42.0.0", "10.42.0.0/33", "10.42.0/24", "fd00::/64", "/", "10.42.0.0/-1"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn overlap_is_symmetric_and_whole_ranges_work() {
        let [all, pods, node, other]: [Cidr; 4] =
            ["0.0.0.0/0", "10.42.0.0/16", "10.42.9.0/24", "10.43.0.0/16"].map(|t| t.parse().unwrap());
        assert!(all.overlaps(pods) && pods.overlaps(all) && pods.overlaps(node) && node.overlaps(pods));
        assert!(!pods.overlaps(other) && !other.overlaps(node));
    }
}
