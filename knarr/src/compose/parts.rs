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
                // A task of its own, so that a panic ends one component and not all; and a token of its own, so that all of the
                // component ends.
                let own = shutdown.child_token();
                let outcome = tokio::spawn(start(own.clone())).await;
                own.cancel();
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::mpsc;

    use super::*;

    /// A component that panics, and one in which a task does that it cannot do without: both begin again, the neighbour does not,
    /// and of the first run nothing goes on.
    #[tokio::test]
    async fn a_panic_ends_all_of_one_component_and_it_begins_again() {
        let shutdown = CancellationToken::new();
        let mut parts = Parts::new(shutdown.clone());
        let (tell, mut told) = mpsc::unbounded_channel();
        for itself in [true, false] {
            let (runs, tell) = (std::sync::Arc::new(AtomicUsize::new(0)), tell.clone());
            parts.run("fragile", move |shutdown| {
                let (first, tell) = (runs.fetch_add(1, Ordering::SeqCst) == 0, tell.clone());
                async move {
                    if !first {
                        let _ = tell.send("again");
                        shutdown.cancelled().await;
                        return Ok(());
                    }
                    let (before, tell) = (shutdown.clone(), tell.clone());
                    tokio::spawn(async move {
                        before.cancelled().await;
                        let _ = tell.send("first run over");
                    });
                    if itself {
                        panic!("of the component");
                    }
                    process::task::vital(&shutdown, async { panic!("of a task") });
                    shutdown.cancelled().await;
                    Ok(())
                }
            });
        }
        let neighbours = std::sync::Arc::new(AtomicUsize::new(0));
        let counted = neighbours.clone();
        parts.run("sturdy", move |shutdown| {
            counted.fetch_add(1, Ordering::SeqCst);
            async move {
                shutdown.cancelled().await;
                Ok(())
            }
        });
        let mut heard = Vec::new();
        while heard.len() < 4 {
            heard.push(told.recv().await.unwrap());
        }
        heard.sort_unstable();
        assert_eq!(heard, ["again", "again", "first run over", "first run over"]);
        shutdown.cancel();
        parts.finish().await;
        assert_eq!(neighbours.load(Ordering::SeqCst), 1);
    }
}
