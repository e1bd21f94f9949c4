//! How registries are reached, from a file in the form that k3s made known (`registries.yaml`):
//!
//! ```yaml
//! mirrors:
//!   docker.io:
//!     endpoint: ["https://mirror.example:5000"]
//! configs:
//!   mirror.example:5000:
//!     auth: { username: me, password: secret }
//!     tls: { ca_file: /etc/ssl/mirror.pem, insecure_skip_verify: false }
//! ```
//!
//! What is in the file and not understood here is an error: a mirror that is silently left out sends pulls elsewhere.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use runtime::{Credentials, Registry};
use serde::Deserialize;

/// Read when no file is named, if it is there.
pub const DEFAULT_FILE: &str = "/etc/knarr/registries.yaml";

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    mirrors: BTreeMap<String, Mirrors>,
    configs: BTreeMap<String, Settings>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Mirrors {
    endpoint: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    auth: Option<Auth>,
    tls: Option<Tls>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Auth {
    username: String,
    password: String,
    token: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Tls {
    ca_file: Option<PathBuf>,
    insecure_skip_verify: bool,
}

/// The file that was asked for, or the usual one if it exists.
pub fn load(asked: Option<&Path>) -> Result<Vec<Registry>> {
    let path = match asked {
        Some(path) => path,
        None if Path::new(DEFAULT_FILE).exists() => Path::new(DEFAULT_FILE),
        None => return Ok(Vec::new()),
    };
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    parse(&text).with_context(|| format!("understand {}", path.display()))
}

fn parse(text: &str) -> Result<Vec<Registry>> {
    let file: File = serde_saphyr::from_str(text)?;
    let mut all = BTreeMap::new();
    for (host, mirrors) in file.mirrors {
        let mut names = Vec::new();
        for endpoint in &mirrors.endpoint {
            let (mirror, plain_http) = endpoint_host(endpoint)?;
            entry(&mut all, mirror).plain_http |= plain_http;
            names.push(mirror.to_owned());
        }
        entry(&mut all, &host).mirrors = names;
    }
    for (host, settings) in file.configs {
        let registry = entry(&mut all, &host);
        registry.credentials = settings.auth.map(credentials).transpose().with_context(|| format!("auth of {host}"))?;
        let tls = settings.tls.unwrap_or_default();
        registry.ca_file = tls.ca_file;
        registry.skip_verify = tls.insecure_skip_verify;
    }
    Ok(all.into_values().collect())
}

fn entry<'a>(all: &'a mut BTreeMap<String, Registry>, host: &str) -> &'a mut Registry {
    all.entry(host.to_owned()).or_insert_with(|| Registry { host: host.to_owned(), ..Registry::default() })
}

/// (`host[:port]`, whether it speaks plain HTTP)
fn endpoint_host(endpoint: &str) -> Result<(&str, bool)> {
    let (plain, rest) = match (endpoint.strip_prefix("http://"), endpoint.strip_prefix("https://")) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => bail!("endpoint {endpoint:?} does not begin with http:// or https://"),
    };
    let host = rest.trim_end_matches('/').trim_end_matches("/v2");
    if host.is_empty() || host.contains('/') {
        bail!("endpoint {endpoint:?} must be a host with or without a port; paths are not supported");
    }
    Ok((host, plain))
}

fn credentials(auth: Auth) -> Result<Credentials> {
    match (auth.username.is_empty(), auth.token.is_empty()) {
        (false, true) => Ok(Credentials::Basic(auth.username, auth.password)),
        (true, false) => Ok(Credentials::Bearer(auth.token)),
        _ => bail!("either username (with password) or token must be given"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_and_settings() {
        let text = "mirrors:\n  docker.io:\n    endpoint: [\"http://127.0.0.1:5000/v2/\", \"https://m.example\"]\n\
                    configs:\n  m.example:\n    auth: {username: me, password: pw}\n    tls: {insecure_skip_verify: true}\n";
        let registry = |host: &str| Registry { host: host.to_owned(), ..Registry::default() };
        let expected = vec![
            Registry { plain_http: true, ..registry("127.0.0.1:5000") },
            Registry { mirrors: vec!["127.0.0.1:5000".into(), "m.example".into()], ..registry("docker.io") },
            Registry {
                skip_verify: true,
                credentials: Some(Credentials::Basic("me".into(), "pw".into())),
                ..registry("m.example")
            },
        ];
        assert_eq!(parse(text).unwrap(), expected);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in
            ["mirrors: {a: {rewrite: {}}}", "mirrors: {a: {endpoint: [b]}}", "configs: {a: {tls: {cert_file: x}}}", "x: 1"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
