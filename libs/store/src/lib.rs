//! Versioned keys with compare-and-set and watch: what the API server persists its objects in.
//!
//! The model is etcd's: one counter, the *revision*, grows by one with every committed transaction; each key remembers the
//! revision that created it and the one that last changed it; a range can be read as of an older revision until that
//! revision is compacted; a watch replays every change since a revision, in order, once. `redb` (embedded, the default)
//! and `etcd` implement it and pass the same suite (`tests/conformance`).

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

pub mod etcd;
pub mod redb;
pub mod snapshot;

/// A point in the store's history. The first committed transaction has revision 2, as in etcd (an empty store is at 1).
pub type Revision = u64;

/// A key with its value as of some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The whole key, e.g. `/registry/pods/default/web-0`.
    pub key: Arc<str>,
    /// The value as it was put.
    pub value: Bytes,
    /// The revision of the put that brought the key into being.
    pub create_revision: Revision,
    /// The revision of the last put.
    pub mod_revision: Revision,
}

/// What to read: keys in `start..end` (bytewise), at most `limit` of them, as of revision `at` (the newest if `None`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// First key, inclusive.
    pub start: String,
    /// First key not read.
    pub end: String,
    /// 0 means all.
    pub limit: usize,
    /// The revision to read at.
    pub at: Option<Revision>,
}

impl Range {
    /// Every key that begins with `prefix`.
    pub fn prefix(prefix: &str) -> Self {
        Self { start: prefix.to_owned(), end: prefix_end(prefix), limit: 0, at: None }
    }
}

/// The smallest key greater than every key that begins with `prefix`.
pub fn prefix_end(prefix: &str) -> String {
    // Keys are ASCII paths: the last character can always be raised by one.
    let mut end = prefix.to_owned();
    if let Some(last) = end.pop() {
        end.push(char::from_u32(last as u32 + 1).unwrap_or(char::MAX));
    }
    end
}

/// The answer to a [`Range`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Entries in key order.
    pub entries: Vec<Entry>,
    /// How many keys of the range lie beyond the last entry.
    pub remaining: u64,
    /// The revision that was read at.
    pub revision: Revision,
}

/// One change within a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets `key` to `value`; with a `ttl` the key is deleted that long after its last put.
    Put {
        /// The key.
        key: Arc<str>,
        /// Its new value.
        value: Bytes,
        /// Time to live; `None` lives forever.
        ttl: Option<Duration>,
    },
    /// Deletes `key`.
    Delete {
        /// The key.
        key: Arc<str>,
    },
}

/// How much an acknowledgement promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The change survives a power cut once acknowledged.
    #[default]
    Synced,
    /// The change survives the end of this process once acknowledged, `kill -9` included: the kernel has it. What the machine itself
    /// takes down, a power cut or a crash of the kernel, may take back what was acknowledged in the second before (Events, Leases),
    /// from some change on: never one without all that follow it. etcd knows no difference and syncs it.
    Relaxed,
}

/// Conditions and changes that are applied together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// Each key must be at this `mod_revision`; 0 means the key must not exist.
    pub compare: Vec<(Arc<str>, Revision)>,
    /// What to do when all comparisons hold. Each key at most once.
    pub ops: Vec<Op>,
    /// What the acknowledgement promises.
    pub durability: Durability,
}

/// How a transaction ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Applied, at this revision.
    Committed(Revision),
    /// Not applied; the current entries of the compared keys, in the order of `compare`.
    Conflict(Vec<Option<Entry>>),
}

/// One change as a watcher sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The key that changed.
    pub key: Arc<str>,
    /// The revision of the change. Several events may share one (a transaction).
    pub revision: Revision,
    /// The new value, or `None` for a deletion (an expired TTL included).
    pub value: Option<Bytes>,
    /// The value before the change, if the key existed.
    pub previous: Option<Bytes>,
    /// The revision that created the key (for a deletion, of the value that went).
    pub create_revision: Revision,
}

/// What a watch delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchMessage {
    /// All watched changes of one or more consecutive revisions, in order. A transaction is never split.
    Events(Vec<Event>),
    /// Everything up to and including this revision has been delivered (sent when asked for and now and then when idle).
    Progress(Revision),
}

/// A running watch. Dropping it ends it. It ends by itself (after an `Err`) only if its revision was compacted, the store
/// closed, or the watcher fell so far behind that the store let go of it: then the watcher lists again.
pub type Watch = mpsc::Receiver<Result<WatchMessage, Error>>;

/// An entry as it is carried from one store to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The key with its value and revisions.
    pub entry: Entry,
    /// When it is to be deleted, for a key with a time to live.
    pub expires: Option<SystemTime>,
}

/// Every live entry below [`ROOT`] as of one revision, however many writers go on meanwhile.
pub struct Export {
    /// The revision.
    pub revision: Revision,
    /// The records in key order, some at a time. An error ends them.
    pub records: mpsc::Receiver<Result<Vec<Record>, Error>>,
}

/// Where an API server keeps its objects; what else an etcd holds is somebody else's.
pub const ROOT: &str = "/registry/";

/// Why a store could not do as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The revision asked for is gone.
    #[error("required revision {requested} has been compacted (oldest kept: {oldest})")]
    Compacted {
        /// What was asked for.
        requested: Revision,
        /// The oldest revision that can still be read.
        oldest: Revision,
    },
    /// The revision asked for has not happened yet.
    #[error("required revision {requested} is in the future (newest: {newest})")]
    Future {
        /// What was asked for.
        requested: Revision,
        /// The newest committed revision.
        newest: Revision,
    },
    /// The disk is full. Nothing of the transaction was applied; the store goes on and accepts writes once there is room.
    #[error("no space left on the store's device")]
    NoSpace(#[source] Option<Box<dyn std::error::Error + Send + Sync>>),
    /// A watcher did not keep up with the changes.
    #[error("the watcher fell behind and was let go")]
    Lagged,
    /// What was to be filled holds something already.
    #[error("{0} holds objects already; --replace deletes them")]
    NotEmpty(String),
    /// Another process has the store's file open.
    #[error("another process has the store open")]
    InUse,
    /// A store that was being filled when that was interrupted.
    #[error("this etcd was being filled by a migration that did not finish; migrate again, with --replace")]
    Unfinished,
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
    /// The step named could not be done. The outcome of a transaction may be unknown (etcd behind a broken connection).
    #[error("{step}")]
    Backend {
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Versioned keys with compare-and-set and watch. Implementations are cheap to share (`Arc<dyn Store>`).
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The newest committed revision.
    async fn revision(&self) -> Result<Revision, Error>;
    /// The newest entry of `key`, with the revision it was read at.
    async fn get(&self, key: &str) -> Result<(Option<Entry>, Revision), Error>;
    /// The entries of a range.
    async fn range(&self, range: Range) -> Result<Page, Error>;
    /// Applies a transaction. Once this returns `Committed`, every later read and every watch sees it.
    async fn commit(&self, txn: Txn) -> Result<Outcome, Error>;
    /// Every change with `revision >= from` to keys that begin with `prefix`, in order, without gap or duplicate.
    /// `from` 0 means "from the next change on".
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, Error>;
    /// Asks every running watch of [`ROOT`] to deliver a [`WatchMessage::Progress`] at or past the newest revision soon, after every
    /// change up to there. It may cost a write.
    async fn request_progress(&self) -> Result<(), Error>;
    /// Forgets history before `revision`: older reads and watches then fail with [`Error::Compacted`].
    async fn compact(&self, revision: Revision) -> Result<(), Error>;
    /// Reads everything at the newest revision.
    async fn export(&self) -> Result<Export, Error>;
    /// Makes everything acknowledged durable and releases the files. Idempotent.
    async fn close(&self) -> Result<(), Error>;
}
