//! What is said to a peer whose request is no HTTP/1.1.
//!
//! hyper refuses such a request by itself, before there is a request that anybody could answer, with a status and nothing else.
//! Upstream's server says what it thinks of it in text. So the connection looks at what hyper writes when it has read something
//! and has asked nobody: an answer of hyper's own is replaced by upstream's, whose reasons follow from how the request began.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use process::idle::Idle;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// As much of a request as is remembered.
const REMEMBERED: usize = 1024;

/// What became of what was read last.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    state: Arc<AtomicU8>,
    idle: Idle,
}

/// Nothing yet.
const READ: u8 = 0;
/// A request was made of it.
const ASKED: u8 = 1;
/// The connection speaks something else from now on, perhaps.
const OVER: u8 = 2;

impl Asked {
    /// `idle` counts the requests that are being answered.
    pub(super) fn new(idle: Idle) -> Self {
        Self { state: Arc::default(), idle }
    }

    /// There is a request.
    pub(super) fn of<B>(&self, request: &http::Request<B>) {
        let upgrades = request.headers().contains_key(http::header::UPGRADE) || request.method() == http::Method::CONNECT;
        self.state.store(if upgrades { OVER } else { ASKED }, Relaxed);
    }
}

/// A connection on which refusals are told in words.
#[derive(Debug)]
pub(super) struct Telling<S> {
    stream: S,
    asked: Asked,
    /// How what was read since the last request begins.
    head: Vec<u8>,
    /// What has to be written yet in place of hyper's answer.
    answer: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Telling<S> {
    pub(super) fn new(stream: S, asked: Asked) -> Self {
        Self { stream, asked, head: Vec::with_capacity(REMEMBERED), answer: Vec::new() }
    }

    /// Takes an answer of hyper's own for what is said instead.
    fn replaces(&mut self, written: &[u8]) -> bool {
        if self.asked.state.load(Relaxed) == READ
            && let Some(answer) = instead(written, &self.head)
            && self.asked.idle.is_quiet()
        {
            self.answer = answer.into_bytes();
            return true;
        }
        false
    }

    fn write_answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.answer.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.answer))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.answer.drain(..written);
        }
        Poll::Ready(Ok(()))
    }
}

/// Upstream's answer, if what is written is a refusal of hyper's: a status of 4xx and no fields but those that every answer has.
fn instead(written: &[u8], head: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(written.strip_prefix(b"HTTP/1.1 4")?).ok()?;
    let (status, fields) = text.strip_suffix("\r\n\r\n")?.split_once("\r\n")?;
    let own = |field: &str| {
        let (name, value) = field.split_once(": ").unwrap_or_default();
        matches!((name, value), ("connection", "close") | ("content-length", "0") | ("date", _))
    };
    if !fields.split("\r\n").all(own) || !fields.contains("content-length") {
        return None;
    }
    let status = format!("4{status}");
    let (status, body) = match reason(head).filter(|_| status.starts_with("400")) {
        Some(told) => told,
        None => (status.as_str(), status.as_str()),
    };
    let fields = "Content-Type: text/plain; charset=utf-8\r\nConnection: close";
    Some(format!("HTTP/1.1 {status}\r\n{fields}\r\n\r\n{body}"))
}

/// What is wrong with a request, where upstream says more than that something is: its status, and the text below that.
fn reason(head: &[u8]) -> Option<(&'static str, &'static str)> {
    const UNSUPPORTED: &str = "505 HTTP Version Not Supported: unsupported protocol version";
    const NAME: &str = "400 Bad Request: invalid header name";
    let head = String::from_utf8_lossy(head);
    let (line, rest) = head.split_once("\r\n")?;
    let version = line.rsplit(' ').next()?.strip_prefix("HTTP/")?.as_bytes();
    let fields: Vec<(&str, &str)> =
        rest.split("\r\n").take_while(|line| !line.is_empty()).map_while(|line| line.split_once(':')).collect();
    let encoding = |(name, _): &&(&str, &str)| name.eq_ignore_ascii_case("transfer-encoding");
    match version {
        [b'1', b'.', b'0'..=b'9'] => {}
        [b'0'..=b'9', b'.', b'0'..=b'9'] => return Some((UNSUPPORTED, UNSUPPORTED)),
        _ => return None,
    }
    if fields.iter().find(encoding).is_some_and(|(_, value)| !value.trim().eq_ignore_ascii_case("chunked"))
        && version == b"1.1"
    {
        return Some(("501 Not Implemented", "Unsupported transfer encoding"));
    }
    let spaced = |name: &str| {
        name.contains(' ')
            && !name.starts_with(' ')
            && name.bytes().all(|b| b == b' ' || b.is_ascii_alphanumeric() || b == b'-')
    };
    fields.iter().any(|(name, _)| spaced(name)).then_some((NAME, NAME))
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Telling<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let read = &buffer.filled()[before..];
        if !read.is_empty() {
            if self.asked.state.compare_exchange(ASKED, READ, Relaxed, Relaxed).is_ok() {
                self.head.clear();
            }
            let room = REMEMBERED - self.head.len();
            self.head.extend_from_slice(&read[..read.len().min(room)]);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Telling<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.write_answer(cx))?;
        if self.replaces(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.write_answer(cx))?;
        if let [only] = pieces
            && self.replaces(only)
        {
            return Poll::Ready(Ok(only.len()));
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_answer(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_answer(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(head: &str) -> String {
        let own = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\ndate: now\r\n\r\n";
        instead(own.as_bytes(), head.as_bytes()).unwrap()
    }

    #[test]
    fn refusals_are_upstreams() {
        let answer = |status: &str, body: &str| {
            format!("HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n{body}")
        };
        let plain = answer("400 Bad Request", "400 Bad Request");
        for head in [
            "GET / HTTP/1.1\r\nContent-Length: abc\r\n\r\n",
            "junk\r\n\r\n",
            "GET / HTTP/3\r\n\r\n",
            "",
            "GET / HTTP/1.1\r\nX",
        ] {
            assert_eq!(told(head), plain, "{head}");
        }
        let version = "505 HTTP Version Not Supported: unsupported protocol version";
        assert_eq!(told("GET / HTTP/2.0\r\nHost: x\r\n\r\n"), answer(version, version));
        let encoded = told("GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n");
        assert_eq!(encoded, answer("501 Not Implemented", "Unsupported transfer encoding"));
        let name = "400 Bad Request: invalid header name";
        assert_eq!(told("GET / HTTP/1.1\r\nHost: x\r\nNa me: v\r\n\r\n"), answer(name, name));
        let large = "431 Request Header Fields Too Large";
        let own = format!("HTTP/1.1 {large}\r\ncontent-length: 0\r\n\r\n");
        assert_eq!(instead(own.as_bytes(), b"x"), Some(answer(large, large)));
    }

    #[test]
    fn answers_of_ours_stay() {
        for text in [
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\nx",
            "HTTP/1.1 404 Not Found\r\ndate: now\r\n\r\n",
        ] {
            assert_eq!(instead(text.as_bytes(), b""), None, "{text}");
        }
    }
}
