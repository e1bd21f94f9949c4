//! Deletes what has lost its owners, in the way its owners were deleted: in the background, before them (foreground), or not at all
//! (orphaned).
//!
//! Watches the metadata of every served kind that can be listed, watched and deleted (Events aside, which own nothing and are owned by
//! nobody); owns the finalizers `foregroundDeletion` and `orphan`. The graph says what to look at; before anything is deleted, the
//! API server (not the cache) is asked for the object and for the owners that seem to be gone, and the deletion names the uid.
//! So a late watch can delay a deletion but not cause a wrong one. Safe to run twice for the same reason.

mod graph;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use client::{Change, Error, Informer, Next, Options, Queue, Recorder, Step, is_not_found};
use k8s_openapi::{
    api::core::v1::ObjectReference,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy},
    core::{DynamicObject, PartialObjectMeta},
};
use parking_lot::Mutex;

use self::graph::{FOREGROUND, Graph, Look, Node, ORPHAN, Place};
use crate::{
    context::Context,
    discovery::{self, Resource},
};

const NAME: &str = "garbage-collector-controller";

type Meta = PartialObjectMeta<DynamicObject>;

/// How an object's owners stand, as far as its deletion is concerned.
#[derive(Clone, Debug, Default, PartialEq)]
struct Owners {
    /// There, and staying.
    solid: Vec<String>,
    /// Not there.
    dangling: Vec<String>,
    /// Being deleted, waiting for their dependents.
    waiting: Vec<String>,
}

/// What to do with an object that may be garbage.
#[derive(Clone, Debug, PartialEq)]
enum Verdict {
    /// It has an owner, or never had one.
    Keep,
    /// It stays, but forgets these owners.
    Disown(Vec<String>),
    /// It goes.
    Delete(PropagationPolicy),
}

/// Decides about an object by how its owners stand.
fn decide(owners: &Owners, meta: &ObjectMeta, has_dependents: bool) -> Verdict {
    let lost: Vec<_> = owners.dangling.iter().chain(&owners.waiting).cloned().collect();
    let has = |finalizer: &str| meta.finalizers.iter().flatten().any(|f| f == finalizer);
    if lost.is_empty() {
        return Verdict::Keep;
    }
    if !owners.solid.is_empty() {
        return Verdict::Disown(lost);
    }
    if !owners.waiting.is_empty() && has_dependents {
        return Verdict::Delete(PropagationPolicy::Foreground);
    }
    // A policy that somebody asked for before stays.
    Verdict::Delete(match (has(ORPHAN), has(FOREGROUND)) {
        (true, _) => PropagationPolicy::Orphan,
        (_, true) => PropagationPolicy::Foreground,
        _ => PropagationPolicy::Background,
    })
}

/// Objects that are known to be gone. A uid is never used again, so this cannot become wrong, only large.
#[derive(Default)]
struct Absent {
    known: HashSet<(String, Place)>,
    order: VecDeque<(String, Place)>,
}

impl Absent {
    const MOST: usize = 500;

    fn insert(&mut self, uid: &str, place: &Place) {
        let entry = (uid.to_owned(), place.clone());
        if self.known.insert(entry.clone()) {
            self.order.push_back(entry);
        }
        while self.order.len() > Self::MOST {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }

    fn contains(&self, uid: &str, place: &Place) -> bool {
        self.known.contains(&(uid.to_owned(), place.clone()))
    }
}

struct Collector {
    absent: Mutex<Absent>,
    ctx: Context,
    recorder: Recorder,
    graph: Mutex<Graph>,
    queue: Queue<Look>,
    kinds: HashMap<(String, String), Resource>,
}

/// Runs the controller until the context's shutdown.
pub async fn run(ctx: Context) {
    if !ctx.config.enable_garbage_collector {
        return;
    }
    let Some(kinds) = ctx.until_stopped(discover(&ctx)).await else { return };
    let by_kind = kinds.iter().map(|k| ((k.api.api_version.clone(), k.api.kind.clone()), k.clone())).collect();
    let this = Arc::new(Collector {
        recorder: ctx.recorder.for_component(NAME),
        graph: Mutex::default(),
        absent: Mutex::default(),
        queue: Queue::new(NAME),
        kinds: by_kind,
        ctx: ctx.clone(),
    });
    let watched = kinds.iter().filter(|k| k.can(&["list", "watch", "delete"]) && k.api.kind != "Event");
    let informers: Vec<_> = watched.map(|kind| this.watch(kind)).collect();
    let synced = futures::future::join_all(informers.iter().map(Informer::synced));
    if ctx.until_stopped(synced).await.is_none() {
        return;
    }
    let (queue, workers) = (this.queue.clone(), ctx.config.concurrent_gc_syncs);
    client::controller::run(NAME, queue, workers, ctx.shutdown.clone(), move |look| {
        let this = this.clone();
        async move { this.look(look).await }
    })
    .await;
}

async fn discover(ctx: &Context) -> Vec<Resource> {
    let mut backoff = client::backoff::Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    loop {
        match discovery::resources(&ctx.client).await {
            Ok(kinds) => return kinds,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the kinds to collect garbage of are not known yet"
                );
                backoff.wait().await;
            }
        }
    }
}

impl Collector {
    /// Feeds the graph from one kind's metadata, of which only what the graph needs is kept.
    fn watch(self: &Arc<Self>, kind: &Resource) -> Informer<Meta> {
        let slim = |object: &mut Meta| {
            let meta = std::mem::take(&mut object.metadata);
            object.types = None;
            object.metadata = ObjectMeta {
                name: meta.name,
                namespace: meta.namespace,
                uid: meta.uid,
                resource_version: meta.resource_version,
                owner_references: meta.owner_references,
                finalizers: meta.finalizers,
                deletion_timestamp: meta.deletion_timestamp,
                ..ObjectMeta::default()
            };
        };
        let informer = self.ctx.informers.get_with::<Meta>(&kind.api, Options { transform: slim, ..Options::default() });
        let (this, api_version, name) = (self.clone(), kind.api.api_version.clone(), kind.api.kind.clone());
        informer.on_change(move |change| {
            let mut graph = this.graph.lock();
            let looks = match change {
                Change::Added(object) => graph.observe(&api_version, &name, &object.metadata),
                Change::Updated(old, new) if same(&old.metadata, &new.metadata) => Vec::new(),
                Change::Updated(_, new) => graph.observe(&api_version, &name, &new.metadata),
                Change::Deleted(object) => {
                    let uid = object.metadata.uid.as_deref().unwrap_or_default();
                    if let Some(node) = graph.get(uid).filter(|n| !n.dependents.is_empty()) {
                        this.absent.lock().insert(uid, &node.place);
                    }
                    gone(&mut graph, &object.metadata)
                }
            };
            drop(graph);
            looks.into_iter().for_each(|look| this.queue.add(look));
        });
        informer
    }

    async fn look(&self, look: Look) -> Result<Next, Error> {
        match look {
            Look::Delete(uid) => self.attempt_delete(&uid).await,
            Look::Orphan(uid) => self.attempt_orphan(&uid).await,
        }
    }

    async fn attempt_delete(&self, uid: &str) -> Result<Next, Error> {
        let Some(node) = self.graph.lock().get(uid).cloned() else { return Ok(Next::Done) };
        if !node.seen {
            return self.check_unseen(uid, &node.place).await;
        }
        if node.deleting_dependents {
            return self.finish_foreground(uid, &node.place).await;
        }
        if node.deleting || node.owners.is_empty() {
            return Ok(Next::Done);
        }
        let Some(meta) = self.read(&node.place, uid).await? else {
            // The watch will say so, too; what hangs on it need not wait.
            self.gone(uid);
            return Ok(Next::Done);
        };
        let owners = self.classify(&node.place, &meta).await?;
        match decide(&owners, &meta, !node.dependents.is_empty()) {
            Verdict::Keep => {}
            Verdict::Disown(lost) => self.disown(&node.place, &meta, &lost).await?,
            Verdict::Delete(policy) => {
                if policy == PropagationPolicy::Foreground {
                    self.break_circle(&node.place, &meta, &node.dependents).await?;
                }
                self.delete(&node.place, uid, policy).await?;
            }
        }
        Ok(Next::Done)
    }

    /// An owner that is named but was not seen: if it is not there, its dependents are garbage.
    async fn check_unseen(&self, uid: &str, place: &Place) -> Result<Next, Error> {
        if self.read(place, uid).await?.is_some() {
            // The watch will show it, or it will go before it does.
            return Ok(Next::Again);
        }
        self.gone(uid);
        Ok(Next::Done)
    }

    fn gone(&self, uid: &str) {
        let looks = self.graph.lock().forget(uid);
        looks.into_iter().for_each(|look| self.queue.add(look));
    }

    /// An owner that waits: its blocking dependents have to go first.
    async fn finish_foreground(&self, uid: &str, place: &Place) -> Result<Next, Error> {
        let (blocking, nodes): (Vec<String>, Vec<bool>) = {
            let graph = self.graph.lock();
            let blocking = graph.blocking(uid);
            let waiting = blocking.iter().map(|d| graph.get(d).is_some_and(|n| n.deleting_dependents)).collect();
            (blocking, waiting)
        };
        if blocking.is_empty() {
            self.remove_finalizer(place, uid, FOREGROUND).await?;
            return Ok(Next::Done);
        }
        for (dependent, waiting) in blocking.into_iter().zip(nodes) {
            if !waiting {
                self.queue.add(Look::Delete(dependent));
            }
        }
        Ok(Next::Done)
    }

    async fn attempt_orphan(&self, uid: &str) -> Result<Next, Error> {
        let (place, dependents) = {
            let graph = self.graph.lock();
            let Some(node) = graph.get(uid) else { return Ok(Next::Done) };
            let places =
                node.dependents.iter().filter_map(|d| Some((d.clone(), graph.get(d)?.place.clone()))).collect::<Vec<_>>();
            (node.place.clone(), places)
        };
        let disown = dependents.iter().map(|(dependent, at)| async move {
            match self.read(at, dependent).await? {
                Some(meta) => self.disown(at, &meta, &[uid.to_owned()]).await,
                None => Ok(()),
            }
        });
        let (_, failure) = client::batch::all(disown).await;
        failure.map_or(Ok(()), Err)?;
        self.remove_finalizer(&place, uid, ORPHAN).await?;
        Ok(Next::Done)
    }

    /// How the owners of an object stand. What the graph shows as living is believed; what seems gone is asked for.
    async fn classify(&self, place: &Place, meta: &ObjectMeta) -> Result<Owners, Error> {
        let (mut owners, namespace) = (Owners::default(), place.namespace.as_str());
        let is_foreign = |node: &Node| !node.place.namespace.is_empty() && node.place.namespace != namespace;
        for reference in meta.owner_references.iter().flatten() {
            let known = self.graph.lock().get(&reference.uid).filter(|n| n.seen).cloned();
            let foreign = known.as_ref().is_some_and(is_foreign);
            match known.filter(|_| !foreign) {
                Some(node) if node.deleting_dependents => owners.waiting.push(reference.uid.clone()),
                Some(_) => owners.solid.push(reference.uid.clone()),
                None => {
                    let named = Place {
                        api_version: reference.api_version.clone(),
                        kind: reference.kind.clone(),
                        namespace: namespace.to_owned(),
                        name: reference.name.clone(),
                    };
                    match self.read(&named, &reference.uid).await? {
                        None => {
                            // The owner may have been seen only now: kinds are watched apart.
                            let seen = self.graph.lock().get(&reference.uid).is_some_and(|n| n.seen && is_foreign(n));
                            if foreign || seen {
                                self.warn_foreign(place, meta, reference);
                            }
                            owners.dangling.push(reference.uid.clone());
                        }
                        Some(owner) if owner.deletion_timestamp.is_some() && has(&owner, FOREGROUND) => {
                            owners.waiting.push(reference.uid.clone());
                        }
                        Some(_) => owners.solid.push(reference.uid.clone()),
                    }
                }
            }
        }
        Ok(owners)
    }

    fn warn_foreign(&self, place: &Place, meta: &ObjectMeta, owner: &OwnerReference) {
        let namespace = &place.namespace;
        let about = ObjectReference {
            api_version: Some(place.api_version.clone()),
            kind: Some(place.kind.clone()),
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
            ..ObjectReference::default()
        };
        let what = format!(
            "{}/{}, namespace: {namespace}, name: {}, uid: {}",
            owner.api_version, owner.kind, owner.name, owner.uid
        );
        let message = format!("ownerRef [{what}] does not exist in namespace {namespace:?}");
        self.recorder.record(about, "Warning", "OwnerRefInvalidNamespace", message);
    }

    fn api(&self, place: &Place) -> Result<Api<Meta>, Error> {
        let kind = self.kinds.get(&(place.api_version.clone(), place.kind.clone()));
        let kind = kind.or_else(|| {
            // The reference may name another version of the group.
            let group = place.api_version.rsplit_once('/').map_or("", |(group, _)| group);
            self.kinds.values().find(|k| k.api.kind == place.kind && k.api.group == group)
        });
        let kind =
            kind.ok_or_else(|| Error::Other(format!("{} {} is no kind that is served", place.api_version, place.kind)))?;
        if kind.namespaced && place.namespace.is_empty() {
            let what = format!("{} {}", place.kind, place.name);
            return Err(Error::Other(format!("{what} lives in a namespace and cannot own an object of the cluster")));
        }
        let client = self.ctx.client.clone();
        Ok(if kind.namespaced {
            Api::namespaced_with(client, &place.namespace, &kind.api)
        } else {
            Api::all_with(client, &kind.api)
        })
    }

    /// The object as the API server has it; `None` if it is gone, or another one bears its name.
    async fn read(&self, place: &Place, uid: &str) -> Result<Option<ObjectMeta>, Error> {
        if self.absent.lock().contains(uid, place) {
            return Ok(None);
        }
        let found = self.api(place)?.get_opt(&place.name).await.step("reading an object that may be garbage")?;
        let found = found.map(|o| o.metadata).filter(|m| m.uid.as_deref() == Some(uid));
        if found.is_none() {
            self.absent.lock().insert(uid, place);
        }
        Ok(found)
    }

    async fn delete(&self, place: &Place, uid: &str, policy: PropagationPolicy) -> Result<(), Error> {
        let preconditions = Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None });
        let params = DeleteParams { propagation_policy: Some(policy), preconditions, ..DeleteParams::default() };
        match self.api(place)?.delete(&place.name, &params).await {
            Ok(_) => Ok(()),
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(error).step("deleting garbage"),
        }
    }

    async fn disown(&self, place: &Place, meta: &ObjectMeta, lost: &[String]) -> Result<(), Error> {
        let kept: Vec<_> = meta.owner_references.iter().flatten().filter(|r| !lost.contains(&r.uid)).cloned().collect();
        if kept.len() == meta.owner_references.as_ref().map_or(0, Vec::len) {
            return Ok(());
        }
        self.patch(place, meta, serde_json::json!({"ownerReferences": kept}), "removing owner references").await
    }

    async fn remove_finalizer(&self, place: &Place, uid: &str, finalizer: &str) -> Result<(), Error> {
        let Some(meta) = self.read(place, uid).await?.filter(|m| has(m, finalizer)) else { return Ok(()) };
        let kept: Vec<_> = meta.finalizers.iter().flatten().filter(|f| *f != finalizer).collect();
        self.patch(place, &meta, serde_json::json!({"finalizers": kept}), "removing a finalizer").await
    }

    /// If a dependent is itself waiting for dependents, the object's references stop blocking, or a circle would wait for ever.
    async fn break_circle(&self, place: &Place, meta: &ObjectMeta, dependents: &HashSet<String>) -> Result<(), Error> {
        let circle = {
            let graph = self.graph.lock();
            dependents.iter().any(|d| graph.get(d).is_some_and(|n| n.deleting_dependents))
        };
        if !circle {
            return Ok(());
        }
        let mut owners = meta.owner_references.clone().unwrap_or_default();
        owners.iter_mut().for_each(|o| o.block_owner_deletion = o.block_owner_deletion.map(|_| false));
        self.patch(place, meta, serde_json::json!({"ownerReferences": owners}), "unblocking owner references").await
    }

    async fn patch(
        &self,
        place: &Place,
        meta: &ObjectMeta,
        mut change: serde_json::Value,
        step: &'static str,
    ) -> Result<(), Error> {
        change["uid"] = serde_json::json!(meta.uid);
        change["resourceVersion"] = serde_json::json!(meta.resource_version);
        let patch = Patch::Merge(serde_json::json!({"metadata": change}));
        match self.api(place)?.patch(&place.name, &PatchParams::default(), &patch).await {
            Err(error) if is_not_found(&error) => Ok(()),
            done => done.map(drop).step(step),
        }
    }
}

fn has(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers.iter().flatten().any(|f| f == finalizer)
}

fn same(old: &ObjectMeta, new: &ObjectMeta) -> bool {
    let facts =
        |m: &ObjectMeta| (m.uid.clone(), m.owner_references.clone(), m.finalizers.clone(), m.deletion_timestamp.is_some());
    facts(old) == facts(new)
}

fn gone(graph: &mut Graph, meta: &ObjectMeta) -> Vec<Look> {
    meta.uid.as_deref().map(|uid| graph.forget(uid)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let owners = |solid: &[&str], dangling: &[&str], waiting: &[&str]| Owners {
            solid: names(solid),
            dangling: names(dangling),
            waiting: names(waiting),
        };
        let with = |finalizer: &str| ObjectMeta { finalizers: Some(names(&[finalizer])), ..ObjectMeta::default() };
        let plain = ObjectMeta::default();
        assert_eq!(
            [
                decide(&owners(&["a"], &[], &[]), &plain, false),
                decide(&owners(&["a"], &["b"], &["c"]), &plain, false),
                decide(&owners(&[], &["b"], &[]), &plain, true),
                decide(&owners(&[], &["b"], &[]), &with(ORPHAN), true),
                decide(&owners(&[], &[], &["c"]), &plain, true),
                decide(&owners(&[], &[], &["c"]), &plain, false),
            ],
            [
                Verdict::Keep,
                Verdict::Disown(names(&["b", "c"])),
                Verdict::Delete(PropagationPolicy::Background),
                Verdict::Delete(PropagationPolicy::Orphan),
                Verdict::Delete(PropagationPolicy::Foreground),
                Verdict::Delete(PropagationPolicy::Background),
            ]
        );
    }
}
