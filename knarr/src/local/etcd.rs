//! The local etcd of a cluster made with `--store etcd`.
//!
//! With one server it is a process of node 1, on the loopback of its network namespace. With several it is reached over the
//! cluster's link, where pods' packets go, too: so it speaks TLS and wants certificates of an authority of its own, which only the servers have.
//!
//! It outlives its node's agent; a new agent finds it by its recorded pid and start time. When it ends by itself the agent
//! starts it again. It says when it is ready the way systemd's services do, so nobody has to knock.

use std::{
    fs,
    net::Ipv4Addr,
    os::{linux::net::SocketAddrExt, unix::net::SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use apiserver::security::{
    pki::{Pki, Subject},
    x509::Usage,
};
use tokio::{net::UnixDatagram, process::Command};
use tokio_util::sync::CancellationToken;

use super::{
    layout,
    process::Identity,
    record::{Cluster, Node},
};

const PATIENCE: Duration = Duration::from_secs(60);
/// The pair of the API servers.
const CLIENT: &str = "client";

fn certificates(cluster: &Cluster) -> PathBuf {
    layout::folder(&cluster.name).join("etcd-pki")
}

/// Makes the authority and the certificates of a cluster's etcd members and of their clients.
pub fn ensure_certificates(cluster: &Cluster) -> Result<()> {
    let pki = Pki::open(&certificates(cluster), std::time::SystemTime::now().into())?;
    for member in cluster.etcd_members()? {
        let names = [member.address.to_string(), Ipv4Addr::LOCALHOST.to_string()];
        let names = names.each_ref().map(String::as_str);
        pki.keep(&member.name, &Subject { usage: Usage::Both, ..Subject::server(&member.name, &[], &names) })?;
    }
    pki.keep(CLIENT, &Subject::client("knarr", &[]))?;
    Ok(())
}

/// How a server reaches the cluster's etcd.
pub fn options(cluster: &Cluster) -> Result<store::etcd::Options> {
    let members = cluster.etcd_members()?;
    if members.is_empty() {
        let endpoints = vec![url("http", Ipv4Addr::LOCALHOST, 2379)];
        return Ok(store::etcd::Options { endpoints, ..Default::default() });
    }
    let folder = certificates(cluster);
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read(&path).with_context(|| format!("read {}", path.display()))
    };
    Ok(store::etcd::Options {
        endpoints: members.iter().map(|member| url("https", member.address, 2379)).collect(),
        ca_pem: Some(read("ca.crt")?),
        identity_pem: Some((read(&format!("{CLIENT}.crt"))?, read(&format!("{CLIENT}.key"))?)),
    })
}

fn url(scheme: &str, address: Ipv4Addr, port: u16) -> String {
    format!("{scheme}://{address}:{port}")
}

/// What a member is told. With one server it is the only one and keeps its data where it always has.
fn arguments(cluster: &Cluster, node: &Node) -> Result<Vec<String>> {
    let members = cluster.etcd_members()?;
    let (scheme, address, name, data) = match members.is_empty() {
        true => ("http", Ipv4Addr::LOCALHOST, "knarr", layout::folder(&cluster.name).join("etcd")),
        false => ("https", node.address, node.name.as_str(), node.folder.join("etcd")),
    };
    let (client, peer) = (url(scheme, address, 2379), url(scheme, address, 2380));
    let peers: Vec<String> = match members.is_empty() {
        true => vec![format!("{name}={peer}")],
        false => members.iter().map(|m| format!("{}={}", m.name, url(scheme, m.address, 2380))).collect(),
    };
    let text = |path: &Path| path.display().to_string();
    let mut arguments: Vec<String> = [
        ("name", name.to_owned()),
        ("log-level", "warn".to_owned()),
        ("logger", "zap".to_owned()),
        ("data-dir", text(&data)),
        ("listen-client-urls", client.clone()),
        ("advertise-client-urls", client),
        ("listen-peer-urls", peer.clone()),
        ("initial-advertise-peer-urls", peer),
        ("initial-cluster", peers.join(",")),
    ]
    .map(|(flag, value)| format!("--{flag}={value}"))
    .to_vec();
    if !members.is_empty() {
        let folder = certificates(cluster);
        for prefix in ["", "peer-"] {
            arguments.push(format!("--{prefix}client-cert-auth"));
            arguments.push(format!("--{prefix}trusted-ca-file={}", text(&folder.join("ca.crt"))));
            arguments.push(format!("--{prefix}cert-file={}", text(&folder.join(format!("{name}.crt")))));
            arguments.push(format!("--{prefix}key-file={}", text(&folder.join(format!("{name}.key")))));
        }
    }
    Ok(arguments)
}

/// Makes sure that the member of this node runs, with its log and pid in the node's folder.
pub async fn ensure(cluster: &Cluster, node: &Node) -> Result<()> {
    let folder = node.folder.as_path();
    if Identity::load(folder, "etcd").is_some() {
        return Ok(());
    }
    let (ready, notify) = ready_socket()?;
    let path = folder.join("etcd.log");
    let log = fs::OpenOptions::new().create(true).append(true).open(&path);
    let log = log.with_context(|| format!("open {}", path.display()))?;
    let mut command = Command::new("etcd");
    command
        .args(arguments(cluster, node)?)
        .env("NOTIFY_SOCKET", notify)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Not ended by what ends its agent's group.
        .process_group(0);
    let mut child =
        command.spawn().context("start etcd (Debian's etcd-server package has it; hack/deps test installs it)")?;
    let pid = child.id().context("etcd ended at once")?;
    Identity::of(pid as i32).context("read etcd's start time")?.save(folder, "etcd")?;
    let mut message = [0; 256];
    tokio::select! {
        heard = ready.recv(&mut message) => heard.map(drop).context("hear from etcd"),
        _ = child.wait() => bail!("etcd ended while starting; see {}", path.display()),
        () = tokio::time::sleep(PATIENCE) => bail!("etcd is not ready after {} s; see {}", PATIENCE.as_secs(), path.display()),
    }
}

/// The same, then waits until the member ends.
pub async fn run(cluster: Cluster, node: Node, shutdown: CancellationToken) -> Result<()> {
    ensure(&cluster, &node).await?;
    if let Some(member) = Identity::load(&node.folder, "etcd") {
        shutdown.run_until_cancelled(member.ended()).await.transpose()?;
    }
    Ok(())
}

/// A socket without a file, and its name in the notation of `NOTIFY_SOCKET`.
fn ready_socket() -> Result<(UnixDatagram, String)> {
    let name = format!("knarr-etcd-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name)?;
    let socket = std::os::unix::net::UnixDatagram::bind_addr(&address).context("open a socket for etcd's report")?;
    socket.set_nonblocking(true)?;
    Ok((UnixDatagram::from_std(socket)?, format!("@{name}")))
}
