//! Growing pauses: 10 s, doubled with each failure up to 5 minutes, forgotten after 10 quiet minutes.
//!
//! The pause counts from the event (a container's end, a failed pull), not from when we got round to looking at it.

use std::time::Duration;

use jiff::Timestamp;

/// The first pause.
pub const FIRST: Duration = Duration::from_secs(10);
/// The longest pause.
pub const LONGEST: Duration = Duration::from_secs(300);

/// The pause kept for one thing that fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    entry: Option<Entry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    pause: Duration,
    updated: Timestamp,
}

impl Backoff {
    /// Until when to wait after `event`, and how long that pause is in all; `None` if there is nothing to wait for.
    pub fn wait(&self, event: Timestamp, now: Timestamp) -> Option<(Timestamp, Duration)> {
        let entry = self.entry.filter(|e| !e.expired(event))?;
        let until = event + entry.pause;
        (now < until).then_some((until, entry.pause))
    }

    /// Takes note of another try after `event`; returns the pause that its failure will bring, at most `longest`.
    pub fn next(&mut self, event: Timestamp, now: Timestamp, longest: Duration) -> Duration {
        let pause = match self.entry.filter(|e| !e.expired(event)) {
            None => FIRST.min(longest),
            Some(entry) => (entry.pause * 2).min(longest),
        };
        self.entry = Some(Entry { pause, updated: now });
        pause
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.entry = None;
    }
}

impl Entry {
    fn expired(&self, event: Timestamp) -> bool {
        event.duration_since(self.updated).unsigned_abs() > LONGEST * 2 && event > self.updated
    }
}

/// A duration as Go prints whole seconds: `10s`, `1m20s`, `5m0s`.
pub fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    #[test]
    fn doubles_to_five_minutes_and_forgets_after_ten() {
        let mut backoff = Backoff::default();
        let mut now = 0;
        let mut pauses = Vec::new();
        assert_eq!(backoff.wait(at(0), at(0)), None);
        for _ in 0..7 {
            pauses.push(backoff.next(at(now), at(now), LONGEST).as_secs());
            now += 1;
            let (until, _) = backoff.wait(at(now), at(now)).unwrap();
            now = until.as_second() - 1_000_000;
            assert_eq!(backoff.wait(at(now - 301), at(now)), None);
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(backoff.next(at(now + 2000), at(now + 2000), LONGEST), FIRST);
    }

    #[test]
    fn a_node_may_wait_less() {
        let mut backoff = Backoff::default();
        let pauses = [1, 20, 60].map(|s| backoff.next(at(s), at(s), Duration::from_secs(15)).as_secs());
        assert_eq!(pauses, [10, 15, 15]);
        assert_eq!(Backoff::default().next(at(0), at(0), Duration::from_secs(2)).as_secs(), 2);
    }

    #[test]
    fn what_ran_for_ten_minutes_starts_at_once() {
        let mut backoff = Backoff::default();
        let started = 100;
        for second in [40, 70, started] {
            backoff.next(at(second), at(second), LONGEST);
        }
        let waits =
            [1, 600, 601].map(|ran| backoff.wait(at(started + ran), at(started + ran)).map(|(_, pause)| pause.as_secs()));
        assert_eq!(waits, [Some(40), Some(40), None]);
    }

    #[test]
    fn prints_durations_as_go_does() {
        let printed: Vec<_> = [10, 80, 300, 3600].map(|s| go_duration(Duration::from_secs(s))).into();
        assert_eq!(printed, ["10s", "1m20s", "5m0s", "1h0m0s"]);
    }
}
