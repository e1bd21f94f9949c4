//! The file beside redb's: changes that are acknowledged before redb has them, appended a batch at a time.
//!
//! ```text
//! per batch:   length of what follows the checksum u32  checksum u32  changes
//! per change:  revision u64  place in its transaction u32  creating revision u64  expires (ms since 1970, 0 never) u64
//!              key length u32  value length u32 (all ones: a tombstone)  key  value
//! ```
//! Numbers are little endian. The checksum is CRC-32 over the number that redb's file knows its journal by, and the changes. There is
//! a new number with every opening, so that a file of redb's that comes back from elsewhere meets no changes but its own.
//!
//! One append is one write and one `fdatasync`, of a page or two, where a transaction of redb's writes a dozen pages all over
//! its file. When redb has the changes, synced, the journal begins again at its first byte; the file keeps its length, so
//! that most appends change no metadata. What is left of former rounds is told by its revisions, which redb has already: they
//! only grow.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::{pending::Change, tables::Version};
use crate::Revision;

const HEAD: usize = 8;
const CHANGE: usize = 8 + 4 + 8 + 8 + 4 + 4;
const TOMBSTONE: u32 = u32::MAX;
/// What the file may keep of its length when it begins again.
const KEEP: u64 = 4 << 20;

/// Where the journal of the store at `path` is.
pub(crate) fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".journal");
    name.into()
}

/// The open file.
pub(super) struct Journal {
    file: File,
    id: u64,
    /// Where the next batch goes.
    end: u64,
    /// Whether a sync failed. What it did not write the kernel may have forgotten, and no later sync tells (fsync(2)).
    torn: bool,
    buffer: Vec<u8>,
}

impl Journal {
    /// Opens the journal, or makes it, and reads the changes that it holds after `newest`, in order, if redb's file knew it as
    /// `former`. What is appended will be found as `id`.
    pub fn open(path: &Path, former: Option<u64>, id: u64, newest: Revision) -> io::Result<(Self, Vec<Change>)> {
        let (mut file, mut changes) = (open(path)?, Vec::new());
        let mut bytes = vec![0; file.metadata()?.len() as usize];
        file.read_exact_at(&mut bytes, 0)?;
        let (mut rest, mut newest, mut known) = (&bytes[..], newest, bytes.is_empty());
        while let Some((batch, after)) = former.and_then(|former| batch(former, rest)) {
            known = true;
            changes.extend(batch.into_iter().filter(|c| c.version.mod_revision > newest));
            newest = changes.last().map_or(newest, |last| last.version.mod_revision);
            rest = after;
        }
        if !known {
            // Of a store that was here before, and may be kept under another name together with this very file.
            std::fs::remove_file(path)?;
            file = open(path)?;
        }
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            File::open(folder)?.sync_all()?;
        }
        Ok((Self { file, id, end: 0, torn: false, buffer: Vec::new() }, changes))
    }

    /// Appends a batch; with `sync` it, and all that was appended before, is on the disk once this returns. After an error it is as
    /// if nothing had been appended, unless the process ends next: then the batch may be there.
    pub fn append(&mut self, changes: &[Change], sync: bool) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        encode(self.id, changes, &mut buffer)?;
        let written = self.file.write_all_at(&buffer, self.end);
        let written = written.and_then(|()| if sync { self.sync() } else { Ok(()) });
        match &written {
            Ok(()) => self.end += buffer.len() as u64,
            // What cannot be unwritten is at least not what a batch begins with.
            Err(_) => drop(self.file.write_all_at(&[0; HEAD], self.end)),
        }
        buffer.shrink_to(KEEP as usize);
        self.buffer = buffer;
        written
    }

    /// All that was appended is on the disk once this returns.
    pub fn sync(&mut self) -> io::Result<()> {
        let synced = self.file.sync_data();
        self.torn |= synced.is_err();
        synced
    }

    /// Whether what was appended may be missing on the disk for good, and what would be appended after it would not be found.
    /// Until redb has everything and the journal begins again, nothing may be appended.
    pub fn is_torn(&self) -> bool {
        self.torn
    }

    /// Begins again: redb has everything.
    pub fn begin_again(&mut self) {
        self.torn = false;
        if self.end > KEEP
            && let Err(error) = self.file.set_len(KEEP)
        {
            tracing::warn!(%error, "the journal stays longer than it needs to be");
        }
        self.end = 0;
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn checksum(id: u64, changes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&id.to_le_bytes());
    hasher.update(changes);
    hasher.finalize()
}

fn encode(id: u64, changes: &[Change], into: &mut Vec<u8>) -> io::Result<()> {
    into.extend_from_slice(&[0; HEAD]);
    for Change { version, place, expires } in changes {
        let value = version.value.as_deref();
        into.extend_from_slice(&version.mod_revision.to_le_bytes());
        into.extend_from_slice(&place.to_le_bytes());
        into.extend_from_slice(&version.create_revision.to_le_bytes());
        into.extend_from_slice(&expires.unwrap_or(0).to_le_bytes());
        into.extend_from_slice(&(version.key.len() as u32).to_le_bytes());
        into.extend_from_slice(&value.map_or(TOMBSTONE, |v| v.len() as u32).to_le_bytes());
        into.extend_from_slice(version.key.as_bytes());
        into.extend_from_slice(value.unwrap_or_default());
    }
    let length = u32::try_from(into.len() - HEAD)
        .map_err(|_| io::Error::new(io::ErrorKind::FileTooLarge, "more than 4 GiB to be written at once"))?;
    let sum = checksum(id, &into[HEAD..]);
    into[..4].copy_from_slice(&length.to_le_bytes());
    into[4..HEAD].copy_from_slice(&sum.to_le_bytes());
    Ok(())
}

/// The batch that `bytes` begin with, if they do, and what follows it.
fn batch(id: u64, mut bytes: &[u8]) -> Option<(Vec<Change>, &[u8])> {
    let (length, sum) = (number(&mut bytes)?, number(&mut bytes)?);
    let (mut inside, after) = bytes.split_at_checked(length as usize).filter(|(inside, _)| inside.len() >= CHANGE)?;
    if checksum(id, inside) != sum {
        return None;
    }
    let mut changes = Vec::new();
    while !inside.is_empty() {
        let (mod_revision, place, create_revision) = (long(&mut inside)?, number(&mut inside)?, long(&mut inside)?);
        let expires = Some(long(&mut inside)?).filter(|at| *at != 0);
        let (key, value) = (number(&mut inside)?, number(&mut inside)?);
        let key: Arc<str> = std::str::from_utf8(take(&mut inside, key as usize)?).ok()?.into();
        let value = match value {
            TOMBSTONE => None,
            length => Some(Bytes::copy_from_slice(take(&mut inside, length as usize)?)),
        };
        changes.push(Change { version: Version { key, create_revision, mod_revision, value }, place, expires });
    }
    Some((changes, after))
}

fn take<'a>(from: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(taken)
}

fn number(from: &mut &[u8]) -> Option<u32> {
    take(from, 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn long(from: &mut &[u8]) -> Option<u64> {
    take(from, 8)?.try_into().ok().map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(mod_revision: Revision, value: Option<&str>) -> Change {
        let value = value.map(|v| Bytes::copy_from_slice(v.as_bytes()));
        let version = Version { key: format!("/k/{}", mod_revision % 3).into(), create_revision: 2, mod_revision, value };
        Change { version, place: 0, expires: mod_revision.is_multiple_of(2).then_some(mod_revision * 7) }
    }

    fn read(path: &Path, id: u64, newest: Revision) -> Vec<Revision> {
        let (_, changes) = Journal::open(path, Some(id), id, newest).unwrap();
        changes.iter().map(|c| c.version.mod_revision).collect()
    }

    /// Three batches of one, two and one changes.
    fn three(path: &Path) -> [Vec<Change>; 3] {
        let batches = [
            vec![change(10, Some("ten"))],
            vec![change(11, None), change(12, Some(""))],
            vec![change(13, Some("thirteen"))],
        ];
        let (mut journal, before) = Journal::open(path, None, 1, 0).unwrap();
        assert_eq!(before, []);
        batches.iter().for_each(|batch| journal.append(batch, true).unwrap());
        batches
    }

    #[test]
    fn what_was_appended_is_read_after_the_revision_that_redb_has() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let batches = three(&path);
        assert_eq!(Journal::open(&path, Some(1), 1, 0).unwrap().1, batches.concat());
        assert_eq!(Journal::open(&path, Some(1), 1, 11).unwrap().1, batches.concat()[2..]);
    }

    #[test]
    fn a_torn_end_costs_only_the_batch_that_it_tears() {
        let dir = tempfile::tempdir().unwrap();
        let (whole, torn) = (dir.path().join("whole"), dir.path().join("torn"));
        three(&whole);
        let bytes = std::fs::read(&whole).unwrap();
        let mut ends = vec![0];
        let mut rest = &bytes[..];
        while let Some((_, after)) = batch(1, rest) {
            ends.push(bytes.len() - after.len());
            rest = after;
        }
        let all: [&[Revision]; 4] = [&[], &[10], &[10, 11, 12], &[10, 11, 12, 13]];
        for length in 0..=bytes.len() {
            let complete = ends.iter().filter(|end| **end <= length).count() - 1;
            std::fs::write(&torn, &bytes[..length]).unwrap();
            assert_eq!(read(&torn, 1, 0), all[complete], "cut at {length}");
            if length < bytes.len() {
                let mut flipped = bytes.clone();
                flipped[length] ^= 0x10;
                std::fs::write(&torn, &flipped).unwrap();
                let before = ends.iter().filter(|end| **end <= length).count() - 1;
                assert_eq!(read(&torn, 1, 0), all[before], "flipped at {length}");
            }
        }
    }

    #[test]
    fn a_former_round_and_another_stores_journal_count_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        three(&path);
        let (mut journal, _) = Journal::open(&path, Some(1), 1, 13).unwrap();
        // As long as what it takes the place of: behind it is the former round's second batch.
        journal.append(&[change(14, Some("ten"))], true).unwrap();
        assert_eq!(read(&path, 1, 13), [14]);
        let kept = dir.path().join("kept");
        std::fs::hard_link(&path, &kept).unwrap();
        assert_eq!(read(&path, 2, 0), []);
        assert_eq!(read(&kept, 1, 13), [14], "what is kept under another name is not touched");
    }
}
