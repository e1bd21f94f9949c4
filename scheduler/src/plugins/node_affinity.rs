//! `nodeSelector` and node affinity.

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm};

use crate::{
    framework::{Events, Plugin, Prepared, Rejection, normalize},
    pod::PodInfo,
    snapshot::{NodeInfo, Snapshot},
};

pub struct NodeAffinity;

const REASON: &str = "node(s) didn't match Pod's node affinity/selector";

fn requirement_holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let among = |value: &str| values.iter().any(|v| v == value);
    let number = |text: Option<&str>| text.and_then(|t| t.parse::<i64>().ok());
    match requirement.operator.as_str() {
        "In" => value.is_some_and(among),
        "NotIn" => !value.is_some_and(among),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => matches!((number(value), number(values.first().map(String::as_str))), (Some(v), Some(w)) if v > w),
        "Lt" => matches!((number(value), number(values.first().map(String::as_str))), (Some(v), Some(w)) if v < w),
        _ => false,
    }
}

fn term_matches(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    // A term without requirements matches nothing.
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|r| requirement_holds(r, node.label(&r.key)))
        && fields.iter().all(|r| requirement_holds(r, (r.key == "metadata.name").then_some(&*node.name)))
}

/// Whether any of the terms matches the node.
pub fn matches_selector_terms(terms: &[NodeSelectorTerm], node: &NodeInfo) -> bool {
    terms.iter().any(|t| term_matches(t, node))
}

fn required_terms(pod: &PodInfo) -> Option<&[NodeSelectorTerm]> {
    let affinity = pod.pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    Some(&affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms)
}

/// Whether the pod's `nodeSelector` and required node affinity let it onto the node.
pub fn matches_required(pod: &PodInfo, node: &NodeInfo) -> bool {
    let selector = pod.pod.spec.as_ref().and_then(|s| s.node_selector.as_ref());
    selector.into_iter().flatten().all(|(key, value)| node.label(key) == Some(value))
        && required_terms(pod).is_none_or(|terms| matches_selector_terms(terms, node))
}

/// Node names that every term pins the pod to by `metadata.name`, as DaemonSet pods are.
fn pinned(pod: &PodInfo) -> Option<Vec<String>> {
    let mut names = Vec::new();
    for term in required_terms(pod)? {
        let fields = term.match_fields.as_deref().unwrap_or_default();
        let pin = fields.iter().find(|r| r.key == "metadata.name" && r.operator == "In")?;
        names.extend(pin.values.iter().flatten().cloned());
    }
    Some(names)
}

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn wakes_on(&self) -> Events {
        Events::NODE_ADDED.and(Events::NODE_LABELS)
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, _snapshot: &'a Snapshot) -> Prepared<'a> {
        let has_selector = pod.pod.spec.as_ref().is_some_and(|s| s.node_selector.as_ref().is_some_and(|m| !m.is_empty()));
        if !has_selector && required_terms(pod).is_none() {
            return Prepared::Skip;
        }
        let filter = Box::new(move |node: &NodeInfo| match matches_required(pod, node) {
            true => Ok(()),
            false => Err(Rejection::lasting(REASON)),
        });
        match pinned(pod) {
            Some(names) => Prepared::Only(names, filter),
            None => Prepared::Filter(filter),
        }
    }

    fn score(&self, pod: &PodInfo, _snapshot: &Snapshot, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
        let affinity = pod.pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
        let preferred = affinity.preferred_during_scheduling_ignored_during_execution.as_ref().filter(|p| !p.is_empty())?;
        let weight = |node: &&NodeInfo| {
            preferred.iter().filter(|p| term_matches(&p.preference, node)).map(|p| i64::from(p.weight)).sum()
        };
        Some(normalize(nodes.iter().map(weight).collect(), false))
    }

    fn weight(&self) -> i64 {
        2
    }
}
