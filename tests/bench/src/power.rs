//! Writers whose machine loses its power, and what must be there when it has it again: hack/vm/power.sh says what and why.
//!
//! Told what to do by lines on standard input, each answered by one line on standard output. Any fault ends it with an error.
//!
//! ```text
//! check           waits for the server, and looks for what must be there
//! cut PID WHEN    writes, then kills the process that is the machine:
//!    after MS       after so long
//!    settling FILE  when the file grows after a hundred writes: the machine tells there that redb's file is written to
//!    relaxed        when for five seconds there were none but relaxed writes
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::{task::JoinHandle, time};

use crate::{
    http::{Connection, Target},
    measure::Subject,
    objects,
};

const NAMESPACE: &str = "/api/v1/namespaces/power";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/power/leases";
const PATIENCE: Duration = Duration::from_secs(300);
/// Writers of ConfigMaps, of pods, and of Leases; one more writes Events.
const WRITERS: [usize; 3] = [6, 2, 2];
/// Objects of one writer, so many that between two changes of one it makes changes of others.
const EACH: usize = 8;
/// A writer's updates of an object between making and deleting it.
const UPDATES: u64 = 3;
/// What was acknowledged so long before the cut must be there even if it is relaxed.
const RELAXED: Duration = Duration::from_secs(2);
const RELAXED_PACE: Duration = Duration::from_millis(50);
/// Answers after which it is many changes that settle.
const MANY: u64 = 100;

/// What the writers tell, and are told.
struct Progress {
    answered: AtomicU64,
    last: Mutex<Instant>,
    only_relaxed: AtomicBool,
}

/// An object of a synced kind, and its one writer's part in it.
#[derive(Clone)]
struct Object {
    collection: String,
    name: String,
    /// As it was acknowledged: its number and revision.
    is: Option<(u64, u64)>,
    /// What was sent and not answered yet.
    sent: Option<Option<u64>>,
    /// Times written.
    count: u64,
}

/// A Lease that is only ever updated, to higher numbers.
#[derive(Clone)]
struct Lease {
    name: String,
    acked: Vec<(u64, Instant)>,
    sent: u64,
    least: u64,
}

/// Events: only ever made.
#[derive(Default)]
struct Events {
    must: BTreeSet<String>,
    acked: Vec<(String, Instant)>,
    sent: u64,
}

type Writer<T> = JoinHandle<Result<T>>;

/// All that is known.
struct Power {
    target: Target,
    writers: Vec<Vec<Object>>,
    leases: Vec<Lease>,
    events: Events,
    /// The highest revision that was told.
    newest: u64,
    /// Checks so far.
    round: usize,
    was_cut: bool,
}

/// Does as told.
pub async fn run(kubeconfig: &str) -> Result<()> {
    let target = Target::new(&std::fs::read_to_string(kubeconfig)?, Subject::Process(0))?;
    let mut power = Power::new(target);
    for line in std::io::stdin().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let said = match words[..] {
            ["check"] => power.check().await,
            ["cut", pid, ref when @ ..] => power.cut(pid, when).await,
            _ => bail!("{line:?} is neither \"check\" nor \"cut PID WHEN\""),
        };
        println!("{}", said?);
    }
    Ok(())
}

fn collection(kind: &str) -> String {
    format!("{NAMESPACE}/{kind}")
}

fn revision(object: &Value) -> Result<u64> {
    let found = object.pointer("/metadata/resourceVersion").and_then(Value::as_str);
    found.and_then(|r| r.parse().ok()).with_context(|| format!("find the resourceVersion of {object}"))
}

/// An object of ours, with its number.
fn object(collection: &str, name: &str, number: u64) -> Value {
    let mut made = match collection.rsplit('/').next() {
        Some("pods") => objects::pod(name),
        Some("leases") => json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}}),
        Some("events") => json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": name}, "type": "Normal", "reason": "Written",
            "involvedObject": {"kind": "Namespace", "name": "power", "namespace": "power"},
        }),
        _ => objects::config_map(name, "a kibibyte"),
    };
    made["metadata"]["annotations"] = json!({"number": number.to_string()});
    if made["kind"] == "Pod" {
        made["spec"]["schedulerName"] = json!("nobody");
    }
    made
}

/// Sends one request: `None` if the machine went away before it answered.
async fn ask(connection: &mut Connection, method: &str, path: &str, body: &Value) -> Result<Option<Value>> {
    let content = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let bytes = if body.is_null() { Vec::new() } else { serde_json::to_vec(body)? };
    let Ok((status, answer)) = connection.send(method, path, content, &bytes).await else { return Ok(None) };
    ensure!(status < 300, "{method} {path}: {status} {}", String::from_utf8_lossy(&answer));
    Ok(Some(serde_json::from_slice(&answer)?))
}

impl Object {
    /// Makes, updates or deletes it; false if the machine went away.
    async fn change(&mut self, connection: &mut Connection, newest: &mut u64) -> Result<bool> {
        let next = self.count + 1;
        let path = format!("{}/{}", self.collection, self.name);
        let number = json!({"metadata": {"annotations": {"number": next.to_string()}}});
        let (method, path, body, sent) = match self.is {
            None => ("POST", self.collection.clone(), object(&self.collection, &self.name, next), Some(next)),
            Some(_) if next.is_multiple_of(UPDATES + 2) => ("DELETE", path + "?gracePeriodSeconds=0", Value::Null, None),
            Some(_) => ("PATCH", path, number, Some(next)),
        };
        self.sent = Some(sent);
        let Some(answer) = ask(connection, method, &path, &body).await? else { return Ok(false) };
        self.count = next;
        self.sent = None;
        self.is = match sent {
            Some(number) => Some((number, revision(&answer)?)),
            None => None,
        };
        *newest = self.is.map_or(*newest, |(_, revision)| revision.max(*newest));
        Ok(true)
    }

    /// Compares it with what is found, which may be what was sent last.
    fn settle(&mut self, found: Option<(u64, u64)>) -> Result<()> {
        let sent = self.sent.take();
        if found != self.is {
            let may = sent.is_some_and(|sent| sent == found.map(|(number, _)| number));
            ensure!(may, "{} {} is {found:?} and must be {:?}, or {sent:?}", self.collection, self.name, self.is);
            (self.is, self.count) = (found, self.count + 1);
        }
        Ok(())
    }
}

impl Progress {
    fn last(&self) -> Instant {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answered(&self) -> Instant {
        let now = Instant::now();
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = now;
        self.answered.fetch_add(1, Ordering::Relaxed);
        now
    }
}

/// All objects of a kind that writers made, and the list's revision.
async fn list(connection: &mut Connection, path: &str) -> Result<(u64, BTreeMap<String, (u64, u64)>)> {
    let list = connection.json("GET", path, &Value::Null).await?;
    let mut found = BTreeMap::new();
    for item in list["items"].as_array().context("read a list")? {
        let number = item.pointer("/metadata/annotations/number").and_then(Value::as_str);
        let (Some(name), Some(number)) = (item["metadata"]["name"].as_str(), number) else { continue };
        found.insert(name.to_owned(), (number.parse()?, revision(item)?));
    }
    Ok((revision(&list)?, found))
}

/// Changes the objects in turn.
async fn synced(
    mut connection: Connection,
    mut objects: Vec<Object>,
    progress: Arc<Progress>,
) -> Result<(Vec<Object>, u64)> {
    let mut newest = 0;
    loop {
        for object in &mut objects {
            if progress.only_relaxed.load(Ordering::Relaxed) || !object.change(&mut connection, &mut newest).await? {
                return Ok((objects, newest));
            }
            progress.answered();
        }
    }
}

/// Updates a Lease.
async fn renewed(mut connection: Connection, mut lease: Lease, progress: Arc<Progress>) -> Result<Lease> {
    let path = format!("{LEASES}/{}", lease.name);
    let mut pace = time::interval(RELAXED_PACE);
    loop {
        pace.tick().await;
        lease.sent += 1;
        let number = json!({"metadata": {"annotations": {"number": lease.sent.to_string()}}});
        if ask(&mut connection, "PATCH", &path, &number).await?.is_none() {
            return Ok(lease);
        }
        lease.acked.push((lease.sent, progress.answered()));
    }
}

/// Makes Events.
async fn told(mut connection: Connection, mut events: Events, progress: Arc<Progress>) -> Result<Events> {
    let path = collection("events");
    let mut pace = time::interval(RELAXED_PACE);
    loop {
        pace.tick().await;
        events.sent += 1;
        let name = format!("e{}", events.sent);
        if ask(&mut connection, "POST", &path, &object(&path, &name, events.sent)).await?.is_none() {
            return Ok(events);
        }
        events.acked.push((name, progress.answered()));
    }
}

/// Until the moment of the cut.
async fn wait(when: &[&str], progress: &Progress) -> Result<()> {
    match when {
        ["after", ms] => time::sleep(Duration::from_millis(ms.parse()?)).await,
        ["settling", file] => {
            let length = || std::fs::metadata(file).map(|m| m.len());
            let (mut grown, mut written) = (length()?, 0);
            loop {
                let (now, answered) = (length()?, progress.answered.load(Ordering::Relaxed));
                if now > grown && answered >= written + MANY {
                    return Ok(());
                }
                if now > grown {
                    (grown, written) = (now, answered);
                }
                time::sleep(Duration::from_millis(1)).await;
            }
        }
        ["relaxed"] => {
            time::sleep(Duration::from_secs(1)).await;
            progress.only_relaxed.store(true, Ordering::Relaxed);
            time::sleep(Duration::from_secs(5)).await;
        }
        _ => bail!("{when:?} is no moment"),
    }
    Ok(())
}

/// What a writer knew when it had no machine any more.
async fn ended<T>(writer: Writer<T>) -> Result<T> {
    time::timeout(PATIENCE, writer).await.context("wait for a writer to end")??
}

impl Power {
    fn new(target: Target) -> Self {
        let writer = |(kind, n): (&str, usize)| -> Vec<Object> {
            let made =
                |m| Object { collection: collection(kind), name: format!("w{n}-{m}"), is: None, sent: None, count: 0 };
            (0..EACH).map(made).collect()
        };
        let synced = (0..WRITERS[0]).map(|n| ("configmaps", n)).chain((0..WRITERS[1]).map(|n| ("pods", n)));
        let leases = (0..WRITERS[2]).map(|n| Lease { name: format!("l{n}"), acked: Vec::new(), sent: 0, least: 0 });
        Self {
            target,
            // The last one's are what each check makes.
            writers: synced.map(writer).chain([Vec::new()]).collect(),
            leases: leases.collect(),
            events: Events::default(),
            newest: 0,
            round: 0,
            was_cut: false,
        }
    }

    /// A connection to a server that is ready.
    async fn reach(&self) -> Result<Connection> {
        let until = Instant::now() + PATIENCE;
        loop {
            let tried = time::timeout(Duration::from_secs(5), async {
                let mut connection = self.target.connect().await?;
                match connection.send("GET", "/readyz", "", b"").await?.0 {
                    200 => Ok(connection),
                    status => bail!("/readyz answers {status}"),
                }
            });
            match tried.await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) if Instant::now() > until => return Err(error.context("the server does not come up")),
                Err(_) if Instant::now() > until => bail!("the server does not come up: it answers nothing"),
                _ => time::sleep(Duration::from_millis(200)).await,
            }
        }
    }

    // --- writing ---

    /// Writes until it kills the machine.
    async fn cut(&mut self, pid: &str, when: &[&str]) -> Result<String> {
        self.check().await?;
        let progress = Arc::new(Progress {
            answered: AtomicU64::new(0),
            last: Mutex::new(Instant::now()),
            only_relaxed: AtomicBool::new(false),
        });
        let checks = self.writers.pop();
        let (mut objects, mut leases): (Vec<Writer<_>>, Vec<Writer<_>>) = Default::default();
        for mine in self.writers.drain(..) {
            objects.push(tokio::spawn(synced(self.target.connect().await?, mine, progress.clone())));
        }
        for mine in self.leases.drain(..) {
            leases.push(tokio::spawn(renewed(self.target.connect().await?, mine, progress.clone())));
        }
        let events = std::mem::take(&mut self.events);
        let events: Writer<_> = tokio::spawn(told(self.target.connect().await?, events, progress.clone()));
        let began = Instant::now();
        wait(when, &progress).await?;
        let cut = Instant::now();
        let quiet = cut - progress.last();
        ensure!(Command::new("kill").args(["-9", pid]).status()?.success(), "process {pid} cannot be killed");
        self.was_cut = true;
        let answered = progress.answered.load(Ordering::Relaxed);

        for writer in objects {
            let (mine, newest) = ended(writer).await?;
            self.writers.push(mine);
            self.newest = self.newest.max(newest);
        }
        self.writers.extend(checks);
        let old = |at: Instant| at + RELAXED <= cut;
        for writer in leases {
            let mut lease = ended(writer).await?;
            let least = lease.acked.drain(..).filter(|(_, at)| old(*at)).map(|(number, _)| number).max();
            lease.least = least.unwrap_or(lease.least);
            self.leases.push(lease);
        }
        self.events = ended(events).await?;
        self.events.must.extend(self.events.acked.drain(..).filter(|(_, at)| old(*at)).map(|(name, _)| name));
        let took = cut - began;
        Ok(format!("cut after {} ms with {answered} writes, {} ms after the last", took.as_millis(), quiet.as_millis()))
    }

    // --- what must be there ---

    async fn check(&mut self) -> Result<String> {
        let mut connection = self.reach().await?;
        if self.round == 0 {
            self.prepare(&mut connection).await?;
        }
        let (before, told) = (self.newest, self.newest);
        let mut counted = Vec::new();
        for kind in ["configmaps", "pods"] {
            let (revision, mut found) = list(&mut connection, &collection(kind)).await?;
            ensure!(revision >= told, "the list of {kind} is of revision {revision}, and {told} was told before");
            for object in self.writers.iter_mut().flatten().filter(|o| o.collection == collection(kind)) {
                object.settle(found.remove(&object.name)).context("acknowledged changes are lost")?;
            }
            ensure!(found.is_empty(), "{kind} that nobody made, or that are back: {found:?}");
            let here = |o: &&Object| o.collection == collection(kind) && o.is.is_some();
            counted.push(format!("{} {kind}", self.writers.iter().flatten().filter(here).count()));
        }
        let (_, leases) = list(&mut connection, LEASES).await?;
        for lease in &mut self.leases {
            let found = leases.get(&lease.name).map_or(0, |(number, _)| *number);
            let (least, sent) = (lease.least, lease.sent);
            ensure!((least..=sent).contains(&found), "Lease {} is at {found}, and must be in {least}..={sent}", lease.name);
            (lease.least, lease.sent) = (found, found);
        }
        let (_, events) = list(&mut connection, &collection("events")).await?;
        let events: BTreeSet<String> = events.into_keys().collect();
        let lost: Vec<_> = self.events.must.difference(&events).collect();
        ensure!(lost.is_empty(), "Events are lost: {lost:?}");
        counted.push(format!("{} of {} events", events.len(), self.events.sent));
        self.events.must = events;
        self.go_on(before).await?;
        Ok(format!("{}, revision {before} to {}", counted.join(", "), self.newest))
    }

    /// Makes what the writers need.
    async fn prepare(&mut self, connection: &mut Connection) -> Result<()> {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "power"}});
        connection.json("POST", "/api/v1/namespaces", &namespace).await?;
        let account = collection("serviceaccounts/default");
        // Without it no pod is let in; the controllers make it.
        while connection.send("GET", &account, "", b"").await?.0 != 200 {
            time::sleep(Duration::from_millis(50)).await;
        }
        for lease in &mut self.leases {
            lease.sent = 1;
            connection.json("POST", LEASES, &object(LEASES, &lease.name, 1)).await?;
        }
        Ok(())
    }

    /// Watches and writes go on where they must.
    async fn go_on(&mut self, before: u64) -> Result<()> {
        let maps = collection("configmaps");
        let mut connection = self.target.connect().await?;
        let now = connection.json("GET", &maps, &Value::Null).await?;
        let mut watch = self.target.watch(&format!("{maps}?watch=1&resourceVersion={}", revision(&now)?)).await?;
        if std::mem::take(&mut self.was_cut) {
            // What it would have to tell is partly gone: it has to say so, not to leave it out.
            let old = format!("{maps}?watch=1&timeoutSeconds=5&resourceVersion={before}");
            let (status, answer) = connection.send("GET", &old, "", b"").await?;
            let answer = String::from_utf8(answer)?;
            let first: Value = serde_json::from_str(answer.lines().next().unwrap_or("{}"))?;
            let code = first.pointer("/object/code").or(first.get("code"));
            ensure!(code == Some(&json!(410)), "a watch from revision {before} is answered by {status} {answer}");
        }
        let mut made = Object { collection: maps, name: format!("check-{}", self.round), is: None, sent: None, count: 0 };
        ensure!(made.change(&mut connection, &mut self.newest).await?, "the server is gone again");
        ensure!(self.newest > before, "a new write has revision {:?}, and {before} was told before", made.is);
        let seen = async {
            loop {
                let event = watch.event().await?;
                if event.pointer("/object/metadata/name") == Some(&json!(made.name)) {
                    return Ok::<_, anyhow::Error>(event);
                }
            }
        };
        let event = time::timeout(PATIENCE, seen).await.context("wait for a watch to tell of a write")??;
        ensure!(Some(revision(&event["object"])?) == made.is.map(|(_, r)| r), "a watch tells {event}");
        let Some(last) = self.writers.last_mut() else { return Ok(()) };
        last.push(made);
        self.round += 1;
        Ok(())
    }
}
