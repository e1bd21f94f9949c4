//! The service that exposes an object: selector, ports and labels as the object has them, unless flags say otherwise.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// What flags say; empty is unsaid. What they leave unsaid is the first object's, also for the objects after it: upstream fills
/// in what it finds and does not forget it again.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The service's name.
    pub name: String,
    /// `a=b,c=d`.
    pub selector: String,
    /// Comma-separated numbers.
    pub port: String,
    /// The numbers of an object that has several, which count before `port`.
    pub ports: String,
    /// The protocols of an object's ports, by number.
    pub protocols: Vec<(String, Vec<String>)>,
    /// TCP, UDP or SCTP for all ports.
    pub protocol: String,
    /// A number or a name.
    pub target_port: String,
    /// `a=b,c=d`.
    pub labels: String,
    /// One address.
    pub external_ip: String,
    /// One address, for LoadBalancer.
    pub load_balancer_ip: String,
    /// ClusterIP, NodePort, LoadBalancer.
    pub of_type: String,
    /// None or ClientIP.
    pub session_affinity: String,
    /// An address or None.
    pub cluster_ip: String,
}

/// Whether objects of a kind can be exposed.
pub fn can_be_exposed(group: &str, kind: &str) -> Result<(), String> {
    match (group, kind) {
        ("", "ReplicationController" | "Service" | "Pod") | ("apps" | "extensions", "Deployment" | "ReplicaSet") => Ok(()),
        ("", kind) => Err(format!("cannot expose a {kind}")),
        (group, kind) => Err(format!("cannot expose a {kind}.{group}")),
    }
}

/// The service for an object. What the object says goes into `wanted` where nothing is said there.
pub fn service(object: &Value, wanted: &mut Wanted) -> Result<Value, String> {
    if wanted.selector.is_empty() {
        let found = selector_of(object);
        let why = |why| format!("couldn't retrieve selectors via --selector flag or introspection: {why}");
        wanted.selector = written(&found.map_err(why)?);
    }
    find_ports(object, wanted)?;
    if wanted.labels.is_empty() {
        wanted.labels = written(&strings(&object["metadata"]["labels"]));
    }
    if wanted.selector.is_empty() {
        return Err("selector must be specified".to_owned());
    }
    let selector = parse_labels(&wanted.selector)?;
    let labels = if wanted.labels.is_empty() { BTreeMap::new() } else { parse_labels(&wanted.labels)? };
    let default = object["metadata"]["name"].as_str().unwrap_or_default();
    let name = if wanted.name.is_empty() { default.get(..63).unwrap_or(default) } else { &wanted.name };
    if name.is_empty() {
        return Err("name must be specified".to_owned());
    }
    let ports = ports(wanted)?;
    let mut spec = Map::new();
    spec.insert("selector".to_owned(), json!(selector));
    if !ports.is_empty() {
        spec.insert("ports".to_owned(), Value::Array(ports));
    }
    let mut put = |field: &str, value: &str| {
        if !value.is_empty() {
            spec.insert(field.to_owned(), json!(value));
        }
    };
    put("type", &wanted.of_type);
    put("clusterIP", &wanted.cluster_ip);
    if wanted.of_type == "LoadBalancer" {
        put("loadBalancerIP", &wanted.load_balancer_ip);
    }
    match wanted.session_affinity.as_str() {
        "" | "None" | "ClientIP" => put("sessionAffinity", &wanted.session_affinity),
        other => return Err(format!("unknown session affinity: {other}")),
    }
    if !wanted.external_ip.is_empty() {
        spec.insert("externalIPs".to_owned(), json!([wanted.external_ip]));
    }
    let mut metadata = json!({"name": name});
    if !labels.is_empty() {
        metadata["labels"] = json!(labels);
    }
    Ok(json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}))
}

fn strings(map: &Value) -> BTreeMap<String, String> {
    let map = map.as_object().into_iter().flatten();
    map.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect()
}

fn selector_of(object: &Value) -> Result<BTreeMap<String, String>, String> {
    let spec = &object["spec"];
    match object["kind"].as_str().unwrap_or_default() {
        "ReplicationController" => Ok(strings(&spec["selector"])),
        "Pod" => match strings(&object["metadata"]["labels"]) {
            labels if labels.is_empty() => Err("the pod has no labels and cannot be exposed".to_owned()),
            labels => Ok(labels),
        },
        "Service" if spec.get("selector").is_none() => Err("the service has no pod selector set".to_owned()),
        "Service" => Ok(strings(&spec["selector"])),
        kind => {
            let labels = strings(&spec["selector"]["matchLabels"]);
            if labels.is_empty() {
                return Err(format!("invalid {}: no selectors, therefore cannot be exposed", kind.to_lowercase()));
            }
            match spec["selector"]["matchExpressions"].as_array().filter(|list| !list.is_empty()) {
                Some(list) => {
                    Err(format!("couldn't convert expressions - \"{}\" to map-based selector format", go_expressions(list)))
                }
                None => Ok(labels),
            }
        }
    }
}

/// Go's `%+v` of label selector requirements.
fn go_expressions(list: &[Value]) -> String {
    let one = |e: &Value| {
        let text = |field: &str| e[field].as_str().unwrap_or_default().to_owned();
        let values: Vec<&str> = e["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        format!("{{Key:{} Operator:{} Values:[{}]}}", text("key"), text("operator"), values.join(" "))
    };
    format!("[{}]", list.iter().map(one).collect::<Vec<_>>().join(" "))
}

/// Port numbers of an object, each once and in order, with all their protocols.
fn ports_of(object: &Value) -> Vec<(String, Vec<String>)> {
    let spec = &object["spec"];
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let (ports, field) = match object["kind"].as_str() {
        Some("Service") => (list(&spec["ports"]), "port"),
        kind => {
            let pod = if kind == Some("Pod") { spec } else { &spec["template"]["spec"] };
            (list(&pod["containers"]).iter().flat_map(|c| list(&c["ports"])).collect(), "containerPort")
        }
    };
    let mut out: Vec<(String, Vec<String>)> = Vec::new();
    for port in ports {
        let number = port[field].as_i64().unwrap_or_default().to_string();
        let protocol = port["protocol"].as_str().filter(|p| !p.is_empty()).unwrap_or("TCP").to_owned();
        match out.iter_mut().find(|(n, _)| *n == number) {
            Some((_, protocols)) => protocols.push(protocol),
            None => out.push((number, vec![protocol])),
        }
    }
    out
}

/// `a=b,c=d`.
fn written(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// Takes an object's ports and protocols for those that nobody has named.
fn find_ports(object: &Value, wanted: &mut Wanted) -> Result<(), String> {
    let known = ports_of(object);
    if wanted.port.is_empty() {
        match known.as_slice() {
            [] if wanted.cluster_ip == "None" => {}
            [] => return Err("couldn't find port via --port flag or introspection".to_owned()),
            [(number, _)] => wanted.port.clone_from(number),
            several => wanted.ports = several.iter().map(|(number, _)| number.as_str()).collect::<Vec<_>>().join(","),
        }
    }
    if !known.is_empty() {
        wanted.protocols = known;
    }
    Ok(())
}

fn ports(wanted: &Wanted) -> Result<Vec<Value>, String> {
    let text = if wanted.ports.is_empty() { &wanted.port } else { &wanted.ports };
    let numbers: Vec<&str> = if text.is_empty() { Vec::new() } else { text.split(',').collect() };
    let target = |port: i32| match wanted.target_port.as_str() {
        "" => json!(port),
        text => text.parse::<i32>().map_or_else(|_| json!(text), |number| json!(number)),
    };
    let mut out = Vec::new();
    for (at, number) in numbers.iter().enumerate() {
        let port: i32 =
            number.parse().map_err(|_| format!("strconv.Atoi: parsing {}: invalid syntax", api::field::go_quote(number)))?;
        let protocols: Vec<String> = match wanted.protocol.as_str() {
            "" => {
                wanted.protocols.iter().find(|(n, _)| n == number).map_or_else(|| vec!["TCP".to_owned()], |(_, p)| p.clone())
            }
            protocol => vec![protocol.to_owned()],
        };
        for protocol in &protocols {
            let mut entry = json!({"port": port, "protocol": protocol, "targetPort": target(port)});
            if protocols.len() > 1 {
                entry["name"] = json!(format!("port-{}-{}", at + 1, protocol.to_lowercase()));
            } else if numbers.len() > 1 {
                entry["name"] = json!(format!("port-{}", at + 1));
            }
            out.push(entry);
        }
    }
    Ok(out)
}

fn parse_labels(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut labels = BTreeMap::new();
    for spec in text.split(',') {
        match spec.split('=').collect::<Vec<_>>()[..] {
            ["", _] => return Err("unexpected empty label key".to_owned()),
            [key, value] => drop(labels.insert(key.to_owned(), value.to_owned())),
            _ => return Err(format!("unexpected label spec: {spec}")),
        }
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment() -> Value {
        json!({"kind": "Deployment", "metadata": {"name": "web", "labels": {"l": "m"}}, "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"spec": {"containers": [{"ports": [{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 53}, {"containerPort": 80}]}]}}}})
    }

    #[test]
    fn ports_and_protocols_are_the_objects() {
        let spec = json!({"selector": {"app": "web"}, "ports": [
            {"name": "port-1-udp", "port": 53, "protocol": "UDP", "targetPort": 53},
            {"name": "port-1-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
            {"name": "port-2", "port": 80, "protocol": "TCP", "targetPort": 80},
        ]});
        let want =
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "labels": {"l": "m"}}, "spec": spec});
        assert_eq!(service(&deployment(), &mut Wanted::default()), Ok(want));
    }

    #[test]
    fn flags_win() {
        let text = str::to_owned;
        let mut wanted = Wanted {
            port: text("8080"),
            target_port: text("http"),
            of_type: text("NodePort"),
            name: text("n"),
            ..Wanted::default()
        };
        assert_eq!(
            service(&deployment(), &mut wanted).unwrap()["spec"],
            json!({"selector": {"app": "web"}, "type": "NodePort", "ports": [{"port": 8080, "protocol": "TCP", "targetPort": "http"}]})
        );
    }

    #[test]
    fn the_first_object_counts_for_those_after_it() {
        let mut wanted = Wanted::default();
        service(&deployment(), &mut wanted).unwrap();
        let other = json!({"kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}}, "spec": {"containers": [{"ports": [{"containerPort": 9}]}]}});
        let exposed = service(&other, &mut wanted).unwrap();
        assert_eq!(exposed["metadata"], json!({"name": "p", "labels": {"l": "m"}}));
        assert_eq!(exposed["spec"]["selector"], json!({"app": "web"}));
        let ports: Vec<i64> =
            exposed["spec"]["ports"].as_array().unwrap().iter().filter_map(|p| p["port"].as_i64()).collect();
        assert_eq!(ports, [53, 80]);
    }

    #[test]
    fn refusals_are_upstreams() {
        assert_eq!(can_be_exposed("batch", "Job"), Err("cannot expose a Job.batch".to_owned()));
        let bare = json!({"kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}}, "spec": {}});
        assert_eq!(
            service(&bare, &mut Wanted::default()),
            Err("couldn't find port via --port flag or introspection".to_owned())
        );
    }
}
