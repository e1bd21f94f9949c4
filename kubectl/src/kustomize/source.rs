//! The edge: files and folders, which are read from inside of a kustomization's own folder only.

use std::path::{Path, PathBuf};

use crate::{failure::go_io, resources::cleaned};

/// What a kustomization's file may be called.
pub const NAMES: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];

/// A folder with a kustomization.
#[derive(Clone, Debug)]
pub struct Folder {
    /// Without links and detours.
    pub root: PathBuf,
    /// The folders that led here, the nearest last.
    above: Vec<PathBuf>,
    /// Whether files outside of it are refused (`--load-restrictor`).
    restricted: bool,
}

/// The path behind links; the error says which part of it is not there.
fn resolve(path: &Path, told: &str) -> Result<PathBuf, String> {
    let path = cleaned(path);
    let mut real = PathBuf::new();
    for part in path.components() {
        let next = real.join(part);
        real = std::fs::symlink_metadata(&next)
            .and_then(|_| next.canonicalize())
            .map_err(|e| format!("evalsymlink failure on '{told}' : lstat {}: {}", next.display(), go_io(&e)))?;
    }
    Ok(real)
}

/// A path's folder, links followed.
fn directory(path: &Path, told: &str) -> Result<PathBuf, String> {
    let real = resolve(path, told).map_err(|e| format!("must build at directory: not a valid directory: {e}"))?;
    if real.is_dir() { Ok(real) } else { Err(format!("must build at directory: '{told}': file is not directory")) }
}

/// What would have to be fetched from elsewhere.
fn is_remote(path: &str) -> bool {
    let hosts = ["github.com/", "github.com:", "gh:", "git::", "git@", "org-"];
    path.contains("://") || path.contains("?ref=") || path.contains(".git/") || hosts.iter().any(|h| path.starts_with(h))
}

impl Folder {
    /// The folder that a build begins with.
    ///
    /// # Errors
    /// It is not there.
    pub fn open(path: &str, restricted: bool) -> Result<Self, String> {
        if is_remote(path) {
            return Err(format!("kustomizations are not fetched by this kubectl: '{path}'; fetch it first"));
        }
        if path.is_empty() {
            return Err("must build at directory: directory path cannot be empty".to_owned());
        }
        let here = std::env::current_dir().map_err(|e| format!("abs path error on '{path}' : {e}"))?;
        Ok(Self { root: directory(&here.join(path), path)?, above: Vec::new(), restricted })
    }

    /// A folder that a kustomization here names.
    ///
    /// # Errors
    /// It is not there, absolute, or one that led here.
    pub fn enter(&self, path: &str) -> Result<Self, String> {
        if path.is_empty() {
            return Err("new root cannot be empty".to_owned());
        }
        if is_remote(path) {
            return Err(format!("bases are not fetched by this kubectl: '{path}'; fetch it first"));
        }
        if path.starts_with('/') {
            return Err(format!("new root '{path}' cannot be absolute"));
        }
        let path = cleaned(&self.root.join(path));
        let root = directory(&path, &path.display().to_string())?;
        let mut visited = std::iter::once(&self.root).chain(self.above.iter().rev());
        if let Some(visited) = visited.find(|visited| visited.starts_with(&root)) {
            return Err(format!(
                "cycle detected: candidate root '{}' contains visited root '{}'",
                root.display(),
                visited.display()
            ));
        }
        let mut above = self.above.clone();
        above.push(self.root.clone());
        Ok(Self { root, above, restricted: self.restricted })
    }

    /// A file's content.
    ///
    /// # Errors
    /// It is not there, is no file, or lies outside.
    pub fn load(&self, path: &str) -> Result<Vec<u8>, String> {
        if path.starts_with("http://") || path.starts_with("https://") {
            return Err(format!("files are not fetched by this kubectl: '{path}'; fetch it first"));
        }
        let joined = self.root.join(path);
        let path = if path.starts_with('/') { joined } else { cleaned(&joined) };
        let told = path.display().to_string();
        let real = if self.restricted { self.within(&path, &told)? } else { path };
        std::fs::read(&real).map_err(|e| {
            let doing = if real.is_dir() { "read" } else { "open" };
            format!("{doing} {}: {}", real.display(), go_io(&e))
        })
    }

    /// A file's real path, which is in or below this folder.
    fn within(&self, path: &Path, told: &str) -> Result<PathBuf, String> {
        let real = resolve(path, told)?;
        if real.is_dir() {
            return Err(format!("'{told}' must resolve to a file"));
        }
        if !real.starts_with(&self.root) {
            return Err(format!("security; file '{told}' is not in or below '{}'", self.root.display()));
        }
        Ok(real)
    }

    /// A text file's content.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn text(&self, path: &str) -> Result<String, String> {
        self.load(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The kustomization's name and text.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub fn kustomization(&self) -> Result<(&'static str, String), String> {
        let read = |name: &&'static str| self.text(name).ok().map(|text| (*name, text));
        let mut found: Vec<_> = NAMES.iter().filter_map(read).collect();
        match (found.pop(), found.is_empty()) {
            (Some(found), true) => Ok(found),
            (Some(_), false) => Err(format!("Found multiple kustomization files under: {}\n", self.root.display())),
            (None, _) => Err(format!(
                "unable to find one of 'kustomization.yaml', 'kustomization.yml' or 'Kustomization' in directory '{}'",
                self.root.display()
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_is_read() {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("secret"), "s").unwrap();
        std::fs::write(root.join("a/file"), "f").unwrap();
        std::os::unix::fs::symlink("../secret", root.join("a/link")).unwrap();
        std::os::unix::fs::symlink("..", root.join("a/up")).unwrap();
        let folder = Folder::open(root.join("a").to_str().unwrap(), true).unwrap();
        assert_eq!(folder.load("file"), Ok(b"f".to_vec()));
        assert_eq!(folder.load("b/../file"), Ok(b"f".to_vec()));
        for path in ["../secret", "link", "up/secret", root.join("secret").to_str().unwrap()] {
            assert!(folder.load(path).unwrap_err().starts_with("security; file '"), "{path}");
        }
        assert!(folder.load("b").unwrap_err().ends_with("must resolve to a file"));
        assert!(folder.load("https://example.com/a").is_err());
        assert!(folder.enter("up").unwrap_err().starts_with("cycle detected: "));
        assert!(folder.enter("b").unwrap().enter("..").unwrap_err().starts_with("cycle detected: "));
        assert!(folder.enter("/etc").unwrap_err().ends_with("cannot be absolute"));
        assert!(folder.enter("github.com/a/b").is_err());
        let open = Folder { restricted: false, ..folder };
        assert_eq!(open.load("../secret"), Ok(b"s".to_vec()));
    }
}
