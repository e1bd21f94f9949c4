//! A pod as the scheduler looks at it: what plugins need, read out once.

use std::{collections::BTreeMap, sync::Arc};

use api::selector::Selector;
use client::{Key, owner};
use k8s_openapi::{
    api::core::v1::{Pod, PodAffinityTerm},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};

use crate::resources::{self, Amount, Resources};

/// A port on the node's own address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// `0.0.0.0` is every address.
    pub ip: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The port's number.
    pub port: i32,
}

impl HostPort {
    /// Whether both cannot be held on one node.
    pub fn conflicts(&self, other: &Self) -> bool {
        const ANY: &str = "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || self.ip == ANY || other.ip == ANY)
    }
}

/// A term of pod (anti-)affinity with its selectors read.
#[derive(Clone, Debug)]
pub struct Term {
    /// Which pods are meant.
    pub selector: Selector,
    /// The namespaces named; with `namespace_selector` both count.
    pub namespaces: Vec<String>,
    /// Which namespaces are meant by their labels.
    pub namespace_selector: Option<Selector>,
    /// The node label whose equal values mean "the same place".
    pub topology_key: String,
    /// 0 for required terms, else 1-100.
    pub weight: i32,
}

impl Term {
    fn of(pod: &Pod, term: &PodAffinityTerm, weight: i32) -> Self {
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(pod.metadata.namespace.clone().unwrap_or_default());
        }
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        let selector =
            with_label_keys(term.label_selector.as_ref(), &labels, &term.match_label_keys, &term.mismatch_label_keys);
        Self {
            selector,
            namespaces,
            namespace_selector: term.namespace_selector.as_ref().map(|s| read(Some(s))),
            topology_key: term.topology_key.clone(),
            weight,
        }
    }

    /// Whether `pod` is one of the pods meant.
    pub fn matches(&self, pod: &PodInfo, namespace_labels: impl Fn(&str) -> Option<BTreeMap<String, String>>) -> bool {
        let in_namespace = self.namespaces.iter().any(|n| *n == *pod.key.namespace)
            || self
                .namespace_selector
                .as_ref()
                .is_some_and(|selector| selector.matches_opt(namespace_labels(&pod.key.namespace).as_ref()));
        in_namespace && self.selector.matches_opt(pod.pod.metadata.labels.as_ref())
    }
}

/// A selector that validation has let through; nothing matches one that cannot be read.
fn read(selector: Option<&LabelSelector>) -> Selector {
    Selector::from_label_selector(selector).unwrap_or_else(|_| Selector::nothing())
}

/// A selector with `matchLabelKeys` and `mismatchLabelKeys` of the pod's own labels added (KEP-3633, KEP-3243).
pub fn with_label_keys(
    selector: Option<&LabelSelector>,
    labels: &BTreeMap<String, String>,
    same: &Option<Vec<String>>,
    other: &Option<Vec<String>>,
) -> Selector {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement as Requirement;
    let Some(selector) = selector else { return Selector::nothing() };
    let mut selector = selector.clone();
    let keys = [("In", same), ("NotIn", other)];
    for (operator, key) in keys.into_iter().flat_map(|(op, keys)| keys.iter().flatten().map(move |k| (op, k))) {
        if let Some(value) = labels.get(key) {
            selector.match_expressions.get_or_insert_default().push(Requirement {
                key: key.clone(),
                operator: operator.to_owned(),
                values: Some(vec![value.clone()]),
            });
        }
    }
    read(Some(&selector))
}

/// What plugins look at.
#[derive(Clone, Debug)]
pub struct PodInfo {
    /// The object.
    pub pod: Arc<Pod>,
    /// Namespace and name.
    pub key: Key,
    /// `metadata.uid`.
    pub uid: String,
    /// `spec.priority`.
    pub priority: i32,
    /// What it takes from a node.
    pub requests: Resources,
    /// What it weighs in scoring: (milli CPU, memory).
    pub scored: (Amount, Amount),
    /// Ports it holds on the node.
    pub ports: Vec<HostPort>,
    /// The uid of its controller, which counts on it no more once it is being deleted.
    pub owner: Option<String>,
    /// Required pod affinity.
    pub affinity: Vec<Term>,
    /// Required pod anti-affinity.
    pub anti_affinity: Vec<Term>,
    /// Preferred pod affinity, weights positive.
    pub prefers: Vec<Term>,
    /// Preferred pod anti-affinity, weights positive.
    pub avoids: Vec<Term>,
}

impl PodInfo {
    /// Reads a pod.
    pub fn new(pod: Arc<Pod>) -> Self {
        let spec = pod.spec.as_ref();
        let affinity = spec.and_then(|s| s.affinity.as_ref());
        let (with, without) =
            (affinity.and_then(|a| a.pod_affinity.as_ref()), affinity.and_then(|a| a.pod_anti_affinity.as_ref()));
        let required = |terms: Option<&Vec<PodAffinityTerm>>| -> Vec<Term> {
            terms.into_iter().flatten().map(|t| Term::of(&pod, t, 0)).collect()
        };
        let preferred = |terms: Option<&Vec<k8s_openapi::api::core::v1::WeightedPodAffinityTerm>>| -> Vec<Term> {
            terms.into_iter().flatten().map(|t| Term::of(&pod, &t.pod_affinity_term, t.weight)).collect()
        };
        let ports = spec
            .into_iter()
            .flat_map(|s| {
                s.containers.iter().chain(s.init_containers.iter().flatten().filter(|c| c.restart_policy.is_some()))
            })
            .flat_map(|c| c.ports.iter().flatten())
            .filter_map(|p| {
                Some(HostPort {
                    ip: p.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".to_owned()),
                    protocol: p.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                    port: p.host_port.filter(|port| *port > 0)?,
                })
            })
            .collect();
        Self {
            key: Key::of(&pod.metadata),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            priority: spec.and_then(|s| s.priority).unwrap_or(0),
            requests: resources::requests(&pod),
            scored: resources::scored_requests(&pod),
            ports,
            owner: owner::controller_of(&pod.metadata)
                .filter(|_| pod.metadata.deletion_timestamp.is_none())
                .map(|o| o.uid.clone()),
            affinity: required(with.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())),
            anti_affinity: required(without.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())),
            prefers: preferred(with.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref())),
            avoids: preferred(without.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref())),
            pod,
        }
    }

    /// The node the pod is bound to.
    pub fn node_name(&self) -> Option<&str> {
        self.pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
    }

    /// Whether affinity terms of this pod must be looked at when others are scheduled.
    pub fn has_affinity(&self) -> bool {
        !(self.affinity.is_empty() && self.anti_affinity.is_empty() && self.prefers.is_empty() && self.avoids.is_empty())
    }

    /// Whether the pod has ended and holds nothing any more.
    pub fn is_finished(&self) -> bool {
        matches!(self.pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
    }
}
