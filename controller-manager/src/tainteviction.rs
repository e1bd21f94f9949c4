//! Evicts pods from nodes that are tainted NoExecute, as soon as their tolerations run out.
//!
//! Watches pods and nodes; owns nothing. A pod's deadline follows from its node's taints (when they were added) and its
//! tolerations; a timer is set for it and dropped when the taint goes. Safe to run twice: the deadline is computed anew, and a pod
//! is deleted by uid.

use std::{collections::HashMap, sync::Arc, time::Duration};

use client::{Change, Error, Informer, Key, Next, Queue, Recorder, Step, is_not_found};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use kube::api::{DeleteParams, PostParams, Preconditions};
use parking_lot::Mutex;

use crate::{context::Context, pods};

const NAME: &str = "taint-eviction-controller";

/// What is to become of a pod.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Verdict {
    Keep,
    EvictIn(Duration),
    Evict,
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let empty = |s: &Option<String>| s.as_deref().is_none_or(str::is_empty);
    if !empty(&toleration.effect) && toleration.effect.as_deref() != Some(&taint.effect) {
        return false;
    }
    if !empty(&toleration.key) && toleration.key.as_deref() != Some(&taint.key) {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        _ => {
            !empty(&toleration.key)
                && toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
        }
    }
}

/// Decides; `since` counts for taints that don't say when they were added.
fn decide(tolerations: &[Toleration], taints: &[Taint], since: Timestamp, now: Timestamp) -> Verdict {
    let mut deadline: Option<Timestamp> = None;
    for taint in taints {
        let Some(toleration) = tolerations.iter().find(|t| tolerates(t, taint)) else { return Verdict::Evict };
        let Some(seconds) = toleration.toleration_seconds else { continue };
        let from = taint.time_added.as_ref().map_or(since, |t| t.0);
        let until = from.saturating_add(jiff::SignedDuration::from_secs(seconds.max(0))).unwrap_or(Timestamp::MAX);
        deadline = Some(deadline.map_or(until, |d| d.min(until)));
    }
    match deadline {
        None => Verdict::Keep,
        Some(deadline) if deadline <= now => Verdict::Evict,
        Some(deadline) => Verdict::EvictIn(Duration::try_from(deadline.duration_since(now)).unwrap_or_default()),
    }
}

fn executing(node: &Node) -> Vec<Taint> {
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    taints.filter(|t| t.effect == "NoExecute").cloned().collect()
}

struct Controller {
    ctx: Context,
    recorder: Recorder,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    /// Pods with a deadline, and since when we know.
    pending: Mutex<HashMap<Key, Timestamp>>,
}

/// Runs the controller until the context's shutdown.
pub async fn run(ctx: Context) {
    let queue = Queue::new(NAME);
    let this = Arc::new(Controller {
        recorder: ctx.recorder.for_component(NAME),
        nodes: ctx.informer(),
        pods: ctx.informer(),
        pending: Mutex::default(),
        ctx: ctx.clone(),
    });
    pods::index_by_node(&this.pods);
    if ctx.until_stopped(futures::future::join(this.nodes.synced(), this.pods.synced())).await.is_none() {
        return;
    }
    this.nodes.on_change({
        let (queue, this) = (queue.clone(), this.clone());
        move |change| {
            let before = change.old().map(|n| executing(n)).unwrap_or_default();
            if !matches!(change, Change::Deleted(_)) && before != executing(change.object()) {
                let node = change.object().metadata.name.as_deref().unwrap_or_default();
                this.pods.by_index(pods::BY_NODE, node).iter().for_each(|p| queue.add(Key::of(&p.metadata)));
            }
        }
    });
    this.pods.on_change({
        let (queue, this) = (queue.clone(), this.clone());
        move |change| {
            let pod = change.object();
            let facts = |p: &Pod| (pods::node(p).to_owned(), p.spec.as_ref().and_then(|s| s.tolerations.clone()));
            let news = match change {
                Change::Added(_) => true,
                Change::Updated(old, new) => facts(old) != facts(new),
                Change::Deleted(_) => {
                    this.pending.lock().remove(&Key::of(&pod.metadata));
                    false
                }
            };
            if news && this.nodes.get(&Key::cluster(pods::node(pod))).is_some_and(|n| !executing(&n).is_empty()) {
                queue.add(Key::of(&pod.metadata));
            }
        }
    });
    client::controller::run(NAME, queue, 8, ctx.shutdown.clone(), move |key| this.clone().reconcile(key)).await;
}

impl Controller {
    async fn reconcile(self: Arc<Self>, key: Key) -> Result<Next, Error> {
        let Some(pod) = self.pods.get(&key).filter(|p| p.metadata.deletion_timestamp.is_none()) else {
            return Ok(Next::Done);
        };
        let taints = self.nodes.get(&Key::cluster(pods::node(&pod))).map(|n| executing(&n)).unwrap_or_default();
        let (now, known) = (Timestamp::now(), self.pending.lock().get(&key).copied());
        let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
        match decide(tolerations, &taints, known.unwrap_or(now), now) {
            Verdict::Keep => {
                if self.pending.lock().remove(&key).is_some() {
                    self.recorder.normal(&*pod, "TaintManagerEviction", format!("Cancelling deletion of Pod {key}"));
                }
                Ok(Next::Done)
            }
            Verdict::EvictIn(wait) => {
                self.pending.lock().entry(key).or_insert(now);
                Ok(Next::After(wait))
            }
            Verdict::Evict => {
                self.evict(&key, &pod, now).await?;
                self.pending.lock().remove(&key);
                Ok(Next::Done)
            }
        }
    }

    async fn evict(&self, key: &Key, pod: &Pod, now: Timestamp) -> Result<(), Error> {
        self.recorder.normal(pod, "TaintManagerEviction", format!("Marking for deletion Pod {key}"));
        let api = self.ctx.api::<Pod>(&key.namespace);
        let told = pods::disrupted(pod, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint", now);
        match api.replace_status(&key.name, &PostParams::default(), &told).await {
            Err(error) if is_not_found(&error) => return Ok(()),
            told => told.map(drop).step("telling a pod why it is evicted")?,
        }
        let preconditions = Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None });
        match api.delete(&key.name, &DeleteParams { preconditions, ..DeleteParams::default() }).await {
            Err(error) if is_not_found(&error) => Ok(()),
            done => done.map(drop).step("evicting a pod"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_shortest_toleration_counts_from_when_its_taint_was_added() {
        let at = |second| Timestamp::from_second(second).expect("in range");
        let taints = |list: serde_json::Value| serde_json::from_value::<Vec<Taint>>(list).expect("taints");
        let a = json!({"key": "a", "effect": "NoExecute", "timeAdded": "1970-01-01T00:00:10Z"});
        let b = json!({"key": "b", "value": "v", "effect": "NoExecute"});
        let judged = |tolerations: serde_json::Value, list: serde_json::Value| {
            let tolerations: Vec<Toleration> = serde_json::from_value(tolerations).expect("tolerations");
            decide(&tolerations, &taints(list), at(50), at(100))
        };
        let all = json!({"operator": "Exists"});
        let a_for =
            |seconds: i64| json!({"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        assert_eq!(
            [
                judged(json!([]), json!([])),
                judged(json!([]), json!([a])),
                judged(json!([all]), json!([a, b])),
                judged(json!([a_for(300)]), json!([a])),
                judged(json!([a_for(300), {"key": "b", "value": "v", "tolerationSeconds": 60}]), json!([a, b])),
                judged(json!([a_for(300), {"key": "b", "value": "w", "tolerationSeconds": 60}]), json!([a, b])),
                judged(json!([a_for(30)]), json!([a])),
            ],
            [
                Verdict::Keep,
                Verdict::Evict,
                Verdict::Keep,
                Verdict::EvictIn(Duration::from_secs(210)),
                Verdict::EvictIn(Duration::from_secs(10)),
                Verdict::Evict,
                Verdict::Evict,
            ]
        );
    }
}
