//! The local etcd of a cluster made with `--store etcd`: a process of node 1, on the loopback of its network namespace.
//!
//! It is started once and outlives its node's agent; a new agent finds it by its recorded pid and start time. It says when
//! it is ready the way systemd's services do, so nobody has to knock.

use std::{
    fs,
    os::{
        linux::net::SocketAddrExt,
        unix::{net::SocketAddr, process::CommandExt},
    },
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::net::UnixDatagram;

use super::process::Identity;

/// Where it listens, in its node's namespace.
pub const ENDPOINT: &str = "http://127.0.0.1:2379";
const PEER: &str = "http://127.0.0.1:2380";
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes sure that etcd runs, with its data in `data` and its log and pid in the node's `folder`.
pub async fn ensure(data: &Path, folder: &Path) -> Result<()> {
    if Identity::load(folder, "etcd").is_some() {
        return Ok(());
    }
    fs::create_dir_all(data).with_context(|| format!("create {}", data.display()))?;
    let (ready, notify) = ready_socket()?;
    let path = folder.join("etcd.log");
    let log = fs::OpenOptions::new().create(true).append(true).open(&path);
    let log = log.with_context(|| format!("open {}", path.display()))?;
    let mut command = Command::new("etcd");
    command
        .args(["--name", "knarr", "--log-level", "warn", "--logger", "zap"])
        .arg("--data-dir")
        .arg(data)
        .args(["--listen-client-urls", ENDPOINT, "--advertise-client-urls", ENDPOINT])
        .args(["--listen-peer-urls", PEER, "--initial-advertise-peer-urls", PEER])
        .args(["--initial-cluster", &format!("knarr={PEER}")])
        .env("NOTIFY_SOCKET", notify)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Not ended by what ends its agent's group.
        .process_group(0);
    let mut child =
        command.spawn().context("start etcd (Debian's etcd-server package has it; hack/deps test installs it)")?;
    Identity::of(child.id() as i32).context("read etcd's start time")?.save(folder, "etcd")?;
    let ended = tokio::task::spawn_blocking(move || child.wait());
    let mut message = [0; 256];
    tokio::select! {
        heard = ready.recv(&mut message) => heard.map(drop).context("hear from etcd"),
        _ = ended => bail!("etcd ended while starting; see {}", path.display()),
        () = tokio::time::sleep(PATIENCE) => bail!("etcd is not ready after {} s; see {}", PATIENCE.as_secs(), path.display()),
    }
}

/// A socket without a file, and its name in the notation of `NOTIFY_SOCKET`.
fn ready_socket() -> Result<(UnixDatagram, String)> {
    let name = format!("knarr-etcd-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name)?;
    let socket = std::os::unix::net::UnixDatagram::bind_addr(&address).context("open a socket for etcd's report")?;
    socket.set_nonblocking(true)?;
    Ok((UnixDatagram::from_std(socket)?, format!("@{name}")))
}
