//! What this machine is: read once at start, except where noted.

use std::{fs, path::Path};

use k8s_openapi::api::core::v1::NodeSystemInfo;
use process::version;

use crate::pod::resources::Amounts;

/// Number of processors this process may use.
pub fn cpus() -> i64 {
    std::thread::available_parallelism().map_or(1, |n| i64::try_from(n.get()).unwrap_or(i64::MAX))
}

/// `MemTotal` in bytes.
pub fn memory() -> i64 {
    field("/proc/meminfo", "MemTotal:").map_or(0, |kib| kib * 1024)
}

/// `MemAvailable` in bytes; changes.
pub fn memory_available() -> i64 {
    field("/proc/meminfo", "MemAvailable:").map_or(0, |kib| kib * 1024)
}

/// `MemFree` in bytes; changes.
pub fn memory_free() -> i64 {
    field("/proc/meminfo", "MemFree:").map_or(0, |kib| kib * 1024)
}

/// Memory of processes that is no file's, in bytes; changes.
pub fn memory_anonymous() -> i64 {
    field("/proc/meminfo", "AnonPages:").map_or(0, |kib| kib * 1024)
}

/// When the machine was started, in seconds since 1970.
pub fn booted() -> i64 {
    field("/proc/stat", "btime ").unwrap_or(0)
}

fn field(path: &str, name: &str) -> Option<i64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|l| l.strip_prefix(name)).and_then(|l| l.split_whitespace().next()?.parse().ok())
}

/// Size and free bytes of the file system below `path`.
pub fn disk(path: &Path) -> (i64, i64) {
    let Ok(stat) = nix::sys::statvfs::statvfs(path) else { return (0, 0) };
    let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(stat.fragment_size())).unwrap_or(i64::MAX);
    (bytes(stat.blocks()), bytes(stat.blocks_available()))
}

/// Huge pages by size name (`2Mi`) in bytes.
fn hugepages() -> Vec<(String, i64)> {
    let entries = fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    let mut sizes: Vec<(String, i64)> = entries
        .filter_map(|e| {
            let kib: i64 = e.file_name().to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let count: i64 = fs::read_to_string(e.path().join("nr_hugepages")).ok()?.trim().parse().ok()?;
            let name = if kib % (1 << 20) == 0 { format!("{}Gi", kib >> 20) } else { format!("{}Mi", kib >> 10) };
            Some((format!("hugepages-{name}"), count * kib * 1024))
        })
        .collect();
    sizes.sort();
    sizes
}

/// What the node has, with plain amounts.
pub fn capacity(root_dir: &Path, max_pods: u32) -> Amounts {
    let mut amounts: Amounts = hugepages().into_iter().collect();
    amounts.insert("cpu".to_owned(), cpus() * 1000);
    amounts.insert("memory".to_owned(), memory());
    amounts.insert("ephemeral-storage".to_owned(), disk(root_dir).0);
    amounts.insert("pods".to_owned(), i64::from(max_pods));
    amounts
}

/// `status.nodeInfo`.
pub fn info(runtime_version: &str) -> NodeSystemInfo {
    let read = |path: &str| fs::read_to_string(path).map(|s| s.trim().to_owned()).unwrap_or_default();
    let uname = nix::sys::utsname::uname().ok();
    let release = read("/etc/os-release");
    let pretty = release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).map(|n| n.trim_matches('"').to_owned());
    let machine_id =
        Some(read("/etc/machine-id")).filter(|m| !m.is_empty()).unwrap_or_else(|| read("/var/lib/dbus/machine-id"));
    let system_uuid = Some(read("/sys/class/dmi/id/product_uuid")).filter(|u| !u.is_empty());
    NodeSystemInfo {
        architecture: version::architecture().to_owned(),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: runtime_version.to_owned(),
        kernel_version: uname.map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default(),
        kube_proxy_version: String::new(),
        kubelet_version: version::VERSION.to_owned(),
        operating_system: "linux".to_owned(),
        os_image: pretty.unwrap_or("Unknown".to_owned()),
        system_uuid: system_uuid.unwrap_or_else(|| machine_id.clone()),
        machine_id,
        swap: None,
    }
}
