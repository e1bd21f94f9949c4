//! Pods that wait to be scheduled.
//!
//! ```text
//! added ──> active (by priority, then age) ──> being scheduled ──> bound
//!              ^                                     │ fits nowhere
//!              │ back-off over, or nothing else to do v
//!           backing off <── an event that its plugins named ── unschedulable
//! ```
//!
//! A pod never leaves `unschedulable` by a timer. Back-off runs from the last attempt (1 s doubling to 10 s) and is cut short
//! when nothing else waits (KEP-5142). A decision is made in one go by the loop that owns the queue, so no event can come between
//! a pod's being taken and its being turned away; while it is being bound, events cannot help it.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::{framework::Events, pod::PodInfo};

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const MOST_BACKOFF: Duration = Duration::from_secs(10);

/// A pod on its way.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// The pod.
    pub pod: Arc<PodInfo>,
    /// How often it was tried.
    pub attempts: u32,
    /// When it was first queued: its age among equals.
    order: u64,
    /// Which events could help; `NONE` for any (the pod was turned away for another reason than fit).
    wakes_on: Events,
    /// When its back-off is over.
    ready_at: Instant,
}

type Place = (Reverse<i32>, u64, String);

impl Waiting {
    fn place(&self) -> Place {
        (Reverse(self.pod.priority), self.order, self.pod.uid.clone())
    }
}

/// The queue. Not shared: the scheduler's loop owns it.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: HashMap<String, Waiting>,
    active: BTreeSet<Place>,
    /// Woken by an event before their back-off was over: taken early when nothing else waits.
    backing_off: BTreeSet<(Instant, String)>,
    /// Not for want of room but by an error: never taken early.
    erred: BTreeSet<(Instant, String)>,
    /// Waiting for an event.
    sleeping: HashSet<String>,
    in_flight: HashMap<String, Waiting>,
    /// Not to be tried before their gates are gone; only counted here.
    gated: HashSet<String>,
    next_order: u64,
}

impl Queue {
    /// A pod that is new or whose spec changed: to be tried as soon as its back-off allows.
    pub fn add(&mut self, pod: Arc<PodInfo>, now: Instant) {
        self.gated.remove(&pod.uid);
        if let Some(waiting) = self.in_flight.get_mut(&pod.uid) {
            waiting.pod = pod;
            return;
        }
        match self.waiting.get(&pod.uid).cloned() {
            Some(known) => {
                self.take_out(&known);
                self.insert(Waiting { pod, ..known }, now);
            }
            None => {
                self.next_order += 1;
                let order = self.next_order;
                self.insert(Waiting { pod, attempts: 0, order, wakes_on: Events::NONE, ready_at: now }, now);
            }
        }
    }

    /// A waiting pod whose status alone changed: its place stays.
    pub fn refresh(&mut self, pod: Arc<PodInfo>) {
        if let Some(waiting) = self.in_flight.get_mut(&pod.uid) {
            waiting.pod = pod;
        } else if let Some(waiting) = self.waiting.get_mut(&pod.uid) {
            waiting.pod = pod;
        }
    }

    /// Whether the pod is queued or being scheduled.
    pub fn get(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        self.waiting.get(uid).or_else(|| self.in_flight.get(uid)).map(|w| &w.pod)
    }

    /// The pod has gates: it is not to be tried.
    pub fn gate(&mut self, uid: &str) {
        self.remove(uid);
        self.gated.insert(uid.to_owned());
    }

    /// The pod is gone or bound.
    pub fn remove(&mut self, uid: &str) {
        self.in_flight.remove(uid);
        self.gated.remove(uid);
        if let Some(waiting) = self.waiting.remove(uid) {
            self.take_out(&waiting);
        }
    }

    fn take_out(&mut self, waiting: &Waiting) {
        self.active.remove(&waiting.place());
        let place = (waiting.ready_at, waiting.pod.uid.clone());
        self.backing_off.remove(&place);
        self.erred.remove(&place);
        self.sleeping.remove(&waiting.pod.uid);
    }

    fn insert(&mut self, waiting: Waiting, now: Instant) {
        if waiting.ready_at > now {
            let set = if waiting.wakes_on.is_empty() { &mut self.erred } else { &mut self.backing_off };
            set.insert((waiting.ready_at, waiting.pod.uid.clone()));
        } else {
            self.active.insert(waiting.place());
        }
        self.waiting.insert(waiting.pod.uid.clone(), waiting);
    }

    /// The next pod to try. It counts as being scheduled until [`Queue::remove`] or [`Queue::give_back`].
    pub fn pop(&mut self, now: Instant) -> Option<Waiting> {
        for set in [&mut self.backing_off, &mut self.erred] {
            while set.first().is_some_and(|(at, _)| *at <= now) {
                let Some((_, uid)) = set.pop_first() else { break };
                if let Some(waiting) = self.waiting.get(&uid) {
                    self.active.insert(waiting.place());
                }
            }
        }
        let uid = match self.active.pop_first() {
            Some((_, _, uid)) => uid,
            // Nothing else to do: no reason to let it wait.
            None => self.backing_off.pop_first()?.1,
        };
        let mut waiting = self.waiting.remove(&uid)?;
        waiting.attempts += 1;
        self.in_flight.insert(uid, waiting.clone());
        Some(waiting)
    }

    /// The attempt came to nothing: the pod sleeps until one of `wakes_on` (with `NONE`: only until its back-off is over).
    pub fn give_back(&mut self, uid: &str, wakes_on: Events, now: Instant) {
        let Some(mut waiting) = self.in_flight.remove(uid) else { return };
        let backoff = FIRST_BACKOFF.saturating_mul(1 << (waiting.attempts - 1).min(8)).min(MOST_BACKOFF);
        waiting.ready_at = now + backoff;
        waiting.wakes_on = wakes_on;
        if wakes_on.is_empty() {
            self.insert(waiting, now);
        } else {
            self.sleeping.insert(uid.to_owned());
            self.waiting.insert(uid.to_owned(), waiting);
        }
    }

    /// What was done to make room for a pod came to nothing: it waits for no event, only until its back-off is over.
    pub fn retry(&mut self, uid: &str, now: Instant) {
        if self.sleeping.remove(uid)
            && let Some(waiting) = self.waiting.remove(uid)
        {
            self.insert(Waiting { wakes_on: Events::NONE, ..waiting }, now);
        }
    }

    /// When the next pod that failed by an error may be tried again.
    pub fn next_retry(&self) -> Option<Instant> {
        self.erred.first().map(|(at, _)| *at)
    }

    /// Something happened in the cluster.
    pub fn wake(&mut self, events: Events, now: Instant) {
        if events.is_empty() {
            return;
        }
        let meant = |uid: &&String| self.waiting.get(*uid).is_some_and(|w| w.wakes_on.meets(events));
        let woken: Vec<String> = self.sleeping.iter().filter(meant).cloned().collect();
        for uid in woken {
            self.sleeping.remove(&uid);
            if let Some(waiting) = self.waiting.get(&uid).cloned() {
                self.insert(waiting, now);
            }
        }
    }

    /// How many pods are ready to be tried, back off, wait for an event, and have gates.
    pub fn lengths(&self) -> [usize; 4] {
        [self.active.len(), self.backing_off.len() + self.erred.len(), self.sleeping.len(), self.gated.len()]
    }

    /// Pods that wait, whatever for.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.waiting.len() + self.in_flight.len()
    }

    /// Whether nothing waits.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, priority: i32) -> Arc<PodInfo> {
        let pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": name, "namespace": "default", "uid": name}, "spec": {"containers": [], "priority": priority},
        }));
        Arc::new(PodInfo::new(Arc::new(pod.unwrap())))
    }

    fn popped(queue: &mut Queue, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| queue.pop(now).map(|w| w.pod.uid.clone())).collect()
    }

    #[test]
    fn priority_goes_first_then_age() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for (name, priority) in [("old", 0), ("young", 0), ("important", 5)] {
            queue.add(pod(name, priority), now);
        }
        assert_eq!(popped(&mut queue, now), ["important", "old", "young"]);
    }

    #[test]
    fn an_unschedulable_pod_sleeps_until_an_event_of_its_plugins() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add(pod("a", 0), now);
        queue.pop(now);
        queue.give_back("a", Events::NODE_ADDED, now);
        let later = now + Duration::from_secs(3600);
        assert_eq!(popped(&mut queue, later), Vec::<String>::new());
        queue.wake(Events::POD_DELETED, later);
        assert_eq!(popped(&mut queue, later), Vec::<String>::new());
        queue.wake(Events::NODE_ADDED, later);
        assert_eq!(popped(&mut queue, later), ["a"]);
    }

    #[test]
    fn one_that_backs_off_goes_after_all_others_but_before_idling() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add(pod("failed", 100), now);
        queue.pop(now);
        queue.give_back("failed", Events::NODE_ADDED, now);
        queue.wake(Events::NODE_ADDED, now);
        queue.add(pod("fresh", 0), now);
        assert_eq!(popped(&mut queue, now), ["fresh", "failed"]);
    }

    #[test]
    fn one_that_erred_waits_its_back_off_out() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add(pod("a", 0), now);
        queue.pop(now);
        queue.give_back("a", Events::NONE, now);
        assert_eq!(popped(&mut queue, now), Vec::<String>::new());
        assert_eq!(queue.next_retry(), Some(now + FIRST_BACKOFF));
        assert_eq!(popped(&mut queue, now + FIRST_BACKOFF), ["a"]);
    }

    #[test]
    fn a_removed_pod_is_gone_from_everywhere() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add(pod("waiting", 0), now);
        queue.add(pod("flying", 1), now);
        queue.pop(now);
        queue.remove("flying");
        queue.remove("waiting");
        queue.give_back("flying", Events::NONE, now);
        assert!(queue.is_empty() && queue.pop(now).is_none());
    }
}
