//! Pods connected by CNI plugins, as a folder's configuration says.
//!
//! The folder is read for every pod, so a change counts for the next one; being told of changes only makes the node ready
//! sooner. A pod's network namespace is bound to a file of its own: plugins see the same path as long as the pod lives, and
//! disconnect it in a namespace that is there still when all of its processes have ended.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::quantity::Quantity;
use async_trait::async_trait;
use cni::{List, Outcome, Pod};
use net::host_ports::PodPorts;
use net::{HostPort, HostPorts, netns};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Network, host_ports};
use crate::disk;
use crate::error::{Error, Result, Step, chain};

/// How long one plugin may take: what a kubelet waits for a sandbox at most.
const PATIENCE: Duration = Duration::from_secs(120);
/// How soon a folder that cannot be watched is looked at again.
const UNWATCHED: Duration = Duration::from_secs(5);

/// How plugins are used.
#[derive(Debug, Clone, Default)]
pub struct PluginSettings {
    /// They connect pods, and our own network does not.
    pub wanted: bool,
    /// Where their configuration is.
    pub conf_dir: PathBuf,
    /// Where their programs are, the first first.
    pub bin_dirs: Vec<PathBuf>,
    /// The node's network namespace; this process' own when absent.
    pub namespace: Option<PathBuf>,
}

/// Whether there is a configuration of plugins, or something that should be one.
pub fn configured(conf_dir: &Path) -> bool {
    !matches!(List::load(conf_dir), Ok(None))
}

/// The plugins and their pods.
pub struct Plugins {
    plugins: cni::Plugins,
    /// The files of pods' namespaces.
    namespaces: PathBuf,
    pod_cidr: Mutex<Option<String>>,
    ports: HostPorts,
    /// Held while the rules for ports are written.
    writing: tokio::sync::Mutex<()>,
    news: watch::Sender<()>,
    watching: Mutex<Option<JoinHandle<()>>>,
}

impl Plugins {
    /// Plugins that keep their pods below `state`. The rules of our own network are taken away when plugins replace it.
    pub async fn new(state: &Path, settings: PluginSettings) -> Result<Arc<Plugins>> {
        let PluginSettings { wanted, conf_dir, bin_dirs, namespace } = settings;
        // Where our own network connects pods, a configuration that lies about is nobody's.
        let conf_dir = if wanted { conf_dir } else { PathBuf::new() };
        let ports = HostPorts::new(namespace.clone());
        let state = std::path::absolute(state).step("find state directory")?;
        let records = state.join("pods");
        let plugins = cni::Plugins::new(cni::Settings { conf_dir, bin_dirs, state: records, namespace, patience: PATIENCE });
        let this = Arc::new(Plugins {
            plugins,
            namespaces: state.join("netns"),
            pod_cidr: Mutex::default(),
            ports,
            writing: tokio::sync::Mutex::default(),
            news: watch::Sender::new(()),
            watching: Mutex::default(),
        });
        if wanted {
            tracing::info!(folder = %this.plugins.conf_dir().display(), "pods are connected by CNI plugins");
            this.write_ports(HostPorts::take_over).await?;
            *this.watching.lock() = Some(tokio::spawn(watch(this.plugins.conf_dir().to_owned(), this.news.clone())));
        }
        Ok(this)
    }

    /// Whether they may have connected the sandbox.
    pub fn holds(&self, sandbox: &str) -> bool {
        self.plugins.holds(sandbox)
    }

    fn namespace(&self, sandbox: &str) -> PathBuf {
        self.namespaces.join(sandbox)
    }

    fn list(&self) -> Result<List, String> {
        match self.plugins.list() {
            Ok(Some(list)) if list.wants("ipRanges") && self.pod_cidr.lock().is_none() => {
                Err("Network plugin returns error: the node has no pod CIDR yet".to_owned())
            }
            Ok(Some(list)) => Ok(list),
            Ok(None) => Err("Network plugin returns error: cni plugin not initialized".to_owned()),
            Err(error) => Err(format!("Network plugin returns error: cni config load failed: {}", chain(&error))),
        }
    }

    /// Writes the rules for ports that no plugin leads to pods.
    async fn write_ports(&self, write: fn(&HostPorts, &[PodPorts]) -> net::Result<()>) -> Result<()> {
        let _one = self.writing.lock().await;
        let mut pods = Vec::new();
        for pod in self.plugins.pods() {
            let Some(record) = self.plugins.record(&pod).step("read a pod's record")? else { continue };
            let ports: Vec<HostPort> = record.notes.iter().filter_map(|note| HostPort::from_note(note)).collect();
            let outcome = record.result.and_then(|result| Outcome::read(result, &record.interface).ok());
            let addresses = outcome.map(|outcome| outcome.addresses).unwrap_or_default();
            if let (Some(IpAddr::V4(address)), false) = (addresses.first(), ports.is_empty()) {
                pods.push((*address, ports));
            }
        }
        let ports = self.ports.clone();
        let written = tokio::task::spawn_blocking(move || write(&ports, &pods)).await;
        written.map_err(|_| Error::Failed("writing rules was interrupted".to_owned()))?.step("lead host ports to pods")
    }
}

impl Drop for Plugins {
    fn drop(&mut self) {
        if let Some(watching) = self.watching.lock().take() {
            watching.abort();
        }
    }
}

#[async_trait]
impl Network for Plugins {
    async fn setup(&self, netns: &Path, sandbox: &str, pod: &cri::PodSandboxConfig) -> Result<Vec<IpAddr>> {
        let list = self.list().map_err(Error::State)?;
        let wanted = host_ports(pod)?;
        // A plugin that asks for the ports leads them; else we do.
        let own = if list.wants("portMappings") { Vec::new() } else { wanted };
        let namespace = self.namespace(sandbox);
        disk::make_dir(&self.namespaces)?;
        netns::keep(netns, &namespace).step("keep the network namespace")?;
        let told = capabilities(&list, pod, self.pod_cidr.lock().as_deref())?;
        let notes = own.iter().copied().map(HostPort::to_note).collect();
        let request = Pod {
            id: sandbox.to_owned(),
            namespace: namespace.clone(),
            arguments: arguments(sandbox, pod),
            capabilities: told,
            notes,
        };
        let added = self.plugins.add(&list, request).await;
        match added.step_with(|| format!("failed to setup network for sandbox {sandbox:?}")) {
            Ok(outcome) => {
                if !own.is_empty() {
                    self.write_ports(HostPorts::write).await?;
                }
                Ok(outcome.addresses)
            }
            Err(error) => {
                let _ = netns::delete(&namespace);
                Err(error)
            }
        }
    }

    async fn teardown(&self, sandbox: &str) -> Result<()> {
        let namespace = self.namespace(sandbox);
        let record = self.plugins.record(sandbox).step("read a pod's record")?;
        let there = netns::exists(&namespace).then_some(namespace.as_path());
        let deleted = self.plugins.delete(sandbox, there).await;
        deleted.step_with(|| format!("failed to destroy network for sandbox {sandbox:?}"))?;
        netns::delete(&namespace).step("let go of the network namespace")?;
        match record.is_some_and(|record| !record.notes.is_empty()) {
            true => self.write_ports(HostPorts::write).await,
            false => Ok(()),
        }
    }

    async fn retain(&self, sandboxes: &HashSet<String>) -> Result<()> {
        let retained = self.plugins.retain(sandboxes).await;
        for stray in disk::names(&self.namespaces).into_iter().filter(|name| !sandboxes.contains(name)) {
            netns::delete(&self.namespaces.join(stray)).step("let go of a network namespace")?;
        }
        retained.step("disconnect former pods")
    }

    async fn set_pod_cidr(&self, cidr: &str) -> Result<()> {
        let cidr = cidr.split(',').next().unwrap_or(cidr).to_owned();
        if self.pod_cidr.lock().replace(cidr.clone()) != Some(cidr) {
            self.news.send_replace(());
        }
        Ok(())
    }

    async fn ready(&self) -> Result<(), String> {
        let list = self.list()?;
        let status = self.plugins.status(&list).await;
        status.map_err(|error| format!("Network plugin returns error: {}", chain(&error)))
    }

    async fn adopt(&self, netns: &Path, sandbox: &str) -> Result<()> {
        if !self.holds(sandbox) {
            return Ok(());
        }
        let namespace = self.namespace(sandbox);
        netns::keep(netns, &namespace).step("keep the network namespace")?;
        let (plugins, sandbox) = (self.plugins.clone(), sandbox.to_owned());
        // Nobody waits for what is only told.
        tokio::spawn(async move {
            if let Err(error) = plugins.check(&sandbox, &namespace).await {
                tracing::info!(sandbox, error = chain(&error), "plugins find a pod otherwise than they left it");
            }
        });
        Ok(())
    }

    fn news(&self) -> Option<watch::Receiver<()>> {
        Some(self.news.subscribe())
    }
}

/// Tells of changes in the folder, which is made if missing.
async fn watch(folder: PathBuf, news: watch::Sender<()>) {
    loop {
        // Anew each time: the folder itself may have been exchanged. It is told of after the watch has begun.
        let watched = std::fs::create_dir_all(&folder).and_then(|()| process::inotify::Watch::new(&folder));
        news.send_replace(());
        let changed = match watched {
            Ok(mut watched) => watched.changed().await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = changed {
            tracing::debug!(folder = %folder.display(), %error, "the folder cannot be watched");
            tokio::time::sleep(UNWATCHED).await;
        }
    }
}

/// `CNI_ARGS`, as plugins know them from other runtimes.
fn arguments(sandbox: &str, pod: &cri::PodSandboxConfig) -> Vec<(String, String)> {
    let metadata = pod.metadata.clone().unwrap_or_default();
    let pairs = [
        ("IgnoreUnknown", "1".to_owned()),
        ("K8S_POD_NAMESPACE", metadata.namespace),
        ("K8S_POD_NAME", metadata.name),
        ("K8S_POD_INFRA_CONTAINER_ID", sandbox.to_owned()),
        ("K8S_POD_UID", metadata.uid),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// What plugins are told that ask for it.
fn capabilities(list: &List, pod: &cri::PodSandboxConfig, pod_cidr: Option<&str>) -> Result<Map<String, Value>> {
    let mut told = Map::new();
    let mut tell = |name: &str, value: Option<Value>| told.extend(value.map(|value| (name.to_owned(), value)));
    if list.wants("portMappings") {
        tell("portMappings", port_mappings(pod));
    }
    if list.wants("bandwidth") {
        tell("bandwidth", bandwidth(&pod.annotations)?);
    }
    if list.wants("dns") {
        tell(
            "dns",
            pod.dns_config
                .as_ref()
                .map(|dns| json!({ "servers": dns.servers, "searches": dns.searches, "options": dns.options })),
        );
    }
    if list.wants("ipRanges") {
        tell("ipRanges", pod_cidr.map(|cidr| json!([[{ "subnet": cidr }]])));
    }
    if list.wants("io.kubernetes.cri.pod-annotations") {
        tell("io.kubernetes.cri.pod-annotations", Some(json!(pod.annotations)).filter(|_| !pod.annotations.is_empty()));
    }
    Ok(told)
}

fn port_mappings(pod: &cri::PodSandboxConfig) -> Option<Value> {
    let convert = |port: &cri::PortMapping| {
        let protocol = match port.protocol() {
            cri::Protocol::Tcp => "tcp",
            cri::Protocol::Udp => "udp",
            cri::Protocol::Sctp => "sctp",
        };
        json!({
            "hostPort": port.host_port, "containerPort": port.container_port, "protocol": protocol, "hostIP": port.host_ip
        })
    };
    let ports: Vec<Value> = pod.port_mappings.iter().filter(|port| port.host_port > 0).map(convert).collect();
    (!ports.is_empty()).then_some(Value::Array(ports))
}

/// The pod's annotations about bandwidth, in bits a second.
fn bandwidth(annotations: &std::collections::HashMap<String, String>) -> Result<Option<Value>> {
    let mut limits = Map::new();
    for direction in ["ingress", "egress"] {
        let key = format!("kubernetes.io/{direction}-bandwidth");
        let Some(text) = annotations.get(&key) else { continue };
        let wrong = |why: &str| Error::Invalid(format!("annotation {key}: {text:?} {why}"));
        let rate = text.parse::<Quantity>().map_err(|_| wrong("is no quantity"))?.value();
        match rate {
            ..1_000 => return Err(wrong("is unreasonably small (< 1kbit)")),
            1_000_000_000_000_001.. => return Err(wrong("is unreasonably large (> 1Pbit)")),
            _ => {}
        }
        limits.insert(format!("{direction}Rate"), rate.into());
        limits.insert(format!("{direction}Burst"), u32::MAX.into());
    }
    Ok((!limits.is_empty()).then_some(Value::Object(limits)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_are_told_what_they_ask_for() {
        let port = |host_port, protocol: cri::Protocol| cri::PortMapping {
            protocol: protocol.into(),
            container_port: 80,
            host_port,
            host_ip: String::new(),
        };
        let annotation = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let pod = cri::PodSandboxConfig {
            port_mappings: vec![port(0, cri::Protocol::Tcp), port(8080, cri::Protocol::Udp)],
            annotations: [annotation("kubernetes.io/egress-bandwidth", "10M")].into(),
            dns_config: Some(cri::DnsConfig { servers: vec!["10.43.0.10".into()], ..Default::default() }),
            ..Default::default()
        };
        let list = |wants: Value| {
            List::read(json!({"name": "n", "plugins": [{"type": "a", "capabilities": wants}, {"type": "b"}]})).unwrap()
        };
        let all = json!({"portMappings": true, "bandwidth": true, "dns": true, "ipRanges": true, "mac": true});
        let told = [
            capabilities(&list(json!({})), &pod, Some("10.42.0.0/24")).unwrap(),
            capabilities(&list(all.clone()), &pod, Some("10.42.0.0/24")).unwrap(),
            capabilities(&list(all), &cri::PodSandboxConfig::default(), None).unwrap(),
        ];
        let everything = json!({
            "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "udp", "hostIP": ""}],
            "bandwidth": {"egressRate": 10_000_000, "egressBurst": u32::MAX},
            "dns": {"servers": ["10.43.0.10"], "searches": [], "options": []},
            "ipRanges": [[{"subnet": "10.42.0.0/24"}]],
        });
        assert_eq!(told.map(Value::Object), [json!({}), everything, json!({})]);
    }

    #[test]
    fn bandwidths_that_make_no_sense_are_refused() {
        let refused = |text: &str| {
            let annotations = [("kubernetes.io/ingress-bandwidth".to_owned(), text.to_owned())].into();
            bandwidth(&annotations).unwrap_err().to_string()
        };
        let about = "annotation kubernetes.io/ingress-bandwidth:";
        assert_eq!(
            [refused("fast"), refused("10"), refused("2P")],
            [
                format!("{about} \"fast\" is no quantity"),
                format!("{about} \"10\" is unreasonably small (< 1kbit)"),
                format!("{about} \"2P\" is unreasonably large (> 1Pbit)"),
            ]
        );
    }
}
