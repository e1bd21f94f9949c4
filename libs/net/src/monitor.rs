//! Notices that somebody else changed the tables, at next to no cost while nobody does.
//!
//! With iptables on nf_tables the kernel announces every new generation of the rules on a netlink group; ours are told apart by
//! being expected. x_tables announces nothing: there one system call every two seconds asks for the tables' number of
//! entries and size. Either way a wake-up only says *look*: the proxier then compares the rules themselves. As neither
//! notices everything (a rule replaced by one of the same size), it looks every minute besides.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::PathBuf,
    time::Duration,
};

use tokio::{io::unix::AsyncFd, time::Instant};

/// How often x_tables is asked.
const ASK: Duration = Duration::from_secs(2);
/// How often the rules are compared whatever the kernel says.
const LOOK: Duration = Duration::from_secs(60);
/// Changes come in bursts: look when they pause.
const PAUSE: Duration = Duration::from_millis(100);

/// The kernel's answer about each table: entries and bytes.
type Sizes = Vec<(u32, u32)>;

/// Where foreign changes show.
#[derive(Debug)]
pub struct Monitor {
    source: Source,
    next_look: Instant,
}

#[derive(Debug)]
enum Source {
    Announced(AsyncFd<OwnedFd>),
    Asked { namespace: Option<PathBuf>, tables: &'static [&'static str], known: Sizes },
}

impl Monitor {
    /// For these tables of a namespace. `nf_tables` says which of the two iptables there is; it tells of all tables.
    pub fn new(namespace: Option<PathBuf>, nf_tables: bool, tables: &'static [&'static str]) -> io::Result<Self> {
        let source = match nf_tables {
            true => {
                let socket = in_namespace(namespace.as_ref(), subscribe)?;
                // SAFETY: an OwnedFd always answers with the descriptor that it owns, open as long as it lives.
                Source::Announced(unsafe { AsyncFd::register(socket) }?)
            }
            false => Source::Asked { known: in_namespace(namespace.as_ref(), || sizes(tables))?, tables, namespace },
        };
        Ok(Self { source, next_look: Instant::now() + LOOK })
    }

    /// Call after a change of our own: what the kernel says of it is no news.
    pub fn settle(&mut self) {
        match &mut self.source {
            Source::Announced(socket) => drop(drain(socket.get_ref())),
            Source::Asked { namespace, tables, known } => {
                let tables = *tables;
                if let Ok(now) = in_namespace(namespace.as_ref(), || sizes(tables)) {
                    *known = now;
                }
            }
        }
    }

    /// Returns when it is time to look at the rules. Safe to cancel.
    pub async fn changed(&mut self) {
        let due = self.next_look;
        let _ = tokio::time::timeout_at(due, self.source.changed()).await;
        self.next_look = Instant::now() + LOOK;
    }
}

impl Source {
    async fn changed(&mut self) {
        match self {
            Self::Announced(socket) => loop {
                let Ok(mut ready) = socket.readable().await else { return std::future::pending().await };
                if drain(socket.get_ref()) {
                    tokio::time::sleep(PAUSE).await;
                    drain(socket.get_ref());
                    return;
                }
                ready.clear_ready();
            },
            Self::Asked { namespace, tables, known } => loop {
                tokio::time::sleep(ASK).await;
                let tables = *tables;
                match in_namespace(namespace.as_ref(), || sizes(tables)) {
                    Ok(now) if now != *known => {
                        *known = now;
                        return;
                    }
                    _ => {}
                }
            },
        }
    }
}

fn in_namespace<T: Send + 'static>(
    namespace: Option<&PathBuf>,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match namespace {
        None => work(),
        Some(path) => crate::netns::within(path, move || Ok(work())).map_err(io::Error::other)?,
    }
}

fn owned(fd: i32) -> io::Result<OwnedFd> {
    match fd {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: a descriptor that a system call just returned is nobody else's.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
    }
}

fn check(answer: i32) -> io::Result<()> {
    if answer == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A socket that hears of every new generation of nf_tables rules.
fn subscribe() -> io::Result<OwnedFd> {
    const NFNLGRP_NFTABLES: libc::c_int = 7;
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket takes integers only.
    let socket = owned(unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_NETFILTER) })?;
    // SAFETY: an all-zero sockaddr_nl is valid: the kernel chooses the port.
    let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    let length = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
    // SAFETY: address is a sockaddr_nl of that length.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })?;
    let group = NFNLGRP_NFTABLES;
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option's value is one c_int.
    check(unsafe {
        let value = (&raw const group).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, value, length)
    })?;
    Ok(socket)
}

/// Reads whatever is there; whether there was anything (lost messages count).
fn drain(socket: &OwnedFd) -> bool {
    let mut buffer = [0u8; 8192];
    let mut any = false;
    loop {
        // SAFETY: the buffer is ours and as long as we say.
        let n = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) };
        match n {
            -1 if io::Error::last_os_error().raw_os_error() == Some(libc::ENOBUFS) => any = true,
            n if n <= 0 => return any,
            _ => any = true,
        }
    }
}

/// `struct ipt_getinfo`.
#[repr(C)]
struct GetInfo {
    name: [u8; 32],
    valid_hooks: u32,
    hook_entry: [u32; 5],
    underflow: [u32; 5],
    entries: u32,
    size: u32,
}

/// Number of entries and size of tables, as x_tables tells them.
fn sizes(tables: &[&str]) -> io::Result<Sizes> {
    const IPT_SO_GET_INFO: libc::c_int = 64;
    // SAFETY: socket takes integers only.
    let socket = owned(unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_RAW) })?;
    let mut found = Vec::new();
    for table in tables {
        // SAFETY: all-zero is a valid value of these integers.
        let mut info: GetInfo = unsafe { std::mem::zeroed() };
        info.name[..table.len()].copy_from_slice(table.as_bytes());
        let mut length = size_of::<GetInfo>() as libc::socklen_t;
        let value = (&raw mut info).cast();
        // SAFETY: the kernel reads and writes one ipt_getinfo of that length.
        check(unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_IP, IPT_SO_GET_INFO, value, &raw mut length) })?;
        found.push((info.entries, info.size));
    }
    Ok(found)
}
