//! The runtime's end of the protocol with shims: starting them, finding them again, requests and events.

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;
use shim::wire::Wire;
use shim::{Event, ExecSpec, HelloReply, KillSpec, Reply, Request};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result, Step};

/// The program that shims run: a sealed copy in memory, so that nothing a container does to its own /proc/self/exe (or to the
/// pause process') reaches the file, and an upgrade of the file does not disturb what runs.
pub struct Launcher {
    copy: Option<OwnedFd>,
    path: PathBuf,
}

impl Launcher {
    /// Loads the program at `path`.
    pub fn new(path: PathBuf) -> Result<Launcher> {
        let program = std::fs::read(&path).step_with(|| format!("read the shim's program {}", path.display()))?;
        // Kernels that can be told to forbid it refuse to run from memory; the file itself serves then.
        let copy = seal(&program).ok();
        Ok(Launcher { copy, path })
    }

    /// Starts a shim for the sandbox whose directory this is. The token kills it, which is for one that does not do as it is told.
    pub fn start(&self, dir: &Path) -> Result<(UnixStream, CancellationToken)> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().step("make socket pair")?;
        let log = std::fs::File::create(dir.join("shim.log")).step("make shim's log")?;
        let program = match &self.copy {
            Some(copy) => PathBuf::from(format!("/proc/self/fd/{}", copy.as_raw_fd())),
            None => self.path.clone(),
        };
        let mut command = tokio::process::Command::new(program);
        command.arg0("knarr-shim").arg(dir).stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(log);
        let mut child = command.spawn().step_with(|| format!("start shim {}", self.path.display()))?;
        let kill = CancellationToken::new();
        let killed = kill.clone();
        tokio::spawn(async move {
            // Reaped while this process lives; afterwards init does it.
            if killed.run_until_cancelled(child.wait()).await.is_none() {
                let _ = child.kill().await;
            }
        });
        ours.set_nonblocking(true).step("set up socket")?;
        Ok((UnixStream::from_std(ours).step("set up socket")?, kill))
    }
}

fn seal(program: &[u8]) -> std::io::Result<OwnedFd> {
    const MFD_EXEC: u32 = 0x10;
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    let make = |flags| {
        // SAFETY: a C string.
        let fd = unsafe { libc::memfd_create(c"knarr-shim".as_ptr(), flags) };
        // SAFETY: just made.
        if fd < 0 { Err(std::io::Error::last_os_error()) } else { Ok(unsafe { OwnedFd::from_raw_fd(fd) }) }
    };
    let mut file = std::fs::File::from(make(flags | MFD_EXEC).or_else(|_| make(flags))?);
    file.write_all(program)?;
    let seals = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    // SAFETY: numbers only.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } < 0 {
        return Err(std::io::Error::last_os_error());
    }
    let sealed = OwnedFd::from(file);
    // Linux does not run a file that is open for writing; a new description of the same file is not.
    std::fs::File::open(format!("/proc/self/fd/{}", sealed.as_raw_fd())).map(OwnedFd::from)
}

/// Connects to the running shim of the sandbox whose directory this is. Socket paths are short; the directory's may not be.
pub async fn connect(dir: &Path) -> std::io::Result<UnixStream> {
    let dir = std::fs::File::open(dir)?;
    UnixStream::connect(format!("/proc/self/fd/{}/{}", dir.as_raw_fd(), shim::SOCKET)).await
}

/// An exec'd process: its number and where its end is told.
pub struct Exec {
    /// Its number with the shim.
    pub id: u64,
    /// The exit code; an error if the shim went away.
    pub exited: oneshot::Receiver<i32>,
}

/// What is waited for.
enum Waiting {
    Reply(oneshot::Sender<Reply>),
    Exec(oneshot::Sender<Result<Exec, Reply>>),
}

#[derive(Default)]
struct Expected {
    replies: HashMap<u32, Waiting>,
    execs: HashMap<u64, oneshot::Sender<i32>>,
    gone: bool,
}

/// A connection to a shim.
pub struct Shim {
    stream: Arc<UnixStream>,
    writing: Arc<tokio::sync::Mutex<()>>,
    expected: Arc<Mutex<Expected>>,
    next: AtomicU32,
}

/// What comes from a shim unasked; `None` is its end.
pub type News = Option<Event>;

impl Shim {
    /// Says hello over the connection. News goes to `news`, the last of it when the shim is gone.
    pub async fn new(stream: UnixStream, news: mpsc::UnboundedSender<News>) -> Result<(Arc<Shim>, HelloReply)> {
        let shim = Arc::new(Shim {
            stream: Arc::new(stream),
            writing: Arc::default(),
            expected: Arc::default(),
            next: AtomicU32::new(1),
        });
        tokio::spawn(read_all(shim.stream.clone(), shim.expected.clone(), news));
        match shim.call(&Request::Hello(shim::VERSION)).await? {
            Reply::Hello(hello) if hello.version == shim::VERSION => Ok((shim, hello)),
            Reply::Hello(hello) => Err(Error::Failed(format!("shim speaks version {} of the protocol", hello.version))),
            other => Err(unexpected(&other)),
        }
    }

    /// Sends a request and waits for its answer.
    pub async fn call(&self, request: &Request) -> Result<Reply> {
        let (sender, receiver) = oneshot::channel();
        self.send(request, Waiting::Reply(sender), Vec::new()).await?;
        match receiver.await.map_err(|_| gone())? {
            Reply::Failed(message) => Err(Error::Failed(message)),
            reply => Ok(reply),
        }
    }

    /// Sends a request that is answered with nothing.
    pub async fn order(&self, request: &Request) -> Result<()> {
        match self.call(request).await? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Runs a process in a container with these standard streams.
    pub async fn exec(&self, spec: ExecSpec, streams: [&OwnedFd; 3]) -> Result<Exec> {
        let (sender, receiver) = oneshot::channel();
        let descriptors = streams.map(OwnedFd::try_clone).into_iter().collect::<std::io::Result<_>>();
        let descriptors = descriptors.step("share the process' streams")?;
        self.send(&Request::Exec(Box::new(spec)), Waiting::Exec(sender), descriptors).await?;
        match receiver.await.map_err(|_| gone())? {
            Ok(exec) => Ok(exec),
            Err(Reply::Failed(message)) => Err(Error::Failed(message)),
            Err(other) => Err(unexpected(&other)),
        }
    }

    /// Sends a signal to a container.
    pub async fn kill(&self, container: &str, signal: i32, all: bool) -> Result<()> {
        self.order(&Request::Kill(KillSpec { container: container.to_owned(), exec: 0, signal, all })).await
    }

    /// Whoever asks may give up meanwhile (a probe that is ended); the frame is sent whole, or the shim would understand none that
    /// follow.
    async fn send(&self, request: &Request, waiting: Waiting, descriptors: Vec<OwnedFd>) -> Result<()> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        {
            let mut expected = self.expected.lock();
            if expected.gone {
                return Err(gone());
            }
            expected.replies.insert(id, waiting);
        }
        let bytes = shim::frame(shim::REQUEST, id, &request.to_bytes());
        let (stream, writing) = (self.stream.clone(), self.writing.clone());
        let sending = tokio::spawn(async move {
            let _order = writing.lock().await;
            send_all(&stream, &bytes, &descriptors).await
        });
        let sent = sending.await.map_err(std::io::Error::other).flatten();
        if sent.is_err() {
            self.expected.lock().replies.remove(&id);
        }
        sent.step("talk to shim")
    }
}

fn gone() -> Error {
    Error::State("the pod's shim is gone".to_owned())
}

fn unexpected(reply: &Reply) -> Error {
    Error::Failed(format!("shim gave an unexpected answer: {reply:?}"))
}

/// Sends bytes, and descriptors with the first of them.
async fn send_all(stream: &UnixStream, bytes: &[u8], descriptors: &[OwnedFd]) -> std::io::Result<()> {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    let descriptors: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let mut sent = 0;
    while sent < bytes.len() {
        let rights =
            if sent == 0 && !descriptors.is_empty() { vec![ControlMessage::ScmRights(&descriptors)] } else { Vec::new() };
        let part = [std::io::IoSlice::new(&bytes[sent..])];
        sent += stream
            .async_io(Interest::WRITABLE, || {
                sendmsg::<()>(stream.as_raw_fd(), &part, &rights, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT, None)
                    .map_err(std::io::Error::from)
            })
            .await?;
    }
    Ok(())
}

/// Routes frames until the shim is gone.
async fn read_all(stream: Arc<UnixStream>, expected: Arc<Mutex<Expected>>, news: mpsc::UnboundedSender<News>) {
    let mut buffer: Vec<u8> = Vec::new();
    'reading: while stream.readable().await.is_ok() {
        let mut chunk = [0u8; 4096];
        match stream.try_read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => buffer.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => break,
        }
        let mut used = 0;
        loop {
            match shim::parse(&buffer[used..]) {
                Ok(Some((kind, id, body, length))) => {
                    if route(&expected, &news, kind, id, body).is_err() {
                        break 'reading;
                    }
                    used += length;
                }
                Ok(None) => break,
                Err(_) => break 'reading,
            }
        }
        buffer.drain(..used);
        buffer.shrink_to_fit();
    }
    {
        let mut expected = expected.lock();
        *expected = Expected { gone: true, ..Expected::default() };
    }
    let _ = news.send(None);
}

fn route(
    expected: &Mutex<Expected>,
    news: &mpsc::UnboundedSender<News>,
    kind: u8,
    id: u32,
    body: &[u8],
) -> Result<(), shim::wire::Malformed> {
    match kind {
        shim::REPLY => {
            let reply = Reply::from_bytes(body)?;
            let mut expected = expected.lock();
            match expected.replies.remove(&id) {
                Some(Waiting::Reply(sender)) => drop(sender.send(reply)),
                Some(Waiting::Exec(sender)) => match reply {
                    Reply::Exec(started) => {
                        // Before the next frame is looked at: it may be about this process' end.
                        let (told, exited) = oneshot::channel();
                        expected.execs.insert(started.exec, told);
                        drop(sender.send(Ok(Exec { id: started.exec, exited })));
                    }
                    other => drop(sender.send(Err(other))),
                },
                None => {}
            }
            Ok(())
        }
        shim::EVENT => {
            match Event::from_bytes(body)? {
                Event::ExecExited(exit) => {
                    if let Some(told) = expected.lock().execs.remove(&exit.exec) {
                        let _ = told.send(exit.code);
                    }
                }
                event => drop(news.send(Some(event))),
            }
            Ok(())
        }
        _ => Err(shim::wire::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn a_request_that_is_given_up_does_not_garble_the_next() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let shim =
            Shim { stream: Arc::new(ours), writing: Arc::default(), expected: Arc::default(), next: AtomicU32::new(1) };
        // More than the socket takes at once.
        let large = Request::ReopenLog("x".repeat(4 << 20));
        let given_up = tokio::time::timeout(std::time::Duration::from_millis(50), shim.call(&large)).await;
        assert!(given_up.is_err());
        let asking = tokio::spawn(async move { shim.call(&Request::Shutdown).await.is_ok() });
        let (mut input, mut ids) = (Vec::new(), Vec::new());
        while ids.len() < 2 {
            assert!(theirs.read_buf(&mut input).await.unwrap() > 0);
            while let Some((kind, id, body, length)) = shim::parse(&input).unwrap() {
                assert_eq!(kind, shim::REQUEST);
                Request::from_bytes(body).unwrap();
                ids.push(id);
                input.drain(..length);
            }
        }
        assert_eq!(ids, [1, 2]);
        asking.abort();
    }
}
