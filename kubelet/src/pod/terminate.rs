//! Stopping containers in order: preStop hook, SIGTERM, SIGKILL at the end of the grace period; sidecars after the main
//! containers, the last one first (KEP-753).

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use super::{
    memory::Memory,
    record::{PodRecord, Record},
    spec::{self, Role},
};

/// The runtime is never given less than this, so that SIGTERM has a chance.
pub const SHORTEST_STOP_SECONDS: i64 = 2;

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopAction {
    /// Announce the stop and run the preStop hook, if there is one.
    Begin {
        /// The container's id.
        id: String,
        /// Its name.
        name: String,
        /// It must be gone by then.
        deadline: Timestamp,
    },
    /// Have the runtime stop it: SIGTERM now, SIGKILL after `timeout` seconds.
    Stop {
        /// The container's id.
        id: String,
        /// Its name.
        name: String,
        /// Seconds.
        timeout: i64,
        /// What `timeout` was computed from.
        deadline: Timestamp,
    },
    /// Nothing lives in them any more: stop the sandboxes.
    StopSandboxes,
}

/// The next steps of a stop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stops {
    /// What to do now.
    pub actions: Vec<StopAction>,
    /// When to look again without an event.
    pub wake_at: Option<Timestamp>,
    /// Everything of the pod has stopped.
    pub done: bool,
}

/// Steps towards the end of the whole pod, which must be gone by `deadline`.
pub fn pod(pod: &Pod, runtime: &PodRecord, memory: &Memory, deadline: Timestamp, now: Timestamp) -> Stops {
    let mut stops = Stops::default();
    for record in runtime.living() {
        if !memory.stopping.contains_key(&record.id) {
            stops.actions.push(StopAction::Begin { id: record.id.clone(), name: record.name.clone(), deadline });
        }
    }
    advance(pod, runtime, memory, Some(deadline), now, &mut stops);
    if runtime.living().next().is_none() {
        if runtime.sandboxes.iter().any(|s| s.ready) {
            if !memory.sandbox_stopping {
                stops.actions.push(StopAction::StopSandboxes);
            }
        } else {
            stops.done = !memory.sandbox_starting && memory.starting.is_none();
        }
    }
    stops
}

/// Steps for containers whose stop has begun. With `whole`, the pod's deadline, all of them stop, in order.
pub fn advance(
    pod: &Pod,
    runtime: &PodRecord,
    memory: &Memory,
    whole: Option<Timestamp>,
    now: Timestamp,
    stops: &mut Stops,
) {
    for record in runtime.living() {
        let Some(stopping) = memory.stopping.get(&record.id) else { continue };
        let deadline = whole.map_or(stopping.deadline, |w| w.min(stopping.deadline));
        let due = now >= deadline || (stopping.hook_done && (whole.is_none() || has_turn(pod, runtime, record)));
        // A second, shorter deadline (kubectl delete --grace-period) is sent again.
        let news = stopping.sent.is_none_or(|sent| sent > later(deadline, 1));
        if due && news {
            let left = deadline.duration_since(now).as_millis();
            let timeout = i64::try_from((left + 999) / 1000).unwrap_or(i64::MAX).max(SHORTEST_STOP_SECONDS);
            let (id, name) = (record.id.clone(), record.name.clone());
            stops.actions.push(StopAction::Stop { id, name, timeout, deadline });
        } else if !due {
            stops.wake_at = Some(stops.wake_at.map_or(deadline, |w| w.min(deadline)));
        }
    }
}

/// Whether everything that must stop before `record` has stopped.
fn has_turn(pod: &Pod, runtime: &PodRecord, record: &Record) -> bool {
    let members = spec::members(pod);
    let place = |name: &str| members.iter().position(|m| m.container.name == name);
    let role = |name: &str| place(name).map_or(Role::Main, |i| members[i].role);
    if role(&record.name) != Role::Sidecar {
        return true;
    }
    runtime
        .living()
        .filter(|other| other.id != record.id)
        .all(|other| role(&other.name) == Role::Sidecar && place(&other.name) < place(&record.name))
}

/// Seconds of grace for a pod: the deletion's if it is being deleted, else the spec's; never below 1.
pub fn grace_seconds(pod: &Pod) -> i64 {
    let spec = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(30);
    let grace = match spec::is_deleting(pod) {
        true => pod.metadata.deletion_grace_period_seconds.unwrap_or(spec),
        false => spec,
    };
    grace.max(1)
}

/// When a pod, or a container of its, that is stopped at `now` must be gone.
pub fn deadline(pod: &Pod, now: Timestamp) -> Timestamp {
    later(now, grace_seconds(pod))
}

/// So many seconds later, or the last moment that there is: users may ask for any number of seconds.
pub fn later(at: Timestamp, seconds: i64) -> Timestamp {
    at.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::{
        memory::Stopping,
        record::{Sandbox, State},
    };
    use serde_json::json;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    fn the_pod() -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}, "spec": {
            "initContainers": [{"name": "s1", "restartPolicy": "Always"}, {"name": "s2", "restartPolicy": "Always"}],
            "containers": [{"name": "a"}]}}))
        .unwrap()
    }

    fn runtime(living: &[&str], sandbox: bool) -> PodRecord {
        PodRecord {
            sandboxes: vec![Sandbox { id: "sb".into(), attempt: 0, ready: sandbox, created_at: at(0), ips: vec![] }],
            containers: living
                .iter()
                .map(|name| Record {
                    id: format!("id-{name}"),
                    name: (*name).into(),
                    sandbox_id: "sb".into(),
                    restart_count: 0,
                    hash: String::new(),
                    created_at: at(0),
                    state: State::Running { started_at: at(0) },
                    image: String::new(),
                    image_id: String::new(),
                    log_path: String::new(),
                    user: None,
                    annotations: Default::default(),
                    message_file: None,
                })
                .collect(),
        }
    }

    /// Plays a whole termination and writes down what was asked for at each look.
    #[test]
    fn sidecars_stop_after_main_containers_last_one_first() {
        let mut memory = Memory::default();
        let mut log = Vec::new();
        let story: [(&[&str], bool); 5] =
            [(&["s1", "s2", "a"], true), (&["s1", "s2", "a"], true), (&["s1", "s2"], true), (&["s1"], true), (&[], true)];
        for (living, sandbox) in story {
            let stops = pod(&the_pod(), &runtime(living, sandbox), &memory, at(30), at(1));
            for action in stops.actions {
                match action {
                    StopAction::Begin { id, name, deadline } => {
                        log.push(format!("begin {name}"));
                        memory.stopping.insert(id, Stopping { deadline, hook_done: true, sent: None });
                    }
                    StopAction::Stop { id, name, timeout, deadline } => {
                        log.push(format!("stop {name} {timeout}"));
                        memory.stopping.get_mut(&id).unwrap().sent = Some(deadline);
                    }
                    StopAction::StopSandboxes => log.push("sandbox".into()),
                }
            }
        }
        assert_eq!(log, ["begin s1", "begin s2", "begin a", "stop a 29", "stop s2 29", "stop s1 29", "sandbox"]);
        assert!(pod(&the_pod(), &runtime(&[], false), &memory, at(30), at(1)).done);
    }

    #[test]
    fn a_hook_delays_the_stop_until_the_deadline_at_most() {
        let mut memory = Memory::default();
        memory.stopping.insert("id-a".into(), Stopping { deadline: at(10), hook_done: false, sent: None });
        let look = |now| pod(&the_pod(), &runtime(&["a"], true), &memory, at(10), at(now));
        assert_eq!(look(5), Stops { wake_at: Some(at(10)), ..Stops::default() });
        let stop = StopAction::Stop { id: "id-a".into(), name: "a".into(), timeout: 2, deadline: at(10) };
        assert_eq!(look(10), Stops { actions: vec![stop], ..Stops::default() });
    }

    #[test]
    fn a_shorter_deadline_is_sent_again() {
        let mut memory = Memory::default();
        memory.stopping.insert("id-a".into(), Stopping { deadline: at(30), hook_done: true, sent: Some(at(30)) });
        let stops = pod(&the_pod(), &runtime(&["a"], true), &memory, at(6), at(5));
        let stop = StopAction::Stop { id: "id-a".into(), name: "a".into(), timeout: 2, deadline: at(6) };
        assert_eq!(stops, Stops { actions: vec![stop], ..Stops::default() });
    }
}
