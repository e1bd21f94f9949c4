//! Connections on which nobody asks for anything.
//!
//! What a server allows a peer (how long a request's head may take, how many requests there may be at once) begins with a
//! request. Between requests, and before the first, a peer could hold a connection and the server's descriptor for ever by saying
//! nothing, or by answering pings and saying nothing else: it needs no credentials for that, as it is the request that is
//! authenticated. Upstream's servers let go of who has asked for nothing for 90 seconds (`IdleTimeout`).

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

/// Counts the requests of a connection that are being answered. Clones count together.
#[derive(Clone, Debug)]
pub struct Idle(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    all_answered: Notify,
}

#[derive(Debug)]
struct State {
    requests: usize,
    /// When there was last one.
    since: Instant,
    /// Somebody waits for the end of the last one.
    awaited: bool,
}

/// A request, until it is dropped.
#[derive(Debug)]
pub struct Request(Idle);

impl Drop for Request {
    fn drop(&mut self) {
        let mut state = self.0.0.state.lock();
        state.requests -= 1;
        if state.requests == 0 {
            state.since = Instant::now();
            if std::mem::take(&mut state.awaited) {
                self.0.0.all_answered.notify_one();
            }
        }
    }
}

/// The body of an answer: with its end, or its being given up, the request is over.
#[derive(Debug)]
pub struct Answer<B> {
    body: B,
    _request: Request,
}

impl Default for Idle {
    fn default() -> Self {
        Self::new()
    }
}

impl Idle {
    /// Of a connection that is made now.
    pub fn new() -> Self {
        let state = State { requests: 0, since: Instant::now(), awaited: false };
        Self(Arc::new(Inner { state: Mutex::new(state), all_answered: Notify::new() }))
    }

    /// There is a request.
    pub fn request(&self) -> Request {
        self.0.state.lock().requests += 1;
        Request(self.clone())
    }

    /// Whether no request is being answered.
    pub fn is_quiet(&self) -> bool {
        self.0.state.lock().requests == 0
    }

    /// Returns when there was no request for so long. A request that is being answered, a watch for instance, counts however long
    /// it takes. One task may wait.
    pub async fn lasts(&self, patience: Duration) {
        loop {
            let quiet_since = {
                let mut state = self.0.state.lock();
                state.awaited = state.requests > 0;
                (!state.awaited).then_some(state.since)
            };
            // Looked at seldom: whoever asks often need not set a timer each time.
            match quiet_since {
                None => self.0.all_answered.notified().await,
                Some(since) if since.elapsed() >= patience => return,
                Some(since) => tokio::time::sleep_until(since + patience).await,
            }
        }
    }
}

impl Request {
    /// What answers it.
    pub fn answered_by<B>(self, answer: http::Response<B>) -> http::Response<Answer<B>> {
        answer.map(|body| Answer { body, _request: self })
    }
}

impl<B: Body + Unpin> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// How long a peer may take to let go of a connection that it was told is over.
const LEAVING: Duration = Duration::from_secs(5);

/// Serves a connection to its end. With `over` ([`Idle::lasts`], a shutdown) `leave` tells the peer in order: a GOAWAY. What the
/// peer asked for until it heard of that is still answered; then the connection is given up (`None`) if the peer holds it.
pub async fn serve<C: Future>(
    mut connection: Pin<&mut C>,
    idle: &Idle,
    over: impl Future<Output = ()>,
    leave: fn(Pin<&mut C>),
) -> Option<C::Output> {
    tokio::select! {
        biased;
        ended = connection.as_mut() => return Some(ended),
        () = over => leave(connection.as_mut()),
    }
    let left = async {
        tokio::time::sleep(LEAVING).await;
        idle.lasts(LEAVING).await;
    };
    tokio::select! {
        biased;
        ended = connection => Some(ended),
        () = left => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_requests_under_way_count() {
        const PATIENCE: Duration = Duration::from_millis(40);
        let idle = Idle::new();
        let began = Instant::now();
        let (one, two) = (idle.request(), idle.request());
        let lasting = tokio::spawn({
            let idle = idle.clone();
            async move { idle.lasts(PATIENCE).await }
        });
        drop(one);
        tokio::time::sleep(PATIENCE * 2).await;
        assert!(!lasting.is_finished());
        drop(two);
        let (three, answered) = (idle.request(), Instant::now());
        drop(three.answered_by(http::Response::new(())));
        lasting.await.unwrap();
        assert!(answered.elapsed() >= PATIENCE && began.elapsed() >= PATIENCE * 3);
    }
}
