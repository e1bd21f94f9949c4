//! The loop that empties a queue: bounded concurrency, back-off after errors, panics contained.
//!
//! One task per controller, plus one for each key being worked on: an idle controller costs one parked task, whatever
//! its number of workers.

use std::{future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{Error, Queue, queue::Item};

/// What is to happen to a key after it was worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing, until something changes.
    Done,
    /// Look again after this time, whatever happens.
    After(Duration),
    /// Look again soon, with back-off: the world was not as the decision assumed.
    Again,
}

/// Works on the queue's keys, at most `workers` at once, until `shutdown`; then waits for those being worked on.
///
/// An error or a panic brings the key back with growing delays; success forgets its failures. Conflicts count as "look again".
pub async fn run<T, F, Fut>(name: &'static str, queue: Queue<T>, workers: usize, shutdown: CancellationToken, reconcile: F)
where
    T: Item,
    F: Fn(T) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Next, Error>> + Send,
{
    let (reconcile, permits) = (Arc::new(reconcile), Arc::new(Semaphore::new(workers.max(1))));
    let mut running = JoinSet::new();
    loop {
        let next = async {
            // The semaphore is never closed.
            let permit = permits.clone().acquire_owned().await.ok()?;
            Some((queue.get().await?, permit))
        };
        let Some(Some((work, permit))) = shutdown.run_until_cancelled(next).await else { break };
        while running.try_join_next().is_some() {}
        let (reconcile, queue) = (reconcile.clone(), queue.clone());
        running.spawn(async move {
            let outcome = AssertUnwindSafe(async { reconcile(work.clone()).await }).catch_unwind().await;
            settle(name, &queue, &work, outcome.map_err(|panic| panic_message(&*panic)));
            drop((work, permit));
        });
    }
    queue.close();
    while running.join_next().await.is_some() {}
}

fn settle<T: Item>(name: &str, queue: &Queue<T>, item: &T, outcome: Result<Result<Next, Error>, String>) {
    match outcome {
        Ok(Ok(Next::Done)) => queue.forget(item),
        Ok(Ok(Next::After(delay))) => {
            queue.forget(item);
            queue.add_after(item.clone(), delay);
        }
        Ok(Ok(Next::Again)) => queue.add_rate_limited(item.clone()),
        Ok(Err(error)) => {
            if error.is_conflict() {
                tracing::debug!(controller = name, ?item, error = &error as &dyn std::error::Error, "changed meanwhile");
            } else {
                tracing::warn!(controller = name, ?item, error = &error as &dyn std::error::Error, "will try again");
            }
            queue.add_rate_limited(item.clone());
        }
        Err(panic) => {
            tracing::error!(controller = name, ?item, panic, "panicked; will try again");
            queue.add_rate_limited(item.clone());
        }
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn errors_and_panics_come_again_and_shutdown_waits_for_work() {
        let (queue, shutdown, log) = (Queue::new("driver"), CancellationToken::new(), Arc::new(Mutex::new(Vec::new())));
        queue.add("key");
        let (seen, stop) = (log.clone(), shutdown.clone());
        run("driver", queue.clone(), 2, shutdown, move |key: &'static str| {
            let attempt = {
                let mut seen = seen.lock().expect("lock");
                seen.push(key);
                seen.len()
            };
            let (seen, stop) = (seen.clone(), stop.clone());
            async move {
                match attempt {
                    1 => Err(Error::Other("no".into())),
                    2 => panic!("at the disco"),
                    3 => Ok(Next::After(Duration::from_millis(2))),
                    _ => {
                        stop.cancel();
                        tokio::task::yield_now().await;
                        seen.lock().expect("lock").push("finished");
                        Ok(Next::Done)
                    }
                }
            }
        })
        .await;
        assert_eq!(*log.lock().expect("lock"), ["key", "key", "key", "key", "finished"]);
    }
}
