//! Which other objects a pod's spec names: what the pod's node has to read, and what a mirror pod may not have.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, LocalObjectReference, Pod, Volume};

/// Marks a pod that a kubelet made to show one of its static pods.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

/// Names of objects in the pod's own namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// Secrets.
    pub secrets: BTreeSet<String>,
    /// ConfigMaps.
    pub config_maps: BTreeSet<String>,
    /// PersistentVolumeClaims, those of ephemeral volumes included.
    pub claims: BTreeSet<String>,
    /// The service account, empty if there is none.
    pub service_account: String,
}

/// Whether the pod stands for a static pod.
pub fn is_mirror(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(MIRROR))
}

/// Everything that the pod's spec names.
pub fn references(pod: &Pod) -> References {
    let mut found = References::default();
    let Some(spec) = &pod.spec else { return found };
    found.service_account = spec.service_account_name.clone().unwrap_or_default();
    spec.image_pull_secrets.iter().flatten().for_each(|secret| add(&mut found.secrets, &secret.name));
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let containers = containers.map(|c| (c.env.as_deref(), c.env_from.as_deref()));
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| (c.env.as_deref(), c.env_from.as_deref()));
    for (env, env_from) in containers.chain(ephemeral) {
        found.environment(env.unwrap_or_default(), env_from.unwrap_or_default());
    }
    for volume in spec.volumes.iter().flatten() {
        found.volume(volume);
        if volume.ephemeral.is_some() {
            let pod = pod.metadata.name.as_deref().unwrap_or_default();
            add(&mut found.claims, &format!("{pod}-{}", volume.name));
        }
    }
    found
}

fn add(names: &mut BTreeSet<String>, name: &str) {
    if !name.is_empty() {
        names.insert(name.to_owned());
    }
}

impl References {
    fn environment(&mut self, env: &[EnvVar], env_from: &[EnvFromSource]) {
        for source in env_from {
            source.secret_ref.iter().for_each(|secret| add(&mut self.secrets, &secret.name));
            source.config_map_ref.iter().for_each(|map| add(&mut self.config_maps, &map.name));
        }
        for source in env.iter().filter_map(|variable| variable.value_from.as_ref()) {
            source.secret_key_ref.iter().for_each(|secret| add(&mut self.secrets, &secret.name));
            source.config_map_key_ref.iter().for_each(|map| add(&mut self.config_maps, &map.name));
        }
    }

    fn volume(&mut self, volume: &Volume) {
        let of = |reference: Option<&LocalObjectReference>| reference.map(|reference| reference.name.clone());
        let names = [
            volume.azure_file.as_ref().map(|source| source.secret_name.clone()),
            of(volume.cephfs.as_ref().and_then(|source| source.secret_ref.as_ref())),
            of(volume.cinder.as_ref().and_then(|source| source.secret_ref.as_ref())),
            of(volume.flex_volume.as_ref().and_then(|source| source.secret_ref.as_ref())),
            of(volume.rbd.as_ref().and_then(|source| source.secret_ref.as_ref())),
            volume.secret.as_ref().and_then(|source| source.secret_name.clone()),
            of(volume.scale_io.as_ref().map(|source| &source.secret_ref)),
            of(volume.iscsi.as_ref().and_then(|source| source.secret_ref.as_ref())),
            of(volume.storageos.as_ref().and_then(|source| source.secret_ref.as_ref())),
            of(volume.csi.as_ref().and_then(|source| source.node_publish_secret_ref.as_ref())),
        ];
        names.iter().flatten().for_each(|name| add(&mut self.secrets, name));
        volume.config_map.iter().for_each(|map| add(&mut self.config_maps, &map.name));
        volume.persistent_volume_claim.iter().for_each(|source| add(&mut self.claims, &source.claim_name));
        for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
            source.secret.iter().for_each(|secret| add(&mut self.secrets, &secret.name));
            source.config_map.iter().for_each(|map| add(&mut self.config_maps, &map.name));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_found_wherever_a_pod_may_have_them() {
        let key = |name: &str| json!({"name": name, "key": "k"});
        let pod = json!({"metadata": {"name": "p"}, "spec": {
            "serviceAccountName": "robot",
            "imagePullSecrets": [{"name": "pull"}, {}],
            "initContainers": [{"name": "i", "env": [{"name": "A", "valueFrom": {"secretKeyRef": key("s-env")}}]}],
            "containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "s-from"}}, {"configMapRef": {"name": "m-from"}}]}],
            "ephemeralContainers": [{"name": "e", "env": [{"name": "A", "valueFrom": {"configMapKeyRef": key("m-env")}}]}],
            "volumes": [
                {"name": "a", "secret": {"secretName": "s-volume"}},
                {"name": "b", "configMap": {"name": "m-volume"}},
                {"name": "c", "projected": {"sources": [{"secret": {"name": "s-projected"}}, {"configMap": {"name": "m-projected"}}]}},
                {"name": "d", "persistentVolumeClaim": {"claimName": "claim"}},
                {"name": "e", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
                {"name": "f", "csi": {"driver": "x", "nodePublishSecretRef": {"name": "s-csi"}}},
            ],
        }});
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let want = References {
            secrets: set(&["pull", "s-env", "s-from", "s-volume", "s-projected", "s-csi"]),
            config_maps: set(&["m-from", "m-env", "m-volume", "m-projected"]),
            claims: set(&["claim", "p-e"]),
            service_account: "robot".into(),
        };
        assert_eq!(references(&serde_json::from_value(pod).unwrap()), want);
    }
}
