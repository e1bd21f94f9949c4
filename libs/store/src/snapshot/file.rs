//! The file: written as a stream, believed only as a whole.
//!
//! ```text
//! "knarr snapshot 1\n"  revision u64  taken (ms since 1970) u64
//! per entry:  1u8  key length u32  value length u32  create u64  mod u64  expires (ms since 1970, 0 never) u64  key  value
//! 0u8  number of entries u64
//! SHA-256 over all of the above, 32 bytes
//! ```
//! Numbers are little endian.

use std::{
    fs,
    io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::{Error, Summary};
use crate::{Entry, Export, Record, Revision};

const NAME: &[u8] = b"knarr snapshot ";
const MAGIC: &[u8] = b"knarr snapshot 1\n";
const HEAD: usize = MAGIC.len() + 16;
const HASH: usize = 32;
/// The last entry's end, the count and the hash.
const TAIL: usize = 1 + 8 + HASH;
/// What precedes a key.
const ENTRY: usize = 4 + 4 + 8 + 8 + 8;
/// Records handed over at once.
const PIECE: u64 = 256;

/// Passes on what is written, hashing it.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Hashing<W> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        self.inner.write_all(bytes)
    }
}

/// Writes a snapshot as a stream. Blocks.
pub fn write(mut export: Export, taken: SystemTime, out: impl Write) -> Result<Summary, Error> {
    let taken_ms = unix_ms(taken);
    let mut out = Hashing { inner: out, hash: Sha256::new(), bytes: 0 };
    let mut keys = 0u64;
    let broke = Error::BrokeOff;
    out.put(MAGIC).map_err(broke)?;
    out.put(&export.revision.to_le_bytes()).map_err(broke)?;
    out.put(&taken_ms.to_le_bytes()).map_err(broke)?;
    let mut bytes = Vec::new();
    while let Some(piece) = export.records.blocking_recv() {
        for record in piece? {
            encode(&record, &mut bytes);
            out.put(&bytes).map_err(broke)?;
            keys += 1;
        }
    }
    out.put(&[0]).map_err(broke)?;
    out.put(&keys.to_le_bytes()).map_err(broke)?;
    let hash: [u8; HASH] = out.hash.finalize().into();
    out.inner.write_all(&hash).and_then(|()| out.inner.flush()).map_err(broke)?;
    Ok(Summary { revision: export.revision, taken_ms, keys, bytes: out.bytes + HASH as u64, hash })
}

fn encode(record: &Record, into: &mut Vec<u8>) {
    let Record { entry, expires } = record;
    into.clear();
    into.push(1);
    into.extend_from_slice(&(entry.key.len() as u32).to_le_bytes());
    into.extend_from_slice(&(entry.value.len() as u32).to_le_bytes());
    into.extend_from_slice(&entry.create_revision.to_le_bytes());
    into.extend_from_slice(&entry.mod_revision.to_le_bytes());
    into.extend_from_slice(&expires.map_or(0, |at| unix_ms(at).max(1)).to_le_bytes());
    into.extend_from_slice(entry.key.as_bytes());
    into.extend_from_slice(&entry.value);
}

/// Puts a snapshot at `path`, readable by its owner only, whole or not at all: `produce` writes it into a file beside, which
/// is checked and synced before it takes the name.
pub fn save(path: &Path, produce: impl FnOnce(&mut dyn Write) -> Result<(), Error>) -> Result<Summary, Error> {
    let step = "write";
    let file = beside(path)?;
    {
        let mut out = BufWriter::with_capacity(1 << 18, file.as_file());
        produce(&mut out).map_err(|error| match error {
            Error::BrokeOff(source) => Error::File { step, path: path.to_owned(), source },
            other => other,
        })?;
        out.flush().map_err(Error::file(step, path))?;
    }
    let summary = File::check(file.reopen().map_err(Error::file(step, path))?, path)?.summary;
    file.as_file().sync_all().map_err(Error::file("sync", path))?;
    file.persist(path).map_err(|e| Error::File { step, path: path.to_owned(), source: e.error })?;
    sync_folder(path)?;
    Ok(summary)
}

/// A new file, its owner's alone, that may take the name later; what attempts that were killed have left is removed.
pub(super) fn beside(path: &Path) -> Result<tempfile::NamedTempFile, Error> {
    let folder = folder_of(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let prefix = format!(".{name}.part-");
    let failed = || Error::file("write in", folder);
    for entry in fs::read_dir(folder).map_err(failed())?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            let _ = fs::remove_file(entry.path());
        }
    }
    tempfile::Builder::new().prefix(&prefix).tempfile_in(folder).map_err(failed())
}

/// The folder a file is in.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a new name durable.
pub(super) fn sync_folder(path: &Path) -> Result<(), Error> {
    let folder = folder_of(path);
    fs::File::open(folder).and_then(|f| f.sync_all()).map_err(Error::file("sync", folder))
}

/// A snapshot on disk whose hash is right.
#[derive(Debug)]
pub struct File {
    /// What it says of itself.
    pub summary: Summary,
    input: BufReader<fs::File>,
    left: u64,
}

impl File {
    /// Opens a snapshot and reads all of it once, to see whether it is what was written.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::check(fs::File::open(path).map_err(Error::file("open", path))?, path)
    }

    fn check(file: fs::File, path: &Path) -> Result<Self, Error> {
        let read = "read";
        let length = file.metadata().map_err(Error::file(read, path))?.len();
        let mut input = BufReader::with_capacity(1 << 18, file);
        let mut head = Vec::new();
        input.by_ref().take(HEAD as u64).read_to_end(&mut head).map_err(Error::file(read, path))?;
        check_name(&head, path)?;
        let Some(body) = length.checked_sub((HEAD + TAIL) as u64) else { return Err(Error::CutOff(path.to_owned())) };
        let mut hash = Sha256::new();
        hash.update(&head);
        let mut left = body + TAIL as u64 - HASH as u64;
        let mut buffer = vec![0; 1 << 18];
        // The flag and the count are the last of what is hashed.
        let mut end = Vec::with_capacity(TAIL);
        while left > 0 {
            let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let n = input.read(&mut buffer[..most]).map_err(Error::file(read, path))?;
            if n == 0 {
                return Err(Error::CutOff(path.to_owned()));
            }
            hash.update(&buffer[..n]);
            end.extend_from_slice(&buffer[..n]);
            let surplus = end.len().saturating_sub(TAIL - HASH);
            end.drain(..surplus);
            left -= n as u64;
        }
        let mut written = [0; HASH];
        input.read_exact(&mut written).map_err(Error::file(read, path))?;
        let hash: [u8; HASH] = hash.finalize().into();
        if hash != written {
            return Err(Self::why_wrong(input, path));
        }
        input.seek(SeekFrom::Start(HEAD as u64)).map_err(Error::file(read, path))?;
        let keys = number(&end, 1);
        let summary = Summary {
            revision: number(&head, MAGIC.len()),
            taken_ms: number(&head, MAGIC.len() + 8),
            keys,
            bytes: length,
            hash,
        };
        Ok(Self { summary, input, left: keys })
    }

    /// A file whose entries lead past its end was cut; it is only told for the message.
    fn why_wrong(mut input: BufReader<fs::File>, path: &Path) -> Error {
        let mut walk = move || -> io::Result<bool> {
            let length = input.get_ref().metadata()?.len();
            let mut at = input.seek(SeekFrom::Start(HEAD as u64))?;
            let mut head = [0; 1 + ENTRY];
            loop {
                if at + TAIL as u64 > length {
                    return Ok(true);
                }
                input.read_exact(&mut head[..1])?;
                match head[0] {
                    0 => return Ok(false),
                    1 => {
                        input.read_exact(&mut head[1..])?;
                        let skip = length_at(&head, 1) + length_at(&head, 5);
                        input.seek_relative(skip as i64)?;
                        at += (1 + ENTRY) as u64 + skip;
                    }
                    _ => return Ok(false),
                }
            }
        };
        match walk() {
            Ok(true) | Err(_) => Error::CutOff(path.to_owned()),
            Ok(false) => Error::Damaged(path.to_owned()),
        }
    }

    fn next_record(&mut self) -> io::Result<Record> {
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let mut head = [0; 1 + ENTRY];
        self.input.read_exact(&mut head)?;
        let (key_length, value_length) = (length_at(&head, 1), length_at(&head, 5));
        if head[0] != 1 || key_length + value_length > self.summary.bytes {
            return Err(bad("an entry is not one"));
        }
        let mut key = vec![0; key_length as usize];
        self.input.read_exact(&mut key)?;
        let mut value = vec![0; value_length as usize];
        self.input.read_exact(&mut value)?;
        let key = String::from_utf8(key).map_err(|_| bad("a key is no text"))?;
        let expires = Some(number(&head, 25)).filter(|ms| *ms > 0).map(|ms| UNIX_EPOCH + Duration::from_millis(ms));
        let (create_revision, mod_revision) = (number(&head, 9), number(&head, 17));
        let entry = Entry { key: key.into(), value: value.into(), create_revision, mod_revision };
        Ok(Record { entry, expires })
    }
}

impl File {
    /// The records, read in a thread of their own.
    pub fn export(mut self) -> Result<Export, Error> {
        let revision = self.summary.revision;
        let (sender, records) = mpsc::channel(8);
        let read = move || {
            while self.left > 0 {
                let most = self.left.min(PIECE);
                self.left -= most;
                let piece: io::Result<Vec<Record>> = (0..most).map(|_| self.next_record()).collect();
                let step = "read the snapshot";
                let piece = piece.map_err(|e| crate::Error::Backend { step, source: Box::new(e) });
                // Nobody listening any more is reason to end.
                if sender.blocking_send(piece).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .name("store-import".into())
            .spawn(read)
            .map_err(|e| crate::Error::Backend { step: "start an import", source: Box::new(e) })?;
        Ok(Export { revision, records })
    }
}

fn check_name(head: &[u8], path: &Path) -> Result<(), Error> {
    let Some(rest) = head.strip_prefix(NAME) else {
        let cut = head.len() < NAME.len() && NAME.starts_with(head);
        return Err(if cut { Error::CutOff(path.to_owned()) } else { Error::NoSnapshot(path.to_owned()) });
    };
    match rest.iter().position(|b| *b == b'\n') {
        Some(1) if rest[0] == b'1' => Ok(()),
        Some(end) => {
            let version = String::from_utf8_lossy(&rest[..end]).into_owned();
            Err(Error::Version { path: path.to_owned(), version })
        }
        None if head.len() < HEAD => Err(Error::CutOff(path.to_owned())),
        None => Err(Error::NoSnapshot(path.to_owned())),
    }
}

fn number(bytes: &[u8], at: usize) -> Revision {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn length_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes).into()
}

fn unix_ms(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
