//! `knarr snapshot`: backups of a cluster's objects, taken while its server runs, restored while it does not.

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, Result, bail};
use k8s_openapi::jiff::{Timestamp, Unit};
use serde_json::json;
use store::{
    Revision, Store as _,
    redb::RedbStore,
    snapshot::{self, File, Summary},
};

use crate::local::{
    control, layout,
    process::Identity,
    record::{self, Cluster, Store},
};

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: SnapshotCommand,
}

#[derive(Debug, clap::Subcommand)]
enum SnapshotCommand {
    /// Write all objects, as they are at one moment, into a file. The server may run, and goes on.
    Save {
        /// The file, which only its owner may read: it holds the cluster's secrets.
        file: PathBuf,
        #[command(flatten)]
        target: Target,
    },
    /// Make a server's store from a file. The server must not run.
    Restore {
        /// The file.
        file: PathBuf,
        #[command(flatten)]
        target: Target,
        /// Take the place of a store that is there; it is kept as state.replaced beside the new one.
        #[arg(long)]
        replace: bool,
        /// How far resourceVersions are raised: more than the cluster has changed objects since the snapshot was taken.
        #[arg(long, default_value_t = snapshot::BUMP)]
        bump_revision: Revision,
    },
    /// Check a file, and tell what is in it.
    Status {
        /// The file.
        file: PathBuf,
        /// How to print it.
        #[arg(long, short, value_parser = ["json"])]
        output: Option<String>,
    },
}

/// Whose store.
#[derive(Debug, clap::Args)]
struct Target {
    /// The local cluster.
    #[arg(long, default_value = "knarr")]
    name: String,
    /// Not a local cluster's, but the store of a server or API server with this --data-dir.
    #[arg(long, conflicts_with = "name")]
    data_dir: Option<PathBuf>,
}

/// Does it.
pub fn run(args: &Args) -> Result<()> {
    match &args.command {
        SnapshotCommand::Save { file, target } => save(file, target),
        SnapshotCommand::Restore { file, target, replace, bump_revision } => restore(file, target, *replace, *bump_revision),
        SnapshotCommand::Status { file, output } => status(file, output.is_some()),
    }
}

fn save(file: &Path, target: &Target) -> Result<()> {
    let (folder, data) = match &target.data_dir {
        Some(data) => (data.clone(), data.clone()),
        None => {
            let first = Cluster::existing(&target.name)?.nodes()?.into_iter().next().context("find the first node")?;
            (first.folder, layout::folder(&target.name))
        }
    };
    let path = data.join(STATE);
    let running = std::os::unix::net::UnixStream::connect(control::path(&folder)).is_ok();
    let mut refused = None;
    let saved = snapshot::save(file, |out| match running {
        true => {
            // What the node says is told as it is said.
            refused = control::ask_stream(&folder, "snapshot save", out).err();
            if refused.is_some() { Err(store::Error::Closed.into()) } else { Ok(()) }
        }
        false => save_file(&path, out),
    });
    match (saved, refused) {
        (_, Some(error)) => Err(error),
        (Ok(summary), None) => {
            eprintln!("Saved {} keys at revision {} to {}", summary.keys, summary.revision, file.display());
            Ok(())
        }
        (Err(error), None) => Err(error.into()),
    }
}

const STATE: &str = "state.db";

/// Of a server that does not run.
fn save_file(path: &Path, out: &mut dyn Write) -> Result<(), snapshot::Error> {
    let store = open(path)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.map_err(|source| snapshot::Error::File { step: "read", path: path.to_owned(), source })?;
    let export = runtime.block_on(store.export())?;
    snapshot::write(export, SystemTime::now(), out)?;
    Ok(runtime.block_on(store.close())?)
}

/// Opens a store's file that must be there.
pub fn open(path: &Path) -> Result<RedbStore, snapshot::Error> {
    std::fs::metadata(path).map_err(|source| snapshot::Error::File { step: "find", path: path.to_owned(), source })?;
    Ok(RedbStore::open(path, store::redb::Options::default())?)
}

fn restore(file: &Path, target: &Target, replace: bool, bump: Revision) -> Result<()> {
    let snapshot = File::open(file)?;
    let (_lock, data, how) = match &target.data_dir {
        Some(data) => {
            if std::os::unix::net::UnixStream::connect(control::path(data)).is_ok() {
                bail!("the server of {} is running; stop it first", data.display());
            }
            std::fs::create_dir_all(data).with_context(|| format!("create {}", data.display()))?;
            (None, data.clone(), "start its server".to_owned())
        }
        None => {
            let lock = record::lock(&target.name)?;
            let cluster = Cluster::existing(&target.name)?;
            if cluster.store == Store::Etcd {
                bail!(
                    "cluster {} keeps its objects in etcd; `knarr migrate --from snapshot:{} --to etcd:ENDPOINTS` fills one",
                    cluster.name,
                    file.display()
                );
            }
            let first = cluster.nodes()?.into_iter().next().context("find the first node")?;
            if Identity::load(&first.folder, "knarr").is_some() {
                bail!("{0} is running; `knarr node stop {0}` stops it", first.name);
            }
            let how = format!("`knarr up --name {}` starts it", cluster.name);
            (Some(lock), layout::folder(&cluster.name), how)
        }
    };
    let path = data.join(STATE);
    let restored = snapshot::into_redb(&path, snapshot.export()?, bump, replace).map_err(|error| match error {
        in_use @ snapshot::Error::Store(store::Error::InUse) => {
            anyhow::Error::new(in_use).context("not restored; stop the server first")
        }
        other => anyhow::Error::new(other).context("not restored, nothing changed"),
    })?;
    eprintln!("Restored {} keys to {}, at revision {}; {how}", restored.keys, path.display(), restored.revision);
    if let Some(replaced) = restored.replaced {
        eprintln!("What was there is now {}", replaced.display());
    }
    Ok(())
}

fn status(file: &Path, as_json: bool) -> Result<()> {
    let summary = File::open(file)?.summary;
    let taken = Timestamp::from_millisecond(i64::try_from(summary.taken_ms)?)?.round(Unit::Second)?;
    let Summary { revision, keys, bytes, .. } = summary;
    let hash = summary.hash_hex();
    if as_json {
        let told = json!({"revision": revision, "keys": keys, "bytes": bytes, "taken": taken.to_string(), "sha256": hash});
        println!("{}", serde_json::to_string_pretty(&told)?);
    } else {
        println!("taken     {taken}\nrevision  {revision}\nkeys      {keys}\nbytes     {bytes}\nsha256    {hash}");
    }
    Ok(())
}
