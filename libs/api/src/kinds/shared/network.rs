//! Addresses and ranges in objects.

use std::net::IpAddr;

use crate::{field::FieldErrors, field_path::Path, names};

/// Protocols of ports.
pub const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

/// Whether the text is an address range, leading zeros allowed as upstream's sloppy parser does.
pub fn is_cidr(range: &str) -> bool {
    let Some((address, bits)) = range.split_once('/') else { return false };
    let max = match names::parse_ip(address) {
        Some(IpAddr::V4(_)) => 32,
        Some(IpAddr::V6(_)) => 128,
        None => return false,
    };
    bits.bytes().all(|byte| byte.is_ascii_digit()) && bits.parse::<u8>().is_ok_and(|bits| bits <= max)
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
