//! The one registry: every verb for every kind, over the watch cache and the store.
//!
//! A write decodes, lets admission and the kind decide ([`api::kind::Hooks`]), and commits one transaction that compares the
//! object's old revision. Reads never leave the cache but for exact older revisions. One idea a file: [`create`],
//! [`update`], [`delete`]; what they share is here.

pub mod create;
pub mod delete;
pub mod metadata;
pub mod services;
pub mod update;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use api::{
    kind::{Context, Hooks, Kind, KindInfo, Requester},
    status::Status,
};
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::Value;
use store::{Op, Outcome, Revision, Store, Txn};

use crate::{
    cache::{
        Cache, Change, Object,
        feed::Caches,
        object::{encode, with_revision},
    },
    error::{self, Result},
    identity::User,
    wire::options::WriteOptions,
};

/// A served resource: a kind and where its objects are.
pub struct Entry {
    /// The kind.
    pub kind: Arc<Kind>,
    /// The cache of its objects, which may be in another kind's form.
    pub cache: Arc<Cache>,
}

impl Entry {
    /// The kind's facts.
    pub fn info(&self) -> &KindInfo {
        &self.kind.info
    }

    /// The kind's decisions.
    pub fn hooks(&self) -> &dyn Hooks {
        &*self.kind.hooks
    }

    /// Whether stored objects have another kind's form.
    pub fn converts(&self) -> bool {
        self.kind.info.stored_as.is_some()
    }

    /// An object as this kind shows it, decoded.
    pub fn decode(&self, object: &Object) -> Value {
        let value = object.value();
        if self.converts() { self.hooks().from_stored(value) } else { value }
    }

    /// An object as this kind shows it, encoded.
    pub fn encoded(&self, object: &Object) -> Bytes {
        if self.converts() { self.show(object.json()) } else { object.json().clone() }
    }

    /// Stored bytes (with their revision) in this kind's form.
    pub fn show(&self, json: &[u8]) -> Bytes {
        let value = self.hooks().from_stored(serde_json::from_slice(json).unwrap_or_default());
        let encoded = encode(&value);
        match metadata::text(&value, "resourceVersion").parse() {
            Ok(revision) => with_revision(&encoded, revision),
            Err(_) => encoded.into(),
        }
    }
}

/// Who writes, when and how.
#[derive(Clone, Copy)]
pub struct Write<'a> {
    /// The user.
    pub user: &'a User,
    /// The request's time.
    pub now: Timestamp,
    /// The request's options.
    pub options: &'a WriteOptions,
}

impl<'a> Write<'a> {
    /// What a kind's hooks may know.
    pub fn context(&self) -> Context<'a> {
        let User { uid, groups, extra, .. } = self.user;
        Context { now: self.now, user: &self.user.name, requester: Requester { uid, groups, extra: Some(extra) } }
    }
}

/// What a write leaves behind.
#[derive(Debug)]
pub struct Written {
    /// The object as stored, in the kind's form, with its resourceVersion.
    pub json: Bytes,
    /// For the `Warning` header.
    pub warnings: Vec<String>,
    /// Whether it is new.
    pub created: bool,
}

/// An object as a write found it.
#[derive(Clone, Debug)]
pub struct Current {
    /// The object in the kind's form.
    pub value: Value,
    /// Its bytes in the store.
    pub stored: Bytes,
    /// The revision of its last change.
    pub revision: Revision,
    /// Its store key.
    pub key: Arc<str>,
}

/// Where services get their addresses and ports from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRanges {
    /// First address and prefix length.
    pub addresses: (std::net::Ipv4Addr, u8),
    /// First and last node port.
    pub ports: (u16, u16),
}

impl Default for ServiceRanges {
    fn default() -> Self {
        Self { addresses: (std::net::Ipv4Addr::new(10, 43, 0, 0), 16), ports: (30000, 32767) }
    }
}

/// Every served resource, the caches and the store.
pub struct Registry {
    store: Arc<dyn Store>,
    caches: Arc<Caches>,
    entries: HashMap<String, Arc<Entry>>,
    kinds: Vec<Arc<Kind>>,
    ranges: ServiceRanges,
    patience: Duration,
    names: fn(&str) -> String,
    /// Before this revision history is forgotten, as far as this server knows.
    forgotten: AtomicU64,
}

fn entry_key(group: &str, version: &str, plural: &str) -> String {
    format!("{group}/{version}/{plural}")
}

impl Registry {
    /// A registry of `kinds` over loaded caches.
    pub fn new(
        store: Arc<dyn Store>,
        caches: Arc<Caches>,
        kinds: Vec<Arc<Kind>>,
        ranges: ServiceRanges,
        patience: Duration,
    ) -> Self {
        let mut entries = HashMap::new();
        for kind in &kinds {
            let prefix = format!("/registry/{}/", kind.info.prefix());
            let Some(cache) = caches.by_prefix(&prefix) else { continue };
            let entry = Entry { kind: kind.clone(), cache: cache.clone() };
            entries.insert(entry_key(kind.info.group, kind.info.version, kind.info.plural), Arc::new(entry));
        }
        let names = |base: &str| api::names::generate_name(base, &mut rand::rng());
        Self { store, caches, entries, kinds, ranges, patience, names, forgotten: AtomicU64::new(0) }
    }

    /// The same with another way to make names out of `generateName`.
    pub fn naming(self, names: fn(&str) -> String) -> Self {
        Self { names, ..self }
    }

    /// Whether history at a revision is still there, as far as this server knows: the store may know better.
    pub fn remembers(&self, revision: Revision) -> bool {
        revision >= self.forgotten.load(Ordering::Acquire)
    }

    /// The store below.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The caches.
    pub fn caches(&self) -> &Arc<Caches> {
        &self.caches
    }

    /// The served kinds.
    pub fn kinds(&self) -> &[Arc<Kind>] {
        &self.kinds
    }

    /// A served resource.
    pub fn entry(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Entry>> {
        self.entries.get(&entry_key(group, version, plural))
    }

    /// Every served resource.
    pub fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.values()
    }

    /// A resource that is always served.
    pub fn core(&self, plural: &str) -> Result<&Arc<Entry>> {
        self.entry("", "v1", plural).ok_or_else(|| Status::internal(&format!("the resource {plural} is not served")))
    }

    /// Waits until the cache has everything committed before this call.
    pub async fn catch_up(&self) -> Result<()> {
        self.caches.applied().catch_up().await.map_err(|e| error::behind(&e))
    }

    /// Waits until the cache has reached `revision`.
    pub async fn reach(&self, revision: Revision) -> Result<()> {
        self.caches.applied().reach(revision, self.patience).await.map_err(|e| error::behind(&e))
    }

    /// An object as writes need it: the newest.
    pub async fn current(&self, entry: &Entry, namespace: &str, name: &str) -> Result<Option<Current>> {
        check_place(entry.info(), namespace, name)?;
        self.catch_up().await?;
        Ok(entry.cache.get(namespace, name).map(|object| Current {
            value: entry.decode(&object),
            stored: object.stored().into(),
            revision: object.revision(),
            key: object.key().clone(),
        }))
    }

    /// The object that a failed comparison answered with.
    fn current_from(entry: &Entry, found: Option<store::Entry>) -> Option<Current> {
        let found = found?;
        let object = Object::new(
            found.key,
            entry.cache.prefix().len(),
            &found.value,
            found.create_revision,
            found.mod_revision,
            Change::Modified,
        );
        let key = object.key().clone();
        Some(Current { value: entry.decode(&object), stored: found.value, revision: found.mod_revision, key })
    }

    /// Commits and reports either the revision or what the first compared key holds instead.
    async fn commit(&self, txn: Txn) -> Result<std::result::Result<Revision, Vec<Option<store::Entry>>>> {
        match self.store.commit(txn).await.map_err(|e| error::store(&e))? {
            Outcome::Committed(revision) => Ok(Ok(revision)),
            Outcome::Conflict(found) => Ok(Err(found)),
        }
    }
}

/// Whether a name can be a part of a path.
pub fn check_name(name: &str) -> Result<()> {
    match api::names::path_segment(name).join(";") {
        why if why.is_empty() => Ok(()),
        why => Err(Status::bad_request(format!("Name parameter invalid: {}: {why}", api::status::quote(name)))),
    }
}

/// Whether there can be an object of a kind in a namespace by a name, as upstream makes keys of them.
pub fn check_place(info: &KindInfo, namespace: &str, name: &str) -> Result<()> {
    if info.namespaced && namespace.is_empty() {
        return Err(Status::bad_request("Namespace parameter required."));
    }
    if name.is_empty() {
        return Err(Status::bad_request("Name parameter required."));
    }
    check_name(name)?;
    if info.namespaced { check_key(info, namespace, &format!("/{name}")) } else { Ok(()) }
}

/// Whether a key stays below its kind's, as upstream's store looks at it.
pub fn check_key(info: &KindInfo, namespace: &str, rest: &str) -> Result<()> {
    match namespace {
        "." | ".." => Err(Status::unexpected(format!("invalid key: \"/{}/{namespace}{rest}\"", info.prefix()))),
        _ => Ok(()),
    }
}

/// The put of an object's bytes.
fn put(info: &KindInfo, key: Arc<str>, value: Bytes) -> Op {
    Op::Put { key, value, ttl: info.ttl_seconds.map(Duration::from_secs) }
}

fn durability(info: &KindInfo) -> store::Durability {
    if info.relaxed_durability { store::Durability::Relaxed } else { store::Durability::Synced }
}

/// Namespaced lookups that admission and bootstrap share.
impl Registry {
    /// A decoded object of the core group, from the cache as it is, or after catching up if it is not there.
    pub async fn find(&self, plural: &str, namespace: &str, name: &str) -> Result<Option<Value>> {
        let entry = self.core(plural)?;
        if let Some(object) = entry.cache.get(namespace, name) {
            return Ok(Some(object.value()));
        }
        self.catch_up().await?;
        Ok(entry.cache.get(namespace, name).map(|o| o.value()))
    }

    /// How many objects each resource has, for metrics.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        self.entries
            .values()
            .filter(|e| !e.converts())
            .map(|e| (e.info().group_resource().to_string(), e.cache.len()))
            .collect()
    }
}
