//! A cluster on one machine without containers around it: every node is a set of namespaces.
//!
//! ```text
//!  host          kn-NAME 10.41.N.1  ──┐       ┌── NAME-1   eth0 10.41.N.11
//!                                    wire ─────┼── NAME-2   eth0 10.41.N.12
//!  NAME-outside  outside 10.41.N.2  ──┘       └── ...
//! ```
//!
//! The wire is in `NAME-outside` and not on the host, so that no firewall of the host's (Docker's, say) sees the nodes'
//! traffic and we need not change any. Everybody's link is on top of it (macvlan): a packet is with its receiver in one step, where
//! a switch with a wire to each takes three. Nothing has a default route; the host forwards nothing of ours.
//!
//! [`layout`] decides names and addresses, [`record`] keeps them, [`link`] makes namespaces and links, [`cgroup`] and
//! [`process`] hold the node's processes, [`sweep`] takes everything away again, whatever state it is in.

pub mod cgroup;
pub mod control;
pub mod enter;
pub mod etcd;
pub mod kubeconfig;
pub mod layout;
pub mod link;
pub mod process;
pub mod progress;
pub mod record;
pub mod sweep;
