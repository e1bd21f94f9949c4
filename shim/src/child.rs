//! The forked children: what each does between fork and exec, and how it tells the shim.
//!
//! A child reports over a socket that keeps message boundaries: READY with the identity (and the terminal's controlling end
//! as a descriptor), then end-of-file when exec has closed it; or FAILED with a text at any time.

use std::convert::Infallible;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use knarr_shim::wire::Wire;
use knarr_shim::{ContainerSpec, ExecSpec, NamespaceSource, PidMode, SandboxSpec};

use crate::process;
use crate::root;
use crate::sys::{self, Context, Outcome};

/// First byte of a message: set-up is complete.
pub const READY: u8 = 1;
/// First byte of a message: set-up failed; the text follows.
pub const FAILED: u8 = 2;

/// A child that is on its way to exec.
pub struct Forked {
    /// Its process ID.
    pub pid: i32,
    /// The same without the risk of reuse.
    pub pidfd: OwnedFd,
    /// Where it reports.
    pub sync: OwnedFd,
}

/// Standard streams of a new container: what it gets, or a terminal that it makes itself.
pub type Streams = [OwnedFd; 3];

/// Forks, runs `body` in the child, and reports its failure.
fn fork(namespaces: i32, unified: &str, body: impl FnOnce(&OwnedFd) -> Outcome<Infallible>) -> Outcome<Forked> {
    let (ours, theirs) = sys::socket_pair().context("make socket pair")?;
    let cgroup = match unified {
        "" => None,
        dir => Some(
            sys::openat2(sys::CWD, dir, libc::O_RDONLY | libc::O_DIRECTORY, 0, 0).with(|| format!("open cgroup {dir}"))?,
        ),
    };
    match sys::fork(namespaces, cgroup.as_ref().map(AsRawFd::as_raw_fd)).context("fork")? {
        Some((pid, pidfd)) => {
            sys::set_nonblocking(ours.as_raw_fd()).context("set up socket pair")?;
            Ok(Forked { pid, pidfd, sync: ours })
        }
        None => {
            process::reset_signals();
            // What hangs in its set-up goes with the shim, too. Changed rights take this back; it is said again then.
            let _ = sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0);
            let message = match body(&theirs) {
                Err(message) => message,
                Ok(never) => match never {},
            };
            report(&theirs, FAILED, message.as_bytes(), None);
            // SAFETY: ends the child without the parent's exit handlers.
            unsafe { libc::_exit(128) }
        }
    }
}

fn report(sync: &OwnedFd, kind: u8, body: &[u8], descriptor: Option<RawFd>) {
    let message = [&[kind], &body[..body.len().min(16 << 10)]].concat();
    let _ = sys::send(sync.as_raw_fd(), &message, descriptor);
}

/// Makes the sandbox's namespaces and the pause process that holds them.
pub fn sandbox(spec: &SandboxSpec) -> Outcome<Forked> {
    let mut kinds = libc::CLONE_NEWNS;
    let mut add = |wanted: bool, kind: i32| kinds |= if wanted { kind } else { 0 };
    add(spec.network == NamespaceSource::New, libc::CLONE_NEWNET);
    // A pod without a name of its own has the node's to begin with, but cannot change that.
    add(spec.network != NamespaceSource::Host, libc::CLONE_NEWUTS);
    add(!spec.host_ipc, libc::CLONE_NEWIPC);
    add(spec.shared_pid, libc::CLONE_NEWPID);
    fork(kinds, &spec.cgroup.unified, |sync| {
        process::join_cgroups(&spec.cgroup.join)?;
        process::set_oom_score_adj(spec.oom_score_adj);
        if let NamespaceSource::Path(path) = &spec.network {
            let namespace = sys::openat2(sys::CWD, path, libc::O_RDONLY, 0, 0).with(|| format!("open {path}"))?;
            sys::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET).context("join network namespace")?;
        }
        if spec.network == NamespaceSource::New {
            raise_loopback()?;
        }
        if !spec.hostname.is_empty() {
            // SAFETY: pointer and length of one string.
            let set = unsafe { libc::sethostname(spec.hostname.as_ptr().cast(), spec.hostname.len()) };
            if set < 0 {
                return Err(std::io::Error::last_os_error()).context("set hostname");
            }
        }
        for (name, value) in &spec.sysctls {
            let path = format!("/proc/sys/{name}");
            sys::write_file(&path, value).with(|| format!("write sysctl {name}={value}"))?;
        }
        // SAFETY: nothing in this process reads them from here on.
        unsafe { rename_command(b"/pause") };
        sandbox_mounts(spec)?;
        pause(sync)
    })
}

/// A root with an empty directory for containers' roots and the pod's shared memory, and nothing else.
fn sandbox_mounts(spec: &SandboxSpec) -> Outcome<()> {
    let pair = |key: &str, value: String| (key.to_owned(), value);
    let shm = match spec.host_ipc {
        true => sys::clone_tree(sys::CWD, "/dev/shm", false),
        false => {
            let options = [pair("size", spec.shm_bytes.to_string()), pair("mode", "1777".to_owned())];
            sys::new_mount("tmpfs", &options, libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC)
        }
    }
    .context("make shared memory")?;
    sys::mount("", "/", "", libc::MS_REC | libc::MS_PRIVATE, "").context("make mounts private")?;
    let base =
        sys::new_mount("tmpfs", &[pair("size", "16k".to_owned()), pair("mode", "755".to_owned())], libc::MOUNT_ATTR_NOSUID)
            .context("make sandbox root")?;
    for point in [c"root", c"shm"] {
        // SAFETY: a C string.
        if unsafe { libc::mkdirat(base.as_raw_fd(), point.as_ptr(), 0o755) } < 0 {
            return Err(std::io::Error::last_os_error()).context("make sandbox root");
        }
    }
    let here = sys::openat2(sys::CWD, ".", libc::O_PATH, 0, 0).context("open sandbox directory")?;
    sys::move_mount(&base, here.as_raw_fd()).context("mount sandbox root")?;
    let point = sys::openat2(base.as_raw_fd(), "shm", libc::O_PATH, 0, 0).context("open mount point")?;
    sys::move_mount(&shm, point.as_raw_fd()).context("mount shared memory")?;
    sys::set_mount(base.as_raw_fd(), libc::MOUNT_ATTR_RDONLY, 0, false).context("make sandbox root read-only")?;
    // SAFETY: numbers only.
    if unsafe { libc::fchdir(base.as_raw_fd()) } < 0 {
        return Err(std::io::Error::last_os_error()).context("enter sandbox root");
    }
    sys::pivot_here().context("pivot into sandbox root")
}

/// Holds the namespaces with no rights and no descriptors, and as a process namespace's first process lets the kernel reap.
fn pause(sync: &OwnedFd) -> Outcome<Infallible> {
    const NOBODY: u32 = 65535;
    // SAFETY: plain calls on this process alone; a name is a C string.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, c"pause".as_ptr());
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        if libc::setgroups(0, std::ptr::null()) < 0
            || libc::setresgid(NOBODY, NOBODY, NOBODY) < 0
            || libc::setresuid(NOBODY, NOBODY, NOBODY) < 0
        {
            return Err(std::io::Error::last_os_error()).context("drop rights");
        }
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        report(sync, READY, &[], None);
        sys::close_from(0);
        loop {
            libc::pause();
        }
    }
}

/// Writes over this process' arguments, which tell a pod with a shared process namespace where the node keeps its things.
///
/// # Safety
/// Nothing may read the arguments afterwards.
unsafe fn rename_command(name: &[u8]) {
    // arg_start and arg_end of proc(5), counted from behind the command, which may hold anything.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default();
    let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
    let (start, end) = (field(48), field(49));
    if start != 0 && end > start + name.len() {
        // SAFETY: the kernel says that these are this process' arguments, which lie on its own stack.
        unsafe {
            std::ptr::write_bytes(start as *mut u8, 0, end - start);
            std::ptr::copy_nonoverlapping(name.as_ptr(), start as *mut u8, name.len());
        }
    }
}

fn raise_loopback() -> Outcome<()> {
    // SAFETY: ifreq is plain bytes; the name fits with its NUL; the socket is closed below.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
        let raised = libc::ioctl(socket, libc::SIOCSIFFLAGS, &request);
        let error = std::io::Error::last_os_error();
        libc::close(socket);
        if raised < 0 { Err(error).context("bring up loopback") } else { Ok(()) }
    }
}

/// Runs `make` with children going to the process namespace of `pid`.
fn in_pid_namespace<T>(pid: i32, make: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    let open = |who: &str| sys::openat2(sys::CWD, &format!("/proc/{who}/ns/pid"), libc::O_RDONLY, 0, 0);
    let own = open("self").context("open process namespace")?;
    let other = open(&pid.to_string()).context("open process namespace")?;
    sys::setns(other.as_raw_fd(), libc::CLONE_NEWPID).context("join process namespace")?;
    let made = make();
    sys::setns(own.as_raw_fd(), libc::CLONE_NEWPID).context("return to process namespace")?;
    made
}

/// Makes a container's first process. `sandbox` is the pause process, `target` whose process namespace is shared.
pub fn container(spec: &ContainerSpec, sandbox: &OwnedFd, target: Option<i32>, streams: &Streams) -> Outcome<Forked> {
    let kinds = if spec.pid == PidMode::Private { libc::CLONE_NEWPID } else { 0 };
    let make = || {
        fork(kinds, &spec.cgroup.unified, |sync| {
            process::join_cgroups(&spec.cgroup.join)?;
            process::set_oom_score_adj(spec.process.oom_score_adj);
            new_session();
            let terminal = root::enter(spec, sandbox.as_raw_fd())?;
            match &terminal {
                Some((_, peer)) => process::set_stdio([peer; 3], true)?,
                None => process::set_stdio(streams.each_ref(), false)?,
            }
            process::become_process(&spec.process, |identity| {
                let known = (identity.uid, (identity.gid, identity.groups.clone()));
                report(sync, READY, &known.to_bytes(), terminal.as_ref().map(|(main, _)| main.as_raw_fd()));
                Ok(())
            })
        })
    };
    match target {
        Some(pid) => in_pid_namespace(pid, make),
        None => make(),
    }
}

/// Makes a process in the running container whose first process is `pid`.
pub fn exec(spec: &ExecSpec, pid: i32, container: &OwnedFd, streams: &Streams) -> Outcome<Forked> {
    in_pid_namespace(pid, || {
        fork(0, &spec.cgroup.unified, |sync| {
            process::join_cgroups(&spec.cgroup.join)?;
            process::set_oom_score_adj(spec.process.oom_score_adj);
            new_session();
            let kinds =
                libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;
            sys::setns(container.as_raw_fd(), kinds).context("join the container's namespaces")?;
            process::set_stdio(streams.each_ref(), spec.process.tty)?;
            process::become_process(&spec.process, |_| {
                report(sync, READY, &[], None);
                Ok(())
            })
        })
    })
}

/// A session of its own, for processes and for keys.
fn new_session() {
    const JOIN_SESSION_KEYRING: i32 = 1;
    // SAFETY: numbers and a null name. Kernels without keyrings say so; there is nothing to protect then.
    unsafe {
        libc::setsid();
        libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, 0, 0, 0, 0);
    }
}
