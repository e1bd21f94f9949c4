//! Keeps the caches in step with the store: one listing at the start, then one stream of changes for all resources.
//!
//! ```text
//!  listing ──▶ following ──(stream ends)──▶ listing
//! ```
//! If the stream breaks (compacted, lagged, a broken connection), everything is listed again and running watchers are let
//! go, as a restart would.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Bound,
    sync::Arc,
    time::{Duration, Instant},
};

use api::kind::Kind;
use parking_lot::RwLock;
use store::{Range, Store, Watch, WatchMessage};
use tokio_util::sync::CancellationToken;

use super::{Applied, Cache, Change, Limits, Object};

/// Where all objects live.
pub const ROOT: &str = "/registry/";
/// Where keys without objects live.
const CLAIMED: &str = "/registry/claims/";
const PAGE: usize = 1000;

/// One cache a key prefix.
pub struct Caches {
    by_prefix: BTreeMap<String, Arc<Cache>>,
    applied: Applied,
    store: Arc<dyn Store>,
    limits: Limits,
    claims: Claims,
}

/// Keys without an object behind them: which addresses and ports are taken.
#[derive(Default)]
pub struct Claims(RwLock<HashSet<Arc<str>>>);

impl Claims {
    /// Whether a key is taken, as far as the cache knows.
    pub fn contains(&self, key: &str) -> bool {
        self.0.read().contains(key)
    }

    fn apply(&self, event: &store::Event) {
        if event.value.is_some() {
            self.0.write().insert(event.key.clone());
        } else {
            self.0.write().remove(&event.key);
        }
    }
}

impl Caches {
    /// Caches for the kinds that define their own storage.
    pub fn new<'a>(store: Arc<dyn Store>, kinds: impl IntoIterator<Item = &'a Arc<Kind>>, limits: Limits) -> Self {
        let applied = Applied::new(store.clone());
        let by_prefix = kinds
            .into_iter()
            .map(|kind| Cache::new(kind.clone(), applied.clone(), limits))
            .map(|cache| (cache.prefix.clone(), Arc::new(cache)))
            .collect();
        Self { by_prefix, applied, store, limits, claims: Claims::default() }
    }

    /// How far the caches are.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// Taken addresses and ports.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The cache of a key prefix (`/registry/pods/`).
    pub fn by_prefix(&self, prefix: &str) -> Option<&Arc<Cache>> {
        self.by_prefix.get(prefix)
    }

    /// Every cache.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Cache>> {
        self.by_prefix.values()
    }

    fn of_key(&self, key: &str) -> Option<&Arc<Cache>> {
        let (prefix, cache) = self.by_prefix.range::<str, _>((Bound::Unbounded, Bound::Included(key))).next_back()?;
        key.starts_with(prefix.as_str()).then_some(cache)
    }

    /// Loads everything; the changes from then on. The watch starts here and not with [`Caches::run`], while nobody has
    /// written yet: a watch that begins in the past is replayed through a thread of its own as long as it lives.
    pub async fn load(&self) -> Result<Watch, store::Error> {
        let mut found: HashMap<&str, BTreeMap<Arc<str>, Arc<Object>>> = HashMap::new();
        let mut claims = HashSet::new();
        let mut range = Range { limit: PAGE, ..Range::prefix(ROOT) };
        loop {
            let page = self.store.range(range.clone()).await?;
            range.at = Some(page.revision);
            let last = page.entries.last().map(|e| format!("{}\0", e.key));
            for entry in page.entries {
                let Some(cache) = self.of_key(&entry.key) else {
                    if entry.key.starts_with(CLAIMED) {
                        claims.insert(entry.key);
                    }
                    continue;
                };
                let object = Object::new(
                    entry.key.clone(),
                    cache.prefix.len(),
                    &entry.value,
                    entry.create_revision,
                    entry.mod_revision,
                    Change::Modified,
                );
                found.entry(&cache.prefix).or_default().insert(entry.key, Arc::new(object));
            }
            match last {
                Some(last) if page.remaining > 0 => range.start = last,
                _ => break,
            }
        }
        let revision = range.at.unwrap_or_default();
        *self.claims.0.write() = claims;
        for cache in self.by_prefix.values() {
            cache.reset(found.remove(cache.prefix.as_str()).unwrap_or_default(), revision, self.limits);
        }
        self.applied.advance(revision);
        self.store.watch(ROOT, revision + 1).await
    }

    /// Applies a batch of changes and tells watchers and readers.
    fn apply(&self, events: Vec<store::Event>) {
        let now = Instant::now();
        let newest = events.last().map_or(0, |e| e.revision);
        let mut touched: Vec<&Arc<Cache>> = Vec::new();
        for event in events {
            let Some(cache) = self.of_key(&event.key) else {
                if event.key.starts_with(CLAIMED) {
                    self.claims.apply(&event);
                }
                continue;
            };
            if !touched.iter().any(|c| Arc::ptr_eq(c, cache)) {
                touched.push(cache);
            }
            cache.apply(event, now);
        }
        self.applied.advance(newest);
        touched.iter().for_each(|cache| cache.announce());
    }

    /// Follows the store until the stream ends.
    async fn follow(&self, mut changes: Watch) -> Result<(), store::Error> {
        let mut tidy = tokio::time::interval(Duration::from_secs(60));
        loop {
            let message = tokio::select! {
                message = changes.recv() => message,
                _ = tidy.tick() => {
                    let now = Instant::now();
                    self.by_prefix.values().for_each(|cache| cache.expire(now));
                    continue;
                }
            };
            match message {
                Some(Ok(WatchMessage::Events(events))) => self.apply(events),
                Some(Ok(WatchMessage::Progress(at))) => self.applied.advance(at),
                Some(Err(error)) => return Err(error),
                None => return Err(store::Error::Closed),
            }
        }
    }

    /// Follows the store until `shutdown`, which it brings about should the store end by itself; `changes` is what [`Caches::load`] returned.
    pub async fn run(self: Arc<Self>, mut changes: Watch, shutdown: CancellationToken) {
        loop {
            let followed = tokio::select! {
                followed = self.follow(changes) => followed,
                () = shutdown.cancelled() => return,
            };
            if let Err(error) = followed {
                tracing::warn!(error = &error as &dyn std::error::Error, "the watch cache lost the store's changes");
            }
            changes = loop {
                match self.load().await {
                    Ok(changes) => break changes,
                    // It does not come back: whatever was said from now on would be old.
                    Err(store::Error::Closed) => {
                        tracing::error!("the store has ended, and with it the API server");
                        return shutdown.cancel();
                    }
                    Err(error) => {
                        tracing::warn!(error = &error as &dyn std::error::Error, "the watch cache cannot list the store");
                        tokio::select! {
                            () = tokio::time::sleep(Duration::from_secs(1)) => {}
                            () = shutdown.cancelled() => return,
                        }
                    }
                }
            };
        }
    }
}
