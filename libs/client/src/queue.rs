//! Keys that want work: each at most once in line, never on two workers at once, later or with back-off if asked.
//!
//! ```text
//!   add ──► dirty ──► ready ──get──► processing ──done──► (forgotten)
//!            │ while processing: waits in dirty, goes back to ready on done
//!   add_after / add_rate_limited ──► delayed ──when due──► add
//! ```
//!
//! The rules are those of client-go's workqueue. There is no task or timer behind a queue: whoever waits in [`Queue::get`] also
//! waits for the next delayed key.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    fmt::Debug,
    hash::Hash,
    ops::Deref,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::metrics::{Metrics, QueueMetrics};

/// What a queue can hold.
pub trait Item: Clone + Debug + Eq + Hash + Send + Sync + 'static {}
impl<T: Clone + Debug + Eq + Hash + Send + Sync + 'static> Item for T {}

/// How a queue slows down keys that keep failing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// The delay after a key's first failure; it doubles with each further one.
    pub first: Duration,
    /// The longest delay.
    pub most: Duration,
    /// Retries a second of all keys together, once `burst` is used up.
    pub rate: f64,
    /// Retries that go out at once.
    pub burst: f64,
}

impl Default for Limits {
    /// Upstream's: 5 ms to 1,000 s per key; 10 a second beyond a burst of 100 for all.
    fn default() -> Self {
        Self { first: Duration::from_millis(5), most: Duration::from_secs(1000), rate: 10.0, burst: 100.0 }
    }
}

impl Limits {
    /// The delay after `failures` earlier failures of a key.
    pub fn delay(&self, failures: u32) -> Duration {
        self.first.checked_mul(1u32.checked_shl(failures).unwrap_or(u32::MAX)).map_or(self.most, |d| d.min(self.most))
    }
}

/// Tokens that may go below zero: the debt is the wait.
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn reserve(&mut self, limits: &Limits, now: Instant) -> Duration {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * limits.rate;
        self.tokens = (self.tokens + earned).min(limits.burst) - 1.0;
        self.at = now;
        if self.tokens >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-self.tokens / limits.rate) }
    }
}

/// The rules of the queue as plain state: the time is handed in.
struct State<T> {
    limits: Limits,
    ready: VecDeque<T>,
    dirty: HashMap<T, Instant>,
    processing: HashSet<T>,
    delayed: BTreeMap<(Instant, u64), T>,
    due: HashMap<T, (Instant, u64)>,
    serial: u64,
    failures: HashMap<T, u32>,
    bucket: Bucket,
    closed: bool,
}

impl<T: Item> State<T> {
    fn new(limits: Limits, now: Instant) -> Self {
        Self {
            limits,
            ready: VecDeque::new(),
            dirty: HashMap::new(),
            processing: HashSet::new(),
            delayed: BTreeMap::new(),
            due: HashMap::new(),
            serial: 0,
            failures: HashMap::new(),
            bucket: Bucket { tokens: limits.burst, at: now },
            closed: false,
        }
    }

    /// Whether the key was not in line yet.
    fn add(&mut self, item: T, now: Instant) -> bool {
        if self.closed || self.dirty.contains_key(&item) {
            return false;
        }
        self.dirty.insert(item.clone(), now);
        if !self.processing.contains(&item) {
            self.ready.push_back(item);
        }
        true
    }

    fn add_at(&mut self, item: T, at: Instant) {
        if self.closed {
            return;
        }
        if let Some(known) = self.due.get(&item).copied() {
            if known.0 <= at {
                return;
            }
            self.delayed.remove(&known);
        }
        self.serial += 1;
        let slot = (at, self.serial);
        self.due.insert(item.clone(), slot);
        self.delayed.insert(slot, item);
    }

    /// How long a key that failed once more has to wait.
    fn penalty(&mut self, item: &T, now: Instant) -> Duration {
        let failures = self.failures.entry(item.clone()).or_default();
        let own = self.limits.delay(*failures);
        *failures = failures.saturating_add(1);
        own.max(self.bucket.reserve(&self.limits, now))
    }

    /// Moves what is due into line; says how many keys that were.
    fn release_due(&mut self, now: Instant) -> u64 {
        let mut released = 0;
        while let Some(entry) = self.delayed.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let item = entry.remove();
            self.due.remove(&item);
            released += u64::from(self.add(item, now));
        }
        released
    }

    /// Hands out the next key, with the time it came into line.
    fn take(&mut self) -> Option<(T, Option<Instant>)> {
        let item = self.ready.pop_front()?;
        let since = self.dirty.remove(&item);
        self.processing.insert(item.clone());
        Some((item, since))
    }

    /// Whether the key goes back into line.
    fn done(&mut self, item: &T) -> bool {
        self.processing.remove(item);
        let again = self.dirty.contains_key(item);
        if again {
            self.ready.push_back(item.clone());
        }
        again
    }

    fn next_due(&self) -> Option<Instant> {
        self.delayed.first_key_value().map(|((at, _), _)| *at)
    }
}

struct Inner<T> {
    state: Mutex<State<T>>,
    wake: Notify,
    metrics: QueueMetrics,
}

/// A work queue. Clones are the same queue.
pub struct Queue<T: Item>(Arc<Inner<T>>);

impl<T: Item> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// A key being worked on; dropping it says that the work is over.
pub struct Working<T: Item> {
    item: T,
    since: Instant,
    queue: Queue<T>,
}

impl<T: Item> Deref for Working<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.item
    }
}

impl<T: Item> Drop for Working<T> {
    fn drop(&mut self) {
        self.queue.0.metrics.worked.observe(self.since.elapsed().as_secs_f64());
        self.queue.done(&self.item);
    }
}

impl<T: Item> Queue<T> {
    /// A queue with upstream's limits, shown in metrics as `name`.
    pub fn new(name: &str) -> Self {
        Self::with_limits(name, Limits::default())
    }

    /// A queue with limits of its own.
    pub fn with_limits(name: &str, limits: Limits) -> Self {
        let state = Mutex::new(State::new(limits, Instant::now()));
        Self(Arc::new(Inner { state, wake: Notify::new(), metrics: Metrics::global().queue(name) }))
    }

    /// Puts a key in line, unless it is there already. A key that is being worked on comes again afterwards.
    pub fn add(&self, item: T) {
        let mut state = self.0.state.lock();
        if state.add(item, Instant::now()) {
            self.0.metrics.adds.inc();
            self.0.metrics.depth.set(state.ready.len() as i64);
            self.0.wake.notify_one();
        }
    }

    /// Adds the key after `delay`. Of several delays for one key the earliest counts.
    pub fn add_after(&self, item: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(item);
        }
        self.0.state.lock().add_at(item, Instant::now() + delay);
        self.0.wake.notify_one();
    }

    /// Adds the key after a delay that grows with its failures.
    pub fn add_rate_limited(&self, item: T) {
        let delay = self.0.state.lock().penalty(&item, Instant::now());
        self.0.metrics.retries.inc();
        self.add_after(item, delay);
    }

    /// Forgets a key's failures.
    pub fn forget(&self, item: &T) {
        self.0.state.lock().failures.remove(item);
    }

    /// How often the key has failed since it was last forgotten.
    pub fn failures(&self, item: &T) -> u32 {
        self.0.state.lock().failures.get(item).copied().unwrap_or(0)
    }

    /// How many keys are in line.
    pub fn len(&self) -> usize {
        self.0.state.lock().ready.len()
    }

    /// Whether no key is in line.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next key, when there is one; `None` once the queue is closed and empty.
    pub async fn get(&self) -> Option<Working<T>> {
        loop {
            let mut woken = std::pin::pin!(self.0.wake.notified());
            woken.as_mut().enable();
            let next_due = {
                let (mut state, now) = (self.0.state.lock(), Instant::now());
                self.0.metrics.adds.inc_by(state.release_due(now));
                if let Some((item, since)) = state.take() {
                    return Some(self.start(&state, item, since, now));
                }
                if state.closed {
                    return None;
                }
                state.next_due()
            };
            match next_due {
                None => woken.await,
                Some(at) => {
                    let _ = tokio::time::timeout_at(at.into(), woken).await;
                }
            }
        }
    }

    fn start(&self, state: &State<T>, item: T, since: Option<Instant>, now: Instant) -> Working<T> {
        if let Some(since) = since {
            self.0.metrics.queued.observe(now.saturating_duration_since(since).as_secs_f64());
        }
        self.0.metrics.depth.set(state.ready.len() as i64);
        if !state.ready.is_empty() {
            // Several keys may have come due at once: pass the word on.
            self.0.wake.notify_one();
        }
        Working { item, since: now, queue: self.clone() }
    }

    fn done(&self, item: &T) {
        let mut state = self.0.state.lock();
        if state.done(item) {
            self.0.metrics.depth.set(state.ready.len() as i64);
            self.0.wake.notify_one();
        }
    }

    /// Takes no more keys; what is in line is still handed out, what is delayed is dropped.
    pub fn close(&self) {
        let mut state = self.0.state.lock();
        state.closed = true;
        state.delayed.clear();
        state.due.clear();
        self.0.wake.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use proptest::prelude::*;

    use super::*;

    fn queue() -> Queue<u8> {
        Queue::new("test")
    }

    #[tokio::test]
    async fn a_key_added_while_worked_on_comes_again_once() {
        let q = queue();
        q.add(1);
        q.add(1);
        let work = q.get().await;
        q.add(1);
        q.add(1);
        let meanwhile = q.get().now_or_never().is_none();
        drop(work);
        let again = q.get().await.map(|w| *w);
        assert_eq!((meanwhile, again, q.len()), (true, Some(1), 0));
    }

    /// Runs the pure state forward: the seconds at which each key comes due.
    fn play(state: &mut State<u8>, start: Instant) -> Vec<(u8, u128)> {
        let mut seen = Vec::new();
        while let Some(at) = state.next_due() {
            state.release_due(at);
            while let Some((item, _)) = state.take() {
                seen.push((item, (at - start).as_millis()));
                state.done(&item);
            }
        }
        seen
    }

    #[test]
    fn the_earliest_delay_counts() {
        let start = Instant::now();
        let mut state = State::new(Limits::default(), start);
        for (item, second) in [(1, 9), (1, 3), (1, 5), (2, 4)] {
            state.add_at(item, start + Duration::from_secs(second));
        }
        assert_eq!(play(&mut state, start), [(1, 3000), (2, 4000)]);
    }

    #[test]
    fn failures_double_the_delay_until_forgotten() {
        let now = Instant::now();
        let mut state = State::new(Limits::default(), now);
        let mut delays: Vec<_> = (0..3).map(|_| state.penalty(&1, now).as_millis()).collect();
        state.failures.remove(&1);
        delays.push(state.penalty(&1, now).as_millis());
        assert_eq!(delays, [5, 10, 20, 5]);
    }

    #[test]
    fn the_longest_delay_is_reached_and_kept() {
        let limits = Limits::default();
        assert_eq!([17, 18, 40, 4000].map(|n| limits.delay(n).as_secs()), [655, 1000, 1000, 1000]);
    }

    #[test]
    fn a_flood_of_failing_keys_is_slowed_to_the_overall_rate() {
        let now = Instant::now();
        let mut state = State::new(Limits::default(), now);
        let delays: Vec<_> = (0..120u8).map(|i| state.penalty(&i, now).as_millis()).collect();
        assert_eq!((delays[0], delays[99], delays[100], delays[119]), (5, 5, 100, 2000));
    }

    #[tokio::test]
    async fn a_delayed_key_wakes_a_waiting_worker() {
        let q = queue();
        q.add_after(7, Duration::from_millis(2));
        assert_eq!(q.get().await.map(|w| *w), Some(7));
    }

    #[tokio::test]
    async fn waiting_workers_each_get_a_key() {
        let q = queue();
        let workers: Vec<_> = (0..3)
            .map(|_| {
                tokio::spawn({
                    let q = q.clone();
                    async move { q.get().await.map(|w| *w) }
                })
            })
            .collect();
        tokio::task::yield_now().await;
        (0..3).for_each(|i| q.add(i));
        let mut got: Vec<_> = futures::future::join_all(workers).await.into_iter().map(|r| r.ok().flatten()).collect();
        got.sort();
        assert_eq!(got, [Some(0), Some(1), Some(2)]);
    }

    #[tokio::test]
    async fn closing_hands_out_the_rest_and_ends() {
        let q = queue();
        q.add(1);
        q.close();
        q.add(2);
        assert_eq!((q.get().await.map(|w| *w), q.get().await.map(|w| *w)), (Some(1), None));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Add(u8),
        Get,
        Done(usize),
    }

    proptest! {
        /// Whatever happens: no key is handed out twice at once, and every key added after its last hand-out is handed out again.
        #[test]
        fn no_key_is_lost_or_doubled(steps in proptest::collection::vec(
            prop_oneof![(0..4u8).prop_map(Step::Add), Just(Step::Get), (0..4usize).prop_map(Step::Done)], 0..60)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("runtime");
            runtime.block_on(async {
                let q = queue();
                let (mut working, mut owed): (Vec<Working<u8>>, HashSet<u8>) = Default::default();
                for step in steps {
                    match step {
                        Step::Add(i) => { q.add(i); owed.insert(i); }
                        Step::Get => if let Some(Some(work)) = q.get().now_or_never() {
                            assert!(working.iter().all(|w| **w != *work), "on two workers");
                            assert!(owed.remove(&work), "not asked for");
                            working.push(work);
                        },
                        Step::Done(i) => if i < working.len() { working.remove(i); },
                    }
                }
                working.clear();
                while let Some(Some(work)) = q.get().now_or_never() {
                    assert!(owed.remove(&work), "not asked for");
                }
                assert!(owed.is_empty(), "lost: {owed:?}");
            });
        }
    }
}
