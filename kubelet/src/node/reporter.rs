//! Registers the node and keeps its status: computed every few seconds, written when something changed or long ago.

use std::{collections::BTreeSet, sync::atomic::Ordering, time::Duration};

use cri::v1;
use k8s_openapi::api::core::v1::{ContainerImage, Node, NodeStatus};
use kube::api::{Api, Patch, PatchParams, PostParams};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    facts,
    object::{self, node_reference},
};
use crate::{eviction::Pressure, pod::resources::Amounts, shared::Ctx};

/// Computes and writes the node's status.
pub struct Reporter {
    ctx: Ctx,
    capacity: Amounts,
    info: k8s_openapi::api::core::v1::NodeSystemInfo,
    written: Option<(NodeStatus, tokio::time::Instant)>,
    was_ready: bool,
    /// The pressures that were told of last; none of them at first.
    told: Option<BTreeSet<Pressure>>,
    pod_cidr: Option<String>,
    port: u16,
}

impl Reporter {
    /// A reporter for a node with that capacity, whose kubelet serves that port.
    pub fn new(ctx: Ctx, capacity: Amounts, runtime_version: &str, port: u16) -> Self {
        let info = facts::info(runtime_version);
        Self { ctx, capacity, info, written: None, was_ready: false, told: None, pod_cidr: None, port }
    }

    /// Runs until `shutdown`; `poke` asks for a look at once.
    pub async fn run(mut self, poke: std::sync::Arc<Notify>, shutdown: CancellationToken) {
        let mut retry = Duration::from_millis(50);
        let mut eager = Duration::from_millis(50);
        let mut pressures = self.ctx.pressures.subscribe();
        let mut shutting_down = self.ctx.shutting_down.subscribe();
        let work = async {
            loop {
                let pause = match self.look().await {
                    Ok(()) => {
                        retry = Duration::from_millis(50);
                        // Not ready yet: look again soon, so that the first pods need not wait.
                        eager = if self.was_ready {
                            Duration::from_millis(50)
                        } else {
                            (eager * 3 / 2).min(Duration::from_secs(5))
                        };
                        if self.was_ready { self.ctx.config.node_status_update_frequency } else { eager }
                    }
                    Err(error) => {
                        tracing::debug!(error = &error as &dyn std::error::Error, "node status not written");
                        retry = (retry * 2).min(Duration::from_secs(5));
                        retry
                    }
                };
                tokio::select! {
                    () = poke.notified() => {}
                    Ok(()) = pressures.changed() => {}
                    Ok(()) = shutting_down.changed() => {}
                    () = tokio::time::sleep(pause) => {}
                }
            }
        };
        shutdown.run_until_cancelled(work).await;
    }

    async fn look(&mut self) -> Result<(), kube::Error> {
        self.hand_over_cidr().await;
        let observed = self.observe().await;
        let api: Api<Node> = Api::all(self.ctx.client.clone());
        let now = self.ctx.now();
        let Some((old, at)) = &self.written else {
            let node = self.register(&api, &observed).await?;
            self.written = Some((node.status.unwrap_or_default(), tokio::time::Instant::now()));
            self.ctx.recorder.normal(&node_reference(&observed.name), "Starting", "Starting kubelet.");
            self.announce(&observed);
            return Ok(());
        };
        // Others own parts of the status: start from what the API has.
        let current = self.ctx.node.get(&client::Key::cluster(&observed.name)).and_then(|n| n.status.clone());
        let mut base = current.unwrap_or_else(|| old.clone());
        if base.conditions.as_ref().is_none_or(Vec::is_empty) {
            base.conditions = old.conditions.clone();
        }
        let new = object::status(&observed, &base, now);
        let overdue = at.elapsed() >= self.ctx.config.node_status_report_frequency;
        // What we just wrote may not have come back yet.
        let settled = at.elapsed() > Duration::from_secs(2);
        if overdue || (object::differs(&base, &new) && (settled || object::differs(old, &new))) {
            let patch = Patch::Strategic(object::patch(&new));
            match api.patch_status(&observed.name, &PatchParams::default(), &patch).await {
                Ok(_) => self.written = Some((new, tokio::time::Instant::now())),
                Err(error) if client::is_not_found(&error) => {
                    // Someone deleted the node: it comes back.
                    self.written = None;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        self.announce(&observed);
        Ok(())
    }

    fn announce(&mut self, observed: &object::Observed) {
        let name = &observed.name;
        let node = node_reference(name);
        let told = self.told.replace(observed.pressures.clone());
        for reason in Pressure::changes(told.as_ref(), &observed.pressures) {
            self.ctx.recorder.normal(&node, reason, format!("Node {name} status is now: {reason}"));
        }
        let ready = observed.not_ready.is_none();
        if ready != self.was_ready {
            let reason = if ready { "NodeReady" } else { "NodeNotReady" };
            self.ctx.recorder.normal(&node, reason, format!("Node {name} status is now: {reason}"));
        }
        self.was_ready = ready;
    }

    async fn register(&self, api: &Api<Node>, observed: &object::Observed) -> Result<Node, kube::Error> {
        let config = &self.ctx.config;
        let mut node = object::new(observed, &config.node_labels, &config.register_with_taints, self.ctx.now());
        if let Some(cidr) = &config.pod_cidr {
            // Known from the start: the cluster has nothing to assign, and other nodes learn of it.
            let spec = node.spec.get_or_insert_default();
            (spec.pod_cidr, spec.pod_cidrs) = (Some(cidr.clone()), Some(vec![cidr.clone()]));
        }
        if config.register_node {
            match api.create(&PostParams::default(), &node).await {
                Err(error) if client::is_already_exists(&error) => {}
                other => return other,
            }
        }
        let name = &observed.name;
        let labels = object::labels(name, &config.node_labels);
        let patch = serde_json::json!({"metadata": {"labels": labels, "annotations": node.metadata.annotations}});
        let old = api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        let status = object::status(observed, &old.status.unwrap_or_default(), self.ctx.now());
        api.patch_status(name, &PatchParams::default(), &Patch::Strategic(object::patch(&status))).await
    }

    /// Tells the runtime the node's pod range, once it has one.
    async fn hand_over_cidr(&mut self) {
        let assigned = self.ctx.node.get(&client::Key::cluster(&self.ctx.facts.name));
        let assigned = assigned.and_then(|n| n.spec.as_ref()?.pod_cidr.clone());
        let Some(cidr) = self.ctx.config.pod_cidr.clone().or(assigned).filter(|c| self.pod_cidr.as_ref() != Some(c)) else {
            return;
        };
        match self.ctx.runtime.set_pod_cidr(&cidr).await {
            Ok(()) => self.pod_cidr = Some(cidr),
            Err(error) => tracing::warn!(%error, cidr, "the runtime does not take the pod range"),
        }
    }

    async fn observe(&mut self) -> object::Observed {
        let status = self.ctx.runtime.status().await;
        let answers = status.is_ok();
        let not_ready = match status {
            Ok(status) => not_ready(&status),
            Err(error) => Some(format!("container runtime is down: {error}")),
        };
        let network = not_ready.clone().filter(|why| !answers || why.contains("NetworkReady=false"));
        self.ctx.runtime_ready.store(answers, Ordering::Relaxed);
        self.ctx.network_problem.send_if_modified(|known| {
            let changed = *known != network;
            *known = network;
            changed
        });
        let images = match answers {
            true => self.ctx.runtime.images().await.map(images).unwrap_or_default(),
            false => Vec::new(),
        };
        object::Observed {
            name: self.ctx.facts.name.clone(),
            ips: self.ctx.facts.ips.clone(),
            capacity: self.capacity.clone(),
            allocatable: self.ctx.facts.allocatable.clone(),
            info: self.info.clone(),
            port: self.port,
            images,
            not_ready: with_shutdown(not_ready, *self.ctx.shutting_down.borrow()),
            pressures: self.ctx.pressures.borrow().clone(),
        }
    }
}

/// Why the node is not ready, a shutdown of its machine included.
fn with_shutdown(not_ready: Option<String>, coming: bool) -> Option<String> {
    const COMING: &str = "node is shutting down";
    match not_ready {
        other if !coming => other,
        None => Some(COMING.to_owned()),
        Some(other) => Some(format!("[{other}, {COMING}]")),
    }
}

/// What the Ready condition says if the runtime is not ready.
fn not_ready(status: &v1::StatusResponse) -> Option<String> {
    let conditions = status.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
    let wrong: Vec<String> = ["RuntimeReady", "NetworkReady"]
        .iter()
        .filter_map(|kind| {
            let what =
                if *kind == "RuntimeReady" { "container runtime not ready" } else { "container runtime network not ready" };
            match conditions.iter().find(|c| c.r#type == *kind) {
                Some(c) if c.status => None,
                Some(c) => Some(format!("{what}: {kind}=false reason:{} message:{}", c.reason, c.message)),
                None => Some(format!("{what}: {kind}=false reason: message:")),
            }
        })
        .collect();
    (!wrong.is_empty()).then(|| wrong.join(", "))
}

/// The biggest images with all their names.
fn images(list: Vec<v1::Image>) -> Vec<ContainerImage> {
    let mut list = list;
    list.sort_by_key(|i| (std::cmp::Reverse(i.size), i.id.clone()));
    list.into_iter()
        .take(object::IMAGES)
        .map(|i| ContainerImage {
            names: Some(i.repo_digests.into_iter().chain(i.repo_tags).take(5).collect()),
            size_bytes: i64::try_from(i.size).ok(),
        })
        .collect()
}
