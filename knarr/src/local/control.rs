//! A node's control socket: how commands on the host hand a running node what the API has no way for, images above all.
//!
//! One request a connection: a line with the command, then whatever belongs to it until the sender closes its half. The
//! answer is `ok` or `error: REASON`, and further lines, or a stream of bytes. The socket is root's alone.

use std::{
    io::{BufRead, BufReader, BufWriter, Read, Write},
    net::Shutdown,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use tokio::net::UnixListener;

/// What a node does with a request: the command, and the rest of it to read. Runs where it may block.
pub type Handler = Arc<dyn Fn(&str, &mut dyn Read) -> Result<Answer> + Send + Sync>;

/// What a node answers.
pub enum Answer {
    /// Lines of text.
    Lines(Vec<String>),
    /// Whatever this writes. The other end must be able to tell when it broke off.
    Stream(Produce),
}

/// Writes an answer.
pub type Produce = Box<dyn FnOnce(&mut dyn Write) -> Result<()>>;

/// The socket of the node with this folder.
pub fn path(folder: &Path) -> PathBuf {
    folder.join("control.sock")
}

/// Opens the socket, in place of one that a dead process has left.
pub fn listen(folder: &Path) -> Result<UnixListener> {
    let path = path(folder);
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).with_context(|| format!("listen on {}", path.display()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers requests for ever.
pub async fn serve(listener: UnixListener, handler: Handler) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let handler = handler.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = answer(stream, &handler) {
                tracing::warn!("control request: {error:#}");
            }
        });
    }
}

fn answer(stream: tokio::net::UnixStream, handler: &Handler) -> Result<()> {
    let mut stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    let mut input = BufReader::with_capacity(1 << 17, stream.try_clone()?);
    let mut command = String::new();
    input.by_ref().take(1024).read_line(&mut command)?;
    match handler(command.trim_end(), &mut input) {
        Ok(Answer::Lines(lines)) => {
            let text = ["ok".to_owned()].into_iter().chain(lines).collect::<Vec<_>>().join("\n");
            stream.write_all(text.as_bytes())?;
        }
        Ok(Answer::Stream(produce)) => {
            stream.write_all(b"ok\n")?;
            produce(&mut BufWriter::with_capacity(1 << 17, &stream))?;
        }
        Err(error) => stream.write_all(format!("error: {error:#}").as_bytes())?,
    }
    stream.shutdown(Shutdown::Write)?;
    // A socket closed with input unread would take the answer back.
    std::io::copy(&mut input, &mut std::io::sink())?;
    Ok(())
}

fn connect(path: &Path) -> Result<UnixStream> {
    let hint =
        || format!("reach the node at {}; does it run? `knarr status` tells, `knarr node start` starts it", path.display());
    UnixStream::connect(path).with_context(hint)
}

/// Sends a request to the node with this folder and returns the lines of its answer. Blocking.
pub fn ask(folder: &Path, command: &str, mut rest: impl Read) -> Result<Vec<String>> {
    let path = path(folder);
    let mut stream = connect(&path)?;
    writeln!(stream, "{command}")?;
    // A node that refuses stops reading; its answer says why.
    let sent = std::io::copy(&mut rest, &mut stream);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("read the node's answer")?;
    let mut lines = answer.lines().map(str::to_owned);
    match lines.next().as_deref() {
        Some("ok") => Ok(lines.collect()),
        Some(error) => bail!("{}", error.trim_start_matches("error: ")),
        None => match sent {
            Err(error) => Err(error).context("send to the node"),
            Ok(_) => bail!("the node gave no answer"),
        },
    }
}

/// Asks the node with this folder for a stream, and copies it. Blocking.
pub fn ask_stream(folder: &Path, command: &str, out: &mut dyn Write) -> Result<()> {
    let path = path(folder);
    let mut stream = connect(&path)?;
    writeln!(stream, "{command}")?;
    stream.shutdown(Shutdown::Write)?;
    let mut input = BufReader::with_capacity(1 << 17, stream);
    let mut first = String::new();
    input.by_ref().take(4096).read_line(&mut first).context("read the node's answer")?;
    match first.trim_end() {
        "ok" => std::io::copy(&mut input, out).map(drop).context("copy the node's answer"),
        "" => bail!("the node gave no answer"),
        error => bail!("{}", error.trim_start_matches("error: ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn requests_are_answered_with_lines_or_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let handler: Handler = Arc::new(|command, rest| {
            let mut text = String::new();
            rest.read_to_string(&mut text)?;
            match command {
                "echo" => Ok(Answer::Lines(text.lines().map(str::to_owned).collect())),
                "flow" => Ok(Answer::Stream(Box::new(|out| Ok(out.write_all(&[0, 255, 10])?)))),
                _ => bail!("what is {command:?}?"),
            }
        });
        tokio::spawn(serve(listen(folder.path()).unwrap(), handler));
        let path = folder.path().to_owned();
        let answers = tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::new();
            ask_stream(&path, "flow", &mut bytes).unwrap();
            let refused = [
                ask(&path, "sing", "".as_bytes()).unwrap_err().to_string(),
                ask_stream(&path, "sing", &mut Vec::new()).unwrap_err().to_string(),
            ];
            (ask(&path, "echo", "a\nb".as_bytes()).unwrap(), bytes, refused)
        });
        let (lines, bytes, refused) = answers.await.unwrap();
        assert_eq!((lines, bytes), (vec!["a".into(), "b".into()], vec![0, 255, 10]));
        assert_eq!(refused, ["what is \"sing\"?", "what is \"sing\"?"]);
    }
}
