//! What the proxy is started with, in upstream's flags.

use std::{path::PathBuf, time::Duration};

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
    /// Whether node ports answer on 127.0.0.1, too, which takes the kernel's `route_localnet`.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub iptables_localhost_nodeports: bool,
    /// Where /healthz is served; empty for nowhere.
    #[arg(long = "healthz-bind-address", default_value = "0.0.0.0:10256")]
    pub healthz_bind_address: String,
    /// Where /metrics, /healthz and /proxyMode are served; empty for nowhere.
    #[arg(long = "metrics-bind-address", default_value = "127.0.0.1:10249")]
    pub metrics_bind_address: String,
    /// How many connections the kernel is to track at least, for each processor; 0 leaves its limit as it is.
    #[arg(long = "conntrack-max-per-core", default_value_t = 32_768)]
    pub conntrack_max_per_core: u64,
    /// How many connections the kernel is to track at least, however few processors there are.
    #[arg(long = "conntrack-min", default_value_t = 131_072)]
    pub conntrack_min: u64,
    /// How long the kernel is to remember an idle TCP connection at least; 0 leaves that as it is.
    #[arg(long = "conntrack-tcp-timeout-established", default_value = "24h", value_parser = process::flags::duration)]
    pub conntrack_tcp_timeout_established: Duration,
    /// How long the kernel is to remember a TCP connection at least that one side has closed; 0 leaves that as it is.
    #[arg(long = "conntrack-tcp-timeout-close-wait", default_value = "1h", value_parser = process::flags::duration)]
    pub conntrack_tcp_timeout_close_wait: Duration,
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
            iptables_localhost_nodeports: true,
            healthz_bind_address: "0.0.0.0:10256".to_owned(),
            metrics_bind_address: "127.0.0.1:10249".to_owned(),
            conntrack_max_per_core: 32_768,
            conntrack_min: 131_072,
            conntrack_tcp_timeout_established: Duration::from_secs(24 * 3600),
            conntrack_tcp_timeout_close_wait: Duration::from_secs(3600),
            namespace: None,
        }
    }
}
