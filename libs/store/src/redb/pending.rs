//! What is acknowledged and not yet in redb: it is here, and in the journal in case the process ends.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use super::tables::{self, Version, unix_ms};
use crate::{Error, Event, Op, Outcome, Revision, Txn};

/// A new version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub version: Version,
    /// Which of its transaction's changes it is.
    pub place: u32,
    /// When the key is to be deleted, in ms since 1970.
    pub expires: Option<u64>,
}

/// What one transaction came to.
pub(super) struct Applied {
    pub outcome: Outcome,
    pub events: Vec<Event>,
}

/// The versions as redb has them.
pub(super) type Stored = redb::ReadOnlyTable<(&'static str, u64), &'static [u8]>;

/// Changes in the order of their revisions.
#[derive(Default)]
pub(super) struct Pending {
    changes: Vec<Change>,
    newest: HashMap<Arc<str>, usize>,
    bytes: usize,
}

impl Pending {
    /// All of them.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes back all but the first `count`.
    pub fn truncate(&mut self, count: usize) {
        let mut kept = std::mem::take(self).changes;
        kept.truncate(count);
        kept.into_iter().for_each(|change| self.push(change));
    }

    fn push(&mut self, change: Change) {
        self.bytes += change.version.key.len() + change.version.value.as_ref().map_or(0, |v| v.len());
        self.newest.insert(change.version.key.clone(), self.changes.len());
        self.changes.push(change);
    }

    fn live(&self, key: &str, stored: &Stored) -> Result<Option<Version>, Error> {
        let newest = match self.newest.get(key) {
            Some(at) => Some(self.changes[*at].version.clone()),
            None => tables::head(stored, key, Revision::MAX)?,
        };
        Ok(newest.filter(|version| version.value.is_some()))
    }

    /// Applies a transaction after `revision`, which it raises; `soonest` becomes the first deadline if it sets an earlier one.
    pub fn apply(
        &mut self,
        txn: &Txn,
        stored: &Stored,
        revision: &mut Revision,
        soonest: &mut Option<SystemTime>,
    ) -> Result<Applied, Error> {
        let mut current = Vec::with_capacity(txn.compare.len());
        let mut holds = true;
        for (key, expected) in &txn.compare {
            let version = self.live(key, stored)?;
            holds &= version.as_ref().map_or(0, |v| v.mod_revision) == *expected;
            current.push(version);
        }
        if !holds {
            let entries = current.into_iter().map(|v| v.and_then(Version::into_entry)).collect();
            return Ok(Applied { outcome: Outcome::Conflict(entries), events: Vec::new() });
        }
        let mut events = Vec::with_capacity(txn.ops.len());
        for op in &txn.ops {
            let (key, value, ttl) = match op {
                Op::Put { key, value, ttl } => (key, Some(value), *ttl),
                Op::Delete { key } => (key, None, None),
            };
            // The comparison has often read the key already.
            let compared = txn.compare.iter().position(|(k, _)| k == key);
            let old = match compared.and_then(|at| current.get_mut(at)).and_then(Option::take) {
                Some(version) => Some(version),
                None => self.live(key, stored)?,
            };
            if value.is_none() && old.is_none() {
                continue;
            }
            let new = Version {
                key: key.clone(),
                create_revision: old.as_ref().map_or(*revision + 1, |v| v.create_revision),
                mod_revision: *revision + 1,
                value: value.cloned(),
            };
            let deadline = ttl.map(|ttl| SystemTime::now() + ttl);
            *soonest = soonest.iter().copied().chain(deadline).min();
            self.push(Change { version: new.clone(), place: events.len() as u32, expires: deadline.map(unix_ms) });
            events.push(tables::event(new, old.and_then(|v| v.value)));
        }
        if !events.is_empty() {
            *revision += 1;
        }
        Ok(Applied { outcome: Outcome::Committed(*revision), events })
    }
}
