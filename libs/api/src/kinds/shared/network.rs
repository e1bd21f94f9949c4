//! Addresses and ranges in objects.

use std::net::IpAddr;

use crate::{field::FieldErrors, field_path::Path, names};

/// Protocols of ports.
pub const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

/// Whether the text is an address range, leading zeros allowed as upstream's sloppy parser does.
pub fn is_cidr(range: &str) -> bool {
    parse_cidr(range).is_some()
}

/// An address range as it is written: the address with the bits behind its prefix, and the prefix' length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The address before the slash.
    pub address: IpAddr,
    /// The number of leading bits that count.
    pub bits: u8,
}

/// See [`is_cidr`].
pub fn parse_cidr(range: &str) -> Option<Cidr> {
    let (address, bits) = range.split_once('/')?;
    let address = names::parse_ip(address)?;
    let all_digits = !bits.is_empty() && bits.bytes().all(|byte| byte.is_ascii_digit());
    let bits = all_digits.then(|| bits.parse::<u8>().ok()).flatten()?;
    (bits <= width(address)).then_some(Cidr { address, bits })
}

/// How many bits an address has.
fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl Cidr {
    /// The range's first address.
    pub fn network(&self) -> IpAddr {
        let behind = u32::from(width(self.address) - self.bits);
        match self.address {
            IpAddr::V4(ip) => IpAddr::V4((ip.to_bits() & u32::MAX.checked_shl(behind).unwrap_or(0)).into()),
            IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() & u128::MAX.checked_shl(behind).unwrap_or(0)).into()),
        }
    }

    /// Whether every address of `other` is in this range.
    pub fn contains(&self, other: &Self) -> bool {
        let inside = Self { address: other.network(), bits: self.bits };
        self.address.is_ipv4() == other.address.is_ipv4() && other.bits >= self.bits && inside.network() == self.network()
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.network(), self.bits)
    }
}

/// What upstream warns of in a valid range (`GetWarningsForCIDR`).
pub fn cidr_warnings(path: &Path, range: &str) -> Vec<String> {
    let Some(cidr) = parse_cidr(range) else { return Vec::new() };
    let mut warnings = Vec::new();
    if cidr.address != cidr.network() {
        let (alone, width) = (cidr.address, width(cidr.address));
        warnings.push(format!(
            "{path}: CIDR value {range:?} is ambiguous in this context (should be \"{cidr}\" or \"{alone}/{width}\"?)"
        ));
    }
    let strict = range
        .split_once('/')
        .is_some_and(|(ip, bits)| ip.parse::<IpAddr>().is_ok() && (bits == "0" || !bits.starts_with('0')));
    if !strict {
        warnings.push(format!(
            "{path}: non-standard CIDR value {range:?} will be considered invalid in a future Kubernetes release: use \"{cidr}\""
        ));
    } else if warnings.is_empty() && cidr.address.is_ipv6() && cidr.to_string() != range {
        warnings.push(format!("{path}: IPv6 CIDR value {range:?} should be in RFC 5952 canonical format (\"{cidr}\")"));
    }
    warnings
}

/// What upstream warns of in a valid address (`GetWarningsForIP`).
pub fn ip_warnings(path: &Path, value: &str) -> Option<String> {
    let ip = names::parse_ip(value)?;
    let mapped = match ip {
        IpAddr::V4(_) => None,
        IpAddr::V6(ip) => ip.to_ipv4_mapped(),
    };
    let strict = value.parse::<IpAddr>().is_ok() && mapped.is_none();
    if !strict {
        let better = mapped.map_or(ip, IpAddr::V4);
        return Some(format!(
            "{path}: non-standard IP address {value:?} will be considered invalid in a future Kubernetes release: use \"{better}\""
        ));
    }
    (ip.is_ipv6() && ip.to_string() != value)
        .then(|| format!("{path}: IPv6 address {value:?} should be in RFC 5952 canonical format (\"{ip}\")"))
}

/// No address that means something else on every host.
pub fn non_special_ip(address: &str, path: &Path, errors: &mut FieldErrors) {
    let Some(ip) = names::parse_ip(address) else {
        return errors.invalid(path, &address, "must be a valid IP address");
    };
    if ip.is_unspecified() {
        errors.invalid(path, &address, format!("may not be unspecified ({address})"));
    }
    if ip.is_loopback() {
        errors.invalid(path, &address, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    let (link_local, link_local_multicast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(ip) => (ip.is_unicast_link_local(), ip.segments()[0] == 0xff02),
    };
    if link_local {
        errors.invalid(path, &address, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if link_local_multicast {
        errors.invalid(path, &address, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_addresses_are_warned_of() {
        let of = |value: &str| ip_warnings(&Path::root("ip"), value).unwrap_or_default();
        let odd = |value: &str, better: &str| {
            format!(
                "ip: non-standard IP address {value:?} will be considered invalid in a future Kubernetes release: use {better:?}"
            )
        };
        assert_eq!([of("1.2.3.4"), of("fd00::1"), of("x")], ["", "", ""]);
        assert_eq!([of("1.2.3.04"), of("::ffff:1.2.3.4")], [odd("1.2.3.04", "1.2.3.4"), odd("::ffff:1.2.3.4", "1.2.3.4")]);
        assert_eq!(of("FD00:0::1"), "ip: IPv6 address \"FD00:0::1\" should be in RFC 5952 canonical format (\"fd00::1\")");
    }
}
