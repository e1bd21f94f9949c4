//! The quality-of-service class of a pod.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{PodSpec, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};

use crate::quantity::Quantity as Amount;

const COMPUTE: [&str; 2] = ["cpu", "memory"];

/// `Guaranteed`, `Burstable` or `BestEffort`, from the requests and limits of cpu and memory (of the pod where it has its own,
/// else of all its containers; KEP-2837).
pub fn qos_class(spec: &PodSpec) -> &'static str {
    let pod_level = spec.resources.as_ref().filter(|resources| sets_any(resources));
    let parts: Vec<&ResourceRequirements> = match pod_level {
        Some(resources) => vec![resources],
        None => {
            let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
            let empty = const { &ResourceRequirements { claims: None, limits: None, requests: None } };
            containers.map(|container| container.resources.as_ref().unwrap_or(empty)).collect()
        }
    };
    if !parts.iter().any(|resources| sets_any(resources)) {
        "BestEffort"
    } else if parts.iter().all(|resources| limits_all(resources)) {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

fn positive<'a>(list: Option<&'a BTreeMap<String, Quantity>>, name: &str) -> Option<&'a Quantity> {
    list?.get(name).filter(|quantity| Amount::of(quantity).sign() > 0)
}

fn sets_any(resources: &ResourceRequirements) -> bool {
    COMPUTE.iter().any(|name| {
        positive(resources.requests.as_ref(), name).is_some() || positive(resources.limits.as_ref(), name).is_some()
    })
}

fn limits_all(resources: &ResourceRequirements) -> bool {
    COMPUTE.iter().all(|name| match positive(resources.limits.as_ref(), name) {
        None => false,
        Some(limit) => positive(resources.requests.as_ref(), name).is_none_or(|request| same(request, limit)),
    })
}

/// Whether two quantities are the same amount, however written.
fn same(a: &Quantity, b: &Quantity) -> bool {
    a == b || Amount::of(a) == Amount::of(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn class(spec: serde_json::Value) -> &'static str {
        qos_class(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn classes() {
        let all = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(class(json!({"containers": [{"name": "a"}]})), "BestEffort");
        assert_eq!(class(json!({"containers": [{"name": "a", "resources": {"limits": all}}]})), "Guaranteed");
        let same = json!({"limits": all, "requests": {"cpu": "1000m", "memory": "1024Mi"}});
        assert_eq!(class(json!({"containers": [{"name": "a", "resources": same}]})), "Guaranteed");
        assert_eq!(class(json!({"containers": [{"name": "a", "resources": {"limits": all}}, {"name": "b"}]})), "Burstable");
        let pod = json!({"resources": {"limits": all}, "containers": [{"name": "a"}]});
        assert_eq!(class(pod), "Guaranteed");
        assert_eq!(class(json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "0"}}}]})), "BestEffort");
    }
}
