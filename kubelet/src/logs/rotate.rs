//! Keeps containers' logs small: a log beyond its size is moved aside, the runtime opens a new one, the oldest go. Those moved
//! aside are compressed but for the newest, which whoever collects logs may still be reading (and the runtime still writing).
//! A compressed file keeps the time of its last line: by that a reader finds where it was.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::shared::Ctx;

/// How often sizes are looked at.
const EVERY: Duration = Duration::from_secs(10);

/// Rotates until `shutdown`.
pub async fn run(ctx: Ctx, shutdown: CancellationToken) {
    let work = async {
        loop {
            tokio::time::sleep(EVERY).await;
            look(&ctx).await;
        }
    };
    shutdown.run_until_cancelled(work).await;
}

async fn look(ctx: &Ctx) {
    let (limit, files) = (ctx.config.container_log_max_size, ctx.config.container_log_max_files as usize);
    for path in large(&ctx.config.pod_logs_dir, limit) {
        let containers = ctx.runtime.containers(None).await.unwrap_or_default();
        let running = containers.iter().filter(|c| c.state() == cri::v1::ContainerState::ContainerRunning);
        for container in running {
            let Ok(status) = ctx.runtime.container_status(&container.id).await else { continue };
            if Path::new(&status.log_path) != path {
                continue;
            }
            let log = path.clone();
            let moved = tokio::task::spawn_blocking(move || aside(&log, files, Timestamp::now())).await;
            let moved = match moved.unwrap_or_else(|error| Err(io::Error::other(error))) {
                Ok(moved) => moved,
                Err(error) => {
                    tracing::warn!(log = %path.display(), %error, "log not rotated");
                    continue;
                }
            };
            if let Err(error) = ctx.runtime.reopen_log(&container.id).await {
                tracing::warn!(log = %path.display(), %error, "the runtime did not open the new log");
                // Back to where the runtime still writes.
                if let Err(error) = fs::rename(&moved, &path) {
                    tracing::warn!(log = %path.display(), %error, "log not moved back");
                }
            }
        }
    }
}

/// Current logs (`N.log`) at or beyond the limit: `DIR/POD/CONTAINER/N.log`.
fn large(dir: &Path, limit: u64) -> Vec<PathBuf> {
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect::<Vec<_>>();
    let containers = entries(dir).into_iter().flat_map(|pod| entries(&pod));
    let logs = containers.flat_map(|container| entries(&container));
    logs.filter(|l| l.extension().is_some_and(|e| e == "log"))
        .filter(|l| fs::metadata(l).is_ok_and(|m| m.len() >= limit))
        .collect()
}

/// What a compressed log ends in.
const PACKED: &str = "gz";
/// What one ends in that is being written.
const UNFINISHED: &str = "tmp";

/// Whether a file that was moved aside is compressed.
pub fn is_packed(path: &Path) -> bool {
    path.extension() == Some(OsStr::new(PACKED))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

/// All files `PATH.*`, by name.
fn beside(path: &Path) -> io::Result<Vec<PathBuf>> {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let mut all: Vec<PathBuf> = fs::read_dir(path.parent().unwrap_or(Path::new("/")))?
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.file_name().and_then(|n| n.to_str()?.strip_prefix(name)).is_some_and(|rest| rest.starts_with('.')))
        .collect();
    all.sort();
    Ok(all)
}

/// What was moved aside of a log, the oldest first.
pub fn rotated(path: &Path) -> io::Result<Vec<PathBuf>> {
    let all = beside(path)?;
    let counts = |p: &&PathBuf| p.extension() != Some(OsStr::new(UNFINISHED)) && !all.contains(&with_suffix(p, PACKED));
    Ok(all.iter().filter(counts).cloned().collect())
}

/// Removes a log with all that was moved aside of it.
pub fn remove(path: &Path) {
    for file in beside(path).unwrap_or_default().iter().map(PathBuf::as_path).chain([path]) {
        // The log may never have been made.
        let _ = fs::remove_file(file);
    }
}

/// Moves the log aside, so that with the new one at most `files` are there.
fn aside(path: &Path, files: usize, now: Timestamp) -> io::Result<PathBuf> {
    make_room(path, files.saturating_sub(2))?;
    let moved = with_suffix(path, &now.strftime("%Y%m%d-%H%M%S").to_string());
    fs::rename(path, &moved)?;
    Ok(moved)
}

/// Leaves so many of those that were moved aside, compressed.
pub(super) fn make_room(path: &Path, keep: usize) -> io::Result<()> {
    let old = rotated(path)?;
    // What an earlier try that was broken off has left.
    for broken in beside(path)?.iter().filter(|file| !old.contains(file)) {
        fs::remove_file(broken)?;
    }
    let (gone, kept) = old.split_at(old.len().saturating_sub(keep));
    for file in gone {
        fs::remove_file(file)?;
    }
    kept.iter().filter(|file| !is_packed(file)).try_for_each(|file| pack(file))
}

fn pack(path: &Path) -> io::Result<()> {
    let mut plain = fs::File::open(path)?;
    let unfinished = with_suffix(path, UNFINISHED);
    let mut packer = flate2::write::GzEncoder::new(fs::File::create(&unfinished)?, flate2::Compression::default());
    io::copy(&mut plain, &mut packer)?;
    let mut packed = packer.finish()?;
    packed.flush()?;
    let metadata = plain.metadata()?;
    packed.set_permissions(metadata.permissions())?;
    packed.set_modified(metadata.modified()?)?;
    fs::rename(&unfinished, with_suffix(path, PACKED))?;
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_so_many_files_stay() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("pod/c/0.log");
        fs::create_dir_all(log.parent().unwrap()).unwrap();
        for i in 0..6 {
            fs::write(&log, "0123456789").unwrap();
            assert_eq!(large(dir.path(), 5), std::slice::from_ref(&log));
            aside(&log, 3, Timestamp::from_second(1_000_000 + i).unwrap()).unwrap();
        }
        let names = || -> Vec<String> {
            let mut names: Vec<_> = fs::read_dir(log.parent().unwrap())
                .unwrap()
                .map(|e| e.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        assert_eq!(names(), ["0.log.19700112-134644.gz", "0.log.19700112-134645"]);
        assert!(large(dir.path(), 5).is_empty());

        // What a rotation that was broken off leaves does not count, and is cleared away.
        fs::write(&log, "last").unwrap();
        for left in ["0.log.19700112-134644", "0.log.19700112-134645.tmp"] {
            fs::write(log.with_file_name(left), "half").unwrap();
        }
        assert_eq!(rotated(&log).unwrap().len(), 2);
        aside(&log, 4, Timestamp::from_second(1_000_006).unwrap()).unwrap();
        let expected = ["0.log.19700112-134644.gz", "0.log.19700112-134645.gz", "0.log.19700112-134646"];
        assert_eq!(names(), expected);
        let mut text = String::new();
        let packed = fs::File::open(log.with_file_name(expected[1])).unwrap();
        io::Read::read_to_string(&mut flate2::read::GzDecoder::new(packed), &mut text).unwrap();
        assert_eq!(text, "0123456789");

        remove(&log);
        assert!(names().is_empty());
    }
}
