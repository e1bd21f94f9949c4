//! One list and one watch of a kind, kept as an indexed store that many read.
//!
//! ```text
//!            ┌────────── connection ended ───────────┐
//!            ▼                                       │
//!  List ──► Watching from the list's revision ───────┘
//!   ▲              │ 410 Gone: history compacted
//!   └──────────────┘ list again, at the newest revision
//! ```
//!
//! The first list asks for `resourceVersion=0` (whatever the server's cache holds); later ones ask for nothing older than what
//! was already seen, so that the store never goes back in time. Handlers run on the informer's task in the order of the
//! changes, after the store shows them; they should only put keys into queues.

use std::{sync::Arc, time::Duration};

use futures::{AsyncBufReadExt, StreamExt};
use kube::{
    Client, Resource,
    api::{ListParams, WatchEvent, WatchParams},
    core::params::VersionMatch,
};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    Error, Key, Object, Queue,
    backoff::Backoff,
    decode,
    queue::Item,
    revision_of,
    store::{BY_OWNER, Delta, Store},
};

/// How long [`Informer::wait_for_revision`] waits before it gives up.
const CATCH_UP: Duration = Duration::from_secs(10);

/// Which objects an informer watches, and what it drops of them.
pub struct Options<K> {
    /// Only this namespace.
    pub namespace: Option<String>,
    /// A label selector in its string form.
    pub labels: Option<String>,
    /// A field selector, e.g. `spec.nodeName=node-1`.
    pub fields: Option<String>,
    /// Drops what nobody reads before an object is kept. The default drops `metadata.managedFields`.
    pub transform: fn(&mut K),
    /// Ends the watch before its component ends.
    pub until: Option<CancellationToken>,
}

impl<K: Resource> Default for Options<K> {
    fn default() -> Self {
        let transform = |object: &mut K| object.meta_mut().managed_fields = None;
        Self { namespace: None, labels: None, fields: None, transform, until: None }
    }
}

impl<K: Resource> Options<K> {
    /// Only objects that match this field selector.
    pub fn fields(selector: impl Into<String>) -> Self {
        Self { fields: Some(selector.into()), ..Self::default() }
    }

    /// Only objects that match this label selector.
    pub fn labels(selector: impl Into<String>) -> Self {
        Self { labels: Some(selector.into()), ..Self::default() }
    }

    /// Only objects in this namespace.
    pub fn namespace(namespace: impl Into<String>) -> Self {
        Self { namespace: Some(namespace.into()), ..Self::default() }
    }
}

/// A change as handlers see it. Where one object took another's name, the other is seen to go first.
#[derive(Debug)]
pub enum Change<'a, K> {
    /// The object is new (to this handler).
    Added(&'a Arc<K>),
    /// The object was `.0` and is `.1`.
    Updated(&'a Arc<K>, &'a Arc<K>),
    /// The object is gone.
    Deleted(&'a Arc<K>),
}

impl<'a, K> Change<'a, K> {
    /// The newest state.
    pub fn object(&self) -> &'a Arc<K> {
        match self {
            Self::Added(o) | Self::Updated(_, o) | Self::Deleted(o) => o,
        }
    }

    /// The object, unless it is gone.
    pub fn present(&self) -> Option<&'a Arc<K>> {
        match self {
            Self::Added(o) | Self::Updated(_, o) => Some(o),
            Self::Deleted(_) => None,
        }
    }

    /// The state before, where there was one.
    pub fn old(&self) -> Option<&'a Arc<K>> {
        match self {
            Self::Updated(old, _) => Some(old),
            _ => None,
        }
    }
}

type Handler<K> = Box<dyn Fn(Change<'_, K>) + Send + Sync>;

struct Shared<K> {
    kind: String,
    store: RwLock<Store<K>>,
    /// Also what makes a change and its hand-out one step: held by the writer from before the store changes until all handlers ran.
    handlers: Mutex<Vec<Handler<K>>>,
    revision: watch::Sender<u64>,
    synced: watch::Sender<bool>,
}

/// A kind's objects, kept up to date. Clones share one watch.
pub struct Informer<K>(Arc<Shared<K>>);

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Object> Informer<K> {
    /// Starts watching a kind known at compile time. `shutdown` is the component's: should the watch or a handler panic, it fires,
    /// as a component must not go on with what it once knew ([`process::task::vital`]).
    pub fn start(client: Client, options: Options<K>, shutdown: CancellationToken) -> Self
    where
        K: Resource<DynamicType = ()>,
    {
        Self::start_with(client, &(), options, shutdown)
    }

    /// Starts watching a kind described at run time. `PartialObjectMeta` asks the server for metadata only.
    pub fn start_with(client: Client, kind: &K::DynamicType, options: Options<K>, shutdown: CancellationToken) -> Self {
        let url = K::url_path(kind, options.namespace.as_deref());
        let informer = Self::unfed(K::kind(kind).into_owned());
        let (component, until) = (shutdown.clone(), options.until.clone().unwrap_or(shutdown));
        let feed = Feed { client, url, options, shared: informer.0.clone() };
        process::task::vital(&component, async move { until.run_until_cancelled_owned(feed.run()).await });
        informer
    }

    /// An informer that no server feeds: tests hand it its objects ([`Informer::feed`]).
    pub fn unfed(kind: String) -> Self {
        Self(Arc::new(Shared {
            kind,
            store: RwLock::new(Store::default()),
            handlers: Mutex::new(Vec::new()),
            revision: watch::Sender::new(0),
            synced: watch::Sender::new(false),
        }))
    }

    /// Replaces all objects as a list would; for tests of code that reads informers.
    pub fn feed(&self, objects: Vec<K>) {
        let revision = objects.iter().map(|o| revision_of(o.meta())).max().unwrap_or(0);
        self.0.replace(objects, revision);
    }

    /// The object of this key.
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.0.store.read().get(key)
    }

    /// Everything, ordered by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.0.store.read().list()
    }

    /// Everything in a namespace.
    pub fn list_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.0.store.read().list_namespace(namespace)
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.0.store.read().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes [`Informer::by_index`] answer for `name`. Does nothing if an index of that name exists.
    pub fn add_index(&self, name: &'static str, values: impl Fn(&K) -> Vec<String> + Send + Sync + 'static) {
        self.0.store.write().add_index(name, values);
    }

    /// Everything for which the index gives `value`.
    pub fn by_index(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        self.0.store.read().by_index(name, value)
    }

    /// Everything whose controller has this uid.
    pub fn by_owner(&self, uid: &str) -> Vec<Arc<K>> {
        self.by_index(BY_OWNER, uid)
    }

    /// Calls `handler` for every object there is, as added, and then for every change. Handlers must not block and must not
    /// call `on_change` on the same informer.
    pub fn on_change(&self, handler: impl Fn(Change<'_, K>) + Send + Sync + 'static) {
        let mut handlers = self.0.handlers.lock();
        for object in self.list() {
            handler(Change::Added(&object));
        }
        handlers.push(Box::new(handler));
    }

    /// Puts what `keys` makes of every change into the queue; of what there is now, too, as [`Informer::on_change`] does.
    pub fn wake<T: Item, I: IntoIterator<Item = T>>(
        &self,
        queue: &Queue<T>,
        keys: impl Fn(Change<'_, K>) -> I + Send + Sync + 'static,
    ) {
        let queue = queue.clone();
        self.on_change(move |change| keys(change).into_iter().for_each(|key| queue.add(key)));
    }

    /// Returns once the first list is in the store and has been handed out.
    pub async fn synced(&self) {
        // The sender lives in `self`: waiting cannot fail.
        let _ = self.0.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Whether the first list is in.
    pub fn is_synced(&self) -> bool {
        *self.0.synced.borrow()
    }

    /// The newest revision the store shows.
    pub fn revision(&self) -> u64 {
        *self.0.revision.borrow()
    }

    /// Wakes with every change (and bookmark).
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.revision.subscribe()
    }

    /// Returns once the store shows `revision` or later: what a controller calls after its own writes, so that it does not decide
    /// again on what it has already changed. `revision` must be one of this kind's objects, as a write returned it.
    pub async fn wait_for_revision(&self, revision: u64) -> Result<(), Error> {
        self.until(revision, |seen| seen >= revision).await
    }

    /// Returns once the store shows the object at its `resourceVersion` (or later, or gone).
    pub async fn ensure_seen(&self, written: &K) -> Result<(), Error> {
        self.wait_for_revision(revision_of(written.meta())).await
    }

    /// Returns once the object with this uid is gone from the store or on its way out (it has a deletion time).
    pub async fn wait_deleted(&self, key: &Key, uid: &str) -> Result<(), Error> {
        let gone =
            |_| self.get(key).is_none_or(|o| o.meta().uid.as_deref() != Some(uid) || o.meta().deletion_timestamp.is_some());
        self.until(self.revision(), gone).await
    }

    async fn until(&self, revision: u64, mut done: impl FnMut(u64) -> bool) -> Result<(), Error> {
        let mut changes = self.changes();
        let wait = changes.wait_for(|seen| done(*seen));
        match tokio::time::timeout(CATCH_UP, wait).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::Behind { kind: self.0.kind.clone(), revision, waited: CATCH_UP }),
        }
    }
}

impl<K: Object> Shared<K> {
    fn dispatch(handlers: &[Handler<K>], delta: &Delta<K>) {
        for handler in handlers {
            handler(match delta {
                Delta::Added(o) => Change::Added(o),
                Delta::Updated(old, new) => Change::Updated(old, new),
                Delta::Deleted(o) => Change::Deleted(o),
            });
        }
    }

    fn replace(&self, objects: Vec<K>, revision: u64) {
        let handlers = self.handlers.lock();
        let deltas = self.store.write().replace(objects);
        deltas.iter().for_each(|d| Self::dispatch(&handlers, d));
        self.revision.send_replace(revision);
        self.synced.send_if_modified(|synced| !std::mem::replace(synced, true));
    }

    fn change(&self, revision: u64, write: impl FnOnce(&mut Store<K>) -> Option<Delta<K>>) {
        let handlers = self.handlers.lock();
        let delta = write(&mut self.store.write());
        if let Some(delta) = &delta {
            Self::dispatch(&handlers, delta);
        }
        self.revision.send_replace(revision);
    }
}

/// Where the feed stands between two connections.
enum Position {
    /// Nothing seen yet, or what was seen has been compacted: list. `Some` is the revision not to go back behind.
    List(Option<u64>),
    /// Go on watching after this revision.
    Watch(u64),
}

struct Feed<K: Resource> {
    client: Client,
    url: String,
    options: Options<K>,
    shared: Arc<Shared<K>>,
}

impl<K: Object> Feed<K> {
    async fn run(self) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(10));
        let mut position = Position::List(None);
        loop {
            let (before, begun) = (*self.shared.revision.borrow(), std::time::Instant::now());
            let next = match position {
                Position::List(since) => self.list(since).await.map(Position::Watch),
                Position::Watch(revision) => self.watch(revision).await,
            };
            position = match next {
                Ok(next) => {
                    // A watch that ended at once and without a word: a server going down. One that lasted met its time limit.
                    let quiet = matches!(next, Position::Watch(r) if r == before) && matches!(position, Position::Watch(_));
                    if quiet && begun.elapsed() < Duration::from_secs(1) {
                        backoff.wait().await
                    } else {
                        backoff.reset()
                    }
                    next
                }
                Err(error) => {
                    tracing::debug!(
                        kind = self.shared.kind,
                        error = &error as &dyn std::error::Error,
                        "list or watch failed"
                    );
                    backoff.wait().await;
                    let seen = *self.shared.revision.borrow();
                    match position {
                        Position::Watch(_) if is_expired(&error) => Position::List(Some(seen)),
                        Position::List(Some(_)) if is_expired(&error) => Position::List(None),
                        Position::Watch(_) => Position::Watch(seen),
                        list => list,
                    }
                }
            };
        }
    }

    /// Lists everything into the store; gives the revision to watch from.
    async fn list(&self, since: Option<u64>) -> Result<u64, kube::Error> {
        let mut params = ListParams {
            label_selector: self.options.labels.clone(),
            field_selector: self.options.fields.clone(),
            resource_version: Some(since.unwrap_or(0).to_string()),
            ..ListParams::default()
        };
        params.version_match = since.map(|_| VersionMatch::NotOlderThan);
        let request = kube::core::Request::new(&self.url);
        let request = if K::metadata_api() { request.list_metadata(&params) } else { request.list(&params) };
        let text = self.client.request_text(request.map_err(kube::Error::BuildRequest)?).await?;
        let list: kube::core::ObjectList<K> = decode::from_json(&text).map_err(kube::Error::SerdeError)?;
        drop(text);
        let revision = list.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0);
        let mut objects = list.items;
        objects.iter_mut().for_each(self.options.transform);
        self.shared.replace(objects, revision);
        Ok(revision)
    }

    /// Applies changes until the connection ends; gives the position after the last one.
    async fn watch(&self, from: u64) -> Result<Position, kube::Error> {
        let params = WatchParams {
            label_selector: self.options.labels.clone(),
            field_selector: self.options.fields.clone(),
            ..WatchParams::default()
        };
        let request = kube::core::Request::new(&self.url);
        let from = from.to_string();
        let request = if K::metadata_api() { request.watch_metadata(&params, &from) } else { request.watch(&params, &from) };
        let request = request.map_err(kube::Error::BuildRequest)?;
        let lines = self.client.request_stream(request).await?.lines();
        let mut lines = std::pin::pin!(lines);
        // A connection that breaks has ended; what it had not said is asked for again.
        while let Some(Ok(line)) = lines.next().await {
            let event = match decode::from_json(&line) {
                Ok(event) => event,
                // The connection ended within the line.
                Err(error) if error.is_eof() => break,
                Err(error) => return Err(said(&line).unwrap_or(kube::Error::SerdeError(error))),
            };
            match event {
                WatchEvent::Added(mut object) | WatchEvent::Modified(mut object) => {
                    (self.options.transform)(&mut object);
                    self.shared.change(revision_of(object.meta()), |store| Some(store.apply(object)));
                }
                WatchEvent::Deleted(mut object) => {
                    (self.options.transform)(&mut object);
                    self.shared.change(revision_of(object.meta()), |store| store.remove(object));
                }
                WatchEvent::Bookmark(bookmark) => {
                    if let Ok(revision) = bookmark.metadata.resource_version.parse() {
                        self.shared.revision.send_replace(revision);
                    }
                }
                WatchEvent::Error(status) => return Err(kube::Error::Api(status)),
            }
        }
        Ok(Position::Watch(*self.shared.revision.borrow()))
    }
}

/// A refusal in place of an event.
fn said(line: &str) -> Option<kube::Error> {
    serde_json::from_str(line).ok().map(kube::Error::Api)
}

fn is_expired(error: &kube::Error) -> bool {
    // A server whose store is younger than what we have seen (restored, or made anew) says that our revision is too large.
    let kube::Error::Api(status) = error else { return false };
    status.code == 410 || status.reason == "Expired" || status.message.contains("Too large resource version")
}
