//! What can go wrong between us and the kernel's network.

use std::{io, path::PathBuf};

/// Why a network step failed. Display names the step; `source()` keeps the reason.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    #[error("{step}")]
    System {
        /// What was being done.
        step: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A netlink request was refused.
    #[error("netlink: {step}")]
    Netlink {
        /// What was being done.
        step: String,
        /// The kernel's answer.
        #[source]
        source: rtnetlink::Error,
    },
    /// There is no link of that name.
    #[error("no link named {0}")]
    NoLink(String),
    /// A link is not connected to anything.
    #[error("{0} is not connected to anything")]
    NotConnected(String),
    /// The node's address is on no link.
    #[error("{0} is not an address of this machine: give the node one that `ip address` shows (--node-ip)")]
    NotHere(std::net::Ipv4Addr),
    /// An address cannot be used as is wanted.
    #[error(transparent)]
    Unfit(#[from] crate::virtual_address::Unfit),
    /// Every address of the range is taken.
    #[error("no free address left in {0}")]
    Exhausted(crate::Cidr),
    /// An address range could not be read.
    #[error("{0:?} is not an IPv4 range like 10.42.0.0/24")]
    BadCidr(String),
    /// A file of ours holds something else.
    #[error("{path}: {reason}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// iptables refused a change.
    #[error("{command}: {message}")]
    Iptables {
        /// The program that was run.
        command: String,
        /// What it printed.
        message: String,
    },
    /// A thread that worked inside a namespace panicked.
    #[error("work inside a network namespace panicked")]
    Panicked,
}

impl Error {
    /// Wraps an I/O error with the step that failed.
    pub fn system(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let step = step.into();
        move |source| Self::System { step, source }
    }

    pub(crate) fn errno(step: impl Into<String>) -> impl FnOnce(nix::errno::Errno) -> Self {
        let step = step.into();
        move |source| Self::System { step, source: source.into() }
    }

    pub(crate) fn netlink(step: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Self {
        let step = step.into();
        move |source| Self::Netlink { step, source }
    }

    /// The kernel's error number, where there is one.
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Self::System { source, .. } => source.raw_os_error(),
            Self::Netlink { source: rtnetlink::Error::NetlinkError(message), .. } => message.code.map(|code| -code.get()),
            _ => None,
        }
    }
}

/// This crate's results.
pub type Result<T> = std::result::Result<T, Error>;
