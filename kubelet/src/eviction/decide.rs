//! When the node is short of something, and who goes: plain functions.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use api::quantity::{Format, Quantity};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use super::signals::{Level, Pressure, Signal, Threshold};
use crate::pod::{resources, spec};

/// What is observed, by signal.
pub type Levels = BTreeMap<Signal, Level>;

/// What is remembered from one look to the next.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Thresholds (by their place) that are crossed, with when that was first seen.
    since: BTreeMap<usize, Timestamp>,
    /// Thresholds whose grace period is over: they stay until what is to be reclaimed is.
    due: BTreeSet<usize>,
    /// When a condition was last seen.
    seen: BTreeMap<Pressure, Timestamp>,
}

/// What a look comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Conditions the node is in.
    pub pressures: BTreeSet<Pressure>,
    /// Thresholds to act on, by their place, the most urgent first.
    pub due: Vec<usize>,
}

impl Memory {
    /// Takes a look into account.
    pub fn look(
        &mut self,
        thresholds: &[Threshold],
        levels: &Levels,
        transition: SignedDuration,
        now: Timestamp,
    ) -> Verdict {
        let short = |threshold: &Threshold, more: bool| {
            levels.get(&threshold.signal).is_some_and(|level| {
                let reclaim = threshold.reclaim.as_ref().filter(|_| more).map_or(0, |reclaim| reclaim.of(level.capacity));
                level.available < threshold.bound.of(level.capacity).saturating_add(reclaim)
            })
        };
        let mut since = BTreeMap::new();
        for (place, threshold) in thresholds.iter().enumerate() {
            if short(threshold, self.due.contains(&place)) {
                since.insert(place, self.since.get(&place).copied().unwrap_or(now));
                self.seen.insert(threshold.signal.pressure(), now);
            }
        }
        self.since = since;
        let over = |place: &usize, first: &Timestamp| {
            let grace = thresholds[*place].grace.unwrap_or_default();
            SignedDuration::try_from(grace).is_ok_and(|grace| now.duration_since(*first) >= grace)
        };
        self.due = self.since.iter().filter(|(place, first)| over(place, first)).map(|(place, _)| *place).collect();
        self.seen.retain(|_, last| now.duration_since(*last) < transition.max(SignedDuration::from_nanos(1)));
        let mut due: Vec<usize> = self.due.iter().copied().collect();
        // Memory first; a hard threshold before a soft one.
        due.sort_by_key(|place| (thresholds[*place].signal, thresholds[*place].grace.is_some()));
        Verdict { pressures: self.seen.keys().copied().collect(), due }
    }
}

/// What a pod uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// By container: memory, and bytes on disk (writable layer and log).
    pub containers: BTreeMap<String, (i64, i64)>,
    /// By volume: bytes on disk.
    pub volumes: BTreeMap<String, i64>,
    /// Files and directories of all of these.
    pub inodes: i64,
    /// Processes.
    pub processes: i64,
}

impl Usage {
    fn memory(&self) -> i64 {
        self.containers.values().map(|(memory, _)| memory).sum()
    }

    fn disk(&self) -> i64 {
        self.containers.values().map(|(_, disk)| disk).chain(self.volumes.values()).sum()
    }
}

/// From here on the cluster cannot do without a pod (upstream's `SystemCriticalPriority`).
pub const SYSTEM_PRIORITY: i32 = 2_000_000_000;

/// Whether a pod must not be evicted: the node's own, and those that the cluster cannot do without.
pub fn is_critical(pod: &Pod) -> bool {
    spec::is_static(pod) || spec::is_mirror(pod) || spec::priority(pod) >= SYSTEM_PRIORITY
}

/// Puts those first that have to go first (upstream's order).
pub fn rank(signal: Signal, pods: &mut [(Pod, Usage)]) {
    let request = |pod: &Pod, name: &str| resources::pod_requests(pod).get(name).copied().unwrap_or(0);
    pods.sort_by_cached_key(|(pod, usage)| {
        let over = match signal {
            Signal::Memory => usage.memory() - request(pod, "memory"),
            Signal::Nodefs | Signal::Imagefs => usage.disk() - request(pod, "ephemeral-storage"),
            Signal::NodefsInodes | Signal::ImagefsInodes => usage.inodes,
            Signal::Pid => usage.processes,
        };
        let exceeds = matches!(signal, Signal::Memory | Signal::Nodefs | Signal::Imagefs) && over > 0;
        (Reverse(exceeds), spec::priority(pod), Reverse(over))
    });
}

/// What an evicted pod's status says.
pub fn message(threshold: &Threshold, level: Level, pod: &Pod, usage: &Usage) -> String {
    let signal = threshold.signal;
    let resource = signal.resource();
    let bound = threshold.bound.print(level.capacity);
    let mut text = format!(
        "The node was low on resource: {resource}. Threshold quantity: {bound}, available: {}. ",
        signal.print(level.available)
    );
    for member in spec::members(pod) {
        let Some((memory, disk)) = usage.containers.get(&member.container.name) else { continue };
        let used = match signal {
            Signal::Memory => *memory,
            Signal::Nodefs | Signal::Imagefs => *disk,
            _ => continue,
        };
        let requests = member.container.resources.as_ref().and_then(|r| r.requests.as_ref());
        let request = requests.and_then(|r| r.get(resource));
        if used > request.map_or(0, |q| resources::amount(resource, q)) {
            text += &format!(
                "Container {} was using {}, request is {}, has larger consumption of {resource}. ",
                member.container.name,
                signal.print(used),
                request.map_or("0", |q| q.0.as_str())
            );
        }
    }
    text
}

/// Whether a pod uses more local storage than it may: what its status says then.
pub fn over_its_limits(pod: &Pod, usage: &Usage) -> Option<String> {
    for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
        let limit = volume.empty_dir.as_ref().and_then(|e| e.size_limit.as_ref());
        let Some(limit) = limit.filter(|limit| resources::amount("memory", limit) > 0) else { continue };
        if usage.volumes.get(&volume.name).is_some_and(|used| *used > resources::amount("memory", limit)) {
            return Some(format!("Usage of EmptyDir volume {:?} exceeds the limit {:?}. ", volume.name, limit.0));
        }
    }
    let all = resources::pod_limits(pod).get("ephemeral-storage").copied().filter(|limit| *limit > 0);
    if let Some(limit) = all.filter(|limit| usage.disk() > *limit) {
        let printed = print_like_the_first(pod, limit);
        return Some(format!("Pod ephemeral local storage usage exceeds the total limit of containers {printed}. "));
    }
    for member in spec::members(pod) {
        let limits = member.container.resources.as_ref().and_then(|r| r.limits.as_ref());
        let Some(limit) = limits.and_then(|l| l.get("ephemeral-storage")) else { continue };
        let used = usage.containers.get(&member.container.name).map_or(0, |(_, disk)| *disk);
        if used > resources::amount("ephemeral-storage", limit) {
            let name = &member.container.name;
            return Some(format!("Container {name} exceeded its local ephemeral storage limit {:?}. ", limit.0));
        }
    }
    None
}

/// A sum of limits, in the form that the first of them was written in.
fn print_like_the_first(pod: &Pod, sum: i64) -> String {
    let first = spec::members(pod).into_iter().find_map(|m| m.container.resources?.limits?.remove("ephemeral-storage"));
    let format = first.map_or(Format::BinarySi, |limit| Quantity::of(&limit).format());
    Quantity::from_units(sum, format).to_string()
}

/// Whether a pod's local storage is limited at all: the others need not be looked at.
pub fn has_limits(pod: &Pod) -> bool {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    let volumes = volumes.filter_map(|v| v.empty_dir.as_ref()).any(|e| e.size_limit.is_some());
    let limited = |c: &k8s_openapi::api::core::v1::Container| {
        c.resources.as_ref().and_then(|r| r.limits.as_ref()).is_some_and(|l| l.contains_key("ephemeral-storage"))
    };
    volumes || spec::members(pod).iter().any(|m| limited(&m.container))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eviction::signals::{Bounds, Graces, bounds, graces, reclaims, thresholds};
    use serde_json::{Value, json};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn memory(available: i64) -> Levels {
        [(Signal::Memory, Level { capacity: 1000, available })].into()
    }

    #[test]
    fn hard_soft_reclaim_and_transition() {
        let all = thresholds(
            &bounds("memory.available<100").unwrap(),
            &bounds("memory.available<200").unwrap(),
            &graces("memory.available=30s").unwrap(),
            &reclaims("memory.available=50").unwrap(),
        )
        .unwrap();
        let mut state = Memory::default();
        let steps =
            [(0, 500), (10, 150), (20, 150), (40, 150), (50, 90), (60, 130), (70, 230), (80, 260), (369, 500), (371, 500)];
        let seen: Vec<(i64, bool, Vec<usize>)> = steps
            .into_iter()
            .map(|(second, free)| {
                let verdict = state.look(&all, &memory(free), SignedDuration::from_secs(300), at(second));
                (second, verdict.pressures.contains(&Pressure::Memory), verdict.due)
            })
            .collect();
        let expected = [
            (0, false, vec![]),
            (10, true, vec![]),
            (20, true, vec![]),
            (40, true, vec![1]),
            (50, true, vec![0, 1]),
            (60, true, vec![0, 1]),
            (70, true, vec![1]),
            (80, true, vec![]),
            (369, true, vec![]),
            (371, false, vec![]),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn memory_comes_before_disk() {
        let hard = bounds("nodefs.available<10%,memory.available<10%").unwrap();
        let all = thresholds(&hard, &Bounds::default(), &Graces::default(), &Bounds::default()).unwrap();
        let none = Level { capacity: 100, available: 1 };
        let levels = [(Signal::Nodefs, none), (Signal::Memory, none)].into();
        let verdict = Memory::default().look(&all, &levels, SignedDuration::ZERO, at(0));
        let order: Vec<Signal> = verdict.due.iter().map(|place| all[*place].signal).collect();
        assert_eq!((order, verdict.pressures.len()), (vec![Signal::Memory, Signal::Nodefs], 2));
    }

    fn pod(name: &str, priority: i32, containers: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": name, "uid": name},
            "spec": {"priority": priority, "containers": containers}}))
        .unwrap()
    }

    fn using(memory: i64, disk: i64) -> Usage {
        Usage { containers: [("c".to_owned(), (memory, disk))].into(), processes: memory, ..Usage::default() }
    }

    #[test]
    fn who_goes_first() {
        let asks = |memory: &str| json!([{"name": "c", "resources": {"requests": {"memory": memory}}}]);
        let mut pods = vec![
            (pod("within", 0, asks("100")), using(90, 0)),
            (pod("over-little", 0, asks("100")), using(110, 0)),
            (pod("over-much", 0, asks("100")), using(200, 0)),
            (pod("over-important", 10, asks("100")), using(900, 0)),
        ];
        let order = |pods: &[(Pod, Usage)]| pods.iter().map(|(p, _)| spec::name(p).to_owned()).collect::<Vec<_>>();
        rank(Signal::Memory, &mut pods);
        assert_eq!(order(&pods), ["over-much", "over-little", "over-important", "within"]);
        rank(Signal::Pid, &mut pods);
        assert_eq!(order(&pods), ["over-much", "over-little", "within", "over-important"]);
    }

    #[test]
    fn what_the_status_says() {
        let bound = thresholds(
            &bounds("memory.available<100Mi").unwrap(),
            &Bounds::default(),
            &Graces::default(),
            &Bounds::default(),
        )
        .unwrap();
        let level = Level { capacity: 1 << 30, available: 50 << 20 };
        let text = message(&bound[0], level, &pod("p", 0, json!([{"name": "c"}])), &using(123 << 10, 0));
        let expected = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. \
                        Container c was using 123Ki, request is 0, has larger consumption of memory. ";
        assert_eq!(text, expected);
    }

    #[test]
    fn limits_of_local_storage() {
        let limited = |volume: Option<&str>, container: Option<&str>| -> Pod {
            let limits = container.map(|limit| json!({"limits": {"ephemeral-storage": limit}}));
            let volumes = json!([{"name": "v", "emptyDir": volume.map_or(json!({}), |limit| json!({"sizeLimit": limit}))}]);
            serde_json::from_value(json!({"spec": {"volumes": volumes, "containers": [{"name": "c", "resources": limits},
                {"name": "d"}]}}))
            .unwrap()
        };
        let usage = Usage {
            containers: [("c".to_owned(), (0, 3000)), ("d".to_owned(), (0, 10))].into(),
            volumes: [("v".to_owned(), 2000)].into(),
            ..Usage::default()
        };
        let cases = [
            (limited(None, None), None),
            (limited(Some("2k"), None), None),
            (limited(Some("1Ki"), None), Some("Usage of EmptyDir volume \"v\" exceeds the limit \"1Ki\". ")),
            (limited(None, Some("10k")), None),
            (
                limited(None, Some("2k")),
                Some("Pod ephemeral local storage usage exceeds the total limit of containers 2k. "),
            ),
        ];
        for (pod, expected) in cases {
            assert_eq!(over_its_limits(&pod, &usage).as_deref(), expected);
        }
    }
}
