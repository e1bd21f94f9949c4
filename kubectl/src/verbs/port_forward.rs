//! `kubectl port-forward`: listeners here, connections to a pod's ports there, all over one connection to the server.

use std::{collections::BTreeMap, io, net::IpAddr};

use jiff::{SignedDuration, Zoned};
use serde_json::Value;
use streaming::{
    client::{PortForward, agreed, upgrade_headers},
    forward::TUNNEL,
    negotiate::Wire,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use crate::{
    cli,
    client::{Call, Client, Upgrade, log as klog},
    context::Context,
    describe::json::Json,
    failure::{Failure, plain, usage},
    pods,
};

/// What `port-forward` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// TYPE/NAME and [LOCAL_PORT:]REMOTE_PORT...
    #[arg(value_name = "TYPE/NAME")]
    pub args: Vec<String>,
    /// Addresses to listen on: IP addresses or localhost, which is 127.0.0.1 and ::1.
    #[arg(long, value_delimiter = ',', default_value = "localhost")]
    pub address: Vec<String>,
    /// How long to wait until at least one pod is running.
    #[arg(long, default_value = "1m0s", value_parser = cli::duration)]
    pub pod_running_timeout: SignedDuration,
}

/// Forwards ports until interrupted.
///
/// # Errors
/// If that cannot be done or the connection ends.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let [name, ports @ ..] = args.args.as_slice() else {
        return Err(usage("port-forward", "TYPE/NAME and list of ports are required for port-forward"));
    };
    if ports.is_empty() {
        return Err(usage("port-forward", "TYPE/NAME and list of ports are required for port-forward"));
    }
    cx.namespace()?;
    let timeout = std::time::Duration::try_from(args.pod_running_timeout).ok().filter(|timeout| !timeout.is_zero());
    let timeout = timeout.ok_or_else(|| usage("port-forward", "--pod-running-timeout must be higher than zero"))?;
    let objects = pods::named(cx, std::slice::from_ref(name)).await?;
    let object = objects.first().ok_or_else(|| plain("no resources found"))?;
    let client = cx.client()?;
    let pod = pods::attachable(client, object, timeout).await?;
    let translated = match object.mapping.kind.as_str() {
        "Service" => translate(ports, &object.value, Some(&pod))?,
        _ => translate(ports, &pod, None)?,
    };
    let path = pods::subresource(&pod, "");
    let pod = client.json(Call::get(path.trim_end_matches('/'))).await?;
    if pod.text("status.phase") != "Running" {
        let phase = pod.text("status.phase");
        return Err(plain(format!("unable to forward port because pod is not running. Current status={phase}")));
    }
    let addresses = addresses(&args.address)?;
    let ports = translated.iter().map(|port| parse(port)).collect::<Result<Vec<_>, _>>()?;
    let session = connect(client, &pod).await?;
    forward(session, &addresses, ports).await
}

fn split(port: &str) -> (&str, &str) {
    match port.split(':').collect::<Vec<_>>().as_slice() {
        [local, remote] => (local, remote),
        parts => (parts[0], parts[0]),
    }
}

/// The ports of all of a pod's containers, or a service's: name, number, protocol.
fn declared(object: &Value) -> Vec<(&str, i64, &str)> {
    let port = |port: &'_ Value, field: &str| -> i64 { port.int(field) };
    match object.has("spec.containers") {
        true => ["spec.containers", "spec.initContainers"]
            .iter()
            .flat_map(|field| object.items(field))
            .flat_map(|container| container.items("ports"))
            .map(|p| (p.text("name"), port(p, "containerPort"), p.text("protocol")))
            .collect(),
        false => object.items("spec.ports").iter().map(|p| (p.text("name"), port(p, "port"), p.text("protocol"))).collect(),
    }
}

fn by_name(object: &Value, kind: &str, name: &str) -> Result<i64, Failure> {
    let found = declared(object).into_iter().find(|(known, ..)| *known == name).map(|(_, port, _)| port);
    found.ok_or_else(|| plain(format!("{kind} '{}' does not have a named port '{name}'", object.text("metadata.name"))))
}

/// What is a number in Go's eyes.
fn number(text: &str) -> Option<i64> {
    text.parse().ok()
}

/// Names of ports become numbers, and a service's ports those of its pod. `pod` is given with a service.
fn translate(ports: &[String], object: &Value, pod: Option<&Value>) -> Result<Vec<String>, Failure> {
    let kind = if pod.is_some() { "Service" } else { "Pod" };
    let only_udp = |port: i64| {
        let has = |protocol: &str| declared(object).iter().any(|(_, known, of)| *known == port && *of == protocol);
        has("UDP") && !has("TCP")
    };
    for port in ports {
        let (_, remote) = split(port);
        let found = number(remote).map_or_else(|| by_name(object, kind, remote), Ok)?;
        if only_udp(found) {
            return Err(plain(format!("UDP protocol is not supported for {remote}")));
        }
    }
    let one = |port: &String| -> Result<String, Failure> {
        let (local, remote) = split(port);
        let Some(pod) = pod else {
            if remote.is_empty() {
                return Err(plain("remote port cannot be empty"));
            }
            let target = number(remote)
                .map_or_else(|| by_name(object, kind, remote).map(|p| p.to_string()), |_| Ok(remote.to_owned()))?;
            return Ok(if local == remote { target } else { format!("{local}:{target}") });
        };
        let (found, local) = match number(remote) {
            Some(found) => (found, local.to_owned()),
            None => {
                let found = by_name(object, kind, remote)?;
                (found, if local == remote { found.to_string() } else { local.to_owned() })
            }
        };
        let target = target_port(object, pod, found)?.to_string();
        Ok(if local == target { target } else { format!("{local}:{target}") })
    };
    ports.iter().map(one).collect()
}

fn target_port(service: &Value, pod: &Value, port: i64) -> Result<i64, Failure> {
    let Some(found) = service.items("spec.ports").iter().find(|p| p.int("port") == port) else {
        return Err(plain(format!("Service {} does not have a service port {port}", service.text("metadata.name"))));
    };
    match found.at("targetPort") {
        _ if service.text("spec.clusterIP") == "None" => Ok(port),
        Value::String(name) => by_name(pod, "Pod", name),
        target => Ok(target.as_i64().filter(|target| *target != 0).unwrap_or(port)),
    }
}

/// `[LOCAL:]REMOTE` as numbers; an empty local port is any that is free.
fn parse(text: &str) -> Result<(u16, u16), Failure> {
    let (local, remote) = match text.split(':').collect::<Vec<_>>().as_slice() {
        [port] => (*port, *port),
        ["", remote] => ("0", *remote),
        [local, remote] => (*local, *remote),
        _ => return Err(plain(format!("invalid port format '{text}'"))),
    };
    let number = |which: &str, text: &str| {
        text.parse::<u16>().map_err(|_| {
            let why = match text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
                true => "value out of range",
                false => "invalid syntax",
            };
            let quoted = api::field::go_quote(text);
            plain(format!("error parsing {which} port '{text}': strconv.ParseUint: parsing {quoted}: {why}"))
        })
    };
    let (local, remote) = (number("local", local)?, number("remote", remote)?);
    if remote == 0 {
        return Err(plain("remote port must be > 0"));
    }
    Ok((local, remote))
}

/// The addresses to listen on in upstream's order, and whether each of them must do.
fn addresses(given: &[String]) -> Result<Vec<(IpAddr, bool)>, Failure> {
    let mut addresses: BTreeMap<String, (IpAddr, bool)> = BTreeMap::new();
    for text in given {
        if text == "localhost" {
            for ip in [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])] {
                addresses.entry(ip.to_string()).or_insert((ip, false));
            }
        } else {
            let ip = text.parse().map_err(|_| plain(format!("{text} is not a valid IP")))?;
            addresses.insert(text.clone(), (ip, true));
        }
    }
    Ok(addresses.into_values().collect())
}

async fn connect(client: &Client, pod: &Value) -> Result<PortForward, Failure> {
    let call = |wire: Wire, protocols: &[&'static str]| {
        let method = if wire == Wire::Spdy { http::Method::POST } else { http::Method::GET };
        let mut call = Call::new(method, pods::subresource(pod, "portforward"));
        call.headers.extend(upgrade_headers(wire, protocols));
        call
    };
    klog::at(4, "tunneling_dialer.go:75", "Before WebSocket Upgrade Connection...");
    let upgraded = match client.upgrade(call(Wire::WebSocket, &[TUNNEL])).await? {
        done @ Upgrade::Done(..) => done,
        Upgrade::Refused(_) => client.upgrade(call(Wire::Spdy, &["portforward.k8s.io"])).await?,
    };
    let failed = |why: String| plain(format!("error upgrading connection: {why}"));
    let (io, headers) = upgraded.accepted().map_err(|failure| failed(failure.message()))?;
    let agreed = agreed(&headers).ok_or_else(|| failed("the server speaks no known protocol".to_owned()))?;
    if agreed.wire == Wire::WebSocket {
        klog::at(4, "tunneling_dialer.go:85", "negotiated protocol: portforward.k8s.io");
    }
    PortForward::open(io, &agreed).await.map_err(|error| failed(error.to_string()))
}

/// Go's words for why a port cannot be listened on.
fn why_not(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "bind: address already in use".to_owned(),
        io::ErrorKind::AddrNotAvailable => "bind: cannot assign requested address".to_owned(),
        io::ErrorKind::PermissionDenied => "bind: permission denied".to_owned(),
        _ => format!("bind: {error}"),
    }
}

/// Listeners for one port on all addresses; the port where any was free, once one is chosen.
async fn listen(addresses: &[(IpAddr, bool)], local: u16) -> Result<Vec<(TcpListener, u16)>, (u16, String)> {
    let (mut listeners, mut errors, mut required) = (Vec::new(), Vec::new(), false);
    let mut chosen = local;
    for (address, must) in addresses {
        let bound = TcpListener::bind((*address, chosen)).await.and_then(|l| Ok((l.local_addr()?.port(), l)));
        match bound {
            Ok((port, listener)) => {
                chosen = port;
                listeners.push((listener, port));
            }
            Err(error) => {
                required |= must;
                let family = if address.is_ipv4() { "tcp4" } else { "tcp6" };
                let at = std::net::SocketAddr::new(*address, chosen);
                errors.push(format!("unable to create listener: Error listen {family} {at}: {}", why_not(&error)));
            }
        }
    }
    if required || (listeners.is_empty() && !errors.is_empty()) {
        return Err((chosen, format!("Listeners failed to create with the following errors: [{}]", errors.join(" "))));
    }
    Ok(listeners)
}

async fn forward(session: PortForward, addresses: &[(IpAddr, bool)], ports: Vec<(u16, u16)>) -> Result<(), Failure> {
    let (broken, mut failed) = mpsc::channel::<()>(1);
    let mut listening = Vec::new();
    let mut told = Vec::new();
    for (local, remote) in &ports {
        match listen(addresses, *local).await {
            Ok(listeners) => {
                for (listener, port) in listeners {
                    let ip = listener.local_addr().map_or_else(|_| String::new(), |address| address.ip().to_string());
                    println!("Forwarding from {} -> {remote}", crate::describe::host_port(&ip, &port.to_string()));
                    listening.push(tokio::spawn(accept(listener, port, *remote, session.clone(), broken.clone())));
                }
            }
            Err((port, why)) => {
                eprintln!("Unable to listen on port {port}: {why}");
                told.push(format!("{{{port} {remote}}}"));
            }
        }
    }
    if listening.is_empty() {
        return Err(plain(format!("unable to listen on any of the requested ports: [{}]", told.join(" "))));
    }
    let lost = tokio::select! {
        () = session.closed() => true,
        _ = failed.recv() => true,
        _ = tokio::signal::ctrl_c() => false,
    };
    listening.iter().for_each(tokio::task::JoinHandle::abort);
    if lost { Err(plain("lost connection to pod")) } else { Ok(()) }
}

async fn accept(listener: TcpListener, local: u16, remote: u16, session: PortForward, broken: mpsc::Sender<()>) {
    while let Ok((connection, _)) = listener.accept().await {
        println!("Handling connection for {local}");
        let (session, broken) = (session.clone(), broken.clone());
        tokio::spawn(async move {
            if let Err(why) = serve(connection, &session, remote).await {
                log(&format!("an error occurred forwarding {local} -> {remote}: {why}"));
                // Whoever hears the first of several ends the session.
                let _ = broken.try_send(());
            }
        });
    }
}

async fn serve(mut connection: TcpStream, session: &PortForward, port: u16) -> Result<(), String> {
    let (mut data, mut error) =
        session.connect(port).await.map_err(|error| format!("error creating forwarding stream for port {port}: {error}"))?;
    let said = tokio::spawn(async move {
        let mut text = String::new();
        // What cannot be read says nothing.
        let _ = error.read_to_string(&mut text).await;
        text
    });
    // Either side may hang up first; that is not worth a word.
    let _ = tokio::io::copy_bidirectional(&mut connection, &mut data).await;
    let _ = data.shutdown().await;
    match said.await {
        Ok(text) if !text.is_empty() => Err(text),
        _ => Ok(()),
    }
}

/// An error as upstream's logger writes it.
fn log(error: &str) {
    let now = Zoned::now().strftime("%m%d %H:%M:%S%.6f").to_string();
    let quoted = api::field::go_quote(error);
    eprintln!("E{now} {:>7} portforward.go:424] \"Unhandled Error\" err={quoted}", std::process::id());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn services_ports_become_the_pods() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"ports": [{"name": "web", "containerPort": 8080, "protocol": "TCP"}]}]}});
        let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [
            {"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"}, {"port": 81, "targetPort": 9, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"},
        ]}});
        let given = |text: &str| {
            translate(&[text.to_owned()], &service, Some(&pod)).map(|ports| ports.join(" ")).map_err(|f| f.message())
        };
        let cases = [
            ("80", Ok("80:8080")),
            ("http", Ok("80:8080")),
            ("5000:http", Ok("5000:8080")),
            (":81", Ok(":9")),
            ("99", Err("Service s does not have a service port 99")),
            ("53", Err("UDP protocol is not supported for 53")),
        ];
        for (text, want) in cases {
            assert_eq!(given(text), want.map(str::to_owned).map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn localhost_is_two_addresses() {
        let given =
            |texts: &[&str]| addresses(&texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>()).map(|a| a.len()).ok();
        assert_eq!((given(&["localhost"]), given(&["1.2.3.4", "localhost"]), given(&["x"])), (Some(2), Some(3), None));
    }
}
