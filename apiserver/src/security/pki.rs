//! The cluster's keys and certificates: made on first start, kept in `DATA/pki` (keys 0600), renewed before they expire.
//!
//! One authority signs everything, as in upstream's simplest set-ups: the API server's serving certificate, clients
//! (administrator, components, kubelets) and kubelets' serving certificates. A leaf is made anew when its names changed, when less
//! than a third of its life is left, or when it was signed by another authority. Files are written beside their place and
//! renamed, so that a crash leaves the old pair or the new one; the key goes first and carries no meaning without its
//! certificate, which is checked to match on reading.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use time::{Duration, OffsetDateTime};

use super::x509::{self, AltName, Contents, Key, Signer, Usage};

const AUTHORITY_LIFE: Duration = Duration::days(3650);
const LEAF_LIFE: Duration = Duration::days(365);
/// Clocks of machines that join differ a little.
const BACKDATE: Duration = Duration::minutes(5);

/// Why the cluster's keys are not to be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{step} {path}")]
    File {
        /// `read`, `write`.
        step: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file holds something else than it should.
    #[error("{path} is damaged; restore it, or remove the whole directory to start a new cluster")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: x509::Error,
    },
    /// A key that was brought along is no use.
    #[error("{path} holds no ECDSA P-256 key in PKCS#8 form")]
    BadKey {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: x509::Error,
    },
    /// A certificate could not be made.
    #[error("make the certificate {name}")]
    Issue {
        /// File name without extension.
        name: String,
        /// Why.
        #[source]
        source: x509::Error,
    },
}

/// A certificate with its key, as PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// The PKCS#8 key.
    pub key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl Pair {
    /// The pair in rustls' types.
    pub fn der(&self) -> Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(self.certificate.as_bytes()).collect::<Result<_, _>>().ok()?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).ok()?;
        (!chain.is_empty()).then_some((chain, key))
    }
}

/// Whom a leaf is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// CN: the user's name.
    pub name: String,
    /// O: the user's groups.
    pub groups: Vec<String>,
    /// SubjectAltName, for servers.
    pub alt_names: Vec<AltName>,
    /// Server or client.
    pub usage: Usage,
}

impl Subject {
    /// A client: `user` in `groups`.
    pub fn client(user: &str, groups: &[&str]) -> Self {
        Self {
            name: user.to_owned(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
            alt_names: Vec::new(),
            usage: Usage::Client,
        }
    }

    /// A server reachable by `names`.
    pub fn server(name: &str, groups: &[&str], names: &[&str]) -> Self {
        let mut alt_names: Vec<AltName> = names.iter().map(|n| AltName::from(*n)).collect();
        alt_names.sort();
        alt_names.dedup();
        Self { alt_names, usage: Usage::Server, ..Self::client(name, groups) }
    }
}

/// The names by which every API server is reached, besides its own addresses.
pub const SERVER_NAMES: &[&str] = &[
    "10.43.0.1",
    "127.0.0.1",
    "::1",
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

/// The cluster's authority and its directory.
#[derive(Debug)]
pub struct Pki {
    dir: PathBuf,
    now: OffsetDateTime,
    authority: Key,
    authority_name: Vec<u8>,
    authority_pem: String,
    /// Signs service-account tokens.
    pub service_account: Key,
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

fn read(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File { step: "read", path: path.to_owned(), source }),
    }
}

/// Writes a file whole or not at all, with `mode` from its first byte on.
pub(super) fn write_atomic(path: &Path, mode: u32, text: &str) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.new", std::process::id()));
    let beside = PathBuf::from(beside);
    let _ = fs::remove_file(&beside);
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        // The umask may have taken bits away that a public certificate should have.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

fn write(path: &Path, mode: u32, text: &str) -> Result<(), Error> {
    write_atomic(path, mode, text).map_err(|source| Error::File { step: "write", path: path.to_owned(), source })
}

/// A file that has to be there.
pub(super) fn file(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| Error::File { step: "read", path: path.to_owned(), source })
}

/// The private key in a file: P-256, PKCS#8, PEM.
pub fn key_file(path: &Path) -> Result<Key, Error> {
    let text = file(path)?;
    let der = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).map_err(|_| x509::Error::Key);
    der.and_then(|der| Key::from_pkcs8(der.secret_pkcs8_der()))
        .map_err(|source| Error::BadKey { path: path.to_owned(), source })
}

/// The public key in a file, as SubjectPublicKeyInfo.
pub fn public_key_file(path: &Path) -> Result<Vec<u8>, Error> {
    use rustls_pki_types::SubjectPublicKeyInfoDer;
    match SubjectPublicKeyInfoDer::from_pem_slice(file(path)?.as_bytes()) {
        Ok(der) => Ok(der.to_vec()),
        Err(_) => Ok(key_file(path)?.public_der()),
    }
}

fn parse_key(path: &Path, text: &str) -> Result<Key, Error> {
    let der = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).map_err(|_| x509::Error::Key);
    der.and_then(|der| Key::from_pkcs8(der.secret_pkcs8_der()))
        .map_err(|source| Error::Damaged { path: path.to_owned(), source })
}

/// Keeps other processes (`knarr up` beside the server) from making the same files; let go of when dropped.
fn lock(dir: &Path) -> Result<fs::File, Error> {
    let path = dir.join(".lock");
    let locked = (|| {
        let file = fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path)?;
        file.lock()?;
        Ok(file)
    })();
    locked.map_err(|source| Error::File { step: "lock", path, source })
}

/// Loads the key at `path` or makes it.
fn key_at(path: &Path) -> Result<Key, Error> {
    if let Some(text) = read(path)? {
        return parse_key(path, &text);
    }
    let name = || path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let key = Key::generate().map_err(|source| Error::Issue { name: name(), source })?;
    write(path, 0o600, &pem("PRIVATE KEY", &key.pkcs8))?;
    Ok(key)
}

impl Pki {
    /// Loads what is in `dir`, or makes a new authority there.
    pub fn open(dir: &Path, now: OffsetDateTime) -> Result<Self, Error> {
        fs::create_dir_all(dir)
            .and_then(|()| fs::set_permissions(dir, fs::Permissions::from_mode(0o700)))
            .map_err(|source| Error::File { step: "create", path: dir.to_owned(), source })?;
        let _lock = lock(dir)?;
        let authority = key_at(&dir.join("ca.key"))?;
        let path = dir.join("ca.crt");
        let authority_pem = match read(&path)? {
            Some(text) => text,
            None => {
                let text = Self::new_authority(&authority, now)?;
                write(&path, 0o644, &text)?;
                text
            }
        };
        let damaged = |source| Error::Damaged { path: path.clone(), source };
        let der = CertificateDer::from_pem_slice(authority_pem.as_bytes()).map_err(|_| damaged(x509::Error::Certificate))?;
        let authority_name = x509::read(&der).map_err(damaged)?.subject;
        let service_account = key_at(&dir.join("sa.key"))?;
        write(&dir.join("sa.pub"), 0o644, &pem("PUBLIC KEY", &service_account.public_der()))?;
        Ok(Self { dir: dir.to_owned(), now, authority, authority_name, authority_pem, service_account })
    }

    fn new_authority(key: &Key, now: OffsetDateTime) -> Result<String, Error> {
        let contents = Contents {
            common_name: "knarr-ca".to_owned(),
            organizations: Vec::new(),
            alt_names: Vec::new(),
            usage: Usage::Authority,
            not_before: now - BACKDATE,
            not_after: now + AUTHORITY_LIFE,
        };
        let subject = x509::name(&contents.common_name, &[]);
        let der = x509::issue(&contents, key, &Signer { name: &subject, key })
            .map_err(|source| Error::Issue { name: "ca".to_owned(), source })?;
        Ok(pem("CERTIFICATE", &der))
    }

    /// The authority's certificate, PEM: what clients trust.
    pub fn authority_pem(&self) -> &str {
        &self.authority_pem
    }

    /// The authority's certificate, DER.
    pub fn authority_der(&self) -> Option<CertificateDer<'static>> {
        CertificateDer::from_pem_slice(self.authority_pem.as_bytes()).ok()
    }

    /// The authority's key, PEM: what signs.
    pub fn authority_key_pem(&self) -> String {
        pem("PRIVATE KEY", &self.authority.pkcs8)
    }

    /// Where the files are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A new pair for `subject`, kept nowhere.
    pub fn issue(&self, subject: &Subject) -> Result<Pair, Error> {
        let failed = |source| Error::Issue { name: subject.name.clone(), source };
        let key = Key::generate().map_err(failed)?;
        Ok(Pair { certificate: self.certify(subject, &key)?, key: pem("PRIVATE KEY", &key.pkcs8) })
    }

    fn certify(&self, subject: &Subject, key: &Key) -> Result<String, Error> {
        let contents = Contents {
            common_name: subject.name.clone(),
            organizations: subject.groups.clone(),
            alt_names: subject.alt_names.clone(),
            usage: subject.usage,
            not_before: self.now - BACKDATE,
            not_after: self.now + LEAF_LIFE,
        };
        let signer = Signer { name: &self.authority_name, key: &self.authority };
        let der =
            x509::issue(&contents, key, &signer).map_err(|source| Error::Issue { name: subject.name.clone(), source })?;
        Ok(pem("CERTIFICATE", &der))
    }

    /// The pair kept as `NAME.crt` and `NAME.key`, made or made anew where need be. `name` may hold one folder
    /// (`nodes/a`).
    pub fn keep(&self, name: &str, subject: &Subject) -> Result<Pair, Error> {
        let (crt, key) = (self.dir.join(format!("{name}.crt")), self.dir.join(format!("{name}.key")));
        if let Some(parent) = crt.parent().filter(|p| *p != self.dir) {
            fs::create_dir_all(parent).map_err(|source| Error::File { step: "create", path: parent.to_owned(), source })?;
        }
        let _lock = lock(&self.dir)?;
        if let (Some(certificate), Some(key)) = (read(&crt)?, read(&key)?) {
            let pair = Pair { certificate, key };
            if self.still_good(&pair, subject) {
                return Ok(pair);
            }
        }
        let pair = self.issue(subject)?;
        write(&key, 0o600, &pair.key)?;
        write(&crt, 0o644, &pair.certificate)?;
        tracing::info!(certificate = %crt.display(), "Issued a certificate");
        Ok(pair)
    }

    /// Whether a kept pair is ours, matches, says what it should and will last.
    fn still_good(&self, pair: &Pair, subject: &Subject) -> bool {
        let Some((chain, PrivateKeyDer::Pkcs8(key))) = pair.der() else { return false };
        let (Ok(facts), Ok(key)) = (x509::read(&chain[0]), Key::from_pkcs8(key.secret_pkcs8_der())) else { return false };
        facts.common_name == subject.name
            && facts.organizations == subject.groups
            && facts.alt_names == subject.alt_names
            && facts.not_before <= self.now.unix_timestamp()
            && facts.not_after - self.now.unix_timestamp() > LEAF_LIFE.whole_seconds() / 3
            && self.signed_by_us(&chain[0], &key)
    }

    fn signed_by_us(&self, der: &[u8], key: &Key) -> bool {
        use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
        use x509_parser::prelude::{FromDer, X509Certificate};
        let Ok((_, certificate)) = X509Certificate::from_der(der) else { return false };
        let ours = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, self.authority.public_point());
        certificate.public_key().raw == key.public_der()
            && ours.verify(certificate.tbs_certificate.as_ref(), &certificate.signature_value.data).is_ok()
    }

    /// The API server's serving pair: [`SERVER_NAMES`] and `addresses` (the node's, the public one).
    pub fn api_server(&self, addresses: &[&str]) -> Result<Pair, Error> {
        let names: Vec<&str> = SERVER_NAMES.iter().chain(addresses).copied().collect();
        self.keep("apiserver", &Subject::server("kube-apiserver", &[], &names))
    }

    /// The client pair with which the API server calls kubelets.
    pub fn kubelet_client(&self) -> Result<Pair, Error> {
        self.keep("apiserver-kubelet-client", &Subject::client("kube-apiserver-kubelet-client", &["system:masters"]))
    }

    /// A kubelet's serving pair.
    pub fn kubelet_server(&self, node: &str, addresses: &[&str]) -> Result<Pair, Error> {
        let names: Vec<&str> = addresses.iter().copied().chain([node]).collect();
        let subject = Subject::server(&format!("system:node:{node}"), &["system:nodes"], &names);
        self.keep(&format!("nodes/{node}-server"), &subject)
    }

    /// A kubelet's client pair.
    pub fn kubelet(&self, node: &str) -> Result<Pair, Error> {
        self.keep(&format!("nodes/{node}"), &Subject::client(&format!("system:node:{node}"), &["system:nodes"]))
    }

    /// The administrator's client pair.
    pub fn admin(&self) -> Result<Pair, Error> {
        self.keep("admin", &Subject::client("kubernetes-admin", &["system:masters"]))
    }

    /// A component's client pair: `kube-scheduler` is user `system:kube-scheduler`.
    pub fn component(&self, name: &str) -> Result<Pair, Error> {
        self.keep(name, &Subject::client(&format!("system:{name}"), &[]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dir(PathBuf);

    impl Dir {
        fn new() -> Self {
            Self(std::env::temp_dir().join(format!("knarr-pki-{}", uuid::Uuid::new_v4())))
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn at(days: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_763_690_000).unwrap() + Duration::days(days)
    }

    #[test]
    fn a_second_start_finds_the_same_keys() {
        let dir = Dir::new();
        let first = Pki::open(&dir.0, at(0)).unwrap();
        let pair = first.api_server(&["192.0.2.1"]).unwrap();
        let second = Pki::open(&dir.0, at(1)).unwrap();
        assert_eq!(second.authority_pem(), first.authority_pem());
        assert_eq!(second.service_account.pkcs8, first.service_account.pkcs8);
        assert_eq!(second.api_server(&["192.0.2.1"]).unwrap(), pair);
    }

    #[test]
    fn two_first_starts_agree() {
        let dir = Dir::new();
        let open = || {
            let path = dir.0.clone();
            std::thread::spawn(move || {
                let pki = Pki::open(&path, at(0)).unwrap();
                (pki.authority_pem().to_owned(), pki.admin().unwrap())
            })
        };
        let threads: Vec<_> = (0..4).map(|_| open()).collect();
        let got: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(got.iter().all(|one| *one == got[0]));
    }

    #[test]
    fn new_names_and_age_renew() {
        let dir = Dir::new();
        let pki = Pki::open(&dir.0, at(0)).unwrap();
        let pair = pki.api_server(&["192.0.2.1"]).unwrap();
        let moved = pki.api_server(&["192.0.2.2"]).unwrap();
        assert_ne!(moved, pair);
        let later = Pki::open(&dir.0, at(200)).unwrap();
        assert_eq!(later.api_server(&["192.0.2.2"]).unwrap(), moved);
        let late = Pki::open(&dir.0, at(300)).unwrap();
        assert_ne!(late.api_server(&["192.0.2.2"]).unwrap(), moved);
    }

    #[test]
    fn keys_are_the_owners_alone() {
        let dir = Dir::new();
        let pki = Pki::open(&dir.0, at(0)).unwrap();
        pki.admin().unwrap();
        let mode = |name: &str| fs::metadata(dir.0.join(name)).unwrap().permissions().mode() & 0o777;
        let modes = ["ca.key", "sa.key", "admin.key", "ca.crt", "admin.crt"].map(mode);
        assert_eq!(modes, [0o600, 0o600, 0o600, 0o644, 0o644]);
    }

    #[test]
    fn a_damaged_key_is_an_error_not_a_new_cluster() {
        let dir = Dir::new();
        Pki::open(&dir.0, at(0)).unwrap();
        fs::write(dir.0.join("ca.key"), "nonsense").unwrap();
        assert!(matches!(Pki::open(&dir.0, at(0)), Err(Error::Damaged { .. })));
    }
}
