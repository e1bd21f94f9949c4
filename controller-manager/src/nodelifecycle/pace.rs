//! How fast the nodes of a zone may be tainted NoExecute, by upstream's rule: one after the other, slower or not at all
//! while much of the zone is not ready, because then the fault is more likely the zone's network than its nodes.

use std::{collections::HashMap, time::Duration};

use k8s_openapi::api::core::v1::Node;
use tokio::time::Instant;

use crate::Config;

const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";
/// A zone of as few nodes that are not ready is never held to be disrupted.
const ALWAYS_FEW: usize = 2;

/// A zone's nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Those that are ready.
    pub ready: usize,
    /// The others.
    pub not_ready: usize,
}

impl Health {
    /// How many of the zone's nodes may be tainted each second.
    ///
    /// # Examples
    ///
    /// By the defaults 0.1 (one every ten seconds); with three of four nodes not ready 0, with 33 of 60 0.01. With none ready 0.1 again: the
    /// zone is gone as a whole, and its pods are needed in another.
    pub fn rate(self, config: &Config) -> f64 {
        let size = self.ready + self.not_ready;
        let share = self.not_ready as f64 / size.max(1) as f64;
        let disrupted = self.ready > 0 && self.not_ready > ALWAYS_FEW && share >= config.unhealthy_zone_threshold;
        match disrupted {
            false => config.node_eviction_rate,
            true if size > config.large_cluster_size_threshold => config.secondary_node_eviction_rate,
            true => 0.0,
        }
    }
}

/// The zone that a node is in, by its labels; nodes without any are in one together.
pub fn zone_of(node: &Node) -> (String, String) {
    let label = |key| node.metadata.labels.as_ref().and_then(|labels| labels.get(key)).cloned().unwrap_or_default();
    (label(REGION), label(ZONE))
}

/// When a node of each zone was tainted last.
#[derive(Default)]
pub struct Pace(HashMap<(String, String), Instant>);

/// Why no node may be tainted now.
#[derive(Debug, PartialEq, Eq)]
pub enum Hold {
    /// The next one may be after this time.
    For(Duration),
    /// None may before the zone's health changes.
    UntilBetter,
}

impl Pace {
    /// Takes leave to taint a node of this zone now.
    pub fn take(&mut self, zone: (String, String), rate: f64, now: Instant) -> Result<(), Hold> {
        let pause = match Duration::try_from_secs_f64(rate.recip()) {
            Ok(pause) if rate > 0.0 => pause,
            _ => return Err(Hold::UntilBetter),
        };
        let left = self.0.get(&zone).map_or(Duration::ZERO, |last| (*last + pause).saturating_duration_since(now));
        if !left.is_zero() {
            return Err(Hold::For(left));
        }
        self.0.insert(zone, now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_that_is_mostly_away_is_left_alone() {
        let config = Config::default();
        let rate = |ready, not_ready| Health { ready, not_ready }.rate(&config);
        let (usual, slow) = (config.node_eviction_rate, config.secondary_node_eviction_rate);
        assert_eq!(
            [rate(1, 2), rate(1, 3), rate(0, 4), rate(3, 3), rate(27, 33), rate(28, 32)],
            [usual, 0.0, usual, usual, slow, usual]
        );
    }

    #[test]
    fn nodes_of_a_zone_are_tainted_one_after_the_other() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let zone = |name: &str| (String::new(), name.to_owned());
        let at = |seconds| start + Duration::from_secs(seconds);
        let told = [
            pace.take(zone("a"), 0.1, at(0)),
            pace.take(zone("a"), 0.1, at(4)),
            pace.take(zone("b"), 0.1, at(4)),
            pace.take(zone("b"), 0.0, at(40)),
            pace.take(zone("a"), 0.1, at(10)),
        ];
        assert_eq!(told, [Ok(()), Err(Hold::For(Duration::from_secs(6))), Ok(()), Err(Hold::UntilBetter), Ok(())]);
    }
}
