//! One watch: a place in a resource's ring of changes.

use std::sync::Arc;

use store::Revision;
use tokio::sync::watch;

use super::{Cache, Event};

/// Changes that were asked for are no longer there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too old resource version: {requested} ({oldest})")]
pub struct Gone {
    /// The revision asked for.
    pub requested: Revision,
    /// The oldest revision that could have been.
    pub oldest: Revision,
}

/// Reads the changes of a resource in order, each once.
pub struct Watcher {
    cache: Arc<Cache>,
    next: u64,
    news: watch::Receiver<u64>,
}

/// How many events are taken at once.
const BATCH: usize = 256;

impl Watcher {
    pub(super) fn new(cache: Arc<Cache>, next: u64) -> Self {
        let news = cache.subscribe();
        Self { cache, next, news }
    }

    /// The cache that is watched.
    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// What has happened since the last call; empty if nothing has. `Err` if the watcher was too slow.
    pub fn ready(&mut self) -> Result<Vec<Arc<Event>>, Gone> {
        self.news.borrow_and_update();
        let mut events = Vec::new();
        self.cache.read_ring(self.next, BATCH, &mut events)?;
        self.next += events.len() as u64;
        Ok(events)
    }

    /// Waits until something may have happened. `false` if nothing ever will.
    pub async fn changed(&mut self) -> bool {
        self.news.changed().await.is_ok()
    }

    /// Waits for the next changes.
    pub async fn next(&mut self) -> Result<Vec<Arc<Event>>, Gone> {
        loop {
            let events = self.ready()?;
            if !events.is_empty() {
                return Ok(events);
            }
            if !self.changed().await {
                return Err(Gone { requested: 0, oldest: 0 });
            }
        }
    }
}
