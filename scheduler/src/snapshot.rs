//! The cluster as the scheduler sees it: one incremental structure, changed in place by watch events and assumptions.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use k8s_openapi::api::core::v1::{Node, Taint};

use crate::{
    pod::{HostPort, PodInfo},
    resources::{self, Amount, Resources},
};

/// One node with what runs on it.
#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// The object; `None` while only its pods are known.
    pub node: Option<Arc<Node>>,
    /// `status.allocatable`.
    pub allocatable: Resources,
    /// How many pods it takes.
    pub allowed_pods: i64,
    /// The sum of its pods' requests.
    pub requested: Resources,
    /// The sum of its pods' weights in scoring: (milli CPU, memory).
    pub scored: (Amount, Amount),
    /// Its pods by uid, assumed ones included.
    pub pods: HashMap<String, Arc<PodInfo>>,
    /// How many of its pods have affinity terms.
    pub with_affinity: usize,
    /// Ports that its pods hold.
    pub ports: Vec<HostPort>,
    /// Its pods by controller uid.
    pub owners: HashMap<String, i64>,
    /// Bytes of the images it has, by every name.
    pub images: HashMap<String, i64>,
}

impl NodeInfo {
    fn set_node(&mut self, node: &Arc<Node>) {
        let status = node.status.as_ref();
        let allocatable = status.and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref()));
        self.allocatable = Resources::of(allocatable);
        self.allowed_pods = allocatable.and_then(|a| a.get("pods")).map_or(0, resources::value);
        self.images = status
            .into_iter()
            .flat_map(|s| s.images.iter().flatten())
            .flat_map(|i| i.names.iter().flatten().map(|n| (n.clone(), i.size_bytes.unwrap_or(0))))
            .collect();
        self.node = Some(node.clone());
    }

    /// A label of the node.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels()?.get(key).map(String::as_str)
    }

    /// The node's labels.
    pub fn labels(&self) -> Option<&BTreeMap<String, String>> {
        self.node.as_ref()?.metadata.labels.as_ref()
    }

    /// The node's taints.
    pub fn taints(&self) -> &[Taint] {
        self.node.as_ref().and_then(|n| n.spec.as_ref()).and_then(|s| s.taints.as_deref()).unwrap_or_default()
    }

    /// Whether it is cordoned.
    pub fn unschedulable(&self) -> bool {
        self.node.as_ref().and_then(|n| n.spec.as_ref()).and_then(|s| s.unschedulable).unwrap_or(false)
    }

    /// Counts a pod in.
    pub fn add(&mut self, pod: &Arc<PodInfo>) {
        if self.pods.insert(pod.uid.clone(), pod.clone()).is_some() {
            return;
        }
        self.requested.add(&pod.requests);
        self.scored = (self.scored.0 + pod.scored.0, self.scored.1 + pod.scored.1);
        self.ports.extend(pod.ports.iter().cloned());
        self.with_affinity += usize::from(pod.has_affinity());
        if let Some(owner) = &pod.owner {
            *self.owners.entry(owner.clone()).or_default() += 1;
        }
    }

    /// Counts a pod out.
    pub fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let pod = self.pods.remove(uid)?;
        self.requested.subtract(&pod.requests);
        self.scored = (self.scored.0 - pod.scored.0, self.scored.1 - pod.scored.1);
        for port in &pod.ports {
            if let Some(at) = self.ports.iter().position(|p| p == port) {
                self.ports.swap_remove(at);
            }
        }
        self.with_affinity -= usize::from(pod.has_affinity());
        if let Some(owner) = &pod.owner
            && let Some(count) = self.owners.get_mut(owner)
        {
            *count -= 1;
            if *count == 0 {
                self.owners.remove(owner);
            }
        }
        Some(pod)
    }
}

/// All nodes and bound pods.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    nodes: Vec<NodeInfo>,
    by_name: HashMap<Arc<str>, usize>,
    /// Where each known pod is, by uid.
    places: HashMap<String, Arc<str>>,
    /// Labels of namespaces, for namespace selectors.
    pub namespaces: HashMap<String, BTreeMap<String, String>>,
    /// What Services select, by namespace and name.
    pub services: HashMap<String, HashMap<String, BTreeMap<String, String>>>,
    /// Pods that preempted others and wait for their node, by node.
    pub nominated: HashMap<String, Vec<Arc<PodInfo>>>,
}

impl Snapshot {
    /// Nodes whose object is known.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.iter().filter(|n| n.node.is_some())
    }

    /// The node at a place in the round, for searches that begin where the last one ended.
    pub fn at(&self, index: usize) -> Option<&NodeInfo> {
        self.nodes.get(index)
    }

    /// How many places the round has.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// How many pods are counted.
    pub fn pods(&self) -> usize {
        self.places.len()
    }

    /// Whether no node has been heard of.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.by_name.get(name).and_then(|at| self.nodes.get(*at))
    }

    fn slot(&mut self, name: &str) -> &mut NodeInfo {
        let at = match self.by_name.get(name) {
            Some(at) => *at,
            None => {
                let name: Arc<str> = name.into();
                self.nodes.push(NodeInfo { name: name.clone(), ..NodeInfo::default() });
                self.by_name.insert(name, self.nodes.len() - 1);
                self.nodes.len() - 1
            }
        };
        &mut self.nodes[at]
    }

    /// A node came or changed.
    pub fn set_node(&mut self, node: &Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        self.slot(&name).set_node(node);
    }

    /// A node went. Its pods stay counted until they go too.
    pub fn remove_node(&mut self, name: &str) {
        let Some(at) = self.by_name.get(name).copied() else { return };
        self.nodes[at].node = None;
        self.drop_if_empty(at);
    }

    fn drop_if_empty(&mut self, at: usize) {
        if self.nodes[at].node.is_some() || !self.nodes[at].pods.is_empty() {
            return;
        }
        let gone = self.nodes.swap_remove(at);
        self.by_name.remove(&gone.name);
        if let Some(moved) = self.nodes.get(at) {
            self.by_name.insert(moved.name.clone(), at);
        }
    }

    /// Counts a pod on a node: bound, or assumed to be soon.
    pub fn add_pod(&mut self, pod: &Arc<PodInfo>, node: &str) {
        self.remove_pod(&pod.uid);
        let slot = self.slot(node);
        slot.add(pod);
        let name = slot.name.clone();
        self.places.insert(pod.uid.clone(), name);
    }

    /// Counts a pod out.
    pub fn remove_pod(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let node = self.places.remove(uid)?;
        let at = *self.by_name.get(&node)?;
        let pod = self.nodes[at].remove(uid);
        self.drop_if_empty(at);
        pod
    }

    /// A pod as it is counted.
    pub fn pod(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        self.node(self.place(uid)?)?.pods.get(uid)
    }

    /// Where a pod is counted.
    pub fn place(&self, uid: &str) -> Option<&str> {
        self.places.get(uid).map(|name| &**name)
    }

    /// A namespace's labels.
    pub fn namespace_labels(&self, name: &str) -> Option<BTreeMap<String, String>> {
        self.namespaces.get(name).cloned()
    }

    /// The labels that all Services together ask for that select the pod; `None` if none does.
    pub fn asked_for(&self, pod: &PodInfo) -> Option<BTreeMap<&str, &str>> {
        let labels = pod.pod.metadata.labels.as_ref()?;
        let selects =
            |selector: &&BTreeMap<String, String>| selector.iter().all(|(key, value)| labels.get(key) == Some(value));
        let all = self.services.get(&*pod.key.namespace)?.values().filter(selects).flatten();
        let all: BTreeMap<&str, &str> = all.map(|(key, value)| (key.as_str(), value.as_str())).collect();
        (!all.is_empty()).then_some(all)
    }

    /// Remembers that `pod` waits for room on `node`, and nowhere else.
    pub fn nominate(&mut self, pod: &Arc<PodInfo>, node: &str) {
        self.forget_nomination(&pod.uid);
        self.nominated.entry(node.to_owned()).or_default().push(pod.clone());
    }

    /// The pod waits for no room any more; whether it did.
    pub fn forget_nomination(&mut self, uid: &str) -> bool {
        let mut waited = false;
        self.nominated.retain(|_, pods| {
            waited |= pods.iter().any(|p| p.uid == uid);
            pods.retain(|p| p.uid != uid);
            !pods.is_empty()
        });
        waited
    }
}
