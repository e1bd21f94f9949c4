//! What cluster DNS is started with.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

/// The configuration of a node's DNS.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Where to answer, by UDP and TCP. The address need not exist yet.
    #[arg(long = "listen", default_value = "127.0.0.1:53")]
    pub listen: SocketAddr,
    /// The domain that the cluster's names end with.
    #[arg(long = "cluster-domain", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Ranges of pods and services (`10.42.0.0/16`): their reverse names are answered here and never forwarded.
    #[arg(long = "cluster-ranges", value_delimiter = ',', default_value = "10.42.0.0/16,10.43.0.0/16")]
    pub cluster_ranges: Vec<String>,
    /// Names the resolvers for everything else, as the system does.
    #[arg(long = "resolv-conf", default_value = "/etc/resolv.conf")]
    pub resolv_conf: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53),
            cluster_domain: "cluster.local".to_owned(),
            cluster_ranges: vec!["10.42.0.0/16".to_owned(), "10.43.0.0/16".to_owned()],
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
        }
    }
}
