//! Growing delays with jitter for everything that tries again on a connection.

use std::time::Duration;

/// Doubles from `first` to `most`; each delay is spread by up to half of itself so that clients don't return in step.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// A back-off between these delays.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    /// The next delay, given a number in 0..1.
    pub fn step(&mut self, random: f64) -> Duration {
        let delay = self.next.mul_f64(1.0 + random / 2.0);
        self.next = (self.next * 2).min(self.most);
        delay
    }

    /// Waits for the next delay.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.step(rand::random())).await;
    }

    /// Begins again at the first delay.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_most_and_begins_again() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(300));
        let mut delays: Vec<_> = (0..3).map(|_| backoff.step(0.0).as_millis()).collect();
        backoff.reset();
        delays.push(backoff.step(1.0).as_millis());
        assert_eq!(delays, [100, 200, 300, 150]);
    }
}
