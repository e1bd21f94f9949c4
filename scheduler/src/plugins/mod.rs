//! The rules, one a file, in upstream's order of running.

mod balanced;
mod fit;
mod image_locality;
mod inter_pod;
mod node_affinity;
mod node_name;
mod node_ports;
mod spread;
mod taints;
mod unschedulable;

pub use node_affinity::{matches_required, matches_selector_terms};
pub use taints::first_untolerated;

use crate::framework::Plugin;

/// The default profile.
pub fn default_plugins() -> Vec<Box<dyn Plugin>> {
    vec![
        Box::new(unschedulable::NodeUnschedulable),
        Box::new(node_name::NodeName),
        Box::new(taints::TaintToleration),
        Box::new(node_affinity::NodeAffinity),
        Box::new(node_ports::NodePorts),
        Box::new(fit::NodeResourcesFit),
        Box::new(spread::PodTopologySpread),
        Box::new(inter_pod::InterPodAffinity),
        Box::new(balanced::NodeResourcesBalancedAllocation),
        Box::new(image_locality::ImageLocality),
    ]
}
