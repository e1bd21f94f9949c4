//! The embedded store: a redb file, a journal, one committer.
//!
//! All writes go through one thread ([`committer`]) that takes whatever is waiting, appends it to the [`journal`] and syncs
//! once: every writer of the batch shares the same `fdatasync`. What is [`pending`] there settles in redb many changes at a
//! time: when nobody has written for a while, when they are many, ten seconds later, or before somebody reads. Reads run on the caller's thread
//! against redb's own snapshots. What a revision is and how keys and versions lie in the file is in [`tables`].
//!
//! Rejected: a redb transaction a batch (a dozen pages and, for a single writer, three times the processor time), and keeping
//! values in memory (the API server's watch cache holds them already).

mod apply;
mod committer;
pub(crate) mod journal;
mod pending;
mod tables;
pub(crate) mod transfer;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use redb::{Database, ReadableDatabase};
use tokio::sync::oneshot;

use crate::{Entry, Error, Export, Outcome, Page, Range, Revision, Store, Txn, Watch};
use committer::{Command, Committer};

/// How the file is kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of file pages that redb may keep in memory.
    pub cache_bytes: usize,
    /// Whether acknowledged writes wait for the disk. Only tests that care for speed turn it off.
    pub sync: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { cache_bytes: 8 << 20, sync: true }
    }
}

/// The state that readers and the committer share.
struct Shared {
    path: PathBuf,
    options: Options,
    /// `None` while the file is being opened again after an I/O error.
    database: RwLock<Option<Database>>,
    /// Newest committed revision.
    revision: AtomicU64,
    /// The revision up to which redb has everything.
    settled: AtomicU64,
    /// Oldest revision that can be read.
    compacted: AtomicU64,
}

/// A [`Store`] in one file.
pub struct RedbStore {
    shared: Arc<Shared>,
    commands: std::sync::mpsc::Sender<Command>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl RedbStore {
    /// Opens the file, or makes it. After a crash redb repairs it first; the revision then jumps ahead, so that no revision
    /// that a watcher may have seen of an unsynced write is used twice.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Self, Error> {
        let path = path.as_ref().to_owned();
        let database = open_file(&path, &options)?;
        let (start, journal) = tables::start(&database, &path, options.sync)?;
        let shared = Arc::new(Shared {
            path,
            options,
            database: RwLock::new(Some(database)),
            revision: AtomicU64::new(start.revision),
            settled: AtomicU64::new(start.revision),
            compacted: AtomicU64::new(start.compacted),
        });
        let (commands, receiver) = std::sync::mpsc::channel();
        let committer = Committer::new(shared.clone(), receiver, start, journal);
        let thread = std::thread::Builder::new()
            .name("store-commit".into())
            .spawn(move || committer.run())
            .map_err(|e| Error::Backend { step: "start the committer thread", source: Box::new(e) })?;
        Ok(Self { shared, commands, thread: Mutex::new(Some(thread)) })
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Command) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }

    /// Has redb take over what was committed so far.
    async fn settle(&self) -> Result<(), Error> {
        if self.shared.settled.load(Ordering::Acquire) >= self.shared.revision.load(Ordering::Acquire) {
            return Ok(());
        }
        self.ask(|reply| Command::Settle { reply }).await
    }

    fn read<T>(&self, read: impl FnOnce(&redb::ReadTransaction) -> Result<T, Error>) -> Result<T, Error> {
        let guard = self.shared.database.read();
        let Some(database) = guard.as_ref() else {
            return Err(if self.thread.lock().is_none() { Error::Closed } else { away() });
        };
        let txn = database.begin_read().map_err(|e| backend("begin a read", e))?;
        read(&txn)
    }
}

#[async_trait]
impl Store for RedbStore {
    async fn revision(&self) -> Result<Revision, Error> {
        Ok(self.shared.revision.load(Ordering::Acquire))
    }

    async fn get(&self, key: &str) -> Result<(Option<Entry>, Revision), Error> {
        self.settle().await?;
        self.read(|txn| {
            let versions = txn.open_table(tables::VERSIONS).map_err(|e| backend("open the versions", e))?;
            let revision = tables::newest_revision(txn)?;
            Ok((tables::head(&versions, key, Revision::MAX)?.and_then(tables::Version::into_entry), revision))
        })
    }

    async fn range(&self, range: Range) -> Result<Page, Error> {
        self.settle().await?;
        // Large ranges take a while: not on a runtime thread's time.
        let read = |this: &Self| this.read(|txn| tables::range(txn, &range, &this.shared.compacted));
        if range.limit == 0 || range.limit > 500 {
            let runtime = tokio::runtime::Handle::current();
            if runtime.runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread {
                return tokio::task::block_in_place(|| read(self));
            }
        }
        read(self)
    }

    async fn commit(&self, txn: Txn) -> Result<Outcome, Error> {
        self.ask(|reply| Command::Commit { txn, reply }).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, Error> {
        let prefix = prefix.to_owned();
        self.ask(|reply| Command::Watch { prefix, from, reply }).await
    }

    async fn request_progress(&self) -> Result<(), Error> {
        self.commands.send(Command::Progress).map_err(|_| Error::Closed)
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.ask(|reply| Command::Compact { revision, reply }).await
    }

    async fn export(&self) -> Result<Export, Error> {
        self.settle().await?;
        transfer::export(&self.shared)
    }

    async fn close(&self) -> Result<(), Error> {
        let thread = self.thread.lock().take();
        let Some(thread) = thread else { return Ok(()) };
        let closed = self.ask(|reply| Command::Close { reply }).await;
        let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        closed
    }
}

impl Drop for RedbStore {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.lock().take() {
            let (reply, _answer) = oneshot::channel();
            let _ = self.commands.send(Command::Close { reply });
            let _ = thread.join();
        }
    }
}

/// For as long as the file cannot be opened again after an error: unlike [`Error::Closed`] no state for ever.
fn away() -> Error {
    let source = "it could not be opened again after an error; the next write tries it".into();
    Error::Backend { step: "open the store's file", source }
}

/// How long a file may stay in somebody's hands: a process that was killed holds its files until its last thread has left
/// the kernel, which may be a moment after it counts as dead.
const PATIENCE: Duration = Duration::from_secs(2);

fn open_file(path: &Path, options: &Options) -> Result<Database, Error> {
    let began = Instant::now();
    loop {
        match redb::Builder::new().set_cache_size(options.cache_bytes).create(path) {
            Err(redb::DatabaseError::DatabaseAlreadyOpen) if began.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(redb::DatabaseError::DatabaseAlreadyOpen) => return Err(Error::InUse),
            opened => return opened.map_err(|e| backend("open the store's file", e)),
        }
    }
}

/// An error of redb as ours: a full disk is told apart, wherever in the chain it shows.
fn backend(step: &'static str, error: impl Into<redb::Error>) -> Error {
    match error.into() {
        redb::Error::Io(e) if e.kind() == std::io::ErrorKind::StorageFull => Error::NoSpace(Some(Box::new(e))),
        other => Error::Backend { step, source: Box::new(other) },
    }
}
