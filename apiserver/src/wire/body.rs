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

use crate::error::{Result, chain};

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
        Err(error) => Err(Status::unexpected(unreadable(&chain(&*error)))),
    }
}

/// Why a body could not be read, in the words of Go's reader of chunks.
fn unreadable(why: &str) -> String {
    let has = |part: &str| why.contains(part);
    let told = if has("overflow") {
        "http chunk length too large"
    } else if has("missing size digit") || has("Invalid Size") || has("linear white space") {
        "invalid byte in chunk length"
    } else if has("Invalid chunk") || has("invalid chunk") {
        "malformed chunked encoding"
    } else if has("EOF") || has("end of file") || has("before message completed") {
        "unexpected EOF"
    } else {
        return format!("unable to read the request's body: {why}");
    };
    told.to_owned()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_chunks_are_told_in_gos_words() {
        for (why, want) in [
            ("error reading a body from connection: Invalid chunk size line: Invalid Size", "invalid byte in chunk length"),
            (
                "error reading a body from connection: Invalid chunk size line: missing size digit",
                "invalid byte in chunk length",
            ),
            ("error reading a body from connection: invalid chunk size: overflow", "http chunk length too large"),
            ("error reading a body from connection: Invalid chunk body CR", "malformed chunked encoding"),
            ("error reading a body from connection: unexpected EOF during chunk size line", "unexpected EOF"),
            ("lost", "unable to read the request's body: lost"),
        ] {
            assert_eq!(unreadable(why), want);
        }
    }
}
