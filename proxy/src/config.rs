//! What the proxy is started with, in upstream's flags.

use std::path::PathBuf;

use net::Cidr;

/// The proxy's configuration. Its flags are kube-proxy's.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// The name of the node that the proxy works for.
    #[arg(long = "hostname-override", default_value = "")]
    pub node_name: String,
    /// The range of pods: what comes from elsewhere to a cluster address is masqueraded.
    #[arg(long = "cluster-cidr", default_value = "10.42.0.0/16")]
    pub cluster_cidr: Option<Cidr>,
    /// Masquerade everything that goes to a cluster address.
    #[arg(long = "masquerade-all", default_value_t = false)]
    pub masquerade_all: bool,
    /// Where /healthz is served; empty for nowhere.
    #[arg(long = "healthz-bind-address", default_value = "0.0.0.0:10256")]
    pub healthz_bind_address: String,
    /// Where /metrics, /healthz and /proxyMode are served; empty for nowhere.
    #[arg(long = "metrics-bind-address", default_value = "127.0.0.1:10249")]
    pub metrics_bind_address: String,
    /// The network namespace to work in; the process' own if `None` (tests).
    #[arg(skip)]
    pub namespace: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node_name: String::new(),
            cluster_cidr: "10.42.0.0/16".parse().ok(),
            masquerade_all: false,
            healthz_bind_address: "0.0.0.0:10256".to_owned(),
            metrics_bind_address: "127.0.0.1:10249".to_owned(),
            namespace: None,
        }
    }
}
