//! Compaction: history is forgotten a piece at a time, between writes.

use std::{sync::atomic::Ordering, time::Instant};

use redb::Durability as Sync;
use tokio::sync::oneshot;

use super::{
    super::{
        apply::Tables,
        away, backend,
        tables::{META, META_COMPACTED},
    },
    Committer,
    settling::SETTLE_AFTER,
};
use crate::{Error, Revision};

/// A compaction that runs.
pub(super) struct Compaction {
    upto: Revision,
    reply: oneshot::Sender<Result<(), Error>>,
}

impl Committer {
    pub(super) fn compact(&mut self, revision: Revision, reply: oneshot::Sender<Result<(), Error>>) {
        let newest = self.shared.revision.load(Ordering::Acquire);
        let oldest = self.shared.compacted.load(Ordering::Acquire);
        if revision > newest {
            let _ = reply.send(Err(Error::Future { requested: revision, newest }));
        } else if revision <= oldest {
            let _ = reply.send(Err(Error::Compacted { requested: revision, oldest }));
        } else if self.compaction.is_some() {
            // One at a time; history that is forgotten a little later harms nobody.
            let _ = reply.send(Ok(()));
        } else if let Err(error) = self.settle() {
            let _ = reply.send(Err(error));
        } else {
            self.shared.compacted.store(revision, Ordering::Release);
            self.compaction = Some(Compaction { upto: revision, reply });
        }
    }

    /// Does a bounded piece of the running compaction, so that writers never wait long for it.
    pub(super) fn compact_step(&mut self) {
        let Some(compaction) = self.compaction.take() else { return };
        let upto = compaction.upto;
        match self.forget(upto) {
            Ok(true) => {
                let _ = compaction.reply.send(Ok(()));
            }
            Ok(false) => self.compaction = Some(compaction),
            Err(error) => {
                let _ = compaction.reply.send(Err(error));
                self.reopen();
            }
        }
    }

    fn forget(&mut self, upto: Revision) -> Result<bool, Error> {
        let step = "compact";
        self.ensure_open()?;
        self.stored = None;
        let guard = self.shared.database.read();
        let database = guard.as_ref().ok_or_else(away)?;
        let mut redb = database.begin_write().map_err(|e| backend(step, e))?;
        redb.set_durability(Sync::None).map_err(|e| backend(step, e))?;
        let done;
        {
            let mut tables = Tables::open(&redb)?;
            done = tables.forget(upto)?;
            if done {
                let mut meta = redb.open_table(META).map_err(|e| backend(step, e))?;
                meta.insert(META_COMPACTED, upto).map_err(|e| backend(step, e))?;
            }
        }
        redb.commit().map_err(|e| backend(step, e))?;
        self.loose = true;
        self.settle_at.get_or_insert_with(|| Instant::now() + SETTLE_AFTER);
        Ok(done)
    }
}
