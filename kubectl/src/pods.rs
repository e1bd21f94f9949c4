//! Which pod and which container is meant: by name, by what selects pods, by default.

use std::{cmp::Ordering, time::Duration};

use api::field::go_quote;
use jiff::Timestamp;
use serde_json::Value;

use crate::{
    client::{Call, Client, log},
    context::Context,
    describe::{
        json::Json,
        parts,
        writer::{escape, timestamp},
    },
    failure::{Failure, plain},
    order,
    resources::{Object, Query, items},
};

const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// The order in which pods of a selector are preferred.
#[derive(Clone, Copy, Debug)]
pub enum Preference {
    /// For logs: those with more restarts first.
    Logging,
    /// For commands: those with fewer restarts first.
    Running,
}

/// Fetches the objects that words name: `POD`, `TYPE/NAME`, `TYPE NAME`.
///
/// # Errors
/// If there is none such.
pub async fn named(cx: &Context, words: &[String]) -> Result<Vec<Object>, Failure> {
    let query = Query { args: words, default_type: Some("pods"), ..Query::default() };
    query.objects(cx).await?.all()
}

/// The label selector of the pods that belong to an object; why there is none.
pub fn selector(object: &Object) -> Result<String, String> {
    let spec = object.value.at("spec");
    match (object.mapping.group.as_str(), object.mapping.kind.as_str()) {
        ("apps", "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet") | ("batch", "Job") => {
            Ok(parts::selector(spec.at("selector")).to_string())
        }
        ("", "Service") if spec.pairs("selector").is_empty() => {
            Err(format!("invalid service '{}': Service is defined without a selector", object.name))
        }
        ("", "Service" | "ReplicationController") => {
            let pairs = spec.pairs("selector");
            Ok(pairs.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(","))
        }
        _ => Err(format!("selector for {} not implemented", go_type(object))),
    }
}

/// An object's type as Go names it: `*v1.ConfigMap`.
pub fn go_type(object: &Object) -> String {
    format!("*{}.{}", object.mapping.version, object.mapping.kind)
}

/// The pods of an object, the best first; waits for one to appear.
///
/// # Errors
/// If none appears in time.
pub async fn of_object(
    client: &Client,
    object: &Object,
    selector: &str,
    preference: Preference,
    timeout: Duration,
) -> Result<Vec<Value>, Failure> {
    let path = format!("/api/v1/namespaces/{}/pods", object.namespace.as_deref().unwrap_or("default"));
    let list = client.json(Call::get(&*path).query_if("labelSelector", selector)).await?;
    let version = list.text("metadata.resourceVersion").to_owned();
    let mut pods = items(list);
    if !pods.is_empty() {
        order::sort(&mut pods, |a, b| preference.compare(a, b).is_lt());
        return Ok(pods);
    }
    let watch = Call::get(path).query_if("labelSelector", selector).query("resourceVersion", version).query("watch", "true");
    let appears = async {
        let mut stream = client.open(watch).await?;
        while let Some((kind, pod)) = stream.event().await? {
            if matches!(kind.as_str(), "ADDED" | "MODIFIED") {
                return Ok(vec![pod]);
            }
        }
        Err(plain("watch closed before UntilWithoutRetry timeout"))
    };
    tokio::time::timeout(timeout, appears).await.unwrap_or_else(|_| Err(plain("timed out waiting for the condition")))
}

/// The pod to run commands in that an object stands for: itself, or the best of its pods.
///
/// # Errors
/// If the object selects no pods or none appears in time.
pub async fn attachable(client: &Client, object: &Object, timeout: Duration) -> Result<Value, Failure> {
    if object.mapping.group.is_empty() && object.mapping.kind == "Pod" {
        return Ok(object.value.clone());
    }
    let selector = selector(object).map_err(|why| plain(format!("cannot attach to {}: {why}", go_type(object))))?;
    let pods = of_object(client, object, &selector, Preference::Running, timeout).await?;
    Ok(pods.into_iter().next().unwrap_or_default())
}

impl Preference {
    /// Which of two pods comes first.
    fn compare(self, a: &Value, b: &Value) -> Ordering {
        let unassigned = |pod: &Value| pod.text("spec.nodeName").is_empty();
        let both_ready = is_ready(a) && is_ready(b);
        let ready_since = |pod: &Value| age_key(if both_ready { ready_time(pod) } else { None });
        let created = |pod: &Value| age_key(timestamp(pod.at("metadata.creationTimestamp")));
        let (phase, restarts) = match self {
            Self::Logging => (
                phase_rank(a, ["Running", "Unknown", "Pending"]).cmp(&phase_rank(b, ["Running", "Unknown", "Pending"])),
                restarts(b).cmp(&restarts(a)),
            ),
            Self::Running => (
                phase_rank(b, ["Pending", "Unknown", "Running"]).cmp(&phase_rank(a, ["Pending", "Unknown", "Running"])),
                restarts(a).cmp(&restarts(b)),
            ),
        };
        let deleting = |pod: &Value| matches!(self, Self::Running) && pod.has("metadata.deletionTimestamp");
        unassigned(a)
            .cmp(&unassigned(b))
            .then(phase)
            .then(is_ready(b).cmp(&is_ready(a)))
            .then(deleting(a).cmp(&deleting(b)))
            .then(ready_since(a).cmp(&ready_since(b)))
            .then(restarts)
            .then(created(a).cmp(&created(b)))
    }
}

/// A phase's place; others are like the first.
fn phase_rank(pod: &Value, order: [&str; 3]) -> usize {
    order.iter().position(|phase| *phase == pod.text("status.phase")).unwrap_or(0)
}

/// Earlier first, none last.
fn age_key(time: Option<Timestamp>) -> (bool, Option<Timestamp>) {
    (time.is_none(), time)
}

fn ready_condition(pod: &Value) -> Option<&Value> {
    pod.items("status.conditions").iter().find(|c| c.text("type") == "Ready")
}

/// Whether the pod says that it is ready.
pub fn is_ready(pod: &Value) -> bool {
    ready_condition(pod).is_some_and(|c| c.text("status") == "True")
}

fn ready_time(pod: &Value) -> Option<Timestamp> {
    ready_condition(pod).filter(|c| c.text("status") == "True").and_then(|c| timestamp(c.at("lastTransitionTime")))
}

fn restarts(pod: &Value) -> i64 {
    pod.items("status.containerStatuses").iter().map(|s| s.int("restartCount")).max().unwrap_or(0)
}

/// The fields of a pod's spec that hold containers, in the order in which containers are looked for.
const FIELDS: [&str; 3] = ["spec.containers", "spec.initContainers", "spec.ephemeralContainers"];

/// A container of any kind by name, and the field of the spec it is in.
pub fn find_container<'a>(pod: &'a Value, name: &str) -> Option<(&'a Value, &'static str)> {
    FIELDS.iter().find_map(|field| {
        let container = pod.items(field).iter().find(|c| c.text("name") == name)?;
        Some((container, field.trim_start_matches("spec.")))
    })
}

/// `a, b, c (ephem), d (init)`.
pub fn container_names(pod: &Value) -> String {
    let names = |field: &str, mark: &str| -> Vec<String> {
        pod.items(field).iter().map(|c| format!("{}{mark}", c.text("name"))).collect()
    };
    let all = [names(FIELDS[0], ""), names(FIELDS[2], " (ephem)"), names(FIELDS[1], " (init)")];
    all.concat().join(", ")
}

/// The container that a pod's annotation makes the default.
pub fn annotated(pod: &Value) -> Option<String> {
    let annotations = pod.pairs("metadata.annotations");
    let (_, name) = annotations.into_iter().find(|(key, _)| *key == DEFAULT_CONTAINER)?;
    (!name.is_empty()).then(|| name.to_owned())
}

/// What upstream says where it takes the first of several containers.
pub fn defaulted(pod: &Value) -> Option<String> {
    let several = pod.items(FIELDS[0]).len() > 1 || !pod.items(FIELDS[1]).is_empty() || !pod.items(FIELDS[2]).is_empty();
    let first = pod.items(FIELDS[0]).first().map_or("", |c| c.text("name"));
    several.then(|| format!("Defaulted container {} out of: {}", go_quote(first), container_names(pod)))
}

/// The container to talk to: the one named, the annotated one, or the first, which is then said unless `quiet`.
///
/// # Errors
/// If the pod has none of that name.
pub fn container<'a>(pod: &'a Value, name: Option<&str>, quiet: bool) -> Result<&'a Value, Failure> {
    if let Some(name) = name.filter(|name| !name.is_empty()) {
        let found = find_container(pod, name).map(|(container, _)| container);
        return found.ok_or_else(|| plain(format!("container {name} not found in pod {}", pod.text("metadata.name"))));
    }
    if let Some((container, _)) = annotated(pod).and_then(|name| find_container(pod, &name)) {
        log::at(4, "podcmd.go:76", &format!("Defaulting container name from annotation {}", container.text("name")));
        return Ok(container);
    }
    let Some(first) = pod.items(FIELDS[0]).first() else {
        let (namespace, name) = (pod.text("metadata.namespace"), pod.text("metadata.name"));
        return Err(plain(format!("pod {namespace}/{name} does not have any containers")));
    };
    if let Some(said) = defaulted(pod).filter(|_| !quiet) {
        eprintln!("{}", escape(&said));
    }
    log::at(4, "podcmd.go:88", &format!("Defaulting container name to {}", first.text("name")));
    Ok(first)
}

/// `/api/v1/namespaces/NAMESPACE/pods/NAME/SUBRESOURCE`.
pub fn subresource(pod: &Value, subresource: &str) -> String {
    format!("/api/v1/namespaces/{}/pods/{}/{subresource}", pod.text("metadata.namespace"), pod.text("metadata.name"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names(preference: Preference) -> String {
        let ready = |since: &str| json!([{"type": "Ready", "status": "True", "lastTransitionTime": since}]);
        let pod = |name: &str, node: &str, status: Value| json!({"metadata": {"name": name}, "spec": {"nodeName": node}, "status": status});
        let mut pods = [
            pod("waiting", "", json!({"phase": "Pending"})),
            pod("pending", "n", json!({"phase": "Pending"})),
            pod("unready", "n", json!({"phase": "Running"})),
            pod("young", "n", json!({"phase": "Running", "conditions": ready("2020-01-02T00:00:00Z")})),
            pod("old", "n", json!({"phase": "Running", "conditions": ready("2020-01-01T00:00:00Z")})),
            pod(
                "restarted",
                "n",
                json!({"phase": "Running", "conditions": ready("2020-01-02T00:00:00Z"), "containerStatuses": [{"restartCount": 3}]}),
            ),
        ];
        order::sort(&mut pods, |a, b| preference.compare(a, b).is_lt());
        pods.iter().map(|p| p.text("metadata.name")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_best_pod_comes_first() {
        assert_eq!(names(Preference::Logging), "old restarted young unready pending waiting");
        assert_eq!(names(Preference::Running), "old young restarted unready pending waiting");
    }

    #[test]
    fn containers_by_default() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}});
        assert_eq!(defaulted(&pod).as_deref(), Some("Defaulted container \"a\" out of: a, b, i (init)"));
        assert_eq!(find_container(&pod, "i").map(|(_, field)| field), Some("initContainers"));
        let failure = container(&pod, Some("x"), true).unwrap_err();
        assert_eq!(failure.message(), "container x not found in pod p");
    }
}
