//! Archives of images: `docker save` files and OCI layouts in a tar file.
//!
//! The outer archive's files are put under numbers in a scratch directory, whatever their names, because their order is free:
//! a layer may come before the manifest that tells what it is.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use process::version::architecture;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tar::EntryType;

use super::normalize;
use super::store::{ImageRecord, ImageStore, NewImage, NewLayer, Scratch};
use super::unpack::{decompress, each_entry, hex};
use crate::error::{Error, Result, Step};

/// Manifests, indexes and configurations are small.
pub(super) const DOCUMENT_LIMIT: u64 = 8 << 20;
const FILE_LIMIT: usize = 10_000;
/// How deep indexes may nest.
pub(super) const DEPTH_LIMIT: usize = 4;

/// Files by their names in the archive.
struct Files {
    _scratch: Scratch,
    paths: HashMap<PathBuf, PathBuf>,
    links: HashMap<PathBuf, PathBuf>,
}

/// An entry of docker's manifest.json.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: PathBuf,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<PathBuf>,
}

/// What a manifest says of a blob, or an index of a manifest.
#[derive(Debug, Default, PartialEq, Deserialize)]
pub(super) struct Descriptor {
    pub digest: String,
    #[serde(default)]
    pub size: u64,
    #[serde(default)]
    pub platform: Option<Platform>,
    #[serde(default)]
    pub annotations: Option<HashMap<String, String>>,
}

#[derive(Debug, PartialEq, Deserialize)]
pub(super) struct Platform {
    architecture: String,
    os: String,
    #[serde(default)]
    pub variant: Option<String>,
}

impl Platform {
    /// Whether it is this machine's.
    pub fn fits(&self) -> bool {
        self.os == "linux" && self.architecture == architecture()
    }
}

/// A manifest or an index, by what is there.
#[derive(Deserialize)]
pub(super) struct Document {
    #[serde(default)]
    pub manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    pub config: Option<Descriptor>,
    #[serde(default)]
    pub layers: Option<Vec<Descriptor>>,
}

/// Installs every image in the archive.
pub fn import(store: &ImageStore, archive: impl Read) -> Result<Vec<ImageRecord>> {
    let files = Files::read(store, archive)?;
    if files.find("manifest.json".as_ref()).is_ok() {
        let images: Vec<DockerImage> =
            serde_json::from_slice(&files.document("manifest.json".as_ref())?).step("decode manifest.json")?;
        return images.iter().map(|image| docker_image(store, &files, image)).collect();
    }
    if files.find("index.json".as_ref()).is_ok() {
        let index: Document = serde_json::from_slice(&files.document("index.json".as_ref())?).step("decode index.json")?;
        let mut images = Vec::new();
        for descriptor in index.manifests.unwrap_or_default() {
            images.extend(oci_image(store, &files, &descriptor, None, 0)?);
        }
        if images.is_empty() {
            return Err(Error::Invalid(format!("the archive has no image for linux/{}", architecture())));
        }
        return Ok(images);
    }
    Err(Error::Invalid("neither a docker nor an OCI image archive: manifest.json and index.json are missing".to_owned()))
}

fn docker_image(store: &ImageStore, files: &Files, image: &DockerImage) -> Result<ImageRecord> {
    let config = files.document(&image.config)?;
    let parsed: super::ImageConfig = serde_json::from_slice(&config).step("decode image configuration")?;
    if parsed.rootfs.diff_ids.len() != image.layers.len() {
        return Err(Error::Invalid("manifest and configuration disagree about the number of layers".to_owned()));
    }
    let layers = image.layers.iter().zip(parsed.rootfs.diff_ids);
    let layers = layers.map(|(path, diff_id)| files.layer(path, diff_id)).collect::<Result<_>>()?;
    let tags = image.repo_tags.iter().flatten().map(|tag| normalize(tag).map(|name| name.whole())).collect::<Result<_>>()?;
    store.install(&NewImage { config, layers, tags, digests: Vec::new(), size: None })
}

/// The image, or those of an index that fit this machine.
fn oci_image(
    store: &ImageStore,
    files: &Files,
    descriptor: &Descriptor,
    outer_name: Option<&str>,
    depth: usize,
) -> Result<Vec<ImageRecord>> {
    if depth > DEPTH_LIMIT || descriptor.platform.as_ref().is_some_and(|platform| !platform.fits()) {
        return Ok(Vec::new());
    }
    let name = descriptor.annotations.as_ref().and_then(image_name).or(outer_name);
    let document: Document = serde_json::from_slice(&files.blob(descriptor)?).step("decode manifest")?;
    if let Some(manifests) = &document.manifests {
        let inner = manifests.iter().map(|inner| oci_image(store, files, inner, name, depth + 1));
        return Ok(inner.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect());
    }
    let (Some(config), Some(blobs)) = (&document.config, &document.layers) else { return Ok(Vec::new()) };
    let config_bytes = files.blob(config)?;
    // Attestations and other artifacts have configurations of other kinds.
    let Ok(parsed) = serde_json::from_slice::<super::ImageConfig>(&config_bytes) else { return Ok(Vec::new()) };
    if parsed.rootfs.diff_ids.len() != blobs.len() {
        return Err(Error::Invalid("manifest and configuration disagree about the number of layers".to_owned()));
    }
    let layers = blobs.iter().zip(parsed.rootfs.diff_ids);
    let layers = layers.map(|(blob, diff_id)| files.layer(&blob_path(&blob.digest)?, diff_id)).collect::<Result<_>>()?;
    let (mut tags, mut digests) = (Vec::new(), Vec::new());
    // A bare tag in the annotation names nothing.
    if let Some(reference) = name.filter(|name| name.contains(['/', ':'])).and_then(|name| normalize(name).ok()) {
        tags.push(reference.whole());
        digests.push(format!("{}@{}", reference.bare(), descriptor.digest));
    }
    let size = blobs.iter().chain([config]).map(|blob| blob.size).sum();
    Ok(vec![store.install(&NewImage { config: config_bytes, layers, tags, digests, size: Some(size) })?])
}

fn image_name(annotations: &HashMap<String, String>) -> Option<&str> {
    let keys = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
    keys.iter().find_map(|key| annotations.get(*key)).map(String::as_str)
}

fn blob_path(digest: &str) -> Result<PathBuf> {
    match digest.split_once(':') {
        Some(("sha256", hex)) if hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            Ok(PathBuf::from(format!("blobs/sha256/{hex}")))
        }
        _ => Err(Error::Invalid(format!("digest {digest:?} is not a SHA-256 one"))),
    }
}

impl Files {
    fn read(store: &ImageStore, archive: impl Read) -> Result<Files> {
        let scratch = store.scratch()?;
        let mut files = Files { paths: HashMap::new(), links: HashMap::new(), _scratch: scratch };
        each_entry(decompress(archive).step("read archive")?, |entry| {
            let name = lexical(&entry.path().step("read archive")?);
            if files.paths.len() + files.links.len() >= FILE_LIMIT {
                return Err(Error::Invalid("archive has too many files".to_owned()));
            }
            match entry.header().entry_type() {
                EntryType::Regular | EntryType::Continuous => {
                    let path = files._scratch.path().join(files.paths.len().to_string());
                    let mut file = File::create(&path).step("write temporary file")?;
                    io::copy(entry, &mut file).step("read archive")?;
                    files.paths.insert(name, path);
                }
                // Old archives share layers by links.
                kind @ (EntryType::Symlink | EntryType::Link) => {
                    let target = entry.link_name().step("read archive")?.unwrap_or_default().into_owned();
                    let from = if kind == EntryType::Link { Path::new("") } else { name.parent().unwrap_or(Path::new("")) };
                    files.links.insert(name.clone(), lexical(&from.join(target)));
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(files)
    }

    fn find(&self, name: &Path) -> Result<&Path> {
        let name = lexical(name);
        let target = self.links.get(&name).unwrap_or(&name);
        let missing = || Error::Invalid(format!("the archive lacks {:?}", name.display().to_string()));
        self.paths.get(target).map(PathBuf::as_path).ok_or_else(missing)
    }

    fn document(&self, name: &Path) -> Result<Vec<u8>> {
        let mut content = Vec::new();
        let file = File::open(self.find(name)?).step("open temporary file")?;
        file.take(DOCUMENT_LIMIT + 1).read_to_end(&mut content).step("read temporary file")?;
        if content.len() as u64 > DOCUMENT_LIMIT {
            return Err(Error::Invalid(format!("{:?} is too large", name.display().to_string())));
        }
        Ok(content)
    }

    /// A document whose digest is right.
    fn blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let content = self.document(&blob_path(&descriptor.digest)?)?;
        let digest = format!("sha256:{}", hex(&Sha256::digest(&content)));
        match digest == descriptor.digest {
            true => Ok(content),
            false => Err(Error::Invalid(format!("blob's digest is {digest}, not {}", descriptor.digest))),
        }
    }

    /// A layer; its content is checked by `diff_id` when it is unpacked.
    fn layer(&self, name: &Path, diff_id: String) -> Result<NewLayer<'static>> {
        let path = self.find(name)?.to_owned();
        Ok(NewLayer { diff_id, open: Box::new(move || File::open(&path).map(|file| Box::new(file) as Box<dyn Read>)) })
    }
}

/// The name without `.` and `..`, which cannot lead above the archive.
fn lexical(name: &Path) -> PathBuf {
    use std::path::Component::{Normal, ParentDir};
    let mut clean = PathBuf::new();
    for part in name.components() {
        match part {
            Normal(part) => clean.push(part),
            ParentDir => drop(clean.pop()),
            _ => {}
        }
    }
    clean
}
