//! Services and slices as they change become entries of the zone.

use std::{collections::BTreeSet, sync::Arc};

use client::{Informer, Informers, Key};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::zone::{Entry, Zone};

const BY_SERVICE: &str = "service";

pub struct Watched {
    zone: Arc<RwLock<Zone>>,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    dirty: Arc<Dirty>,
}

/// Services that changed since they were last looked at.
#[derive(Default)]
struct Dirty {
    services: Mutex<BTreeSet<Key>>,
    notify: Notify,
}

impl Dirty {
    fn add(&self, keys: impl IntoIterator<Item = Key>) {
        self.services.lock().extend(keys);
        self.notify.notify_one();
    }
}

/// The service that a slice belongs to.
fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let name = slice.metadata.labels.as_ref()?.get("kubernetes.io/service-name")?;
    Some(Key::new(slice.metadata.namespace.as_deref()?, name))
}

impl Watched {
    pub fn start(client: kube::Client, zone: Arc<RwLock<Zone>>, shutdown: CancellationToken) -> Self {
        let informers = Informers::new(client, shutdown);
        let (services, slices): (Informer<Service>, Informer<EndpointSlice>) = (informers.get(), informers.get());
        slices.add_index(BY_SERVICE, |slice| service_of(slice).iter().map(ToString::to_string).collect());
        let dirty = Arc::new(Dirty::default());
        let mark = dirty.clone();
        services.on_change(move |change| mark.add([Key::of(&change.object().metadata)]));
        let mark = dirty.clone();
        slices.on_change(move |change| {
            // A slice may change hands by its label.
            mark.add(change.old().into_iter().chain([change.object()]).filter_map(|slice| service_of(slice)));
        });
        Self { zone, services, slices, dirty }
    }

    /// Returns when everything there was at the start is in the zone.
    pub async fn synced(&self) {
        self.services.synced().await;
        self.slices.synced().await;
        self.update();
    }

    /// Follows changes until `shutdown`.
    pub async fn run(&self, shutdown: CancellationToken) {
        while shutdown.run_until_cancelled(self.dirty.notify.notified()).await.is_some() {
            self.update();
        }
    }

    fn update(&self) {
        let keys = std::mem::take(&mut *self.dirty.services.lock());
        for key in keys {
            let entry = self.services.get(&key).map(|service| {
                let slices = self.slices.by_index(BY_SERVICE, &key.to_string());
                Entry::of(&service, slices.iter().map(Arc::as_ref))
            });
            self.zone.write().set_service(&key.namespace, &key.name, entry);
        }
    }
}
