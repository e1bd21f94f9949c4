//! Processes we started, told from others by pid *and* start time: a pid alone may be somebody else's by now.

use std::{
    collections::BTreeSet,
    fs,
    os::fd::{AsFd, FromRawFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Result;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use tokio::io::{Interest, unix::AsyncFd};

use super::record::write_whole;

/// A process as recorded in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since boot (`/proc/PID/stat`).
    pub start_time: u64,
}

impl Identity {
    /// The process of this number, if there is one that is not just a zombie.
    pub fn of(pid: i32) -> Option<Self> {
        let (state, start_time) = parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
        (!matches!(state, 'Z' | 'X')).then_some(Self { pid, start_time })
    }

    /// The calling process.
    pub fn own() -> Option<Self> {
        Self::of(std::process::id() as i32)
    }

    /// Whether the process still runs.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Waits until the process has ended.
    pub async fn ended(self) -> Result<()> {
        let Some(pidfd) = open_pidfd(self.pid) else { return Ok(()) };
        // The number was still this process' when it was opened, or the process has ended.
        if self.is_alive() {
            // SAFETY: the descriptor is owned, and by nobody else.
            let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?;
            pidfd.readable().await?.retain_ready();
        }
        Ok(())
    }

    /// The process recorded for `component` in a node's folder, if it still runs.
    pub fn load(folder: &Path, component: &str) -> Option<Self> {
        let recorded: Self = serde_json::from_slice(&fs::read(path(folder, component)).ok()?).ok()?;
        recorded.is_alive().then_some(recorded)
    }

    /// Records the process for `component`.
    pub fn save(self, folder: &Path, component: &str) -> Result<()> {
        write_whole(&path(folder, component), &serde_json::to_vec(&self)?, 0o644)
    }
}

fn path(folder: &Path, component: &str) -> PathBuf {
    folder.join(format!("{component}.pid.json"))
}

/// State and start time. The name in parentheses may itself hold spaces and parentheses.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    Some((fields.first()?.chars().next()?, fields.get(19)?.parse().ok()?))
}

/// Waits until all of these processes have ended, or `most` has passed.
pub fn wait_gone(pids: &BTreeSet<i32>, most: Duration) {
    let deadline = Instant::now() + most;
    for pid in pids {
        let Some(pidfd) = open_pidfd(*pid) else { continue };
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let _ = poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], timeout);
    }
}

fn open_pidfd(pid: i32) -> Option<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and returns a descriptor of ours or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    // SAFETY: a non-negative answer is a new descriptor that nobody else owns.
    i32::try_from(fd).ok().filter(|fd| *fd >= 0).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start() {
        let own = Identity::own().unwrap();
        assert!(own.is_alive());
        assert!(!Identity { start_time: own.start_time + 1, ..own }.is_alive());
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 2 3";
        assert_eq!(parse_stat(stat), Some(('S', 4242)));
    }

    #[tokio::test]
    async fn an_end_is_waited_for() {
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let identity = Identity::of(child.id() as i32).unwrap();
        let mut ended = Box::pin(identity.ended());
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut ended).await.is_err());
        drop(child.stdin.take());
        ended.await.unwrap();
        child.wait().unwrap();
        identity.ended().await.unwrap();
    }
}
