//! How far a rollout is: what `rollout status` says of an object.

use api::field::go_quote;
use serde_json::Value;

/// What to say, and whether the rollout is over.
#[derive(Debug, PartialEq, Eq)]
pub struct Progress {
    /// A line with its newline.
    pub text: String,
    /// Whether there is nothing more to wait for.
    pub done: bool,
}

impl Progress {
    fn waiting(text: &str) -> Self {
        Self { text: format!("{text}\n"), done: false }
    }

    fn done(text: &str) -> Self {
        Self { text: format!("{text}\n"), done: true }
    }
}

/// What is told of an object of a kind; `None` where its kind rolls nothing out.
pub fn of(kind: &str, group: &str, object: &Value, revision: i64) -> Option<Result<Progress, String>> {
    match (group, kind) {
        ("apps" | "extensions", "Deployment") => Some(deployment(object, revision)),
        ("apps" | "extensions", "DaemonSet") => Some(daemon_set(object)),
        ("apps", "StatefulSet") => Some(stateful_set(object)),
        _ => None,
    }
}

/// The number at a JSON pointer, zero where there is none.
fn number(object: &Value, path: &str) -> i64 {
    object.pointer(path).and_then(Value::as_i64).unwrap_or_default()
}

fn name(object: &Value) -> String {
    go_quote(object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default())
}

fn observed(object: &Value) -> bool {
    number(object, "/metadata/generation") <= number(object, "/status/observedGeneration")
}

fn deployment(object: &Value, revision: i64) -> Result<Progress, String> {
    let name = name(object);
    if revision > 0 {
        let running =
            super::history::revision(object).map_err(|e| format!("cannot get the revision of deployment {name}: {e}"))?;
        if revision != running {
            return Err(format!("desired revision ({revision}) is different from the running revision ({running})"));
        }
    }
    if !observed(object) {
        return Ok(Progress::waiting("Waiting for deployment spec update to be observed..."));
    }
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if conditions.iter().find(|c| c["type"] == "Progressing").is_some_and(|c| c["reason"] == "ProgressDeadlineExceeded") {
        return Err(format!("deployment {name} exceeded its progress deadline"));
    }
    let wanted = object.pointer("/spec/replicas").and_then(Value::as_i64);
    let (replicas, updated) = (number(object, "/status/replicas"), number(object, "/status/updatedReplicas"));
    let available = number(object, "/status/availableReplicas");
    let waiting =
        |what: String| Ok(Progress::waiting(&format!("Waiting for deployment {name} rollout to finish: {what}...")));
    match wanted {
        Some(wanted) if updated < wanted => waiting(format!("{updated} out of {wanted} new replicas have been updated")),
        _ if replicas > updated => waiting(format!("{} old replicas are pending termination", replicas - updated)),
        _ if available < updated => waiting(format!("{available} of {updated} updated replicas are available")),
        _ => Ok(Progress::done(&format!("deployment {name} successfully rolled out"))),
    }
}

fn rolling(object: &Value) -> Result<(), String> {
    match object.pointer("/spec/updateStrategy/type").and_then(Value::as_str) {
        Some("RollingUpdate") => Ok(()),
        _ => Err("rollout status is only available for RollingUpdate strategy type".to_owned()),
    }
}

fn daemon_set(object: &Value) -> Result<Progress, String> {
    rolling(object)?;
    let name = name(object);
    if !observed(object) {
        return Ok(Progress::waiting("Waiting for daemon set spec update to be observed..."));
    }
    let wanted = number(object, "/status/desiredNumberScheduled");
    let (updated, available) = (number(object, "/status/updatedNumberScheduled"), number(object, "/status/numberAvailable"));
    let waiting =
        |what: String| Ok(Progress::waiting(&format!("Waiting for daemon set {name} rollout to finish: {what}...")));
    match () {
        () if updated < wanted => waiting(format!("{updated} out of {wanted} new pods have been updated")),
        () if available < wanted => waiting(format!("{available} of {wanted} updated pods are available")),
        () => Ok(Progress::done(&format!("daemon set {name} successfully rolled out"))),
    }
}

fn stateful_set(object: &Value) -> Result<Progress, String> {
    rolling(object)?;
    if number(object, "/status/observedGeneration") == 0 || !observed(object) {
        return Ok(Progress::waiting("Waiting for statefulset spec update to be observed..."));
    }
    let wanted = object.pointer("/spec/replicas").and_then(Value::as_i64);
    let (ready, updated) = (number(object, "/status/readyReplicas"), number(object, "/status/updatedReplicas"));
    if let Some(wanted) = wanted.filter(|wanted| ready < *wanted) {
        return Ok(Progress::waiting(&format!("Waiting for {} pods to be ready...", wanted - ready)));
    }
    if let Some(rolling) = object.pointer("/spec/updateStrategy/rollingUpdate").filter(|r| r.is_object()) {
        let partitioned = wanted.zip(rolling["partition"].as_i64()).map(|(wanted, partition)| wanted - partition);
        return Ok(match partitioned.filter(|new| updated < *new) {
            Some(new) => Progress::waiting(&format!(
                "Waiting for partitioned roll out to finish: {updated} out of {new} new pods have been updated..."
            )),
            None => Progress::done(&format!("partitioned roll out complete: {updated} new pods have been updated...")),
        });
    }
    let text = |path| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let (update, current) = (text("/status/updateRevision"), text("/status/currentRevision"));
    if update != current {
        let text = format!("waiting for statefulset rolling update to complete {updated} pods at revision {update}...");
        return Ok(Progress::waiting(&text));
    }
    let pods = number(object, "/status/currentReplicas");
    Ok(Progress::done(&format!("statefulset rolling update complete {pods} pods at revision {current}...")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(status: &Value) -> String {
        let object = json!({"metadata": {"name": "d", "generation": 2}, "spec": {"replicas": 3}, "status": status});
        match deployment(&object, 0) {
            Ok(progress) => format!("{}{}", progress.text, progress.done),
            Err(why) => why,
        }
    }

    #[test]
    fn a_deployment_goes_through_its_stages() {
        let stages = [
            json!({"observedGeneration": 1}),
            json!({"observedGeneration": 2, "updatedReplicas": 1}),
            json!({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 4}),
            json!({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 3, "availableReplicas": 2}),
            json!({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 3, "availableReplicas": 3}),
            json!({"observedGeneration": 2, "conditions": [{"type": "Progressing", "reason": "ProgressDeadlineExceeded"}]}),
        ];
        assert_eq!(
            stages.each_ref().map(told),
            [
                "Waiting for deployment spec update to be observed...\nfalse",
                "Waiting for deployment \"d\" rollout to finish: 1 out of 3 new replicas have been updated...\nfalse",
                "Waiting for deployment \"d\" rollout to finish: 1 old replicas are pending termination...\nfalse",
                "Waiting for deployment \"d\" rollout to finish: 2 of 3 updated replicas are available...\nfalse",
                "deployment \"d\" successfully rolled out\ntrue",
                "deployment \"d\" exceeded its progress deadline",
            ]
        );
    }

    #[test]
    fn stateful_sets_tell_of_partitions() {
        let object = json!({"metadata": {"generation": 1}, "status": {"observedGeneration": 1, "readyReplicas": 3, "updatedReplicas": 1},
            "spec": {"replicas": 3, "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}}});
        let want = "Waiting for partitioned roll out to finish: 1 out of 2 new pods have been updated...";
        assert_eq!(stateful_set(&object), Ok(Progress::waiting(want)));
    }

    #[test]
    fn only_rolling_updates_have_a_status() {
        let object = json!({"spec": {"updateStrategy": {"type": "OnDelete"}}});
        assert_eq!(daemon_set(&object), Err("rollout status is only available for RollingUpdate strategy type".to_owned()));
    }
}
