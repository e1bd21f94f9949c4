//! Which events are worth writing: repeated ones become a count, floods of like ones become one, and a source that never
//! stops talking about one object is not listened to for a while.
//!
//! Plain bookkeeping over values with the time handed in; [`crate::event`] does the writing. Numbers are upstream's.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Event, apimachinery::pkg::apis::meta::v1::Time};

/// Events that differ only in their message are combined after this many ...
const SIMILAR: usize = 10;
/// ... within this time.
const SIMILAR_WITHIN: Duration = Duration::from_secs(600);
/// Events one source may write about one object at once ...
const BURST: f64 = 25.0;
/// ... and then one in this many seconds.
const REFILL_SECONDS: f64 = 300.0;
/// How much is remembered.
const REMEMBERED: usize = 4096;

/// What to do with an event.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Write it.
    Create(Event),
    /// An event like it exists: raise its count, and set its time and message.
    Repeat(Event),
    /// The source has said too much about this object.
    Drop,
}

/// Names an object, a kind of event or an event: a hash, keyed by chance, of all that makes it up. Thousands are remembered, and what they
/// stand for is long.
type Key = u64;

/// A map that forgets what was not used for longest.
struct Recent<V> {
    entries: HashMap<Key, (V, u64)>,
    clock: u64,
}

impl<V> Recent<V> {
    fn new() -> Self {
        Self { entries: HashMap::new(), clock: 0 }
    }

    fn entry(&mut self, key: Key, make: impl FnOnce() -> V) -> &mut V {
        self.clock += 1;
        if self.entries.len() >= REMEMBERED && !self.entries.contains_key(&key) {
            // Rare: drop the older half in one go.
            let mut ages: Vec<u64> = self.entries.values().map(|(_, used)| *used).collect();
            let (_, &mut middle, _) = ages.select_nth_unstable(REMEMBERED / 2);
            self.entries.retain(|_, (_, used)| *used > middle);
        }
        let clock = self.clock;
        let (value, used) = self.entries.entry(key).or_insert_with(|| (make(), clock));
        *used = clock;
        value
    }
}

struct Similar {
    messages: Vec<Key>,
    last: Timestamp,
}

struct Budget {
    tokens: f64,
    at: Timestamp,
}

#[derive(Clone)]
struct Series {
    name: String,
    first: Option<Time>,
    count: i32,
}

/// The memory of one event source.
pub struct Correlator {
    hashes: RandomState,
    similar: Recent<Similar>,
    series: Recent<Option<Series>>,
    budgets: Recent<Budget>,
}

impl Default for Correlator {
    fn default() -> Self {
        Self { hashes: RandomState::new(), similar: Recent::new(), series: Recent::new(), budgets: Recent::new() }
    }
}

fn text(value: &Option<String>) -> String {
    value.clone().unwrap_or_default()
}

impl Correlator {
    /// Judges an event as made for the first time (count 1).
    pub fn judge(&mut self, event: Event, now: Timestamp) -> Verdict {
        let subject = self.subject(&event);
        let (mut event, key) = self.combine(event, subject, now);
        let budget = self.budgets.entry(subject, || Budget { tokens: BURST, at: now });
        let earned = (now.duration_since(budget.at).as_secs_f64()).max(0.0) / REFILL_SECONDS;
        budget.tokens = (budget.tokens + earned).min(BURST);
        budget.at = now;
        let allowed = budget.tokens >= 1.0;
        if allowed {
            budget.tokens -= 1.0;
        }
        let known = self.series.entry(key, || None);
        let repeated = known.is_some();
        let series = known.get_or_insert_with(|| Series {
            name: text(&event.metadata.name),
            first: event.first_timestamp.clone(),
            count: 0,
        });
        series.count += 1;
        event.metadata.name = Some(series.name.clone());
        event.first_timestamp = series.first.clone();
        event.count = Some(series.count);
        match (allowed, repeated) {
            (false, _) => Verdict::Drop,
            (true, false) => Verdict::Create(event),
            (true, true) => Verdict::Repeat(event),
        }
    }

    /// The event it repeats was not there any more: it begins a new series.
    pub fn restarted(&mut self, event: &Event) {
        for (_, (series, _)) in self.series.entries.iter_mut() {
            if let Some(series) = series.as_mut().filter(|s| Some(&s.name) == event.metadata.name.as_ref()) {
                series.count = 1;
                series.first = event.last_timestamp.clone();
            }
        }
    }

    /// What the event is about and who says it.
    fn subject(&self, event: &Event) -> Key {
        let (object, source) = (&event.involved_object, &event.source);
        let source = source.as_ref().map(|source| (&source.component, &source.host));
        let name = (&object.namespace, &object.name, &object.uid);
        self.hashes.hash_one((source, &object.kind, name, &object.api_version))
    }

    fn combine(&mut self, mut event: Event, subject: Key, now: Timestamp) -> (Event, Key) {
        let reporter = (&event.reporting_component, &event.reporting_instance);
        let like = self.hashes.hash_one((subject, &event.type_, &event.reason, reporter));
        let exact = self.hashes.hash_one((like, &event.involved_object.field_path, &event.message));
        let similar = self.similar.entry(like, || Similar { messages: Vec::new(), last: now });
        if now.duration_since(similar.last).unsigned_abs() > SIMILAR_WITHIN {
            similar.messages.clear();
        }
        similar.last = now;
        let message = self.hashes.hash_one(&event.message);
        // So many are enough to know that there are many.
        if similar.messages.len() < SIMILAR && !similar.messages.contains(&message) {
            similar.messages.push(message);
        }
        if similar.messages.len() < SIMILAR {
            return (event, exact);
        }
        event.message = Some(format!("(combined from similar events): {}", text(&event.message)));
        (event, like)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::ObjectMeta};

    fn event(name: &str, message: &str) -> Event {
        Event {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..Default::default() },
            involved_object: ObjectReference { name: Some("pod".to_owned()), ..Default::default() },
            reason: Some("Failed".to_owned()),
            message: Some(message.to_owned()),
            count: Some(1),
            ..Default::default()
        }
    }

    fn told(verdict: Verdict) -> (&'static str, Option<String>, Option<i32>) {
        match verdict {
            Verdict::Create(e) => ("create", e.message, e.count),
            Verdict::Repeat(e) => ("repeat", e.message, e.count),
            Verdict::Drop => ("drop", None, None),
        }
    }

    #[test]
    fn a_repeated_event_counts() {
        let mut c = Correlator::default();
        let verdicts = ["a", "b"].map(|name| c.judge(event(name, "same"), Timestamp::UNIX_EPOCH));
        let mut second = event("a", "same");
        second.count = Some(2);
        assert_eq!(verdicts, [Verdict::Create(event("a", "same")), Verdict::Repeat(second)]);
    }

    #[test]
    fn ten_like_events_become_one() {
        let mut c = Correlator::default();
        let verdicts: Vec<_> = (0..11).map(|i| told(c.judge(event("e", &format!("m{i}")), Timestamp::UNIX_EPOCH))).collect();
        assert_eq!(
            verdicts[8..],
            [
                ("create", Some("m8".to_owned()), Some(1)),
                ("create", Some("(combined from similar events): m9".to_owned()), Some(1)),
                ("repeat", Some("(combined from similar events): m10".to_owned()), Some(2)),
            ]
        );
    }

    #[test]
    fn a_source_may_say_25_things_and_then_one_in_five_minutes() {
        let mut c = Correlator::default();
        let at = |s: i64| Timestamp::from_second(s).expect("in range");
        let mut said = |s: i64| !matches!(c.judge(event("e", "same"), at(s)), Verdict::Drop);
        let burst = (0..30).filter(|_| said(0)).count();
        assert_eq!((burst, said(299), said(301), said(302)), (25, false, true, false));
    }
}
