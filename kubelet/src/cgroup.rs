//! The QoS tree: `ROOT/kubepods/{burstable,besteffort}/podUID`, as upstream's cgroupfs driver names it, on cgroup v1 and v2.
//!
//! Containers' own groups are the runtime's. Where a controller is missing or may not be written, the pod runs without that
//! limit: a kubelet inside a restricted container is still a kubelet.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::Pod;

use crate::pod::{
    resources::{self, Amounts, Qos},
    spec,
};

const V1_CONTROLLERS: &[&str] = &["cpu", "memory", "pids"];

/// Where the hierarchies are.
#[derive(Clone, Debug)]
pub struct Cgroups {
    mount: PathBuf,
    root: String,
    v2: bool,
    /// How many processes a pod may have.
    pids: Option<i64>,
}

impl Cgroups {
    /// Below `root` (`--cgroup-root`, `/` if empty) of the hierarchies at /sys/fs/cgroup. A pod may have `pids` processes, any
    /// number if that is negative.
    pub fn new(root: &str, pids: i64) -> Self {
        Self::at(Path::new("/sys/fs/cgroup"), root, pids)
    }

    fn at(mount: &Path, root: &str, pids: i64) -> Self {
        let v2 = mount.join("cgroup.controllers").exists();
        let pids = Some(pids).filter(|pids| *pids > 0);
        Self { mount: mount.to_owned(), root: root.trim_matches('/').to_owned(), v2, pids }
    }

    /// Whether controllers are in the unified hierarchy.
    pub fn is_v2(&self) -> bool {
        self.v2
    }

    fn base(&self) -> String {
        if self.root.is_empty() { "kubepods".to_owned() } else { format!("{}/kubepods", self.root) }
    }

    fn class(&self, qos: Qos) -> String {
        match qos {
            Qos::Guaranteed => self.base(),
            Qos::Burstable => format!("{}/burstable", self.base()),
            Qos::BestEffort => format!("{}/besteffort", self.base()),
        }
    }

    /// A pod's group, as CRI's `cgroup_parent`.
    pub fn pod(&self, pod: &Pod) -> String {
        format!("/{}/pod{}", self.class(resources::qos(pod)), spec::uid(pod))
    }

    /// Makes the tree's trunk.
    pub fn prepare(&self, allocatable_cpu: i64) {
        self.make(&self.base(), &[("cpu", resources::cpu_shares(allocatable_cpu))]);
        self.make(&self.class(Qos::Burstable), &[]);
        self.make(&self.class(Qos::BestEffort), &[("cpu", 2)]);
    }

    /// Gives the burstable class the share that its pods ask for.
    pub fn share(&self, burstable_cpu: i64) {
        self.set(&self.class(Qos::Burstable), "cpu", resources::cpu_shares(burstable_cpu));
    }

    /// Makes a pod's group with its requests and limits.
    pub fn make_pod(&self, pod: &Pod) {
        let request = resources::pod_requests(pod);
        let get = |a: &Amounts, n: &str| a.get(n).copied().unwrap_or(0);
        let mut values = vec![("cpu", resources::cpu_shares(get(&request, "cpu")))];
        if let Some(limit) = resources::pod_limit(pod, "cpu") {
            values.push(("quota", resources::cpu_quota(limit)));
        }
        if let Some(limit) = resources::pod_limit(pod, "memory") {
            values.push(("memory", limit));
        }
        values.extend(self.pids.map(|pids| ("pids", pids)));
        self.make(self.pod(pod).trim_start_matches('/'), &values);
    }

    /// Removes a pod's group, whatever class it is in.
    pub fn remove_pod(&self, uid: &str) {
        for qos in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
            let path = format!("{}/pod{uid}", self.class(qos));
            self.hierarchies().iter().map(|h| h.join(&path)).for_each(|dir| remove_tree(&dir));
        }
    }

    /// How many processes a pod has; none where that is not counted.
    pub fn processes(&self, uid: &str) -> i64 {
        let hierarchy = if self.v2 { self.mount.clone() } else { self.mount.join("pids") };
        let classes = [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort].map(|qos| self.class(qos));
        let groups = classes.iter().map(|class| hierarchy.join(format!("{class}/pod{uid}/pids.current")));
        groups.filter_map(|file| fs::read_to_string(file).ok()?.trim().parse::<i64>().ok()).sum()
    }

    /// UIDs of pods that have a group.
    pub fn pods(&self) -> Vec<String> {
        let hierarchy = if self.v2 { self.mount.clone() } else { self.mount.join("memory") };
        let mut uids = Vec::new();
        for qos in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
            let entries = fs::read_dir(hierarchy.join(self.class(qos))).into_iter().flatten().flatten();
            uids.extend(entries.filter_map(|e| Some(e.file_name().to_str()?.strip_prefix("pod")?.to_owned())));
        }
        uids
    }

    /// Every mounted hierarchy, each once.
    fn hierarchies(&self) -> Vec<PathBuf> {
        if self.v2 {
            return vec![self.mount.clone()];
        }
        let entries = fs::read_dir(&self.mount).into_iter().flatten().flatten();
        entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
    }

    fn make(&self, path: &str, values: &[(&str, i64)]) {
        if self.v2 {
            let mut dir = self.mount.clone();
            for part in path.split('/') {
                // A controller that is not there or not delegated is left out.
                for controller in ["+cpu", "+memory", "+pids", "+cpuset"] {
                    let _ = fs::write(dir.join("cgroup.subtree_control"), controller);
                }
                dir.push(part);
                make_dir(&dir);
            }
        } else {
            for controller in V1_CONTROLLERS.iter().filter(|c| self.mount.join(c).is_dir()) {
                make_dir(&self.mount.join(controller).join(path));
            }
        }
        for (what, value) in values {
            self.set(path, what, *value);
        }
    }

    fn set(&self, path: &str, what: &str, value: i64) {
        let period = resources::CPU_PERIOD_US;
        let (file, text) = match (self.v2, what) {
            (false, "cpu") => ("cpu.shares", value.to_string()),
            (false, "quota") => ("cpu.cfs_quota_us", value.to_string()),
            (_, "pids") => ("pids.max", value.to_string()),
            (false, _) => ("memory.limit_in_bytes", value.to_string()),
            (true, "cpu") => ("cpu.weight", resources::cpu_weight(value).to_string()),
            (true, "quota") => ("cpu.max", format!("{value} {period}")),
            (true, _) => ("memory.max", value.to_string()),
        };
        let controller = if self.v2 {
            ""
        } else if file.starts_with("cpu") {
            "cpu"
        } else if what == "pids" {
            "pids"
        } else {
            "memory"
        };
        let target = self.mount.join(controller).join(path).join(file);
        if let Err(error) = fs::write(&target, text) {
            tracing::debug!(file = %target.display(), %error, "cgroup value not set");
        }
    }
}

fn make_dir(dir: &Path) {
    if let Err(error) = fs::create_dir_all(dir) {
        tracing::debug!(dir = %dir.display(), %error, "cgroup not made");
    }
}

/// Removes a group and its empty children; a group with processes stays.
fn remove_tree(dir: &Path) {
    let absent = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    if fs::remove_dir(dir).as_ref().err().is_none_or(absent) {
        return;
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    match fs::remove_dir(dir) {
        Err(error) if !absent(&error) => {
            tracing::debug!(dir = %dir.display(), %error, "cgroup not removed");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_tree_as_upstream_names_it() {
        let dir = tempfile::tempdir().unwrap();
        for controller in V1_CONTROLLERS {
            fs::create_dir(dir.path().join(controller)).unwrap();
        }
        let cgroups = Cgroups::at(dir.path(), "/knarr/n1/", 100);
        let pod: Pod = serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": {"containers": [
            {"name": "a", "resources": {"requests": {"cpu": "500m"}, "limits": {"memory": "1Mi"}}}]}}))
        .unwrap();
        assert_eq!(cgroups.pod(&pod), "/knarr/n1/kubepods/burstable/podu");
        cgroups.prepare(2000);
        cgroups.make_pod(&pod);
        let value = |file: &str| fs::read_to_string(dir.path().join(file)).unwrap();
        assert_eq!(value("cpu/knarr/n1/kubepods/burstable/podu/cpu.shares"), "512");
        assert_eq!(value("memory/knarr/n1/kubepods/burstable/podu/memory.limit_in_bytes"), "1048576");
        assert_eq!(value("pids/knarr/n1/kubepods/burstable/podu/pids.max"), "100");
        assert_eq!(cgroups.pods(), ["u"]);
    }
}
