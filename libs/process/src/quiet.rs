//! Futures that seldom have anything to say: a timer, the end of the server. They are polled when they were woken
//! themselves, and not each time the task that waits for them goes about something else, which a watch does with every event.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use parking_lot::Mutex;

#[derive(Default)]
struct Call {
    called: AtomicBool,
    /// Stays when it is woken: whoever polls says who it is only when that has changed.
    task: Mutex<Option<Waker>>,
}

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.called.store(true, Ordering::Release);
        if let Some(task) = &*self.task.lock() {
            task.wake_by_ref();
        }
    }
}

/// A future with a waker of its own. After it was ready it may be polled again if what is inside may.
pub struct Quiet<F> {
    future: Pin<Box<F>>,
    call: Arc<Call>,
    /// The future's waker.
    waker: Waker,
    /// Of the task that was last told to be woken.
    task: Option<Waker>,
}

impl<F: Future> Quiet<F> {
    /// Nothing is polled yet.
    pub fn new(future: F) -> Self {
        let call = Arc::new(Call { called: AtomicBool::new(true), task: Mutex::new(None) });
        Self { future: Box::pin(future), waker: Waker::from(call.clone()), call, task: None }
    }
}

impl<F: Future> Future for Quiet<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        if !this.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            *this.call.task.lock() = Some(cx.waker().clone());
            this.task = Some(cx.waker().clone());
        }
        // A call that comes between the two wakes the task again.
        if !this.call.called.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        this.call.called.store(false, Ordering::Release);
        let polled = this.future.as_mut().poll(&mut Context::from_waker(&this.waker));
        if polled.is_ready() {
            this.call.called.store(true, Ordering::Release);
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::atomic::AtomicUsize};

    use super::*;

    #[tokio::test]
    async fn a_task_is_woken_each_time() {
        let (send, mut receive) = tokio::sync::mpsc::unbounded_channel();
        let mut quiet = Quiet::new(poll_fn(move |cx| receive.poll_recv(cx)));
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(number) = (&mut quiet).await {
                tell.send(number).unwrap();
            }
        });
        for number in 0..3 {
            // It waits by now.
            tokio::task::yield_now().await;
            send.send(number).unwrap();
            let heard = tokio::time::timeout(std::time::Duration::from_secs(10), told.recv()).await;
            assert_eq!(heard.expect("it is woken"), Some(number));
        }
    }

    #[tokio::test]
    async fn what_was_not_woken_is_not_polled_and_what_was_is() {
        let polls = Arc::new(AtomicUsize::new(0));
        let (send, mut receive) = tokio::sync::oneshot::channel::<u32>();
        let counted = polls.clone();
        let mut quiet = Quiet::new(poll_fn(move |cx| {
            counted.fetch_add(1, Ordering::Relaxed);
            Pin::new(&mut receive).poll(cx)
        }));
        let task = |quiet: &mut Quiet<_>| Pin::new(quiet).poll(&mut Context::from_waker(Waker::noop()));
        assert!(task(&mut quiet).is_pending() && task(&mut quiet).is_pending() && task(&mut quiet).is_pending());
        assert_eq!(polls.load(Ordering::Relaxed), 1);
        // Another task waits for it now, and is woken.
        let waiting = tokio::spawn(quiet);
        tokio::task::yield_now().await;
        send.send(7).unwrap();
        assert_eq!(waiting.await.unwrap().unwrap(), 7);
        assert_eq!(polls.load(Ordering::Relaxed), 2);
    }
}
