//! The kubelet's configuration: upstream's flag names, typed and checked.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use k8s_openapi::api::core::v1::Taint;

use crate::eviction::{
    images,
    signals::{self, Bounds, Graces, Threshold, graces, reclaims},
};
use crate::{
    pod::backoff,
    shutdown::{self, Period},
};

/// Everything the kubelet can be told. `Config::default()` is what no flags at all give.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// IP address of the node; the address of the default route's interface if unset.
    #[arg(long)]
    pub node_ip: Option<IpAddr>,
    /// The node's name instead of the host name.
    #[arg(long)]
    pub hostname_override: Option<String>,
    /// Path to a kubeconfig file, specifying how to connect to the API server.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// The endpoint of the container runtime service.
    #[arg(long, default_value = "unix:///run/containerd/containerd.sock")]
    pub container_runtime_endpoint: String,
    /// Directory path for managing kubelet files.
    #[arg(long, default_value = "/var/lib/kubelet")]
    pub root_dir: PathBuf,
    /// Directory for the logs of pods.
    #[arg(long, default_value = "/var/log/pods")]
    pub pod_logs_dir: PathBuf,
    /// Labels to add when registering the node: key=value,...
    #[arg(long, value_delimiter = ',', value_parser = pair)]
    pub node_labels: Vec<(String, String)>,
    /// Register the node with these taints: key=value:effect,...
    #[arg(long, value_delimiter = ',', value_parser = taint)]
    pub register_with_taints: Vec<Taint>,
    /// Register the node with the API server.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub register_node: bool,
    /// Number of pods that can run on this kubelet.
    #[arg(long, default_value_t = 110)]
    pub max_pods: u32,
    /// Driver that the kubelet uses to manipulate cgroups on the host.
    #[arg(long, default_value = "cgroupfs", value_parser = ["cgroupfs"])]
    pub cgroup_driver: String,
    /// Optional root cgroup to use for pods.
    #[arg(long, default_value = "")]
    pub cgroup_root: String,
    /// Comma-separated list of DNS server IP addresses for pods with dnsPolicy=ClusterFirst.
    #[arg(long, value_delimiter = ',')]
    pub cluster_dns: Vec<IpAddr>,
    /// Domain for this cluster.
    #[arg(long, default_value = "")]
    pub cluster_domain: String,
    /// Resolver configuration file used as the basis for the container DNS resolution configuration.
    #[arg(long, default_value = "/etc/resolv.conf")]
    pub resolv_conf: PathBuf,
    /// The CIDR to use for pod IP addresses, only without a cluster that assigns one.
    #[arg(long)]
    pub pod_cidr: Option<String>,
    /// How often the node's status is computed.
    #[arg(long, default_value = "10s", value_parser = process::flags::duration)]
    pub node_status_update_frequency: Duration,
    /// How often an unchanged node status is written all the same.
    #[arg(long, default_value = "5m", value_parser = process::flags::duration)]
    pub node_status_report_frequency: Duration,
    /// How long the node's Lease is valid, in seconds; it is renewed four times as often.
    #[arg(long, default_value_t = 40)]
    pub node_lease_duration_seconds: i32,
    /// The IP address for the kubelet to serve on.
    #[arg(long, default_value = "0.0.0.0")]
    pub address: IpAddr,
    /// The port for the kubelet to serve on.
    #[arg(long, default_value_t = 10250)]
    pub port: u16,
    /// The IP address for the healthz server.
    #[arg(long, default_value = "127.0.0.1")]
    pub healthz_bind_address: IpAddr,
    /// The port of the localhost healthz endpoint; 0 disables it.
    #[arg(long, default_value_t = 10248)]
    pub healthz_port: u16,
    /// Requests with a client certificate signed by one of these authorities are authenticated.
    #[arg(long)]
    pub client_ca_file: Option<PathBuf>,
    /// File containing the x509 certificate used for serving HTTPS.
    #[arg(long)]
    pub tls_cert_file: Option<PathBuf>,
    /// File containing the x509 private key matching --tls-cert-file.
    #[arg(long)]
    pub tls_private_key_file: Option<PathBuf>,
    /// Directory for certificates that the kubelet makes for itself when no files are given.
    #[arg(long)]
    pub cert_dir: Option<PathBuf>,
    /// Serve with a certificate that the cluster signs, and ask for the next one before it ends; each has to be approved.
    #[arg(long, conflicts_with = "tls_cert_file")]
    pub rotate_server_certificates: bool,
    /// File or directory with static pods.
    #[arg(long)]
    pub pod_manifest_path: Option<PathBuf>,
    /// Pull images one at a time.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub serialize_image_pulls: bool,
    /// How many images are pulled at once when they are not pulled one at a time; any number if unset.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub max_parallel_image_pulls: Option<u16>,
    /// How many processes a pod may have; any number if negative.
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    pub pod_max_pids: i64,
    /// Containers that ask for no seccomp profile get RuntimeDefault.
    #[arg(long)]
    pub seccomp_default: bool,
    /// The longest pause before a container that crashes is started again.
    #[arg(long, default_value = "5m", value_parser = process::flags::duration)]
    pub crash_loop_back_off_max_container_restart_period: Duration,
    /// Size at which a container's log is rotated, e.g. 10Mi.
    #[arg(long, default_value = "10Mi", value_parser = bytes)]
    pub container_log_max_size: u64,
    /// How many log files a container may have; all but the newest two are compressed.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..))]
    pub container_log_max_files: u32,
    /// Unsafe sysctls or sysctl patterns (ending in *) that pods may set.
    #[arg(long, value_delimiter = ',')]
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Resources kept from pods: cpu=100m,memory=100Mi.
    #[arg(long, value_delimiter = ',', value_parser = quantity)]
    pub system_reserved: Vec<(String, String)>,
    /// Resources kept from pods for Kubernetes itself: cpu=100m,memory=100Mi.
    #[arg(long, value_delimiter = ',', value_parser = quantity)]
    pub kube_reserved: Vec<(String, String)>,
    /// Evict pods at once when less than this is left: memory.available<1Gi,...; percentages are of the capacity.
    #[arg(long, default_value = EVICTION_HARD)]
    pub eviction_hard: Bounds,
    /// Evict pods when less than this is left for longer than a grace period: memory.available<1.5Gi,...
    #[arg(long, default_value = "")]
    pub eviction_soft: Bounds,
    /// Grace periods of soft eviction thresholds: memory.available=1m30s,...
    #[arg(long, default_value = "", value_parser = graces)]
    pub eviction_soft_grace_period: Graces,
    /// How much more than a threshold must be there again: imagefs.available=2Gi,...
    #[arg(long, default_value = "", value_parser = reclaims)]
    pub eviction_minimum_reclaim: Bounds,
    /// The longest time, in seconds, that a pod evicted by a soft threshold may take to end.
    #[arg(long, default_value_t = 0)]
    pub eviction_max_pod_grace_period: u64,
    /// How long the node's pressure conditions stay after what they tell of is over.
    #[arg(long, default_value = "5m", value_parser = process::flags::duration)]
    pub eviction_pressure_transition_period: Duration,
    /// The percent of disk usage after which unused images are removed; 100 disables that.
    #[arg(long, default_value_t = 85, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub image_gc_high_threshold: u8,
    /// The percent of disk usage down to which unused images are removed.
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub image_gc_low_threshold: u8,
    /// How old an unused image must be before it is removed.
    #[arg(long, default_value = "2m", value_parser = process::flags::duration)]
    pub minimum_image_ttl_duration: Duration,
    /// Unused images older than this are removed, whatever is free; 0 disables that.
    #[arg(long, default_value = "0", value_parser = process::flags::duration)]
    pub image_maximum_gc_age: Duration,
    /// How long the node delays a shutdown of the machine so that its pods can end; 0 does not.
    #[arg(long, default_value = "0", value_parser = process::flags::duration)]
    pub shutdown_grace_period: Duration,
    /// How much of --shutdown-grace-period is kept for critical pods, which end last.
    #[arg(long, default_value = "0", value_parser = process::flags::duration)]
    pub shutdown_grace_period_critical_pods: Duration,
    /// Instead of both: how many seconds pods from each priority on have to end, lowest first: 0=20,2000000000=10.
    #[arg(long, value_delimiter = ',', value_parser = shutdown::period, allow_hyphen_values = true)]
    pub shutdown_grace_period_by_pod_priority: Vec<Period>,
    /// The socket of the bus on which systemd-logind is asked to delay shutdowns.
    #[arg(skip = system_bus())]
    pub system_bus: PathBuf,
    /// A KubeletConfiguration file (kubelet.config.k8s.io/v1beta1); flags override what it says.
    #[arg(long)]
    pub config: Option<PathBuf>,
}

/// Upstream's thresholds.
const EVICTION_HARD: &str =
    "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,imagefs.inodesFree<5%";

/// The flags and nothing else.
#[derive(clap::Parser)]
struct Alone {
    #[command(flatten)]
    config: Config,
}

impl Default for Config {
    fn default() -> Self {
        <Alone as clap::Parser>::parse_from(["kubelet"]).config
    }
}

/// Why a configuration cannot work.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// One of a pair is missing.
    #[error("--tls-cert-file and --tls-private-key-file must be given together")]
    HalfCertificate,
    /// There is no name to register under.
    #[error("the host has no usable name; give --hostname-override")]
    NoName(#[source] Option<nix::Error>),
    /// There is no address to register with.
    #[error("no address found for the node; give --node-ip")]
    NoAddress(#[source] Option<std::io::Error>),
    /// Thresholds that do not fit together.
    #[error("{0}")]
    Eviction(String),
    /// Several pulls at once where there is to be one.
    #[error("--max-parallel-image-pulls cannot be larger than 1 unless --serialize-image-pulls is set to false")]
    ParallelPulls,
    /// A pause that is too short or too long.
    #[error("--crash-loop-back-off-max-container-restart-period must be between 1s and 5m")]
    RestartPeriod,
    /// Images would be removed below a level that is above the one where that begins.
    #[error("--image-gc-low-threshold must be less than --image-gc-high-threshold")]
    ImageThresholds,
    /// Periods of a shutdown that do not fit together.
    #[error("{0}")]
    Shutdown(&'static str),
    /// The file cannot be read.
    #[error("read the configuration file {0}")]
    File(PathBuf, #[source] std::io::Error),
    /// The file says what is not understood.
    #[error("the configuration file {0}: {1}")]
    Content(PathBuf, String),
}

impl Config {
    /// What a KubeletConfiguration file says.
    pub fn of_file(path: &Path) -> Result<Self, ConfigError> {
        let flags = crate::flags_of_file(path)?;
        let parsed = <Alone as clap::Parser>::try_parse_from(std::iter::once("kubelet".to_owned()).chain(flags));
        let config = parsed.map_err(|error| ConfigError::Content(path.to_owned(), error.to_string()))?.config;
        config.validate()?;
        Ok(config)
    }

    /// Checks what flags cannot check one by one.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.tls_cert_file.is_some() != self.tls_private_key_file.is_some() {
            return Err(ConfigError::HalfCertificate);
        }
        if self.image_gc_low_threshold >= self.image_gc_high_threshold {
            return Err(ConfigError::ImageThresholds);
        }
        if self.serialize_image_pulls && self.max_parallel_image_pulls.is_some_and(|pulls| pulls > 1) {
            return Err(ConfigError::ParallelPulls);
        }
        let longest = self.crash_loop_back_off_max_container_restart_period;
        if !(Duration::from_secs(1)..=backoff::LONGEST).contains(&longest) {
            return Err(ConfigError::RestartPeriod);
        }
        self.check_shutdown()?;
        self.eviction_thresholds().map(drop)
    }

    fn check_shutdown(&self) -> Result<(), ConfigError> {
        let (whole, critical) = (self.shutdown_grace_period, self.shutdown_grace_period_critical_pods);
        let too_short = |period: Duration| !period.is_zero() && period < Duration::from_secs(1);
        let wrong = if critical > whole {
            "--shutdown-grace-period-critical-pods must not be longer than --shutdown-grace-period"
        } else if too_short(whole) || too_short(critical) {
            "--shutdown-grace-period and --shutdown-grace-period-critical-pods must be zero or at least one second"
        } else if !whole.is_zero() && !self.shutdown_grace_period_by_pod_priority.is_empty() {
            "--shutdown-grace-period-by-pod-priority and --shutdown-grace-period cannot be given together"
        } else {
            return Ok(());
        };
        Err(ConfigError::Shutdown(wrong))
    }

    /// How many images may be pulled at once.
    pub(crate) fn pulls(&self) -> usize {
        let unlimited = tokio::sync::Semaphore::MAX_PERMITS;
        if self.serialize_image_pulls { 1 } else { self.max_parallel_image_pulls.map_or(unlimited, usize::from) }
    }

    /// How long pods have to end when the machine goes down, by priority; none if it is not delayed.
    pub(crate) fn shutdown_periods(&self) -> Vec<Period> {
        match self.shutdown_grace_period_by_pod_priority.as_slice() {
            [] => shutdown::periods(self.shutdown_grace_period, self.shutdown_grace_period_critical_pods),
            given => given.to_vec(),
        }
    }

    /// When pods have to go.
    pub(crate) fn eviction_thresholds(&self) -> Result<Vec<Threshold>, ConfigError> {
        let (hard, soft) = (&self.eviction_hard, &self.eviction_soft);
        signals::thresholds(hard, soft, &self.eviction_soft_grace_period, &self.eviction_minimum_reclaim)
            .map_err(ConfigError::Eviction)
    }

    /// When images have to go.
    pub(crate) fn image_policy(&self) -> images::Policy {
        images::Policy {
            high: self.image_gc_high_threshold,
            low: self.image_gc_low_threshold,
            minimum_age: self.minimum_image_ttl_duration,
            maximum_age: self.image_maximum_gc_age,
        }
    }

    /// The node's name.
    pub fn node_name(&self) -> Result<String, ConfigError> {
        if let Some(name) = &self.hostname_override {
            return Ok(name.trim().to_lowercase());
        }
        let name = nix::unistd::gethostname().map_err(|e| ConfigError::NoName(Some(e)))?;
        let name = name.to_string_lossy().trim().to_lowercase();
        if name.is_empty() { Err(ConfigError::NoName(None)) } else { Ok(name) }
    }

    /// The node's address.
    pub fn address(&self) -> Result<IpAddr, ConfigError> {
        if let Some(ip) = self.node_ip {
            return Ok(ip);
        }
        // Connecting a datagram socket sends nothing; it only asks the routing table.
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").map_err(|e| ConfigError::NoAddress(Some(e)))?;
        socket.connect("192.0.2.1:9").map_err(|e| ConfigError::NoAddress(Some(e)))?;
        socket.local_addr().map(|a| a.ip()).map_err(|e| ConfigError::NoAddress(Some(e)))
    }
}

/// Where D-Bus' system bus is.
fn system_bus() -> PathBuf {
    let said = std::env::var("DBUS_SYSTEM_BUS_ADDRESS").ok();
    let path = said.as_deref().and_then(|s| s.strip_prefix("unix:path=")).map(|s| s.split([',', ';']).next().unwrap_or(s));
    path.unwrap_or("/run/dbus/system_bus_socket").into()
}

fn pair(text: &str) -> Result<(String, String), String> {
    text.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())).ok_or_else(|| format!("{text:?} is not key=value"))
}

fn quantity(text: &str) -> Result<(String, String), String> {
    let (name, value) = pair(text)?;
    let value = api::quantity::canonical(&value).map_err(|e| format!("{name}: {e}"))?;
    Ok((name, value))
}

fn bytes(text: &str) -> Result<u64, String> {
    let quantity = k8s_openapi::apimachinery::pkg::api::resource::Quantity(text.to_owned());
    api::quantity::canonical(text).map_err(|e| e.to_string())?;
    u64::try_from(api::quantity::Quantity::of(&quantity).value()).map_err(|_| format!("{text:?} is negative"))
}

fn taint(text: &str) -> Result<Taint, String> {
    let (rest, effect) = text.rsplit_once(':').ok_or_else(|| format!("{text:?} is not key=value:effect"))?;
    if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
        return Err(format!("{effect:?} is no taint effect"));
    }
    let (key, value) = rest.split_once('=').map_or((rest, None), |(k, v)| (k, Some(v.to_owned())));
    Ok(Taint { key: key.to_owned(), value, effect: effect.to_owned(), time_added: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_upstreams() {
        let config = Config::default();
        let facts = (config.max_pods, config.port, config.healthz_port, config.container_log_max_size);
        assert_eq!(facts, (110, 10250, 10248, 10 << 20));
        assert!(config.register_node && config.validate().is_ok());
    }

    #[test]
    fn periods_of_a_shutdown_fit_together() {
        let check = |whole, critical, by_priority: &[&str]| {
            let config = Config {
                shutdown_grace_period: Duration::from_millis(whole),
                shutdown_grace_period_critical_pods: Duration::from_millis(critical),
                shutdown_grace_period_by_pod_priority: by_priority.iter().map(|p| shutdown::period(p).unwrap()).collect(),
                ..Config::default()
            };
            config.validate().map(|()| config.shutdown_periods().len()).ok()
        };
        let found = [
            check(0, 0, &[]),
            check(30_000, 10_000, &[]),
            check(0, 0, &["0=1"]),
            check(10_000, 30_000, &[]),
            check(500, 0, &[]),
            check(30_000, 0, &["0=1"]),
        ];
        assert_eq!(found, [Some(0), Some(2), Some(1), None, None, None]);
    }

    #[test]
    fn taints() {
        let t = taint("a.b/c=d:NoExecute").unwrap();
        assert_eq!((t.key.as_str(), t.value.as_deref(), t.effect.as_str()), ("a.b/c", Some("d"), "NoExecute"));
        assert!(taint("a=b:Nope").is_err());
    }
}
