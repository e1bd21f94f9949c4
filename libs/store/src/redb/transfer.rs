//! Everything out of a file at one revision, and a new file made from such.

use std::{
    collections::HashMap,
    path::Path,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use redb::{Database, ReadableDatabase, ReadableTable};
use tokio::sync::mpsc;

use super::{
    Options, Shared, away, backend, open_file,
    tables::{self, EXPIRY, LOG, META, META_COMPACTED, META_OPEN, META_REVISION, VERSIONS, Version, unix_ms},
};
use crate::{Error, Export, Record, Revision};

/// Records handed over at once.
const PIECE: usize = 256;

/// Reads everything in a thread of its own, over one of redb's snapshots: writers go on.
pub(super) fn export(shared: &Arc<Shared>) -> Result<Export, Error> {
    let txn = {
        let guard = shared.database.read();
        guard.as_ref().ok_or_else(away)?.begin_read().map_err(|e| backend("begin a read", e))?
    };
    let revision = tables::newest_revision(&txn)?;
    let (sender, records) = mpsc::channel(8);
    let read = move || {
        if let Err(error) = walk(&txn, &sender) {
            let _ = sender.blocking_send(Err(error));
        }
    };
    std::thread::Builder::new()
        .name("store-export".into())
        .spawn(read)
        .map_err(|e| Error::Backend { step: "start an export", source: Box::new(e) })?;
    Ok(Export { revision, records })
}

fn walk(txn: &redb::ReadTransaction, out: &mpsc::Sender<Result<Vec<Record>, Error>>) -> Result<(), Error> {
    let step = "read everything";
    let mut deadlines: HashMap<(String, Revision), u64> = HashMap::new();
    for item in txn.open_table(EXPIRY).map_err(|e| backend(step, e))?.iter().map_err(|e| backend(step, e))? {
        let (at, revision) = item.map_err(|e| backend(step, e))?;
        let (deadline, key) = at.value();
        deadlines.insert((key.to_owned(), revision.value()), deadline);
    }
    let mut piece = Vec::with_capacity(PIECE);
    let mut take = |version: Option<Version>| -> bool {
        let Some(entry) = version.and_then(Version::into_entry) else { return true };
        let deadline = deadlines.get(&(entry.key.to_string(), entry.mod_revision));
        let expires = deadline.map(|ms| UNIX_EPOCH + Duration::from_millis(*ms));
        piece.push(Record { entry, expires });
        // Nobody listening any more is reason to end, and no error.
        piece.len() < PIECE || out.blocking_send(Ok(std::mem::take(&mut piece))).is_ok()
    };
    let mut newest: Option<Version> = None;
    let versions = txn.open_table(VERSIONS).map_err(|e| backend(step, e))?;
    for item in versions.iter().map_err(|e| backend(step, e))? {
        let (at, bytes) = item.map_err(|e| backend(step, e))?;
        let (key, revision) = at.value();
        if newest.as_ref().is_some_and(|v| *v.key != *key) && !take(newest.take()) {
            return Ok(());
        }
        newest = Some(Version::decode(key, revision, bytes.value())?);
    }
    take(newest);
    if !piece.is_empty() {
        let _ = out.blocking_send(Ok(piece));
    }
    Ok(())
}

/// Fills the empty file at `path` with what `export` reads, with the revisions that it has, and lets it stand at `revision`
/// without any history before. The file is complete and on the disk once this returns the number of keys. Blocks.
pub(crate) fn fill(path: &Path, revision: Revision, mut export: Export) -> Result<u64, Error> {
    let step = "fill a new store";
    let database = open_file(path, &Options::default())?;
    let txn = database.begin_write().map_err(|e| backend(step, e))?;
    let mut count = 0;
    {
        let mut versions = txn.open_table(VERSIONS).map_err(|e| backend(step, e))?;
        let mut expiry = txn.open_table(EXPIRY).map_err(|e| backend(step, e))?;
        let mut meta = txn.open_table(META).map_err(|e| backend(step, e))?;
        txn.open_table(LOG).map_err(|e| backend(step, e))?;
        let mut buffer = Vec::new();
        while let Some(piece) = export.records.blocking_recv() {
            for Record { entry, expires } in piece? {
                tables::encode(entry.create_revision, Some(&entry.value), &mut buffer);
                versions.insert((&*entry.key, entry.mod_revision), buffer.as_slice()).map_err(|e| backend(step, e))?;
                if let Some(at) = expires {
                    expiry.insert((unix_ms(at), &*entry.key), entry.mod_revision).map_err(|e| backend(step, e))?;
                }
                count += 1;
            }
        }
        for (name, number) in [(META_REVISION, revision), (META_COMPACTED, revision), (META_OPEN, 0)] {
            meta.insert(name, number).map_err(|e| backend(step, e))?;
        }
    }
    txn.commit().map_err(|e| backend(step, e))?;
    Ok(count)
}

/// A store that is about to be replaced: nobody else can open it while this lives.
pub(crate) struct Held(Database);

impl Held {
    /// Takes hold of the file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        redb::Builder::new().open(path).map(Self).map_err(|e| match e {
            redb::DatabaseError::DatabaseAlreadyOpen => Error::InUse,
            other => backend("open the store's file", other),
        })
    }

    /// The newest revision in it.
    pub fn revision(&self) -> Result<Revision, Error> {
        let txn = self.0.begin_read().map_err(|e| backend("begin a read", e))?;
        Ok(tables::newest_revision(&txn)? + tables::JUMP)
    }
}
