//! The table row of a pod: readiness, status in a word, restarts.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Container, ContainerStateTerminated, ContainerStatus, Pod, PodCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};
use serde_json::Value;

use super::{cells, text};

/// What the containers of a pod add up to.
#[derive(Default)]
struct Summary {
    reason: String,
    ready: usize,
    restarts: i32,
    last_restart: Option<Time>,
}

impl Summary {
    fn count_restarts(&mut self, status: &ContainerStatus) {
        self.restarts += status.restart_count;
        let finished = status.last_state.as_ref().and_then(|s| s.terminated.as_ref()?.finished_at.clone());
        // `None` is before every time.
        self.last_restart = self.last_restart.take().max(finished);
    }
}

/// One cell for each column of the kind.
pub fn cells(pod: &Pod, now: Timestamp) -> Vec<Value> {
    let spec = pod.spec.as_ref();
    let status = pod.status.as_ref();
    let containers = spec.map_or(0, |s| s.containers.len());
    let sidecars = spec.map_or(0, |s| s.init_containers.iter().flatten().filter(|c| is_sidecar(c)).count());
    let Summary { reason, ready, restarts, last_restart } = summarize(pod);
    let restarts = match last_restart {
        Some(time) if restarts != 0 => format!("{restarts} ({} ago)", cells::since(Some(&time), now)),
        _ => restarts.to_string(),
    };
    let or_none = |text: &str| if text.is_empty() { Value::from("<none>") } else { Value::from(text) };
    let ip = status.and_then(|s| s.pod_ips.as_ref()?.first()).map_or("", |ip| ip.ip.as_str());
    vec![
        cells::name(&pod.metadata),
        format!("{ready}/{}", containers + sidecars).into(),
        reason.into(),
        restarts.into(),
        cells::age(&pod.metadata, now),
        or_none(ip),
        or_none(text(spec.and_then(|s| s.node_name.as_ref()))),
        or_none(text(status.and_then(|s| s.nominated_node_name.as_ref()))),
        readiness_gates(pod).into(),
    ]
}

fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn conditions(pod: &Pod) -> impl Iterator<Item = &PodCondition> {
    pod.status.iter().flat_map(|s| s.conditions.iter().flatten())
}

fn is_true(pod: &Pod, condition: &str) -> bool {
    conditions(pod).find(|c| c.type_ == condition).is_some_and(|c| c.status == "True")
}

fn summarize(pod: &Pod) -> Summary {
    let no_status = Default::default();
    let status = pod.status.as_ref().unwrap_or(&no_status);
    let init: Vec<&Container> = pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten()).collect();
    let mut reason = status.reason.clone().or(status.phase.clone()).unwrap_or_default();
    if conditions(pod).any(|c| c.type_ == "PodScheduled" && c.reason.as_deref() == Some("SchedulingGated")) {
        reason = "SchedulingGated".to_owned();
    }
    let mut all = Summary { reason, ..Summary::default() };
    let mut sidecars = Summary::default();
    let mut initializing = false;
    for (index, container) in status.init_container_statuses.iter().flatten().enumerate() {
        all.count_restarts(container);
        let sidecar = init.iter().find(|c| c.name == container.name).is_some_and(|c| is_sidecar(c));
        if sidecar {
            sidecars.count_restarts(container);
        }
        let state = container.state.clone().unwrap_or_default();
        match (&state.terminated, state.waiting.as_ref().and_then(|w| w.reason.as_deref())) {
            (Some(end), _) if end.exit_code == 0 => continue,
            _ if sidecar && container.started == Some(true) => {
                all.ready += usize::from(container.ready);
                continue;
            }
            (Some(end), _) => all.reason = format!("Init:{}", end_reason(end)),
            (None, Some(waiting)) if !waiting.is_empty() && waiting != "PodInitializing" => {
                all.reason = format!("Init:{waiting}")
            }
            _ => all.reason = format!("Init:{index}/{}", init.len()),
        }
        initializing = true;
        break;
    }
    if !initializing || is_true(pod, "Initialized") {
        all.restarts = sidecars.restarts;
        all.last_restart = sidecars.last_restart;
        let mut running = false;
        for container in status.container_statuses.iter().flatten().rev() {
            all.count_restarts(container);
            let state = container.state.clone().unwrap_or_default();
            let waiting = state.waiting.as_ref().and_then(|w| w.reason.as_deref()).filter(|reason| !reason.is_empty());
            if let Some(waiting) = waiting {
                all.reason = waiting.to_owned();
            } else if let Some(end) = &state.terminated {
                all.reason = end_reason(end);
            } else if container.ready && state.running.is_some() {
                running = true;
                all.ready += 1;
            }
        }
        if all.reason == "Completed" && running {
            all.reason = if is_true(pod, "Ready") { "Running" } else { "NotReady" }.to_owned();
        }
    }
    if pod.metadata.deletion_timestamp.is_some() {
        let ended = matches!(text(status.phase.as_ref()), "Succeeded" | "Failed");
        if status.reason.as_deref() == Some("NodeLost") {
            all.reason = "Unknown".to_owned();
        } else if !ended {
            // Since v1.32 a pod that has ended keeps its end in view while finalizers hold it.
            all.reason = "Terminating".to_owned();
        }
    }
    all
}

fn end_reason(end: &ContainerStateTerminated) -> String {
    match (text(end.reason.as_ref()), end.signal.unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", end.exit_code),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn readiness_gates(pod: &Pod) -> String {
    let gates: Vec<&str> =
        pod.spec.iter().flat_map(|s| s.readiness_gates.iter().flatten()).map(|gate| gate.condition_type.as_str()).collect();
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let met = gates.iter().filter(|gate| is_true(pod, gate)).count();
    format!("{met}/{}", gates.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// READY, STATUS and RESTARTS of a pod with two containers, an init container and a sidecar.
    fn row(status: Value, deleted: bool) -> (String, String, String) {
        let mut object = json!({
            "metadata": {"name": "p"},
            "spec": {
                "initContainers": [{"name": "init"}, {"name": "side", "restartPolicy": "Always"}],
                "containers": [{"name": "a"}, {"name": "b"}],
            },
            "status": status,
        });
        if deleted {
            object["metadata"]["deletionTimestamp"] = json!("2026-01-02T03:00:00Z");
        }
        let pod: Pod = serde_json::from_value(object).unwrap();
        let cells = cells(&pod, "2026-01-02T03:04:05Z".parse().unwrap());
        let text = |i: usize| cells[i].as_str().unwrap().to_owned();
        (text(1), text(2), text(3))
    }

    fn container(name: &str, state: Value, restarts: i32) -> Value {
        let ready = state.get("running").is_some();
        let last = json!({"terminated": {"exitCode": 1, "finishedAt": "2026-01-02T03:03:05Z"}});
        let last = if restarts > 0 { last } else { json!({}) };
        json!({
            "name": name, "image": "", "imageID": "", "ready": ready, "started": ready, "restartCount": restarts,
            "state": state, "lastState": last,
        })
    }

    #[test]
    fn the_status_says_what_matters_most() {
        let running = || json!({"running": {}});
        let ended = |code: i32, reason: &str| json!({"terminated": {"exitCode": code, "reason": reason}});
        let waiting = |reason: &str| json!({"waiting": {"reason": reason}});
        let done = || container("init", ended(0, "Completed"), 0);
        let side = |restarts| container("side", running(), restarts);
        let ready = json!([{"type": "Ready", "status": "True"}]);
        let initialized = json!([{"type": "Initialized", "status": "True"}]);
        let cases = [
            (json!({"phase": "Pending"}), false, ("0/3", "Pending", "0")),
            (json!({"phase": "Failed", "reason": "Evicted"}), false, ("0/3", "Evicted", "0")),
            (
                json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}),
                false,
                ("0/3", "SchedulingGated", "0"),
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [container("init", waiting("PodInitializing"), 0)]}),
                false,
                ("0/3", "Init:0/2", "0"),
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [container("init", waiting("CrashLoopBackOff"), 2)]}),
                false,
                ("0/3", "Init:CrashLoopBackOff", "2 (60s ago)"),
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [container("init", json!({"terminated": {"exitCode": 3}}), 0)]}),
                false,
                ("0/3", "Init:ExitCode:3", "0"),
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [container("init", json!({"terminated": {"exitCode": 137, "signal": 9}}), 0)]}),
                false,
                ("0/3", "Init:Signal:9", "0"),
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [done(), container("side", waiting("ImagePullBackOff"), 0)]}),
                false,
                ("0/3", "Init:ImagePullBackOff", "0"),
            ),
            (
                json!({"phase": "Running", "conditions": ready, "initContainerStatuses": [done(), side(1)],
                    "containerStatuses": [container("a", running(), 2), container("b", running(), 0)]}),
                false,
                ("3/3", "Running", "3 (60s ago)"),
            ),
            (
                json!({"phase": "Running", "conditions": initialized, "initContainerStatuses": [done(), side(0)],
                    "containerStatuses": [container("a", ended(0, "Completed"), 0), container("b", running(), 0)]}),
                false,
                ("2/3", "NotReady", "0"),
            ),
            (
                json!({"phase": "Running", "conditions": ready, "initContainerStatuses": [done(), side(0)],
                    "containerStatuses": [container("a", ended(0, "Completed"), 0), container("b", running(), 0)]}),
                false,
                ("2/3", "Running", "0"),
            ),
            (
                json!({"phase": "Running", "initContainerStatuses": [done(), side(0)],
                    "containerStatuses": [container("a", waiting("CrashLoopBackOff"), 4), container("b", running(), 0)]}),
                false,
                ("2/3", "CrashLoopBackOff", "4 (60s ago)"),
            ),
            (
                json!({"phase": "Failed", "containerStatuses": [container("a", json!({"terminated": {"exitCode": 137, "signal": 9}}), 0)]}),
                false,
                ("0/3", "Signal:9", "0"),
            ),
            (
                json!({"phase": "Failed", "containerStatuses": [container("a", ended(137, "OOMKilled"), 0), container("b", ended(1, "Error"), 0)]}),
                false,
                ("0/3", "OOMKilled", "0"),
            ),
            (
                json!({"phase": "Running", "initContainerStatuses": [done(), side(0)],
                    "containerStatuses": [container("a", running(), 0), container("b", running(), 0)]}),
                true,
                ("3/3", "Terminating", "0"),
            ),
            (
                json!({"phase": "Succeeded", "containerStatuses": [container("a", ended(0, "Completed"), 0)]}),
                true,
                ("0/3", "Completed", "0"),
            ),
            (json!({"phase": "Running", "reason": "NodeLost"}), true, ("0/3", "Unknown", "0")),
        ];
        for (status, deleted, (ready, reason, restarts)) in cases {
            let want = (ready.to_owned(), reason.to_owned(), restarts.to_owned());
            assert_eq!(row(status.clone(), deleted), want, "{status}");
        }
    }
}
