//! Flags about the pod network, which an agent and a server have in common.

use std::path::PathBuf;

use crate::compose::agent::{Network, PodNetwork};

/// Flags.
#[derive(Clone, Debug, clap::Args)]
pub struct NetworkFlags {
    /// How pods are connected: auto (by CNI plugins if --cni-conf-dir holds a configuration at the start, else by us,
    /// and to other nodes as each lies), host-gw or vxlan (by us, and to other nodes so), or cni (by plugins only).
    #[arg(long, default_value_t)]
    pod_network: PodNetwork,
    /// Folder with the configuration of CNI plugins; of its files *.conf, *.conflist and *.json the first by name counts.
    #[arg(long, default_value = "/etc/cni/net.d")]
    cni_conf_dir: PathBuf,
    /// Folders with CNI plugins' programs, comma-separated.
    #[arg(long, value_delimiter = ',', default_value = "/opt/cni/bin,/usr/lib/cni")]
    cni_bin_dir: Vec<PathBuf>,
}

impl From<NetworkFlags> for Network {
    fn from(flags: NetworkFlags) -> Self {
        Self { pods: flags.pod_network, conf_dir: flags.cni_conf_dir, bin_dirs: flags.cni_bin_dir, one_machine: false }
    }
}
