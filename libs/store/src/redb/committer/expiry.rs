//! Keys with a time to live: when it is over they are deleted as any writer would.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use redb::{ReadableDatabase, ReadableTable};

use super::{
    super::{
        away, backend,
        tables::{EXPIRY, unix_ms},
    },
    BATCH, Committer,
    settling::SETTLE_AFTER,
};
use crate::{Durability, Error, Event, Op, Txn};

/// What the expiry table says is over.
#[derive(Default)]
struct Due {
    deletions: Vec<Txn>,
    expired: Vec<(u64, Arc<str>)>,
    next: Option<SystemTime>,
}

impl Committer {
    pub(super) fn expire(&mut self) {
        // What is pending may set deadlines, or put them off.
        let due = match self.settle().and_then(|()| self.due()) {
            Ok(due) => due,
            Err(error) => {
                tracing::error!(error = %error, "reading expired keys failed");
                self.expire_at = Some(SystemTime::now() + SETTLE_AFTER);
                return;
            }
        };
        self.expire_at = due.next;
        if due.expired.is_empty() {
            return;
        }
        match self.write(&due.deletions) {
            Ok(applied) => {
                self.expired.extend(due.expired);
                self.settle_at.get_or_insert_with(|| Instant::now() + SETTLE_AFTER);
                let events: Vec<Event> = applied.into_iter().flat_map(|one| one.events).collect();
                self.watchers.publish(&events);
            }
            Err(error) => {
                tracing::error!(error = %error, "deleting expired keys failed");
                self.expire_at = Some(SystemTime::now() + SETTLE_AFTER);
            }
        }
    }

    fn due(&self) -> Result<Due, Error> {
        let step = "read what expires";
        let guard = self.shared.database.read();
        let txn = guard.as_ref().ok_or_else(away)?.begin_read().map_err(|e| backend(step, e))?;
        let expiry = txn.open_table(EXPIRY).map_err(|e| backend(step, e))?;
        let now = unix_ms(SystemTime::now());
        let mut due = Due::default();
        for item in expiry.iter().map_err(|e| backend(step, e))? {
            let (at, revision) = item.map_err(|e| backend(step, e))?;
            let (deadline, key) = at.value();
            if deadline > now || due.expired.len() == BATCH {
                due.next = Some(UNIX_EPOCH + Duration::from_millis(deadline));
                break;
            }
            // Each key in a transaction of its own: one that was put again since must not keep the others alive.
            let key: Arc<str> = key.into();
            due.deletions.push(Txn {
                compare: vec![(key.clone(), revision.value())],
                ops: vec![Op::Delete { key: key.clone() }],
                durability: Durability::Relaxed,
            });
            due.expired.push((deadline, key));
        }
        Ok(due)
    }
}
