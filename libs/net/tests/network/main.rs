//! Tests with real packets, in namespaces of their own. They need root and iptables.

mod macvlan;
mod netns;
mod peers;
mod pods;
mod virtual_address;
