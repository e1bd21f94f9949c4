//! What the node and its pods use: read from the kernel, the runtime and the disk when somebody asks.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
};

use cri::v1;
use k8s_openapi::api::core::v1::Pod;
use process::tree::{Size, size};

use super::{
    decide::{Levels, Usage},
    signals::{Level, Signal},
};
use crate::{
    node::facts,
    pod::{record::keys, spec},
    shared::Ctx,
};

/// How much of everything there is. `images` is a path on the runtime's file system.
pub fn levels(root: &Path, images: &Path) -> Levels {
    let memory = Level { capacity: facts::memory(), available: facts::memory_available() };
    let mut levels: Levels = [(Signal::Memory, memory)].into();
    levels.extend(processes().map(|level| (Signal::Pid, level)));
    for (path, bytes, inodes) in
        [(root, Signal::Nodefs, Signal::NodefsInodes), (images, Signal::Imagefs, Signal::ImagefsInodes)]
    {
        let Some((space, files)) = file_system(path) else { continue };
        levels.insert(bytes, space);
        // File systems that make inodes as they need them say that they have none.
        if files.capacity > 0 {
            levels.insert(inodes, files);
        }
    }
    levels
}

/// (bytes, inodes) of the file system that holds `path`.
pub fn file_system(path: &Path) -> Option<(Level, Level)> {
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let bytes = |blocks: u64| number(blocks.saturating_mul(stat.fragment_size()));
    let space = Level { capacity: bytes(stat.blocks()), available: bytes(stat.blocks_available()) };
    (space.capacity > 0)
        .then_some((space, Level { capacity: number(stat.files()), available: number(stat.files_available()) }))
}

fn processes() -> Option<Level> {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<i64>().ok();
    let capacity = number("/proc/sys/kernel/pid_max")?.min(number("/proc/sys/kernel/threads-max").unwrap_or(i64::MAX));
    let load = fs::read_to_string("/proc/loadavg").ok()?;
    let running: i64 = load.split(' ').nth(3)?.split_once('/')?.1.parse().ok()?;
    Some(Level { capacity, available: capacity - running })
}

/// What pods use, by UID; disks are only searched for pods that `on_disk` names.
pub async fn of_pods(ctx: &Ctx, pods: &[Pod], on_disk: impl Fn(&Pod) -> bool) -> HashMap<String, Usage> {
    let stats = match ctx.runtime.container_stats().await {
        Ok(stats) => stats,
        Err(error) => {
            tracing::warn!(%error, "the runtime has no statistics");
            return HashMap::new();
        }
    };
    let mut all: HashMap<String, Usage> = pods.iter().map(|pod| (spec::uid(pod), Usage::default())).collect();
    for one in &stats {
        add(&mut all, one);
    }
    let searched: Vec<(String, Places)> =
        pods.iter().filter(|pod| on_disk(pod)).map(|pod| (spec::uid(pod), Places::of(ctx, pod))).collect();
    let search = move || searched.into_iter().map(|(uid, places)| (uid, places.measure())).collect::<Vec<_>>();
    for (uid, found) in tokio::task::spawn_blocking(search).await.unwrap_or_default() {
        let usage = all.entry(uid).or_default();
        for (name, size) in found.logs {
            usage.containers.entry(name).or_default().1 += size.bytes;
            usage.inodes += size.inodes;
        }
        for (name, size) in found.volumes {
            usage.volumes.insert(name, size.bytes);
            usage.inodes += size.inodes;
        }
    }
    all
}

fn add(all: &mut HashMap<String, Usage>, stats: &v1::ContainerStats) {
    let Some(attributes) = &stats.attributes else { return };
    let label = |key: &str| attributes.labels.get(key).cloned().unwrap_or_default();
    let Some(usage) = all.get_mut(&label(keys::POD_UID)) else { return };
    let number = |value: Option<&v1::UInt64Value>| value.map_or(0, |v| i64::try_from(v.value).unwrap_or(i64::MAX));
    let layer = stats.writable_layer.as_ref();
    let container = usage.containers.entry(label(keys::CONTAINER_NAME)).or_default();
    container.0 += number(stats.memory.as_ref().and_then(|m| m.working_set_bytes.as_ref()));
    container.1 += number(layer.and_then(|l| l.used_bytes.as_ref()));
    usage.inodes += number(layer.and_then(|l| l.inodes_used.as_ref()));
}

/// Processes of pods, by UID.
pub async fn processes_of(ctx: &Ctx, pods: &[Pod]) -> HashMap<String, i64> {
    let uids: Vec<String> = pods.iter().map(spec::uid).collect();
    let ctx = ctx.clone();
    let count = move || uids.into_iter().map(|uid| (uid.clone(), ctx.cgroups.processes(&uid))).collect();
    tokio::task::spawn_blocking(count).await.unwrap_or_default()
}

/// Where a pod's things lie on the kubelet's disk.
struct Places {
    logs: Vec<(String, PathBuf)>,
    volumes: Vec<(String, PathBuf)>,
}

struct Measured {
    logs: Vec<(String, Size)>,
    volumes: Vec<(String, Size)>,
}

impl Places {
    fn of(ctx: &Ctx, pod: &Pod) -> Self {
        let logs = ctx.log_dir(pod);
        let names = spec::members(pod).into_iter().map(|m| m.container.name);
        let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
        // What lies in memory is counted there.
        let on_disk = volumes.filter(|v| v.empty_dir.as_ref().is_some_and(|e| e.medium.as_deref().unwrap_or("").is_empty()));
        Self {
            logs: names.map(|name| (name.clone(), logs.join(name))).collect(),
            volumes: on_disk.map(|v| (v.name.clone(), ctx.volumes.path(&spec::uid(pod), v))).collect(),
        }
    }

    fn measure(self) -> Measured {
        let all = |list: Vec<(String, PathBuf)>| list.into_iter().map(|(name, path)| (name, size(&path))).collect();
        Measured { logs: all(self.logs), volumes: all(self.volumes) }
    }
}

/// What a volume that the kubelet made holds, and the file system that it is on.
#[derive(Clone, Debug)]
pub struct OfVolume {
    /// Its name in the pod.
    pub name: String,
    /// What it holds.
    pub held: Size,
    /// The file system's bytes.
    pub space: Level,
    /// The file system's inodes.
    pub inodes: Level,
}

/// The volumes of pods, by UID. Those that are not on this node's disk or in its memory, and the host's, are left out.
pub async fn of_volumes(ctx: &Ctx, pods: Vec<Pod>) -> HashMap<String, Vec<OfVolume>> {
    let ctx = ctx.clone();
    let of_pod = move |pod: &Pod| -> Vec<OfVolume> {
        let all = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let own = all.filter(|v| {
            let data = v.config_map.is_some() || v.secret.is_some() || v.projected.is_some() || v.downward_api.is_some();
            data || v.empty_dir.is_some()
        });
        let measured = own.filter_map(|volume| {
            let path = ctx.volumes.path(&spec::uid(pod), volume);
            let (space, inodes) = file_system(&path)?;
            Some(OfVolume { name: volume.name.clone(), held: size(&path), space, inodes })
        });
        measured.collect()
    };
    let search = move || pods.iter().map(|pod| (spec::uid(pod), of_pod(pod))).collect();
    tokio::task::spawn_blocking(search).await.unwrap_or_default()
}

/// Sums by container, for those who compare.
pub fn by_pod(pods: Vec<Pod>, mut usage: HashMap<String, Usage>, processes: &HashMap<String, i64>) -> Vec<(Pod, Usage)> {
    let with = |pod: Pod| {
        let uid = spec::uid(&pod);
        let mut used = usage.remove(&uid).unwrap_or(Usage { containers: BTreeMap::new(), ..Usage::default() });
        used.processes = processes.get(&uid).copied().unwrap_or(0);
        (pod, used)
    };
    pods.into_iter().map(with).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_levels() {
        let levels = levels(Path::new("/"), Path::new("/"));
        assert!(
            [Signal::Memory, Signal::Nodefs, Signal::Pid].iter().all(|signal| levels.contains_key(signal)),
            "{levels:?}"
        );
        assert!(levels.values().all(|level| level.available <= level.capacity));
    }
}
