//! Pod affinity and anti-affinity: near pods that match, or away from them, by the equal values of a node label.

use std::collections::{HashMap, HashSet};

use crate::{
    framework::{Events, MAX_SCORE, Plugin, Prepared, Rejection},
    pod::{PodInfo, Term},
    snapshot::{NodeInfo, Snapshot},
};

/// What an existing pod's required affinity to the new one counts in scoring (upstream's `HardPodAffinityWeight`).
const REQUIRED_WEIGHT: i64 = 1;

pub struct InterPodAffinity;

type Place<'a> = (&'a str, &'a str);

fn term_matches(term: &Term, pod: &PodInfo, snapshot: &Snapshot) -> bool {
    term.matches(pod, |namespace| snapshot.namespace_labels(namespace))
}

/// Places of `term`'s key at which an existing pod matches all of `terms`.
fn places<'a>(terms: &'a [Term], every: bool, snapshot: &'a Snapshot) -> Vec<HashSet<&'a str>> {
    let mut places = vec![HashSet::new(); terms.len()];
    if terms.is_empty() {
        return places;
    }
    for node in snapshot.nodes() {
        for pod in node.pods.values() {
            // Required affinity looks for pods that match every term (upstream's rule); anti-affinity takes each alone.
            if every && !terms.iter().all(|t| term_matches(t, pod, snapshot)) {
                continue;
            }
            for (term, places) in terms.iter().zip(&mut places) {
                if let Some(value) = node.label(&term.topology_key)
                    && (every || term_matches(term, pod, snapshot))
                {
                    places.insert(value);
                }
            }
        }
    }
    places
}

/// Places where an existing pod's required anti-affinity forbids the new pod.
fn forbidden<'a>(pod: &PodInfo, snapshot: &'a Snapshot) -> HashSet<Place<'a>> {
    let mut forbidden = HashSet::new();
    for node in snapshot.nodes().filter(|n| n.with_affinity > 0) {
        for existing in node.pods.values() {
            for term in &existing.anti_affinity {
                if let Some(value) = node.label(&term.topology_key)
                    && term_matches(term, pod, snapshot)
                {
                    forbidden.insert((term.topology_key.as_str(), value));
                }
            }
        }
    }
    forbidden
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn wakes_on(&self) -> Events {
        Events::NODE_ADDED
            .and(Events::NODE_LABELS)
            .and(Events::POD_DELETED)
            .and(Events::POD_BOUND)
            .and(Events::POD_LABELS)
            .and(Events::NAMESPACE_LABELS)
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, snapshot: &'a Snapshot) -> Prepared<'a> {
        let forbidden = forbidden(pod, snapshot);
        if pod.affinity.is_empty() && pod.anti_affinity.is_empty() && forbidden.is_empty() {
            return Prepared::Skip;
        }
        let near = places(&pod.affinity, true, snapshot);
        let away = places(&pod.anti_affinity, false, snapshot);
        // The first of a group that wants to be together has nobody to be near to.
        let first = near.iter().all(HashSet::is_empty) && pod.affinity.iter().all(|t| term_matches(t, pod, snapshot));
        Prepared::Filter(Box::new(move |node| {
            let at =
                |term: &Term, places: &HashSet<&str>| node.label(&term.topology_key).is_some_and(|v| places.contains(v));
            let labelled = pod.affinity.iter().all(|t| node.label(&t.topology_key).is_some());
            if !labelled || !(first || pod.affinity.iter().zip(&near).all(|(t, p)| at(t, p))) {
                return Err(Rejection::lasting("node(s) didn't match pod affinity rules"));
            }
            if pod.anti_affinity.iter().zip(&away).any(|(t, p)| at(t, p)) {
                return Err(Rejection::crowded(vec!["node(s) didn't match pod anti-affinity rules".into()]));
            }
            if forbidden.iter().any(|(key, value)| node.label(key) == Some(value)) {
                let reason = "node(s) didn't satisfy existing pods anti-affinity rules";
                return Err(Rejection::crowded(vec![reason.into()]));
            }
            Ok(())
        }))
    }

    fn score(&self, pod: &PodInfo, snapshot: &Snapshot, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
        let own = !(pod.prefers.is_empty() && pod.avoids.is_empty());
        let mut sums: HashMap<Place<'_>, i64> = HashMap::new();
        for node in snapshot.nodes().filter(|n| own || n.with_affinity > 0) {
            for existing in node.pods.values() {
                let mut add = |terms: &'_ [Term], subject: &PodInfo, sign: i64| {
                    for term in terms {
                        if let Some((key, value)) = node.labels().and_then(|l| l.get_key_value(&term.topology_key))
                            && term_matches(term, subject, snapshot)
                        {
                            let weight = if term.weight == 0 { REQUIRED_WEIGHT } else { i64::from(term.weight) };
                            *sums.entry((key.as_str(), value.as_str())).or_default() += sign * weight;
                        }
                    }
                };
                add(&pod.prefers, existing, 1);
                add(&pod.avoids, existing, -1);
                add(&existing.affinity, pod, 1);
                add(&existing.prefers, pod, 1);
                add(&existing.avoids, pod, -1);
            }
        }
        if sums.is_empty() {
            return None;
        }
        let sum = |node: &&NodeInfo| -> i64 {
            sums.iter().filter(|((key, value), _)| node.label(key) == Some(value)).map(|(_, weight)| weight).sum()
        };
        let raw: Vec<i64> = nodes.iter().map(sum).collect();
        let (least, most) = (raw.iter().copied().min()?, raw.iter().copied().max()?);
        let stretch = |score: i64| if most == least { 0 } else { MAX_SCORE * (score - least) / (most - least) };
        Some(raw.into_iter().map(stretch).collect())
    }

    fn weight(&self) -> i64 {
        2
    }
}
