//! The one thread that writes: takes what waits, appends it to the journal, syncs once, tells watchers, answers.
//!
//! ```text
//! wait for commands ── or for the next deadline (time to live, syncing, settling)
//!   └─ take all that wait → apply each in order → append → publish to watchers → answer
//!   │    └─ a failed append answers every writer of the batch with its error
//!   └─ settle: redb takes over what is pending, in one synced transaction; the journal begins again
//!        └─ after an error redb's file is opened again, and everything stays pending
//! ```
//!
//! Writers that were just answered often write again at once. Starting the next sync without them would split many busy
//! writers into two groups that wait for each other's syncs, so the committer gives them a part of the last sync's time
//! to come back, and never longer than until as many wait as did before. Few writers are not made to wait.
//!
//! A batch of relaxed writes alone is appended without a sync; a later one (at most a second away) covers it.
//!
//! Settling costs a dozen times what an append does, and writers wait for it: it is done seldom, and best when nobody writes.
//!
//! Here are the loop and the writing; [`settling`], [`expiry`] and [`compaction`] are what else the thread does, and [`watchers`]
//! whom it tells.

mod compaction;
mod expiry;
mod settling;
mod watchers;

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::sync::oneshot;

use self::{
    compaction::Compaction,
    settling::{QUIET, SETTLE_AFTER},
    watchers::Watchers,
};
use super::{
    Shared, backend,
    journal::Journal,
    pending::{Applied, Pending, Stored},
    tables::Start,
};
use crate::{Durability, Error, Op, Outcome, Revision, Txn, Watch};

/// Most writers that share one sync: bounds how long the first of them waits.
const BATCH: usize = 1024;
/// How long relaxed changes may be unsynced.
const SYNC_AFTER: Duration = Duration::from_secs(1);
/// At how many, or at how many bytes of them, they settle before anything else is written. Far below [`super::tables::JUMP`].
const MOST_PENDING: usize = 512;
const MOST_PENDING_BYTES: usize = 2 << 20;
/// Writers at a time from which on it pays to wait for those that were just answered, and how long at most.
const MANY: usize = 4;
const LINGER: Duration = Duration::from_millis(2);
/// Room left on the disk below which puts are refused before redb is touched: a repair needs some.
const RESERVE_BYTES: u64 = 512 << 10;

pub(super) enum Command {
    Commit { txn: Txn, reply: oneshot::Sender<Result<Outcome, Error>> },
    Watch { prefix: String, from: Revision, reply: oneshot::Sender<Result<Watch, Error>> },
    Progress,
    Settle { reply: oneshot::Sender<Result<(), Error>> },
    Compact { revision: Revision, reply: oneshot::Sender<Result<(), Error>> },
    Close { reply: oneshot::Sender<Result<(), Error>> },
}

pub(super) struct Committer {
    shared: Arc<Shared>,
    commands: Receiver<Command>,
    /// Taken from `commands` already.
    taken: VecDeque<Command>,
    /// How many writers there were when the last sync ended, and until when they are waited for.
    expected: (usize, Instant),
    watchers: Watchers,
    watchable: Revision,
    journal: Journal,
    pending: Pending,
    /// The versions as redb has them, until it is written to.
    stored: Option<Stored>,
    /// What is no longer to be looked at in the expiry table.
    expired: Vec<(u64, Arc<str>)>,
    /// Whether redb was written to without a sync.
    loose: bool,
    /// Whether settling failed the last time: then it waits for its time, or for who needs it.
    stuck: bool,
    sync_at: Option<Instant>,
    settle_at: Option<Instant>,
    quiet_at: Option<Instant>,
    expire_at: Option<SystemTime>,
    compaction: Option<Compaction>,
}

type Waiting = (Txn, oneshot::Sender<Result<Outcome, Error>>);

impl Committer {
    pub fn new(shared: Arc<Shared>, commands: Receiver<Command>, start: Start, journal: Journal) -> Self {
        Self {
            shared,
            commands,
            taken: VecDeque::new(),
            expected: (0, Instant::now()),
            watchers: Watchers::default(),
            watchable: start.watchable,
            journal,
            pending: Pending::default(),
            stored: None,
            expired: Vec::new(),
            loose: false,
            stuck: false,
            sync_at: None,
            settle_at: None,
            quiet_at: None,
            // The first look at the table tells when the next key expires.
            expire_at: Some(UNIX_EPOCH),
            compaction: None,
        }
    }

    pub fn run(mut self) {
        self.on_time();
        loop {
            let command = match self.wait() {
                Ok(command) => command,
                Err(RecvTimeoutError::Disconnected) => {
                    let _ = self.close();
                    return;
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.on_time();
                    continue;
                }
            };
            if let Some(closing) = self.handle(command) {
                let _ = closing.send(self.close());
                return;
            }
            self.quiet_at = self.worth_settling().then(|| Instant::now() + QUIET);
            self.on_time();
        }
    }

    fn wait(&mut self) -> Result<Command, RecvTimeoutError> {
        if let Some(command) = self.taken.pop_front() {
            return Ok(command);
        }
        if self.compaction.is_some() {
            return self.commands.recv_timeout(Duration::ZERO);
        }
        let due = [self.sync_at, self.settle_at, self.quiet_at].into_iter().flatten().min();
        let due = due.map(|at| at.saturating_duration_since(Instant::now()));
        let expire = self.expire_at.map(|at| at.duration_since(SystemTime::now()).unwrap_or_default());
        match due.into_iter().chain(expire).min() {
            Some(timeout) => self.commands.recv_timeout(timeout),
            None => self.commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    /// Handles a command and all commits that wait behind it; returns whom to answer when it is time to close.
    fn handle(&mut self, first: Command) -> Option<oneshot::Sender<Result<(), Error>>> {
        let mut batch: Vec<Waiting> = Vec::new();
        let mut next = Some(first);
        while let Some(command) = next {
            match command {
                Command::Commit { txn, reply } => batch.push((txn, reply)),
                other => {
                    self.commit(std::mem::take(&mut batch));
                    match other {
                        Command::Watch { prefix, from, reply } => drop(reply.send(self.watch(prefix, from))),
                        Command::Progress => self.watchers.progress(self.shared.revision.load(Ordering::Acquire)),
                        Command::Settle { reply } => drop(reply.send(self.settle())),
                        Command::Compact { revision, reply } => self.compact(revision, reply),
                        Command::Close { reply } => return Some(reply),
                        Command::Commit { .. } => {}
                    }
                }
            }
            next = if batch.len() < BATCH { self.next(batch.len()) } else { None };
        }
        self.commit(batch);
        None
    }

    /// What waits already, or comes soon enough for a batch that has so many writers.
    fn next(&mut self, have: usize) -> Option<Command> {
        if let Some(command) = self.taken.pop_front().or_else(|| self.commands.try_recv().ok()) {
            return Some(command);
        }
        let (expected, until) = self.expected;
        if have == 0 || have >= expected {
            return None;
        }
        let left = until.checked_duration_since(Instant::now())?;
        self.commands.recv_timeout(left).ok()
    }

    /// Notes how many writers there are, at the end of a sync that took so long and before anyone is answered.
    fn expect(&mut self, answered: usize, took: Duration) {
        self.taken.extend(self.commands.try_iter());
        let writers = answered + self.taken.len();
        let linger = if writers >= MANY { LINGER.min(took / 2) } else { Duration::ZERO };
        self.expected = (writers, Instant::now() + linger);
    }

    fn on_time(&mut self) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= Instant::now());
        if due(self.settle_at) || due(self.quiet_at) {
            self.settle_or_tell();
        }
        if due(self.sync_at) {
            self.sync();
        }
        if self.expire_at.is_some_and(|at| at <= SystemTime::now()) {
            self.expire();
        }
        self.compact_step();
    }

    fn watch(&mut self, prefix: String, from: Revision) -> Result<Watch, Error> {
        let newest = self.shared.revision.load(Ordering::Acquire);
        let oldest = self.shared.compacted.load(Ordering::Acquire).max(self.watchable);
        if from != 0 && from < oldest {
            return Err(Error::Compacted { requested: from, oldest });
        }
        if from != 0 && from <= newest {
            self.settle()?;
        }
        self.watchers.add(&self.shared, prefix, from, newest)
    }

    fn commit(&mut self, batch: Vec<Waiting>) {
        if batch.is_empty() {
            return;
        }
        let (txns, replies): (Vec<Txn>, Vec<_>) = batch.into_iter().unzip();
        let began = Instant::now();
        match self.write(&txns) {
            Ok(applied) => {
                self.expect(replies.len(), began.elapsed());
                let mut events = Vec::new();
                let mut outcomes = Vec::with_capacity(applied.len());
                for one in applied {
                    events.extend(one.events);
                    outcomes.push(one.outcome);
                }
                self.watchers.publish(&events);
                for (reply, outcome) in replies.into_iter().zip(outcomes) {
                    let _ = reply.send(Ok(outcome));
                }
            }
            Err(error) => {
                tracing::error!(error = %error, source = ?std::error::Error::source(&error), "store commit failed");
                for reply in replies {
                    let _ = reply.send(Err(copy(&error)));
                }
            }
        }
    }

    /// Applies transactions in order, and appends what they change to the journal.
    fn write(&mut self, txns: &[Txn]) -> Result<Vec<Applied>, Error> {
        self.check_room(txns)?;
        let many = self.pending.changes().len() >= MOST_PENDING || self.pending.bytes() >= MOST_PENDING_BYTES;
        if many || self.journal.is_torn() {
            self.settle()?;
        }
        let before = self.pending.changes().len();
        let result = self.append(txns, before);
        if result.is_err() {
            self.pending.truncate(before);
            if self.journal.is_torn() {
                self.settle_or_tell();
            }
        } else if self.pending.changes().len() > before {
            self.settle_at.get_or_insert_with(|| Instant::now() + SETTLE_AFTER);
        }
        result
    }

    fn append(&mut self, txns: &[Txn], before: usize) -> Result<Vec<Applied>, Error> {
        let stored = self.stored()?;
        let mut revision = self.shared.revision.load(Ordering::Acquire);
        let mut soonest = self.expire_at;
        let mut applied = Vec::with_capacity(txns.len());
        for txn in txns {
            applied.push(self.pending.apply(txn, &stored, &mut revision, &mut soonest)?);
        }
        self.stored = Some(stored);
        let changes = &self.pending.changes()[before..];
        if !changes.is_empty() {
            let sync = self.shared.options.sync && txns.iter().any(|t| t.durability == Durability::Synced);
            self.journal.append(changes, sync).map_err(|e| backend("append to the journal", redb::Error::Io(e)))?;
            self.sync_at = match sync {
                true => None,
                false => self.shared.options.sync.then(|| self.sync_at.unwrap_or_else(|| Instant::now() + SYNC_AFTER)),
            };
        }
        self.expire_at = soonest;
        self.shared.revision.store(revision, Ordering::Release);
        Ok(applied)
    }

    /// Refuses puts when the disk is nearly full: what is acknowledged has to find room in redb's file too.
    fn check_room(&self, txns: &[Txn]) -> Result<(), Error> {
        let put_bytes: u64 = txns
            .iter()
            .flat_map(|t| &t.ops)
            .map(|op| match op {
                Op::Put { value, .. } => value.len() as u64,
                Op::Delete { .. } => 0,
            })
            .sum();
        if put_bytes == 0 {
            return Ok(());
        }
        let wanted = RESERVE_BYTES + 2 * (put_bytes + self.pending.bytes() as u64);
        let directory = self.shared.path.parent().filter(|p| !p.as_os_str().is_empty());
        let room = nix::sys::statvfs::statvfs(directory.unwrap_or(std::path::Path::new(".")))
            .map(|s| s.blocks_available() * s.fragment_size());
        match room {
            Ok(room) if room < wanted => Err(Error::NoSpace(None)),
            _ => Ok(()),
        }
    }

    /// Has the journal on the disk, or redb if that fails.
    fn sync(&mut self) {
        self.sync_at = None;
        if let Err(error) = self.journal.sync() {
            tracing::warn!(%error, "the journal could not be synced");
            self.settle_or_tell();
        }
    }
}

/// The same error again, for each writer of a batch.
fn copy(error: &Error) -> Error {
    match error {
        Error::NoSpace(_) => Error::NoSpace(None),
        Error::Closed => Error::Closed,
        other => Error::Backend { step: "commit", source: other.to_string().into() },
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{
        super::{Options, RedbStore, journal},
        *,
    };
    use crate::Store;

    /// The journal's file is one whose syncs fail (`/dev/null` knows none): redb takes over at once, which tells of the sync.
    #[tokio::test]
    async fn relaxed_changes_are_synced_a_second_later_however_many_follow() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.redb");
        std::os::unix::fs::symlink("/dev/null", journal::beside(&path)).unwrap();
        let store = RedbStore::open(&path, Options::default()).unwrap();
        let put = Op::Put { key: "/r/relaxed".into(), value: Bytes::from_static(b"1"), ttl: None };
        let relaxed = Txn { ops: vec![put], durability: Durability::Relaxed, ..Txn::default() };
        let before = store.revision().await.unwrap();
        // So few that until SETTLE_AFTER nothing else has them settle.
        let mut next = tokio::time::interval(SYNC_AFTER / 4);
        let began = Instant::now();
        while store.shared.settled.load(Ordering::Acquire) == before {
            next.tick().await;
            store.commit(relaxed.clone()).await.unwrap();
        }
        let took = began.elapsed();
        assert!((SYNC_AFTER..SETTLE_AFTER).contains(&took), "the journal was synced after {took:?}");
    }
}
