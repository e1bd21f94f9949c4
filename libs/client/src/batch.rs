//! Doing many like things at once without flooding a server that refuses the first.

use std::future::Future;

use futures::{StreamExt, stream::FuturesUnordered};

/// Runs `count` calls in batches of 1, 2, 4 ..., each batch at once, and stops after the first batch with a failure:
/// a quota that refuses one create would otherwise be asked a thousand times. Returns what succeeded and the first error.
pub async fn slow_start<T, E, F, Fut>(count: usize, first_batch: usize, call: F) -> (Vec<T>, Option<E>)
where
    F: Fn(usize) -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    let (mut done, mut batch, mut from) = (Vec::with_capacity(count), first_batch.max(1), 0);
    while from < count {
        let to = count.min(from + batch);
        let mut running: FuturesUnordered<_> = (from..to).map(&call).collect();
        let mut failure = None;
        while let Some(result) = running.next().await {
            match result {
                Ok(value) => done.push(value),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        if failure.is_some() {
            return (done, failure);
        }
        from = to;
        batch *= 2;
    }
    (done, None)
}

/// Runs all calls at once and returns what succeeded and the first error.
pub async fn all<T, E, Fut>(calls: impl IntoIterator<Item = Fut>) -> (Vec<T>, Option<E>)
where
    Fut: Future<Output = Result<T, E>>,
{
    let mut running: FuturesUnordered<_> = calls.into_iter().collect();
    let (mut done, mut failure) = (Vec::new(), None);
    while let Some(result) = running.next().await {
        match result {
            Ok(value) => done.push(value),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    (done, failure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[tokio::test]
    async fn stops_after_the_batch_that_failed() {
        let asked = RefCell::new(Vec::new());
        let (done, failure) = slow_start(20, 1, |i| {
            asked.borrow_mut().push(i);
            async move { if i == 4 { Err("quota") } else { Ok(i) } }
        })
        .await;
        assert_eq!((done.len(), failure, asked.into_inner()), (6, Some("quota"), (0..7).collect()));
    }
}
