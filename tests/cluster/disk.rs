//! A disk that fails the API server at the moment at which the server is killed.

use std::{
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use harness::{eventually, program, succeeded};

const SECONDS_90: Duration = Duration::from_secs(90);

/// A disk of 48 MiB in a file: it can be filled, and it can be made to stand still (`fsfreeze`), as one does that is overloaded.
struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let this = Self { folder };
        std::fs::create_dir(this.path())?;
        std::fs::File::create(this.folder.path().join("image"))?.set_len(48 << 20)?;
        succeeded(Command::new("mkfs.ext4").arg("-q").arg(this.folder.path().join("image")))?;
        succeeded(Command::new("mount").args(["-o", "loop"]).arg(this.folder.path().join("image")).arg(this.path()))?;
        Ok(this)
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// Fills it to the last byte.
    fn fill(&self) -> Result<()> {
        let mut file = std::fs::File::create(self.path().join("filler"))?;
        match std::io::copy(&mut std::io::repeat(1), &mut file) {
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => Ok(()),
            other => bail!("the disk did not fill up: {other:?}"),
        }
    }

    fn empty(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.path().join("filler"))?)
    }

    fn freeze(&self, on: bool) -> Result<()> {
        succeeded(Command::new("fsfreeze").arg(if on { "-f" } else { "-u" }).arg(self.path())).map(drop)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let quietly = |command: &mut Command| drop(command.stdout(Stdio::null()).stderr(Stdio::null()).status());
        quietly(Command::new("fsfreeze").arg("-u").arg(self.path()));
        quietly(Command::new("umount").arg("-l").arg(self.path()));
    }
}

/// An API server on loopback, started again whenever it has ended, as systemd does it.
struct Server {
    data: PathBuf,
    folder: tempfile::TempDir,
    port: u16,
    running: Mutex<Option<Child>>,
    /// Killed, and perhaps still held up in the kernel.
    killed: Mutex<Vec<Child>>,
    starts: AtomicUsize,
}

impl Drop for Server {
    fn drop(&mut self) {
        let running = self.running.get_mut().ok().and_then(Option::take);
        let killed = self.killed.get_mut().map(std::mem::take).unwrap_or_default();
        for mut child in running.into_iter().chain(killed) {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default());
        }
    }
}

impl Server {
    fn start(data: &Path) -> Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let this = Self {
            data: data.to_owned(),
            folder: tempfile::tempdir()?,
            port,
            running: Mutex::default(),
            killed: Mutex::default(),
            starts: AtomicUsize::new(0),
        };
        this.keep()?;
        let kubeconfig = data.join("admin.kubeconfig");
        eventually("see the administrator's kubeconfig", SECONDS_90, || Ok(kubeconfig.exists().then_some(())))?;
        std::fs::copy(kubeconfig, this.kubeconfig())?;
        let ready = || Ok(this.kubectl(&["get", "--raw", "/readyz"], None)?.success().then_some(()));
        eventually("see the API server ready", SECONDS_90, ready)?;
        Ok(this)
    }

    fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// Starts the server if none runs.
    fn keep(&self) -> Result<()> {
        let mut running = self.running.lock().expect("lock");
        if running.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None))) {
            return Ok(());
        }
        let log = std::fs::File::options().create(true).append(true).open(self.folder.path().join("log"))?;
        let mut command = Command::new(program("knarr")?);
        command.args(["apiserver", "--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1", "--secure-port"]);
        command.arg(self.port.to_string()).arg("--data-dir").arg(&self.data);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        *running = Some(command.spawn()?);
        self.starts.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// Ends the process at once, as far as the kernel lets it; the next one is started whatever holds this one up.
    fn kill(&self) -> Result<()> {
        let mut child = self.running.lock().expect("lock").take().context("find the server")?;
        child.kill()?;
        self.killed.lock().expect("lock").push(child);
        Ok(())
    }

    /// Whether a thread of the server waits for the disk.
    fn is_held_up(&self) -> Result<bool> {
        let running = self.running.lock().expect("lock");
        let Some(child) = running.as_ref() else { return Ok(false) };
        let threads = std::fs::read_dir(format!("/proc/{}/task", child.id()))?.flatten();
        let mut stats = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok());
        Ok(stats.any(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('D'))))
    }

    fn kubectl(&self, arguments: &[&str], out: Option<Stdio>) -> Result<ExitStatus> {
        let mut command = Command::new(program("kubectl")?);
        command.env("KUBECONFIG", self.kubeconfig()).args(["--request-timeout=5s"]).args(arguments);
        Ok(command.stdin(Stdio::null()).stdout(out.unwrap_or_else(Stdio::null)).stderr(Stdio::null()).status()?)
    }
}

/// Creates ConfigMaps until told to stop; returns those that were acknowledged. `known` counts them, and `refused` the others.
fn write(server: &Server, n: usize, stop: &AtomicBool, known: &AtomicUsize, refused: &AtomicUsize) -> Result<Vec<String>> {
    let (mut acknowledged, value) = (Vec::new(), format!("--from-literal=k={}", "x".repeat(4096)));
    for step in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("own-{n}-{step}");
        match server.kubectl(&["create", "configmap", &name, &value], None)?.success() {
            true => {
                acknowledged.push(name);
                known.fetch_add(1, Ordering::SeqCst);
            }
            false => drop(refused.fetch_add(1, Ordering::SeqCst)),
        }
    }
    Ok(acknowledged)
}

/// What was acknowledged is there after the disk was full, and after it stood still, when the server was killed; and the server
/// comes back by itself.
#[test]
fn a_server_killed_on_a_failing_disk_comes_back_with_all_that_it_acknowledged() -> Result<()> {
    let disk = Disk::new()?;
    let server = Server::start(&disk.path().join("data"))?;
    let (stop, known, refused) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let more = |count: &AtomicUsize, than: usize, what: &str| {
        eventually(what, SECONDS_90, || Ok((count.load(Ordering::SeqCst) > than).then_some(())))
    };
    let story = || -> Result<()> {
        for _ in 0..2 {
            more(&known, known.load(Ordering::SeqCst) + 12, "see writes acknowledged")?;
            let (refusals, starts) = (refused.load(Ordering::SeqCst), server.starts.load(Ordering::SeqCst));
            disk.fill()?;
            more(&refused, refusals, "see a write refused for the full disk")?;
            server.kill()?;
            more(&server.starts, starts, "see the server started again on the full disk")?;
            more(&refused, refused.load(Ordering::SeqCst) + 3, "see writes refused again")?;
            disk.empty()?;
            more(&known, known.load(Ordering::SeqCst) + 12, "see writes acknowledged once there is room")?;

            let starts = server.starts.load(Ordering::SeqCst);
            disk.freeze(true)?;
            eventually("see the server wait for its disk", SECONDS_90, || Ok(server.is_held_up()?.then_some(())))?;
            server.kill()?;
            // The killed one holds file and port for as long as the disk stands: its successor waits, or tries in vain.
            more(&server.starts, starts, "see the server started again on the standing disk")?;
            eventually("see its successor get nowhere", SECONDS_90, || {
                let again = server.starts.load(Ordering::SeqCst) > starts + 1;
                Ok((again || server.is_held_up()?).then_some(()))
            })?;
            disk.freeze(false)?;
            more(&known, known.load(Ordering::SeqCst) + 12, "see writes acknowledged once the disk answers")?;
        }
        Ok(())
    };
    let (told, written) = std::thread::scope(|scope| {
        let start = |n| {
            let (server, stop, known, refused) = (&server, &stop, &known, &refused);
            scope.spawn(move || write(server, n, stop, known, refused))
        };
        let writers: Vec<_> = (0..3).map(start).collect();
        let supervisor = scope.spawn(|| -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                server.keep()?;
                std::thread::sleep(Duration::from_millis(100));
            }
            Ok(())
        });
        let told = story();
        // Nobody is left waiting for it.
        let _ = disk.freeze(false);
        stop.store(true, Ordering::Relaxed);
        let supervised = supervisor.join().unwrap_or_else(|_| bail!("the supervisor panicked"));
        let written: Result<Vec<Vec<String>>> =
            writers.into_iter().map(|writer| writer.join().unwrap_or_else(|_| bail!("a writer panicked"))).collect();
        (told.and(supervised), written)
    });
    told?;
    let list = server.folder.path().join("list");
    let asked = server.kubectl(&["get", "configmaps", "-o", "name"], Some(std::fs::File::create(&list)?.into()))?;
    assert!(asked.success());
    let there = std::fs::read_to_string(list)?;
    let there: std::collections::BTreeSet<&str> =
        there.lines().filter_map(|line| line.split_once('/')).map(|(_, name)| name).collect();
    let lost: Vec<String> = written?.into_iter().flatten().filter(|name| !there.contains(name.as_str())).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    Ok(())
}
