//! A program in a container, seen from here: over a WebSocket, or over SPDY where the server refuses that.

use api::status::Status;
use serde_json::Value;
use streaming::{
    client::{Command, agreed, upgrade_headers},
    command::{Options, Size},
    negotiate::{Agreed, Wire},
    stream::{Receive, Send as Sender},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    signal::unix::{SignalKind, signal},
};

use crate::{
    client::{Call, Client, Upgrade, log},
    failure::{Failure, plain},
    pods, terminal,
};

/// What servers from 1.29 on speak; others get SPDY, as from upstream.
const WEBSOCKET: &[&str] = &["v5.channel.k8s.io"];
const SPDY: &[&str] = &["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];

/// What is to be run or attached to.
#[derive(Clone, Copy, Debug)]
pub struct Program<'a> {
    /// The pod.
    pub pod: &'a Value,
    /// `exec` or `attach`.
    pub subresource: &'a str,
    /// The container's name.
    pub container: &'a str,
    /// With `exec`.
    pub command: &'a [String],
    /// Whether it gets our terminal, which has been made raw; its errors then come with its output.
    pub tty: bool,
}

/// What a program reads.
pub type Input = Box<dyn AsyncRead + Send + Unpin>;

/// Our standard input.
pub fn stdin() -> Input {
    Box::new(tokio::io::stdin())
}

impl Program<'_> {
    fn call(&self, wire: Wire, stdin: bool) -> Call {
        let path = pods::subresource(self.pod, self.subresource);
        let (mut call, protocols) = match wire {
            Wire::WebSocket => (Call::get(path), WEBSOCKET),
            Wire::Spdy => (Call::new(http::Method::POST, path), SPDY),
        };
        for word in self.command {
            call = call.query("command", word.as_str());
        }
        call = call.query("container", self.container);
        for (name, wanted) in [("stderr", !self.tty), ("stdin", stdin), ("stdout", true), ("tty", self.tty)] {
            call = call.query_if(name, if wanted { "true" } else { "" });
        }
        call.headers.extend(upgrade_headers(wire, protocols));
        call
    }

    /// Runs it until it ends. A terminal's program is told `sizes` and then every change.
    ///
    /// # Errors
    /// If it cannot be run, or ended with a code other than zero (which is then ours).
    pub async fn run<O, E>(
        &self,
        client: &Client,
        input: Option<Input>,
        stdout: O,
        stderr: E,
        sizes: &[Size],
    ) -> Result<(), Failure>
    where
        O: AsyncWrite + Send + Unpin + 'static,
        E: AsyncWrite + Send + Unpin + 'static,
    {
        let options = Options { stdin: input.is_some(), stdout: true, stderr: !self.tty, tty: self.tty };
        let upgraded = match client.upgrade(self.call(Wire::WebSocket, options.stdin)).await? {
            done @ Upgrade::Done(..) => done,
            Upgrade::Refused(_) => client.upgrade(self.call(Wire::Spdy, options.stdin)).await?,
        };
        let (io, headers) = upgraded.accepted()?;
        let agreed = agreed(&headers).unwrap_or(Agreed { wire: Wire::Spdy, protocol: String::new() });
        if agreed.wire == Wire::WebSocket {
            log::at(4, "websocket.go:133", &format!("The subprotocol is {}", agreed.protocol));
        }
        let opened = Command::open(io, &agreed, options).await;
        let mut command = opened.map_err(|error| plain(format!("unable to upgrade connection: {error}")))?;
        if let (Some(input), Some(stdin)) = (input, command.stdin.take()) {
            tokio::spawn(feed(input, stdin));
        }
        let output = tokio::spawn(copy(command.stdout.take(), stdout));
        let errors = tokio::spawn(copy(command.stderr.take(), stderr));
        let end = last_words(&mut command, self.tty, sizes).await;
        // What it wrote before it ended is still on its way.
        let _ = tokio::join!(output, errors);
        outcome(&end, &agreed.protocol)
    }
}

async fn feed(mut input: Input, mut stdin: Sender) {
    // An input that breaks, or that nobody reads any more, has ended.
    let _ = tokio::io::copy(&mut input, &mut stdin).await;
    let _ = stdin.shutdown().await;
}

async fn copy(from: Option<Receive>, mut to: impl AsyncWrite + Unpin) {
    let Some(mut from) = from else { return };
    while let Some(bytes) = from.next().await {
        if to.write_all(&bytes).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// What the server says when the program has ended; until then it is told how large the terminal is.
async fn last_words(command: &mut Command, tty: bool, sizes: &[Size]) -> Vec<u8> {
    for size in sizes {
        // A program that is gone already needs no size.
        let _ = command.resize(*size).await;
    }
    let mut changes = if tty { signal(SignalKind::window_change()).ok() } else { None };
    let mut words = Vec::new();
    loop {
        let changed = async {
            match &mut changes {
                Some(changes) => changes.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            piece = command.error.next() => match piece {
                Some(piece) => words.extend_from_slice(&piece),
                None => return words,
            },
            _ = changed => if let Some(size) = terminal::size() {
                let _ = command.resize(size).await;
            },
        }
    }
}

/// What the server's last words mean: a Status since v4, a text before.
fn outcome(words: &[u8], protocol: &str) -> Result<(), Failure> {
    let text = String::from_utf8_lossy(words);
    let structured = protocol.starts_with("v4.") || protocol.starts_with("v5.");
    if words.is_empty() {
        return Ok(());
    }
    if !structured {
        return Err(plain(format!("error executing remote command: {text}")));
    }
    let wrong = |what: String| Err(plain(format!("error stream protocol error: {what}")));
    let status: Status = match serde_json::from_slice(words) {
        Ok(status) => status,
        Err(error) => return wrong(format!("{error} in {}", api::field::go_quote(&text))),
    };
    match (status.status.as_str(), status.reason.as_str()) {
        ("Success", _) => Ok(()),
        ("Failure", "NonZeroExitCode") => {
            let Some(details) = &status.details else { return wrong("details must be set".to_owned()) };
            let Some(cause) = details.causes.iter().find(|cause| cause.reason == "ExitCode") else {
                return wrong("no ExitCode cause given".to_owned());
            };
            match cause.message.parse::<u8>() {
                Ok(code) => Err(Failure::Verbatim(format!("command terminated with exit code {code}"), code.into())),
                Err(_) => wrong(format!("invalid exit code value {}", api::field::go_quote(&cause.message))),
            }
        }
        ("Failure", _) => Err(plain(status.message)),
        _ => wrong("unknown error".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_tell_how_it_ended() {
        let code =
            br#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;
        let cases: [(&[u8], &str, (&str, i32)); 4] = [
            (br#"{"status":"Success"}"#, "v5.channel.k8s.io", ("", 0)),
            (code, "v4.channel.k8s.io", ("command terminated with exit code 3", 3)),
            (br#"{"status":"Failure","message":"boom"}"#, "v4.channel.k8s.io", ("error: boom", 1)),
            (b"boom", "v2.channel.k8s.io", ("error: error executing remote command: boom", 1)),
        ];
        for (words, protocol, (text, exit)) in cases {
            let got = outcome(words, protocol).err();
            let got = (got.as_ref().map(ToString::to_string).unwrap_or_default(), got.map_or(0, |failure| failure.code()));
            assert_eq!(got, (text.to_owned(), exit));
        }
    }
}
