//! Who may use an image that is here (KEP-2535): one that was pulled with credentials is for pods that have them too.
//!
//! Every pull leaves a record beside the kubelet's other state, in upstream's form. An image without a record came here by
//! another way and is everybody's. A record holds hashes of credentials, never the credentials.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::pod::image::{self, Credentials};

/// A secret that opens an image.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Key {
    uid: String,
    namespace: String,
    name: String,
    credential_hash: String,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default, rename_all = "camelCase")]
struct Access {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    node_pods_accessible: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kubernetes_secrets: Vec<Key>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default, rename_all = "camelCase")]
struct Record {
    kind: String,
    api_version: String,
    last_updated_time: Option<Timestamp>,
    image_ref: String,
    credential_mapping: BTreeMap<String, Access>,
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

fn hash(credentials: &Credentials) -> String {
    let text = serde_json::json!([credentials.username, credentials.password, credentials.identity_token]).to_string();
    hex(&Sha256::digest(text.as_bytes()))
}

/// The credentials for an image in these secrets, each with the secret it is from, the most specific first.
pub fn keys(image: &str, secrets: &[Secret]) -> Vec<(Credentials, Key)> {
    let key = |secret: &Secret, credentials: &Credentials| Key {
        uid: secret.metadata.uid.clone().unwrap_or_default(),
        namespace: secret.metadata.namespace.clone().unwrap_or_default(),
        name: secret.metadata.name.clone().unwrap_or_default(),
        credential_hash: hash(credentials),
    };
    let all = image::credentials(image, secrets);
    let owner = |wanted: &Credentials| {
        secrets.iter().find(|secret| image::credentials(image, std::slice::from_ref(*secret)).contains(wanted))
    };
    all.into_iter().filter_map(|credentials| Some((credentials.clone(), key(owner(&credentials)?, &credentials)))).collect()
}

/// What records are kept by: an image's name without tag and digest.
fn repository(image: &str) -> &str {
    let name = image.split('@').next().unwrap_or(image);
    let last = name.rfind('/').map_or(0, |at| at + 1);
    name[last..].find(':').map_or(name, |colon| &name[..last + colon])
}

/// Whether a pod with these keys may use the image without asking the registry.
fn allows(record: Option<&Record>, image: &str, keys: &[(Credentials, Key)]) -> bool {
    let Some(record) = record else { return true };
    let Some(access) = record.credential_mapping.get(repository(image)) else { return false };
    let same = |known: &Key, own: &Key| {
        let secret = |key: &Key| (key.uid.clone(), key.namespace.clone(), key.name.clone());
        known.credential_hash == own.credential_hash || secret(known) == secret(own)
    };
    access.node_pods_accessible || access.kubernetes_secrets.iter().any(|known| keys.iter().any(|(_, own)| same(known, own)))
}

/// The record after a pull with a key, or without any.
fn noted(record: Option<Record>, image: &str, reference: &str, key: Option<&Key>, now: Timestamp) -> Record {
    let mut record = record.unwrap_or_default();
    record.kind = "ImagePulledRecord".to_owned();
    record.api_version = "kubelet.config.k8s.io/v1beta1".to_owned();
    record.last_updated_time = Some(now);
    record.image_ref = reference.to_owned();
    let access = record.credential_mapping.entry(repository(image).to_owned()).or_default();
    match key {
        None => *access = Access { node_pods_accessible: true, kubernetes_secrets: Vec::new() },
        Some(_) if access.node_pods_accessible => {}
        Some(key) => {
            let other = |known: &Key| (&known.namespace, &known.name) != (&key.namespace, &key.name);
            access.kubernetes_secrets.retain(other);
            access.kubernetes_secrets.push(key.clone());
        }
    }
    record
}

fn path(root: &Path, reference: &str) -> PathBuf {
    root.join("image_manager/pulled").join(format!("sha256-{}", hex(&Sha256::digest(reference.as_bytes()))))
}

fn read(root: &Path, reference: &str) -> Option<Record> {
    serde_json::from_slice(&fs::read(path(root, reference)).ok()?).ok()
}

/// Whether a pod with these keys may use an image that is here, by the records below `root`.
pub fn may_use(root: &Path, image: &str, reference: &str, keys: &[(Credentials, Key)]) -> bool {
    allows(read(root, reference).as_ref(), image, keys)
}

/// Records a pull, whole or not at all.
///
/// # Errors
/// The record could not be written.
pub fn note(root: &Path, image: &str, reference: &str, key: Option<&Key>, now: Timestamp) -> io::Result<()> {
    let target = path(root, reference);
    let record = noted(read(root, reference), image, reference, key, now);
    let dir = target.parent().unwrap_or(root);
    fs::create_dir_all(dir)?;
    static DRAFTS: AtomicU64 = AtomicU64::new(0);
    let draft = dir.join(format!(".draft-{}", DRAFTS.fetch_add(1, Ordering::Relaxed)));
    fs::write(&draft, serde_json::to_vec(&record)?)?;
    fs::rename(&draft, &target)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{ByteString, apimachinery::pkg::apis::meta::v1::ObjectMeta};

    use super::*;

    fn secret(name: &str, password: &str) -> Secret {
        let config = serde_json::json!({"auths": {"r.example": {"username": "u", "password": password}}});
        Secret {
            metadata: ObjectMeta { name: Some(name.to_owned()), uid: Some(name.to_owned()), ..ObjectMeta::default() },
            data: Some([(".dockerconfigjson".to_owned(), ByteString(config.to_string().into_bytes()))].into()),
            ..Secret::default()
        }
    }

    #[test]
    fn an_image_is_for_those_who_could_have_pulled_it() {
        const IMAGE: &str = "r.example/app:1";
        let dir = tempfile::tempdir().unwrap();
        let keys_of = |name: &str, password: &str| keys(IMAGE, &[secret(name, password)]);
        let may = |image: &str, keys: &[(Credentials, Key)]| may_use(dir.path(), image, "id", keys);
        // Loaded by hand.
        assert!(may(IMAGE, &[]));
        let good = keys_of("good", "p");
        note(dir.path(), IMAGE, "id", Some(&good[0].1), Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(
            [
                may(IMAGE, &good),
                may("r.example/app:2", &good),
                may(IMAGE, &keys_of("other", "p")),
                may(IMAGE, &keys_of("good", "changed")),
                may(IMAGE, &keys_of("other", "q")),
                may(IMAGE, &[]),
                may("r.example/else:1", &good),
            ],
            [true, true, true, true, false, false, false]
        );
        note(dir.path(), IMAGE, "id", None, Timestamp::UNIX_EPOCH).unwrap();
        assert!(may(IMAGE, &[]));
    }
}
