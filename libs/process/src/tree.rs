//! Folders that somebody else has filled: a container may nest its own deeper than a stack is, or than there are descriptors.
//!
//! `std::fs::remove_dir_all` calls itself, and holds a descriptor, for each level: 20,000 of them end the process by its stack, or
//! stay for ever where fewer descriptors are allowed. Here what lies too deep is moved up before it is removed, and what is
//! counted is gone through with one folder open at a time.

use std::{
    collections::HashSet,
    ffi::{CStr, CString},
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use nix::{
    dir::{Dir, Type},
    errno::Errno,
    fcntl::{AtFlags, OFlag, open, openat, renameat},
    sys::stat::{FileStat, Mode, SFlag, fstat, fstatat},
    unistd::{UnlinkatFlags, unlinkat},
};

/// How far down a descriptor is held for each level.
const DEEP: usize = 32;

/// Removes a folder with all that is in it, or a file. Links are not followed.
///
/// # Errors
/// The system's; that there is nothing at `path` (`NotFound`), too. What could be removed by then is.
pub fn remove(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.is_dir() {
        return fs::remove_file(path);
    }
    let top = open(path, FOLDER, Mode::empty())?;
    let mut moved = 0;
    loop {
        let before = moved;
        empty(&top, &top, 0, &mut moved)?;
        if moved == before {
            return fs::remove_dir(path);
        }
    }
}

const FOLDER: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Empties a folder. Folders that lie too deep are moved to `top`, to be emptied in the next round.
fn empty(dir: &OwnedFd, top: &OwnedFd, depth: usize, moved: &mut u64) -> io::Result<()> {
    let mut listed = Dir::from_fd(openat(dir, c".", FOLDER, Mode::empty())?)?;
    for entry in listed.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        match is_folder(dir, name, entry.file_type())? {
            false => gone(unlinkat(dir, name, UnlinkatFlags::NoRemoveDir))?,
            true if depth == DEEP => move_up(dir, name, top, moved)?,
            true => {
                let below = openat(dir, name, FOLDER, Mode::empty())?;
                empty(&below, top, depth + 1, moved)?;
                gone(unlinkat(dir, name, UnlinkatFlags::RemoveDir))?;
            }
        }
    }
    Ok(())
}

fn is_folder(dir: impl AsFd, name: &CStr, kind: Option<Type>) -> io::Result<bool> {
    match kind {
        Some(kind) => Ok(kind == Type::Directory),
        // Not every file system says.
        None => {
            let mode = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?.st_mode;
            Ok(SFlag::from_bits_truncate(mode) & SFlag::S_IFMT == SFlag::S_IFDIR)
        }
    }
}

/// Whoever filled the folder may have chosen the same name there.
fn move_up(dir: &OwnedFd, name: &CStr, top: &OwnedFd, moved: &mut u64) -> io::Result<()> {
    loop {
        *moved += 1;
        let fresh = CString::new(format!(".removed-{moved}"))?;
        match renameat(dir, name, top, fresh.as_c_str()) {
            Err(Errno::EEXIST | Errno::ENOTEMPTY | Errno::ENOTDIR) => {}
            other => return Ok(other?),
        }
    }
}

fn gone(removed: nix::Result<()>) -> io::Result<()> {
    match removed {
        Err(Errno::ENOENT) => Ok(()),
        other => Ok(other?),
    }
}

/// What a folder holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// On disk.
    pub bytes: i64,
    /// Files and folders, itself among them.
    pub inodes: i64,
}

/// What a folder and all those in it hold, as far as they can be read: no link is followed, no other file system entered, and a
/// file of several names counts once. Folders that are moved meanwhile may be missing.
pub fn size(path: &Path) -> Size {
    let mut search = Search::default();
    let Ok(mut here) = open(path, FOLDER, Mode::empty()) else { return search.size };
    let Ok(top) = fstat(&here) else { return search.size };
    search.count(&top);
    // The way from the top to here, and at each step the folders that are still to be looked at.
    let mut way = vec![(top.st_ino, search.list(&here, top.st_dev))];
    while let Some((_, ahead)) = way.last_mut() {
        let next = match ahead.pop() {
            Some(name) => openat(&here, name.as_c_str(), FOLDER, Mode::empty()),
            None => {
                way.pop();
                let Some((above, _)) = way.last() else { break };
                let Ok(up) = openat(&here, c"..", FOLDER, Mode::empty()) else { break };
                if !fstat(&up).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (top.st_dev, *above)) {
                    break;
                }
                here = up;
                continue;
            }
        };
        if let Ok(below) = next
            && let Ok(stat) = fstat(&below)
            && stat.st_dev == top.st_dev
        {
            way.push((stat.st_ino, search.list(&below, top.st_dev)));
            here = below;
        }
    }
    search.size
}

#[derive(Default)]
struct Search {
    size: Size,
    /// Of files with several names.
    seen: HashSet<u64>,
}

impl Search {
    fn count(&mut self, stat: &FileStat) {
        self.size.bytes += stat.st_blocks * 512;
        self.size.inodes += 1;
    }

    /// Counts what is in a folder; returns the folders among it.
    fn list(&mut self, dir: &OwnedFd, device: u64) -> Vec<CString> {
        let mut folders = Vec::new();
        let Ok(mut listed) = openat(dir, c".", FOLDER, Mode::empty()).and_then(Dir::from_fd) else { return folders };
        for entry in listed.iter().flatten() {
            let name = entry.file_name();
            let Ok(stat) = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) else { continue };
            let folder = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR;
            let again = !folder && stat.st_nlink > 1 && !self.seen.insert(stat.st_ino);
            if name == c"." || name == c".." || stat.st_dev != device || again {
                continue;
            }
            self.count(&stat);
            if folder {
                folders.push(name.to_owned());
            }
        }
        folders
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::stat::mkdirat;

    use super::*;

    /// A folder in a folder, and so on, each with a file and with names that a removal might choose.
    fn nest(path: &Path, levels: usize) {
        fs::create_dir(path).unwrap();
        let mut here = open(path, FOLDER, Mode::empty()).unwrap();
        for name in [".removed-1", ".removed-3"] {
            fs::write(path.join(name), "in the way").unwrap();
        }
        fs::create_dir_all(path.join(".removed-2/in/the/way")).unwrap();
        for level in 0..levels {
            mkdirat(&here, "a", Mode::S_IRWXU).unwrap();
            if level % 100 == 0 {
                drop(openat(&here, "file", OFlag::O_CREAT | OFlag::O_WRONLY, Mode::S_IRWXU).unwrap());
            }
            here = openat(&here, "a", FOLDER, Mode::empty()).unwrap();
        }
    }

    #[test]
    fn depth_ends_no_process() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::write(&outside, "stays").unwrap();
        let deep = dir.path().join("deep");
        nest(&deep, 3_000);
        std::os::unix::fs::symlink(&outside, deep.join("link")).unwrap();
        std::os::unix::fs::symlink(dir.path(), deep.join("folder-link")).unwrap();
        // A stack that bears no call within a call for each level.
        let path = deep.clone();
        let small = std::thread::Builder::new().stack_size(256 << 10).spawn(move || remove(&path)).unwrap();
        small.join().unwrap().unwrap();
        assert!(!deep.exists() && outside.exists());
        assert_eq!(remove(&deep).unwrap_err().kind(), io::ErrorKind::NotFound);
        remove(&outside).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
    #[test]
    fn depth_is_counted_to_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("deep");
        nest(&deep, 3_000);
        // Beside those that lie in each other: its own, two files and four folders, and a file in every hundredth.
        assert_eq!(size(&deep).inodes, 3_000 + 1 + 2 + 4 + 30);
        remove(&deep).unwrap();
        assert_eq!(size(&deep), Size::default());
    }

    #[test]
    fn links_are_neither_followed_nor_counted_twice() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: usize| fs::write(dir.path().join(name), vec![1; bytes]).unwrap();
        write("big", 1 << 20);
        fs::create_dir(dir.path().join("measured")).unwrap();
        write("measured/file", 100_000);
        let empty = size(&dir.path().join("measured"));
        fs::hard_link(dir.path().join("measured/file"), dir.path().join("measured/again")).unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("measured/out")).unwrap();
        let linked = size(&dir.path().join("measured"));
        assert_eq!((empty.inodes, linked.inodes), (2, 3));
        assert!((100_000..200_000).contains(&linked.bytes), "{linked:?}");
    }
}
