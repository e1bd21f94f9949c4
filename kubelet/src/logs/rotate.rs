//! Keeps containers' logs small: a log beyond its size is moved aside, the runtime opens a new one, the oldest go.

use std::{
    fs, io,
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
            let moved = match aside(&path, files, Timestamp::now()) {
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

/// Current logs (`N.log`) beyond the limit: `DIR/POD/CONTAINER/N.log`.
fn large(dir: &Path, limit: u64) -> Vec<PathBuf> {
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect::<Vec<_>>();
    let containers = entries(dir).into_iter().flat_map(|pod| entries(&pod));
    let logs = containers.flat_map(|container| entries(&container));
    logs.filter(|l| l.extension().is_some_and(|e| e == "log"))
        .filter(|l| fs::metadata(l).is_ok_and(|m| m.len() > limit))
        .collect()
}

/// What was moved aside of a log, the oldest first.
pub fn rotated(path: &Path) -> io::Result<Vec<PathBuf>> {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let mut old: Vec<PathBuf> = fs::read_dir(path.parent().unwrap_or(Path::new("/")))?
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.file_name().and_then(|n| n.to_str()?.strip_prefix(name)).is_some_and(|rest| rest.starts_with('.')))
        .collect();
    old.sort();
    Ok(old)
}

/// Moves the log aside and removes the oldest, so that at most `files` are there with the new one.
fn aside(path: &Path, files: usize, now: Timestamp) -> io::Result<PathBuf> {
    let old = rotated(path)?;
    let keep = files.saturating_sub(2);
    for gone in &old[..old.len().saturating_sub(keep)] {
        fs::remove_file(gone)?;
    }
    let mut moved = path.as_os_str().to_owned();
    moved.push(format!(".{}", now.strftime("%Y%m%d-%H%M%S")));
    let moved = PathBuf::from(moved);
    fs::rename(path, &moved)?;
    Ok(moved)
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
        let mut names: Vec<_> =
            fs::read_dir(log.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["0.log.19700112-134644", "0.log.19700112-134645"]);
        assert!(large(dir.path(), 5).is_empty());
    }
}
