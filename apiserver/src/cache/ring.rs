//! The recent changes of one resource: what a watch that starts in the past replays, and what running watches read from.
//!
//! Watchers have no queue of their own; each remembers the sequence number it reads next. One that is overtaken by the
//! ring's oldest event is too slow and is let go.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use store::Revision;

use super::object::{Change, Object, frame};

/// One change.
#[derive(Debug)]
pub struct Event {
    /// What happened.
    pub change: Change,
    /// The object after the change; for a deletion its last content at the revision of the deletion.
    pub object: Arc<Object>,
    /// The object before the change.
    pub previous: Option<Arc<Object>>,
    added: OnceLock<Bytes>,
    left: OnceLock<Arc<Object>>,
}

impl Event {
    /// A change with nothing derived from it yet.
    pub fn new(change: Change, object: Arc<Object>, previous: Option<Arc<Object>>) -> Self {
        Self { change, object, previous, added: OnceLock::new(), left: OnceLock::new() }
    }

    /// The revision of the change.
    pub fn revision(&self) -> Revision {
        self.object.revision()
    }

    /// The line for a watcher to whom the object is new.
    pub fn added(&self) -> &Bytes {
        match self.change {
            Change::Added => self.object.frame(),
            _ => self.added.get_or_init(|| frame(Change::Added, self.object.json())),
        }
    }

    /// What a watcher is told whose selector the object no longer matches: the previous content at this revision.
    pub fn left(&self) -> &Arc<Object> {
        self.left.get_or_init(|| match (&self.previous, self.change) {
            (Some(previous), Change::Modified) => Arc::new(previous.as_of(self.revision(), Change::Deleted)),
            _ => self.object.clone(),
        })
    }

    fn weight(&self) -> usize {
        // What keeping the event keeps alive: the content before it, and for a deletion a copy of it.
        let gone = if self.change == Change::Deleted { self.object.frame().len() } else { 0 };
        256 + gone + self.previous.as_ref().map_or(0, |p| p.frame().len())
    }
}

/// Bounds of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that only the ring keeps alive.
    pub bytes: usize,
    /// How long an event is kept at most.
    pub age: Duration,
    /// How many events are kept whatever their size and age.
    pub at_least: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 16 << 20, age: Duration::from_secs(300), at_least: 64 }
    }
}

/// Recent events in order.
#[derive(Debug)]
pub struct Ring {
    events: VecDeque<(Instant, Arc<Event>)>,
    first: u64,
    bytes: usize,
    floor: Revision,
    limits: Limits,
}

impl Ring {
    /// An empty ring for a resource whose state is that of revision `floor`.
    pub fn new(floor: Revision, limits: Limits) -> Self {
        Self { events: VecDeque::new(), first: 0, bytes: 0, floor, limits }
    }

    /// An empty ring whose first event will have the sequence number `first`: whoever reads from before it is let go.
    pub fn starting_at(first: u64, floor: Revision, limits: Limits) -> Self {
        Self { first, ..Self::new(floor, limits) }
    }

    /// Adds a change that happened at `now` and drops what is beyond the limits.
    pub fn push(&mut self, event: Arc<Event>, now: Instant) {
        self.bytes += event.weight();
        self.events.push_back((now, event));
        while self.events.len() > self.limits.at_least && self.bytes > self.limits.bytes {
            self.drop_oldest();
        }
    }

    /// Drops what is too old at `now`.
    pub fn expire(&mut self, now: Instant) {
        while self.events.len() > self.limits.at_least
            && self.events.front().is_some_and(|(at, _)| now.duration_since(*at) > self.limits.age)
        {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((_, event)) = self.events.pop_front() {
            self.bytes -= event.weight();
            self.floor = event.revision();
            self.first += 1;
        }
    }

    /// The revision since which no change is missing.
    pub fn floor(&self) -> Revision {
        self.floor
    }

    /// The sequence number that the next event will have.
    pub fn next(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    /// The sequence number of the first event after `revision`; `None` if changes since then are missing.
    pub fn after(&self, revision: Revision) -> Option<u64> {
        (revision >= self.floor).then(|| self.first + self.events.partition_point(|(_, e)| e.revision() <= revision) as u64)
    }

    /// At most `max` events from sequence number `from` on; `None` if it has been dropped already.
    pub fn read(&self, from: u64, max: usize) -> Option<impl Iterator<Item = &Arc<Event>>> {
        let skip = from.checked_sub(self.first)? as usize;
        Some(self.events.iter().skip(skip).take(max).map(|(_, e)| e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(revision: Revision) -> Arc<Event> {
        let object = Object::new(
            "/registry/x/a".into(),
            12,
            br#"{"kind":"A","apiVersion":"v1","metadata":{}}"#,
            1,
            revision,
            Change::Modified,
        );
        Arc::new(Event::new(Change::Modified, Arc::new(object), None))
    }

    #[test]
    fn a_reader_before_the_oldest_event_is_told_so() {
        let mut ring = Ring::new(5, Limits { bytes: 0, age: Duration::MAX, at_least: 2 });
        let now = Instant::now();
        for revision in [7, 9, 12] {
            ring.push(event(revision), now);
        }
        let read = |ring: &Ring, revision| {
            ring.after(revision).map(|s| ring.read(s, 10).unwrap().map(|e| e.revision()).collect::<Vec<_>>())
        };
        assert_eq!(
            [6, 7, 8, 9, 12, 20].map(|r| read(&ring, r)),
            [None, Some(vec![9, 12]), Some(vec![9, 12]), Some(vec![12]), Some(vec![]), Some(vec![])]
        );
    }
}
