//! Processes in running containers, and clients attached to a container's own streams.
//!
//! An exec'd process gets its pipes or its terminal from here directly (the shim only forks it), so its output does not pass
//! through the shim. A container's own output does, for the log, and attached clients get their copy from there.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use shim::wire::Wire;
use shim::{AttachSpec, ExecSpec, KillSpec, Reply, Request, ResizeSpec};
use streaming::command::{Exit as CommandExit, RemoteCommand, Size};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio_util::task::AbortOnDropHandle;

use crate::core::Core;
use crate::error::{Error, Result, Step, chain};
use crate::shim_client::{self, Exec, Shim};
use crate::state::Container;

/// What an exec may say on each of its streams, so that both fit into one message; the rest is dropped, as upstream does.
const OUTPUT_LIMIT: usize = cri::MAX_MESSAGE_BYTES / 2 - 1024;
/// For ever.
const UNBOUNDED: Duration = Duration::from_secs(u32::MAX as u64);
/// How long a program waits for the size of its client's terminal, which clients say as soon as they may, if they have one.
const FIRST_SIZE: Duration = Duration::from_millis(200);
/// How long output may come after its process has ended, from others that hold its pipes.
const LAST_OUTPUT: Duration = Duration::from_millis(500);

/// What a command said and how it ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// The exit code.
    pub code: i32,
}

/// One end of a pipe or terminal, on the event loop.
struct End(AsyncFd<OwnedFd>);

impl End {
    fn new(fd: OwnedFd) -> Result<End> {
        // SAFETY: numbers only.
        unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) | libc::O_NONBLOCK) };
        // SAFETY: the descriptor is owned by what watches it and closed with it.
        unsafe { AsyncFd::register(fd) }.map(End).step("watch stream")
    }

    /// 0 at the end; a terminal that nobody holds any more says EIO.
    async fn read(&self, buffer: &mut [u8]) -> usize {
        let read = self.0.async_io(Interest::READABLE, |fd| nix::unistd::read(fd, buffer).map_err(Into::into)).await;
        read.unwrap_or(0)
    }

    async fn write_all(&self, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            let count = self.0.async_io(Interest::WRITABLE, |fd| nix::unistd::write(fd, bytes).map_err(Into::into)).await?;
            bytes = &bytes[count..];
        }
        Ok(())
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).step("make pipe")
}

fn null() -> Result<OwnedFd> {
    let file = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null");
    file.map(OwnedFd::from).step("open /dev/null")
}

impl Core {
    fn running(&self, id: &str) -> Result<Arc<Container>> {
        let container = self.container(id)?;
        match container.state() {
            cri::ContainerState::ContainerRunning => Ok(container),
            state => Err(Error::State(format!("container {id} is in {} state", state.as_str_name()))),
        }
    }

    async fn spawn(
        &self,
        container: &Container,
        command: &[String],
        tty: bool,
        streams: [&OwnedFd; 3],
    ) -> Result<(Arc<Shim>, Exec)> {
        let shim = container.sandbox.shim()?;
        let process = self.describe_exec(container, command, tty)?;
        let cgroup = self.cgroups.spec(&container.cgroup);
        let spec = ExecSpec { container: container.id.clone(), process, cgroup };
        let exec = self.soon("the command", shim.exec(spec, streams)).await;
        let exec = exec.map_err(|error| {
            let text = format!("failed to exec in container: {}", chain(&error));
            // A probe that gets no answer in time has failed; one that cannot be made says nothing.
            if matches!(error, Error::Timeout(_)) { Error::Timeout(text) } else { Error::Failed(text) }
        })?;
        Ok((shim, exec))
    }

    /// Runs a command to its end.
    pub async fn exec_sync(&self, id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput> {
        let container = self.running(id)?;
        let ((stdout, their_stdout), (stderr, their_stderr)) = (pipe()?, pipe()?);
        let (null, patience) = (null()?, if timeout.is_zero() { UNBOUNDED } else { timeout });
        let mut unfinished = None;
        let outputs = [stdout, stderr].map(|end| AbortOnDropHandle::new(tokio::spawn(collect(end))));
        // A shim that stands still is as bad as a command that does.
        let run = async {
            let (shim, exec) = self.spawn(&container, command, false, [&null, &their_stdout, &their_stderr]).await?;
            drop((their_stdout, their_stderr));
            let unfinished = unfinished.insert(KillOnDrop(Some((shim, exec.kill))));
            let code = exec.exited.await.map_err(|_| Error::State("the pod's shim is gone".to_owned()))?;
            unfinished.0 = None;
            Ok(code)
        };
        let Ok(code) = tokio::time::timeout(patience, run).await else {
            if unfinished.is_none() {
                // Does its shim stand still? Probes go on asking.
                let shim = container.sandbox.shim()?;
                tokio::spawn(async move { shim.is_alive().await });
            }
            let seconds = timeout.as_secs();
            let text = format!("failed to exec in container: timeout {seconds}s exceeded: context deadline exceeded");
            return Err(Error::Timeout(text));
        };
        let code = code?;
        let [stdout, stderr] = outputs;
        let (stdout, stderr) = tokio::join!(finish(stdout), finish(stderr));
        Ok(ExecOutput { stdout, stderr, code })
    }

    /// Runs a command with a client's streams.
    pub async fn exec_stream(&self, id: &str, command: &[String], tty: bool, remote: RemoteCommand) {
        let RemoteCommand { stdin, stdout, stderr, resize, exit } = remote;
        let run = async {
            let container = self.running(id)?;
            if tty {
                self.exec_terminal(&container, command, stdin, stdout, resize).await
            } else {
                self.exec_pipes(&container, command, stdin, stdout, stderr).await
            }
        };
        let ended = match run.await {
            Ok(code) => CommandExit::Code(code),
            Err(error) => CommandExit::Error(format!("error executing command in container: {}", chain(&error))),
        };
        exit.send(ended).await;
    }

    async fn exec_pipes(
        &self,
        container: &Container,
        command: &[String],
        stdin: Option<streaming::stream::Receive>,
        stdout: Option<streaming::stream::Send>,
        stderr: Option<streaming::stream::Send>,
    ) -> Result<i32> {
        let ((read, input), (output, their_output), (errors, their_errors)) = (pipe()?, pipe()?, pipe()?);
        let read = if stdin.is_some() { read } else { null()? };
        let (_, exec) = self.spawn(container, command, false, [&read, &their_output, &their_errors]).await?;
        drop((read, their_output, their_errors));
        let input = End::new(input)?;
        let feeding = tokio::spawn(async move {
            if let Some(stdin) = stdin {
                feed(stdin, &input).await;
            }
        });
        let (output, errors) = (End::new(output)?, End::new(errors)?);
        let copies = tokio::spawn(async move { tokio::join!(copy(&output, stdout), copy(&errors, stderr)) });
        let code = exec.exited.await;
        let aborts = copies.abort_handle();
        if tokio::time::timeout(LAST_OUTPUT, copies).await.is_err() {
            aborts.abort();
        }
        feeding.abort();
        code.map_err(|_| Error::State("the pod's shim is gone".to_owned()))
    }

    async fn exec_terminal(
        &self,
        container: &Container,
        command: &[String],
        stdin: Option<streaming::stream::Receive>,
        stdout: Option<streaming::stream::Send>,
        mut resize: Option<streaming::command::Resizes>,
    ) -> Result<i32> {
        let (main, peer) = open_terminal(container.record().pid).step("open a terminal in the container")?;
        let main = Arc::new(End::new(main)?);
        if let Some(resize) = &mut resize
            && let Ok(Some(size)) = tokio::time::timeout(FIRST_SIZE, resize.next()).await
        {
            set_size(&main, size);
        }
        let (_, exec) = self.spawn(container, command, true, [&peer; 3]).await?;
        drop(peer);
        let (fed, sized) = (main.clone(), main.clone());
        let feeding = tokio::spawn(async move {
            if let Some(stdin) = stdin {
                feed(stdin, &fed).await;
            }
        });
        let sizing = tokio::spawn(async move {
            let Some(mut resize) = resize else { return };
            while let Some(size) = resize.next().await {
                set_size(&sized, size);
            }
        });
        let copying = tokio::spawn(async move { copy(&main, stdout).await });
        let code = exec.exited.await;
        let abort = copying.abort_handle();
        if tokio::time::timeout(LAST_OUTPUT, copying).await.is_err() {
            abort.abort();
        }
        feeding.abort();
        sizing.abort();
        code.map_err(|_| Error::State("the pod's shim is gone".to_owned()))
    }

    /// Connects a client to a container's own streams until one of them ends.
    pub async fn attach_stream(&self, id: &str, options: streaming::command::Options, remote: RemoteCommand) {
        let RemoteCommand { stdin, stdout, stderr, resize, exit } = remote;
        let ended = match self.attach(id, options, stdin, stdout, stderr, resize).await {
            Ok(()) => CommandExit::Code(0),
            Err(error) => CommandExit::Error(format!("error attaching to container: {}", chain(&error))),
        };
        exit.send(ended).await;
    }

    async fn attach(
        &self,
        id: &str,
        options: streaming::command::Options,
        stdin: Option<streaming::stream::Receive>,
        mut stdout: Option<streaming::stream::Send>,
        mut stderr: Option<streaming::stream::Send>,
        resize: Option<streaming::command::Resizes>,
    ) -> Result<()> {
        let container = self.running(id)?;
        let control = container.sandbox.shim()?;
        let (stream, _) = shim_client::connect(&container.sandbox.dir).await.step("connect to shim")?;
        let (mut from, mut to) = stream.into_split();
        let spec = AttachSpec {
            container: container.id.clone(),
            stdin: options.stdin,
            stdout: options.stdout,
            stderr: options.stderr,
        };
        to.write_all(&shim::frame(shim::REQUEST, 1, &Request::Attach(spec).to_bytes())).await.step("talk to shim")?;
        // Where the container's input is for this client alone, its end is the container's and output goes on; else the
        // client leaves with the end of its own.
        let alone = container.config.stdin_once && !container.config.tty;
        let mut feeding = tokio::spawn(async move {
            let Some(mut stdin) = stdin else { return std::future::pending().await };
            while let Some(bytes) = stdin.next().await {
                for part in bytes.chunks(32 << 10) {
                    if to.write_all(&shim::frame(shim::STDIN, 0, part)).await.is_err() {
                        return;
                    }
                }
            }
            if alone {
                let _ = to.write_all(&shim::frame(shim::STDIN, 0, &[])).await;
                // Output goes on; the connection's end is ours to say.
                std::future::pending::<()>().await;
            }
        });
        let target = container.id.clone();
        let sizing = tokio::spawn(async move {
            let Some(mut resize) = resize else { return };
            while let Some(size) = resize.next().await {
                let spec = ResizeSpec { container: target.clone(), rows: size.height, columns: size.width };
                let _ = control.order(&Request::Resize(spec)).await;
            }
        });
        let mut buffer = Vec::new();
        let patience = tokio::time::sleep(self.shim_patience());
        let (mut attached, mut patience) = (false, std::pin::pin!(patience));
        let ended = 'frames: loop {
            let (kind, body, used) = match shim::parse(&buffer) {
                Ok(Some((kind, _, body, used))) => (kind, body.to_vec(), used),
                Ok(None) => tokio::select! {
                    read = from.read_buf(&mut buffer) => match read {
                        Ok(count) if count > 0 => continue,
                        _ => break Ok(()),
                    },
                    _ = &mut feeding => break Ok(()),
                    () = &mut patience, if !attached => {
                        break Err(Error::Timeout("the pod's shim does not answer".to_owned()));
                    }
                },
                Err(_) => break Err(Error::Failed("shim sent something odd".to_owned())),
            };
            buffer.drain(..used);
            let out = match kind {
                shim::STDOUT => &mut stdout,
                shim::STDERR => &mut stderr,
                shim::REPLY => match Reply::from_bytes(&body) {
                    Ok(Reply::Done) => {
                        attached = true;
                        continue 'frames;
                    }
                    Ok(Reply::Failed(message)) => break Err(Error::Failed(message)),
                    _ => break Err(Error::Failed("shim sent something odd".to_owned())),
                },
                shim::END => break Ok(()),
                _ => continue 'frames,
            };
            if let Some(out) = out
                && out.write_all(&body).await.is_err()
            {
                break Ok(());
            }
        };
        feeding.abort();
        sizing.abort();
        for out in [stdout, stderr].iter_mut().flatten() {
            let _ = out.shutdown().await;
        }
        ended
    }

    /// Connects to a port of the pod.
    pub async fn connect_port(&self, sandbox: &str, port: u16) -> std::io::Result<tokio::net::TcpStream> {
        let sandbox = self.sandbox(sandbox).map_err(std::io::Error::other)?;
        let pause = sandbox.record().pause;
        let namespace = std::fs::File::open(format!("/proc/{pause}/ns/net"))?;
        let (sender, receiver) = tokio::sync::oneshot::channel::<std::io::Result<std::net::TcpStream>>();
        // A thread of its own, which ends in the pod's namespace and never runs anything else.
        std::thread::spawn(move || {
            let connect = || {
                nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET)?;
                let stream = std::net::TcpStream::connect(("127.0.0.1", port))
                    .or_else(|error| std::net::TcpStream::connect(("::1", port)).map_err(|_| error))?;
                stream.set_nonblocking(true)?;
                Ok(stream)
            };
            let _ = sender.send(connect());
        });
        let stream = receiver.await.map_err(std::io::Error::other)??;
        tokio::net::TcpStream::from_std(stream)
    }
}

/// Everything up to the limit; what comes after is read and dropped, so that its writer goes on.
async fn collect(end: OwnedFd) -> Vec<u8> {
    let (mut all, mut buffer) = (Vec::new(), vec![0; 16 << 10]);
    let Ok(end) = End::new(end) else { return all };
    loop {
        match end.read(&mut buffer).await {
            0 => return all,
            count => {
                let room = OUTPUT_LIMIT - all.len();
                all.extend_from_slice(&buffer[..count.min(room)]);
            }
        }
    }
}

async fn finish(output: AbortOnDropHandle<Vec<u8>>) -> Vec<u8> {
    tokio::time::timeout(LAST_OUTPUT, output).await.ok().and_then(Result::ok).unwrap_or_default()
}

/// Kills a command for which nobody waits any longer: its time is over, or who asked is gone.
struct KillOnDrop(Option<(Arc<Shim>, KillSpec)>);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let (Some((shim, kill)), Ok(tokio)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            tokio.spawn(async move { shim.order(&Request::Kill(kill)).await });
        }
    }
}

async fn feed(mut stdin: streaming::stream::Receive, input: &End) {
    while let Some(bytes) = stdin.next().await {
        if input.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

async fn copy(from: &End, to: Option<streaming::stream::Send>) {
    let mut buffer = vec![0; 32 << 10];
    let Some(mut to) = to else {
        // Nobody listens, but the process must be able to speak.
        while from.read(&mut buffer).await > 0 {}
        return;
    };
    loop {
        match from.read(&mut buffer).await {
            0 => break,
            count => {
                if to.write_all(&buffer[..count]).await.is_err() {
                    break;
                }
            }
        }
    }
    let _ = to.shutdown().await;
}

fn set_size(terminal: &End, size: Size) {
    let size = libc::winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the ioctl reads one winsize.
    unsafe { libc::ioctl(terminal.0.get_ref().as_raw_fd(), libc::TIOCSWINSZ, &size) };
}

/// A terminal of the container's own devpts: its controlling end and its process' end. The path is resolved inside the
/// container's root by the kernel, what is found must be a devpts, and the other end is opened without any path.
fn open_terminal(pid: u32) -> std::io::Result<(OwnedFd, OwnedFd)> {
    use nix::fcntl::{OFlag, ResolveFlag};
    let root = nix::fcntl::open(
        format!("/proc/{pid}/root").as_str(),
        OFlag::O_PATH | OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )?;
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY;
    let main = process::inside::open(&root, "dev/pts/ptmx", flags, ResolveFlag::RESOLVE_IN_ROOT)?;
    if nix::sys::statfs::fstatfs(&main)?.filesystem_type() != nix::sys::statfs::FsType(libc::DEVPTS_SUPER_MAGIC) {
        return Err(std::io::Error::other("/dev/pts/ptmx is no terminal multiplexer"));
    }
    let unlocked: libc::c_int = 0;
    // SAFETY: the ioctls take a pointer to an int, and flags; the result is new.
    unsafe {
        libc::ioctl(main.as_raw_fd(), libc::TIOCSPTLCK, &unlocked);
        let peer = libc::ioctl(main.as_raw_fd(), libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
        if peer < 0 { Err(std::io::Error::last_os_error()) } else { Ok((main, OwnedFd::from_raw_fd(peer))) }
    }
}
