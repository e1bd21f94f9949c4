//! How a pod gets its address. The trait is what the runtime needs; [`Own`] is the default, [`Plugins`] calls CNI plugins
//! instead.
//!
//! A pod is disconnected by what has connected it: a node's network may have been exchanged since.

pub mod own;
pub mod plugins;

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

pub use own::{Own, OwnSettings};
pub use plugins::{PluginSettings, Plugins};

use crate::error::{Error, Result};

/// Connects pods' network namespaces.
#[async_trait]
pub trait Network: Send + Sync {
    /// Connects the namespace at `netns`; repeating it for the same sandbox gives the same addresses.
    async fn setup(&self, netns: &Path, sandbox: &str, pod: &cri::PodSandboxConfig) -> Result<Vec<IpAddr>>;
    /// Takes the sandbox off the network; nothing to take off is fine.
    async fn teardown(&self, sandbox: &str) -> Result<()>;
    /// Takes off everything but these sandboxes: what a crash has left.
    async fn retain(&self, sandboxes: &HashSet<String>) -> Result<()>;
    /// Learns the node's range of pod addresses.
    async fn set_pod_cidr(&self, cidr: &str) -> Result<()>;
    /// Whether pods can be connected, or why not.
    async fn ready(&self) -> Result<(), String>;
    /// Takes over a sandbox that an earlier process has connected, whose namespace lives at `netns`.
    async fn adopt(&self, _netns: &Path, _sandbox: &str) -> Result<()> {
        Ok(())
    }
    /// Changes when [`Network::ready`] may say something else; `None` for networks that don't tell.
    fn news(&self) -> Option<watch::Receiver<()>> {
        None
    }
}

/// Ports of the node that lead to the pod.
pub(crate) fn host_ports(pod: &cri::PodSandboxConfig) -> Result<Vec<net::HostPort>> {
    let wanted = pod.port_mappings.iter().filter(|mapping| mapping.host_port > 0);
    let port = |number: i32| u16::try_from(number).map_err(|_| Error::Invalid(format!("port {number} is out of range")));
    let convert = |mapping: &cri::PortMapping| {
        let protocol = match mapping.protocol() {
            cri::Protocol::Tcp => net::Protocol::Tcp,
            cri::Protocol::Udp => net::Protocol::Udp,
            cri::Protocol::Sctp => net::Protocol::Sctp,
        };
        let host_ip = match mapping.host_ip.as_str() {
            "" | "0.0.0.0" => None,
            text => Some(text.parse().map_err(|_| Error::Invalid(format!("host IP {text:?} is no IPv4 address")))?),
        };
        Ok(net::HostPort {
            protocol,
            host_ip,
            host_port: port(mapping.host_port)?,
            container_port: port(mapping.container_port)?,
        })
    };
    wanted.map(convert).collect()
}

/// The network that a node was started with, and plugins for pods that they have connected before.
pub struct Chosen {
    own: Option<Own>,
    plugins: Arc<Plugins>,
}

impl Chosen {
    /// Our own if there is one, else plugins.
    pub fn new(own: Option<Own>, plugins: Arc<Plugins>) -> Chosen {
        Chosen { own, plugins }
    }

    fn current(&self) -> &dyn Network {
        match &self.own {
            Some(own) => own,
            None => &*self.plugins,
        }
    }
}

#[async_trait]
impl Network for Chosen {
    async fn setup(&self, netns: &Path, sandbox: &str, pod: &cri::PodSandboxConfig) -> Result<Vec<IpAddr>> {
        self.current().setup(netns, sandbox, pod).await
    }

    async fn teardown(&self, sandbox: &str) -> Result<()> {
        match self.plugins.holds(sandbox) {
            true => self.plugins.teardown(sandbox).await,
            false => self.current().teardown(sandbox).await,
        }
    }

    async fn retain(&self, sandboxes: &HashSet<String>) -> Result<()> {
        let plugins = self.plugins.retain(sandboxes).await;
        match &self.own {
            Some(own) => own.retain(sandboxes).await.and(plugins),
            None => plugins,
        }
    }

    async fn set_pod_cidr(&self, cidr: &str) -> Result<()> {
        self.current().set_pod_cidr(cidr).await
    }

    async fn ready(&self) -> Result<(), String> {
        self.current().ready().await
    }

    async fn adopt(&self, netns: &Path, sandbox: &str) -> Result<()> {
        self.plugins.adopt(netns, sandbox).await
    }

    fn news(&self) -> Option<watch::Receiver<()>> {
        self.current().news()
    }
}
