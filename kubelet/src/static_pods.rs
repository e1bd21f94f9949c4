//! Pods from files on this node (`--pod-manifest-path`), and the mirror objects that show them in the API.
//!
//! A static pod's UID is a hash of its file, so a changed file is another pod: the old one is stopped first. The mirror
//! carries that hash; whoever deletes it only deletes the picture, which is then made again.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use api::kind::Resource;
use k8s_openapi::{
    api::core::v1::{Pod, Toleration},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::{inotify::Watch, pod::spec, shared::Ctx};

/// Reads one manifest: a pod as it will run on `node`.
pub fn parse(text: &str, node: &str) -> Result<Pod, String> {
    let mut documents = api::schema::yaml::documents(text)?;
    let document = match (documents.pop(), documents.is_empty()) {
        (Some(document), true) => document,
        _ => return Err("a manifest holds exactly one pod".to_owned()),
    };
    if document["kind"] != "Pod" || document["apiVersion"] != "v1" {
        return Err(format!("{} {} is no v1 Pod", document["apiVersion"], document["kind"]));
    }
    let mut pod: Pod = serde_json::from_value(document).map_err(|e| e.to_string())?;
    let name = pod.metadata.name.clone().filter(|n| !n.is_empty()).ok_or("the pod has no name")?;
    pod.set_defaults();
    let digest = Sha256::digest(format!("{node}\n{text}").as_bytes());
    let hash: String = digest.iter().take(16).map(|b| format!("{b:02x}")).collect();
    let meta = &mut pod.metadata;
    meta.name = Some(format!("{name}-{node}"));
    meta.namespace.get_or_insert_with(|| "default".to_owned());
    meta.uid = Some(hash.clone());
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert(spec::CONFIG_HASH.to_owned(), hash);
    annotations.insert(spec::CONFIG_SOURCE.to_owned(), "file".to_owned());
    pod.status = None;
    let own = pod.spec.get_or_insert_default();
    own.node_name = Some(node.to_owned());
    // Static pods answer to the node alone, not to taints.
    let all =
        Toleration { operator: Some("Exists".to_owned()), effect: Some("NoExecute".to_owned()), ..Toleration::default() };
    own.tolerations.get_or_insert_default().push(all);
    Ok(pod)
}

/// Every pod below `path` (a file, or a directory's `*.yaml`, `*.yml`, `*.json`), by UID. Broken files are left out.
fn read_all(path: &Path, node: &str) -> BTreeMap<String, Pod> {
    let files: Vec<PathBuf> = match std::fs::read_dir(path) {
        Ok(entries) => entries.flatten().map(|e| e.path()).filter(|p| is_manifest(p)).collect(),
        Err(_) => vec![path.to_owned()],
    };
    let mut pods = BTreeMap::new();
    for file in files {
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        match parse(&text, node) {
            Ok(pod) => {
                pods.insert(spec::uid(&pod), pod);
            }
            Err(error) => tracing::warn!(file = %file.display(), error, "not a static pod"),
        }
    }
    pods
}

fn is_manifest(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|n| n.as_encoded_bytes().starts_with(b"."));
    !hidden && path.extension().is_some_and(|e| ["yaml", "yml", "json"].iter().any(|known| e == *known))
}

/// Sends the whole set whenever something below `path` changes.
pub async fn watch(path: PathBuf, node: String, sets: mpsc::UnboundedSender<BTreeMap<String, Pod>>) {
    let dir = if path.is_dir() { path.clone() } else { path.parent().map(Path::to_owned).unwrap_or_default() };
    loop {
        let watch = Watch::new(&dir);
        if sets.send(read_all(&path, &node)).is_err() {
            return;
        }
        match watch {
            Ok(mut watch) => {
                if watch.changed().await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "cannot watch for static pods");
                tokio::time::sleep(std::time::Duration::from_secs(20)).await;
            }
        }
    }
}

/// The object that shows a static pod.
pub fn mirror(pod: &Pod, node_uid: Option<String>) -> Pod {
    let mut mirror = pod.clone();
    let meta = &mut mirror.metadata;
    let hash = meta.uid.take().unwrap_or_default();
    meta.annotations.get_or_insert_default().insert(spec::CONFIG_MIRROR.to_owned(), hash);
    meta.owner_references = node_uid.map(|uid| {
        let name = pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
        vec![OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name,
            uid,
            controller: Some(true),
            block_owner_deletion: None,
        }]
    });
    mirror
}

/// Makes sure that the API shows the pod as it is; an outdated picture goes first.
pub async fn show(ctx: &Ctx, pod: &Pod, shown: Option<&Pod>) -> Result<(), kube::Error> {
    if let Some(old) = shown {
        if spec::is_mirror(old) && spec::uid(old) == spec::uid(pod) && !spec::is_deleting(old) {
            return Ok(());
        }
        remove(ctx, old).await?;
    }
    let node = ctx.node.get(&client::Key::cluster(&ctx.facts.name)).and_then(|n| n.metadata.uid.clone());
    let api: Api<Pod> = Api::namespaced(ctx.client.clone(), spec::namespace(pod));
    match api.create(&PostParams::default(), &mirror(pod, node)).await {
        Err(error) if client::is_already_exists(&error) => Ok(()),
        other => other.map(drop),
    }
}

/// Removes a mirror object.
pub async fn remove(ctx: &Ctx, mirror: &Pod) -> Result<(), kube::Error> {
    let api: Api<Pod> = Api::namespaced(ctx.client.clone(), spec::namespace(mirror));
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: mirror.metadata.uid.clone(), resource_version: None }),
        ..DeleteParams::default()
    };
    match api.delete(spec::name(mirror), &params).await {
        Err(error) if client::is_not_found(&error) || client::is_conflict(&error) => Ok(()),
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers: [{name: a, image: i}]\n";

    #[test]
    fn a_manifest_becomes_a_pod_of_this_node() {
        let pod = parse(MANIFEST, "n1").unwrap();
        assert_eq!((spec::name(&pod), spec::namespace(&pod)), ("web-n1", "default"));
        assert!(spec::is_static(&pod) && !spec::is_mirror(&pod));
        assert_eq!(pod.spec.as_ref().unwrap().restart_policy.as_deref(), Some("Always"));
        let shown = mirror(&pod, Some("node".to_owned()));
        assert!(spec::is_mirror(&shown) && shown.metadata.uid.is_none());
        assert_eq!(spec::uid(&shown), spec::uid(&pod));
        let changed = parse(&MANIFEST.replace("image: i", "image: j"), "n1").unwrap();
        assert_ne!(spec::uid(&changed), spec::uid(&pod));
    }

    #[test]
    fn what_is_no_pod_is_refused() {
        assert!(parse("kind: Service\napiVersion: v1\n", "n1").is_err());
        assert!(parse("", "n1").is_err());
        assert!(parse("kind: Pod\napiVersion: v1\nspec: {containers: []}\n", "n1").is_err());
    }

    #[test]
    fn only_manifests_are_read() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.yaml", ".hidden.yaml", "notes.txt"] {
            std::fs::write(dir.path().join(name), MANIFEST).unwrap();
        }
        assert_eq!(read_all(dir.path(), "n1").len(), 1);
        assert_eq!(read_all(&dir.path().join("a.yaml"), "n1").len(), 1);
    }
}
