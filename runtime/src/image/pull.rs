//! Pulling from registries.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::FutureExt;
use futures::stream::{StreamExt, TryStreamExt};
use oci_client::client::{Certificate, CertificateEncoding, Client, ClientConfig, ClientProtocol};
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;

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
    fn auth(settings: Option<&Registry>) -> RegistryAuth {
        settings.and_then(|registry| registry.credentials.as_ref()).map_or(RegistryAuth::Anonymous, Credentials::auth)
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

    fn auth(&self) -> RegistryAuth {
        match self {
            Credentials::Anonymous => RegistryAuth::Anonymous,
            Credentials::Basic(user, password) => RegistryAuth::Basic(user.clone(), password.clone()),
            Credentials::Bearer(token) => RegistryAuth::Bearer(token.clone()),
        }
    }
}

/// Pulls the image and installs it.
pub async fn pull(store: Arc<ImageStore>, registries: &[Registry], name: &str, who: &Credentials) -> Result<ImageRecord> {
    let reference = normalize(name)?;
    let configured = registries.iter().find(|registry| registry.host == reference.registry());
    let mirrors = configured.map(|registry| registry.mirrors.as_slice()).unwrap_or_default();
    for mirror in mirrors {
        let mut through = reference.clone();
        through.set_mirror_registry(mirror.clone());
        let settings = registries.iter().find(|registry| registry.host == *mirror);
        match pull_from(&store, &client(settings, mirror)?, &through, &Registry::auth(settings)).await {
            Ok(record) => return Ok(record),
            Err(error) => {
                tracing::info!(mirror, image = name, error = crate::error::chain(&error), "mirror did not serve the image")
            }
        }
    }
    let client = client(configured, reference.registry())?;
    let auth = if *who == Credentials::Anonymous { Registry::auth(configured) } else { who.auth() };
    pull_from(&store, &client, &reference, &auth).await.step_with(|| format!("failed to pull image {name:?}"))
}

/// A client for one registry. Registries on this machine are spoken to plainly unless something else is configured.
fn client(registry: Option<&Registry>, host: &str) -> Result<Client> {
    // Whoever composes the program may have chosen one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let local = name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    let plain = registry.map_or(local, |registry| registry.plain_http);
    let mut config = ClientConfig {
        protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
        connect_timeout: Some(std::time::Duration::from_secs(10)),
        read_timeout: Some(std::time::Duration::from_secs(60)),
        platform_resolver: Some(Box::new(oci_client::client::current_platform_resolver)),
        user_agent: "knarr",
        ..ClientConfig::default()
    };
    if let Some(registry) = registry {
        config.accept_invalid_certificates = registry.skip_verify;
        if let Some(file) = &registry.ca_file {
            let data = std::fs::read(file).step_with(|| format!("read {}", file.display()))?;
            config.extra_root_certificates = vec![Certificate { encoding: CertificateEncoding::Pem, data }];
        }
    }
    Client::try_from(config).step("set up registry client")
}

async fn pull_from(
    store: &Arc<ImageStore>,
    client: &Client,
    reference: &oci_client::Reference,
    auth: &RegistryAuth,
) -> Result<ImageRecord> {
    let (manifest, digest, config, list) =
        client.pull_manifest_and_config_and_list_digest(reference, auth).await.step("fetch manifest")?;
    let parsed: super::ImageConfig = serde_json::from_str(&config).step("decode image configuration")?;
    if parsed.rootfs.diff_ids.len() != manifest.layers.len() {
        return Err(Error::Invalid("manifest and configuration disagree about the number of layers".to_owned()));
    }
    let scratch = store.scratch()?;
    // A layer that is here already is fetched all the same when another one under it is missing; that is rare enough.
    let present = store.list().into_iter().any(|image| image.config.rootfs.diff_ids == parsed.rootfs.diff_ids);
    if !present {
        let mut fetches = Vec::new();
        for (number, layer) in manifest.layers.iter().enumerate() {
            fetches.push(fetch(client, reference, layer, scratch.path().join(number.to_string())).boxed());
        }
        futures::stream::iter(fetches).buffer_unordered(PARALLEL).try_collect::<Vec<()>>().await?;
    }
    let bare = format!("{}/{}", reference.registry(), reference.repository());
    let size = manifest.layers.iter().map(|layer| layer.size.max(0) as u64).sum::<u64>() + config.len() as u64;
    let tags = reference.tag().map(|tag| format!("{bare}:{tag}")).into_iter().collect();
    let digests = vec![format!("{bare}@{}", list.unwrap_or(digest))];
    let store = store.clone();
    let install = move || {
        let layers = parsed.rootfs.diff_ids.iter().enumerate().map(|(number, diff_id)| {
            let path = scratch.path().join(number.to_string());
            let open = move || std::fs::File::open(&path).map(|file| Box::new(file) as Box<dyn Read>);
            NewLayer { diff_id: diff_id.clone(), open: Box::new(open) }
        });
        store.install(&NewImage { config: config.into_bytes(), layers: layers.collect(), tags, digests, size: Some(size) })
    };
    tokio::task::spawn_blocking(install).await.step("install image")?
}

/// Fetches a blob, whose digest the client checks.
async fn fetch(client: &Client, reference: &oci_client::Reference, layer: &OciDescriptor, path: PathBuf) -> Result<()> {
    let file = tokio::fs::File::create(&path).await.step("make temporary file")?;
    let mut file = tokio::io::BufWriter::with_capacity(1 << 18, file);
    client.pull_blob(reference, layer, &mut file).await.step_with(|| format!("fetch layer {}", layer.digest))?;
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
