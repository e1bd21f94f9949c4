//! Services, Endpoints and EndpointSlices.

use serde_json::Value;

use super::{
    container::{host_port, int_or_string},
    json::Json,
    parts,
    writer::Writer,
};
use crate::line;

const SHOWN_ENDPOINTS: usize = 3;

fn joined(items: &[&str], empty: &str) -> String {
    if items.is_empty() { empty.to_owned() } else { items.join(",") }
}

/// A Service with its EndpointSlices.
pub fn describe(w: &mut Writer, service: &Value, slices: &[Value], events: Option<&[Value]>) {
    let spec = service.at("spec");
    parts::heading(w, service, true);
    line!(w, 0, "Selector:\t{}", parts::set(&spec.pairs("selector")));
    line!(w, 0, "Type:\t{}", spec.text("type"));
    let optional = |w: &mut Writer, title: &str, text: &str| {
        if !text.is_empty() {
            line!(w, 0, "{title}:\t{text}");
        }
    };
    optional(w, "IP Family Policy", spec.text("ipFamilyPolicy"));
    line!(w, 0, "IP Families:\t{}", joined(&spec.texts("ipFamilies"), "<none>"));
    line!(w, 0, "IP:\t{}", spec.text("clusterIP"));
    line!(w, 0, "IPs:\t{}", joined(&spec.texts("clusterIPs"), "<none>"));
    optional(w, "External IPs", &joined(&spec.texts("externalIPs"), ""));
    optional(w, "Desired LoadBalancer IP", spec.text("loadBalancerIP"));
    optional(w, "External Name", spec.text("externalName"));
    optional(w, "LoadBalancer Ingress", &ingress(service.items("status.loadBalancer.ingress")));
    for port in spec.items("ports") {
        let name = match port.text("name") {
            "" => "<unset>",
            name => name,
        };
        let protocol = port.text("protocol");
        line!(w, 0, "Port:\t{name}\t{}/{protocol}", port.int("port"));
        line!(w, 0, "TargetPort:\t{}/{protocol}", int_or_string(port.at("targetPort")));
        if port.int("nodePort") != 0 {
            line!(w, 0, "NodePort:\t{name}\t{}/{protocol}", port.int("nodePort"));
        }
        line!(w, 0, "Endpoints:\t{}", ready_endpoints(slices, port.text("name")));
    }
    line!(w, 0, "Session Affinity:\t{}", spec.text("sessionAffinity"));
    optional(w, "External Traffic Policy", spec.text("externalTrafficPolicy"));
    optional(w, "Internal Traffic Policy", spec.text("internalTrafficPolicy"));
    if spec.int("healthCheckNodePort") != 0 {
        line!(w, 0, "HealthCheck NodePort:\t{}", spec.int("healthCheckNodePort"));
    }
    optional(w, "LoadBalancer Source Ranges", &joined(&spec.texts("loadBalancerSourceRanges"), ""));
    parts::events(w, events);
}

fn ingress(points: &[Value]) -> String {
    let text = |point: &Value| match (point.text("ip"), point.at("ipMode").as_str()) {
        ("", _) => point.text("hostname").to_owned(),
        (ip, Some(mode)) => format!("{ip} ({mode})"),
        (ip, None) => ip.to_owned(),
    };
    points.iter().map(text).collect::<Vec<_>>().join(", ")
}

/// The first ready endpoints of a service's port.
fn ready_endpoints(slices: &[Value], port: &str) -> String {
    if slices.is_empty() {
        return "<none>".to_owned();
    }
    let (mut shown, mut count, mut more) = (Vec::new(), 0, false);
    let mut visit = |endpoint: &Value, port: Option<i64>| {
        // Upstream says "more" as soon as it looks at one more endpoint, even if that one is not ready.
        more |= shown.len() == SHOWN_ENDPOINTS;
        if endpoint.at("conditions.ready").as_bool() == Some(false) {
            return;
        }
        if !more {
            let address = endpoint.texts("addresses").first().copied().unwrap_or("");
            shown.push(port.map_or_else(|| address.to_owned(), |port| host_port(address, &port.to_string())));
        }
        count += 1;
    };
    for slice in slices {
        let endpoints = slice.items("endpoints");
        if slice.items("ports").is_empty() {
            endpoints.iter().for_each(|endpoint| visit(endpoint, None));
        }
        for found in slice.items("ports").iter().filter(|p| p.text("name") == port) {
            endpoints.iter().for_each(|endpoint| visit(endpoint, Some(found.int("port"))));
        }
    }
    match more {
        true => format!("{} + {} more...", shown.join(","), count - SHOWN_ENDPOINTS),
        false => shown.join(","),
    }
}

/// Endpoints.
pub fn endpoints(w: &mut Writer, endpoints: &Value, events: Option<&[Value]>) {
    parts::heading(w, endpoints, true);
    w.line(0, "Subsets:");
    for subset in endpoints.items("subsets") {
        for (title, field) in [("Addresses", "addresses"), ("NotReadyAddresses", "notReadyAddresses")] {
            let ips: Vec<&str> = subset.items(field).iter().map(|a| a.text("ip")).collect();
            line!(w, 1, "{title}:\t{}", joined(&ips, "<none>"));
        }
        if !subset.items("ports").is_empty() {
            w.line(1, "Ports:");
            w.line(2, "Name\tPort\tProtocol");
            w.line(2, "----\t----\t--------");
        }
        for port in subset.items("ports") {
            let name = match port.text("name") {
                "" => "<unset>",
                name => name,
            };
            line!(w, 2, "{name}\t{}\t{}", port.int("port"), port.text("protocol"));
        }
        w.line(0, "");
    }
    parts::events(w, events);
}

/// An EndpointSlice.
pub fn endpoint_slice(w: &mut Writer, slice: &Value, events: Option<&[Value]>) {
    const UNSET: &str = "<unset>";
    parts::heading(w, slice, true);
    line!(w, 0, "AddressType:\t{}", slice.text("addressType"));
    match slice.items("ports") {
        [] => w.line(0, "Ports: <unset>"),
        _ => ["Ports:", "  Name\tPort\tProtocol", "  ----\t----\t--------"].iter().for_each(|text| w.line(0, text)),
    }
    for port in slice.items("ports") {
        let name = match port.text("name") {
            "" => UNSET,
            name => name,
        };
        let number = port.at("port").as_i64().map_or_else(|| UNSET.to_owned(), |n| n.to_string());
        line!(w, 1, "{name}\t{number}\t{}", port.text("protocol"));
    }
    match slice.items("endpoints") {
        [] => w.line(0, "Endpoints: <none>"),
        _ => w.line(0, "Endpoints:"),
    }
    for endpoint in slice.items("endpoints") {
        let addresses = endpoint.texts("addresses").join(", ");
        line!(w, 1, "- Addresses:\t{}", if addresses.is_empty() { "<none>" } else { &addresses });
        w.line(2, "Conditions:");
        let ready = endpoint.at("conditions.ready").as_bool();
        line!(w, 3, "Ready:\t{}", ready.map_or_else(|| UNSET.to_owned(), |ready| ready.to_string()));
        line!(w, 2, "Hostname:\t{}", endpoint.text_or("hostname", UNSET));
        if endpoint.has("targetRef") {
            line!(w, 2, "TargetRef:\t{}/{}", endpoint.text("targetRef.kind"), endpoint.text("targetRef.name"));
        }
        line!(w, 2, "NodeName:\t{}", endpoint.text_or("nodeName", UNSET));
        line!(w, 2, "Zone:\t{}", endpoint.text_or("zone", UNSET));
    }
    parts::events(w, events);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn three_endpoints_are_shown() {
        let endpoint = |n: i32, ready: bool| json!({"addresses": [format!("10.0.0.{n}")], "conditions": {"ready": ready}});
        let slice = |endpoints: Vec<Value>| vec![json!({"ports": [{"name": "web", "port": 80}], "endpoints": endpoints})];
        let many = slice((1..6).map(|n| endpoint(n, true)).collect());
        assert_eq!(ready_endpoints(&many, "web"), "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more...");
        assert_eq!(ready_endpoints(&slice(vec![endpoint(1, false)]), "web"), "");
        assert_eq!(ready_endpoints(&[], "web"), "<none>");
    }
}
