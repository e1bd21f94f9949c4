//! Network namespaces as files: created, entered and deleted without leaving the calling process' own.
//!
//! A namespace lives as a bind mount of its `/proc` entry on a file (`/run/netns/NAME`, where iproute2 looks too). Joining
//! one is a property of a thread, so work inside a namespace runs on a thread of its own that ends with the work:
//! a pooled thread could carry the namespace into somebody else's task.

use std::{
    fs::File,
    io::{self, ErrorKind},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::statfs::{FsType, fstatfs},
};

use crate::{Error, Result};

/// Where named namespaces live.
pub const NETNS_DIR: &str = "/run/netns";

/// The file of the namespace called `name`.
pub fn named(name: &str) -> PathBuf {
    Path::new(NETNS_DIR).join(name)
}

/// Makes a new network namespace and binds it to `path`; its loopback is up. If `path` already is a namespace, it stays
/// as it is.
pub fn create(path: &Path) -> Result<()> {
    if exists(path) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(Error::system(format!("create {}", parent.display())))?;
    }
    File::create(path).map_err(Error::system(format!("create {}", path.display())))?;
    let target = path.to_owned();
    let made = on_thread(move || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(Error::errno("unshare a network namespace"))?;
        loopback_up()?;
        mount(Some("/proc/thread-self/ns/net"), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(Error::errno(format!("bind a network namespace to {}", target.display())))
    });
    if made.is_err() {
        let _ = std::fs::remove_file(path);
    }
    made
}

/// Binds the namespace at `source` (mostly one of `/proc`) to `path`, where it lives on when its last process has ended. If
/// `path` already is a namespace, it stays as it is.
pub fn keep(source: &Path, path: &Path) -> Result<()> {
    if exists(path) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(Error::system(format!("create {}", parent.display())))?;
    }
    File::create(path).map_err(Error::system(format!("create {}", path.display())))?;
    let bound = mount(Some(source), path, None::<&str>, MsFlags::MS_BIND, None::<&str>);
    if bound.is_err() {
        let _ = std::fs::remove_file(path);
    }
    bound.map_err(Error::errno(format!("bind a network namespace to {}", path.display())))
}

/// Unbinds and removes `path`. The namespace ends with its last process. Deleting what does not exist is fine.
pub fn delete(path: &Path) -> Result<()> {
    let removed = match unbind(path) {
        Err(e) if e.kind() == ErrorKind::ResourceBusy => unbind_below(path),
        removed => removed,
    };
    match removed {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::system(format!("remove {}", path.display()))(e)),
        _ => Ok(()),
    }
}

fn unbind(path: &Path) -> io::Result<()> {
    // Something may have been bound over it twice.
    while umount2(path, MntFlags::MNT_DETACH).is_ok() {}
    std::fs::remove_file(path)
}

/// The first `ip netns add` on a machine mounts the whole folder over itself, with what is bound there by then: this hides
/// one of our mounts below its copy, where no path leads. In a mount namespace without that upper folder the file can be removed,
/// upon which the kernel drops what is mounted on it anywhere.
fn unbind_below(path: &Path) -> io::Result<()> {
    let path = path.to_owned();
    let removed = on_thread(move || {
        unshare(CloneFlags::CLONE_NEWNS).map_err(Error::errno("unshare a mount namespace"))?;
        let alone = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, alone, None::<&str>)
            .map_err(Error::errno("cut a thread's mounts off from the others'"))?;
        if let Some(folder) = path.parent() {
            while umount2(folder, MntFlags::MNT_DETACH).is_ok() {}
        }
        Ok(unbind(&path))
    });
    removed.map_err(io::Error::other)?
}

/// Whether `path` is a namespace (and not just the file that a crash left behind before the bind).
pub fn exists(path: &Path) -> bool {
    const NSFS_MAGIC: FsType = FsType(0x6e73_6673);
    File::open(path).and_then(|file| Ok(fstatfs(&file)?.filesystem_type() == NSFS_MAGIC)).unwrap_or(false)
}

/// Opens a namespace to hand it on.
pub fn open(path: &Path) -> Result<OwnedFd> {
    File::open(path).map(Into::into).map_err(Error::system(format!("open network namespace {}", path.display())))
}

/// Runs `work` inside the namespace at `path`, on a thread of its own, and waits for it.
pub fn within<T: Send + 'static>(path: &Path, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    within_fd(open(path)?, work)
}

/// [`within`] for an open namespace.
pub fn within_fd<T: Send + 'static>(namespace: OwnedFd, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    on_thread(move || {
        setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).map_err(Error::errno("enter a network namespace"))?;
        work()
    })
}

/// Sets a sysctl of the calling thread's network namespace, e.g. `net.ipv4.ip_forward`. Unchanged values are not written,
/// so a read-only `/proc/sys` that already says so is fine.
pub fn set_sysctl(name: &str, value: &str) -> Result<()> {
    let path = sysctl_path(name);
    if std::fs::read_to_string(&path).is_ok_and(|current| current.trim() == value) {
        return Ok(());
    }
    std::fs::write(&path, value).map_err(Error::system(format!("set {name} to {value}")))
}

/// Dots separate, and a slash stands for a dot within a part (`net.ipv4.conf.eth0/5.forwarding`), as sysctl(8) has it.
fn sysctl_path(name: &str) -> String {
    let swapped: String = name
        .chars()
        .map(|c| match c {
            '.' => '/',
            '/' => '.',
            c => c,
        })
        .collect();
    format!("/proc/sys/{swapped}")
}

fn on_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let thread = std::thread::Builder::new().name("netns".into()).stack_size(256 << 10);
    let thread = thread.spawn(work).map_err(Error::system("start a thread"))?;
    thread.join().map_err(|_| Error::Panicked)?
}

/// Brings the calling thread's loopback up by ioctl: it needs no netlink connection, and so no async runtime.
fn loopback_up() -> Result<()> {
    let flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: flags point nowhere.
    let set = unsafe { interface_ioctl("lo", libc::SIOCSIFFLAGS, libc::__c_anonymous_ifr_ifru { ifru_flags: flags }) };
    set.map_err(Error::system("bring loopback up"))
}

/// Says whether a link of the calling thread's network namespace puts what comes in together to larger packets (generic receive
/// offload). Returns whether it did otherwise before.
pub fn set_gro(link: &str, on: bool) -> Result<bool> {
    const ETHTOOL_GGRO: u32 = 0x2b;
    const ETHTOOL_SGRO: u32 = 0x2c;
    /// `struct ethtool_value` of linux/ethtool.h.
    #[repr(C)]
    struct EthtoolValue {
        command: u32,
        data: u32,
    }
    let ask = |command: u32, data: u32| {
        let mut value = EthtoolValue { command, data };
        let argument = libc::__c_anonymous_ifr_ifru { ifru_data: (&raw mut value).cast() };
        // SAFETY: both requests read and write one ethtool_value, which outlives the call.
        unsafe { interface_ioctl(link, libc::SIOCETHTOOL, argument) }.map(|()| value.data)
    };
    let failed = || Error::system(format!("set generic receive offload of {link}"));
    if ask(ETHTOOL_GGRO, 0).map_err(failed())? == u32::from(on) {
        return Ok(false);
    }
    ask(ETHTOOL_SGRO, on.into()).map_err(failed()).map(|_| true)
}

/// An ioctl about an interface of the calling thread's namespace.
///
/// # Safety
/// If `request` takes a pointer, `argument` is one to what it reads and writes, alive during the call.
unsafe fn interface_ioctl(
    name: &str,
    request: libc::c_ulong,
    argument: libc::__c_anonymous_ifr_ifru,
) -> std::io::Result<()> {
    use std::os::fd::AsRawFd;
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    let mut message = libc::ifreq { ifr_name: [0; libc::IFNAMSIZ], ifr_ifru: argument };
    // The last byte ends the name.
    for (to, from) in message.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: the kernel reads and writes one ifreq and, for some requests, what it points to, which the caller answers for.
    match unsafe { libc::ioctl(socket.as_raw_fd(), request as _, &raw mut message) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctl_names_become_paths() {
        assert_eq!(sysctl_path("net.ipv4.conf.eth0/5.forwarding"), "/proc/sys/net/ipv4/conf/eth0.5/forwarding");
    }
}
