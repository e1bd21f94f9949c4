//! The kernel's calls that the C library wraps badly or not at all, each in a thin safe function, and errors as text.

use std::ffi::{CString, c_long};
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// The working directory as a directory descriptor.
pub const CWD: RawFd = libc::AT_FDCWD;

/// What failed, in words that may reach a pod's status.
pub type Outcome<T> = std::result::Result<T, String>;

/// Adds what was being done to an error.
pub trait Context<T> {
    /// `what: error`.
    fn context(self, what: &str) -> Outcome<T>;
    /// The same with words that cost something to make.
    fn with(self, what: impl FnOnce() -> String) -> Outcome<T>;
}

impl<T> Context<T> for Result<T> {
    fn context(self, what: &str) -> Outcome<T> {
        self.map_err(|error| format!("{what}: {}", text(&error)))
    }
    fn with(self, what: impl FnOnce() -> String) -> Outcome<T> {
        self.map_err(|error| format!("{}: {}", what(), text(&error)))
    }
}

/// The error as other container tools print it: "no such file or directory".
pub fn text(error: &Error) -> String {
    let Some(code) = error.raw_os_error() else { return error.to_string() };
    let full = Error::from_raw_os_error(code).to_string();
    let words = full.split(" (os error").next().unwrap_or(&full);
    let mut letters = words.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

fn check(result: c_long) -> Result<c_long> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}

fn owned(result: c_long) -> Result<OwnedFd> {
    // SAFETY: the kernel has just given us this descriptor.
    check(result).map(|fd| unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// A C string; an inner NUL is the caller's bad input.
pub fn cstring(text: impl Into<Vec<u8>>) -> Result<CString> {
    CString::new(text).map_err(|_| Error::from_raw_os_error(libc::EINVAL))
}

/// How often the kernel is asked to follow a path. It gives up (EAGAIN) when something is renamed or mounted anywhere on the
/// machine just while it follows a `..` that must not lead out, and leaves trying again to us (openat2(2)).
const TRIES: usize = 128;

/// openat2(2); the result is closed on exec.
pub fn openat2(dir: RawFd, path: &str, flags: i32, mode: u32, resolve: u64) -> Result<OwnedFd> {
    let path = cstring(path)?;
    // SAFETY: open_how is plain numbers; path is a C string that outlives the call.
    unsafe {
        let mut how: libc::open_how = std::mem::zeroed();
        how.flags = (flags | libc::O_CLOEXEC) as u64;
        how.mode = u64::from(mode);
        how.resolve = resolve;
        let ask = || owned(libc::syscall(libc::SYS_openat2, dir, path.as_ptr(), &how, size_of::<libc::open_how>()));
        let mut answer = ask();
        for _ in 1..TRIES {
            match answer {
                Err(error) if resolve != 0 && error.raw_os_error() == Some(libc::EAGAIN) => answer = ask(),
                _ => break,
            }
        }
        answer
    }
}

/// A detached copy of the mount at `path` (of `dir` itself when empty), with those below it when `recursive`.
pub fn clone_tree(dir: RawFd, path: &str, recursive: bool) -> Result<OwnedFd> {
    let mut flags = libc::OPEN_TREE_CLONE as i32 | libc::O_CLOEXEC;
    flags |= if recursive { libc::AT_RECURSIVE } else { 0 };
    flags |= if path.is_empty() { libc::AT_EMPTY_PATH } else { 0 };
    let path = cstring(path)?;
    // SAFETY: path outlives the call.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, dir, path.as_ptr(), flags) })
}

/// Attaches a detached mount over `target`.
pub fn move_mount(tree: &OwnedFd, target: RawFd) -> Result<()> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: empty C strings.
    check(unsafe { libc::syscall(libc::SYS_move_mount, tree.as_raw_fd(), c"".as_ptr(), target, c"".as_ptr(), flags) })
        .map(drop)
}

/// A new file system's detached mount.
pub fn new_mount(kind: &str, options: &[(String, String)], attributes: u64) -> Result<OwnedFd> {
    let kind = cstring(kind)?;
    // SAFETY: all strings outlive their calls.
    unsafe {
        let context = owned(libc::syscall(libc::SYS_fsopen, kind.as_ptr(), libc::FSOPEN_CLOEXEC))?;
        let set = |command: u32, key: *const libc::c_char, value: *const libc::c_char| {
            check(libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, key, value, 0))
        };
        // Shown where mounts are listed.
        set(libc::FSCONFIG_SET_STRING, c"source".as_ptr(), kind.as_ptr())?;
        for (key, value) in options {
            let (key, text) = (cstring(key.as_str())?, cstring(value.as_str())?);
            match value.is_empty() {
                true => set(libc::FSCONFIG_SET_FLAG, key.as_ptr(), std::ptr::null())?,
                false => set(libc::FSCONFIG_SET_STRING, key.as_ptr(), text.as_ptr())?,
            };
        }
        set(libc::FSCONFIG_CMD_CREATE, std::ptr::null(), std::ptr::null())?;
        owned(libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), libc::FSMOUNT_CLOEXEC, attributes as u32))
    }
}

/// mount_setattr(2) on a mount's descriptor.
pub fn set_mount(tree: RawFd, attributes: u64, propagation: u64, recursive: bool) -> Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: mount_attr is plain numbers.
    unsafe {
        let mut attr: libc::mount_attr = std::mem::zeroed();
        attr.attr_set = attributes;
        attr.propagation = propagation;
        check(libc::syscall(libc::SYS_mount_setattr, tree, c"".as_ptr(), flags, &attr, size_of::<libc::mount_attr>()))
    }
    .map(drop)
}

/// mount(2) with strings only.
pub fn mount(source: &str, target: &str, kind: &str, flags: libc::c_ulong, data: &str) -> Result<()> {
    let (source, target, kind, data) = (cstring(source)?, cstring(target)?, cstring(kind)?, cstring(data)?);
    // SAFETY: C strings that outlive the call.
    check(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast()) } as c_long)
        .map(drop)
}

/// Makes the working directory the root and lets go of the old root.
pub fn pivot_here() -> Result<()> {
    // SAFETY: constant C strings.
    unsafe {
        check(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()))?;
        check(c_long::from(libc::umount2(c".".as_ptr(), libc::MNT_DETACH)))?;
        check(c_long::from(libc::chdir(c"/".as_ptr()))).map(drop)
    }
}

/// The library's constant does not fit its type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// fork(2) with namespaces and a cgroup of the kernel's v2. Returns `None` in the child. Only for single-threaded callers.
pub fn fork(namespaces: i32, cgroup: Option<RawFd>) -> Result<Option<(i32, OwnedFd)>> {
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is plain numbers; without CLONE_VM the child owns a copy of everything.
    let pid = unsafe {
        let mut args: libc::clone_args = std::mem::zeroed();
        args.flags = namespaces as u64 | libc::CLONE_PIDFD as u64;
        args.pidfd = &raw mut pidfd as u64;
        args.exit_signal = libc::SIGCHLD as u64;
        if let Some(cgroup) = cgroup {
            args.flags |= CLONE_INTO_CGROUP;
            args.cgroup = cgroup as u64;
        }
        check(libc::syscall(libc::SYS_clone3, &args, size_of::<libc::clone_args>()))?
    };
    if pid == 0 {
        return Ok(None);
    }
    // SAFETY: CLONE_PIDFD has stored a new descriptor.
    Ok(Some((pid as i32, unsafe { OwnedFd::from_raw_fd(pidfd) })))
}

/// setns(2).
pub fn setns(fd: RawFd, kinds: i32) -> Result<()> {
    // SAFETY: numbers only.
    check(c_long::from(unsafe { libc::setns(fd, kinds) })).map(drop)
}

/// unshare(2).
pub fn unshare(kinds: i32) -> Result<()> {
    // SAFETY: numbers only.
    check(c_long::from(unsafe { libc::unshare(kinds) })).map(drop)
}

/// prctl(2) with numbers.
pub fn prctl(option: i32, a: u64, b: u64) -> Result<()> {
    // SAFETY: used only with options that take numbers.
    check(c_long::from(unsafe { libc::prctl(option, a, b, 0, 0) })).map(drop)
}

/// Closes every descriptor from `first` on.
pub fn close_from(first: RawFd) {
    // SAFETY: used in a child that keeps only what is below.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
}

/// Has every descriptor from `first` on closed by exec. All are made so; this holds for one that was forgotten, too.
pub fn close_on_exec_from(first: RawFd) {
    // SAFETY: numbers only.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

/// A pipe, closed on exec: (read, write).
pub fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    check(c_long::from(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }))?;
    // SAFETY: new descriptors.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// A pair of connected sockets that keep message boundaries.
pub fn socket_pair() -> Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    check(c_long::from(unsafe {
        libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, ends.as_mut_ptr())
    }))?;
    // SAFETY: new descriptors.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// Makes reads and writes return instead of waiting.
pub fn set_nonblocking(fd: RawFd) -> Result<()> {
    // SAFETY: numbers only.
    check(c_long::from(unsafe { libc::fcntl(fd, libc::F_SETFL, libc::fcntl(fd, libc::F_GETFL) | libc::O_NONBLOCK) }))
        .map(drop)
}

/// read(2).
pub fn read(fd: RawFd, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the buffer's own bounds.
    check(unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) } as c_long).map(|count| count as usize)
}

/// write(2).
pub fn write(fd: RawFd, bytes: &[u8]) -> Result<usize> {
    // SAFETY: the slice's own bounds.
    check(unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) } as c_long).map(|count| count as usize)
}

/// Room for the three descriptors of one request, aligned as the kernel wants it.
#[repr(C, align(8))]
struct Ancillary([u8; 64]);

/// recvmsg(2) with descriptors, which are closed on exec.
pub fn receive(fd: RawFd, buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> Result<usize> {
    let mut space = Ancillary([0; 64]);
    // SAFETY: msghdr points at live buffers; control messages are walked by the library's own macros.
    unsafe {
        let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &mut part;
        message.msg_iovlen = 1;
        message.msg_control = space.0.as_mut_ptr().cast();
        message.msg_controllen = space.0.len();
        let count = check(libc::recvmsg(fd, &mut message, libc::MSG_CMSG_CLOEXEC) as c_long)?;
        let mut header = libc::CMSG_FIRSTHDR(&message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*header).cmsg_len - libc::CMSG_LEN(0) as usize;
                let first = libc::CMSG_DATA(header).cast::<RawFd>();
                let each = (0..bytes / size_of::<RawFd>()).map(|i| OwnedFd::from_raw_fd(first.add(i).read_unaligned()));
                descriptors.extend(each);
            }
            header = libc::CMSG_NXTHDR(&message, header);
        }
        Ok(count as usize)
    }
}

/// sendmsg(2) with at most one descriptor.
pub fn send(fd: RawFd, bytes: &[u8], descriptor: Option<RawFd>) -> Result<usize> {
    let mut space = Ancillary([0; 64]);
    // SAFETY: as in `receive`; one descriptor fits.
    unsafe {
        let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &mut part;
        message.msg_iovlen = 1;
        if let Some(descriptor) = descriptor {
            message.msg_control = space.0.as_mut_ptr().cast();
            message.msg_controllen = libc::CMSG_SPACE(size_of::<RawFd>() as u32) as usize;
            let header = libc::CMSG_FIRSTHDR(&message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as usize;
            libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(descriptor);
        }
        check(libc::sendmsg(fd, &message, libc::MSG_NOSIGNAL) as c_long).map(|count| count as usize)
    }
}

/// The type of the file system that holds an open file.
pub fn file_system(fd: RawFd) -> Result<i64> {
    // SAFETY: statfs is plain numbers.
    unsafe {
        let mut stat: libc::statfs = std::mem::zeroed();
        check(c_long::from(libc::fstatfs(fd, &mut stat)))?;
        Ok(stat.f_type)
    }
}

/// fstat(2).
pub fn stat(fd: RawFd) -> Result<libc::stat> {
    // SAFETY: stat is plain numbers.
    unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        check(c_long::from(libc::fstat(fd, &mut stat)))?;
        Ok(stat)
    }
}

/// Nanoseconds since the epoch.
pub fn now_ns() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64)
}

/// Writes a whole value to a file of the kernel's that exists.
pub fn write_file(path: &str, value: &str) -> Result<()> {
    let file = openat2(CWD, path, libc::O_WRONLY, 0, 0)?;
    write(file.as_raw_fd(), value.as_bytes()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_like_other_tools() {
        assert_eq!(text(&Error::from_raw_os_error(libc::ENOENT)), "no such file or directory");
    }
}
