//! What every pod worker shares: connections, the node's facts, and the ways to the disk.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use client::{Informer, Recorder};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service};
use tokio::sync::{Semaphore, broadcast, watch};

use crate::{
    cgroup::Cgroups,
    config::Config,
    eviction::Pressure,
    pod::{
        env::Sources,
        resources::Amounts,
        sandbox_config::NodeNet,
        spec::{self, Role},
    },
    references::References,
    runtime::Runtime,
    tokens::Tokens,
    volume::Volumes,
};

/// Facts that hold for the process' life.
#[derive(Clone, Debug)]
pub struct NodeFacts {
    /// The node's name.
    pub name: String,
    /// Its addresses.
    pub ips: Vec<String>,
    /// What pods may use, with plain amounts.
    pub allocatable: Amounts,
    /// All memory.
    pub memory: i64,
    /// `containerd`, `knarr`.
    pub runtime_name: String,
    /// Resolver facts.
    pub net: NodeNet,
}

/// Shared by all workers.
pub struct Shared {
    /// Flags.
    pub config: Config,
    /// The API.
    pub client: kube::Client,
    /// The runtime.
    pub runtime: Runtime,
    /// Events.
    pub recorder: Recorder,
    /// Facts.
    pub facts: NodeFacts,
    /// The disk.
    pub volumes: Volumes,
    /// The QoS tree.
    pub cgroups: Cgroups,
    /// ConfigMaps and Secrets.
    pub references: References,
    /// Service account tokens.
    pub tokens: Tokens,
    /// Services, for environments.
    pub services: Informer<Service>,
    /// This node's object.
    pub node: Informer<Node>,
    /// How many pulls may run.
    pub pulls: Semaphore,
    /// Why pods with a network of their own may not start, if they may not.
    pub network_problem: watch::Sender<Option<String>>,
    /// The runtime answers.
    pub runtime_ready: AtomicBool,
    /// What the node is short of.
    pub pressures: watch::Sender<BTreeSet<Pressure>>,
    /// The machine is about to go down.
    pub shutting_down: watch::Sender<bool>,
    /// UIDs of pods that changed in the runtime, for those who follow logs.
    pub pod_changes: broadcast::Sender<String>,
}

/// What workers hold.
pub type Ctx = Arc<Shared>;

impl Shared {
    /// Where a pod's logs are.
    pub fn log_dir(&self, pod: &Pod) -> PathBuf {
        let name = format!("{}_{}_{}", spec::namespace(pod), spec::name(pod), spec::uid(pod));
        self.config.pod_logs_dir.join(name)
    }

    /// All folders with pods' logs, and whose they are.
    pub fn log_dirs(&self) -> Vec<(String, PathBuf)> {
        let entries = std::fs::read_dir(&self.config.pod_logs_dir).into_iter().flatten().flatten();
        let uid = |name: &str| match name.split('_').collect::<Vec<_>>()[..] {
            [_, _, uid] if !uid.is_empty() => Some(uid.to_owned()),
            _ => None,
        };
        entries.filter_map(|entry| Some((uid(entry.file_name().to_str()?)?, entry.path()))).collect()
    }

    /// Everything a pod's volumes draw from.
    pub async fn material(&self, pod: &Pod, pod_ips: Vec<String>) -> Result<Sources, String> {
        let objects = self.references.objects(pod).await?;
        Ok(Sources {
            config_maps: objects.config_maps,
            secrets: objects.secrets,
            services: Vec::new(),
            pod_ips,
            host_ips: self.facts.ips.clone(),
            allocatable: self.facts.allocatable.clone(),
            env_files: Default::default(),
        })
    }

    /// Everything a container's environment draws from.
    pub async fn sources(&self, pod: &Pod, pod_ips: Vec<String>) -> Result<Sources, String> {
        let mut sources = self.material(pod, pod_ips).await?;
        if !spec::is_static(pod) {
            // A static pod may be what the API runs in: it gets the services that are known.
            self.services.synced().await;
        }
        let links = pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
        if links {
            sources.services =
                self.services.list_namespace(spec::namespace(pod)).iter().map(|s| Service::clone(s)).collect();
        }
        if !links || spec::namespace(pod) != "default" {
            let kubernetes = self.services.get(&client::Key::new("default", "kubernetes"));
            sources.services.extend(kubernetes.map(|s| Service::clone(&s)));
        }
        Ok(sources)
    }

    /// An event about a pod.
    pub fn event(&self, pod: &Pod, kind: &str, reason: &str, message: impl Into<String>) {
        self.recorder.record(reference(pod, None), kind, reason, message.into());
    }

    /// An event about one of its containers.
    pub fn container_event(&self, pod: &Pod, container: &str, kind: &str, reason: &str, message: impl Into<String>) {
        self.recorder.record(reference(pod, Some(container)), kind, reason, message.into());
    }

    /// Whether the runtime answers.
    pub fn runtime_answers(&self) -> bool {
        self.runtime_ready.load(Ordering::Relaxed)
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

fn reference(pod: &Pod, container: Option<&str>) -> ObjectReference {
    let field_path = container.map(|name| match spec::member(pod, name).map(|m| m.role) {
        Some(Role::Init | Role::Sidecar) => format!("spec.initContainers{{{name}}}"),
        Some(Role::Ephemeral) => format!("spec.ephemeralContainers{{{name}}}"),
        _ => format!("spec.containers{{{name}}}"),
    });
    ObjectReference {
        api_version: Some("v1".to_owned()),
        field_path,
        kind: Some("Pod".to_owned()),
        name: pod.metadata.name.clone(),
        namespace: pod.metadata.namespace.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        uid: Some(spec::uid(pod)),
    }
}
