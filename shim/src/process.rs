//! From "inside the container's root" to exec: working directory, users, capabilities, seccomp, and the command's search.
//!
//! Shared by containers and exec'd processes. Runs in the forked child only; an error's text goes back to the shim.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use knarr_shim::ProcessSpec;

use crate::sys::{self, Context, Outcome};
use crate::user::{self, Identity};

/// No signal is ignored: what is ignored stays so across exec. Once, for the shim, whoever started it.
pub fn forget_signals() {
    for signal in (1..=64).filter(|signal| ![libc::SIGKILL, libc::SIGSTOP, libc::SIGPIPE].contains(signal)) {
        // SAFETY: plain calls on this process' own state.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Signal dispositions and mask as a new program expects them; in a child of the shim's.
pub fn reset_signals() {
    // SAFETY: plain calls on this process' own state. The shim ignores SIGPIPE alone.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

/// Moves this process into its cgroups.
pub fn join_cgroups(files: &[String]) -> Outcome<()> {
    files.iter().try_for_each(|file| sys::write_file(file, "0").with(|| format!("join cgroup {file}")))
}

/// Lowers or raises this process' standing with the OOM killer; without the right to lower it, it stays.
pub fn set_oom_score_adj(value: i32) {
    let _ = sys::write_file("/proc/self/oom_score_adj", &value.to_string());
}

/// Becomes the process. Called with the container's root as `/`; `ready` tells the shim just before the last step.
pub fn become_process(spec: &ProcessSpec, ready: impl FnOnce(&Identity) -> Outcome<()>) -> Outcome<Infallible> {
    sys::close_on_exec_from(3);
    let identity = user::resolve(spec)?;
    let mut env = spec.env.clone();
    if !env.iter().any(|entry| entry.starts_with(b"HOME=")) {
        env.push([b"HOME=".as_slice(), identity.home.as_bytes()].concat());
    }
    make_directory(&spec.cwd);
    let entered = enter_directory(&spec.cwd);
    for limit in &spec.rlimits {
        let value = libc::rlimit { rlim_cur: limit.soft, rlim_max: limit.hard };
        // SAFETY: plain numbers.
        if unsafe { libc::setrlimit(limit.resource, &value) } < 0 {
            return Err(std::io::Error::last_os_error()).context("set resource limit");
        }
    }
    // Without no_new_privs a filter needs CAP_SYS_ADMIN, so it comes before the capabilities go.
    if !spec.no_new_privs {
        install_seccomp(&spec.seccomp)?;
    }
    drop_bounding(spec.bounding)?;
    sys::prctl(libc::PR_SET_KEEPCAPS, 1, 0).context("keep capabilities")?;
    set_identity(&identity)?;
    sys::prctl(libc::PR_SET_KEEPCAPS, 0, 0).context("keep capabilities")?;
    set_capabilities(spec)?;
    if entered.is_err() {
        // A directory that only the user may enter (root squashed, for example).
        enter_directory(&spec.cwd)?;
    }
    // A shim that is killed takes its pod along, for nobody could serve its streams.
    sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0).context("set parent's death signal")?;
    let command = Command::find(&spec.args, env)?;
    if spec.no_new_privs {
        sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).context("set no_new_privs")?;
        install_seccomp(&spec.seccomp)?;
    }
    ready(&identity)?;
    command.run()
}

/// mkdir -p inside the root; a failure shows when the directory is entered.
fn make_directory(path: &str) {
    let mut done = String::new();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        done.push('/');
        done.push_str(part);
        if let Ok(path) = sys::cstring(done.as_str()) {
            // SAFETY: a C string.
            unsafe { libc::mkdir(path.as_ptr(), 0o755) };
        }
    }
}

/// chdir(2), and a look whether the result is inside the root: a leaked descriptor under /proc/self/fd must not lead out.
fn enter_directory(path: &str) -> Outcome<()> {
    let path = if path.is_empty() { "/" } else { path };
    let failed = |error: std::io::Error| format!("chdir to cwd ({path:?}) set in config.json failed: {}", sys::text(&error));
    std::env::set_current_dir(path).map_err(failed)?;
    let inside = std::env::current_dir().is_ok_and(|now| now.as_os_str().as_bytes().starts_with(b"/"));
    if inside {
        Ok(())
    } else {
        Err(format!("current working directory {path:?} is outside of container mount namespace root"))
    }
}

fn set_identity(identity: &Identity) -> Outcome<()> {
    // SAFETY: plain numbers and a list with its length.
    let (groups, gid, uid) = unsafe {
        (
            libc::setgroups(identity.groups.len(), identity.groups.as_ptr()),
            libc::setresgid(identity.gid, identity.gid, identity.gid),
            libc::setresuid(identity.uid, identity.uid, identity.uid),
        )
    };
    let failed = || std::io::Error::last_os_error();
    match (groups, gid, uid) {
        (0, 0, 0) => Ok(()),
        _ => Err(failed()).with(|| format!("become user {} group {}", identity.uid, identity.gid)),
    }
}

fn drop_bounding(keep: u64) -> Outcome<()> {
    for capability in 0..64 {
        // SAFETY: numbers only. A capability the kernel does not know ends the list.
        if unsafe { libc::prctl(libc::PR_CAPBSET_READ, capability, 0, 0, 0) } < 0 {
            break;
        }
        if keep & (1 << capability) == 0 {
            sys::prctl(libc::PR_CAPBSET_DROP, capability, 0).context("drop bounding capability")?;
        }
    }
    Ok(())
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// capset(2) of all three sets; only what this process itself still may have.
pub fn set_capabilities(spec: &ProcessSpec) -> Outcome<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let mut header = CapHeader { version: VERSION_3, pid: 0 };
    let mut have = [CapData { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: version 3 reads and writes two elements.
    unsafe { libc::syscall(libc::SYS_capget, &mut header, have.as_mut_ptr()) };
    let permitted = u64::from(have[0].permitted) | u64::from(have[1].permitted) << 32;
    let half = |set: u64, shift: u32| ((set & permitted) >> shift) as u32;
    let data = [0, 32].map(|shift| CapData {
        effective: half(spec.effective, shift),
        permitted: half(spec.permitted, shift),
        inheritable: half(spec.inheritable, shift),
    });
    // SAFETY: as above.
    if unsafe { libc::syscall(libc::SYS_capset, &header, data.as_ptr()) } < 0 {
        return Err(std::io::Error::last_os_error()).context("set capabilities");
    }
    for capability in (0..64).filter(|capability| spec.ambient & (1 << capability) != 0) {
        sys::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, capability)
            .context("raise ambient capability")?;
    }
    Ok(())
}

fn install_seccomp(program: &[u8]) -> Outcome<()> {
    if program.is_empty() {
        return Ok(());
    }
    let filter: Vec<libc::sock_filter> = program
        .chunks_exact(8)
        .map(|chunk| libc::sock_filter {
            code: u16::from_le_bytes([chunk[0], chunk[1]]),
            jt: chunk[2],
            jf: chunk[3],
            k: u32::from_le_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]),
        })
        .collect();
    let length = u16::try_from(filter.len()).map_err(|_| "seccomp program is too long".to_owned())?;
    let program = libc::sock_fprog { len: length, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the program outlives the call, which copies it.
    if unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &program) } < 0 {
        return Err(std::io::Error::last_os_error()).context("install seccomp filter");
    }
    Ok(())
}

/// A command that was found, as exec wants it: nothing is left to allocate or to fail but exec itself.
struct Command {
    name: String,
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Command {
    fn find(args: &[String], env: Vec<Vec<u8>>) -> Outcome<Command> {
        let name = args.first().ok_or("no command specified")?;
        let path = find_executable(name, &env)?;
        Ok(Command {
            name: name.clone(),
            path: sys::cstring(path).context("exec")?,
            args: args.iter().map(|arg| sys::cstring(arg.as_str())).collect::<Result<_, _>>().context("argument")?,
            env: env.into_iter().map(sys::cstring).collect::<Result<_, _>>().context("environment")?,
        })
    }

    fn run(&self) -> Outcome<Infallible> {
        let list =
            |strings: &[CString]| strings.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>();
        let (args, env) = (list(&self.args), list(&self.env));
        // SAFETY: NULL-terminated lists of C strings.
        unsafe { libc::execve(self.path.as_ptr(), args.as_ptr(), env.as_ptr()) };
        Err(format!("exec {}: {}", self.name, sys::text(&std::io::Error::last_os_error())))
    }
}

/// Upstream's search and messages: a name without a slash is looked for along PATH.
fn find_executable(name: &str, env: &[Vec<u8>]) -> Outcome<String> {
    if name.contains('/') {
        return match executable(name) {
            Ok(()) => Ok(name.to_owned()),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                Err(format!("exec: {name:?}: stat {name}: no such file or directory"))
            }
            Err(error) => Err(format!("exec: {name:?}: {}", sys::text(&error))),
        };
    }
    let path = env.iter().find_map(|entry| entry.strip_prefix(b"PATH=")).unwrap_or(b"");
    String::from_utf8_lossy(path)
        .split(':')
        .map(|dir| format!("{}/{name}", if dir.is_empty() { "." } else { dir }))
        .find(|path| executable(path).is_ok())
        .ok_or_else(|| format!("exec: {name:?}: executable file not found in $PATH"))
}

fn executable(path: &str) -> std::io::Result<()> {
    let meta = std::fs::metadata(path)?;
    if meta.is_dir() {
        return Err(std::io::Error::from_raw_os_error(libc::EISDIR));
    }
    let path = sys::cstring(path)?;
    // SAFETY: a C string. AT_EACCESS asks for the rights of the user that this process has become.
    match unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::X_OK, libc::AT_EACCESS) } {
        0 => Ok(()),
        _ => Err(std::io::Error::from_raw_os_error(libc::EACCES)),
    }
}

/// Puts the three descriptors at 0, 1 and 2, and makes a terminal the controlling one.
pub fn set_stdio(streams: [&OwnedFd; 3], tty: bool) -> Outcome<()> {
    // The sources lie above 2, so none is overwritten before it is used.
    for (target, source) in streams.iter().enumerate() {
        // SAFETY: numbers only.
        if unsafe { libc::dup2(source.as_raw_fd(), target as i32) } < 0 {
            return Err(std::io::Error::last_os_error()).context("set up standard streams");
        }
    }
    // SAFETY: numbers only.
    if tty && unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } < 0 {
        return Err(std::io::Error::last_os_error()).context("set controlling terminal");
    }
    Ok(())
}
