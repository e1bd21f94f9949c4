//! A Deployment's status: the numbers of its ReplicaSets, and the conditions Available, Progressing and ReplicaFailure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::size;
use crate::replicas::some;

/// `Progressing`.
pub const PROGRESSING: &str = "Progressing";
/// Why a Deployment is done.
pub const AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";
const FAILURE: &str = "ReplicaFailure";

/// The condition of this type.
pub fn condition<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

/// A condition that began now.
pub fn new_condition(kind: &str, status: &str, reason: &str, message: String, now: Timestamp) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

/// Sets a condition, unless it has this status and reason already; keeps the transition time while the status stays.
pub fn set_condition(status: &mut DeploymentStatus, mut condition: DeploymentCondition) {
    let conditions = status.conditions.get_or_insert_default();
    if let Some(at) = conditions.iter().position(|c| c.type_ == condition.type_) {
        if conditions[at].status == condition.status && conditions[at].reason == condition.reason {
            return;
        }
        let old = conditions.remove(at);
        if old.status == condition.status {
            condition.last_transition_time = old.last_transition_time;
        }
    }
    conditions.push(condition);
}

fn remove_condition(status: &mut DeploymentStatus, kind: &str) {
    status.conditions = status.conditions.take().map(|c| c.into_iter().filter(|c| c.type_ != kind).collect::<Vec<_>>());
    status.conditions = status.conditions.take().filter(|c| !c.is_empty());
}

/// Whether lack of progress is to be told at all.
pub fn deadline(deployment: &Deployment) -> Option<Duration> {
    let seconds = deployment.spec.as_ref()?.progress_deadline_seconds.filter(|s| *s != i32::MAX)?;
    Some(Duration::from_secs(seconds.max(0) as u64))
}

/// Whether everything is as asked for: all replicas are of the newest template, and available.
pub fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = size::replicas(deployment);
    status.updated_replicas.unwrap_or(0) == wanted
        && status.replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) == wanted
        && status.observed_generation.unwrap_or(0) >= deployment.metadata.generation.unwrap_or(0)
}

/// Tells a paused Deployment's watchers that it stands still on purpose, and a resumed one's that time counts again.
pub fn note_pause(deployment: &Deployment, status: &mut DeploymentStatus, now: Timestamp) {
    let reason = condition(status, PROGRESSING).and_then(|c| c.reason.clone());
    if deadline(deployment).is_none() || reason.as_deref() == Some(TIMED_OUT) {
        return;
    }
    let paused = deployment.spec.as_ref().and_then(|s| s.paused).unwrap_or(false);
    match (paused, reason.as_deref() == Some(PAUSED)) {
        (true, false) => {
            set_condition(status, new_condition(PROGRESSING, "Unknown", PAUSED, "Deployment is paused".into(), now))
        }
        (false, true) => {
            set_condition(
                status,
                new_condition(PROGRESSING, "Unknown", "DeploymentResumed", "Deployment is resumed".into(), now),
            );
        }
        _ => {}
    }
}

/// The status that follows from the ReplicaSets' own, with the Available condition.
pub fn of_sets<'a>(
    deployment: &Deployment,
    before: DeploymentStatus,
    sets: &(impl Iterator<Item = &'a ReplicaSet> + Clone),
    newest: Option<&ReplicaSet>,
    now: Timestamp,
) -> DeploymentStatus {
    let sum = |of: fn(&ReplicaSet) -> i32| sets.clone().map(of).sum::<i32>();
    let actual = |set: &ReplicaSet| set.status.as_ref().map_or(0, |s| s.replicas);
    let available = sum(|s| s.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0));
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(sum(|s| s.status.as_ref().map_or(0, |s| s.replicas))),
        updated_replicas: some(newest.map_or(0, actual)),
        ready_replicas: some(sum(|s| s.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0))),
        available_replicas: some(available),
        unavailable_replicas: some((sum(size::of_set) - available).max(0)),
        // Not known before every ReplicaSet has told its own.
        terminating_replicas: sets.clone().map(|s| s.status.as_ref()?.terminating_replicas).sum(),
        ..before
    };
    let minimum = size::replicas(deployment) - size::max_unavailable(deployment);
    let (value, reason, message) = if available >= minimum {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set_condition(&mut status, new_condition("Available", value, reason, message.to_owned(), now));
    status
}

/// Judges how a rollout goes (Progressing) and passes on what keeps a ReplicaSet from creating pods (ReplicaFailure).
pub fn judge_progress<'a>(
    deployment: &Deployment,
    status: &mut DeploymentStatus,
    sets: impl Iterator<Item = &'a ReplicaSet>,
    newest: Option<&ReplicaSet>,
    now: Timestamp,
) {
    let subject = match newest {
        Some(set) => format!("ReplicaSet {:?}", set.metadata.name.as_deref().unwrap_or_default()),
        None => format!("Deployment {:?}", deployment.metadata.name.as_deref().unwrap_or_default()),
    };
    let current = condition(status, PROGRESSING).cloned();
    let settled = status.replicas == status.updated_replicas
        && current.as_ref().is_some_and(|c| c.reason.as_deref() == Some(AVAILABLE));
    if deadline(deployment).is_none() {
        remove_condition(status, PROGRESSING);
    } else if !settled {
        if is_complete(deployment, status) {
            let message = format!("{subject} has successfully progressed.");
            set_condition(status, new_condition(PROGRESSING, "True", AVAILABLE, message, now));
        } else if has_progressed(deployment.status.as_ref(), status) {
            let mut progress =
                new_condition(PROGRESSING, "True", "ReplicaSetUpdated", format!("{subject} is progressing."), now);
            // Every step forward moves lastUpdateTime, from which the deadline counts.
            if let Some(current) = current.filter(|c| c.status == "True") {
                progress.last_transition_time = current.last_transition_time;
            }
            remove_condition(status, PROGRESSING);
            set_condition(status, progress);
        } else if has_timed_out(deployment, status, now) {
            let message = format!("{subject} has timed out progressing.");
            set_condition(status, new_condition(PROGRESSING, "False", TIMED_OUT, message, now));
        }
    }
    let failure = |set: &ReplicaSet| {
        set.status.iter().flat_map(|s| s.conditions.iter().flatten()).find(|c| c.type_ == FAILURE).cloned()
    };
    match newest.and_then(failure).or_else(|| sets.filter_map(failure).next()) {
        Some(told) => set_condition(
            status,
            DeploymentCondition {
                type_: told.type_,
                status: told.status,
                reason: told.reason,
                message: told.message,
                last_transition_time: told.last_transition_time.clone(),
                last_update_time: told.last_transition_time,
            },
        ),
        None => remove_condition(status, FAILURE),
    }
}

fn has_progressed(before: Option<&DeploymentStatus>, status: &DeploymentStatus) -> bool {
    let none = DeploymentStatus::default();
    let before = before.unwrap_or(&none);
    let old = |s: &DeploymentStatus| s.replicas.unwrap_or(0) - s.updated_replicas.unwrap_or(0);
    status.updated_replicas > before.updated_replicas
        || old(status) < old(before)
        || status.ready_replicas > before.ready_replicas
        || status.available_replicas > before.available_replicas
}

fn has_timed_out(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> bool {
    let Some((deadline, progress)) = deadline(deployment).zip(condition(status, PROGRESSING)) else { return false };
    match progress.reason.as_deref() {
        Some(AVAILABLE) => false,
        Some(TIMED_OUT) => true,
        _ => progress.last_update_time.as_ref().is_some_and(|since| elapsed(since.0, now) > deadline),
    }
}

fn elapsed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}

/// When to look again whether the rollout is stuck: a second after its deadline, as its times are whole seconds.
pub fn next_check(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> Option<Duration> {
    let (deadline, progress) = deadline(deployment).zip(condition(status, PROGRESSING))?;
    let ended = is_complete(deployment, status) || matches!(progress.reason.as_deref(), Some(TIMED_OUT | PAUSED));
    let since = progress.last_update_time.as_ref().filter(|_| !ended)?;
    Some(deadline.saturating_sub(elapsed(since.0, now)) + Duration::from_secs(1))
}
