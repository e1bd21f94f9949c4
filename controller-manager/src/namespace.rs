//! Empties namespaces that are being deleted, and then lets them go.
//!
//! Watches namespaces and pods; owns the finalizer `kubernetes` in `spec.finalizers`. Pods go first, with their grace periods: what they
//! use (Secrets, Services) outlives them. Then everything else goes at once. What is left behind (finalizers, errors) is told in
//! conditions; a namespace that empties without trouble gets none. Safe to run twice: it looks at what is there each time.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use client::{Change, Error, Informer, Key, Next, Queue, Step, is_not_found, queue::Limits};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Namespace, NamespaceCondition, Pod},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
    core::{DynamicObject, PartialObjectMeta},
};

use crate::{
    context::Context,
    discovery::{self, Resource},
};

const NAME: &str = "namespace-controller";
const FINALIZER: &str = "kubernetes";
/// Namespaces that wait for somebody else's finalizers are looked at this often at least.
const LIMITS: Limits = Limits { first: Duration::from_millis(5), most: Duration::from_secs(60), rate: 50.0, burst: 500.0 };

/// What is still in a namespace after one pass.
#[derive(Clone, Debug, Default, PartialEq)]
struct Left {
    /// Objects by `resource.group`.
    objects: BTreeMap<String, usize>,
    /// Objects by finalizer.
    finalizers: BTreeMap<String, usize>,
    /// What could not be deleted or looked at.
    errors: Vec<String>,
}

impl Left {
    fn is_nothing(&self) -> bool {
        self == &Self::default()
    }

    fn count(&mut self, resource: &Resource, objects: &[ObjectMeta]) {
        if !objects.is_empty() {
            self.objects.insert(format!("{}.{}", resource.api.plural, resource.api.group), objects.len());
        }
        for finalizer in objects.iter().flat_map(|o| o.finalizers.iter().flatten()) {
            *self.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
    }
}

/// The conditions that tell of this pass, each with its time kept while its status stays.
fn conditions(before: &[NamespaceCondition], left: &Left, now: Timestamp) -> Vec<NamespaceCondition> {
    let told = |counts: &BTreeMap<String, usize>, word: &str| {
        let parts: Vec<_> = counts.iter().map(|(what, n)| format!("{what} {word} {n} resource instances")).collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    };
    let errors = (!left.errors.is_empty()).then(|| left.errors.join(", "));
    let rows = [
        ("NamespaceDeletionDiscoveryFailure", None, ("ResourcesDiscovered", "All resources successfully discovered")),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        ),
        (
            "NamespaceDeletionContentFailure",
            errors.map(|e| {
                (
                    "ContentDeletionFailed",
                    format!("Failed to delete all resource types, {} remaining: {e}", left.errors.len()),
                )
            }),
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ),
        (
            "NamespaceContentRemaining",
            told(&left.objects, "has").map(|t| ("SomeResourcesRemain", format!("Some resources are remaining: {t}"))),
            ("ContentRemoved", "All content successfully removed"),
        ),
        (
            "NamespaceFinalizersRemaining",
            told(&left.finalizers, "in")
                .map(|t| ("SomeFinalizersRemain", format!("Some content in the namespace has finalizers remaining: {t}"))),
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ),
    ];
    let rows = rows.into_iter().map(|(kind, bad, (reason, message))| {
        let status = if bad.is_some() { "True" } else { "False" };
        let (reason, message) = bad.unwrap_or((reason, message.to_owned()));
        let since =
            before.iter().find(|c| c.type_ == kind && c.status == status).and_then(|c| c.last_transition_time.clone());
        NamespaceCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: since.or(Some(Time(now))),
        }
    });
    rows.collect()
}

struct Controller {
    ctx: Context,
    namespaces: Informer<Namespace>,
    pods: Informer<Pod>,
}

/// Runs the controller until the context's shutdown.
pub async fn run(ctx: Context) {
    let queue = Queue::with_limits(NAME, LIMITS);
    let this = Arc::new(Controller { namespaces: ctx.informer(), pods: ctx.informer(), ctx: ctx.clone() });
    if ctx.until_stopped(futures::future::join(this.namespaces.synced(), this.pods.synced())).await.is_none() {
        return;
    }
    this.namespaces.wake(&queue, |change| change.present().map(|n| Key::of(&n.metadata)));
    this.pods.wake(&queue, {
        let this = this.clone();
        move |change| {
            let Change::Deleted(pod) = change else { return None };
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let key = Key::cluster(namespace);
            let waiting = this.namespaces.get(&key).is_some_and(|n| n.metadata.deletion_timestamp.is_some());
            (waiting && this.pods.list_namespace(namespace).is_empty()).then_some(key)
        }
    });
    client::controller::run(NAME, queue, ctx.config.concurrent_namespace_syncs, ctx.shutdown.clone(), move |key| {
        this.clone().reconcile(key)
    })
    .await;
}

impl Controller {
    async fn reconcile(self: Arc<Self>, key: Key) -> Result<Next, Error> {
        let Some(namespace) = self.namespaces.get(&key) else { return Ok(Next::Done) };
        let held = namespace.spec.as_ref().is_some_and(|s| s.finalizers.iter().flatten().any(|f| f == FINALIZER));
        if namespace.metadata.deletion_timestamp.is_none() || !held {
            return Ok(Next::Done);
        }
        let kinds = discovery::resources(&self.ctx.client).await?;
        let kinds = kinds.into_iter().filter(|k| k.namespaced && k.can(&["list", "delete"]));
        let (pods, others): (Vec<_>, Vec<_>) = kinds.partition(|k| k.api.group.is_empty() && k.api.plural == "pods");
        let mut left = self.empty(&key.name, &pods).await;
        let pods_left = !left.is_nothing();
        if !pods_left {
            left = self.empty(&key.name, &others).await;
        }
        if left.is_nothing() {
            self.finalize(&namespace).await?;
            return Ok(Next::Done);
        }
        self.tell(&namespace, &left).await?;
        if pods_left && left.errors.is_empty() && left.finalizers.is_empty() {
            // The last pod's end wakes us; the time is for pods that the cache never saw.
            return Ok(Next::After(Duration::from_secs(15)));
        }
        Ok(Next::Again)
    }

    /// Deletes all objects of these kinds, and looks what is left.
    async fn empty(&self, namespace: &str, kinds: &[Resource]) -> Left {
        let results = futures::future::join_all(kinds.iter().map(|kind| self.empty_kind(namespace, kind))).await;
        let mut left = Left::default();
        for (kind, result) in kinds.iter().zip(results) {
            match result {
                Ok(objects) => left.count(kind, &objects),
                Err(error) => left.errors.push(error.user_message()),
            }
        }
        left.errors.sort();
        left
    }

    async fn empty_kind(&self, namespace: &str, kind: &Resource) -> Result<Vec<ObjectMeta>, Error> {
        let api: Api<PartialObjectMeta<DynamicObject>> = Api::namespaced_with(self.ctx.client.clone(), namespace, &kind.api);
        let list = || async {
            match api.list(&ListParams::default()).await {
                Ok(list) => Ok(list.items.into_iter().map(|o| o.metadata).collect::<Vec<_>>()),
                Err(error) if is_not_found(&error) => Ok(Vec::new()),
                Err(error) => Err(error).step("listing what is left in the namespace"),
            }
        };
        let objects = list().await?;
        if objects.is_empty() || objects.iter().all(|o| o.deletion_timestamp.is_some()) {
            return Ok(objects);
        }
        let params = DeleteParams::background();
        if kind.can(&["deletecollection"]) {
            let all: Api<DynamicObject> = Api::namespaced_with(self.ctx.client.clone(), namespace, &kind.api);
            match all.delete_collection(&params, &ListParams::default()).await {
                Err(error) if !is_not_found(&error) => return Err(error).step("deleting the namespace's objects"),
                _ => {}
            }
        } else {
            for name in objects.iter().filter_map(|o| o.name.as_deref()) {
                match api.delete(name, &params).await {
                    Err(error) if !is_not_found(&error) => return Err(error).step("deleting the namespace's objects"),
                    _ => {}
                }
            }
        }
        list().await
    }

    async fn tell(&self, namespace: &Namespace, left: &Left) -> Result<(), Error> {
        let before = namespace.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
        let told = conditions(&before, left, now);
        if told == before {
            return Ok(());
        }
        let mut changed = namespace.clone();
        changed.status.get_or_insert_default().conditions = Some(told);
        let name = namespace.metadata.name.as_deref().unwrap_or_default();
        let api: Api<Namespace> = Api::all(self.ctx.client.clone());
        match api.replace_status(name, &PostParams::default(), &changed).await {
            Ok(written) => self.namespaces.ensure_seen(&written).await,
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(error).step("writing the namespace's conditions"),
        }
    }

    /// Takes our finalizer off: the API server deletes the namespace with the last one.
    async fn finalize(&self, namespace: &Namespace) -> Result<(), Error> {
        let mut changed = namespace.clone();
        let spec = changed.spec.get_or_insert_default();
        spec.finalizers = Some(spec.finalizers.iter().flatten().filter(|f| *f != FINALIZER).cloned().collect());
        let name = namespace.metadata.name.as_deref().unwrap_or_default();
        let api: Api<Namespace> = Api::all(self.ctx.client.clone());
        match api.replace_subresource("finalize", name, &PostParams::default(), &changed).await {
            Err(error) if is_not_found(&error) => Ok(()),
            written => written.map(drop).step("finalizing the namespace"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_tell_what_is_left_and_keep_their_times() {
        let at = |second| Timestamp::from_second(second).expect("in range");
        let mut left = Left::default();
        left.objects.insert("pods.".to_owned(), 2);
        let first = conditions(&[], &left, at(0));
        left.finalizers.insert("a/b".to_owned(), 1);
        let second = conditions(&first, &left, at(60));
        let told: Vec<_> = second
            .iter()
            .map(|c| {
                (
                    c.type_.as_str(),
                    c.status.as_str(),
                    c.message.as_deref().unwrap_or_default(),
                    c.last_transition_time.as_ref().map(|t| t.0.as_second()),
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("NamespaceDeletionDiscoveryFailure", "False", "All resources successfully discovered", Some(0)),
                (
                    "NamespaceDeletionGroupVersionParsingFailure",
                    "False",
                    "All legacy kube types successfully parsed",
                    Some(0)
                ),
                (
                    "NamespaceDeletionContentFailure",
                    "False",
                    "All content successfully deleted, may be waiting on finalization",
                    Some(0)
                ),
                (
                    "NamespaceContentRemaining",
                    "True",
                    "Some resources are remaining: pods. has 2 resource instances",
                    Some(0)
                ),
                (
                    "NamespaceFinalizersRemaining",
                    "True",
                    "Some content in the namespace has finalizers remaining: a/b in 1 resource instances",
                    Some(60)
                ),
            ]
        );
    }
}
