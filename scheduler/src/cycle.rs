//! One decision: which node takes a pod, or why none does. A function of the pod, the snapshot, where the last search ended
//! and a random number for ties.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use crate::{
    framework::{Filter, Plugin, Prepared, Rejection},
    pod::PodInfo,
    snapshot::{NodeInfo, Snapshot},
};

/// Searches stop at this many feasible nodes at the least (upstream's `minFeasibleNodesToFind`).
const MIN_FEASIBLE: usize = 100;

/// Where a pod goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The node.
    pub node: String,
    /// Where the next search begins.
    pub next_start: usize,
}

/// Why no node takes a pod.
#[derive(Debug, Default)]
pub struct Unfit {
    /// How many nodes there are.
    pub nodes: usize,
    /// A reason that holds for the pod whatever the node.
    pub rejected: Option<String>,
    /// Per node, who turned the pod away and why.
    pub rejections: HashMap<Arc<str>, (usize, Rejection)>,
    /// Indexes of the plugins that turned the pod away.
    pub plugins: Vec<usize>,
}

impl Unfit {
    /// Upstream's message, with `preemption` (its own sentence) at the end.
    pub fn message(&self, preemption: &str) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        let mut message = format!("0/{} nodes are available:", self.nodes);
        if let Some(rejected) = &self.rejected {
            message.push_str(&format!(" {rejected}."));
        } else {
            let histogram = histogram(self.rejections.values().flat_map(|(_, r)| r.reasons.iter().map(Cow::as_ref)));
            message.push_str(&format!(" {histogram}."));
        }
        if !preemption.is_empty() {
            message.push_str(&format!(" {preemption}"));
        }
        message
    }
}

/// `2 Insufficient cpu, 1 node(s) were unschedulable`: reasons with their counts, sorted as texts.
pub fn histogram<'a>(reasons: impl Iterator<Item = &'a str>) -> String {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for reason in reasons {
        *counts.entry(reason).or_default() += 1;
    }
    let mut texts: Vec<String> = counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    texts.sort();
    texts.join(", ")
}

/// The filters of all plugins for one pod.
pub struct Prepare<'a> {
    /// With the index of the plugin.
    pub filters: Vec<(usize, Filter<'a>)>,
    /// Only these nodes are worth a look.
    pub only: Option<Vec<String>>,
}

/// Runs PreFilter of every plugin.
pub fn prepare<'a>(plugins: &[Box<dyn Plugin>], pod: &'a PodInfo, snapshot: &'a Snapshot) -> Result<Prepare<'a>, Unfit> {
    let mut prepared = Prepare { filters: Vec::new(), only: None };
    for (index, plugin) in plugins.iter().enumerate() {
        match plugin.prepare(pod, snapshot) {
            Prepared::Skip => {}
            Prepared::Filter(filter) => prepared.filters.push((index, filter)),
            Prepared::Only(names, filter) => {
                prepared.filters.push((index, filter));
                prepared.only = Some(match prepared.only.take() {
                    Some(before) => before.into_iter().filter(|n| names.contains(n)).collect(),
                    None => names,
                });
            }
            Prepared::Reject(reason) => {
                let nodes = snapshot.nodes().count();
                return Err(Unfit { nodes, rejected: Some(reason), plugins: vec![index], ..Unfit::default() });
            }
        }
    }
    Ok(prepared)
}

impl Prepare<'_> {
    /// Asks every filter; the first rejection counts.
    pub fn check(&self, node: &NodeInfo) -> Result<(), (usize, Rejection)> {
        self.filters.iter().try_for_each(|(index, filter)| filter(node).map_err(|rejection| (*index, rejection)))
    }
}

/// How many feasible nodes are enough: all of a small cluster, a shrinking share of a large one (upstream's formula).
fn enough(nodes: usize) -> usize {
    if nodes < MIN_FEASIBLE {
        return nodes;
    }
    let percent = (50 - nodes as i64 / 125).max(5) as usize;
    (nodes * percent / 100).max(MIN_FEASIBLE)
}

/// Decides where `pod` goes. `start` is where the last search ended, `tie` any number.
pub fn schedule(
    plugins: &[Box<dyn Plugin>],
    pod: &PodInfo,
    snapshot: &Snapshot,
    start: usize,
    tie: u64,
) -> Result<Placement, Unfit> {
    let prepared = prepare(plugins, pod, snapshot)?;
    let total = snapshot.len();
    let wanted = enough(total);
    let mut feasible: Vec<&NodeInfo> = Vec::new();
    let mut unfit = Unfit::default();
    let mut looked = 0;
    for offset in 0..total {
        looked = offset + 1;
        let Some(node) = snapshot.at((start + offset) % total).filter(|n| n.node.is_some()) else { continue };
        unfit.nodes += 1;
        if prepared.only.as_ref().is_some_and(|only| !only.iter().any(|n| **n == *node.name)) {
            let rejection = Rejection::lasting("node(s) didn't satisfy plugin(s) [NodeAffinity]");
            let index = plugins.iter().position(|p| p.name() == "NodeAffinity").unwrap_or_default();
            unfit.rejections.insert(node.name.clone(), (index, rejection));
            continue;
        }
        match check_with_nominated(&prepared, pod, node, snapshot) {
            Ok(()) => feasible.push(node),
            Err(rejection) => {
                unfit.rejections.insert(node.name.clone(), rejection);
            }
        }
        if feasible.len() == wanted {
            break;
        }
    }
    let next_start = if total == 0 { 0 } else { (start + looked) % total };
    match feasible.as_slice() {
        [] => {
            unfit.plugins = unfit.rejections.values().map(|(index, _)| *index).collect();
            unfit.plugins.sort_unstable();
            unfit.plugins.dedup();
            Err(unfit)
        }
        [only] => Ok(Placement { node: only.name.to_string(), next_start }),
        nodes => Ok(Placement { node: best(plugins, pod, snapshot, nodes, tie), next_start }),
    }
}

/// Room promised to pods that preempted others counts as taken for pods of the same or lower priority.
fn check_with_nominated(
    prepared: &Prepare<'_>,
    pod: &PodInfo,
    node: &NodeInfo,
    snapshot: &Snapshot,
) -> Result<(), (usize, Rejection)> {
    let promised = snapshot.nominated.get(&*node.name).map(Vec::as_slice).unwrap_or_default();
    let mut ahead = promised.iter().filter(|p| p.uid != pod.uid && p.priority >= pod.priority).peekable();
    if ahead.peek().is_some() {
        let mut crowded = node.clone();
        ahead.for_each(|p| crowded.add(p));
        prepared.check(&crowded)?;
    }
    prepared.check(node)
}

fn best(plugins: &[Box<dyn Plugin>], pod: &PodInfo, snapshot: &Snapshot, nodes: &[&NodeInfo], tie: u64) -> String {
    let mut totals = vec![0_i64; nodes.len()];
    for plugin in plugins {
        let Some(scores) = plugin.score(pod, snapshot, nodes) else { continue };
        for (total, score) in totals.iter_mut().zip(scores) {
            *total += score * plugin.weight();
        }
    }
    let most = totals.iter().copied().max().unwrap_or(0);
    let winners: Vec<&&NodeInfo> = nodes.iter().zip(&totals).filter(|(_, t)| **t == most).map(|(n, _)| n).collect();
    winners[(tie % winners.len() as u64) as usize].name.to_string()
}
