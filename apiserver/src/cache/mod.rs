//! The watch cache: every stored object in memory, encoded once; all reads come from here.
//!
//! One feeder task ([`feed`]) follows the store's changes under `/registry/` and applies them to one [`Cache`] a resource.
//! Since all resources are fed by one stream, one number, [`Applied`], says up to which revision the whole cache has come;
//! a consistent read asks the store for its newest revision and waits until that number has reached it. Kinds that share
//! their storage (core and events.k8s.io Event) share a cache.

pub mod bell;
pub mod feed;
pub mod object;
pub mod ring;
pub mod selection;
pub mod watcher;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
    sync::Arc,
    time::{Duration, Instant},
};

use api::kind::Kind;
use parking_lot::RwLock;
use store::{Revision, Store};
use tokio::sync::{Mutex, watch};

pub use self::{
    bell::Bell,
    object::{Change, Object, Selectable},
    ring::{Event, Limits, Ring},
    selection::Selection,
    watcher::{Gone, Watcher},
};

/// The revision up to which the cache has applied every change.
#[derive(Clone, Debug)]
pub struct Applied {
    newest: Arc<watch::Sender<Revision>>,
    store: Arc<StoreHandle>,
    /// Held by the one reader that asks the store for its progress on behalf of all.
    asking: Arc<Mutex<()>>,
}

/// How long a change of ours may be on its way before the store is asked whether it is somebody else's.
const ASK_AFTER: Duration = Duration::from_millis(20);

struct StoreHandle(Arc<dyn Store>);

impl std::fmt::Debug for StoreHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

/// Why the cache could not be brought to a revision.
#[derive(Debug, thiserror::Error)]
pub enum Behind {
    /// The revision did not come in time.
    #[error("revision {wanted} was not reached in time (at {current})")]
    Timeout {
        /// What was waited for.
        wanted: Revision,
        /// How far the cache is.
        current: Revision,
    },
    /// The store did not say how far it is.
    #[error("ask the store for its newest revision")]
    Store(#[source] store::Error),
}

impl Applied {
    fn new(store: Arc<dyn Store>) -> Self {
        Self { newest: Arc::new(watch::Sender::new(0)), store: Arc::new(StoreHandle(store)), asking: Arc::default() }
    }

    /// How far the cache is.
    pub fn revision(&self) -> Revision {
        *self.newest.borrow()
    }

    /// Waits until `revision` has been applied.
    pub async fn reach(&self, revision: Revision, patience: Duration) -> Result<(), Behind> {
        if self.revision() >= revision {
            return Ok(());
        }
        let mut changes = self.newest.subscribe();
        let wait = async {
            // What is written here comes by itself. Only a store that has other keys, too, has to be asked how far it is.
            while tokio::time::timeout(ASK_AFTER, changes.wait_for(|at| *at >= revision)).await.is_err() {
                let Ok(_asking) = self.asking.try_lock() else { continue };
                if self.store.0.revision().await.is_ok_and(|newest| newest >= revision) {
                    let _ = self.store.0.request_progress().await;
                }
            }
        };
        let waited = tokio::time::timeout(patience, wait).await;
        waited.map_err(|_| Behind::Timeout { wanted: revision, current: self.revision() })
    }

    /// Waits until the cache has everything that was committed before this call.
    pub async fn catch_up(&self) -> Result<(), Behind> {
        let newest = self.store.0.revision().await.map_err(Behind::Store)?;
        self.reach(newest, Duration::from_secs(10)).await
    }

    fn advance(&self, revision: Revision) {
        self.newest.send_if_modified(|at| {
            let moved = revision > *at;
            *at = revision.max(*at);
            moved
        });
    }
}

/// A field whose values are indexed.
const INDEXED: &[(&str, &str)] = &[("pods", "spec.nodeName")];

#[derive(Debug, Default)]
struct Index {
    field: Option<&'static str>,
    keys: HashMap<String, BTreeSet<Arc<str>>>,
}

#[derive(Debug)]
struct State {
    objects: BTreeMap<Arc<str>, Arc<Object>>,
    index: Index,
    ring: Ring,
    revision: Revision,
}

/// Objects and recent changes of one resource.
pub struct Cache {
    prefix: String,
    kind: Arc<Kind>,
    state: RwLock<State>,
    bell: Bell,
    applied: Applied,
}

/// What a list found.
#[derive(Debug, Default)]
pub struct Listing {
    /// The objects in key order.
    pub objects: Vec<Arc<Object>>,
    /// The revision the list is exact at.
    pub revision: Revision,
    /// Whether there are more beyond the limit.
    pub more: bool,
    /// How many objects lie beyond the limit, selectors not considered.
    pub remaining: u64,
}

impl Cache {
    fn new(kind: Arc<Kind>, applied: Applied, limits: Limits) -> Self {
        let field = INDEXED.iter().find(|(p, _)| kind.info.group.is_empty() && *p == kind.info.plural).map(|(_, f)| *f);
        Self {
            prefix: format!("/registry/{}/", kind.info.prefix()),
            kind,
            state: RwLock::new(State {
                objects: BTreeMap::new(),
                index: Index { field, keys: HashMap::new() },
                ring: Ring::new(0, limits),
                revision: 0,
            }),
            bell: Bell::default(),
            applied,
        }
    }

    /// `/registry/pods/`.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The kind whose form the objects have.
    pub fn kind(&self) -> &Arc<Kind> {
        &self.kind
    }

    /// How far the whole cache is.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// The store key of an object.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        if namespace.is_empty() { format!("{}{name}", self.prefix) } else { format!("{}{namespace}/{name}", self.prefix) }
    }

    /// One object, as fresh as the cache is.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.get_key(&self.key(namespace, name))
    }

    /// One object by its store key.
    pub fn get_key(&self, key: &str) -> Option<Arc<Object>> {
        self.state.read().objects.get(key).cloned()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.state.read().objects.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every object, for in-process readers (authorization, allocators).
    pub fn all(&self) -> Vec<Arc<Object>> {
        self.state.read().objects.values().cloned().collect()
    }

    /// The objects whose indexed field has a value.
    pub fn indexed(&self, value: &str) -> Vec<Arc<Object>> {
        let state = self.state.read();
        state.index.keys.get(value).into_iter().flatten().filter_map(|key| state.objects.get(key)).cloned().collect()
    }

    /// How many changes the cache has seen, and the revision of the last.
    pub fn seen(&self) -> (u64, Revision) {
        let state = self.state.read();
        (state.ring.next(), state.revision)
    }

    /// The revision of the resource's last change that the cache has seen.
    pub fn last_change(&self) -> Revision {
        self.state.read().revision
    }

    /// Objects selected, in key order, from `after` (exclusive) on, at most `limit` (0: all).
    pub fn list(&self, selection: &Selection, after: Option<&str>, limit: usize) -> Listing {
        let applied = self.applied.revision();
        let hooks = &*self.kind.hooks;
        let start = match &selection.namespace {
            Some(namespace) => format!("{}{namespace}/", self.prefix),
            None => self.prefix.clone(),
        };
        let end = store::prefix_end(&start);
        let state = self.state.read();
        let mut found = Listing { revision: applied.max(state.revision), ..Listing::default() };
        let indexed = state.index.field.and_then(|f| selection.required_field(f));
        if let (Some(value), None) = (indexed, after) {
            // An indexed list is short: it is given whole, whatever the limit.
            let keys = state.index.keys.get(value).into_iter().flatten();
            let objects = keys.filter_map(|k| state.objects.get(k)).filter(|o| selection.matches(o, hooks));
            found.objects = objects.cloned().collect();
            return found;
        }
        let from = match after {
            Some(after) if after > start.as_str() => Bound::Excluded(after),
            _ => Bound::Included(start.as_str()),
        };
        let mut range = state.objects.range::<str, _>((from, Bound::Excluded(end.as_str())));
        if selection.is_plain() && limit == 0 {
            found.objects = range.map(|(_, o)| o.clone()).collect();
            return found;
        }
        for (_, object) in range.by_ref() {
            if limit > 0 && found.objects.len() == limit {
                // Upstream counts what follows in the range; the object just taken is the first of it.
                if selection.is_plain() || selection.matches(object, hooks) {
                    found.more = true;
                    found.remaining = 1 + range.count() as u64;
                    break;
                }
                continue;
            }
            if selection.matches(object, hooks) {
                found.objects.push(object.clone());
            }
        }
        found
    }

    /// The objects selected now and a watcher of everything after them.
    pub fn list_and_watch(self: &Arc<Self>, selection: &Selection) -> (Listing, Watcher) {
        // The lock is taken twice; what changes in between is replayed to the watcher, hence the listing's own revision.
        let mut listing = self.list(selection, None, 0);
        let state = self.state.read();
        let from = state.ring.after(listing.revision).unwrap_or_else(|| state.ring.next());
        drop(state);
        listing.more = false;
        (listing, Watcher::new(self.clone(), from))
    }

    /// A watcher of every change after `revision`.
    pub fn watch_after(self: &Arc<Self>, revision: Revision) -> Result<Watcher, Gone> {
        let state = self.state.read();
        let from = state.ring.after(revision).ok_or(Gone { requested: revision, oldest: state.ring.floor() })?;
        drop(state);
        Ok(Watcher::new(self.clone(), from))
    }

    fn read_ring(&self, from: u64, max: usize, out: &mut Vec<Arc<Event>>) -> Result<(), Gone> {
        let state = self.state.read();
        match state.ring.read(from, max) {
            Some(events) => {
                out.extend(events.cloned());
                Ok(())
            }
            None => Err(Gone { requested: 0, oldest: state.ring.floor() }),
        }
    }

    fn bell(&self) -> &Bell {
        &self.bell
    }

    /// Applies one change of the store.
    fn apply(&self, event: store::Event, now: Instant) {
        let mut state = self.state.write();
        if event.revision <= state.revision && state.objects.get(&event.key).is_some_and(|o| o.revision() >= event.revision)
        {
            return;
        }
        let previous = state.objects.get(&event.key).cloned();
        let change = match (&event.value, &previous) {
            (Some(_), None) => Change::Added,
            (Some(_), Some(_)) => Change::Modified,
            (None, Some(_)) => Change::Deleted,
            (None, None) => return,
        };
        let hooks = &*self.kind.hooks;
        let object = match (event.value, &previous) {
            (Some(value), _) => {
                Object::new(event.key.clone(), self.prefix.len(), &value, event.create_revision, event.revision, change)
            }
            (None, Some(previous)) => previous.as_of(event.revision, change),
            (None, None) => return,
        };
        let object = Arc::new(object);
        let State { objects, index, ring, revision } = &mut *state;
        if let Some(field) = index.field {
            let value = |o: &Object| o.selectable(hooks).field(field).unwrap_or_default().to_owned();
            let old = previous.as_deref().map(value);
            let new = (change != Change::Deleted).then(|| value(&object));
            index.change(&event.key, old, new);
        }
        if change == Change::Deleted {
            objects.remove(&event.key);
        } else {
            objects.insert(event.key, object.clone());
        }
        *revision = event.revision;
        ring.push(Arc::new(Event::new(change, object, previous)), now);
    }

    fn announce(&self) {
        self.bell.ring();
    }

    /// Starts over with the objects of a fresh listing; running watchers are let go.
    fn reset(&self, objects: BTreeMap<Arc<str>, Arc<Object>>, revision: Revision, limits: Limits) {
        let mut state = self.state.write();
        let started = state.ring.next() + u64::from(state.revision > 0);
        state.index.keys.clear();
        if let Some(field) = state.index.field {
            for (key, object) in &objects {
                let value = object.selectable(&*self.kind.hooks).field(field).unwrap_or_default().to_owned();
                state.index.change(key, None, Some(value));
            }
        }
        state.objects = objects;
        state.ring = Ring::starting_at(started, revision, limits);
        state.revision = revision;
        drop(state);
        self.announce();
    }

    fn expire(&self, now: Instant) {
        self.state.write().ring.expire(now);
    }
}

impl Index {
    fn change(&mut self, key: &Arc<str>, old: Option<String>, new: Option<String>) {
        if old == new {
            return;
        }
        if let Some(old) = old
            && let Some(keys) = self.keys.get_mut(&old)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.keys.remove(&old);
            }
        }
        if let Some(new) = new {
            self.keys.entry(new).or_default().insert(key.clone());
        }
    }
}
