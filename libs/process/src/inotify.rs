//! Waiting for a directory's files to change: inotify as a stream of names.

use std::{
    ffi::{CString, OsString},
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::Path,
};

use tokio::io::unix::AsyncFd;

/// A watch on one directory.
#[derive(Debug)]
pub struct Watch {
    fd: AsyncFd<OwnedFd>,
    buffer: Vec<u8>,
}

/// Files that were written, created, moved or removed.
const MASK: u32 = libc::IN_MODIFY
    | libc::IN_CREATE
    | libc::IN_CLOSE_WRITE
    | libc::IN_DELETE
    | libc::IN_MOVED_TO
    | libc::IN_MOVED_FROM
    | libc::IN_ONLYDIR;

impl Watch {
    /// Watches a directory.
    pub fn new(dir: &Path) -> io::Result<Self> {
        let path = CString::new(dir.as_os_str().as_bytes())?;
        // SAFETY: no pointers are passed; the result is checked before use.
        let raw = unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and ours alone.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        // SAFETY: `path` is a C string that lives through the call.
        if unsafe { libc::inotify_add_watch(fd.as_raw_fd(), path.as_ptr(), MASK) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `OwnedFd` always answers with the one descriptor that it owns, and keeps it open.
        let fd = unsafe { AsyncFd::register(fd)? };
        Ok(Self { fd, buffer: vec![0; 4096] })
    }

    /// Names of files that changed since the last call; waits for at least one.
    pub async fn changed(&mut self) -> io::Result<Vec<OsString>> {
        loop {
            let mut guard = self.fd.readable().await?;
            let buffer = &mut self.buffer;
            let read = guard.try_io(|fd| {
                // SAFETY: the buffer is writable for its whole length.
                let n = unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
                usize::try_from(n).map_err(|_| io::Error::last_os_error())
            });
            if let Ok(read) = read {
                return Ok(names(&self.buffer[..read?]));
            }
        }
    }
}

/// `struct inotify_event { int wd; u32 mask; u32 cookie; u32 len; char name[len]; }`, one behind the other.
fn names(mut bytes: &[u8]) -> Vec<OsString> {
    let mut names = Vec::new();
    while bytes.len() >= 16 {
        let length = u32::from_ne_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]) as usize;
        let Some(name) = bytes.get(16..16 + length) else { break };
        let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
        names.push(OsString::from_vec(name[..end].to_vec()));
        bytes = &bytes[16 + length..];
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_written_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(dir.path()).unwrap();
        std::fs::write(dir.path().join("a.log"), "x").unwrap();
        assert!(watch.changed().await.unwrap().iter().all(|n| n == "a.log"));
    }
}
