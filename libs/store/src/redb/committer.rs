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

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use redb::{Durability as Sync, ReadableDatabase, ReadableTable};
use tokio::sync::{mpsc, oneshot};

use super::{
    Shared,
    apply::Tables,
    away, backend,
    journal::Journal,
    open_file,
    pending::{Applied, Pending, Stored},
    tables::{self, EXPIRY, META, META_COMPACTED, META_OPEN, META_REVISION, Start, VERSIONS, unix_ms},
};
use crate::{Durability, Error, Event, Op, Outcome, Revision, Txn, Watch, WatchMessage};

/// Most writers that share one sync: bounds how long the first of them waits.
const BATCH: usize = 1024;
/// How long relaxed changes may be unsynced.
const SYNC_AFTER: Duration = Duration::from_secs(1);
/// How long changes may be pending.
const SETTLE_AFTER: Duration = Duration::from_secs(10);
/// When settling is tried again after it failed.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// From how many pending changes on they settle as soon as there has been nothing to do for so long.
const WORTH_SETTLING: usize = 64;
const QUIET: Duration = Duration::from_millis(100);
/// At how many, or at how many bytes of them, they settle before anything else is written. Far below [`tables::JUMP`].
const MOST_PENDING: usize = 512;
const MOST_PENDING_BYTES: usize = 2 << 20;
/// Writers at a time from which on it pays to wait for those that were just answered, and how long at most.
const MANY: usize = 4;
const LINGER: Duration = Duration::from_millis(2);
/// Room left on the disk below which puts are refused before redb is touched: a repair needs some.
const RESERVE_BYTES: u64 = 512 << 10;
/// Messages a watcher may lag behind.
const WATCH_BUFFER: usize = 4096;

pub(super) enum Command {
    Commit { txn: Txn, reply: oneshot::Sender<Result<Outcome, Error>> },
    Watch { prefix: String, from: Revision, reply: oneshot::Sender<Result<Watch, Error>> },
    Progress,
    Settle { reply: oneshot::Sender<Result<(), Error>> },
    Compact { revision: Revision, reply: oneshot::Sender<Result<(), Error>> },
    Close { reply: oneshot::Sender<Result<(), Error>> },
}

struct Watcher {
    prefix: String,
    from: Revision,
    sender: mpsc::Sender<Result<WatchMessage, Error>>,
    /// Kept free for the error that ends the watch.
    last: mpsc::OwnedPermit<Result<WatchMessage, Error>>,
}

impl Watcher {
    fn wants(&self, event: &Event) -> bool {
        event.revision >= self.from && event.key.starts_with(&self.prefix)
    }
}

struct Compaction {
    upto: Revision,
    reply: oneshot::Sender<Result<(), Error>>,
}

pub(super) struct Committer {
    shared: Arc<Shared>,
    commands: Receiver<Command>,
    /// Taken from `commands` already.
    taken: VecDeque<Command>,
    /// How many writers there were when the last sync ended, and until when they are waited for.
    expected: (usize, Instant),
    watchers: Vec<Watcher>,
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
            watchers: Vec::new(),
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
                        Command::Watch { prefix, from, reply } => self.watch(prefix, from, reply),
                        Command::Progress => self.progress(),
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

    // --- writing ---

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
                self.publish(&events);
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

    /// Takes the view of the versions out of its place, or makes one.
    fn stored(&mut self) -> Result<Stored, Error> {
        if let Some(stored) = self.stored.take() {
            return Ok(stored);
        }
        let step = "open the versions";
        self.ensure_open()?;
        let guard = self.shared.database.read();
        let txn = guard.as_ref().ok_or_else(away)?.begin_read().map_err(|e| backend(step, e))?;
        txn.open_table(VERSIONS).map_err(|e| backend(step, e))
    }

    /// Has the journal on the disk, or redb if that fails.
    fn sync(&mut self) {
        self.sync_at = None;
        if let Err(error) = self.journal.sync() {
            tracing::warn!(%error, "the journal could not be synced");
            self.settle_or_tell();
        }
    }

    // --- settling ---

    fn worth_settling(&self) -> bool {
        self.pending.changes().len() >= WORTH_SETTLING && !self.stuck
    }

    /// Has redb take over what is pending, with all that it holds on the disk.
    fn settle(&mut self) -> Result<(), Error> {
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
    fn settle_or_tell(&mut self) {
        if let Err(error) = self.settle() {
            tracing::error!(%error, "settling changes failed; they stay in the journal");
        }
    }

    fn expire(&mut self) {
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
                self.publish(&events);
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

    // --- room and recovery ---

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

    fn ensure_open(&mut self) -> Result<(), Error> {
        if self.shared.database.read().is_none() {
            self.reopen();
        }
        if self.shared.database.read().is_some() { Ok(()) } else { Err(Error::NoSpace(None)) }
    }

    /// After an I/O error redb wants its file opened again.
    fn reopen(&mut self) {
        let mut slot = self.shared.database.write();
        // The old handle holds the file's lock.
        drop(slot.take());
        self.stored = None;
        match open_file(&self.shared.path, &self.shared.options) {
            Ok(database) => *slot = Some(database),
            Err(error) => tracing::error!(%error, "opening the store's file again failed; the next write tries again"),
        }
    }

    fn close(&mut self) -> Result<(), Error> {
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
        for watcher in self.watchers.drain(..) {
            watcher.last.send(Err(Error::Closed));
        }
        result
    }

    // --- watching ---

    fn publish(&mut self, events: &[Event]) {
        if events.is_empty() {
            return;
        }
        let mut index = 0;
        while index < self.watchers.len() {
            let watcher = &self.watchers[index];
            let matching: Vec<Event> = events.iter().filter(|e| watcher.wants(e)).cloned().collect();
            if matching.is_empty() && !watcher.sender.is_closed() {
                index += 1;
                continue;
            }
            match watcher.sender.try_send(Ok(WatchMessage::Events(matching))) {
                Ok(()) => index += 1,
                Err(mpsc::error::TrySendError::Closed(_)) => drop(self.watchers.swap_remove(index)),
                Err(mpsc::error::TrySendError::Full(_)) => {
                    self.watchers.swap_remove(index).last.send(Err(Error::Lagged));
                }
            }
        }
    }

    fn progress(&mut self) {
        let revision = self.shared.revision.load(Ordering::Acquire);
        self.watchers.retain(|w| !w.sender.is_closed());
        for watcher in &self.watchers {
            // A full buffer will be reported as lag by the next event.
            let _ = watcher.sender.try_send(Ok(WatchMessage::Progress(revision)));
        }
    }

    fn watch(&mut self, prefix: String, from: Revision, reply: oneshot::Sender<Result<Watch, Error>>) {
        let newest = self.shared.revision.load(Ordering::Acquire);
        let oldest = self.shared.compacted.load(Ordering::Acquire).max(self.watchable);
        if from != 0 && from < oldest {
            let _ = reply.send(Err(Error::Compacted { requested: from, oldest }));
            return;
        }
        if from != 0
            && from <= newest
            && let Err(error) = self.settle()
        {
            let _ = reply.send(Err(error));
            return;
        }
        let (sender, live) = mpsc::channel(WATCH_BUFFER);
        let Ok(last) = sender.clone().try_reserve_owned() else { return };
        self.watchers.push(Watcher { prefix: prefix.clone(), from, sender, last });
        if from == 0 || from > newest {
            let _ = reply.send(Ok(live));
            return;
        }
        let (out, watch) = mpsc::channel(WATCH_BUFFER);
        let shared = self.shared.clone();
        let spawned = std::thread::Builder::new()
            .name("store-replay".into())
            .spawn(move || replay(&shared, &prefix, from..=newest, live, &out));
        let _ = reply.send(match spawned {
            Ok(_) => Ok(watch),
            Err(e) => Err(Error::Backend { step: "start a replay", source: Box::new(e) }),
        });
    }

    // --- compaction ---

    fn compact(&mut self, revision: Revision, reply: oneshot::Sender<Result<(), Error>>) {
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
    fn compact_step(&mut self) {
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

/// What the expiry table says is over.
#[derive(Default)]
struct Due {
    deletions: Vec<Txn>,
    expired: Vec<(u64, Arc<str>)>,
    next: Option<SystemTime>,
}

/// Sends what the log holds, then passes on what is live.
fn replay(
    shared: &Shared,
    prefix: &str,
    revisions: std::ops::RangeInclusive<Revision>,
    mut live: mpsc::Receiver<Result<WatchMessage, Error>>,
    out: &mpsc::Sender<Result<WatchMessage, Error>>,
) {
    const STEP: usize = 500;
    let (mut from, upto) = (*revisions.start(), *revisions.end());
    loop {
        let piece = (|| {
            let guard = shared.database.read();
            let txn = guard.as_ref().ok_or_else(away)?.begin_read().map_err(|e| backend("begin a read", e))?;
            let piece = tables::replay(&txn, prefix, from..=upto, STEP)?;
            let oldest = shared.compacted.load(Ordering::Acquire);
            if from < oldest {
                return Err(Error::Compacted { requested: from, oldest });
            }
            Ok(piece)
        })();
        match piece {
            Err(error) => {
                let _ = out.blocking_send(Err(error));
                return;
            }
            Ok((events, next)) => {
                if !events.is_empty() && out.blocking_send(Ok(WatchMessage::Events(events))).is_err() {
                    return;
                }
                match next {
                    Some(revision) => from = revision,
                    None => break,
                }
            }
        }
    }
    if out.blocking_send(Ok(WatchMessage::Progress(upto))).is_err() {
        return;
    }
    while let Some(message) = live.blocking_recv() {
        if out.blocking_send(message).is_err() {
            return;
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
