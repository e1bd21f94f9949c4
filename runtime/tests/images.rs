//! Images: archives of both kinds, layers upon layers, hostile ones, and what is left when they go.

#![allow(clippy::large_futures, reason = "CRI's messages are large, and tests are not in a hurry")]

mod support;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use knarr_runtime::ImageStore;
use serde_json::json;
use support::image::{Layer, busybox_layer, config, digest, docker_archive, gzip, oci_archive};
use support::{Node, script};
use tar::EntryType;

fn store() -> (tempfile::TempDir, ImageStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path().join("images")).unwrap();
    (dir, store)
}

/// The directory of an image's uppermost layer.
fn top(store: &ImageStore, name: &str) -> std::path::PathBuf {
    let record = store.find(name).unwrap();
    store.layers_dir().join(&store.hold("test", &record).unwrap()[0])
}

#[test]
fn both_kinds_of_archive_give_the_same_image() {
    let layers =
        [Layer::new().dir("etc/", 0o755).file("etc/a", 0o640, b"a").finish(), Layer::new().file("b", 0o4755, b"b").finish()];
    let run = json!({ "User": "app:staff", "Entrypoint": ["/b"] });
    let (_dir, store) = store();
    let docker = store.import(docker_archive("test.local/docker:1", &layers, run.clone()).as_slice()).unwrap();
    let zstd = zstd::encode_all(layers[1].as_slice(), 1).unwrap();
    let blobs = [gzip(&layers[0]), zstd];
    let oci = store.import(gzip(&oci_archive("test.local/oci:2", &layers, &blobs, run)).as_slice()).unwrap();
    assert_eq!(docker[0].id, oci[0].id);
    let both = store.list();
    assert_eq!(both.len(), 1);
    assert_eq!(both[0].tags.iter().collect::<Vec<_>>(), ["test.local/docker:1", "test.local/oci:2"]);
    assert_eq!((both[0].digests.len(), both[0].chain.len()), (1, 2));
    for name in [&both[0].id, "test.local/docker:1", &both[0].id["sha256:".len()..][..12], both[0].digests.first().unwrap()]
    {
        assert!(store.find(name).is_some(), "{name}");
    }
    assert_eq!(std::fs::metadata(top(&store, "test.local/oci:2").join("b")).unwrap().permissions().mode() & 0o7777, 0o4755);
    // Another process, or the same one later.
    let again = ImageStore::open(store.root().to_owned()).unwrap();
    assert_eq!(again.list(), both);
}

#[test]
fn a_store_beside_sees_and_adds_and_leaves_nothing_behind() {
    let (_dir, store) = store();
    let beside = ImageStore::beside(store.root().to_owned()).unwrap();
    let layer = |text: &str| Layer::new().file("f", 0o644, text.as_bytes()).finish();
    beside.import(docker_archive("test.local/a:1", &[layer("1"), layer("2")], json!({})).as_slice()).unwrap();
    assert!(store.find("test.local/a:1").is_some());
    store.import(docker_archive("test.local/b:1", &[layer("1"), layer("3")], json!({})).as_slice()).unwrap();
    let layers = || std::fs::read_dir(store.layers_dir()).unwrap().count() - 1;
    assert_eq!(layers(), 3, "the lower layer is shared");
    store.remove("test.local/a:1").unwrap();
    assert_eq!(layers(), 2);
    let held = store.find("test.local/b:1").unwrap();
    store.hold("container", &held).unwrap();
    store.remove("test.local/b:1").unwrap();
    assert_eq!((store.list().len(), layers()), (0, 2), "a container stands on them");
    store.release("container");
    assert_eq!(layers(), 0);
}

/// `knarr image load --root` beside a runtime that starts, for the first time or again, at that very moment.
#[test]
fn a_runtime_that_starts_takes_nothing_from_an_import_under_way() {
    struct Starts<'a>(&'a [u8], Option<std::path::PathBuf>);
    impl std::io::Read for Starts<'_> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            // Some of the archive lies on the disk by now.
            if self.0.len() < 4096
                && let Some(root) = self.1.take()
            {
                ImageStore::open(root).unwrap();
            }
            let most = into.len().min(1024);
            self.0.read(&mut into[..most])
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("images");
    let beside = ImageStore::beside(root.clone()).unwrap();
    let layer = Layer::new().file("f", 0o644, &[7; 20_000]).finish();
    let archive = docker_archive("test.local/a:1", &[layer], json!({}));
    beside.import(Starts(&archive, Some(root.clone()))).unwrap();
    assert!(ImageStore::open(root.clone()).unwrap().find("test.local/a:1").is_some());
    // What a killed import has left goes with the next start.
    std::fs::create_dir(root.join("new/left")).unwrap();
    ImageStore::open(root.clone()).unwrap();
    assert_eq!(std::fs::read_dir(root.join("new")).unwrap().count(), 0);
}

#[test]
fn many_may_remove_the_same_image_at_once() {
    let (_dir, store) = store();
    for round in 0..20 {
        let layer = Layer::new().file("f", 0o644, format!("{round}").as_bytes()).finish();
        let id = store.import(docker_archive("test.local/r:1", &[layer], json!({})).as_slice()).unwrap()[0].id.clone();
        let start = std::sync::Barrier::new(4);
        std::thread::scope(|scope| {
            let remove = || {
                start.wait();
                let removed = store.remove(&id).map_err(|error| error.to_string());
                (removed, store.find(&id).is_some())
            };
            let all = [0; 4].map(|_| scope.spawn(remove));
            for one in all {
                assert_eq!(one.join().unwrap(), (Ok(()), false), "round {round}");
            }
        });
    }
    assert_eq!(store.list(), []);
}

#[test]
fn a_tag_moves_to_the_newer_image() {
    let (_dir, store) = store();
    for content in [b"old", b"new"] {
        let layers = [Layer::new().file("f", 0o644, content).finish()];
        store.import(docker_archive("test.local/x:1", &layers, json!({})).as_slice()).unwrap();
    }
    let tags: Vec<usize> = store.list().iter().map(|image| image.tags.len()).collect();
    assert_eq!((tags.iter().sum::<usize>(), tags.len()), (1, 2));
    assert_eq!(std::fs::read(top(&store, "test.local/x:1").join("f")).unwrap(), b"new");
}

#[test]
fn hostile_layers_stay_inside_or_are_refused() {
    let victim = tempfile::tempdir().unwrap();
    let outside = victim.path().join("victim");
    std::fs::write(&outside, "untouched").unwrap();
    let dir = victim.path().to_str().unwrap();
    let up = format!("{}{}", "../".repeat(20), &dir[1..]);
    let cases = [
        ("dots", Layer::new().raw(EntryType::Regular, &format!("{}/victim", up), "", b"pwned")),
        ("absolute", Layer::new().raw(EntryType::Regular, &format!("{dir}/victim"), "", b"pwned")),
        ("link to a directory", Layer::new().symlink("d", dir).file("d/victim", 0o644, b"pwned")),
        ("link upwards", Layer::new().symlink("d", &up).file("d/victim", 0o644, b"pwned")),
        ("link to the file", Layer::new().symlink("f", &format!("{dir}/victim")).file("f", 0o644, b"pwned")),
        (
            "hard link",
            Layer::new().raw(EntryType::Link, "f", &format!("{dir}/victim"), b"").raw(EntryType::Regular, "f", "", b"pwned"),
        ),
        ("hard link upwards", Layer::new().raw(EntryType::Link, "f", &format!("{up}/victim"), b"")),
        ("hard link by a link", Layer::new().symlink("d", dir).raw(EntryType::Link, "f", "d/victim", b"")),
        ("whiteout upwards", Layer::new().symlink("d", dir).file("d/.wh.victim", 0o644, b"")),
        ("opaque elsewhere", Layer::new().symlink("d", dir).file("d/.wh..wh..opq", 0o644, b"")),
        ("whiteout of dots", Layer::new().file(".wh...", 0o644, b"")),
        ("process links", Layer::new().symlink("d", "/proc/self/cwd").file("d/x", 0o644, b"pwned")),
    ];
    for (name, layer) in cases {
        let (_dir, store) = store();
        // Refused or bent, but never outside.
        let _ = store.import(docker_archive("test.local/evil:1", &[layer.finish()], json!({})).as_slice());
        assert_eq!(std::fs::read_to_string(&outside).unwrap(), "untouched", "{name}");
        assert_eq!(std::fs::metadata(&outside).unwrap().nlink(), 1, "{name}");
        assert_eq!(std::fs::read_dir(victim.path()).unwrap().count(), 1, "{name}");
    }
    let (_dir, store) = store();
    let error = |archive: &[u8]| store.import(archive).unwrap_err().to_string();
    assert!(error(b"not an archive at all").contains("archive"));
    let mut wrong = docker_archive("test.local/w:1", &[Layer::new().file("f", 0o644, b"right").finish()], json!({}));
    let at = wrong.windows(5).position(|window| window == b"right").unwrap();
    wrong[at..at + 5].copy_from_slice(b"wrong");
    assert!(error(&wrong).starts_with("layer's digest is"));
    let deep = Layer::new().file(&format!("{}f", "d/".repeat(1_000)), 0o644, b"");
    assert_eq!(
        error(&docker_archive("test.local/d:1", &[deep.finish()], json!({}))),
        "a name in the layer has too many parts"
    );
    // A name that is compressed to little and would fill the memory.
    let long = Layer::new().raw(EntryType::GNULongName, "long", "", &vec![b'a'; 8 << 20]).file("f", 0o644, b"");
    let long = docker_archive("test.local/l:1", &[long.finish()], json!({}));
    let source = store.import(long.as_slice()).unwrap_err();
    let text = std::error::Error::source(&source).unwrap().to_string();
    assert_eq!(text, "an entry's name or attributes are too long");
    assert_eq!(
        (store.list().len(), std::fs::read_dir(store.layers_dir()).unwrap().count()),
        (0, 1),
        "nothing is half there"
    );
}

#[test]
fn random_damage_is_an_error_and_nothing_else() {
    let archive = docker_archive("test.local/a:1", &[Layer::new().file("f", 0o644, b"x").finish()], json!({}));
    let mut state = 7u32;
    for _ in 0..200 {
        let mut damaged = archive.clone();
        for _ in 0..3 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = state as usize % damaged.len();
            damaged[at] ^= (state >> 24) as u8;
        }
        let (_dir, store) = store();
        let _ = store.import(damaged.as_slice());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_hide_what_they_should() {
    let node = Node::start().await;
    let below = Layer::new()
        .dir("d/", 0o750)
        .file("d/gone", 0o644, b"1")
        .file("d/stays", 0o644, b"1")
        .dir("o/", 0o755)
        .file("o/old", 0o644, b"1")
        .finish();
    // d/ is used without being described: it must keep the permissions it has below.
    let above = Layer::new()
        .file("d/.wh.gone", 0o644, b"")
        .dir("o/", 0o755)
        .file("o/.wh..wh..opq", 0o644, b"")
        .file("o/new", 0o644, b"2");
    let above = above.raw(EntryType::Link, "hard", "o/new", b"").finish();
    let layers = [busybox_layer(), below, above];
    node.runtime.images().import(docker_archive("test.local/layers:1", &layers, json!({})).as_slice()).unwrap();
    let mut config = script("main", "ls /d /o; stat -c %a /d; cat /hard");
    config.image = Some(cri::ImageSpec { image: "test.local/layers:1".into(), ..Default::default() });
    let (_, log) = node.outcome("layers", config).await;
    let said: Vec<&str> = log.lines().map(|line| line.splitn(3, ' ').last().unwrap()).collect();
    assert_eq!(said, ["/d:", "stays", "", "/o:", "new", "750", "2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_layers() {
    let node = Node::start().await;
    let mut layers = vec![busybox_layer()];
    layers.extend((0..100).map(|number| Layer::new().file(&format!("n/{number}"), 0o644, b"x").finish()));
    node.runtime.images().import(docker_archive("test.local/many:1", &layers, json!({})).as_slice()).unwrap();
    let mut config = script("main", "ls /n | wc -l");
    config.image = Some(cri::ImageSpec { image: "test.local/many:1".into(), ..Default::default() });
    assert_eq!(node.outcome("many", config).await.1, "stdout F 100\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_image_service() {
    let node = Node::start().await;
    let spec = |image: &str| Some(cri::ImageSpec { image: image.into(), ..Default::default() });
    let status = async |name: &str| {
        let request = cri::ImageStatusRequest { image: spec(name), verbose: false };
        node.images().image_status(request).await.unwrap().into_inner().image
    };
    let image = status(support::BUSYBOX).await.unwrap();
    assert_eq!((image.repo_tags, image.uid.map(|uid| uid.value)), (vec![support::BUSYBOX.to_owned()], Some(0)));
    assert!(image.size > 100_000);
    assert!(status("test.local/absent:1").await.is_none());
    let usage = node.images().image_fs_info(cri::ImageFsInfoRequest {}).await.unwrap().into_inner().image_filesystems;
    assert!(usage[0].used_bytes.unwrap().value > 100_000);
    assert!(Path::new(&usage[0].fs_id.as_ref().unwrap().mountpoint).is_dir());
    node.images().remove_image(cri::RemoveImageRequest { image: spec(support::BUSYBOX) }).await.unwrap();
    assert!(status(support::BUSYBOX).await.is_none());
}

/// A registry on the loopback, if the machine has one to run.
struct Registry {
    process: std::process::Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Registry {
    async fn start() -> Option<Registry> {
        let program =
            ["/usr/bin/docker-registry", "/usr/local/bin/registry"].into_iter().find(|path| Path::new(path).exists())?;
        let dir = tempfile::tempdir().unwrap();
        // Taken and given back: nobody else is likely to get it in between.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "version: 0.1\nlog: {{ level: error }}\nstorage: {{ filesystem: {{ rootdirectory: {} }} }}\nhttp: {{ addr: 127.0.0.1:{port} }}\n",
            dir.path().join("data").display()
        );
        std::fs::write(dir.path().join("config.yml"), config).unwrap();
        let quiet = std::process::Stdio::null;
        let process = std::process::Command::new(program)
            .arg("serve")
            .arg(dir.path().join("config.yml"))
            .stdout(quiet())
            .stderr(quiet())
            .spawn()
            .unwrap();
        let registry = Registry { process, port, _dir: dir };
        support::eventually("the registry listens", async || std::net::TcpStream::connect(("127.0.0.1", port)).ok()).await;
        Some(registry)
    }

    /// Puts `busybox:1` into it.
    async fn push(&self) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().tls_certs_only([]).build().unwrap();
        let base = format!("http://127.0.0.1:{}/v2/busybox", self.port);
        let layer = busybox_layer();
        let config = config(std::slice::from_ref(&layer), json!({ "Cmd": ["sh"] }));
        let blobs = [("config.v1+json", config), ("layer.v1.tar+gzip", gzip(&layer))];
        for (_, blob) in &blobs {
            let begun = http.post(format!("{base}/blobs/uploads/")).send().await.unwrap();
            let mut to = reqwest::Url::parse(begun.headers()["location"].to_str().unwrap()).unwrap();
            to.query_pairs_mut().append_pair("digest", &digest(blob));
            assert_eq!(http.put(to).body(blob.clone()).send().await.unwrap().status(), 201);
        }
        let describe = |(kind, blob): &(&str, Vec<u8>)| json!({ "mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest(blob), "size": blob.len() });
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let [config, layer] = blobs.each_ref().map(describe);
        let manifest = json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer] }).to_string();
        let put = http.put(format!("{base}/manifests/1")).header("content-type", kind).body(manifest);
        assert_eq!(put.send().await.unwrap().status(), 201);
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pulling_from_a_registry() {
    let Some(registry) = Registry::start().await else {
        eprintln!("skipped: docker-registry is not installed");
        return;
    };
    let name = format!("127.0.0.1:{}/busybox:1", registry.port);
    registry.push().await;
    let node = Node::resume(support::Place::new()).await;
    let pull = async |name: &str| {
        let spec = cri::ImageSpec { image: name.into(), ..Default::default() };
        node.images().pull_image(cri::PullImageRequest { image: Some(spec), ..Default::default() }).await
    };
    let id = pull(&name).await.unwrap().into_inner().image_ref;
    let request = cri::ListImagesRequest::default();
    let images = node.images().list_images(request).await.unwrap().into_inner().images;
    assert_eq!((images.len(), &images[0].id, &images[0].repo_tags[0]), (1, &id, &name));
    let digest = images[0].repo_digests[0].clone();
    assert!(digest.starts_with(&format!("127.0.0.1:{}/busybox@sha256:", registry.port)));
    pull(&digest).await.unwrap();
    let mut config = script("main", "echo pulled");
    config.image = Some(cri::ImageSpec { image: digest, ..Default::default() });
    assert_eq!(node.outcome("pulled", config).await.1, "stdout F pulled\n");
    // By another name, through a mirror; a mirror that is not there is passed over.
    let mut config = node.place.config();
    let here = format!("127.0.0.1:{}", registry.port);
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    config.registries =
        vec![knarr_runtime::Registry { host: "mirrored.test".into(), mirrors: vec![dead, here], ..Default::default() }];
    let place = node.stop().await;
    let runtime = knarr_runtime::Runtime::start_with(config, std::sync::Arc::new(support::NoNetwork)).await.unwrap();
    let node = Node::of(place, runtime);
    let pull = async |name: &str| {
        let spec = cri::ImageSpec { image: name.into(), ..Default::default() };
        node.images().pull_image(cri::PullImageRequest { image: Some(spec), ..Default::default() }).await
    };
    assert_eq!(pull("mirrored.test/busybox:1").await.unwrap().into_inner().image_ref, id);
    let image = node.runtime.images().find("mirrored.test/busybox:1").unwrap();
    assert_eq!(image.tags.len(), 2);
    let missing = pull(&name.replace(":1", ":none").replace("busybox:none", "absent:1")).await.unwrap_err();
    let message = missing.message();
    assert!(message.starts_with("failed to pull image") && message.contains("404 Not Found: MANIFEST_UNKNOWN"), "{message}");
}
