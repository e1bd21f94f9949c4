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

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, extract::RawQuery, response::Response, routing::get};
    use serde_json::{Value, json};
    use tokio::sync::mpsc;
    use tokio_stream::{StreamExt, wrappers::UnboundedReceiverStream};

    use super::*;
    use crate::zone::{Answer, Data, Kind};

    const SERVICES: &str = "/api/v1/services";
    const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";

    fn service() -> Value {
        json!({"metadata": {"namespace": "default", "name": "peers", "resourceVersion": "1"}, "spec": {"clusterIP": "None"}})
    }

    fn slice(revision: u32, address: &str) -> Value {
        json!({"addressType": "IPv4", "endpoints": [{"addresses": [address]}],
            "metadata": {"namespace": "default", "name": "peers-1", "resourceVersion": revision.to_string(),
                "labels": {"kubernetes.io/service-name": "peers"}}})
    }

    /// A client of an API server that has this object and tells of changes as they are fed.
    fn route(router: Router, path: &str, object: Value) -> (Router, mpsc::UnboundedSender<String>) {
        let (feed, fed) = mpsc::unbounded_channel::<String>();
        let fed = Arc::new(Mutex::new(Some(fed)));
        let handler = move |RawQuery(query): RawQuery| async move {
            if !query.unwrap_or_default().contains("watch=true") {
                let list = json!({"metadata": {"resourceVersion": "1"}, "items": [object]});
                return Response::new(Body::from(list.to_string()));
            }
            let lines = fed.lock().take().expect("one watch");
            Response::new(Body::from_stream(UnboundedReceiverStream::new(lines).map(Ok::<_, std::io::Error>)))
        };
        (router.route(path, get(handler)), feed)
    }

    /// All tasks take turns, so that nothing is left to the clock: what waits for a timer comes too late.
    #[tokio::test]
    async fn the_next_answer_knows_what_the_cache_knows() {
        let (router, _services) = route(Router::new(), SERVICES, service());
        let (router, slices) = route(router, SLICES, slice(1, "10.42.0.7"));
        let zone = Arc::new(RwLock::new(Zone::new("cluster.local", &[]).unwrap()));
        let end = CancellationToken::new();
        let _end = end.clone().drop_guard();
        let watched = Arc::new(Watched::start(kube::Client::new(router, "default"), zone.clone(), end.clone()));
        watched.synced().await;
        let running = watched.clone();
        tokio::spawn(async move { running.run(end).await });

        let answer = || match zone.read().answer("peers.default.svc.cluster.local", Kind::A) {
            Answer::Rows(rows, _) => rows.into_iter().map(|row| row.data).collect(),
            _ => Vec::new(),
        };
        let address = |text: &str| vec![Data::Address(text.parse().unwrap())];
        assert_eq!(answer(), address("10.42.0.7"));
        for n in 2..20 {
            let mut cache = watched.slices.changes();
            let event = json!({"type": "MODIFIED", "object": slice(n, &format!("10.42.1.{n}"))});
            slices.send(format!("{event}\n")).unwrap();
            cache.changed().await.unwrap();
            tokio::task::yield_now().await;
            assert_eq!(answer(), address(&format!("10.42.1.{n}")));
        }
    }
}
