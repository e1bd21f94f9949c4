//! As much of D-Bus and systemd-logind as it takes to announce a shutdown and to see who delays it.

use std::{
    io::{IoSlice, Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    time::Duration,
};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use tokio::sync::mpsc;

use super::PATIENCE;

/// The bus, for one client.
pub struct Bus {
    dir: tempfile::TempDir,
    locks: mpsc::UnboundedReceiver<(Lock, UnixStream)>,
    client: Option<UnixStream>,
}

/// A delay lock that somebody has taken.
pub struct Lock(OwnedFd);

impl Lock {
    /// Waits until it is released.
    pub async fn released(self) {
        let end = tokio::task::spawn_blocking(move || std::fs::File::from(self.0).read(&mut [0]));
        let end = tokio::time::timeout(PATIENCE, end).await;
        assert_eq!(end.expect("the lock is still held").unwrap().unwrap(), 0);
    }
}

impl Bus {
    /// With nobody on it yet.
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("bus")).unwrap();
        let (taken, locks) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                // A client that goes away is the end of its connection only.
                let _ = serve(client.unwrap(), &taken);
            }
        });
        Self { dir, locks, client: None }
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("bus")
    }

    /// Waits until a lock is taken.
    pub async fn locked(&mut self) -> Lock {
        let (lock, client) = tokio::time::timeout(PATIENCE, self.locks.recv()).await.expect("nobody takes a lock").unwrap();
        self.client = Some(client);
        lock
    }

    /// Tells whether a shutdown comes.
    pub fn announce(&mut self, coming: bool) {
        let mut fields = Vec::new();
        field(&mut fields, 1, "o", "/org/freedesktop/login1");
        field(&mut fields, 2, "s", "org.freedesktop.login1.Manager");
        field(&mut fields, 3, "s", "PrepareForShutdown");
        field(&mut fields, 7, "s", ":1.1");
        field(&mut fields, 8, "g", "b");
        let signal = message(4, fields, &u32::from(coming).to_le_bytes());
        self.client.as_mut().expect("a client").write_all(&signal).unwrap();
    }
}

fn serve(mut client: UnixStream, taken: &mpsc::UnboundedSender<(Lock, UnixStream)>) -> std::io::Result<()> {
    client.set_read_timeout(Some(Duration::from_secs(600)))?;
    let mut zero = [1];
    client.read_exact(&mut zero)?;
    assert_eq!((zero, line(&mut client)?.starts_with("AUTH EXTERNAL ")), ([0], true));
    client.write_all(b"OK 0123456789abcdef\r\n")?;
    assert_eq!(line(&mut client)?, "NEGOTIATE_UNIX_FD");
    client.write_all(b"AGREE_UNIX_FD\r\n")?;
    assert_eq!(line(&mut client)?, "BEGIN");
    loop {
        let mut start = [0; 16];
        client.read_exact(&mut start)?;
        let number = |at: usize| u32::from_le_bytes(start[at..at + 4].try_into().unwrap());
        let mut rest = vec![0; (number(12).next_multiple_of(8) + number(4)) as usize];
        client.read_exact(&mut rest)?;
        let said = String::from_utf8_lossy(&rest).into_owned();
        let answer = |signature: &str, body: &[u8], descriptors: u32| {
            let mut fields = vec![5, 1, b'u', 0];
            fields.extend(number(8).to_le_bytes());
            if !signature.is_empty() {
                field(&mut fields, 8, "g", signature);
            }
            if descriptors > 0 {
                fields.resize(fields.len().next_multiple_of(8), 0);
                fields.extend([9, 1, b'u', 0]);
                fields.extend(descriptors.to_le_bytes());
            }
            message(2, fields, body)
        };
        if said.contains("Inhibit\0") {
            assert!(said.contains("\0shutdown\0") && said.contains("\0kubelet\0") && said.contains("\0delay\0"));
            let (read, write) = nix::unistd::pipe()?;
            let bytes = answer("h", &0_u32.to_le_bytes(), 1);
            let descriptors = [write.as_raw_fd()];
            let with = [ControlMessage::ScmRights(&descriptors)];
            sendmsg::<()>(client.as_raw_fd(), &[IoSlice::new(&bytes)], &with, MsgFlags::empty(), None)?;
            // The test may be over.
            let _ = taken.send((Lock(read), client.try_clone()?));
        } else if said.contains("InhibitDelayMaxUSec") {
            let mut body = vec![1, b't', 0, 0, 0, 0, 0, 0];
            body.extend(3_600_000_000_u64.to_le_bytes());
            client.write_all(&answer("v", &body, 0))?;
        } else {
            client.write_all(&answer("", &[], 0))?;
        }
    }
}

fn line(client: &mut UnixStream) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        bytes.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&bytes[..bytes.len() - 2]).into_owned())
}

fn field(fields: &mut Vec<u8>, number: u8, kind: &str, value: &str) {
    fields.resize(fields.len().next_multiple_of(8), 0);
    fields.extend([number, 1, kind.as_bytes()[0], 0]);
    let length = value.len() as u32;
    let prefix = if kind == "g" { vec![length as u8] } else { length.to_le_bytes().to_vec() };
    fields.extend(prefix);
    fields.extend(value.bytes());
    fields.push(0);
}

fn message(kind: u8, fields: Vec<u8>, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![b'l', kind, 1, 1];
    for number in [body.len(), 1, fields.len()] {
        bytes.extend((number as u32).to_le_bytes());
    }
    bytes.extend(fields);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes.extend(body);
    bytes
}
