//! What makes a cluster's pods one network, on each node: the ways to other nodes' pods ([`routes`]) and what
//! policies let them send and receive ([`policy`]).
//!
//! A node's own pods are connected by its runtime (`net::pods`) or by a CNI plugin.

pub mod policy;
pub mod routes;
