//! One watch: a place in a resource's ring of changes.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

use store::Revision;

use super::{Cache, Event, bell::Seat};

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
    seat: Seat,
}

/// How many events are taken at once.
const BATCH: usize = 256;

impl Watcher {
    pub(super) fn new(cache: Arc<Cache>, next: u64) -> Self {
        Self { cache, next, seat: Seat::default() }
    }

    /// The cache that is watched.
    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// The next changes, appended to `events` (at least one); `Err` if the watcher was too slow.
    pub fn poll(&mut self, cx: &mut Context<'_>, events: &mut Vec<Arc<Event>>) -> Poll<Result<(), Gone>> {
        let before = events.len();
        loop {
            let heard = self.cache.bell().rings();
            self.cache.read_ring(self.next, BATCH, events)?;
            if events.len() > before {
                self.next += (events.len() - before) as u64;
                return Poll::Ready(Ok(()));
            }
            if self.cache.bell().listen(&mut self.seat, heard, cx.waker()) {
                return Poll::Pending;
            }
        }
    }

    /// Waits for the next changes.
    pub async fn next(&mut self) -> Result<Vec<Arc<Event>>, Gone> {
        let mut events = Vec::new();
        poll_fn(|cx| self.poll(cx, &mut events)).await.map(|()| events)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.cache.bell().leave(&mut self.seat);
    }
}
