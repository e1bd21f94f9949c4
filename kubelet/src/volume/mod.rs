//! A pod's volumes on the node's disk.
//!
//! ```text
//! ROOT/pods/UID/volumes/kubernetes.io~KIND/NAME    what containers mount
//! ROOT/pods/UID/volume-subpaths/NAME/CONTAINER/N   bind mounts of subPaths
//! ROOT/pods/UID/containers/NAME/HASH               termination messages
//! ROOT/pods/UID/etc-hosts                          the managed hosts file
//! ```
//!
//! Kinds that hold an object's data are written by [`atomic`]; what they hold is computed by [`payload`], which is plain.
//! Removal never crosses a mount: everything below the pod's directory is unmounted first, and if that fails nothing is
//! deleted.

pub mod atomic;
pub mod env_files;
pub mod hosts;
pub mod mounts;
pub mod payload;
pub mod subpath;

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, HostPathVolumeSource, Pod, Volume};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::pod::{resources, spec};

/// Why a volume is not there; the text goes into the FailedMount event.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// Its contents cannot be made.
    #[error("{0}")]
    Payload(#[from] payload::PayloadError),
    /// No part of this node knows the kind.
    #[error("volume type {0} is not supported by this node")]
    Unsupported(&'static str),
    /// The host's file is not what the volume asks for.
    #[error("hostPath type check failed: {0}")]
    HostPath(String),
    /// A step on the disk failed.
    #[error("{step} {path}: {source}")]
    Io {
        /// What.
        step: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl VolumeError {
    /// Wraps an I/O error.
    pub fn io(step: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { step, path: path.to_owned(), source: source.into() }
    }
}

/// Who owns what a volume holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// `fsGroup`.
    pub group: Option<u32>,
    /// The one user that all containers run as, if there is one.
    pub user: Option<u32>,
}

/// The owner that a pod's spec implies.
pub fn owner(pod: &Pod) -> Owner {
    let own = spec::spec(pod);
    let context = own.security_context.unwrap_or_default();
    let id = |v: Option<i64>| v.and_then(|v| u32::try_from(v).ok());
    let mut users = spec::members(pod)
        .into_iter()
        .map(|m| m.container.security_context.and_then(|s| s.run_as_user).or(context.run_as_user));
    let first = users.next().flatten();
    let same = users.all(|u| u == first);
    Owner { group: id(context.fs_group), user: id(first.filter(|_| same)) }
}

/// The volumes of this node.
#[derive(Clone, Debug)]
pub struct Volumes {
    root: PathBuf,
}

impl Volumes {
    /// Below `root` (`--root-dir`).
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The directory of a pod.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.root.join("pods").join(uid)
    }

    /// UIDs that have a directory.
    pub fn pods(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root.join("pods")).into_iter().flatten().flatten();
        entries.filter_map(|e| e.file_name().into_string().ok()).collect()
    }

    /// Where a volume is on the host, once it is set up.
    pub fn path(&self, uid: &str, volume: &Volume) -> PathBuf {
        match &volume.host_path {
            Some(host) => PathBuf::from(&host.path),
            None => self.pod_dir(uid).join("volumes").join(format!("kubernetes.io~{}", kind(volume))).join(&volume.name),
        }
    }

    /// Makes the pod's own directories.
    pub fn prepare(&self, uid: &str) -> Result<(), VolumeError> {
        for sub in ["volumes", "containers"] {
            make_dir(&self.pod_dir(uid).join(sub), 0o750)?;
        }
        Ok(())
    }

    /// Sets up one volume, or brings it up to date; does nothing if it is as it should be. No pod can fill more than
    /// `memory` bytes.
    pub fn set_up(
        &self,
        pod: &Pod,
        volume: &Volume,
        payload: Option<payload::Payload>,
        memory: i64,
    ) -> Result<(), VolumeError> {
        let path = self.path(&spec::uid(pod), volume);
        let owner = owner(pod);
        if let Some(host) = &volume.host_path {
            return host_path(host);
        }
        if let Some(empty) = &volume.empty_dir {
            return empty_dir(&path, empty, memory_size(pod, empty, memory), owner);
        }
        let Some(payload) = payload else { return Err(VolumeError::Unsupported(kind(volume))) };
        let fresh = !path.exists();
        make_dir(&path, 0o755)?;
        let in_memory = volume.config_map.is_none();
        if in_memory && (fresh || !is_mount_point(&path)) {
            mount_tmpfs(&path, None)?;
        }
        if fresh {
            open_to_all(&path, if in_memory { IN_MEMORY } else { ON_DISK }, owner)?;
        }
        atomic::write(&path, &payload, owner)
    }

    /// Removes everything of a pod. An error leaves data alone; calling again goes on.
    pub fn tear_down(&self, uid: &str) -> Result<(), VolumeError> {
        let dir = self.pod_dir(uid);
        if !dir.exists() {
            return Ok(());
        }
        unmount_below(&dir)?;
        if let Some(mount) = mounts_below(&dir).first() {
            return Err(VolumeError::io("unmounting", mount, io::Error::from_raw_os_error(libc::EBUSY)));
        }
        match process::tree::remove(&dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(VolumeError::io("removing", &dir, e)),
            _ => Ok(()),
        }
    }
}

/// The kind in a volume's directory name.
fn kind(volume: &Volume) -> &'static str {
    let v = volume;
    match () {
        () if v.empty_dir.is_some() => "empty-dir",
        () if v.config_map.is_some() => "configmap",
        () if v.secret.is_some() => "secret",
        () if v.downward_api.is_some() => "downward-api",
        () if v.projected.is_some() => "projected",
        () if v.host_path.is_some() => "host-path",
        () if v.persistent_volume_claim.is_some() => "persistentVolumeClaim",
        () if v.csi.is_some() => "csi",
        () if v.nfs.is_some() => "nfs",
        () if v.ephemeral.is_some() => "ephemeral",
        () if v.image.is_some() => "image",
        () if v.iscsi.is_some() => "iscsi",
        () if v.fc.is_some() => "fc",
        () if v.git_repo.is_some() => "gitRepo",
        () => "of an in-tree driver",
    }
}

fn make_dir(path: &Path, mode: u32) -> Result<(), VolumeError> {
    let made = fs::DirBuilder::new().recursive(true).mode(mode).create(path);
    made.map_err(|e| VolumeError::io("making the directory", path, e))
}

fn mount_tmpfs(path: &Path, size: Option<i64>) -> Result<(), VolumeError> {
    let options = size.filter(|s| *s > 0).map(|s| format!("size={s}"));
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), path, Some("tmpfs"), flags, options.as_deref())
        .map_err(|e| VolumeError::io("mounting a tmpfs on", path, e))
}

/// How much an `emptyDir` in memory takes: no more than the pod may have anyway.
fn memory_size(pod: &Pod, empty: &EmptyDirVolumeSource, node: i64) -> i64 {
    let asked = empty.size_limit.as_ref().map(|q| resources::amount("memory", q));
    let limit = resources::pod_limit(pod, "memory");
    [asked, limit].into_iter().flatten().filter(|size| *size > 0).fold(node, i64::min)
}

fn empty_dir(path: &Path, empty: &EmptyDirVolumeSource, size: i64, owner: Owner) -> Result<(), VolumeError> {
    let fresh = !path.exists();
    make_dir(path, 0o777)?;
    match empty.medium.as_deref().unwrap_or_default() {
        "" => {}
        "Memory" if !fresh && is_mount_point(path) => return Ok(()),
        "Memory" => {
            mount_tmpfs(path, Some(size))?;
        }
        _ => return Err(VolumeError::Unsupported("emptyDir with medium HugePages")),
    }
    // The umask may have taken bits away; a restart must not undo what containers changed since.
    match empty.medium.as_deref() {
        Some("Memory") => open_to_all(path, IN_MEMORY, owner)?,
        _ if fresh => open_to_all(path, ON_DISK, owner)?,
        _ => {}
    }
    Ok(())
}

/// The mode of a volume's own directory.
const ON_DISK: u32 = 0o777;
/// A tmpfs is sticky, and upstream leaves it so.
const IN_MEMORY: u32 = 0o1777;

/// Everyone in the pod may use a volume's own directory, the umask notwithstanding; what is made in it is its group's.
fn open_to_all(path: &Path, mode: u32, owner: Owner) -> Result<(), VolumeError> {
    let mode = if owner.group.is_some() { mode | 0o2000 } else { mode };
    if let Some(group) = owner.group {
        std::os::unix::fs::chown(path, None, Some(group)).map_err(|e| VolumeError::io("changing the group of", path, e))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|e| VolumeError::io("setting permissions of", path, e))
}

fn host_path(host: &HostPathVolumeSource) -> Result<(), VolumeError> {
    let path = Path::new(&host.path);
    let wrong = |what: &str| Err(VolumeError::HostPath(format!("{} is not {what}", host.path)));
    let found = fs::metadata(path).ok().map(|m| m.file_type());
    match host.type_.as_deref().unwrap_or_default() {
        "DirectoryOrCreate" if found.is_none() => make_dir(path, 0o755),
        "FileOrCreate" if found.is_none() => {
            let file = fs::OpenOptions::new().append(true).create(true).open(path);
            let set = file.and_then(|f| f.set_permissions(fs::Permissions::from_mode(0o644)));
            set.map_err(|e| VolumeError::io("creating", path, e))
        }
        "Directory" | "DirectoryOrCreate" if !found.is_some_and(|t| t.is_dir()) => wrong("a directory"),
        "File" | "FileOrCreate" if !found.is_some_and(|t| t.is_file()) => wrong("a file"),
        "Socket" if !found.is_some_and(|t| t.is_socket()) => wrong("a socket file"),
        "CharDevice" if !found.is_some_and(|t| t.is_char_device()) => wrong("a character device"),
        "BlockDevice" if !found.is_some_and(|t| t.is_block_device()) => wrong("a block device"),
        _ => Ok(()),
    }
}

/// Mount points at or below `dir`, deepest last as the kernel lists them.
fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let dir = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|path| PathBuf::from(unescape(path)))
        .filter(|path| path.starts_with(&dir))
        .collect()
}

/// `\040` and the like in mountinfo.
fn unescape(path: &str) -> String {
    let mut out = Vec::with_capacity(path.len());
    let bytes = path.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        let octal = bytes.get(i + 1..i + 4).filter(|_| bytes[i] == b'\\');
        match octal.and_then(|o| std::str::from_utf8(o).ok()).and_then(|o| u8::from_str_radix(o, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                i += 4;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Whether something is mounted exactly there.
pub fn is_mount_point(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |p: &Path| fs::symlink_metadata(p).map(|m| (m.dev(), m.is_dir())).ok();
    match (device(path), path.parent().and_then(device)) {
        (Some((own, true)), Some((parent, _))) if own != parent => true,
        (Some(_), _) => mounts_below(path).iter().any(|m| m == path),
        _ => false,
    }
}

fn unmount_below(dir: &Path) -> Result<(), VolumeError> {
    for mount in mounts_below(dir).iter().rev() {
        let gently = umount2(mount, MntFlags::UMOUNT_NOFOLLOW);
        // Busy: something still has it open; detached, it goes as soon as that ends.
        let done = gently.or_else(|_| umount2(mount, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH));
        done.map_err(|e| VolumeError::io("unmounting", mount, e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_paths_are_unescaped() {
        assert_eq!(unescape(r"/a\040b\134c"), r"/a b\c");
    }

    #[test]
    fn memory_volumes_are_no_larger_than_their_pod() {
        let size = |limits: serde_json::Value, limit: Option<&str>| {
            let containers = limits.as_array().unwrap().iter().map(|l| serde_json::json!({"name": "c", "resources": l}));
            let spec = serde_json::json!({"spec": {"containers": containers.collect::<Vec<_>>()}});
            let empty = serde_json::json!({"medium": "Memory", "sizeLimit": limit});
            memory_size(&serde_json::from_value(spec).unwrap(), &serde_json::from_value(empty).unwrap(), 4096)
        };
        let limited = serde_json::json!([{"limits": {"memory": "1000"}}, {"limits": {"memory": "500"}}]);
        let half = serde_json::json!([{"limits": {"memory": "1000"}}, {}]);
        let got = [
            size(limited.clone(), None),
            size(limited.clone(), Some("700")),
            size(limited, Some("9000")),
            size(half.clone(), None),
            size(half, Some("5000")),
        ];
        assert_eq!(got, [1500, 700, 1500, 4096, 4096]);
    }

    #[test]
    fn host_path_checks() {
        let dir = tempfile::tempdir().unwrap();
        let check = |name: &str, kind: &str| {
            let path = dir.path().join(name).display().to_string();
            host_path(&HostPathVolumeSource { path, type_: Some(kind.to_owned()) }).map_err(|e| e.to_string())
        };
        assert_eq!(check("d", "DirectoryOrCreate"), Ok(()));
        assert_eq!(check("f", "FileOrCreate"), Ok(()));
        assert_eq!(check("d", "Directory"), Ok(()));
        let f = dir.path().join("f");
        assert_eq!(check("f", "Directory"), Err(format!("hostPath type check failed: {} is not a directory", f.display())));
        assert!(check("none", "Socket").is_err());
        assert_eq!(check("none", ""), Ok(()));
    }
}
