//! One byte stream of a connection, whichever wire it is on: a queue in each direction, closed each by itself.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
};
use tokio_util::sync::PollSender;

/// The largest piece written at once.
pub(crate) const PIECE: usize = 32 << 10;
/// How many pieces wait unread on a stream before its connection stops.
pub(crate) const UNREAD: usize = 16;
/// How many pieces wait unsent on a connection before its writers stop.
pub(crate) const UNSENT: usize = 16;

/// Stream headers; names in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// Of name and value pairs.
    pub fn of(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(n, v)| (n.to_ascii_lowercase(), (*v).to_owned())).collect())
    }

    /// The first value of `name` (any case), or `""`.
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map_or("", |(_, v)| v)
    }
}

/// What a stream asks of its connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// SYN_STREAM.
    Open { id: u32, headers: Headers },
    /// SYN_REPLY.
    Reply { id: u32 },
    /// Bytes.
    Data { id: u32, bytes: Bytes },
    /// No more bytes from this end.
    Finish { id: u32 },
    /// The stream is of no use any more (an RST_STREAM status).
    Reset { id: u32, status: u32 },
    /// PING, as it came.
    Ping { id: u32 },
    /// The connection is done.
    Close,
}

pub(crate) const REFUSED_STREAM: u32 = 3;

/// The reading half.
#[derive(Debug)]
pub struct Receive {
    incoming: mpsc::Receiver<Bytes>,
    pending: Bytes,
}

/// The writing half. Dropped, it ends its direction as a shutdown does.
#[derive(Debug)]
pub struct Send {
    id: u32,
    outgoing: PollSender<Command>,
    finished: bool,
    reset: Arc<AtomicBool>,
}

/// A stream: readable until the peer finished, writable until shut down.
#[derive(Debug)]
pub struct Stream {
    headers: Headers,
    receive: Receive,
    send: Send,
}

impl Stream {
    pub(crate) fn new(
        id: u32,
        headers: Headers,
        incoming: mpsc::Receiver<Bytes>,
        outgoing: mpsc::Sender<Command>,
        reset: Arc<AtomicBool>,
    ) -> Self {
        Self {
            headers,
            receive: Receive { incoming, pending: Bytes::new() },
            send: Send { id, outgoing: PollSender::new(outgoing), finished: false, reset },
        }
    }

    /// The SPDY stream id or the channel's number.
    pub fn id(&self) -> u32 {
        self.send.id
    }

    /// The headers it was opened with (empty on WebSockets).
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Tells the peer that the stream is not wanted.
    pub(crate) fn refuse(mut self) {
        self.send.finished = true;
        if let Some(sender) = self.send.outgoing.get_ref().cloned() {
            post(sender, Command::Reset { id: self.send.id, status: REFUSED_STREAM });
        }
    }

    /// Both halves, to be used by different tasks.
    pub fn into_split(self) -> (Receive, Send) {
        (self.receive, self.send)
    }
}

impl Receive {
    /// The next bytes as they came, `None` at the end.
    pub async fn next(&mut self) -> Option<Bytes> {
        if self.pending.is_empty() { self.incoming.recv().await } else { Some(std::mem::take(&mut self.pending)) }
    }
}

impl Send {
    /// One piece as it is, empty ones included.
    pub(crate) async fn send_piece(&mut self, bytes: Bytes) {
        if let Some(sender) = self.outgoing.get_ref() {
            let _ = sender.send(Command::Data { id: self.id, bytes }).await;
        }
    }
}

/// Queues a command from where nothing can be awaited.
fn post(sender: mpsc::Sender<Command>, command: Command) {
    if let Err(mpsc::error::TrySendError::Full(command)) = sender.try_send(command)
        && let Ok(runtime) = tokio::runtime::Handle::try_current()
    {
        runtime.spawn(async move {
            let _ = sender.send(command).await;
        });
    }
}

impl Drop for Send {
    fn drop(&mut self) {
        if !self.finished
            && !self.reset.load(Ordering::Relaxed)
            && let Some(sender) = self.outgoing.get_ref().cloned()
        {
            post(sender, Command::Finish { id: self.id });
        }
    }
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the stream was closed by the peer")
}

impl AsyncRead for Receive {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.pending.is_empty() {
            match ready!(self.incoming.poll_recv(cx)) {
                Some(bytes) => self.pending = bytes,
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = self.pending.len().min(out.remaining());
        out.put_slice(&self.pending[..count]);
        self.pending.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Send {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.finished || self.reset.load(Ordering::Relaxed) {
            return Poll::Ready(Err(broken()));
        }
        ready!(self.outgoing.poll_reserve(cx)).map_err(|_| broken())?;
        let count = data.len().min(PIECE);
        let command = Command::Data { id: self.id, bytes: Bytes::copy_from_slice(&data[..count]) };
        self.outgoing.send_item(command).map_err(|_| broken())?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.finished {
            return Poll::Ready(Ok(()));
        }
        // A connection that is gone needs no end of stream.
        if ready!(self.outgoing.poll_reserve(cx)).is_ok() {
            let finish = Command::Finish { id: self.id };
            let _ = self.outgoing.send_item(finish);
        }
        self.finished = true;
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.receive).poll_read(cx, out)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.send).poll_write(cx, data)
    }
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.send).poll_shutdown(cx)
    }
}
