//! A connection: one task reads frames into the streams' queues, another writes what the streams ask for.
//!
//! ```text
//!  bytes → reader ─ SYN_STREAM ─→ Incoming ─ accept → Stream
//!            │ └─── data, FIN, RST ───────────────────→ its queue
//!            └ ping ─┐
//!  bytes ← writer ← commands ←── Stream, Connection
//! ```
//! When every handle and stream is gone, the writer says GOAWAY and closes; the reader then still takes what comes for a
//! moment, because a socket closed over unread input resets the connection and the peer could lose our last words.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, BufWriter, ReadHalf, WriteHalf},
    sync::{mpsc, oneshot},
};
use tokio_util::sync::CancellationToken;

use super::{
    Error,
    frame::{self, Control, FIN, Head},
    headers::{Compressor, Decompressor},
};
use crate::stream::{Command, Headers, PIECE, REFUSED_STREAM, Stream, UNREAD, UNSENT};

/// More than any client has open at once.
const MAX_STREAMS: usize = 1000;
const MAX_CONTROL: usize = 64 << 10;
const LINGER: Duration = Duration::from_secs(5);

/// Which end of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Opens odd streams.
    Client,
    /// Opens even streams.
    Server,
}

/// What the reader knows of a stream.
struct Entry {
    /// `None` once the peer has finished.
    queue: Option<mpsc::Sender<Bytes>>,
    /// Tells the writing half that the peer has reset the stream.
    reset: Arc<AtomicBool>,
    /// Waits for the SYN_REPLY.
    reply: Option<oneshot::Sender<()>>,
    /// This end has finished.
    finished: bool,
}

struct Shared {
    streams: Mutex<HashMap<u32, Entry>>,
    last_received: AtomicU32,
    next: AtomicU32,
    closed: CancellationToken,
}

/// A handle on the connection; it lives as long as a handle or a stream does.
#[derive(Clone)]
pub struct Connection {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    opening: Arc<tokio::sync::Mutex<()>>,
}

/// The streams that the peer opens.
pub struct Incoming(mpsc::Receiver<Offer>);

impl Incoming {
    /// The next one, `None` once the connection is gone or the peer will open no more.
    pub async fn next(&mut self) -> Option<Offer> {
        self.0.recv().await
    }
}

/// A stream that the peer would like to open. Dropped, it is refused.
pub struct Offer {
    stream: Option<Stream>,
    commands: mpsc::Sender<Command>,
}

impl Offer {
    /// What it is for.
    pub fn headers(&self) -> &Headers {
        const NONE: &Headers = &Headers(Vec::new());
        self.stream.as_ref().map_or(NONE, Stream::headers)
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.stream.as_ref().map_or(0, Stream::id)
    }

    /// Takes the stream.
    pub async fn accept(mut self) -> Result<Stream, Error> {
        let stream = self.stream.take().ok_or(Error::Closed)?;
        self.commands.send(Command::Reply { id: stream.id() }).await.map_err(|_| Error::Closed)?;
        Ok(stream)
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            stream.refuse();
        }
    }
}

impl Connection {
    /// Runs a connection over `io`.
    pub fn new<T>(io: T, role: Role) -> Result<(Self, Incoming), Error>
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (commands, asked) = mpsc::channel(UNSENT);
        let (offers, incoming) = mpsc::channel(UNREAD);
        let first = if role == Role::Client { 1 } else { 2 };
        let shared = Arc::new(Shared {
            streams: Mutex::default(),
            last_received: AtomicU32::new(0),
            next: AtomicU32::new(first),
            closed: CancellationToken::new(),
        });
        let (read, write) = tokio::io::split(io);
        let reader = Reader {
            io: BufReader::with_capacity(PIECE, read),
            shared: shared.clone(),
            commands: commands.downgrade(),
            offers: Some(offers),
            inflate: Decompressor::default(),
            role,
        };
        let compress = Compressor::new()?;
        tokio::spawn(reader.run());
        tokio::spawn(write_frames(write, asked, compress, shared.clone()));
        Ok((Self { commands, shared, opening: Arc::default() }, Incoming(incoming)))
    }

    /// Opens a stream and waits until the peer has accepted it.
    pub async fn open(&self, headers: Headers) -> Result<Stream, Error> {
        let (reply, replied) = oneshot::channel();
        let (queue, incoming) = mpsc::channel(UNREAD);
        let reset = Arc::new(AtomicBool::new(false));
        let entry = Entry { queue: Some(queue), reset: reset.clone(), reply: Some(reply), finished: false };
        let id = {
            // Ids must reach the wire in order.
            let _turn = self.opening.lock().await;
            if self.shared.closed.is_cancelled() {
                return Err(Error::Closed);
            }
            let id = self.shared.next.fetch_add(2, Ordering::Relaxed);
            self.shared.streams.lock().insert(id, entry);
            let open = Command::Open { id, headers: headers.clone() };
            self.commands.send(open).await.map_err(|_| Error::Closed)?;
            id
        };
        let stream = Stream::new(id, headers, incoming, self.commands.clone(), reset);
        replied.await.map_err(|_| Error::Reset)?;
        Ok(stream)
    }

    /// Says GOAWAY behind everything written so far and waits until that is on its way.
    pub async fn close(self) {
        let _ = self.commands.send(Command::Close).await;
        self.commands.closed().await;
    }

    /// Resolves when the peer is gone.
    pub async fn closed(&self) {
        self.shared.closed.cancelled().await;
    }
}

async fn write_frames<T: AsyncWrite + Send>(
    io: WriteHalf<T>,
    mut asked: mpsc::Receiver<Command>,
    mut compress: Compressor,
    shared: Arc<Shared>,
) {
    let mut io = BufWriter::with_capacity(PIECE + 16, io);
    let mut written = Ok(());
    let mut said_goodbye = false;
    while written.is_ok() && !said_goodbye {
        let command = match asked.try_recv() {
            Ok(command) => Some(command),
            Err(_) => {
                if io.flush().await.is_err() {
                    break;
                }
                asked.recv().await
            }
        };
        let command = command.unwrap_or(Command::Close);
        said_goodbye = command == Command::Close;
        written = write_one(&mut io, command, &mut compress, &shared).await;
    }
    asked.close();
    let _ = io.shutdown().await;
    if written.is_err() {
        shared.closed.cancel();
    }
    // A peer that does not hang up is hung up on.
    if tokio::time::timeout(LINGER, shared.closed.cancelled()).await.is_err() {
        shared.closed.cancel();
    }
}

async fn write_one<T: AsyncWrite + Unpin>(
    io: &mut T,
    command: Command,
    compress: &mut Compressor,
    shared: &Shared,
) -> Result<(), Error> {
    if let Command::Finish { id } | Command::Reset { id, .. } = &command {
        let mut streams = shared.streams.lock();
        let over = match streams.get_mut(id) {
            Some(entry) => {
                entry.finished = true;
                entry.queue.is_none() || matches!(command, Command::Reset { .. })
            }
            None => false,
        };
        if over {
            streams.remove(id);
        }
    }
    let head = frame::encode(&command, compress, shared.last_received.load(Ordering::Relaxed))?;
    io.write_all(&head).await?;
    if let Command::Data { bytes, .. } = &command {
        io.write_all(bytes).await?;
    }
    Ok(())
}

struct Reader<T> {
    io: BufReader<ReadHalf<T>>,
    shared: Arc<Shared>,
    commands: mpsc::WeakSender<Command>,
    offers: Option<mpsc::Sender<Offer>>,
    inflate: Decompressor,
    role: Role,
}

impl<T: AsyncRead + Send> Reader<T> {
    async fn run(mut self) {
        let closed = self.shared.closed.clone();
        let ended = tokio::select! {
            ended = self.frames() => ended,
            () = closed.cancelled() => Ok(()),
        };
        if let Err(error) = ended {
            tracing::debug!(error = &error as &dyn std::error::Error, "SPDY connection ended");
        }
        closed.cancel();
        for (_, entry) in self.shared.streams.lock().drain() {
            entry.reset.store(true, Ordering::Relaxed);
        }
    }

    async fn frames(&mut self) -> Result<(), Error> {
        loop {
            let mut bytes = [0; 8];
            match self.io.read_exact(&mut bytes).await {
                Ok(_) => {}
                Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(e) => return Err(e.into()),
            }
            match frame::head(bytes)? {
                Head::Data { id, flags, length } => self.data(id, flags, length).await?,
                Head::Control { kind, flags, length } => {
                    if length > MAX_CONTROL {
                        return Err(Error::Protocol("control frame too large"));
                    }
                    let mut payload = vec![0; length];
                    self.io.read_exact(&mut payload).await?;
                    let control = frame::control(kind, flags, &payload, &mut self.inflate)?;
                    self.act(control).await;
                }
            }
        }
    }

    /// A data frame in pieces, so that its length (up to 16 MiB) is not what we hold in memory.
    async fn data(&mut self, id: u32, flags: u8, mut length: usize) -> Result<(), Error> {
        let mut queue = self.shared.streams.lock().get(&id).and_then(|e| e.queue.clone());
        while length > 0 {
            let mut piece = BytesMut::zeroed(length.min(PIECE));
            self.io.read_exact(&mut piece).await?;
            length -= piece.len();
            // A stream nobody reads any more swallows its data.
            let gone = match &queue {
                Some(queue) => queue.send(piece.freeze()).await.is_err(),
                None => false,
            };
            if gone {
                queue = None;
            }
        }
        if flags & FIN != 0 {
            self.finished(id);
        }
        Ok(())
    }

    /// The peer has finished a stream.
    fn finished(&self, id: u32) {
        let mut streams = self.shared.streams.lock();
        let Some(entry) = streams.get_mut(&id) else { return };
        entry.queue = None;
        if entry.finished {
            streams.remove(&id);
        }
    }

    async fn tell(&mut self, command: Command) {
        if let Some(commands) = self.commands.upgrade() {
            let _ = commands.send(command).await;
        }
    }

    async fn act(&mut self, control: Control) {
        match control {
            Control::Open { id, headers, fin } => self.open(id, headers, fin).await,
            Control::Reply { id, fin } => {
                let reply = self.shared.streams.lock().get_mut(&id).and_then(|e| e.reply.take());
                if let Some(reply) = reply {
                    let _ = reply.send(());
                }
                if fin {
                    self.finished(id);
                }
            }
            Control::Headers { id, fin: true } => self.finished(id),
            Control::Reset { id } => {
                if let Some(entry) = self.shared.streams.lock().remove(&id) {
                    entry.reset.store(true, Ordering::Relaxed);
                }
            }
            Control::Ping { id } if (id % 2 == 1) == (self.role == Role::Server) => {
                self.tell(Command::Ping { id }).await;
            }
            Control::GoAway => self.offers = None,
            Control::Ping { .. } | Control::Headers { .. } | Control::Other => {}
        }
    }

    async fn open(&mut self, id: u32, headers: Headers, fin: bool) {
        let theirs = (id % 2 == 1) == (self.role == Role::Server);
        let last = self.shared.last_received.load(Ordering::Relaxed);
        let crowded = self.shared.streams.lock().len() >= MAX_STREAMS;
        let (Some(offers), Some(commands)) = (&self.offers, self.commands.upgrade()) else { return };
        if !theirs || id <= last || crowded {
            return self.tell(Command::Reset { id, status: REFUSED_STREAM }).await;
        }
        self.shared.last_received.store(id, Ordering::Relaxed);
        let (queue, incoming) = mpsc::channel(UNREAD);
        let reset = Arc::new(AtomicBool::new(false));
        let queue = (!fin).then_some(queue);
        let entry = Entry { queue, reset: reset.clone(), reply: None, finished: false };
        self.shared.streams.lock().insert(id, entry);
        let stream = Stream::new(id, headers, incoming, commands.clone(), reset);
        // Where nobody takes offers any more, dropping it refuses the stream.
        let _ = offers.send(Offer { stream: Some(stream), commands }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> ((Connection, Incoming), (Connection, Incoming)) {
        let (a, b) = tokio::io::duplex(1 << 16);
        (Connection::new(a, Role::Client).unwrap(), Connection::new(b, Role::Server).unwrap())
    }

    #[tokio::test]
    async fn streams_carry_bytes_both_ways_and_close_by_half() {
        let ((client, _), (server, mut incoming)) = pair();
        let echo = tokio::spawn(async move {
            let _server = server;
            while let Some(offer) = incoming.next().await {
                let (mut receive, mut send) = offer.accept().await.unwrap().into_split();
                tokio::spawn(async move {
                    tokio::io::copy(&mut receive, &mut send).await.unwrap();
                    send.shutdown().await.unwrap();
                });
            }
        });
        let payload: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
        for _ in 0..3 {
            let stream = client.open(Headers::of(&[("streamtype", "data")])).await.unwrap();
            let (mut receive, mut send) = stream.into_split();
            let sent = payload.clone();
            let sender = tokio::spawn(async move {
                send.write_all(&sent).await.unwrap();
                send.shutdown().await.unwrap();
            });
            let mut got = Vec::new();
            receive.read_to_end(&mut got).await.unwrap();
            sender.await.unwrap();
            assert!(got == payload);
        }
        assert!(client.shared.streams.lock().is_empty());
        client.close().await;
        echo.await.unwrap();
    }

    #[tokio::test]
    async fn a_refused_stream_is_an_error_and_harms_no_other() {
        let ((client, _), (_server, mut incoming)) = pair();
        let other = tokio::spawn(async move {
            drop(incoming.next().await);
            let offer = incoming.next().await.unwrap();
            assert_eq!(offer.headers().get("streamType"), "error");
            offer.accept().await.unwrap()
        });
        assert!(matches!(client.open(Headers::of(&[("streamtype", "data")])).await, Err(Error::Reset)));
        let ours = client.open(Headers::of(&[("streamtype", "error")])).await.unwrap();
        assert_eq!((ours.id(), other.await.unwrap().id()), (3, 3));
    }

    #[tokio::test]
    async fn the_end_of_the_connection_ends_streams() {
        let ((client, _), (server, mut incoming)) = pair();
        let accepted = tokio::spawn(async move { incoming.next().await.unwrap().accept().await.unwrap() });
        let mut ours = client.open(Headers::default()).await.unwrap();
        let mut theirs = accepted.await.unwrap();
        theirs.write_all(b"last words").await.unwrap();
        server.close().await;
        let mut got = Vec::new();
        ours.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"last words");
    }
}
