//! A store that counts what is asked of it, under upstream's names for requests to etcd.

use std::{collections::HashMap, sync::Arc, time::Instant};

use api::kind::Kind;
use async_trait::async_trait;
use process::metrics::Metrics;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
};
use store::{Entry, Error, Export, Op, Outcome, Page, Range, Revision, Store, Txn, Watch};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    operation: &'static str,
    group: &'static str,
    resource: &'static str,
}

/// The store behind it, measured.
pub struct Measured {
    inner: Arc<dyn Store>,
    kinds: HashMap<&'static str, (&'static str, &'static str)>,
    durations: Family<Labels, Histogram>,
    errors: Family<Labels, Counter>,
}

fn histogram() -> Histogram {
    Histogram::new([0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0])
}

impl Measured {
    /// Measures `inner`, naming resources as `kinds` do.
    pub fn new<'a>(inner: Arc<dyn Store>, kinds: impl IntoIterator<Item = &'a Arc<Kind>>, metrics: &Metrics) -> Self {
        let durations = Family::<Labels, Histogram>::new_with_constructor(histogram);
        Self {
            inner,
            kinds: kinds.into_iter().map(|k| (k.info.prefix(), (k.info.group, k.info.plural))).collect(),
            durations: metrics.register("etcd_request_duration_seconds", "Time taken by the store", durations),
            errors: metrics.register("etcd_request_errors", "Requests that the store failed", Family::default()),
        }
    }

    fn labels(&self, operation: &'static str, key: &str) -> Labels {
        let path = key.strip_prefix(crate::cache::feed::ROOT).unwrap_or_default();
        // Some prefixes have a slash in them (`services/specs`).
        let ends = path.match_indices('/').map(|(at, _)| at).take(2);
        let found = ends.filter_map(|end| self.kinds.get(&path[..end])).last();
        let (group, resource) = found.copied().unwrap_or_default();
        Labels { operation, group, resource }
    }

    fn done<T>(&self, labels: &Labels, since: Instant, result: Result<T, Error>) -> Result<T, Error> {
        self.durations.get_or_create(labels).observe(since.elapsed().as_secs_f64());
        if result.is_err() {
            self.errors.get_or_create(labels).inc();
        }
        result
    }
}

/// What a transaction is called by its first change.
fn operation(txn: &Txn) -> (&'static str, &str) {
    match txn.ops.first() {
        Some(Op::Put { key, .. }) => {
            let new = txn.compare.iter().any(|(k, revision)| k == key && *revision == 0);
            (if new { "create" } else { "update" }, key)
        }
        Some(Op::Delete { key }) => ("delete", key),
        None => ("get", ""),
    }
}

#[async_trait]
impl Store for Measured {
    async fn revision(&self) -> Result<Revision, Error> {
        self.inner.revision().await
    }

    async fn get(&self, key: &str) -> Result<(Option<Entry>, Revision), Error> {
        let since = Instant::now();
        self.done(&self.labels("get", key), since, self.inner.get(key).await)
    }

    async fn range(&self, range: Range) -> Result<Page, Error> {
        let (since, labels) = (Instant::now(), self.labels("list", &range.start));
        self.done(&labels, since, self.inner.range(range).await)
    }

    async fn commit(&self, txn: Txn) -> Result<Outcome, Error> {
        let (operation, key) = operation(&txn);
        let (since, labels) = (Instant::now(), self.labels(operation, key));
        self.done(&labels, since, self.inner.commit(txn).await)
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, Error> {
        self.inner.watch(prefix, from).await
    }

    async fn request_progress(&self) -> Result<(), Error> {
        self.inner.request_progress().await
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.inner.compact(revision).await
    }

    async fn export(&self) -> Result<Export, Error> {
        self.inner.export().await
    }

    async fn close(&self) -> Result<(), Error> {
        self.inner.close().await
    }
}
