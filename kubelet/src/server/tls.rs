//! The serving certificate and the trust in clients' certificates.

use std::{
    fs,
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::{
    certificate::{Held, Keeper},
    config::Config,
    shared::NodeFacts,
};

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("{path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file holds no certificate or key.
    #[error("{path}")]
    Pem {
        /// Which.
        path: PathBuf,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// Certificate and key do not fit.
    #[error("use the certificate")]
    Rustls(#[from] rustls::Error),
    /// The authorities cannot be used.
    #[error("use the client authorities")]
    Verifier(#[from] rustls::client::VerifierBuilderError),
    /// No certificate of our own could be made.
    #[error("make a certificate")]
    Make(#[from] rcgen::Error),
}

/// Serves with what the cluster signed for `kept`, with the given files, or with a self-signed certificate that is kept in `--cert-dir`.
pub fn acceptor(config: &Config, facts: &NodeFacts, kept: Option<&Keeper>) -> Result<TlsAcceptor, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let serving: Arc<dyn ResolvesServerCert> = match kept {
        Some(keeper) => Arc::new(Signed { newest: keeper.subscribe(), provider: provider.clone(), shown: Mutex::default() }),
        None => {
            let (cert, key) = match (&config.tls_cert_file, &config.tls_private_key_file) {
                (Some(cert), Some(key)) => (cert.clone(), key.clone()),
                _ => self_signed(config, facts)?,
            };
            let current = Mutex::new((load(&cert, &key, &provider)?, Instant::now()));
            Arc::new(Serving { current, provider: provider.clone(), cert, key })
        }
    };
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let builder = match &config.client_ca_file {
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(path)? {
                roots.add(authority)?;
            }
            let verifier: Arc<dyn ClientCertVerifier> =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).allow_unauthenticated().build()?;
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let mut server = builder.with_cert_resolver(serving);
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(server)))
}

/// The newest certificate that the cluster has signed; until there is one nobody is let in.
struct Signed {
    newest: watch::Receiver<Option<Arc<Held>>>,
    provider: Arc<CryptoProvider>,
    /// What was made of it last.
    shown: Mutex<Option<(Arc<Held>, Arc<CertifiedKey>)>>,
}

impl std::fmt::Debug for Signed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signed")
    }
}

impl ResolvesServerCert for Signed {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let newest = self.newest.borrow().clone()?;
        let mut shown = self.shown.lock();
        if let Some((_, certified)) = shown.as_ref().filter(|(held, _)| Arc::ptr_eq(held, &newest)) {
            return Some(certified.clone());
        }
        let chain = CertificateDer::pem_slice_iter(newest.certificate.as_bytes()).collect::<Result<Vec<_>, _>>().ok()?;
        let key = PrivateKeyDer::from_pem_slice(newest.key.as_bytes()).ok()?;
        let certified = Arc::new(CertifiedKey::new(chain, self.provider.key_provider.load_private_key(key).ok()?));
        certified.keys_match().ok()?;
        *shown = Some((newest, certified.clone()));
        Some(certified)
    }
}

/// How long a certificate is served before its files are looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// The serving certificate, read anew now and then: whoever renews it writes the files.
struct Serving {
    cert: PathBuf,
    key: PathBuf,
    provider: Arc<CryptoProvider>,
    current: Mutex<(Arc<CertifiedKey>, Instant)>,
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serving").field("cert", &self.cert).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut current = self.current.lock();
        if current.1.elapsed() >= LOOK_AGAIN {
            current.1 = Instant::now();
            match load(&self.cert, &self.key, &self.provider) {
                Ok(newer) => current.0 = newer,
                // Half-written files: the old certificate serves on.
                Err(error) => tracing::warn!(%error, "the serving certificate cannot be read"),
            }
        }
        Some(current.0.clone())
    }
}

fn load(cert: &PathBuf, key: &PathBuf, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = certificates(cert)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|source| TlsError::Pem { path: key.clone(), source })?;
    let signing = provider.key_provider.load_private_key(key)?;
    let certified = CertifiedKey::new(chain, signing);
    certified.keys_match()?;
    Ok(Arc::new(certified))
}

fn certificates(path: &PathBuf) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |source| TlsError::Pem { path: path.clone(), source };
    CertificateDer::pem_file_iter(path).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)
}

fn self_signed(config: &Config, facts: &NodeFacts) -> Result<(PathBuf, PathBuf), TlsError> {
    let dir = config.cert_dir.clone().unwrap_or_else(|| config.root_dir.join("pki"));
    let (cert, key) = (dir.join("kubelet.crt"), dir.join("kubelet.key"));
    if cert.exists() && key.exists() {
        return Ok((cert, key));
    }
    let failed = |path: &PathBuf| {
        let path = path.clone();
        move |source| TlsError::File { path, source }
    };
    fs::create_dir_all(&dir).map_err(failed(&dir))?;
    let names: Vec<String> = std::iter::once(facts.name.clone()).chain(facts.ips.iter().cloned()).collect();
    let made = rcgen::generate_simple_self_signed(names)?;
    let private = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&key);
    private
        .and_then(|mut f| std::io::Write::write_all(&mut f, made.signing_key.serialize_pem().as_bytes()))
        .map_err(failed(&key))?;
    fs::write(&cert, made.cert.pem()).map_err(failed(&cert))?;
    Ok((cert, key))
}
