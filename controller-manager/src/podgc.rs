//! Removes pods that nobody else will: those of nodes that are gone, those that were being deleted before they had a node, and the
//! oldest ended ones when there are too many.
//!
//! Watches pods and nodes; owns nothing. Safe to run twice: pods are deleted by uid. A node's disappearance is acted on only after it has
//! lasted a while and the API server (not the cache) has confirmed it.

use std::sync::Arc;

use client::{Change, Error, Informer, Key, Next, Queue, Step, is_not_found};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api,
    api::{DeleteParams, PostParams, Preconditions},
};

use crate::{context::Context, pods};

const NAME: &str = "pod-garbage-collector";
const ENDED: &str = "ended";

/// What to look at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    /// Whether there are too many ended pods.
    Ended,
    /// Whether this node is gone.
    Node(Key),
    /// A pod that is being deleted and has no node.
    Unbound(Key),
}

/// The ended pods to delete: the oldest beyond the threshold.
fn surplus(mut ended: Vec<Arc<Pod>>, threshold: usize) -> Vec<Arc<Pod>> {
    if threshold == 0 || ended.len() <= threshold {
        return Vec::new();
    }
    let age = |p: &Arc<Pod>| (p.metadata.creation_timestamp.as_ref().map(|t| t.0), p.metadata.name.clone());
    ended.sort_by_key(age);
    ended.truncate(ended.len() - threshold);
    ended
}

struct Controller {
    ctx: Context,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
}

/// Runs the controller until the context's shutdown.
pub async fn run(ctx: Context) {
    let queue = Queue::new(NAME);
    let this = Arc::new(Controller { nodes: ctx.informer(), pods: ctx.informer(), ctx: ctx.clone() });
    pods::index_by_node(&this.pods);
    this.pods.add_index(ENDED, |pod| if pods::is_terminal(pod) { vec![String::new()] } else { Vec::new() });
    if ctx.until_stopped(futures::future::join(this.nodes.synced(), this.pods.synced())).await.is_none() {
        return;
    }
    let quarantine = ctx.config.gone_node_quarantine;
    this.nodes.on_change({
        let queue = queue.clone();
        move |change| {
            if let Change::Deleted(node) = change {
                queue.add_after(Work::Node(Key::of(&node.metadata)), quarantine);
            }
        }
    });
    this.pods.on_change({
        let (queue, this) = (queue.clone(), this.clone());
        move |change| {
            let pod = change.object();
            if matches!(change, Change::Deleted(_)) {
                return;
            }
            let node = Key::cluster(pods::node(pod));
            if node.name.is_empty() {
                if pod.metadata.deletion_timestamp.is_some() {
                    queue.add(Work::Unbound(Key::of(&pod.metadata)));
                }
            } else if change.old().is_none_or(|old| pods::node(old).is_empty()) && this.nodes.get(&node).is_none() {
                queue.add_after(Work::Node(node), quarantine);
            }
            if pods::is_terminal(pod) && change.old().is_none_or(|old| !pods::is_terminal(old)) {
                queue.add(Work::Ended);
            }
        }
    });
    client::controller::run(NAME, queue, 2, ctx.shutdown.clone(), move |work| this.clone().reconcile(work)).await;
}

impl Controller {
    async fn reconcile(self: Arc<Self>, work: Work) -> Result<Next, Error> {
        let (doomed, why) = match work {
            Work::Ended => (surplus(self.pods.by_index(ENDED, ""), self.ctx.config.terminated_pod_gc_threshold), None),
            Work::Unbound(key) => {
                let pod =
                    self.pods.get(&key).filter(|p| pods::node(p).is_empty() && p.metadata.deletion_timestamp.is_some());
                (pod.into_iter().collect(), None)
            }
            Work::Node(node) => {
                let pods = self.pods.by_index(pods::BY_NODE, &node.name);
                if pods.is_empty() || self.nodes.get(&node).is_some() {
                    return Ok(Next::Done);
                }
                let api: Api<Node> = Api::all(self.ctx.client.clone());
                if api.get_opt(&node.name).await.step("asking whether a node is gone")?.is_some() {
                    return Ok(Next::Done);
                }
                (pods, Some("PodGC: node no longer exists"))
            }
        };
        let deletions = doomed.iter().map(|pod| self.delete(pod, why));
        client::batch::all(deletions).await.1.map_or(Ok(Next::Done), Err)
    }

    /// Deletes without grace: there is no kubelet that would end the pod's containers. `why` makes it a failed pod first.
    async fn delete(&self, pod: &Pod, why: Option<&str>) -> Result<(), Error> {
        let key = Key::of(&pod.metadata);
        let api = self.ctx.api::<Pod>(&key.namespace);
        if let Some(why) = why.filter(|_| !pods::is_terminal(pod)) {
            let mut failed = pods::disrupted(pod, "DeletionByPodGC", why, Timestamp::now());
            failed.status.get_or_insert_default().phase = Some("Failed".to_owned());
            match api.replace_status(&key.name, &PostParams::default(), &failed).await {
                Err(error) if is_not_found(&error) => return Ok(()),
                told => told.map(drop).step("failing a pod whose node is gone")?,
            }
        }
        let preconditions = Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None });
        let params = DeleteParams { grace_period_seconds: Some(0), preconditions, ..DeleteParams::default() };
        match api.delete(&key.name, &params).await {
            Err(error) if is_not_found(&error) => Ok(()),
            done => done.map(drop).step("collecting a pod"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_ended_pods_go() {
        let pod = |name: &str, created: &str| {
            let pod = serde_json::json!({"metadata": {"name": name, "creationTimestamp": created}});
            Arc::new(serde_json::from_value::<Pod>(pod).expect("a pod"))
        };
        let ended =
            || vec![pod("b", "2024-01-02T00:00:00Z"), pod("a", "2024-01-01T00:00:00Z"), pod("c", "2024-01-03T00:00:00Z")];
        let names = |pods: Vec<Arc<Pod>>| pods.iter().filter_map(|p| p.metadata.name.clone()).collect::<Vec<_>>();
        assert_eq!(
            [1, 3, 0].map(|threshold| names(surplus(ended(), threshold))),
            [vec!["a".to_owned(), "b".to_owned()], vec![], vec![]]
        );
    }
}
