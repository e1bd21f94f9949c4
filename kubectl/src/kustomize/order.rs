//! The order that resources are printed in.

use super::{
    file::SortOptions,
    resource::{Gvk, Id, Resource},
};

/// Kinds that come first, as others need them.
const FIRST: &[&str] = &[
    "Namespace",
    "ResourceQuota",
    "StorageClass",
    "CustomResourceDefinition",
    "ServiceAccount",
    "PodSecurityPolicy",
    "Role",
    "ClusterRole",
    "RoleBinding",
    "ClusterRoleBinding",
    "ConfigMap",
    "Secret",
    "Endpoints",
    "Service",
    "LimitRange",
    "PriorityClass",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "Deployment",
    "StatefulSet",
    "CronJob",
    "PodDisruptionBudget",
];
/// Kinds that come last, as they concern all others.
const LAST: &[&str] = &["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"];

/// A kind's rank: below zero comes first, above it last.
fn rank(kind: &str, first: &[&str], last: &[&str]) -> isize {
    let at = |list: &[&str]| list.iter().rposition(|there| *there == kind).map(|at| at as isize);
    match (at(last), at(first)) {
        (Some(at), _) => 1 + at,
        (None, Some(at)) => at - first.len() as isize,
        (None, None) => 0,
    }
}

fn or(text: &str, otherwise: &str) -> String {
    (if text.is_empty() { otherwise } else { text }).to_owned()
}

fn words(gvk: &Gvk) -> String {
    format!("{}_{}_{}", or(&gvk.group, "~G"), or(&gvk.version, "~V"), or(&gvk.kind, "~K"))
}

/// What upstream sorts its tables of fields by.
pub fn key(gvk: &Gvk) -> (isize, String) {
    (rank(&gvk.kind, FIRST, LAST), words(gvk))
}

fn key_of(id: &Id, first: &[&str], last: &[&str]) -> (isize, String, String) {
    let own = [id.gvk.to_string(), or(&id.namespace, "~X"), or(&id.name, "~N")].join("|");
    (rank(&id.gvk.kind, first, last), words(&id.gvk), own)
}

/// Sorts as `sortOptions` say; without them what others need comes first.
///
/// # Errors
/// There is no such order.
pub fn sort(resources: &mut [Resource], options: Option<&SortOptions>) -> Result<(), String> {
    let order = options.map_or("legacy", |options| options.order.as_str());
    let own = options.and_then(|options| options.legacy_sort_options.as_ref());
    match (order, own) {
        ("fifo", None) => {}
        ("fifo", Some(_)) => {
            return Err(
                "the field 'sortOptions.legacySortOptions' is set but the selected sort order is 'fifo', not 'legacy'"
                    .to_owned(),
            );
        }
        ("legacy", None) => resources.sort_by_cached_key(|resource| key_of(&resource.id(), FIRST, LAST)),
        ("legacy", Some(own)) => {
            let first: Vec<&str> = own.order_first.iter().map(String::as_str).collect();
            let last: Vec<&str> = own.order_last.iter().map(String::as_str).collect();
            resources.sort_by_cached_key(|resource| key_of(&resource.id(), &first, &last));
        }
        _ => return Err("the field 'sortOptions.order' must be one of [fifo, legacy]".to_owned()),
    }
    Ok(())
}
