//! Backups: everything in a store at one revision, in one file; and ways of filling a store from it.
//!
//! The file has a form of its own rather than being a copy of redb's: it is small (no history, no free pages), does not depend
//! on the database's version, and is the same for both stores. It is written beside its place, synced, and only then put
//! there, so that whatever bears the name is whole. What is at rest is checked as a whole (SHA-256) before a byte of it is
//! believed.
//!
//! A store that is filled never goes back to a revision that clients may have seen: its revision is raised above, and
//! everything before counts as compacted, so that watchers are told to list again instead of missing changes.

mod file;
mod fill;

use std::path::PathBuf;

pub use file::{File, save, write};
pub use fill::{MARGIN, Restored, into_redb};

use crate::Revision;

/// How far the revision of a restored store is raised above the snapshot's, unless told otherwise: more than clients are
/// likely to have seen since it was taken.
pub const BUMP: Revision = 1_000_000;

/// What a snapshot is, as far as can be told without reading all objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The revision at which everything was read.
    pub revision: Revision,
    /// When that was, in ms since 1970.
    pub taken_ms: u64,
    /// How many keys it holds.
    pub keys: u64,
    /// The file's size in bytes.
    pub bytes: u64,
    /// The SHA-256 over the file, except for the last 32 bytes, which hold it.
    pub hash: [u8; 32],
}

impl Summary {
    /// The hash in hexadecimal.
    pub fn hash_hex(&self) -> String {
        self.hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Why a snapshot could not be taken, read or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store.
    #[error(transparent)]
    Store(#[from] crate::Error),
    /// A file.
    #[error("{step} {}", path.display())]
    File {
        /// What was being done with it.
        step: &'static str,
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It begins as no snapshot does.
    #[error("{} is no snapshot; `knarr snapshot save` makes one", .0.display())]
    NoSnapshot(PathBuf),
    /// It is one of another version.
    #[error("{} is a snapshot of version {version}, and this program reads version 1", path.display())]
    Version {
        /// Which.
        path: PathBuf,
        /// What it calls itself.
        version: String,
    },
    /// It ends early.
    #[error("{} was cut off (its end is missing); use another copy", .0.display())]
    CutOff(PathBuf),
    /// It is not what was written.
    #[error("{} is damaged (its SHA-256 is not the one written at its end); use another copy", .0.display())]
    Damaged(PathBuf),
    /// There is a store where one was to be put.
    #[error("{} holds a store already; --replace takes its place, and keeps it beside", .0.display())]
    Occupied(PathBuf),
    /// What was sent broke off.
    #[error("the snapshot broke off before its end")]
    BrokeOff(#[source] std::io::Error),
}

impl Error {
    /// An error about a file.
    fn file(step: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { step, path, source }
    }
}
