//! Who watches, and what they are told: what is committed from now on, after what the log holds of before.

use std::sync::{Arc, atomic::Ordering};

use redb::ReadableDatabase;
use tokio::sync::mpsc;

use super::super::{Shared, away, backend, tables};
use crate::{Error, Event, Revision, Watch, WatchMessage};

/// Messages a watcher may lag behind.
const WATCH_BUFFER: usize = 4096;

type Message = Result<WatchMessage, Error>;

struct Watcher {
    prefix: String,
    from: Revision,
    sender: mpsc::Sender<Message>,
    /// Kept free for the error that ends the watch.
    last: mpsc::OwnedPermit<Message>,
}

impl Watcher {
    fn wants(&self, event: &Event) -> bool {
        event.revision >= self.from && event.key.starts_with(&self.prefix)
    }
}

/// All that watch.
#[derive(Default)]
pub(super) struct Watchers(Vec<Watcher>);

impl Watchers {
    /// One more, from a revision on; 0 is what comes next. What was committed up to `newest` must have settled if it is wanted.
    pub fn add(&mut self, shared: &Arc<Shared>, prefix: String, from: Revision, newest: Revision) -> Result<Watch, Error> {
        let (sender, live) = mpsc::channel(WATCH_BUFFER);
        let last = sender.clone().try_reserve_owned().map_err(|_| Error::Lagged)?;
        self.0.push(Watcher { prefix: prefix.clone(), from, sender, last });
        if from == 0 || from > newest {
            return Ok(live);
        }
        let (out, watch) = mpsc::channel(WATCH_BUFFER);
        let shared = shared.clone();
        std::thread::Builder::new()
            .name("store-replay".into())
            .spawn(move || replay(&shared, &prefix, from..=newest, live, &out))
            .map_err(|e| Error::Backend { step: "start a replay", source: Box::new(e) })?;
        Ok(watch)
    }

    /// Tells of what was committed. Who does not keep up is told so, as the last thing.
    pub fn publish(&mut self, events: &[Event]) {
        if events.is_empty() {
            return;
        }
        let mut index = 0;
        while index < self.0.len() {
            let watcher = &self.0[index];
            let matching: Vec<Event> = events.iter().filter(|e| watcher.wants(e)).cloned().collect();
            if matching.is_empty() && !watcher.sender.is_closed() {
                index += 1;
                continue;
            }
            match watcher.sender.try_send(Ok(WatchMessage::Events(matching))) {
                Ok(()) => index += 1,
                Err(mpsc::error::TrySendError::Closed(_)) => drop(self.0.swap_remove(index)),
                Err(mpsc::error::TrySendError::Full(_)) => {
                    self.0.swap_remove(index).last.send(Err(Error::Lagged));
                }
            }
        }
    }

    /// Tells how far the store is.
    pub fn progress(&mut self, revision: Revision) {
        self.0.retain(|w| !w.sender.is_closed());
        for watcher in &self.0 {
            // A full buffer will be reported as lag by the next event.
            let _ = watcher.sender.try_send(Ok(WatchMessage::Progress(revision)));
        }
    }

    /// Tells that there will be nothing more.
    pub fn end(&mut self) {
        for watcher in self.0.drain(..) {
            watcher.last.send(Err(Error::Closed));
        }
    }
}

/// Sends what the log holds, then passes on what is live.
fn replay(
    shared: &Shared,
    prefix: &str,
    revisions: std::ops::RangeInclusive<Revision>,
    mut live: mpsc::Receiver<Result<WatchMessage, Error>>,
    out: &mpsc::Sender<Result<WatchMessage, Error>>,
) {
    const STEP: usize = 500;
    let (mut from, upto) = (*revisions.start(), *revisions.end());
    loop {
        let piece = (|| {
            let guard = shared.database.read();
            let txn = guard.as_ref().ok_or_else(away)?.begin_read().map_err(|e| backend("begin a read", e))?;
            let piece = tables::replay(&txn, prefix, from..=upto, STEP)?;
            let oldest = shared.compacted.load(Ordering::Acquire);
            if from < oldest {
                return Err(Error::Compacted { requested: from, oldest });
            }
            Ok(piece)
        })();
        match piece {
            Err(error) => {
                let _ = out.blocking_send(Err(error));
                return;
            }
            Ok((events, next)) => {
                if !events.is_empty() && out.blocking_send(Ok(WatchMessage::Events(events))).is_err() {
                    return;
                }
                match next {
                    Some(revision) => from = revision,
                    None => break,
                }
            }
        }
    }
    if out.blocking_send(Ok(WatchMessage::Progress(upto))).is_err() {
        return;
    }
    while let Some(message) = live.blocking_recv() {
        if out.blocking_send(message).is_err() {
            return;
        }
    }
}
