//! Images made on the spot.

use std::io::Write;

use sha2::{Digest, Sha256};

/// Commands that the tests' scripts use.
const APPLETS: [&str; 35] = [
    "sh", "cat", "echo", "sleep", "id", "ls", "true", "false", "touch", "hostname", "ps", "mount", "head", "dd", "tr",
    "kill", "env", "pwd", "stat", "tail", "wc", "grep", "sed", "mkdir", "rm", "mknod", "unshare", "nc", "ip", "tty", "stty",
    "readlink", "df", "chroot", "sort",
];

/// A layer in the making.
pub struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    pub fn new() -> Layer {
        Layer(tar::Builder::new(Vec::new()))
    }

    fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header
    }

    pub fn dir(mut self, name: &str, mode: u32) -> Layer {
        let mut header = Self::header(tar::EntryType::Directory, mode, 0);
        self.0.append_data(&mut header, name, std::io::empty()).unwrap();
        self
    }

    pub fn file(mut self, name: &str, mode: u32, content: &[u8]) -> Layer {
        let mut header = Self::header(tar::EntryType::Regular, mode, content.len() as u64);
        self.0.append_data(&mut header, name, content).unwrap();
        self
    }

    pub fn symlink(mut self, name: &str, target: &str) -> Layer {
        let mut header = Self::header(tar::EntryType::Symlink, 0o777, 0);
        self.0.append_link(&mut header, name, target).unwrap();
        self
    }

    /// An entry whose names are written as they are, however wrong.
    pub fn raw(mut self, kind: tar::EntryType, name: &str, target: &str, content: &[u8]) -> Layer {
        let mut header = Self::header(kind, 0o644, content.len() as u64);
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    pub fn finish(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An image's configuration.
#[allow(clippy::needless_pass_by_value)] // literals read better
pub fn config(layers: &[Vec<u8>], run: serde_json::Value) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
    let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let config = serde_json::json!({
        "architecture": architecture, "os": "linux", "config": run, "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    serde_json::to_vec(&config).unwrap()
}

/// As `docker save` writes them.
pub fn docker_archive(tag: &str, layers: &[Vec<u8>], run: serde_json::Value) -> Vec<u8> {
    let names: Vec<String> = (0..layers.len()).map(|number| format!("{number}/layer.tar")).collect();
    let manifest = serde_json::json!([{ "Config": "config.json", "RepoTags": [tag], "Layers": names }]);
    let mut archive = Layer::new();
    for (name, layer) in names.iter().zip(layers) {
        archive = archive.file(name, 0o644, layer);
    }
    let manifest = serde_json::to_vec(&manifest).unwrap();
    archive.file("config.json", 0o644, &config(layers, run)).file("manifest.json", 0o644, &manifest).finish()
}

/// An OCI layout in a tar file, with these layers as they are (compressed or not).
pub fn oci_archive(name: &str, layers: &[Vec<u8>], blobs: &[Vec<u8>], run: serde_json::Value) -> Vec<u8> {
    let config = config(layers, run);
    let describe =
        |bytes: &[u8], kind: &str| serde_json::json!({ "mediaType": kind, "digest": digest(bytes), "size": bytes.len() });
    let kinds = "application/vnd.oci.image.";
    let manifest = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2,
        "config": describe(&config, &format!("{kinds}config.v1+json")),
        "layers": blobs.iter().map(|blob| describe(blob, &format!("{kinds}layer.v1.tar"))).collect::<Vec<_>>(),
    }))
    .unwrap();
    let mut entry = describe(&manifest, &format!("{kinds}manifest.v1+json"));
    entry["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": name });
    let index = serde_json::to_vec(&serde_json::json!({ "schemaVersion": 2, "manifests": [entry] })).unwrap();
    let mut archive =
        Layer::new().file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#).file("index.json", 0o644, &index);
    for blob in blobs.iter().chain([&config, &manifest]) {
        archive = archive.file(&digest(blob).replace("sha256:", "blobs/sha256/"), 0o644, blob);
    }
    archive.finish()
}

/// The layer with busybox in it.
pub fn busybox_layer() -> Vec<u8> {
    let program = std::fs::read("/bin/busybox").expect("busybox-static is installed");
    let mut layer = Layer::new().dir("bin/", 0o755).dir("etc/", 0o755).dir("tmp/", 0o1777).dir("proc/", 0o755);
    layer = layer.file("bin/busybox", 0o755, &program);
    for applet in APPLETS {
        layer = layer.symlink(&format!("bin/{applet}"), "busybox");
    }
    layer
        .file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:2000::/home/app:/bin/sh\n")
        .file("etc/group", 0o644, b"root:x:0:\nwheel:x:10:app\n")
        .file("tmp/not-executable", 0o644, b"#!/bin/sh\n")
        .finish()
}

/// The image that most tests run.
pub fn busybox() -> Vec<u8> {
    docker_archive(super::BUSYBOX, &[busybox_layer()], serde_json::json!({ "Env": ["FROM=image"], "Cmd": ["sh"] }))
}
