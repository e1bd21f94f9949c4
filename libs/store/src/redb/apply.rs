//! What settling changes, and a step of compaction, do to redb's tables.

use redb::{ReadableTable, WriteTransaction};

use super::{
    backend,
    pending::Change,
    tables::{self, EXPIRY, LOG, VERSIONS},
};
use crate::{Error, Revision};

/// Log entries that one step of a compaction handles.
const COMPACT_STEP: usize = 2000;

/// The open tables of one redb write transaction.
pub(super) struct Tables<'txn> {
    redb: &'txn WriteTransaction,
    versions: redb::Table<'txn, (&'static str, u64), &'static [u8]>,
    log: redb::Table<'txn, (u64, u32), &'static str>,
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

    /// The newest revision in the log.
    pub(super) fn newest(&self) -> Result<Revision, Error> {
        let last = self.log.last().map_err(|e| backend("read the log", e))?;
        Ok(last.map_or(1, |(at, _)| at.value().0))
    }

    /// Takes a change over. To do so again changes nothing.
    pub(super) fn put(&mut self, Change { version, place, expires }: &Change) -> Result<(), Error> {
        let step = "write a version";
        tables::encode(version.create_revision, version.value.as_deref(), &mut self.buffer);
        self.versions.insert((&*version.key, version.mod_revision), self.buffer.as_slice()).map_err(|e| backend(step, e))?;
        self.log.insert((version.mod_revision, *place), &*version.key).map_err(|e| backend(step, e))?;
        if let Some(deadline) = expires {
            self.expiry()?
                .insert((*deadline, &*version.key), version.mod_revision)
                .map_err(|e| backend("note a time to live", e))?;
        }
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
