//! What every component that talks to the API server is built from: informers with indexes ([`Informer`]), work queues
//! ([`Queue`]) and the loop that empties them ([`controller::run`]), leader election ([`LeaderElector`]) and events
//! ([`Recorder`]).
//!
//! All of it stands on a `kube::Client`, which may be a TLS connection or the API server's own router in the same process.
//! `kube-runtime` is not used: its store has no indexes, one watch per stream, and no way to wait for one's own writes.
//! Here a kind is watched once per component ([`Informers`]), readers share one indexed store, and a controller that has
//! written waits until its cache has seen that write ([`Informer::wait_for_revision`]) instead of keeping expectations.

pub mod backoff;
pub mod batch;
pub mod controller;
pub mod correlate;
mod decode;
mod error;
pub mod event;
pub mod informer;
mod key;
pub mod leader;
pub mod metrics;
pub mod owner;
mod pool;
pub mod queue;
pub mod store;

pub use controller::Next;
pub use error::{Error, Step, is_already_exists, is_conflict, is_not_found, status_of};
pub use event::Recorder;
pub use informer::{Change, Informer, Options};
pub use key::Key;
pub use leader::LeaderElector;
pub use pool::Informers;
pub use queue::Queue;

/// What can be watched and kept: a typed object or `PartialObjectMeta<DynamicObject>`.
pub trait Object: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + Sync + 'static {}
impl<K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + Sync + 'static> Object for K {}

/// `metadata.resourceVersion` as the number that it is in every store we know (0 when unset).
pub fn revision_of(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> u64 {
    meta.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}
