//! Updates of every sort: a change is computed from the newest object and committed on the condition that it still is.
//!
//! What changes is a function of the current object (a replacement, a patch, a new scale), so that it can be computed again
//! when another writer was faster. An update that takes the last finalizer off a terminating object deletes it.

use api::{kind::Subresource, status::Status};
use bytes::Bytes;
use serde_json::Value;
use store::{Op, Txn};

use super::{Current, Entry, Registry, Write, Written, durability, metadata, put, services};
use crate::{
    admission,
    cache::object::{encode, with_revision},
    error::{self, Result},
};

/// How often a change is computed anew before giving up. Upstream's storage layer tries without end.
const TRIES: usize = 100;

/// A change as wished for: the new object, in the kind's form.
pub type Wish<'a> = dyn FnMut(&Value) -> Result<Value> + Send + 'a;

impl Registry {
    /// Applies `wish` to the object at the main resource or a subresource.
    pub async fn update(
        &self,
        entry: &Entry,
        (namespace, name): (&str, &str),
        at: Option<Subresource>,
        write: Write<'_>,
        wish: &mut Wish<'_>,
    ) -> Result<Written> {
        let info = entry.info();
        let missing = || Status::not_found(info.group_resource(), name);
        let mut current = self.current(entry, namespace, name).await?.ok_or_else(missing)?;
        for _ in 0..TRIES {
            let mut new = wish(&current.value)?;
            check_revision(entry, name, &new, &current)?;
            metadata::fit_kind(&mut new, info)?;
            metadata::fit_namespace(&mut new, namespace, info.namespaced)?;
            match self.replace(entry, &current, new, at, write).await? {
                Replaced::Done(written) => return Ok(written),
                Replaced::Lost(newer) => current = (*newer).ok_or_else(missing)?,
            }
        }
        Err(Status::modified(info.group_resource(), name))
    }

    async fn replace(
        &self,
        entry: &Entry,
        current: &Current,
        mut new: Value,
        at: Option<Subresource>,
        write: Write<'_>,
    ) -> Result<Replaced> {
        let info = entry.info();
        let name = metadata::text(&current.value, "name").to_owned();
        metadata::carry_over(&mut new, &current.value);
        admission::on_update(entry, &mut new, &current.value, at, write)?;
        if at.is_none() {
            services::check_ports(self, entry, &new, Some(&current.value), write.options.dry_run)?;
        }

        let admitted = entry.hooks().update(new, &current.value, at, &write.context());
        let admitted = admitted.map_err(|refused| error::refused(info, &name, &refused))?;
        let mut object = admitted.object;
        let claims = services::assign(self, entry, &mut object, Some(&current.value), write.options.dry_run)?;
        let gone = is_finished(&object, &current.value);
        self.commit_change(entry, current, object, gone, claims, write, admitted.warnings).await
    }

    /// Commits a decided change of `current` (`gone`: its deletion), unless nothing changed.
    #[allow(clippy::too_many_arguments, reason = "the one place where a decision becomes a transaction")]
    async fn commit_change(
        &self,
        entry: &Entry,
        current: &Current,
        object: Value,
        gone: bool,
        claims: services::Claims,
        write: Write<'_>,
        warnings: Vec<String>,
    ) -> Result<Replaced> {
        let info = entry.info();
        let stored = if entry.converts() { entry.hooks().to_stored(object) } else { object };
        let bytes = Bytes::from(encode(&stored));
        let show = |bytes: &Bytes, revision| {
            let json = with_revision(bytes, revision);
            if entry.converts() { entry.show(&json) } else { json }
        };
        if write.options.dry_run || (!gone && bytes == current.stored && info.ttl_seconds.is_none()) {
            return Ok(Replaced::Done(Written { json: show(&bytes, current.revision), warnings, created: false }));
        }
        let op = if gone { Op::Delete { key: current.key.clone() } } else { put(info, current.key.clone(), bytes.clone()) };
        let mut txn =
            Txn { compare: vec![(current.key.clone(), current.revision)], ops: vec![op], durability: durability(info) };
        if gone {
            services::release(entry, &current.value).add_to(&mut txn, &current.key);
        } else {
            claims.add_to(&mut txn, &current.key);
        }
        Ok(match self.commit(txn).await? {
            Ok(revision) => {
                if gone {
                    let place = (metadata::text(&current.value, "namespace"), metadata::text(&current.value, "name"));
                    services::take_endpoints(self, entry, place, write).await;
                }
                Replaced::Done(Written { json: show(&bytes, revision), warnings, created: false })
            }
            Err(mut found) => {
                let first = if found.is_empty() { None } else { found.swap_remove(0) };
                Replaced::Lost(Box::new(Self::current_from(entry, first)))
            }
        })
    }

    /// Applies a change that the server itself decides (bindings, deletion marks), past admission and the kind's hooks.
    pub async fn edit(
        &self,
        entry: &Entry,
        (namespace, name): (&str, &str),
        write: Write<'_>,
        wish: &mut Wish<'_>,
    ) -> Result<Written> {
        let missing = || Status::not_found(entry.info().group_resource(), name);
        let mut current = self.current(entry, namespace, name).await?.ok_or_else(missing)?;
        for _ in 0..TRIES {
            let new = wish(&current.value)?;
            match self.commit_change(entry, &current, new, false, services::Claims::default(), write, Vec::new()).await? {
                Replaced::Done(written) => return Ok(written),
                Replaced::Lost(newer) => current = (*newer).ok_or_else(missing)?,
            }
        }
        Err(Status::modified(entry.info().group_resource(), name))
    }
}

/// How an attempt ended.
pub(super) enum Replaced {
    /// Committed (or nothing to do).
    Done(Written),
    /// Someone else was faster: what they left, `None` if they deleted it.
    Lost(Box<Option<Current>>),
}

/// An update may name the revision it is based on.
fn check_revision(entry: &Entry, name: &str, new: &Value, current: &Current) -> Result<()> {
    let info = entry.info();
    let wanted = metadata::text(new, "resourceVersion");
    if wanted.is_empty() || wanted == "0" {
        if info.unconditional_update {
            return Ok(());
        }
        let mut errors = api::field::FieldErrors::default();
        errors.invalid("metadata.resourceVersion", &0, "must be specified for an update");
        errors.0.iter_mut().for_each(|e| e.value = "0x0".to_owned());
        // As upstream: the resource, where the kind is told otherwise.
        return Err(Status::invalid(info.group_resource(), name, &errors));
    }
    // As upstream to this day, an error without a reason.
    let wanted = crate::wire::options::parse_number(wanted).map_err(Status::unexpected)?;
    if wanted != current.revision {
        return Err(Status::modified(info.group_resource(), name));
    }
    Ok(())
}

/// Whether an update takes away the last thing that held a terminating object.
fn is_finished(new: &Value, old: &Value) -> bool {
    metadata::is_terminating(old)
        && metadata::finalizers(new).is_empty()
        && metadata::grace_seconds(old).unwrap_or(0) == 0
        && new.pointer("/spec/finalizers").and_then(Value::as_array).is_none_or(Vec::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_a_terminating_object_without_anything_that_holds_it_is_finished() {
        let terminating =
            json!({"metadata": {"deletionTimestamp": "t", "deletionGracePeriodSeconds": 0, "finalizers": ["a"]}});
        let graceful = json!({"metadata": {"deletionTimestamp": "t", "deletionGracePeriodSeconds": 30}});
        let free = json!({"metadata": {}});
        let held = json!({"metadata": {"finalizers": ["a"]}});
        let namespace = json!({"metadata": {}, "spec": {"finalizers": ["kubernetes"]}});
        let cases = [
            (&free, &terminating, true),
            (&held, &terminating, false),
            (&namespace, &terminating, false),
            (&free, &graceful, false),
            (&free, &free, false),
        ];
        for (new, old, want) in cases {
            assert_eq!(is_finished(new, old), want, "{new} {old}");
        }
    }
}
