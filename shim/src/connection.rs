//! A client's connection: frames in, frames out.

use std::os::fd::{AsRawFd, OwnedFd};

use knarr_shim::{self as protocol, AttachSpec};

use crate::sys;

/// A client that does not read this much is let go.
const OUT_LIMIT: usize = 8 << 20;

/// What a connection is for.
pub enum Role {
    /// Requests; with events once it said hello.
    Control {
        /// Wants events.
        events: bool,
    },
    /// A container's streams.
    Attached(AttachSpec),
}

/// A client.
pub struct Connection {
    /// Its number.
    pub key: u64,
    /// Its socket.
    pub fd: OwnedFd,
    /// What it is for.
    pub role: Role,
    /// What it sent, up to an incomplete frame.
    pub input: Vec<u8>,
    /// Descriptors that it sent and that no request has taken yet.
    pub descriptors: Vec<OwnedFd>,
    /// What it has not read yet.
    pub output: Vec<u8>,
    /// Closed when its output is written.
    pub ending: bool,
    /// To be forgotten.
    pub dead: bool,
}

impl Connection {
    /// A new client.
    pub fn new(key: u64, fd: OwnedFd) -> Connection {
        Connection {
            key,
            fd,
            role: Role::Control { events: false },
            input: Vec::new(),
            descriptors: Vec::new(),
            output: Vec::new(),
            ending: false,
            dead: false,
        }
    }

    /// How it is attached to the container, if it is.
    pub fn follows(&self, container: &str) -> Option<&AttachSpec> {
        match &self.role {
            Role::Attached(attach) if attach.container == container => Some(attach),
            _ => None,
        }
    }

    /// Queues a frame and writes what can be written.
    pub fn send(&mut self, kind: u8, id: u32, body: &[u8]) {
        self.output.extend_from_slice(&protocol::frame(kind, id, body));
        self.flush();
    }

    /// Writes what can be written.
    pub fn flush(&mut self) {
        let mut written = 0;
        while written < self.output.len() && !self.dead {
            match sys::send(self.fd.as_raw_fd(), &self.output[written..], None) {
                Ok(count) => written += count,
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => break,
                Err(_) => self.dead = true,
            }
        }
        self.output.drain(..written);
        if self.output.is_empty() {
            self.output = Vec::new();
        }
        self.dead |= self.output.len() > OUT_LIMIT || (self.ending && self.output.is_empty());
    }
}
