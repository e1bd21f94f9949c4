//! Where a request for a pod, service or node goes on to: plain decisions from objects as they are stored.

use std::net::{IpAddr, SocketAddr};

use api::{
    field::FieldErrors,
    status::{GroupResource, Status},
};
use serde_json::Value;

use crate::request::{decode, query_value};

/// The kubelet's port where a node's status names none.
const KUBELET_PORT: u16 = 10250;
/// What the name of a proxied object may say besides the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// `https`, or plain HTTP.
    pub https: bool,
    /// The object's name.
    pub name: &'a str,
    /// A number or a port's name; may be empty.
    pub port: &'a str,
}

/// Takes `name`, `name:port` or `scheme:name:port` apart.
pub fn target(id: &str) -> Option<Target<'_>> {
    let parts: Vec<&str> = id.split(':').collect();
    let (scheme, name, port) = match parts.as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme, name, port] => (*scheme, *name, *port),
        _ => return None,
    };
    (!name.is_empty() && matches!(scheme, "" | "http" | "https")).then_some(Target { https: scheme == "https", name, port })
}

pub(super) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Whether an address may be called at all: nobody may point us at ourselves, at the link or at everyone.
pub fn allowed(ip: IpAddr) -> bool {
    let local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.to_ipv4_mapped().is_some_and(|ip| !allowed(IpAddr::V4(ip))),
    };
    !(local || ip.is_loopback() || ip.is_multicast() || ip.is_unspecified())
}

fn checked(text: &str, loopback: bool) -> Result<IpAddr, Status> {
    match text.parse::<IpAddr>() {
        Ok(ip) if allowed(ip) || loopback && ip.is_loopback() => Ok(ip),
        _ => Err(Status::bad_request("address not allowed")),
    }
}

/// Where a node's kubelet listens, by its status. `loopback` admits a kubelet on this machine's loopback.
pub fn kubelet(node: &Value, loopback: bool) -> Result<SocketAddr, Status> {
    let addresses = list(node, "/status/addresses");
    let of = |kind: &str| addresses.iter().find(|a| text(a, "/type") == kind).map(|a| text(a, "/address"));
    let address = of("InternalIP").or_else(|| of("ExternalIP")).ok_or_else(|| {
        let mut status = Status::internal("");
        status.message = "no preferred addresses found; known addresses: []".to_owned();
        status
    })?;
    let port = node.pointer("/status/daemonEndpoints/kubeletEndpoint/Port").and_then(Value::as_u64);
    let port = port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0).unwrap_or(KUBELET_PORT);
    Ok(SocketAddr::new(checked(address, loopback)?, port))
}

fn names(pod: &Value) -> Vec<&str> {
    ["initContainers", "containers", "ephemeralContainers"]
        .iter()
        .flat_map(|field| list(pod, &format!("/spec/{field}")))
        .map(|container| text(container, "/name"))
        .collect()
}

/// The container that is meant by `asked` (which may be empty).
pub fn container<'a>(pod: &'a Value, asked: &'a str) -> Result<&'a str, Status> {
    let name = text(pod, "/metadata/name");
    if !asked.is_empty() {
        return match names(pod).contains(&asked) {
            true => Ok(asked),
            false => Err(Status::bad_request(format!("container {asked} is not valid for pod {name}"))),
        };
    }
    match list(pod, "/spec/containers") {
        [only] => Ok(text(only, "/name")),
        [] => Err(Status::bad_request(format!("a container name must be specified for pod {name}"))),
        _ => Err(Status::bad_request(format!(
            "a container name must be specified for pod {name}, choose one of: [{}]",
            names(pod).join(" ")
        ))),
    }
}

/// The node that a pod is on.
pub fn node_of(pod: &Value) -> Result<&str, Status> {
    match text(pod, "/spec/nodeName") {
        "" => {
            let name = text(pod, "/metadata/name");
            Err(Status::bad_request(format!("pod {name} does not have a host assigned")))
        }
        node => Ok(node),
    }
}

fn is_true(value: &str) -> bool {
    // Go's conversion of query values: anything but these is true.
    !matches!(value, "" | "0" | "false" | "False" | "FALSE" | "f" | "F")
}

fn flag(query: &str, key: &str) -> bool {
    let bare = query.split('&').any(|pair| pair == key);
    bare || query_value(query, key).is_some_and(|v| is_true(&v))
}

/// The kubelet's query for an exec, attach or port-forward request.
pub fn stream_query(kind: &str, query: &str) -> String {
    let mut out: Vec<String> = Vec::new();
    if kind == "portforward" {
        let ports: Vec<String> = query
            .split('&')
            .filter_map(|pair| pair.strip_prefix("ports="))
            .map(|ports| decode(ports).chars().filter(|c| c.is_ascii_digit() || *c == ',').collect())
            .collect();
        if !ports.is_empty() {
            out.push(format!("port={}", ports.join(",")));
        }
        return out.join("&");
    }
    for (ours, theirs) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
        if flag(query, ours) {
            out.push(format!("{theirs}=1"));
        }
    }
    if kind == "exec" {
        // Words of the command stay as they are encoded.
        out.extend(query.split('&').filter(|pair| pair.starts_with("command=")).map(str::to_owned));
    }
    out.join("&")
}

/// The kubelet's query for a log request, checked.
pub fn log_query(pod: &str, query: &str) -> Result<String, Status> {
    const KIND: GroupResource<'static> = GroupResource { group: "", resource: "PodLogOptions" };
    let mut out: Vec<String> = Vec::new();
    let mut errors = FieldErrors::default();
    for key in ["follow", "previous", "timestamps"] {
        if flag(query, key) {
            out.push(format!("{key}=true"));
        }
    }
    let number = |key: &str| -> Result<Option<i64>, Status> {
        match query_value(query, key).filter(|v| !v.is_empty()) {
            None => Ok(None),
            Some(text) => text
                .parse()
                .map(Some)
                .map_err(|_| Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))),
        }
    };
    let since_time = query_value(query, "sinceTime").filter(|v| !v.is_empty());
    let (tail, limit, since) = (number("tailLines")?, number("limitBytes")?, number("sinceSeconds")?);
    if let Some(tail) = tail.filter(|t| *t < 0) {
        errors.invalid("tailLines", &tail, "must be greater than or equal to 0");
    }
    if let Some(limit) = limit.filter(|l| *l < 1) {
        errors.invalid("limitBytes", &limit, "must be greater than 0");
    }
    match (since, &since_time) {
        (Some(_), Some(_)) => {
            errors.forbidden("", "at most one of `sinceTime` or `sinceSeconds` may be specified");
        }
        (Some(since), None) if since < 1 => errors.invalid("sinceSeconds", &since, "must be greater than 0"),
        _ => {}
    }
    if !errors.is_empty() {
        return Err(Status::invalid(KIND, pod, &errors));
    }
    for (key, value) in [("tailLines", tail), ("limitBytes", limit), ("sinceSeconds", since)] {
        out.extend(value.map(|v| format!("{key}={v}")));
    }
    if let Some(time) = since_time {
        let time: jiff::Timestamp = time.parse().map_err(|_| Status::bad_request(format!("parsing time {time:?}")))?;
        out.push(format!("sinceTime={}", time.to_string().replace('+', "%2B")));
    }
    if let Some(stream) = query_value(query, "stream").filter(|s| matches!(s.as_str(), "Stdout" | "Stderr")) {
        out.push(format!("stream={stream}"));
    }
    Ok(out.join("&"))
}

/// A pod's address and port for a proxied request.
pub fn pod(pod: &Value, target: &Target<'_>) -> Result<SocketAddr, Status> {
    let ip = checked(pod_ips(pod).first().copied().unwrap_or(""), false)?;
    let first = || list(pod, "/spec/containers").iter().find_map(|c| list(c, "/ports").first());
    let port = match target.port {
        "" => first().and_then(|p| p.get("containerPort")).and_then(Value::as_u64).map(|p| p.to_string()),
        port => Some(port.to_owned()),
    };
    let port = port.unwrap_or_else(|| if target.https { "443".to_owned() } else { "80".to_owned() });
    let port: u16 = port
        .parse()
        .ok()
        .filter(|p| *p > 0)
        .ok_or_else(|| Status::bad_request(format!("invalid pod request {:?}", target.name)))?;
    Ok(SocketAddr::new(ip, port))
}

/// A pod's addresses.
pub fn pod_ips(pod: &Value) -> Vec<&str> {
    let all: Vec<&str> = list(pod, "/status/podIPs").iter().map(|ip| text(ip, "/ip")).collect();
    if all.is_empty() { Some(text(pod, "/status/podIP")).filter(|ip| !ip.is_empty()).into_iter().collect() } else { all }
}

/// The name of the service port that `asked` (a number, a name or nothing) means.
pub fn service_port(service: &Value, asked: &str) -> Result<String, Status> {
    let Ok(number) = asked.parse::<u64>() else { return Ok(asked.to_owned()) };
    let found = list(service, "/spec/ports").iter().find(|p| p.get("port").and_then(Value::as_u64) == Some(number));
    found.map(|port| text(port, "/name").to_owned()).ok_or_else(|| {
        let name = text(service, "/metadata/name");
        Status::service_unavailable(&format!("no service port {number} found for service {name:?}"))
    })
}

/// The addresses that serve a service's port: where, and which pod that must be.
pub fn endpoints<'a>(endpoints: &'a Value, port: &str) -> Vec<(&'a str, u16, &'a str, &'a str)> {
    let mut out = Vec::new();
    for subset in list(endpoints, "/subsets") {
        let number = list(subset, "/ports").iter().find(|p| text(p, "/name") == port).and_then(|p| p.get("port"));
        let Some(number) = number.and_then(Value::as_u64).and_then(|p| u16::try_from(p).ok()) else { continue };
        for address in list(subset, "/addresses") {
            if text(address, "/targetRef/kind") == "Pod" {
                let (namespace, name) = (text(address, "/targetRef/namespace"), text(address, "/targetRef/name"));
                out.push((text(address, "/ip"), number, namespace, name));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_carry_schemes_and_ports() {
        let of = |https, name, port| Some(Target { https, name, port });
        assert_eq!(target("web"), of(false, "web", ""));
        assert_eq!(target("web:http"), of(false, "web", "http"));
        assert_eq!(target("https:web:443"), of(true, "web", "443"));
        for bad in ["", ":80", "ftp:web:21", "a:b:c:d"] {
            assert_eq!(target(bad), None, "{bad}");
        }
    }

    #[test]
    fn addresses_that_lead_nowhere_good_are_refused() {
        for bad in
            ["127.0.0.1", "0.0.0.0", "169.254.169.254", "224.0.0.1", "255.255.255.255", "::1", "fe80::1", "::ffff:127.0.0.1"]
        {
            assert!(!allowed(bad.parse().unwrap()), "{bad}");
        }
        assert!(allowed("10.42.0.5".parse().unwrap()) && allowed("2001:db8::1".parse().unwrap()));
        let node = |ip: &str| {
            json!({"status": {"addresses": [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": ip}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": 10260}}}})
        };
        assert_eq!(kubelet(&node("192.0.2.1"), false).unwrap(), "192.0.2.1:10260".parse().unwrap());
        assert_eq!(kubelet(&node("127.0.0.1"), false).unwrap_err().message, "address not allowed");
        assert!(kubelet(&node("127.0.0.1"), true).is_ok());
        assert!(kubelet(&node("evil.example"), true).is_err());
    }

    #[test]
    fn containers_are_chosen_as_upstream_does() {
        let pod = |containers: Value| json!({"metadata": {"name": "p"}, "spec": {"initContainers": [{"name": "i"}], "containers": containers}});
        let two = pod(json!([{"name": "a"}, {"name": "b"}]));
        let error = container(&two, "").unwrap_err();
        let want = "a container name must be specified for pod p, choose one of: [i a b]";
        assert_eq!((error.code, error.message.as_str()), (400, want));
        assert_eq!(container(&two, "x").unwrap_err().message, "container x is not valid for pod p");
        assert_eq!(container(&two, "i").unwrap(), "i");
        assert_eq!(container(&pod(json!([{"name": "a"}])), "").unwrap(), "a");
    }

    #[test]
    fn queries_become_the_kubelets() {
        let exec = "container=a&stdin=true&stdout=true&tty=false&command=sh&command=-c&command=echo+a%26b";
        assert_eq!(stream_query("exec", exec), "input=1&output=1&command=sh&command=-c&command=echo+a%26b");
        assert_eq!(stream_query("attach", "stdout=1&tty=true&command=x"), "output=1&tty=1");
        assert_eq!(stream_query("portforward", "ports=80&ports=81%2C82"), "port=80,81,82");
        let log = "container=a&follow=true&tailLines=10&sinceTime=2026-01-01T00:00:00Z";
        assert_eq!(log_query("p", log).unwrap(), "follow=true&tailLines=10&sinceTime=2026-01-01T00:00:00Z");
        let want = "PodLogOptions \"p\" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0";
        assert_eq!(log_query("p", "tailLines=-1").unwrap_err().message, want);
    }

    #[test]
    fn service_ports_lead_to_pods() {
        let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"name": "web", "port": 80}]}});
        assert_eq!(service_port(&service, "80").unwrap(), "web");
        assert_eq!(service_port(&service, "81").unwrap_err().message, "no service port 81 found for service \"s\"");
        let found = json!({"subsets": [{
            "addresses": [
                {"ip": "10.42.0.5", "targetRef": {"kind": "Pod", "namespace": "d", "name": "p"}},
                {"ip": "10.42.0.6"},
            ],
            "ports": [{"name": "web", "port": 8080}],
        }]});
        assert_eq!(endpoints(&found, "web"), [("10.42.0.5", 8080, "d", "p")]);
        assert_eq!(endpoints(&found, "other"), []);
    }
}
