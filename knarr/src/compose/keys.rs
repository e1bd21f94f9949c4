//! The keys that all servers of a control plane have in common: the cluster's authority and the signer of service accounts'
//! tokens.
//!
//! They lie in the store that the servers share, sealed (AES-256-GCM) under a key that is derived from the server token: who
//! can read the store alone learns nothing, and a server that joins needs nothing but the store and the token. The first server to put
//! them there has made them; all others take them.

use std::{
    collections::BTreeMap,
    fs,
    num::NonZeroU32,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use apiserver::security::pki::Pki;
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    pbkdf2,
    rand::{SecureRandom, SystemRandom},
};
use serde::{Deserialize, Serialize};
use store::{Op, Outcome, Store, Txn};

use crate::{
    local::record::write_whole,
    token::{Fingerprint, Share},
};

const KEY: &str = "/knarr/keys";
const ROUNDS: NonZeroU32 = NonZeroU32::new(100_000).unwrap();
/// The files in `DATA/pki`, and who may read them.
const FILES: [(&str, u32); 3] = [("ca.key", 0o600), ("sa.key", 0o600), ("ca.crt", 0o644)];

/// How a server comes by the common keys.
pub struct Sharing {
    /// The token that it was given.
    pub token: Option<Share>,
    /// Where the token is kept, and looked for if none was given.
    pub file: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
struct Sealed {
    salt: Vec<u8>,
    nonce: [u8; NONCE_LEN],
    data: Vec<u8>,
}

type Files = BTreeMap<String, String>;

/// Makes sure that `pki` holds the keys that all servers of this store have.
pub async fn share(store: &dyn Store, pki: &Path, sharing: Sharing) -> Result<()> {
    let kept = sharing.file.exists().then(|| crate::token::read(&sharing.file)).transpose()?;
    let mut token = sharing.token.or(kept);
    let files = loop {
        let (found, _) = store.get(KEY).await.context("look for the servers' keys in the store")?;
        if let Some(found) = found {
            let token = token.as_ref().context(
                "the cluster in this etcd has a server already: give --token, which is in its DATA/server-token, to join it",
            )?;
            let sealed = serde_json::from_slice(&found.value).context("read the servers' keys")?;
            break open(token, &sealed)?;
        }
        let token = match &mut token {
            Some(token) => token,
            none => none.insert(Share::generate()?),
        };
        let files = own(pki)?;
        let value = serde_json::to_vec(&seal(token, &files)?)?.into();
        let put = Op::Put { key: KEY.into(), value, ttl: None };
        let txn = Txn { compare: vec![(KEY.into(), 0)], ops: vec![put], ..Txn::default() };
        // On a conflict another server was first: its keys are the ones.
        if let Outcome::Committed(_) = store.commit(txn).await.context("put the servers' keys into the store")? {
            break files;
        }
    };
    install(pki, &files)?;
    let authority = Fingerprint::of_pem(files.get("ca.crt").map_or("", String::as_str))?;
    if let Some(token) = token {
        if token.authority.is_some_and(|wanted| wanted != authority) {
            bail!("the cluster in this etcd is not the one that the token is for: its authority is {authority}");
        }
        write_whole(&sharing.file, format!("{}\n", token.text(authority)).as_bytes(), 0o600)?;
    }
    Ok(())
}

/// The keys that are in `pki`, or new ones, which are nowhere yet.
fn own(pki: &Path) -> Result<Files> {
    if pki.join("ca.key").exists() {
        Pki::open(pki, std::time::SystemTime::now().into())?;
        return read(pki);
    }
    let parent = pki.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    let made = tempfile::tempdir_in(parent).context("make a folder for new keys")?;
    Pki::open(made.path(), std::time::SystemTime::now().into())?;
    read(made.path())
}

fn read(pki: &Path) -> Result<Files> {
    let each = FILES.iter().map(|(name, _)| {
        let path = pki.join(name);
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(((*name).to_owned(), text))
    });
    each.collect()
}

fn install(pki: &Path, files: &Files) -> Result<()> {
    fs::create_dir_all(pki).with_context(|| format!("create {}", pki.display()))?;
    fs::set_permissions(pki, fs::Permissions::from_mode(0o700))?;
    for (name, mode) in FILES {
        let text = files.get(name).with_context(|| format!("find {name} among the servers' keys"))?;
        let path = pki.join(name);
        match fs::read_to_string(&path) {
            Ok(there) if there == *text => {}
            Ok(_) => bail!(
                "{} is not what the cluster in this etcd has: this folder belongs to another cluster; give another --data-dir",
                path.display()
            ),
            Err(_) => write_whole(&path, text.as_bytes(), mode)?,
        }
    }
    Ok(())
}

fn key(token: &Share, salt: &[u8]) -> Result<LessSafeKey> {
    let mut key = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, salt, token.secret.as_bytes(), &mut key);
    Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).ok().context("derive a key from the token")?))
}

fn seal(token: &Share, files: &Files) -> Result<Sealed> {
    let (mut salt, mut nonce) = (vec![0; 16], [0; NONCE_LEN]);
    let random = SystemRandom::new();
    random.fill(&mut salt).and_then(|()| random.fill(&mut nonce)).ok().context("ask the system for randomness")?;
    let mut data = serde_json::to_vec(files)?;
    let sealing = key(token, &salt)?;
    let sealed = sealing.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(KEY.as_bytes()), &mut data);
    sealed.ok().context("seal the servers' keys")?;
    Ok(Sealed { salt, nonce, data })
}

fn open(token: &Share, sealed: &Sealed) -> Result<Files> {
    let mut data = sealed.data.clone();
    let opening = key(token, &sealed.salt)?;
    let nonce = Nonce::assume_unique_for_key(sealed.nonce);
    let opened = opening.open_in_place(nonce, Aad::from(KEY.as_bytes()), &mut data);
    let opened = opened.ok().context("the token does not open the keys of this cluster's servers: it is not its token")?;
    serde_json::from_slice(opened).context("read the servers' keys")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn store(folder: &Path) -> Arc<dyn Store> {
        let store = store::redb::RedbStore::open(folder.join("db"), store::redb::Options::default());
        Arc::new(store.unwrap())
    }

    fn sharing(folder: &Path, token: Option<&str>) -> Sharing {
        Sharing { token: token.map(|text| text.parse().unwrap()), file: folder.join("server-token") }
    }

    #[tokio::test]
    async fn a_server_with_the_token_gets_the_first_ones_keys() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let [first, second, third] = ["a", "b", "c"].map(|name| folder.path().join(name));
        share(store.as_ref(), &first.join("pki"), sharing(&first, None)).await.unwrap();
        let token = fs::read_to_string(first.join("server-token")).unwrap();

        share(store.as_ref(), &second.join("pki"), sharing(&second, Some(&token))).await.unwrap();
        assert_eq!(read(&second.join("pki")).unwrap(), read(&first.join("pki")).unwrap());
        let modes = ["pki/ca.key", "pki/sa.key", "server-token"]
            .map(|name| fs::metadata(second.join(name)).unwrap().permissions().mode() & 0o777);
        assert_eq!(modes, [0o600; 3]);

        let without = share(store.as_ref(), &third.join("pki"), sharing(&third, None)).await.unwrap_err().to_string();
        assert!(without.contains("give --token"), "{without}");
        let wrong = sharing(&third, Some("another-secret-0123456789"));
        let wrong = share(store.as_ref(), &third.join("pki"), wrong).await.unwrap_err().to_string();
        assert!(wrong.contains("does not open") && !third.exists(), "{wrong}");
        // A restart needs no flag.
        share(store.as_ref(), &second.join("pki"), sharing(&second, None)).await.unwrap();
    }

    #[tokio::test]
    async fn a_folder_of_another_cluster_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let [first, other] = ["a", "b"].map(|name| folder.path().join(name));
        let token = "a-secret-of-our-own-choice";
        share(store.as_ref(), &first.join("pki"), sharing(&first, Some(token))).await.unwrap();
        Pki::open(&other.join("pki"), std::time::SystemTime::now().into()).unwrap();
        let before = read(&other.join("pki")).unwrap();
        let refused = share(store.as_ref(), &other.join("pki"), sharing(&other, Some(token))).await.unwrap_err();
        assert!(refused.to_string().contains("another cluster"), "{refused}");
        assert_eq!(read(&other.join("pki")).unwrap(), before);
    }
}
