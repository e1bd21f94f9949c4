//! Snapshots: what is restored is what was there; a file that is not whole is refused and nothing is overwritten, whatever
//! happens in the middle. Migrations: redb to etcd and back changes no key and no value.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use knarr_store::{
    Error, Export, Op, Record, Revision, Store, Txn,
    etcd::EtcdStore,
    redb::RedbStore,
    snapshot::{self, File, Restored},
};

use crate::{
    cases::{commit, delete, put},
    embedded::SmallDisk,
    fixture::Etcd,
};

fn open(path: &Path) -> Arc<dyn Store> {
    Arc::new(RedbStore::open(path, Default::default()).expect("the store opens"))
}

async fn all(mut export: Export) -> Vec<Record> {
    let mut records = Vec::new();
    while let Some(piece) = export.records.recv().await {
        records.extend(piece.unwrap());
    }
    records
}

async fn save(store: &Arc<dyn Store>, path: &Path) -> Result<snapshot::Summary, snapshot::Error> {
    let (export, path) = (store.export().await?, path.to_owned());
    let save = move || snapshot::save(&path, |out| snapshot::write(export, SystemTime::now(), out).map(drop));
    tokio::task::spawn_blocking(save).await.unwrap()
}

async fn restore(file: &Path, to: &Path, replace: bool) -> Result<Restored, snapshot::Error> {
    let (file, to) = (file.to_owned(), to.to_owned());
    let restore = move || snapshot::into_redb(&to, File::open(&file)?.export()?, 1_000, replace);
    tokio::task::spawn_blocking(restore).await.unwrap()
}

/// A store with a history, a deletion, a time to live and a large value.
async fn example(path: &Path) -> Arc<dyn Store> {
    let store = open(path);
    commit(&store, vec![put("/registry/a", "1"), put("/registry/gone", "x")]).await;
    commit(&store, vec![put("/registry/a", "2"), delete("/registry/gone")]).await;
    let event =
        Op::Put { key: "/registry/events/e".into(), value: Bytes::from_static(b"{}"), ttl: Some(Duration::from_secs(3600)) };
    commit(&store, vec![event, put("/registry/large", &"y".repeat(200_000)), put("/registry/empty", "")]).await;
    for n in 0..600 {
        commit(&store, vec![put(&format!("/registry/many/{n:04}"), &n.to_string())]).await;
    }
    store
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_restored_is_what_was_saved() {
    let dir = tempfile::tempdir().unwrap();
    let store = example(&dir.path().join("old.redb")).await;
    let (file, new) = (dir.path().join("snapshot"), dir.path().join("new.redb"));
    let saved = save(&store, &file).await.unwrap();
    let before = all(store.export().await.unwrap()).await;
    let taken_at = store.revision().await.unwrap();
    assert_eq!((saved.keys, saved.revision), (before.len() as u64, taken_at));
    assert_eq!(File::open(&file).unwrap().summary, saved);
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file).unwrap().permissions()) & 0o777, 0o600);

    let restored = restore(&file, &new, false).await.unwrap();
    assert_eq!(restored, Restored { keys: saved.keys, revision: taken_at + 1_000, replaced: None });
    let store = open(&new);
    // Keys, values, revisions and times to live.
    assert_eq!(all(store.export().await.unwrap()).await, before);
    // Watchers from before are told to list again, whatever revision they had seen.
    for from in [2, taken_at, taken_at + 1, taken_at + 999] {
        let told = store.watch("/registry/", from).await.unwrap_err();
        assert!(matches!(told, Error::Compacted { .. }), "{told}");
    }
    // What was read before can still be changed on condition that nobody else has.
    let at = before.iter().find(|r| &*r.entry.key == "/registry/a").unwrap().entry.mod_revision;
    let change = Txn { compare: vec![("/registry/a".into(), at)], ops: vec![put("/registry/a", "3")], ..Txn::default() };
    assert_eq!(store.commit(change).await.unwrap(), knarr_store::Outcome::Committed(taken_at + 1_001));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_or_cut_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("old.redb"));
    commit(&store, vec![put("/registry/a", "some value"), put("/registry/b", "another")]).await;
    let (good, bad, new) = (dir.path().join("good"), dir.path().join("bad"), dir.path().join("new.redb"));
    save(&store, &good).await.unwrap();
    let bytes = fs::read(&good).unwrap();
    for length in 0..bytes.len() {
        fs::write(&bad, &bytes[..length]).unwrap();
        let error = restore(&bad, &new, true).await.unwrap_err();
        assert!(matches!(error, snapshot::Error::CutOff(_)), "{length} of {}: {error}", bytes.len());
    }
    for at in 0..bytes.len() {
        let mut wrong = bytes.clone();
        wrong[at] ^= 1;
        fs::write(&bad, &wrong).unwrap();
        let error = restore(&bad, &new, true).await.unwrap_err();
        let said = error.to_string();
        assert!(["damaged", "cut off", "is no snapshot", "version"].iter().any(|w| said.contains(w)), "byte {at}: {said}");
    }
    fs::write(&bad, [&bytes[..], b"more"].concat()).unwrap();
    let error = restore(&bad, &new, true).await.unwrap_err();
    assert!(matches!(error, snapshot::Error::Damaged(_)), "{error}");
    assert!(!new.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_is_replaced_only_on_request_and_never_under_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let (file, path) = (dir.path().join("snapshot"), dir.path().join("state.db"));
    let store = open(&path);
    commit(&store, vec![put("/registry/a", "saved")]).await;
    save(&store, &file).await.unwrap();
    let newest = commit(&store, vec![put("/registry/a", "later")]).await;
    let refused = [restore(&file, &path, false).await.unwrap_err(), restore(&file, &path, true).await.unwrap_err()];
    assert!(matches!(refused, [snapshot::Error::Occupied(_), snapshot::Error::Store(Error::InUse)]), "{refused:?}");
    store.close().await.unwrap();
    drop(store);
    let restored = restore(&file, &path, true).await.unwrap();
    // Above what the store that was replaced had come to, too.
    assert!(restored.revision > newest);
    let value = |path: PathBuf| async move { open(&path).get("/registry/a").await.unwrap().0.unwrap().value };
    assert_eq!(value(path).await, "saved");
    assert_eq!(value(restored.replaced.unwrap()).await, "later");
}

const CHILD: &str = "KNARR_STORE_TEST_RESTORER";

/// Not a test by itself: the process that is killed. Saves and restores, forever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restorer_child() {
    let Some(dir) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    println!("began");
    for round in 0_u64.. {
        let from = ["one", "two"][(round % 2) as usize];
        restore(&dir.join(from), &dir.join("state.db"), true).await.unwrap();
        let store = open(&dir.join("state.db"));
        save(&store, &dir.join("saved")).await.unwrap();
        store.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_the_middle_there_is_one_whole_store_and_one_whole_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = example(&dir.path().join("source.redb")).await;
    save(&store, &dir.path().join("one")).await.unwrap();
    let one = all(store.export().await.unwrap()).await;
    commit(&store, vec![put("/registry/a", "of the second")]).await;
    save(&store, &dir.path().join("two")).await.unwrap();
    let two = all(store.export().await.unwrap()).await;
    let mut newest = 0;
    for round in 0..6_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["backup::restorer_child", "--exact", "--nocapture", "--test-threads", "1"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("began")));
        // Any moment will do; these are different ones.
        std::thread::sleep(Duration::from_millis(20 + 37 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        if dir.path().join("saved").exists() {
            File::open(&dir.path().join("saved")).unwrap();
        }
        if !dir.path().join("state.db").exists() {
            continue;
        }
        let store = open(&dir.path().join("state.db"));
        let found = all(store.export().await.unwrap()).await;
        assert!(found == one || found == two, "{} keys, neither snapshot's", found.len());
        let revision: Revision = store.revision().await.unwrap();
        assert!(revision >= newest, "the revision never goes back");
        newest = revision;
        store.close().await.unwrap();
    }
    restore(&dir.path().join("one"), &dir.path().join("state.db"), true).await.unwrap();
    save(&store, &dir.path().join("saved")).await.unwrap();
    let names = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.contains(".part-")).collect::<Vec<_>>(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_spoils_nothing() {
    let Some(disk) = SmallDisk::mount() else { return };
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("large.redb"));
    commit(&store, (0..20).map(|n| put(&format!("/registry/{n}"), &"z".repeat(1 << 20))).collect()).await;
    let large = dir.path().join("large");
    save(&store, &large).await.unwrap();
    let small = disk.path();
    let (file, path) = (small.join("snapshot"), small.join("state.db"));
    fs::write(&file, "an older one").unwrap();
    let before = open(&path);
    commit(&before, vec![put("/registry/a", "1")]).await;
    before.close().await.unwrap();
    drop(before);

    let full = save(&store, &file).await.unwrap_err();
    assert!(matches!(&full, snapshot::Error::File { source, .. } if source.kind() == std::io::ErrorKind::StorageFull));
    let full = restore(&large, &path, true).await.unwrap_err();
    assert!(matches!(full, snapshot::Error::Store(Error::NoSpace(_))), "{full:?}");
    let mut names: Vec<_> = fs::read_dir(small).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["snapshot", "state.db", "state.db.journal"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "an older one");
    assert_eq!(open(&path).get("/registry/a").await.unwrap().0.unwrap().value, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redb_to_etcd_and_back_changes_no_key_and_no_value() {
    let Some(etcd) = Etcd::start().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let store = example(&dir.path().join("old.redb")).await;
    let before = all(store.export().await.unwrap()).await;
    let seen = store.revision().await.unwrap();

    let options = knarr_store::etcd::Options { endpoints: vec![etcd.endpoint.clone()], ..Default::default() };
    let target = EtcdStore::reach(options.clone()).await.unwrap();
    let filled = target.fill(store.export().await.unwrap(), seen + 5_000, false).await.unwrap();
    assert_eq!(filled.keys, before.len() as u64);
    assert!(filled.revision > seen + 5_000);
    let there = all(etcd.store.export().await.unwrap()).await;
    let plain = |records: &[Record]| -> Vec<(String, Bytes, bool)> {
        let one = |r: &Record| (r.entry.key.to_string(), r.entry.value.clone(), r.expires.is_some());
        records.iter().map(one).collect()
    };
    assert_eq!(plain(&there), plain(&before));
    let outlives = |a: &[Record], b: &[Record]| {
        let late = a.iter().zip(b).filter_map(|(a, b)| a.expires?.duration_since(b.expires?).ok());
        late.max().is_none_or(|most| most < Duration::from_secs(70))
    };
    assert!(outlives(&there, &before), "an event lives at most about a minute longer");
    let told = match etcd.store.watch("/registry/", seen).await {
        Err(error) => error,
        Ok(mut watch) => watch.recv().await.expect("a message").expect_err("an error"),
    };
    assert!(matches!(told, Error::Compacted { .. }), "{told}");
    let again = target.fill(store.export().await.unwrap(), 0, false).await.unwrap_err();
    assert!(matches!(again, Error::NotEmpty(_)), "{again}");

    let (back, export) = (dir.path().join("back.redb"), etcd.store.export().await.unwrap());
    let to = back.clone();
    let restored = tokio::task::spawn_blocking(move || snapshot::into_redb(&to, export, snapshot::MARGIN, false));
    let restored = restored.await.unwrap().unwrap();
    assert!(restored.revision > filled.revision);
    // Here revisions are kept as well.
    let entries = |records: Vec<Record>| records.into_iter().map(|r| r.entry).collect::<Vec<_>>();
    assert_eq!(entries(all(open(&back).export().await.unwrap()).await), entries(there));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_broke_off_is_no_store() {
    let Some(etcd) = Etcd::start().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let store = example(&dir.path().join("old.redb")).await;
    let options = knarr_store::etcd::Options { endpoints: vec![etcd.endpoint.clone()], ..Default::default() };
    let target = EtcdStore::reach(options.clone()).await.unwrap();
    let (sender, records) = tokio::sync::mpsc::channel(1);
    sender.send(Err(Error::Closed)).await.unwrap();
    target.fill(Export { revision: 9, records }, 0, false).await.unwrap_err();
    let refused = EtcdStore::connect(options.clone()).await.err().map(|e| e.to_string());
    assert!(refused.as_ref().is_some_and(|told| told.contains("--replace")), "{refused:?}");
    target.fill(store.export().await.unwrap(), 0, true).await.unwrap();
    EtcdStore::connect(options).await.unwrap();
}
