//! A bell that many wait for: whoever listens is woken when it rings next, all of them under one lock.
//!
//! A channel of tokio's does the same for anybody; a listener here has a seat of its own, which costs no list to be linked
//! into and out of with every event.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    task::Waker,
};

use parking_lot::Mutex;

#[derive(Debug, Default)]
struct Listeners {
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
    /// Room for the wakers of the next ring, kept to be used again.
    spare: Vec<Option<Waker>>,
}

/// The bell.
#[derive(Debug, Default)]
pub struct Bell {
    rings: AtomicU64,
    listeners: Mutex<Listeners>,
}

/// Where a listener's waker is: good until the bell has rung again.
#[derive(Debug, Default)]
pub struct Seat(Option<(u64, usize)>);

impl Bell {
    /// How often it has rung.
    pub fn rings(&self) -> u64 {
        self.rings.load(Ordering::Acquire)
    }

    /// Has `waker` woken at the next ring. `false` if it has rung since it had rung `heard` times.
    pub fn listen(&self, seat: &mut Seat, heard: u64, waker: &Waker) -> bool {
        let mut listeners = self.listeners.lock();
        if self.rings() != heard {
            return false;
        }
        let taken = seat.0.filter(|(ring, _)| *ring == heard).map(|(_, at)| at);
        let at = taken.or_else(|| listeners.free.pop()).unwrap_or_else(|| {
            listeners.wakers.push(None);
            listeners.wakers.len() - 1
        });
        let place = &mut listeners.wakers[at];
        if !place.as_ref().is_some_and(|own| own.will_wake(waker)) {
            *place = Some(waker.clone());
        }
        seat.0 = Some((heard, at));
        true
    }

    /// Gives a seat up.
    pub fn leave(&self, seat: &mut Seat) {
        let Some((ring, at)) = seat.0.take() else { return };
        let mut listeners = self.listeners.lock();
        if self.rings() == ring {
            listeners.wakers[at] = None;
            listeners.free.push(at);
        }
    }

    /// Wakes everybody who listens.
    pub fn ring(&self) {
        let mut listeners = self.listeners.lock();
        self.rings.fetch_add(1, Ordering::Release);
        let spare = std::mem::take(&mut listeners.spare);
        let mut woken = std::mem::replace(&mut listeners.wakers, spare);
        listeners.free.clear();
        drop(listeners);
        woken.drain(..).flatten().for_each(Waker::wake);
        self.listeners.lock().spare = woken;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::AtomicUsize};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn each_listener_is_woken_once_and_none_that_left() {
        let (bell, count) = (Bell::default(), Arc::new(Count::default()));
        let waker = Waker::from(count.clone());
        let mut seats = [Seat::default(), Seat::default(), Seat::default()];
        for seat in &mut seats {
            assert!(bell.listen(seat, 0, &waker) && bell.listen(seat, 0, &waker));
        }
        bell.leave(&mut seats[1]);
        bell.ring();
        assert_eq!((count.0.load(Ordering::Relaxed), bell.rings()), (2, 1));
        // Too late: it has rung in between.
        assert!(!bell.listen(&mut seats[0], 0, &waker));
        bell.ring();
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
        assert!(bell.listen(&mut seats[0], 2, &waker) && bell.listen(&mut seats[1], 2, &waker));
        bell.leave(&mut seats[0]);
        assert!(bell.listen(&mut seats[2], 2, &waker));
        bell.ring();
        assert_eq!(count.0.load(Ordering::Relaxed), 4);
    }
}
