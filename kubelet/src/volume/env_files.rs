//! Reads what containers left in volumes for the environment of others. They may leave anything there: links that lead elsewhere,
//! pipes that nobody writes to, files without end.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    os::fd::OwnedFd,
    path::Path,
};

use k8s_openapi::api::core::v1::{Container, Pod};
use nix::{
    fcntl::{OFlag, ResolveFlag},
    sys::stat::Mode,
};
use process::inside;

use super::Volumes;
use crate::pod::{env::EnvFiles, env_file::EnvFile, spec};

/// More than any environment can hold.
const MOST: u64 = 4 << 20;

/// The files that a container's environment refers to, by volume and path. Those of volumes that the pod does not have are absent.
pub fn read(volumes: &Volumes, pod: &Pod, container: &Container) -> EnvFiles {
    let known = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let known: HashMap<&str, _> =
        known.map(|volume| (volume.name.as_str(), volumes.path(&spec::uid(pod), volume))).collect();
    let wanted = container.env.iter().flatten().filter_map(|var| var.value_from.as_ref()?.file_key_ref.as_ref());
    let found = wanted.filter_map(|file| {
        let volume = known.get(file.volume_name.as_str())?;
        let text = within(volume, &file.path).ok();
        let path = volume.join(&file.path).display().to_string();
        Some(((file.volume_name.clone(), file.path.clone()), EnvFile { path, text }))
    });
    found.collect()
}

/// The text of a file below `root`; links are followed as if `root` were `/`.
fn within(root: &Path, path: &str) -> io::Result<String> {
    let root: OwnedFd = nix::fcntl::open(root, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    let file = File::from(inside::open(&root, path, OFlag::O_RDONLY | OFlag::O_NONBLOCK, ResolveFlag::RESOLVE_IN_ROOT)?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("no file"));
    }
    let mut bytes = Vec::new();
    if file.take(MOST + 1).read_to_end(&mut bytes)? as u64 > MOST {
        return Err(io::Error::other("too large"));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn only_files_of_the_volume_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        fs::create_dir_all(volume.join("in")).unwrap();
        fs::write(dir.path().join("secret"), "outside").unwrap();
        fs::write(volume.join("secret"), "inside").unwrap();
        symlink("/secret", volume.join("absolute")).unwrap();
        symlink("../../../secret", volume.join("in/relative")).unwrap();
        nix::unistd::mkfifo(&volume.join("pipe"), Mode::S_IRWXU).unwrap();
        let read = ["secret", "absolute", "in/relative", "pipe", "in", "missing"].map(|path| within(&volume, path).ok());
        let inside = || Some("inside".to_owned());
        assert_eq!(read, [inside(), inside(), inside(), None, None, None]);
    }
}
