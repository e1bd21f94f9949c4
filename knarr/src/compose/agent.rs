//! A node's own components in one process: runtime, kubelet, routes to other nodes' pods, policies, proxy, DNS. The kubelet reaches the runtime in process; the runtime
//! serves the same interface on a socket for everybody else.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use anyhow::{Context, Result};
use client::{Informer, Key, Options};
use k8s_openapi::api::core::v1::Node;
use net::{Cidr, peers::Mode};
use tokio_util::sync::CancellationToken;

use super::{CLUSTER_DNS, parts::Parts};

/// What connects pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodNetwork {
    /// The runtime's own network, and to other nodes' pods these ways. `Auto` gives way to plugins that are configured.
    Own(Mode),
    /// CNI plugins, and nothing until they are configured.
    Cni,
}

impl Default for PodNetwork {
    fn default() -> Self {
        Self::Own(Mode::Auto)
    }
}

impl fmt::Display for PodNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(mode) => mode.fmt(f),
            Self::Cni => f.write_str("cni"),
        }
    }
}

impl FromStr for PodNetwork {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "cni" => Ok(Self::Cni),
            other => other.parse().map(Self::Own).map_err(|_| "use auto, host-gw, vxlan or cni".to_owned()),
        }
    }
}

/// How a node's pods are connected.
#[derive(Clone, Debug)]
pub struct Network {
    /// What connects them.
    pub pods: PodNetwork,
    /// Where the configuration of CNI plugins is.
    pub conf_dir: PathBuf,
    /// Where their programs are.
    pub bin_dirs: Vec<PathBuf>,
    /// All nodes are namespaces of one machine.
    pub one_machine: bool,
}

impl Network {
    /// The ways to other nodes' pods; `None` if plugins connect pods.
    fn mode(&self) -> Option<Mode> {
        match self.pods {
            PodNetwork::Own(Mode::Auto) => (!runtime::network::plugins::configured(&self.conf_dir)).then_some(Mode::Auto),
            PodNetwork::Own(mode) => Some(mode),
            PodNetwork::Cni => None,
        }
    }
}

/// What an agent is made from.
pub struct Plan {
    /// The node's name.
    pub name: String,
    /// The node's address.
    pub address: Ipv4Addr,
    /// Where everything of the node is kept.
    pub folder: PathBuf,
    /// The node's pods; assigned by the cluster if `None`.
    pub pods: Option<Cidr>,
    /// How pods are connected.
    pub network: Network,
    /// The authority whose clients the kubelet's port lets in.
    pub client_ca: PathBuf,
    /// The kubelet's serving certificate and key; without them the cluster is asked for some.
    pub serving: Option<(PathBuf, PathBuf)>,
    /// How registries are reached.
    pub registries: Vec<runtime::Registry>,
    /// The node shares its disk with other things than the cluster: how full it is says nothing about its pods.
    pub shared_disk: bool,
    /// How the kubelet is to be; what the rest of the plan says goes before that.
    pub kubelet: kubelet::Config,
    /// A client that acts as the node.
    pub kubelet_client: kube::Client,
    /// A client that acts as the proxy.
    pub proxy_client: kube::Client,
}

/// Starts the node's components among `parts`; returns the images, to load archives into.
pub async fn start(plan: Plan, parts: &mut Parts) -> Result<Arc<runtime::ImageStore>> {
    // One decision for all of the node's parts, and for as long as they run.
    let mode = plan.network.mode();
    let runtime =
        runtime::Runtime::start(runtime_config(&plan, mode.is_none())).await.context("start the container runtime")?;
    let (images, channel) = (runtime.images(), runtime.channel());
    parts.run("runtime", move |shutdown| {
        let runtime = runtime.clone();
        async move { Ok(runtime.run(shutdown).await?) }
    });
    let (config, client) = (kubelet_config(&plan), plan.kubelet_client);
    parts.run("kubelet", move |shutdown| {
        let (config, client, channel) = (config.clone(), client.clone(), channel.clone());
        async move { Ok(Box::pin(kubelet::run(config, client, channel, shutdown)).await?) }
    });
    let (name, client, pods) = (plan.name.clone(), plan.proxy_client.clone(), plan.pods);
    parts.run("dns", move |shutdown: CancellationToken| {
        let (name, client) = (name.clone(), client.clone());
        async move {
            let pods = shutdown.run_until_cancelled(pod_range(pods, &name, client.clone())).await;
            let Some(pods) = pods else { return Ok(()) };
            let listen = SocketAddr::new(IpAddr::V4(u32::from(pods?.network()).wrapping_add(1).into()), 53);
            let config = dns::Config { listen, ..dns::Config::default() };
            Ok(dns::run(config, client, shutdown).await?)
        }
    });
    if let Some(mode) = mode {
        let one_machine = plan.network.one_machine;
        let config = network::routes::Config { one_machine, ..network::routes::Config::new(plan.name.clone(), mode) };
        let client = plan.proxy_client.clone();
        parts.run("routes", move |shutdown: CancellationToken| {
            let (config, client) = (config.clone(), client.clone());
            async move { Ok(network::routes::run(config, client, shutdown).await?) }
        });
    } else {
        network::routes::withdraw().await.context("take away the ways to other nodes' pods")?;
    }
    let config = network::policy::Config { node_name: plan.name.clone(), namespace: None };
    let client = plan.proxy_client.clone();
    parts.run("policy", move |shutdown: CancellationToken| {
        let (config, client) = (config.clone(), client.clone());
        async move { Ok(network::policy::run(config, client, shutdown).await?) }
    });
    let config = proxy::Config { node_name: plan.name, ..proxy::Config::default() };
    let client = plan.proxy_client;
    parts.run("proxy", move |shutdown: CancellationToken| {
        let (config, client) = (config.clone(), client.clone());
        async move { Ok(proxy::run(config, client, shutdown).await?) }
    });
    Ok(images)
}

/// The range of the node's pods: as it was told, or as the cluster assigns it.
async fn pod_range(told: Option<Cidr>, name: &str, client: kube::Client) -> Result<Cidr> {
    if let Some(told) = told {
        return Ok(told);
    }
    let watching = CancellationToken::new();
    let _end = watching.clone().drop_guard();
    let node: Informer<Node> = Informer::start(client, Options::fields(format!("metadata.name={name}")), watching);
    let mut changes = node.changes();
    loop {
        let assigned = node.get(&Key::cluster(name)).and_then(|node| node.spec.as_ref()?.pod_cidr.clone());
        if let Some(assigned) = assigned {
            return assigned.parse().with_context(|| format!("the node's pod range {assigned:?}"));
        }
        changes.changed().await?;
    }
}

/// Where a node serves the container runtime interface.
pub fn cri_socket(folder: &Path) -> PathBuf {
    folder.join("knarr.sock")
}

fn runtime_config(plan: &Plan, plugins: bool) -> runtime::Config {
    runtime::Config {
        state: plan.folder.join("runtime"),
        socket: Some(cri_socket(&plan.folder)),
        own: runtime::network::OwnSettings {
            pod_cidr: plan.pods.map(|pods| pods.to_string()),
            node_address: Some(plan.address),
            ..Default::default()
        },
        plugins: runtime::network::PluginSettings {
            wanted: plugins,
            conf_dir: plan.network.conf_dir.clone(),
            bin_dirs: plan.network.bin_dirs.clone(),
            namespace: None,
        },
        registries: plan.registries.clone(),
        ..runtime::Config::default()
    }
}

fn kubelet_config(plan: &Plan) -> kubelet::Config {
    let wanted = plan.kubelet.clone();
    let (eviction_hard, image_gc_high_threshold) = match plan.shared_disk {
        true => (kubelet::Bounds::from_str("memory.available<100Mi").unwrap_or_default(), 100),
        false => (wanted.eviction_hard.clone(), wanted.image_gc_high_threshold),
    };
    kubelet::Config {
        eviction_hard,
        image_gc_high_threshold,
        node_ip: Some(IpAddr::V4(plan.address)),
        hostname_override: Some(plan.name.clone()),
        container_runtime_endpoint: format!("unix://{}", cri_socket(&plan.folder).display()),
        root_dir: plan.folder.join("kubelet"),
        pod_logs_dir: plan.folder.join("pods"),
        cluster_dns: vec![IpAddr::V4(CLUSTER_DNS)],
        cluster_domain: "cluster.local".to_owned(),
        pod_cidr: plan.pods.map(|pods| pods.to_string()),
        client_ca_file: Some(plan.client_ca.clone()),
        tls_cert_file: plan.serving.as_ref().map(|(certificate, _)| certificate.clone()),
        tls_private_key_file: plan.serving.as_ref().map(|(_, key)| key.clone()),
        rotate_server_certificates: plan.serving.is_none(),
        cert_dir: Some(plan.folder.join("pki")),
        ..wanted
    }
}
