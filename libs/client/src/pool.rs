//! One informer per kind and selection in a component, however many of its parts ask for one.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    sync::Arc,
};

use kube::{Client, Resource};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{Informer, Object, Options};

type Slot = (TypeId, String, Option<String>, Option<String>);

/// A component's informers. Clones share them.
#[derive(Clone)]
pub struct Informers {
    client: Client,
    shutdown: CancellationToken,
    pool: Arc<Mutex<HashMap<Slot, Box<dyn Any + Send + Sync>>>>,
}

impl Informers {
    /// An empty pool; its informers end with `shutdown`.
    pub fn new(client: Client, shutdown: CancellationToken) -> Self {
        Self { client, shutdown, pool: Arc::default() }
    }

    /// The client the informers use.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The informer over all objects of a kind.
    pub fn get<K: Object + Resource<DynamicType = ()>>(&self) -> Informer<K> {
        self.get_with(&(), Options::default())
    }

    /// The informer over a selection of a kind. The first caller's transform counts.
    pub fn get_with<K: Object>(&self, kind: &K::DynamicType, options: Options<K>) -> Informer<K> {
        let url = K::url_path(kind, options.namespace.as_deref());
        let slot = (TypeId::of::<K>(), url, options.labels.clone(), options.fields.clone());
        let mut pool = self.pool.lock();
        if let Some(known) = pool.get(&slot).and_then(|i| i.downcast_ref::<Informer<K>>()) {
            return known.clone();
        }
        let informer = Informer::start_with(self.client.clone(), kind, options, self.shutdown.clone());
        pool.insert(slot, Box::new(informer.clone()));
        informer
    }
}
