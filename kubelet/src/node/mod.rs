//! The node's own object: registration, status, Lease.

pub mod facts;
pub mod lease;
pub mod object;
pub mod reporter;
