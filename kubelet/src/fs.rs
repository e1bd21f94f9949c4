//! Small file helpers.

use std::{fs::File, io::Read, path::Path};

/// At most the first `bytes` of a file; nothing if it cannot be read. Never follows a symlink in the last component: the
/// file may have been made by a container.
pub fn read_head(path: &Path, bytes: usize) -> Vec<u8> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK;
    let file: Option<File> = std::fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(path).ok();
    let mut head = Vec::new();
    if let Some(file) = file.filter(|f| f.metadata().is_ok_and(|m| m.is_file())) {
        // A short read is as good as none here.
        let _ = file.take(bytes as u64).read_to_end(&mut head);
    }
    head
}
