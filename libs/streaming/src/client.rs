//! The client's end: what `kubectl exec` and `port-forward` do on a connection that is upgraded already.

use http::{HeaderMap, HeaderValue, header};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::{handshake::client::generate_key, protocol::Role as WsRole};

use crate::{
    command::{Options, Size, format},
    forward::TUNNEL,
    negotiate::{Agreed, STREAM_PROTOCOL, Wire},
    spdy::{self, Connection, Role},
    stream::{Headers, Receive, Send, Stream},
    websocket::{self, Closer, Tunnel},
};

/// The headers of a request for an upgrade to one of `protocols`.
pub fn upgrade_headers(wire: Wire, protocols: &[&'static str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    match wire {
        Wire::Spdy => {
            headers.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
            for protocol in protocols {
                headers.append(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
            }
        }
        Wire::WebSocket => {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            for (name, value) in
                [(header::SEC_WEBSOCKET_KEY, generate_key()), (header::SEC_WEBSOCKET_PROTOCOL, protocols.join(", "))]
            {
                // Both are plain ASCII.
                if let Ok(value) = HeaderValue::from_str(&value) {
                    headers.insert(name, value);
                }
            }
        }
    }
    headers
}

/// What the server's 101 agreed to.
pub fn agreed(headers: &HeaderMap) -> Option<Agreed> {
    let wire = crate::negotiate::wire(headers)?;
    let name = match wire {
        Wire::Spdy => STREAM_PROTOCOL,
        Wire::WebSocket => header::SEC_WEBSOCKET_PROTOCOL,
    };
    let protocol = headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("").to_owned();
    Some(Agreed { wire, protocol })
}

enum Handle {
    Spdy { _connection: Connection },
    WebSocket { _closer: Closer },
}

/// A command under way, seen from the client.
pub struct Command {
    /// Takes input; shut down, it ends the command's input (not on WebSockets before v5).
    pub stdin: Option<Send>,
    /// Output.
    pub stdout: Option<Receive>,
    /// Errors.
    pub stderr: Option<Receive>,
    /// The `Status` (v4, v5) or text that says how it ended.
    pub error: Receive,
    resize: Option<Send>,
    _idle: Vec<Send>,
    _handle: Handle,
}

impl Command {
    /// Opens the streams of a command.
    pub async fn open<T>(io: T, agreed: &Agreed, options: Options) -> Result<Self, spdy::Error>
    where
        T: AsyncRead + AsyncWrite + Unpin + std::marker::Send + 'static,
    {
        match agreed.wire {
            Wire::WebSocket => Self::over_websocket(io, &agreed.protocol, options).await,
            Wire::Spdy => Self::over_spdy(io, &agreed.protocol, options).await,
        }
    }

    async fn over_spdy<T>(io: T, protocol: &str, options: Options) -> Result<Self, spdy::Error>
    where
        T: AsyncRead + AsyncWrite + std::marker::Send + 'static,
    {
        let (connection, _) = Connection::new(io, Role::Client)?;
        let open = async |wanted: bool, kind: &str| -> Result<Option<Stream>, spdy::Error> {
            match wanted {
                true => connection.open(Headers::of(&[("streamtype", kind)])).await.map(Some),
                false => Ok(None),
            }
        };
        let error = open(true, "error").await?.ok_or(spdy::Error::Closed)?;
        let stdin = open(options.stdin, "stdin").await?;
        let stdout = open(options.stdout, "stdout").await?;
        let stderr = open(options.stderr && !options.tty, "stderr").await?;
        let resizable = options.tty && (protocol.starts_with("v4.") || protocol.starts_with("v3."));
        let resize = open(resizable, "resize").await?;
        let mut idle = Vec::new();
        let mut output = |stream: Stream| {
            let (receive, send) = stream.into_split();
            idle.push(send);
            receive
        };
        Ok(Self {
            stdin: stdin.map(|s| s.into_split().1),
            stdout: stdout.map(&mut output),
            stderr: stderr.map(&mut output),
            error: output(error),
            resize: resize.map(|s| s.into_split().1),
            _idle: idle,
            _handle: Handle::Spdy { _connection: connection },
        })
    }

    async fn over_websocket<T>(io: T, protocol: &str, options: Options) -> Result<Self, spdy::Error>
    where
        T: AsyncRead + AsyncWrite + Unpin + std::marker::Send + 'static,
    {
        let socket = websocket::upgraded(io, WsRole::Client).await;
        let (streams, closer) = websocket::channels(socket, 5, format(protocol), WsRole::Client);
        let mut halves = streams.into_iter().map(Stream::into_split);
        let mut next = || halves.next().ok_or(spdy::Error::Closed);
        let (stdin, stdout, stderr, error, resize) = (next()?, next()?, next()?, next()?, next()?);
        Ok(Self {
            stdin: options.stdin.then_some(stdin.1),
            stdout: options.stdout.then_some(stdout.0),
            stderr: options.stderr.then_some(stderr.0),
            error: error.0,
            resize: options.tty.then_some(resize.1),
            // Ending a channel that carries output would only puzzle the server.
            _idle: vec![stdout.1, stderr.1, error.1],
            _handle: Handle::WebSocket { _closer: closer },
        })
    }

    /// Tells the terminal's size.
    pub async fn resize(&mut self, size: Size) -> std::io::Result<()> {
        match &mut self.resize {
            Some(resize) => {
                let text = format!("{{\"Width\":{},\"Height\":{}}}\n", size.width, size.height);
                resize.write_all(text.as_bytes()).await
            }
            None => Ok(()),
        }
    }
}

/// A port-forward session, seen from the client.
#[derive(Clone)]
pub struct PortForward {
    connection: Connection,
    requests: std::sync::Arc<std::sync::atomic::AtomicU32>,
}

impl PortForward {
    /// Begins a session over SPDY, or over SPDY inside a WebSocket.
    pub async fn open<T>(io: T, agreed: &Agreed) -> Result<Self, spdy::Error>
    where
        T: AsyncRead + AsyncWrite + Unpin + std::marker::Send + 'static,
    {
        let (connection, _) = match (agreed.wire, agreed.protocol.as_str()) {
            (Wire::Spdy, _) => Connection::new(io, Role::Client)?,
            (Wire::WebSocket, TUNNEL) => {
                Connection::new(Tunnel::new(websocket::upgraded(io, WsRole::Client).await), Role::Client)?
            }
            (Wire::WebSocket, _) => return Err(spdy::Error::Protocol("port-forward needs a tunnelling WebSocket")),
        };
        Ok(Self { connection, requests: std::sync::Arc::default() })
    }

    /// A connection to a port of the pod: its bytes, and the stream on which a failure would be told.
    pub async fn connect(&self, port: u16) -> Result<(Stream, Receive), spdy::Error> {
        let request = self.requests.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_string();
        let port = port.to_string();
        let headers = |kind: &str| Headers::of(&[("streamtype", kind), ("port", &port), ("requestid", &request)]);
        let error = self.connection.open(headers("error")).await?;
        // Nothing is ever said by the client on it.
        let (error, _) = error.into_split();
        let data = self.connection.open(headers("data")).await?;
        Ok((data, error))
    }

    /// Ends the session.
    pub async fn close(self) {
        self.connection.close().await;
    }

    /// Resolves when the server is gone.
    pub async fn closed(&self) {
        self.connection.closed().await;
    }
}
