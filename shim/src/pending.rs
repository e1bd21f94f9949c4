//! Children on their way to exec, and what they report.

use std::os::fd::{AsRawFd, OwnedFd};

use knarr_shim::ContainerSpec;

use crate::child::{FAILED, Forked, READY};
use crate::container::Ends;
use crate::log::Log;
use crate::sys::{self, Outcome};

/// What a child that is being set up will be.
pub enum Starting {
    /// The pause process.
    Sandbox,
    /// A container's first process.
    Container {
        /// What it is.
        spec: Box<ContainerSpec>,
        /// Our ends of its streams.
        ends: Ends,
        /// Its log.
        log: Log,
    },
    /// A process in a container.
    Exec,
}

/// A child that is being set up.
pub struct Pending {
    /// Who asked for it.
    pub connection: u64,
    /// In which request.
    pub request: u32,
    /// The child.
    pub forked: Forked,
    /// What it will be.
    pub what: Starting,
    /// What came with READY: words, and a terminal's controlling end.
    pub ready: Option<(Vec<u8>, Option<OwnedFd>)>,
}

impl Pending {
    /// The child's report if it is complete.
    pub fn report(&mut self) -> Option<Outcome<()>> {
        let mut message = vec![0u8; 20 << 10];
        loop {
            let mut descriptors = Vec::new();
            match sys::receive(self.forked.sync.as_raw_fd(), &mut message, &mut descriptors) {
                Ok(0) if self.ready.is_some() => return Some(Ok(())),
                Ok(0) => return Some(Err("the process ended while it was being set up".to_owned())),
                Ok(count) if message[0] == READY => {
                    self.ready = Some((message[1..count].to_vec(), descriptors.pop()));
                    if matches!(self.what, Starting::Sandbox) {
                        return Some(Ok(()));
                    }
                }
                Ok(count) if message[0] == FAILED => {
                    return Some(Err(String::from_utf8_lossy(&message[1..count]).into_owned()));
                }
                Ok(_) => return Some(Err("odd report".to_owned())),
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => return None,
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) => return Some(Err(format!("read report: {}", sys::text(&error)))),
            }
        }
    }
}
