//! Gives each node its range of pod addresses out of the cluster's.
//!
//! Watches nodes; owns `spec.podCIDR` and `spec.podCIDRs` of nodes that have none. What is taken is read off the nodes themselves at
//! each decision, one node at a time, and the controller waits for its own write: nothing has to be remembered, so nothing can be
//! wrong after a restart. Runs with `--allocate-node-cidrs` only.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use client::{Change, Error, Informer, Key, Next, Queue, Recorder, Step, is_not_found};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api,
    api::{Patch, PatchParams},
};

use crate::{config::parse_cidrs, context::Context};

const NAME: &str = "cidrAllocator";

/// A range of addresses: the first address as a number, and the prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Range {
    first: u128,
    length: u8,
    ipv6: bool,
}

impl Range {
    fn new(address: IpAddr, length: u8) -> Self {
        let (number, ipv6) = match address {
            IpAddr::V4(a) => (u128::from(u32::from(a)), false),
            IpAddr::V6(a) => (u128::from(a), true),
        };
        let bits = if ipv6 { 128 } else { 32 };
        let host = u32::from(bits - length);
        let first = if host >= 128 { 0 } else { (number >> host) << host };
        Self { first, length, ipv6 }
    }

    fn parse(text: &str) -> Option<Self> {
        let (address, length) = parse_cidrs(text).ok()?.into_iter().next()?;
        Some(Self::new(address, length))
    }

    fn bits(&self) -> u8 {
        if self.ipv6 { 128 } else { 32 }
    }

    fn size(&self) -> u128 {
        1u128.checked_shl(u32::from(self.bits() - self.length)).unwrap_or(u128::MAX)
    }

    fn overlaps(&self, other: &Self) -> bool {
        let last = |r: &Self| r.first.saturating_add(r.size() - 1);
        self.ipv6 == other.ipv6 && self.first <= last(other) && other.first <= last(self)
    }

    fn text(&self) -> String {
        let address =
            if self.ipv6 { Ipv6Addr::from(self.first).to_string() } else { Ipv4Addr::from(self.first as u32).to_string() };
        format!("{address}/{}", self.length)
    }
}

/// The first part of `cluster` of this prefix length that overlaps nothing taken.
fn first_free(cluster: Range, length: u8, taken: &HashSet<Range>) -> Option<Range> {
    if length < cluster.length || length > cluster.bits() {
        return None;
    }
    let parts = 1u128.checked_shl(u32::from(length - cluster.length)).unwrap_or(u128::MAX);
    let part = |n: u128| Range { first: cluster.first + n * Range { length, ..cluster }.size(), length, ..cluster };
    // Nodes normally hold parts of exactly this size: then a look-up decides; odd sizes are compared one by one.
    let odd: Vec<_> = taken.iter().filter(|t| t.length != length).collect();
    (0..parts).map(part).find(|p| !taken.contains(p) && !odd.iter().any(|t| t.overlaps(p)))
}

fn taken<'a>(nodes: impl Iterator<Item = &'a Node>) -> HashSet<Range> {
    let cidrs = nodes.flat_map(|n| {
        let spec = n.spec.as_ref();
        spec.iter().flat_map(|s| s.pod_cidrs.iter().flatten().chain(&s.pod_cidr)).cloned().collect::<Vec<_>>()
    });
    cidrs.filter_map(|c| Range::parse(&c)).collect()
}

fn has_range(node: &Node) -> bool {
    node.spec.as_ref().is_some_and(|s| s.pod_cidr.as_ref().is_some_and(|c| !c.is_empty()))
}

struct Controller {
    ctx: Context,
    recorder: Recorder,
    nodes: Informer<Node>,
    clusters: Vec<(Range, u8)>,
    /// Ranges that are no nodes': the Services'.
    reserved: Vec<Range>,
}

/// Runs the controller until the context's shutdown.
pub async fn run(ctx: Context) {
    if !ctx.config.allocate_node_cidrs {
        return;
    }
    let cidrs = parse_cidrs(ctx.config.cluster_cidr.as_deref().unwrap_or_default()).unwrap_or_default();
    let clusters = cidrs.into_iter().map(|(address, length)| {
        let mask = if address.is_ipv4() { ctx.config.node_cidr_mask_size_ipv4 } else { ctx.config.node_cidr_mask_size_ipv6 };
        (Range::new(address, length), mask)
    });
    let services = parse_cidrs(ctx.config.service_cluster_ip_range.as_deref().unwrap_or_default()).unwrap_or_default();
    let queue = Queue::new("node-ipam-controller");
    let this = Arc::new(Controller {
        recorder: ctx.recorder.for_component(NAME),
        nodes: ctx.informer(),
        clusters: clusters.collect(),
        reserved: services.into_iter().map(|(address, length)| Range::new(address, length)).collect(),
        ctx: ctx.clone(),
    });
    if ctx.until_stopped(this.nodes.synced()).await.is_none() {
        return;
    }
    this.nodes.on_change({
        let (queue, this) = (queue.clone(), this.clone());
        move |change| match change {
            // A range is free again: nodes that wait for one look again.
            Change::Deleted(_) => {
                this.nodes.list().iter().filter(|n| !has_range(n)).for_each(|n| queue.add(Key::of(&n.metadata)));
            }
            _ if has_range(change.object()) => {}
            _ => queue.add(Key::of(&change.object().metadata)),
        }
    });
    // One at a time: two nodes decided about at once would be given the same range.
    client::controller::run("node-ipam-controller", queue, 1, ctx.shutdown.clone(), move |key| this.clone().reconcile(key))
        .await;
}

impl Controller {
    async fn reconcile(self: Arc<Self>, key: Key) -> Result<Next, Error> {
        let Some(node) = self.nodes.get(&key).filter(|n| !has_range(n)) else { return Ok(Next::Done) };
        let nodes = self.nodes.list();
        let mut taken = taken(nodes.iter().map(|n| &**n));
        taken.extend(&self.reserved);
        let ranges: Option<Vec<_>> =
            self.clusters.iter().map(|(cluster, mask)| first_free(*cluster, *mask, &taken)).collect();
        let Some(ranges) = ranges else {
            let message = format!("Node {} status is now: CIDRNotAvailable", key.name);
            self.recorder.normal(&*node, "CIDRNotAvailable", message);
            return Ok(Next::Done);
        };
        let texts: Vec<_> = ranges.iter().map(Range::text).collect();
        let patch = serde_json::json!({"metadata": {"resourceVersion": node.metadata.resource_version},
            "spec": {"podCIDR": texts.first(), "podCIDRs": texts}});
        let api: Api<Node> = Api::all(self.ctx.client.clone());
        match api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(written) => self.nodes.ensure_seen(&written).await.map(|()| Next::Done),
            Err(error) if is_not_found(&error) => Ok(Next::Done),
            Err(error) => Err(error).step("giving a node its pod addresses"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(text: &str) -> Range {
        Range::parse(text).expect("a range")
    }

    #[test]
    fn the_first_part_that_nobody_holds() {
        let free = |cluster: &str, length, taken: &[&str]| {
            first_free(range(cluster), length, &taken.iter().map(|t| range(t)).collect()).map(|r| r.text())
        };
        assert_eq!(
            [
                free("10.42.0.0/16", 24, &[]),
                free("10.42.0.0/16", 24, &["10.42.0.0/24", "10.42.2.0/24"]),
                free("10.42.0.0/16", 24, &["10.42.0.0/23"]),
                free("10.42.0.0/24", 24, &["10.42.0.0/24"]),
                free("10.42.0.0/16", 8, &[]),
                free("fd00::/56", 64, &["fd00::/64"]),
            ],
            [
                Some("10.42.0.0/24".to_owned()),
                Some("10.42.1.0/24".to_owned()),
                Some("10.42.2.0/24".to_owned()),
                None,
                None,
                Some("fd00:0:0:1::/64".to_owned()),
            ]
        );
    }

    proptest! {
        /// However nodes come and go: no two ranges overlap, and one is found while there is room.
        #[test]
        fn ranges_never_overlap(steps in proptest::collection::vec((any::<bool>(), 0..16usize, 26..29u8), 0..40)) {
            let cluster = range("10.42.0.0/24");
            let mut held: Vec<Range> = Vec::new();
            for (give, at, length) in steps {
                if give {
                    let taken: HashSet<_> = held.iter().copied().collect();
                    if let Some(new) = first_free(cluster, length, &taken) {
                        prop_assert!(held.iter().all(|h| !h.overlaps(&new)) && cluster.overlaps(&new));
                        held.push(new);
                    } else {
                        let used: u128 = held.iter().map(Range::size).sum();
                        prop_assert!(used > 0);
                    }
                } else if at < held.len() {
                    held.remove(at);
                }
            }
        }
    }
}
