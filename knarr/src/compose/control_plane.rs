//! The control plane in one process: API server, scheduler, controllers.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use apiserver::{
    Server,
    registry::ServiceRanges,
    security::{
        self,
        kubeconfig::Kubeconfig,
        pki::Pki,
        setup::{Access, Files},
    },
};
use controller_manager::config::SigningPair;
use process::metrics::Metrics;
use store::Store;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    CLUSTER_DNS, bootstrap,
    failover::Own,
    keys::{self, Sharing},
    parts::Parts,
};
use crate::commands::component;

/// Where objects are kept.
pub enum Backend {
    /// In this file.
    Redb(PathBuf),
    /// In etcd.
    Etcd(store::etcd::Options),
}

/// What a control plane is made from.
pub struct Plan {
    /// Where everything of it is kept.
    pub data: PathBuf,
    /// Its address.
    pub address: Ipv4Addr,
    /// Where the API server listens.
    pub listen: SocketAddr,
    /// Where its objects are.
    pub store: Backend,
    /// Where services get their addresses and ports from.
    pub ranges: ServiceRanges,
    /// Keys and certificates that are brought along.
    pub files: Files,
    /// Which ways in there are.
    pub access: Access,
    /// An address that leads to whichever server lives.
    pub common: Option<Ipv4Addr>,
    /// More names and addresses by which people reach it.
    pub names: Vec<String>,
    /// How long the certificates live that others ask for.
    pub signing_duration: Option<Duration>,
    /// Other servers use the same store: how the common keys are come by.
    pub sharing: Option<Sharing>,
    /// How long a node may be silent, if not as long as upstream's.
    pub node_monitor_grace: Option<Duration>,
}

/// All nodes' pods.
pub const PODS: &str = "10.42.0.0/16";

/// The address of the service `kubernetes`.
fn first_address(ranges: &ServiceRanges) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(ranges.addresses.0) + 1)
}

/// The numbers of all of a control plane's components, which share a process and so an endpoint.
fn metrics() -> Metrics {
    let metrics = Metrics::default();
    metrics.collect(client::metrics::Metrics::global().clone());
    metrics.collect(scheduler::metrics::Metrics::global().clone());
    metrics
}

/// A running control plane.
pub struct ControlPlane {
    server: Server,
    store: Arc<dyn Store>,
}

impl ControlPlane {
    /// Starts the API server, and the other components among `parts`.
    pub async fn start(plan: Plan, parts: &mut Parts) -> Result<Self> {
        let signing_duration = plan.signing_duration;
        let (services, leader_elect) = (plan.ranges.addresses, plan.sharing.is_some());
        let defaults = controller_manager::Config::default();
        let node_monitor_grace_period = plan.node_monitor_grace.unwrap_or(defaults.node_monitor_grace_period);
        let this = Self::start_api_server(plan, &metrics(), parts.shutdown()).await?;
        let config = controller_manager::Config {
            // Writers that wait share one sync to disk: the more wait, the sooner all are done.
            concurrent_endpoint_syncs: 20,
            concurrent_service_endpoint_syncs: 20,
            node_monitor_grace_period,
            leader_elect,
            cluster_dns: Some(IpAddr::V4(CLUSTER_DNS)),
            // Nodes that come with a range of their own keep it.
            allocate_node_cidrs: true,
            cluster_cidr: Some(PODS.to_owned()),
            service_cluster_ip_range: Some(format!("{}/{}", services.0, services.1)),
            root_ca: Some(this.pki()?.authority_pem().to_owned()),
            signing: Some(SigningPair {
                certificate: this.pki()?.authority_pem().to_owned(),
                key: this.pki()?.authority_key_pem(),
            }),
            cluster_signing_duration: signing_duration.unwrap_or(defaults.cluster_signing_duration),
            approve_kubelet_serving_certificates: true,
            controllers: ["*", controller_manager::bootstrapsigner::NAME, controller_manager::tokencleaner::NAME]
                .map(str::to_owned)
                .into(),
            ..defaults
        };
        let client = this.component_client("kube-controller-manager");
        parts.run("controller-manager", move |shutdown| {
            let (config, client) = (config.clone(), client.clone());
            async move { Ok(controller_manager::run(config, client, shutdown).await?) }
        });
        let lease = client::leader::Config::new("kube-scheduler", component::identity());
        let config = scheduler::Config { leader_elect, lease, ..scheduler::Config::default() };
        let client = this.component_client("kube-scheduler");
        parts.run("scheduler", move |shutdown| {
            let (config, client) = (config.clone(), client.clone());
            async move { Ok(scheduler::run(config, client, shutdown).await?) }
        });
        Ok(this)
    }

    /// Starts the API server alone; `metrics` are the process'. Should the API server end by itself, so does the process: its keys
    /// and its store's file are taken anew by the next one only.
    pub async fn start_api_server(plan: Plan, metrics: &Metrics, process: CancellationToken) -> Result<Self> {
        let store = open(plan.store).await.context("open the store")?;
        let pki = plan.data.join("pki");
        let shared = plan.sharing.is_some();
        if let Some(sharing) = plan.sharing {
            keys::share(store.as_ref(), &pki, sharing).await?;
        }
        let mut addresses = vec![plan.address.to_string(), first_address(&plan.ranges).to_string()];
        let common = plan.common.map(|address| address.to_string());
        addresses.extend(common.iter().cloned().chain(plan.names));
        let mut config = apiserver::Config::new(store.clone());
        config.shared = shared;
        config.security =
            Some(security::Config { pki, addresses, loopback_kubelets: false, files: plan.files, access: plan.access });
        config.ranges = plan.ranges;
        config.metrics = metrics.clone();
        config.listen = Some(plan.listen);
        config.advertise = Some((plan.address.to_string(), plan.listen.port()));
        config.common = common;
        let server = Server::start(config).await.context("start the API server")?;
        let over = server.over();
        tokio::spawn(async move {
            over.cancelled().await;
            process.cancel();
        });
        Ok(Self { server, store })
    }

    /// What the API server keeps its objects in.
    pub fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    /// A client in process that may do everything.
    pub fn admin_client(&self) -> kube::Client {
        self.server.client("system:apiserver", &["system:masters"])
    }

    /// Makes the token with which agents join, in the background.
    pub fn bootstrap(&self, data: &Path) -> Result<JoinHandle<()>> {
        let (client, data, pki) = (self.admin_client(), data.to_owned(), self.pki()?);
        let (authority, key) = (pki.authority_pem().to_owned(), pki.authority_key_pem());
        Ok(tokio::spawn(async move {
            if let Err(error) = bootstrap::ensure_node_token(&client, &data, &authority, &key).await {
                tracing::error!("there is no token for agents: {error:#}");
            }
        }))
    }

    /// A client in process that acts as the node.
    pub fn node_client(&self, node: &str) -> kube::Client {
        self.server.client(&format!("system:node:{node}"), &["system:nodes"])
    }

    /// A client in process that acts as a component: `kube-proxy` is user `system:kube-proxy`.
    pub fn component_client(&self, component: &str) -> kube::Client {
        self.server.client(&format!("system:{component}"), &[])
    }

    /// Puts the API server's work down and closes the store. Components must have ended.
    pub async fn stop(self) {
        self.server.stop().await;
    }

    fn pki(&self) -> Result<&Pki> {
        Ok(&self.server.security().context("the API server runs without security")?.pki)
    }

    /// Writes an administrator's kubeconfig; `servers` are those that are known besides.
    pub fn write_kubeconfig(&self, path: &Path, cluster: &str, user: &str, server: &str, servers: &[String]) -> Result<Own> {
        let pki = self.pki()?;
        let pair = pki.admin()?;
        let config = Kubeconfig { cluster, user, server, authority: pki.authority_pem(), pair: &pair };
        let own = Own::new(path.to_owned(), config.to_yaml());
        own.write(servers).with_context(|| format!("write {}", path.display()))?;
        Ok(own)
    }
}

async fn open(backend: Backend) -> Result<Arc<dyn Store>, store::Error> {
    Ok(match backend {
        Backend::Redb(path) => Arc::new(store::redb::RedbStore::open(path, store::redb::Options::default())?),
        Backend::Etcd(options) => Arc::new(store::etcd::EtcdStore::connect(options).await?),
    })
}

fn open_pki(data: &Path) -> Result<Pki> {
    Ok(Pki::open(&data.join("pki"), std::time::SystemTime::now().into())?)
}

/// A kubeconfig for a user whom the authority in `data` knows how to make: `admin`, `system:node:NAME` or a component's.
pub fn kubeconfig(data: &Path, server: &str, user: &str) -> Result<String> {
    let pki = open_pki(data)?;
    let pair = match (user, user.strip_prefix("system:node:"), user.strip_prefix("system:")) {
        ("admin", ..) => pki.admin()?,
        (_, Some(node), _) => pki.kubelet(node)?,
        (_, _, Some(component)) if COMPONENTS.contains(&component) => pki.component(component)?,
        _ => bail!("{user:?} is neither admin, system:node:NAME nor one of system:{}", COMPONENTS.join(", system:")),
    };
    Ok(Kubeconfig { cluster: "knarr", user, server, authority: pki.authority_pem(), pair: &pair }.to_yaml())
}

/// Components that have certificates of their own.
const COMPONENTS: [&str; 3] = ["kube-scheduler", "kube-controller-manager", "kube-proxy"];

/// The files of a kubelet's serving certificate and key.
pub fn kubelet_certificate(data: &Path, node: &str, address: Ipv4Addr) -> Result<(PathBuf, PathBuf)> {
    let pki = open_pki(data)?;
    pki.kubelet_server(node, &[&address.to_string()])?;
    let file = |extension: &str| pki.dir().join(format!("nodes/{node}-server.{extension}"));
    Ok((file("crt"), file("key")))
}
