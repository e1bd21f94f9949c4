//! What an ADD has given a pod, in any version of the specification.

use std::net::IpAddr;

use serde_json::Value;

use crate::{Error, Result};

/// The result of a list's last plugin.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The addresses of the pod's interface, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// As the plugin gave it.
    pub raw: Value,
}

impl Outcome {
    /// Reads a result about the interface `interface`.
    pub fn read(raw: Value, interface: &str) -> Result<Self> {
        let mut addresses = match raw.get("ip4").or_else(|| raw.get("ip6")) {
            Some(_) => before_interfaces(&raw)?,
            None => with_interfaces(&raw, interface)?,
        };
        addresses.sort_by_key(IpAddr::is_ipv6);
        Ok(Self { addresses, raw })
    }
}

/// Versions up to 0.2.0: one address a family.
fn before_interfaces(raw: &Value) -> Result<Vec<IpAddr>> {
    let given = ["ip4", "ip6"].into_iter().filter_map(|family| raw.get(family)).filter(|value| !value.is_null());
    given.map(|given| address(given.get("ip"))).collect()
}

fn with_interfaces(raw: &Value, interface: &str) -> Result<Vec<IpAddr>> {
    let none = Vec::new();
    let list = |key: &str| raw.get(key).and_then(Value::as_array).unwrap_or(&none);
    let interfaces = list("interfaces");
    let mut addresses = Vec::new();
    for ip in list("ips") {
        // A negative index says no more than none at all.
        let index = ip.get("interface").and_then(Value::as_i64).and_then(|index| usize::try_from(index).ok());
        let own = match index {
            None => true,
            Some(index) => {
                let bearer = interfaces.get(index);
                let bearer = bearer.ok_or_else(|| Error::Result(format!("plugins gave no interface of number {index}")))?;
                bearer.get("name").and_then(Value::as_str) == Some(interface)
            }
        };
        if own {
            addresses.push(address(ip.get("address"))?);
        }
    }
    Ok(addresses)
}

/// The address of `ADDRESS/PREFIX`.
fn address(text: Option<&Value>) -> Result<IpAddr> {
    let text = text.and_then(Value::as_str).unwrap_or_default();
    let address = text.split_once('/').map_or(text, |(address, _)| address);
    address.parse().map_err(|_| Error::Result(format!("plugins gave an address that is none: {text:?}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_versions_addresses_are_found() {
        let read = |raw: Value| Outcome::read(raw, "eth0").map(|outcome| outcome.addresses).map_err(|e| e.to_string());
        let ips = |texts: &[&str]| Ok(texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>());
        let interfaces =
            json!([{"name": "cni0"}, {"name": "eth0", "sandbox": "/run/x"}, {"name": "eth1", "sandbox": "/run/x"}]);
        let found = [
            read(
                json!({"cniVersion": "0.2.0", "ip6": {"ip": "fd00::2/64"}, "ip4": {"ip": "10.1.0.2/16", "gateway": "10.1.0.1"}}),
            ),
            read(json!({"cniVersion": "0.3.1", "interfaces": interfaces, "ips": [
                {"version": "6", "address": "fd00::2/64", "interface": 1},
                {"version": "4", "address": "10.1.0.9/16", "interface": 2},
                {"version": "4", "address": "10.1.0.2/16", "interface": 1}]})),
            read(json!({"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.3/16"}]})),
            read(json!({"cniVersion": "1.1.0"})),
            read(json!({"ips": [{"address": "10.1.0.3/16", "interface": 3}], "interfaces": interfaces})),
            read(json!({"ips": [{"address": "here"}]})),
        ];
        let wrong = |text: &str| Err(text.to_owned());
        assert_eq!(
            found,
            [
                ips(&["10.1.0.2", "fd00::2"]),
                ips(&["10.1.0.2", "fd00::2"]),
                ips(&["10.1.0.3"]),
                ips(&[]),
                wrong("plugins gave no interface of number 3"),
                wrong("plugins gave an address that is none: \"here\""),
            ]
        );
    }
}
