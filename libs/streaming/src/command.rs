//! The end that has the container, for `exec` and `attach`: [`upgrade`] answers the request, [`Pending::streams`] then
//! yields the streams, whichever wire the client chose.
//!
//! ```ignore
//! let (response, pending) = command::upgrade(&mut request, Options::from_query(query)?)?;
//! tokio::spawn(async move {
//!     let command = pending.streams().await?;      // stdin, stdout, stderr, resize as far as asked for
//!     let code = run(command.stdin, command.stdout, command.stderr, command.resize).await;
//!     command.exit.send(Exit::Code(code)).await;   // says goodbye behind all output
//! });
//! return response.map(|()| Body::empty());
//! ```

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::protocol::Role as WsRole;

use crate::{
    negotiate::{self, Agreed, Rejection, Wire},
    spdy::{self, Connection, Role},
    stream::{Receive, Send},
    websocket::{self, Closer, Format},
};

/// The versions on SPDY, best first.
pub const SPDY_PROTOCOLS: &[&str] = &["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
/// The versions on WebSockets, best first.
pub const WEBSOCKET_PROTOCOLS: &[&str] =
    &["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io", "base64.channel.k8s.io"];

/// How long a client may take to open its streams (upstream's `--stream-creation-timeout`).
const CREATION: Duration = Duration::from_secs(30);

/// Which streams a command has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The client sends input.
    pub stdin: bool,
    /// The client takes output.
    pub stdout: bool,
    /// The client takes errors (never with a terminal).
    pub stderr: bool,
    /// There is a terminal, whose size changes.
    pub tty: bool,
}

impl Options {
    /// From a query as the kubelet takes it: `input=1&output=1&error=1&tty=1`, or the API's `stdin=true&…`.
    pub fn from_query(query: &str) -> Result<Self, Rejection> {
        let mut options = Self::default();
        for pair in query.split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let on = matches!(value, "1" | "true" | "True" | "TRUE" | "t" | "T");
            match key {
                "input" | "stdin" => options.stdin = on,
                "output" | "stdout" => options.stdout = on,
                "error" | "stderr" => options.stderr = on,
                "tty" => options.tty = on,
                _ => {}
            }
        }
        options.checked()
    }

    /// A terminal has no separate errors; something must be streamed.
    pub fn checked(mut self) -> Result<Self, Rejection> {
        self.stderr &= !self.tty;
        if self.stdin || self.stdout || self.stderr {
            return Ok(self);
        }
        Err(Rejection::bad_request("you must specify at least 1 of stdin, stdout, stderr"))
    }
}

/// A terminal's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Size {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// The terminal's sizes as they change.
#[derive(Debug)]
pub struct Resizes {
    receive: Receive,
    buffer: Vec<u8>,
}

impl Resizes {
    /// The next size, `None` when there will be none.
    pub async fn next(&mut self) -> Option<Size> {
        loop {
            // Sizes are JSON documents one behind the other, cut anywhere.
            let mut documents = serde_json::Deserializer::from_slice(&self.buffer).into_iter::<Size>();
            match documents.next() {
                Some(Ok(size)) => {
                    let used = documents.byte_offset();
                    self.buffer.drain(..used);
                    return Some(size);
                }
                Some(Err(error)) if !error.is_eof() => return None,
                _ => {}
            }
            if self.buffer.len() > 1 << 12 {
                return None;
            }
            self.buffer.extend_from_slice(&self.receive.next().await?);
        }
    }
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// Not by itself: the message for the user.
    Error(String),
}

/// A `Status` as v4 and later send it.
fn status(exit: &Exit) -> serde_json::Value {
    match exit {
        Exit::Code(0) => json!({"metadata": {}, "status": "Success"}),
        Exit::Code(code) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Exit::Error(message) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("Internal error occurred: {message}"),
            "reason": "InternalError",
            "details": {"causes": [{"message": message}]},
            "code": 500,
        }),
    }
}

/// What goes into the error stream; versions before v4 know a text only.
fn last_words(exit: &Exit, as_status: bool) -> String {
    match exit {
        exit if as_status => status(exit).to_string(),
        Exit::Code(0) => String::new(),
        Exit::Code(code) => format!("command terminated with non-zero exit code: exit status {code}"),
        Exit::Error(message) => message.clone(),
    }
}

enum Session {
    Spdy(Connection),
    WebSocket(Closer),
}

/// Reports the end and closes the connection. Dropped unsent, the connection ends without a word.
pub struct ExitStatus {
    error: Send,
    session: Session,
    as_status: bool,
    _idle: Vec<Send>,
}

impl ExitStatus {
    /// Sends it behind all that has been written to stdout and stderr; end those first.
    pub async fn send(mut self, exit: Exit) {
        let words = last_words(&exit, self.as_status);
        if !words.is_empty() {
            let _ = self.error.write_all(words.as_bytes()).await;
        }
        let _ = self.error.shutdown().await;
        match self.session {
            Session::Spdy(connection) => connection.close().await,
            Session::WebSocket(closer) => closer.close().await,
        }
    }
}

/// A client's streams, as far as it asked for them.
pub struct RemoteCommand {
    /// Input; ends where the client's ends.
    pub stdin: Option<Receive>,
    /// Output.
    pub stdout: Option<Send>,
    /// Errors.
    pub stderr: Option<Send>,
    /// Sizes of the terminal.
    pub resize: Option<Resizes>,
    /// How it ended.
    pub exit: ExitStatus,
}

/// Why the streams did not come about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The HTTP connection was not handed over.
    #[error("take over the connection")]
    Upgrade(#[from] hyper::Error),
    /// SPDY failed.
    #[error("open SPDY streams")]
    Spdy(#[from] spdy::Error),
    /// The client did not open all streams in time, or left.
    #[error("timed out waiting for client to create streams")]
    Creation,
}

/// A request that has been answered 101.
pub struct Pending {
    upgrade: OnUpgrade,
    agreed: Agreed,
    options: Options,
}

/// Answers an `exec` or `attach` request.
pub fn upgrade<B>(request: &mut Request<B>, options: Options) -> Result<(Response<()>, Pending), Rejection> {
    let options = options.checked()?;
    let (agreed, response) = negotiate::agree(request.headers(), SPDY_PROTOCOLS, WEBSOCKET_PROTOCOLS)?;
    Ok((response, Pending { upgrade: hyper::upgrade::on(request), agreed, options }))
}

impl Pending {
    /// The streams, once the response is out and the client has opened them.
    pub async fn streams(self) -> Result<RemoteCommand, Error> {
        let io = TokioIo::new(self.upgrade.await?);
        streams(io, &self.agreed, self.options).await
    }
}

/// The streams over a connection that is upgraded already.
pub async fn streams<T>(io: T, agreed: &Agreed, options: Options) -> Result<RemoteCommand, Error>
where
    T: AsyncRead + AsyncWrite + Unpin + std::marker::Send + 'static,
{
    match agreed.wire {
        Wire::Spdy => {
            tokio::time::timeout(CREATION, over_spdy(io, &agreed.protocol, options)).await.map_err(|_| Error::Creation)?
        }
        Wire::WebSocket => over_websocket(io, &agreed.protocol, options).await,
    }
}

async fn over_spdy<T>(io: T, protocol: &str, options: Options) -> Result<RemoteCommand, Error>
where
    T: AsyncRead + AsyncWrite + std::marker::Send + 'static,
{
    let (connection, mut incoming) = Connection::new(io, Role::Server)?;
    let as_status = protocol.starts_with("v4.");
    let resizable = options.tty && (as_status || protocol.starts_with("v3."));
    let wanted = [true, options.stdin, options.stdout, options.stderr, resizable].iter().filter(|w| **w).count();
    let (mut error, mut stdin, mut stdout, mut stderr, mut resize) = (None, None, None, None, None);
    let mut received = 0;
    while received < wanted {
        let offer = incoming.next().await.ok_or(Error::Creation)?;
        let slot = match offer.headers().get("streamtype") {
            "error" => &mut error,
            "stdin" if options.stdin => &mut stdin,
            "stdout" if options.stdout => &mut stdout,
            "stderr" if options.stderr => &mut stderr,
            "resize" if resizable => &mut resize,
            _ => continue,
        };
        if slot.is_none() {
            received += 1;
        }
        *slot = Some(offer.accept().await?);
    }
    // Offers of more streams are refused when `incoming` goes.
    let error = error.ok_or(Error::Creation)?.into_split().1;
    // The unused direction of input stays open until the end: a client that sees it finish stops sending.
    let mut idle = Vec::new();
    let mut input = |stream: crate::Stream| {
        let (receive, send) = stream.into_split();
        idle.push(send);
        receive
    };
    Ok(RemoteCommand {
        stdin: stdin.map(&mut input),
        resize: resize.map(|s| Resizes { receive: input(s), buffer: Vec::new() }),
        stdout: stdout.map(|s| s.into_split().1),
        stderr: stderr.map(|s| s.into_split().1),
        exit: ExitStatus { error, session: Session::Spdy(connection), as_status, _idle: idle },
    })
}

async fn over_websocket<T>(io: T, protocol: &str, options: Options) -> Result<RemoteCommand, Error>
where
    T: AsyncRead + AsyncWrite + Unpin + std::marker::Send + 'static,
{
    let format = format(protocol);
    let socket = websocket::upgraded(io, WsRole::Server).await;
    let (streams, closer) = websocket::channels(socket, 5, format, WsRole::Server);
    let mut halves = streams.into_iter().map(crate::Stream::into_split);
    let (Some(stdin), Some(stdout), Some(stderr), Some(error), Some(resize)) =
        (halves.next(), halves.next(), halves.next(), halves.next(), halves.next())
    else {
        return Err(Error::Creation);
    };
    let (mut stdout, mut stderr, mut error) = (stdout.1, stderr.1, error.1);
    // An empty message on the first channel that will be written tells the client that the connection stands.
    let first = if options.stdout {
        &mut stdout
    } else if options.stderr {
        &mut stderr
    } else {
        &mut error
    };
    first.send_empty().await;
    Ok(RemoteCommand {
        stdin: options.stdin.then_some(stdin.0),
        stdout: options.stdout.then_some(stdout),
        stderr: options.stderr.then_some(stderr),
        resize: options.tty.then_some(Resizes { receive: resize.0, buffer: Vec::new() }),
        exit: ExitStatus {
            error,
            session: Session::WebSocket(closer),
            as_status: protocol.starts_with("v4.") || protocol.starts_with("v5."),
            _idle: Vec::new(),
        },
    })
}

/// How a version writes its messages.
pub(crate) fn format(protocol: &str) -> Format {
    Format { base64: protocol.contains("base64."), close_signal: protocol.starts_with("v5.") }
}

impl Send {
    /// A message without bytes; on SPDY it would mean nothing.
    async fn send_empty(&mut self) {
        self.send_piece(Bytes::new()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_become_options() {
        let all = Options { stdin: true, stdout: true, stderr: false, tty: true };
        assert_eq!(Options::from_query("command=sh&input=1&output=1&error=1&tty=1"), Ok(all));
        let api = Options { stdin: false, stdout: true, stderr: true, tty: false };
        assert_eq!(Options::from_query("stdout=true&stderr=true&stdin=false"), Ok(api));
        let none = "you must specify at least 1 of stdin, stdout, stderr";
        assert_eq!(Options::from_query("tty=1&stderr=true").unwrap_err().message, none);
    }

    #[test]
    fn last_words_are_a_status_or_a_text() {
        let want = r#"{"details":{"causes":[{"message":"3","reason":"ExitCode"}]},"message":"command terminated with non-zero exit code: exit status 3","metadata":{},"reason":"NonZeroExitCode","status":"Failure"}"#;
        let got: serde_json::Value = serde_json::from_str(&last_words(&Exit::Code(3), true)).unwrap();
        assert_eq!(got, serde_json::from_str::<serde_json::Value>(want).unwrap());
        assert_eq!(last_words(&Exit::Code(0), false), "");
        assert_eq!(last_words(&Exit::Error("boom".into()), false), "boom");
    }
}
