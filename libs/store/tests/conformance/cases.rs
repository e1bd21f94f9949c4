//! What every store must do. Revisions are compared relative to the first one seen: etcd and redb start alike, but a case
//! should not depend on it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use knarr_store::{Entry, Error, Event, Op, Outcome, Range, Revision, Store, Txn, Watch, WatchMessage};

type S = Arc<dyn Store>;

pub fn put(key: &str, value: &str) -> Op {
    Op::Put { key: key.into(), value: Bytes::copy_from_slice(value.as_bytes()), ttl: None }
}

pub fn delete(key: &str) -> Op {
    Op::Delete { key: key.into() }
}

pub async fn commit(store: &S, ops: Vec<Op>) -> Revision {
    match store.commit(Txn { ops, ..Txn::default() }).await.expect("a commit") {
        Outcome::Committed(revision) => revision,
        Outcome::Conflict(_) => panic!("nothing was compared"),
    }
}

/// The next `count` events of a watch.
async fn events(watch: &mut Watch, count: usize) -> Vec<Event> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let message = tokio::time::timeout(Duration::from_secs(30), watch.recv()).await.expect("an event within 30 s");
        match message.expect("a running watch").expect("no error") {
            WatchMessage::Events(events) => seen.extend(events),
            WatchMessage::Progress(_) => {}
        }
    }
    seen
}

fn entry(key: &str, value: &str, create: Revision, modified: Revision) -> Entry {
    Entry {
        key: key.into(),
        value: Bytes::copy_from_slice(value.as_bytes()),
        create_revision: create,
        mod_revision: modified,
    }
}

fn event(key: &str, revision: Revision, value: Option<&str>, previous: Option<&str>, create: Revision) -> Event {
    let bytes = |s: &str| Bytes::copy_from_slice(s.as_bytes());
    Event { key: key.into(), revision, value: value.map(bytes), previous: previous.map(bytes), create_revision: create }
}

pub async fn a_put_is_read_back_with_its_revisions(store: S) {
    let first = commit(&store, vec![put("/r/a", "1")]).await;
    let second = commit(&store, vec![put("/r/a", "2")]).await;
    assert_eq!(store.get("/r/a").await.unwrap(), (Some(entry("/r/a", "2", first, second)), second));
    assert_eq!(store.get("/r/b").await.unwrap(), (None, second));
}

pub async fn revisions_grow_by_one_a_transaction(store: S) {
    let before = store.revision().await.unwrap();
    assert_eq!(before, 1, "an empty store is at revision 1");
    assert_eq!(commit(&store, vec![put("/r/a", "1"), put("/r/b", "1")]).await, 2);
    assert_eq!(commit(&store, vec![delete("/r/none")]).await, 2, "a transaction that changes nothing has no revision");
    assert_eq!(commit(&store, vec![delete("/r/a")]).await, 3);
    assert_eq!(store.revision().await.unwrap(), 3);
}

pub async fn compare_and_set_lets_one_writer_win(store: S) {
    let created = commit(&store, vec![put("/r/counter", "0")]).await;
    let tasks = (0..8).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            let txn = Txn {
                compare: vec![("/r/counter".into(), created)],
                ops: vec![put("/r/counter", &format!("writer {writer}"))],
                ..Txn::default()
            };
            (writer, store.commit(txn).await.unwrap())
        })
    });
    let outcomes = futures::future::join_all(tasks).await;
    let (mut winners, mut losers) = (Vec::new(), Vec::new());
    for outcome in outcomes {
        match outcome.unwrap() {
            (writer, Outcome::Committed(revision)) => winners.push((writer, revision)),
            (_, Outcome::Conflict(current)) => losers.push(current),
        }
    }
    let [(winner, revision)] = winners[..] else { panic!("one winner, not {winners:?}") };
    let current = vec![Some(entry("/r/counter", &format!("writer {winner}"), created, revision))];
    assert_eq!(losers, vec![current; 7]);
}

pub async fn a_transaction_applies_all_or_nothing(store: S) {
    let at = commit(&store, vec![put("/r/a", "1")]).await;
    let txn = Txn {
        compare: vec![("/r/a".into(), at), ("/r/b".into(), 7)],
        ops: vec![put("/r/a", "2"), put("/r/c", "2")],
        ..Txn::default()
    };
    let outcome = store.commit(txn).await.unwrap();
    assert_eq!(outcome, Outcome::Conflict(vec![Some(entry("/r/a", "1", at, at)), None]));
    assert_eq!(store.range(Range::prefix("/r/")).await.unwrap().entries, vec![entry("/r/a", "1", at, at)]);
    let must_be_absent = Txn { compare: vec![("/r/c".into(), 0)], ops: vec![put("/r/c", "3")], ..Txn::default() };
    assert_eq!(store.commit(must_be_absent).await.unwrap(), Outcome::Committed(at + 1));
}

pub async fn a_range_is_ordered_limited_and_counts_the_rest(store: S) {
    let at = commit(&store, ["c", "a", "b", "d"].iter().map(|k| put(&format!("/r/x/{k}"), k)).collect()).await;
    commit(&store, vec![put("/r/y/a", "other"), put("/r/x0", "other")]).await;
    let page = store.range(Range { limit: 2, ..Range::prefix("/r/x/") }).await.unwrap();
    let expected = vec![entry("/r/x/a", "a", at, at), entry("/r/x/b", "b", at, at)];
    assert_eq!((page.entries, page.remaining, page.revision), (expected, 2, at + 1));
    let rest = Range { start: "/r/x/b\0".into(), ..Range::prefix("/r/x/") };
    let keys: Vec<_> = store.range(rest).await.unwrap().entries.iter().map(|e| e.key.to_string()).collect();
    assert_eq!(keys, ["/r/x/c", "/r/x/d"]);
}

pub async fn a_range_reads_an_older_revision(store: S) {
    let first = commit(&store, vec![put("/r/a", "1"), put("/r/b", "1")]).await;
    commit(&store, vec![put("/r/a", "2"), delete("/r/b"), put("/r/c", "2")]).await;
    let page = store.range(Range { at: Some(first), ..Range::prefix("/r/") }).await.unwrap();
    assert_eq!(page.entries, vec![entry("/r/a", "1", first, first), entry("/r/b", "1", first, first)]);
    assert_eq!(page.revision, first);
}

pub async fn a_future_revision_is_refused(store: S) {
    let at = commit(&store, vec![put("/r/a", "1")]).await;
    let error = store.range(Range { at: Some(at + 100), ..Range::prefix("/r/") }).await.unwrap_err();
    assert!(matches!(error, Error::Future { requested, newest } if (requested, newest) == (at + 100, at)), "{error}");
}

pub async fn a_watch_replays_and_goes_on_without_gap(store: S) {
    let first = commit(&store, vec![put("/r/a", "1")]).await;
    let second = commit(&store, vec![put("/r/a", "2"), put("/other", "x")]).await;
    let mut watch = store.watch("/r/", second).await.unwrap();
    let third = commit(&store, vec![put("/r/b", "3")]).await;
    let expected = vec![event("/r/a", second, Some("2"), Some("1"), first), event("/r/b", third, Some("3"), None, third)];
    assert_eq!(events(&mut watch, 2).await, expected);
}

pub async fn a_watch_from_zero_sees_only_what_comes(store: S) {
    commit(&store, vec![put("/r/a", "1")]).await;
    let mut watch = store.watch("/r/", 0).await.unwrap();
    let next = commit(&store, vec![put("/r/b", "2")]).await;
    assert_eq!(events(&mut watch, 1).await, vec![event("/r/b", next, Some("2"), None, next)]);
}

pub async fn a_watch_sees_previous_values_and_deletions(store: S) {
    let mut watch = store.watch("/r/", 0).await.unwrap();
    let first = commit(&store, vec![put("/r/a", "1")]).await;
    let second = commit(&store, vec![delete("/r/a")]).await;
    let third = commit(&store, vec![put("/r/a", "again")]).await;
    let expected = vec![
        event("/r/a", first, Some("1"), None, first),
        event("/r/a", second, None, Some("1"), first),
        event("/r/a", third, Some("again"), None, third),
    ];
    assert_eq!(events(&mut watch, 3).await, expected);
}

pub async fn watchers_under_concurrent_writers_see_every_revision_in_order(store: S) {
    const WRITERS: usize = 8;
    const PUTS: usize = 50;
    let start = store.revision().await.unwrap();
    let mut live = store.watch("/r/", start + 1).await.unwrap();
    let writers = (0..WRITERS).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0..PUTS {
                commit(&store, vec![put(&format!("/r/{writer}"), &n.to_string())]).await;
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    // Joins in the middle of it, from the beginning.
    let mut late = store.watch("/r/", start + 1).await.unwrap();
    futures::future::join_all(writers).await.into_iter().for_each(|w| w.unwrap());
    let seen = events(&mut live, WRITERS * PUTS).await;
    let revisions: Vec<Revision> = seen.iter().map(|e| e.revision).collect();
    assert_eq!(revisions, (start + 1..=start + (WRITERS * PUTS) as u64).collect::<Vec<_>>());
    assert_eq!(events(&mut late, WRITERS * PUTS).await, seen);
    let mut last: BTreeMap<&str, &Bytes> = BTreeMap::new();
    for event in &seen {
        assert_eq!(event.previous.as_ref(), last.insert(&event.key, event.value.as_ref().unwrap()));
    }
}

pub async fn compaction_forgets_history_but_not_what_is_live(store: S) {
    let first = commit(&store, vec![put("/r/kept", "1"), put("/r/gone", "1"), put("/r/changed", "1")]).await;
    let second = commit(&store, vec![put("/r/changed", "2"), delete("/r/gone")]).await;
    let third = commit(&store, vec![put("/r/new", "3")]).await;
    store.compact(third).await.unwrap();
    let live = vec![
        entry("/r/changed", "2", first, second),
        entry("/r/kept", "1", first, first),
        entry("/r/new", "3", third, third),
    ];
    let at_third = Range { at: Some(third), ..Range::prefix("/r/") };
    assert_eq!(store.range(at_third).await.unwrap().entries, live);
    let error = store.range(Range { at: Some(first), ..Range::prefix("/r/") }).await.unwrap_err();
    assert!(matches!(error, Error::Compacted { requested, .. } if requested == first), "{error}");
    let again = store.compact(second).await.unwrap_err();
    assert!(matches!(again, Error::Compacted { .. }), "{again}");
    let mut watch = store.watch("/r/", third).await.unwrap();
    assert_eq!(events(&mut watch, 1).await, vec![event("/r/new", third, Some("3"), None, third)]);
}

pub async fn a_watch_before_the_compaction_is_told_so(store: S) {
    let first = commit(&store, vec![put("/r/a", "1")]).await;
    let last = commit(&store, vec![put("/r/a", "2")]).await;
    let last = last.max(commit(&store, vec![put("/r/a", "3")]).await);
    store.compact(last).await.unwrap();
    let told = match store.watch("/r/", first).await {
        Err(error) => error,
        Ok(mut watch) => watch.recv().await.expect("a message").expect_err("an error"),
    };
    assert!(matches!(told, Error::Compacted { requested, .. } if requested == first), "{told}");
}

pub async fn progress_reaches_the_newest_revision(store: S) {
    let mut watch = store.watch(knarr_store::ROOT, 0).await.unwrap();
    let at = commit(&store, vec![put("/r/a", "1")]).await;
    store.request_progress().await.unwrap();
    loop {
        let message = tokio::time::timeout(Duration::from_secs(30), watch.recv()).await.expect("progress within 30 s");
        match message.unwrap().unwrap() {
            WatchMessage::Progress(revision) if revision >= at => break,
            WatchMessage::Progress(_) => {}
            WatchMessage::Events(events) => panic!("{events:?} are not below the prefix"),
        }
    }
}

/// Writers and askers at once: what a watch says it has delivered, it has.
pub async fn progress_never_overtakes_a_change(store: S) {
    let mut watch = store.watch(knarr_store::ROOT, 0).await.unwrap();
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut written = Vec::new();
                for n in 0..100 {
                    written.push(commit(&store, vec![put(&format!("/registry/{writer}"), &n.to_string())]).await);
                    store.request_progress().await.unwrap();
                }
                written
            })
        })
        .collect();
    let mut written = Vec::new();
    let mut delivered = Vec::new();
    let mut told = Vec::new();
    let writers = futures::future::join_all(writers);
    tokio::pin!(writers);
    let mut done = false;
    loop {
        tokio::select! {
            all = &mut writers, if !done => {
                written = all.into_iter().flat_map(Result::unwrap).collect();
                written.sort_unstable();
                done = true;
                store.request_progress().await.unwrap();
            }
            message = watch.recv() => match message.unwrap().unwrap() {
                WatchMessage::Events(events) => delivered.extend(events.iter().map(|event| event.revision)),
                WatchMessage::Progress(revision) => told.push((revision, delivered.len())),
            },
        }
        if done && told.last().is_some_and(|(revision, _)| Some(revision) >= written.last()) {
            break;
        }
    }
    assert_eq!(delivered, written);
    for (revision, before) in told {
        let due = written.partition_point(|at| *at <= revision);
        assert!(before >= due, "told of revision {revision} after {before} of {due} changes");
    }
}

fn put_with_ttl(key: &str, ttl: Duration) -> Op {
    Op::Put { key: key.into(), value: Bytes::from_static(b"v"), ttl: Some(ttl) }
}

pub async fn a_key_with_a_time_to_live_goes_and_watchers_see_it(store: S) {
    let mut watch = store.watch("/r/", 0).await.unwrap();
    let at = commit(&store, vec![put_with_ttl("/r/short", Duration::from_secs(1)), put("/r/long", "v")]).await;
    let seen = events(&mut watch, 3).await;
    assert_eq!(seen[2], event("/r/short", at + 1, None, Some("v"), at));
    assert_eq!(store.range(Range::prefix("/r/")).await.unwrap().entries, vec![entry("/r/long", "v", at, at)]);
}

pub async fn a_put_renews_the_time_to_live(store: S) {
    let mut watch = store.watch("/r/", 0).await.unwrap();
    commit(&store, vec![put_with_ttl("/r/renewed", Duration::from_secs(1))]).await;
    commit(&store, vec![put_with_ttl("/r/other", Duration::from_secs(1))]).await;
    // The second put has no time to live: the key must outlive the first one's.
    let renewed = commit(&store, vec![put("/r/renewed", "stays")]).await;
    let seen = events(&mut watch, 4).await;
    assert_eq!((&*seen[3].key, &seen[3].value), ("/r/other", &None));
    let left = store.range(Range::prefix("/r/")).await.unwrap().entries;
    assert_eq!(left.iter().map(|e| (&*e.key, e.mod_revision)).collect::<Vec<_>>(), [("/r/renewed", renewed)]);
}

/// A history of random transactions against a plain model: every revision reads as it was, a replay tells the same story.
pub async fn random_histories_equal_the_model(store: S) {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let mut model: BTreeMap<String, Entry> = BTreeMap::new();
    let mut history: Vec<(Revision, Vec<Entry>)> = Vec::new();
    let mut story: Vec<Event> = Vec::new();
    let mut revision = store.revision().await.unwrap();
    let start = revision + 1;
    for step in 0..120 {
        let mut ops = Vec::new();
        let mut compare = Vec::new();
        let mut changed = Vec::new();
        for _ in 0..=random(3) {
            let key = format!("/r/{}", random(12));
            if ops.iter().any(|op| matches!(op, Op::Put { key: k, .. } | Op::Delete { key: k } if **k == *key)) {
                continue;
            }
            let known = model.get(&key).map_or(0, |e| e.mod_revision);
            compare.push((Arc::from(key.as_str()), if random(8) == 0 { known + 1_000_000 } else { known }));
            if random(3) == 0 {
                ops.push(delete(&key));
                changed.push((key, None));
            } else {
                let value = format!("{step}");
                ops.push(put(&key, &value));
                changed.push((key, Some(value)));
            }
        }
        let holds = compare.iter().all(|(_, revision)| *revision < 1_000_000);
        let outcome = store.commit(Txn { compare, ops, ..Txn::default() }).await.unwrap();
        assert_eq!(matches!(outcome, Outcome::Committed(_)), holds);
        if !holds {
            continue;
        }
        changed.retain(|(key, value)| value.is_some() || model.contains_key(key));
        if !changed.is_empty() {
            revision += 1;
        }
        assert_eq!(outcome, Outcome::Committed(revision));
        for (key, value) in changed {
            let old = model.remove(&key);
            let create = old.as_ref().map_or(revision, |e| e.create_revision);
            let previous = old.map(|e| String::from_utf8(e.value.to_vec()).unwrap());
            story.push(event(&key, revision, value.as_deref(), previous.as_deref(), create));
            if let Some(value) = value {
                model.insert(key.clone(), entry(&key, &value, create, revision));
            }
        }
        if history.last().is_none_or(|(at, _)| *at != revision) {
            history.push((revision, model.values().cloned().collect()));
        }
    }
    for (at, expected) in &history {
        let page = store.range(Range { at: Some(*at), ..Range::prefix("/r/") }).await.unwrap();
        assert_eq!(&page.entries, expected, "at revision {at}");
    }
    let mut watch = store.watch("/r/", start).await.unwrap();
    let mut seen = events(&mut watch, story.len()).await;
    // Within one revision the order is the transaction's in redb and the key's in etcd.
    seen.sort_by(|a, b| (a.revision, &a.key).cmp(&(b.revision, &b.key)));
    story.sort_by(|a, b| (a.revision, &a.key).cmp(&(b.revision, &b.key)));
    assert_eq!(seen, story);
}

/// Writers move units between two keys; whatever one moment holds, it holds all units.
pub async fn an_export_is_one_moment_under_writers(store: S) {
    let (left, right) = ("/registry/left", "/registry/right");
    commit(&store, vec![put(left, "1000"), put(right, "0"), put_with_ttl("/registry/short", Duration::from_secs(3600))])
        .await;
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (writing, until) = (store.clone(), stop.clone());
    let writer = tokio::spawn(async move {
        for moved in 1..=1000_u32 {
            if until.load(std::sync::atomic::Ordering::Relaxed) {
                return;
            }
            let ops = vec![put(left, &(1000 - moved).to_string()), put(right, &moved.to_string())];
            commit(&writing, ops).await;
        }
    });
    let mut revisions = Vec::new();
    for _ in 0..10 {
        let mut export = store.export().await.unwrap();
        let mut records = Vec::new();
        while let Some(piece) = export.records.recv().await {
            records.extend(piece.unwrap());
        }
        let keys: Vec<&str> = records.iter().map(|r| &*r.entry.key).collect();
        assert_eq!(keys, [left, right, "/registry/short"]);
        let units = |n: usize| String::from_utf8(records[n].entry.value.to_vec()).unwrap().parse::<u32>().unwrap();
        assert_eq!(units(0) + units(1), 1000);
        assert!(records[0].entry.mod_revision <= export.revision && records[0].expires.is_none());
        let left = records[2].expires.unwrap().duration_since(std::time::SystemTime::now()).unwrap().as_secs();
        assert!((3000..=3700).contains(&left), "{left} s left");
        revisions.push(export.revision);
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    writer.await.unwrap();
    assert!(revisions.is_sorted());
}
