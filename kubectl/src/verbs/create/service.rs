//! `kubectl create service`: clusterip, nodeport, loadbalancer, externalname.

use api::names;
use serde_json::{Value, json};

use super::generator::{Generated, Made, with_namespace};
use crate::{
    context::Context,
    failure::{Failure, plain},
};

/// Create a service using a specified subcommand.
#[derive(clap::Subcommand, Debug)]
pub enum Kind {
    /// Create a ClusterIP service.
    #[command(name = "clusterip")]
    ClusterIp(ClusterIp),
    /// Create an ExternalName service.
    #[command(name = "externalname")]
    ExternalName(ExternalName),
    /// Create a LoadBalancer service.
    #[command(name = "loadbalancer")]
    LoadBalancer(LoadBalancer),
    /// Create a NodePort service.
    #[command(name = "nodeport")]
    NodePort(NodePort),
}

/// What every kind of service has.
#[derive(clap::Args, Debug)]
pub struct Shared {
    #[command(flatten)]
    made: Made,
    /// PORT or PORT:TARGETPORT.
    #[arg(long, value_delimiter = ',')]
    tcp: Vec<String>,
    /// Name of the service.
    names: Vec<String>,
}

/// Arguments of `clusterip`.
#[derive(clap::Args, Debug)]
pub struct ClusterIp {
    #[command(flatten)]
    shared: Shared,
    /// The service's address, or None.
    #[arg(long, default_value = "", hide_default_value = true)]
    clusterip: String,
}

/// Arguments of `nodeport`.
#[derive(clap::Args, Debug)]
pub struct NodePort {
    #[command(flatten)]
    shared: Shared,
    /// The port on every node.
    #[arg(long, default_value_t = 0, hide_default_value = true, allow_negative_numbers = true)]
    node_port: i32,
}

/// Arguments of `loadbalancer`.
#[derive(clap::Args, Debug)]
pub struct LoadBalancer {
    #[command(flatten)]
    shared: Shared,
}

/// Arguments of `externalname`.
#[derive(clap::Args, Debug)]
pub struct ExternalName {
    #[command(flatten)]
    shared: Shared,
    /// The name that the service is another name of.
    #[arg(long)]
    external_name: String,
}

/// Runs the command.
pub async fn run(kind: Kind, cx: &Context) -> Result<(), Failure> {
    let (shared, spec) = match &kind {
        Kind::ClusterIp(args) => (&args.shared, Spec { cluster_ip: &args.clusterip, ..Spec::of("ClusterIP") }),
        Kind::NodePort(args) => (&args.shared, Spec { node_port: args.node_port, ..Spec::of("NodePort") }),
        Kind::LoadBalancer(args) => (&args.shared, Spec::of("LoadBalancer")),
        Kind::ExternalName(args) => (&args.shared, Spec { external_name: &args.external_name, ..Spec::of("ExternalName") }),
    };
    let making = shared.made.begin(cx, &format!("service {}", spec.kind.to_lowercase()), &shared.names)?;
    let object = service(making.name, &shared.tcp, &spec).map_err(plain)?;
    let failing = format!("failed to create {} service: ", spec.kind);
    making.create(cx, Generated { object: with_namespace(object, cx), failing: &failing }).await
}

struct Spec<'a> {
    kind: &'static str,
    cluster_ip: &'a str,
    node_port: i32,
    external_name: &'a str,
}

impl Spec<'_> {
    fn of(kind: &'static str) -> Self {
        Self { kind, cluster_ip: "", node_port: 0, external_name: "" }
    }
}

fn service(name: &str, tcp: &[String], spec: &Spec) -> Result<Value, String> {
    if spec.cluster_ip != "None" && tcp.is_empty() && spec.kind != "ExternalName" {
        return Err("at least one tcp port specifier must be provided".to_owned());
    }
    if spec.kind == "ExternalName" && !names::dns1123_subdomain(spec.external_name).is_empty() {
        return Err(format!("invalid service external name {}", spec.external_name));
    }
    let mut ports = Vec::new();
    for text in tcp {
        let (port, target) = parse_ports(text)?;
        let mut entry = json!({"name": text.replace(':', "-"), "protocol": "TCP", "port": port, "targetPort": target});
        if spec.node_port != 0 {
            entry["nodePort"] = json!(spec.node_port);
        }
        ports.push(entry);
    }
    let mut object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"selector": {"app": name}, "type": spec.kind}});
    if !ports.is_empty() {
        object["spec"]["ports"] = Value::Array(ports);
    }
    for (field, value) in [("clusterIP", spec.cluster_ip), ("externalName", spec.external_name)] {
        if !value.is_empty() {
            object["spec"][field] = json!(value);
        }
    }
    Ok(object)
}

/// `80`, `80:8080` or `80:http`.
fn parse_ports(text: &str) -> Result<(u16, Value), String> {
    let (port, target) = match text.split(':').collect::<Vec<_>>()[..] {
        [port, target, ..] => (port, Some(target)),
        _ => (text, None),
    };
    let number = parse_uint16(port)?;
    let Some(target) = target else { return Ok((number, json!(number))) };
    let (value, problems) = match target.parse::<i64>() {
        Ok(target) => (json!(target), names::port_number(target)),
        Err(_) => (json!(target), names::port_name(target)),
    };
    if problems.is_empty() { Ok((number, value)) } else { Err(problems.join(",")) }
}

fn parse_uint16(text: &str) -> Result<u16, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let why = if digits { "value out of range" } else { "invalid syntax" };
    let failed = || format!("strconv.ParseUint: parsing {}: {why}", api::field::go_quote(text));
    if digits { text.parse().map_err(|_| failed()) } else { Err(failed()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::create::tests::written;

    #[test]
    fn ports_are_named_after_their_text() {
        let tcp = ["80:8080".to_owned(), "443".to_owned()];
        assert_eq!(
            written(service("s", &tcp, &Spec::of("NodePort")).unwrap()),
            concat!(
                r#"{"kind":"Service","apiVersion":"v1","metadata":{"name":"s","creationTimestamp":null,"labels":{"app":"s"}},"#,
                r#""spec":{"ports":[{"name":"80-8080","protocol":"TCP","port":80,"targetPort":8080},"#,
                r#"{"name":"443","protocol":"TCP","port":443,"targetPort":443}],"selector":{"app":"s"},"type":"NodePort"},"#,
                r#""status":{"loadBalancer":{}}}"#
            )
        );
    }

    #[test]
    fn bad_ports_are_refused_in_upstreams_words() {
        let refused = |text: &str| parse_ports(text).unwrap_err();
        assert_eq!(refused("a"), "strconv.ParseUint: parsing \"a\": invalid syntax");
        assert_eq!(refused("1:70000"), "must be between 1 and 65535, inclusive");
        assert_eq!(
            refused("1:_"),
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-),must contain at least one letter (a-z)"
        );
    }
}
