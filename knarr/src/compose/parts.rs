//! Components side by side in one process. One that ends before it is asked to is started again, as a supervisor would do
//! with a process.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use anyhow::Result;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The components of a process.
pub struct Parts {
    shutdown: CancellationToken,
    running: JoinSet<()>,
}

impl Parts {
    /// None yet; all will end with `shutdown`.
    pub fn new(shutdown: CancellationToken) -> Self {
        Self { shutdown, running: JoinSet::new() }
    }

    /// What ends them all.
    pub fn shutdown(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Runs a component until shutdown.
    pub fn run<F, Fut>(&mut self, name: &'static str, start: F)
    where
        F: Fn(CancellationToken) -> Fut + Send + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        let shutdown = self.shutdown.clone();
        self.running.spawn(async move {
            let mut pause = Duration::from_millis(200);
            while !shutdown.is_cancelled() {
                let started = Instant::now();
                // A task of its own, so that a panic ends one component and not all.
                let outcome = tokio::spawn(start(shutdown.clone())).await;
                if shutdown.is_cancelled() {
                    return;
                }
                match outcome {
                    Ok(Ok(())) => tracing::error!(component = name, "ended by itself; starting it again"),
                    Ok(Err(error)) => tracing::error!(component = name, "failed; starting it again: {error:#}"),
                    Err(error) => tracing::error!(component = name, %error, "panicked; starting it again"),
                }
                pause = if started.elapsed() > Duration::from_secs(60) { Duration::from_millis(200) } else { pause * 2 };
                shutdown.run_until_cancelled(tokio::time::sleep(pause.min(Duration::from_secs(30)))).await;
            }
        });
    }

    /// Waits for shutdown, and for every component to put its work down.
    pub async fn finish(mut self) {
        self.shutdown.cancelled().await;
        let all = async { while self.running.join_next().await.is_some() {} };
        if tokio::time::timeout(Duration::from_secs(10), all).await.is_err() {
            tracing::warn!("components still busy after 10 s; leaving");
        }
    }
}
