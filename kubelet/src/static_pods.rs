//! Pods from files on this node (`--pod-manifest-path`), and the mirror objects that show them in the API.
//!
//! A static pod's UID is a hash of its file, so a changed file is another pod: the old one is stopped first. The mirror
//! carries that hash; whoever deletes it only deletes the picture, which is then made again. Nothing of this needs the API: a
//! static pod starts without it, and is shown once there is one.
//!
//! A file that is broken stays what it was last: most likely it is being written.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use api::kind::Resource;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Pod, Toleration},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use process::inotify::Watch;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::{pod::spec, shared::Ctx};

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

/// Notes when this kubelet first saw the pod (`kubernetes.io/config.seen`).
pub fn seen(mut pod: Pod, now: Timestamp) -> Pod {
    pod.metadata.annotations.get_or_insert_default().insert(spec::CONFIG_SEEN.to_owned(), now.to_string());
    pod
}

/// What the files said when they could last be read.
#[derive(Default)]
struct Files(BTreeMap<PathBuf, Pod>);

impl Files {
    /// Every pod of `path` (a file, or a directory with files), by UID. As upstream, only hidden files are not read.
    fn read(&mut self, path: &Path, node: &str) -> BTreeMap<String, Pod> {
        let files: Vec<PathBuf> = match std::fs::read_dir(path) {
            Ok(entries) => entries.flatten().map(|e| e.path()).filter(|p| !is_hidden(p) && p.is_file()).collect(),
            Err(_) => vec![path.to_owned()],
        };
        let mut now = BTreeMap::new();
        for file in files {
            let Ok(text) = std::fs::read_to_string(&file) else { continue };
            let pod = parse(&text, node).map_err(|error| {
                tracing::warn!(file = %file.display(), error, "not a static pod");
                self.0.remove(&file)
            });
            if let Some(pod) = pod.map_or_else(|before| before, Some) {
                now.insert(file, pod);
            }
        }
        self.0 = now;
        self.0.values().map(|pod| (spec::uid(pod), pod.clone())).collect()
    }
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_none_or(|n| n.as_encoded_bytes().starts_with(b"."))
}

/// How often the files are read when nothing tells of a change (upstream's default; a directory may come later, and links may
/// lead to where nobody watches).
const EVERY: Duration = Duration::from_secs(20);

/// Sends the whole set whenever something below `path` changes.
pub async fn watch(path: PathBuf, node: String, sets: mpsc::UnboundedSender<BTreeMap<String, Pod>>) {
    let (mut files, mut said) = (Files::default(), None);
    loop {
        // Watched as one thing until it turns out to be the other.
        let is_dir = path.is_dir();
        let dir = if is_dir { path.clone() } else { path.parent().map(Path::to_owned).unwrap_or_default() };
        let watch = Watch::new(&dir);
        let mut watch =
            watch.inspect_err(|error| tracing::warn!(dir = %dir.display(), %error, "cannot watch for static pods"));
        while path.is_dir() == is_dir {
            let set = files.read(&path, &node);
            if said.as_ref() != Some(&set) {
                if sets.send(set.clone()).is_err() {
                    return;
                }
                said = Some(set);
            }
            let changed = async {
                match &mut watch {
                    Ok(watch) => watch.changed().await.map(drop),
                    Err(_) => std::future::pending().await,
                }
            };
            let told = tokio::time::timeout(EVERY, changed).await;
            if !matches!(told, Ok(Ok(()))) {
                break;
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

/// Makes sure that the API shows the pod as it is, or does not show it (any more); an outdated picture goes first.
pub async fn draw(ctx: &Ctx, current: Option<&Pod>, shown: Option<&Pod>) -> Result<(), kube::Error> {
    if let Some(old) = shown {
        let same = |pod: &Pod| spec::is_mirror(old) && spec::uid(old) == spec::uid(pod) && !spec::is_deleting(old);
        if current.is_some_and(same) {
            return Ok(());
        }
        remove(ctx, old).await?;
    }
    let Some(pod) = current else { return Ok(()) };
    let node = ctx.node.get(&client::Key::cluster(&ctx.facts.name)).and_then(|n| n.metadata.uid.clone());
    let api: Api<Pod> = Api::namespaced(ctx.client.clone(), spec::namespace(pod));
    match api.create(&PostParams::default(), &mirror(pod, node)).await {
        Err(error) if client::is_already_exists(&error) => Ok(()),
        other => other.map(drop),
    }
}

/// Removes a mirror object.
async fn remove(ctx: &Ctx, mirror: &Pod) -> Result<(), kube::Error> {
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
    fn files_of_a_folder_but_hidden_ones() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.yaml", "b", ".hidden.yaml"] {
            std::fs::write(dir.path().join(name), MANIFEST.replace("web", &format!("web-{}", name.len()))).unwrap();
        }
        std::fs::create_dir(dir.path().join("more")).unwrap();
        assert_eq!(Files::default().read(dir.path(), "n1").len(), 2);
        assert_eq!(Files::default().read(&dir.path().join("a.yaml"), "n1").len(), 1);
    }

    #[test]
    fn a_file_that_is_being_written_is_what_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.yaml");
        let mut files = Files::default();
        let mut read = |text: &str| {
            std::fs::write(&file, text).unwrap();
            files.read(dir.path(), "n1").into_keys().collect::<Vec<_>>()
        };
        let first = read(MANIFEST);
        assert_eq!((first.len(), read(""), read("kind: [")), (1, first.clone(), first.clone()));
        assert_ne!(read(&MANIFEST.replace("image: i", "image: j")), first);
        std::fs::remove_file(&file).unwrap();
        assert!(files.read(dir.path(), "n1").is_empty());
    }
}
