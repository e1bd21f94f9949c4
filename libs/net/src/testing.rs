//! Namespaces with real packets, for the tests of this crate and of those that build on it.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use crate::{Error, LinkEnd, Netlink, Result, netns};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A folder with namespaces that go when the test ends, however it ends.
#[derive(Debug)]
pub struct Scene {
    folder: PathBuf,
    namespaces: Vec<PathBuf>,
}

impl Default for Scene {
    fn default() -> Self {
        Self::new()
    }
}

impl Scene {
    /// An empty one. Panics, as everything here, when the machine does not do as it is told.
    pub fn new() -> Self {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("knarr-scene-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("make a folder");
        Self { folder, namespaces: Vec::new() }
    }

    /// The scene's own folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A new network namespace with its loopback up.
    pub fn namespace(&mut self, name: &str) -> PathBuf {
        let path = self.folder.join(name);
        netns::create(&path).expect("make a namespace");
        self.namespaces.push(path.clone());
        path
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for path in &self.namespaces {
            let _ = netns::delete(path);
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A server in a namespace that tells every caller who called, until the test ends.
pub fn serve(namespace: &Path, port: u16) {
    let (listening, ready) = std::sync::mpsc::channel();
    let namespace = namespace.to_owned();
    std::thread::spawn(move || {
        netns::within(&namespace, move || {
            let listener = TcpListener::bind(("0.0.0.0", port)).map_err(Error::system("listen"))?;
            let _ = listening.send(());
            for mut stream in listener.incoming().flatten() {
                if let Ok(peer) = stream.peer_addr() {
                    let _ = write!(stream, "{}", peer.ip());
                }
            }
            Ok(())
        })
    });
    ready.recv().expect("listen");
}

/// Whom the server at `address` saw when called from `namespace`.
pub fn call(namespace: &Path, address: Ipv4Addr, port: u16) -> Result<String> {
    call_within(namespace, address, port, Duration::from_secs(3))
}

/// [`call`] with another patience: for packets that are expected to be dropped.
pub fn call_within(namespace: &Path, address: Ipv4Addr, port: u16, patience: Duration) -> Result<String> {
    netns::within(namespace, move || {
        let mut answer = String::new();
        let mut stream =
            TcpStream::connect_timeout(&SocketAddr::from((address, port)), patience).map_err(Error::system("call"))?;
        stream.set_read_timeout(Some(patience)).map_err(Error::system("call"))?;
        stream.read_to_string(&mut answer).map(|_| answer).map_err(Error::system("call"))
    })
}

/// Joins two namespaces with a veth pair of the given addresses (in /24s); returns the two links' names.
pub async fn wire(a: &Path, a_address: Ipv4Addr, b: &Path, b_address: Ipv4Addr) -> (String, String) {
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let (near, far) = (format!("a{n}"), format!("b{n}"));
    let here = Netlink::in_namespace(a).expect("netlink");
    let there = netns::open(b).expect("open a namespace");
    let end = |name| LinkEnd { name, ..LinkEnd::default() };
    here.add_veth(end(&near), LinkEnd { namespace: Some(there.as_fd()), ..end(&far) }).await.expect("add a veth pair");
    let index = here.existing(&near).await.expect("look up a link").index;
    here.add_address(index, a_address, 24).await.expect("add an address");
    let there = Netlink::in_namespace(b).expect("netlink");
    let index = there.existing(&far).await.expect("look up a link").index;
    there.set_up(index).await.expect("bring a link up");
    there.add_address(index, b_address, 24).await.expect("add an address");
    (near, far)
}

/// Runs a program in a namespace; what it printed, or what it complained of.
pub fn run(namespace: &Path, words: &str) -> std::result::Result<String, String> {
    let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
    let output = netns::within(namespace, move || {
        Command::new(&words[0]).args(&words[1..]).output().map_err(Error::system(format!("run {}", words[0])))
    });
    let output = output.expect("run a program");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}
