//! Keeps as many pods of a template alive as asked for: ReplicaSets and ReplicationControllers, which differ only in their types
//! ([`Workload`]).
//!
//! Watches its own kind and pods; owns the pods whose controller reference names it. Safe to run twice over the same state: pods are
//! counted from the cache, and after every write the controller waits until the cache shows it.

mod kinds;
mod rank;

use std::{collections::HashMap, sync::Arc, time::Duration};

use api::selector::Selector;
use client::{Change, Error, Informer, Key, Next, Object, Queue, Recorder, Step, batch, is_not_found, owner, revision_of};
use jiff::Timestamp;
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{Pod, PodTemplateSpec},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Resource,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde::Serialize;

pub(crate) use self::kinds::some;
use crate::{context::Context, pods};

/// Creates and deletes in one go at most.
const BURST: usize = 500;
/// The index over pods without a controller, by namespace.
const ORPHANS: &str = "orphans";

/// The numbers a workload's status tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Active pods.
    pub replicas: i32,
    /// Those that carry all labels of the template.
    pub fully_labeled: i32,
    /// Those that are ready.
    pub ready: i32,
    /// Those that have been ready for `minReadySeconds`.
    pub available: i32,
    /// Pods that are on their way out and have not ended yet.
    pub terminating: i32,
}

/// A kind that keeps replicas.
pub trait Workload: Object + Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize {
    /// The name in logs, metrics and as event source.
    const CONTROLLER: &'static str;
    /// `spec.replicas`.
    fn replicas(&self) -> i32;
    /// `spec.minReadySeconds`.
    fn min_ready_seconds(&self) -> i32;
    /// The pod selector; `None` if it cannot be understood.
    fn selector(&self) -> Option<Selector>;
    /// `spec.template`.
    fn template(&self) -> Option<&PodTemplateSpec>;
    /// The object with its status brought to these counts and this failure (reason, message), or `None` if nothing changes.
    fn with_status(&self, counts: &Counts, failure: Option<(&str, &str)>, now: Timestamp) -> Option<Self>;
    /// How many keys are worked on at once.
    fn workers(config: &crate::Config) -> usize;
}

/// Everything the decision looks at.
struct Observed<W> {
    workload: Arc<W>,
    /// Active pods it controls.
    owned: Vec<Arc<Pod>>,
    /// Pods it controls that are on their way out.
    leaving: Vec<Arc<Pod>>,
    /// Active pods nobody controls, in its namespace.
    orphans: Vec<Arc<Pod>>,
    /// Active pods per node of it and its siblings (other workloads of the same owner).
    neighbours: HashMap<String, usize>,
    now: Timestamp,
}

/// Everything the controller may do.
#[derive(Debug, PartialEq)]
enum Action {
    Adopt(Arc<Pod>),
    Release(Arc<Pod>),
    Create(usize),
    Delete(Vec<Arc<Pod>>),
}

/// A decision: what to do, and the status that follows.
#[derive(Debug, PartialEq)]
struct Plan {
    actions: Vec<Action>,
    counts: Counts,
    /// When a ready pod becomes available.
    wait: Option<Duration>,
}

fn decide<W: Workload>(observed: &Observed<W>) -> Plan {
    let (workload, now) = (&observed.workload, observed.now);
    let meta = workload.meta();
    let deleting = meta.deletion_timestamp.is_some();
    let matches =
        |pod: &Pod| workload.selector().is_some_and(|s| !s.is_empty() && s.matches_opt(pod.metadata.labels.as_ref()));
    let (mut replicas, strays): (Vec<_>, Vec<_>) = observed.owned.iter().cloned().partition(|p| matches(p));
    let mut actions: Vec<_> = if deleting { Vec::new() } else { strays.into_iter().map(Action::Release).collect() };
    if !deleting {
        for pod in observed.orphans.iter().filter(|p| matches(p)) {
            actions.push(Action::Adopt(pod.clone()));
            replicas.push(pod.clone());
        }
    }
    let wanted = workload.replicas().max(0) as usize;
    if !deleting && workload.selector().is_some() {
        if replicas.len() < wanted {
            actions.push(Action::Create((wanted - replicas.len()).min(BURST)));
        } else if replicas.len() > wanted {
            let surplus = (replicas.len() - wanted).min(BURST);
            let chosen = rank::choose(&replicas, &observed.neighbours, surplus, now);
            actions.push(Action::Delete(chosen.into_iter().map(|i| replicas[i].clone()).collect()));
        }
    }
    let (mut counts, wait) = count(workload.as_ref(), &replicas, now);
    counts.terminating = observed.leaving.iter().filter(|p| matches(p)).count() as i32;
    Plan { actions, counts, wait }
}

fn count<W: Workload>(workload: &W, replicas: &[Arc<Pod>], now: Timestamp) -> (Counts, Option<Duration>) {
    let template = workload.template().and_then(|t| t.metadata.as_ref()?.labels.clone()).unwrap_or_default();
    let template = Selector::from_set(&template);
    let mut counts = Counts { replicas: replicas.len() as i32, ..Counts::default() };
    let mut wait: Option<Duration> = None;
    for pod in replicas {
        counts.fully_labeled += i32::from(template.matches_opt(pod.metadata.labels.as_ref()));
        let Some(since) = pods::ready_since(pod) else { continue };
        counts.ready += 1;
        match pods::until_available(since, workload.min_ready_seconds(), now) {
            None => counts.available += 1,
            Some(left) => wait = Some(wait.map_or(left, |w| w.min(left))),
        }
    }
    (counts, wait)
}

/// The pod a workload creates.
fn pod_of<W: Workload>(workload: &W) -> Option<Pod> {
    let template = workload.template()?;
    let meta = template.metadata.clone().unwrap_or_default();
    let name = workload.meta().name.as_deref().unwrap_or_default();
    Some(Pod {
        metadata: ObjectMeta {
            // Names end in five random characters; longer prefixes are cut by the server.
            generate_name: Some(format!("{name}-")),
            namespace: workload.meta().namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner::controller_ref(workload)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    })
}

struct Controller<W> {
    ctx: Context,
    recorder: Recorder,
    workloads: Informer<W>,
    pods: Informer<Pod>,
}

/// Runs the controller until the context's shutdown.
pub async fn run<W: Workload>(ctx: Context) {
    let queue = Queue::new(W::CONTROLLER);
    let controller = Arc::new(Controller {
        recorder: ctx.recorder.for_component(W::CONTROLLER),
        workloads: ctx.informer::<W>(),
        pods: ctx.informer::<Pod>(),
        ctx: ctx.clone(),
    });
    let (workloads, pods) = (controller.workloads.clone(), controller.pods.clone());
    pods.add_index(ORPHANS, |pod| match owner::controller_of(&pod.metadata) {
        None => pod.metadata.namespace.clone().into_iter().collect(),
        Some(_) => Vec::new(),
    });
    if ctx.until_stopped(futures::future::join(workloads.synced(), pods.synced())).await.is_none() {
        return;
    }
    workloads.wake(&queue, |change| [Key::for_object(&**change.object())]);
    pods.on_change({
        let (queue, workloads) = (queue.clone(), workloads.clone());
        move |change| wake(&queue, &workloads, &change)
    });
    let workers = W::workers(&ctx.config);
    client::controller::run(W::CONTROLLER, queue, workers, ctx.shutdown.clone(), move |key| {
        controller.clone().reconcile(key)
    })
    .await;
}

/// Whose business a pod's change is.
fn wake<W: Workload>(queue: &Queue<Key>, workloads: &Informer<W>, change: &Change<'_, Pod>) {
    let pod = change.object();
    if change.old().is_some_and(|old| pods::replica_facts(old) == pods::replica_facts(pod)) {
        return;
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let named = |reference: &OwnerReference| {
        let ours = reference.kind == W::kind(&()) && reference.api_version == W::api_version(&());
        ours.then(|| Key::new(namespace, &reference.name))
    };
    let (old, new) = (change.old().and_then(|p| owner::controller_of(&p.metadata)), owner::controller_of(&pod.metadata));
    if let Some(old) = old.filter(|old| new.is_none_or(|new| new.uid != old.uid)) {
        named(old).into_iter().for_each(|key| queue.add(key));
    }
    match new {
        Some(new) => named(new).into_iter().for_each(|key| queue.add(key)),
        None if !matches!(change, Change::Deleted(_)) => {
            for workload in workloads.list_namespace(namespace) {
                if workload.selector().is_some_and(|s| !s.is_empty() && s.matches_opt(pod.metadata.labels.as_ref())) {
                    queue.add(Key::for_object(&*workload));
                }
            }
        }
        None => {}
    }
}

impl<W: Workload> Controller<W> {
    async fn reconcile(self: Arc<Self>, key: Key) -> Result<Next, Error> {
        let Some(observed) = self.observe(&key) else { return Ok(Next::Done) };
        let plan = decide(&observed);
        let mut failure = None;
        for action in plan.actions {
            let reason = if matches!(action, Action::Delete(_)) { "FailedDelete" } else { "FailedCreate" };
            if let Err(error) = self.apply(&observed.workload, action).await {
                failure = Some((reason, error));
                break;
            }
        }
        let told = failure.as_ref().map(|(reason, error)| (*reason, error.user_message()));
        let told = told.as_ref().map(|(reason, message)| (*reason, message.as_str()));
        self.write_status(&observed.workload, &plan.counts, told, observed.now).await?;
        match (failure, plan.wait) {
            (Some((_, error)), _) => Err(error),
            (None, Some(wait)) => Ok(Next::After(wait)),
            (None, None) => Ok(Next::Done),
        }
    }

    fn observe(&self, key: &Key) -> Option<Observed<W>> {
        let workload = self.workloads.get(key)?;
        let uid = workload.meta().uid.clone().unwrap_or_default();
        let living = self.pods.by_owner(&uid).into_iter().filter(|p| !pods::is_terminal(p));
        let (owned, leaving): (Vec<_>, Vec<_>) = living.partition(|p| pods::is_active(p));
        let orphans = self.pods.by_index(ORPHANS, &key.namespace).into_iter().filter(|p| pods::is_active(p)).collect();
        let neighbours = if owned.len() as i32 > workload.replicas() { self.neighbours(&workload) } else { HashMap::new() };
        Some(Observed { workload, owned, leaving, orphans, neighbours, now: Timestamp::now() })
    }

    /// Active pods per node of all workloads that share this one's controller (a Deployment's ReplicaSets).
    fn neighbours(&self, workload: &W) -> HashMap<String, usize> {
        let siblings = match owner::controller_of(workload.meta()) {
            Some(parent) => self.workloads.by_owner(&parent.uid).iter().filter_map(|w| w.meta().uid.clone()).collect(),
            None => vec![workload.meta().uid.clone().unwrap_or_default()],
        };
        let mut count = HashMap::new();
        for pod in siblings.iter().flat_map(|uid| self.pods.by_owner(uid)).filter(|p| pods::is_active(p)) {
            *count.entry(pods::node(&pod).to_owned()).or_default() += 1;
        }
        count
    }

    async fn apply(&self, workload: &Arc<W>, action: Action) -> Result<(), Error> {
        match action {
            Action::Create(count) => self.create(workload, count).await,
            Action::Delete(pods) => {
                let (_, failure) = batch::all(pods.iter().map(|pod| self.delete(workload, pod))).await;
                failure.map_or(Ok(()), Err)
            }
            Action::Adopt(pod) => self.adopt(workload, &pod).await,
            Action::Release(pod) => {
                let uid = workload.meta().uid.as_deref().unwrap_or_default();
                let kept = pod.metadata.owner_references.iter().flatten().filter(|r| r.uid != uid).cloned().collect();
                self.set_owners(&pod, kept, "releasing a pod").await
            }
        }
    }

    async fn create(&self, workload: &W, count: usize) -> Result<(), Error> {
        let Some(pod) = pod_of(workload) else { return Ok(()) };
        let api = self.ctx.api::<Pod>(pod.metadata.namespace.as_deref().unwrap_or_default());
        let params = PostParams::default();
        let (created, failure) = batch::slow_start(count, 1, |_| async {
            match api.create(&params, &pod).await {
                Ok(pod) => {
                    let name = pod.metadata.name.as_deref().unwrap_or_default();
                    self.recorder.normal(workload, "SuccessfulCreate", format!("Created pod: {name}"));
                    Ok(revision_of(&pod.metadata))
                }
                // Nothing can be created any more, and nothing needs to be.
                Err(error) if namespace_is_terminating(&error) => Ok(0),
                Err(error) => {
                    let error = Error::Api { step: "creating a pod", source: error };
                    self.recorder.warning(workload, "FailedCreate", format!("Error creating: {}", error.user_message()));
                    Err(error)
                }
            }
        })
        .await;
        self.pods.wait_for_revision(created.into_iter().max().unwrap_or(0)).await?;
        failure.map_or(Ok(()), Err)
    }

    async fn delete(&self, workload: &W, pod: &Pod) -> Result<(), Error> {
        let key = Key::of(&pod.metadata);
        match self.ctx.api::<Pod>(&key.namespace).delete(&key.name, &DeleteParams::default()).await {
            Ok(_) => self.recorder.normal(workload, "SuccessfulDelete", format!("Deleted pod: {}", key.name)),
            Err(error) if is_not_found(&error) => {}
            Err(error) => {
                let error = Error::Api { step: "deleting a pod", source: error };
                self.recorder.warning(workload, "FailedDelete", format!("Error deleting: {}", error.user_message()));
                return Err(error);
            }
        }
        self.pods.wait_deleted(&key, pod.metadata.uid.as_deref().unwrap_or_default()).await
    }

    /// Takes a pod that nobody controls, after asking the API server (not the cache) whether the workload still stands.
    async fn adopt(&self, workload: &Arc<W>, pod: &Pod) -> Result<(), Error> {
        let key = Key::for_object(&**workload);
        let fresh =
            self.ctx.api::<W>(&key.namespace).get(&key.name).await.step("reading the workload before adopting a pod")?;
        if fresh.meta().uid != workload.meta().uid || fresh.meta().deletion_timestamp.is_some() {
            return Err(Error::Other(format!("{key} has been deleted or replaced: it adopts nothing")));
        }
        let mut owners = pod.metadata.owner_references.clone().unwrap_or_default();
        owners.push(owner::controller_ref(&**workload));
        self.set_owners(pod, owners, "adopting a pod").await
    }

    async fn set_owners(&self, pod: &Pod, owners: Vec<OwnerReference>, step: &'static str) -> Result<(), Error> {
        let key = Key::of(&pod.metadata);
        let patch = serde_json::json!({"metadata": {
            "ownerReferences": owners, "uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version,
        }});
        match self.ctx.api::<Pod>(&key.namespace).patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(pod) => self.pods.ensure_seen(&pod).await,
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(error).step(step),
        }
    }

    async fn write_status(
        &self,
        workload: &W,
        counts: &Counts,
        failure: Option<(&str, &str)>,
        now: Timestamp,
    ) -> Result<(), Error> {
        let Some(changed) = workload.with_status(counts, failure, now) else { return Ok(()) };
        let key = Key::of(changed.meta());
        match self.ctx.api::<W>(&key.namespace).replace_status(&key.name, &PostParams::default(), &changed).await {
            Ok(written) => self.workloads.ensure_seen(&written).await,
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(error).step("writing the status"),
        }
    }
}

/// Whether a create was refused because its namespace is going away.
pub fn namespace_is_terminating(error: &kube::Error) -> bool {
    let causes = client::status_of(error).and_then(|s| s.details.as_ref()).map(|d| d.causes.as_slice()).unwrap_or_default();
    causes.iter().any(|c| c.reason == "NamespaceTerminating")
}

#[cfg(test)]
mod tests;
