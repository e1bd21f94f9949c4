//! Prefers nodes that have the pod's images, the more bytes the better; an image that few nodes have counts less, so that
//! pods don't pile up where it happened to be pulled first.

use crate::{
    framework::{MAX_SCORE, Plugin},
    pod::PodInfo,
    snapshot::{NodeInfo, Snapshot},
};

/// Below this nothing is gained, above the other (a container) nothing more (upstream's thresholds).
const LEAST_BYTES: i64 = 23 << 20;
const MOST_BYTES: i64 = 1000 << 20;

pub struct ImageLocality;

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn score(&self, pod: &PodInfo, snapshot: &Snapshot, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
        let spec = pod.pod.spec.as_ref()?;
        let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
        let images: Vec<String> = containers.filter_map(|c| c.image.as_deref()).map(full_name).collect();
        let total = snapshot.nodes().count() as i64;
        if images.is_empty() || total == 0 || !nodes.iter().any(|n| images.iter().any(|i| n.images.contains_key(i))) {
            return None;
        }
        let spread: Vec<i64> =
            images.iter().map(|image| snapshot.nodes().filter(|n| n.images.contains_key(image)).count() as i64).collect();
        let most = MOST_BYTES * images.len() as i64;
        let score = |node: &&NodeInfo| {
            let bytes: i64 =
                images.iter().zip(&spread).map(|(i, have)| node.images.get(i).copied().unwrap_or(0) * have / total).sum();
            MAX_SCORE * (bytes.clamp(LEAST_BYTES, most) - LEAST_BYTES) / (most - LEAST_BYTES)
        };
        Some(nodes.iter().map(score).collect())
    }
}

/// Nodes report names with a tag or a digest: one without either means `latest`.
fn full_name(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || last.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}
