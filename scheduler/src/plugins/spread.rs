//! Topology spread: pods that match a selector are kept even over the values of a node label.
//!
//! Pods that name no constraints are spread softly over hosts and zones (upstream's system defaults, whose selector comes from
//! the pod's controller and Services): by their controller, which is the same for all pods of a ReplicaSet and costs a look-up a
//! node, or, without one, by what their Services select.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use api::selector::Selector;
use k8s_openapi::api::core::v1::TopologySpreadConstraint;

use super::{first_untolerated, matches_required};
use crate::{
    framework::{Events, MAX_SCORE, Plugin, Prepared, Rejection},
    pod::{PodInfo, with_label_keys},
    snapshot::{NodeInfo, Snapshot},
};

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";
/// Upstream's system default constraints: (label, maxSkew).
const SYSTEM_DEFAULTS: [(&str, i64); 2] = [(HOSTNAME, 3), (ZONE, 5)];

pub struct PodTopologySpread;

struct Constraint<'a> {
    key: &'a str,
    max_skew: i64,
    min_domains: i64,
    selector: Selector,
    honor_affinity: bool,
    honor_taints: bool,
}

fn constraints<'a>(pod: &'a PodInfo, when: &str) -> Vec<Constraint<'a>> {
    let all = pod.pod.spec.as_ref().and_then(|s| s.topology_spread_constraints.as_deref()).unwrap_or_default();
    let labels: BTreeMap<String, String> = pod.pod.metadata.labels.clone().unwrap_or_default();
    let read = |c: &'a TopologySpreadConstraint| Constraint {
        key: &c.topology_key,
        max_skew: i64::from(c.max_skew),
        min_domains: i64::from(c.min_domains.unwrap_or(1)),
        selector: with_label_keys(c.label_selector.as_ref(), &labels, &c.match_label_keys, &None),
        honor_affinity: c.node_affinity_policy.as_deref() != Some("Ignore"),
        honor_taints: c.node_taints_policy.as_deref() == Some("Honor"),
    };
    all.iter().filter(|c| c.when_unsatisfiable == when).map(read).collect()
}

impl Constraint<'_> {
    /// Whether pods on the node count.
    fn counts(&self, pod: &PodInfo, node: &NodeInfo) -> bool {
        (!self.honor_affinity || matches_required(pod, node))
            && (!self.honor_taints || first_untolerated(pod, node).is_none())
    }

    fn matching(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let same = |other: &&Arc<PodInfo>| {
            other.key.namespace == pod.key.namespace
                && other.pod.metadata.deletion_timestamp.is_none()
                && self.selector.matches_opt(other.pod.metadata.labels.as_ref())
        };
        node.pods.values().filter(same).count() as i64
    }
}

/// Matching pods by the label's values; nodes that lack one of the keys don't count for any.
fn domains<'s>(
    constraints: &[Constraint<'_>],
    pod: &PodInfo,
    nodes: impl Iterator<Item = &'s NodeInfo>,
) -> Vec<HashMap<&'s str, i64>> {
    let mut counts = vec![HashMap::new(); constraints.len()];
    for node in nodes {
        if !constraints.iter().all(|c| node.label(c.key).is_some()) {
            continue;
        }
        for (constraint, counts) in constraints.iter().zip(&mut counts) {
            if let Some(value) = node.label(constraint.key)
                && constraint.counts(pod, node)
            {
                *counts.entry(value).or_insert(0) += constraint.matching(pod, node);
            }
        }
    }
    counts
}

/// What a matching pod weighs, by the number of domains (upstream's formula).
fn weight(domains: usize) -> f64 {
    ((domains + 2) as f64).ln()
}

/// Upstream's score of one constraint: what is there already, weighted by the number of domains.
fn cost(count: i64, weight: f64, max_skew: i64) -> f64 {
    count as f64 * weight + (max_skew - 1) as f64
}

/// Lower cost is better: 100 for the least, in proportion down to the greatest.
fn by_cost(costs: &[Option<f64>]) -> Vec<i64> {
    let known = || costs.iter().flatten().map(|c| c.round() as i64);
    let (least, most) = (known().min().unwrap_or(0), known().max().unwrap_or(0));
    let score = |cost: &Option<f64>| match cost {
        None => 0,
        Some(_) if most == 0 => MAX_SCORE,
        Some(cost) => MAX_SCORE * (most + least - cost.round() as i64) / most,
    };
    costs.iter().map(score).collect()
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn wakes_on(&self) -> Events {
        Events::NODE_ADDED
            .and(Events::NODE_LABELS)
            .and(Events::NODE_TAINTS)
            .and(Events::POD_DELETED)
            .and(Events::POD_BOUND)
            .and(Events::POD_LABELS)
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, snapshot: &'a Snapshot) -> Prepared<'a> {
        let constraints = constraints(pod, "DoNotSchedule");
        if constraints.is_empty() {
            return Prepared::Skip;
        }
        let domains = domains(&constraints, pod, snapshot.nodes());
        let least: Vec<i64> = constraints
            .iter()
            .zip(&domains)
            .map(|(constraint, counts)| match (counts.len() as i64) < constraint.min_domains {
                true => 0,
                false => counts.values().copied().min().unwrap_or(0),
            })
            .collect();
        Prepared::Filter(Box::new(move |node| {
            for ((constraint, counts), least) in constraints.iter().zip(&domains).zip(&least) {
                let Some(value) = node.label(constraint.key) else {
                    let reason = "node(s) didn't match pod topology spread constraints (missing required label)";
                    return Err(Rejection::lasting(reason));
                };
                let own = i64::from(constraint.selector.matches_opt(pod.pod.metadata.labels.as_ref()));
                if counts.get(value).copied().unwrap_or(0) + own - least > constraint.max_skew {
                    return Err(Rejection::crowded(vec!["node(s) didn't match pod topology spread constraints".into()]));
                }
            }
            Ok(())
        }))
    }

    fn score(&self, pod: &PodInfo, snapshot: &Snapshot, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
        let named =
            pod.pod.spec.as_ref().is_some_and(|s| s.topology_spread_constraints.as_ref().is_some_and(|c| !c.is_empty()));
        if !named {
            return by_default(pod, snapshot, nodes);
        }
        let constraints = constraints(pod, "ScheduleAnyway");
        if constraints.is_empty() {
            return None;
        }
        let domains = domains(&constraints, pod, snapshot.nodes());
        let weights: Vec<f64> = domains.iter().map(|counts| weight(counts.len())).collect();
        let node_cost = |node: &&NodeInfo| {
            let one = |((constraint, counts), weight): ((&Constraint<'_>, &HashMap<&str, i64>), &f64)| {
                let value = node.label(constraint.key)?;
                Some(cost(counts.get(value).copied().unwrap_or(0), *weight, constraint.max_skew))
            };
            constraints.iter().zip(&domains).zip(&weights).map(one).sum::<Option<f64>>()
        };
        Some(by_cost(&nodes.iter().map(node_cost).collect::<Vec<_>>()))
    }

    fn weight(&self) -> i64 {
        2
    }
}

fn by_default(pod: &PodInfo, snapshot: &Snapshot, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    if let Some(owner) = &pod.owner {
        return Some(by_count(nodes, |node| node.owners.get(owner).copied().unwrap_or(0)));
    }
    let asked_for = snapshot.asked_for(pod)?;
    let serves = |other: &&Arc<PodInfo>| {
        let labels = other.pod.metadata.labels.as_ref();
        other.key.namespace == pod.key.namespace
            && other.pod.metadata.deletion_timestamp.is_none()
            && labels.is_some_and(|labels| asked_for.iter().all(|(k, v)| labels.get(*k).is_some_and(|has| has == v)))
    };
    Some(by_count(nodes, |node| node.pods.values().filter(serves).count() as i64))
}

/// Scores by how many pods of a kind a node, and its zone, have.
fn by_count(nodes: &[&NodeInfo], count: impl Fn(&NodeInfo) -> i64) -> Vec<i64> {
    let counts: Vec<i64> = nodes.iter().map(|node| count(node)).collect();
    let mut zones: HashMap<&str, i64> = HashMap::new();
    for (node, count) in nodes.iter().zip(&counts) {
        if let Some(zone) = node.label(ZONE) {
            *zones.entry(zone).or_default() += count;
        }
    }
    let (of_hosts, of_zones) = (weight(nodes.len()), weight(zones.len()));
    let node_cost = |(node, count): (&&NodeInfo, &i64)| {
        let [(_, host_skew), (_, zone_skew)] = SYSTEM_DEFAULTS;
        let host = cost(*count, of_hosts, host_skew);
        let zone = node.label(ZONE).and_then(|z| zones.get(z)).map_or(0.0, |c| cost(*c, of_zones, zone_skew));
        Some(host + zone)
    };
    by_cost(&nodes.iter().zip(&counts).map(node_cost).collect::<Vec<_>>())
}
