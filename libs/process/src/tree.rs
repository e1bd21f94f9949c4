//! Folders that somebody else has filled: a container may nest its own deeper than a stack is, or than there are descriptors.
//!
//! `std::fs::remove_dir_all` calls itself, and holds a descriptor, for each level: 20,000 of them end the process by its stack, or
//! stay for ever where fewer descriptors are allowed. Here what lies too deep is moved up first.

use std::{
    ffi::{CStr, CString},
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use nix::{
    dir::{Dir, Type},
    errno::Errno,
    fcntl::{AtFlags, OFlag, open, openat, renameat},
    sys::stat::{Mode, SFlag, fstatat},
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
}
