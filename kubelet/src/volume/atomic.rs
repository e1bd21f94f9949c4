//! Writes a volume's files so that a reader sees all of the old ones or all of the new ones.
//!
//! ```text
//! VOLUME/..2026_11_21_02_00_00.123456789/a/b   the files
//! VOLUME/..data -> ..2026_11_21_02_00_00.123456789   swapped by rename
//! VOLUME/a -> ..data/a                               what containers open
//! ```

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown, symlink},
    path::Path,
};

use jiff::Timestamp;

use super::{
    Owner, VolumeError,
    payload::{File, Payload},
};

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// Brings the volume at `dir` to exactly `payload`.
pub fn write(dir: &Path, payload: &Payload, owner: Owner) -> Result<(), VolumeError> {
    let payload = &owned(payload, owner);
    let old = fs::read_link(dir.join(DATA)).ok();
    if old.as_ref().is_some_and(|old| same(&dir.join(old), payload)) && links_are_right(dir, payload) {
        return Ok(());
    }
    let stamp = Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S.%N").to_string();
    let new = dir.join(&stamp);
    fill(&new, payload, owner)?;
    let temporary = dir.join(DATA_NEW);
    remove_if_there(&temporary)?;
    symlink(&stamp, &temporary).map_err(|e| VolumeError::io("linking", &temporary, e))?;
    fs::rename(&temporary, dir.join(DATA)).map_err(|e| VolumeError::io("renaming", &temporary, e))?;
    link(dir, payload)?;
    sweep(dir, payload, &stamp)
}

/// With a group that reads the volume, files are readable by it.
fn owned(payload: &Payload, owner: Owner) -> Payload {
    let widen = |f: &File| File { mode: if owner.group.is_some() { f.mode | 0o440 } else { f.mode }, ..f.clone() };
    payload.iter().map(|(p, f)| (p.clone(), widen(f))).collect()
}

fn tops(payload: &Payload) -> BTreeSet<&str> {
    payload.keys().filter_map(|p| p.split('/').next()).collect()
}

fn same(dir: &Path, payload: &Payload) -> bool {
    let equal = |(path, file): (&String, &File)| {
        let path = dir.join(path);
        fs::read(&path).is_ok_and(|data| data == file.data)
            && fs::metadata(&path).is_ok_and(|m| m.permissions().mode() & 0o777 == file.mode)
    };
    payload.iter().all(equal) && count(dir) == payload.len()
}

fn count(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| if e.file_type().is_ok_and(|t| t.is_dir()) { count(&e.path()) } else { 1 }).sum()
}

fn links_are_right(dir: &Path, payload: &Payload) -> bool {
    tops(payload).iter().all(|top| fs::read_link(dir.join(top)).is_ok_and(|to| to == Path::new(DATA).join(top)))
}

fn fill(dir: &Path, payload: &Payload, owner: Owner) -> Result<(), VolumeError> {
    let make = |path: &Path| -> Result<(), VolumeError> {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(|e| VolumeError::io("making", path, e))?;
        let mode = if owner.group.is_some() { 0o2755 } else { 0o755 };
        give(path, None, owner.group, mode)
    };
    make(dir)?;
    for (path, file) in payload {
        let target = dir.join(path);
        let mut parent = dir.to_owned();
        for part in Path::new(path).parent().into_iter().flat_map(Path::components) {
            parent.push(part);
            make(&parent)?;
        }
        let written = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&target)
            .and_then(|mut f| io::Write::write_all(&mut f, &file.data));
        written.map_err(|e| VolumeError::io("writing", &target, e))?;
        give(&target, file.user, owner.group, file.mode)?;
    }
    Ok(())
}

fn give(path: &Path, user: Option<u32>, group: Option<u32>, mode: u32) -> Result<(), VolumeError> {
    if user.is_some() || group.is_some() {
        chown(path, user, group).map_err(|e| VolumeError::io("changing the owner of", path, e))?;
    }
    let set = fs::set_permissions(path, fs::Permissions::from_mode(mode));
    set.map_err(|e| VolumeError::io("setting permissions of", path, e))
}

fn link(dir: &Path, payload: &Payload) -> Result<(), VolumeError> {
    for top in tops(payload) {
        let (link, to) = (dir.join(top), Path::new(DATA).join(top));
        if fs::read_link(&link).is_ok_and(|old| old == to) {
            continue;
        }
        remove_if_there(&link)?;
        symlink(&to, &link).map_err(|e| VolumeError::io("linking", &link, e))?;
    }
    Ok(())
}

/// Removes links of files that are gone and older data directories.
fn sweep(dir: &Path, payload: &Payload, current: &str) -> Result<(), VolumeError> {
    let keep = tops(payload);
    for entry in fs::read_dir(dir).map_err(|e| VolumeError::io("reading", dir, e))?.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if *name == *DATA || *name == *current || keep.contains(&*name) {
            continue;
        }
        remove_if_there(&entry.path())?;
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> Result<(), VolumeError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(m) if m.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => Ok(()),
    };
    removed.map_err(|e| VolumeError::io("removing", path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        files.iter().map(|(p, d)| ((*p).to_owned(), File { data: d.as_bytes().to_vec(), mode: 0o640, user: None })).collect()
    }

    /// Every visible file with its contents, through the links.
    fn seen(dir: &Path) -> Vec<String> {
        let mut out = Vec::new();
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            if name.starts_with("..") {
                continue;
            }
            match fs::metadata(entry.path()).unwrap().is_dir() {
                true => out.extend(seen(&entry.path()).into_iter().map(|f| format!("{name}/{f}"))),
                false => out.push(format!("{name}={}", fs::read_to_string(entry.path()).unwrap())),
            }
        }
        out.sort();
        out
    }

    #[test]
    fn updates_swap_everything_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let put = |files: &[(&str, &str)]| write(dir.path(), &payload(files), Owner::default()).unwrap();
        let data = || fs::read_link(dir.path().join(DATA)).unwrap();
        put(&[("a", "1"), ("d/x", "2")]);
        assert_eq!(seen(dir.path()), ["a=1", "d/x=2"]);
        let first = data();
        put(&[("a", "1"), ("d/x", "2")]);
        assert_eq!(data(), first, "nothing changed, nothing is written");
        put(&[("a", "3"), ("d/y", "4")]);
        assert_eq!(seen(dir.path()), ["a=3", "d/y=4"]);
        assert!(!dir.path().join(first).exists());
        put(&[]);
        assert_eq!(seen(dir.path()), Vec::<String>::new());
    }
}
