//! etcd as the store: for control planes of more than one API server.
//!
//! Revisions, comparisons, watches and compaction are etcd's own; this module only translates. Times to live become leases
//! that several keys share, as upstream's API server does it: a lease a key would cost etcd more than the key.

mod connect;
mod transfer;

pub use transfer::Filled;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{
    Client, Compare, CompareOp, EventType, GetOptions, KeyValue, PutOptions, TxnOp, TxnOpResponse, WatchOptions,
    WatchResponse,
};
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, broadcast, mpsc};

use crate::{Entry, Error, Event, Export, Op, Outcome, Page, Range, Revision, Store, Txn, Watch, WatchMessage};

/// Messages a watcher may lag behind before etcd is no longer read for it.
const WATCH_BUFFER: usize = 4096;
/// Keys that may share one lease, and for how long it is handed out: upstream's `LeaseReuse` numbers.
const LEASE_KEYS: u32 = 1000;
const LEASE_REUSE: Duration = Duration::from_secs(60);
/// etcd refuses larger messages by default (1.5 MiB requests); answers may be any size.
const MAX_ANSWER_BYTES: usize = 1 << 30;

/// Written where an etcd's word on progress cannot be trusted ([`is_trusted`]): who is handed its event has been handed everything before.
pub(super) const MARK: &str = "/registry/\0";

/// How etcd is reached.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `http://` or `https://` addresses of the members.
    pub endpoints: Vec<String>,
    /// PEM of the CA that signed the members' certificates.
    pub ca_pem: Option<Vec<u8>>,
    /// PEM of our client certificate and its key.
    pub identity_pem: Option<(Vec<u8>, Vec<u8>)>,
}

/// A [`Store`] in an etcd cluster.
pub struct EtcdStore {
    client: Client,
    leases: Mutex<HashMap<Duration, Shared>>,
    granting: AsyncMutex<()>,
    progress: broadcast::Sender<()>,
    /// Whether a member was met whose word on progress cannot be trusted.
    marks: AtomicBool,
}

/// A lease that new keys may still join.
#[derive(Clone, Copy)]
struct Shared {
    id: i64,
    granted: Instant,
    keys: u32,
}

impl EtcdStore {
    /// Connects, and makes sure that a member answers and that nothing half-filled is taken for a store.
    pub async fn connect(options: Options) -> Result<Self, Error> {
        let store = Self::reach(options).await?;
        if store.is_unfinished().await? { Err(Error::Unfinished) } else { Ok(store) }
    }

    /// Connects to an etcd that is to be filled, whatever is in it.
    pub async fn reach(options: Options) -> Result<Self, Error> {
        let store = Self::over(connect::client(&options).await?);
        store.revision().await?;
        Ok(store)
    }

    fn over(client: Client) -> Self {
        Self {
            client,
            leases: Mutex::default(),
            granting: AsyncMutex::default(),
            progress: broadcast::channel(16).0,
            marks: AtomicBool::new(false),
        }
    }

    fn kv(&self) -> etcd_client::KvClient {
        self.client.kv_client().max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// A lease under which a key lives at least `ttl` from now.
    async fn lease(&self, ttl: Duration) -> Result<i64, Error> {
        let reuse = LEASE_REUSE.min(ttl / 20);
        let join = || {
            let mut leases = self.leases.lock();
            let lease = leases.get_mut(&ttl).filter(|l| l.keys < LEASE_KEYS && l.granted.elapsed() < reuse)?;
            lease.keys += 1;
            Some(lease.id)
        };
        if let Some(id) = join() {
            return Ok(id);
        }
        let _granting = self.granting.lock().await;
        if let Some(id) = join() {
            return Ok(id);
        }
        let seconds = (ttl + reuse).as_secs_f64().ceil() as i64;
        let lease = self.client.lease_client().grant(seconds, None).await.map_err(|e| backend("grant a lease", e))?;
        self.leases.lock().insert(ttl, Shared { id: lease.id(), granted: Instant::now(), keys: 1 });
        Ok(lease.id())
    }

    async fn operations(&self, ops: &[Op]) -> Result<Vec<TxnOp>, Error> {
        let mut out = Vec::with_capacity(ops.len());
        for op in ops {
            out.push(match op {
                Op::Delete { key } => TxnOp::delete(key.as_bytes(), None),
                Op::Put { key, value, ttl } => {
                    let options = match ttl {
                        Some(ttl) => Some(PutOptions::new().with_lease(self.lease(*ttl).await?)),
                        None => None,
                    };
                    TxnOp::put(key.as_bytes(), value.as_ref(), options)
                }
            });
        }
        Ok(out)
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn revision(&self) -> Result<Revision, Error> {
        // A linearizable read of a key that nobody writes: its header tells the newest revision.
        let options = GetOptions::new().with_count_only();
        let answer = self.kv().get("\0", Some(options)).await.map_err(|e| backend("read the revision", e))?;
        Ok(answer.header().map_or(0, |h| h.revision() as u64))
    }

    async fn get(&self, key: &str) -> Result<(Option<Entry>, Revision), Error> {
        let mut answer = self.kv().get(key, None).await.map_err(|e| backend("read a key", e))?;
        let revision = answer.header().map_or(0, |h| h.revision() as u64);
        Ok((answer.take_kvs().into_iter().next().map(entry).transpose()?, revision))
    }

    async fn range(&self, range: Range) -> Result<Page, Error> {
        if range.start >= range.end {
            return Ok(Page { entries: Vec::new(), remaining: 0, revision: self.revision().await? });
        }
        let mut options = GetOptions::new().with_range(range.end).with_limit(range.limit as i64);
        if let Some(at) = range.at {
            options = options.with_revision(at as i64);
        }
        let mut answer = match self.kv().get(range.start, Some(options)).await {
            Ok(answer) => answer,
            Err(error) => return Err(self.range_error(error, range.at).await),
        };
        let newest = answer.header().map_or(0, |h| h.revision() as u64);
        let count = answer.count() as u64;
        let entries = answer.take_kvs().into_iter().map(entry).collect::<Result<Vec<_>, _>>()?;
        Ok(Page { remaining: count - entries.len() as u64, entries, revision: range.at.unwrap_or(newest) })
    }

    async fn commit(&self, txn: Txn) -> Result<Outcome, Error> {
        let compares: Vec<Compare> = txn
            .compare
            .iter()
            .map(|(key, revision)| Compare::mod_revision(key.as_bytes(), CompareOp::Equal, *revision as i64))
            .collect();
        let look: Vec<TxnOp> = txn.compare.iter().map(|(key, _)| TxnOp::get(key.as_bytes(), None)).collect();
        let ops = self.operations(&txn.ops).await?;
        let request = etcd_client::Txn::new().when(compares).and_then(ops).or_else(look);
        let answer = self.kv().txn(request).await.map_err(|e| backend("commit", e))?;
        if answer.succeeded() {
            return Ok(Outcome::Committed(answer.header().map_or(0, |h| h.revision() as u64)));
        }
        let current = answer.op_responses().into_iter().map(|response| match response {
            TxnOpResponse::Get(mut got) => got.take_kvs().into_iter().next().map(entry).transpose(),
            _ => Ok(None),
        });
        Ok(Outcome::Conflict(current.collect::<Result<_, _>>()?))
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, Error> {
        let from = match from {
            0 => self.revision().await? + 1,
            from => from,
        };
        let status = self.client.maintenance_client().status().await;
        if !status.is_ok_and(|member| is_trusted(member.version())) {
            self.marks.store(true, Ordering::Relaxed);
        }
        let options =
            WatchOptions::new().with_prefix().with_prev_key().with_progress_notify().with_start_revision(from as i64);
        let mut stream = self
            .client
            .watch_client()
            .max_decoding_message_size(MAX_ANSWER_BYTES)
            .watch(prefix, Some(options))
            .await
            .map_err(|e| backend("start a watch", e))?;
        // etcd says that a revision is compacted only after it has accepted the watch: ask before.
        let oldest = stream.message().await.map_err(|e| backend("start a watch", e))?;
        if let Some(error) = oldest.as_ref().and_then(|first| cancelled(first, from)) {
            return Err(error);
        }
        let probe = GetOptions::new().with_count_only().with_revision(from as i64);
        if let Err(error) = self.kv().get("\0", Some(probe)).await
            && let error @ Error::Compacted { .. } = self.range_error(error, Some(from)).await
        {
            return Err(error);
        }
        let (sender, watch) = mpsc::channel(WATCH_BUFFER);
        let mut progress = self.progress.subscribe();
        tokio::spawn(async move {
            loop {
                let message = tokio::select! {
                    message = stream.message() => message,
                    _ = progress.recv() => {
                        if stream.request_progress().await.is_err() { return }
                        continue;
                    }
                    () = sender.closed() => return,
                };
                let translated = match message {
                    Ok(Some(response)) => match cancelled(&response, from) {
                        Some(error) => Err(error),
                        None => translate(&response),
                    },
                    Ok(None) => Err(Error::Closed),
                    Err(error) => Err(backend("watch", error)),
                };
                match translated {
                    Ok(messages) => {
                        for message in messages.into_iter().flatten() {
                            if sender.send(Ok(message)).await.is_err() {
                                return;
                            }
                        }
                    }
                    Err(error) => {
                        let _ = sender.send(Err(error)).await;
                        return;
                    }
                }
            }
        });
        Ok(watch)
    }

    async fn request_progress(&self) -> Result<(), Error> {
        if self.marks.load(Ordering::Relaxed) {
            let marked = self.kv().put(MARK, "", None).await;
            return marked.map(drop).map_err(|e| backend("mark the newest revision", e));
        }
        // Nobody watching is no error.
        let _ = self.progress.send(());
        Ok(())
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        match self.kv().compact(revision as i64, None).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.range_error(error, Some(revision)).await),
        }
    }

    async fn export(&self) -> Result<Export, Error> {
        self.export_pages().await
    }

    async fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}

impl EtcdStore {
    /// Tells a compacted and a future revision apart from other failures, by etcd's words for them.
    async fn range_error(&self, error: etcd_client::Error, at: Option<Revision>) -> Error {
        let requested = at.unwrap_or(0);
        let words = error.to_string();
        if words.contains("required revision has been compacted") {
            // etcd does not tell the oldest revision; the one asked for is a lower bound.
            return Error::Compacted { requested, oldest: requested + 1 };
        }
        if words.contains("required revision is a future revision") {
            return Error::Future { requested, newest: self.revision().await.unwrap_or(0) };
        }
        backend("read a range", error)
    }
}

fn entry(kv: KeyValue) -> Result<Entry, Error> {
    let (create_revision, mod_revision) = (kv.create_revision() as u64, kv.mod_revision() as u64);
    let (key, value) = kv.into_key_value();
    let key = String::from_utf8(key).map_err(|e| Error::Backend { step: "decode a key", source: Box::new(e) })?;
    Ok(Entry { key: key.into(), value: Bytes::from(value), create_revision, mod_revision })
}

fn cancelled(response: &WatchResponse, from: Revision) -> Option<Error> {
    if response.compact_revision() > 0 {
        return Some(Error::Compacted { requested: from, oldest: response.compact_revision() as u64 });
    }
    response.canceled().then(|| Error::Backend { step: "watch", source: response.cancel_reason().to_owned().into() })
}

/// Whether etcd of this version answers a request for progress after the changes it tells of, and not before. Older ones may
/// overtake them; the versions are those that upstream's API server wants before it asks.
fn is_trusted(version: &str) -> bool {
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    match (next(), next(), next()) {
        (3, 4, patch) => patch >= 31,
        (3, 5, patch) => patch >= 13,
        newer => newer > (3, 5, 0),
    }
}

/// The changes, and how far they reach where that is more than the last of them tells.
fn translate(response: &WatchResponse) -> Result<[Option<WatchMessage>; 2], Error> {
    if response.events().is_empty() {
        return Ok([Some(WatchMessage::Progress(response.header().map_or(0, |h| h.revision() as u64))), None]);
    }
    let (mut events, mut marked) = (Vec::with_capacity(response.events().len()), None);
    for event in response.events() {
        let Some(kv) = event.kv() else { continue };
        let revision = kv.mod_revision() as u64;
        if kv.key() == MARK.as_bytes() {
            marked = Some(WatchMessage::Progress(revision));
            continue;
        }
        let previous = event.prev_kv();
        let deleted = event.event_type() == EventType::Delete;
        let created = if deleted { previous.map_or(0, KeyValue::create_revision) } else { kv.create_revision() };
        events.push(Event {
            key: Arc::from(kv.key_str().map_err(|e| backend("decode a key", e))?),
            revision,
            value: (!deleted).then(|| Bytes::copy_from_slice(kv.value())),
            previous: previous.map(|p| Bytes::copy_from_slice(p.value())),
            create_revision: created as u64,
        });
    }
    Ok([(!events.is_empty()).then_some(WatchMessage::Events(events)), marked])
}

/// An error of etcd as ours: a full quota (`NOSPACE` alarm) is told apart.
fn backend(step: &'static str, error: etcd_client::Error) -> Error {
    if error.to_string().contains("database space exceeded") {
        return Error::NoSpace(Some(Box::new(error)));
    }
    Error::Backend { step, source: Box::new(error) }
}

#[cfg(test)]
mod tests {
    use super::is_trusted;

    #[test]
    fn an_etcd_is_trusted_from_the_versions_on_that_keep_the_order() {
        let versions = ["3.3.99", "3.4.23", "3.4.31", "3.5.0", "3.5.12", "3.5.13", "3.6.0-rc.1", "4.0.0", ""];
        let trusted: Vec<&str> = versions.into_iter().filter(|version| is_trusted(version)).collect();
        assert_eq!(trusted, ["3.4.31", "3.5.13", "3.6.0-rc.1", "4.0.0"]);
    }
}
