//! What a transaction, and a step of compaction, does to redb's tables.

use std::time::SystemTime;

use redb::{ReadableTable, WriteTransaction};

use super::{
    backend,
    tables::{self, EXPIRY, LOG, VERSIONS, Version, unix_ms},
};
use crate::{Error, Event, Op, Outcome, Revision, Txn};

/// Log entries that one step of a compaction handles.
const COMPACT_STEP: usize = 2000;

/// What one transaction came to.
pub(super) struct Applied {
    pub(super) outcome: Outcome,
    pub(super) events: Vec<Event>,
}

/// The open tables of one redb write transaction.
pub(super) struct Tables<'txn> {
    redb: &'txn WriteTransaction,
    pub(super) versions: redb::Table<'txn, (&'static str, u64), &'static [u8]>,
    pub(super) log: redb::Table<'txn, (u64, u32), &'static str>,
    /// Opened when it is needed, which is seldom: every open table is looked through when the transaction ends.
    expiry: Option<redb::Table<'txn, (u64, &'static str), u64>>,
    buffer: Vec<u8>,
}

impl<'txn> Tables<'txn> {
    /// Opens them.
    pub(super) fn open(redb: &'txn WriteTransaction) -> Result<Self, Error> {
        let step = "open the tables";
        Ok(Self {
            redb,
            versions: redb.open_table(VERSIONS).map_err(|e| backend(step, e))?,
            log: redb.open_table(LOG).map_err(|e| backend(step, e))?,
            expiry: None,
            buffer: Vec::new(),
        })
    }

    /// The table of what expires.
    pub(super) fn expiry(&mut self) -> Result<&mut redb::Table<'txn, (u64, &'static str), u64>, Error> {
        let opened = match self.expiry.take() {
            Some(open) => open,
            None => self.redb.open_table(EXPIRY).map_err(|e| backend("open the tables", e))?,
        };
        Ok(self.expiry.insert(opened))
    }

    fn live(&self, key: &str) -> Result<Option<Version>, Error> {
        Ok(tables::head(&self.versions, key, Revision::MAX)?.filter(|v| v.value.is_some()))
    }

    /// Applies a transaction after `revision`, which it raises; `soonest` becomes the first deadline if it sets an earlier one.
    pub(super) fn apply(
        &mut self,
        txn: &Txn,
        revision: &mut Revision,
        soonest: &mut Option<SystemTime>,
    ) -> Result<Applied, Error> {
        let mut current = Vec::with_capacity(txn.compare.len());
        let mut holds = true;
        for (key, expected) in &txn.compare {
            let version = self.live(key)?;
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
                None => self.live(key)?,
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
            self.put(&new, events.len() as u32)?;
            if let Some(ttl) = ttl {
                let deadline = SystemTime::now() + ttl;
                self.expiry()?
                    .insert((unix_ms(deadline), &**key), new.mod_revision)
                    .map_err(|e| backend("note a time to live", e))?;
                *soonest = Some(soonest.map_or(deadline, |at| at.min(deadline)));
            }
            events.push(tables::event(new, old.and_then(|v| v.value)));
        }
        if !events.is_empty() {
            *revision += 1;
        }
        Ok(Applied { outcome: Outcome::Committed(*revision), events })
    }

    fn put(&mut self, version: &Version, place: u32) -> Result<(), Error> {
        let step = "write a version";
        tables::encode(version.create_revision, version.value.as_deref(), &mut self.buffer);
        self.versions.insert((&*version.key, version.mod_revision), self.buffer.as_slice()).map_err(|e| backend(step, e))?;
        self.log.insert((version.mod_revision, place), &*version.key).map_err(|e| backend(step, e))?;
        Ok(())
    }

    /// Forgets up to [`COMPACT_STEP`] log entries before `upto` and the versions that they superseded; true when none is left.
    pub(super) fn forget(&mut self, upto: Revision) -> Result<bool, Error> {
        let step = "compact";
        let mut entries: Vec<((u64, u32), String)> = Vec::new();
        for item in self.log.range((0, 0)..(upto, 0)).map_err(|e| backend(step, e))?.take(COMPACT_STEP) {
            let (at, key) = item.map_err(|e| backend(step, e))?;
            entries.push((at.value(), key.value().to_owned()));
        }
        for (_, key) in &entries {
            let Some(kept) = tables::head(&self.versions, key, upto - 1)? else { continue };
            let superseded = if kept.value.is_none() { kept.mod_revision + 1 } else { kept.mod_revision };
            let old: Vec<u64> = self
                .versions
                .range((key.as_str(), 0)..(key.as_str(), superseded))
                .map_err(|e| backend(step, e))?
                .map(|item| item.map(|(at, _)| at.value().1))
                .collect::<Result<_, _>>()
                .map_err(|e| backend(step, e))?;
            for revision in old {
                self.versions.remove((key.as_str(), revision)).map_err(|e| backend(step, e))?;
            }
        }
        for (at, _) in &entries {
            self.log.remove(at).map_err(|e| backend(step, e))?;
        }
        Ok(entries.len() < COMPACT_STEP)
    }
}
