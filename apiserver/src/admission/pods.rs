//! Admission of new pods: service account with its token volume, priority, tolerations.

use std::time::Duration;

use api::{kinds::pod, status::Status};
use k8s_openapi::api::{core::v1::Pod, scheduling::v1::PriorityClass};
use serde_json::{Value, json};

use crate::{
    cache::Watcher,
    error::Result,
    registry::{Registry, metadata},
};

const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME: &str = "kube-api-access-";
/// How long a new namespace's `default` account is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

fn forbidden(pod: &Value, why: &str) -> Status {
    super::forbidden(api::status::GroupResource { group: "", resource: "pods" }, metadata::text(pod, "name"), why)
}

/// Priority and tolerations of a new pod.
pub fn on_create(registry: &Registry, pod: &mut Value) -> Result<()> {
    if !pod["spec"].is_object() {
        return Ok(());
    }
    priority(registry, pod)?;
    pod::default_toleration_seconds(pod);
    Ok(())
}

/// A mirror pod must not be a way to secrets.
fn mirrors_nothing(pod: &Value) -> Result<()> {
    // What does not decode is told so by its kind.
    let Ok(typed) = serde_json::from_value::<Pod>(pod.clone()) else { return Ok(()) };
    if !pod::refs::references(&typed).secrets.is_empty() {
        return Err(forbidden(pod, "a mirror pod may not reference secrets"));
    }
    let volumes = typed.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mut sources = volumes.filter_map(|volume| volume.projected.as_ref()).flat_map(|p| p.sources.iter().flatten());
    if sources.any(|source| source.service_account_token.is_some()) {
        return Err(forbidden(pod, "a mirror pod may not use ServiceAccountToken volume projections"));
    }
    Ok(())
}

fn is_mirror(pod: &Value) -> bool {
    pod.pointer("/metadata/annotations").and_then(|a| a.get("kubernetes.io/config.mirror")).is_some()
}

/// The account, waited for if it is the one that a controller makes for every namespace.
async fn find_account(registry: &Registry, namespace: &str, name: &str) -> Result<Option<Value>> {
    if let Some(found) = registry.find("serviceaccounts", namespace, name).await? {
        return Ok(Some(found));
    }
    if name != "default" {
        return Ok(None);
    }
    let cache = registry.core("serviceaccounts")?.cache.clone();
    let mut watcher: Watcher = match cache.watch_after(cache.last_change()) {
        Ok(watcher) => watcher,
        Err(gone) => return Err(crate::error::gone(gone)),
    };
    let appears = async {
        loop {
            if let Some(found) = cache.get(namespace, name) {
                return Some(found.value());
            }
            watcher.next().await.ok()?;
        }
    };
    Ok(tokio::time::timeout(PATIENCE, appears).await.ok().flatten())
}

/// The service account of a new pod, with its token volume.
pub async fn service_account(registry: &Registry, namespace: &str, pod: &mut Value) -> Result<()> {
    if pod["spec"].is_null() {
        pod["spec"] = json!({});
    }
    if !pod["spec"].is_object() {
        return Ok(());
    }
    let text = |pod: &Value, field: &str| pod["spec"][field].as_str().unwrap_or_default().to_owned();
    let mut name = text(pod, "serviceAccountName");
    if name.is_empty() {
        name = text(pod, "serviceAccount");
    }
    if is_mirror(pod) {
        if !name.is_empty() {
            return Err(forbidden(pod, "a mirror pod may not reference service accounts"));
        }
        return mirrors_nothing(pod);
    }
    if name.is_empty() {
        name = "default".to_owned();
    }
    pod["spec"]["serviceAccountName"] = json!(name);
    let wrong = api::names::path_segment(&name).join(", ");
    if !wrong.is_empty() {
        let quoted = api::status::quote(&name);
        let why = format!("error looking up service account {namespace}/{name}: invalid resource name {quoted}: [{wrong}]");
        return Err(forbidden(pod, &why));
    }
    if namespace.is_empty() {
        let why = "an empty namespace may not be set when a resource name is provided";
        return Err(forbidden(pod, &format!("error looking up service account /{name}: {why}")));
    }
    let Some(account) = find_account(registry, namespace, &name).await? else {
        let why = format!(
            "error looking up service account {namespace}/{name}: serviceaccount {} not found",
            api::status::quote(&name)
        );
        return Err(forbidden(pod, &why));
    };
    let wanted = pod["spec"]["automountServiceAccountToken"].as_bool();
    if wanted.or_else(|| account["automountServiceAccountToken"].as_bool()).unwrap_or(true) {
        mount_token(pod, &api::names::generate_name(VOLUME, &mut rand::rng()));
    }
    let own = pod["spec"]["imagePullSecrets"].as_array().is_some_and(|s| !s.is_empty());
    if let (false, Some(secrets)) = (own, account["imagePullSecrets"].as_array()) {
        pod["spec"]["imagePullSecrets"] = json!(secrets);
    }
    Ok(())
}

/// Mounts the account's token into every container that has nothing else there.
fn mount_token(pod: &mut Value, generated: &str) {
    let spec = &mut pod["spec"];
    let existing =
        spec["volumes"].as_array().into_iter().flatten().filter_map(|v| v["name"].as_str()).find(|n| n.starts_with(VOLUME));
    let existing = existing.map(str::to_owned);
    let volume = existing.clone().unwrap_or_else(|| generated.to_owned());
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        for container in spec[list].as_array_mut().into_iter().flatten().filter(|c| c.is_object()) {
            let mounts = &mut container["volumeMounts"];
            if mounts.as_array().into_iter().flatten().any(|m| m["mountPath"] == TOKEN_PATH) {
                continue;
            }
            if mounts.is_null() {
                *mounts = json!([]);
            }
            if let Some(mounts) = mounts.as_array_mut() {
                mounts.push(json!({"name": volume, "readOnly": true, "mountPath": TOKEN_PATH}));
                needed = true;
            }
        }
        if spec[list].is_null()
            && let Some(spec) = spec.as_object_mut()
        {
            spec.remove(list);
        }
    }
    if !needed || existing.is_some() {
        return;
    }
    if spec["volumes"].is_null() {
        spec["volumes"] = json!([]);
    }
    if let Some(volumes) = spec["volumes"].as_array_mut() {
        volumes.push(json!({"name": volume, "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ]}}));
    }
}

fn priority(registry: &Registry, pod: &mut Value) -> Result<()> {
    let Some(entry) = registry.entry("scheduling.k8s.io", "v1", "priorityclasses") else { return Ok(()) };
    let classes: Vec<PriorityClass> =
        entry.cache.all().iter().filter_map(|o| serde_json::from_slice(o.json()).ok()).collect();
    let default = classes.iter().filter(|c| c.global_default == Some(true)).min_by_key(|c| c.value).cloned();
    let find = |name: &str| classes.iter().find(|c| c.metadata.name.as_deref() == Some(name)).cloned();
    let before = pod.clone();
    pod::assign_priority(pod, find, default).map_err(|why| forbidden(&before, &why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_mounted_where_nothing_else_is() {
        let mut pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"name": "x", "mountPath": TOKEN_PATH}]}]}});
        mount_token(&mut pod, "kube-api-access-abcde");
        let mount = json!({"name": "kube-api-access-abcde", "readOnly": true, "mountPath": TOKEN_PATH});
        assert_eq!(pod["spec"]["containers"][0]["volumeMounts"], json!([mount]));
        assert_eq!(pod["spec"]["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
        assert_eq!(pod["spec"]["volumes"][0]["name"], "kube-api-access-abcde");
    }
}
