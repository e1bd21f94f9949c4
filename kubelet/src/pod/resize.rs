//! Changes of a running pod's resources (KEP-1287): what it may have now, and what it waits for.
//!
//! What a pod holds is in its containers' statuses, which outlive this process. What it asks for and cannot have stays in its
//! spec; until it can, everything here looks at a pod with the resources that it holds.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Container, Pod, PodCondition, PodStatus, ResourceRequirements},
    apimachinery::pkg::apis::meta::v1::Time,
};

use serde_json::json;

use super::{
    admission,
    resources::{self, Amounts},
    status::whole_second,
};

/// The condition of a pod that does not have what it asks for.
pub const PENDING: &str = "PodResizePending";
/// The condition of a pod whose containers are being given what it has been granted.
pub const IN_PROGRESS: &str = "PodResizeInProgress";

/// A container that is being given other resources.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changing {
    /// The container that had the old ones: once another runs, the change is done.
    pub id: String,
    /// What it has until then.
    pub has: Option<ResourceRequirements>,
    /// The runtime is at it.
    pub busy: bool,
    /// What it is to have has changed since then.
    pub stale: bool,
    /// Why it did not work.
    pub error: Option<String>,
    /// When it is tried again.
    pub retry_at: Option<Timestamp>,
}

/// Why a pod does not have the resources that it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// `Infeasible` or `Deferred`.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl Pending {
    /// The reason of the event that tells of it.
    pub fn event(&self) -> &'static str {
        if self.reason == "Infeasible" { "ResizeInfeasible" } else { "ResizeDeferred" }
    }
}

/// The pod with the containers' resources that `held` has.
pub fn with_resources_of(mut pod: Pod, held: &Pod) -> Pod {
    let known = held.spec.iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
    let known: Vec<_> = known.collect();
    if let Some(spec) = pod.spec.as_mut() {
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            if let Some(same) = known.iter().find(|k| k.name == container.name) {
                container.resources.clone_from(&same.resources);
            }
        }
    }
    pod
}

/// What a pod that was here before this process held, as its status says.
pub fn held(pod: &Pod) -> Pod {
    let mut held = pod.clone();
    let said = pod.status.iter().flat_map(|s| s.container_statuses.iter().chain(&s.init_container_statuses).flatten());
    let said: Vec<_> = said.filter(|s| s.container_id.is_some()).collect();
    if let Some(spec) = held.spec.as_mut() {
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            let resources = said.iter().find(|s| s.name == container.name).and_then(|s| s.resources.clone());
            if let Some(resources) = resources {
                let claims = container.resources.take().and_then(|r| r.claims);
                container.resources = Some(ResourceRequirements { claims, ..resources });
            }
        }
    }
    held
}

/// Whether a pod that holds what `held` says may have what it asks for, besides what `others` hold.
pub fn judge<'a>(held: &Pod, pod: &Pod, allocatable: &Amounts, others: impl FnOnce() -> Vec<&'a Pod>) -> Option<Pending> {
    if resources::resizes(held, pod).is_empty() {
        return None;
    }
    let (had, asks) = (resources::pod_requests(held), resources::pod_requests(pod));
    let grows = |name: &&str| asks.get(*name).unwrap_or(&0) > had.get(*name).unwrap_or(&0);
    let grown: Vec<&str> = ["memory", "cpu"].into_iter().filter(grows).collect();
    for name in &grown {
        let (requested, capacity) = (asks[*name], allocatable.get(*name).copied().unwrap_or(0));
        if requested > capacity {
            let message = format!("Node didn't have enough capacity: {name}, requested: {requested}, capacity: {capacity}");
            return Some(Pending { reason: "Infeasible", message });
        }
    }
    let short = if grown.is_empty() { None } else { admission::fits(pod, allocatable, &others()) };
    short.map(|short| Pending { reason: "Deferred", message: short.message })
}

/// Says in a status what the pod waits for, or that it waits for nothing.
pub fn show(status: &mut PodStatus, pending: Option<&Pending>, generation: Option<i64>, now: Timestamp) {
    let told = pending.map(|p| (Some(p.reason.to_owned()), Some(p.message.clone())));
    condition(status, PENDING, told, generation, now);
}

/// Says in a status that containers are being given other resources, and what came of it if that did not work.
pub fn show_progress<'a>(
    status: &mut PodStatus,
    changing: impl IntoIterator<Item = &'a Changing>,
    generation: Option<i64>,
    now: Timestamp,
) {
    let mut changing = changing.into_iter().peekable();
    let told = changing.peek().is_some().then(|| {
        let error = changing.find_map(|change| change.error.clone());
        (error.is_some().then(|| "Error".to_owned()), error)
    });
    condition(status, IN_PROGRESS, told, generation, now);
}

/// Containers' statuses show what they have, not what they are being given.
pub fn show_what_they_have(status: &mut PodStatus, changing: &BTreeMap<String, Changing>) {
    let statuses = status.container_statuses.iter_mut().chain(&mut status.init_container_statuses).flatten();
    for status in statuses {
        if let Some(change) = changing.get(&status.name) {
            status.resources = change.has.clone().map(|has| ResourceRequirements { claims: None, ..has });
        }
    }
}

/// The limit of memory that a container is being given, if it has a higher one or none.
pub fn shrinks_to(has: Option<&ResourceRequirements>, limits: &Amounts) -> Option<i64> {
    let had = resources::limits(&Container { resources: has.cloned(), ..Container::default() });
    let limit = *limits.get("memory")?;
    had.get("memory").is_none_or(|had| *had > limit).then_some(limit)
}

/// What an event says of a resize: what the containers are to have, as JSON.
pub fn summary(pod: &Pod, what: &str, error: Option<&str>) -> String {
    let of = |containers: &[Container]| {
        let one = |c: &Container| json!({"name": c.name, "resources": c.resources.clone().unwrap_or_default()}).to_string();
        containers.iter().map(one).collect::<Vec<_>>().join(",")
    };
    let spec = pod.spec.as_ref();
    let inits = spec.and_then(|s| s.init_containers.as_deref()).filter(|inits| !inits.is_empty());
    let mut fields = Vec::from_iter(inits.map(|inits| format!("\"initContainers\":[{}]", of(inits))));
    fields.extend(spec.map(|s| format!("\"containers\":[{}]", of(&s.containers))));
    fields.push(format!("\"generation\":{}", pod.metadata.generation.unwrap_or(0)));
    fields.extend(error.map(|error| format!("\"error\":{}", json!(error))));
    format!("Pod resize {what}: {{{}}}", fields.join(","))
}

/// Sets a condition to what is told (reason and message), or takes it out.
fn condition(
    status: &mut PodStatus,
    kind: &str,
    told: Option<(Option<String>, Option<String>)>,
    generation: Option<i64>,
    now: Timestamp,
) {
    let conditions = status.conditions.get_or_insert_default();
    let before = conditions.iter().position(|c| c.type_ == kind).map(|at| conditions.remove(at));
    let Some((reason, message)) = told else { return };
    let kept = before.filter(|c| c.reason == reason).and_then(|c| c.last_transition_time);
    conditions.push(PodCondition {
        last_probe_time: None,
        last_transition_time: kept.or(Some(Time(whole_second(now)))),
        message,
        observed_generation: generation,
        reason,
        status: "True".to_owned(),
        type_: kind.to_owned(),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(cpu: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": [
            {"name": "c", "resources": {"requests": {"cpu": cpu}}}]}}))
        .unwrap()
    }

    #[test]
    fn a_growing_pod_waits_for_room_or_for_ever() {
        let allocatable: Amounts = [("cpu".to_owned(), 2000), ("pods".to_owned(), 10)].into();
        let other = pod("1500m");
        let judged = |from, to| judge(&pod(from), &pod(to), &allocatable, || vec![&other]).map(|p| (p.reason, p.message));
        assert_eq!(judged("200m", "500m"), None);
        assert_eq!(judged("200m", "200m"), None);
        let deferred = "Node didn't have enough resource: cpu, requested: 600, used: 1500, capacity: 2000";
        assert_eq!(judged("200m", "600m"), Some(("Deferred", deferred.to_owned())));
        let infeasible = "Node didn't have enough capacity: cpu, requested: 3000, capacity: 2000";
        assert_eq!(judged("200m", "3"), Some(("Infeasible", infeasible.to_owned())));
        // What is too large already may still shrink.
        assert_eq!(judged("900m", "800m"), None);
    }

    #[test]
    fn a_status_remembers_what_was_held() {
        let mut asking = pod("3");
        let said = json!({"containerStatuses": [{"name": "c", "containerID": "knarr://1", "image": "", "imageID": "",
            "ready": true, "restartCount": 0, "resources": {"requests": {"cpu": "200m"}}}]});
        asking.status = Some(serde_json::from_value(said).unwrap());
        let held = held(&asking);
        assert_eq!(held.spec, pod("200m").spec);
        assert_eq!(with_resources_of(asking, &held).spec, held.spec);
    }

    #[test]
    fn a_change_under_way_is_told_and_its_failure_kept() {
        let mut status = PodStatus::default();
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut change = Changing { id: "1".into(), ..Changing::default() };
        let told = |status: &PodStatus| {
            let conditions = status.conditions.iter().flatten();
            conditions.map(|c| (c.type_.clone(), c.reason.clone(), c.message.clone())).collect::<Vec<_>>()
        };
        show_progress(&mut status, [&change], Some(2), at(5));
        assert_eq!(told(&status), [(IN_PROGRESS.to_owned(), None, None)]);
        change.error = Some("no".into());
        show_progress(&mut status, [&change], Some(2), at(6));
        assert_eq!(told(&status), [(IN_PROGRESS.to_owned(), Some("Error".into()), Some("no".into()))]);
        show_progress(&mut status, [], Some(2), at(7));
        assert_eq!(told(&status), []);
    }

    #[test]
    fn the_condition_comes_and_goes() {
        let mut status = PodStatus::default();
        let pending = Pending { reason: "Deferred", message: "m".into() };
        let at = |second| Timestamp::from_second(second).unwrap();
        show(&mut status, Some(&pending), Some(2), at(5));
        show(&mut status, Some(&pending), Some(3), at(9));
        let shown: Vec<_> =
            status.conditions.iter().flatten().map(|c| (c.observed_generation, c.last_transition_time.clone())).collect();
        assert_eq!(shown, [(Some(3), Some(Time(at(5))))]);
        show(&mut status, None, Some(4), at(10));
        assert_eq!(status.conditions, Some(Vec::new()));
    }

    #[test]
    fn what_events_say_of_a_resize() {
        let mut pod = pod("200m");
        pod.metadata.generation = Some(3);
        let spec = pod.spec.as_mut().unwrap();
        spec.init_containers = Some(vec![Container { name: "i".into(), ..Container::default() }]);
        let all = "{\"initContainers\":[{\"name\":\"i\",\"resources\":{}}],\"containers\":[{\"name\":\"c\",\"resources\":\
                   {\"requests\":{\"cpu\":\"200m\"}}}],\"generation\":3";
        assert_eq!(summary(&pod, "started", None), format!("Pod resize started: {all}}}"));
        assert_eq!(
            summary(&pod, "error", Some("no \"x\"")),
            format!("Pod resize error: {all},\"error\":\"no \\\"x\\\"\"}}")
        );
    }

    #[test]
    fn what_shrinks_and_what_is_shown_meanwhile() {
        let has = |memory: &str| -> ResourceRequirements {
            serde_json::from_value(json!({"limits": {"memory": memory}})).unwrap()
        };
        let limits: Amounts = [("memory".to_owned(), 1 << 20)].into();
        let found = [None, Some(has("2Mi")), Some(has("1Mi"))].map(|has| shrinks_to(has.as_ref(), &limits));
        assert_eq!(found, [Some(1 << 20), Some(1 << 20), None]);

        let said = json!({"containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "resources": {"limits": {"memory": "1Mi"}}}]});
        let mut status: PodStatus = serde_json::from_value(said).unwrap();
        let changing = Changing { has: Some(has("2Mi")), ..Changing::default() };
        show_what_they_have(&mut status, &[("c".to_owned(), changing)].into());
        assert_eq!(status.container_statuses.unwrap()[0].resources, Some(has("2Mi")));
    }
}
