//! How versions lie in the file, and the reads over them.
//!
//! `versions` maps (key, revision) to a version, so that one ordered walk answers "the newest at or before R" for a range of
//! keys. `log` maps (revision, place in the transaction) to the key, for replaying a watch and for compaction. `expiry` maps
//! (deadline in Unix ms, key) to the revision whose time to live it is. `meta` holds numbers by name.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use redb::{Database, Durability, ReadTransaction, ReadableTable, TableDefinition};

use super::{
    apply::Tables,
    backend,
    journal::{self, Journal},
};
use crate::{Entry, Error, Event, Page, Range, Revision};

pub(super) const VERSIONS: TableDefinition<(&str, u64), &[u8]> = TableDefinition::new("versions");
pub(super) const LOG: TableDefinition<(u64, u32), &str> = TableDefinition::new("log");
pub(super) const EXPIRY: TableDefinition<(u64, &str), u64> = TableDefinition::new("expiry");
pub(super) const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// `meta`: the revision, where no log entry tells (after a repair).
pub(super) const META_REVISION: &str = "revision";
/// `meta`: the oldest revision that can be read.
pub(super) const META_COMPACTED: &str = "compacted";
/// `meta`: 1 while a process has the file open.
pub(super) const META_OPEN: &str = "open";
/// `meta`: the number by which the file knows its journal.
pub(super) const META_JOURNAL: &str = "journal";

/// How far the revision jumps after an unclean end: more than the committer ever leaves unsynced.
pub(super) const JUMP: u64 = 10_000;

/// One version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub key: Arc<str>,
    pub create_revision: Revision,
    pub mod_revision: Revision,
    /// `None` is a tombstone.
    pub value: Option<Bytes>,
}

impl Version {
    pub fn into_entry(self) -> Option<Entry> {
        let Self { key, create_revision, mod_revision, value } = self;
        value.map(|value| Entry { key, value, create_revision, mod_revision })
    }

    pub fn decode(key: &str, revision: u64, bytes: &[u8]) -> Result<Self, Error> {
        let corrupted = || backend("decode a version", redb::Error::Corrupted(format!("version {revision} of {key}")));
        let (head, rest) = bytes.split_first_chunk::<8>().ok_or_else(corrupted)?;
        let (flag, value) = rest.split_first().ok_or_else(corrupted)?;
        Ok(Self {
            key: key.into(),
            create_revision: u64::from_le_bytes(*head),
            mod_revision: revision,
            value: (*flag == 0).then(|| Bytes::copy_from_slice(value)),
        })
    }
}

/// The bytes of a version: the creating revision, a flag (1 is a tombstone), the value.
pub(super) fn encode(create_revision: Revision, value: Option<&[u8]>, into: &mut Vec<u8>) {
    into.clear();
    into.extend_from_slice(&create_revision.to_le_bytes());
    into.push(u8::from(value.is_none()));
    into.extend_from_slice(value.unwrap_or_default());
}

/// Where an opened file stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    pub revision: Revision,
    pub compacted: Revision,
    /// Watches from before this revision cannot be replayed: unsynced changes may be missing there.
    pub watchable: Revision,
}

/// Reads where the file at `path` stands, makes the tables, takes over what its journal holds, marks it open.
pub(super) fn start(database: &Database, path: &Path, sync: bool) -> Result<(Start, Journal), Error> {
    let step = "prepare the store's file";
    let mut txn = database.begin_write().map_err(|e| backend(step, e))?;
    txn.set_durability(if sync { Durability::Immediate } else { Durability::None }).map_err(|e| backend(step, e))?;
    let (start, journal);
    {
        let mut meta = txn.open_table(META).map_err(|e| backend(step, e))?;
        txn.open_table(EXPIRY).map_err(|e| backend(step, e))?;
        let number = |name: &str| -> Result<Option<u64>, Error> {
            Ok(meta.get(name).map_err(|e| backend(step, e))?.map(|guard| guard.value()))
        };
        let noted = number(META_REVISION)?.unwrap_or(0);
        let unclean = number(META_OPEN)? == Some(1);
        let compacted = number(META_COMPACTED)?.unwrap_or(0);
        let (former, id) = (number(META_JOURNAL)?, rand::random());
        let mut tables = Tables::open(&txn)?;
        let settled = tables.newest()?.max(noted);
        let (opened, changes) = Journal::open(&journal::beside(path), former, id, settled)
            .map_err(|e| backend("read the store's journal", redb::Error::Io(e)))?;
        changes.iter().try_for_each(|change| tables.put(change))?;
        let newest = changes.last().map_or(settled, |last| last.version.mod_revision);
        let revision = if unclean { newest + JUMP } else { newest };
        let watchable = if unclean { revision + 1 } else { compacted };
        for (name, number) in [(META_REVISION, revision), (META_OPEN, 1), (META_JOURNAL, id)] {
            meta.insert(name, number).map_err(|e| backend(step, e))?;
        }
        (start, journal) = (Start { revision, compacted, watchable }, opened);
    }
    txn.commit().map_err(|e| backend(step, e))?;
    Ok((start, journal))
}

/// The newest version of `key` at or before `at`, tombstones included.
pub(super) fn head(
    versions: &impl ReadableTable<(&'static str, u64), &'static [u8]>,
    key: &str,
    at: Revision,
) -> Result<Option<Version>, Error> {
    let step = "read a key";
    let mut found = versions.range((key, 0)..=(key, at)).map_err(|e| backend(step, e))?;
    match found.next_back() {
        None => Ok(None),
        Some(item) => {
            let (at, bytes) = item.map_err(|e| backend(step, e))?;
            Version::decode(key, at.value().1, bytes.value()).map(Some)
        }
    }
}

/// The newest revision that this snapshot holds.
pub(super) fn newest_revision(txn: &ReadTransaction) -> Result<Revision, Error> {
    let step = "read the revision";
    let log = txn.open_table(LOG).map_err(|e| backend(step, e))?;
    let logged = log.last().map_err(|e| backend(step, e))?.map_or(1, |(key, _)| key.value().0);
    let meta = txn.open_table(META).map_err(|e| backend(step, e))?;
    let noted = meta.get(META_REVISION).map_err(|e| backend(step, e))?.map_or(0, |guard| guard.value());
    Ok(logged.max(noted))
}

/// Answers a [`Range`] from one snapshot.
pub(super) fn range(txn: &ReadTransaction, range: &Range, compacted: &AtomicU64) -> Result<Page, Error> {
    let step = "read a range";
    let newest = newest_revision(txn)?;
    let revision = range.at.unwrap_or(newest);
    if revision > newest {
        return Err(Error::Future { requested: revision, newest });
    }
    let mut page = Page { entries: Vec::new(), remaining: 0, revision };
    let mut take = |version: Option<Version>| {
        let Some(entry) = version.and_then(Version::into_entry) else { return };
        if range.limit == 0 || page.entries.len() < range.limit {
            page.entries.push(entry);
        } else {
            page.remaining += 1;
        }
    };
    if range.start < range.end {
        let versions = txn.open_table(VERSIONS).map_err(|e| backend(step, e))?;
        let mut newest_of_key: Option<Version> = None;
        for item in versions.range((range.start.as_str(), 0)..(range.end.as_str(), 0)).map_err(|e| backend(step, e))? {
            let (at, bytes) = item.map_err(|e| backend(step, e))?;
            let (key, version_revision) = at.value();
            if newest_of_key.as_ref().is_some_and(|v| *v.key != *key) {
                take(newest_of_key.take());
            }
            if version_revision <= revision {
                newest_of_key = Some(Version::decode(key, version_revision, bytes.value())?);
            }
        }
        take(newest_of_key);
    }
    // Checked last: a compaction may have run ahead of this snapshot's beginning, never of its end.
    let oldest = compacted.load(Ordering::Acquire);
    if revision < oldest {
        return Err(Error::Compacted { requested: revision, oldest });
    }
    Ok(page)
}

/// Every change of `revisions` to keys that begin with `prefix`, in order.
pub(super) fn replay(
    txn: &ReadTransaction,
    prefix: &str,
    revisions: std::ops::RangeInclusive<Revision>,
    limit: usize,
) -> Result<(Vec<Event>, Option<Revision>), Error> {
    let step = "replay the log";
    let log = txn.open_table(LOG).map_err(|e| backend(step, e))?;
    let versions = txn.open_table(VERSIONS).map_err(|e| backend(step, e))?;
    let mut events: Vec<Event> = Vec::new();
    for item in log.range((*revisions.start(), 0)..=(*revisions.end(), u32::MAX)).map_err(|e| backend(step, e))? {
        let (at, key) = item.map_err(|e| backend(step, e))?;
        let (revision, key) = (at.value().0, key.value());
        if events.len() >= limit && events.last().is_some_and(|e| e.revision != revision) {
            return Ok((events, Some(revision)));
        }
        if key.starts_with(prefix) {
            let Some(version) = head(&versions, key, revision)? else { continue };
            let previous = head(&versions, key, revision - 1)?.and_then(|v| v.value);
            events.push(event(version, previous));
        }
    }
    Ok((events, None))
}

/// The change that made `version`.
pub(super) fn event(version: Version, previous: Option<Bytes>) -> Event {
    Event {
        key: version.key,
        revision: version.mod_revision,
        value: version.value,
        previous,
        create_revision: version.create_revision,
    }
}

/// Milliseconds since 1970.
pub(super) fn unix_ms(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
