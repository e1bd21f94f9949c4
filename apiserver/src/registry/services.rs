//! Addresses and ports of Services: each taken one is a key of its own, claimed in the transaction that writes the Service
//! and released in the one that deletes it, so that two API servers cannot hand one out twice and nothing leaks.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use api::{field::FieldErrors, status::Status};
use rand::Rng;
use serde_json::{Value, json};
use store::{Op, Txn};

use super::{Entry, Registry, Write};
use crate::{error::Result, wire::options::DeleteOptions};

/// How often a choice that was taken by someone faster is made again.
pub const TRIES: usize = 8;

/// Keys of claims.
pub const CLAIMS: &str = "/registry/claims/";

/// What a write of a Service takes and gives back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    take: Vec<Arc<str>>,
    release: Vec<Arc<str>>,
}

impl Claims {
    /// Makes the claims part of a transaction.
    pub fn add_to(&self, txn: &mut Txn, owner: &Arc<str>) {
        for key in &self.take {
            txn.compare.push((key.clone(), 0));
            txn.ops.push(Op::Put { key: key.clone(), value: owner.as_bytes().to_vec().into(), ttl: None });
        }
        txn.ops.extend(self.release.iter().map(|key| Op::Delete { key: key.clone() }));
    }
}

/// Whether writes of the kind take addresses and ports.
pub fn concern(entry: &Entry) -> bool {
    entry.info().group.is_empty() && entry.info().plural == "services"
}

/// However an address is written, it is the same one.
fn address_key(address: &str) -> String {
    let address = api::names::parse_ip(address).map_or_else(|| address.to_owned(), |ip| ip.to_string());
    format!("{CLAIMS}serviceips/{address}")
}

fn port_key(port: i64) -> String {
    format!("{CLAIMS}servicenodeports/{port}")
}

/// The claims that a stored Service holds.
fn held(service: &Value) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    let spec = &service["spec"];
    for address in spec["clusterIPs"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if address != "None" && !address.is_empty() {
            keys.insert(address_key(address));
        }
    }
    let ports = spec["ports"].as_array().into_iter().flatten().map(|p| &p["nodePort"]);
    for port in ports.chain([&spec["healthCheckNodePort"]]).filter_map(Value::as_i64).filter(|p| *p > 0) {
        keys.insert(port_key(port));
    }
    keys
}

/// What deleting `object` gives back.
pub fn release(entry: &Entry, object: &Value) -> Claims {
    if !concern(entry) {
        return Claims::default();
    }
    Claims { release: held(object).into_iter().map(Into::into).collect(), ..Claims::default() }
}

/// A Service that goes takes the Endpoints of its name with it, as upstream's: the next Service of that name must not lead there.
pub async fn take_endpoints(registry: &Registry, entry: &Entry, place: (&str, &str), write: Write<'_>) {
    if !concern(entry) {
        return;
    }
    let options = DeleteOptions::default();
    let gone = async { Box::pin(registry.delete(registry.core("endpoints")?, place, &options, write)).await };
    if let Err(status) = gone.await
        && !status.is("NotFound")
    {
        tracing::warn!(namespace = place.0, service = place.1, %status, "could not delete a Service's Endpoints");
    }
}

fn invalid(name: &str, field: &str, value: &Value, detail: &str) -> Status {
    let mut errors = FieldErrors::default();
    errors.invalid(field, value, detail);
    Status::invalid(api::status::GroupResource { group: "", resource: "Service" }, name, &errors)
}

/// Numbers from 0 to `size`, a random one outside the lower band first.
fn pick(size: u32, band: u32, taken: impl Fn(u32) -> bool) -> Option<u32> {
    let upper = size.saturating_sub(band).max(1);
    let start = rand::rng().random_range(0..upper);
    let above = (0..size.saturating_sub(band)).map(|i| band + (start + i) % upper);
    above.chain((0..band.min(size)).rev()).find(|n| !taken(*n))
}

/// Fills in addresses, families and ports of a Service that passed the kind's decisions. As upstream's allocators, who take
/// nothing in a dry run: an address that is asked for is not looked up then.
pub fn assign(registry: &Registry, entry: &Entry, object: &mut Value, old: Option<&Value>, dry_run: bool) -> Result<Claims> {
    if !concern(entry) {
        return Ok(Claims::default());
    }
    let before = old.map(held).unwrap_or_default();
    let claims = registry.caches().claims();
    // A key this Service holds already may stay.
    let taken = |key: &str| !before.contains(key) && claims.contains(key);
    families(object)?;
    addresses(registry, object, dry_run, &taken)?;
    check_ports(registry, entry, object, old, dry_run)?;
    node_ports(registry, object, old, &taken)?;
    let after = held(object);
    Ok(Claims {
        take: after.difference(&before).map(|k| k.as_str().into()).collect(),
        release: before.difference(&after).map(|k| k.as_str().into()).collect(),
    })
}

fn families(object: &mut Value) -> Result<()> {
    let name = super::metadata::text(object, "name").to_owned();
    let spec = &mut object["spec"];
    if spec["type"] == "ExternalName" {
        return Ok(());
    }
    let headless = spec["clusterIP"] == "None";
    let selectorless = spec["selector"].as_object().is_none_or(|s| s.is_empty());
    let given = spec["ipFamilyPolicy"].as_str().map(str::to_owned);
    let policy =
        given.unwrap_or_else(|| if headless && selectorless { "RequireDualStack" } else { "SingleStack" }.to_owned());
    spec["ipFamilyPolicy"] = json!(policy);
    let mut families: Vec<String> =
        spec["ipFamilies"].as_array().into_iter().flatten().filter_map(|f| f.as_str().map(str::to_owned)).collect();
    if headless && selectorless {
        if families.is_empty() {
            families.push("IPv4".to_owned());
        }
        if families.len() < 2 && policy != "SingleStack" {
            families.push(if families[0] == "IPv4" { "IPv6" } else { "IPv4" }.to_owned());
        }
        spec["ipFamilies"] = json!(families);
        return Ok(());
    }
    if policy == "RequireDualStack" {
        let detail = "this cluster is not configured for dual-stack services";
        return Err(invalid(&name, "spec.ipFamilyPolicy", &spec["ipFamilyPolicy"], detail));
    }
    if let Some(at) = families.iter().position(|f| f != "IPv4") {
        return Err(invalid(
            &name,
            &format!("spec.ipFamilies[{at}]"),
            &json!(families[at]),
            "not configured on this cluster",
        ));
    }
    spec["ipFamilies"] = json!(["IPv4"]);
    Ok(())
}

fn addresses(registry: &Registry, object: &mut Value, dry_run: bool, taken: &dyn Fn(&str) -> bool) -> Result<()> {
    let name = super::metadata::text(object, "name").to_owned();
    let spec = &mut object["spec"];
    let wanted = spec["clusterIP"].as_str().or_else(|| spec["clusterIPs"][0].as_str()).unwrap_or_default().to_owned();
    if spec["type"] == "ExternalName" || wanted == "None" {
        return Ok(());
    }
    let (base, length) = registry.ranges.addresses;
    let base = u32::from(base);
    let size = 1u32 << (32 - u32::from(length));
    let chosen = if wanted.is_empty() {
        // Network and broadcast address are not handed out; the lower band is for people's own choices.
        let usable = size.saturating_sub(2);
        let band = (usable / 16).clamp(16, 256).min(usable);
        let address = |n: u32| Ipv4Addr::from(base + 1 + n).to_string();
        let found = pick(usable, band, |n| taken(&address_key(&address(n))));
        address(found.ok_or_else(|| Status::internal("failed to allocate a serviceIP: range is full"))?)
    } else {
        let refused = |why: &str| {
            invalid(&name, "spec.clusterIPs", &json!([wanted]), &format!("failed to allocate IP {wanted}: {why}"))
        };
        let Some(IpAddr::V4(parsed)) = api::names::parse_ip(&wanted) else {
            let why = "IPv6 is not configured on this cluster";
            return Err(invalid(&name, "spec.clusterIPs[0]", &json!([wanted]), why));
        };
        let offset = u32::from(parsed).wrapping_sub(base);
        if offset == 0 || offset >= size - 1 {
            return Err(refused(&format!(
                "the provided IP ({wanted}) is not in the valid range. The range of valid IPs is {}/{length}",
                Ipv4Addr::from(base)
            )));
        }
        if !dry_run && taken(&address_key(&wanted)) {
            return Err(refused("provided IP is already allocated"));
        }
        wanted
    };
    spec["clusterIP"] = json!(chosen);
    spec["clusterIPs"] = json!([chosen]);
    Ok(())
}

/// Whether a Service has ports on nodes, and whether each of its ports is given one.
fn on_nodes(spec: &Value) -> (bool, bool) {
    let balancer = spec["type"] == "LoadBalancer";
    let concerned = balancer || spec["type"] == "NodePort";
    (concerned, concerned && !(balancer && spec["allocateLoadBalancerNodePorts"] == json!(false)))
}

/// Whether a Service has a node port to ask whether a node has endpoints of it.
fn has_health_check(spec: &Value) -> bool {
    spec["type"] == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local"
}

/// A number that is one: Services say 0 where they leave it to the server.
fn number(value: &Value) -> Option<i64> {
    value.as_i64().filter(|number| *number != 0)
}

fn ports_of(spec: &Value) -> &[Value] {
    spec["ports"].as_array().map_or(&[], Vec::as_slice)
}

/// Looks up the node ports that a Service asks for by number. As upstream's allocators, who are asked before the kind checks
/// anything and look up taken numbers, but no range, in a dry run.
pub fn check_ports(registry: &Registry, entry: &Entry, object: &Value, old: Option<&Value>, dry_run: bool) -> Result<()> {
    let spec = &object["spec"];
    if !concern(entry) || !on_nodes(spec).0 {
        return Ok(());
    }
    let claims = registry.caches().claims();
    let (first, last) = registry.ranges.ports;
    let mut mine = BTreeSet::new();
    let mut take = |port: i64| {
        if !dry_run && !(i64::from(first)..=i64::from(last)).contains(&port) {
            return Some(format!("provided port is not in the valid range. The range of valid ports is {first}-{last}"));
        }
        (!mine.insert(port) || claims.contains(&port_key(port))).then(|| "provided port is already allocated".to_owned())
    };
    for (at, port) in to_take(ports_of(spec), old)? {
        if let Some(why) = take(port) {
            let name = super::metadata::text(object, "name");
            return Err(invalid(name, &format!("spec.ports[{at}].nodePort"), &json!(port), &why));
        }
    }
    let had = old.is_some_and(|old| has_health_check(&old["spec"]));
    if let Some(port) = number(&spec["healthCheckNodePort"]).filter(|_| has_health_check(spec) && !had)
        && let Some(why) = take(port)
    {
        return Err(Status::internal(&format!("failed to allocate requested HealthCheck NodePort {port}: {why}")));
    }
    Ok(())
}

/// The numbers that a Service takes that it does not have, and at which port: one for each port of the service, in whatever
/// protocols it is spoken.
fn to_take(ports: &[Value], old: Option<&Value>) -> Result<Vec<(usize, i64)>> {
    let asked = ports.iter().enumerate().filter_map(|(at, port)| Some((at, port, number(&port["nodePort"])?)));
    let mut out = Vec::new();
    let Some(old) = old else {
        let mut shared = BTreeMap::new();
        for (at, port, wanted) in asked {
            if shared.insert(port["port"].as_i64(), wanted) != Some(wanted) {
                out.push((at, wanted));
            }
        }
        return Ok(out);
    };
    let before: BTreeSet<i64> = ports_of(&old["spec"]).iter().filter_map(|port| number(&port["nodePort"])).collect();
    let mut seen = BTreeSet::new();
    for (at, port, wanted) in asked {
        if !before.contains(&wanted) && !out.iter().any(|(_, taken)| *taken == wanted) {
            out.push((at, wanted));
        }
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        if !seen.insert((protocol, wanted)) {
            // As upstream, an error without a reason.
            return Err(Status::unexpected(format!("duplicate nodePort: {{{protocol} {wanted}}}")));
        }
    }
    Ok(out)
}

fn node_ports(registry: &Registry, object: &mut Value, old: Option<&Value>, taken: &dyn Fn(&str) -> bool) -> Result<()> {
    let spec = &mut object["spec"];
    let (concerned, allocate) = on_nodes(spec);
    if !concerned {
        return Ok(());
    }
    let (first, last) = registry.ranges.ports;
    let (first, last) = (i64::from(first), i64::from(last));
    let mut used: BTreeSet<i64> = ports_of(spec).iter().filter_map(|port| number(&port["nodePort"])).collect();
    used.extend(number(&spec["healthCheckNodePort"]));
    let size = (last - first + 1).max(0) as u32;
    let band = (size / 32).clamp(16, 128).min(size);
    let any = |used: &BTreeSet<i64>| {
        pick(size, band, |n| {
            let port = first + i64::from(n);
            used.contains(&port) || taken(&port_key(port))
        })
        .map(|n| first + i64::from(n))
    };
    // One port of a new Service spoken in two protocols has one number.
    let asked = ports_of(spec).iter().rev().filter_map(|port| Some((port["port"].as_i64(), number(&port["nodePort"])?)));
    let mut shared: BTreeMap<Option<i64>, i64> = asked.filter(|_| old.is_none()).collect();
    for port in spec["ports"].as_array_mut().into_iter().flatten() {
        if number(&port["nodePort"]).is_some() || !allocate {
            continue;
        }
        let number = shared.get(&port["port"].as_i64()).copied().or_else(|| any(&used));
        let number = number.ok_or_else(|| Status::internal("failed to allocate a nodePort: range is full"))?;
        used.insert(number);
        if old.is_none() {
            shared.insert(port["port"].as_i64(), number);
        }
        port["nodePort"] = json!(number);
    }
    if has_health_check(spec) && number(&spec["healthCheckNodePort"]).is_none() {
        let number =
            any(&used).ok_or_else(|| Status::internal("failed to allocate a HealthCheck NodePort : range is full"))?;
        spec["healthCheckNodePort"] = json!(number);
    }
    Ok(())
}
