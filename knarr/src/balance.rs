//! Several API servers behind one address: connections go to the server that answered last, and to the next one when it does not.
//!
//! The agent's clients use [`Servers`] without a socket of their own; `knarr balancer` puts it behind a port for programs that know one
//! address only, kubectl above all. Nothing of TLS is touched: certificates are the servers' own.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long one server may take to accept a connection before the next is tried.
const PATIENCE: Duration = Duration::from_secs(2);
/// A server of which nothing is heard for so long is given up, with its connections.
const SILENCE: Duration = Duration::from_secs(12);

/// Addresses of API servers (`HOST:PORT`), the one that answered last first.
#[derive(Debug)]
pub struct Servers {
    list: Mutex<Vec<String>>,
    /// Ends the connections of a server that no longer answers.
    alive: Mutex<BTreeMap<String, CancellationToken>>,
    /// Where somebody else notes which servers live, and those that are tried whatever it says.
    noted: Option<(PathBuf, Vec<String>)>,
}

impl Servers {
    /// Those, in this order.
    pub fn new(addresses: Vec<String>) -> Arc<Self> {
        Arc::new(Self { list: Mutex::new(addresses), alive: Mutex::default(), noted: None })
    }

    /// Those, and before each connection what `file` says by then.
    pub fn noted(file: PathBuf, addresses: Vec<String>) -> Arc<Self> {
        Arc::new(Self { list: Mutex::new(addresses.clone()), alive: Mutex::default(), noted: Some((file, addresses)) })
    }

    /// As they are tried.
    pub fn list(&self) -> Vec<String> {
        self.list.lock().clone()
    }

    /// These are the servers now. Whether that changed anything; an empty list is nobody's wish and changes nothing.
    pub fn replace(&self, addresses: &[String]) -> bool {
        let mut list = self.list.lock();
        let new = merged(&list, addresses);
        let changed = new.len() != list.len() || new.iter().any(|address| !list.contains(address));
        if changed {
            *list = new;
        }
        changed
    }

    /// A connection to the first that accepts one, and what fires when that server is given up.
    pub async fn connect(&self) -> io::Result<(TcpStream, CancellationToken)> {
        if let Some((file, given)) = &self.noted {
            self.replace(&with_given(remembered(file), given));
        }
        let mut failed = io::Error::other("there is no server to connect with");
        for address in self.list() {
            match tokio::time::timeout(PATIENCE, TcpStream::connect(&address)).await {
                Ok(Ok(stream)) => {
                    notice_silence(&stream);
                    self.prefer(&address);
                    return Ok((stream, self.alive.lock().entry(address).or_default().clone()));
                }
                Ok(Err(error)) => failed = io::Error::new(error.kind(), format!("{address}: {error}")),
                Err(_) => failed = io::Error::new(io::ErrorKind::TimedOut, format!("{address}: no answer")),
            }
            // What still hangs on its connections would hang for long.
            if let Some(gone) = self.alive.lock().remove(&address) {
                gone.cancel();
            }
        }
        Err(failed)
    }

    fn prefer(&self, address: &str) {
        let mut list = self.list.lock();
        if let Some(place) = list.iter().position(|a| a == address).filter(|place| *place > 0) {
            tracing::info!(server = address, "now by way of this API server");
            list[..=place].rotate_right(1);
        }
    }
}

/// The new addresses: those known in the order in which they are tried, then the others.
fn merged(known: &[String], new: &[String]) -> Vec<String> {
    if new.is_empty() {
        return known.to_vec();
    }
    let stay = known.iter().filter(|address| new.contains(address));
    stay.chain(new.iter().filter(|address| !known.contains(address))).cloned().collect()
}

/// The servers that a file says are living; none if it cannot be read.
pub fn remembered(file: &Path) -> Vec<String> {
    fs::read(file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// The servers that are known, and after them those that were given.
pub fn with_given(known: Vec<String>, given: &[String]) -> Vec<String> {
    let more: Vec<String> = given.iter().filter(|address| !known.contains(address)).cloned().collect();
    known.into_iter().chain(more).collect()
}

/// A machine that is gone says nothing, and the kernel would wait a quarter of an hour for it.
fn notice_silence(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let millis = u32::try_from(SILENCE.as_millis()).unwrap_or(u32::MAX);
    let tuned = setsockopt(stream, sockopt::KeepAlive, &true)
        .and_then(|()| setsockopt(stream, sockopt::TcpKeepIdle, &5))
        .and_then(|()| setsockopt(stream, sockopt::TcpKeepInterval, &3))
        .and_then(|()| setsockopt(stream, sockopt::TcpKeepCount, &3))
        .and_then(|()| setsockopt(stream, sockopt::TcpUserTimeout, &millis));
    if let Err(error) = tuned {
        tracing::debug!(%error, "a connection will notice late that its other end is gone");
    }
}

/// Joins every connection to `listener` with one to a server, until `shutdown`.
pub async fn serve(listener: TcpListener, servers: Arc<Servers>, shutdown: CancellationToken) {
    let joined = TaskTracker::new();
    // Callers that ask again and again shall not fill a disk.
    let silent = Arc::new(AtomicBool::new(false));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        let mut near = match accepted {
            Ok((near, _)) => near,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                // Out of descriptors, most likely: others have to end first.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (servers, shutdown, silent) = (servers.clone(), shutdown.clone(), silent.clone());
        joined.spawn(async move {
            let _ = near.set_nodelay(true);
            match servers.connect().await {
                Ok((mut far, gone)) => {
                    silent.store(false, Ordering::Relaxed);
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        () = gone.cancelled() => {}
                        () = shutdown.cancelled() => {}
                    }
                }
                Err(error) if !silent.swap(true, Ordering::Relaxed) => tracing::warn!(%error, "no API server answers"),
                Err(_) => {}
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_order_outlives_news() {
        let got = [merged(&list(&["b", "a"]), &list(&["a", "b", "c"])), merged(&list(&["a", "b"]), &list(&["b"]))];
        assert_eq!(got, [list(&["b", "a", "c"]), list(&["b"])]);
        assert_eq!(merged(&list(&["a"]), &[]), list(&["a"]));
        assert_eq!(with_given(list(&["b", "a"]), &list(&["a", "c"])), list(&["b", "a", "c"]));
    }

    #[tokio::test]
    async fn a_server_that_is_noted_later_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("servers.json");
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
        let servers = Servers::noted(file.clone(), vec![closed.clone()]);
        assert!(servers.connect().await.is_err());
        let stop = CancellationToken::new();
        let other = named("other", stop.clone()).await;
        fs::write(&file, serde_json::to_vec(&[&other]).unwrap()).unwrap();
        assert!(servers.connect().await.is_ok());
        assert_eq!(servers.list(), [other, closed]);
        stop.cancel();
    }

    /// A server that answers every connection with its name.
    async fn named(name: &'static str, stop: CancellationToken) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Some(Ok((mut stream, _))) = stop.run_until_cancelled(listener.accept()).await {
                let _ = stream.write_all(name.as_bytes()).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn connections_go_to_the_server_that_answers() {
        let (first, second) = (CancellationToken::new(), CancellationToken::new());
        let servers = Servers::new(vec![named("first", first.clone()).await, named("second", second.clone()).await]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let end = CancellationToken::new();
        let _end = end.clone().drop_guard();
        tokio::spawn(serve(listener, servers.clone(), end));
        let ask = async || {
            let mut heard = String::new();
            TcpStream::connect(address).await.unwrap().read_to_string(&mut heard).await.map(|_| heard).unwrap_or_default()
        };
        assert_eq!(ask().await, "first");
        first.cancel();
        // Its listener closes when its task has noticed.
        let noticed = async {
            while ask().await != "second" {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), noticed).await.unwrap();
        assert_eq!(servers.list().len(), 2);
    }
}
