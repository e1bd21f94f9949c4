//! What the controller manager can be asked to do, under upstream's flag names.

use std::{net::IpAddr, time::Duration};

use clap::Args;
use process::flags::duration;

use crate::credentials::Anonymous;

/// All settings. The defaults are upstream's where upstream has one.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// A list of controllers to enable. '*' enables all, 'foo' enables the controller named 'foo', '-foo' disables it.
    #[arg(long, value_delimiter = ',', default_value = "*")]
    pub controllers: Vec<String>,
    /// Start a leader election and gain leadership before working. Needed where several controller managers run.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub leader_elect: bool,
    /// How long others wait after a renewal they saw before they take over.
    #[arg(long, default_value = "15s", value_parser = duration)]
    pub leader_elect_lease_duration: Duration,
    /// How long the leader tries to renew before it gives up.
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub leader_elect_renew_deadline: Duration,
    /// The time between two tries to acquire or renew.
    #[arg(long, default_value = "2s", value_parser = duration)]
    pub leader_elect_retry_period: Duration,
    /// The kind of object that is led by.
    #[arg(long, default_value = "leases", value_parser = ["leases"])]
    pub leader_elect_resource_lock: String,
    /// The name of the Lease.
    #[arg(long, default_value = "kube-controller-manager")]
    pub leader_elect_resource_name: String,
    /// The namespace of the Lease.
    #[arg(long, default_value = "kube-system")]
    pub leader_elect_resource_namespace: String,
    /// The number of Deployments that are worked on at once.
    #[arg(long, default_value_t = 5)]
    pub concurrent_deployment_syncs: usize,
    /// The number of ReplicaSets that are worked on at once.
    #[arg(long, default_value_t = 5)]
    pub concurrent_replicaset_syncs: usize,
    /// The number of ReplicationControllers that are worked on at once.
    #[arg(long, default_value_t = 5)]
    pub concurrent_rc_syncs: usize,
    /// The number of Services whose Endpoints are worked on at once.
    #[arg(long, default_value_t = 5)]
    pub concurrent_endpoint_syncs: usize,
    /// The number of Services whose EndpointSlices are worked on at once.
    #[arg(long, default_value_t = 5)]
    pub concurrent_service_endpoint_syncs: usize,
    /// The number of namespaces that are worked on at once.
    #[arg(long, default_value_t = 10)]
    pub concurrent_namespace_syncs: usize,
    /// The number of service accounts that are worked on at once.
    #[arg(long, default_value_t = 5)]
    pub concurrent_serviceaccount_token_syncs: usize,
    /// The number of garbage collector workers.
    #[arg(long, default_value_t = 20)]
    pub concurrent_gc_syncs: usize,
    /// Enables the garbage collector.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub enable_garbage_collector: bool,
    /// The most endpoints that an EndpointSlice holds.
    #[arg(long, default_value_t = 100)]
    pub max_endpoints_per_slice: usize,
    /// How long a node may be silent before it counts as unhealthy.
    #[arg(long, default_value = "50s", value_parser = duration)]
    pub node_monitor_grace_period: Duration,
    /// The least time between two looks at a node that nothing is heard of: its silence is noticed this much too late at most.
    #[arg(long, default_value = "5s", value_parser = duration)]
    pub node_monitor_period: Duration,
    /// How long a node that never reported may be silent before it counts as unhealthy.
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub node_startup_grace_period: Duration,
    /// How many nodes of a zone a second have their pods evicted when they are lost.
    #[arg(long, default_value_t = 0.1)]
    pub node_eviction_rate: f64,
    /// The same where much of a large zone is lost (--unhealthy-zone-threshold, --large-cluster-size-threshold).
    #[arg(long, default_value_t = 0.01)]
    pub secondary_node_eviction_rate: f64,
    /// The share of a zone's nodes, three at least, that have to be lost for evictions to slow down.
    #[arg(long, default_value_t = 0.55)]
    pub unhealthy_zone_threshold: f64,
    /// How many nodes a zone may have for evictions to stop, in place of slowing down, when much of it is lost.
    #[arg(long, default_value_t = 50)]
    pub large_cluster_size_threshold: usize,
    /// Terminated pods beyond this number are deleted, oldest first; 0 keeps all.
    #[arg(long, default_value_t = 12500)]
    pub terminated_pod_gc_threshold: usize,
    /// How long a node must have been gone before its pods are deleted; no flag, as upstream.
    #[arg(skip = Duration::from_secs(40))]
    pub gone_node_quarantine: Duration,
    /// The range of pod addresses; nodes get parts of it.
    #[arg(long)]
    pub cluster_cidr: Option<String>,
    /// The range of Service addresses: where it lies within --cluster-cidr, nodes get no part of it.
    #[arg(long)]
    pub service_cluster_ip_range: Option<String>,
    /// Whether nodes get pod address ranges from the cluster's.
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub allocate_node_cidrs: bool,
    /// The size of a node's range of IPv4 pod addresses.
    #[arg(long, default_value_t = 24)]
    pub node_cidr_mask_size_ipv4: u8,
    /// The size of a node's range of IPv6 pod addresses.
    #[arg(long, default_value_t = 64)]
    pub node_cidr_mask_size_ipv6: u8,
    /// The address of service kube-dns. With it, the service and a slice for every node are kept: agents answer names at the first
    /// address of their node's pods.
    #[arg(long)]
    pub cluster_dns: Option<IpAddr>,
    /// Whether every controller acts as a service account of its own (in kube-system). Without it all act as the user of the
    /// kubeconfig, which then needs the rights of them all.
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub use_service_account_credentials: bool,
    /// What service accounts' requests go out by; set by the process that composes the components.
    #[arg(skip)]
    pub anonymous: Anonymous,
    /// The file with the certificates that pods verify the API server by (published as ConfigMap kube-root-ca.crt in every namespace).
    #[arg(long = "root-ca-file")]
    pub root_ca_file: Option<std::path::PathBuf>,
    /// The same as text; set by the process that composes the components, and preferred over the file.
    #[arg(skip)]
    pub root_ca: Option<String>,
    /// Filename containing a PEM-encoded X509 CA certificate used to issue cluster-scoped certificates; without one no certificate
    /// requests are signed.
    #[arg(long, requires = "cluster_signing_key_file")]
    pub cluster_signing_cert_file: Option<std::path::PathBuf>,
    /// Filename containing a PEM-encoded ECDSA private key used to sign cluster-scoped certificates.
    #[arg(long, requires = "cluster_signing_cert_file")]
    pub cluster_signing_key_file: Option<std::path::PathBuf>,
    /// The max length of duration signed certificates will be given. Individual CSRs may request shorter certs by setting
    /// spec.expirationSeconds.
    #[arg(long, default_value = "8760h", value_parser = duration)]
    pub cluster_signing_duration: Duration,
    /// The same pair as text; set by the process that composes the components, and preferred over the files.
    #[arg(skip)]
    pub signing: Option<SigningPair>,
    /// Approve the serving certificates that kubelets ask for, where a node asks for its own name and addresses.
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub approve_kubelet_serving_certificates: bool,
}

/// The authority that signs certificate requests, as PEM.
#[derive(Clone)]
pub struct SigningPair {
    /// The certificate.
    pub certificate: String,
    /// The PKCS#8 key.
    pub key: String,
}

impl std::fmt::Debug for SigningPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningPair").finish_non_exhaustive()
    }
}

/// Controllers that run only when they are named.
const ONLY_NAMED: [&str; 2] = [crate::bootstrapsigner::NAME, crate::tokencleaner::NAME];

/// Why a configuration cannot be run with.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// `--controllers` names something unknown.
    #[error("{0:?} is not in the list of known controllers")]
    UnknownController(String),
    /// `--cluster-cidr` is not a range.
    #[error("invalid --cluster-cidr {0:?}")]
    ClusterCidr(String),
    /// `--service-cluster-ip-range` is not a range.
    #[error("invalid --service-cluster-ip-range {0:?}")]
    ServiceRange(String),
    /// `--allocate-node-cidrs` without a range.
    #[error("--allocate-node-cidrs needs --cluster-cidr")]
    NoClusterCidr,
    /// The leader's deadlines contradict each other.
    #[error("leader election needs lease duration > renew deadline > retry period")]
    Leases,
    /// `--use-service-account-credentials` where nothing can show them.
    #[error("--use-service-account-credentials needs a client of its own")]
    NoAnonymous,
    /// The certificates cannot be read.
    #[error("cannot read --root-ca-file: {0}")]
    RootCa(String),
    /// The authority that signs cannot be used.
    #[error("cannot use the authority that signs certificates: {0}")]
    Signing(String),
}

impl Default for Config {
    fn default() -> Self {
        #[derive(clap::Parser)]
        struct Flags {
            #[command(flatten)]
            config: Config,
        }
        let Flags { config } = clap::Parser::parse_from(["controller-manager"]);
        config
    }
}

impl Config {
    /// Checks what flags alone cannot.
    pub fn validate(&self, known: &[&str]) -> Result<(), ConfigError> {
        for name in &self.controllers {
            let name = name.strip_prefix('-').unwrap_or(name);
            if name != "*" && !known.contains(&name) {
                return Err(ConfigError::UnknownController(name.to_owned()));
            }
        }
        match self.cluster_cidr.as_deref() {
            Some(cidrs) => drop(parse_cidrs(cidrs)?),
            None if self.allocate_node_cidrs => return Err(ConfigError::NoClusterCidr),
            None => {}
        }
        if let Some(range) = self.service_cluster_ip_range.as_deref() {
            parse_cidrs(range).map_err(|_| ConfigError::ServiceRange(range.to_owned()))?;
        }
        if self.use_service_account_credentials && self.anonymous.0.is_none() {
            return Err(ConfigError::NoAnonymous);
        }
        let ordered = self.leader_elect_lease_duration > self.leader_elect_renew_deadline
            && self.leader_elect_renew_deadline > self.leader_elect_retry_period;
        if self.leader_elect && !ordered {
            return Err(ConfigError::Leases);
        }
        Ok(())
    }

    /// Whether a controller is to run: its own entry counts before `*`.
    pub fn enables(&self, controller: &str) -> bool {
        let own = self.controllers.iter().rev().find(|n| n.strip_prefix('-').unwrap_or(n) == controller);
        let by_star = || !ONLY_NAMED.contains(&controller) && self.controllers.iter().any(|n| n == "*");
        own.map_or_else(by_star, |n| !n.starts_with('-'))
    }
}

/// The ranges in a comma-separated list.
pub fn parse_cidrs(text: &str) -> Result<Vec<(IpAddr, u8)>, ConfigError> {
    let bad = || ConfigError::ClusterCidr(text.to_owned());
    text.split(',')
        .map(|cidr| {
            let (address, length) = cidr.trim().split_once('/').ok_or_else(bad)?;
            let (address, length): (IpAddr, u8) = (address.parse().map_err(|_| bad())?, length.parse().map_err(|_| bad())?);
            let most = if address.is_ipv4() { 32 } else { 128 };
            if length > most { Err(bad()) } else { Ok((address, length)) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_by_name_counts_before_the_star() {
        let enabled = |list: &str| {
            let config = Config { controllers: list.split(',').map(str::to_owned).collect(), ..Config::default() };
            [config.enables("a"), config.enables("b")]
        };
        assert_eq!(
            ["*", "*,-a", "a", "-a", "b,-b"].map(enabled),
            [[true, true], [false, true], [true, false], [false, false], [false, false]]
        );
        let cleaner = |list: &[&str]| {
            let config = Config { controllers: list.iter().map(|n| (*n).to_owned()).collect(), ..Config::default() };
            config.enables(crate::tokencleaner::NAME)
        };
        assert_eq!([cleaner(&["*"]), cleaner(&["*", crate::tokencleaner::NAME])], [false, true]);
    }

    #[test]
    fn contradictions_are_refused() {
        let config = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config.validate(&["a"])
        };
        assert_eq!(
            [
                config(|_| {}),
                config(|c| c.controllers = vec!["-b".into()]),
                config(|c| c.allocate_node_cidrs = true),
                config(|c| c.cluster_cidr = Some("10.0.0.0/33".into())),
                config(|c| c.leader_elect_retry_period = Duration::from_secs(11)),
            ],
            [
                Ok(()),
                Err(ConfigError::UnknownController("b".into())),
                Err(ConfigError::NoClusterCidr),
                Err(ConfigError::ClusterCidr("10.0.0.0/33".into())),
                Err(ConfigError::Leases),
            ]
        );
    }
}
