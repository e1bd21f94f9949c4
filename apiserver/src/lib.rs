//! The Kubernetes API over HTTP: one registry for every kind, read from a watch cache, written to the store.
//!
//! A request passes, in this order: body and concurrency limits, authentication and authorization (behind the seams of
//! [`gate`]), the path taken apart ([`request`]), then the one dispatcher. No kind has a route or a handler of its own.

mod admission;
mod bootstrap;
pub mod cache;
mod error;
pub mod gate;
mod handlers;
pub mod identity;
mod living;
mod measured;
mod metrics;
pub mod registry;
pub mod request;
pub mod security;
mod server;
pub mod testing;
pub mod upgrade;
pub mod wire;

pub use server::{Config, Error, Server};
