//! `knarr migrate`: carries a cluster's objects from one store to another, while no server runs on either.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use store::{
    Store,
    etcd::{EtcdStore, Options},
    snapshot::{self, File, MARGIN},
};

use crate::commands::snapshot::open;

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the objects are: redb:PATH (DATA/state.db of a server), etcd:ENDPOINT[,ENDPOINT...] or snapshot:FILE.
    #[arg(long)]
    from: Place,
    /// Where they are to be: redb:PATH or etcd:ENDPOINT[,ENDPOINT...].
    #[arg(long)]
    to: Place,
    /// Take the place of objects that are there. A redb store is kept as state.replaced beside the new one; what is in etcd is
    /// deleted.
    #[arg(long)]
    replace: bool,
    /// SSL Certificate Authority file used to secure etcd communication.
    #[arg(long)]
    etcd_cafile: Option<PathBuf>,
    /// SSL certification file used to secure etcd communication.
    #[arg(long, requires = "etcd_keyfile")]
    etcd_certfile: Option<PathBuf>,
    /// SSL key file used to secure etcd communication.
    #[arg(long, requires = "etcd_certfile")]
    etcd_keyfile: Option<PathBuf>,
}

/// A store, or a snapshot of one.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Redb(PathBuf),
    Etcd(Vec<String>),
    Snapshot(PathBuf),
}

impl std::str::FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some((_, "")) | None => {}
            Some(("redb", path)) => return Ok(Self::Redb(path.into())),
            Some(("snapshot", path)) => return Ok(Self::Snapshot(path.into())),
            Some(("etcd", endpoints)) => {
                let endpoints: Vec<String> = endpoints.split(',').map(str::to_owned).collect();
                if endpoints.iter().all(|e| e.starts_with("http://") || e.starts_with("https://")) {
                    return Ok(Self::Etcd(endpoints));
                }
                return Err("etcd's endpoints are like http://127.0.0.1:2379".to_owned());
            }
            Some(_) => {}
        }
        Err(format!("{text:?} is none of redb:PATH, etcd:ENDPOINTS and snapshot:FILE"))
    }
}

/// Does it.
pub fn run(args: &Args) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(migrate(args))
}

async fn migrate(args: &Args) -> Result<()> {
    let mut source: Option<Box<dyn Store>> = None;
    let export = match &args.from {
        Place::Snapshot(file) => File::open(file)?.export()?,
        Place::Redb(path) => {
            let store = open(path).with_context(|| format!("open {}; its server must not run", path.display()))?;
            source.insert(Box::new(store)).export().await?
        }
        Place::Etcd(endpoints) => source.insert(Box::new(EtcdStore::connect(args.etcd(endpoints)?).await?)).export().await?,
    };
    let from = export.revision;
    // A snapshot does not know how much was written after it.
    let margin = if source.is_some() { 0 } else { MARGIN };
    match &args.to {
        Place::Snapshot(_) => bail!("`knarr snapshot save` makes snapshots"),
        Place::Redb(path) => {
            let (path, replace) = (path.clone(), args.replace);
            let filled = tokio::task::spawn_blocking(move || snapshot::into_redb(&path, export, margin, replace)).await?;
            let filled = filled.context("not migrated, nothing changed")?;
            eprintln!("Migrated {} keys; the store stands at revision {} (it was {from})", filled.keys, filled.revision);
            if let Some(replaced) = filled.replaced {
                eprintln!("What was there is now {}", replaced.display());
            }
        }
        Place::Etcd(endpoints) => {
            let etcd = EtcdStore::reach(args.etcd(endpoints)?).await?;
            let floor = from.saturating_add(margin);
            let stands = etcd.revision().await?;
            if floor > stands {
                eprintln!("Raising etcd's revision from {stands} to {floor}, so that no client's is ahead of it");
            }
            let filled = etcd.fill(export, floor, args.replace).await.context("not migrated")?;
            eprintln!("Migrated {} keys; etcd stands at revision {} (it was {from})", filled.keys, filled.revision);
        }
    }
    if let Some(store) = source {
        store.close().await?;
    }
    Ok(())
}

impl Args {
    fn etcd(&self, endpoints: &[String]) -> Result<Options> {
        let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("read {}", path.display()));
        let pair = self.etcd_certfile.as_ref().zip(self.etcd_keyfile.as_ref());
        Ok(Options {
            endpoints: endpoints.to_vec(),
            ca_pem: self.etcd_cafile.as_ref().map(read).transpose()?,
            identity_pem: pair.map(|(c, k)| anyhow::Ok((read(c)?, read(k)?))).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let read = ["redb:/a/b.db", "etcd:http://a:1,https://b:2", "snapshot:x", "etcd:a:1", "redb:", "other:x", "x"]
            .map(|text| text.parse::<Place>().ok());
        let etcd = Place::Etcd(vec!["http://a:1".to_owned(), "https://b:2".to_owned()]);
        let wanted = [Some(Place::Redb("/a/b.db".into())), Some(etcd), Some(Place::Snapshot("x".into()))];
        assert_eq!(read[..3], wanted);
        assert_eq!(read[3..], [const { None }; 4]);
    }
}
