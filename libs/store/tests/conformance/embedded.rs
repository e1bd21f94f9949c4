//! What the embedded store promises beyond the suite: nothing acknowledged is lost by `kill -9`, a full disk is an error
//! and then over, a clean end keeps the history.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use knarr_store::{Durability, Error, Op, Outcome, Range, Store, Txn, redb::RedbStore};

use crate::cases::{commit, put};

const CHILD: &str = "KNARR_STORE_TEST_WRITER";

fn open(path: &Path) -> Arc<dyn Store> {
    Arc::new(RedbStore::open(path, Default::default()).expect("the store opens"))
}

/// Not a test by itself: the process that `kill_9` kills. Prints each acknowledged key, forever; half of them are relaxed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writer_child() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let store = open(Path::new(&path));
    let writers = (0..4).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0_u64.. {
                let key = format!("/r/{writer}/{n:08}");
                let ops = vec![put(&key, &"x".repeat(1024))];
                // The kernel has what was not synced, too.
                let durability = if writer % 2 == 0 { Durability::Synced } else { Durability::Relaxed };
                store.commit(Txn { ops, durability, ..Txn::default() }).await.unwrap();
                println!("acked {key}");
            }
        })
    });
    futures::future::join_all(writers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_write_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let mut newest = 0;
    for round in 1..=3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["embedded::writer_child", "--exact", "--nocapture", "--test-threads", "1"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let acked = lines.map_while(Result::ok).filter_map(|l| l.split_once("acked ").map(|(_, k)| k.to_owned()));
        let mut keys: Vec<String> = acked.take(100 * round).collect();
        child.kill().unwrap();
        child.wait().unwrap();
        let store = open(&path);
        let mut present: Vec<String> =
            store.range(Range::prefix("/r/")).await.unwrap().entries.iter().map(|e| e.key.to_string()).collect();
        present.sort();
        keys.retain(|key| present.binary_search(key).is_err());
        assert_eq!(keys, Vec::<String>::new(), "acknowledged but lost in round {round}");
        let revision = store.revision().await.unwrap();
        assert!(revision > newest, "the revision never goes back");
        newest = revision;
        store.close().await.unwrap();
    }
}

/// An older file in the place of a newer one, whose journal is still there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_file_put_back_takes_nothing_from_the_newer_ones_journal() {
    let dir = tempfile::tempdir().unwrap();
    let (path, aside) = (dir.path().join("store.redb"), dir.path().join("aside"));
    for key in ["/r/old", "/r/new"] {
        let store = open(&path);
        commit(&store, vec![put(key, "1")]).await;
        store.close().await.unwrap();
        drop(store);
        if key == "/r/old" {
            std::fs::copy(&path, &aside).unwrap();
        }
    }
    std::fs::rename(&aside, &path).unwrap();
    let page = open(&path).range(Range::prefix("/r/")).await.unwrap();
    assert_eq!(page.entries.iter().map(|e| &*e.key).collect::<Vec<_>>(), ["/r/old"]);
}

/// The files as a power cut leaves them, which may tear the last write but none that was synced before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_outlives_a_torn_last_write() {
    let (file, journal) = loop {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.redb");
        let (store, began) = (open(&path), Instant::now());
        let file = std::fs::read(&path).unwrap();
        for key in ["/r/a", "/r/b", "/r/c"] {
            commit(&store, vec![put(key, "1")]).await;
        }
        let journal = std::fs::read(dir.path().join("store.redb.journal")).unwrap();
        // After a second the journal begins again.
        if began.elapsed() < Duration::from_millis(900) {
            break (file, journal);
        }
    };
    for (length, expected) in [(journal.len(), "abc"), (journal.len() - 1, "ab"), (0, "")] {
        let cut = tempfile::tempdir().unwrap();
        std::fs::write(cut.path().join("store.redb"), &file).unwrap();
        std::fs::write(cut.path().join("store.redb.journal"), &journal[..length]).unwrap();
        let store = open(&cut.path().join("store.redb"));
        let keys = |page: knarr_store::Page| page.entries.iter().map(|e| e.key[3..].to_owned()).collect::<String>();
        assert_eq!(keys(store.range(Range::prefix("/r/")).await.unwrap()), expected);
        // It goes on, and what it writes now is there after the next cut.
        commit(&store, vec![put("/r/d", "1")]).await;
        store.close().await.unwrap();
        drop(store);
        let store = open(&cut.path().join("store.redb"));
        assert_eq!(keys(store.range(Range::prefix("/r/")).await.unwrap()), format!("{expected}d"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_end_keeps_revision_and_history() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let store = open(&path);
    let first = commit(&store, vec![put("/r/a", "1")]).await;
    let relaxed = Txn { ops: vec![put("/r/a", "2")], durability: Durability::Relaxed, ..Txn::default() };
    let Outcome::Committed(second) = store.commit(relaxed).await.unwrap() else { panic!("a conflict") };
    store.close().await.unwrap();
    assert!(matches!(store.commit(Txn::default()).await, Err(Error::Closed)));
    drop(store);

    let store = open(&path);
    assert_eq!(store.revision().await.unwrap(), second);
    let then = store.range(Range { at: Some(first), ..Range::prefix("/r/") }).await.unwrap();
    assert_eq!(then.entries[0].value, Bytes::from_static(b"1"));
    let mut watch = store.watch("/r/", second).await.unwrap();
    let knarr_store::WatchMessage::Events(events) = watch.recv().await.unwrap().unwrap() else { panic!("no event") };
    assert_eq!(events[0].value, Some(Bytes::from_static(b"2")));
}

/// A small file system of its own; unmounted on drop.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    pub fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted =
            nix::mount::mount(Some("tmpfs"), dir.path(), Some("tmpfs"), nix::mount::MsFlags::empty(), Some("size=16m"));
        match mounted {
            Ok(()) => Some(Self(dir)),
            Err(error) => {
                assert!(!nix::unistd::geteuid().is_root(), "mounting a tmpfs: {error}");
                eprintln!("skipped: mounting a tmpfs needs root");
                None
            }
        }
    }
}

impl SmallDisk {
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_an_error_and_then_over() {
    let Some(disk) = SmallDisk::mount() else { return };
    let path = disk.0.path().join("store.redb");
    let store = open(&path);
    let filler = disk.0.path().join("filler");
    std::fs::write(&filler, vec![0; 6 << 20]).unwrap();
    let mut acked = Vec::new();
    let refused = loop {
        let key = format!("/r/{:06}", acked.len());
        let value = Bytes::from(vec![b'x'; 64 << 10]);
        let txn = Txn { ops: vec![Op::Put { key: key.as_str().into(), value, ttl: None }], ..Txn::default() };
        match store.commit(txn).await {
            Ok(_) => acked.push(key),
            Err(error) => break error,
        }
        assert!(acked.len() < 1000, "the disk never filled");
    };
    assert!(matches!(refused, Error::NoSpace(_)), "{refused:?}");
    let keys = |page: knarr_store::Page| page.entries.iter().map(|e| e.key.to_string()).collect::<Vec<_>>();
    assert_eq!(keys(store.range(Range::prefix("/r/")).await.unwrap()), acked, "reads go on");

    std::fs::remove_file(&filler).unwrap();
    commit(&store, vec![put("/r/after", "fits")]).await;
    acked.push("/r/after".into());
    store.close().await.unwrap();
    drop(store);
    assert_eq!(keys(open(&path).range(Range::prefix("/r/")).await.unwrap()), acked, "all is there after reopening");
}

/// The same with the disk filled by others to the last byte, so that redb itself meets the error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_without_one_free_byte_loses_nothing() {
    let Some(disk) = SmallDisk::mount() else { return };
    let path = disk.0.path().join("store.redb");
    let store = open(&path);
    commit(&store, vec![put("/r/before", "1")]).await;
    let relaxed = Txn { ops: vec![put("/r/relaxed", "1")], durability: Durability::Relaxed, ..Txn::default() };
    store.commit(relaxed).await.unwrap();
    let filler = disk.0.path().join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    let full = std::io::copy(&mut std::io::repeat(0), &mut file).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    drop(file);
    // A deletion is let through to redb, which may or may not find room in its own file.
    let deletion = Txn { ops: vec![Op::Delete { key: "/r/before".into() }], ..Txn::default() };
    let deleted = store.commit(deletion).await;
    let put_refused = store.commit(Txn { ops: vec![put("/r/x", "1")], ..Txn::default() }).await.unwrap_err();
    assert!(matches!(put_refused, Error::NoSpace(_)), "{put_refused:?}");

    std::fs::remove_file(&filler).unwrap();
    commit(&store, vec![put("/r/after", "1")]).await;
    let mut expected = vec!["/r/after", "/r/before", "/r/relaxed"];
    expected.retain(|key| !(deleted.is_ok() && *key == "/r/before"));
    let page = store.range(Range::prefix("/r/")).await.unwrap();
    assert_eq!(page.entries.iter().map(|e| &*e.key).collect::<Vec<_>>(), expected);
}

/// The journal's file is one whose writes succeed and whose syncs fail (`/dev/null` knows none).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_cannot_be_synced_is_not_relied_on() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copied) = (dir.path().join("store.redb"), dir.path().join("copied.redb"));
    std::os::unix::fs::symlink("/dev/null", dir.path().join("store.redb.journal")).unwrap();
    let store = open(&path);
    for round in ["1", "2"] {
        let relaxed = Txn { ops: vec![put("/r/relaxed", round)], durability: Durability::Relaxed, ..Txn::default() };
        store.commit(relaxed).await.unwrap();
        let refused = store.commit(Txn { ops: vec![put("/r/synced", "1")], ..Txn::default() }).await.unwrap_err();
        assert!(matches!(refused, Error::Backend { .. }), "{refused:?}");
        // What the failed sync may have lost is in redb by the time that the error is told.
        std::fs::copy(&path, &copied).unwrap();
        let page = open(&copied).range(Range::prefix("/r/")).await.unwrap();
        let found: Vec<_> = page.entries.iter().map(|e| (&*e.key, &*e.value)).collect();
        assert_eq!(found, [("/r/relaxed", round.as_bytes())]);
    }
}

/// Compaction runs in steps between writers; this is more than one step.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_history_is_forgotten_while_writers_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let options = knarr_store::redb::Options { sync: false, ..Default::default() };
    let store: Arc<dyn Store> = Arc::new(RedbStore::open(dir.path().join("store.redb"), options).unwrap());
    for n in 0..5000 {
        commit(&store, vec![put(&format!("/r/{}", n % 10), &n.to_string())]).await;
    }
    let upto = store.revision().await.unwrap();
    let (compacted, written) = tokio::join!(store.compact(upto), commit(&store, vec![put("/r/new", "1")]));
    compacted.unwrap();
    assert_eq!(written, upto + 1);
    let page = store.range(Range::prefix("/r/")).await.unwrap();
    let expected: Vec<u64> = (upto - 9..=upto + 1).collect();
    assert_eq!(page.entries.iter().map(|e| e.mod_revision).collect::<Vec<_>>(), expected);
}
