//! What the runtime and its shims say to one another.
//!
//! The binary of this crate is the shim itself; see `main.rs`. This library holds only the protocol, so that both ends share
//! one definition and the shim links nothing else.
//!
//! A shim listens on `shim.sock` in its sandbox's directory and has one connection from birth as descriptor 0. Both directions
//! carry frames:
//!
//! ```text
//! u32 length of the rest | u8 kind | u32 id | body          all numbers little-endian
//! ```
//!
//! `kind` 0 is a [`Request`], 1 the [`Reply`] with the request's id, 2 an [`Event`] (id 0), 3 to 6 stream data on a
//! connection that has asked to attach. Descriptors of an [`Request::Exec`] travel as SCM_RIGHTS with its first byte.
//! A frame that cannot be read ends the connection, never the shim. [`VERSION`] changes when an old shim, which may
//! outlive an upgrade of the runtime, would misunderstand.

pub mod protocol;
pub mod wire;

pub use protocol::*;
