//! What is asked of a registry: the reads of the distribution specification (v1.1), and tokens as docker made them known.
//!
//! A registry is anybody. No answer may be larger than what it is for, a blob no larger than its manifest says; what it sends
//! becomes part of a request or a header only once it has the right form; credentials go to nobody but it, where it asks
//! for them, and over TLS if it is spoken to so. Of our own for these bounds: `oci-client` reads everything but layers whole.

use http_auth::ChallengeRef;
use parking_lot::Mutex;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;
use sha2::digest::DynDigest;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::archive::{DEPTH_LIMIT, DOCUMENT_LIMIT, Descriptor, Document};
use super::name::{Reference, check_digest};
use super::pull::Credentials;
use super::unpack::hex;
use crate::error::{Error, Result, Step};

/// Bytes of a manifest or an index: what a registry must take (distribution specification), and about what containerd does.
const MANIFEST_LIMIT: u64 = 4 << 20;
/// Bytes of an answer that is a token or tells an error.
const ANSWER_LIMIT: u64 = 64 << 10;
/// Characters of a registry's own words in an error.
const WORDS_LIMIT: usize = 512;
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// One repository of one registry.
pub struct Client {
    /// Sends requests.
    pub http: reqwest::Client,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// The `host[:port]` that is asked.
    pub host: String,
    /// The repository's name.
    pub repository: String,
    /// The registry that the host stands in for.
    pub mirrored: Option<String>,
    /// Who asks.
    pub who: Credentials,
    /// What the registry has let in.
    pub authorization: Mutex<Option<HeaderValue>>,
}

/// An image's manifest.
#[derive(Debug, PartialEq)]
pub struct Manifest {
    /// The digest by which the name led here: the index's, if there is one.
    pub digest: String,
    /// The image's configuration.
    pub config: Descriptor,
    /// Lowest first.
    pub layers: Vec<Descriptor>,
}

impl Client {
    /// The manifest that the name leads to on this machine.
    pub async fn manifest(&self, reference: &Reference) -> Result<Manifest> {
        let wanted = reference.digest.as_deref().or(reference.tag.as_deref()).unwrap_or("latest");
        let (digest, mut document) = self.document(wanted, reference.digest.as_deref()).await?;
        for _ in 0..DEPTH_LIMIT {
            match (document.manifests, document.config, document.layers) {
                (None, Some(config), Some(layers)) => return Ok(Manifest { digest, config, layers }),
                (Some(entries), None, None) => {
                    let entry = entries.into_iter().filter(|entry| entry.platform.as_ref().is_some_and(|p| p.fits()));
                    // One for every machine of the kind before those for newer ones.
                    let entry = entry.min_by_key(|entry| entry.platform.as_ref().is_some_and(|p| p.variant.is_some()));
                    let platform = process::version::platform();
                    let none = || Error::Invalid(format!("the image's index has none for {platform}"));
                    let inner = entry.ok_or_else(none)?.digest;
                    document = self.document(&inner, Some(&inner)).await?.1;
                }
                _ => return Err(Error::Invalid("the manifest is neither an image's nor an index".to_owned())),
            }
        }
        Err(Error::Invalid("indexes lead to indexes".to_owned()))
    }

    /// A manifest or an index, and its digest.
    async fn document(&self, wanted: &str, digest: Option<&str>) -> Result<(String, Document)> {
        let hash = digest.map(hasher).transpose()?;
        let url = self.url("manifests", wanted)?;
        let body = bounded(self.get(&url, Some(MANIFESTS)).await?, MANIFEST_LIMIT, "manifest").await?;
        let digest = match digest.zip(hash) {
            Some((digest, mut hash)) => {
                hash.update(&body);
                check(digest, hash)?;
                digest.to_owned()
            }
            None => format!("sha256:{}", hex(&Sha256::digest(&body))),
        };
        Ok((digest, serde_json::from_slice(&body).step("decode manifest")?))
    }

    /// A configuration.
    pub async fn config(&self, config: &Descriptor) -> Result<Vec<u8>> {
        if config.size > DOCUMENT_LIMIT {
            return Err(Error::Invalid(format!("the image's configuration is larger than {DOCUMENT_LIMIT} bytes")));
        }
        let mut content = Vec::new();
        self.blob(config, &mut content).await?;
        Ok(content)
    }

    /// Writes a blob, of the size and with the digest that the manifest says.
    pub async fn blob(&self, blob: &Descriptor, to: &mut (impl AsyncWrite + Unpin)) -> Result<()> {
        let mut hash = hasher(&blob.digest)?;
        let mut response = self.get(&self.url("blobs", &blob.digest)?, None).await?;
        let mut left = blob.size;
        while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url).step("read blob")? {
            let more = || Error::Invalid(format!("blob is larger than the {} bytes that its manifest says", blob.size));
            left = left.checked_sub(chunk.len() as u64).ok_or_else(more)?;
            hash.update(&chunk);
            to.write_all(&chunk).await.step("write blob")?;
        }
        check(&blob.digest, hash)
    }

    fn url(&self, kind: &str, what: &str) -> Result<Url> {
        // Where docker's hub really is.
        let host = if self.host == "docker.io" { "registry-1.docker.io" } else { &self.host };
        let mut url = Url::parse(&format!("{}://{host}/v2/{}/{kind}/{what}", self.scheme, self.repository))
            .step_with(|| format!("use {host:?} as a registry"))?;
        if let Some(mirrored) = &self.mirrored {
            url.query_pairs_mut().append_pair("ns", mirrored);
        }
        Ok(url)
    }

    /// The answer, if it is what was asked for. A registry that asks who it is gets told, once a request.
    async fn get(&self, url: &Url, accept: Option<&str>) -> Result<Response> {
        let mut told = false;
        loop {
            let mut request = self.http.get(url.clone());
            if let Some(accept) = accept {
                request = request.header(ACCEPT, accept);
            }
            if let Some(authorization) = self.authorization.lock().clone() {
                request = request.header(AUTHORIZATION, authorization);
            }
            // Where a request was sent on to may have a token in its address.
            let response = request.send().await.map_err(reqwest::Error::without_url).step_with(|| format!("GET {url}"))?;
            match response.status() {
                StatusCode::OK => return Ok(response),
                StatusCode::UNAUTHORIZED if !told && response.url().origin() == url.origin() => {
                    told = true;
                    match self.authorize(response.headers()).await? {
                        Some(authorization) => *self.authorization.lock() = Some(authorization),
                        None => return Err(refusal(url, response).await),
                    }
                }
                _ => return Err(refusal(url, response).await),
            }
        }
    }

    /// What to show the registry, if it asks for something that we have.
    async fn authorize(&self, headers: &HeaderMap) -> Result<Option<HeaderValue>> {
        let texts = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let challenges: Vec<ChallengeRef<'_>> =
            texts.filter_map(|text| http_auth::parse_challenges(text).ok()).flatten().collect();
        let asked = |scheme: &str| challenges.iter().find(|challenge| challenge.scheme.eq_ignore_ascii_case(scheme));
        match (&self.who, asked("Bearer"), asked("Basic")) {
            (Credentials::Bearer(token), Some(_), _) => bearer(token).map(Some),
            (_, Some(challenge), _) => self.token(challenge).await.map(Some),
            (Credentials::Basic(user, password), None, Some(_)) => basic(user, password).map(Some),
            _ => Ok(None),
        }
    }

    async fn token(&self, challenge: &ChallengeRef<'_>) -> Result<HeaderValue> {
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let param = |name: &str| {
            let mut params = challenge.params.iter();
            params.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_unescaped())
        };
        let realm = param("realm").unwrap_or_default();
        let mut url = Url::parse(&realm).step_with(|| format!("use {realm:?}, where the registry gives out tokens"))?;
        let scope = param("scope").unwrap_or_else(|| format!("repository:{}:pull", self.repository));
        let service = param("service").map(|service| ("service", service));
        url.query_pairs_mut().extend_pairs(service.into_iter().chain([("scope", scope)]));
        let mut request = self.http.get(url.clone());
        if let Credentials::Basic(user, password) = &self.who {
            if self.scheme == "https" && url.scheme() != "https" {
                return Err(Error::Invalid(format!("credentials are not sent to {realm:?}, which is not encrypted")));
            }
            request = request.header(AUTHORIZATION, basic(user, password)?);
        }
        let response = request.send().await.map_err(reqwest::Error::without_url).step_with(|| format!("GET {url}"))?;
        if response.status() != StatusCode::OK {
            return Err(refusal(&url, response).await);
        }
        let body = bounded(response, ANSWER_LIMIT, "token").await?;
        let answer: Answer =
            serde_json::from_slice(&body).map_err(|_| Error::Invalid(format!("{realm:?} sent no token")))?;
        let none = || Error::Invalid(format!("{realm:?} sent no token"));
        bearer(&answer.token.or(answer.access_token).ok_or_else(none)?)
    }
}

fn basic(user: &str, password: &str) -> Result<HeaderValue> {
    use base64::Engine;
    secret(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"))))
}

fn bearer(token: &str) -> Result<HeaderValue> {
    secret(format!("Bearer {token}"))
}

fn secret(text: String) -> Result<HeaderValue> {
    let mut value =
        HeaderValue::try_from(text).map_err(|_| Error::Invalid("the registry's token is malformed".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Why there is something else than what was asked for, in the registry's words if they are to be had.
async fn refusal(url: &Url, response: Response) -> Error {
    #[derive(Deserialize)]
    struct Problem {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    #[derive(Deserialize)]
    struct Problems {
        errors: Vec<Problem>,
    }
    let status = response.status();
    let body = bounded(response, ANSWER_LIMIT, "error").await.unwrap_or_default();
    let problems = serde_json::from_slice::<Problems>(&body).map_or_else(|_| Vec::new(), |problems| problems.errors);
    let words: Vec<String> = problems.iter().map(|problem| format!("{}: {}", problem.code, problem.message)).collect();
    let words: String = words.join(", ").chars().take(WORDS_LIMIT).collect();
    let text = format!("GET {url}: {status}");
    Error::Failed(if words.is_empty() { text } else { format!("{text}: {words}") })
}

async fn bounded(mut response: Response, limit: u64, what: &str) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) =
        response.chunk().await.map_err(reqwest::Error::without_url).step_with(|| format!("read {what}"))?
    {
        if (body.len() + chunk.len()) as u64 > limit {
            return Err(Error::Invalid(format!("the registry's {what} is larger than {limit} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// What computes digests like this one, which has the form of one.
fn hasher(digest: &str) -> Result<Box<dyn DynDigest + Send>> {
    check_digest(digest).map_err(|why| Error::Invalid(format!("digest {digest:?}: {why}")))?;
    Ok(match digest.split_once(':') {
        Some(("sha512", _)) => Box::new(sha2::Sha512::default()),
        Some(("sha384", _)) => Box::new(sha2::Sha384::default()),
        _ => Box::new(Sha256::default()),
    })
}

fn check(digest: &str, hash: Box<dyn DynDigest + Send>) -> Result<()> {
    let got = hex(&hash.finalize());
    match digest.split_once(':') {
        Some((_, wanted)) if got == wanted => Ok(()),
        _ => Err(Error::Invalid(format!("what the registry sent has digest {got}, not {digest}"))),
    }
}

#[cfg(test)]
mod tests;
