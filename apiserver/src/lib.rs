//! The Kubernetes API over HTTP: one registry for every kind, read from a watch cache, written to the store.
//!
//! A request passes, in this order: body and concurrency limits, authentication and authorization (behind the seams of
//! [`gate`]), the path taken apart ([`request`]), then the one dispatcher. No kind has a route or a handler of its own.

pub mod gate;
pub mod identity;
pub mod interim;
pub mod request;
pub mod security;
pub mod upgrade;
