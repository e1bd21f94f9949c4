//! What security asks of stored objects: one by name. The registry answers from its cache; [`InStore`] asks the store.

use std::sync::Arc;

use api::status::Status;
use async_trait::async_trait;
use serde_json::Value;
use store::Store;

/// Finds objects of the core group.
#[async_trait]
pub trait Lookup: Send + Sync + 'static {
    /// The object (`plural` is `pods`, `nodes` ...), `None` if there is none.
    async fn find(&self, plural: &str, namespace: &str, name: &str) -> Result<Option<Value>, Status>;
}

/// Straight from the store.
pub struct InStore(pub Arc<dyn Store>);

#[async_trait]
impl Lookup for InStore {
    async fn find(&self, plural: &str, namespace: &str, name: &str) -> Result<Option<Value>, Status> {
        let prefix = match plural {
            "nodes" => "minions",
            "services" => "services/specs",
            other => other,
        };
        let key = match namespace {
            "" => format!("/registry/{prefix}/{name}"),
            namespace => format!("/registry/{prefix}/{namespace}/{name}"),
        };
        let (entry, _) = self.0.get(&key).await.map_err(|error| Status::internal(&error.to_string()))?;
        Ok(entry.and_then(|entry| serde_json::from_slice(&entry.value).ok()))
    }
}
