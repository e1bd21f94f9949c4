//! Image names, pull policies and pull credentials, decided without a registry.

use base64::{Engine, engine::general_purpose::STANDARD};
use k8s_openapi::api::core::v1::Secret;
use serde::Deserialize;

/// A name that is no image reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": invalid reference format{detail}"
)]
pub struct InvalidName {
    image: String,
    detail: String,
}

/// The name with `:latest` where it has neither tag nor digest.
pub fn with_default_tag(image: &str) -> Result<String, InvalidName> {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let last_slash = name.rfind('/').map_or(0, |i| i + 1);
    let (repository, tag) = match name[last_slash..].find(':') {
        Some(colon) => (&name[..last_slash + colon], Some(&name[last_slash + colon + 1..])),
        None => (name, None),
    };
    let (host, path) = split_host(repository);
    let detail = if path.bytes().any(|b| b.is_ascii_uppercase()) {
        // Names without a host are those of the default registry.
        let library = if host.is_none() && !path.contains('/') { "library/" } else { "" };
        format!(": repository name ({library}{path}) must be lowercase")
    } else {
        String::new()
    };
    let host_ok = host.is_none_or(|h| {
        let (h, port) = h.rsplit_once(':').map_or((h, None), |(h, p)| (h, Some(p)));
        !h.is_empty()
            && h.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.[]:".contains(&b))
            && port.is_none_or(|p| p.bytes().all(|b| b.is_ascii_digit()) || h.starts_with('['))
    });
    let component = |c: &str| {
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        edge(c.bytes().next())
            && edge(c.bytes().last())
            && c.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
    };
    let tag_ok = tag.is_none_or(|t| {
        (1..=128).contains(&t.len())
            && t.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
            && !t.starts_with(['.', '-'])
    });
    let digest_ok = digest.is_none_or(|d| {
        d.split_once(':').is_some_and(|(algorithm, hex)| {
            !algorithm.is_empty() && hex.len() >= 32 && hex.bytes().all(|b| b.is_ascii_hexdigit())
        })
    });
    if !(host_ok && path.split('/').all(component) && tag_ok && digest_ok) {
        return Err(InvalidName { image: image.to_owned(), detail });
    }
    Ok(if tag.is_none() && digest.is_none() { format!("{image}:latest") } else { image.to_owned() })
}

/// `(registry host, path)`; the first component is a host if it looks like one.
fn split_host(repository: &str) -> (Option<&str>, &str) {
    match repository.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (Some(first), rest),
        _ => (None, repository),
    }
}

/// Whether to pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pull {
    /// Ask the registry.
    Yes,
    /// Use what is there.
    Present,
    /// It is not there and must not be pulled.
    Never,
}

/// What the pull policy says. The API server has filled in the policy.
pub fn pull(policy: Option<&str>, image: &str, present: bool) -> Pull {
    let default = if image.ends_with(":latest") { "Always" } else { "IfNotPresent" };
    match (policy.filter(|p| !p.is_empty()).unwrap_or(default), present) {
        ("Always", _) | ("IfNotPresent", false) => Pull::Yes,
        ("Never", false) => Pull::Never,
        _ => Pull::Present,
    }
}

/// Credentials for a registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User.
    pub username: String,
    /// Password.
    pub password: String,
    /// An OAuth identity token instead.
    pub identity_token: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
}

#[derive(Deserialize)]
struct DockerConfig {
    auths: std::collections::BTreeMap<String, Entry>,
}

/// Credentials of the pull secrets that apply to an image, the most specific first.
pub fn credentials(image: &str, secrets: &[Secret]) -> Vec<Credentials> {
    let repository = image.split('@').next().unwrap_or(image);
    let (host, path) = split_host(repository);
    let target = match host {
        Some(host) => format!("{host}/{path}"),
        None if path.contains('/') => format!("docker.io/{path}"),
        None => format!("docker.io/library/{path}"),
    };
    let mut found: Vec<((bool, std::cmp::Reverse<usize>), Credentials)> = Vec::new();
    for (key, entry) in secrets.iter().flat_map(entries) {
        let place = key.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
        let place = match place.split('/').next() {
            Some("index.docker.io" | "registry-1.docker.io") => "docker.io",
            _ => place.trim_end_matches("/v1").trim_end_matches("/v2"),
        };
        if matches(&target, place) {
            found.push(((place.contains('*'), std::cmp::Reverse(place.len())), entry));
        }
    }
    found.sort_by_key(|(rank, _)| *rank);
    found.into_iter().map(|(_, credentials)| credentials).collect()
}

/// Host labels may be `*`; a path matches as a prefix.
fn matches(target: &str, place: &str) -> bool {
    let (target_host, target_path) = target.split_once('/').unwrap_or((target, ""));
    let (host, path) = place.split_once('/').unwrap_or((place, ""));
    let labels = |h: &str| h.split('.').map(str::to_owned).collect::<Vec<_>>();
    let (ours, theirs) = (labels(target_host), labels(host));
    ours.len() == theirs.len() && ours.iter().zip(&theirs).all(|(a, b)| a == b || b == "*") && target_path.starts_with(path)
}

fn entries(secret: &Secret) -> Vec<(String, Credentials)> {
    let data = |key: &str| secret.data.as_ref().and_then(|d| d.get(key));
    let auths = match (data(".dockerconfigjson"), data(".dockercfg")) {
        (Some(json), _) => serde_json::from_slice::<DockerConfig>(&json.0).map(|c| c.auths).unwrap_or_default(),
        (None, Some(json)) => serde_json::from_slice(&json.0).unwrap_or_default(),
        (None, None) => return Vec::new(),
    };
    auths
        .into_iter()
        .map(|(key, entry)| {
            let decoded = STANDARD.decode(entry.auth.trim()).ok().and_then(|b| String::from_utf8(b).ok());
            let pair = decoded.as_deref().and_then(|d| d.trim_end_matches('\0').split_once(':'));
            let (username, password) = match pair {
                Some((user, password)) => (user.to_owned(), password.to_owned()),
                None => (entry.username, entry.password),
            };
            (key, Credentials { username, password, identity_token: entry.identity_token })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names() {
        let ok = |i: &str| with_default_tag(i).unwrap();
        assert_eq!(ok("nginx"), "nginx:latest");
        assert_eq!(ok("localhost:5000/a/b"), "localhost:5000/a/b:latest");
        assert_eq!(ok("a.example/b:1.2"), "a.example/b:1.2");
        let digest = format!("b@sha256:{}", "0".repeat(64));
        assert_eq!(ok(&digest), digest);
        for bad in ["", "UPPER", "a b", "x/", "x:", "x@sha256:1", "a//b", "-x"] {
            assert!(with_default_tag(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn policies() {
        assert_eq!(pull(Some("Always"), "a:1", true), Pull::Yes);
        assert_eq!(pull(Some("IfNotPresent"), "a:1", true), Pull::Present);
        assert_eq!(pull(Some("IfNotPresent"), "a:1", false), Pull::Yes);
        assert_eq!(pull(Some("Never"), "a:1", false), Pull::Never);
        assert_eq!(pull(None, "a:latest", true), Pull::Yes);
    }

    #[test]
    fn the_most_specific_credentials_come_first() {
        let config = json!({"auths": {
            "https://index.docker.io/v1/": {"auth": STANDARD.encode("hub:1")},
            "r.example": {"username": "host", "password": "2"},
            "r.example/team": {"auth": STANDARD.encode("team:3")},
            "*.example": {"auth": STANDARD.encode("any:4")}}});
        let data = STANDARD.encode(config.to_string());
        let secret: Secret = serde_json::from_value(json!({"data": {".dockerconfigjson": data}})).unwrap();
        let users = |image: &str| -> Vec<String> {
            credentials(image, std::slice::from_ref(&secret)).into_iter().map(|c| c.username).collect()
        };
        assert_eq!(users("nginx:1"), ["hub"]);
        assert_eq!(users("r.example/team/app:1"), ["team", "host", "any"]);
        assert_eq!(users("r.example/other"), ["host", "any"]);
        assert!(users("quay.test/x").is_empty());
    }
}
