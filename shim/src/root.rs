//! A container's file system: overlay root, mounts, devices, hidden paths.
//!
//! The order follows from what each step can see. Sources are taken as detached mounts while the process is still in the
//! node's mount namespace, so a shared source stays a peer of the node's mount. Then the process goes over to the sandbox's
//! nearly empty mount namespace and unshares that one: copying a handful of mounts instead of all the node's, and nothing of
//! the node is ever reachable from the container's namespace. Targets are resolved by the kernel inside the new root
//! (openat2, RESOLVE_IN_ROOT), held as descriptors, and mounted on by descriptor: no path is looked at twice.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use knarr_shim::{ContainerSpec, DeviceSpec, MountSource, MountSpec};

use crate::sys::{self, Context, Outcome};

/// Inside the root, and through no /proc link to somewhere else.
const INSIDE: u64 = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
/// Longest value of one fsconfig parameter.
const PARAMETER_LIMIT: usize = 255;
/// Where the sandbox's mount namespace has its empty directory and its shared memory.
pub const ROOT_POINT: &str = "/root";
/// See [`ROOT_POINT`].
pub const SHM_POINT: &str = "/shm";

/// Builds the root and makes it `/`. Returns the terminal's controlling and process ends if one is wanted.
pub fn enter(spec: &ContainerSpec, sandbox: RawFd) -> Outcome<Option<(OwnedFd, OwnedFd)>> {
    let mut sources = Vec::with_capacity(spec.mounts.len());
    for mount in &spec.mounts {
        sources.push(match &mount.source {
            MountSource::Bind(path) => {
                Some(sys::clone_tree(sys::CWD, path, true).with(|| format!("open mount source {path:?}"))?)
            }
            _ => None,
        });
    }
    let tree = overlay(spec)?;
    sys::setns(sandbox, libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS)
        .context("join the pod's namespaces")?;
    let cgroup = if spec.private_cgroup { libc::CLONE_NEWCGROUP } else { 0 };
    sys::unshare(libc::CLONE_NEWNS | cgroup).context("unshare namespaces")?;
    let point = open(sys::CWD, ROOT_POINT, 0).context("open root's mount point")?;
    sys::move_mount(&tree, point.as_raw_fd()).context("mount root")?;
    let root = tree.as_raw_fd();
    // SAFETY: numbers only. Modes below are meant as written.
    unsafe { libc::umask(0) };
    for (mount, source) in spec.mounts.iter().zip(sources) {
        attach(root, mount, source).map_err(|error| format!("mount {:?}: {error}", mount.target))?;
    }
    for device in &spec.devices {
        make_device(root, device).map_err(|error| format!("device {:?}: {error}", device.path))?;
    }
    if !spec.devices.is_empty() {
        make_links(root)?;
    }
    let terminal = if spec.process.tty { Some(open_terminal(root)?) } else { None };
    if let (Some((_, peer)), false) = (&terminal, spec.devices.is_empty()) {
        mount_console(root, peer)?;
    }
    for path in &spec.readonly {
        make_readonly(root, path).map_err(|error| format!("make {path:?} read-only: {error}"))?;
    }
    for path in &spec.masked {
        mask(root, path).map_err(|error| format!("mask {path:?}: {error}"))?;
    }
    if spec.readonly_root {
        sys::set_mount(root, libc::MOUNT_ATTR_RDONLY, 0, false).context("make root read-only")?;
    }
    // SAFETY: numbers only.
    unsafe { libc::umask(0o022) };
    // SAFETY: numbers only.
    if unsafe { libc::fchdir(root) } < 0 {
        return Err(std::io::Error::last_os_error()).context("enter root");
    }
    sys::pivot_here().context("pivot into root")?;
    Ok(terminal)
}

/// The root as a detached mount.
fn overlay(spec: &ContainerSpec) -> Outcome<OwnedFd> {
    std::env::set_current_dir(&spec.layers).with(|| format!("enter {}", spec.layers))?;
    let joined = spec.lower.join(":");
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let mut options: Vec<_> = match joined.len() <= PARAMETER_LIMIT {
        true => vec![pair("lowerdir", &joined)],
        // Since Linux 6.7.
        false => spec.lower.iter().map(|lower| pair("lowerdir+", lower)).collect(),
    };
    options.extend([pair("upperdir", &spec.upper), pair("workdir", &spec.work), pair("index", "off")]);
    // A writable layer never outlives its container, so nothing has to reach the disk for its sake.
    options.push(pair("volatile", ""));
    let mounted = sys::new_mount("overlay", &options, 0).or_else(|_| {
        options.pop();
        sys::new_mount("overlay", &options, 0)
    });
    match mounted {
        Ok(tree) => Ok(tree),
        Err(_) if joined.len() > PARAMETER_LIMIT => overlay_by_path(spec, &joined),
        Err(error) => Err(error).context("mount overlay"),
    }
}

/// The same for many layers on older kernels: mount(2) takes a page of options but wants a path, and gets one in a mount
/// namespace that ends with this process' move to the sandbox's.
fn overlay_by_path(spec: &ContainerSpec, lower: &str) -> Outcome<OwnedFd> {
    sys::unshare(libc::CLONE_NEWNS).context("unshare mounts")?;
    sys::mount("", "/", "", libc::MS_REC | libc::MS_PRIVATE, "").context("make mounts private")?;
    let data = format!("lowerdir={lower},upperdir={},workdir={},index=off", spec.upper, spec.work);
    sys::mount("overlay", &spec.upper, "overlay", 0, &data).context("mount overlay")?;
    sys::clone_tree(sys::CWD, &spec.upper, false).context("open overlay")
}

fn open(dir: RawFd, path: &str, resolve: u64) -> std::io::Result<OwnedFd> {
    sys::openat2(dir, path, libc::O_PATH, 0, resolve)
}

fn attach(root: RawFd, mount: &MountSpec, source: Option<OwnedFd>) -> Outcome<()> {
    let (tree, own) = match (&mount.source, source) {
        (_, Some(tree)) => (tree, false),
        (MountSource::New(kind), _) => {
            (sys::new_mount(kind, &mount.options, mount.attributes).with(|| format!("new {kind}"))?, true)
        }
        _ => (sys::clone_tree(sys::CWD, SHM_POINT, false).context("open shared memory")?, false),
    };
    if !own {
        let propagation = if mount.propagation == 0 { libc::MS_PRIVATE } else { mount.propagation };
        sys::set_mount(tree.as_raw_fd(), 0, propagation, true).context("set propagation")?;
        if mount.attributes != 0 {
            sys::set_mount(tree.as_raw_fd(), mount.attributes, 0, mount.recursive).context("set attributes")?;
        }
    }
    let directory = sys::stat(tree.as_raw_fd()).context("stat")?.st_mode & libc::S_IFMT == libc::S_IFDIR;
    let target = ensure(root, &mount.target, directory)?;
    let in_proc = sys::file_system(target.as_raw_fd()).is_ok_and(|kind| kind == libc::PROC_SUPER_MAGIC);
    if in_proc && !own {
        return Err("it is inside /proc, where nothing may be mounted".to_owned());
    }
    if matches!(&mount.source, MountSource::New(kind) if kind == "proc" || kind == "sysfs") {
        // What is hidden in them later is found by path, and must be these, whatever links the image has there.
        open(root, mount.target.trim_start_matches('/'), INSIDE | libc::RESOLVE_NO_SYMLINKS)
            .context("it must be an ordinary directory")?;
    }
    sys::move_mount(&tree, target.as_raw_fd()).context("attach")
}

/// Opens `path` inside the root and makes what is missing of it: directories, and a file at the end unless `directory`.
fn ensure(root: RawFd, path: &str, directory: bool) -> Outcome<OwnedFd> {
    let mut path = path.trim_matches('/').to_owned();
    for _ in 0..40 {
        match open(root, if path.is_empty() { "." } else { &path }, INSIDE) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            other => return other.context("open target"),
        }
        if let Some(elsewhere) = make_missing(root, &path, directory)? {
            path = elsewhere;
        }
    }
    Err("too many links on the way to the target".to_owned())
}

/// Makes the components that are missing. At a link that leads to nothing, returns the path with the link followed.
fn make_missing(root: RawFd, path: &str, directory: bool) -> Outcome<Option<String>> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let mut parent = open(root, ".", INSIDE).context("open root")?;
    for (index, part) in parts.iter().enumerate() {
        let here = parts[..=index].join("/");
        match open(root, &here, INSIDE) {
            Ok(next) => {
                parent = next;
                continue;
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error).with(|| format!("open {here:?}")),
        }
        let name = sys::cstring(*part).context("target")?;
        // SAFETY: a C string; the new file's descriptor is closed at once.
        let made = unsafe {
            if directory || index + 1 < parts.len() {
                libc::mkdirat(parent.as_raw_fd(), name.as_ptr(), 0o755)
            } else {
                let flags = libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_CLOEXEC;
                libc::openat(parent.as_raw_fd(), name.as_ptr(), flags, 0o644)
            }
        };
        if made < 0 {
            let error = std::io::Error::last_os_error();
            let mut link = vec![0u8; libc::PATH_MAX as usize];
            // SAFETY: the buffer's own bounds.
            let length =
                unsafe { libc::readlinkat(parent.as_raw_fd(), name.as_ptr(), link.as_mut_ptr().cast(), link.len()) };
            if error.raw_os_error() != Some(libc::EEXIST) || length < 0 {
                return Err(error).with(|| format!("make {here:?}"));
            }
            let link = String::from_utf8(link[..length as usize].to_vec()).map_err(|_| format!("odd link at {here:?}"))?;
            let before = if link.starts_with('/') { String::new() } else { parts[..index].join("/") };
            return Ok(Some(format!("{before}/{link}/{}", parts[index + 1..].join("/")).trim_matches('/').to_owned()));
        }
        if made > 0 {
            // SAFETY: just opened above.
            drop(unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(made) });
        }
        parent = open(root, &here, INSIDE).with(|| format!("open {here:?}"))?;
    }
    Ok(None)
}

fn make_device(root: RawFd, device: &DeviceSpec) -> Outcome<()> {
    let (dir, name) = device.path.rsplit_once('/').ok_or("path is not absolute")?;
    let parent = ensure(root, dir, true)?;
    let name = sys::cstring(name).context("name")?;
    // SAFETY: a C string.
    let made =
        unsafe { libc::mknodat(parent.as_raw_fd(), name.as_ptr(), device.mode, libc::makedev(device.major, device.minor)) };
    if made < 0 {
        let error = std::io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::EEXIST) { Ok(()) } else { Err(error).context("mknod") };
    }
    if (device.uid, device.gid) != (0, 0) {
        // SAFETY: a C string.
        unsafe { libc::fchownat(parent.as_raw_fd(), name.as_ptr(), device.uid, device.gid, libc::AT_SYMLINK_NOFOLLOW) };
    }
    Ok(())
}

fn make_links(root: RawFd) -> Outcome<()> {
    let dev = ensure(root, "dev", true)?;
    let links = [
        (c"fd", c"/proc/self/fd"),
        (c"stdin", c"/proc/self/fd/0"),
        (c"stdout", c"/proc/self/fd/1"),
        (c"stderr", c"/proc/self/fd/2"),
        (c"core", c"/proc/kcore"),
        (c"ptmx", c"pts/ptmx"),
    ];
    for (name, target) in links {
        // SAFETY: C strings. A link that exists stays.
        unsafe { libc::symlinkat(target.as_ptr(), dev.as_raw_fd(), name.as_ptr()) };
    }
    Ok(())
}

/// A terminal of the container's own devpts, without a path for its other end.
fn open_terminal(root: RawFd) -> Outcome<(OwnedFd, OwnedFd)> {
    let flags = libc::O_RDWR | libc::O_NOCTTY;
    let main = sys::openat2(root, "dev/pts/ptmx", flags, 0, INSIDE).context("open terminal")?;
    if sys::file_system(main.as_raw_fd()).context("open terminal")? != libc::DEVPTS_SUPER_MAGIC {
        return Err("open terminal: /dev/pts/ptmx is no terminal multiplexer".to_owned());
    }
    let unlocked: i32 = 0;
    // SAFETY: the ioctls take a pointer to an int and flags.
    let peer = unsafe {
        libc::ioctl(main.as_raw_fd(), libc::TIOCSPTLCK, &unlocked);
        libc::ioctl(main.as_raw_fd(), libc::TIOCGPTPEER, flags | libc::O_CLOEXEC)
    };
    if peer < 0 {
        return Err(std::io::Error::last_os_error()).context("open terminal");
    }
    // SAFETY: just opened.
    Ok((main, unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(peer) }))
}

fn mount_console(root: RawFd, peer: &OwnedFd) -> Outcome<()> {
    let target = ensure(root, "dev/console", false)?;
    let tree = sys::clone_tree(peer.as_raw_fd(), "", false).context("open console")?;
    sys::move_mount(&tree, target.as_raw_fd()).context("mount console")
}

/// `None` when the path is not there: nothing to protect.
fn existing(root: RawFd, path: &str) -> Outcome<Option<OwnedFd>> {
    match open(root, path, INSIDE) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(None),
        Err(error) => Err(error).context("open"),
    }
}

fn make_readonly(root: RawFd, path: &str) -> Outcome<()> {
    let Some(target) = existing(root, path)? else { return Ok(()) };
    let tree = sys::clone_tree(target.as_raw_fd(), "", true).context("copy mount")?;
    sys::set_mount(tree.as_raw_fd(), libc::MOUNT_ATTR_RDONLY, 0, true).context("set attributes")?;
    sys::move_mount(&tree, target.as_raw_fd()).context("attach")
}

fn mask(root: RawFd, path: &str) -> Outcome<()> {
    let Some(target) = existing(root, path)? else { return Ok(()) };
    let directory = sys::stat(target.as_raw_fd()).context("stat")?.st_mode & libc::S_IFMT == libc::S_IFDIR;
    let tree = if directory {
        let attributes =
            libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
        sys::new_mount("tmpfs", &[("size".to_owned(), "4k".to_owned())], attributes).context("new tmpfs")?
    } else {
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        let null = sys::openat2(root, "dev/null", flags, 0, INSIDE).context("open /dev/null")?;
        let stat = sys::stat(null.as_raw_fd()).context("stat /dev/null")?;
        // Whoever put something else there wants the masked path to lead to it.
        if stat.st_mode & libc::S_IFMT != libc::S_IFCHR || stat.st_rdev != libc::makedev(1, 3) {
            return Err("/dev/null is not the null device".to_owned());
        }
        sys::clone_tree(null.as_raw_fd(), "", false).context("copy /dev/null")?
    };
    sys::move_mount(&tree, target.as_raw_fd()).context("attach")
}
