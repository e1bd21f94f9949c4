//! Pulling from registries.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::FutureExt;
use futures::stream::{StreamExt, TryStreamExt};

use super::archive::Descriptor;
use super::distribution::Client;
use super::name::Reference;
use super::normalize;
use super::store::{ImageRecord, ImageStore, NewImage, NewLayer};
use crate::error::{Error, Result, Step};

/// Layers fetched at the same time.
const PARALLEL: usize = 3;

/// How to reach one registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registry {
    /// Its `host[:port]` as it stands in images' names.
    pub host: String,
    /// Other registries to ask first, in order.
    pub mirrors: Vec<String>,
    /// Speak plain HTTP.
    pub plain_http: bool,
    /// Accept any certificate.
    pub skip_verify: bool,
    /// A certificate authority's PEM file.
    pub ca_file: Option<PathBuf>,
    /// Who pulls when a pull brings no credentials.
    pub credentials: Option<Credentials>,
}

impl Registry {
    fn credentials(settings: Option<&Registry>) -> Credentials {
        settings.and_then(|registry| registry.credentials.clone()).unwrap_or_default()
    }
}

/// Who pulls.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    /// Anyone.
    #[default]
    Anonymous,
    /// A user with a password.
    Basic(String, String),
    /// A token.
    Bearer(String),
}

/// Secrets do not get into logs.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Credentials::Anonymous => out.write_str("Anonymous"),
            Credentials::Basic(user, _) => write!(out, "Basic({user:?}, ..)"),
            Credentials::Bearer(_) => out.write_str("Bearer(..)"),
        }
    }
}

impl Credentials {
    /// From what a kubelet sends.
    pub fn from_cri(auth: Option<&cri::AuthConfig>) -> Result<Credentials> {
        let Some(auth) = auth else { return Ok(Credentials::Anonymous) };
        if !auth.username.is_empty() {
            return Ok(Credentials::Basic(auth.username.clone(), auth.password.clone()));
        }
        if !auth.registry_token.is_empty() {
            return Ok(Credentials::Bearer(auth.registry_token.clone()));
        }
        if auth.auth.is_empty() {
            return Ok(Credentials::Anonymous);
        }
        let invalid = || Error::Invalid("registry credentials are not base64 of user:password".to_owned());
        let text = STANDARD.decode(&auth.auth).ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(invalid)?;
        let (user, password) = text.split_once(':').ok_or_else(invalid)?;
        Ok(Credentials::Basic(user.to_owned(), password.trim_end_matches('\0').to_owned()))
    }
}

/// Pulls the image and installs it.
pub async fn pull(store: Arc<ImageStore>, registries: &[Registry], name: &str, who: &Credentials) -> Result<ImageRecord> {
    let reference = normalize(name)?;
    let configured = registries.iter().find(|registry| registry.host == reference.registry);
    let mirrors = configured.map(|registry| registry.mirrors.as_slice()).unwrap_or_default();
    for mirror in mirrors {
        let settings = registries.iter().find(|registry| registry.host == *mirror);
        let client = client(settings, mirror, &reference, Registry::credentials(settings))?;
        match pull_from(&store, &client, &reference).await {
            Ok(record) => return Ok(record),
            Err(error) => {
                tracing::info!(mirror, image = name, error = crate::error::chain(&error), "mirror did not serve the image")
            }
        }
    }
    let who = if *who == Credentials::Anonymous { Registry::credentials(configured) } else { who.clone() };
    let client = client(configured, &reference.registry, &reference, who)?;
    pull_from(&store, &client, &reference).await.step_with(|| format!("failed to pull image {name:?}"))
}

/// A client for one registry. Registries on this machine are spoken to plainly unless something else is configured.
pub(super) fn client(settings: Option<&Registry>, host: &str, reference: &Reference, who: Credentials) -> Result<Client> {
    // Whoever composes the program may have chosen one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let local = name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    let plain = settings.map_or(local, |registry| registry.plain_http);
    let builder = || {
        reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(Duration::from_secs(60))
            .user_agent("knarr")
            .tls_danger_accept_invalid_certs(settings.is_some_and(|registry| registry.skip_verify))
    };
    let http = match settings.and_then(|registry| registry.ca_file.as_ref()) {
        Some(file) => {
            let data = std::fs::read(file).step_with(|| format!("read {}", file.display()))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&data);
            builder().tls_certs_merge(certificates.step_with(|| format!("use {}", file.display()))?).build()
        }
        // A machine that has no authorities trusts nobody, and may ask plainly still.
        None => builder().build().or_else(|_| builder().tls_certs_only([]).build()),
    };
    Ok(Client {
        http: http.step("set up registry client")?,
        scheme: if plain { "http" } else { "https" },
        host: host.to_owned(),
        repository: reference.repository.clone(),
        mirrored: (host != reference.registry).then(|| reference.registry.clone()),
        who,
        authorization: Default::default(),
    })
}

async fn pull_from(store: &Arc<ImageStore>, client: &Client, reference: &Reference) -> Result<ImageRecord> {
    let manifest = client.manifest(reference).await.step("fetch manifest")?;
    let config = client.config(&manifest.config).await.step("fetch image configuration")?;
    let parsed: super::ImageConfig = serde_json::from_slice(&config).step("decode image configuration")?;
    if parsed.rootfs.diff_ids.len() != manifest.layers.len() {
        return Err(Error::Invalid("manifest and configuration disagree about the number of layers".to_owned()));
    }
    let scratch = store.scratch()?;
    // A layer that is here already is fetched all the same when another one under it is missing; that is rare enough.
    let present = store.list().into_iter().any(|image| image.config.rootfs.diff_ids == parsed.rootfs.diff_ids);
    if !present {
        let mut fetches = Vec::new();
        for (number, layer) in manifest.layers.iter().enumerate() {
            fetches.push(fetch(client, layer, scratch.path().join(number.to_string())).boxed());
        }
        futures::stream::iter(fetches).buffer_unordered(PARALLEL).try_collect::<Vec<()>>().await?;
    }
    let bare = reference.bare();
    let size = manifest.layers.iter().fold(config.len() as u64, |sum, layer| sum.saturating_add(layer.size));
    let tags = reference.tag.iter().map(|tag| format!("{bare}:{tag}")).collect();
    let digests = vec![format!("{bare}@{}", manifest.digest)];
    let store = store.clone();
    let install = move || {
        let layers = parsed.rootfs.diff_ids.iter().enumerate().map(|(number, diff_id)| {
            let path = scratch.path().join(number.to_string());
            let open = move || std::fs::File::open(&path).map(|file| Box::new(file) as Box<dyn Read>);
            NewLayer { diff_id: diff_id.clone(), open: Box::new(open) }
        });
        store.install(&NewImage { config, layers: layers.collect(), tags, digests, size: Some(size) })
    };
    tokio::task::spawn_blocking(install).await.step("install image")?
}

async fn fetch(client: &Client, layer: &Descriptor, path: PathBuf) -> Result<()> {
    let file = tokio::fs::File::create(&path).await.step("make temporary file")?;
    let mut file = tokio::io::BufWriter::with_capacity(1 << 18, file);
    client.blob(layer, &mut file).await.step_with(|| format!("fetch layer {}", layer.digest))?;
    tokio::io::AsyncWriteExt::flush(&mut file).await.step("write temporary file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials() {
        let auth = cri::AuthConfig { auth: STANDARD.encode("me:secret:x"), ..Default::default() };
        assert!(Credentials::from_cri(Some(&auth)).unwrap() == Credentials::Basic("me".into(), "secret:x".into()));
        let broken = cri::AuthConfig { auth: "!".into(), ..Default::default() };
        assert!(Credentials::from_cri(Some(&broken)).is_err());
    }
}
