//! SPDY/3.1, as much of it as moby/spdystream peers use: streams with headers, data, resets, pings and GOAWAY.

mod connection;
mod frame;
mod headers;

pub use connection::{Connection, Incoming, Offer, Role};

/// Why a connection ended or a stream could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading or writing failed.
    #[error("transfer SPDY frames")]
    Io(#[from] std::io::Error),
    /// The peer broke the protocol.
    #[error("the peer broke SPDY/3.1: {0}")]
    Protocol(&'static str),
    /// The peer refused or reset a stream.
    #[error("the stream was reset by the peer")]
    Reset,
    /// The connection is gone.
    #[error("the connection is closed")]
    Closed,
}
