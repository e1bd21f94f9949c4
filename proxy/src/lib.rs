//! The service proxy: Services and EndpointSlices become iptables rules on this node.
//!
//! Informers name the services that changed ([`run`]); plain functions turn a service into its part of the tables
//! ([`model`], [`rules`]) and two states of it into one `iptables-restore` input ([`table`]); a thin loop applies it
//! ([`proxier`]). So the cost follows the change. At the start, and when [`net::monitor`] notices that somebody else changed
//! something of ours, everything is written anew.
//!
//! The `iptables` crate is not used: it runs one program a rule and has no restore.

mod config;
mod conntrack;
mod freshness;
mod health;
pub mod model;
pub mod proxier;
pub mod rules;
mod run;
pub mod table;

pub use config::Config;
pub use run::{Error, cleanup, run};
