//! Work that waits for the disk or the kernel, a few pieces of it at a time.
//!
//! Removing a file may take the disk's time, and a control group the kernel's: on the threads that answer requests everybody
//! would wait along. What many pods that end together leave to be removed must not have a thread each either.

use tokio::sync::Semaphore;

/// Room for so many pieces of work at once; the others wait their turn, in order.
#[derive(Debug)]
pub struct Room(Semaphore);

impl Room {
    /// Room for that many.
    pub const fn new(at_once: usize) -> Self {
        Self(Semaphore::const_new(at_once))
    }

    /// Does the work on a thread that may wait. Work that has begun goes on when the caller no longer waits for it.
    pub async fn run<T: Send + 'static>(&'static self, work: impl FnOnce() -> T + Send + 'static) -> T {
        // Nobody closes it.
        let turn = self.0.acquire().await.ok();
        let working = tokio::task::spawn_blocking(move || {
            let _until_done = turn;
            work()
        });
        match working.await {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The process ends.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Barrier, LazyLock,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    #[tokio::test]
    async fn no_more_at_once_than_there_is_room_for() {
        static ROOM: Room = Room::new(2);
        static NOW: AtomicUsize = AtomicUsize::new(0);
        static MOST: AtomicUsize = AtomicUsize::new(0);
        static PAIR: LazyLock<Barrier> = LazyLock::new(|| Barrier::new(2));
        let works = (0..20).map(|number| {
            tokio::spawn(ROOM.run(move || {
                MOST.fetch_max(NOW.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                // Each pair waits for one another: there is room for no less.
                PAIR.wait();
                NOW.fetch_sub(1, Ordering::SeqCst);
                number
            }))
        });
        let mut sum = 0;
        for work in works.collect::<Vec<_>>() {
            sum += work.await.unwrap();
        }
        assert_eq!((sum, MOST.load(Ordering::SeqCst)), (190, 2));
    }
}
