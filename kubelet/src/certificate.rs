//! The kubelet's own certificates: asked for as CertificateSigningRequests, kept in one file with their key, and replaced while running
//! before they end.
//!
//! ```text
//!   file ──▶ held ──(70 to 90% of its life is over)──▶ new key, request ──approved and signed──▶ file ──▶ held
//! ```
//!
//! As upstream's certificate manager, under upstream's file names (`kubelet-client-current.pem`). A certificate and its key are one
//! file, so that they change together; a new certificate always has a new key.

use std::{
    io::Write,
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use client::{Informer, Key, Options};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    ByteString,
    api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::PostParams};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// How long a request may stay open; then a new one is made, with a new key.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// Between tries that failed.
const PAUSES: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(20), Duration::from_secs(60)];

/// Between two certificates, at least.
const BREATH: Duration = Duration::from_secs(5);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No key or request could be made.
    #[error("make a certificate request")]
    Make(#[from] rcgen::Error),
    /// The API server did not take the request.
    #[error("ask for a certificate")]
    Ask(#[source] kube::Error),
    /// Somebody said no.
    #[error("certificate request {name} was {outcome}: {message}")]
    Refused {
        /// The request's name.
        name: String,
        /// `denied`, `refused by its signer`.
        outcome: &'static str,
        /// Why.
        message: String,
    },
    /// Nobody approved or signed it in time.
    #[error("certificate request {0} was not signed in time; is it approved?")]
    Late(String),
    /// What came back is no certificate for the key.
    #[error("use the certificate of request {0}")]
    Useless(String),
    /// The file cannot be read or written.
    #[error("{step} {path}")]
    File {
        /// `read`, `write`.
        step: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// What a certificate is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The node's name.
    pub node: String,
    /// The addresses of a serving certificate; `None` is a client's.
    pub serving: Option<Vec<IpAddr>>,
}

/// A certificate with its key.
#[derive(Clone, PartialEq, Eq)]
pub struct Held {
    /// The certificate, PEM.
    pub certificate: String,
    /// The key, PKCS#8 in PEM.
    pub key: String,
    facts: Facts,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    user: String,
    dns: Vec<String>,
    ips: Vec<IpAddr>,
    from: Timestamp,
    until: Timestamp,
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held").field("facts", &self.facts).finish_non_exhaustive()
    }
}

impl Wish {
    /// A certificate with which the kubelet calls the API server.
    pub fn client(node: &str) -> Self {
        Self { node: node.to_owned(), serving: None }
    }

    fn signer(&self) -> &'static str {
        match self.serving {
            Some(_) => "kubernetes.io/kubelet-serving",
            None => "kubernetes.io/kube-apiserver-client-kubelet",
        }
    }

    /// An ECDSA key takes no encipherment.
    fn usages(&self) -> Vec<String> {
        let tls = if self.serving.is_some() { "server auth" } else { "client auth" };
        vec!["digital signature".to_owned(), tls.to_owned()]
    }

    fn user(&self) -> String {
        format!("system:node:{}", self.node)
    }

    /// The request and the key it is for, PEM.
    fn request(&self) -> Result<(String, String), rcgen::Error> {
        let key = rcgen::KeyPair::generate()?;
        let names = if self.serving.is_some() { vec![self.node.clone()] } else { Vec::new() };
        let mut params = rcgen::CertificateParams::new(names)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(rcgen::DnType::CommonName, self.user());
        let addresses = self.serving.iter().flatten().copied();
        params.subject_alt_names.extend(addresses.map(rcgen::SanType::IpAddress));
        Ok((params.serialize_request(&key)?.pem()?, key.serialize_pem()))
    }

    /// Whether a certificate is what is wished for and still holds.
    fn is_met(&self, held: &Held, now: Timestamp) -> bool {
        let facts = &held.facts;
        let (dns, ips) = match &self.serving {
            Some(ips) => (std::slice::from_ref(&self.node), ips.as_slice()),
            None => (&[][..], &[][..]),
        };
        facts.user == self.user()
            && now < facts.until
            && dns.iter().all(|name| facts.dns.contains(name))
            && ips.iter().all(|ip| facts.ips.contains(ip))
    }
}

impl Held {
    /// Reads certificate and key.
    pub fn read(pem: &str) -> Option<Self> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
        PrivateKeyDer::from_pem_slice(pem.as_bytes()).ok()?;
        let split = pem.find("-----BEGIN PRIVATE KEY-----")?;
        let (certificate, key) = pem.split_at(split);
        Some(Self { certificate: certificate.to_owned(), key: key.to_owned(), facts: facts(&der)? })
    }

    /// When the next one is to be asked for: after 70 to 90% of its life, `chance` (0 to 1) says where between.
    fn renewal(&self, chance: f64) -> Timestamp {
        let life = self.facts.until.duration_since(self.facts.from).as_secs_f64();
        let share = SignedDuration::try_from_secs_f64(life * (0.7 + 0.2 * chance)).unwrap_or(SignedDuration::ZERO);
        self.facts.from.checked_add(share).unwrap_or(self.facts.until)
    }

    /// When it ends.
    pub fn not_after(&self) -> Timestamp {
        self.facts.until
    }
}

fn facts(der: &[u8]) -> Option<Facts> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let (mut dns, mut ips) = (Vec::new(), Vec::new());
    let names = certificate.subject_alternative_name().ok()?;
    for name in names.iter().flat_map(|extension| &extension.value.general_names) {
        match name {
            GeneralName::DNSName(name) => dns.push((*name).to_owned()),
            GeneralName::IPAddress(raw) => {
                let four = <[u8; 4]>::try_from(*raw).map(IpAddr::from);
                ips.extend(four.or_else(|_| <[u8; 16]>::try_from(*raw).map(IpAddr::from)));
            }
            _ => {}
        }
    }
    let validity = certificate.validity();
    Some(Facts {
        user: certificate.subject().iter_common_name().last()?.as_str().ok()?.to_owned(),
        dns,
        ips,
        from: Timestamp::from_second(validity.not_before.timestamp()).ok()?,
        until: Timestamp::from_second(validity.not_after.timestamp()).ok()?,
    })
}

/// Asks for a certificate and waits until it is signed.
pub async fn ask(client: &Client, wish: &Wish) -> Result<Held, Error> {
    let (request, key) = wish.request()?;
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let object = CertificateSigningRequest {
        metadata: ObjectMeta { generate_name: Some("csr-".to_owned()), ..ObjectMeta::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(request.into_bytes()),
            signer_name: wish.signer().to_owned(),
            usages: Some(wish.usages()),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    };
    let made = api.create(&PostParams::default(), &object).await.map_err(Error::Ask)?;
    let name = made.metadata.name.unwrap_or_default();
    let signed = tokio::time::timeout(PATIENCE, signed(client, &name)).await;
    let certificate = signed.unwrap_or_else(|_| Err(Error::Late(name.clone())))?;
    Held::read(&format!("{}\n{key}", certificate.trim_end())).ok_or(Error::Useless(name))
}

/// The certificate of a request, once it is there.
async fn signed(client: &Client, name: &str) -> Result<String, Error> {
    let watching = CancellationToken::new();
    let _end = watching.clone().drop_guard();
    let only = Options::fields(format!("metadata.name={name}"));
    let requests: Informer<CertificateSigningRequest> = Informer::start(client.clone(), only, watching);
    let mut changes = requests.changes();
    loop {
        if let Some(request) = requests.get(&Key::cluster(name)) {
            let status = request.status.as_ref();
            if let Some(issued) = status.and_then(|s| s.certificate.as_ref()).filter(|issued| !issued.0.is_empty()) {
                return Ok(String::from_utf8_lossy(&issued.0).into_owned());
            }
            for told in status.and_then(|s| s.conditions.as_ref()).into_iter().flatten() {
                let outcome = match told.type_.as_str() {
                    "Denied" => "denied",
                    "Failed" => "refused by its signer",
                    _ => continue,
                };
                let message = told.message.clone().unwrap_or_default();
                return Err(Error::Refused { name: name.to_owned(), outcome, message });
            }
        }
        if changes.changed().await.is_err() {
            return Err(Error::Late(name.to_owned()));
        }
    }
}

/// A certificate that is kept in a file and replaced in time.
pub struct Keeper {
    path: PathBuf,
    wish: Wish,
    current: watch::Sender<Option<Arc<Held>>>,
}

impl Keeper {
    /// Takes what is in the file, if it is what is wished for.
    pub fn open(path: PathBuf, wish: Wish) -> Result<Self, Error> {
        let found = match std::fs::read_to_string(&path) {
            Ok(text) => Held::read(&text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(source) => return Err(Error::File { step: "read", path, source }),
        };
        let now = Timestamp::now();
        let good = found.filter(|held| wish.is_met(held, now)).map(Arc::new);
        Ok(Self { path, wish, current: watch::Sender::new(good) })
    }

    /// The certificate as it is now and as it will be.
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<Held>>> {
        self.current.subscribe()
    }

    /// The certificate as it is now.
    pub fn current(&self) -> Option<Arc<Held>> {
        self.current.borrow().clone()
    }

    /// Gets a certificate by way of `client`, whatever there is.
    pub async fn renew(&self, client: &Client) -> Result<(), Error> {
        let held = ask(client, &self.wish).await?;
        write(&self.path, &format!("{}{}", held.certificate, held.key)).map_err(|source| Error::File {
            step: "write",
            path: self.path.clone(),
            source,
        })?;
        tracing::info!(certificate = %self.path.display(), until = %held.not_after(), "got a certificate");
        self.current.send_replace(Some(Arc::new(held)));
        Ok(())
    }

    /// Renews until `shutdown`: at once if there is none, else in time.
    pub async fn keep(&self, client: &Client, shutdown: CancellationToken) {
        let work = async {
            if self.current().is_none() {
                self.renew_patiently(client).await;
            }
            loop {
                let Some(held) = self.current() else { return };
                self.due(&held).await;
                self.renew_patiently(client).await;
            }
        };
        shutdown.run_until_cancelled(work).await;
    }

    /// Returns when it is time for the next certificate.
    async fn due(&self, held: &Held) {
        // A life that began before it was given may be over in no time.
        tokio::time::sleep(BREATH).await;
        let due = held.renewal(rand_share());
        while let Some(left) = Duration::try_from(due.duration_since(Timestamp::now())).ok().filter(|left| !left.is_zero()) {
            // A clock that was wrong is noticed within the hour.
            tokio::time::sleep(left.min(Duration::from_secs(3600))).await;
        }
    }

    /// Renews, however many tries it takes.
    async fn renew_patiently(&self, client: &Client) {
        let mut pauses = PAUSES.iter();
        let mut pause = PAUSES[0];
        while let Err(error) = self.renew(client).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "no new certificate yet");
            pause = pauses.next().copied().unwrap_or(pause);
            tokio::time::sleep(pause).await;
        }
    }
}

/// Something between 0 and 1, so that nodes that joined together do not renew together.
fn rand_share() -> f64 {
    use std::hash::{BuildHasher, Hasher};
    let chance = std::collections::hash_map::RandomState::new().build_hasher().finish();
    (chance >> 11) as f64 / (1u64 << 53) as f64
}

/// Writes a secret whole or not at all.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let beside = path.with_extension("pem.new");
    let _ = std::fs::remove_file(&beside);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate for a wish as an authority would make it, with its key.
    fn issued(wish: &Wish) -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![wish.node.clone()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, wish.user());
        params.subject_alt_names.extend(wish.serving.iter().flatten().copied().map(rcgen::SanType::IpAddress));
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(2024, 1, 1), rcgen::date_time_ymd(2024, 1, 11));
        format!("{}{}", params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn a_file_is_used_while_it_is_what_is_wished_for() {
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let wish = Wish { node: "a".into(), serving: Some(vec![address]) };
        let held = Held::read(&issued(&wish)).unwrap();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let now = at("2024-01-05T00:00:00Z");
        let moved = Wish { serving: Some(vec!["192.0.2.2".parse().unwrap()]), ..wish.clone() };
        let met = [
            wish.is_met(&held, now),
            wish.is_met(&held, at("2024-01-12T00:00:00Z")),
            moved.is_met(&held, now),
            Wish::client("b").is_met(&held, now),
        ];
        assert_eq!(met, [true, false, false, false]);
        assert_eq!([held.renewal(0.0), held.renewal(1.0)], [at("2024-01-08T00:00:00Z"), at("2024-01-10T00:00:00Z")]);
    }

    #[test]
    fn a_request_says_who_asks_and_for_what() {
        let wish = Wish { node: "a".into(), serving: Some(vec!["192.0.2.1".parse().unwrap()]) };
        let (request, key) = wish.request().unwrap();
        assert!(request.starts_with("-----BEGIN CERTIFICATE REQUEST-----") && key.contains("BEGIN PRIVATE KEY"));
        let der = rustls::pki_types::CertificateSigningRequestDer::from_pem_slice(request.as_bytes()).unwrap();
        let (_, read) = x509_parser::certification_request::X509CertificationRequest::from_der(&der).unwrap();
        let subject = read.certification_request_info.subject.to_string();
        assert_eq!(subject, "O=system:nodes, CN=system:node:a");
    }

    #[test]
    fn the_file_is_the_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pki/kubelet-client-current.pem");
        write(&path, &issued(&Wish::client("a"))).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // It has expired long ago.
        assert!(Keeper::open(path, Wish::client("a")).unwrap().current().is_none());
    }
}
