//! Connections on which nobody asks for anything.
//!
//! What a server allows a peer (how long a request's head may take, how many requests there may be at once) begins with the first
//! request. Before that a peer could hold a connection, and the server's descriptor, for ever by saying nothing: it needs no
//! credentials for that, as it is the request that is authenticated.

use std::{future::pending, sync::OnceLock, time::Duration};

use tokio::sync::Notify;

/// Notes a connection's first request.
#[derive(Debug, Default)]
pub struct Silence {
    broken: OnceLock<()>,
    told: Notify,
}

impl Silence {
    /// There is a request.
    pub fn end(&self) {
        if self.broken.set(()).is_ok() {
            self.told.notify_one();
        }
    }

    /// Returns when there was no request for so long, and never once there was one. One task may wait.
    pub async fn lasts(&self, patience: Duration) {
        if tokio::time::timeout(patience, self.told.notified()).await.is_ok() {
            pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_ends_it_for_good() {
        const PATIENCE: Duration = Duration::from_millis(2);
        let lasts = async |silence: &Silence| tokio::time::timeout(PATIENCE * 20, silence.lasts(PATIENCE)).await.is_ok();
        let (kept, broken) = (Silence::default(), Silence::default());
        broken.end();
        broken.end();
        assert_eq!((lasts(&kept).await, lasts(&broken).await), (true, false));
    }
}
