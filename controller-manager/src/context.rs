//! What every controller is given, and the two things that all of them do with it.

use std::sync::Arc;

use client::{Informer, Informers, Object, Recorder};
use k8s_openapi::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use tokio_util::sync::CancellationToken;

use crate::{Config, credentials};

/// Shared by all controllers of the process.
#[derive(Clone)]
pub struct Context {
    /// The connection to the API server.
    pub client: Client,
    /// One watch per kind, whoever asks.
    pub informers: Informers,
    /// The event queue; each controller takes it under its own source name.
    pub recorder: Recorder,
    /// What the process was asked to do.
    pub config: Arc<Config>,
    /// Fires when the controllers are to stop.
    pub shutdown: CancellationToken,
}

impl Context {
    /// A context over `client` that ends with `shutdown`.
    pub fn new(client: Client, config: Config, shutdown: CancellationToken) -> Self {
        let recorder = Recorder::new(client.clone(), "kube-controller-manager", None);
        Self {
            informers: Informers::new(client.clone(), shutdown.clone()),
            client,
            recorder,
            config: Arc::new(config),
            shutdown,
        }
    }

    /// The context of one controller: with credentials of its own if that is asked for.
    pub fn acting_for(&self, controller: &str) -> Self {
        let mut own = self.clone();
        let wanted = self.config.use_service_account_credentials;
        if let (true, Some(anonymous), Some(account)) = (wanted, &self.config.anonymous.0, credentials::account(controller))
        {
            own.client = credentials::client(&self.client, anonymous, account);
            own.recorder = Recorder::new(own.client.clone(), "kube-controller-manager", None);
        }
        own
    }

    /// The informer over all objects of a kind.
    pub fn informer<K: Object + Resource<DynamicType = ()>>(&self) -> Informer<K> {
        self.informers.get()
    }

    /// The API of a kind within a namespace.
    pub fn api<K: Object + Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self, namespace: &str) -> Api<K> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Whether the process still works; controllers wait with this for their caches.
    pub async fn until_stopped<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.shutdown.run_until_cancelled(work).await
    }
}
