//! The tokens with which machines join a cluster.
//!
//! `K10HASH::ID.SECRET` lets an agent in: a bootstrap token, and the SHA-256 of the cluster's authority, so that an agent knows
//! its server before it shows the secret. `K10HASH::server:SECRET` lets a server in: it opens the keys that the servers
//! share. The form is the one that K3s made known.

use std::{fmt, path::Path, str::FromStr};

use anyhow::{Context, Result, bail};
use ring::{
    digest,
    rand::{SecureRandom, SystemRandom},
};
use rustls::pki_types::{CertificateDer, pem::PemObject};

/// The SHA-256 of an authority's certificate (DER).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        let mut sum = [0; 32];
        sum.copy_from_slice(digest::digest(&digest::SHA256, certificate).as_ref());
        Self(sum)
    }

    /// Of the first certificate in a PEM text.
    pub fn of_pem(pem: &str) -> Result<Self> {
        Ok(Self::of(&CertificateDer::from_pem_slice(pem.as_bytes()).context("read the authority's certificate")?))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut sum = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            bail!("a SHA-256 has 64 hexadecimal digits");
        }
        for (n, byte) in sum.iter_mut().enumerate() {
            *byte =
                text.get(2 * n..2 * n + 2).and_then(|two| u8::from_str_radix(two, 16).ok()).context("read the SHA-256")?;
        }
        Ok(Self(sum))
    }
}

/// What lets an agent in.
#[derive(Clone, PartialEq, Eq)]
pub struct Join {
    /// The authority that the server must have.
    pub authority: Fingerprint,
    /// Six lower case letters and digits; no secret.
    pub id: String,
    /// Sixteen of them.
    pub secret: String,
}

/// What lets a server in.
#[derive(Clone, PartialEq, Eq)]
pub struct Share {
    /// The authority that the servers' keys must be of; not known to who starts a cluster with a secret of their own.
    pub authority: Option<Fingerprint>,
    /// What the keys are sealed with.
    pub secret: String,
}

const PREFIX: &str = "K10";
const LETTERS: &[u8; 32] = b"abcdefghijkmnopqrstuvwxyz2345678";

fn fits(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// So many letters and digits, chosen by chance.
pub fn random(length: usize) -> Result<String> {
    let mut bytes = vec![0; length];
    SystemRandom::new().fill(&mut bytes).ok().context("ask the system for randomness")?;
    Ok(letters(&bytes))
}

/// A letter or digit for each byte; what is evenly spread stays so.
pub fn letters(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect()
}

fn split(text: &str) -> Option<(&str, &str)> {
    text.strip_prefix(PREFIX)?.split_once("::")
}

impl Join {
    /// A new one for the cluster of this authority.
    pub fn generate(authority: Fingerprint) -> Result<Self> {
        Ok(Self { authority, id: random(6)?, secret: random(16)? })
    }

    /// `ID.SECRET`, as the API server takes it.
    pub fn bearer(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }

    /// The whole token.
    pub fn text(&self) -> String {
        format!("{PREFIX}{}::{}", self.authority, self.bearer())
    }
}

impl FromStr for Join {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some((hash, credentials)) = split(text.trim()) else {
            bail!("a join token looks like {PREFIX}HASH::ID.SECRET; a server keeps one in DATA/node-token");
        };
        if credentials.starts_with("server:") {
            bail!("this token is for servers; agents join with the one in a server's DATA/node-token");
        }
        let authority = hash.parse().context("read the hash in the token")?;
        match credentials.split_once('.') {
            Some((id, secret)) if fits(id, 6) && fits(secret, 16) => {
                Ok(Self { authority, id: id.to_owned(), secret: secret.to_owned() })
            }
            _ => bail!("the token does not end with ::ID.SECRET (6 and 16 lower case letters and digits)"),
        }
    }
}

impl Share {
    /// A new one.
    pub fn generate() -> Result<Self> {
        Ok(Self { authority: None, secret: random(32)? })
    }

    /// The whole token, for servers that are to join a cluster of this authority.
    pub fn text(&self, authority: Fingerprint) -> String {
        format!("{PREFIX}{authority}::server:{}", self.secret)
    }
}

impl FromStr for Share {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        let (authority, secret) = match split(text) {
            Some((hash, credentials)) => {
                let secret = credentials.strip_prefix("server:");
                let secret = secret.context("this token is for agents; servers join with the one in DATA/server-token")?;
                (Some(hash.parse().context("read the hash in the token")?), secret)
            }
            None => (None, text),
        };
        if secret.len() < 16 {
            bail!("a server's token has a secret of at least 16 characters");
        }
        Ok(Self { authority, secret: secret.to_owned() })
    }
}

/// How a token is handed over: never among the arguments of a process if one can help it, where everybody sees them.
#[derive(Clone, clap::Args)]
pub struct TokenFlags {
    /// The token to join with; better in a file or in the environment, where others cannot read it.
    #[arg(long, env = "KNARR_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The file that holds the token to join with.
    #[arg(long, env = "KNARR_TOKEN_FILE", conflicts_with = "token")]
    token_file: Option<std::path::PathBuf>,
}

impl fmt::Debug for TokenFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenFlags").field("token_file", &self.token_file).finish_non_exhaustive()
    }
}

impl TokenFlags {
    /// The token, if there is one.
    pub fn read<T: FromStr<Err = anyhow::Error>>(&self) -> Result<Option<T>> {
        match (&self.token, &self.token_file) {
            (Some(token), _) => token.parse().map(Some).context("use --token"),
            (None, Some(path)) => read(path).map(Some),
            (None, None) => Ok(None),
        }
    }
}

/// The token in a file.
pub fn read<T: FromStr<Err = anyhow::Error>>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    text.parse().with_context(|| format!("use the token in {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_as_they_are_written() {
        let authority: Fingerprint = "0123456789abcdef".repeat(4).parse().unwrap();
        let join = Join::generate(authority).unwrap();
        assert!(join.text().parse::<Join>().unwrap() == join && join.text().starts_with("K100123456789abcdef"));
        let share = Share { authority: Some(authority), secret: random(32).unwrap() };
        assert!(share.text(authority).parse::<Share>().unwrap() == share);
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let hash = "0".repeat(64);
        let joins = ["", "abcdef.0123456789abcdef", "K10ab::abcdef.0123456789abcdef", &format!("K10{hash}::abcdef.0123")];
        assert!(joins.into_iter().all(|text| text.parse::<Join>().is_err()));
        let servers = format!("K10{hash}::server:0123456789abcdef");
        assert!(servers.parse::<Join>().err().unwrap().to_string().contains("for servers"));
        assert!(
            format!("K10{hash}::abcdef.0123456789abcdef").parse::<Share>().is_err() && "short".parse::<Share>().is_err()
        );
    }
}
