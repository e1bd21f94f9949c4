//! What configMap, secret, downwardAPI and projected volumes hold: computed from objects, written by [`super::atomic`].

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, Volume, VolumeProjection};

use crate::pod::env::{self, Sources};

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its bytes.
    pub data: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Who owns it, if not root: a token is for its reader alone.
    pub user: Option<u32>,
}

/// Files by path relative to the volume.
pub type Payload = BTreeMap<String, File>;

/// Why the contents cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PayloadError(pub String);

fn fail<T>(message: String) -> Result<T, PayloadError> {
    Err(PayloadError(message))
}

/// A token that a projected volume asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenRequest {
    /// Audience; empty is the API server's own.
    pub audience: String,
    /// Lifetime asked for.
    pub seconds: i64,
}

/// Everything contents may draw from.
pub struct Material<'a> {
    /// Objects and addresses.
    pub sources: &'a Sources,
    /// Tokens by request.
    pub tokens: &'a HashMap<TokenRequest, String>,
}

const DEFAULT_MODE: i32 = 0o644;

/// Names of objects that the pod's volumes refer to: `(config maps, secrets)`.
pub fn references(pod: &Pod) -> (Vec<String>, Vec<String>) {
    let (mut maps, mut secrets) = (Vec::new(), Vec::new());
    for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
        maps.extend(volume.config_map.iter().map(|c| c.name.clone()));
        secrets.extend(volume.secret.iter().filter_map(|s| s.secret_name.clone()));
        for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            maps.extend(source.config_map.iter().map(|c| c.name.clone()));
            secrets.extend(source.secret.iter().map(|s| s.name.clone()));
        }
    }
    (maps, secrets)
}

/// The tokens that the pod's volumes ask for.
pub fn token_requests(pod: &Pod) -> Vec<TokenRequest> {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    let projections = volumes.flat_map(|v| v.projected.iter().flat_map(|p| p.sources.iter().flatten()));
    let mut requests: Vec<TokenRequest> = projections
        .filter_map(|s| s.service_account_token.as_ref())
        .map(|t| TokenRequest {
            audience: t.audience.clone().unwrap_or_default(),
            seconds: t.expiration_seconds.unwrap_or(3600),
        })
        .collect();
    requests.dedup();
    requests
}

/// The contents of a volume; `None` for kinds that hold no object's data.
pub fn build(pod: &Pod, volume: &Volume, m: &Material) -> Result<Option<Payload>, PayloadError> {
    let mut files = Payload::new();
    if let Some(v) = &volume.config_map {
        let mode = v.default_mode.unwrap_or(DEFAULT_MODE);
        choose(&mut files, Source::config_map(m, &v.name), v.items.as_deref(), v.optional, mode)?;
    } else if let Some(v) = &volume.secret {
        let mode = v.default_mode.unwrap_or(DEFAULT_MODE);
        let name = v.secret_name.as_deref().unwrap_or_default();
        choose(&mut files, Source::secret(m, name), v.items.as_deref(), v.optional, mode)?;
    } else if let Some(v) = &volume.downward_api {
        let mode = v.default_mode.unwrap_or(DEFAULT_MODE);
        add_downward(&mut files, pod, m, v.items.as_deref().unwrap_or_default(), mode)?;
    } else if let Some(v) = &volume.projected {
        let mode = v.default_mode.unwrap_or(DEFAULT_MODE);
        for source in v.sources.iter().flatten() {
            project(&mut files, pod, m, source, mode)?;
        }
    } else {
        return Ok(None);
    }
    Ok(Some(files))
}

fn project(files: &mut Payload, pod: &Pod, m: &Material, source: &VolumeProjection, mode: i32) -> Result<(), PayloadError> {
    if let Some(s) = &source.config_map {
        choose(files, Source::config_map(m, &s.name), s.items.as_deref(), s.optional, mode)?;
    }
    if let Some(s) = &source.secret {
        choose(files, Source::secret(m, &s.name), s.items.as_deref(), s.optional, mode)?;
    }
    if let Some(s) = &source.downward_api {
        add_downward(files, pod, m, s.items.as_deref().unwrap_or_default(), mode)?;
    }
    if let Some(s) = &source.service_account_token {
        let request =
            TokenRequest { audience: s.audience.clone().unwrap_or_default(), seconds: s.expiration_seconds.unwrap_or(3600) };
        let Some(token) = m.tokens.get(&request) else {
            return fail("failed to fetch token: no token has been issued yet".to_owned());
        };
        // Narrow where ownership can name the one who reads it.
        let owner = super::owner(pod);
        let mode = if owner.group.is_some() || owner.user.is_some() { 0o600 } else { mode };
        add(files, &s.path, token.clone().into_bytes(), mode)?;
        if let Some(file) = files.get_mut(&s.path) {
            file.user = owner.user;
        }
    }
    if source.cluster_trust_bundle.is_some() {
        return fail("clusterTrustBundle projection is not supported by this node".to_owned());
    }
    if source.pod_certificate.is_some() {
        return fail("podCertificate projection is not supported by this node".to_owned());
    }
    Ok(())
}

fn add(files: &mut Payload, path: &str, data: Vec<u8>, mode: i32) -> Result<(), PayloadError> {
    let safe = !path.is_empty() && !path.starts_with('/') && path.split('/').all(|p| p != ".." && p != "." && !p.is_empty());
    if !safe || path.starts_with("..") {
        return fail(format!("invalid path \"{path}\" in volume"));
    }
    files.insert(path.to_owned(), File { data, mode: u32::try_from(mode).unwrap_or(0o644) & 0o777, user: None });
    Ok(())
}

/// What a volume shows of a ConfigMap or Secret.
struct Source<'a> {
    /// `configmap` or `secret`.
    kind: &'static str,
    name: &'a str,
    /// By key; `None` if the object is not there.
    data: Option<BTreeMap<String, Vec<u8>>>,
    /// How a key is told of that it lacks.
    lacks: &'static str,
}

impl<'a> Source<'a> {
    fn config_map(m: &Material, name: &'a str) -> Self {
        let data = m.sources.config_maps.get(name).map(config_map_bytes);
        Self { kind: "configmap", name, data, lacks: "configmap references non-existent config key" }
    }

    fn secret(m: &Material, name: &'a str) -> Self {
        let data = m.sources.secrets.get(name).map(secret_bytes);
        Self { kind: "secret", name, data, lacks: "references non-existent secret key" }
    }
}

/// Adds all keys, or the ones chosen by `items`.
fn choose(
    files: &mut Payload,
    source: Source,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    mode: i32,
) -> Result<(), PayloadError> {
    let optional = optional == Some(true);
    let Source { kind, name, data, lacks } = source;
    let Some(data) = data else {
        return if optional { Ok(()) } else { fail(format!("{kind} \"{name}\" not found")) };
    };
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        return data.into_iter().try_for_each(|(key, bytes)| add(files, &key, bytes, mode));
    };
    for item in items {
        match data.get(&item.key) {
            Some(bytes) => add(files, &item.path, bytes.clone(), item.mode.unwrap_or(mode))?,
            None if optional => {}
            None => return fail(format!("{lacks}: {}", item.key)),
        }
    }
    Ok(())
}

fn config_map_bytes(map: &ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let text = map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()));
    text.chain(binary).collect()
}

fn secret_bytes(secret: &Secret) -> BTreeMap<String, Vec<u8>> {
    secret.data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect()
}

fn add_downward(
    files: &mut Payload,
    pod: &Pod,
    m: &Material,
    items: &[DownwardAPIVolumeFile],
    mode: i32,
) -> Result<(), PayloadError> {
    for item in items {
        let value = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => env::field_value(pod, field, m.sources),
            (None, Some(resource)) => env::resource_value(pod, None, resource, &m.sources.allocatable),
            (None, None) => continue,
        };
        let value = value.map_err(|e| PayloadError(e.0))?;
        add(files, &item.path, value.into_bytes(), item.mode.unwrap_or(mode))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn built(volume: Value) -> Result<Vec<String>, String> {
        built_for(&json!([]), volume)
    }

    fn built_for(containers: &Value, volume: Value) -> Result<Vec<String>, String> {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "labels": {"a": "b"}},
            "spec": {"containers": containers, "volumes": [volume]}}))
        .unwrap();
        let sources = Sources {
            config_maps: [(
                "cm".to_owned(),
                serde_json::from_value(json!({"data": {"k": "v"}, "binaryData": {"b": "AAE="}})).unwrap(),
            )]
            .into(),
            secrets: [("s".to_owned(), serde_json::from_value(json!({"data": {"p": "cHc="}})).unwrap())].into(),
            ..Sources::default()
        };
        let request = TokenRequest { audience: String::new(), seconds: 3607 };
        let tokens = [(request, "tok".to_owned())].into();
        let material = Material { sources: &sources, tokens: &tokens };
        let volume = &pod.spec.as_ref().unwrap().volumes.as_ref().unwrap()[0];
        let payload = build(&pod, volume, &material).map_err(|e| e.0)?.unwrap();
        let line = |(p, f): (&String, &File)| {
            let user = f.user.map(|user| format!("{user} ")).unwrap_or_default();
            format!("{p} {:o} {user}{}", f.mode, String::from_utf8_lossy(&f.data))
        };
        Ok(payload.iter().map(line).collect())
    }

    #[test]
    fn contents() {
        let all = built(json!({"name": "v", "configMap": {"name": "cm", "defaultMode": 256}})).unwrap();
        assert_eq!(all, ["b 400 \0\u{1}", "k 400 v"]);
        let items = json!({"name": "v", "secret": {"secretName": "s", "items": [{"key": "p", "path": "d/x", "mode": 288}]}});
        assert_eq!(built(items).unwrap(), ["d/x 440 pw"]);
        let projected = json!({"name": "v", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "cm", "items": [{"key": "k", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}});
        assert_eq!(built(projected.clone()).unwrap(), ["ca.crt 644 v", "namespace 644 n", "token 644 tok"]);
        let one_user = json!([{"name": "c", "securityContext": {"runAsUser": 7}}]);
        let for_user = built_for(&one_user, projected).unwrap();
        assert_eq!(for_user, ["ca.crt 644 v", "namespace 644 n", "token 600 7 tok"]);
        assert!(built(json!({"name": "v", "configMap": {"name": "no", "optional": true}})).unwrap().is_empty());
    }

    #[test]
    fn refusals() {
        let error = |v: Value| built(v).unwrap_err();
        assert_eq!(error(json!({"name": "v", "configMap": {"name": "no"}})), "configmap \"no\" not found");
        let key = json!({"name": "v", "secret": {"secretName": "s", "items": [{"key": "no", "path": "x"}]}});
        assert_eq!(error(key), "references non-existent secret key: no");
        let path = json!({"name": "v", "secret": {"secretName": "s", "items": [{"key": "p", "path": "a/../../x"}]}});
        assert_eq!(error(path), "invalid path \"a/../../x\" in volume");
        let bundle = json!({"name": "v", "projected": {"sources": [{"clusterTrustBundle": {"path": "x"}}]}});
        assert_eq!(error(bundle), "clusterTrustBundle projection is not supported by this node");
    }
}
