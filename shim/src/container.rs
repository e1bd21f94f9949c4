//! A running container as its shim sees it: process, streams, log, and the record of its end.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};

use knarr_shim::wire::Wire;
use knarr_shim::{CgroupSpec, ContainerSpec, ExitRecord, PidMode};

use crate::log::{self, Log};
use crate::sys;

/// How much input waits for a container that does not read.
pub const INPUT_LIMIT: usize = 64 << 10;

/// One output stream.
pub struct Stream {
    /// Where it is read; `None` after its end.
    pub fd: Option<OwnedFd>,
    /// "stdout" or "stderr".
    pub name: &'static str,
    held: Vec<u8>,
}

/// What reading a stream gave.
pub enum Output {
    /// This many bytes.
    Bytes(usize),
    /// Nothing now.
    Later,
    /// The end.
    End,
}

/// A container.
pub struct Container {
    /// Its ID.
    pub id: String,
    /// Its first process.
    pub pid: i32,
    /// The same without the risk of reuse.
    pub pidfd: OwnedFd,
    /// Output; standard error's is absent with a terminal.
    pub streams: [Stream; 2],
    /// Where standard input is written; a terminal's controlling end for `tty`.
    input: Option<OwnedFd>,
    waiting_input: VecDeque<u8>,
    input_ends: bool,
    /// A terminal.
    pub tty: bool,
    /// Standard input ends with the first client.
    pub stdin_once: bool,
    /// The log.
    pub log: Log,
    cgroup: CgroupSpec,
    private_pid: bool,
    record: String,
}

/// Our ends of a container's streams before it starts.
pub struct Ends {
    /// Standard input's write end.
    pub input: Option<OwnedFd>,
    /// Standard output's and error's read ends.
    pub output: [Option<OwnedFd>; 2],
}

/// Makes the streams of a container: ours and its.
pub fn streams(spec: &ContainerSpec) -> std::io::Result<(Ends, [OwnedFd; 3])> {
    let null = || sys::openat2(sys::CWD, "/dev/null", libc::O_RDWR, 0, 0);
    if spec.process.tty {
        return Ok((Ends { input: None, output: [None, None] }, [null()?, null()?, null()?]));
    }
    let (input, stdin) = match spec.stdin {
        true => sys::pipe().map(|(read, write)| (Some(write), read))?,
        false => (None, null()?),
    };
    let (output, stdout) = sys::pipe()?;
    let (errors, stderr) = sys::pipe()?;
    Ok((Ends { input, output: [Some(output), Some(errors)] }, [stdin, stdout, stderr]))
}

impl Container {
    /// A container that has just started. `terminal` replaces all of its ends.
    pub fn new(
        spec: &ContainerSpec,
        pid: i32,
        pidfd: OwnedFd,
        ends: Ends,
        terminal: Option<OwnedFd>,
        log: Log,
    ) -> Container {
        let Ends { mut input, output: [mut output, errors] } = ends;
        if let Some(main) = terminal {
            input = if spec.stdin { main.try_clone().ok() } else { None };
            output = Some(main);
        }
        for end in [&input, &output, &errors].into_iter().flatten() {
            let _ = sys::set_nonblocking(end.as_raw_fd());
        }
        let stream = |fd, name| Stream { fd, name, held: Vec::new() };
        Container {
            id: spec.id.clone(),
            pid,
            pidfd,
            streams: [stream(output, "stdout"), stream(errors, "stderr")],
            input,
            waiting_input: VecDeque::new(),
            input_ends: false,
            tty: spec.process.tty,
            stdin_once: spec.stdin_once,
            log,
            cgroup: spec.cgroup.clone(),
            private_pid: spec.pid == PidMode::Private,
            record: spec.record.clone(),
        }
    }

    /// Reads once from a stream into `buffer` and writes the log.
    pub fn read(&mut self, stream: usize, buffer: &mut [u8]) -> Output {
        let stream = &mut self.streams[stream];
        let Some(fd) = &stream.fd else { return Output::End };
        let mut out = Vec::new();
        match sys::read(fd.as_raw_fd(), buffer) {
            Ok(count) if count > 0 => {
                let stamp = log::stamp(sys::now_ns());
                log::entries(&mut out, &stamp, stream.name, &mut stream.held, &buffer[..count]);
                self.log.write(&out);
                Output::Bytes(count)
            }
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => Output::Later,
            // A terminal whose other end is closed says EIO.
            Ok(_) | Err(_) => {
                stream.fd = None;
                log::last_entry(&mut out, &log::stamp(sys::now_ns()), stream.name, &mut stream.held);
                self.log.write(&out);
                Output::End
            }
        }
    }

    /// Writes the rest of unended lines. Something that outlives the container may still hold its pipes; what it writes from
    /// now on is not the container's.
    pub fn close_log(&mut self) {
        let (mut out, stamp) = (Vec::new(), log::stamp(sys::now_ns()));
        for stream in &mut self.streams {
            log::last_entry(&mut out, &stamp, stream.name, &mut stream.held);
        }
        self.log.write(&out);
    }

    /// Whether more input may be taken from clients.
    pub fn wants_input(&self) -> bool {
        self.waiting_input.len() < INPUT_LIMIT
    }

    /// Queues input and writes what can be written. Input of a container without standard input is dropped.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.input.is_some() && !self.input_ends {
            self.waiting_input.extend(bytes);
            self.flush_input();
        }
    }

    /// Closes standard input after what waits.
    pub fn end_input(&mut self) {
        self.input_ends = true;
        self.flush_input();
    }

    /// Where to wait for room, if input waits.
    pub fn blocked_input(&self) -> Option<i32> {
        self.input.as_ref().filter(|_| !self.waiting_input.is_empty()).map(AsRawFd::as_raw_fd)
    }

    /// Writes what waits.
    pub fn flush_input(&mut self) {
        let Some(input) = &self.input else { return };
        while !self.waiting_input.is_empty() {
            match sys::write(input.as_raw_fd(), self.waiting_input.as_slices().0) {
                Ok(count) => drop(self.waiting_input.drain(..count)),
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => return,
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(_) => {
                    self.waiting_input = VecDeque::new();
                    self.input = None;
                    return;
                }
            }
        }
        self.waiting_input = VecDeque::new();
        if self.input_ends {
            self.input = None;
        }
    }

    /// Sets the terminal's size.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        if let (true, Some(main)) = (self.tty, &self.streams[0].fd) {
            // SAFETY: the ioctl reads one winsize.
            unsafe { libc::ioctl(main.as_raw_fd(), libc::TIOCSWINSZ, &size) };
        }
    }

    /// Sends a signal to every process of the container's cgroup.
    pub fn signal_all(&self, signal: i32) {
        let listed = std::fs::read_to_string(&self.cgroup.procs).unwrap_or_default();
        for pid in listed.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 1) {
            // SAFETY: numbers only.
            unsafe { libc::kill(pid, signal) };
        }
    }

    /// The first process has ended: ends what it left behind where no process namespace does so, and keeps the record.
    pub fn finish(&self, code: i32) -> ExitRecord {
        if !self.private_pid {
            self.signal_all(libc::SIGKILL);
        }
        let record = ExitRecord { container: self.id.clone(), code, finished_ns: sys::now_ns(), oom: self.out_of_memory() };
        let temporary = format!("{}.new", self.record);
        // Without the record the runtime still hears of it now; a later one finds the container gone with its end unknown.
        let _ = std::fs::write(&temporary, record.to_bytes()).and_then(|()| std::fs::rename(&temporary, &self.record));
        record
    }

    fn out_of_memory(&self) -> bool {
        let counters = std::fs::read_to_string(&self.cgroup.oom).unwrap_or_default();
        counters.lines().filter_map(|line| line.strip_prefix("oom_kill ")).any(|count| count.trim() != "0")
    }
}
