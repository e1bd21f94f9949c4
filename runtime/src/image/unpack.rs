//! A layer's archive becomes a directory that overlayfs can use.
//!
//! Archives are hostile: every name is resolved by the kernel below the layer's directory (openat2, RESOLVE_IN_ROOT, no magic
//! links), files are created with O_EXCL and links are never followed at the last component, so neither `..` nor links of
//! the archive's own lead out. Whiteouts become overlayfs's: a 0:0 device for a removed name, an attribute for an opaque
//! directory. Attributes of overlayfs itself (`trusted.*`) are never taken from an archive.

use std::cell::Cell;
use std::ffi::{CString, OsStr};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, ResolveFlag};
use sha2::{Digest, Sha256};
use tar::{Entry, EntryType};

use crate::error::{Error, Result, Step};

const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";
/// Directories and files in one layer; a full node's worth of inodes is not for one archive to take.
const ENTRY_LIMIT: usize = 2_000_000;
/// Parts of a name.
const NAME_DEPTH: usize = 256;
/// Bytes that describe one entry beside its own header; Go's reader takes 1 MiB for each kind of them.
const DESCRIPTION_LIMIT: u64 = 4 << 20;

/// What a layer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// Digest of the uncompressed archive.
    pub diff_id: String,
    /// Bytes of its files.
    pub size: u64,
}

/// Unpacks a layer into the empty directory `target`. `below` are the layers under it, uppermost first: a directory that the
/// archive uses without describing it looks like theirs.
pub fn unpack(archive: impl Read, target: &Path, below: &[PathBuf]) -> Result<Unpacked> {
    let mut hashing = Hashing { inner: decompress(archive).step("read layer")?, hash: Sha256::new() };
    let mut layer =
        Layer { root: open_dir(target)?, below: below.iter().map(|dir| open_dir(dir)).collect::<Result<_>>()?, size: 0 };
    let (mut times, mut count) = (Vec::new(), 0);
    each_entry(&mut hashing, |entry| {
        count += 1;
        if count > ENTRY_LIMIT {
            return Err(Error::Invalid("layer has too many entries".to_owned()));
        }
        let name = clean(&entry.path().step("read name in layer")?)?;
        if name.as_os_str().is_empty() && entry.header().entry_type() != EntryType::Directory {
            return Ok(());
        }
        layer.add(&name, entry, &mut times).step_with(|| format!("unpack {:?}", name.display().to_string()))
    })?;
    // Directories' times last: adding to them changes them.
    for (name, time) in times.iter().rev() {
        if let Ok(dir) = layer.find(layer.root.as_raw_fd(), name) {
            set_time(dir.as_raw_fd(), c"", *time);
        }
    }
    // What follows the archive's end belongs to the digest.
    io::copy(&mut hashing, &mut io::sink()).step("read layer")?;
    Ok(Unpacked { diff_id: format!("sha256:{}", hex(&hashing.hash.finalize())), size: layer.size })
}

/// Does something with each entry of a tar file. Long names and attributes stand before what they describe and are read into memory:
/// no more of them than [`DESCRIPTION_LIMIT`].
pub fn each_entry<R: Read>(archive: R, mut act: impl FnMut(&mut Entry<'_, Described<'_, R>>) -> Result<()>) -> Result<()> {
    let room = Cell::new(DESCRIPTION_LIMIT);
    let mut archive = tar::Archive::new(Described { archive, room: &room });
    let mut entries = archive.entries().step("read archive")?;
    loop {
        room.set(DESCRIPTION_LIMIT);
        let Some(entry) = entries.next() else { return Ok(()) };
        let mut entry = entry.step("read archive")?;
        room.set(u64::MAX);
        act(&mut entry)?;
        // Content that nobody wanted is none of the next one's description.
        io::copy(&mut entry, &mut io::sink()).step("read archive")?;
    }
}

/// An archive of which only so much may be read now.
pub struct Described<'a, R> {
    archive: R,
    room: &'a Cell<u64>,
}

impl<R: Read> Read for Described<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.archive.read(buffer)?;
        match self.room.get().checked_sub(count as u64) {
            Some(left) => self.room.set(left),
            None => return Err(io::Error::other("an entry's name or attributes are too long")),
        }
        Ok(count)
    }
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The archive inside a gzip or zstd stream, or the stream itself.
pub fn decompress<'a>(mut archive: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut magic = [0; 4];
    let mut filled = 0;
    while filled < magic.len() {
        match archive.read(&mut magic[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    let whole = io::Cursor::new(magic[..filled].to_vec()).chain(archive);
    Ok(match magic {
        [0x1f, 0x8b, ..] => Box::new(io::BufReader::with_capacity(1 << 16, flate2::read::MultiGzDecoder::new(whole))),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::new(whole)?),
        _ => Box::new(whole),
    })
}

struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

/// A name relative to the root; one that tries to leave it is refused rather than bent.
fn clean(name: &Path) -> Result<PathBuf> {
    let mut clean = PathBuf::new();
    for part in name.components() {
        match part {
            Component::Normal(part) => clean.push(part),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(Error::Invalid(format!("layer names {:?}, outside its root", name.display().to_string())));
            }
        }
    }
    match clean.components().count() {
        0..=NAME_DEPTH => Ok(clean),
        _ => Err(Error::Invalid("a name in the layer has too many parts".to_owned())),
    }
}

fn open_dir(path: &Path) -> Result<OwnedFd> {
    std::fs::File::open(path).map(OwnedFd::from).step_with(|| format!("open {}", path.display()))
}

fn c(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

struct Layer {
    root: OwnedFd,
    below: Vec<OwnedFd>,
    size: u64,
}

impl Layer {
    /// Opens an existing name below `root`, links within it followed.
    fn find(&self, root: RawFd, name: &Path) -> io::Result<OwnedFd> {
        self.open(root, name, libc::O_PATH)
    }

    fn open(&self, root: RawFd, name: &Path, flags: i32) -> io::Result<OwnedFd> {
        let name = if name.as_os_str().is_empty() { OsStr::new(".") } else { name.as_os_str() };
        // SAFETY: callers hold what they name.
        let root = unsafe { BorrowedFd::borrow_raw(root) };
        Ok(process::inside::open(root, name, OFlag::from_bits_retain(flags), ResolveFlag::RESOLVE_IN_ROOT)?)
    }

    /// Opens a directory and makes what is missing of it, like it is in the layers below.
    fn directory(&self, name: &Path) -> io::Result<OwnedFd> {
        match self.open(self.root.as_raw_fd(), name, libc::O_PATH | libc::O_DIRECTORY) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            other => return other,
        }
        let (Some(parent), Some(last)) = (name.parent(), name.file_name()) else {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        };
        let parent = self.directory(parent)?;
        let like = self.below.iter().find_map(|below| {
            let found = self.open(below.as_raw_fd(), name, libc::O_PATH | libc::O_DIRECTORY).ok()?;
            stat(found.as_raw_fd()).ok()
        });
        let text = c(last)?;
        // SAFETY: a C string.
        unsafe {
            check(libc::mkdirat(parent.as_raw_fd(), text.as_ptr(), 0o755))?;
            if let Some(like) = like {
                libc::fchownat(parent.as_raw_fd(), text.as_ptr(), like.st_uid, like.st_gid, libc::AT_SYMLINK_NOFOLLOW);
                libc::fchmodat(parent.as_raw_fd(), text.as_ptr(), like.st_mode & 0o7777, 0);
            }
        }
        self.open(self.root.as_raw_fd(), name, libc::O_PATH | libc::O_DIRECTORY)
    }

    fn add(&mut self, name: &Path, entry: &mut Entry<'_, impl Read>, times: &mut Vec<(PathBuf, i64)>) -> io::Result<()> {
        let header = entry.header().clone();
        let time = header.mtime().map_or(0, |time| i64::try_from(time).unwrap_or(0));
        if header.entry_type() == EntryType::Directory {
            let made = self.make_dir(name)?;
            self.describe_dir(&made, entry)?;
            times.push((name.to_owned(), time));
            return Ok(());
        }
        let (Some(parent), Some(last)) = (name.parent(), name.file_name()) else { return Ok(()) };
        let parent = self.directory(parent)?;
        if let Some(hidden) = last.to_str().and_then(|last| last.strip_prefix(WHITEOUT)) {
            return whiteout(&parent, last, hidden);
        }
        let text = c(last)?;
        let dir = parent.as_raw_fd();
        self.clear(dir, &text)?;
        let mode = header.mode()? & 0o7777;
        let device = || -> io::Result<libc::dev_t> {
            let number = |value: Option<u32>| value.ok_or(io::Error::from_raw_os_error(libc::EINVAL));
            Ok(libc::makedev(number(header.device_major()?)?, number(header.device_minor()?)?))
        };
        // SAFETY: C strings that outlive the calls.
        match header.entry_type() {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                return self.file(dir, &text, entry, mode, time);
            }
            EntryType::Symlink => {
                let target = entry.link_name()?.ok_or(io::Error::from_raw_os_error(libc::EINVAL))?;
                let target = c(target.as_os_str())?;
                unsafe { check(libc::symlinkat(target.as_ptr(), dir, text.as_ptr()))? };
            }
            EntryType::Link => {
                let target = entry.link_name()?.ok_or(io::Error::from_raw_os_error(libc::EINVAL))?.into_owned();
                return self.hard_link(&target, dir, &text);
            }
            EntryType::Char => unsafe { check(libc::mknodat(dir, text.as_ptr(), libc::S_IFCHR | mode, device()?))? },
            EntryType::Block => unsafe { check(libc::mknodat(dir, text.as_ptr(), libc::S_IFBLK | mode, device()?))? },
            EntryType::Fifo => unsafe { check(libc::mknodat(dir, text.as_ptr(), libc::S_IFIFO | mode, 0))? },
            // Extensions that the reader has used already, and kinds that nobody writes.
            _ => return Ok(()),
        }
        own(dir, &text, &header)?;
        if header.entry_type() != EntryType::Symlink {
            // SAFETY: a C string.
            unsafe { check(libc::fchmodat(dir, text.as_ptr(), mode, 0))? };
        }
        set_time(dir, &text, time);
        Ok(())
    }

    fn make_dir(&self, name: &Path) -> io::Result<OwnedFd> {
        let (Some(parent), Some(last)) = (name.parent(), name.file_name()) else {
            return self.find(self.root.as_raw_fd(), name);
        };
        let (parent, text) = (self.directory(parent)?, c(last)?);
        // SAFETY: a C string; the result is new.
        unsafe {
            if libc::mkdirat(parent.as_raw_fd(), text.as_ptr(), 0o755) < 0 {
                let error = io::Error::last_os_error();
                if error.raw_os_error() != Some(libc::EEXIST) {
                    return Err(error);
                }
                // A directory stays; anything else gives way.
                if libc::unlinkat(parent.as_raw_fd(), text.as_ptr(), 0) == 0 {
                    check(libc::mkdirat(parent.as_raw_fd(), text.as_ptr(), 0o755))?;
                }
            }
            let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
            let fd = libc::openat(parent.as_raw_fd(), text.as_ptr(), flags);
            check(fd)?;
            Ok(OwnedFd::from_raw_fd(fd))
        }
    }

    fn describe_dir(&self, dir: &OwnedFd, entry: &mut Entry<'_, impl Read>) -> io::Result<()> {
        let mode = entry.header().mode()? & 0o7777;
        own(dir.as_raw_fd(), c"", entry.header())?;
        let path = by_descriptor(dir)?;
        // SAFETY: a C string that names the descriptor itself.
        unsafe { check(libc::chmod(path.as_ptr(), mode))? };
        set_attributes(dir, entry)
    }

    /// Removes what the same layer put there before.
    fn clear(&self, dir: RawFd, name: &CString) -> io::Result<()> {
        // SAFETY: a C string.
        if unsafe { libc::unlinkat(dir, name.as_ptr(), 0) } == 0 {
            return Ok(());
        }
        match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            error if error.raw_os_error() == Some(libc::EISDIR) => {
                let path = Path::new("/proc/self/fd").join(dir.to_string()).join(OsStr::from_bytes(name.as_bytes()));
                process::tree::remove(&path)
            }
            error => Err(error),
        }
    }

    fn file(
        &mut self,
        dir: RawFd,
        name: &CString,
        entry: &mut Entry<'_, impl Read>,
        mode: u32,
        time: i64,
    ) -> io::Result<()> {
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        // SAFETY: a C string; the result is new.
        let file = unsafe {
            let fd = libc::openat(dir, name.as_ptr(), flags, 0o600);
            check(fd)?;
            OwnedFd::from_raw_fd(fd)
        };
        let mut file = std::fs::File::from(file);
        self.size += io::copy(entry, &mut file)?;
        file.flush()?;
        let fd = OwnedFd::from(file);
        own(fd.as_raw_fd(), c"", entry.header())?;
        set_attributes(&fd, entry)?;
        // SAFETY: numbers only. After the owner, whose change would clear the set-user-ID bit.
        unsafe { check(libc::fchmod(fd.as_raw_fd(), mode))? };
        set_time(fd.as_raw_fd(), c"", time);
        Ok(())
    }

    fn hard_link(&self, target: &Path, dir: RawFd, name: &CString) -> io::Result<()> {
        let target = clean(target).map_err(|error| io::Error::other(error.to_string()))?;
        let (Some(parent), Some(last)) = (target.parent(), target.file_name()) else {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        };
        let last = c(last)?;
        for root in std::iter::once(&self.root).chain(&self.below) {
            let Ok(from) = self.open(root.as_raw_fd(), parent, libc::O_PATH | libc::O_DIRECTORY) else { continue };
            // SAFETY: C strings. Links are not followed.
            if unsafe { libc::linkat(from.as_raw_fd(), last.as_ptr(), dir, name.as_ptr(), 0) } == 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::ENOENT) {
                return Err(error);
            }
        }
        Err(io::Error::from_raw_os_error(libc::ENOENT))
    }
}

fn whiteout(parent: &OwnedFd, last: &OsStr, hidden: &str) -> io::Result<()> {
    if last == OPAQUE {
        let path = by_descriptor(parent)?;
        // SAFETY: C strings and one byte.
        return unsafe {
            check(libc::setxattr(path.as_ptr(), c"trusted.overlay.opaque".as_ptr(), c"y".as_ptr().cast(), 1, 0))
        };
    }
    if hidden.is_empty() || hidden == "." || hidden == ".." || hidden.starts_with(".wh.") {
        return Ok(());
    }
    let name = c(OsStr::new(hidden))?;
    // SAFETY: a C string. A name that this layer itself has stays: whiteouts are about the layers below.
    match unsafe { check(libc::mknodat(parent.as_raw_fd(), name.as_ptr(), libc::S_IFCHR, 0)) } {
        Err(error) if error.raw_os_error() != Some(libc::EEXIST) => Err(error),
        _ => Ok(()),
    }
}

fn stat(fd: RawFd) -> io::Result<libc::stat> {
    // SAFETY: stat is plain numbers.
    unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        check(libc::fstat(fd, &mut stat))?;
        Ok(stat)
    }
}

/// A path for calls that take no O_PATH descriptor.
fn by_descriptor(fd: &OwnedFd) -> io::Result<CString> {
    c(OsStr::new(&format!("/proc/self/fd/{}", fd.as_raw_fd())))
}

fn own(dir: RawFd, name: &std::ffi::CStr, header: &tar::Header) -> io::Result<()> {
    let number = |value: io::Result<u64>| u32::try_from(value?).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL));
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH;
    // SAFETY: a C string.
    unsafe { check(libc::fchownat(dir, name.as_ptr(), number(header.uid())?, number(header.gid())?, flags)) }
}

fn set_time(dir: RawFd, name: &std::ffi::CStr, seconds: i64) {
    let time = libc::timespec { tv_sec: seconds, tv_nsec: 0 };
    // SAFETY: a C string and two timespecs. A time that the file system cannot hold is not worth failing for.
    unsafe { libc::utimensat(dir, name.as_ptr(), [time, time].as_ptr(), libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) };
}

/// Attributes that make sense in a container: file capabilities and the user's own.
fn set_attributes(fd: &OwnedFd, entry: &mut Entry<'_, impl Read>) -> io::Result<()> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(()) };
    let path = by_descriptor(fd)?;
    for extension in extensions.flatten() {
        let Some(name) = extension.key_bytes().strip_prefix(b"SCHILY.xattr.") else { continue };
        if name != b"security.capability" && !name.starts_with(b"user.") {
            continue;
        }
        let (name, value) = (c(OsStr::from_bytes(name))?, extension.value_bytes());
        // SAFETY: C strings and the value's own bounds.
        let set = unsafe { check(libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)) };
        match set {
            Err(error) if error.raw_os_error() != Some(libc::EOPNOTSUPP) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
