//! The annotations by which a Deployment's ReplicaSets remember which revision they are, which ones they were, and how large the
//! Deployment was when they were last scaled.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::apps::v1::{Deployment, ReplicaSet},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

/// The revision's number.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// Earlier numbers of the same ReplicaSet, comma-separated (it was rolled back to).
pub const HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// `spec.replicas` of the Deployment when the ReplicaSet was last scaled.
pub const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// The same with the surge.
pub const MAXIMUM: &str = "deployment.kubernetes.io/max-replicas";

/// Annotations of the Deployment that its ReplicaSets don't inherit.
const OWN: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAXIMUM,
    "deprecated.deployment.rollback.to",
];

/// How many characters of [`HISTORY`] are kept.
const HISTORY_LENGTH: usize = 2000;

/// An annotation of the object.
pub fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}

/// An annotation that is a number.
pub fn number(meta: &ObjectMeta, name: &str) -> Option<i32> {
    annotation(meta, name)?.parse().ok()
}

/// The ReplicaSet's revision; 0 if it has none that can be read.
pub fn revision(meta: &ObjectMeta) -> i64 {
    annotation(meta, REVISION).and_then(|r| r.parse().ok()).unwrap_or(0)
}

/// The revision that comes after all of these.
pub fn next<'a>(sets: impl IntoIterator<Item = &'a ReplicaSet>) -> i64 {
    sets.into_iter().map(|set| revision(&set.metadata)).max().unwrap_or(0) + 1
}

/// Brings the annotations of the ReplicaSet that serves the Deployment's template up to date: the Deployment's own, and `number` as
/// revision unless it has a later one. A revision that it had before goes into its history.
pub fn inherit(set: &mut ReplicaSet, deployment: &Deployment, number: i64) {
    let annotations = set.metadata.annotations.get_or_insert_default();
    let inherited = deployment.metadata.annotations.iter().flatten().filter(|(name, _)| !OWN.contains(&name.as_str()));
    annotations.extend(inherited.map(|(name, value)| (name.clone(), value.clone())));
    let before = annotations.get(REVISION).cloned();
    let known = match before.as_deref().map(str::parse::<i64>) {
        Some(Ok(known)) => known,
        // Somebody else's idea of a revision: leave it alone.
        Some(Err(_)) => return,
        None => 0,
    };
    if known >= number {
        return;
    }
    annotations.insert(REVISION.to_owned(), number.to_string());
    if let Some(before) = before {
        remember(annotations, &before);
    }
}

fn remember(annotations: &mut BTreeMap<String, String>, revision: &str) {
    let history = annotations.remove(HISTORY).unwrap_or_default();
    let mut entries: Vec<&str> = history.split(',').filter(|e| !e.is_empty()).collect();
    entries.push(revision);
    while entries.len() > 1 && entries.iter().map(|e| e.len() + 1).sum::<usize>() - 1 > HISTORY_LENGTH {
        entries.remove(0);
    }
    annotations.insert(HISTORY.to_owned(), entries.join(","));
}

/// Notes the Deployment's size on a ReplicaSet; says whether that was news.
pub fn note_size(set: &mut ReplicaSet, desired: i32, maximum: i32) -> bool {
    let annotations = set.metadata.annotations.get_or_insert_default();
    let desired = annotations.insert(DESIRED.to_owned(), desired.to_string()) != Some(desired.to_string());
    let maximum = annotations.insert(MAXIMUM.to_owned(), maximum.to_string()) != Some(maximum.to_string());
    desired || maximum
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_set_rolled_back_to_remembers_what_it_was() {
        let deployment: Deployment =
            serde_json::from_value(json!({"metadata": {"annotations": {"note": "new", REVISION: "4"}}}))
                .expect("a Deployment");
        let set = |annotations| {
            serde_json::from_value::<ReplicaSet>(json!({"metadata": {"annotations": annotations}})).expect("a set")
        };
        let inherited = |annotations, number| {
            let mut set = set(annotations);
            inherit(&mut set, &deployment, number);
            serde_json::to_value(set.metadata.annotations).expect("encodes")
        };
        assert_eq!(
            [
                inherited(json!({}), 1),
                inherited(json!({REVISION: "2", HISTORY: "1"}), 5),
                inherited(json!({REVISION: "9", "note": "old"}), 5),
            ],
            [
                json!({"note": "new", REVISION: "1"}),
                json!({"note": "new", REVISION: "5", HISTORY: "1,2"}),
                json!({"note": "new", REVISION: "9"}),
            ]
        );
    }
}
