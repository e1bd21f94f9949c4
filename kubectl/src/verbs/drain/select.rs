//! Which of a node's pods a drain removes, leaves, or stumbles over.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use crate::verbs::rollout::history::controller;

/// What the command line says about pods.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    /// `--force`.
    pub force: bool,
    /// `--ignore-daemonsets`.
    pub ignore_daemon_sets: bool,
    /// `--delete-emptydir-data`.
    pub delete_empty_dirs: bool,
    /// `--skip-wait-for-delete-timeout`: pods being deleted for longer are left alone; 0 is never.
    pub skip_deleted_seconds: i64,
}

/// What becomes of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes.
    Go,
    /// It stays, silently.
    Stay,
    /// It goes, with a warning.
    GoWarned(String),
    /// It stays, with a warning.
    StayWarned(String),
    /// The node cannot be drained.
    Fatal(String),
}

/// The DaemonSet that controls a pod: its name.
pub fn daemon_set(pod: &Value) -> Option<&str> {
    controller(pod).filter(|owner| owner["kind"] == "DaemonSet").and_then(|owner| owner["name"].as_str())
}

/// Decides. `missing` is why the pod's DaemonSet could not be had, and whether it is not there at all.
pub fn fate(pod: &Value, rules: Rules, missing: Option<(String, bool)>, now: Timestamp) -> Fate {
    let over = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if skipped(pod, rules.skip_deleted_seconds, now) {
        return Fate::Stay;
    }
    if daemon_set(pod).is_some() && !over {
        match missing {
            // A pod whose DaemonSet is gone goes like any other; what later rules say of it is what is told.
            Some((_, true)) if rules.force => {}
            Some((why, _)) => return Fate::Fatal(why),
            None if rules.ignore_daemon_sets => return Fate::StayWarned("ignoring DaemonSet-managed Pods".to_owned()),
            None => return Fate::Fatal("DaemonSet-managed Pods (use --ignore-daemonsets to ignore)".to_owned()),
        }
    }
    if pod["metadata"]["annotations"].get("kubernetes.io/config.mirror").is_some() {
        return Fate::Stay;
    }
    let volumes = pod["spec"]["volumes"].as_array().map(Vec::as_slice).unwrap_or_default();
    if volumes.iter().any(|v| v.get("emptyDir").is_some()) && !over && !rules.delete_empty_dirs {
        return Fate::Fatal("Pods with local storage (use --delete-emptydir-data to override)".to_owned());
    }
    match rules.force {
        _ if over || controller(pod).is_some() => Fate::Go,
        true => Fate::GoWarned("deleting Pods that declare no controller".to_owned()),
        false => Fate::Fatal("cannot delete Pods that declare no controller (use --force to override)".to_owned()),
    }
}

/// Whether a pod has been going for longer than one waits.
pub fn skipped(pod: &Value, seconds: i64, now: Timestamp) -> bool {
    let since = pod["metadata"]["deletionTimestamp"].as_str().and_then(|t| t.parse::<Timestamp>().ok());
    seconds > 0 && since.is_some_and(|since| now.duration_since(since).as_secs() > seconds)
}

/// `WHY: ns/pod, ns/pod` for each reason.
pub fn by_reason(pods: impl IntoIterator<Item = (String, String)>) -> Vec<String> {
    let mut reasons: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (why, pod) in pods {
        reasons.entry(why).or_default().push(pod);
    }
    reasons.into_iter().map(|(why, pods)| format!("{why}: {}", pods.join(", "))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn owned(kind: &str) -> Value {
        json!({"metadata": {"ownerReferences": [{"kind": kind, "name": "o", "controller": true}]}})
    }

    fn decided(pod: &Value, rules: Rules) -> Fate {
        fate(pod, rules, None, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn pods_without_a_controller_need_force() {
        let bare = json!({"metadata": {}});
        let fatal = "cannot delete Pods that declare no controller (use --force to override)";
        assert_eq!(decided(&bare, Rules::default()), Fate::Fatal(fatal.to_owned()));
        let warned = Fate::GoWarned("deleting Pods that declare no controller".to_owned());
        assert_eq!(decided(&bare, Rules { force: true, ..Rules::default() }), warned);
        assert_eq!(decided(&owned("ReplicaSet"), Rules::default()), Fate::Go);
        assert_eq!(decided(&json!({"metadata": {}, "status": {"phase": "Succeeded"}}), Rules::default()), Fate::Go);
    }

    #[test]
    fn daemon_sets_stay() {
        let ignoring = Rules { ignore_daemon_sets: true, ..Rules::default() };
        assert_eq!(decided(&owned("DaemonSet"), ignoring), Fate::StayWarned("ignoring DaemonSet-managed Pods".to_owned()));
        let fatal = "DaemonSet-managed Pods (use --ignore-daemonsets to ignore)";
        assert_eq!(decided(&owned("DaemonSet"), Rules::default()), Fate::Fatal(fatal.to_owned()));
    }

    #[test]
    fn reasons_gather_pods() {
        let pods = [("b", "x/1"), ("a", "x/2"), ("b", "x/3")].map(|(why, pod)| (why.to_owned(), pod.to_owned()));
        assert_eq!(by_reason(pods), ["a: x/2", "b: x/1, x/3"]);
    }
}
