//! A store filled with what an export reads.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    Error,
    file::{beside, sync_folder},
};
use crate::{
    Export, Revision,
    redb::{
        journal,
        transfer::{self, Held},
    },
};

/// How far the revision is raised above that of a store that was read whole and is not written any more.
pub const MARGIN: Revision = 10_000;

/// How a file was filled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// How many keys it holds.
    pub keys: u64,
    /// Where it stands; everything before counts as compacted.
    pub revision: Revision,
    /// Where the store that was there before is now.
    pub replaced: Option<PathBuf>,
}

/// Puts a store with what `export` reads at `path`, whole or not at all, with the revisions that it has. It stands `bump`
/// above the export's revision, and above that of the store it replaces. A store that is there is an error unless it is to be
/// replaced; it is kept under another name. One that a process has open is an error always. Blocks.
pub fn into_redb(path: &Path, export: Export, bump: Revision, replace: bool) -> Result<Restored, Error> {
    let exists = path.try_exists().map_err(Error::file("look for", path))?;
    if exists && !replace {
        return Err(Error::Occupied(path.to_owned()));
    }
    // Held until the end, so that no server opens it meanwhile.
    let old = match exists.then(|| Held::open(path)) {
        Some(Err(error @ crate::Error::InUse)) => return Err(error.into()),
        // One that cannot be read any more is the best reason for a restore.
        Some(Err(error)) => {
            tracing::warn!(error = %error, "the store that is replaced cannot be read");
            None
        }
        other => other.and_then(Result::ok),
    };
    let seen = old.as_ref().and_then(|old| old.revision().ok()).unwrap_or(0);
    let revision = export.revision.saturating_add(bump).max(seen);
    let file = beside(path)?;
    let keys = transfer::fill(file.path(), revision, export)?;
    file.as_file().sync_all().map_err(Error::file("sync", path))?;
    let replaced = exists.then(|| path.with_extension("replaced"));
    if let Some(aside) = &replaced {
        let _ = fs::remove_file(aside);
        fs::hard_link(path, aside).map_err(Error::file("keep the old store as", aside))?;
        let (journal, aside) = (journal::beside(path), journal::beside(aside));
        let _ = fs::remove_file(&aside);
        match fs::hard_link(&journal, &aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::file("keep the old store's journal as", &aside)(error));
            }
            _ => {}
        }
    }
    file.persist(path).map_err(|e| Error::File { step: "put a store at", path: path.to_owned(), source: e.error })?;
    sync_folder(path)?;
    Ok(Restored { keys, revision, replaced })
}
