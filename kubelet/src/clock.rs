//! Time that goes on evenly while the machine's clock is set.
//!
//! What is told to people and kept on disk is in the machine's time. What a deadline is for must neither come early nor wait for hours
//! because that was wrong before.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

/// Smaller differences are the clock's being slowed down or sped up, and the time between two looks at it.
const SET: Duration = Duration::from_secs(1);

/// A clock that nobody sets.
#[derive(Clone, Copy, Debug)]
pub struct Steady {
    wall: Timestamp,
    at: Instant,
}

impl Steady {
    /// One that says `wall` now.
    pub fn new(wall: Timestamp) -> Self {
        Self { wall, at: Instant::now() }
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        later(self.wall, SignedDuration::try_from(self.at.elapsed()).unwrap_or(SignedDuration::MAX))
    }

    /// Goes on from the machine's time `wall`; returns by how much that was set since the last call.
    pub fn follow(&mut self, wall: Timestamp) -> Option<SignedDuration> {
        let by = wall.duration_since(self.now());
        *self = Self::new(wall);
        (by.unsigned_abs() >= SET).then_some(by)
    }
}

/// A time as it is called when the clock was set by so much; the last or first time there is where that would be beyond.
pub fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.saturating_add(by).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_is_noticed_once_and_one_that_is_slow_is_not() {
        let at = |seconds: i64| Timestamp::from_second(1_000_000 + seconds).unwrap();
        let mut clock = Steady::new(at(0));
        assert_eq!(clock.follow(clock.now()), None);
        let set = |by: Option<SignedDuration>| by.map(|by| by.as_secs_f64().round());
        assert_eq!(set(clock.follow(at(3600))), Some(3600.0));
        assert_eq!(clock.follow(clock.now()), None);
        assert!(clock.now() >= at(3600));
        assert_eq!(set(clock.follow(at(-7200))), Some(-10800.0));
        let slowly = later(clock.now(), SignedDuration::from_millis(-700));
        assert_eq!(clock.follow(slowly), None);
        assert_eq!(later(Timestamp::MAX, SignedDuration::from_secs(1)), Timestamp::MAX);
    }
}
