//! Everything out of an etcd at one revision, and an etcd filled from such.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use etcd_client::{DeleteOptions, GetOptions, PutOptions, TxnOp};
use futures::{StreamExt, TryStreamExt, stream};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::{EtcdStore, MARK, backend, entry};
use crate::{Error, Export, ROOT, Record, Revision, prefix_end};

/// There while an etcd is being filled.
const UNFINISHED: &str = "/knarr/unfinished-migration";
/// Keys read at once.
const PAGE: i64 = 500;
/// What a transaction may hold: fewer changes and bytes than etcd allows by default (128, 1.5 MiB).
const MOST_OPS: usize = 100;
const MOST_BYTES: usize = 1 << 20;
/// Writes under way at once while the revision is being raised.
const WRITERS: usize = 128;
/// Keys that expire within so many seconds of one another share a lease, which lasts until the last of them is compared.
const LEASE_SECONDS: u64 = 60;
const LEAST_LEASE_SECONDS: u64 = 600;

/// How an etcd was filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filled {
    /// How many keys were put.
    pub keys: u64,
    /// Where etcd stands now; everything before is compacted.
    pub revision: Revision,
}

impl EtcdStore {
    /// Whether a migration into this etcd broke off.
    pub(super) async fn is_unfinished(&self) -> Result<bool, Error> {
        let answer = self.kv().get(UNFINISHED, None).await.map_err(|e| backend("look for an unfinished migration", e))?;
        Ok(answer.count() > 0)
    }

    /// All keys below [`ROOT`], page by page at one revision.
    pub(super) async fn export_pages(&self) -> Result<Export, Error> {
        let first = self.page(ROOT.to_owned(), None).await?;
        let revision = first.1;
        let (sender, records) = mpsc::channel(8);
        let pages = Self::over(self.client.clone());
        tokio::spawn(async move {
            let mut leases = HashMap::new();
            let mut page = Ok(first);
            loop {
                let read = match page {
                    Ok((kvs, _)) if kvs.is_empty() => return,
                    Ok((kvs, _)) => pages.records(kvs, &mut leases).await,
                    Err(error) => Err(error),
                };
                let next = read.as_ref().ok().and_then(|r| r.last()).map(|last| format!("{}\0", last.entry.key));
                if sender.send(read).await.is_err() {
                    return;
                }
                let Some(next) = next else { return };
                page = pages.page(next, Some(revision)).await;
            }
        });
        Ok(Export { revision, records })
    }

    async fn page(&self, from: String, at: Option<Revision>) -> Result<(Vec<etcd_client::KeyValue>, Revision), Error> {
        let mut options = GetOptions::new().with_range(prefix_end(ROOT)).with_limit(PAGE);
        if let Some(at) = at {
            options = options.with_revision(at as i64);
        }
        let mut answer = match self.kv().get(from, Some(options)).await {
            Ok(answer) => answer,
            Err(error) => return Err(self.range_error(error, at).await),
        };
        let revision = answer.header().map_or(0, |h| h.revision() as u64);
        Ok((answer.take_kvs(), at.unwrap_or(revision)))
    }

    async fn records(
        &self,
        kvs: Vec<etcd_client::KeyValue>,
        leases: &mut HashMap<i64, Option<SystemTime>>,
    ) -> Result<Vec<Record>, Error> {
        let mut records = Vec::with_capacity(kvs.len());
        for kv in kvs.into_iter().filter(|kv| kv.key() != MARK.as_bytes()) {
            let lease = kv.lease();
            let expires = match (lease, leases.get(&lease)) {
                (0, _) => None,
                (_, Some(known)) => *known,
                (lease, None) => {
                    let asked = self.client.lease_client().time_to_live(lease, None).await;
                    let left = asked.map_err(|e| backend("ask for a lease's time", e))?.ttl();
                    // One that has ended meanwhile has taken its keys along; here they go at once.
                    let at = SystemTime::now() + Duration::from_secs(left.max(0) as u64);
                    *leases.entry(lease).or_insert(Some(at))
                }
            };
            records.push(Record { entry: entry(kv)?, expires });
        }
        Ok(records)
    }

    /// Fills this etcd with what `export` reads. Keys and values stay as they are; all get new revisions, above `floor`, and
    /// history before the end of it is compacted. Objects that are here already are an error, or are deleted first if
    /// they are to be replaced. What arrived is read back and compared before this returns.
    pub async fn fill(&self, mut export: Export, floor: Revision, replace: bool) -> Result<Filled, Error> {
        let step = "fill etcd";
        let below = GetOptions::new().with_prefix().with_count_only();
        let there = self.kv().get(ROOT, Some(below)).await.map_err(|e| backend(step, e))?.count();
        if there > 0 && !replace {
            return Err(Error::NotEmpty("this etcd".to_owned()));
        }
        self.kv().put(UNFINISHED, "", None).await.map_err(|e| backend(step, e))?;
        if there > 0 {
            let all = DeleteOptions::new().with_prefix();
            self.kv().delete(ROOT, Some(all)).await.map_err(|e| backend("delete what was in etcd", e))?;
        }
        self.raise(floor).await?;
        let mut sum = Sum::default();
        let mut batch = Batch::default();
        let mut leases = BTreeMap::new();
        while let Some(piece) = export.records.recv().await {
            for record in piece? {
                sum.add(record.entry.key.as_bytes(), &record.entry.value);
                let bytes = record.entry.key.len() + record.entry.value.len();
                if batch.ops.len() == MOST_OPS || batch.bytes + bytes > MOST_BYTES {
                    self.put_batch(&mut batch).await?;
                }
                let options = match record.expires {
                    Some(at) => Some(PutOptions::new().with_lease(self.lease_until(at, &mut leases).await?)),
                    None => None,
                };
                batch.ops.push(TxnOp::put(record.entry.key.as_bytes(), record.entry.value.as_ref(), options));
                batch.bytes += bytes;
            }
        }
        self.put_batch(&mut batch).await?;
        self.compare(&sum).await?;
        let answer = self.kv().delete(UNFINISHED, None).await.map_err(|e| backend(step, e))?;
        let revision = answer.header().map_or(0, |h| h.revision() as u64);
        self.kv().compact(revision as i64, None).await.map_err(|e| backend("compact etcd", e))?;
        Ok(Filled { keys: sum.keys, revision })
    }

    /// Writes until etcd's revision is at least `floor`: nothing else moves it.
    async fn raise(&self, floor: Revision) -> Result<(), Error> {
        let answer = self.kv().get(UNFINISHED, None).await.map_err(|e| backend("read the revision", e))?;
        let stands = answer.header().map_or(0, |h| h.revision() as u64);
        let write = |_| async { self.kv().put(UNFINISHED, "", None).await.map(drop) };
        stream::iter(stands..floor)
            .map(write)
            .buffer_unordered(WRITERS)
            .try_collect::<()>()
            .await
            .map_err(|e| backend("raise etcd's revision", e))
    }

    async fn put_batch(&self, batch: &mut Batch) -> Result<(), Error> {
        let Batch { ops, .. } = std::mem::take(batch);
        if ops.is_empty() {
            return Ok(());
        }
        let step = "put objects into etcd (its --max-request-bytes must have room for the largest of them)";
        self.kv().txn(etcd_client::Txn::new().and_then(ops)).await.map(drop).map_err(|e| backend(step, e))
    }

    async fn lease_until(&self, at: SystemTime, leases: &mut BTreeMap<u64, i64>) -> Result<i64, Error> {
        let seconds = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let end = (seconds(at) / LEASE_SECONDS + 1) * LEASE_SECONDS;
        if let Some(id) = leases.get(&end) {
            return Ok(*id);
        }
        let left = end.saturating_sub(seconds(SystemTime::now())).max(LEAST_LEASE_SECONDS);
        let lease = self.client.lease_client().grant(left as i64, None).await.map_err(|e| backend("grant a lease", e))?;
        leases.insert(end, lease.id());
        Ok(lease.id())
    }

    /// Reads everything back.
    async fn compare(&self, put: &Sum) -> Result<(), Error> {
        let mut export = self.export_pages().await?;
        let mut found = Sum::default();
        while let Some(piece) = export.records.recv().await {
            for record in piece? {
                found.add(record.entry.key.as_bytes(), &record.entry.value);
            }
        }
        let same = put.keys == found.keys && put.hash.clone().finalize() == found.hash.finalize();
        let told = format!("{} keys were put, {} were found, or their values differ", put.keys, found.keys);
        if same { Ok(()) } else { Err(Error::Backend { step: "compare what arrived in etcd", source: told.into() }) }
    }
}

#[derive(Default)]
struct Batch {
    ops: Vec<TxnOp>,
    bytes: usize,
}

/// What was put, or found, in key order.
#[derive(Clone, Default)]
struct Sum {
    keys: u64,
    hash: Sha256,
}

impl Sum {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        self.keys += 1;
        for part in [key, value] {
            self.hash.update((part.len() as u64).to_le_bytes());
            self.hash.update(part);
        }
    }
}
