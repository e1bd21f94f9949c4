//! Which API servers live: each keeps a key with a time to live in the store that they share, and whoever sees a key come or go
//! makes Service `kubernetes` lead to those that are left. As upstream's lease reconciler, under the same keys and with
//! the same 15 s, renewed every 10 s; a server that ends in good order takes its key along.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use api::status::Status;
use serde_json::json;
use store::{Op, Range, Txn, WatchMessage};
use tokio_util::sync::CancellationToken;

use crate::{bootstrap, registry::Registry};

const PREFIX: &str = "/registry/masterleases/";
const LIFE: Duration = Duration::from_secs(15);
const RENEW: Duration = Duration::from_secs(10);
/// After an error.
const PAUSE: Duration = Duration::from_secs(1);
/// For taking our key along at the end.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why the record could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store.
    #[error("keep the record of this API server")]
    Store(#[from] store::Error),
    /// The endpoints of the Service.
    #[error("write the endpoints of Service kubernetes")]
    Endpoints(#[source] Status),
}

/// This server's record.
pub struct Lease {
    registry: Arc<Registry>,
    address: String,
    port: u16,
}

impl Lease {
    /// The record of the server at `address:port`; written by [`Lease::renew`].
    pub fn new(registry: Arc<Registry>, address: &str, port: u16) -> Self {
        Self { registry, address: address.to_owned(), port }
    }

    fn key(&self) -> Arc<str> {
        format!("{PREFIX}{}", self.address).into()
    }

    /// Says that this server lives, and leads the Service to all that do.
    pub async fn renew(&self) -> Result<(), Error> {
        let object = json!({"kind": "Endpoints", "apiVersion": "v1", "metadata": {"name": self.address},
            "subsets": [{"addresses": [{"ip": self.address}]}]});
        let value = serde_json::to_vec(&object).unwrap_or_default().into();
        self.write(Op::Put { key: self.key(), value, ttl: Some(LIFE) }).await?;
        self.publish().await
    }

    async fn write(&self, op: Op) -> Result<(), store::Error> {
        self.registry.store().commit(Txn { ops: vec![op], ..Txn::default() }).await.map(drop)
    }

    async fn publish(&self) -> Result<(), Error> {
        let page = self.registry.store().range(Range::prefix(PREFIX)).await?;
        let living: BTreeSet<&str> = page.entries.iter().filter_map(|entry| entry.key.strip_prefix(PREFIX)).collect();
        let living: Vec<String> = living.into_iter().map(str::to_owned).collect();
        bootstrap::endpoints(&self.registry, &living, self.port).await.map_err(Error::Endpoints)
    }

    /// Renews until `shutdown`, and follows the others.
    pub async fn keep(self: Arc<Self>, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            let Some(Err(error)) = shutdown.run_until_cancelled(self.follow()).await else { return };
            tracing::warn!(error = &error as &dyn std::error::Error, "the record of the API servers is not kept");
            shutdown.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
        }
    }

    async fn follow(&self) -> Result<(), Error> {
        let store = self.registry.store();
        let mut watch = store.watch(PREFIX, store.revision().await? + 1).await?;
        self.renew().await?;
        let mut renewal = tokio::time::interval_at(tokio::time::Instant::now() + RENEW, RENEW);
        loop {
            tokio::select! {
                _ = renewal.tick() => self.renew().await?,
                message = watch.recv() => match message {
                    // A renewal is no news.
                    Some(Ok(WatchMessage::Events(events))) => {
                        if events.iter().any(|event| event.value.is_none() || event.previous.is_none()) {
                            self.publish().await?;
                        }
                    }
                    Some(Ok(WatchMessage::Progress(_))) => {}
                    Some(Err(error)) => return Err(error.into()),
                    None => return Err(store::Error::Closed.into()),
                },
            }
        }
    }

    /// Takes this server out: nobody is led here any more.
    pub async fn withdraw(&self) {
        let gone = async {
            self.write(Op::Delete { key: self.key() }).await?;
            self.publish().await
        };
        match tokio::time::timeout(PATIENCE, gone).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "this server's record is left to expire");
            }
            Err(_) => tracing::warn!("this server's record is left to expire: the store does not answer"),
        }
    }
}
