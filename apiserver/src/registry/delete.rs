//! Deletion: finalizers and grace periods decide whether an object goes, is marked, or stays as it is.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use api::status::{GroupResource, Status};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use serde_json::{Value, json};
use store::{Op, Txn};

use super::{Current, Entry, Registry, Write, durability, metadata, put, services};
use crate::{
    admission,
    cache::{
        Object,
        object::{encode, with_revision},
    },
    error::{self, Result},
    wire::options::{DeleteOptions, Propagation},
};

/// Deletions of a collection that are under way at once.
const DELETED_AT_ONCE: usize = 32;
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// Kinds whose deletion answers with the object and not with a Status (upstream's `ReturnDeletedObject`).
const RETURNED: &[&str] = &[
    "csinodes",
    "namespaces",
    "persistentvolumeclaims",
    "persistentvolumes",
    "pods",
    "podtemplates",
    "resourcequotas",
    "serviceaccounts",
    "services",
];

/// What a deletion answers with.
#[derive(Debug)]
pub struct Deleted {
    /// The body: the object or a Status.
    pub json: Vec<u8>,
    /// Whether it is the object.
    pub is_object: bool,
    /// Whether the object is gone.
    pub gone: bool,
}

/// What becomes of an object.
#[derive(Clone, Debug, PartialEq)]
enum Plan {
    /// It goes; as it looked last.
    Remove(Value),
    /// It is marked or its marks change.
    Mark(Value),
    /// Its deletion is under way already.
    Nothing,
}

fn new_finalizers(entry_collected: bool, orphans: bool, object: &Value, propagation: Option<Propagation>) -> Vec<String> {
    let old = metadata::finalizers(object);
    if !entry_collected {
        return old;
    }
    let has = |name: &str| old.iter().any(|f| f == name);
    let wanted = match propagation {
        Some(Propagation::Orphan) => Some(ORPHAN),
        Some(Propagation::Foreground) => Some(FOREGROUND),
        Some(Propagation::Background) => None,
        None if has(ORPHAN) => Some(ORPHAN),
        None if has(FOREGROUND) => Some(FOREGROUND),
        None => orphans.then_some(ORPHAN),
    };
    let kept = old.iter().filter(|f| *f != ORPHAN && *f != FOREGROUND).cloned();
    let new: BTreeSet<String> = kept.chain(wanted.map(str::to_owned)).collect();
    // What changes is sorted, what doesn't keeps its order.
    if new == old.iter().cloned().collect() { old } else { new.into_iter().collect() }
}

/// Decides, without clock or store. `grace` is what the kind gives the object for this request.
fn decide(object: &Value, finalizers: &[String], grace: Option<i64>, requested: Option<i64>, now: Timestamp) -> Plan {
    let mut new = object.clone();
    let changed = metadata::finalizers(object) != finalizers;
    let meta = metadata::of(&mut new);
    if finalizers.is_empty() {
        meta.remove("finalizers");
    } else {
        meta.insert("finalizers".to_owned(), json!(finalizers));
    }
    let held = !finalizers.is_empty()
        || object.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|f| !f.is_empty());
    let mark = |new: &mut Value, seconds: i64, base: Timestamp| {
        let at = base.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(base);
        let meta = metadata::of(new);
        meta.insert("deletionTimestamp".to_owned(), metadata::timestamp(at).into());
        meta.insert("deletionGracePeriodSeconds".to_owned(), seconds.into());
    };
    let end = |new: Value| if held { Plan::Mark(new) } else { Plan::Remove(new) };
    if metadata::is_terminating(object) {
        let content = object.pointer("/spec/finalizers").and_then(Value::as_array);
        if object["kind"] == "Namespace" && content.is_some_and(|content| !content.is_empty()) {
            // Nothing about it changes as long as it has content.
            return Plan::Nothing;
        }
        if let (Some(_), Some(left)) = (grace, metadata::grace_seconds(object).filter(|left| *left != 0)) {
            // A deletion under way can only be hastened; until then nothing about it changes.
            let Some(wanted) = requested.filter(|r| *r < left) else { return Plan::Nothing };
            let at: Timestamp = metadata::text(object, "deletionTimestamp").parse().unwrap_or(now);
            mark(&mut new, wanted, at.checked_sub(jiff::SignedDuration::from_secs(left)).unwrap_or(now));
            return if wanted > 0 { Plan::Mark(new) } else { end(new) };
        }
        return match (held, changed) {
            (true, true) => Plan::Mark(new),
            (true, false) => Plan::Nothing,
            (false, _) => Plan::Remove(new),
        };
    }
    match grace {
        Some(seconds) => {
            mark(&mut new, seconds, now);
            metadata::bump_generation(&mut new);
            if seconds > 0 { Plan::Mark(new) } else { end(new) }
        }
        None if held => {
            mark(&mut new, 0, now);
            metadata::bump_generation(&mut new);
            if new.get("kind") == Some(&json!("Namespace")) {
                new["status"]["phase"] = json!("Terminating");
                metadata::of(&mut new).remove("deletionGracePeriodSeconds");
            }
            Plan::Mark(new)
        }
        None => Plan::Remove(object.clone()),
    }
}

fn check_preconditions(entry: &Entry, name: &str, current: &Current, options: &DeleteOptions) -> Result<()> {
    let info = entry.info();
    let namespace = info.group.is_empty() && info.kind == "Namespace";
    // Upstream names the kind here, not the resource, and for namespaces says it in other words.
    let group = if info.group == "events.k8s.io" { "" } else { info.group };
    let resource = if namespace { info.group_resource() } else { GroupResource { group, resource: info.kind } };
    let conflict = |why: String| Status::conflict(resource, name, &why);
    let failed = |what: &str, wanted: &str, own: &str| {
        conflict(format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {own}"))
    };
    let uid = metadata::text(&current.value, "uid");
    if let Some(wanted) = options.uid.as_deref().filter(|w| *w != uid) {
        if namespace {
            return Err(failed("UID", wanted, uid));
        }
        return Err(conflict(format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). The object might have been deleted and then recreated"
        )));
    }
    let revision = current.revision.to_string();
    if let Some(wanted) = options.revision.as_deref().filter(|w| *w != revision) {
        if namespace {
            return Err(failed("ResourceVersion", wanted, &revision));
        }
        return Err(conflict(format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({revision}). The object might have been modified"
        )));
    }
    Ok(())
}

impl Registry {
    /// Deletes an object, or begins to.
    pub async fn delete(
        &self,
        entry: &Entry,
        (namespace, name): (&str, &str),
        options: &DeleteOptions,
        write: Write<'_>,
    ) -> Result<Deleted> {
        let info = entry.info();
        let missing = || Status::not_found(info.group_resource(), name);
        admission::on_delete(self, entry, (namespace, name), write).await?;
        let mut current = self.current(entry, namespace, name).await?.ok_or_else(missing)?;
        loop {
            check_preconditions(entry, name, &current, options)?;
            let finalizers =
                new_finalizers(info.garbage_collected, info.orphans_dependents, &current.value, options.propagation);
            let grace = entry.hooks().grace_seconds(&current.value, options.grace_seconds);
            let (object, gone) = match decide(&current.value, &finalizers, grace, options.grace_seconds, write.now) {
                Plan::Nothing => return Ok(self.answer(entry, &current.value, current.revision, false)),
                Plan::Mark(object) => (object, false),
                Plan::Remove(object) => (object, true),
            };
            if options.dry_run {
                return Ok(self.answer(entry, &object, current.revision, gone));
            }
            let op = if gone {
                Op::Delete { key: current.key.clone() }
            } else {
                let stored = if entry.converts() { entry.hooks().to_stored(object.clone()) } else { object.clone() };
                put(info, current.key.clone(), encode(&stored).into())
            };
            let mut txn =
                Txn { compare: vec![(current.key.clone(), current.revision)], ops: vec![op], durability: durability(info) };
            if gone {
                services::release(entry, &current.value).add_to(&mut txn, &current.key);
            }
            match self.commit(txn).await? {
                Ok(revision) => {
                    if gone {
                        services::take_endpoints(self, entry, (namespace, name), write).await;
                    }
                    return Ok(self.answer(entry, &object, revision, gone));
                }
                Err(mut found) => {
                    let first = if found.is_empty() { None } else { found.swap_remove(0) };
                    current = Self::current_from(entry, first).ok_or_else(missing)?;
                }
            }
        }
    }

    fn answer(&self, entry: &Entry, object: &Value, revision: u64, gone: bool) -> Deleted {
        let info = entry.info();
        let returned = matches!(info.group, "" | "storage.k8s.io") && RETURNED.contains(&info.plural);
        if gone && !returned {
            let name = metadata::text(object, "name");
            return Deleted {
                json: Status::success(info.group_resource(), name, metadata::text(object, "uid")).to_bytes(),
                is_object: false,
                gone,
            };
        }
        let mut json = with_revision(&encode(object), revision).to_vec();
        json.push(b'\n');
        Deleted { json, is_object: true, gone }
    }

    /// Deletes all of `objects`; the list of what was found.
    pub async fn delete_collection(
        &self,
        entry: &Entry,
        objects: Vec<Arc<Object>>,
        options: &DeleteOptions,
        write: Write<'_>,
    ) -> Result<Vec<bytes::Bytes>> {
        // Side by side: deletions that wait for the disk share one sync.
        let deletions = objects.into_iter().map(|object| async move {
            match self.delete(entry, (object.namespace(), object.name()), options, write).await {
                Ok(_) => Ok(Some(entry.encoded(&object))),
                Err(status) if status.is("NotFound") => Ok(None),
                Err(status) => Err(status),
            }
        });
        stream::iter(deletions).buffered(DELETED_AT_ONCE).try_filter_map(|one| async { Ok(one) }).try_collect().await
    }

    /// Forgets now and then what was before the time before, until `shutdown`.
    pub async fn compact_regularly(&self, every: Duration, shutdown: tokio_util::sync::CancellationToken) {
        let mut last = 0;
        loop {
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                () = shutdown.cancelled() => return,
            }
            // While nothing is written there is no history to forget.
            if last > self.forgotten.load(Ordering::Acquire) {
                match self.store().compact(last).await {
                    Ok(()) => drop(self.forgotten.fetch_max(last, Ordering::AcqRel)),
                    // Another server was faster.
                    Err(store::Error::Compacted { oldest, .. }) => drop(self.forgotten.fetch_max(oldest, Ordering::AcqRel)),
                    Err(error) => tracing::warn!(error = error::chain(&error), "could not compact the store"),
                }
            }
            last = self.store().revision().await.unwrap_or(last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_running_pod_is_marked_and_can_be_hastened() {
        let pod = json!({"metadata": {"name": "a", "generation": 1}});
        let Plan::Mark(marked) = decide(&pod, &[], Some(30), None, now()) else { panic!("not marked") };
        let want = json!({"metadata": {"name": "a", "generation": 2, "deletionTimestamp": "2026-01-01T00:00:30Z", "deletionGracePeriodSeconds": 30}});
        assert_eq!(marked, want);
        assert_eq!(decide(&marked, &[], Some(60), Some(60), now()), Plan::Nothing);
        let Plan::Mark(sooner) = decide(&marked, &[], Some(5), Some(5), now()) else { panic!("not hastened") };
        assert_eq!(sooner["metadata"]["deletionTimestamp"], "2026-01-01T00:00:05Z");
        assert_eq!(decide(&marked, &[ORPHAN.to_owned()], Some(30), None, now()), Plan::Nothing);
        assert!(matches!(decide(&marked, &[], Some(0), Some(0), now()), Plan::Remove(_)));
    }

    #[test]
    fn a_namespace_that_goes_stays_as_it_is_while_it_has_content() {
        let kept = json!({"kind": "Namespace", "metadata": {"name": "a", "finalizers": ["x/y"]}, "spec": {"finalizers": ["kubernetes"]}});
        let Plan::Mark(marked) = decide(&kept, &["x/y".to_owned()], None, None, now()) else { panic!("not marked") };
        assert_eq!(decide(&marked, &[ORPHAN.to_owned()], None, None, now()), Plan::Nothing);
    }

    #[test]
    fn finalizers_hold_an_object() {
        let object = json!({"metadata": {"name": "a", "finalizers": ["x/y"]}});
        let Plan::Mark(marked) = decide(&object, &["x/y".to_owned()], None, None, now()) else { panic!("not marked") };
        assert_eq!(decide(&marked, &["x/y".to_owned()], None, None, now()), Plan::Nothing);
        // What has no time left is not pending: only its finalizers keep it.
        let more = ["foregroundDeletion".to_owned(), "x/y".to_owned()];
        let Plan::Mark(held) = decide(&marked, &more, Some(30), None, now()) else { panic!("not marked") };
        assert_eq!(metadata::finalizers(&held), more);
        assert!(matches!(decide(&marked, &[], Some(30), None, now()), Plan::Remove(_)));
        let foreground = new_finalizers(true, false, &object, Some(Propagation::Foreground));
        assert_eq!(foreground, ["foregroundDeletion", "x/y"]);
    }
}
