//! NetworkPolicies on one node: which connections its pods may make and take.
//!
//! Objects become a [`model::View`]; [`rules::rules`] turns that into chains of iptables' table `mangle`, [`table`] turns two
//! states of them into one `iptables-restore` input, and a thin loop ([`run`]) applies it. So the kernel is told what
//! differs: a pod that gets a label is one line.
//!
//! - In `mangle`, FORWARD comes after services were translated (so the pods' own addresses are judged, and a client's before it
//!   is masqueraded) and before anything in `filter` can have accepted the packet. The node's own packets to its pods come
//!   from OUTPUT and meet no rule: probes always arrive.
//! - Both ends are judged, each on its own node: egress where the sender is, ingress where the receiver is.
//! - While there are policies, packets from and to addresses of the node's range that no known pod has are dropped: a pod is out
//!   of reach until its rules are there. Without a policy anywhere there is no rule at all, and pods are not even watched.
//! - What other pods a policy means is a chain that all policies saying the same share. `ipset` would match faster where thousands are
//!   meant, for another program to depend on; only the first packet of a connection is ever looked up.

pub mod model;
pub mod rules;
mod run;
pub mod table;

pub use run::{Config, Enforcer, run};
