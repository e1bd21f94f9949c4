//! A pod template's identity: when two are the same, and the short hash that names a ReplicaSet after one.

use k8s_openapi::api::core::v1::PodTemplateSpec;

/// The label that a Deployment puts on its ReplicaSets and their pods.
pub const HASH_LABEL: &str = "pod-template-hash";

/// Upstream's alphabet for generated names: no vowels and no look-alikes, so that no words come out.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The template without the hash label.
pub fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(metadata) = template.metadata.as_mut() {
        if let Some(labels) = metadata.labels.as_mut() {
            labels.remove(HASH_LABEL);
        }
        metadata.labels = metadata.labels.take().filter(|l| !l.is_empty());
        metadata.annotations = metadata.annotations.take().filter(|a| !a.is_empty());
        metadata.creation_timestamp = None;
    }
    template
}

/// Whether both make the same pods, the hash label aside.
pub fn same(a: Option<&PodTemplateSpec>, b: Option<&PodTemplateSpec>) -> bool {
    let metadata = |t: &PodTemplateSpec| {
        without_hash(&PodTemplateSpec { metadata: t.metadata.clone(), spec: None }).metadata.unwrap_or_default()
    };
    match (a, b) {
        (Some(a), Some(b)) => a.spec == b.spec && metadata(a) == metadata(b),
        (a, b) => a.is_none() && b.is_none(),
    }
}

/// FNV-1a over the template's JSON (whose fields and map keys are in one order) and the collision count, in name-safe
/// letters. Upstream hashes a dump of its own structs; the values differ, their form and use don't.
pub fn hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let mut bytes = serde_json::to_vec(&without_hash(template)).unwrap_or_default();
    bytes.extend(collisions.unwrap_or(0).to_le_bytes());
    let sum = bytes.iter().fold(0x811c_9dc5_u32, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    sum.to_string().bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()])).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::needless_pass_by_value, reason = "json! makes values")]

    use super::*;

    fn template(labels: serde_json::Value) -> PodTemplateSpec {
        serde_json::from_value(serde_json::json!({"metadata": {"labels": labels}})).expect("a template")
    }

    #[test]
    fn the_hash_label_is_no_part_of_the_identity() {
        let (plain, labelled) =
            (template(serde_json::json!({"a": "b"})), template(serde_json::json!({"a": "b", HASH_LABEL: "x"})));
        assert!(same(Some(&plain), Some(&labelled)));
        assert_eq!(hash(&plain, None), hash(&labelled, None));
        assert_ne!(hash(&plain, None), hash(&plain, Some(1)));
        assert!(hash(&plain, None).bytes().all(|b| ALPHABET.contains(&b)));
    }
}
