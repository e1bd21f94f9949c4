//! The loop: one poll(2) over connections, starting children, containers' streams and the reaper's signal.
//!
//! Nothing here waits for anything else: a child that hangs in a mount holds up only its own request. Within a round,
//! children's reports come before the reaper, so that a process which ended at once is known when its end is.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::process::ExitCode;

use knarr_shim::wire::Wire;
use knarr_shim::{self as protocol, ContainerSpec, Event, ExecSpec, KillSpec, PidMode, Reply, Request, SandboxSpec};

use crate::child::{self, Forked};
use crate::connection::{Connection, Role};
use crate::container::{self, Container, Output};
use crate::log::Log;
use crate::pending::{Pending, Starting};
use crate::process;
use crate::sys::{self, Context, Outcome};

/// Output waits while an attached client has this much unread.
const ATTACH_LIMIT: usize = 64 << 10;
const READ_SIZE: usize = 32 << 10;
/// When to look again whether a descriptor is free for a client that waits.
const FULL_WAIT_MS: i32 = 500;

struct Exec {
    id: u64,
    pid: i32,
}

/// A shim.
pub struct Server {
    listener: UnixListener,
    /// No descriptor is free for another client.
    full: bool,
    signals: OwnedFd,
    connections: Vec<Connection>,
    pending: Vec<Pending>,
    pause: Option<(i32, OwnedFd)>,
    containers: Vec<Container>,
    execs: Vec<Exec>,
    next_key: u64,
    shutdown: Option<(u64, u32)>,
    buffer: Vec<u8>,
}

/// Whom a poll entry belongs to. Indexes are good for one round.
#[derive(Clone, Copy)]
enum Source {
    Listener,
    Signals,
    Connection(usize),
    Pending,
    Stream(usize, usize),
    Input(usize),
}

impl Server {
    /// Becomes a shim in `directory`, with the first client on descriptor 0.
    pub fn start(directory: &str) -> Outcome<Server> {
        sys::close_from(3);
        process::forget_signals();
        std::env::set_current_dir(directory).context("enter directory")?;
        // Children share this until exec: no process of a container may look into one that is still being set up.
        sys::prctl(libc::PR_SET_DUMPABLE, 0, 0).context("protect memory")?;
        sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0).context("become subreaper")?;
        // SAFETY: plain calls on this process alone. Every signal but the deadly ones is blocked: nothing sent to the runtime's
        // group ends a pod.
        let signals = unsafe {
            libc::prctl(libc::PR_SET_NAME, c"knarr-shim".as_ptr());
            libc::setsid();
            libc::umask(0o077);
            let mut blocked: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&mut blocked);
            for fault in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT] {
                libc::sigdelset(&mut blocked, fault);
            }
            libc::sigprocmask(libc::SIG_SETMASK, &blocked, std::ptr::null_mut());
            let mut child: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut child);
            libc::sigaddset(&mut child, libc::SIGCHLD);
            libc::signalfd(-1, &child, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        };
        if signals < 0 {
            return Err(std::io::Error::last_os_error()).context("watch children");
        }
        let _ = std::fs::remove_file(protocol::SOCKET);
        let listener = UnixListener::bind(protocol::SOCKET).context("listen")?;
        listener.set_nonblocking(true).context("listen")?;
        // SAFETY: numbers only.
        let first = unsafe {
            libc::umask(0o022);
            libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 3)
        };
        let mut server = Server {
            listener,
            full: false,
            // SAFETY: just opened.
            signals: unsafe { OwnedFd::from_raw_fd(signals) },
            connections: Vec::new(),
            pending: Vec::new(),
            pause: None,
            containers: Vec::new(),
            execs: Vec::new(),
            next_key: 1,
            shutdown: None,
            buffer: vec![0; READ_SIZE],
        };
        if first >= 0 {
            // Descriptor 0 must not be given out again, nor keep the socket open.
            if let Ok(null) = sys::openat2(sys::CWD, "/dev/null", libc::O_RDWR, 0, 0) {
                // SAFETY: numbers only.
                unsafe { libc::dup2(null.as_raw_fd(), 0) };
            }
            // SAFETY: just duplicated.
            server.accept(unsafe { OwnedFd::from_raw_fd(first) });
        }
        Ok(server)
    }

    /// Serves until told to end.
    pub fn run(&mut self) -> ExitCode {
        loop {
            let (mut polls, sources) = self.poll_set();
            let wait = if self.full { FULL_WAIT_MS } else { -1 };
            // SAFETY: the list's own bounds.
            let count = unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, wait) };
            if count < 0 {
                continue;
            }
            // Whatever has happened may have freed one.
            self.full = false;
            let mut reap = false;
            for (poll, source) in polls.iter().zip(sources).filter(|(poll, _)| poll.revents != 0) {
                match source {
                    Source::Signals => reap = true,
                    Source::Listener => self.accept_all(),
                    Source::Connection(index) => self.serve(index, poll.revents),
                    Source::Pending => {}
                    Source::Stream(container, stream) => drop(self.forward(container, stream)),
                    Source::Input(container) => self.containers[container].flush_input(),
                }
            }
            self.settle_pending();
            if reap {
                self.reap();
            }
            self.connections.iter_mut().for_each(Connection::flush);
            self.connections.retain(|connection| !connection.dead);
            if self.finished() {
                return ExitCode::SUCCESS;
            }
        }
    }

    fn poll_set(&self) -> (Vec<libc::pollfd>, Vec<Source>) {
        let (mut polls, mut sources) = (Vec::new(), Vec::new());
        let mut add = |fd: RawFd, events: i16, source: Source| {
            polls.push(libc::pollfd { fd, events, revents: 0 });
            sources.push(source);
        };
        add(self.signals.as_raw_fd(), libc::POLLIN, Source::Signals);
        if !self.full {
            add(self.listener.as_raw_fd(), libc::POLLIN, Source::Listener);
        }
        for (index, connection) in self.connections.iter().enumerate() {
            let full = match &connection.role {
                Role::Attached(attach) => {
                    self.container(&attach.container).is_some_and(|container| !container.wants_input())
                }
                Role::Control { .. } => false,
            };
            let read = if full { 0 } else { libc::POLLIN };
            let write = if connection.output.is_empty() { 0 } else { libc::POLLOUT };
            add(connection.fd.as_raw_fd(), read | write, Source::Connection(index));
        }
        for pending in &self.pending {
            add(pending.forked.sync.as_raw_fd(), libc::POLLIN, Source::Pending);
        }
        for (index, container) in self.containers.iter().enumerate() {
            let held_up = self.attached(&container.id).any(|connection| connection.output.len() > ATTACH_LIMIT);
            for (stream, end) in container.streams.iter().enumerate() {
                if let (Some(fd), false) = (&end.fd, held_up) {
                    add(fd.as_raw_fd(), libc::POLLIN, Source::Stream(index, stream));
                }
            }
            if let Some(fd) = container.blocked_input() {
                add(fd, libc::POLLOUT, Source::Input(index));
            }
        }
        (polls, sources)
    }

    fn container(&self, id: &str) -> Option<&Container> {
        self.containers.iter().find(|container| container.id == id)
    }

    fn attached<'a>(&'a self, id: &'a str) -> impl Iterator<Item = &'a Connection> {
        self.connections.iter().filter(move |connection| connection.follows(id).is_some())
    }

    fn accept_all(&mut self) {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => self.accept(stream.into()),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                // A client that has gone again.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ECONNABORTED | libc::EINTR)) => {}
                Err(_) => {
                    self.full = true;
                    return;
                }
            }
        }
    }

    fn accept(&mut self, fd: OwnedFd) {
        if sys::set_nonblocking(fd.as_raw_fd()).is_ok() {
            self.connections.push(Connection::new(self.next_key, fd));
            self.next_key += 1;
        }
    }

    /// Reads what a client sent and does it.
    fn serve(&mut self, index: usize, events: i16) {
        if events & (libc::POLLIN | libc::POLLHUP | libc::POLLERR) == 0 {
            return;
        }
        let connection = &mut self.connections[index];
        match sys::receive(connection.fd.as_raw_fd(), &mut self.buffer, &mut connection.descriptors) {
            Ok(count) if count > 0 => connection.input.extend_from_slice(&self.buffer[..count]),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => return,
            Ok(_) | Err(_) => return self.leave(index),
        }
        let mut input = std::mem::take(&mut self.connections[index].input);
        let mut used = 0;
        loop {
            match protocol::parse(&input[used..]) {
                Ok(Some((kind, id, body, length))) => {
                    if self.handle(index, kind, id, body).is_err() {
                        return self.leave(index);
                    }
                    used += length;
                }
                Ok(None) => break,
                Err(_) => return self.leave(index),
            }
        }
        input.drain(..used);
        // Big requests are rare; an idle shim keeps no room for them.
        input.shrink_to_fit();
        self.connections[index].input = input;
    }

    /// A client is gone, or not worth listening to.
    fn leave(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        connection.dead = true;
        if let Role::Attached(attach) = &connection.role
            && attach.stdin
            && let Some(container) = self.containers.iter_mut().find(|container| container.id == attach.container)
            && container.stdin_once
        {
            container.end_input();
        }
    }

    fn handle(&mut self, index: usize, kind: u8, id: u32, body: &[u8]) -> Result<(), knarr_shim::wire::Malformed> {
        let connection = &mut self.connections[index];
        match (&connection.role, kind) {
            (Role::Attached(attach), protocol::STDIN) if attach.stdin => {
                let container = self.containers.iter_mut().find(|container| container.id == attach.container);
                match container {
                    Some(container) if body.is_empty() && container.stdin_once => container.end_input(),
                    Some(container) => container.feed(body),
                    None => {}
                }
                Ok(())
            }
            (Role::Control { .. }, protocol::REQUEST) => {
                let request = Request::from_bytes(body)?;
                let key = connection.key;
                let reply = match self.perform(index, id, request) {
                    Ok(None) => return Ok(()),
                    Ok(Some(reply)) => reply,
                    Err(message) => Reply::Failed(message),
                };
                self.reply(key, id, &reply);
                Ok(())
            }
            _ => Err(knarr_shim::wire::Malformed),
        }
    }

    fn reply(&mut self, key: u64, id: u32, reply: &Reply) {
        if let Some(connection) = self.connections.iter_mut().find(|connection| connection.key == key) {
            connection.send(protocol::REPLY, id, &reply.to_bytes());
        }
    }

    fn announce(&mut self, event: &Event) {
        let body = event.to_bytes();
        for connection in &mut self.connections {
            if matches!(connection.role, Role::Control { events: true }) {
                connection.send(protocol::EVENT, 0, &body);
            }
        }
    }

    /// Does a request; `None` when the answer comes later.
    fn perform(&mut self, index: usize, id: u32, request: Request) -> Outcome<Option<Reply>> {
        match request {
            Request::Hello(_) => {
                self.connections[index].role = Role::Control { events: true };
                Ok(Some(Reply::Hello(protocol::HelloReply {
                    version: protocol::VERSION,
                    pid: std::process::id(),
                    pause: self.pause.as_ref().map_or(0, |(pid, _)| *pid as u32),
                    containers: self.containers.iter().map(|one| (one.id.clone(), one.pid as u32)).collect(),
                })))
            }
            Request::StartSandbox(spec) => self.start_sandbox(index, id, &spec),
            Request::StartContainer(spec) => self.start_container(index, id, spec),
            Request::Exec(spec) => self.start_exec(index, id, &spec),
            Request::Kill(spec) => self.kill(&spec).map(|()| Some(Reply::Done)),
            Request::Resize(spec) => {
                self.running(&spec.container)?.resize(spec.rows, spec.columns);
                Ok(Some(Reply::Done))
            }
            Request::ReopenLog(container) => {
                self.running(&container)?.log.reopen().context("reopen log")?;
                Ok(Some(Reply::Done))
            }
            Request::Attach(spec) => {
                self.running(&spec.container)?;
                self.connections[index].role = Role::Attached(spec);
                Ok(Some(Reply::Done))
            }
            Request::Shutdown => {
                self.shutdown = Some((self.connections[index].key, id));
                self.kill_everything();
                Ok(None)
            }
        }
    }

    fn running(&mut self, id: &str) -> Outcome<&mut Container> {
        self.containers
            .iter_mut()
            .find(|container| container.id == id)
            .ok_or_else(|| format!("container {id} is not running"))
    }

    fn wait_for(&mut self, index: usize, request: u32, forked: Forked, what: Starting) -> Option<Reply> {
        let connection = self.connections[index].key;
        self.pending.push(Pending { connection, request, forked, what, ready: None });
        None
    }

    fn start_sandbox(&mut self, index: usize, id: u32, spec: &SandboxSpec) -> Outcome<Option<Reply>> {
        if self.pause.is_some() || self.pending.iter().any(|pending| matches!(pending.what, Starting::Sandbox)) {
            return Err("the sandbox has been started already".to_owned());
        }
        let forked = child::sandbox(spec)?;
        Ok(self.wait_for(index, id, forked, Starting::Sandbox))
    }

    fn start_container(&mut self, index: usize, id: u32, spec: Box<ContainerSpec>) -> Outcome<Option<Reply>> {
        let starting =
            |pending: &Pending| matches!(&pending.what, Starting::Container { spec: other, .. } if other.id == spec.id);
        if self.container(&spec.id).is_some() || self.pending.iter().any(starting) {
            return Err(format!("container {} has been started already", spec.id));
        }
        if self.shutdown.is_some() {
            return Err("the sandbox is being stopped".to_owned());
        }
        let (pause, sandbox) = self.pause.as_ref().ok_or("the sandbox is not running")?;
        let target = match &spec.pid {
            PidMode::Pod => Some(*pause),
            PidMode::Target(other) => {
                Some(self.container(other).ok_or_else(|| format!("target container {other} is not running"))?.pid)
            }
            PidMode::Private | PidMode::Host => None,
        };
        let log = Log::open(&spec.log).with(|| format!("open log {:?}", spec.log))?;
        let (ends, streams) = container::streams(&spec).context("make streams")?;
        let forked = child::container(&spec, sandbox, target, &streams)?;
        Ok(self.wait_for(index, id, forked, Starting::Container { spec, ends, log }))
    }

    fn start_exec(&mut self, index: usize, id: u32, spec: &ExecSpec) -> Outcome<Option<Reply>> {
        let descriptors = &mut self.connections[index].descriptors;
        if descriptors.len() < 3 {
            // The kernel drops those for which no number is free; the rest must not come to be another process' streams.
            descriptors.clear();
            return Err("exec needs three descriptors".to_owned());
        }
        let mut first = descriptors.drain(..3);
        let (Some(stdin), Some(stdout), Some(stderr)) = (first.next(), first.next(), first.next()) else {
            return Err("exec needs three descriptors".to_owned());
        };
        drop(first);
        let container = self.running(&spec.container)?;
        let forked = child::exec(spec, container.pid, &container.pidfd, &[stdin, stdout, stderr])?;
        Ok(self.wait_for(index, id, forked, Starting::Exec))
    }

    fn kill(&mut self, spec: &KillSpec) -> Outcome<()> {
        let pid = if spec.exec != 0 {
            let Some(exec) = self.execs.iter().find(|exec| exec.id == spec.exec) else { return Ok(()) };
            // Exec'd processes lead a session, and so a group, of their own.
            if spec.all { -exec.pid } else { exec.pid }
        } else {
            let Some(container) = self.container(&spec.container) else { return Ok(()) };
            if spec.all {
                container.signal_all(spec.signal);
            }
            container.pid
        };
        // SAFETY: numbers only; the process is a child that is not reaped yet.
        match unsafe { libc::kill(pid, spec.signal) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()).context("send signal"),
        }
    }

    fn kill_everything(&mut self) {
        for container in &self.containers {
            container.signal_all(libc::SIGKILL);
        }
        let pids = self.pending.iter().map(|pending| pending.forked.pid);
        let pids = pids.chain(self.containers.iter().map(|container| container.pid));
        let pids = pids.chain(self.execs.iter().map(|exec| exec.pid)).chain(self.pause.as_ref().map(|(pid, _)| *pid));
        for pid in pids {
            // SAFETY: numbers only; all are children that are not reaped yet.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }

    /// Whether there is nothing left to live for: a shutdown is complete (and answered here), or nobody is connected and
    /// nothing runs, as after a runtime that was killed before it had made a sandbox.
    fn finished(&mut self) -> bool {
        if self.pause.is_some() || !self.containers.is_empty() || !self.pending.is_empty() {
            return false;
        }
        let Some((key, id)) = self.shutdown else { return self.connections.is_empty() };
        self.reply(key, id, &Reply::Done);
        for connection in &mut self.connections {
            // The last words may wait for a slow reader, but not for ever.
            let wait = libc::timeval { tv_sec: 1, tv_usec: 0 };
            // SAFETY: numbers and one timeval.
            unsafe {
                let fd = connection.fd.as_raw_fd();
                libc::fcntl(fd, libc::F_SETFL, 0);
                let size = size_of::<libc::timeval>() as libc::socklen_t;
                libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_SNDTIMEO, (&raw const wait).cast(), size);
            }
            connection.flush();
        }
        let _ = std::fs::remove_file(protocol::SOCKET);
        true
    }

    /// Reads the reports of children that are being set up.
    fn settle_pending(&mut self) {
        let mut index = 0;
        while index < self.pending.len() {
            match self.pending[index].report() {
                None => index += 1,
                Some(outcome) => {
                    let pending = self.pending.remove(index);
                    self.settle(pending, outcome);
                }
            }
        }
    }

    fn settle(&mut self, pending: Pending, outcome: Outcome<()>) {
        let Pending { connection, request, forked, what, ready } = pending;
        let (body, terminal) = ready.unwrap_or_default();
        let reply = outcome.map(|()| match what {
            Starting::Sandbox => {
                self.pause = Some((forked.pid, forked.pidfd));
                Reply::Sandbox(forked.pid as u32)
            }
            Starting::Exec => {
                let id = self.next_key;
                self.next_key += 1;
                self.execs.push(Exec { id, pid: forked.pid });
                Reply::Exec(protocol::ExecReply { exec: id, pid: forked.pid as u32 })
            }
            Starting::Container { spec, ends, log } => {
                let (uid, (gid, groups)) = <(u32, (u32, Vec<u32>))>::from_bytes(&body).unwrap_or_default();
                self.containers.push(Container::new(&spec, forked.pid, forked.pidfd, ends, terminal, log));
                let pid = forked.pid as u32;
                Reply::Started(protocol::StartedReply { pid, started_ns: sys::now_ns(), uid, gid, groups })
            }
        });
        self.reply(connection, request, &reply.unwrap_or_else(Reply::Failed));
    }

    /// Reads a stream once, into the log and to attached clients.
    fn forward(&mut self, index: usize, stream: usize) -> bool {
        let container = &mut self.containers[index];
        let Output::Bytes(count) = container.read(stream, &mut self.buffer) else { return false };
        let kind = if stream == 0 { protocol::STDOUT } else { protocol::STDERR };
        for connection in &mut self.connections {
            let wanted = connection.follows(&container.id).is_some_and(|attach| [attach.stdout, attach.stderr][stream]);
            if wanted {
                connection.send(kind, 0, &self.buffer[..count]);
            }
        }
        true
    }

    fn reap(&mut self) {
        let mut drain = [0u8; 512];
        while sys::read(self.signals.as_raw_fd(), &mut drain).is_ok() {}
        loop {
            let mut status = 0;
            // SAFETY: room for one status.
            let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
            if pid <= 0 {
                return;
            }
            let code = if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) };
            // It may have started between the round's look at the reports and now.
            self.settle_pending();
            self.ended(pid, code);
        }
    }

    fn ended(&mut self, pid: i32, code: i32) {
        if self.pause.as_ref().is_some_and(|(pause, _)| *pause == pid) {
            self.pause = None;
            self.announce(&Event::SandboxExited);
        } else if let Some(index) = self.execs.iter().position(|exec| exec.pid == pid) {
            let exec = self.execs.swap_remove(index);
            self.announce(&Event::ExecExited(protocol::ExecExit { exec: exec.id, code }));
        } else if let Some(index) = self.containers.iter().position(|container| container.pid == pid) {
            for stream in 0..2 {
                while self.forward(index, stream) {}
            }
            let mut container = self.containers.remove(index);
            container.close_log();
            let record = container.finish(code);
            self.announce(&Event::ContainerExited(record));
            for connection in &mut self.connections {
                if connection.follows(&container.id).is_some() {
                    connection.send(protocol::END, 0, &[]);
                    connection.ending = true;
                }
            }
        }
    }
}
