//! The runtime's end of the protocol with shims: starting them, finding them again, requests and events.

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use futures::FutureExt;
use parking_lot::Mutex;
use shim::wire::Wire;
use shim::{Event, ExecSpec, HelloReply, KillSpec, Reply, Request};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
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

    /// Starts a shim for the sandbox whose directory this is.
    pub fn start(&self, dir: &Path) -> Result<(UnixStream, Process)> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().step("make socket pair")?;
        let log = std::fs::File::create(dir.join("shim.log")).step("make shim's log")?;
        let program = match &self.copy {
            Some(copy) => PathBuf::from(format!("/proc/self/fd/{}", copy.as_raw_fd())),
            None => self.path.clone(),
        };
        let mut command = tokio::process::Command::new(program);
        command.arg0("knarr-shim").arg(dir).stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(log);
        let mut child = command.spawn().step_with(|| format!("start shim {}", self.path.display()))?;
        // Nobody has waited for it yet, so the number is its own.
        let process = Process::open(child.id().unwrap_or(0)).step("watch shim");
        tokio::spawn(async move {
            // Reaped while this process lives; afterwards init does it.
            let _ = child.wait().await;
        });
        ours.set_nonblocking(true).step("set up socket")?;
        Ok((UnixStream::from_std(ours).step("set up socket")?, process?))
    }
}

/// A shim's process: a descriptor, so that no other process is ever meant which has got its number later.
pub struct Process(OwnedFd);

impl Process {
    fn open(pid: u32) -> std::io::Result<Process> {
        // SAFETY: numbers only.
        match unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } {
            // SAFETY: just made.
            fd if fd >= 0 => Ok(Process(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })),
            _ => Err(std::io::Error::last_os_error()),
        }
    }

    /// The shim at the other end of a connection to the socket in `dir`: whoever listens there, and is in that directory, as nothing
    /// else is that may have got its number.
    fn of_peer(stream: &UnixStream, dir: &std::fs::File) -> std::io::Result<Process> {
        let pid = stream.peer_cred()?.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
        let process = Process::open(pid)?;
        match is_in(pid, &dir.metadata()?)? {
            true => Ok(process),
            false => Err(std::io::Error::other(format!("process {pid} is not the shim"))),
        }
    }

    /// Sends it a signal; SIGKILL ends a shim with whatever it has started (`PR_SET_PDEATHSIG`). One that is gone is fine.
    fn signal(&self, signal: i32) -> std::io::Result<()> {
        let (no_info, flags) = (std::ptr::null::<libc::siginfo_t>(), 0);
        // SAFETY: numbers, and no pointer to anything.
        let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), signal, no_info, flags) };
        match std::io::Error::last_os_error() {
            error if sent < 0 && error.raw_os_error() != Some(libc::ESRCH) => Err(error),
            _ => Ok(()),
        }
    }

    /// Waits until it is gone.
    async fn ended(&self) -> std::io::Result<()> {
        // SAFETY: the copy is owned by what watches it and closed with it.
        let watched = unsafe { AsyncFd::register_with_interest(self.0.try_clone()?, Interest::READABLE) }?;
        watched.readable().await.map(drop)
    }
}

fn is_in(pid: u32, dir: &std::fs::Metadata) -> std::io::Result<bool> {
    let its = std::fs::metadata(format!("/proc/{pid}/cwd"))?;
    Ok((dir.dev(), dir.ino()) == (its.dev(), its.ino()))
}

/// Kills the shim in this directory, which takes no connections, and waits for its end; `None` if there is none.
pub async fn kill_in(dir: &Path) -> std::io::Result<Option<()>> {
    let dir = std::fs::metadata(dir)?;
    let pids = std::fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids {
        // Whoever it is now, it stays so.
        let Ok(process) = Process::open(pid) else { continue };
        let named = std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"knarr-shim\0"));
        if named && is_in(pid, &dir).unwrap_or(false) {
            process.signal(libc::SIGKILL)?;
            return process.ended().await.map(Some);
        }
    }
    Ok(None)
}

/// Sends a signal to a container's first process, past its shim; one that has ended is fine.
pub fn signal_first(pid: u32, container: &str, signal: i32) -> Result<()> {
    let Ok(process) = Process::open(pid) else { return Ok(()) };
    // Is it still that process, and not another one that has got its number?
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    if groups.contains(container) { process.signal(signal).step("signal the container's first process") } else { Ok(()) }
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
pub async fn connect(dir: &Path) -> std::io::Result<(UnixStream, Process)> {
    let dir = std::fs::File::open(dir)?;
    let stream = UnixStream::connect(format!("/proc/self/fd/{}/{}", dir.as_raw_fd(), shim::SOCKET)).await?;
    let process = Process::of_peer(&stream, &dir)?;
    Ok((stream, process))
}

/// An exec'd process: where its end is told, and what kills it.
pub struct Exec {
    /// What kills it.
    pub kill: KillSpec,
    /// The exit code; an error if the shim went away.
    pub exited: oneshot::Receiver<i32>,
}

/// What is waited for.
enum Waiting {
    Reply(oneshot::Sender<Reply>),
    /// In this container.
    Exec(String, oneshot::Sender<Result<Exec, Reply>>),
}

#[derive(Default)]
struct Expected {
    replies: HashMap<u32, Waiting>,
    execs: HashMap<u64, oneshot::Sender<i32>>,
    gone: bool,
}

/// A connection to a shim.
pub struct Shim {
    sandbox: String,
    process: Process,
    stream: Arc<UnixStream>,
    writing: Arc<tokio::sync::Mutex<()>>,
    expected: Mutex<Expected>,
    next: AtomicU32,
    /// How long it may take to answer what it answers at once.
    patience: Duration,
    /// It has not, and nothing has come of it since.
    silent: AtomicBool,
    /// Nothing more comes of it.
    gone: CancellationToken,
}

/// What comes from a shim unasked; `None` is its end.
pub type News = Option<Event>;

impl Shim {
    /// The shim of this sandbox. News goes to `news`, the last of it when the shim is gone.
    pub fn new(
        sandbox: &str,
        (stream, process): (UnixStream, Process),
        patience: Duration,
        news: mpsc::UnboundedSender<News>,
    ) -> Arc<Shim> {
        let shim = Arc::new(Shim {
            sandbox: sandbox.to_owned(),
            process,
            stream: Arc::new(stream),
            writing: Arc::default(),
            expected: Mutex::default(),
            next: AtomicU32::new(1),
            patience,
            silent: AtomicBool::new(false),
            gone: CancellationToken::new(),
        });
        tokio::spawn(shim.clone().follow(shim.clone().read_all(news.clone()), news));
        shim
    }

    /// Asks for its version, and for what it has.
    pub async fn hello(&self) -> Result<HelloReply> {
        match self.call(&Request::Hello(shim::VERSION)).await? {
            Reply::Hello(hello) if hello.version == shim::VERSION => Ok(hello),
            Reply::Hello(hello) => Err(Error::Failed(format!("shim speaks version {} of the protocol", hello.version))),
            other => Err(unexpected(&other)),
        }
    }

    /// Whether the shim goes on: asked something that it answers at once.
    pub async fn is_alive(&self) -> bool {
        self.at_once(self.hello()).await.is_ok()
    }

    /// An answer that takes a shim no time. One that stands still is not asked again before something has come of it: requests that
    /// nobody reads, and descriptors with them, would pile up.
    async fn at_once<T>(&self, answer: impl Future<Output = Result<T>>) -> Result<T> {
        if self.silent.load(Ordering::Relaxed) {
            return Err(silence());
        }
        match tokio::time::timeout(self.patience, answer).await {
            Ok(answer) => answer,
            Err(_) => {
                self.silent.store(true, Ordering::Relaxed);
                Err(silence())
            }
        }
    }

    /// An answer that may take its time, of a shim that goes on meanwhile.
    async fn in_its_time<T>(&self, answer: impl Future<Output = Result<T>>) -> Result<T> {
        if self.silent.load(Ordering::Relaxed) {
            return Err(silence());
        }
        let stands_still = async {
            loop {
                tokio::time::sleep(self.patience / 10).await;
                if !self.is_alive().await {
                    return;
                }
                tokio::time::sleep(self.patience).await;
            }
        };
        tokio::select! {
            biased;
            answer = answer => answer,
            () = stands_still => Err(silence()),
        }
    }

    /// Has the shim start its pause process, or a container.
    pub async fn start(&self, request: &Request) -> Result<Reply> {
        self.in_its_time(self.call(request)).await
    }

    /// Has the shim end its pod and itself, or kills it if it stands still. Fails if it goes on, but the pod's processes don't end.
    pub async fn shut_down(&self) -> Result<()> {
        let asked = tokio::time::timeout(self.patience, self.call(&Request::Shutdown));
        let (ended, alive) = tokio::join!(asked, self.is_alive());
        match (ended, alive) {
            // One that is gone has taken its pod along.
            (Ok(_), _) => Ok(()),
            (Err(_), true) => Err(Error::Timeout("the pod's processes do not end".to_owned())),
            (Err(_), false) => self.kill_itself().await,
        }
    }

    /// Sends SIGKILL, no more.
    pub fn kill_now(&self) -> Result<()> {
        self.process.signal(libc::SIGKILL).step("kill shim")
    }

    /// Kills the shim, and so its pod, and waits until nothing more can come of it.
    pub async fn kill_itself(&self) -> Result<()> {
        tracing::warn!(sandbox = self.sandbox, "killing a pod's shim, which does not do as it is told, and with it the pod");
        self.kill_now()?;
        let gone = async {
            self.process.ended().await.step("wait for the shim's end")?;
            self.gone.cancelled().await;
            Ok(())
        };
        let ended = tokio::time::timeout(self.patience, gone).await;
        ended.unwrap_or_else(|_| Err(Error::Timeout("the pod's shim does not end after SIGKILL".to_owned())))
    }

    /// Sends a request and waits for its answer.
    async fn call(&self, request: &Request) -> Result<Reply> {
        let (sender, receiver) = oneshot::channel();
        self.send(request, Waiting::Reply(sender), Vec::new()).await?;
        match receiver.await.map_err(|_| gone())? {
            Reply::Failed(message) => Err(Error::Failed(message)),
            reply => Ok(reply),
        }
    }

    /// Sends a request that is answered at once, with nothing.
    pub async fn order(&self, request: &Request) -> Result<()> {
        match self.at_once(self.call(request)).await? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Runs a process in a container with these standard streams. One that begins when nobody waits for it any more is killed.
    pub async fn exec(&self, spec: ExecSpec, streams: [&OwnedFd; 3]) -> Result<Exec> {
        self.in_its_time(self.begin_exec(spec, streams)).await
    }

    async fn begin_exec(&self, spec: ExecSpec, streams: [&OwnedFd; 3]) -> Result<Exec> {
        let (sender, receiver) = oneshot::channel();
        let descriptors = streams.map(OwnedFd::try_clone).into_iter().collect::<std::io::Result<_>>();
        let descriptors = descriptors.step("share the process' streams")?;
        let container = spec.container.clone();
        self.send(&Request::Exec(Box::new(spec)), Waiting::Exec(container, sender), descriptors).await?;
        match receiver.await.map_err(|_| gone())? {
            Ok(exec) => Ok(exec),
            Err(Reply::Failed(message)) => Err(Error::Failed(message)),
            Err(other) => Err(unexpected(&other)),
        }
    }

    /// Kills all of a container.
    pub async fn kill(&self, container: &str) -> Result<()> {
        let all = KillSpec { container: container.to_owned(), exec: 0, signal: libc::SIGKILL, all: true };
        self.order(&Request::Kill(all)).await
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

    /// Reads to the end, and then lets everybody know who waits for something: also where reading has panicked.
    async fn follow(self: Arc<Self>, reading: impl Future<Output = ()>, news: mpsc::UnboundedSender<News>) {
        if AssertUnwindSafe(reading).catch_unwind().await.is_err() {
            tracing::error!(sandbox = self.sandbox, "what a shim says can no longer be read: its pod is given up");
        }
        *self.expected.lock() = Expected { gone: true, ..Expected::default() };
        self.gone.cancel();
        let _ = news.send(None);
    }

    /// Routes frames until the shim is gone.
    async fn read_all(self: Arc<Self>, news: mpsc::UnboundedSender<News>) {
        let mut buffer: Vec<u8> = Vec::new();
        while self.stream.readable().await.is_ok() {
            let mut chunk = [0u8; 4096];
            match self.stream.try_read(&mut chunk) {
                Ok(0) => return,
                Ok(count) => buffer.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                Err(_) => return,
            }
            self.silent.store(false, Ordering::Relaxed);
            let mut used = 0;
            loop {
                match shim::parse(&buffer[used..]) {
                    Ok(Some((kind, id, body, length))) => {
                        if self.route(&news, kind, id, body).is_err() {
                            return;
                        }
                        used += length;
                    }
                    Ok(None) => break,
                    Err(_) => return,
                }
            }
            buffer.drain(..used);
            buffer.shrink_to_fit();
        }
    }

    fn route(
        self: &Arc<Self>,
        news: &mpsc::UnboundedSender<News>,
        kind: u8,
        id: u32,
        body: &[u8],
    ) -> Result<(), shim::wire::Malformed> {
        match kind {
            shim::REPLY => {
                let reply = Reply::from_bytes(body)?;
                let waiting = self.expected.lock().replies.remove(&id);
                match (waiting, reply) {
                    (Some(Waiting::Reply(sender)), reply) => drop(sender.send(reply)),
                    (Some(Waiting::Exec(container, sender)), Reply::Exec(started)) => {
                        // Before the next frame is looked at: it may be about this process' end.
                        let (told, exited) = oneshot::channel();
                        self.expected.lock().execs.insert(started.exec, told);
                        let kill = KillSpec { container, exec: started.exec, signal: libc::SIGKILL, all: true };
                        if sender.send(Ok(Exec { exited, kill: kill.clone() })).is_err() {
                            let shim = self.clone();
                            tokio::spawn(async move { shim.order(&Request::Kill(kill)).await });
                        }
                    }
                    (Some(Waiting::Exec(_, sender)), other) => drop(sender.send(Err(other))),
                    (None, _) => {}
                }
            }
            shim::EVENT => match Event::from_bytes(body)? {
                Event::ExecExited(exit) => {
                    if let Some(told) = self.expected.lock().execs.remove(&exit.exec) {
                        let _ = told.send(exit.code);
                    }
                }
                event => drop(news.send(Some(event))),
            },
            _ => return Err(shim::wire::Malformed),
        }
        Ok(())
    }
}

fn silence() -> Error {
    Error::Timeout("the pod's shim does not answer".to_owned())
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A connection on which nobody answers. It is this process that stands for the shim's: none of these tests kills it.
    fn mute(patience: Duration) -> (Arc<Shim>, UnixStream, mpsc::UnboundedReceiver<News>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (sender, news) = mpsc::unbounded_channel();
        (Shim::new("pod", (ours, Process::open(std::process::id()).unwrap()), patience, sender), theirs, news)
    }

    #[tokio::test]
    async fn whoever_waits_hears_of_a_panic_in_reading() {
        let (shim, _theirs, _) = mute(Duration::from_secs(60));
        let asking = tokio::spawn({
            let shim = shim.clone();
            async move { shim.order(&Request::Shutdown).await }
        });
        while shim.expected.lock().replies.is_empty() {
            tokio::task::yield_now().await;
        }
        let (sender, mut news) = mpsc::unbounded_channel();
        shim.clone().follow(async { std::hint::black_box(None::<()>).expect("to be there") }, sender).await;
        assert_eq!(asking.await.unwrap().unwrap_err().to_string(), "the pod's shim is gone");
        assert!(matches!(news.recv().await, Some(None)), "its pod is given up");
        assert_eq!(shim.order(&Request::Shutdown).await.unwrap_err().to_string(), "the pod's shim is gone");
    }

    #[tokio::test]
    async fn one_that_does_not_answer_is_asked_nothing_more_until_it_does() {
        let (shim, mut theirs, _news) = mute(Duration::from_millis(20));
        let mut said = Vec::new();
        for _ in 0..3 {
            said.push(shim.order(&Request::ReopenLog("a".into())).await.unwrap_err().to_string());
        }
        assert_eq!(said, ["the pod's shim does not answer"; 3]);
        let asked = shim::frame(shim::REQUEST, 1, &Request::ReopenLog("a".into()).to_bytes());
        let mut input = vec![0; asked.len() + 1];
        assert_eq!(theirs.try_read(&mut input).unwrap(), asked.len(), "one request, not three");
        // It goes on.
        theirs.write_all(&shim::frame(shim::REPLY, 1, &Reply::Done.to_bytes())).await.unwrap();
        while shim.silent.load(Ordering::Relaxed) {
            tokio::task::yield_now().await;
        }
        let asking = tokio::spawn(async move { shim.order(&Request::ReopenLog("b".into())).await });
        theirs.readable().await.unwrap();
        theirs.write_all(&shim::frame(shim::REPLY, 2, &Reply::Done.to_bytes())).await.unwrap();
        asking.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_request_that_is_given_up_does_not_garble_the_next() {
        let (shim, mut theirs, _news) = mute(Duration::from_secs(60));
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
