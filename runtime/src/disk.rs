//! Where state lies, and files that are there whole or not at all.
//!
//! ```text
//! STATE/sandboxes/ID/    config.pb state.json resolv.conf hostname hosts shim.sock shim.log
//! STATE/containers/ID/   config.pb state.json exit upper/ work/
//! STATE/images/          records/HEX.json blobs/HEX chains/HEX.json layers/NUMBER/ new/
//! ```
//!
//! A file is written beside its name and renamed. It is not synced: after a power cut no process described here is alive, the
//! records that are broken then describe nothing, and are removed at the next start. (Images are: whoever installs one syncs it.)

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Serialize, de::DeserializeOwned};

use crate::error::{Result, Step};

/// The layout below the state directory.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The state directory.
    pub root: PathBuf,
}

impl Layout {
    /// Of all sandboxes.
    pub fn sandboxes(&self) -> PathBuf {
        self.root.join("sandboxes")
    }
    /// Of all containers.
    pub fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }
    /// A sandbox's.
    pub fn sandbox(&self, id: &str) -> PathBuf {
        self.sandboxes().join(id)
    }
    /// A container's.
    pub fn container(&self, id: &str) -> PathBuf {
        self.containers().join(id)
    }
    /// The images'.
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }
}

/// Makes a directory that only root enters, and its parents: below lie set-user-ID programs of images and containers, which
/// must be out of reach for the node's other users.
pub fn make_dir(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path)
        .step_with(|| format!("make directory {}", path.display()))
}

/// Replaces a file in one step.
pub fn write(path: &Path, content: &[u8]) -> Result<()> {
    write_mode(path, content, 0o600)
}

/// Replaces a file in one step, with these permissions.
pub fn write_mode(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let temporary = path.with_extension("new");
    let put = || {
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        file.write_all(content)?;
        std::fs::rename(&temporary, path)
    };
    put().step_with(|| format!("write {}", path.display()))
}

/// Replaces a JSON file in one step.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    write(path, &serde_json::to_vec(value).step("encode state")?)
}

/// Reads a JSON file.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let content = std::fs::read(path).step_with(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&content).step_with(|| format!("decode {}", path.display()))
}

/// Removes a directory with all that is in it; an absent one is fine.
pub fn remove_dir(path: &Path) -> Result<()> {
    match process::tree::remove(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).step_with(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Names of the entries of a directory; none if it is absent.
pub fn names(path: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// A new ID: 64 hexadecimal digits, as other runtimes have them.
pub fn new_id() -> String {
    [uuid::Uuid::new_v4(), uuid::Uuid::new_v4()].map(|id| id.simple().to_string()).concat()
}
