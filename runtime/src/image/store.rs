//! The images on this node and their layers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::config::ImageConfig;
use super::unpack::{self, hex};
use super::{archive, normalize};
use crate::disk;
use crate::error::{Error, Result, Step};

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// `sha256:` and the digest of its configuration.
    pub id: String,
    /// Complete names with tags.
    pub tags: BTreeSet<String>,
    /// Complete names with manifest digests.
    pub digests: BTreeSet<String>,
    /// Chain IDs of its layers, lowest first.
    pub chain: Vec<String>,
    /// Bytes, as transferred where known, else unpacked.
    pub size: u64,
    /// How to run it.
    pub config: ImageConfig,
    /// Never removed as garbage.
    #[serde(default)]
    pub pinned: bool,
}

/// One layer's directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Layer {
    number: u64,
    size: u64,
}

#[derive(Default)]
struct Index {
    images: BTreeMap<String, ImageRecord>,
    layers: HashMap<String, Layer>,
    /// Chains that containers stand on, by container.
    held: HashMap<String, Vec<String>>,
    /// When the records' directory had changed last as it was read.
    seen: Option<std::time::SystemTime>,
}

fn modified(dir: &Path) -> Option<std::time::SystemTime> {
    std::fs::metadata(dir).and_then(|meta| meta.modified()).ok()
}

/// All images. Methods that touch the disk block.
pub struct ImageStore {
    root: PathBuf,
    index: Mutex<Index>,
    /// One layer is unpacked at a time, so that none is unpacked twice.
    unpacking: Mutex<()>,
}

/// A temporary directory that no other process takes for a leftover.
pub(super) struct Scratch {
    dir: tempfile::TempDir,
    _in_use: Option<Flock<std::fs::File>>,
}

impl Scratch {
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// A layer to be installed.
pub struct NewLayer<'a> {
    /// Digest of its uncompressed archive.
    pub diff_id: String,
    /// Opens the archive, compressed or not.
    pub open: Box<dyn Fn() -> std::io::Result<Box<dyn Read>> + 'a>,
}

/// An image to be installed.
pub struct NewImage<'a> {
    /// The configuration, byte by byte.
    pub config: Vec<u8>,
    /// Lowest first; opened only where missing.
    pub layers: Vec<NewLayer<'a>>,
    /// Complete names with tags.
    pub tags: Vec<String>,
    /// Complete names with manifest digests.
    pub digests: Vec<String>,
    /// Bytes as transferred, if known.
    pub size: Option<u64>,
}

impl ImageStore {
    /// Opens the store below `root`, making it if it is new, beside a runtime that may be using it: to add images.
    pub fn beside(root: PathBuf) -> Result<ImageStore> {
        for part in ["records", "chains", "layers", "layers/e", "new"] {
            disk::make_dir(&root.join(part))?;
        }
        let store = ImageStore { root, index: Mutex::default(), unpacking: Mutex::default() };
        store.refresh();
        Ok(store)
    }

    /// Opens the store as the runtime that owns it, and removes what interrupted imports have left.
    pub fn open(root: PathBuf) -> Result<ImageStore> {
        let store = ImageStore::beside(root)?;
        let _alone = store.lock_files()?;
        store.refresh();
        // What somebody is working with beside us is no leftover: those that there are go the next time.
        if let Some(_nobody_else) = store.lock_scratch(FlockArg::LockExclusiveNonblock)? {
            for name in disk::names(&store.scratch_dir()) {
                disk::remove_dir(&store.scratch_dir().join(name))?;
            }
        }
        {
            let index = store.index.lock();
            let known: BTreeSet<String> = index.layers.values().map(|layer| layer.number.to_string()).collect();
            for name in disk::names(&store.layers_dir()).iter().filter(|name| *name != "e" && !known.contains(*name)) {
                disk::remove_dir(&store.layers_dir().join(name))?;
            }
            for name in disk::names(&store.root.join("records")) {
                if !index.images.keys().any(|id| store.record_file(id).ends_with(&name)) {
                    tracing::warn!(name, "forgetting an image whose record or layers are damaged");
                    drop(std::fs::remove_file(store.root.join("records").join(&name)));
                }
            }
        }
        Ok(store)
    }

    /// Keeps other processes from changing the store.
    fn lock_files(&self) -> Result<Flock<std::fs::File>> {
        let file = std::fs::File::create(self.root.join("lock")).step("open image store's lock")?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error).step("lock image store")
    }

    fn scratch_dir(&self) -> PathBuf {
        self.root.join("new")
    }

    /// Keeps the temporary directories from being removed by others, or others from making any; `None` if somebody has them.
    fn lock_scratch(&self, how: FlockArg) -> Result<Option<Flock<std::fs::File>>> {
        let directory = std::fs::File::open(self.scratch_dir()).step("open the temporary directory")?;
        match Flock::lock(directory, how) {
            Ok(locked) => Ok(Some(locked)),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => Err(error).step("lock the temporary directory"),
        }
    }

    /// Reads what other processes have added.
    fn refresh(&self) {
        let mut index = self.index.lock();
        let chains = self.root.join("chains");
        for name in disk::names(&chains) {
            let Some(chain) = name.strip_suffix(".json").map(|chain| format!("sha256:{chain}")) else { continue };
            if !index.layers.contains_key(&chain)
                && let Ok(layer) = disk::read_json::<Layer>(&chains.join(&name))
                && self.layers_dir().join(layer.number.to_string()).is_dir()
            {
                index.layers.insert(chain, layer);
            }
        }
        let records = self.root.join("records");
        for name in disk::names(&records).iter().filter(|name| name.ends_with(".json")) {
            if let Ok(record) = disk::read_json::<ImageRecord>(&records.join(name))
                && record.chain.iter().all(|chain| index.layers.contains_key(chain))
            {
                index.images.insert(record.id.clone(), record);
            }
        }
        index.seen = modified(&records);
    }

    /// Looks for news from other processes if there is any.
    fn keep_up(&self) {
        if modified(&self.root.join("records")) != self.index.lock().seen {
            self.refresh();
        }
    }

    /// The file system that holds images and containers.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where layers' directories are; they are named relative to it.
    pub fn layers_dir(&self) -> PathBuf {
        self.root.join("layers")
    }

    /// Every image.
    pub fn list(&self) -> Vec<ImageRecord> {
        self.keep_up();
        self.index.lock().images.values().cloned().collect()
    }

    /// The image with this ID (whole or its beginning) or name.
    pub fn find(&self, name: &str) -> Option<ImageRecord> {
        self.keep_up();
        find(&self.index.lock(), name).cloned()
    }

    /// A tag and a digest of the image with this ID, where it has them; `None` if it is not here.
    pub fn names(&self, id: &str) -> Option<(Option<String>, Option<String>)> {
        self.keep_up();
        let index = self.index.lock();
        find(&index, id).map(|image| (image.tags.first().cloned(), image.digests.first().cloned()))
    }

    /// Names of the layers' directories, uppermost first, for the container that is about to stand on them.
    pub fn hold(&self, container: &str, record: &ImageRecord) -> Result<Vec<String>> {
        let mut index = self.index.lock();
        let numbers = record.chain.iter().rev().map(|chain| index.layers.get(chain).map(|layer| layer.number.to_string()));
        let mut names: Vec<String> =
            numbers.collect::<Option<_>>().ok_or_else(|| Error::NotFound(format!("layers of image {}", record.id)))?;
        if names.is_empty() {
            names.push("e".to_owned());
        }
        index.held.insert(container.to_owned(), record.chain.clone());
        Ok(names)
    }

    /// The container stands on its layers no more.
    pub fn release(&self, container: &str) {
        let unused = {
            let mut index = self.index.lock();
            let held = index.held.remove(container).unwrap_or_default();
            let used = |chain| {
                index.images.values().any(|image| image.chain.contains(chain))
                    || index.held.values().any(|held| held.contains(chain))
            };
            !held.iter().all(used)
        };
        if unused {
            self.collect();
        }
    }

    /// Removes layers that neither an image nor a container uses.
    pub fn collect(&self) {
        let _no_import = self.unpacking.lock();
        let Ok(_alone) = self.lock_files() else { return };
        self.refresh();
        let mut index = self.index.lock();
        let mut used: BTreeSet<&String> = index.images.values().flat_map(|image| &image.chain).collect();
        used.extend(index.held.values().flatten());
        let unused: Vec<String> = index.layers.keys().filter(|chain| !used.contains(chain)).cloned().collect();
        for chain in unused {
            if let Some(layer) = index.layers.remove(&chain) {
                let _ = std::fs::remove_file(self.chain_file(&chain));
                if let Err(error) = disk::remove_dir(&self.layers_dir().join(layer.number.to_string())) {
                    tracing::warn!(%error, "a layer's rest stays until the next start");
                }
            }
        }
    }

    /// Removes the image with this ID or name, with all of its names. An absent one is fine.
    pub fn remove(&self, name: &str) -> Result<()> {
        let Some(record) = self.find(name) else { return Ok(()) };
        match std::fs::remove_file(self.record_file(&record.id)) {
            // Somebody else was faster, and is not further than here.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            other => other.step("remove image's record")?,
        }
        self.index.lock().images.remove(&record.id);
        self.collect();
        Ok(())
    }

    /// Installs every image of a docker or OCI archive (a tar file, compressed or not).
    pub fn import(&self, archive: impl Read) -> Result<Vec<ImageRecord>> {
        archive::import(self, archive)
    }

    /// A new directory that goes away at the next start if not before.
    pub(super) fn scratch(&self) -> Result<Scratch> {
        let in_use = self.lock_scratch(FlockArg::LockShared)?;
        let dir = tempfile::tempdir_in(self.scratch_dir()).step("make temporary directory")?;
        Ok(Scratch { dir, _in_use: in_use })
    }

    /// Unpacks what is missing and records the image. Names move here from other images.
    pub fn install(&self, new: &NewImage<'_>) -> Result<ImageRecord> {
        let config: ImageConfig = serde_json::from_slice(&new.config).step("decode image configuration")?;
        let diff_ids: Vec<&String> = new.layers.iter().map(|layer| &layer.diff_id).collect();
        if config.rootfs.diff_ids.iter().collect::<Vec<_>>() != diff_ids {
            return Err(Error::Invalid("the image's layers are not those that its configuration names".to_owned()));
        }
        let id = format!("sha256:{}", hex(&Sha256::digest(&new.config)));
        let _one = self.unpacking.lock();
        let _alone = self.lock_files()?;
        self.refresh();
        let mut chain: Vec<String> = Vec::new();
        let mut fresh = false;
        for layer in &new.layers {
            let next = match chain.last() {
                None => layer.diff_id.clone(),
                Some(parent) => format!("sha256:{}", hex(&Sha256::digest(format!("{parent} {}", layer.diff_id)))),
            };
            if !self.index.lock().layers.contains_key(&next) {
                self.unpack(layer, &next, &chain)?;
                fresh = true;
            }
            chain.push(next);
        }
        if fresh {
            // Containers' own layers may vanish with the power; images must not be there in part.
            sync_file_system(&self.root)?;
        }
        let mut index = self.index.lock();
        let unpacked = chain.iter().map(|part| index.layers[part].size).sum();
        let old = index.images.get(&id).cloned();
        let mut record = old.clone().unwrap_or_else(|| ImageRecord {
            id: id.clone(),
            tags: BTreeSet::new(),
            digests: BTreeSet::new(),
            chain,
            size: new.size.unwrap_or(unpacked),
            config,
            pinned: false,
        });
        record.tags.extend(new.tags.iter().cloned());
        record.digests.extend(new.digests.iter().cloned());
        if !fresh && old.as_ref() == Some(&record) {
            return Ok(record);
        }
        for part in &record.chain {
            disk::write_json(&self.chain_file(part), &index.layers[part])?;
        }
        disk::write_json(&self.record_file(&id), &record)?;
        let moved = |other: &ImageRecord| other.id != id && new.tags.iter().any(|tag| other.tags.contains(tag));
        let others: Vec<String> = index.images.values().filter(|other| moved(other)).map(|other| other.id.clone()).collect();
        for other in others {
            if let Some(image) = index.images.get_mut(&other) {
                image.tags.retain(|tag| !new.tags.contains(tag));
                disk::write_json(&self.record_file(&other), image)?;
            }
        }
        index.images.insert(id, record.clone());
        drop(index);
        // The records too: what is said to be here may be nowhere else to be had.
        sync_file_system(&self.root)?;
        Ok(record)
    }

    fn unpack(&self, layer: &NewLayer<'_>, chain: &str, below: &[String]) -> Result<()> {
        let numbers = disk::names(&self.layers_dir()).into_iter().filter_map(|name| name.parse::<u64>().ok());
        let number = numbers.max().unwrap_or(0) + 1;
        let below: Vec<PathBuf> = {
            let index = self.index.lock();
            let dir = |chain: &String| self.layers_dir().join(index.layers[chain].number.to_string());
            below.iter().rev().map(dir).collect()
        };
        let target = self.layers_dir().join(number.to_string());
        std::fs::create_dir(&target).step("make layer's directory")?;
        let unpacked = (layer.open)().step("open layer").and_then(|archive| unpack::unpack(archive, &target, &below));
        match unpacked {
            Ok(unpacked) if unpacked.diff_id == layer.diff_id => {
                self.index.lock().layers.insert(chain.to_owned(), Layer { number, size: unpacked.size });
                Ok(())
            }
            other => {
                disk::remove_dir(&target)?;
                let wrong = |got: String| Error::Invalid(format!("layer's digest is {got}, not {}", layer.diff_id));
                Err(other.map_or_else(|error| error, |unpacked| wrong(unpacked.diff_id)))
            }
        }
    }

    fn chain_file(&self, chain: &str) -> PathBuf {
        self.root.join("chains").join(format!("{}.json", chain.trim_start_matches("sha256:")))
    }

    fn record_file(&self, id: &str) -> PathBuf {
        self.root.join("records").join(format!("{}.json", id.trim_start_matches("sha256:")))
    }
}

fn find<'a>(index: &'a Index, name: &str) -> Option<&'a ImageRecord> {
    if let Some(record) = index.images.get(name) {
        return Some(record);
    }
    let digits = name.strip_prefix("sha256:").unwrap_or(name);
    if digits.len() >= 12 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let mut alike = index.images.values().filter(|record| record.id["sha256:".len()..].starts_with(digits));
        if let (Some(record), None) = (alike.next(), alike.next()) {
            return Some(record);
        }
    }
    let reference = normalize(name).ok()?;
    // A digest says more than the tag beside it.
    let whole = match &reference.digest {
        Some(digest) => format!("{}@{digest}", reference.bare()),
        None => reference.whole(),
    };
    index.images.values().find(|record| record.tags.contains(&whole) || record.digests.contains(&whole))
}

fn sync_file_system(path: &Path) -> Result<()> {
    let dir = std::fs::File::open(path).step("open image store")?;
    // SAFETY: numbers only.
    match unsafe { libc::syncfs(std::os::fd::AsRawFd::as_raw_fd(&dir)) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()).step("write image to disk"),
    }
}
