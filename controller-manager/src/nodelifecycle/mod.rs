//! Watches over nodes: silent ones become Unknown, and every node is tainted for what is wrong with it.
//!
//! Watches nodes, their Leases and pods; owns the condition and well-known pressure taints of nodes. A node is heard from when its
//! Lease or its status changes, as seen by our own clock; its silence is noticed by a timer set for the end of the grace
//! period, not by looking around. When no node at all is ready, the fault is more likely ours: then nothing is tainted NoExecute and
//! nothing evicted. Within a zone nodes are tainted NoExecute one after the other ([`pace`]). Safe to run twice: everything follows from the
//! node's state and the time it was last heard from, which begins anew at a restart.

mod pace;

use std::{collections::HashMap, sync::Arc, time::Duration};

use client::{Change, Error, Informer, Key, Next, Options, Queue, Recorder, Step, is_not_found};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Node, NodeCondition, Pod, Taint},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use parking_lot::Mutex;
use tokio::time::Instant;

use self::pace::{Health, Hold, Pace};
use crate::{context::Context, pods};

const NAME: &str = "node-controller";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that a silent kubelet can no longer vouch for.
const VOUCHED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// Conditions that taint when True.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
];

/// Everything the decision looks at.
struct Observed<'a> {
    node: &'a Node,
    /// How long ago the node was heard from.
    silent_for: Duration,
    grace: Duration,
    startup_grace: Duration,
    now: Timestamp,
}

/// What to do about a node.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    /// Conditions to write.
    conditions: Option<Vec<NodeCondition>>,
    /// It has just been found silent.
    lost: bool,
    /// Its pods are not ready.
    pods_not_ready: bool,
    /// When its silence becomes too long.
    again: Option<Duration>,
}

/// A condition of the node.
fn condition<'a>(conditions: &'a [NodeCondition], kind: &str) -> Option<&'a NodeCondition> {
    conditions.iter().find(|c| c.type_ == kind)
}

fn conditions_of(node: &Node) -> &[NodeCondition] {
    node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default()
}

/// Whether the node says (or is said) to be ready.
pub fn is_ready(node: &Node) -> bool {
    condition(conditions_of(node), "Ready").is_some_and(|c| c.status == "True")
}

fn decide(observed: &Observed) -> Plan {
    let (node, now) = (observed.node, observed.now);
    let mut plan = Plan::default();
    let before = conditions_of(node);
    let mut after = before.to_vec();
    let (silent, grace) = match condition(before, "Ready") {
        Some(_) => (observed.silent_for, observed.grace),
        None => {
            let created = node.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0);
            (Duration::try_from(now.duration_since(created)).unwrap_or_default(), observed.startup_grace)
        }
    };
    if silent > grace {
        VOUCHED.iter().for_each(|kind| doubt(&mut after, kind, node, now));
        plan.lost = condition(before, "Ready").is_some_and(|c| c.status == "True");
    } else if condition(before, "Ready").is_none_or(|c| c.status != "Unknown") {
        plan.again = Some(grace - silent + Duration::from_millis(1));
    }
    plan.pods_not_ready = condition(&after, "Ready").is_some_and(|c| c.status != "True");
    plan.conditions = (after != before).then_some(after);
    plan
}

/// What becomes of the pods of a node that is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Eviction {
    /// They are evicted, once their tolerations are over.
    Go,
    /// As before: it is not this node's turn.
    Hold,
    /// They stay, also where they were to go: no node at all is ready.
    Stop,
}

fn taints_of(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default()
}

/// Whether a taint tells that its node is not ready.
fn tells_readiness(taint: &Taint) -> bool {
    [NOT_READY, UNREACHABLE].contains(&taint.key.as_str())
}

/// Whether the node's pods are being evicted because it is not ready.
fn is_evicting(node: &Node) -> bool {
    taints_of(node).iter().any(|t| tells_readiness(t) && t.effect == "NoExecute")
}

/// Makes a condition Unknown.
fn doubt(conditions: &mut Vec<NodeCondition>, kind: &str, node: &Node, now: Timestamp) {
    match conditions.iter_mut().find(|c| c.type_ == kind) {
        None => conditions.push(NodeCondition {
            type_: kind.to_owned(),
            status: "Unknown".to_owned(),
            reason: Some("NodeStatusNeverUpdated".to_owned()),
            message: Some("Kubelet never posted node status.".to_owned()),
            last_heartbeat_time: node.metadata.creation_timestamp.clone(),
            last_transition_time: Some(Time(now)),
        }),
        Some(known) if known.status != "Unknown" => {
            known.status = "Unknown".to_owned();
            known.reason = Some("NodeStatusUnknown".to_owned());
            known.message = Some("Kubelet stopped posting node status.".to_owned());
            known.last_transition_time = Some(Time(now));
        }
        Some(_) => {}
    }
}

/// The node's taints as its conditions want them; those of others stay as and where they are.
fn taints(node: &Node, eviction: Eviction, now: Timestamp) -> Vec<Taint> {
    let status = |kind: &str| condition(conditions_of(node), kind).map(|c| c.status.as_str());
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    let state = match status("Ready") {
        Some("False") => Some(NOT_READY),
        Some("Unknown") => Some(UNREACHABLE),
        _ => None,
    };
    if let Some(key) = state {
        wanted.push((key, "NoSchedule"));
        if eviction == Eviction::Go || eviction == Eviction::Hold && is_evicting(node) {
            wanted.push((key, "NoExecute"));
        }
    }
    wanted.extend(PRESSURES.iter().filter(|(kind, _)| status(kind) == Some("True")).map(|(_, key)| (*key, "NoSchedule")));
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let ours = |taint: &Taint| {
        let pressure = PRESSURES.iter().any(|(_, key)| *key == taint.key) || taint.key == UNSCHEDULABLE;
        (tells_readiness(taint) && ["NoSchedule", "NoExecute"].contains(&taint.effect.as_str()))
            || (pressure && taint.effect == "NoSchedule")
    };
    // A node that has said nothing yet keeps what it was registered with.
    let unknown_yet = status("Ready").is_none();
    let mut taints = taints_of(node).to_vec();
    taints.retain(|t| {
        !ours(t) || wanted.contains(&(t.key.as_str(), t.effect.as_str())) || (unknown_yet && t.key == NOT_READY)
    });
    for (key, effect) in wanted {
        if !taints.iter().any(|t| t.key == key && t.effect == effect) {
            taints.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                time_added: Some(Time(now)),
                ..Taint::default()
            });
        }
    }
    taints
}

struct Controller {
    ctx: Context,
    recorder: Recorder,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    /// When each node was last heard from.
    heard: Mutex<HashMap<Key, Instant>>,
    pace: Mutex<Pace>,
    queue: Queue<Key>,
}

/// Runs the controller until the context's shutdown.
pub async fn run(ctx: Context) {
    let queue = Queue::new(NAME);
    let leases = ctx.informers.get_with::<Lease>(&(), Options::namespace("kube-node-lease"));
    let this = Arc::new(Controller {
        recorder: ctx.recorder.for_component(NAME),
        nodes: ctx.informer(),
        pods: ctx.informer(),
        heard: Mutex::default(),
        pace: Mutex::default(),
        queue: queue.clone(),
        ctx: ctx.clone(),
    });
    pods::index_by_node(&this.pods);
    if ctx.until_stopped(futures::future::join3(this.nodes.synced(), leases.synced(), this.pods.synced())).await.is_none() {
        return;
    }
    this.nodes.on_change({
        let this = this.clone();
        move |change| this.node_changed(&change)
    });
    leases.on_change({
        let this = this.clone();
        move |change| {
            let renewed = |l: &Lease| l.spec.as_ref().and_then(|s| s.renew_time.clone());
            if change.old().is_none_or(|old| renewed(old) != renewed(change.object()))
                && !matches!(change, Change::Deleted(_))
            {
                let key = Key::cluster(change.object().metadata.name.as_deref().unwrap_or_default());
                // Only the time: a node that is well needs no look because it renewed its lease.
                this.heard.lock().insert(key, Instant::now());
            }
        }
    });
    this.pods.on_change({
        let this = this.clone();
        move |change| this.pod_changed(&change)
    });
    client::controller::run(NAME, queue, 8, ctx.shutdown.clone(), move |key| this.clone().reconcile(key)).await;
}

impl Controller {
    fn node_changed(&self, change: &Change<'_, Node>) {
        let node = change.object();
        let key = Key::of(&node.metadata);
        let name = &key.name;
        match change {
            Change::Added(_) => {
                self.heard.lock().insert(key.clone(), Instant::now());
                let message = format!("Node {name} event: Registered Node {name} in Controller");
                self.recorder.normal(&**node, "RegisteredNode", message);
            }
            Change::Updated(old, new) => {
                // What this controller writes itself is no sign of life.
                let beats =
                    |n: &Node| conditions_of(n).iter().filter_map(|c| c.last_heartbeat_time.clone()).collect::<Vec<_>>();
                if beats(old) != beats(new) {
                    self.heard.lock().insert(key.clone(), Instant::now());
                }
                if is_ready(old) != is_ready(new) {
                    self.health_changed();
                }
            }
            Change::Deleted(_) => {
                self.heard.lock().remove(&key);
                self.health_changed();
                let message = format!("Node {name} event: Removing Node {name} from Controller");
                return self.recorder.normal(&**node, "RemovingNode", message);
            }
        }
        self.queue.add(key);
    }

    /// Nodes that are not ready may be evicted now, or no longer.
    fn health_changed(&self) {
        self.nodes.list().iter().filter(|n| !is_ready(n)).for_each(|n| self.queue.add(Key::of(&n.metadata)));
    }

    /// What becomes of this node's pods, and when to look again.
    fn eviction(&self, node: &Node) -> (Eviction, Option<Duration>) {
        let nodes = self.nodes.list();
        if !nodes.iter().any(|n| is_ready(n)) {
            return (Eviction::Stop, None);
        }
        if is_evicting(node) || condition(conditions_of(node), "Ready").is_none_or(|c| c.status == "True") {
            return (Eviction::Hold, None);
        }
        let zone = pace::zone_of(node);
        let (ready, not_ready): (Vec<_>, Vec<_>) =
            nodes.iter().filter(|n| pace::zone_of(n) == zone).partition(|n| is_ready(n));
        let rate = Health { ready: ready.len(), not_ready: not_ready.len() }.rate(&self.ctx.config);
        match self.pace.lock().take(zone, rate, Instant::now()) {
            Ok(()) => (Eviction::Go, None),
            Err(Hold::For(left)) => (Eviction::Hold, Some(left)),
            Err(Hold::UntilBetter) => (Eviction::Hold, None),
        }
    }

    /// A pod that claims to be ready on a node that is not.
    fn pod_changed(&self, change: &Change<'_, Pod>) {
        let pod = change.object();
        if matches!(change, Change::Deleted(_)) || !pods::is_ready(pod) || pods::node(pod).is_empty() {
            return;
        }
        let key = Key::cluster(pods::node(pod));
        if self.nodes.get(&key).is_some_and(|n| condition(conditions_of(&n), "Ready").is_some_and(|c| c.status != "True")) {
            self.queue.add(key);
        }
    }

    async fn reconcile(self: Arc<Self>, key: Key) -> Result<Next, Error> {
        let Some(node) = self.nodes.get(&key) else { return Ok(Next::Done) };
        let now = Timestamp::now();
        let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
        let heard = *self.heard.lock().entry(key.clone()).or_insert_with(Instant::now);
        let plan = decide(&Observed {
            node: &node,
            silent_for: heard.elapsed(),
            grace: self.ctx.config.node_monitor_grace_period,
            startup_grace: self.ctx.config.node_startup_grace_period,
            now,
        });
        let api: Api<Node> = Api::all(self.ctx.client.clone());
        if let Some(conditions) = plan.conditions {
            let mut changed = (*node).clone();
            changed.status.get_or_insert_default().conditions = Some(conditions);
            match api.replace_status(&key.name, &PostParams::default(), &changed).await {
                Ok(written) => self.nodes.ensure_seen(&written).await?,
                Err(error) if is_not_found(&error) => return Ok(Next::Done),
                Err(error) => return Err(error).step("writing a node's conditions"),
            }
            if plan.lost {
                self.recorder.normal(&*node, "NodeNotReady", format!("Node {} status is now: NodeNotReady", key.name));
            }
            // The rest is decided on what was written.
            return Ok(Next::Again);
        }
        let (eviction, turn) = self.eviction(&node);
        let taints = taints(&node, eviction, now);
        if taints != taints_of(&node) {
            let patch = serde_json::json!({"metadata": {"resourceVersion": node.metadata.resource_version}, "spec": {"taints": taints}});
            match api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(written) => self.nodes.ensure_seen(&written).await?,
                Err(error) if is_not_found(&error) => return Ok(Next::Done),
                Err(error) => return Err(error).step("tainting a node"),
            }
        }
        if plan.pods_not_ready {
            self.mark_pods(&key).await?;
        }
        let silence = plan.again.map(|again| again.max(self.ctx.config.node_monitor_period));
        Ok(silence.into_iter().chain(turn).min().map_or(Next::Done, Next::After))
    }

    /// Takes the pods of a node that is not ready out of service.
    async fn mark_pods(&self, node: &Key) -> Result<(), Error> {
        let ready = self.pods.by_index(pods::BY_NODE, &node.name).into_iter().filter(|p| pods::is_ready(p));
        let marks = ready.map(|pod| async move {
            let mut changed = (*pod).clone();
            for ready in
                changed.status.iter_mut().flat_map(|s| s.conditions.iter_mut().flatten()).filter(|c| c.type_ == "Ready")
            {
                ready.status = "False".to_owned();
                ready.last_transition_time = Some(Time(Timestamp::now()));
            }
            let key = Key::of(&pod.metadata);
            match self.ctx.api::<Pod>(&key.namespace).replace_status(&key.name, &PostParams::default(), &changed).await {
                Ok(_) => {
                    self.recorder.warning(&*pod, "NodeNotReady", "Node is not ready");
                    Ok(())
                }
                Err(error) if is_not_found(&error) => Ok(()),
                Err(error) => Err(error).step("marking a pod of a lost node"),
            }
        });
        client::batch::all(marks).await.1.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::needless_pass_by_value, reason = "json! makes values")]

    use super::*;
    use serde_json::{Value, json};

    const NOW: &str = "2024-01-01T01:00:00Z";

    fn node(ready: Option<&str>, taints: Value) -> Node {
        let conditions: Vec<_> = ready
            .iter()
            .map(|status| json!({"type": "Ready", "status": status, "reason": "R", "lastTransitionTime": "2024-01-01T00:00:00Z"}))
            .collect();
        serde_json::from_value(json!({"metadata": {"name": "n", "creationTimestamp": "2024-01-01T00:59:30Z"},
            "spec": {"taints": taints}, "status": {"conditions": conditions}}))
        .expect("a node")
    }

    fn planned(node: &Node, silent: u64) -> Plan {
        decide(&Observed {
            node,
            silent_for: Duration::from_secs(silent),
            grace: Duration::from_secs(50),
            startup_grace: Duration::from_secs(60),
            now: NOW.parse().expect("a time"),
        })
    }

    fn told(node: &Node, silent: u64, eviction: Eviction) -> Value {
        let plan = planned(node, silent);
        let conditions: Option<Vec<_>> = plan
            .conditions
            .as_ref()
            .map(|c| c.iter().map(|c| format!("{}={} {}", c.type_, c.status, c.reason.as_deref().unwrap_or(""))).collect());
        let mut written = node.clone();
        if let Some(conditions) = plan.conditions {
            written.status.get_or_insert_default().conditions = Some(conditions);
        }
        let taints = taints(&written, eviction, NOW.parse().expect("a time"));
        let taints: Vec<_> = taints.iter().map(|t| format!("{}:{}", t.key, t.effect)).collect();
        json!([conditions, plan.lost, taints, plan.pods_not_ready, plan.again.map(|d| d.as_secs())])
    }

    #[test]
    fn silence_makes_a_node_unknown_and_taints_it() {
        let other = json!([{"key": "mine", "effect": "NoSchedule"}]);
        let unknown = json!([
            "Ready=Unknown NodeStatusUnknown",
            "MemoryPressure=Unknown NodeStatusNeverUpdated",
            "DiskPressure=Unknown NodeStatusNeverUpdated",
            "PIDPressure=Unknown NodeStatusNeverUpdated",
        ]);
        let (mine, schedule, execute) =
            ("mine:NoSchedule", "node.kubernetes.io/unreachable:NoSchedule", "node.kubernetes.io/unreachable:NoExecute");
        assert_eq!(
            [
                told(&node(Some("True"), other.clone()), 10, Eviction::Hold),
                told(&node(Some("True"), other.clone()), 51, Eviction::Go),
                told(&node(Some("True"), other), 51, Eviction::Hold),
                told(&node(None, json!([{"key": NOT_READY, "effect": "NoSchedule"}])), 0, Eviction::Hold),
            ],
            [
                json!([null, false, [mine], false, 40]),
                json!([unknown, true, [mine, schedule, execute], true, null]),
                json!([unknown, true, [mine, schedule], true, null]),
                json!([null, false, ["node.kubernetes.io/not-ready:NoSchedule"], false, 30]),
            ]
        );
    }

    #[test]
    fn an_eviction_goes_on_until_no_node_is_ready() {
        let evicting = node(Some("Unknown"), json!([{"key": NOT_READY, "effect": "NoExecute"}]));
        let taints = |eviction| {
            let taints = taints(&evicting, eviction, NOW.parse().expect("a time"));
            taints.iter().map(|t| format!("{}:{}", t.key, t.effect)).collect::<Vec<_>>()
        };
        let (schedule, execute) = (format!("{UNREACHABLE}:NoSchedule"), format!("{UNREACHABLE}:NoExecute"));
        assert_eq!([taints(Eviction::Hold), taints(Eviction::Stop)], [vec![schedule.clone(), execute], vec![schedule]]);
    }

    #[test]
    fn a_node_that_is_back_loses_our_taints_only() {
        let tainted = json!([{"key": UNREACHABLE, "effect": "NoExecute"}, {"key": UNREACHABLE, "effect": "NoSchedule"},
            {"key": UNSCHEDULABLE, "effect": "NoSchedule"}, {"key": "mine", "effect": "NoExecute"}]);
        assert_eq!(
            told(&node(Some("True"), tainted), 0, Eviction::Hold),
            json!([null, false, ["mine:NoExecute"], false, 50])
        );
    }
}
