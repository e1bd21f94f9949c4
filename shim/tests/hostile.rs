//! A shim that is told nonsense: it drops the client and lives on.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use knarr_shim::wire::Wire;
use knarr_shim::{
    ContainerSpec, ExecSpec, KillSpec, PidMode, REPLY, REQUEST, Reply, Request, SandboxSpec, VERSION, frame, parse,
};

struct Shim {
    process: Child,
    first: UnixStream,
    dir: std::path::PathBuf,
}

impl Shim {
    fn start(name: &str) -> Shim {
        let dir = std::env::temp_dir().join(format!("knarr-shim-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (first, theirs) = UnixStream::pair().unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_knarr-shim"))
            .arg(&dir)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut shim = Shim { process, first, dir };
        let hello = Request::Hello(VERSION);
        let reply = ask(&mut shim.first, 1, &hello).unwrap();
        assert!(matches!(reply, Reply::Hello(hello) if hello.version == VERSION));
        shim
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(self.dir.join("shim.sock")).unwrap()
    }

    /// It still answers, on the connection that has behaved.
    fn lives(&mut self) -> bool {
        ask(&mut self.first, 9, &Request::Hello(VERSION)).is_some()
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Sends a request and reads its reply; `None` when the shim hangs up.
fn ask(stream: &mut UnixStream, id: u32, request: &Request) -> Option<Reply> {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(&frame(REQUEST, id, &request.to_bytes())).ok()?;
    let mut buffer = Vec::new();
    loop {
        if let Some((kind, answered, body, _)) = parse(&buffer).unwrap() {
            assert_eq!((kind, answered), (REPLY, id));
            return Some(Reply::from_bytes(body).unwrap());
        }
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk) {
            Ok(count) if count > 0 => buffer.extend_from_slice(&chunk[..count]),
            _ => return None,
        }
    }
}

/// Whether the shim hangs up.
fn hangs_up(mut stream: UnixStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    matches!(stream.read(&mut [0; 64]), Ok(0)) || stream.write_all(&[0; 64]).is_err()
}

#[test]
fn nonsense_costs_the_connection_and_nothing_else() {
    let mut shim = Shim::start("nonsense");
    let valid = Request::StartContainer(Box::new(ContainerSpec { id: "a".into(), ..Default::default() })).to_bytes();
    let cases: Vec<Vec<u8>> = vec![
        vec![0xff; 64],
        vec![0; 64],
        frame(REQUEST, 1, &[]),
        frame(REQUEST, 1, &[200]),
        frame(REQUEST, 1, &valid[..valid.len() / 2]),
        frame(7, 1, &valid),
        frame(REPLY, 1, &valid),
        // A list that claims four thousand million elements.
        frame(REQUEST, 1, &[6, 0xff, 0xff, 0xff, 0xff]),
        // Text that is not UTF-8.
        frame(REQUEST, 1, &[6, 2, 0, 0, 0, 0xc3, 0x28]),
    ];
    for case in cases {
        let mut stream = shim.connect();
        stream.write_all(&case).unwrap();
        assert!(hangs_up(stream), "{case:?}");
        assert!(shim.lives(), "{case:?}");
    }
    let mut state = 1u32;
    for _ in 0..300 {
        let mut stream = shim.connect();
        let mut bytes = frame(REQUEST, 1, &valid);
        for _ in 0..4 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = (state >> 8) as usize % bytes.len();
            bytes[at] = state as u8;
        }
        let _ = stream.write_all(&bytes);
    }
    // Many clients, half a frame each, all at once.
    let idle: Vec<UnixStream> = (0..100).map(|_| shim.connect()).collect();
    for mut stream in &idle {
        stream.write_all(&[9, 0]).unwrap();
    }
    assert!(shim.lives());
}

#[test]
fn requests_at_the_wrong_time_are_refused_with_words() {
    let mut shim = Shim::start("order");
    let container = ContainerSpec { id: "a".into(), pid: PidMode::Target("none".into()), ..Default::default() };
    let exec = ExecSpec { container: "a".into(), ..Default::default() };
    let requests = [
        Request::StartContainer(Box::new(container)),
        Request::Exec(Box::new(exec)),
        Request::ReopenLog("a".into()),
        Request::StartSandbox(SandboxSpec { sysctls: vec![("no/such/thing".into(), "1".into())], ..Default::default() }),
    ];
    let mut words = Vec::new();
    for (id, request) in requests.iter().enumerate() {
        match ask(&mut shim.first, id as u32, request) {
            Some(Reply::Failed(message)) => words.push(message),
            other => panic!("{other:?}"),
        }
    }
    let expected = [
        "the sandbox is not running",
        "exec needs three descriptors",
        "container a is not running",
        "write sysctl no/such/thing=1: no such file or directory",
    ];
    assert_eq!(words, expected);
    let kill = Request::Kill(KillSpec { container: "a".into(), signal: 9, ..Default::default() });
    assert_eq!(ask(&mut shim.first, 5, &kill), Some(Reply::Done));
    assert_eq!(ask(&mut shim.first, 6, &Request::Shutdown), Some(Reply::Done));
    assert!(shim.process.wait().unwrap().success());
}

/// Processor time of a process, in hundredths of a second.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn more_clients_than_descriptors_wait_and_cost_nothing() {
    let mut shim = Shim::start("full");
    let pid = shim.process.id();
    let limit = libc::rlimit { rlim_cur: 32, rlim_max: 32 };
    // SAFETY: one limit is read, none is written.
    assert_eq!(unsafe { libc::prlimit(pid as i32, libc::RLIMIT_NOFILE, &limit, std::ptr::null_mut()) }, 0);
    let mut clients: Vec<UnixStream> = (0..60).map(|_| shim.connect()).collect();
    assert!(shim.lives());
    let before = ticks(pid);
    std::thread::sleep(Duration::from_secs(1));
    let spent = ticks(pid) - before;
    assert!(spent < 20, "{spent} of 100 hundredths of a second were spent on clients that cannot be served");
    let mut last = clients.pop().unwrap();
    drop(clients);
    assert!(ask(&mut last, 1, &Request::Hello(VERSION)).is_some(), "the last of them has its turn");
    assert!(shim.lives());
}

#[test]
fn a_shim_that_nobody_wants_ends() {
    let mut shim = Shim::start("orphan");
    shim.first.shutdown(std::net::Shutdown::Both).unwrap();
    assert!(shim.process.wait().unwrap().success());
}
