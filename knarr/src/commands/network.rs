//! Flags about the pod network, which an agent and a server have in common.

use net::peers::Mode;

use crate::compose::agent::Network;

/// Flags.
#[derive(Clone, Debug, clap::Args)]
pub struct NetworkFlags {
    /// How other nodes' pods are reached: auto (as each node lies), host-gw or vxlan.
    #[arg(long, default_value_t)]
    pod_network: Mode,
}

impl From<NetworkFlags> for Network {
    fn from(flags: NetworkFlags) -> Self {
        Self { mode: flags.pod_network }
    }
}
