//! Three members of etcd, of which one is killed, be it the leader or not, or stops answering, while writers go on: nothing
//! acknowledged is lost, no update is overwritten unseen, watches tell of everything once and in order.
//!
//! Each writer keeps a history: what it asked for, from when to when, and what it was told. The check is over histories alone.
//! Counters are changed by compare-and-set only, so the values that were acknowledged are an order in which everything must
//! have happened; it must agree with the clock and with the revisions (each counter is linearizable).

use std::{
    collections::{BTreeMap, HashMap},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use knarr_store::{
    Error, Outcome, Range, Revision, Store, Txn, WatchMessage,
    etcd::{EtcdStore, Options},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{cases::put, fixture::address};

const WRITERS: usize = 4;
const COUNTERS: usize = 2;
/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

struct Members {
    processes: Vec<Option<Child>>,
    clients: Vec<String>,
    peers: Vec<String>,
    dir: tempfile::TempDir,
}

impl Drop for Members {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().flatten() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Members {
    fn start() -> Option<Self> {
        let addresses = |n| (0..n).map(|_| address()).collect::<Vec<_>>();
        let (clients, peers) = (addresses(3), addresses(3));
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut it = Self { processes: vec![None, None, None], clients, peers, dir };
        for n in 0..3 {
            if !it.launch(n) {
                return None;
            }
        }
        Some(it)
    }

    fn launch(&mut self, n: usize) -> bool {
        let name = |n: usize| format!("m{n}");
        let cluster: Vec<String> = self.peers.iter().enumerate().map(|(n, peer)| format!("{}={peer}", name(n))).collect();
        let (client, peer) = (&self.clients[n], &self.peers[n]);
        let spawned = Command::new("etcd")
            .args(["--name", &name(n), "--data-dir"])
            .arg(self.dir.path().join(name(n)))
            .args(["--listen-client-urls", client, "--advertise-client-urls", client])
            .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
            .args(["--initial-cluster", &cluster.join(","), "--heartbeat-interval", "100", "--election-timeout", "1000"])
            .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match spawned {
            Ok(child) => self.processes[n] = Some(child),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                assert!(std::env::var_os("CI").is_none(), "etcd must be installed where CI is set");
                eprintln!("skipped: etcd is not installed");
                return false;
            }
            Err(error) => panic!("starting etcd: {error}"),
        }
        true
    }

    async fn connect(&self) -> Arc<dyn Store> {
        let options = Options { endpoints: self.clients.clone(), ..Default::default() };
        let connected = tokio::time::timeout(PATIENCE, async {
            loop {
                match EtcdStore::connect(options.clone()).await {
                    Ok(store) => return store,
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        });
        Arc::new(connected.await.expect("the members answer"))
    }

    /// The leader's number.
    async fn leader(&self) -> usize {
        let asked = tokio::time::timeout(PATIENCE, async {
            loop {
                for (n, endpoint) in self.clients.iter().enumerate() {
                    let Ok(client) = etcd_client::Client::connect([endpoint], None).await else { continue };
                    let Ok(status) = client.maintenance_client().status().await else { continue };
                    if status.header().is_some_and(|h| h.member_id() == status.leader()) {
                        return n;
                    }
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        asked.await.expect("there is a leader")
    }

    fn kill(&mut self, n: usize) {
        let mut process = self.processes[n].take().expect("a running member");
        process.kill().unwrap();
        process.wait().unwrap();
    }

    fn signal(&self, n: usize, signal: Signal) {
        let process = self.processes[n].as_ref().expect("a running member");
        kill(Pid::from_raw(process.id() as i32), signal).unwrap();
    }
}

/// An increment of a counter, or a key of a writer's own.
#[derive(Debug)]
struct Done {
    key: String,
    value: u64,
    began: Instant,
    ended: Instant,
    /// Where it was acknowledged; `None` if the writer was told of an error and cannot know.
    at: Option<Revision>,
}

struct Running {
    stop: AtomicBool,
    /// The last revision that the watch is to tell of, once it is known.
    end: AtomicU64,
    acknowledged: [AtomicUsize; WRITERS],
}

async fn write(n: usize, store: Arc<dyn Store>, running: Arc<Running>) -> Vec<Done> {
    let mut history = Vec::new();
    let mut next = 0;
    while !running.stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let (key, value, txn) = if next % 2 == 0 {
            let key = format!("/registry/own/{n}/{next:06}");
            (key.clone(), next, Txn { compare: vec![(key.as_str().into(), 0)], ops: vec![put(&key, "x")], ..Txn::default() })
        } else {
            let key = format!("/registry/counter/{}", next / 2 % COUNTERS as u64);
            let Ok((found, _)) = store.get(&key).await else { continue };
            let (value, revision) = found.map_or((0, 0), |e| (number(&e.value), e.mod_revision));
            let ops = vec![put(&key, &(value + 1).to_string())];
            (key.clone(), value + 1, Txn { compare: vec![(key.as_str().into(), revision)], ops, ..Txn::default() })
        };
        let outcome = store.commit(txn).await;
        let ended = Instant::now();
        let at = match outcome {
            Ok(Outcome::Committed(revision)) => Some(revision),
            Ok(Outcome::Conflict(_)) => {
                // A key of one's own can be there only if an earlier try did more than it told.
                next += u64::from(key.contains("/own/"));
                continue;
            }
            Err(_) => None,
        };
        history.push(Done { key, value, began, ended, at });
        if at.is_some() {
            next += 1;
            running.acknowledged[n].fetch_add(1, Ordering::Relaxed);
        } else {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    history
}

fn number(bytes: &[u8]) -> u64 {
    std::str::from_utf8(bytes).unwrap().parse().unwrap()
}

/// Waits until every writer has been acknowledged so many times more.
async fn goes_on(running: &Running, more: usize) {
    let before: Vec<usize> = running.acknowledged.iter().map(|n| n.load(Ordering::Relaxed)).collect();
    let wait = async {
        while running.acknowledged.iter().zip(&before).any(|(now, then)| now.load(Ordering::Relaxed) < then + more) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("writers go on");
}

/// All revisions of a watch, which is started again where it ended when a member takes it along.
async fn follow(store: Arc<dyn Store>, from: Revision, running: Arc<Running>) -> Vec<(Revision, String)> {
    let (mut next, mut events) = (from, Vec::new());
    while next <= running.end.load(Ordering::Relaxed) {
        let Ok(mut watch) = store.watch("/registry/", next).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        while next <= running.end.load(Ordering::Relaxed) {
            match tokio::time::timeout(Duration::from_millis(200), watch.recv()).await {
                Ok(Some(Ok(WatchMessage::Events(some)))) => {
                    for event in some {
                        next = event.revision + 1;
                        events.push((event.revision, event.key.to_string()));
                    }
                }
                Ok(Some(Ok(WatchMessage::Progress(_)))) | Err(_) => {}
                Ok(Some(Err(Error::Compacted { .. }))) => panic!("nobody compacts here"),
                Ok(Some(Err(_)) | None) => break,
            }
        }
    }
    events
}

fn check(histories: &[Vec<Done>], there: &BTreeMap<String, (u64, Revision)>, watched: &[(Revision, String)]) {
    let acknowledged: Vec<&Done> = histories.iter().flatten().filter(|d| d.at.is_some()).collect();
    // Everything acknowledged is there.
    let own = acknowledged.iter().filter(|d| d.key.contains("/own/"));
    let lost: Vec<_> = own.filter(|d| there.get(&d.key).map(|(_, at)| Some(*at)) != Some(d.at)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    for counter in 0..COUNTERS {
        let key = format!("/registry/counter/{counter}");
        let mut steps: Vec<&&Done> = acknowledged.iter().filter(|d| d.key == key).collect();
        steps.sort_by_key(|d| d.value);
        let unknown = histories.iter().flatten().filter(|d| d.key == key && d.at.is_none()).count() as u64;
        let (value, _) = there[&key];
        assert!((steps.len() as u64..=steps.len() as u64 + unknown).contains(&value), "{key}: {} acknowledged", steps.len());
        for pair in steps.windows(2) {
            // No two writers made the same step, and their order by value is that by revision.
            assert!(pair[0].value < pair[1].value && pair[0].at < pair[1].at, "{pair:?}");
        }
        // Nor does any step end before one begins that it follows.
        let mut latest_beginning = None;
        for step in &steps {
            latest_beginning = latest_beginning.max(Some(step.began));
            assert!(latest_beginning.is_none_or(|began| began <= step.ended), "{step:?}");
        }
    }
    // What a writer sees of revisions only grows.
    for history in histories {
        assert!(history.iter().filter_map(|d| d.at).is_sorted_by(|a, b| a < b));
    }
    // The watch told of each change once, in order.
    assert!(watched.is_sorted_by(|a, b| a.0 < b.0));
    let told: HashMap<Revision, &str> = watched.iter().map(|(at, key)| (*at, key.as_str())).collect();
    let untold: Vec<_> =
        acknowledged.iter().filter(|d| d.at.and_then(|at| told.get(&at)) != Some(&d.key.as_str())).collect();
    assert!(untold.is_empty(), "acknowledged and never told: {untold:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_etcd_members_may_go_and_nothing_is_lost() {
    let Some(mut members) = Members::start() else { return };
    let first = members.connect().await;
    let start = first.revision().await.unwrap() + 1;
    let acknowledged = Default::default();
    let running = Arc::new(Running { stop: AtomicBool::new(false), end: AtomicU64::new(u64::MAX), acknowledged });
    let mut writers = Vec::new();
    for n in 0..WRITERS {
        writers.push(tokio::spawn(write(n, members.connect().await, running.clone())));
    }
    let watcher = tokio::spawn(follow(first.clone(), start, running.clone()));
    goes_on(&running, 10).await;

    let leader = members.leader().await;
    members.kill(leader);
    goes_on(&running, 10).await;
    assert!(members.launch(leader));
    goes_on(&running, 10).await;

    let follower = (members.leader().await + 1) % 3;
    members.kill(follower);
    goes_on(&running, 10).await;
    assert!(members.launch(follower));
    goes_on(&running, 10).await;

    // One that answers nobody any more, though its connections stand: and then goes on as if nothing had been.
    let leader = members.leader().await;
    members.signal(leader, Signal::SIGSTOP);
    goes_on(&running, 10).await;
    members.signal(leader, Signal::SIGCONT);
    goes_on(&running, 10).await;

    running.stop.store(true, Ordering::Relaxed);
    let mut histories = Vec::new();
    for writer in writers {
        histories.push(writer.await.unwrap());
    }
    let reader = members.connect().await;
    let page = reader.range(Range::prefix("/registry/")).await.unwrap();
    let value = |key: &str, bytes: &[u8]| if key.contains("/own/") { 0 } else { number(bytes) };
    let there = page.entries.iter().map(|e| (e.key.to_string(), (value(&e.key, &e.value), e.mod_revision))).collect();
    running.end.store(page.revision, Ordering::Relaxed);
    let watched = tokio::time::timeout(PATIENCE, watcher).await.expect("the watch reaches the end").unwrap();
    check(&histories, &there, &watched);
}
