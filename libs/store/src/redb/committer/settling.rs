//! Settling: redb takes over what is pending, and its file is opened again when that went wrong.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use redb::{Durability as Sync, ReadableDatabase};

use super::{
    super::{
        apply::Tables,
        away, backend, open_file,
        pending::Stored,
        tables::{META, META_OPEN, META_REVISION, VERSIONS},
    },
    Committer,
};
use crate::Error;

/// How long changes may be pending.
pub(super) const SETTLE_AFTER: Duration = Duration::from_secs(10);
/// When settling is tried again after it failed.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// From how many pending changes on they settle as soon as there has been nothing to do for so long.
const WORTH_SETTLING: usize = 64;
pub(super) const QUIET: Duration = Duration::from_millis(100);

impl Committer {
    pub(super) fn worth_settling(&self) -> bool {
        self.pending.changes().len() >= WORTH_SETTLING && !self.stuck
    }

    /// Has redb take over what is pending, with all that it holds on the disk.
    pub(super) fn settle(&mut self) -> Result<(), Error> {
        (self.settle_at, self.quiet_at) = (None, None);
        if self.pending.changes().is_empty() && self.expired.is_empty() && !self.loose {
            self.journal.begin_again();
            return Ok(());
        }
        // Pages that a view shows cannot be used again.
        self.stored = None;
        let settled = self.ensure_open().and_then(|()| self.settle_once());
        self.stuck = settled.is_err();
        match &settled {
            Ok(()) => {
                self.pending.truncate(0);
                self.expired.clear();
                self.loose = false;
                self.sync_at = None;
                self.journal.begin_again();
                self.shared.settled.store(self.shared.revision.load(Ordering::Acquire), Ordering::Release);
            }
            Err(_) => {
                self.reopen();
                self.settle_at = Some(Instant::now() + RETRY_AFTER);
            }
        }
        settled
    }

    fn settle_once(&self) -> Result<(), Error> {
        let guard = self.shared.database.read();
        let mut redb = guard.as_ref().ok_or_else(away)?.begin_write().map_err(|e| backend("begin a write", e))?;
        let sync = if self.shared.options.sync { Sync::Immediate } else { Sync::None };
        redb.set_durability(sync).map_err(|e| backend("begin a write", e))?;
        {
            let mut tables = Tables::open(&redb)?;
            self.pending.changes().iter().try_for_each(|change| tables.put(change))?;
            for (deadline, key) in &self.expired {
                tables.expiry()?.remove((*deadline, &**key)).map_err(|e| backend("drop a time to live", e))?;
            }
        }
        redb.commit().map_err(|e| backend("commit", e))
    }

    /// As nobody waits for it.
    pub(super) fn settle_or_tell(&mut self) {
        if let Err(error) = self.settle() {
            tracing::error!(%error, "settling changes failed; they stay in the journal");
        }
    }

    /// Takes the view of the versions out of its place, or makes one.
    pub(super) fn stored(&mut self) -> Result<Stored, Error> {
        if let Some(stored) = self.stored.take() {
            return Ok(stored);
        }
        let step = "open the versions";
        self.ensure_open()?;
        let guard = self.shared.database.read();
        let txn = guard.as_ref().ok_or_else(away)?.begin_read().map_err(|e| backend(step, e))?;
        txn.open_table(VERSIONS).map_err(|e| backend(step, e))
    }

    pub(super) fn ensure_open(&mut self) -> Result<(), Error> {
        if self.shared.database.read().is_none() {
            self.reopen();
        }
        if self.shared.database.read().is_some() { Ok(()) } else { Err(Error::NoSpace(None)) }
    }

    /// After an I/O error redb wants its file opened again.
    pub(super) fn reopen(&mut self) {
        let mut slot = self.shared.database.write();
        // The old handle holds the file's lock.
        drop(slot.take());
        self.stored = None;
        match open_file(&self.shared.path, &self.shared.options) {
            Ok(database) => *slot = Some(database),
            Err(error) => tracing::error!(%error, "opening the store's file again failed; the next write tries again"),
        }
    }

    pub(super) fn close(&mut self) -> Result<(), Error> {
        let step = "close the store's file";
        let settled = self.settle();
        self.stored = None;
        let mut slot = self.shared.database.write();
        let result = settled.and_then(|()| {
            let Some(database) = slot.as_ref() else { return Ok(()) };
            let txn = database.begin_write().map_err(|e| backend(step, e))?;
            {
                let mut meta = txn.open_table(META).map_err(|e| backend(step, e))?;
                meta.insert(META_OPEN, 0).map_err(|e| backend(step, e))?;
                let revision = self.shared.revision.load(Ordering::Acquire);
                meta.insert(META_REVISION, revision).map_err(|e| backend(step, e))?;
            }
            txn.commit().map_err(|e| backend(step, e))
        });
        drop(slot.take());
        self.watchers.end();
        result
    }
}
