//! The runtime's own network: veth pairs and routes, and addresses from the node's range.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use super::{Network, host_ports};
use crate::error::{Error, Result, Step};

/// Veth pairs and routes, addresses from the node's range.
pub struct Own {
    state: PathBuf,
    settings: OwnSettings,
    network: tokio::sync::OnceCell<net::PodNetwork>,
    /// Sandboxes that were there when this process began, while the node's range is not known yet.
    kept: parking_lot::Mutex<Option<std::collections::HashSet<String>>>,
}

/// What it is made from besides the node's range.
#[derive(Debug, Clone, Default)]
pub struct OwnSettings {
    /// The node's range; learned from the kubelet when absent.
    pub pod_cidr: Option<String>,
    /// Every node's pods; the usual range when absent.
    pub cluster_cidr: Option<String>,
    /// Services; the usual range when absent.
    pub service_cidr: Option<String>,
    /// The node's address.
    pub node_address: Option<Ipv4Addr>,
    /// The node's network namespace; this process' own when absent.
    pub namespace: Option<PathBuf>,
}

impl Own {
    /// One that keeps its addresses below `state`.
    pub async fn new(state: PathBuf, settings: OwnSettings) -> Result<Own> {
        let own = Own { state, settings, network: tokio::sync::OnceCell::new(), kept: Default::default() };
        if let Some(cidr) = own.settings.pod_cidr.clone() {
            own.set_pod_cidr(&cidr).await?;
        }
        Ok(own)
    }

    fn config(&self, cidr: &str) -> Result<net::pods::Config> {
        let parse = |text: &str| text.parse().map_err(|error| Error::Invalid(format!("address range {text:?}: {error:?}")));
        let mut config = net::pods::Config::new(parse(cidr)?, self.state.clone());
        if let Some(cidr) = &self.settings.cluster_cidr {
            config.cluster_cidr = parse(cidr)?;
        }
        if let Some(cidr) = &self.settings.service_cidr {
            config.service_cidr = parse(cidr)?;
        }
        config.node_address = self.settings.node_address;
        config.namespace.clone_from(&self.settings.namespace);
        Ok(config)
    }

    fn network(&self) -> Result<&net::PodNetwork> {
        self.network.get().ok_or_else(|| Error::State("the node has no pod CIDR yet".to_owned()))
    }
}

#[async_trait]
impl Network for Own {
    async fn setup(&self, netns: &Path, sandbox: &str, pod: &cri::PodSandboxConfig) -> Result<Vec<IpAddr>> {
        let ports = host_ports(pod)?;
        let attached = self.network()?.attach(netns, sandbox, &ports).await.step("connect pod to the network")?;
        Ok(vec![attached.address.into()])
    }

    async fn teardown(&self, sandbox: &str) -> Result<()> {
        self.network()?.detach(sandbox).await.step("take pod off the network")
    }

    async fn retain(&self, sandboxes: &std::collections::HashSet<String>) -> Result<()> {
        match self.network.get() {
            Some(network) => network.retain(sandboxes).await.step("clean up the network"),
            None => {
                // Done when the range is known, and before the first pod of this process can be connected.
                *self.kept.lock() = Some(sandboxes.clone());
                Ok(())
            }
        }
    }

    async fn set_pod_cidr(&self, cidr: &str) -> Result<()> {
        let cidr = cidr.split(',').next().unwrap_or(cidr);
        let config = self.config(cidr)?;
        let network =
            self.network.get_or_try_init(|| net::PodNetwork::start(config)).await.step("set up the pod network")?;
        match network.config().pod_cidr.to_string() == cidr {
            true => Ok(()),
            false => Err(Error::State(format!("the node's pod CIDR is {} already", network.config().pod_cidr))),
        }
    }

    async fn ready(&self) -> Result<(), String> {
        match self.network.get() {
            Some(_) => Ok(()),
            None => Err("the node has no pod CIDR yet".to_owned()),
        }
    }
}
