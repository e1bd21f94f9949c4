//! Rolls a Deployment's pods from one template to the next by way of ReplicaSets, one per template.
//!
//! Watches Deployments, ReplicaSets and (for Recreate, which waits for old pods to end) pods; owns the ReplicaSets whose controller
//! reference names the Deployment. The decision is in [`rollout`]; here it is observed, applied and repeated. Safe to run twice: a
//! ReplicaSet's name follows from its template, every write carries the resourceVersion it was decided on, and the
//! controller waits for its own writes before it looks again. `kubectl rollout undo` needs nothing of this: it writes an old
//! template back, which finds its old ReplicaSet.

mod revision;
mod rollout;
mod size;
mod status;
mod template;

use std::{collections::HashMap, sync::Arc};

use api::selector::Selector;
use client::{
    Change, Error, Informer, Key, Next, Queue, Recorder, Step, is_already_exists, is_not_found, owner, revision_of,
};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};

use self::rollout::{Action, Observed, Plan};
use crate::{context::Context, pods, replicas::namespace_is_terminating};

const NAME: &str = "deployment-controller";
/// The index over ReplicaSets without a controller, by namespace.
const ORPHANS: &str = "orphans";

struct Controller {
    ctx: Context,
    recorder: Recorder,
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
}

/// Runs the controller until the context's shutdown.
pub async fn run(ctx: Context) {
    let queue = Queue::new(NAME);
    let this = Arc::new(Controller {
        recorder: ctx.recorder.for_component(NAME),
        deployments: ctx.informer(),
        sets: ctx.informer(),
        pods: ctx.informer(),
        ctx: ctx.clone(),
    });
    this.sets.add_index(ORPHANS, |set| match owner::controller_of(&set.metadata) {
        None => set.metadata.namespace.clone().into_iter().collect(),
        Some(_) => Vec::new(),
    });
    let synced = futures::future::join3(this.deployments.synced(), this.sets.synced(), this.pods.synced());
    if ctx.until_stopped(synced).await.is_none() {
        return;
    }
    this.deployments.wake(&queue, |change| [Key::of(&change.object().metadata)]);
    this.sets.on_change({
        let (queue, this) = (queue.clone(), this.clone());
        move |change| this.set_changed(&queue, &change)
    });
    this.pods.on_change({
        let (queue, this) = (queue.clone(), this.clone());
        move |change| this.pod_changed(&queue, &change)
    });
    client::controller::run(NAME, queue, ctx.config.concurrent_deployment_syncs, ctx.shutdown.clone(), move |key| {
        this.clone().reconcile(key)
    })
    .await;
}

fn owner_key(reference: &OwnerReference, namespace: Option<&str>) -> Option<Key> {
    (reference.kind == "Deployment").then(|| Key::new(namespace.unwrap_or_default(), &reference.name))
}

fn selects(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let selector = Selector::from_label_selector(deployment.spec.as_ref().map(|s| &s.selector));
    selector.is_ok_and(|s| !s.is_empty() && s.matches_opt(set.metadata.labels.as_ref()))
}

impl Controller {
    fn set_changed(&self, queue: &Queue<Key>, change: &Change<'_, ReplicaSet>) {
        let set = change.object();
        let namespace = set.metadata.namespace.as_deref();
        let (old, new) = (change.old().and_then(|s| owner::controller_of(&s.metadata)), owner::controller_of(&set.metadata));
        for reference in old.into_iter().chain(new) {
            owner_key(reference, namespace).into_iter().for_each(|key| queue.add(key));
        }
        if new.is_none() && !matches!(change, Change::Deleted(_)) {
            let near = self.deployments.list_namespace(namespace.unwrap_or_default());
            near.iter().filter(|d| selects(d, set)).for_each(|d| queue.add(Key::of(&d.metadata)));
        }
    }

    /// Recreate waits for the last old pod.
    fn pod_changed(&self, queue: &Queue<Key>, change: &Change<'_, Pod>) {
        let pod = change.object();
        let ended = match change {
            Change::Deleted(_) => true,
            Change::Updated(old, new) => !pods::is_terminal(old) && pods::is_terminal(new),
            Change::Added(_) => false,
        };
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let Some(parent) = owner::controller_of(&pod.metadata).filter(|r| ended && r.kind == "ReplicaSet") else { return };
        let Some(set) = self.sets.get(&Key::new(namespace, &parent.name)) else { return };
        let Some(key) = owner::controller_of(&set.metadata).and_then(|r| owner_key(r, Some(namespace))) else { return };
        if self.deployments.get(&key).is_some_and(|d| !size::is_rolling(&d)) {
            queue.add(key);
        }
    }

    async fn reconcile(self: Arc<Self>, key: Key) -> Result<Next, Error> {
        let Some(deployment) = self.deployments.get(&key) else { return Ok(Next::Done) };
        if self.claim(&deployment).await? {
            return Ok(Next::Again);
        }
        let Plan { actions, again } = rollout::decide(&self.observe(deployment.clone()));
        for action in actions {
            if !self.apply(&deployment, action).await? {
                return Ok(Next::Again);
            }
        }
        Ok(again.map_or(Next::Done, Next::After))
    }

    fn observe(&self, deployment: Arc<Deployment>) -> Observed {
        let sets = self.sets.by_owner(deployment.metadata.uid.as_deref().unwrap_or_default());
        let running = |set: &Arc<ReplicaSet>| {
            let uid = set.metadata.uid.clone().unwrap_or_default();
            let count = self.pods.by_owner(&uid).iter().filter(|p| !pods::is_terminal(p)).count();
            (uid, count)
        };
        let pods = if size::is_rolling(&deployment) { HashMap::new() } else { sets.iter().map(running).collect() };
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
        Observed { deployment, sets, pods, now }
    }

    /// Adopts ReplicaSets that match and have no controller, and lets go of those that don't match any more; says whether it did.
    async fn claim(&self, deployment: &Arc<Deployment>) -> Result<bool, Error> {
        if deployment.metadata.deletion_timestamp.is_some() {
            return Ok(false);
        }
        let key = Key::of(&deployment.metadata);
        let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
        let strays: Vec<_> = self.sets.by_owner(uid).into_iter().filter(|s| !selects(deployment, s)).collect();
        let orphans = self.sets.by_index(ORPHANS, &key.namespace);
        let orphans: Vec<_> =
            orphans.into_iter().filter(|s| s.metadata.deletion_timestamp.is_none() && selects(deployment, s)).collect();
        if !orphans.is_empty() {
            let fresh = self
                .ctx
                .api::<Deployment>(&key.namespace)
                .get(&key.name)
                .await
                .step("reading the Deployment before adopting")?;
            if fresh.metadata.uid != deployment.metadata.uid || fresh.metadata.deletion_timestamp.is_some() {
                return Ok(true);
            }
        }
        for set in &strays {
            let kept = set.metadata.owner_references.iter().flatten().filter(|r| r.uid != uid).cloned().collect();
            self.set_owners(set, kept).await?;
        }
        for set in &orphans {
            let mut owners = set.metadata.owner_references.clone().unwrap_or_default();
            owners.push(owner::controller_ref(&**deployment));
            self.set_owners(set, owners).await?;
        }
        Ok(!strays.is_empty() || !orphans.is_empty())
    }

    async fn set_owners(&self, set: &ReplicaSet, owners: Vec<OwnerReference>) -> Result<(), Error> {
        let key = Key::of(&set.metadata);
        let patch = serde_json::json!({"metadata": {
            "ownerReferences": owners, "uid": set.metadata.uid, "resourceVersion": set.metadata.resource_version,
        }});
        match self
            .ctx
            .api::<ReplicaSet>(&key.namespace)
            .patch(&key.name, &PatchParams::default(), &Patch::Merge(patch))
            .await
        {
            Ok(set) => self.sets.ensure_seen(&set).await,
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(error).step("changing a ReplicaSet's owners"),
        }
    }

    /// Does one thing; `false` if the rest of the plan no longer fits.
    async fn apply(&self, deployment: &Deployment, action: Action) -> Result<bool, Error> {
        let namespace = deployment.metadata.namespace.as_deref().unwrap_or_default();
        match action {
            Action::Create(set) => return self.create(deployment, &set).await,
            Action::Replace(set, event) => {
                let name = set.metadata.name.as_deref().unwrap_or_default();
                let api = self.ctx.api::<ReplicaSet>(namespace);
                let written = api.replace(name, &PostParams::default(), &set).await.step("scaling a ReplicaSet")?;
                if let Some(event) = event {
                    self.recorder.normal(deployment, "ScalingReplicaSet", event);
                }
                self.sets.ensure_seen(&written).await?;
            }
            Action::Delete(name) => {
                match self.ctx.api::<ReplicaSet>(namespace).delete(&name, &DeleteParams::default()).await {
                    Err(error) if !is_not_found(&error) => return Err(error).step("deleting an old ReplicaSet"),
                    _ => {}
                }
            }
            Action::Status(changed) => self.write_status(&changed).await?,
            Action::Warn(reason, message) => self.recorder.warning(deployment, reason, message),
        }
        Ok(true)
    }

    async fn write_status(&self, changed: &Deployment) -> Result<(), Error> {
        let key = Key::of(&changed.metadata);
        match self.ctx.api::<Deployment>(&key.namespace).replace_status(&key.name, &PostParams::default(), changed).await {
            Ok(written) => self.deployments.ensure_seen(&written).await,
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(error).step("writing the Deployment's status"),
        }
    }

    async fn create(&self, deployment: &Deployment, set: &ReplicaSet) -> Result<bool, Error> {
        let (key, size) = (Key::of(&set.metadata), size::of_set(set));
        let api = self.ctx.api::<ReplicaSet>(&key.namespace);
        match api.create(&PostParams::default(), set).await {
            Ok(created) => {
                if size > 0 {
                    let message = format!("Scaled up replica set {} from 0 to {size}", key.name);
                    self.recorder.normal(deployment, "ScalingReplicaSet", message);
                }
                self.sets.ensure_seen(&created).await?;
                Ok(true)
            }
            Err(error) if is_already_exists(&error) => {
                let there = api.get(&key.name).await.step("reading the ReplicaSet of the new template's name")?;
                let ours = owner::is_controlled_by(&there.metadata, &deployment.metadata);
                let template = |s: &ReplicaSet| s.spec.as_ref().and_then(|s| s.template.clone());
                if ours && template::same(template(&there).as_ref(), template(set).as_ref()) {
                    // Our own, from before a restart: the cache will show it.
                    self.sets.wait_for_revision(revision_of(&there.metadata)).await?;
                    return Ok(false);
                }
                let mut changed = deployment.clone();
                let status = changed.status.get_or_insert_default();
                status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
                self.write_status(&changed).await?;
                Ok(false)
            }
            Err(error) if namespace_is_terminating(&error) => Err(error).step("creating a ReplicaSet"),
            Err(error) => {
                let error = Error::Api { step: "creating a ReplicaSet", source: error };
                let message = format!("Failed to create new replica set {:?}: {}", key.name, error.user_message());
                if status::deadline(deployment).is_some() {
                    let mut changed = deployment.clone();
                    let told = status::new_condition(
                        "Progressing",
                        "False",
                        "ReplicaSetCreateError",
                        message.clone(),
                        Timestamp::now(),
                    );
                    status::set_condition(changed.status.get_or_insert_default(), told);
                    // The create's own error matters more than one of telling it.
                    let _ = self.write_status(&changed).await;
                }
                self.recorder.warning(deployment, "ReplicaSetCreateError", message);
                Err(error)
            }
        }
    }
}
