//! CRI's two services over the runtime's operations: decode, call once, encode.

pub mod convert;
mod images;
mod runtime;

use std::sync::Arc;

use crate::core::Core;

/// Both services.
#[derive(Clone)]
pub struct Service(pub Arc<Core>);

impl Service {
    /// Runs an operation to its end even when the caller leaves: half a sandbox helps nobody.
    async fn detached<T: Send + 'static>(
        &self,
        operation: impl Future<Output = crate::error::Result<T>> + Send + 'static,
    ) -> Result<T, tonic::Status> {
        match tokio::spawn(operation).await {
            Ok(result) => result.map_err(Into::into),
            Err(_) => Err(tonic::Status::internal("the operation was interrupted")),
        }
    }

    /// Runs something that waits for the disk.
    async fn blocking<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&Core) -> crate::error::Result<T> + Send + 'static,
    ) -> Result<T, tonic::Status> {
        let core = self.0.clone();
        match tokio::task::spawn_blocking(move || operation(&core)).await {
            Ok(result) => result.map_err(Into::into),
            Err(_) => Err(tonic::Status::internal("the operation was interrupted")),
        }
    }
}
