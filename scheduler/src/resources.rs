//! Amounts of resources as whole numbers, and what a pod requests.

use std::collections::BTreeMap;

use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

/// How much of something. One quantity fits into 64 bits; a sum of those that users write need not.
pub type Amount = i128;

/// What a container without a request counts as in scoring (upstream's `DefaultMilliCPURequest`, `DefaultMemoryRequest`).
const UNSET_MILLI_CPU: Amount = 100;
const UNSET_MEMORY: Amount = 200 * 1024 * 1024;

/// Amounts: CPU in thousandths of a core, memory and ephemeral storage in bytes, anything else in its own units.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a core.
    pub milli_cpu: Amount,
    /// Bytes.
    pub memory: Amount,
    /// Bytes.
    pub ephemeral_storage: Amount,
    /// Extended resources and huge pages.
    pub scalar: BTreeMap<String, Amount>,
}

/// A quantity's value rounded up, 0 where it cannot be read (validation keeps such out of the store).
pub fn value(text: &Text) -> i64 {
    text.0.parse::<Quantity>().map_or(0, |q| q.value())
}

fn milli(text: &Text) -> i64 {
    text.0.parse::<Quantity>().map_or(0, |q| q.milli_value())
}

impl Resources {
    /// Reads a resource list; `pods` is not a resource that containers request and is left out.
    pub fn of(list: Option<&BTreeMap<String, Text>>) -> Self {
        let mut out = Self::default();
        for (name, quantity) in list.into_iter().flatten() {
            match name.as_str() {
                "cpu" => out.milli_cpu = milli(quantity).into(),
                "memory" => out.memory = value(quantity).into(),
                "ephemeral-storage" => out.ephemeral_storage = value(quantity).into(),
                "pods" => {}
                other => {
                    out.scalar.insert(other.to_owned(), value(quantity).into());
                }
            }
        }
        out
    }

    /// Adds `other`.
    pub fn add(&mut self, other: &Self) {
        self.merge(other, |a, b| a + b);
    }

    /// Takes `other` away.
    pub fn subtract(&mut self, other: &Self) {
        self.merge(other, |a, b| a - b);
    }

    /// Raises each amount to at least `other`'s.
    pub fn raise(&mut self, other: &Self) {
        self.merge(other, Amount::max);
    }

    fn merge(&mut self, other: &Self, f: impl Fn(Amount, Amount) -> Amount) {
        self.milli_cpu = f(self.milli_cpu, other.milli_cpu);
        self.memory = f(self.memory, other.memory);
        self.ephemeral_storage = f(self.ephemeral_storage, other.ephemeral_storage);
        for (name, amount) in &other.scalar {
            let mine = self.scalar.entry(name.clone()).or_default();
            *mine = f(*mine, *amount);
        }
    }
}

/// A pod's requests: the greater of what runs together at any time, plus overhead (KEP-753 for restartable init containers,
/// KEP-2837 for pod-level requests).
pub fn requests(pod: &Pod) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    total(spec, |requirements| Resources::of(requirements.and_then(|r| r.requests.as_ref())))
}

/// The same with a small assumed request where a container has none: (milli CPU, memory). What scoring counts with.
pub fn scored_requests(pod: &Pod) -> (Amount, Amount) {
    let Some(spec) = &pod.spec else { return (0, 0) };
    let all = total(spec, |requirements| {
        let list = requirements.and_then(|r| r.requests.as_ref());
        let mut one = Resources::of(list);
        if !list.is_some_and(|l| l.contains_key("cpu")) {
            one.milli_cpu = UNSET_MILLI_CPU;
        }
        if !list.is_some_and(|l| l.contains_key("memory")) {
            one.memory = UNSET_MEMORY;
        }
        one
    });
    (all.milli_cpu, all.memory)
}

fn total(spec: &PodSpec, of: impl Fn(Option<&ResourceRequirements>) -> Resources) -> Resources {
    let mut running = Resources::default();
    for container in &spec.containers {
        running.add(&of(container.resources.as_ref()));
    }
    let mut sidecars = Resources::default();
    let mut starting = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let one = of(container.resources.as_ref());
        let mut now = sidecars.clone();
        now.add(&one);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars = now.clone();
        }
        starting.raise(&now);
    }
    running.add(&sidecars);
    running.raise(&starting);
    let pod_level = Resources::of(spec.resources.as_ref().and_then(|r| r.requests.as_ref()));
    let named = |name: &str| spec.resources.as_ref().and_then(|r| r.requests.as_ref()).is_some_and(|l| l.contains_key(name));
    if named("cpu") {
        running.milli_cpu = pod_level.milli_cpu;
    }
    if named("memory") {
        running.memory = pod_level.memory;
    }
    running.add(&Resources::of(spec.overhead.as_ref()));
    running
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_greatest_moment_of_a_pod_counts() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "initContainers": [
                {"name": "big", "resources": {"requests": {"cpu": "2", "memory": "10Mi"}}},
                {"name": "sidecar", "restartPolicy": "Always", "resources": {"requests": {"cpu": "500m"}}},
                {"name": "after", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}},
            ],
            "containers": [
                {"name": "a", "resources": {"requests": {"cpu": "250m", "memory": "64Mi", "example.com/gpu": "1"}}},
                {"name": "b", "resources": {"requests": {"cpu": "100m"}}},
            ],
            "overhead": {"cpu": "10m"},
        }}))
        .unwrap();
        let expected = Resources {
            milli_cpu: 2010,
            memory: 1 << 30,
            ephemeral_storage: 0,
            scalar: [("example.com/gpu".to_owned(), 1)].into(),
        };
        assert_eq!(requests(&pod), expected);
    }

    #[test]
    fn requests_add_up_however_large() {
        let most = json!({"resources": {"requests": {"memory": "9223372036854775807"}}});
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [most, most]}})).unwrap();
        let mut all = requests(&pod);
        assert_eq!(all.memory, Amount::from(u64::MAX) - 1);
        all.add(&requests(&pod));
        all.subtract(&requests(&pod));
        assert_eq!(all, requests(&pod));
    }

    #[test]
    fn containers_without_requests_weigh_a_little_in_scoring() {
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}})).unwrap();
        assert_eq!(scored_requests(&pod), (200, 400 * 1024 * 1024));
    }
}
