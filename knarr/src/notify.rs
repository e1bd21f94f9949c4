//! Telling systemd that the service is ready (`Type=notify`): one datagram to the socket that `NOTIFY_SOCKET` names.

use std::{
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

/// Says `READY=1` to whoever started us and wants to hear it.
pub fn ready() {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return };
    if let Err(error) = tell(&socket, "READY=1\n") {
        tracing::warn!(%error, "could not tell the service manager that we are ready");
    }
}

fn tell(socket: &OsStr, message: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sorts_of_sockets_hear_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("@knarr-notify-test-{}", std::process::id());
        let heard = |listener: UnixDatagram, socket: &OsStr| {
            tell(socket, "READY=1\n").unwrap();
            let mut message = [0; 32];
            let length = listener.recv(&mut message).unwrap();
            String::from_utf8_lossy(&message[..length]).into_owned()
        };
        let abstract_address = SocketAddr::from_abstract_name(&name.as_bytes()[1..]).unwrap();
        let got = [
            heard(UnixDatagram::bind(&path).unwrap(), path.as_os_str()),
            heard(UnixDatagram::bind_addr(&abstract_address).unwrap(), OsStr::new(&name)),
        ];
        assert_eq!(got, ["READY=1\n", "READY=1\n"]);
    }
}
