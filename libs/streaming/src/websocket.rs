//! WebSockets in Kubernetes' two uses: messages that begin with a channel's number ([`channels`]), and messages that are
//! just bytes of another protocol ([`Tunnel`]).

use std::{
    io,
    pin::Pin,
    sync::{Arc, atomic::AtomicBool},
    task::{Context, Poll, ready},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{Buf, Bytes};
use futures::{Sink, SinkExt, Stream as _, StreamExt, stream::SplitSink, stream::SplitStream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message, Utf8Bytes,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};
use tokio_util::sync::CancellationToken;

use crate::stream::{Command, Headers, PIECE, Stream, UNREAD, UNSENT};

const LINGER: Duration = Duration::from_secs(5);
/// No client sends more in one message.
const MAX_MESSAGE: usize = 4 << 20;
/// The channel on which v5 says that another one has ended.
const CLOSE: u8 = 255;

/// How a channel protocol writes its messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Format {
    /// The channel as a digit and the payload as base64, in text messages.
    pub base64: bool,
    /// `[255, channel]` ends a channel (v5).
    pub close_signal: bool,
}

/// Speaks WebSocket on a connection that is upgraded already.
pub async fn upgraded<T: AsyncRead + AsyncWrite + Unpin>(io: T, role: Role) -> WebSocketStream<T> {
    let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    WebSocketStream::from_raw_socket(io, role, Some(config)).await
}

/// Ends a connection of channels.
#[derive(Clone, Debug)]
pub struct Closer {
    commands: mpsc::Sender<Command>,
}

impl Closer {
    /// Says goodbye behind everything written so far and waits until that is on its way.
    pub async fn close(self) {
        let _ = self.commands.send(Command::Close).await;
        self.commands.closed().await;
    }
}

/// Runs channels 0 to `count`-1 over a WebSocket.
pub fn channels<T>(socket: WebSocketStream<T>, count: u8, format: Format, role: Role) -> (Vec<Stream>, Closer)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (commands, asked) = mpsc::channel(UNSENT);
    let (sink, source) = socket.split();
    let mut queues = Vec::new();
    let mut streams = Vec::new();
    let reset = Arc::new(AtomicBool::new(false));
    for id in 0..u32::from(count) {
        let (queue, incoming) = mpsc::channel(UNREAD);
        queues.push(Some(queue));
        streams.push(Stream::new(id, Headers::default(), incoming, commands.clone(), reset.clone()));
    }
    let closed = CancellationToken::new();
    tokio::spawn(read(source, queues, format, reset, closed.clone()));
    // Servers never send the close signal: clients know it in one direction only.
    let signals = format.close_signal && role == Role::Client;
    tokio::spawn(write(sink, asked, Format { close_signal: signals, ..format }, closed));
    (streams, Closer { commands })
}

/// What a message means.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    Data(u8, Bytes),
    End(u8),
    Nothing,
}

fn meaning(message: Message, format: Format) -> Meaning {
    let mut bytes = match message {
        Message::Binary(bytes) => bytes,
        Message::Text(text) => text.into(),
        _ => return Meaning::Nothing,
    };
    if bytes.is_empty() {
        return Meaning::Nothing;
    }
    let channel = bytes.get_u8();
    if format.base64 {
        return match (channel.checked_sub(b'0'), STANDARD.decode(&bytes)) {
            (Some(channel), Ok(data)) => Meaning::Data(channel, data.into()),
            _ => Meaning::Nothing,
        };
    }
    match bytes.first() {
        Some(ended) if channel == CLOSE && format.close_signal => Meaning::End(*ended),
        _ => Meaning::Data(channel, bytes),
    }
}

async fn read<T: AsyncRead + AsyncWrite + Unpin>(
    mut source: SplitStream<WebSocketStream<T>>,
    mut queues: Vec<Option<mpsc::Sender<Bytes>>>,
    format: Format,
    reset: Arc<AtomicBool>,
    closed: CancellationToken,
) {
    while let Some(Ok(message)) = tokio::select! {
        message = source.next() => message,
        () = closed.cancelled() => None,
    } {
        match meaning(message, format) {
            Meaning::Data(channel, bytes) if !bytes.is_empty() => {
                let Some(slot) = queues.get_mut(usize::from(channel)) else { continue };
                let gone = match slot {
                    Some(queue) => queue.send(bytes).await.is_err(),
                    None => false,
                };
                if gone {
                    *slot = None;
                }
            }
            Meaning::End(channel) => {
                if let Some(slot) = queues.get_mut(usize::from(channel)) {
                    *slot = None;
                }
            }
            Meaning::Data(..) | Meaning::Nothing => {}
        }
    }
    reset.store(true, std::sync::atomic::Ordering::Relaxed);
    closed.cancel();
}

/// The message that a command becomes, if any.
fn message(command: Command, format: Format) -> Option<Message> {
    match command {
        Command::Data { id, bytes } if format.base64 => Some(Message::text(format!("{id}{}", STANDARD.encode(&bytes)))),
        Command::Data { id, bytes } => {
            let mut out = Vec::with_capacity(bytes.len() + 1);
            out.push(id as u8);
            out.extend_from_slice(&bytes);
            Some(Message::binary(out))
        }
        Command::Finish { id } | Command::Reset { id, .. } if format.close_signal => {
            Some(Message::binary(vec![CLOSE, id as u8]))
        }
        _ => None,
    }
}

fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::from_static("") }))
}

async fn write<T: AsyncRead + AsyncWrite + Unpin>(
    mut sink: SplitSink<WebSocketStream<T>, Message>,
    mut asked: mpsc::Receiver<Command>,
    format: Format,
    closed: CancellationToken,
) {
    loop {
        let command = match asked.try_recv() {
            Ok(command) => command,
            Err(_) => {
                if sink.flush().await.is_err() {
                    break;
                }
                tokio::select! {
                    command = asked.recv() => command.unwrap_or(Command::Close),
                    () = closed.cancelled() => Command::Close,
                }
            }
        };
        if command == Command::Close {
            break;
        }
        if let Some(message) = message(command, format)
            && sink.feed(message).await.is_err()
        {
            break;
        }
    }
    asked.close();
    // Clients take a close without a code for a failure.
    let _ = sink.send(goodbye()).await;
    let _ = sink.close().await;
    let _ = tokio::time::timeout(LINGER, closed.cancelled()).await;
    closed.cancel();
}

/// Bytes inside binary messages: what port-forward's `SPDY/3.1+portforward.k8s.io` runs its SPDY over.
#[derive(Debug)]
pub struct Tunnel<T> {
    socket: WebSocketStream<T>,
    pending: Bytes,
}

impl<T> Tunnel<T> {
    /// A tunnel through `socket`.
    pub fn new(socket: WebSocketStream<T>) -> Self {
        Self { socket, pending: Bytes::new() }
    }
}

fn other(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(error) => error,
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => io::ErrorKind::BrokenPipe.into(),
        error => io::Error::other(error),
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tunnel<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.pending.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.pending = bytes,
                Some(Ok(Message::Text(text))) => self.pending = text.into(),
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Ok(_)) => {}
                Some(Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed)) => {
                    return Poll::Ready(Ok(()));
                }
                // Clients hang up without a closing handshake; SPDY inside has said what there was to say.
                Some(Err(tungstenite::Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake))) => {
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => return Poll::Ready(Err(other(error))),
            }
        }
        let count = self.pending.len().min(out.remaining());
        out.put_slice(&self.pending[..count]);
        self.pending.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Tunnel<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(other)?;
        let count = data.len().min(PIECE);
        let message = Message::binary(data[..count].to_vec());
        Pin::new(&mut self.socket).start_send(message).map_err(other)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(other)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx).map_err(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_mean_channels() {
        let (binary, base64) = (Format::default(), Format { base64: true, close_signal: false });
        let v5 = Format { base64: false, close_signal: true };
        let cases = [
            (Message::binary(vec![1, 104, 105]), binary, Meaning::Data(1, Bytes::from_static(b"hi"))),
            (Message::text("0aGk="), base64, Meaning::Data(0, Bytes::from_static(b"hi"))),
            (Message::text("0%%"), base64, Meaning::Nothing),
            (Message::binary(vec![255, 0]), v5, Meaning::End(0)),
            (Message::binary(vec![255, 0]), binary, Meaning::Data(255, Bytes::from_static(&[0]))),
            (Message::binary(vec![]), v5, Meaning::Nothing),
        ];
        for (message, format, want) in cases {
            assert_eq!(meaning(message, format), want);
        }
    }

    #[tokio::test]
    async fn pings_are_answered_while_nothing_else_happens() {
        let (near, far) = tokio::io::duplex(1 << 10);
        let server = upgraded(far, Role::Server).await;
        let (_streams, _closer) = channels(server, 5, Format::default(), Role::Server);
        let mut client = upgraded(near, Role::Client).await;
        client.send(Message::Ping(Bytes::from_static(b"x"))).await.unwrap();
        assert_eq!(client.next().await.unwrap().unwrap(), Message::Pong(Bytes::from_static(b"x")));
    }

    #[test]
    fn commands_become_messages() {
        let data = || Command::Data { id: 2, bytes: Bytes::from_static(b"hi") };
        let v5 = Format { base64: false, close_signal: true };
        let base64 = Format { base64: true, close_signal: false };
        assert_eq!(message(data(), v5), Some(Message::binary(vec![2, 104, 105])));
        assert_eq!(message(data(), base64), Some(Message::text("2aGk=")));
        assert_eq!(message(Command::Finish { id: 0 }, v5), Some(Message::binary(vec![255, 0])));
        assert_eq!(message(Command::Finish { id: 0 }, base64), None);
    }
}
