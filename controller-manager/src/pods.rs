//! What controllers ask of a pod.

use std::{collections::BTreeMap, time::Duration};

use client::owner;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};

/// The phase, empty when not yet known.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// Ended for good.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Neither ended nor on its way out: counts as a replica.
pub fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// A condition of the pod.
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

/// Since when the pod has been ready; `None` if it is not.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|c| c.status == "True")?;
    Some(ready.last_transition_time.as_ref().map_or(Timestamp::MIN, |t| t.0))
}

/// Whether the Ready condition is True.
pub fn is_ready(pod: &Pod) -> bool {
    ready_since(pod).is_some()
}

/// The node the pod is bound to, empty if none.
pub fn node(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default()
}

/// A ready pod's way to being available: `None` when it is, else how long it takes.
pub fn until_available(ready_since: Timestamp, min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
    let wait = Duration::from_secs(min_ready_seconds.max(0) as u64);
    let been = Duration::try_from(now.duration_since(ready_since)).unwrap_or_default();
    (been < wait).then(|| wait - been)
}

/// The part of a pod that decides how many replicas there are; other changes need not wake a replica controller.
pub fn replica_facts(pod: &Pod) -> impl PartialEq + '_ {
    let meta = &pod.metadata;
    let labels: Option<&BTreeMap<String, String>> = meta.labels.as_ref();
    (labels, owner::controller_of(meta).map(|r| &r.uid), is_active(pod), is_terminal(pod), ready_since(pod))
}

/// The index over pods by the node they are bound to; see [`index_by_node`].
pub const BY_NODE: &str = "node";

/// Makes pods findable by node.
pub fn index_by_node(pods: &client::Informer<Pod>) {
    pods.add_index(BY_NODE, |pod| Some(node(pod)).filter(|n| !n.is_empty()).map(str::to_owned).into_iter().collect());
}

/// Whether a pod shows that it was disrupted on purpose.
const DISRUPTED: &str = "DisruptionTarget";

/// The pod's status with the condition that it is ended by us, for this reason.
pub fn disrupted(pod: &Pod, reason: &str, message: &str, now: Timestamp) -> Pod {
    let mut pod = pod.clone();
    let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
    let since = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
    conditions.retain(|c| c.type_ != DISRUPTED);
    conditions.push(PodCondition {
        type_: DISRUPTED.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: since,
        ..PodCondition::default()
    });
    pod
}
