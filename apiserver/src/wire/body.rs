//! Bodies: read up to the limit; written from shared bytes without copying them together.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use api::status::Status;
use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use parking_lot::Mutex;

use crate::error::Result;

/// The largest body that is read: 3 MiB.
pub const LIMIT: usize = 3 * 1024 * 1024;

/// Reads a request's body.
pub async fn read(body: Body) -> Result<Bytes> {
    if http_body::Body::size_hint(&body).lower() > LIMIT as u64 {
        return Err(Status::body_too_large(LIMIT));
    }
    match Limited::new(body, LIMIT).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Status::body_too_large(LIMIT)),
        Err(error) => Err(Status::bad_request(format!("unable to read the request's body: {error}"))),
    }
}

/// How much of a body that nobody wanted is read all the same, as Go's server does.
const UNWANTED: u64 = 256 << 10;

/// How long its rest is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request's body that comes back when its reader has had enough of it.
struct Lent {
    body: Body,
    back: Arc<Mutex<Option<Body>>>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        *self.back.lock() = Some(std::mem::take(&mut self.body));
    }
}

impl http_body::Body for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What a reader leaves of a body.
pub struct Rest(Arc<Mutex<Option<Body>>>);

/// A body to be read, and what will be left of it.
pub fn lend(body: Body) -> (Body, Rest) {
    let back = Arc::default();
    let rest = Rest(Arc::clone(&back));
    (Body::new(Lent { body, back }), rest)
}

impl Rest {
    /// Reads what the reader left, unless it reads on or there is too much.
    ///
    /// On HTTP/1.1 a connection whose request was answered before it had been read is closed, and the client may still be
    /// writing to it: it would see a broken connection in place of the answer.
    pub async fn drain(self) {
        let Some(mut body) = self.0.lock().take() else { return };
        let mut left = UNWANTED;
        let all = async {
            while let Some(Ok(frame)) = body.frame().await {
                left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len() as u64));
                if left < http_body::Body::size_hint(&body).lower() {
                    return;
                }
            }
        };
        // Whoever does not finish in time is disconnected.
        let _ = tokio::time::timeout(PATIENCE, all).await;
    }
}

/// A body of pieces whose length is known.
pub struct Pieces {
    pieces: VecDeque<Bytes>,
    left: u64,
}

impl Pieces {
    /// The pieces one after the other.
    pub fn new(pieces: impl IntoIterator<Item = Bytes>) -> Self {
        let pieces: VecDeque<Bytes> = pieces.into_iter().filter(|p| !p.is_empty()).collect();
        let left = pieces.iter().map(|p| p.len() as u64).sum();
        Self { pieces, left }
    }
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.pieces.pop_front();
        self.left -= piece.as_ref().map_or(0, |p| p.len() as u64);
        Poll::Ready(piece.map(|p| Ok(Frame::data(p))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
