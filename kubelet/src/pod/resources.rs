//! Requests and limits: sums over a pod, QoS class, cgroup values, out-of-memory scores.

use std::collections::BTreeMap;

use api::quantity::Quantity;
use k8s_openapi::{
    api::core::v1::{Container, Pod},
    apimachinery::pkg::api::resource::Quantity as ApiQuantity,
};

use super::spec::{self, Role};

/// Amounts by resource name; cpu in thousandths, everything else in units. Sums of what users write end at the largest number.
pub type Amounts = BTreeMap<String, i64>;

/// A pod's quality-of-service class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Qos {
    /// Every container's limits equal its requests.
    Guaranteed,
    /// Something is requested.
    Burstable,
    /// Nothing is requested.
    BestEffort,
}

impl Qos {
    /// As `status.qosClass` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// A quantity as a plain number: thousandths for cpu.
pub fn amount(resource: &str, quantity: &ApiQuantity) -> i64 {
    let quantity = Quantity::of(quantity);
    if resource == "cpu" { quantity.milli_value() } else { quantity.value() }
}

fn amounts(list: Option<&BTreeMap<String, ApiQuantity>>) -> Amounts {
    list.into_iter().flatten().map(|(name, q)| (name.clone(), amount(name, q))).collect()
}

/// A container's requests; a limit stands in for a missing request, as the API server's defaults do.
pub fn requests(container: &Container) -> Amounts {
    let mut requests = limits(container);
    let given = container.resources.as_ref().and_then(|r| r.requests.as_ref());
    requests.extend(amounts(given));
    requests
}

/// A container's limits.
pub fn limits(container: &Container) -> Amounts {
    amounts(container.resources.as_ref().and_then(|r| r.limits.as_ref()))
}

/// Adds `more`.
pub fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, value) in more {
        let entry = sum.entry(name.clone()).or_default();
        *entry = entry.saturating_add(*value);
    }
}

fn at_least(sum: &mut Amounts, other: &Amounts) {
    for (name, value) in other {
        let entry = sum.entry(name.clone()).or_default();
        *entry = (*entry).max(*value);
    }
}

/// What a pod needs at its peak: containers and sidecars together, or an init container with the sidecars before it, plus
/// overhead.
fn peak(pod: &Pod, of: impl Fn(&Container) -> Amounts) -> Amounts {
    let (mut running, mut sidecars, mut init_peak) = (Amounts::new(), Amounts::new(), Amounts::new());
    for m in spec::members(pod) {
        let own = of(&m.container);
        match m.role {
            Role::Main => add(&mut running, &own),
            Role::Sidecar => {
                add(&mut sidecars, &own);
                at_least(&mut init_peak, &sidecars);
            }
            Role::Init => {
                let mut with = sidecars.clone();
                add(&mut with, &own);
                at_least(&mut init_peak, &with);
            }
            Role::Ephemeral => {}
        }
    }
    add(&mut running, &sidecars);
    at_least(&mut running, &init_peak);
    running
}

fn pod_level(pod: &Pod) -> Option<&k8s_openapi::api::core::v1::ResourceRequirements> {
    pod.spec.as_ref()?.resources.as_ref()
}

/// What the pod asks the node for.
pub fn pod_requests(pod: &Pod) -> Amounts {
    let mut sum = peak(pod, requests);
    sum.extend(amounts(pod_level(pod).and_then(|r| r.requests.as_ref())));
    add(&mut sum, &amounts(pod.spec.as_ref().and_then(|s| s.overhead.as_ref())));
    sum
}

/// What the pod is held to.
pub fn pod_limits(pod: &Pod) -> Amounts {
    let mut sum = peak(pod, limits);
    sum.extend(amounts(pod_level(pod).and_then(|r| r.limits.as_ref())));
    let overhead = amounts(pod.spec.as_ref().and_then(|s| s.overhead.as_ref()));
    for (name, value) in overhead {
        if let Some(limit) = sum.get_mut(&name) {
            *limit = limit.saturating_add(value);
        }
    }
    sum
}

/// What the pod as a whole is held to of one resource: it is if it says so itself, or if every container is.
pub fn pod_limit(pod: &Pod, resource: &str) -> Option<i64> {
    let declared = |of: &Amounts| of.get(resource).is_some_and(|value| *value > 0);
    let own = amounts(pod_level(pod).and_then(|r| r.limits.as_ref()));
    let members = spec::members(pod);
    let mut containers = members.iter().filter(|m| m.role != Role::Ephemeral);
    let limited = declared(&own) || containers.all(|m| declared(&limits(&m.container)));
    limited.then(|| pod_limits(pod).get(resource).copied()).flatten()
}

/// The pod's class: only cpu and memory count, of all containers.
pub fn qos(pod: &Pod) -> Qos {
    let counts = |list: &Amounts| -> Amounts {
        list.iter()
            .filter(|(n, v)| matches!(n.as_str(), "cpu" | "memory") && **v > 0)
            .map(|(n, v)| (n.clone(), *v))
            .collect()
    };
    if let Some(level) = pod_level(pod).filter(|r| r.requests.is_some() || r.limits.is_some()) {
        let (r, l) = (counts(&amounts(level.requests.as_ref())), counts(&amounts(level.limits.as_ref())));
        return match (r.is_empty() && l.is_empty(), l.len() == 2 && (r.is_empty() || r == l)) {
            (true, _) => Qos::BestEffort,
            (_, true) => Qos::Guaranteed,
            _ => Qos::Burstable,
        };
    }
    let (mut any, mut all) = (false, true);
    for m in spec::members(pod).iter().filter(|m| m.role != Role::Ephemeral) {
        let (r, l) = (counts(&requests(&m.container)), counts(&limits(&m.container)));
        any |= !r.is_empty() || !l.is_empty();
        all &= l.len() == 2 && r == l;
    }
    match (any, all) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

/// A running container whose requests or limits changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resize {
    /// The container.
    pub name: String,
    /// A changed resource's policy asks for a restart.
    pub restart: bool,
    /// The new requests.
    pub requests: Amounts,
    /// The new limits.
    pub limits: Amounts,
}

/// Which containers a changed spec resizes.
pub fn resizes(old: &Pod, new: &Pod) -> Vec<Resize> {
    let before = spec::members(old);
    let mut changes = Vec::new();
    for m in spec::members(new) {
        let Some(old) = before.iter().find(|b| b.container.name == m.container.name) else { continue };
        let (requests, limits) = (requests(&m.container), limits(&m.container));
        let (was_requests, was_limits) = (self::requests(&old.container), self::limits(&old.container));
        let changed = |name: &str| requests.get(name) != was_requests.get(name) || limits.get(name) != was_limits.get(name);
        if changed("cpu") || changed("memory") {
            let policies = m.container.resize_policy.iter().flatten();
            let restart = policies.into_iter().any(|p| changed(&p.resource_name) && p.restart_policy == "RestartContainer");
            changes.push(Resize { name: m.container.name.clone(), restart, requests, limits });
        }
    }
    changes
}

/// `cpu.shares` of cgroup v1 for thousandths of a core.
pub fn cpu_shares(milli: i64) -> i64 {
    if milli <= 0 { 2 } else { (milli.saturating_mul(1024) / 1000).clamp(2, 262_144) }
}

/// `cpu.weight` of cgroup v2 for v1 shares.
pub fn cpu_weight(shares: i64) -> i64 {
    1 + ((shares.clamp(2, 262_144) - 2) * 9999) / 262_142
}

/// The scheduling period in microseconds.
pub const CPU_PERIOD_US: i64 = 100_000;

/// The kernel's least and most of `cpu.cfs_quota_us` (`MAX_BW` in its `sched.h`).
const QUOTA_US: (i64, i64) = (1000, (1 << 44) - 1);

/// `cpu.cfs_quota_us` for a limit in thousandths; 0 is no limit.
pub fn cpu_quota(milli: i64) -> i64 {
    let (least, most) = QUOTA_US;
    if milli <= 0 { 0 } else { milli.saturating_mul(CPU_PERIOD_US / 1000).clamp(least, most) }
}

/// How eagerly the kernel kills a container of the pod when memory runs out (KEP-753 for sidecars).
pub fn oom_score_adj(pod: &Pod, container: &Container, role: Role, node_memory: i64) -> i64 {
    if pod.spec.as_ref().is_some_and(|s| s.priority.is_some_and(|p| p >= 2_000_000_000)) {
        return -997;
    }
    match qos(pod) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let of = |c: &Container| requests(c).get("memory").copied().unwrap_or(0);
            let score = |request: i64| 1000 - request.saturating_mul(1000) / node_memory.max(1);
            let mut adj = score(of(container));
            if role == Role::Sidecar {
                // Never killed before the main containers it serves.
                let least = spec::members(pod)
                    .iter()
                    .filter(|m| m.role == Role::Main)
                    .map(|m| score(of(&m.container)))
                    .min()
                    .unwrap_or(adj);
                adj = adj.min(least);
            }
            if adj < 3 {
                3
            } else if adj == 1000 {
                999
            } else {
                adj
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({ "spec": spec })).unwrap()
    }

    #[test]
    fn classes() {
        let with = |resources: Value| qos(&pod(json!({"containers": [{"name": "a", "resources": resources}]})));
        let classes = [
            with(json!({})),
            with(json!({"requests": {"cpu": "100m"}})),
            with(json!({"limits": {"cpu": "1", "memory": "1Gi"}})),
            with(json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}})),
            with(json!({"limits": {"cpu": "1"}})),
            with(json!({"limits": {"ephemeral-storage": "1Gi"}})),
        ];
        use Qos::{BestEffort, Burstable, Guaranteed};
        assert_eq!(classes, [BestEffort, Burstable, Guaranteed, Burstable, Burstable, BestEffort]);
    }

    #[test]
    fn a_pods_peak_counts_sidecars_with_everything_after_them() {
        let p = pod(json!({
            "overhead": {"cpu": "10m"},
            "initContainers": [
                {"name": "i1", "resources": {"requests": {"cpu": "900m"}}},
                {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                {"name": "i2", "resources": {"requests": {"cpu": "850m"}}}],
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "200m", "memory": "1Mi"}}}]}));
        let expected: Amounts = [("cpu".to_owned(), 960), ("memory".to_owned(), 1 << 20)].into();
        assert_eq!(pod_requests(&p), expected);
    }

    #[test]
    fn cgroup_values() {
        assert_eq!([0, 1, 100, 1000, i64::MAX].map(cpu_shares), [2, 2, 102, 1024, 262_144]);
        assert_eq!([2, 1024, 262_144].map(cpu_weight), [1, 39, 10_000]);
        assert_eq!([0, 5, 500, i64::MAX].map(cpu_quota), [0, 1000, 50_000, 17_592_186_044_415]);
    }

    #[test]
    fn oom_scores() {
        let score = |resources: Value| {
            let p = pod(json!({"containers": [{"name": "a", "resources": resources}]}));
            let c = spec::members(&p)[0].container.clone();
            oom_score_adj(&p, &c, Role::Main, 1000 << 20)
        };
        let scores = [
            score(json!({})),
            score(json!({"limits": {"cpu": "1", "memory": "1Gi"}})),
            score(json!({"requests": {"memory": "100Mi"}})),
            score(json!({"requests": {"cpu": "1"}})),
            score(json!({"requests": {"memory": "2000Mi"}})),
        ];
        assert_eq!(scores, [1000, -997, 900, 999, 3]);
    }
}
