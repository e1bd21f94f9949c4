//! `subPath`: a bind mount of a path inside a volume that containers may be changing meanwhile.
//!
//! The path is opened component by component below the volume (openat2, `RESOLVE_BENEATH`), so no symlink, however it is
//! exchanged, leads outside; the descriptor, not the name, is then mounted through `/proc/self/fd`.

use std::{
    fs,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, ResolveFlag},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::stat::{Mode, SFlag, fchmod, fstat, mkdirat},
};
use process::inside;

use super::VolumeError;

fn beneath(root: &OwnedFd, path: &str, flags: OFlag) -> nix::Result<OwnedFd> {
    inside::open(root, path, flags, ResolveFlag::RESOLVE_BENEATH)
}

/// Opens `path` below `volume`, making missing directories.
fn open(volume: &Path, path: &str) -> Result<OwnedFd, VolumeError> {
    let shown = volume.join(path);
    let failed = |e: Errno| VolumeError::io("preparing subPath", &shown, e);
    let root: OwnedFd = nix::fcntl::open(volume, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).map_err(failed)?;
    match beneath(&root, path, OFlag::O_PATH) {
        Err(Errno::ENOENT) => {}
        other => return other.map_err(failed),
    }
    // What is missing is as open as the volume itself: with a group of its own, that has to be able to write.
    let mode = fstat(&root).map_err(failed)?.st_mode & 0o7777;
    let mut done = String::from(".");
    for part in path.split('/').filter(|p| !p.is_empty() && *p != ".") {
        let parent = beneath(&root, &done, OFlag::O_PATH | OFlag::O_DIRECTORY).map_err(failed)?;
        done = format!("{done}/{part}");
        match mkdirat(&parent, part, Mode::from_bits_truncate(0o700)) {
            Ok(()) => {
                let made =
                    beneath(&root, &done, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).map_err(failed)?;
                fchmod(&made, Mode::from_bits_truncate(mode)).map_err(failed)?;
            }
            Err(Errno::EEXIST) => {}
            Err(e) => return Err(failed(e)),
        }
    }
    beneath(&root, path, OFlag::O_PATH).map_err(failed)
}

/// Mounts `path` of `volume` on `target`, replacing what an earlier start of the container left there.
pub fn bind(volume: &Path, path: &str, target: &Path) -> Result<PathBuf, VolumeError> {
    let invalid = || VolumeError::io("preparing subPath", Path::new(path), Errno::EINVAL);
    if path.starts_with('/') || path.split('/').any(|p| p == "..") {
        return Err(invalid());
    }
    let source = open(volume, path)?;
    let is_dir = fstat(&source)
        .map(|s| SFlag::from_bits_truncate(s.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR)
        .map_err(|e| VolumeError::io("looking at subPath", volume, e))?;
    // Not mounted is fine.
    let _ = umount2(target, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH);
    let parent = target.parent().ok_or_else(invalid)?;
    fs::create_dir_all(parent).map_err(|e| VolumeError::io("making", parent, e))?;
    match fs::symlink_metadata(target) {
        Ok(m) if m.is_dir() != is_dir => {
            let removed = if m.is_dir() { fs::remove_dir(target) } else { fs::remove_file(target) };
            removed.map_err(|e| VolumeError::io("removing", target, e))?;
        }
        _ => {}
    }
    let made = if is_dir {
        fs::create_dir_all(target)
    } else {
        fs::OpenOptions::new().append(true).create(true).open(target).map(drop)
    };
    made.map_err(|e| VolumeError::io("making", target, e))?;
    let from = format!("/proc/self/fd/{}", source.as_raw_fd());
    mount(Some(from.as_str()), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(|e| VolumeError::io("mounting subPath on", target, e))?;
    Ok(target.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn symlinks_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        fs::create_dir_all(volume.join("in")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        symlink("in", volume.join("good")).unwrap();
        symlink("../outside", volume.join("relative")).unwrap();
        symlink(dir.path().join("outside"), volume.join("absolute")).unwrap();
        assert!(open(&volume, "good").is_ok());
        assert!(open(&volume, "relative").is_err());
        assert!(open(&volume, "absolute/x").is_err());
        assert!(open(&volume, "new/deep").is_ok());
        assert!(volume.join("new/deep").is_dir());
        fs::set_permissions(&volume, fs::Permissions::from_mode(0o2777)).unwrap();
        assert!(open(&volume, "shared/deep").is_ok());
        let mode = |path: &str| fs::metadata(volume.join(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("shared"), mode("shared/deep")), (0o2777, 0o2777));
        assert!(!dir.path().join("outside/x").exists());
        assert!(bind(&volume, "../outside", &dir.path().join("t")).is_err());
    }
}
